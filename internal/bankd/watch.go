// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"errors"
	"fmt"
	"sync/atomic"
	"time"

	"remsim/internal/count"
	"remsim/internal/daemon"
	"remsim/internal/link"
)

// counts are what has happened since the bankd's start.
type counts struct {
	commands    count.Histogram
	opened      atomic.Uint64
	resets      [coldReset + 1]atomic.Uint64 // that were made, by kind
	abandoned   atomic.Uint64
	errOpen     atomic.Uint64
	errReset    atomic.Uint64
	errTransmit atomic.Uint64
	connections atomic.Uint64
	welcomes    atomic.Uint64 // by the server
}

// job counts what was done with a card.
func (c *counts) job(j job, took time.Duration, err error) {
	switch {
	case j.reset != noReset && err != nil:
		c.errReset.Add(1)
	case j.reset != noReset:
		c.resets[j.reset].Add(1)
	case err != nil:
		c.errTransmit.Add(1)
	default:
		c.commands.Observe(took)
	}
}

// openFailed counts an error of a card. That there is none is no error.
func (c *counts) openFailed(err error) {
	if !errors.Is(err, ErrNoReader) && !errors.Is(err, ErrNoCard) && !errors.Is(err, ErrNoService) {
		c.errOpen.Add(1)
	}
}

// A Running is a bankd as those see it who watch it.
type Running struct {
	d  *bankd
	ln *link.Watched
}

// Stats is what a bankd has counted, since its start where it isn't what there is.
type Stats struct {
	Server      bool   // it is connected to the server
	Welcomes    uint64 // how often the server has accepted it
	Readers     int
	Slots       map[SlotState]int
	Connections map[ConnState]int
	Connected   uint64     // connections of clients that were accepted
	Commands    count.View // that cards have answered, with the time of the call to the card
	Opened      uint64     // cards that were powered up
	// WarmResets and ColdResets are what clients have asked for and cards have answered.
	WarmResets, ColdResets uint64
	// Errors of cards by what was done. That there is no card is none, nor is a call that was abandoned.
	OpenErrors, ResetErrors, TransmitErrors uint64
	Abandoned                               uint64 // calls to cards that took too long
	Hanging                                 int    // of those, that haven't returned, since pcscd is there
}

// Stats returns what the bankd has counted.
func (r Running) Stats() Stats {
	c := &r.d.counts
	v := Stats{
		Welcomes: c.welcomes.Load(), Connected: c.connections.Load(), Commands: c.commands.View(), Opened: c.opened.Load(),
		WarmResets: c.resets[warmReset].Load(), ColdResets: c.resets[coldReset].Load(),
		OpenErrors: c.errOpen.Load(), ResetErrors: c.errReset.Load(), TransmitErrors: c.errTransmit.Load(),
		Abandoned: c.abandoned.Load(),
		Slots:     map[SlotState]int{Free: 0, Mapped: 0, Carded: 0, Failed: 0}, Connections: map[ConnState]int{WaitID: 0, WaitMap: 0, Served: 0},
	}
	s := r.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	v.Server, v.Readers = s.server != nil, len(s.readers)
	for _, b := range s.bays {
		v.Slots[b.state]++
		v.Hanging += b.abandoned
	}
	for _, c := range s.conns {
		v.Connections[c.state]++
	}
	return v
}

// String says how the bankd stands, for people.
func (v Stats) String() string {
	server := "connected to the server"
	if !v.Server {
		server = "not connected to the server"
	}
	all := 0
	for _, n := range v.Slots {
		all += n
	}
	text := fmt.Sprintf("%s; %d of %d slots mapped, %d with a card in use", server, all-v.Slots[Free], all, v.Slots[Carded])
	if n := v.Slots[Failed]; n > 0 {
		text += fmt.Sprintf(", %d failed", n)
	}
	if v.Hanging > 0 {
		text += fmt.Sprintf("; %d calls to cards hang", v.Hanging)
	}
	return text
}

var errNoServer = errors.New("not connected to the server")

// Health returns how the bankd stands. It is ready when the server has accepted it. No card is asked: one that hangs is its slot's
// trouble.
func (r Running) Health() daemon.Health {
	return daemon.Health{
		Loops: []daemon.Loop{{Name: "accepting clients", Ask: r.ln.Ask}, daemon.Mutex("slots", &r.d.mu)},
		Ready: func() error {
			if !r.Stats().Server {
				return errNoServer
			}
			return nil
		},
		Status: func() string { return r.Stats().String() },
	}
}
