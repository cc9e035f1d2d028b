// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/simulator/board"
	"remsim/internal/simulator/usbip"
)

// MaxBoards is how many boards a Bench has at most: as many as a vhci-hcd has ports for them.
const MaxBoards = 8

// BenchConfig says which boards there are, and what their modems do.
type BenchConfig struct {
	Boards int          // 1..MaxBoards
	Board  board.Config // of each; the serial numbers end with their numbers, from 1
	Script Script       // what each modem plays when it was switched on
	Listen net.Listener // where USB/IP hosts connect
	// Control has commands, one a line (see Commands), each of which gets one line in Answers: ok or error, followed by what
	// there is to say. nil: there are none. It may end before the boards do.
	Control io.Reader
	Answers io.Writer
	Log     *logrus.Entry
}

// Commands says what can be done to the boards of a Bench, and their modems.
const Commands = `    unplug B               unplug board B, from 0
    plug B                 plug it in: it is there to be attached again
    dfu B on|off           unplug it, and have it wait for firmware, or not, when it is plugged in
    state S                what slot S does, from 0; each board has as many as its device
    reset S cold|warm      have the modem switch its SIM off and on, or reset it
    send S HEX             have the modem send a command, with what follows it, and show the response
    run S FILE|init        have the modem play a script
    inject S bulk|irq HEX  have the device send bytes to its host
    fail S bulk|irq N      have N transfers of the device to its host fail
    deaf S on|off          have the device take nothing from its host
`

// benchSettle is how long the modems of a Bench wait after an ATR.
const benchSettle = 50 * time.Millisecond

// A Bench is boards with modems that USB/IP hosts can attach.
type Bench struct {
	config BenchConfig
	boards []*seat
	modems []*Modem
}

// A seat is where a board is plugged in, or not.
type seat struct {
	board *board.Board

	mu     sync.Mutex
	life   context.Context // ends when it is unplugged; nil: it isn't plugged in
	unplug context.CancelFunc
}

var (
	errUnplugged = errors.New("the board isn't plugged in")
	errPlugged   = errors.New("the board is plugged in")
)

// RunBench runs boards and modems until ctx ends.
func RunBench(ctx context.Context, c BenchConfig) error {
	b := &Bench{config: c}
	var running sync.WaitGroup
	ctx, cancel := context.WithCancelCause(ctx)
	defer running.Wait()
	defer cancel(nil)
	for i := range c.Boards {
		bc := c.Board
		bc.Serial = fmt.Sprintf("%032x", i+1)
		s := &seat{board: board.New(bc)}
		if err := s.plug(ctx, true); err != nil {
			return err
		}
		b.boards = append(b.boards, s)
		for range s.board.Slots() {
			n := len(b.modems)
			m := New(s.board.Slots()[n%len(s.board.Slots())], Config{
				Script: c.Script, Settle: benchSettle,
				Log:    c.Log.WithField("slot", n),
				Report: func(r Result) { b.report(n, r) },
			})
			b.modems = append(b.modems, m)
			running.Go(func() { m.Run(ctx) })
		}
	}
	running.Go(func() {
		if err := b.obeyAll(ctx); err != nil {
			cancel(err)
		}
	})
	if err := usbip.Serve(ctx, c.Listen, b, c.Log); err != nil {
		return err
	}
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

// report logs the time of each command.
func (b *Bench) report(n int, r Result) {
	for _, x := range r.Exchanges {
		b.config.Log.WithFields(logrus.Fields{"slot": n, "line": r.Line, "took": x.Took.Round(time.Microsecond), "sw": fmt.Sprintf("%04x", x.SW())}).Info("command")
	}
}

// Devices is what hosts may attach.
func (b *Bench) Devices() (list []usbip.Summary) {
	for i, s := range b.boards {
		s.mu.Lock()
		if s.life != nil {
			list = append(list, s.board.Summary(i))
		}
		s.mu.Unlock()
	}
	return list
}

// Import gives a host a board.
func (b *Bench) Import(_ context.Context, busID string) (usbip.Device, context.Context, error) {
	for i, s := range b.boards {
		if s.board.Summary(i).BusID != busID {
			continue
		}
		s.mu.Lock()
		defer s.mu.Unlock()
		switch {
		case s.life == nil:
			return nil, nil, errUnplugged
		case s.board.IsAttached():
			return nil, nil, board.ErrBusy
		}
		b.config.Log.WithField("board", i).Info("attached")
		return s.board, s.life, nil
	}
	return nil, nil, errors.New("no such device")
}

// plug plugs the board in, until ctx ends, or out.
func (s *seat) plug(ctx context.Context, on bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case on && s.life != nil:
		return errPlugged
	case on:
		s.life, s.unplug = context.WithCancel(ctx)
	case s.life == nil:
		return errUnplugged
	default:
		s.unplug()
		s.life = nil
	}
	return nil
}

