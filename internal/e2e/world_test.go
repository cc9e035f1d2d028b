// SPDX-License-Identifier: GPL-2.0-or-later

// Package e2e tests server, bankds and clients together: in one process, on a
// network in memory and in virtual time, so that a minute of faults takes
// milliseconds. Package process does the same with real processes and cards.
package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/bankd"
	"remsim/internal/client"
	"remsim/internal/e2e/rig"
	"remsim/internal/link"
	"remsim/internal/server"
	"remsim/internal/server/rest"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const serverAddr = "10.0.0.1"

// A world is a network with a server, and with the bankds and clients that a test starts.
// It lives in a synctest bubble: time passes only while all wait.
type world struct {
	t         *testing.T
	net       *testnet.Net
	log       *logrus.Logger
	text      syncBuffer // what was logged
	api       rig.API
	started   []*program // all of them, also those that have ended
	server    *program
	bankds    map[uint16]*program
	bank      bank
	slotsFile string
	keepAlive link.KeepAlive // of programs that are started from now on
	clients   map[slot.Client]*modem
}

// inWorld runs a test in a world whose server is up.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	file := writeSlots(t)
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, net: testnet.New(), log: logrus.New(),
			bankds: map[uint16]*program{}, clients: map[slot.Client]*modem{},
			slotsFile: file,
		}
		w.log.SetOutput(&w.text)
		w.log.SetLevel(logrus.DebugLevel)
		w.log.SetFormatter(&logrus.TextFormatter{DisableColors: true, FullTimestamp: true, TimestampFormat: "04:05.000"})
		desk := w.net.Host("10.0.0.100")
		w.api = rig.API{Base: "http://" + serverAddr + ":9997", HTTP: &http.Client{
			Timeout: time.Minute,
			Transport: &http.Transport{DisableKeepAlives: true, DialContext: func(ctx context.Context, _, addr string) (net.Conn, error) {
				return desk.Dial(ctx, netip.MustParseAddrPort(addr))
			}},
		}}
		defer func() {
			w.end()
			if t.Failed() {
				t.Logf("log:\n%s", tail(w.text.String(), 100_000))
			}
		}()
		w.startServer()
		test(t, w)
	})
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// end ends all programs as SIGTERM does.
func (w *world) end() {
	for _, p := range slices.Backward(w.started) {
		p.stop()
	}
	w.onlyOpen()
}

// A program is one Run on a host of its own.
type program struct {
	w      *world
	name   string
	host   *testnet.Host
	down   bool // by setDown
	cancel context.CancelFunc
	done   chan struct{}
}

func (w *world) start(name, addr string, run func(ctx context.Context, h *testnet.Host) error) *program {
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{w: w, name: name, host: w.net.Host(addr), cancel: cancel, done: make(chan struct{})}
	w.started = append(w.started, p)
	go func() {
		defer close(p.done)
		if err := run(ctx, p.host); err != nil && !errors.Is(err, context.Canceled) {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
	return p
}

// setDown takes the program's host off the network, or puts it back.
func (p *program) setDown(down bool) {
	if p.down = down; down {
		p.host.Down()
	} else {
		p.host.Up()
	}
}

// stop ends the program in order, which must not take longer than 5 s.
func (p *program) stop() {
	p.host.Up()
	p.cancel()
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.w.t.Errorf("%s is still running 5 s after it was asked to end", p.name)
		<-p.done
	}
}

// kill ends the program as SIGKILL does: nothing it would say at its end gets out, and its
// connections are reset.
func (p *program) kill() {
	p.host.Down()
	p.cancel()
	<-p.done
	p.host.Cut()
	p.host.Up()
}

func (w *world) startServer() {
	w.server = w.start("server", serverAddr, func(ctx context.Context, h *testnet.Host) error {
		return server.Run(ctx, server.Config{
			RSPROListen: ":9998", RESTListen: ":9997", Name: "server", Version: "1", KeepAlive: w.keepAlive,
		}, server.Env{Net: h, Log: w.log, REST: rest.Serve})
	})
	w.eventually("REST answers", func() error { _, err := w.api.SlotMaps(); return err })
}

const (
	banks = 2
	slots = 4 // of each bankd
)

// writeSlots writes the slots file that all bankds read.
func writeSlots(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for id := range banks {
		for nr := range slots {
			fmt.Fprintf(&text, "%d,%d,softsim:\n", id+1, nr)
		}
	}
	file := filepath.Join(t.TempDir(), "slots.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		t.Fatal(err)
	}
	return file
}

func bankdAddr(id uint16) string { return fmt.Sprintf("10.0.1.%d", id) }

func (w *world) startBankd(id uint16) {
	w.bankds[id] = w.start(fmt.Sprintf("bankd %d", id), bankdAddr(id), func(ctx context.Context, h *testnet.Host) error {
		return bankd.Run(ctx, bankd.Config{
			Server: serverAddr + ":9998", BankID: id, NumSlots: slots, Listen: ":9999", SlotsFile: w.slotsFile, KeepAlive: w.keepAlive,
		}, bankd.Env{Net: h, Log: w.log, Softsim: &w.bank})
	})
}

func (w *world) startClient(c slot.Client) *modem {
	m := w.startClientOn(fmt.Sprintf("10.0.2.%d", c.ID), c)
	w.clients[c] = m
	return m
}

// startClientOn starts a client on a host of its own choice; the caller ends it.
func (w *world) startClientOn(addr string, c slot.Client) *modem {
	m := &modem{w: w, slot: c, addr: addr}
	m.start()
	return m
}

// start starts the client whose frontend is m.
func (m *modem) start() {
	m.program = m.w.start("client "+m.slot.String(), m.addr, func(ctx context.Context, h *testnet.Host) error {
		core := client.New(client.Config{
			ServerHost: serverAddr, ServerPort: 9998, Slot: m.slot, ATR: defaultATR, KeepAlive: m.w.keepAlive,
		}, client.Env{Net: h, Log: m.w.log}, m)
		m.core.Store(core)
		core.Run(ctx)
		return nil
	})
}

// eventually asks again and again, for a minute at most.
func (w *world) eventually(what string, ask func() error) {
	w.t.Helper()
	if err := within(time.Minute, ask); err != nil {
		w.t.Fatalf("%s: %v", what, err)
	}
}

func within(d time.Duration, ask func() error) error {
	pause := time.Millisecond
	for end := time.Now().Add(d); ; time.Sleep(pause) {
		pause = min(2*pause, time.Second)
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("not within %v: %w", d, err)
		}
	}
}

