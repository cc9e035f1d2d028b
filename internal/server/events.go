// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"sync"
	"time"

	"remsim/internal/slot"
)

// An EventType says what has happened, and of what type an Event's Data are.
type EventType string

// Types of events. One that tells of a change has the whole of what has changed, so that a reader
// who sees it twice is none the worse.
const (
	ClientConnected EventType = "client.connected" // Client: it was accepted
	ClientChanged   EventType = "client.changed"   // Client: it agreed to its slot, was told its bankd, or answered
	ClientGone      EventType = "client.gone"      // Client as it was last: its connection has ended
	ClientAssigned  EventType = "client.assigned"  // Client: it was given its slot by the server
	ClientForgotten EventType = "client.forgotten" // Assignment: its slot is nobody's any more
	BankConnected   EventType = "bank.connected"   // Bank: its bankd was accepted
	BankGone        EventType = "bank.gone"        // Bank as it was last: its bankd's connection has ended
	SlotChanged     EventType = "slot.changed"     // BankSlot: what its bankd tells of it, or Slot.State
	SlotmapChanged  EventType = "slotmap.changed"  // Slotmap: it is new, or in another state
	SlotmapGone     EventType = "slotmap.gone"     // Slotmap as it was last: nobody can know it any more
	FaultReported   EventType = "fault"            // Fault: a peer told an error
)

// An Event is a change of State.
type Event struct {
	ID   uint64 // its place among all events since the server's start; the first is 1
	Type EventType
	At   time.Time
	Data any // see the types of events
}

// A BankSlot is a Slot with its place, in an event.
type BankSlot struct {
	Bank slot.Bank
	Slot Slot
}

// A Fault is an error that a peer told of itself or, with Bank, of one of its slots.
type Fault struct {
	Peer string     // "C23:0", "B1"
	Bank *slot.Bank // may be nil
	Text string
}

// maxEvents is how many events are kept for readers that come back or fall behind: all that the restart of
// a server with 20,000 maps makes. They take 12 MB where they tell of maps, and some 30 MB at most.
const maxEvents = 1 << 16

// A Position is a place in a server's events: after the event ID of the server's run Epoch. Epochs are random, so that
// no position of an earlier run is mistaken for one of this.
type Position struct {
	Epoch string
	ID    uint64
}

// String returns a form that ParsePosition reads, "EPOCH-ID".
func (p Position) String() string { return p.Epoch + "-" + strconv.FormatUint(p.ID, 10) }

// ParsePosition reads what String has written.
func ParsePosition(s string) (Position, error) {
	epoch, id, ok := strings.Cut(s, "-")
	n, err := strconv.ParseUint(id, 10, 64)
	if !ok || err != nil || epoch == "" {
		return Position{}, fmt.Errorf("position %q: want EPOCH-NUMBER, as the server told it", s)
	}
	return Position{epoch, n}, nil
}

// Why a Feed can't go on after a Position.
var (
	ErrOtherRun = errors.New("the position is of another run of the server")
	ErrTooOld   = errors.New("the events after the position aren't kept any more")
)

// A Feed is the latest events of a State. It never waits for a reader: one that is too slow finds that it has
// missed some. Its methods may be called from any goroutine.
type Feed struct {
	epoch string

	mu   sync.Mutex
	ring []Event // event n is at (n-1) modulo maxEvents
	last uint64
	more chan struct{} // closed at the next event; nil: nobody waits
}

func newFeed() *Feed { return &Feed{epoch: rand.Text()[:12]} }

// emit adds events.
func (f *Feed) emit(events []Event) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, e := range events {
		e.ID = f.last + 1
		if len(f.ring) < maxEvents {
			f.ring = append(f.ring, e)
		} else {
			f.ring[f.last%maxEvents] = e
		}
		f.last++
	}
	if f.more != nil {
		close(f.more)
		f.more = nil
	}
}

