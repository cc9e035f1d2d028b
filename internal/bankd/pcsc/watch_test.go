// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"syscall"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/simulator"
)

// Reports keep what Watch reports.
type reports struct {
	mu    sync.Mutex
	lists [][]bankd.Reader
	news  chan struct{} // closed and made anew with each report
}

func (r *reports) add(list []bankd.Reader) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.lists = append(r.lists, list)
	close(r.news)
	r.news = make(chan struct{})
}

// await waits until one of the reports from the nth on is right, and returns how many there are.
func (r *reports) await(t *testing.T, n int, what string, right func([]bankd.Reader) bool) int {
	t.Helper()
	for end := time.After(long); ; {
		r.mu.Lock()
		lists, news := r.lists, r.news
		r.mu.Unlock()
		for ; n < len(lists); n++ {
			if right(lists[n]) {
				return n + 1
			}
		}
		select {
		case <-news:
		case <-end:
			t.Fatalf("no report of %s; the last: %v", what, lists[max(0, len(lists)-3):])
		}
	}
}

func (r *reports) count() int {
	r.mu.Lock()
	defer r.mu.Unlock()
	return len(r.lists)
}

func (r *reports) list(n int) []bankd.Reader {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.lists[n]
}

// watch watches for the time of the test.
func watch(t *testing.T, w func(context.Context, func([]bankd.Reader)) error) *reports {
	t.Helper()
	r := &reports{news: make(chan struct{})}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- w(ctx, r.add) }()
	t.Cleanup(func() {
		cancel()
		select {
		case err := <-done:
			if err != nil {
				t.Errorf("Watch: %v", err)
			}
		case <-time.After(long):
			t.Errorf("Watch hasn't ended within %v", long)
		}
	})
	return r
}

// has makes the condition that reader i has a card, or none.
func has(i int, card bool) func([]bankd.Reader) bool {
	return func(list []bankd.Reader) bool {
		for _, r := range list {
			if r.Name == full(i) {
				return r.Present == card
			}
		}
		return false
	}
}

func gone(list []bankd.Reader) bool { return list == nil }

// A bank of readers is reported at once, and cards as they come and go.
func TestWatch(t *testing.T) {
	r := watch(t, Bank{}.Watch)
	n := r.await(t, 0, "readers", func([]bankd.Reader) bool { return true })
	if first := r.list(0); n != 1 || len(first) != readers || first[4].Name != full(4) || has(0, true)(first) {
		t.Errorf("first report %v", first)
	}
	sim := newScripted(0)
	seat := insert(t, 0, sim)
	n = r.await(t, n, "a card", func(list []bankd.Reader) bool {
		return has(0, true)(list) && bytes.Equal(list[0].ATR, sim.ATR())
	})
	// A user of the card is no news.
	c := open(t, Bank{}, 0)
	exchange(t, c, "a0a40000022fe2", "9f0f")
	c.Close()
	seat.Pull()
	if m := r.await(t, n, "an empty reader", has(0, false)); m != n+1 {
		t.Errorf("%d reports between insertion and removal", m-n-1)
	}
	if atr := r.list(n)[0].ATR; atr != nil {
		t.Errorf("ATR % x without a card", atr)
	}
}

// Each insertion and each removal counts, and nothing else does.
func TestWatchPulls(t *testing.T) {
	const pulls = 102 // in all readers together
	r := watch(t, Bank{}.Watch)
	var run sync.WaitGroup
	for i := range readers {
		seat := insert(t, i, newScripted(i))
		run.Go(func() {
			// pcscd shows a card, or none, a moment before it counts that: so the first pull's number is where the count begins.
			counted := func(card bool, least uint64) func([]bankd.Reader) bool {
				return func(list []bankd.Reader) bool { return has(i, card)(list) && list[i].Changes >= least }
			}
			n := r.await(t, 0, "a card", has(i, true))
			was := r.list(n - 1)[i].Changes
			for k := range pulls / readers {
				for _, card := range []bool{false, true} {
					time.Sleep(rand.N(100 * time.Millisecond))
					if card {
						seat.Insert()
					} else {
						seat.Pull()
					}
					n = r.await(t, n, fmt.Sprintf("card %d, pull %d, card %v", i, k, card), counted(card, was+1))
					if was++; k == 0 && !card {
						was = r.list(n - 1)[i].Changes
					} else if r.list(n - 1)[i].Changes != was {
						t.Errorf("card %d, pull %d, card %v: %d changes, want %d", i, k, card, r.list(n - 1)[i].Changes, was)
						return
					}
				}
			}
		})
	}
	run.Wait()
}

