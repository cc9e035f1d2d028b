// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"cmp"
	"errors"
	"flag"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"time"

	"remsim/internal/client"
	"remsim/internal/slot"
)

var seeds = flag.Uint64("chaos", 6, "run TestChaos with seeds 0 to `N`-1")

// TestChaos changes maps and breaks programs and lines at random while all clients send commands.
// No answer may ever go to another command, and when the faults end everybody must
// come to what the maps say.
func TestChaos(t *testing.T) {
	for seed := range *seeds {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			inWorld(t, func(_ *testing.T, w *world) { chaos(w, rand.New(rand.NewPCG(seed, 0))) })
		})
	}
}

const chaosClients = 5

func chaos(w *world, r *rand.Rand) {
	for id := range banks {
		w.startBankd(uint16(id + 1))
	}
	for id := range chaosClients {
		w.startClient(slot.Client{ID: uint16(id + 1)})
	}
	var answers int
	stop := make(chan struct{})
	end := sync.OnceFunc(func() { close(stop) })
	defer end()
	done := make(chan int, chaosClients)
	for id := range chaosClients {
		go func() { done <- w.busy(slot.Client{ID: uint16(id + 1)}, stop) }()
	}

	wanted := map[slot.Bank]slot.Client{}
	for range 100 {
		w.disturb(r, wanted)
		time.Sleep(time.Duration(r.IntN(20_000)) * time.Millisecond)
	}
	for _, p := range w.programs() {
		p.setDown(false)
	}
	time.Sleep(5 * time.Minute) // the schedule may be at its slow end
	end()
	for range chaosClients {
		answers += <-done
	}
	if answers < 500 {
		w.t.Errorf("only %d answers: the test tests nothing", answers)
	}
	w.converged(wanted)
}

func (w *world) programs() []*program {
	all := []*program{w.server}
	for id := range banks {
		all = append(all, w.bankds[uint16(id+1)])
	}
	for id := range chaosClients {
		all = append(all, w.clients[slot.Client{ID: uint16(id + 1)}].program)
	}
	return all
}

// losses are how commands may fail when a bankd, a map or a line goes.
var losses = []error{client.ErrNoCard, client.ErrGone}

// busy sends commands of a client, whatever becomes of them, until stop is closed; it returns how
// many were answered.
func (w *world) busy(c slot.Client, stop <-chan struct{}) (answers int) {
	for {
		select {
		case <-stop:
			return answers
		case <-time.After(300 * time.Millisecond):
		}
		_, err := w.clients[c].transmit(w.t.Context())
		switch {
		case err == nil:
			answers++
		case !slices.ContainsFunc(losses, func(loss error) bool { return errors.Is(err, loss) }):
			w.t.Errorf("%v: %v", c, err)
		}
	}
}

// disturb does one thing at random; wanted are the maps there should be.
func (w *world) disturb(r *rand.Rand, wanted map[slot.Bank]slot.Client) {
	bank := slot.Bank{ID: uint16(r.IntN(banks) + 1), Slot: uint16(r.IntN(slots))}
	who := slot.Client{ID: uint16(r.IntN(chaosClients) + 1)}
	programs := w.programs()
	victim := programs[r.IntN(len(programs))]
	switch r.IntN(10) {
	case 0, 1, 2, 3: // map the client to the slot, in place of the maps either has
		if w.server.down {
			return
		}
		for b, c := range wanted {
			if b == bank || c == who {
				w.remove(b)
				delete(wanted, b)
			}
		}
		w.create(slot.Map{Bank: bank, Client: who})
		wanted[bank] = who
	case 4:
		if _, ok := wanted[bank]; ok && !w.server.down {
			w.remove(bank)
			delete(wanted, bank)
		}
	case 5:
		victim.setDown(true)
	case 6, 7:
		for _, p := range programs {
			p.setDown(false)
		}
	case 8:
		victim.host.Cut()
	case 9:
		w.replace(victim, wanted)
	}
}

// replace kills a program and starts it again.
func (w *world) replace(victim *program, wanted map[slot.Bank]slot.Client) {
	if victim == w.server {
		w.replaceServer(wanted)
		return
	}
	victim.kill()
	for id, p := range w.bankds {
		if p == victim {
			w.startBankd(id)
		}
	}
	for _, m := range w.clients {
		if m.program == victim {
			m.start()
		}
	}
}

// replaceServer kills the server, which forgets everything, when no removal is left to do that
// nobody would remember then, and makes the maps again as a back-end with a list of its own does.
func (w *world) replaceServer(wanted map[slot.Bank]slot.Client) {
	for _, p := range w.programs() {
		p.setDown(false)
	}
	w.eventually("removals are done", func() error {
		n, err := w.api.Leaving()
		if err == nil && n > 0 {
			err = fmt.Errorf("%d maps are leaving", n)
		}
		return err
	})
	w.server.kill()
	w.startServer()
	for b, c := range wanted {
		w.create(slot.Map{Bank: b, Client: c})
	}
	w.eventually("bankds are back", func() error {
		peers, err := w.api.Peers()
		for id := range w.bankds {
			if err == nil && !peers[fmt.Sprintf("B%d", id)] {
				err = fmt.Errorf("peers: %v", peers)
			}
		}
		return err
	})
}

// converged checks that clients, cards and the server's view are what the maps say.
func (w *world) converged(wanted map[slot.Bank]slot.Client) {
	states, err := w.api.SlotMaps()
	if err != nil {
		w.t.Fatal(err)
	}
	if len(states) != len(wanted) {
		w.t.Errorf("maps %v, want %v", states, wanted)
	}
	var open []slot.Bank
	cards := map[slot.Client]slot.Bank{}
	for b, c := range wanted {
		if s := states[slot.Map{Bank: b, Client: c}]; s != "ACTIVE" {
			w.t.Errorf("map %v=%v is %q", c, b, s)
		}
		open = append(open, b)
		cards[c] = b
	}
	for c, m := range w.clients {
		b, mapped := cards[c]
		switch {
		case mapped:
			if err := m.works(b); err != nil {
				w.t.Error(err)
			}
		case m.card() != nil:
			w.t.Errorf("%v has the ATR %x without a map", c, m.card())
		}
	}
	slices.SortFunc(open, func(a, b slot.Bank) int { return cmp.Or(cmp.Compare(a.ID, b.ID), cmp.Compare(a.Slot, b.Slot)) })
	w.onlyOpen(open...)
}
