// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// TestFeed checks where a reader can go on, and what it gets there.
func TestFeed(t *testing.T) {
	f := newFeed()
	begin := f.Last()
	if begin.ID != 0 || begin.Epoch == "" {
		t.Fatalf("begins at %v", begin)
	}
	emit := func(n int) {
		for range n {
			f.emit([]Event{{Type: FaultReported, Data: Fault{}}})
		}
	}
	emit(10)
	ids := func(after uint64, n int) (l []uint64, err error) {
		events, err := f.Next(t.Context(), Position{begin.Epoch, after}, n)
		for _, e := range events {
			l = append(l, e.ID)
		}
		return l, err
	}
	for _, tt := range []struct {
		after uint64
		n     int
		want  []uint64
		err   error
	}{
		{0, 3, []uint64{1, 2, 3}, nil},
		{3, 3, []uint64{4, 5, 6}, nil},
		{8, 9, []uint64{9, 10}, nil},
		{11, 1, nil, ErrOtherRun}, // it hasn't been told
	} {
		got, err := ids(tt.after, tt.n)
		if !slices.Equal(got, tt.want) || !errors.Is(err, tt.err) {
			t.Errorf("%d after %d: %v, %v; want %v, %v", tt.n, tt.after, got, err, tt.want, tt.err)
		}
	}
	if _, err := f.Next(t.Context(), Position{"X", 1}, 1); !errors.Is(err, ErrOtherRun) {
		t.Errorf("another epoch: %v", err)
	}
	emit(maxEvents)
	const last = 10 + maxEvents
	if got, err := ids(9, 1); !errors.Is(err, ErrTooOld) {
		t.Errorf("after 9: %v, %v", got, err)
	}
	if got, err := ids(10, 2); err != nil || !slices.Equal(got, []uint64{11, 12}) {
		t.Errorf("after 10: %v, %v", got, err)
	}
	if got, err := ids(last-1, 9); err != nil || !slices.Equal(got, []uint64{last}) {
		t.Errorf("after %d: %v, %v", last-1, got, err)
	}
	if f.Last() != (Position{begin.Epoch, last}) {
		t.Errorf("ends at %v", f.Last())
	}
	if newFeed().Last().Epoch == begin.Epoch {
		t.Error("two feeds have the same epoch")
	}
}

// TestFeedWaits checks that all who wait for an event get it, and that a wait ends with its context.
func TestFeedWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFeed()
		at := f.Last()
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
		defer cancel()
		start := time.Now()
		if _, err := f.Next(ctx, at, 1); !errors.Is(err, context.DeadlineExceeded) || time.Since(start) != 5*time.Second {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		got := make(chan []Event)
		for range 3 {
			go func() {
				l, err := f.Next(t.Context(), at, 9)
				if err != nil {
					t.Error(err)
				}
				got <- l
			}()
		}
		synctest.Wait()
		f.emit([]Event{{Type: FaultReported}, {Type: FaultReported}})
		for range 3 {
			if l := <-got; len(l) != 2 || l[1].ID != 2 {
				t.Errorf("%v", l)
			}
		}
	})
}

// TestPosition reads positions.
func TestPosition(t *testing.T) {
	for s, want := range map[string]Position{
		"A-0": {"A", 0}, "A-18446744073709551615": {"A", 1<<64 - 1},
		"": {}, "-": {}, "A": {}, "A-": {}, "-1": {}, "A--1": {}, "A-x": {}, "A-18446744073709551616": {}, "A-1-2": {},
	} {
		got, err := ParsePosition(s)
		if (err == nil) != (want.Epoch != "") || got != want {
			t.Errorf("%q: %v, %v; want %v", s, got, err, want)
		}
		if err == nil && got.String() != s {
			t.Errorf("%q becomes %q", s, got)
		}
	}
}

func FuzzParsePosition(f *testing.F) {
	for _, s := range []string{"A-0", "-", "A-18446744073709551616", "A-01", "A-+1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		p, err := ParsePosition(s)
		if err != nil {
			return
		}
		if again, err := ParsePosition(p.String()); err != nil || again != p {
			t.Fatalf("%q is %v, which is %v, %v", s, p, again, err)
		}
	})
}