// A card that is pulled, missed by a reset and put back before pcscd looks isn't lost.
func TestWatchLost(t *testing.T) {
	r := watch(t, Bank{}.Watch)
	r.await(t, 0, "readers", func(list []bankd.Reader) bool { return len(list) == readers }) // else it wouldn't know that a card was there
	var run sync.WaitGroup
	for i := range 3 {
		seat := insert(t, i, newScripted(i))
		run.Go(func() {
			for k := range 3 {
				var c bankd.Card
				var err error
				// Cards that are lost are looked for one after the other.
				for end := time.Now().Add(3 * long); c == nil; time.Sleep(100 * time.Millisecond) {
					if c, err = (Bank{}).Open(context.Background(), bankd.Slot{Reader: full(i)}); err != nil && time.Now().After(end) {
						t.Errorf("card %d was lost: %v; reported %v", i, err, r.list(r.count() - 1)[i])
						return
					}
				}
				seat.Pull()
				if err := c.Reset(k%2 == 0); !errors.Is(err, bankd.ErrNoCard) {
					t.Errorf("card %d: %v, want ErrNoCard", i, err)
				}
				seat.Insert()
				c.Close()
			}
			r.await(t, r.count()-1, fmt.Sprintf("card %d", i), has(i, true))
		})
	}
	run.Wait()
}

// Cards move faster than pcscd looks: it may see some of that only, and in the end what is there.
func TestWatchFlutter(t *testing.T) {
	r := watch(t, Bank{}.Watch)
	var run sync.WaitGroup
	for i := range readers {
		seat := insert(t, i, newScripted(i))
		run.Go(func() {
			for k := range 4 {
				for range rand.IntN(6) {
					seat.Pull()
					time.Sleep(rand.N(200 * time.Millisecond))
					seat.Insert()
					time.Sleep(rand.N(200 * time.Millisecond))
				}
				card := k%2 == 1
				if !card {
					seat.Pull()
				}
				// Old reports may still tell of the flutter.
				time.Sleep(time.Second)
				r.await(t, r.count()-1, fmt.Sprintf("card %d, %v", i, card), has(i, card))
				seat.Insert()
			}
		})
	}
	run.Wait()
}

// While there is no pcscd, or one that hangs, there are no readers.
func TestWatchService(t *testing.T) {
	insert(t, 0, newScripted(0))
	t.Cleanup(func() { signal(t, syscall.SIGCONT) }) // after the end of the watch
	r := watch(t, func(ctx context.Context, changed func([]bankd.Reader)) error {
		newWatcher(openStatus, 3*time.Second, changed).run(ctx)
		return nil
	})
	n := r.await(t, 0, "a card", has(0, true))
	for _, tt := range []struct {
		name   string
		lose   func()
		regain func()
	}{
		{"killed", func() { pcscd.Kill() }, func() { start(t, readers) }},
		{"killed again", func() { pcscd.Kill() }, func() { start(t, readers) }},
		{"stopped", func() { pcscd.Stop() }, func() { start(t, readers) }},
		{"hung", func() { signal(t, syscall.SIGSTOP) }, func() { signal(t, syscall.SIGCONT) }},
		{"hung, then killed", func() { signal(t, syscall.SIGSTOP) }, func() { pcscd.Kill(); start(t, readers) }},
	} {
		tt.lose()
		n = r.await(t, n, "no pcscd, "+tt.name, gone)
		tt.regain()
		n = r.await(t, n, "a card in a pcscd that was "+tt.name, has(0, true))
	}
	// The end comes soon also where a call hangs.
	signal(t, syscall.SIGSTOP)
	time.Sleep(2 * lookAfter)
}

// A pcscd may come back with more readers, up to as many as it can have, or fewer.
func TestWatchReaders(t *testing.T) {
	r := watch(t, Bank{}.Watch)
	n := 0
	for _, all := range []int{simulator.MaxCards, 2, readers} {
		pcscd.Kill()
		start(t, all)
		n = r.await(t, n, fmt.Sprintf("%d readers", all), func(list []bankd.Reader) bool { return len(list) == all })
		seat := insert(t, all-1, newScripted(all-1))
		n = r.await(t, n, "a card", has(all-1, true))
		seat.Pull()
		n = r.await(t, n, "no card", has(all-1, false))
	}
}

// start starts a pcscd for the tests.
func start(t *testing.T, readers int) {
	t.Helper()
	p, err := simulator.StartPCSCD(context.Background(), readers, name)
	if err != nil {
		t.Fatal(err)
	}
	pcscd = p
}

func signal(t *testing.T, s syscall.Signal) {
	t.Helper()
	if err := pcscd.Signal(s); err != nil {
		t.Fatal(err)
	}
}
