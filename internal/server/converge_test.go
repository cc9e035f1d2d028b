// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"cmp"
	"context"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"syscall"
	"testing"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// modelBankd does what a bankd does with requests, and delivers late or never.
type modelBankd struct {
	id       uint16
	numSlots uint16
	maps     map[slot.Bank]slot.Client
	tells    bool // has feature bankState
	// before are the maps it had when the server was last started.
	before map[slot.Bank]slot.Client

	peer     *bankPeer    // nil: not connected
	list     []slot.Map   // on its way to the server
	exact    bool         // the server knows its maps, since its list came in time: it mustn't create one that is there
	requests []mapRequest // on their way to the bankd
	answers  []mapAnswer  // on their way back
}

type mapAnswer struct {
	q mapRequest
	r rspro.ResultCode
}

func (b *modelBankd) handle(q mapRequest, moody bool) rspro.ResultCode {
	c, mapped := b.maps[q.Bank]
	switch {
	case q.Bank.Slot >= b.numSlots:
		return rspro.IllegalSlotID
	case q.remove && (!mapped || c != q.Client):
		return rspro.UnknownSlotmap
	case !q.remove && mapped && c == q.Client:
		return rspro.OK
	case moody:
		b.exact = false // what it has after that isn't said
		return 4711
	case q.remove:
		delete(b.maps, q.Bank)
	default:
		for at, c := range b.maps {
			if c == q.Client {
				delete(b.maps, at)
			}
		}
		b.maps[q.Bank] = q.Client
	}
	return rspro.OK
}

// has returns the bankd's maps in some fixed order.
func (b *modelBankd) has() []slot.Map {
	l := []slot.Map{}
	for at, c := range b.maps {
		l = append(l, slot.Map{Bank: at, Client: c})
	}
	slices.SortFunc(l, func(x, y slot.Map) int { return cmp.Compare(x.Bank.Slot, y.Bank.Slot) })
	return l
}

// modelClient believes what it is told.
type modelClient struct {
	slot     slot.Client
	believes Target
	before   Target // what it believed when the server was last started

	peer    *clientPeer
	told    []tellN
	answers []tellN
}

type tellN struct {
	t Target
	n uint64
}

// model is a server with bankds and clients around it that come and go.
type model struct {
	s       *State
	store   *testStore // nil: a server that was started anew knows nothing
	rnd     *rand.Rand
	moody   bool // bankds may refuse for no reason
	bankds  []*modelBankd
	clients []*modelClient

	// What was asked of the server since its start.
	created, deleted map[slot.Map]bool // the last that was asked of a map
	reset            bool              // all maps were deleted
	// fault is the first thing that mustn't have happened.
	fault                                error
	adopted, removed, late, lost, starts int // how often
}

func newModel(seed uint64) *model {
	m := &model{
		s: NewState(), rnd: rand.New(rand.NewPCG(seed, 0)), moody: true,
		created: map[slot.Map]bool{}, deleted: map[slot.Map]bool{},
	}
	for id := range uint16(3) {
		m.bankds = append(m.bankds, &modelBankd{id: id, numSlots: 3, maps: map[slot.Bank]slot.Client{}, tells: id != 1})
	}
	for id := range uint16(5) {
		m.clients = append(m.clients, &modelClient{slot: cl(id, 0)})
	}
	return m
}

// load starts a server with the store. From time to time that fails.
func (m *model) load() {
	m.store.fail = nil
	s, err := LoadState(context.Background(), m.store)
	if err != nil {
		panic(err)
	}
	m.s = s
	m.store.fail = func() error {
		if m.moody && m.rnd.IntN(8) == 0 {
			return syscall.EIO
		}
		return nil
	}
}

func (m *model) bankUp(b *modelBankd) {
	p := &bankPeer{bank: b.id, numSlots: b.numSlots, endpoint: addr(b.id + 1), held: b.tells}
	m.s.addBank(p)
	b.peer, b.list, b.exact = p, nil, false
	if b.tells {
		b.list = b.has()
	}
	if m.rnd.IntN(4) == 0 { // at another address
		p.endpoint = addr(b.id + 100)
	}
}

