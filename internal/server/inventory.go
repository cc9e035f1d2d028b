// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"bytes"
	"fmt"
	"slices"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// What bankds with feature bankState tell of themselves: first the maps they have, right after
// they were accepted and in one series of messages, then their slots.

// A finding is a map on a bankd's list that the server didn't know or can't take.
type finding struct {
	slot.Map
	adopted bool
	text    string // what is wrong with it and what becomes of it, unless it was adopted
}

// listed compares the complete list of maps that a bankd has with those it should have.
//
// When the bankd is still held, it was asked nothing on this connection: the
// list counts as what it was told. Otherwise the list is late. What the server knows of
// has found its way by requests, and what is left to learn are the maps in excess.
//
// A map that the server doesn't know is adopted from the bankd's first list since the
// server's start, unless it is in the way of a wanted one, its bank slot had a
// map that was deleted, or all maps were. Otherwise it is to be removed. See CreateMap for what an
// adopted map gives way to. Adopting one from a late
// list means that the bankd is asked to create it: it says ok if it has it still.
func (s *State) listed(p *bankPeer, maps []slot.Map) []finding {
	s.mu.Lock()
	defer s.unlock()
	if !s.holdsBank(p) {
		return nil
	}
	var found []finding
	b := s.banks[p.bank]
	has := make(map[slot.Map]bool, len(maps))
	var unknown []slot.Map
	for _, m := range maps {
		switch {
		case m.Bank.ID != p.bank:
			found = append(found, finding{Map: m, text: "map passed over: it is of another bank"})
		case m.Bank.Slot >= p.numSlots:
			found = append(found, finding{Map: m, text: fmt.Sprintf("map passed over: a bank of %d slots has no such slot", p.numSlots)})
		case has[m]:
			found = append(found, finding{Map: m, text: "map passed over: it is listed twice"})
		default:
			has[m] = true
			if pl := b.places[m.Bank.Slot]; pl == nil || !slices.ContainsFunc(pl.maps, func(k *mapping) bool { return k.Map == m }) {
				unknown = append(unknown, m)
			}
		}
	}
	fresh := p.held
	if fresh {
		for _, pl := range b.places {
			for _, m := range pl.maps {
				m.inherited = m.inherited || !b.met && has[m.Map]
				s.markClient(m.Client)
			}
			s.forget(pl, pl.listed(has))
		}
	}
	for _, m := range unknown {
		found = append(found, s.encounter(b, m, fresh))
	}
	b.met, p.held = true, false
	p.mark()
	return found
}

// encounter takes a map that a bankd has and the server didn't know.
func (s *State) encounter(b *bank, sm slot.Map, fresh bool) finding {
	var why string
	switch at, of := s.wanted(sm.Bank), s.byClient[sm.Client]; {
	case at != nil:
		why = "its bank slot is in use by map " + at.Map.String()
	case of != nil:
		why = "its client slot is in use by map " + of.Map.String()
	case s.durable:
		why = "it is none of those that are stored"
	case !s.adopts:
		why = "all maps were deleted"
	case b.freed[sm.Bank.Slot]:
		why = "the map of its bank slot was deleted"
	case b.met:
		why = "it isn't from before the server's start"
	}
	s.seq++
	pl, m := s.enlist(sm, s.seq)
	s.markPlace(pl)
	s.markClient(m.Client)
	if why == "" {
		s.byClient[m.Client] = m
		pl.adopt(m, fresh)
		m.inherited = true
		return finding{Map: sm, adopted: true}
	}
	pl.owe(m)
	if s.byClient[m.Client] == nil {
		s.believed(Target{m.Bank, b.peer.endpoint}, m.Client)
	}
	return finding{Map: sm, text: "unknown map to be removed: " + why}
}

// maxRumours bounds how many clients are remembered for nothing but what bankds have listed: whoever
// poses as a bankd can list all client slots there are, a few at a time. It is the slots of four large banks.
const maxRumours = 4 * (slot.Max + 1)

// believed notes that a client was once told t, by whoever made the map, unless more is known:
// it is to be told when that ends, which may be when it is back after its bankd is. (One that has
// a wanted map is told of that, and may be using it all the time.)
func (s *State) believed(t Target, by slot.Client) {
	c := s.clients[by]
	if c == nil {
		c = &client{slot: by}
		s.clients[by] = c
	}
	if !c.told.none() {
		return
	}
	c.told, c.rumour = t, true
	s.rumours = append(s.rumours, c)
	if len(s.rumours) <= maxRumours {
		return
	}
	oldest := s.rumours[0]
	s.rumours = s.rumours[1:]
	if oldest.rumour && s.clients[oldest.slot] == oldest {
		oldest.told, oldest.rumour = Target{}, false
		s.release(oldest)
	}
}

