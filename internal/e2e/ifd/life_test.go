// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"os"
	"slices"
	"strconv"
	"testing"
	"time"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// cyclesEnv says how often TestCycles puts a card in.
const cyclesEnv = "REMSIM_CYCLES"

// TestCycles puts a card into a reader and takes it out 100 times, by mapping and unmapping it, while the reader beside it
// is used. Each time an application sees it come, reads it, and sees it go. In the end pcscd
// has the threads and descriptors it had, and not much more memory.
func TestCycles(t *testing.T) {
	t.Parallel()
	cycles := 100
	if text := os.Getenv(cyclesEnv); text != "" {
		var err error
		if cycles, err = strconv.Atoi(text); err != nil || cycles < 20 {
			t.Fatalf("%s=%q: want a number from 20 up", cyclesEnv, text)
		}
	}
	s := newSite(t, simulator.Profile(100).String(), simulator.Profile(101).String()).start()
	h := s.host(2)
	s.create(1, 1)
	other := h.app(1).use(twinOf(101))
	a := h.app(0)
	var came, went []time.Duration
	cycle := func() {
		twin := twinOf(100)
		begin := time.Now()
		s.create(0, 0)
		a.awaits(application.Present)
		came = append(came, time.Since(begin))
		a.opens(twin)
		a.likeTwin(twin, 5)
		told := h.told(0)
		begin = time.Now()
		s.remove(0)
		a.awaits(application.Empty)
		went = append(went, time.Since(begin))
		told()
		if code := a.transmit(soon, command(0)).Code; code != application.WarnRemoved {
			t.Errorf("a command to the card that has gone: code %#x", code)
		}
	}
	for range 10 {
		cycle()
	}
	before := h.usage()
	for n := range cycles - 10 {
		if cycle(); t.Failed() {
			t.Fatalf("in cycle %d", n)
		}
	}
	after := h.usage()
	other.end()
	for what, took := range map[string][]time.Duration{"there": came, "gone": went} {
		slices.Sort(took)
		t.Logf("a card was %s after %v (median), %v (p99), n=%d", what, took[len(took)/2].Round(time.Millisecond), took[len(took)*99/100].Round(time.Millisecond), len(took))
	}
	t.Logf("pcscd after 10 cycles: %v; after %d: %v", before, cycles, after)
	if after.Descriptors > before.Descriptors+2 || after.Threads > before.Threads+4 || after.RSS > before.RSS+16<<10 {
		t.Error("pcscd has grown")
	}
}

// TestSwapped swaps a card under an application that holds it, in a remote reader and in a reader of the first
// pcscd: what the application is told is the same. The same goes for another card by another map.
func TestSwapped(t *testing.T) {
	t.Parallel()
	const card, local = 1, 2
	s := newSite(t, rig.Reader(card), simulator.Profile(101).String()).start()
	h := s.host(1)
	s.create(0, 0)
	apps := map[int]*app{card: h.app(0), local: s.localApp(local)}
	for i, a := range apps {
		a.awaits(application.Present)
		a.connect()
		before := a.imsi()
		swapped := make(chan int, 1)
		go func() {
			other, err := bench.Swap(i)
			if err != nil {
				t.Error(err)
			}
			swapped <- other
		}()
		a.untilRemoved(before, i == local)
		other := <-swapped
		a.awaits(application.Present)
		twin := twinOf(other)
		a.reconnects(application.Unpower, twin)
		a.likeTwin(twin, 10)
	}

	remote := apps[card]
	before := remote.imsi()
	told := h.told(0)
	s.remove(0)
	told()
	s.create(1, 0)
	remote.untilRemoved(before, false)
	remote.awaits(application.Present)
	twin := twinOf(101)
	remote.reconnects(application.Unpower, twin)
	remote.likeTwin(twin, 10)
}

// TestPulled pulls the card of a slot that an application uses, and puts it back.
func TestPulled(t *testing.T) {
	t.Parallel()
	const card = 3
	s := newSite(t, rig.Reader(card)).start()
	h := s.host(1)
	s.create(0, 0)
	a := h.app(0)
	a.opens(twinOf(card))
	for range 3 {
		do(t, "pull %d", card)
		a.awaits(application.Empty)
		if code := a.transmit(soon, command(0)).Code; code != application.WarnRemoved {
			t.Errorf("a command to the card that has gone: code %#x", code)
		}
		do(t, "insert %d", card)
		twin := twinOf(card)
		a.opens(twin)
		a.likeTwin(twin, 5)
	}
}
