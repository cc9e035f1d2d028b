// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// A reader is a fake of a card in a reader, one a slot.
type reader struct {
	mu       sync.Mutex
	openErr  error
	onOpen   func(*reader) // called by Open
	failWith error         // of Transmit and Reset
	delay    time.Duration // of each call
	gate     chan struct{} // calls wait until it is closed; nil: they don't
	atr      []byte
	nextATR  []byte // after the next reset
	response []byte // of Transmit; nil: the command and 9000
	opens    int
	closes   int
	resets   []reset
	cmds     int
	card     func() (Card, error) // what Open does; nil: it opens the reader itself
}

func (r *reader) set(f func(*reader)) {
	r.mu.Lock()
	defer r.mu.Unlock()
	f(r)
}

// hold makes calls from now on hang until the function that is returned is called.
func (r *reader) hold() (release func()) {
	gate := make(chan struct{})
	r.set(func(r *reader) { r.gate = gate })
	return sync.OnceFunc(func() {
		r.set(func(r *reader) {
			if r.gate == gate {
				r.gate = nil
			}
		})
		close(gate)
	})
}

func (r *reader) pass() {
	r.mu.Lock()
	gate, delay := r.gate, r.delay
	r.mu.Unlock()
	time.Sleep(delay)
	if gate != nil {
		<-gate
	}
}

func (r *reader) count() (opens, closes, resets, cmds int) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.opens, r.closes, len(r.resets), r.cmds
}

func (r *reader) ATR() []byte {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.atr
}

func (r *reader) Transmit(cmd, buf []byte) ([]byte, error) {
	r.set(func(r *reader) { r.cmds++ })
	r.pass()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.failWith != nil {
		return nil, r.failWith
	}
	if r.response != nil {
		return append(buf[:0], r.response...), nil
	}
	return append(append(buf[:0], cmd[:min(len(cmd), 256)]...), 0x90, 0), nil
}

func (r *reader) Reset(cold bool) error {
	r.pass()
	r.mu.Lock()
	defer r.mu.Unlock()
	how := warmReset
	if cold {
		how = coldReset
	}
	r.resets = append(r.resets, how)
	if r.nextATR != nil {
		r.atr, r.nextATR = r.nextATR, nil
	}
	return r.failWith
}

func (r *reader) Close() error {
	r.pass()
	r.set(func(r *reader) { r.closes++ })
	return nil
}

// readers is a Bank of them, by slot number.
type readers []*reader

func newReaders(n int) readers {
	rs := make(readers, n)
	for i := range rs {
		rs[i] = &reader{atr: testATR}
	}
	return rs
}

func (rs readers) Check(s Slot) error {
	if strings.Contains(s.Spec, "bad") {
		return errors.New("bad card")
	}
	return nil
}

func (rs readers) Open(ctx context.Context, s Slot) (Card, error) {
	r := rs[s.Bank.Slot]
	if r.card != nil {
		return r.card()
	}
	r.set(func(r *reader) { r.opens++ })
	r.pass()
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.onOpen != nil {
		r.onOpen(r)
	}
	if r.openErr != nil {
		return nil, r.openErr
	}
	return r, nil
}

// A pcscd is a ReaderBank of them.
type pcscd struct {
	readers
	news chan struct{}

	mu      sync.Mutex
	there   []Reader // nil: it isn't running
	watches int
	hung    chan struct{} // Watch waits until it is closed; nil: it doesn't
}

func newPCSCD(cards readers) *pcscd {
	p := &pcscd{readers: cards, news: make(chan struct{}, 1)}
	for i := range cards {
		p.there = append(p.there, Reader{Name: readerName(i), Present: true, ATR: testATR})
	}
	return p
}

func readerName(i int) string { return fmt.Sprintf("Fake Reader %02d", i) }

func (p *pcscd) Watch(ctx context.Context, changed func([]Reader)) error {
	p.mu.Lock()
	p.watches++
	hung := p.hung
	p.mu.Unlock()
	if hung != nil {
		<-hung
	}
	for {
		p.mu.Lock()
		there := slices.Clone(p.there)
		p.mu.Unlock()
		changed(there)
		select {
		case <-p.news:
		case <-ctx.Done():
			return nil
		}
	}
}