func (w *world) create(m slot.Map) {
	w.t.Helper()
	if err := w.api.Create(m); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(b slot.Bank) {
	w.t.Helper()
	if err := w.api.Delete(b); err != nil {
		w.t.Fatal(err)
	}
}

// defaultATR is what a client shows before it knows the card's.
var defaultATR = []byte{0x3b, 0x00}

// A bank has a card for each slot of all bankds. A card's ATR and its answers tell which
// one it is, and an answer tells to which command it belongs.
type bank struct {
	mu      sync.Mutex
	powered map[slot.Bank]int
	ended   map[slot.Bank]int
	resets  map[slot.Bank]int
}

func (b *bank) Check(bankd.Slot) error     { return nil }
func (b *bank) Readers() ([]string, error) { return nil, nil }

func (b *bank) Open(_ context.Context, s bankd.Slot) (bankd.Card, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.powered == nil {
		b.powered, b.ended, b.resets = map[slot.Bank]int{}, map[slot.Bank]int{}, map[slot.Bank]int{}
	}
	if b.powered[s.Bank] != 0 {
		return nil, fmt.Errorf("card %v is in use", s.Bank)
	}
	b.powered[s.Bank]++
	return &card{bank: b, slot: s.Bank}, nil
}

// open returns the slots whose cards are powered, in order.
func (b *bank) open() (open []slot.Bank) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for id := range banks {
		for nr := range slots {
			if s := (slot.Bank{ID: uint16(id + 1), Slot: uint16(nr)}); b.powered[s] != 0 {
				open = append(open, s)
			}
		}
	}
	return open
}

// onlyOpen waits until the cards of these slots are powered, and no others.
func (w *world) onlyOpen(want ...slot.Bank) {
	w.t.Helper()
	w.onlyOpenWithin(time.Second, want...)
}

func (w *world) onlyOpenWithin(d time.Duration, want ...slot.Bank) {
	w.t.Helper()
	err := within(d, func() error {
		if open := w.bank.open(); !slices.Equal(open, want) {
			return fmt.Errorf("powered cards: %v, want %v", open, want)
		}
		return nil
	})
	if err != nil {
		w.t.Error(err)
	}
}

// offs returns how often the card was powered off.
func (b *bank) offs(s slot.Bank) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.ended[s]
}

func (b *bank) resetsOf(s slot.Bank) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.resets[s]
}

type card struct {
	bank *bank
	slot slot.Bank
}

func (c *card) ATR() []byte { return cardATR(c.slot) }

// Transmit takes the time of a real card, so that faults meet commands in flight.
func (c *card) Transmit(cmd, buf []byte) ([]byte, error) {
	time.Sleep(time.Duration(10+cmd[4]%40) * time.Millisecond)
	return append(buf[:0], cardAnswer(c.slot, cmd)...), nil
}

func (c *card) Reset(bool) error {
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	c.bank.resets[c.slot]++
	return nil
}

func (c *card) Close() error {
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	c.bank.powered[c.slot]--
	c.bank.ended[c.slot]++
	return nil
}

