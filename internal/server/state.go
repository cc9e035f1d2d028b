// SPDX-License-Identifier: GPL-2.0-or-later

// Package server is the control centre of remote SIM: it knows which clients and
// bankds are connected and which client slot shall use which bank slot, and
// tells them so over RSPRO.
//
// State holds all of it. A change is committed there and marks the peers it
// concerns; the session of a marked peer compares what its peer should know
// with what it was told and sends the difference; the answer updates what it was
// told. First connect, reconnect, retry and removal all come out of that one
// comparison. A bankd with feature bankState says itself what it has: that then counts as
// what it was told.
package server

import (
	"cmp"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// State is who is connected, which maps there are, and what everybody was told.
// Its methods are short, never block and call out to nobody; they may be called
// from any goroutine. Cost doesn't grow with the number of maps or peers, but for the
// methods that return lists.
type State struct {
	mu       sync.Mutex
	banks    map[uint16]*bank // that were ever heard of
	clients  map[slot.Client]*client
	byClient map[slot.Client]*mapping // wanted maps
	// all maps in order of creation, those that are leaving included
	first, last *mapping
	seq         uint64
	// adopts: maps that a bankd has from before the server's start are taken over. It
	// ends when all maps are deleted.
	adopts bool
	// rumours are the clients that believed has noted something of, oldest first. Of some,
	// more is known by now.
	rumours []*client
	feed    *Feed
	changes []change // of the method that holds mu: see unlock
}

// NewState returns a State without maps.
func NewState() *State {
	return &State{
		banks:    make(map[uint16]*bank),
		clients:  make(map[slot.Client]*client),
		byClient: make(map[slot.Client]*mapping),
		adopts:   true,
		feed:     newFeed(),
	}
}

// A bank is a bank id: who serves it, if anybody, and its places that have maps.
type bank struct {
	state  *State
	id     uint16
	peer   *bankPeer // nil: not connected
	places map[uint16]*place
	met    bool // its bankd has told its maps since the server's start
	// freed are the slots whose map was deleted before that: none is adopted there.
	freed [slot.Max + 1]bool
}

// A client is a client slot: who has it, if anybody, and what it was told.
type client struct {
	slot slot.Client
	peer *clientPeer // nil: not connected
	// told is what the client may believe from earlier connections; zero: nothing.
	told   Target
	rumour bool // told is known from nothing but a bankd's list
}

// A Target is what a client is told to use.
type Target struct {
	Bank  slot.Bank
	Bankd netip.AddrPort // port 0: no bankd, leave the one you have
}

// String returns a form for people, such as "B1:5 at 192.0.2.1:9999".
func (t Target) String() string {
	if t.none() {
		return "none"
	}
	return t.Bank.String() + " at " + t.Bankd.String()
}

// none reports whether t tells of no bankd.
func (t Target) none() bool { return t.Bankd.Port() == 0 }

// peer is what the sessions of bankds and clients have in common in State.
type peer struct {
	name     string // "C23:0", "B1"
	conn     holder
	wake     chan struct{} // capacity 1: something the session should compare has changed
	identity rspro.ComponentIdentity
	addr     netip.AddrPort
	features rspro.Features
	since    time.Time

	lastError string
}

// A holder is the connection of a session that holds an identity.
type holder interface {
	Probe(time.Duration) <-chan bool
	Close(error)
}

func (p *peer) mark() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// A bankPeer is the session of a bankd in State.
type bankPeer struct {
	peer
	bank     uint16
	numSlots uint16
	endpoint netip.AddrPort // where clients reach it
	due      []*place       // places to compare
	held     bool           // nothing is asked before it has told its maps
	slots    []slotInfo     // by slot number; nil: nothing is known of any
}

// A clientPeer is the session of a client in State.
type clientPeer struct {
	peer
	slot slot.Client
	// waiting: its slot was assigned to it and it hasn't agreed yet.
	waiting bool

	tells  uint64 // how often it was told something on this connection
	told   Target // the last of it
	toldAt time.Time
	// answer is the result it gave to the last of it, when answered is set.
	answer   rspro.ResultCode
	answered bool
}

// A TakenError says that a slot is in a map already.
type TakenError struct {
	Member string // "bank" or "client"
	By     slot.Map
}

// Error implements error.
func (e *TakenError) Error() string {
	s := e.By.Bank.String()
	if e.Member == "client" {
		s = e.By.Client.String()
	}
	return fmt.Sprintf("%s slot %s is in use by map %s", e.Member, s, e.By)
}

// Create adds a map. It fails with a *TakenError when one of its ends is in a map
// already, and when an id is out of range. An adopted map is in nobody's way: asked for, it
// becomes a map like others, and it ends for one that needs one of its ends. So it makes no
// difference whether a map is asked for before or after its bankd is there.
func (s *State) Create(sm slot.Map) error {
	if !sm.Bank.Valid() || !sm.Client.Valid() {
		return fmt.Errorf("map %s: numbers must be 0..%d", sm, slot.Max)
	}
	s.mu.Lock()
	defer s.unlock()
	at, of := s.wanted(sm.Bank), s.byClient[sm.Client]
	switch {
	case at != nil && !at.adopted:
		return &TakenError{"bank", at.Map}
	case of != nil && !of.adopted:
		return &TakenError{"client", of.Map}
	case at != nil && at == of:
		at.adopted = false
		return nil
	}
	for _, m := range []*mapping{at, of} {
		if m != nil {
			s.delete(m)
		}
	}
	p, m := s.enlist(sm)
	s.byClient[m.Client] = m
	p.create(m)
	s.markPlace(p)
	return nil
}

// enlist makes a mapping, the newest one, and finds its place.
func (s *State) enlist(sm slot.Map) (*place, *mapping) {
	b := s.bank(sm.Bank.ID)
	p := b.places[sm.Bank.Slot]
	if p == nil {
		p = &place{bank: b, nr: sm.Bank.Slot}
		b.places[p.nr] = p
	}
	s.seq++
	m := &mapping{Map: sm, seq: s.seq, prev: s.last}
	if s.last == nil {
		s.first = m
	} else {
		s.last.next = m
	}
	s.last = m
	return p, m
}

// Delete asks for the end of the map of a bank slot and reports whether there was
// one. From then on both its slots are free for new maps.
func (s *State) Delete(b slot.Bank) (slot.Map, bool) {
	s.mu.Lock()
	defer s.unlock()
	m := s.wanted(b)
	if m == nil {
		return slot.Map{}, false
	}
	s.delete(m)
	return m.Map, true
}

// DeleteAll asks for the end of all maps and returns how many those are; maps that a
// bankd has from before the server's start aren't adopted any more.
func (s *State) DeleteAll() int {
	s.mu.Lock()
	defer s.unlock()
	s.adopts = false
	n := len(s.byClient)
	for _, m := range s.byClient {
		s.delete(m)
	}
	return n
}

func (s *State) delete(m *mapping) {
	p := s.place(m.Bank)
	delete(s.byClient, m.Client)
	p.bank.freed[p.nr] = true
	s.forget(p, p.delete(m))
	s.markPlace(p)
	s.markClient(m.Client)
}

// forget unlinks maps that ended, which may be good news to their clients.
func (s *State) forget(p *place, gone []*mapping) {
	for _, m := range gone {
		s.noteMap(SlotmapGone, m)
		if m.prev == nil {
			s.first = m.next
		} else {
			m.prev.next = m.next
		}
		if m.next == nil {
			s.last = m.prev
		} else {
			m.next.prev = m.prev
		}
		s.markClient(m.Client)
	}
	if len(p.maps) == 0 {
		delete(p.bank.places, p.nr)
	}
}

func (s *State) bank(id uint16) *bank {
	b := s.banks[id]
	if b == nil {
		b = &bank{state: s, id: id, places: make(map[uint16]*place)}
		s.banks[id] = b
	}
	return b
}

func (s *State) place(b slot.Bank) *place {
	if bk := s.banks[b.ID]; bk != nil {
		return bk.places[b.Slot]
	}
	return nil
}

func (s *State) wanted(b slot.Bank) *mapping { return s.place(b).wanted() }

// markPlace has the bankd's session compare one place.
func (s *State) markPlace(p *place) {
	if b := p.bank.peer; b != nil && !p.due {
		p.due = true
		b.due = append(b.due, p)
		b.mark()
	}
}

func (s *State) markClient(c slot.Client) {
	if cl := s.clients[c]; cl != nil && cl.peer != nil {
		cl.peer.mark()
	}
}

// addBank registers the session of a bankd, and has it compare all places of its
// bank. When another session holds the bank id it changes nothing and returns that one.
func (s *State) addBank(p *bankPeer) *bankPeer {
	s.mu.Lock()
	defer s.unlock()
	b := s.bank(p.bank)
	if b.peer != nil {
		return b.peer
	}
	p.name, p.since, p.wake = fmt.Sprintf("B%d", p.bank), time.Now(), make(chan struct{}, 1)
	b.peer = p
	s.note(BankConnected, p)
	for _, pl := range b.places {
		s.markPlace(pl)
	}
	return nil
}

// dropBank forgets the session of a bankd that has ended.
func (s *State) dropBank(p *bankPeer) {
	s.mu.Lock()
	defer s.unlock()
	b := s.banks[p.bank]
	if b == nil || b.peer != p {
		return
	}
	b.peer = nil
	s.note(BankGone, p)
	for _, pl := range b.places {
		pl.lost()
		for _, m := range pl.maps {
			s.markClient(m.Client) // nobody is left to confirm a removal
		}
	}
}

// A mapRequest is what a bankd must be asked.
type mapRequest struct {
	m      *mapping
	remove bool
	slot.Map
}

// mapRequests compares the places that are due and returns the requests to send:
// creations in the order in which the maps were made, then removals.
func (s *State) mapRequests(p *bankPeer) []mapRequest {
	s.mu.Lock()
	defer s.unlock()
	if !s.holdsBank(p) || p.held {
		return nil
	}
	var reqs []mapRequest
	for _, pl := range p.due {
		pl.due = false
		if m := pl.request(); m != nil {
			reqs = append(reqs, mapRequest{m, m.state == MapDeleting, m.Map})
		}
	}
	p.due = p.due[:0]
	slices.SortFunc(reqs, func(a, b mapRequest) int {
		if a.remove != b.remove {
			if a.remove {
				return 1
			}
			return -1
		}
		return cmp.Compare(a.m.seq, b.m.seq)
	})
	return reqs
}

// mapAnswered takes a bankd's answer to a request of mapRequests.
func (s *State) mapAnswered(p *bankPeer, q mapRequest, r rspro.ResultCode) {
	s.mu.Lock()
	defer s.unlock()
	if !s.holdsBank(p) {
		return
	}
	pl := s.place(q.Bank)
	if pl == nil || pl.out != q.m {
		return
	}
	s.forget(pl, pl.answered(r))
	s.markPlace(pl)
	s.markClient(q.Client)
}

func (s *State) holdsBank(p *bankPeer) bool {
	b := s.banks[p.bank]
	return b != nil && b.peer == p
}

// addClient registers the session of a client. When another session holds the
// client slot it changes nothing and returns that one.
func (s *State) addClient(p *clientPeer) *clientPeer {
	s.mu.Lock()
	defer s.unlock()
	c := s.clients[p.slot]
	if c != nil && c.peer != nil {
		return c.peer
	}
	s.seat(c, p)
	return nil
}

// assignClient registers the session of a client that wants a slot to be assigned:
// one that no client has, that is in no map and that nobody was told to use.
// It reports whether there was one. Ids are given from the
// highest down, since people count from 0.
func (s *State) assignClient(p *clientPeer) bool {
	s.mu.Lock()
	defer s.unlock()
	for nr := range uint16(slot.Max + 1) {
		for id := slot.Max; id >= 0; id-- {
			p.slot = slot.Client{ID: uint16(id), Slot: nr}
			if s.clients[p.slot] == nil && s.byClient[p.slot] == nil {
				p.waiting = true
				s.seat(nil, p)
				s.note(ClientAssigned, p)
				return true
			}
		}
	}
	return false
}

func (s *State) seat(c *client, p *clientPeer) {
	if c == nil {
		c = &client{slot: p.slot}
		s.clients[p.slot] = c
	}
	p.name, p.since, p.wake = p.slot.String(), time.Now(), make(chan struct{}, 1)
	c.peer = p
	s.note(ClientConnected, p)
	p.mark()
}

// agreed takes a client's answer that it uses the slot it was assigned.
func (s *State) agreed(p *clientPeer) {
	s.mu.Lock()
	defer s.unlock()
	p.waiting = false
	s.note(ClientChanged, p)
	p.mark()
}

// dropClient forgets the session of a client that has ended.
func (s *State) dropClient(p *clientPeer) {
	s.mu.Lock()
	defer s.unlock()
	c := s.clients[p.slot]
	if c == nil || c.peer != p {
		return
	}
	c.peer = nil
	s.note(ClientGone, p)
	s.noteSlot(p.told.Bank)
	s.release(c)
}

// release forgets a client that isn't connected and believes nothing.
func (s *State) release(c *client) {
	if c.peer == nil && c.told.none() {
		delete(s.clients, c.slot)
	}
}

// tell compares what a client should use with what it was told, and returns what it
// must be told now and a number for told; 0: nothing.
//
// A client is told where its bankd is when that serves its map. It is told that it has
// no bankd when the map it was told of has ended: when its bankd has
// confirmed that, or isn't there to do so. In between it is told nothing, so that
// a session outlives the loss of server or control connection.
func (s *State) tell(p *clientPeer) (Target, uint64) {
	s.mu.Lock()
	defer s.unlock()
	c := s.clients[p.slot]
	if c == nil || c.peer != p || p.waiting {
		return Target{}, 0
	}
	believes := c.told
	if p.tells > 0 {
		believes = p.told
	}
	m := s.byClient[p.slot]
	switch {
	case m != nil && m.state == MapActive:
		t := Target{m.Bank, s.banks[m.Bank.ID].peer.endpoint}
		if p.tells > 0 && p.told == t {
			return Target{}, 0
		}
		c.told, c.rumour = t, false
		return s.tells(p, t)
	case believes.none():
	case m != nil && m.Bank == believes.Bank: // the bankd will be back
	case s.ending(slot.Map{Bank: believes.Bank, Client: p.slot}): // its answer will mark the client
	default:
		return s.tells(p, Target{believes.Bank, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	}
	return Target{}, 0
}

func (s *State) tells(p *clientPeer, t Target) (Target, uint64) {
	p.tells++
	s.noteSlot(p.told.Bank)
	s.noteSlot(t.Bank)
	s.note(ClientChanged, p)
	p.told, p.toldAt, p.answered = t, time.Now(), false
	return t, p.tells
}

// told takes a client's answer to number n of tell.
func (s *State) told(p *clientPeer, n uint64, r rspro.ResultCode) {
	s.mu.Lock()
	defer s.unlock()
	c := s.clients[p.slot]
	if c == nil || c.peer != p || n != p.tells {
		return
	}
	p.answered, p.answer = true, r
	s.note(ClientChanged, p)
	p.lastError = ""
	if r != rspro.OK {
		p.lastError = "configClientBank: " + r.String()
	}
	if p.told.none() {
		c.told, c.rumour = Target{}, false
	}
}

// ending reports whether a bankd that is connected has yet to confirm the end of sm.
func (s *State) ending(sm slot.Map) bool {
	p := s.place(sm.Bank)
	if p == nil || p.bank.peer == nil {
		return false
	}
	return slices.ContainsFunc(p.maps, func(m *mapping) bool {
		return m.Map == sm && m.leaving() && !m.refused
	})
}

// fault takes an error that a peer reported about itself or, with b, a bankd about one of
// its slots.
func (s *State) fault(p *peer, b *slot.Bank, text string) {
	s.mu.Lock()
	defer s.unlock()
	p.lastError = text
	s.note(FaultReported, Fault{p.name, b, text})
	if b == nil {
		return
	}
	bk := s.banks[b.ID]
	if bk == nil || bk.peer == nil || &bk.peer.peer != p {
		return
	}
	if i := bk.peer.slot(b.Slot); i != nil {
		i.lastError, i.news = text, true
		s.noteSlot(*b)
	}
	if m := s.wanted(*b); m != nil {
		m.lastError = text
		s.noteMap(SlotmapChanged, m)
	}
}

// Starts returns how often the server was started with the maps it has. They are
// in memory only, so that is 1.
func (s *State) Starts() int { return 1 }

// Report writes who is connected and which maps there are, for people.
func (s *State) Report(w io.Writer) {
	for _, b := range s.Banks() {
		fmt.Fprintf(w, "bankd B%d %s %s slots=%d endpoint=%s since=%s\n",
			b.ID, b.Addr, b.State(), b.NumSlots, b.Endpoint, b.Since.Format(time.RFC3339))
	}
	for _, c := range s.Clients() {
		fmt.Fprintf(w, "client %s %s %s told=%q since=%s\n",
			c.Slot, c.Addr, c.State(), c.Told.String(), c.Since.Format(time.RFC3339))
	}
	for _, m := range s.Slotmaps() {
		fmt.Fprintf(w, "slotmap %s %s changed=%s error=%q\n", m.Map, m.State, m.Changed.Format(time.RFC3339), m.LastError)
	}
}
