// SPDX-License-Identifier: GPL-2.0-or-later

// Package server is the control centre of remote SIM: it knows which clients and
// bankds are connected and which client slot shall use which bank slot, and
// tells them so over RSPRO.
//
// State holds all of it. A change is committed there (State.Commit), which has a Store keep it, and marks the peers it
// concerns; the session of a marked peer compares what its peer should know
// with what it was told and sends the difference; the answer updates what it was
// told. First connect, reconnect, retry and removal all come out of that one
// comparison. A bankd with feature bankState says itself what it has: that then counts as
// what it was told.
package server

import (
	"cmp"
	"context"
	"fmt"
	"io"
	"net/netip"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"remsim/internal/count"
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
	mapsVersion atomic.Uint64 // see MapsVersion
	counts      counts
	// adopts: maps that a bankd has from before the server's start are taken over. It
	// ends when all maps are deleted.
	adopts bool
	// rumours are the clients that believed has noted something of, oldest first. Of some,
	// more is known by now.
	rumours []*client
	feed    *Feed
	changes []change // of the method that holds mu: see unlock

	pool   *IDPool // nil: no client is given a slot
	ids    map[ClientKey]slot.Client
	given  map[slot.Client]ClientKey // the same the other way round
	starts uint64

	queue     []*txn        // of Commit
	leading   chan struct{} // holds one while somebody commits what is in the queue
	settled   settlement
	unsettled chan struct{} // capacity 1: there is something in settled
	asked     chan struct{} // by askStore, of settle
	done      chan struct{} // closed when settle has ended

	name, version string
	started       time.Time
	durable       bool // the store has what servers before have left

	store    Store  // nil: nothing outlives the State
	revision uint64 // of the store; who leads has it
	stored   count.Histogram
}

// NewState returns a State without maps that forgets them with the process.
func NewState() *State {
	return &State{
		banks:     make(map[uint16]*bank),
		clients:   make(map[slot.Client]*client),
		byClient:  make(map[slot.Client]*mapping),
		adopts:    true,
		feed:      newFeed(),
		ids:       make(map[ClientKey]slot.Client),
		given:     make(map[slot.Client]ClientKey),
		starts:    1,
		started:   time.Now(),
		leading:   make(chan struct{}, 1),
		unsettled: make(chan struct{}, 1),
		asked:     make(chan struct{}),
		done:      make(chan struct{}),
	}
}

// LoadState returns the State that a store has, and counts a start of the server there. The store is then the State's
// alone.
func LoadState(ctx context.Context, store Store) (*State, error) {
	snap, err := store.Load(ctx)
	if err != nil {
		return nil, err
	}
	revision, err := store.Commit(ctx, snap.Revision, []Change{Started{}})
	if err != nil {
		return nil, err
	}
	s := NewState()
	s.store, s.revision = store, revision
	s.starts = snap.Starts + 1
	s.adopts, s.durable = !snap.Durable, snap.Durable
	slices.SortFunc(snap.Removals, func(a, b Removal) int { return a.Deleted.Compare(b.Deleted) })
	for _, r := range snap.Removals {
		s.seq++
		p, m := s.enlist(r.Map, s.seq)
		s.setState(m, MapDeleteReq)
		m.known, m.owed = true, true
		m.created, m.changed, m.deleted = stampOf(r.Created), stampOf(r.Deleted), stampOf(r.Deleted)
		p.maps = append(p.maps, m)
	}
	slices.SortFunc(snap.Maps, func(a, b StoredMap) int { return cmp.Compare(a.Seq, b.Seq) })
	for _, w := range snap.Maps {
		s.seq = max(s.seq+1, w.Seq)
		p, m := s.enlist(w.Map, s.seq)
		m.known, m.inherited = true, true
		m.created, m.changed = stampOf(w.Created), stampOf(w.Changed)
		p.maps = append(p.maps, m)
		s.byClient[m.Client] = m
	}
	for _, b := range snap.Beliefs {
		s.clients[b.Client] = &client{slot: b.Client, told: Target{b.Bank, someBankd}, stale: true}
	}
	for _, a := range snap.IDs {
		s.assign(a)
	}
	return s, nil
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
	stale  bool // there is a Belief of it in the store
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
	identity rspro.ComponentIdentity
	addr     netip.AddrPort
	features rspro.Features
	since    time.Time

	lastError string

	marked    bool   // something the session should compare has changed
	comparing bool   // the session compares
	compare   func() // has it do so, in a goroutine of its own; nil: it doesn't yet
}