func cardATR(b slot.Bank) []byte { return []byte{0x3b, 0x02, byte(b.ID), byte(b.Slot)} }

func cardAnswer(b slot.Bank, cmd []byte) []byte {
	sum := sha256.Sum256(cmd)
	return append([]byte{byte(b.ID), byte(b.Slot)}, append(sum[:12], 0x90, 0x00)...)
}

// A modem is the frontend of a client. It remembers what it was told, and sends commands.
type modem struct {
	w       *world
	slot    slot.Client
	addr    string
	program *program
	core    atomic.Pointer[client.Core]
	sent    atomic.Uint32

	mu     sync.Mutex
	events []string // what the core has said, but for the default ATR
	atr    []byte   // of the card that is there; nil: none
}

func (m *modem) tell(event string, change func()) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.events = append(m.events, event)
	change()
}

func (m *modem) Remote(_ context.Context, on bool) { m.tell(fmt.Sprintf("remote %v", on), func() {}) }
func (m *modem) Insert(context.Context)            { m.tell("insert", func() {}) }
func (m *modem) Remove(context.Context)            { m.tell("remove", func() { m.atr = nil }) }
func (m *modem) ResetModem(context.Context)        { m.tell("reset", func() {}) }
func (m *modem) ATR(_ context.Context, atr []byte, card bool) {
	if card {
		m.tell(fmt.Sprintf("atr %x", atr), func() { m.atr = atr })
	} else if !bytes.Equal(atr, defaultATR) {
		m.w.t.Errorf("%v: ATR %x before there is a card", m.slot, atr)
	}
}

// card returns the ATR of the card that is there, or nil.
func (m *modem) card() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.atr
}

// history returns what happened since the first n events, when nobody has more to do at this moment.
func (m *modem) history(n int) []string {
	synctest.Wait()
	m.mu.Lock()
	defer m.mu.Unlock()
	return slices.Clone(m.events[n:])
}

// transmit sends one command that is never sent again, and checks that its answer belongs to it. It
// returns whose answer it is.
func (m *modem) transmit(ctx context.Context) (slot.Bank, error) {
	core := m.core.Load()
	if core == nil {
		return slot.Bank{}, client.ErrNoCard
	}
	n := m.sent.Add(1)
	cmd := []byte{0xa0, byte(m.slot.ID), byte(m.slot.Slot), byte(n >> 16), 3, byte(n >> 16), byte(n >> 8), byte(n)}
	res, err := core.Transmit(ctx, cmd)
	if err != nil {
		return slot.Bank{}, err
	}
	if len(res) < 2 {
		return slot.Bank{}, fmt.Errorf("answer %x", res)
	}
	from := slot.Bank{ID: uint16(res[0]), Slot: uint16(res[1])}
	if !bytes.Equal(res, cardAnswer(from, cmd)) {
		m.w.t.Errorf("%v: command %x got the answer %x of another one", m.slot, cmd, res)
	}
	return from, nil
}

// works has a client use its card and checks that it is the one at b.
func (m *modem) works(b slot.Bank) error {
	from, err := m.transmit(m.w.t.Context())
	switch {
	case err != nil:
		return fmt.Errorf("%v: %w", m.slot, err)
	case from != b:
		return fmt.Errorf("%v uses the card at %v, not at %v", m.slot, from, b)
	}
	if atr := m.card(); !bytes.Equal(atr, cardATR(b)) {
		return fmt.Errorf("%v has the ATR %x with the card at %v", m.slot, atr, b)
	}
	return nil
}

// uses waits until the client uses the card at b.
func (m *modem) uses(b slot.Bank) {
	m.w.t.Helper()
	m.w.eventually("card is used", func() error { return m.works(b) })
}

// idle waits until the client has no card.
func (m *modem) idle() {
	m.w.t.Helper()
	m.w.eventually("card is gone", func() error {
		if atr := m.card(); atr != nil {
			return fmt.Errorf("%v has the ATR %x", m.slot, atr)
		}
		if _, err := m.transmit(m.w.t.Context()); !errors.Is(err, client.ErrNoCard) {
			return fmt.Errorf("%v: transmit: %v", m.slot, err)
		}
		return nil
	})
}

// steady sends commands until the function it returns is called, which says how many were
// answered; none may fail.
func (m *modem) steady(b slot.Bank) (stop func() int) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan int, 1)
	go func() {
		n := 0
		for ; ctx.Err() == nil; n++ {
			if from, err := m.transmit(context.Background()); err != nil || from != b {
				m.w.t.Errorf("%v: command in a session that should go on: card %v, %v", m.slot, from, err)
				break
			}
		}
		done <- n
	}()
	return func() int { cancel(); return <-done }
}

// syncBuffer is a log in memory.
type syncBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

var _ io.Writer = (*syncBuffer)(nil)

func (b *syncBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *syncBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}