// change has readers come or go, or their cards.
func (p *pcscd) change(f func(there []Reader) []Reader) {
	p.mu.Lock()
	p.there = f(p.there)
	p.mu.Unlock()
	p.news <- struct{}{}
	synctest.Wait()
}

// pull takes the card out of reader nr.
func (p *pcscd) pull(nr int) {
	p.change(func(rs []Reader) []Reader {
		rs[nr].Present, rs[nr].ATR = false, nil
		rs[nr].Changes++
		return rs
	})
}

func (p *pcscd) insert(nr int, atr []byte) {
	p.readers[nr].set(func(c *reader) { c.atr = atr })
	p.change(func(rs []Reader) []Reader {
		rs[nr].Present, rs[nr].ATR = true, atr
		rs[nr].Changes++
		return rs
	})
}

var testATR = []byte{0x3b, 0x7d, 0x94, 0, 0, 0x55, 0x55, 0x53, 0x0a, 0x74, 0x86, 0x93, 0x0b, 0x24, 0x7c, 0x4d, 0x54, 0x68}

const (
	bankdAddr = "10.0.0.2:9999"
	slots     = 8
)

// A rig is a bankd with a scripted server and a host for clients, in a synctest bubble.
type rig struct {
	t        *testing.T
	net      *testnet.Net
	cards    readers
	pcscd    *pcscd
	log      *logtest.Hook
	file     string // the slots file
	hup      chan os.Signal
	listener net.Listener   // the server's
	server   *testnet.Peer  // the control connection, accepted
	features rspro.Features // the server's
	clients  *testnet.Host
	host     *testnet.Host // the bankd's
	cancel   context.CancelFunc
	ended    chan error
	report   func() string
	running  Running
	reloads  int // that the bankd has confirmed
}

// A setup is what a test may alter before its bankd starts.
type setup struct {
	Config
	pcscd *pcscd
}

// simulate runs test with a rig in a bubble.
func simulate(t *testing.T, test func(*rig), change ...func(*setup)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		r := &rig{t: t, net: testnet.New(), cards: newReaders(slots), ended: make(chan error, 1)}
		var file strings.Builder
		for i := range slots {
			fmt.Fprintf(&file, "1,%d,^Fake Reader %02d$\n", i, i)
		}
		r.pcscd = newPCSCD(r.cards)
		r.hup = make(chan os.Signal)
		cfg := setup{pcscd: r.pcscd, Config: Config{
			Server:    "10.0.0.1:9998",
			BankID:    1,
			NumSlots:  slots,
			Name:      "testbank",
			Listen:    ":9999",
			SlotsFile: filepath.Join(t.TempDir(), "slots.csv"),
		}}
		if err := os.WriteFile(cfg.SlotsFile, []byte(file.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		for _, f := range change {
			f(&cfg)
		}
		r.file = cfg.SlotsFile
		log, hook := logtest.NewNullLogger()
		log.SetLevel(logrus.TraceLevel)
		r.log = hook
		r.clients = r.net.Host("10.0.0.3")
		r.host = r.net.Host("10.0.0.2")
		var err error
		if r.listener, err = r.net.Host("10.0.0.1").Listen(t.Context(), ":9998"); err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(context.Background())
		r.cancel = cancel
		env := Env{
			Net: r.host, Log: log, Readers: r.pcscd, Softsim: r.cards, Reload: r.hup,
			OnStart:  func(_ context.Context, running Running) { r.running = running },
			Reloaded: func() { r.reloads++ },
			OnReport: func(_ context.Context, write func(io.Writer)) {
				r.report = func() string {
					var b bytes.Buffer
					write(&b)
					return b.String()
				}
			},
		}
		go func() { r.ended <- Run(ctx, cfg.Config, env) }()
		t.Cleanup(func() {
			r.listener.Close()
			r.stop(5 * time.Second)
		})
		r.accept()
		test(r)
	})
}

// accept is the server's answer to a bankd that connects.
func (r *rig) accept() *rspro.ConnectBankReq {
	r.t.Helper()
	r.server = testnet.AcceptPeer(r.t, r.listener)
	m, pdu := testnet.ExpectPDU[*rspro.ConnectBankReq](r.server)
	r.server.Reply(pdu, &rspro.ConnectBankRes{Identity: testnet.Identity(rspro.Server), Features: r.features})
	synctest.Wait()
	return m
}

