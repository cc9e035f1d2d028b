// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A SlotState is what a slot of the bank is in.
//
//	FREE    -- map made ---------------------------> MAPPED
//	MAPPED  -- card opened for a client -----------> CARD
//	        -- card mute, fault, time-out ---------> FAILED
//	CARD    -- client left, card or reader gone ---> MAPPED
//	        -- card mute, fault, time-out ---------> FAILED
//	FAILED  -- card opened for a client -----------> CARD
//	        -- card or reader gone, card came -----> MAPPED
//	any     -- map removed ------------------------> FREE
//
// A card is open as long as a client uses it. While a client waits for one, in MAPPED
// or FAILED, it is tried when a card comes, and 10 s after it was tried last.
type SlotState int

// States of a slot.
const (
	Free   SlotState = iota // no map
	Mapped                  // a map, and the card isn't open: nobody wants it, or the reader is missing or empty
	Carded                  // a client uses the card
	Failed                  // the card or its reader doesn't work
)

// String returns FREE, MAPPED, CARD or FAILED.
func (s SlotState) String() string { return [...]string{"FREE", "MAPPED", "CARD", "FAILED"}[s] }

// A ConnState is what a connection of the data listener is in.
//
//	WAIT_ID --connectClientReq--> WAIT_MAP --card open--> SERVED
//	                                       <--card lost--
//
// A client that loses its map loses its connection, too. So does one that loses its card,
// unless it has told any of the protocol's extensions: then it knows that another ATR may
// follow.
type ConnState int

// States of a connection.
const (
	WaitID  ConnState = iota // the client hasn't said who it is
	WaitMap                  // it has; no map for it, or no card
	Served                   // it has a card and was told the ATR
)

// String returns WAIT_ID, WAIT_MAP or SERVED.
func (s ConnState) String() string { return [...]string{"WAIT_ID", "WAIT_MAP", "SERVED"}[s] }

// maxAbandoned is how many card calls of one slot may hang at a time. A call to
// PC/SC can't be cancelled, so each of them holds a thread until pcscd is new.
const maxAbandoned = 3

// state is who is connected, which slot serves whom, and what is to be done with
// the cards. One mutex guards it and all fields of conn, bay and worker that are
// said to belong to it. Nobody holds that mutex while waiting for anything;
// methods that end in Locked need it held. Messages are sent under it, which only queues
// them: so peers are told things in the order in which they happened, and no answer of a
// card can pass a word of its end.
type state struct {
	mu      sync.Mutex
	bankID  uint16
	bays    []*bay                  // by slot number
	byMap   map[slot.Client]*bay    // the slot a client is mapped to
	clients map[slot.Client]*conn   // who has said who it is
	conns   []*conn                 // all connections of the data listener, oldest first
	server  *link.Conn              // the accepted control connection, or nil
	tells   bool                    // server wants to know of maps and slots (RSPRO bankState)
	readers []Reader                // as told last; nil: no pcscd
	known   bool                    // readers was told
	watched bool                    // readers is being told
	working int                     // card goroutines that aren't abandoned
	closing bool                    // no new work
	idle    chan struct{}           // closed when closing and nothing is working
	start   func(b *bay, wait bool) // starts the card goroutine of a slot; see bankd.startLocked
}

// A bay is one slot of the bank.
type bay struct {
	slot slot.Bank

	// These belong to state.
	spec      *Slot // nil: the slots file doesn't name it
	state     SlotState
	client    slot.Client     // who it is mapped to, unless it is Free
	user      *conn           // who has its card or waits for it
	work      *worker         // its card goroutine; nil: none
	abandoned int             // card goroutines that hang in a call, since epoch
	epoch     int             // counts what ends the hanging: a new pcscd, another place
	err       error           // why the card couldn't be opened or used; nil when it could
	opened    time.Time       // when the card was opened last
	fault     string          // what was said last to be wrong with the card; see news
	place     place           // where its card is
	losses    int             // counts cards that left place
	atr       []byte          // of the card, when it was open last; nil since it left
	told      *rspro.SlotInfo // what the server knows; nil: nothing
}

func newState(bankID, slots uint16) *state {
	s := &state{
		bankID:  bankID,
		bays:    make([]*bay, slots),
		byMap:   make(map[slot.Client]*bay),
		clients: make(map[slot.Client]*conn),
		idle:    make(chan struct{}),
	}
	for i := range s.bays {
		s.bays[i] = &bay{slot: slot.Bank{ID: bankID, Slot: uint16(i)}, place: place{err: errNoLine}}
	}
	return s
}

// Reasons why this end closes a connection.
var (
	errUnmapped = errors.New("its map was removed")
	errReplaced = errors.New("it doesn't answer, and its client is back on another one")
	errStopping = errors.New("the bankd stops")
	errCrowded  = errors.New("there are too many connections, and of those without a map it is the oldest")
	errNobody   = fmt.Errorf("it didn't say who it is within %v", identifyWithin)
)