// listStep lets a list arrive, in time or late.
func (m *model) listStep(b *modelBankd) {
	if b.list == nil {
		return
	}
	b.exact = b.peer.held
	if !b.exact {
		m.late++
	}
	for _, f := range m.s.listed(b.peer, b.list) {
		if f.adopted {
			m.adopted++
		} else {
			m.removed++
		}
	}
	b.list = nil
}

// bankDown cuts a connection: some of what was under way arrives, the rest doesn't.
func (m *model) bankDown(b *modelBankd) {
	if m.rnd.IntN(2) == 0 {
		m.listStep(b)
	}
	for n := m.rnd.IntN(len(b.requests) + 1); n > 0; n-- {
		m.bankStep(b)
	}
	for n := m.rnd.IntN(len(b.answers) + 1); n > 0; n-- {
		m.answerStep(b)
	}
	m.s.dropBank(b.peer)
	b.peer, b.requests, b.answers = nil, nil, nil
	if m.rnd.IntN(4) == 0 { // it was started anew
		m.lost += len(b.maps)
		clear(b.maps)
	}
}

// restart ends the server and starts it anew: it knows nothing but what it has stored.
func (m *model) restart() {
	for _, b := range m.bankds {
		if b.peer != nil {
			m.bankDown(b)
		}
		b.before = maps.Clone(b.maps)
	}
	for _, c := range m.clients {
		if c.peer != nil {
			m.clientDown(c)
		}
		c.before = c.believes
	}
	m.starts++
	if m.store != nil {
		for _, b := range m.bankds {
			b.before = nil
		}
		for _, c := range m.clients {
			c.before = Target{}
		}
		m.load()
		return
	}
	m.s, m.reset = NewState(), false
	clear(m.created)
	clear(m.deleted)
}

func (m *model) bankStep(b *modelBankd) {
	q := b.requests[0]
	b.requests = b.requests[1:]
	if c, mapped := b.maps[q.Bank]; b.exact && !q.remove && mapped && c == q.Client && !m.s.owes(q.Map) {
		m.fault = fmt.Errorf("bankd is asked to create %s, which it said it has", q.Map)
	}
	b.answers = append(b.answers, mapAnswer{q, b.handle(q, m.moody && m.rnd.IntN(8) == 0)})
}

// owes reports whether the server has yet to have sm removed, so that it is no fault to have it
// created anew.
func (s *State) owes(sm slot.Map) bool {
	p := s.place(sm.Bank)
	return p != nil && slices.ContainsFunc(p.maps, func(m *mapping) bool { return m.Map == sm && m.leaving() })
}

func (m *model) answerStep(b *modelBankd) {
	a := b.answers[0]
	b.answers = b.answers[1:]
	m.s.mapAnswered(b.peer, a.q, a.r)
}

func (m *model) clientUp(c *modelClient) {
	p := &clientPeer{slot: c.slot}
	m.s.addClient(p)
	c.peer = p
}

func (m *model) clientDown(c *modelClient) {
	for n := m.rnd.IntN(len(c.told) + 1); n > 0; n-- {
		m.clientStep(c)
	}
	m.s.dropClient(c.peer)
	c.peer, c.told, c.answers = nil, nil, nil
	if m.rnd.IntN(3) == 0 { // it was started anew
		c.believes = Target{}
	}
}

func (m *model) clientStep(c *modelClient) {
	t := c.told[0]
	c.told = c.told[1:]
	c.believes, c.before = t.t, Target{}
	if t.t.none() {
		c.believes = Target{}
	}
	c.answers = append(c.answers, t)
}

// move puts a client into another map, atomically.
func (m *model) move(sm slot.Map) {
	r, err := m.s.Commit(context.Background(), PutMap(sm))
	if err != nil {
		return
	}
	for _, old := range r[0].Ended {
		delete(m.created, old)
		m.deleted[old] = true
	}
	m.created[sm] = true
	delete(m.deleted, sm)
}

