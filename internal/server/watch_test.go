// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// recount compares what s has counted with what there is. The scenarios of TestConverge call it.
func recount(s *State) error {
	v := s.Stats()
	want := map[MapState]int{}
	for _, m := range s.Slotmaps() {
		want[m.State]++
	}
	for state, n := range v.Maps {
		if n != want[state] {
			return fmt.Errorf("%d maps are counted as %v, there are %d", n, state, want[state])
		}
	}
	if b, c := len(s.Banks()), len(s.Clients()); v.Bankds != b || v.Clients != c {
		return fmt.Errorf("%d bankds and %d clients are counted, there are %d and %d", v.Bankds, v.Clients, b, c)
	}
	return nil
}

// TestRunning asks a server that is watched: it answers while it works, and says which loop is stuck. A store that is slow is one
// as long as it is, as is a mutex that nobody gives back.
func TestRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(t.Context())
		log := logrus.New()
		log.SetOutput(io.Discard)
		store := newTestStore()
		var running Running
		ended := make(chan error, 1)
		go func() {
			ended <- Run(ctx, Config{RSPROListen: ":9998", Name: "test", Version: "1"}, Env{
				Net: testnet.New().Host("192.0.2.1"), Log: log, Store: store,
				OnStart: func(_ context.Context, r Running) { running = r },
			})
		}()
		synctest.Wait()
		h := running.Health()
		h.Loops = h.Loops[:2] // a listener of testnet can't be asked
		alive := func() error {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, errors.New("too late"))
			defer cancel()
			return h.Alive(ctx)
		}
		if err := errors.Join(alive(), h.Ready()); err != nil {
			t.Error(err)
		}
		slow := make(chan struct{})
		store.fail = func() error { <-slow; return nil }
		go running.ss.state.Commit(ctx, CreateMap(slot.Map{Bank: slot.Bank{ID: 1}, Client: slot.Client{ID: 1}}))
		synctest.Wait()
		if err := alive(); err == nil || err.Error() != "store doesn't answer: too late" {
			t.Errorf("a store that is slow: %v", err)
		}
		time.Sleep(time.Second)
		close(slow)
		synctest.Wait()
		if err := alive(); err != nil {
			t.Errorf("a store that is slow no longer: %v", err)
		}
		v := running.Stats()
		if v.Stored.Count != 1 || v.Stored.Sum != 2*time.Second || v.NotStored != 0 || v.Maps[MapNew] != 1 {
			t.Errorf("%+v", v)
		}
		if s, want := h.Status(), "0 bankds, 0 clients; 1 maps, 0 of them active"; s != want {
			t.Errorf("status %q, want %q", s, want)
		}
		store.fail = func() error { return io.ErrShortWrite }
		if _, err := running.ss.state.Commit(ctx, DeleteAllMaps()); err == nil {
			t.Error("stored")
		}
		if v := running.Stats(); v.NotStored != 1 || v.Stored.Count != 2 {
			t.Errorf("%+v", v)
		}
		store.fail = nil
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
}

// TestSlowStore asks a server whose back-ends change something all the time, each change taking nearly as long as a question may: the
// store has its turn, if only after some questions, as the next one goes on where the last was given up.
func TestSlowStore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const limit = time.Second
		store := newTestStore()
		s, err := LoadState(t.Context(), store)
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { s.settle(ctx) })
		store.fail = func() error { time.Sleep(limit * 9 / 10); return nil }
		for i := range uint16(3) {
			running.Go(func() {
				for ctx.Err() == nil {
					if _, err := s.Commit(context.Background(), PutMap(pair(i, i)), DeleteMap(bk(1, i))); err != nil {
						t.Error(err)
					}
				}
			})
		}
		h := Running{ss: &sessions{state: s}}.Health()
		answers, silent, most := 0, 0, 0
		for range 100 {
			ctx, cancel := context.WithTimeout(t.Context(), limit)
			if h.Alive(ctx) == nil {
				answers, silent = answers+1, 0
			} else {
				silent++
			}
			cancel()
			most = max(most, silent)
			time.Sleep(limit / 10)
		}
		if most == 0 || most > 4 {
			t.Errorf("%d answers to 100 questions, none to as many as %d in a row: want some to wait, but no more than four", answers, most)
		}
		cancel()
		running.Wait()
	})
}

// A State whose mutex nobody gives back doesn't answer.
func TestStuck(t *testing.T) {
	s := NewState()
	defer close(s.done)
	h := Running{ss: &sessions{state: s}}.Health()
	s.mu.Lock()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Millisecond)
	defer cancel()
	if err := h.Alive(ctx); err == nil || !strings.HasPrefix(err.Error(), "reconciliation of peers doesn't answer") {
		t.Errorf("%v", err)
	}
	s.mu.Unlock()
}

// BenchmarkStats is what a scrape takes of a server with 100,000 maps.
func BenchmarkStats(b *testing.B) {
	s := NewState()
	var ops []Op
	for i := range 100_000 {
		m := slot.Map{Bank: slot.Bank{ID: uint16(i / 1000), Slot: uint16(i % 1000)}, Client: slot.Client{ID: uint16(i / 1000), Slot: uint16(i % 1000)}}
		ops = append(ops, CreateMap(m))
	}
	if _, err := s.Commit(b.Context(), ops...); err != nil {
		b.Fatal(err)
	}
	s.addBank(&bankPeer{bank: 1, numSlots: 1000, peer: peer{features: rspro.Features(0)}})
	if err := recount(s); err != nil {
		b.Fatal(err)
	}
	for b.Loop() {
		s.Stats()
	}
}