// bay finds a slot of this bank, or says what to answer.
func (s *state) bay(b slot.Bank) (*bay, rspro.ResultCode) {
	switch {
	case b.ID != s.bankID:
		return nil, rspro.IllegalBankID
	case int(b.Slot) >= len(s.bays):
		return nil, rspro.IllegalSlotID
	}
	return s.bays[b.Slot], rspro.OK
}

// createMap makes m be, in place of the maps of its two ends (RSPRO
// createMappingReq). It returns the connections that have lost theirs.
func (s *state) createMap(m slot.Map) (code rspro.ResultCode, lost []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, code := s.bay(m.Bank)
	if code != rspro.OK || b.state != Free && b.client == m.Client {
		return code, nil
	}
	for _, old := range []*bay{b, s.byMap[m.Client]} {
		if old != nil && old.state != Free {
			lost = s.unmapLocked(old, lost)
		}
	}
	b.client = m.Client
	s.setLocked(b, b.restLocked(), nil)
	s.byMap[m.Client] = b
	if c := s.clients[m.Client]; c != nil && c.answered {
		s.assignLocked(b, c)
	}
	return rspro.OK, lost
}

// removeMap ends m (RSPRO removeMappingReq). It returns the connections that have
// lost theirs.
func (s *state) removeMap(m slot.Map) (code rspro.ResultCode, lost []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	b, code := s.bay(m.Bank)
	if code != rspro.OK {
		return code, nil
	}
	if b.state == Free || b.client != m.Client {
		return rspro.UnknownSlotmap, nil
	}
	return rspro.OK, s.unmapLocked(b, nil)
}

// removeAll ends all maps (RSPRO resetStateReq).
func (s *state) removeAll() (lost []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, b := range s.bays {
		if b.state != Free {
			lost = s.unmapLocked(b, lost)
		}
	}
	return lost
}

// unmapLocked ends the map of b and adds its user to lost.
func (s *state) unmapLocked(b *bay, lost []*conn) []*conn {
	if c := b.user; c != nil {
		s.releaseLocked(c)
		lost = append(lost, c)
	}
	delete(s.byMap, b.client)
	b.fault = ""
	s.setLocked(b, Free, nil)
	return lost
}

// setLocked is where the state of a slot changes, and why there is no card. The server
// is told what of that is news.
func (s *state) setLocked(b *bay, to SlotState, err error) {
	b.state, b.err = to, err
	s.tellLocked(b)
}

// restLocked is the state of a mapped slot whose card isn't open and hasn't failed.
func (b *bay) restLocked() SlotState {
	if b.abandoned >= maxAbandoned {
		return Failed
	}
	return Mapped
}

// startOverLocked counts the calls that hang from none again: those there are can't harm what comes.
func (b *bay) startOverLocked() {
	b.epoch++
	b.abandoned = 0
}

// assignLocked makes c the user of b, whose card goroutine opens the card. When too
// many of them hang, that has to wait until one of them comes back.
func (s *state) assignLocked(b *bay, c *conn) {
	b.user, c.bay = c, b
	s.hurryLocked(b)
}

// hurryLocked has the card of b tried now when a client waits for it.
func (s *state) hurryLocked(b *bay) {
	switch {
	case b.user == nil || s.closing:
	case b.work != nil:
		b.work.due = time.Time{}
		b.work.poke()
	case b.abandoned < maxAbandoned:
		s.start(b, false)
	default:
		s.setLocked(b, Failed, b.err)
	}
}

// sound is how long a card has to work for its next fault to be news.
const sound = time.Minute

// news reports whether err is to be said, in the log and to the server: not when it is what
// was wrong with the same card before, and that hasn't worked for some time since. To be asked
// once of each fault, before it has consequences.
func (b *bay) news(err error) bool {
	text := err.Error()
	if text == b.fault && (b.state != Carded || time.Since(b.opened) < sound) {
		return false
	}
	b.fault = text
	return true
}

// failLocked is what follows when the card of b can't be opened or used. It returns whether
// that is news.
func (s *state) failLocked(b *bay, err error) (news bool) {
	if c := b.user; c != nil && c.state == Served {
		return s.loseLocked(b, err)
	}
	news = b.news(err)
	code, state := kind(err)
	if b.state != Free {
		s.setLocked(b, state, err)
	}
	if c := b.user; c != nil && !c.answered {
		c.answered = true
		c.link.Reply(c.req, c.result(code))
	}
	return news
}

