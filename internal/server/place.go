// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"slices"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A MapState is where a slot map is in its life.
//
//	POST ─→ NEW ──createMappingReq──→ UNACKNOWLEDGED ──ok──→ ACTIVE
//	         │  ←─────refused──────────── │                     │
//	         │  ←─────bankd lost──────────┴─────────────────────┤
//	         │                            │                     │
//	       DELETE                       DELETE                DELETE
//	         ↓ (*)                        ↓                     ↓
//	         └──────────→ DELETE_REQ ←────┴─────────────────────┘
//	                       │     ↑
//	          removeMappingReq   bankd lost, or an answer that says nothing
//	                       ↓     │
//	                      DELETING ──removeMappingRes──→ gone
//
// A bankd with feature bankState tells its maps when it connects: those it has go from NEW
// to ACTIVE, and those it hasn't from DELETE_REQ to gone, without a request. A map it has
// that nobody asked for begins as ACTIVE or, when it isn't adopted, as DELETE_REQ.
//
// (*) A map that no bankd can know is gone at once. A map in DELETE_REQ whose
// createMappingReq is unanswered waits for the answer: ok leads to its removal,
// a refusal to its end.
type MapState uint8

// States of a slot map.
const (
	MapNew            MapState = iota // no request is out, the bankd isn't known to serve it
	MapUnacknowledged                 // createMappingReq is unanswered
	MapActive                         // the bankd serves it
	MapDeleteReq                      // it shall go; no removeMappingReq is out
	MapDeleting                       // removeMappingReq is unanswered
)

// String returns the name as the REST API shows it, such as "NEW".
func (s MapState) String() string {
	return [...]string{"NEW", "UNACKNOWLEDGED", "ACTIVE", "DELETE_REQ", "DELETING"}[s]
}

// A mapping is one slot map from its POST until nobody can know it any more.
type mapping struct {
	slot.Map
	state MapState
	// known: a bankd may have the map from an earlier connection, or from a
	// request that was never answered. Its deletion must reach the bankd.
	known bool
	// owed: the deletion outlived the connection on which the map was known.
	owed bool
	// adopted: nobody has asked for it since the server's start.
	adopted bool
	// inherited: it was stored before the server's start, or its bankd had it then, so that it isn't known whether
	// its client was told of it.
	inherited bool
	// refused: the bankd said no on this connection; it is asked again on the next.
	refused bool

	created, changed, deleted stamp
	lastError                 string

	seq        uint64 // order of creation
	change     int    // its number among State.changes; 0: none
	prev, next *mapping
}

// A stamp is a moment in the third of a time.Time's space, in nanoseconds since 1970; 0: none.
type stamp int64

func stampOf(t time.Time) stamp { return stamp(t.UnixNano()) }

func (s stamp) time() time.Time {
	if s == 0 {
		return time.Time{}
	}
	return time.Unix(0, int64(s))
}

func (m *mapping) leaving() bool { return m.state >= MapDeleteReq }

// A place is one bank slot with the maps that concern it: what its bankd should
// serve there and what the bankd may still have. It compares the two; its
// methods are the events of MapState. Methods that can end maps return those.
type place struct {
	bank *bank
	nr   uint16
	maps []*mapping // oldest first; only the last one can be wanted
	out  *mapping   // whose request is unanswered: one at a time
	due  bool       // is in its session's list of places to compare
}

// newest returns the youngest map of the place, which may be leaving; nil: there is none.
// p may be nil.
func (p *place) newest() *mapping {
	if p == nil || len(p.maps) == 0 {
		return nil
	}
	return p.maps[len(p.maps)-1]
}

// wanted returns the map that the place should serve, or nil. p may be nil.
func (p *place) wanted() *mapping {
	if m := p.newest(); m != nil && !m.leaving() {
		return m
	}
	return nil
}

// request decides what the bankd must be asked next: to remove or to create the
// map returned; nil: nothing for now.
//
// What was deleted on this connection is removed before a new map is created.
// What is owed from an earlier one comes after it: creating replaces whatever
// the bankd has in the slot, and only when that is refused is a removal needed.
func (p *place) request() *mapping {
	if p.out != nil {
		return nil
	}
	var owed *mapping
	for _, m := range p.maps {
		switch {
		case !m.leaving() || m.refused:
		case !m.owed:
			return p.ask(m, MapDeleting)
		case owed == nil:
			owed = m
		}
	}
	if m := p.wanted(); m != nil && m.state == MapNew && !m.refused {
		return p.ask(m, MapUnacknowledged)
	}
	if owed != nil {
		return p.ask(owed, MapDeleting)
	}
	return nil
}

