// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"slices"
	"sync"
	"testing"
	"time"

	"remsim/internal/simulator/board"
	"remsim/internal/simulator/modem"
)

// Two modems of one device do at once what modems do with a SIM that was switched on, with 300 commands each, and get
// every answer of their own card.
func TestInitialisation(t *testing.T) {
	w := newWorld(t, 2)
	d := plugged(t, 0, board.Config{})
	script, err := modem.Builtin("init")
	if err != nil {
		t.Fatal(err)
	}
	for i := range 2 {
		w.create(i, i)
		w.client(i, d, i)
	}
	for i := range 2 {
		d.operational(i)
	}
	var both sync.WaitGroup
	for i := range 2 {
		full, n := expected(t, i, script, 300)
		both.Go(func() {
			took := d.play(i, full)
			if len(took) != n {
				t.Errorf("modem %d: %d commands, want %d", i, len(took), n)
			}
			slices.Sort(took)
			if len(took) > 0 {
				t.Logf("modem %d: %d commands, median %v, longest %v", i, n, took[n/2].Round(time.Microsecond), took[len(took)-1].Round(time.Microsecond))
			}
		})
	}
	both.Wait()
	for i, s := range d.board.Slots() {
		if st := s.Stats(); st.Dropped+st.Ignored+st.Strange+st.Stale > 0 {
			t.Errorf("slot %d: %+v", i, st)
		}
	}
}