// unhold gives up waiting for a bankd's list and reports whether that was waited for.
func (s *State) unhold(p *bankPeer) bool {
	s.mu.Lock()
	defer s.unlock()
	if !p.held || !s.holdsBank(p) {
		return false
	}
	p.held = false
	p.mark()
	return true
}

// slotInfo is what is known of a bank slot besides its maps.
type slotInfo struct {
	told      bool // by the bankd, which makes reader, present and atr known
	reader    string
	present   bool
	atr       []byte
	lastError string

	changing, news bool   // it is in State.changes; because of what its bankd told
	state          string // Slot.State that was told last
}

// slot returns what is known of one slot; nil when there is no such slot.
func (p *bankPeer) slot(nr uint16) *slotInfo {
	if nr >= p.numSlots {
		return nil
	}
	if p.slots == nil {
		p.slots = make([]slotInfo, p.numSlots)
	}
	return &p.slots[nr]
}

// slotInfo takes what a bankd tells of one of its slots; it reports whether there is that slot.
func (s *State) slotInfo(p *bankPeer, i rspro.SlotInfo) bool {
	s.mu.Lock()
	defer s.unlock()
	v := p.slot(i.Slot)
	if v == nil {
		return false
	}
	v.told, v.reader, v.present, v.atr, v.lastError = true, i.Reader, i.Present, bytes.Clone(i.ATR), i.Error
	v.news = true
	s.noteSlot(slot.Bank{ID: p.bank, Slot: i.Slot})
	return true
}

// A Slot is what State knows of one slot of a connected bankd.
type Slot struct {
	Nr uint16
	// Told reports whether the bankd has told of the slot: without that, as with bankds that lack
	// feature bankState, Reader, Present and ATR mean nothing.
	Told    bool
	Reader  string // its name; empty: none
	Present bool   // there is a card
	ATR     []byte // the card's; nil: not known
	// Map is the newest map of the slot, which may be leaving; nil: there is none.
	Map *Slotmap
	// Served reports whether the bankd has a map there, that one or an older one.
	Served bool
	// Used reports whether Map is active and its client is connected and was told to use the slot.
	Used bool
	// LastError is what the bankd told last of the slot by bankSlotInfoInd, which ends it, too, or by
	// errorInd; empty: nothing.
	LastError string
}

// State returns what the slot is in, as far as that follows from what its bankd tells and its
// client was told:
//
//	FREE    the bankd serves no map there
//	MAPPED  it serves a map, but there is no card, or no client here that was told to use it
//	CARD    it serves a map, there is a card, and the client was told to use it
//	FAILED  it serves a map, there is a card, and the bankd told an error of it
//
// It is empty when the bankd hasn't told. What the bankd itself shows can be another for a moment, and
// as long as a client that uses the card has no connection to the server.
func (s Slot) State() string {
	switch {
	case !s.Told:
		return ""
	case !s.Served:
		return "FREE"
	case !s.Present:
		return "MAPPED"
	case s.LastError != "":
		return "FAILED"
	case !s.Used:
		return "MAPPED"
	}
	return "CARD"
}

// Slots returns the bankd that has a bank id and all its slots, by number, of one moment; ok
// reports whether it is connected.
func (s *State) Slots(id uint16) (v Bank, slots []Slot, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.banks[id]
	if b == nil || b.peer == nil {
		return Bank{}, nil, false
	}
	l := make([]Slot, b.peer.numSlots)
	for nr := range l {
		l[nr] = s.slot(b, uint16(nr))
	}
	return b.peer.view(), l, true
}

// slot returns a slot of a connected bankd.
func (s *State) slot(b *bank, nr uint16) Slot {
	v := Slot{Nr: nr}
	if b.peer.slots != nil {
		i := b.peer.slots[nr]
		v.Told, v.Reader, v.Present, v.ATR, v.LastError = i.told, i.reader, i.present, i.atr, i.lastError
	}
	if p := b.places[nr]; p != nil {
		m := p.newest().view()
		v.Map = &m
		v.Used = m.State == MapActive && s.uses(m.Map)
		v.Served = slices.ContainsFunc(p.maps, func(m *mapping) bool { return m.state >= MapActive })
	}
	return v
}

// uses reports whether the client of m is connected and was told, as the last thing, to use m's slot.
func (s *State) uses(m slot.Map) bool {
	c := s.clients[m.Client]
	return c != nil && c.peer != nil && c.peer.told.Bank == m.Bank && !c.peer.told.none()
}