// mirror is a copy of a server's state that is made of its events alone.
type mirror struct {
	feed    *Feed
	at      Position
	maps    map[string]Slotmap // by map and time of creation: an old one may still be leaving
	clients map[slot.Client]Client
	banks   map[uint16]Bank
	slots   map[slot.Bank]string // state, of those of which one was told
}

func newMirror(f *Feed) *mirror {
	return &mirror{
		feed: f, at: f.Last(), maps: map[string]Slotmap{}, clients: map[slot.Client]Client{},
		banks: map[uint16]Bank{}, slots: map[slot.Bank]string{},
	}
}

func mirrorKey(m Slotmap) string { return fmt.Sprint(m.Map, m.Seq) }

// read applies what has happened.
func (v *mirror) read() error {
	for {
		events, _, err := v.feed.next(v.at, 100)
		if err != nil || len(events) == 0 {
			return err
		}
		for _, e := range events {
			if e.ID != v.at.ID+1 {
				return fmt.Errorf("event %d after %d", e.ID, v.at.ID)
			}
			v.at = v.feed.At(e)
			switch d := e.Data.(type) {
			case Slotmap:
				if v.maps[mirrorKey(d)] = d; e.Type == SlotmapGone {
					delete(v.maps, mirrorKey(d))
				}
			case Client:
				if v.clients[d.Slot] = d; e.Type == ClientGone {
					delete(v.clients, d.Slot)
				}
			case Bank:
				if v.banks[d.ID] = d; e.Type == BankGone {
					delete(v.banks, d.ID)
					for b := range v.slots {
						if b.ID == d.ID {
							delete(v.slots, b)
						}
					}
				}
			case BankSlot:
				v.slots[d.Bank] = d.Slot.State()
			}
		}
	}
}

// check compares the copy with the state.
func (v *mirror) check(s *State) error {
	maps := s.Slotmaps()
	if len(maps) != len(v.maps) {
		return fmt.Errorf("%d maps, told of %d", len(maps), len(v.maps))
	}
	for _, m := range maps {
		if got := v.maps[mirrorKey(m)]; got != m {
			return fmt.Errorf("map %#v, told of %#v", m, got)
		}
	}
	if len(s.Clients()) != len(v.clients) || len(s.Banks()) != len(v.banks) {
		return fmt.Errorf("%d clients and %d banks, told of %d and %d", len(s.Clients()), len(s.Banks()), len(v.clients), len(v.banks))
	}
	for _, c := range s.Clients() {
		if got := v.clients[c.Slot]; fmt.Sprint(got) != fmt.Sprint(c) {
			return fmt.Errorf("client %v, told of %v", c, got)
		}
	}
	for _, b := range s.Banks() {
		_, slots, _ := s.Slots(b.ID)
		for _, sl := range slots {
			at := slot.Bank{ID: b.ID, Slot: sl.Nr}
			if got := v.slots[at]; got != sl.State() {
				return fmt.Errorf("slot %s is %s, told of %s", at, sl.State(), got)
			}
		}
	}
	return nil
}

// TestMirror lets maps, bankds and clients come and go at random, and compares after each step what the server
// shows with what its events have told.
func TestMirror(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		steps := 0
		for seed := range uint64(300 / min(slowness, 2)) {
			m := newModel(seed)
			v := newMirror(m.s.Feed())
			for range m.rnd.IntN(500) {
				m.step()
				time.Sleep(time.Millisecond) // times of creation differ
				if m.s.Feed() != v.feed {    // the server was started anew
					v = newMirror(m.s.Feed())
					v.at.ID = 0
				}
				if b := m.bankds[m.rnd.IntN(len(m.bankds))]; b.tells && b.peer != nil && m.rnd.IntN(4) == 0 {
					m.s.slotInfo(b.peer, rspro.SlotInfo{Slot: uint16(m.rnd.IntN(3)), Present: m.rnd.IntN(2) == 0})
				}
				if err := v.read(); err != nil {
					t.Fatalf("seed %d: %v", seed, err)
				}
				if err := v.check(m.s); err != nil {
					t.Fatalf("seed %d, event %d: %v", seed, v.at.ID, err)
				}
				steps++
			}
		}
		if steps < 10_000 {
			t.Errorf("only %d steps", steps)
		}
	})
}