// pull plugs the board out, and returns when its host's connection has ended: the next one would be refused before.
func (s *seat) pull(ctx context.Context) error {
	const look = time.Millisecond
	if err := s.plug(ctx, false); err != nil {
		return err
	}
	for s.board.IsAttached() {
		select {
		case <-time.After(look):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}

// obeyAll obeys the commands there are.
func (b *Bench) obeyAll(ctx context.Context) error {
	if b.config.Control == nil {
		return nil
	}
	lines := make(chan string)
	go func() { // until the end of its line, or of the input
		defer close(lines)
		sc := bufio.NewScanner(b.config.Control)
		for sc.Scan() {
			select {
			case lines <- strings.TrimSpace(sc.Text()):
			case <-ctx.Done():
				return
			}
		}
	}()
	for {
		var line string
		select {
		case l, ok := <-lines:
			if !ok {
				return nil
			}
			line = l
		case <-ctx.Done():
			return nil
		}
		if line == "" || line[0] == '#' {
			continue
		}
		more, err := b.obey(ctx, line)
		answer := strings.Join(append([]string{"ok"}, strings.Fields(line+" "+more)...), " ")
		if err != nil {
			answer = "error " + strings.ReplaceAll(err.Error(), "\n", "; ")
		}
		if _, err := fmt.Fprintln(b.config.Answers, answer); err != nil {
			return fmt.Errorf("simulator: answer a command: %w", err)
		}
	}
}

// An order is one line of control.
type order struct {
	verb   string
	number int  // of the board or slot
	on     bool // on, cold, irq
	bytes  []byte
	count  int
	name   string // of a script
}

// parseOrder reads a line for so many boards and slots.
func parseOrder(line string, boards, slots int) (o order, err error) {
	f := strings.Fields(line)
	if len(f) == 0 {
		return o, errors.New("no command")
	}
	o.verb = f[0]
	words := map[string]int{
		"unplug": 1, "plug": 1, "state": 1, "dfu": 2, "reset": 2, "send": 2, "run": 2, "deaf": 2, "inject": 3, "fail": 3,
	}
	want, known := words[o.verb]
	switch {
	case !known:
		return o, fmt.Errorf("no command %q", o.verb)
	case len(f)-1 != want:
		return o, fmt.Errorf("%s: %d arguments, want %d", o.verb, len(f)-1, want)
	}
	what, limit := "slot", slots
	if o.verb == "unplug" || o.verb == "plug" || o.verb == "dfu" {
		what, limit = "board", boards
	}
	if o.number, err = strconv.Atoi(f[1]); err != nil || o.number < 0 || o.number >= limit {
		return o, fmt.Errorf("%s: %s %q: want 0..%d", o.verb, what, f[1], limit-1)
	}
	choice := func(s, yes, no string) error {
		if s != yes && s != no {
			return fmt.Errorf("%s: %q: want %s or %s", o.verb, s, yes, no)
		}
		o.on = s == yes
		return nil
	}
	switch o.verb {
	case "dfu", "deaf":
		err = choice(f[2], "on", "off")
	case "reset":
		err = choice(f[2], "cold", "warm")
	case "send":
		o.bytes, err = ParseCommand(f[2])
	case "run":
		o.name = f[2]
	case "inject", "fail":
		if err = choice(f[2], "irq", "bulk"); err != nil {
			break
		}
		if o.verb == "inject" {
			if o.bytes, err = hex.DecodeString(f[3]); err != nil {
				err = fmt.Errorf("inject: %q: want hexadecimal digits", f[3])
			}
			break
		}
		const most = 1000
		if o.count, err = strconv.Atoi(f[3]); err != nil || o.count < 0 || o.count > most {
			err = fmt.Errorf("fail: %q: want 0..%d", f[3], most)
		}
	}
	return o, err
}

// obey does what a line says, and returns what there is to say of it.
func (b *Bench) obey(ctx context.Context, line string) (more string, err error) {
	o, err := parseOrder(line, len(b.boards), len(b.modems))
	if err != nil {
		return "", err
	}
	switch o.verb {
	case "unplug":
		return "", b.boards[o.number].pull(ctx)
	case "plug":
		return "", b.boards[o.number].plug(ctx, true)
	case "dfu":
		s := b.boards[o.number]
		if err := s.pull(ctx); err != nil && !errors.Is(err, errUnplugged) {
			return "", err
		}
		s.board.SetDFU(o.on)
		return "", nil
	}
	m := b.modems[o.number]
	switch o.verb {
	case "state":
		return m.describe(), nil
	case "deaf":
		m.Slot().SetDeaf(o.on)
		return "", nil
	case "inject":
		m.Slot().Inject(o.on, o.bytes)
		return "", nil
	case "fail":
		m.Slot().FailTransfers(o.on, o.count)
		return "", nil
	case "run":
		return m.run(ctx, o.name)
	}
	e := m.Do(ctx, func(ctx context.Context, t *Terminal) {
		switch {
		case o.verb == "send":
			var all []Exchange
			var response []byte
			begin := time.Now()
			if all, response, err = Follow(ctx, t, o.bytes); err == nil {
				more = fmt.Sprintf("%x commands=%d took=%v", response, len(all), time.Since(begin).Round(time.Microsecond))
			}
		case o.on:
			more, err = hexed(t.PowerUp(ctx))
		default:
			more, err = hexed(t.WarmReset(ctx))
		}
	})
	return more, errors.Join(err, e)
}

func hexed(b []byte, err error) (string, error) { return hex.EncodeToString(b), err }

// describe says what a modem and its slot do.
func (m *Modem) describe() string {
	s, slot := m.State(), m.Slot()
	sim := "remote"
	if !slot.Remote() {
		sim = "local"
	}
	return fmt.Sprintf("%s sim=%s present=%v idle=%v atr=%x starts=%d steps=%d failed=%d %s",
		slot.State(), sim, slot.Present(), s.Idle, s.ATR, s.Starts, s.Steps, s.Failed,
		strings.Trim(strings.ToLower(strings.ReplaceAll(fmt.Sprintf("%+v", slot.Stats()), ":", "=")), "{}"))
}

// run plays a script by its name, and says how long its commands took.
func (m *Modem) run(ctx context.Context, name string) (more string, err error) {
	s, err := LoadScript(name)
	if err != nil {
		return "", err
	}
	var took []time.Duration
	failed := 0
	e := m.Do(ctx, func(ctx context.Context, t *Terminal) {
		failed, err = t.Play(ctx, s, func(r Result) {
			if r.Err != nil {
				m.config.Log.WithError(r.Err).Warn("a modem wouldn't take that")
			}
			for _, x := range r.Exchanges {
				took = append(took, x.Took)
			}
		})
	})
	if err = errors.Join(err, e); err != nil {
		return "", err
	}
	if failed > 0 {
		return "", fmt.Errorf("run: %d of %d steps of %s failed", failed, len(s.Steps), name)
	}
	return Summarize(took), nil
}

// Summarize says how many durations there are, their median, the one that 99 of 100 aren't over, and the longest.
func Summarize(took []time.Duration) string {
	if len(took) == 0 {
		return "n=0"
	}
	sorted := slices.Sorted(slices.Values(took))
	at := func(q float64) time.Duration {
		return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)].Round(time.Microsecond)
	}
	return fmt.Sprintf("n=%d median=%v p99=%v max=%v", len(sorted), at(0.5), at(0.99), at(1))
}

// LoadScript reads the script in a file, or one that comes with the program.
func LoadScript(name string) (Script, error) {
	if s, err := Builtin(name); err == nil {
		return s, nil
	}
	text, err := os.ReadFile(name)
	if err != nil {
		return Script{}, err
	}
	return ParseScript(name, bytes.NewReader(text))
}
