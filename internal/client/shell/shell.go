// SPDX-License-Identifier: GPL-2.0-or-later

// Package shell is a client with a terminal in place of the modem: lines of standard
// input are commands, standard output shows ATRs and responses.
package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"time"

	"remsim/internal/client"
	"remsim/internal/gsmtap"
	"remsim/internal/slot"
)

// cardWait is how long a line waits for a card.
const cardWait = 30 * time.Second

var errNoCard = fmt.Errorf("no card within %v", cardWait)

// Config says who the client is and what it does.
type Config struct {
	client.Config
}

// Env is the world the shell lives in.
type Env struct {
	client.Env
	In  io.Reader
	Out io.Writer // gets each line in one Write, from several goroutines
	Err io.Writer // messages about input lines
	// OnReport arranges for what it is given to be called when the user wants to know the
	// client's state, until the context ends (daemon.OnReport). May be nil.
	OnReport func(context.Context, func(io.Writer))
}

// Run reads and executes lines until the input ends or ctx does. The goroutine that reads
// In outlives ctx when In doesn't return: standard input can't be interrupted.
func Run(ctx context.Context, cfg Config, env Env) error {
	trace, err := gsmtap.Open(cfg.Trace, env.Log)
	if err != nil {
		return err
	}
	defer trace.Close()
	env.Trace = trace
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	m := &modem{out: env.Out, keepATR: cfg.KeepATR, fail: end, ready: make(chan struct{})}
	core := client.New(cfg.Config, env.Env, m)
	if env.OnReport != nil {
		env.OnReport(ctx, core.Report)
	}
	go func() { end(m.run(ctx, core, env.In, env.Err)) }()
	core.Run(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// A modem is the shell's idea of one: the client's Frontend.
type modem struct {
	out     io.Writer
	keepATR bool // the bankd's ATR is of no interest
	fail    func(error)

	mu    sync.Mutex
	card  bool
	ready chan struct{} // closed when there is a card; another one for each card
}

// Remote has nothing to switch.
func (*modem) Remote(context.Context, bool) {}

// ATR shows the ATR.
func (m *modem) ATR(_ context.Context, atr []byte, card bool) {
	if !card || !m.keepATR {
		if err := m.print("SET_ATR: ", atr); err != nil {
			m.fail(err)
		}
	}
	if card {
		m.mu.Lock()
		defer m.mu.Unlock()
		if m.card {
			m.ready = make(chan struct{})
		}
		close(m.ready)
		m.card = true
	}
}

// Insert has nothing to do: ATR has told that there is a card.
func (*modem) Insert(context.Context) {}

// Remove makes lines wait for the next card.
func (m *modem) Remove(context.Context) {
	m.mu.Lock()
	ready := m.ready
	m.mu.Unlock()
	m.gone(ready)
}

// ResetModem has nothing to reset.
func (*modem) ResetModem(context.Context) {}

// gone says that the card of ready is no longer there.
func (m *modem) gone(ready chan struct{}) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.card && m.ready == ready {
		m.card, m.ready = false, make(chan struct{})
	}
}

// wait waits for a card.
func (m *modem) wait(ctx context.Context) (chan struct{}, error) {
	m.mu.Lock()
	ready := m.ready
	m.mu.Unlock()
	select {
	case <-ready:
		return ready, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// run executes the lines of in, one after the other.
func (m *modem) run(ctx context.Context, core *client.Core, in io.Reader, msg io.Writer) error {
	lines := lineReader{r: bufio.NewReader(in)}
	for n := 1; ; n++ {
		line, err := lines.next()
		switch {
		case err == io.EOF:
			return nil
		case err != nil && err != errLong:
			return fmt.Errorf("read standard input: %w", err)
		}
		var cmd command
		if err == nil {
			cmd, err = parse(line)
		}
		if err == nil {
			err = m.execute(ctx, core, cmd)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			fmt.Fprintf(msg, "line %d: %v\n", n, err)
		}
	}
}

// execute executes one command.
func (m *modem) execute(ctx context.Context, core *client.Core, cmd command) error {
	if !cmd.reset && cmd.tpdu == nil {
		return nil
	}
	waiting, cancel := context.WithTimeoutCause(ctx, cardWait, errNoCard)
	defer cancel()
	for {
		ready, err := m.wait(waiting)
		if err != nil {
			return err
		}
		if cmd.reset {
			core.Status(slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off, Card: slot.On})
			core.Status(slot.Phys{VCC: slot.On, CLK: slot.On, Card: slot.On})
			return nil
		}
		response, err := core.Transmit(ctx, cmd.tpdu)
		switch {
		case errors.Is(err, client.ErrNoCard):
			m.gone(ready) // Remove is on its way; nothing was sent
			continue
		case err != nil:
			return err
		}
		if err := m.print("R-APDU: ", response); err != nil {
			m.fail(err)
		}
		return nil
	}
}

// print writes bytes as the C suite's shell does: in lower case, a blank after each.
func (m *modem) print(what string, bytes []byte) error {
	const digits = "0123456789abcdef"
	line := make([]byte, 0, len(what)+3*len(bytes)+1)
	line = append(line, what...)
	for _, b := range bytes {
		line = append(line, digits[b>>4], digits[b&15], ' ')
	}
	if _, err := m.out.Write(append(line, '\n')); err != nil {
		return fmt.Errorf("write standard output: %w", err)
	}
	return nil
}