func (m *model) tellStep(c *modelClient) bool {
	t, n := m.s.tell(c.peer)
	if n != 0 {
		for !t.none() && m.s.outdated(c.slot) && m.s.flush(context.Background()) != nil {
		}
		c.told = append(c.told, tellN{t, n})
	}
	return n != 0
}

// step lets one thing happen.
func (m *model) step() {
	b := m.bankds[m.rnd.IntN(len(m.bankds))]
	c := m.clients[m.rnd.IntN(len(m.clients))]
	switch m.rnd.IntN(16) {
	case 0, 1, 2:
		// Slot 3 of each bank doesn't exist.
		sm := slot.Map{Bank: bk(b.id, uint16(m.rnd.IntN(4))), Client: c.slot}
		if m.s.Create(sm) == nil {
			m.created[sm] = true
			delete(m.deleted, sm)
		}
	case 3, 4:
		if sm, ok := m.s.Delete(bk(b.id, uint16(m.rnd.IntN(4)))); ok {
			delete(m.created, sm)
			m.deleted[sm] = true
		}
	case 5:
		if m.rnd.IntN(3) == 0 {
			break
		}
		if b.peer == nil {
			m.bankUp(b)
		} else if m.rnd.IntN(3) == 0 {
			m.bankDown(b)
		}
	case 6:
		if c.peer == nil {
			m.clientUp(c)
		} else if m.rnd.IntN(3) == 0 {
			m.clientDown(c)
		}
	case 7, 8:
		if b.peer != nil {
			b.requests = append(b.requests, m.s.mapRequests(b.peer)...)
		}
	case 9, 10:
		if len(b.requests) > 0 {
			m.bankStep(b)
		}
	case 11:
		if len(b.answers) > 0 {
			m.answerStep(b)
		}
	case 12:
		if c.peer != nil {
			m.tellStep(c)
		}
	case 13:
		if len(c.told) > 0 {
			m.clientStep(c)
		}
		if len(c.answers) > 0 {
			m.s.told(c.peer, c.answers[0].n, rspro.OK)
			c.answers = c.answers[1:]
		}
	case 14:
		if b.peer != nil {
			m.listStep(b)
		}
	case 15:
		switch m.rnd.IntN(40) {
		case 0:
			m.restart()
		case 1:
			if _, err := m.s.Commit(context.Background(), DeleteAllMaps()); err == nil {
				clear(m.created)
				m.reset = true
			}
		case 8:
			m.s.flush(context.Background())
		case 9, 10, 11, 12:
			m.move(slot.Map{Bank: bk(b.id, uint16(m.rnd.IntN(4))), Client: c.slot})
		case 2, 3, 4, 5, 6, 7:
			if b.peer != nil {
				m.s.unhold(b.peer)
			}
		}
	}
}

// settle lets everything arrive.
func (m *model) settle() {
	for busy := true; busy; {
		busy = false
		for _, b := range m.bankds {
			m.listStep(b)
			b.requests = append(b.requests, m.s.mapRequests(b.peer)...)
			for len(b.requests) > 0 {
				m.bankStep(b)
				busy = true
			}
			for len(b.answers) > 0 {
				m.answerStep(b)
			}
		}
		for _, c := range m.clients {
			busy = m.tellStep(c) || busy
			for len(c.told) > 0 {
				m.clientStep(c)
			}
			for len(c.answers) > 0 {
				m.s.told(c.peer, c.answers[0].n, rspro.OK)
				c.answers = c.answers[1:]
			}
		}
	}
}

