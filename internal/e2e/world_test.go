// SPDX-License-Identifier: GPL-2.0-or-later

// Package e2e tests server, bankds and clients together: in one process, on a
// network in memory and in virtual time, so that a minute of faults takes
// milliseconds. Package process does the same with real processes and cards.
package e2e

import (
	"bytes"
	"context"
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
	journal   journal // what was logged
	api       rig.API
	started   []*program // all of them, also those that have ended
	server    *program
	bankds    map[uint16]*program
	bank      *bank
	slotsFile string
	sent      atomic.Uint32  // commands of all clients
	keepAlive link.KeepAlive // of programs that are started from now on
	clients   map[slot.Client]*modem
	disk      server.Store // that the server's store is on; nil: the server forgets
	starts    int          // of servers with that disk
	// plainBankd and plainClients are such as the C programs; nil: there are none.
	plainBankd   *plainBankd
	plainClients map[slot.Client]*plainClient
}

// inWorld runs a test in a world whose server is up.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	file := writeSlots(t)
	synctest.Test(t, func(t *testing.T) {
		w := &world{
			t: t, net: testnet.New(), log: logrus.New(),
			bankds: map[uint16]*program{}, clients: map[slot.Client]*modem{}, plainClients: map[slot.Client]*plainClient{},
			slotsFile: file,
		}
		w.bank = newBank(t)
		w.log.SetOutput(io.Discard)
		w.log.SetLevel(logrus.DebugLevel)
		w.log.SetFormatter(&w.journal)
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
				t.Logf("log:\n%s", tail(w.journal.String(), 100_000))
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
	down   bool                            // by setDown
	killed func()                          // called when it is killed; may be nil
	report atomic.Pointer[func(io.Writer)] // what it writes on demand; nil: nothing
	cancel context.CancelFunc
	done   chan struct{}
}

func (w *world) start(name, addr string, run func(ctx context.Context, h *testnet.Host) error) *program {
	return w.startReporting(name, addr, func(ctx context.Context, p *program) error { return run(ctx, p.host) })
}

func (w *world) startReporting(name, addr string, run func(ctx context.Context, p *program) error) *program {
	ctx, cancel := context.WithCancel(context.Background())
	p := &program{w: w, name: name, host: w.net.Host(addr), cancel: cancel, done: make(chan struct{})}
	w.started = append(w.started, p)
	go func() {
		defer close(p.done)
		if err := run(ctx, p); err != nil && !errors.Is(err, context.Canceled) {
			w.t.Errorf("%s: %v", name, err)
		}
	}()
	return p
}

// says returns what the program reports on demand.
func (p *program) says() string {
	var b strings.Builder
	if write := p.report.Load(); write != nil {
		(*write)(&b)
	}
	return b.String()
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

// kill ends the program as SIGKILL does: nothing it would say or store at its end gets out, and its
// connections are reset.
func (p *program) kill() {
	p.host.Down()
	if p.killed != nil {
		p.killed()
	}
	p.cancel()
	<-p.done
	p.host.Cut()
	p.host.Up()
}

// vanish ends the program without anybody hearing of it.
func (p *program) vanish() {
	p.host.Down()
	p.cancel()
	<-p.done
}

func (w *world) startServer() {
	env := server.Env{Log: w.log, REST: rest.Serve}
	ejected := new(atomic.Bool)
	if w.disk != nil {
		env.Store = &mounted{w.disk, ejected}
		w.starts++
	}
	w.server = w.start("server", serverAddr, func(ctx context.Context, h *testnet.Host) error {
		env.Net = h
		return server.Run(ctx, server.Config{
			RSPROListen: ":9998", RESTListen: ":9997", Name: "server", Version: "1", KeepAlive: w.keepAlive,
		}, env)
	})
	w.server.killed = func() { ejected.Store(true) }
	w.eventually("REST answers", func() error { _, err := w.api.SlotMaps(); return err })
}

// mounted is a store that takes the time of a disk, and is there as long as the program is.
type mounted struct {
	server.Store
	ejected *atomic.Bool
}

var errEjected = errors.New("the process was killed")

// Commit implements server.Store. A process may be killed before the commit and, with nobody told, after it.
func (m *mounted) Commit(ctx context.Context, base uint64, changes []server.Change) (uint64, error) {
	time.Sleep(time.Duration(1+base%3) * time.Millisecond)
	if m.ejected.Load() {
		return 0, errEjected
	}
	revision, err := m.Store.Commit(ctx, base, changes)
	time.Sleep(time.Duration(1+base%3) * time.Millisecond)
	if m.ejected.Load() {
		return 0, errEjected
	}
	return revision, err
}

const (
	banks = 2
	slots = 4 // of each bankd
	// firstReader is the first slot whose card is in a reader. Those before have cards in software.
	firstReader = 2
)

// writeSlots writes the slots file that all bankds read.
func writeSlots(t *testing.T) string {
	t.Helper()
	var text strings.Builder
	for id := range banks {
		for nr := range slots {
			b := slot.Bank{ID: uint16(id + 1), Slot: uint16(nr)}
			spec := "softsim:"
			if b.Slot >= firstReader {
				spec = "^" + readerName(b) + "$"
			}
			fmt.Fprintf(&text, "%d,%d,%s\n", b.ID, b.Slot, spec)
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
	w.bankds[id] = w.startReporting(fmt.Sprintf("bankd %d", id), bankdAddr(id), func(ctx context.Context, p *program) error {
		return bankd.Run(ctx, bankd.Config{
			Server: serverAddr + ":9998", BankID: id, NumSlots: slots, Listen: ":9999", SlotsFile: w.slotsFile, KeepAlive: w.keepAlive,
		}, bankd.Env{
			Net: p.host, Log: w.log, Softsim: w.bank, Readers: readers{w.bank, id},
			OnReport: func(_ context.Context, write func(io.Writer)) { p.report.Store(&write) },
		})
	})
}

func (w *world) startClient(c slot.Client) *modem {
	m := w.startClientOn(clientAddr(c), c)
	w.clients[c] = m
	return m
}

func clientAddr(c slot.Client) string { return fmt.Sprintf("10.0.2.%d", c.ID) }

// startClientOn starts a client on a host of its own choice; the caller ends it.
func (w *world) startClientOn(addr string, c slot.Client) *modem {
	m := w.newModem(addr, c)
	m.start()
	return m
}

func (w *world) newModem(addr string, c slot.Client) *modem {
	m := &modem{w: w, slot: c, addr: addr, turn: make(chan struct{}, 1)}
	m.turn <- struct{}{}
	return m
}

// start starts the client whose frontend is m.
func (m *modem) start() {
	m.core.Store(nil)
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

// A modem is the frontend of a client. It remembers what it was told, and sends commands.
type modem struct {
	w       *world
	slot    slot.Client
	addr    string
	program *program
	core    atomic.Pointer[client.Core]
	turn    chan struct{} // has an element while no command is under way
	failed  atomic.Int64  // commands

	mu     sync.Mutex
	events []string // what the core has said, but for the default ATR
	atr    []byte   // of the card that is there; nil: none
}

// commandNumber returns the number of a command of exchange.
func commandNumber(cmd []byte) uint32 {
	return uint32(cmd[3])<<24 | uint32(cmd[5])<<16 | uint32(cmd[6])<<8 | uint32(cmd[7])
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
func (m *modem) ATR(_ context.Context, atr []byte, card client.Card) {
	if card != 0 {
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
	select {
	case <-m.turn:
	case <-ctx.Done():
		return slot.Bank{}, ctx.Err()
	}
	defer func() { m.turn <- struct{}{} }()
	core := m.core.Load()
	if core == nil {
		return slot.Bank{}, client.ErrNoCard
	}
	from, err := m.w.exchange(m.slot, func(cmd []byte) ([]byte, error) { return core.Transmit(ctx, cmd) })
	if err != nil {
		m.failed.Add(1)
	}
	return from, err
}

// trail implements user.
func (m *modem) trail() trail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return trail{events: len(m.events), failed: int(m.failed.Load())}
}

// users are all clients with their modems.
func (w *world) users() map[slot.Client]user {
	all := make(map[slot.Client]user, len(w.clients)+len(w.plainClients))
	for c, m := range w.clients {
		all[c] = m
	}
	for c, m := range w.plainClients {
		all[c] = m
	}
	return all
}

// exchange has a client send a command like no other, and checks that the answer belongs to it. It returns whose
// answer it is.
func (w *world) exchange(c slot.Client, transmit func(cmd []byte) ([]byte, error)) (slot.Bank, error) {
	n := w.sent.Add(1)
	cmd := []byte{0xa0, byte(c.ID), byte(c.Slot), byte(n >> 24), 3, byte(n >> 16), byte(n >> 8), byte(n)}
	res, err := transmit(cmd)
	if err != nil {
		return slot.Bank{}, err
	}
	if len(res) < 2 {
		return slot.Bank{}, fmt.Errorf("answer %x", res)
	}
	from := slot.Bank{ID: uint16(res[0]), Slot: uint16(res[1])}
	if !bytes.Equal(res, cardAnswer(from, cmd)) {
		w.t.Errorf("%v: command %x got the answer %x of another one", c, cmd, res)
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

// A journal keeps what is logged, and makes text of it only when somebody wants to read it: most tests pass.
type journal struct {
	mu      sync.Mutex
	entries []*logrus.Entry
}

// Format implements logrus.Formatter; there is nothing to write.
func (j *journal) Format(e *logrus.Entry) ([]byte, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.entries = append(j.entries, &logrus.Entry{Logger: e.Logger, Data: e.Data, Time: e.Time, Level: e.Level, Message: e.Message})
	return nil, nil
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	format := logrus.TextFormatter{DisableColors: true, FullTimestamp: true, TimestampFormat: "04:05.000"}
	var text strings.Builder
	for _, e := range j.entries {
		line, err := format.Format(e)
		if err != nil {
			line = []byte(err.Error() + "\n")
		}
		text.Write(line)
	}
	return text.String()
}
