// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"cmp"
	"net/netip"
	"slices"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A Slotmap is what State knows of one map at a moment.
type Slotmap struct {
	slot.Map
	Seq     uint64 // ascending in the order of creation; it tells maps of the same two slots apart
	State   MapState
	Created time.Time // when it was asked for, or found at its bankd
	Changed time.Time // when it entered State
	Deleted time.Time // when its end was asked for; zero: it is wanted
	// Adopted is set when nobody has asked for it: it was found at its bankd.
	Adopted bool
	// Owed is set when its end was asked for while its bankd was away, or
	// was never confirmed: it will be asked for when the bankd is back.
	Owed      bool
	LastError string // why the bankd doesn't serve or remove it; empty: no reason known
}

// Leaving reports whether the map's end was asked for.
func (m Slotmap) Leaving() bool { return m.State >= MapDeleteReq }

// A Peer is what State knows of a connected program.
type Peer struct {
	Identity  rspro.ComponentIdentity
	Addr      netip.AddrPort // its end of the control connection
	Features  rspro.Features
	Since     time.Time // when it was accepted
	LastError string    // what it last complained of, or refused; empty: nothing
}

// A Bank is a connected bankd.
type Bank struct {
	Peer
	ID       uint16
	NumSlots uint16
	Endpoint netip.AddrPort // what clients are told
}

// State returns the state as the REST API shows it.
func (Bank) State() string { return "CONNECTED_BANKD" }

// A Client is a connected client.
type Client struct {
	Peer
	Slot slot.Client
	// Assigned is set when the server gave it its slot, and Key is what for: who comes with the same is given the same slot.
	Assigned bool
	Key      ClientKey
	Waiting  bool // it was assigned its slot and hasn't agreed yet
	Told     Target
	ToldAt   time.Time // zero: it was told nothing on this connection
	// Answer is the result it gave to what it was told last; meaningful when Answered is set.
	Answer   rspro.ResultCode
	Answered bool
}

// State returns the state as the REST API shows it.
func (c Client) State() string {
	if c.Waiting {
		return "WAIT_CONFIG_RES"
	}
	return "CONNECTED_CLIENT"
}

func (p *peer) view() Peer {
	return Peer{p.identity, p.addr, p.features, p.since, p.lastError}
}

func (p *bankPeer) view() Bank {
	return Bank{p.peer.view(), p.bank, p.numSlots, p.endpoint}
}

func (p *clientPeer) view() Client {
	return Client{p.peer.view(), p.slot, p.key != ClientKey{}, p.key, p.waiting, p.told, p.toldAt, p.answer, p.answered}
}

func (m *mapping) view() Slotmap {
	return Slotmap{m.Map, m.seq, m.state, m.created.time(), m.changed.time(), m.deleted.time(), m.adopted, m.owed, m.lastError}
}

// MapsVersion returns a number that is another after each change of what Slotmaps and Wanted return: who has a list from
// after it was asked for need ask for no other as long as it is the same. It waits for nobody.
func (s *State) MapsVersion() uint64 { return s.mapsVersion.Load() }

// Slotmaps returns all maps in the order of their creation, those included that are leaving.
func (s *State) Slotmaps() []Slotmap {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]Slotmap, 0, len(s.byClient))
	for m := s.first; m != nil; m = m.next {
		l = append(l, m.view())
	}
	return l
}

// A WantedMap is a map that isn't leaving, and its state.
type WantedMap struct {
	slot.Map
	State MapState
}

// Wanted returns the maps that aren't leaving, in the order of their creation: no more than a program that asks
// all the time has use for.
func (s *State) Wanted() []WantedMap {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]WantedMap, 0, len(s.byClient))
	for m := s.first; m != nil; m = m.next {
		if m.state < MapDeleteReq {
			l = append(l, WantedMap{m.Map, m.state})
		}
	}
	return l
}

// Slotmap returns the newest map of a bank slot, which may be leaving.
func (s *State) Slotmap(b slot.Bank) (Slotmap, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if m := s.place(b).newest(); m != nil {
		return m.view(), true
	}
	return Slotmap{}, false
}

// Banks returns the connected bankds in the order of their ids.
func (s *State) Banks() []Bank {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]Bank, 0, len(s.banks))
	for _, b := range s.banks {
		if b.peer != nil {
			l = append(l, b.peer.view())
		}
	}
	slices.SortFunc(l, func(a, b Bank) int { return cmp.Compare(a.ID, b.ID) })
	return l
}

// Bank returns the bankd that has a bank id.
func (s *State) Bank(id uint16) (Bank, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if b := s.banks[id]; b != nil && b.peer != nil {
		return b.peer.view(), true
	}
	return Bank{}, false
}

// Clients returns the connected clients in the order of their slots.
func (s *State) Clients() []Client {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]Client, 0, len(s.clients))
	for _, c := range s.clients {
		if c.peer != nil {
			l = append(l, c.peer.view())
		}
	}
	slices.SortFunc(l, func(a, b Client) int {
		return cmp.Or(cmp.Compare(a.Slot.ID, b.Slot.ID), cmp.Compare(a.Slot.Slot, b.Slot.Slot))
	})
	return l
}

// Client returns the client that has a client slot.
func (s *State) Client(c slot.Client) (Client, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := s.clients[c]; c != nil && c.peer != nil {
		return c.peer.view(), true
	}
	return Client{}, false
}

// An Info is what State knows of its server.
type Info struct {
	Name, Version string
	Started       time.Time // this time
	Starts        int       // how often it was started with its store
	Durable       bool      // its store outlives it
	Pool          *IDPool   // of client ids; nil: there is none
}

// Info returns what the server is.
func (s *State) Info() Info {
	s.mu.Lock()
	defer s.mu.Unlock()
	return Info{s.name, s.version, s.started, int(s.starts), s.durable, s.pool}
}

// Assignments returns the client slots that were given to clients, by slot, also those of clients that aren't connected. When
// they were isn't among it.
func (s *State) Assignments() []Assignment {
	s.mu.Lock()
	defer s.mu.Unlock()
	l := make([]Assignment, 0, len(s.ids))
	for key, c := range s.ids {
		l = append(l, Assignment{Key: key, Client: c})
	}
	slices.SortFunc(l, func(a, b Assignment) int {
		return cmp.Or(cmp.Compare(a.Client.ID, b.Client.ID), cmp.Compare(a.Client.Slot, b.Client.Slot))
	})
	return l
}
