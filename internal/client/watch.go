// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"remsim/internal/count"
	"remsim/internal/daemon"
	"remsim/internal/link"
)

// A Watch sees what the clients of a program do, as long as they run, and counts that. The zero value is ready; its
// methods may be called from any goroutine.
type Watch struct {
	commands       count.Histogram
	failed         [failures]atomic.Uint64 // commands
	resets         atomic.Uint64
	serverWelcomes atomic.Uint64
	bankdWelcomes  atomic.Uint64

	mu    sync.Mutex
	cores map[*Core]bool // that run
}

// A Failure is why a command had no answer.
type Failure uint8

// Why a command had no answer.
const (
	NoCard    Failure = iota // ErrNoCard
	Busy                     // ErrBusy
	Reset                    // ErrReset
	Gone                     // ErrGone
	Otherwise                // its sender didn't want it any more, or command or answer were no such
	failures
)

// String returns a word: no_card, busy, reset, gone or other.
func (f Failure) String() string { return [...]string{"no_card", "busy", "reset", "gone", "other"}[f] }

func (w *Watch) enter(c *Core) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cores == nil {
		w.cores = make(map[*Core]bool)
	}
	w.cores[c] = true
}

func (w *Watch) leave(c *Core) {
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.cores, c)
}

// command counts one that took some time and has an answer, or else failed.
func (w *Watch) command(took time.Duration, err error) {
	if err == nil {
		w.commands.Observe(took)
		return
	}
	why := Otherwise
	for f, e := range [...]error{NoCard: ErrNoCard, Busy: ErrBusy, Reset: ErrReset, Gone: ErrGone} {
		if errors.Is(err, e) {
			why = Failure(f)
		}
	}
	w.failed[why].Add(1)
}

// running returns the clients that run.
func (w *Watch) running() []*Core {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Collect(maps.Keys(w.cores))
}

// Stats is what clients have counted, since the program's start where it isn't what there is.
type Stats struct {
	States         map[State]int // of slots that are served
	Servers        int           // slots that are connected to the server
	ServerWelcomes uint64        // how often the server has accepted one
	BankdWelcomes  uint64        // how often a bankd has
	Commands       count.View    // that were answered, with the time from the modem's side and back to it
	Failed         map[Failure]uint64
	Resets         uint64 // of cards, that modems have asked for
}

// Stats returns what w has counted.
func (w *Watch) Stats() Stats {
	v := Stats{
		ServerWelcomes: w.serverWelcomes.Load(), BankdWelcomes: w.bankdWelcomes.Load(),
		Commands: w.commands.View(), Resets: w.resets.Load(), Failed: map[Failure]uint64{},
		States: map[State]int{Init: 0, Unconfigured: 0, WaitBankd: 0, Operational: 0},
	}
	for f := range w.failed {
		v.Failed[Failure(f)] = w.failed[f].Load()
	}
	for _, c := range w.running() {
		i := c.Info()
		v.States[i.State]++
		if i.ServerState == link.Connected {
			v.Servers++
		}
	}
	return v
}

// slots returns how many slots are served.
func (v Stats) slots() (n int) {
	for _, of := range v.States {
		n += of
	}
	return n
}

// String says how the clients stand, for people.
func (v Stats) String() string {
	n := v.slots()
	if n == 1 {
		for s, of := range v.States {
			if of > 0 {
				return fmt.Sprintf("%v, server connected: %t", s, v.Servers > 0)
			}
		}
	}
	return fmt.Sprintf("%d slots, %d of them connected to the server, %d use a card", n, v.Servers, v.States[Operational])
}

// Health returns how the clients stand. They are ready when there is one, and all are connected to the server. loops
// are what else must go on.
func (w *Watch) Health(loops ...daemon.Loop) daemon.Health {
	return daemon.Health{
		Loops: append([]daemon.Loop{{Name: "clients", Ask: w.ask}}, loops...),
		Ready: func() error {
			switch v := w.Stats(); {
			case v.slots() == 0:
				return errors.New("no slot is served")
			case v.Servers < v.slots():
				return fmt.Errorf("%d of %d slots are not connected to the server", v.slots()-v.Servers, v.slots())
			}
			return nil
		},
		Status: func() string { return w.Stats().String() },
	}
}

// ask waits for a sign of life of each client.
func (w *Watch) ask(ctx context.Context) error {
	for _, c := range w.running() {
		if err := c.alive.Ask(ctx); err != nil {
			return err
		}
	}
	return nil
}