// await waits until a connection is read again whose command a card holds.
func (r *rig) await() {
	time.Sleep(10 * time.Millisecond)
	synctest.Wait()
}

// stop ends the bankd, which may take up to limit.
func (r *rig) stop(limit time.Duration) {
	r.t.Helper()
	r.cancel()
	start := time.Now()
	err := <-r.ended
	r.ended <- err
	if d := time.Since(start); d > limit {
		r.t.Errorf("it took %v to stop, want %v at most", d, limit)
	}
	if !errors.Is(err, context.Canceled) {
		r.t.Errorf("Run: %v", err)
	}
}

// create has the server make a map of this bank.
func (r *rig) create(c slot.Client, nr uint16) {
	r.t.Helper()
	r.server.Send(&rspro.CreateMappingReq{Client: c, Bank: slot.Bank{ID: 1, Slot: nr}})
	if m := testnet.Expect[*rspro.CreateMappingRes](r.server); m.Result != rspro.OK {
		r.t.Fatalf("createMapping: %v", m.Result)
	}
}

func (r *rig) remove(c slot.Client, nr uint16) rspro.ResultCode {
	r.t.Helper()
	r.server.Send(&rspro.RemoveMappingReq{Client: c, Bank: slot.Bank{ID: 1, Slot: nr}})
	return testnet.Expect[*rspro.RemoveMappingRes](r.server).Result
}

// A modem is a client of the rig.
type modem struct {
	*testnet.Peer
	features rspro.Features
	t        *testing.T
	slot     slot.Client
	bank     slot.Bank
}

// dial connects a client that hasn't said anything yet.
func (r *rig) dial(c slot.Client, nr uint16) *modem {
	r.t.Helper()
	p := testnet.DialPeer(r.t, r.clients, bankdAddr)
	return &modem{Peer: p, t: r.t, slot: c, bank: slot.Bank{ID: 1, Slot: nr}}
}

// connect has a client say who it is.
func (r *rig) connect(c slot.Client, nr uint16) *modem {
	r.t.Helper()
	m := r.dial(c, nr)
	m.hello()
	return m
}

func (m *modem) hello() {
	m.t.Helper()
	m.Send(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &m.slot, Features: m.features})
}

// patient is a client that is served and knows of late ATRs.
func (r *rig) patient(c slot.Client, nr uint16) *modem {
	r.t.Helper()
	r.create(c, nr)
	m := r.dial(c, nr)
	m.features = rspro.AtrAfterReset
	m.hello()
	m.wantResult(rspro.OK)
	m.wantATR(testATR)
	synctest.Wait()
	return m
}

// session is a client that is served.
func (r *rig) session(c slot.Client, nr uint16) *modem {
	r.t.Helper()
	r.create(c, nr)
	m := r.connect(c, nr)
	m.wantResult(rspro.OK)
	m.wantATR(testATR)
	return m
}

func (m *modem) wantResult(code rspro.ResultCode) {
	m.t.Helper()
	res := testnet.Expect[*rspro.ConnectClientRes](m.Peer)
	if res.Result != code {
		m.t.Fatalf("connectClientRes: %v, want %v", res.Result, code)
	}
	if res.Identity.Type != rspro.Bankd || res.Identity.Software != "remsim-bankd" || res.Identity.Name != "testbank" ||
		res.Features != rspro.LateAtr && code != rspro.UnsupportedProtocolVersion {
		m.t.Errorf("connectClientRes: %+v", res)
	}
}

func (m *modem) wantATR(atr []byte) {
	m.t.Helper()
	req, pdu := testnet.ExpectPDU[*rspro.SetAtrReq](m.Peer)
	if !bytes.Equal(req.ATR, atr) || req.Slot != m.slot {
		m.t.Fatalf("setAtrReq: %x for %v, want %x", req.ATR, req.Slot, atr)
	}
	m.Reply(pdu, &rspro.SetAtrRes{})
}