// Last returns the position after the latest event.
func (f *Feed) Last() Position {
	f.mu.Lock()
	defer f.mu.Unlock()
	return Position{f.epoch, f.last}
}

// At returns the position after e.
func (f *Feed) At(e Event) Position { return Position{f.epoch, e.ID} }

// Next returns up to n events that follow after, in their order; while there are none it waits for one. It fails with
// ErrOtherRun or ErrTooOld when it can't go on there, and when ctx ends, with its cause.
func (f *Feed) Next(ctx context.Context, after Position, n int) ([]Event, error) {
	for {
		events, more, err := f.next(after, n)
		if err != nil || len(events) > 0 {
			return events, err
		}
		select {
		case <-more:
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
	}
}

// next is Next without the wait: when there are no events, more is closed once there are.
func (f *Feed) next(after Position, n int) (events []Event, more <-chan struct{}, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case after.Epoch != f.epoch, after.ID > f.last:
		return nil, nil, ErrOtherRun
	case f.last-after.ID > uint64(len(f.ring)):
		return nil, nil, ErrTooOld
	}
	for id := after.ID; id < f.last && len(events) < n; id++ {
		events = append(events, f.ring[id%maxEvents])
	}
	if f.more == nil {
		f.more = make(chan struct{})
	}
	return events, f.more, nil
}

// Feed returns what has happened and happens to s.
func (s *State) Feed() *Feed { return s.feed }

// A change is what a method of State has changed. It becomes an event when the method is done, with everything as it
// is then: a map that was made and asked for at once is told once.
type change struct {
	event EventType
	of    any // *mapping, *clientPeer, *bankPeer, slotChange or Fault
}

type slotChange struct {
	bankd *bankPeer
	nr    uint16
}

// unlock ends a method of State that may have changed something.
func (s *State) unlock() {
	if len(s.changes) > 0 {
		s.feed.emit(s.happened())
	}
	s.mu.Unlock()
}

// happened makes events of the changes.
func (s *State) happened() []Event {
	now := time.Now()
	events := make([]Event, 0, len(s.changes))
	for _, c := range s.changes {
		e := Event{Type: c.event, At: now, Data: c.of}
		switch of := c.of.(type) {
		case *mapping:
			of.change = 0
			e.Data = of.view()
		case *clientPeer:
			e.Data = of.view()
		case *bankPeer:
			e.Data = of.view()
		case slotChange:
			i := &of.bankd.slots[of.nr]
			i.changing = false
			if !s.holdsBank(of.bankd) {
				continue
			}
			v := s.slot(s.banks[of.bankd.bank], of.nr)
			state := v.State()
			if !i.news && state == i.state {
				continue
			}
			i.news, i.state = false, state
			e.Data = BankSlot{slot.Bank{ID: of.bankd.bank, Slot: of.nr}, v}
		}
		events = append(events, e)
	}
	clear(s.changes)
	s.changes = s.changes[:0]
	return events
}

// note has the method's end tell of a client, a bank or a fault.
func (s *State) note(t EventType, of any) {
	s.changes = append(s.changes, change{t, of})
}

// noteMap has it tell of a map, once and by the last of what has become of it.
func (s *State) noteMap(t EventType, m *mapping) {
	s.mapsVersion.Add(1)
	if m.change == 0 {
		s.note(t, m)
		m.change = len(s.changes)
	}
	s.changes[m.change-1].event = t
	s.noteSlot(m.Bank)
}

// noteSlot has it tell of a bank slot whose bankd tells of it, if its state is another then.
func (s *State) noteSlot(b slot.Bank) {
	bk := s.banks[b.ID]
	if bk == nil || bk.peer == nil || int(b.Slot) >= len(bk.peer.slots) {
		return
	}
	if i := &bk.peer.slots[b.Slot]; (i.told || i.news) && !i.changing {
		i.changing = true
		s.note(SlotChanged, slotChange{bk.peer, b.Slot})
	}
}