// enter gives m, which is or was at the place, a state.
func (p *place) enter(m *mapping, s MapState) {
	m.changed = stampOf(time.Now())
	p.bank.state.setState(m, s)
	p.bank.state.noteMap(SlotmapChanged, m)
}

func (p *place) ask(m *mapping, s MapState) *mapping {
	p.enter(m, s)
	p.out = m
	return m
}

// create adds the wanted map; the caller has seen to it that there is none.
func (p *place) create(m *mapping) {
	p.enter(m, MapNew)
	m.created = m.changed
	p.maps = append(p.maps, m)
}

// delete asks for the end of the wanted map m.
func (p *place) delete(m *mapping) (gone []*mapping) {
	fresh := m.state == MapNew && !m.known
	p.enter(m, MapDeleteReq)
	m.deleted = m.changed
	m.owed = p.bank.peer == nil
	if fresh {
		return p.drop(m)
	}
	return nil
}

// answered takes the bankd's answer to the request that was out.
func (p *place) answered(r rspro.ResultCode) (gone []*mapping) {
	m := p.out
	p.out = nil
	switch m.state {
	case MapUnacknowledged, MapDeleteReq: // to createMappingReq
		if r == rspro.OK {
			m.lastError = ""
			if m.state == MapUnacknowledged {
				p.enter(m, MapActive)
			}
			// Creating replaced whatever the bankd had in the slot before.
			return p.drop(slices.Clone(p.maps[:slices.Index(p.maps, m)])...)
		}
		if m.state == MapDeleteReq {
			if !m.known {
				return p.drop(m)
			}
			return nil
		}
		m.lastError = "createMapping: " + r.String()
		m.refused = true
		p.enter(m, MapNew)
	case MapDeleting: // to removeMappingReq
		switch r {
		case rspro.OK, rspro.UnknownSlotmap, rspro.IllegalBankID, rspro.IllegalSlotID:
			return p.drop(m) // it isn't there (any more)
		}
		m.lastError = "removeMapping: " + r.String()
		m.refused = true
		p.enter(m, MapDeleteReq)
	}
	return nil
}

// listed takes from a bankd that was asked nothing yet on this connection which maps it has.
func (p *place) listed(has map[slot.Map]bool) (gone []*mapping) {
	w := p.wanted()
	for _, m := range p.maps {
		m.known = has[m.Map]
		if m.leaving() && (!m.known || w != nil && has[w.Map]) {
			gone = append(gone, m) // it has another map in the slot, or none
		}
	}
	if w != nil && w.known {
		w.lastError = ""
		p.enter(w, MapActive)
	}
	return p.drop(gone...)
}

// adopt adds, as the wanted map, one that the bankd says it has; the caller has seen to it
// that there is none. It is taken to be so unless that is old news.
func (p *place) adopt(m *mapping, fresh bool) {
	p.create(m)
	m.known, m.adopted = true, true
	if fresh {
		p.enter(m, MapActive)
	}
}

// owe adds a map that the bankd says it has and shall not have.
func (p *place) owe(m *mapping) {
	p.enter(m, MapDeleteReq)
	m.created, m.deleted = m.changed, m.changed
	m.known, m.owed = true, true
	p.maps = slices.Insert(p.maps, 0, m) // it has been there before the wanted one
}

// lost takes the end of the bankd's connection. The bankd goes on with what it
// has, so whatever was asked of it is still known there.
func (p *place) lost() {
	p.out, p.due = nil, false
	for _, m := range p.maps {
		m.refused = false
		switch m.state {
		case MapUnacknowledged, MapActive:
			m.known = true
			p.enter(m, MapNew)
		case MapDeleting:
			p.enter(m, MapDeleteReq)
		}
		if !m.owed && m.leaving() {
			m.owed = true
			p.bank.state.noteMap(SlotmapChanged, m)
		}
	}
}

// drop forgets maps.
func (p *place) drop(gone ...*mapping) []*mapping {
	p.maps = slices.DeleteFunc(p.maps, func(m *mapping) bool { return slices.Contains(gone, m) })
	return gone
}
