// SPDX-License-Identifier: GPL-2.0-or-later

// Package shell is a client with a terminal in place of the modem: lines of standard
// input are commands, standard output shows ATRs and responses.
package shell

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"remsim/internal/client"
	"remsim/internal/gsmtap"
)

const (
	// cardWait is how long a line waits for a card.
	cardWait = 30 * time.Second
	// resetWait is how long after a RESET the end of the input waits for the ATR: longer than a
	// card takes. A bankd that doesn't know AtrAfterReset tells none unless it is another one.
	resetWait = 5 * time.Second
)

var errNoCard = fmt.Errorf("no card within %v", cardWait)

// Config says who the client is and what it does.
type Config struct {
	client.Config
	Explain bool // say on Err what ATRs and status words mean
}

// Env is the world the shell lives in.
type Env struct {
	client.Env
	In  io.Reader
	Out io.Writer // gets each line in one Write, from several goroutines
	Err io.Writer // messages for the user
	// OnReport arranges for what it is given to be called when the user wants to know the
	// client's state, until the context ends (daemon.OnReport). May be nil.
	OnReport func(context.Context, func(io.Writer))
}

// Run reads and executes lines until the input ends or ctx does. The goroutine that reads
// In outlives ctx when In doesn't return: standard input can't be interrupted. Where In and Err
// are a terminal, lines are edited there and words are said as by Config.Explain; the log is
// taken to go to Err, too.
func Run(ctx context.Context, cfg Config, env Env) error {
	trace, err := gsmtap.Open(cfg.Trace, env.Log)
	if err != nil {
		return err
	}
	defer trace.Close()
	env.Trace = trace
	ctx, end := context.WithCancelCause(ctx)
	defer end(nil)
	next := (&lineReader{r: bufio.NewReader(env.In)}).next
	where := func(n int) string { return fmt.Sprintf("line %d: ", n) }
	if tty := openTerminal(env.In, env.Err); tty != nil {
		defer tty.follow(ctx, &env)()
		next, where = tty.next, func(int) string { return "" }
		cfg.Explain = true
	}
	m := &modem{out: env.Out, msg: env.Err, keepATR: cfg.KeepATR, explain: cfg.Explain, fail: end, ready: make(chan struct{})}
	core := client.New(cfg.Config, env.Env, m)
	if env.OnReport != nil {
		env.OnReport(ctx, core.Report)
	}
	c := &console{core: core, modem: m, msg: env.Err, explain: cfg.Explain}
	go func() { end(c.execute(ctx, next, where)) }()
	core.Run(ctx)
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// A modem is the shell's idea of one: the client's Frontend.
type modem struct {
	out     io.Writer // standard output
	msg     io.Writer // standard error
	keepATR bool      // the bankd's ATR is of no interest
	explain bool      // say what ATRs mean
	fail    func(error)

	mu    sync.Mutex
	card  bool
	name  client.Card   // of the card, in the client
	atr   []byte        // of the card
	ready chan struct{} // closed when there is a card; another one for each card
	reset chan struct{} // closed when what came of a reset is known; nil: none was asked for
}

// Remote has nothing to switch.
func (*modem) Remote(context.Context, bool) {}

// ATR shows the ATR, but not one that is told again after a reset: a script that
// knows the C suite waits for no line then.
func (m *modem) ATR(_ context.Context, atr []byte, card client.Card) {
	if card != 0 {
		defer m.wasReset()
	}
	m.mu.Lock()
	again := card != 0 && m.card && bytes.Equal(atr, m.atr)
	m.mu.Unlock()
	if again {
		if m.explain {
			fmt.Fprintln(m.msg, "  card was reset, its ATR is the same")
		}
		return
	}
	if card == 0 || !m.keepATR {
		if err := m.print("SET_ATR: ", atr); err != nil {
			m.fail(err)
		}
	}
	if card == 0 {
		return
	}
	if m.explain {
		fmt.Fprintf(m.msg, "  %s\n", strings.Join(explainATR(atr), "\n  "))
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.card {
		m.ready = make(chan struct{})
	}
	close(m.ready)
	m.card, m.name, m.atr = true, card, atr
}

// facts says what ATR the card has.
func (m *modem) facts() []string {
	m.mu.Lock()
	card, atr := m.card, m.atr
	m.mu.Unlock()
	if !card {
		return []string{"none, there is no card"}
	}
	return append([]string{fmt.Sprintf("% x", atr)}, explainATR(atr)...)
}

// Insert has nothing to do: ATR has told that there is a card.
func (*modem) Insert(context.Context) {}

// Remove makes lines wait for the next card.
func (m *modem) Remove(context.Context) {
	m.gone(m.next())
	m.wasReset()
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

// cardOf returns the card of ready, if it is still there.
func (m *modem) cardOf(ready chan struct{}) (name client.Card, ok bool) {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.name, m.card && m.ready == ready
}

// willReset returns a channel that is closed with the next ATR or the card's end.
func (m *modem) willReset() <-chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reset == nil {
		m.reset = make(chan struct{})
	}
	return m.reset
}

// wasReset says what came of a reset, if one was asked for.
func (m *modem) wasReset() {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.reset != nil {
		close(m.reset)
		m.reset = nil
	}
}

// present reports whether there is a card.
func (m *modem) present() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.card
}

// next returns what tells the present card, or else the next one, from all others; it is
// closed when that is there.
func (m *modem) next() chan struct{} {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.ready
}

// wait waits for a card.
func (m *modem) wait(ctx context.Context) (chan struct{}, error) {
	ready := m.next()
	select {
	case <-ready:
		return ready, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
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
