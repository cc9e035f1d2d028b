// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/simtrace"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	me       = slot.Client{ID: 7, Slot: 0}
	here     = slot.Bank{ID: 1, Slot: 5}
	bankAddr = netip.MustParseAddrPort("10.0.0.2:9999")
	noBankd  = netip.MustParseAddrPort("0.0.0.0:0")
	ownATR   = []byte{0x3b, 0x00}
	cardATR  = []byte{0x3b, 0x02, 0x14, 0x50}
	board    = Info{
		Path: "2-1.1", Interface: 1, Vendor: 0x1d50, Product: 0x4004,
		Manufacturer: "sysmocom - s.f.m.c. GmbH and others", Model: "sysmoQMOD \u00e9", Serial: " 0123456789abcdef0123456789abcdef\n",
	}
)

var (
	errUnplugged = errors.New("no device")
	errHung      = errors.New("time-out")
)

// A fakeDevice is a Device whose far end a test plays.
type fakeDevice struct {
	info       Info
	bulk, irq  chan []byte
	written    func([]byte) error // called for each transfer, one after another
	writing    sync.Mutex
	mu         sync.Mutex
	err        error
	gone, shut bool
}

func newDevice(written func([]byte) error) *fakeDevice {
	return &fakeDevice{info: board, bulk: make(chan []byte, 64), irq: make(chan []byte, 64), written: written}
}

func (d *fakeDevice) Bulk() <-chan []byte      { return d.bulk }
func (d *fakeDevice) Interrupt() <-chan []byte { return d.irq }
func (d *fakeDevice) Info() Info               { return d.info }

func (d *fakeDevice) Err() error {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

func (d *fakeDevice) Write(ctx context.Context, b []byte) error {
	d.mu.Lock()
	gone := d.gone
	d.mu.Unlock()
	if gone {
		return errUnplugged
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	if !d.writing.TryLock() {
		panic("two writes at once")
	}
	defer d.writing.Unlock()
	return d.written(b)
}

// unplug ends the device.
func (d *fakeDevice) unplug(err error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.gone {
		return
	}
	d.gone, d.err = true, err
	close(d.bulk)
	close(d.irq)
}

func (d *fakeDevice) Close() error {
	d.unplug(nil)
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.shut {
		return errors.New("closed twice")
	}
	d.shut = true
	return nil
}

func (d *fakeDevice) closed() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.shut
}

// A journal is what happened on the modem's side, in order: messages to the device, with + between those of one
// transfer, and event scripts.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(format string, a ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, a...))
}

// take returns what came since the last time, when nothing more can come without time passing.
func (j *journal) take() string { return strings.Join(j.all(), ", ") }

func (j *journal) all() []string {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	lines := j.lines
	j.lines = nil
	return lines
}

// A world is a client of a fake device on a network in memory, with a server and a bankd that the test plays.
type world struct {
	journal
	t                 *testing.T
	dev               *fakeDevice
	cfg               Config
	vars              map[string][]string // of the last script of each cause
	status            []byte              // what the device answers to a request for its status; nil: nothing
	fail              error               // of all writes
	open              error               // of Open
	opened            int
	host              *testnet.Host
	serverLn, bankdLn net.Listener
	server, bankd     *testnet.Peer
	stop              context.CancelFunc
	ended             chan error // of Run
	log               lockedBuffer
	takes             time.Duration // of each script
}

// A lockedBuffer is a log.
type lockedBuffer struct {
	mu sync.Mutex
	b  strings.Builder
}

func (l *lockedBuffer) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.Write(p)
}

func (l *lockedBuffer) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.b.String()
}