// loseLocked takes the card, which has gone or failed with err, from its user. Client
// and server are told. A client that can wait for a card stays; it isn't heard until it
// has confirmed the next ATR, since what it said before it knew is for the lost card. It
// returns whether err is news.
func (s *state) loseLocked(b *bay, err error) (news bool) {
	c := b.user
	news = b.news(err)
	_, state := kind(err)
	c.link.Send(&rspro.BankSlotStatusInd{From: b.slot, To: c.client, Phys: slot.Phys{Card: slot.Off}})
	if c.stays && !s.closing {
		c.state, c.answered = WaitMap, true
		c.voidLocked()
		c.unheard++
	} else {
		s.releaseLocked(c)
		c.link.Finish(err)
	}
	s.setLocked(b, max(state, b.restLocked()), err)
	if news {
		s.reportLocked(b, c, err)
	}
	if b.work != nil {
		b.work.poke()
	}
	return news
}

// heldLocked reports whether a card goroutine has the card in a reader.
func (s *state) heldLocked(reader string) bool {
	return slices.ContainsFunc(s.bays, func(b *bay) bool { return b.work != nil && b.work.holds == reader })
}

// reportLocked tells the server that the card of b failed while c, if not nil, used it.
func (s *state) reportLocked(b *bay, c *conn, err error) {
	if s.server == nil {
		return
	}
	m := &rspro.ErrorInd{
		Sender:   rspro.Bankd,
		Severity: rspro.Major,
		Code:     rspro.UnexpectedDisconnect,
		Bank:     &b.slot,
		Text:     ia5(fmt.Sprintf("slot %v: %v", b.slot, err)),
	}
	if c != nil {
		m.Client = &c.client
	}
	s.server.Send(m)
}

// retireLocked ends the time of b's card goroutine.
func (s *state) retireLocked(b *bay) {
	b.work = nil
	s.working--
	if s.closing && s.working == 0 {
		close(s.idle)
	}
}

// releaseLocked takes its name and its card from c, which is still to be closed. Its
// card goroutine powers the card off.
func (s *state) releaseLocked(c *conn) {
	c.over = true
	if s.clients[c.client] == c {
		delete(s.clients, c.client)
	}
	b := c.bay
	if b == nil || b.user != c {
		return
	}
	b.user = nil
	if b.state == Carded {
		s.setLocked(b, b.restLocked(), nil)
	}
	if b.work != nil {
		b.work.poke()
	}
}

// enter makes c one of the connections, of which there are limit at most. When there are as
// many, the oldest one without a map makes room: it is returned, to be closed. So whoever holds
// all connections keeps out nobody who has a map.
func (s *state) enter(c *conn, limit int) (out *conn, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing {
		return nil, errStopping
	}
	if len(s.conns) >= limit {
		i := slices.IndexFunc(s.conns, func(c *conn) bool { return c.bay == nil || c.over })
		if i < 0 {
			return nil, fmt.Errorf("there are %d connections already, all with maps", limit)
		}
		out = s.conns[i]
		s.releaseLocked(out)
		s.conns = slices.Delete(s.conns, i, i+1)
	}
	s.conns = append(s.conns, c)
	return out, nil
}

// leave is the end of c.
func (s *state) leave(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.releaseLocked(c)
	if i := slices.Index(s.conns, c); i >= 0 { // else it made room
		s.conns = slices.Delete(s.conns, i, i+1)
	}
}

// join makes c known as its client. When there is one already, it is returned.
func (s *state) join(c *conn) (other *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c.over {
		return nil
	}
	if other = s.clients[c.client]; other == nil {
		s.clients[c.client] = c
		c.state = WaitMap
	}
	return other
}

// attend has a card opened for c, which has joined, when there is a map for it.
// Otherwise it returns what to answer, after which answered is to be called.
func (s *state) attend(c *conn) rspro.ResultCode {
	s.mu.Lock()
	defer s.mu.Unlock()
	b := s.byMap[c.client]
	switch {
	case c.over:
	case b == nil:
		return rspro.CardNotPresent
	case b.work == nil && b.abandoned >= maxAbandoned:
		return rspro.CardUnresponsive
	default:
		s.assignLocked(b, c)
	}
	return rspro.OK
}

// answered says that c was told that there is no card yet, so that it can be given
// one from now on.
func (s *state) answered(c *conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	c.answered = true
	if b := s.byMap[c.client]; b != nil && !c.over {
		s.assignLocked(b, c)
	}
}

// close takes no new work and returns the connections to end now. The others end
// when the card has answered them; s.idle is closed when all cards are powered off.
func (s *state) close() (leave []*conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	if s.working == 0 {
		close(s.idle)
	}
	for _, c := range s.conns {
		if c.state != Served {
			leave = append(leave, c)
		}
	}
	for _, b := range s.bays {
		if b.work != nil {
			b.work.poke()
		}
	}
	return leave
}
