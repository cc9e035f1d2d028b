// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/simulator/board"
)

// Config says how a modem behaves.
type Config struct {
	// Boot is how long a modem takes from its start to switching its SIM on; 0: 100 ms, while real ones take seconds.
	Boot time.Duration
	// Settle is how long it waits after its SIM's ATR; see Terminal.
	Settle time.Duration
	// Script is played each time the emulated SIM was switched on.
	Script Script
	// LocalATR is the ATR of the modem's own SIM; nil: 3B 00.
	LocalATR []byte
	// Report is told of each step of each script. It may be nil; the modem waits for it.
	Report func(Result)
	Log    *logrus.Entry
}

// defaultBoot is Config.Boot where that is 0.
const defaultBoot = 100 * time.Millisecond

// A Modem starts when it gets power, when its reset line is released, and when its SIM is exchanged or taken; it then
// switches the SIM on, negotiates its speed and plays its script.
type Modem struct {
	config   Config
	terminal Terminal

	mu    sync.Mutex
	state State
	jobs  chan job
}

// A State is what a modem has done so far.
type State struct {
	Starts  int    // of the modem
	ATR     []byte // of the SIM that it uses; nil: none is switched on
	Local   bool   // that is its own
	Idle    bool   // its script has ended
	Failed  int    // steps of the script that failed, since the start
	Steps   int    // of scripts that were played, since the start
	InReset bool   // the reset line is asserted
}

// A job is what a modem does besides its script, in the goroutine of who wants it.
type job struct {
	granted chan context.Context // gets that of the modem's life until it starts anew
	done    chan struct{}
}

// New returns a modem in a slot. It does nothing before Run.
func New(s *board.Slot, c Config) *Modem {
	if c.Boot == 0 {
		c.Boot = defaultBoot
	}
	if c.LocalATR == nil {
		c.LocalATR = []byte{0x3b, 0x00}
	}
	return &Modem{config: c, terminal: Terminal{Slot: s, LocalATR: c.LocalATR, Settle: c.Settle}, jobs: make(chan job)}
}

// Slot returns where the modem is.
func (m *Modem) Slot() *board.Slot { return m.terminal.Slot }

// State returns what the modem has done.
func (m *Modem) State() State {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.state
}

func (m *Modem) update(f func(*State)) {
	m.mu.Lock()
	defer m.mu.Unlock()
	f(&m.state)
}

// Do calls f when the modem's script has ended and nobody else does anything with its SIM. f's context ends when the modem
// starts anew, which waits for f's return.
func (m *Modem) Do(ctx context.Context, f func(context.Context, *Terminal)) error {
	j := job{make(chan context.Context, 1), make(chan struct{})}
	select {
	case m.jobs <- j:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer close(j.done)
	life, cancel := context.WithCancel(<-j.granted)
	defer cancel()
	defer context.AfterFunc(ctx, cancel)()
	f(life, &m.terminal)
	return ctx.Err()
}

// Run runs the modem until ctx ends.
func (m *Modem) Run(ctx context.Context) {
	asserted := false
	for ctx.Err() == nil {
		session, stop := context.WithCancel(ctx)
		var running sync.WaitGroup
		if !asserted {
			running.Go(func() { m.session(session) })
		}
		select {
		case <-ctx.Done():
		case <-m.Slot().Happened():
		}
		stop()
		running.Wait()
		for _, e := range m.Slot().Events() {
			m.config.Log.WithField("event", e.String()).Debug("the device acts on the modem")
			switch e {
			case board.ResetAsserted:
				asserted = true
			case board.ResetReleased:
				asserted = false
			}
		}
		m.update(func(s *State) { s.InReset = asserted })
	}
}

// session is the life of the modem from its start to the next one.
func (m *Modem) session(ctx context.Context) {
	t := &m.terminal
	m.update(func(s *State) { *s = State{Starts: s.Starts + 1} })
	defer func() {
		t.PowerDown()
		m.update(func(s *State) { s.ATR, s.Idle = nil, false })
	}()
	select {
	case <-time.After(m.config.Boot):
	case <-ctx.Done():
		return
	}
	atr, err := t.PowerUp(ctx)
	if err != nil {
		if ctx.Err() == nil {
			m.config.Log.WithError(err).Warn("the SIM doesn't answer")
		}
	} else {
		local := !m.Slot().Remote()
		m.update(func(s *State) { s.ATR, s.Local = atr, local })
		if !local {
			m.play(ctx, m.config.Script, m.config.Report)
		}
	}
	m.update(func(s *State) { s.Idle = true })
	for {
		select {
		case <-ctx.Done():
			return
		case j := <-m.jobs:
			j.granted <- ctx
			<-j.done
		}
	}
}

// play plays a script and counts its steps.
func (m *Modem) play(ctx context.Context, s Script, report func(Result)) {
	_, _ = m.terminal.Play(ctx, s, func(r Result) {
		m.update(func(s *State) {
			s.Steps++
			if r.Err != nil {
				s.Failed++
			}
		})
		if r.Err != nil {
			m.config.Log.WithError(r.Err).Warn("a modem wouldn't take that")
		}
		if report != nil {
			report(r)
		}
	})
}