// startWorld runs a client; change may be nil.
func startWorld(t *testing.T, change func(*world)) *world {
	t.Helper()
	w := &world{t: t, vars: make(map[string][]string), ended: make(chan error, 1), status: encode(t, contacts(simtrace.ResetActive))}
	nw := testnet.New()
	w.host = nw.Host("10.0.0.3")
	w.serverLn, w.bankdLn = listen(t, nw.Host("10.0.0.1"), ":9998"), listen(t, nw.Host("10.0.0.2"), ":9999")
	w.cfg = Config{Config: client.Config{
		ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: ownATR, Script: "script", ScriptTimeout: 30 * time.Second,
	}}
	if change != nil {
		change(w)
	}
	log := logrus.New()
	log.SetOutput(&w.log)
	log.SetLevel(logrus.DebugLevel)
	env := Env{
		Env: client.Env{Net: w.host, Log: log, StartScript: w.script},
		Open: func(context.Context) (Device, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.opened++
			if w.open != nil {
				return nil, w.open
			}
			w.dev = newDevice(w.written)
			return w.dev, nil
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	go func() { w.ended <- Run(ctx, w.cfg, env) }()
	t.Cleanup(func() {
		stop()
		synctest.Wait()
		select {
		case err := <-w.ended:
			w.ended <- err
		case <-time.After(10 * time.Second):
			t.Error("client doesn't end")
		}
		w.serverLn.Close()
		w.bankdLn.Close()
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

func listen(t testing.TB, h *testnet.Host, addr string) net.Listener {
	t.Helper()
	ln, err := h.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// script runs a script that is noted.
func (w *world) script(ctx context.Context, line string, vars []string) (func() error, error) {
	_, cause, _ := strings.Cut(line, " ")
	w.add("%s", cause)
	w.mu.Lock()
	w.vars[cause] = vars
	w.mu.Unlock()
	return func() error {
		select {
		case <-time.After(w.takes):
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

// written notes a transfer.
func (w *world) written(b []byte) error {
	w.mu.Lock()
	fail, status, dev := w.fail, w.status, w.dev
	w.mu.Unlock()
	if fail != nil {
		w.add("failed")
		return fail
	}
	text, asked := say(b)
	w.add("%s", text)
	if asked && status != nil {
		dev.bulk <- status
	}
	return nil
}

// say tells a transfer to the device in words; asked says that its status is asked for.
func say(transfer []byte) (text string, asked bool) {
	var j simtrace.Joiner
	var parts []string
	for m, err := range j.Join(transfer) {
		switch m := m.(type) {
		case nil:
			parts = append(parts, err.Error())
		case *simtrace.TxData:
			parts = append(parts, fmt.Sprintf("tx %d %x", uint32(m.Flags), m.Data))
		case *simtrace.SetATR:
			parts = append(parts, fmt.Sprintf("SET_ATR %x", m.ATR))
		case *simtrace.SimSelect:
			parts = append(parts, map[bool]string{true: "SIM remote", false: "SIM local"}[m.Remote])
		case *simtrace.CardInsert:
			parts = append(parts, map[bool]string{true: "insert", false: "remove"}[m.Inserted])
		case *simtrace.Reset:
			parts = append(parts, fmt.Sprintf("RESET %d %v", m.Action, m.Pulse))
		case *simtrace.Config:
			parts = append(parts, fmt.Sprintf("CONFIG %d %d %d", m.Features, m.SlotMux, m.Presence))
		case *simtrace.StatusReq:
			asked = true
			parts = append(parts, "STATUS?")
		default:
			parts = append(parts, simtrace.Name(m))
		}
	}
	return strings.Join(parts, " + "), asked
}

func encode(t testing.TB, m simtrace.Message) []byte {
	t.Helper()
	b, err := simtrace.Append(nil, m)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// contacts is a status.
func contacts(f simtrace.StatusFlags) *simtrace.Status {
	return &simtrace.Status{Flags: f, Millivolts: 2950, F: 1, D: 1, WI: 10, WaitingTime: 9600}
}

// up is how the contacts are while a card works.
const up = simtrace.VCC | simtrace.CLK

// irq has the device tell its contacts.
func (w *world) irq(f simtrace.StatusFlags) {
	w.dev.irq <- encode(w.t, contacts(f))
	synctest.Wait()
}

// sends has the device send, in packets as over USB.
func (w *world) sends(m simtrace.Message) {
	for p := range slices.Chunk(encode(w.t, m), simtrace.PacketSize) {
		w.dev.bulk <- p
	}
	synctest.Wait()
}

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// header has the modem send the header of a command, data what follows.
func (w *world) header(s string) {
	w.sends(&simtrace.RxData{Flags: simtrace.Header, Data: unhex(w.t, s)})
}

func (w *world) data(s string) {
	w.sends(&simtrace.RxData{Flags: simtrace.Final, Data: unhex(w.t, s)})
}

// want compares what happened on the modem's side since the last time.
func (w *world) want(want string) {
	w.t.Helper()
	if got := w.take(); got != want {
		w.t.Fatalf("modem's side:\n got %s\nwant %s", got, want)
	}
}

// meetServer takes the client's call to the server.
func (w *world) meetServer() *rspro.ConnectClientReq {
	w.t.Helper()
	w.server = testnet.AcceptPeer(w.t, w.serverLn)
	m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.server)
	w.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	return m
}

// tell is configClientBankReq with its answer.
func (w *world) tell(addr netip.AddrPort) {
	w.t.Helper()
	w.server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: addr})
	if r := testnet.Expect[*rspro.ConfigClientBankRes](w.server); r.Result != rspro.OK {
		w.t.Fatalf("configClientBankRes: %v", r.Result)
	}
}

// meetBankd takes the client's call to the bankd.
func (w *world) meetBankd() *rspro.ConnectClientReq {
	w.t.Helper()
	w.bankd = testnet.AcceptPeer(w.t, w.bankdLn)
	m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.bankd)
	w.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	return m
}

// card is setAtrReq with its answer.
func (w *world) card(atr []byte) {
	w.t.Helper()
	w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: atr})
	if r := testnet.Expect[*rspro.SetAtrRes](w.bankd); r.Result != rspro.OK {
		w.t.Fatalf("setAtrRes: %v", r.Result)
	}
	synctest.Wait()
}

// serve brings the client to a card, with the modem's contacts up and nothing in the journal.
func (w *world) serve() {
	w.t.Helper()
	w.meetServer()
	w.tell(bankAddr)
	w.meetBankd()
	testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd) // the one that the start asked for
	w.card(cardATR)
	w.irq(up)
	w.told("RST=0 VCC=1 CLK=1 CARD=?")
	w.take()
}

// told is the next status that the bankd is told.
func (w *world) told(want string) {
	w.t.Helper()
	if got := testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd).Phys.String(); got != want {
		w.t.Fatalf("status %s, want %s", got, want)
	}
}

// command is the next command at the bankd.
func (w *world) command(want string) {
	w.t.Helper()
	m := testnet.Expect[*rspro.TpduModemToCard](w.bankd)
	if got := hex.EncodeToString(m.Data); got != want || m.From != me || m.To != here {
		w.t.Fatalf("command %s of %v for %v, want %s", got, m.From, m.To, want)
	}
}

// answer is the bankd's answer to it.
func (w *world) answer(s string) {
	w.t.Helper()
	w.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: unhex(w.t, s)})
	synctest.Wait()
}