func (m *modem) command(cmd ...byte) {
	m.t.Helper()
	m.Send(&rspro.TpduModemToCard{From: m.slot, To: m.bank, Data: cmd})
}

func (m *modem) wantResponse(want ...byte) {
	m.t.Helper()
	res := testnet.Expect[*rspro.TpduCardToModem](m.Peer)
	if !bytes.Equal(res.Data, want) || res.From != m.bank || res.To != m.slot {
		m.t.Fatalf("tpduCardToModem: %x from %v to %v, want %x", res.Data, res.From, res.To, want)
	}
}

// exchange sends a command that the fake card echoes.
func (m *modem) exchange(cmd ...byte) {
	m.t.Helper()
	m.command(cmd...)
	m.wantResponse(append(bytes.Clone(cmd), 0x90, 0)...)
}

func (m *modem) phys(rst bool, vcc slot.Signal) {
	m.t.Helper()
	m.Send(&rspro.ClientSlotStatusInd{From: m.slot, To: m.bank, Phys: slot.Phys{Reset: rst, VCC: vcc}})
}

// wantCardGone wants what a client with a broken card is told.
func (m *modem) wantCardGone() {
	m.t.Helper()
	m.wantCard(slot.Off)
	m.ExpectEnd(time.Second)
}

// wantCard wants a word of the card's presence.
func (m *modem) wantCard(present slot.Signal) {
	m.t.Helper()
	ind := testnet.Expect[*rspro.BankSlotStatusInd](m.Peer)
	if ind.From != m.bank || ind.To != m.slot || ind.Phys != (slot.Phys{Card: present}) {
		m.t.Fatalf("bankSlotStatusInd: %+v", ind)
	}
}

// wantCardBack wants what a client is told that stayed when its card was lost.
func (m *modem) wantCardBack(atr []byte) {
	m.t.Helper()
	m.wantATR(atr)
	m.wantCard(slot.On)
	synctest.Wait()
}

// wantError wants what the server is told of a broken card.
func (r *rig) wantError(nr uint16, text string) {
	r.t.Helper()
	ind := testnet.Expect[*rspro.ErrorInd](r.server)
	if ind.Sender != rspro.Bankd || ind.Severity != rspro.Major || ind.Bank == nil || *ind.Bank != (slot.Bank{ID: 1, Slot: nr}) || !strings.Contains(ind.Text, text) {
		r.t.Fatalf("errorInd: %+v, want one with %q", ind, text)
	}
}

// wantLog wants a line at or above level with each of words in its message or fields.
func (r *rig) wantLog(level logrus.Level, words ...string) {
	r.t.Helper()
	synctest.Wait()
	var all strings.Builder
next:
	for _, e := range r.log.AllEntries() {
		line, err := e.String()
		if err != nil {
			r.t.Fatal(err)
		}
		all.WriteString(line)
		if e.Level > level {
			continue
		}
		for _, w := range words {
			if !strings.Contains(line, w) {
				continue next
			}
		}
		return
	}
	r.t.Errorf("no log line with %q in\n%s", words, all.String())
}

// wantWarnings wants so many warnings of this text.
func (r *rig) wantWarnings(text string, want int) {
	r.t.Helper()
	synctest.Wait()
	n := 0
	for _, e := range r.log.AllEntries() {
		if e.Level == logrus.WarnLevel && e.Message == text {
			n++
		}
	}
	if n != want {
		r.t.Errorf("%d warnings %q, want %d", n, text, want)
	}
}

// wantSlot wants a line of the report on a slot, up to its reader.
func (r *rig) wantSlot(nr uint16, want string) {
	r.t.Helper()
	synctest.Wait()
	line := fmt.Sprintf("slot B1:%d: %s", nr, want)
	if got := r.report(); !strings.Contains(got, line+"\n") && !strings.Contains(got, line+"; reader") {
		r.t.Errorf("report:\n%swant %s", got, line)
	}
}

func (r *rig) wantCounts(nr uint16, opens, closes int) {
	r.t.Helper()
	synctest.Wait()
	if o, c, _, _ := r.cards[nr].count(); o != opens || c != closes {
		r.t.Errorf("card %d opened %d and closed %d times, want %d and %d", nr, o, c, opens, closes)
	}
}