// check compares what everybody has with what the server says.
func (m *model) check() error {
	active := map[slot.Bank]slot.Client{}
	byClient := map[slot.Client]Slotmap{}
	for _, sm := range m.s.Slotmaps() {
		exists := sm.Bank.Slot < 3
		switch {
		case sm.Leaving():
			return fmt.Errorf("%s is still %s", sm.Map, sm.State)
		case exists != (sm.State == MapActive):
			return fmt.Errorf("%s is %s: %s", sm.Map, sm.State, sm.LastError)
		case exists:
			active[sm.Bank] = sm.Client
		}
		byClient[sm.Client] = sm
		switch b := m.bankds[sm.Bank.ID]; {
		case m.created[sm.Map]:
		case m.reset || m.deleted[sm.Map]:
			return fmt.Errorf("%s was deleted", sm.Map)
		case !b.tells || b.before[sm.Bank] != sm.Client:
			return fmt.Errorf("%s is from nowhere", sm.Map)
		}
	}
	for _, b := range m.bankds {
		for at, c := range b.maps {
			if got, mapped := active[at]; got != c {
				if old, was := b.before[at]; !b.tells && !mapped && was && old == c {
					continue // the server can't know
				}
				return fmt.Errorf("bankd has %s=%s", c, at)
			}
			delete(active, at)
		}
	}
	for at, c := range active {
		return fmt.Errorf("bankd lacks %s=%s", c, at)
	}
	for _, c := range m.clients {
		sm, mapped := byClient[c.slot]
		switch {
		case mapped && sm.State == MapActive:
			var at Bank
			at, _ = m.s.Bank(sm.Bank.ID)
			if want := (Target{sm.Bank, at.Endpoint}); c.believes != want {
				return fmt.Errorf("client %s uses %v, want %v", c.slot, c.believes, want)
			}
		case mapped && c.believes.Bank == sm.Bank: // as before its bankd came back without the slot
		case c.believes == c.before: // the server can't know, or hears of it from a bankd that has it
		case c.believes != Target{}:
			return fmt.Errorf("client %s uses %v, want none", c.slot, c.believes)
		}
	}
	return nil
}

// TestConverge lets maps, bankds and clients come and go at random, the server start anew,
// requests, answers and lists be lost, late and refused: once all are connected, they agree.
// Two bankds tell the maps they have, one doesn't.
func TestConverge(t *testing.T) {
	converge(t, func(m *model) {})
}

// TestConvergeDurable is TestConverge with a server that stores what it must not forget, and sometimes can't: there is nothing then
// that it doesn't know, and maps are what was asked for.
func TestConvergeDurable(t *testing.T) {
	converge(t, func(m *model) {
		m.store = newTestStore()
		m.load()
	})
}

// lists are those of a State's maps at a version.
type lists struct {
	s       *State
	version uint64
	all     []Slotmap
}

// compare fails when a list is another than before, and the version isn't.
func (l *lists) compare(s *State) error {
	now := lists{s, s.MapsVersion(), s.Slotmaps()}
	if l.s == now.s && l.version == now.version && !slices.Equal(l.all, now.all) {
		return fmt.Errorf("version %d of the maps is both %+v and %+v", l.version, l.all, now.all)
	}
	*l = now
	return nil
}

func converge(t *testing.T, with func(*model)) {
	t.Helper()
	var adopted, removed, late, lost, starts int
	defer func() {
		t.Logf("maps adopted %d, unknown ones removed %d, lost by bankds %d; lists late %d, starts %d", adopted, removed, lost, late, starts)
		if min(removed, late, lost, starts) == 0 {
			t.Error("something never happened")
		}
	}()
	for seed := range uint64(2000 / slowness) {
		m := newModel(seed)
		with(m)
		var before lists
		for range m.rnd.IntN(1000) {
			m.step()
			if err := before.compare(m.s); err != nil {
				t.Fatalf("seed %d: %v", seed, err)
			}
		}
		if err := recount(m.s); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		m.moody = false
		for _, b := range m.bankds {
			if b.peer != nil {
				m.bankDown(b)
			}
			m.bankUp(b)
		}
		for _, c := range m.clients {
			if c.peer == nil {
				m.clientUp(c)
			}
		}
		m.settle()
		if err := cmp.Or(m.fault, m.check(), recount(m.s)); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
		if (m.store == nil) != (m.adopted > 0) && m.adopted > 0 {
			t.Fatalf("seed %d: %d maps were adopted", seed, m.adopted)
		}
		adopted, removed, late, lost, starts = adopted+m.adopted, removed+m.removed, late+m.late, lost+m.lost, starts+m.starts
	}
}
