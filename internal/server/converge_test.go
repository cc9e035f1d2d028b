// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"fmt"
	"math/rand/v2"
	"testing"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// modelBankd does what a bankd does with requests, and delivers late or never.
type modelBankd struct {
	id       uint16
	numSlots uint16
	maps     map[slot.Bank]slot.Client

	peer     *bankPeer    // nil: not connected
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

// modelClient believes what it is told.
type modelClient struct {
	slot     slot.Client
	believes Target

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
	rnd     *rand.Rand
	moody   bool // bankds may refuse for no reason
	bankds  []*modelBankd
	clients []*modelClient
}

func newModel(seed uint64) *model {
	m := &model{s: NewState(), rnd: rand.New(rand.NewPCG(seed, 0)), moody: true}
	for id := range uint16(3) {
		m.bankds = append(m.bankds, &modelBankd{id: id, numSlots: 3, maps: map[slot.Bank]slot.Client{}})
	}
	for id := range uint16(5) {
		m.clients = append(m.clients, &modelClient{slot: cl(id, 0)})
	}
	return m
}

func (m *model) bankUp(b *modelBankd) {
	p := &bankPeer{bank: b.id, numSlots: b.numSlots, endpoint: addr(b.id + 1)}
	m.s.addBank(p)
	b.peer = p
	if m.rnd.IntN(4) == 0 { // at another address
		p.endpoint = addr(b.id + 100)
	}
}

// bankDown cuts a connection: some of what was under way arrives, the rest doesn't.
func (m *model) bankDown(b *modelBankd) {
	for n := m.rnd.IntN(len(b.requests) + 1); n > 0; n-- {
		m.bankStep(b)
	}
	for n := m.rnd.IntN(len(b.answers) + 1); n > 0; n-- {
		m.answerStep(b)
	}
	m.s.dropBank(b.peer)
	b.peer, b.requests, b.answers = nil, nil, nil
}

func (m *model) bankStep(b *modelBankd) {
	q := b.requests[0]
	b.requests = b.requests[1:]
	b.answers = append(b.answers, mapAnswer{q, b.handle(q, m.moody && m.rnd.IntN(8) == 0)})
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
	c.believes = t.t
	if t.t.none() {
		c.believes = Target{}
	}
	c.answers = append(c.answers, t)
}

func (m *model) tellStep(c *modelClient) bool {
	t, n := m.s.tell(c.peer)
	if n != 0 {
		c.told = append(c.told, tellN{t, n})
	}
	return n != 0
}

// step lets one thing happen.
func (m *model) step() {
	b := m.bankds[m.rnd.IntN(len(m.bankds))]
	c := m.clients[m.rnd.IntN(len(m.clients))]
	switch m.rnd.IntN(14) {
	case 0, 1, 2:
		// Slot 3 of each bank doesn't exist.
		m.s.Create(slot.Map{Bank: bk(b.id, uint16(m.rnd.IntN(4))), Client: c.slot}) //nolint:errcheck // may be taken
	case 3, 4:
		m.s.Delete(bk(b.id, uint16(m.rnd.IntN(4))))
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
	}
}

// settle lets everything arrive.
func (m *model) settle() {
	for busy := true; busy; {
		busy = false
		for _, b := range m.bankds {
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
	}
	for _, b := range m.bankds {
		for at, c := range b.maps {
			if active[at] != c {
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
		case c.believes != Target{}:
			return fmt.Errorf("client %s uses %v, want none", c.slot, c.believes)
		}
	}
	return nil
}

// TestConverge lets maps, bankds and clients come and go at random, requests and answers be
// lost and refused: once all are connected, they agree.
func TestConverge(t *testing.T) {
	for seed := range uint64(1000) {
		m := newModel(seed)
		for range m.rnd.IntN(1000) {
			m.step()
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
		if err := m.check(); err != nil {
			t.Fatalf("seed %d: %v", seed, err)
		}
	}
}