// A holder is the connection of a session that holds an identity.
type holder interface {
	Probe(time.Duration) <-chan bool
	Close(error)
}

// mark has the session compare what p should know with what it was told.
func (p *peer) mark() {
	p.marked = true
	p.rouse()
}

func (p *peer) rouse() {
	if p.marked && !p.comparing && p.compare != nil {
		p.comparing = true
		p.compare()
	}
}

// attend has compare be called whenever p is marked, one call at a time, until p is dropped: in a goroutine that is there only
// while there is something to compare, and that running waits for.
func (s *State) attend(p *peer, running *sync.WaitGroup, compare func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.compare = func() {
		running.Go(func() {
			for s.unmark(p) {
				compare()
			}
		})
	}
	p.rouse()
}

// unmark reports whether p was marked. If not, its session doesn't compare any more.
func (s *State) unmark(p *peer) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	p.comparing = p.marked
	p.marked = false
	return p.comparing
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
	// key is what it was given its slot for; the zero key: it came with its slot.
	key ClientKey
	// waiting: it was given its slot and hasn't agreed yet.
	waiting bool

	tells  uint64 // how often it was told something on this connection
	told   Target // the last of it
	toldAt time.Time
	// answer is the result it gave to the last of it, when answered is set.
	answer   rspro.ResultCode
	answered bool
}

// enlist makes a mapping, the newest one, with its place in the order of creation, and finds its place.
func (s *State) enlist(sm slot.Map, seq uint64) (*place, *mapping) {
	b := s.bank(sm.Bank.ID)
	p := b.places[sm.Bank.Slot]
	if p == nil {
		p = &place{bank: b, nr: sm.Bank.Slot}
		b.places[p.nr] = p
	}
	m := &mapping{Map: sm, seq: seq, prev: s.last}
	s.counts.maps[m.state]++
	if s.last == nil {
		s.first = m
	} else {
		s.last.next = m
	}
	s.last = m
	return p, m
}

// forget unlinks maps that ended, which may be good news to their clients.
func (s *State) forget(p *place, gone []*mapping) {
	for _, m := range gone {
		s.noteMap(SlotmapGone, m)
		s.settleMap(m.Map)
		s.counts.maps[m.state]--
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
	p.name, p.since = fmt.Sprintf("B%d", p.bank), time.Now()
	b.peer = p
	s.counts.bankds.enter()
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
	s.counts.bankds.now--
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
	s.mapsVersion.Add(1) // as an error may be none any more
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
	if c == nil {
		c = &client{slot: p.slot}
		s.clients[p.slot] = c
	}
	p.name, p.since = p.slot.String(), time.Now()
	c.peer = p
	s.counts.clients.enter()
	if k, ok := s.given[p.slot]; ok && !p.waiting && keyOf(p.identity) == k.first() {
		p.key = k // it keeps what it was given on an earlier connection
	}
	s.note(ClientConnected, p)
	if p.waiting {
		s.note(ClientAssigned, p)
	}
	p.mark()
	return nil
}

// agreed takes a client's answer that it uses the slot it was assigned.
func (s *State) agreed(p *clientPeer) {
	s.mu.Lock()
	defer s.unlock()
	if c := s.clients[p.slot]; c == nil || c.peer != p {
		return
	}
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
	s.counts.clients.now--
	s.note(ClientGone, p)
	s.noteSlot(p.told.Bank)
	s.release(c)
}

// release forgets a client that isn't connected and believes nothing.
func (s *State) release(c *client) {
	if c.peer == nil && c.told.none() && !c.stale {
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
		if c.stale {
			s.settleClient(c.slot)
		}
		return s.tells(p, t)
	case believes.none():
	case m != nil && m.Bank == believes.Bank: // the bankd will be back
	case s.ending(slot.Map{Bank: believes.Bank, Client: p.slot}): // its answer will mark the client
	default:
		return s.tells(p, Target{believes.Bank, netip.AddrPortFrom(netip.IPv4Unspecified(), 0)})
	}
	return Target{}, 0
}

// outdated reports whether what is stored of a client is that it believes in another map than the one it is about to be told of. Were
// that so at a restart, the client would be told to leave what it uses.
func (s *State) outdated(c slot.Client) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	cl := s.clients[c]
	return cl != nil && cl.stale && !cl.told.none()
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
		s.settleClient(c.slot)
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
	s.counts.faults++
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

// Starts returns how often a server was started with the store there is, this start included.
func (s *State) Starts() uint64 { return s.starts }

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
