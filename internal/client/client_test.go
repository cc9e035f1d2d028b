// SPDX-License-Identifier: GPL-2.0-or-later

package client_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

var (
	me       = slot.Client{ID: 23, Slot: 1}
	here     = slot.Bank{ID: 1, Slot: 5}
	bankAddr = netip.MustParseAddrPort("10.0.0.2:9999")
	cardATR  = []byte{0x3b, 0x02, 0x14, 0x50}
	selectMF = []byte{0xa0, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00}
)

// A journal keeps lines.
type journal struct {
	mu    sync.Mutex
	lines []string
}

func (j *journal) add(l string) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, l)
}

func (j *journal) take() []string {
	synctest.Wait()
	j.mu.Lock()
	defer j.mu.Unlock()
	l := j.lines
	j.lines = nil
	return l
}

// A modem is a Frontend that keeps a journal.
type modem struct{ journal }

func (m *modem) Remote(_ context.Context, on bool) {
	m.add(map[bool]string{true: "remote", false: "local"}[on])
}
func (m *modem) ATR(context.Context, []byte, client.Card) { m.add("atr") }
func (m *modem) Insert(context.Context)                   { m.add("insert") }
func (m *modem) Remove(context.Context)                   { m.add("remove") }
func (m *modem) ResetModem(context.Context)               { m.add("reset") }

// A world is a client on a testnet, with a server and a bankd that tests play.
type world struct {
	t             *testing.T
	net           *testnet.Net
	core          *client.Core
	watch         client.Watch
	modem         modem
	log           strings.Builder
	scripts       journal // causes, and variables when wanted
	vars          map[string][]string
	takes         time.Duration // of each script
	hang          bool          // scripts don't end
	stop          context.CancelFunc
	ended         chan struct{}
	serverHost    *testnet.Host
	bankHost      *testnet.Host
	serverLn      net.Listener
	bankLn        net.Listener
	server, bankd *testnet.Peer
}

func newWorld(t *testing.T, change func(*client.Config)) *world {
	t.Helper()
	w := &world{t: t, net: testnet.New(), ended: make(chan struct{}), vars: map[string][]string{}}
	w.serverHost, w.bankHost = w.net.Host("10.0.0.1"), w.net.Host("10.0.0.2")
	w.serverLn, w.bankLn = w.listen(w.serverHost, ":9998"), w.listen(w.bankHost, ":9999")
	cfg := client.Config{
		ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: []byte{0x3b, 0x00},
		Script: "script", ScriptTimeout: 30 * time.Second, ScriptVars: []string{"REMSIM_USB_PATH=2-1.1"},
	}
	if change != nil {
		change(&cfg)
	}
	log := logrus.New()
	log.SetOutput(&w.log)
	log.SetLevel(logrus.DebugLevel)
	w.core = client.New(cfg, client.Env{Net: w.net.Host("10.0.0.3"), Log: log, StartScript: w.script, Watch: &w.watch}, &w.modem)
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	go func() {
		defer close(w.ended)
		w.core.Run(ctx)
	}()
	t.Cleanup(func() {
		stop()
		<-w.ended
		w.serverLn.Close()
		w.bankLn.Close()
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

func (w *world) listen(h *testnet.Host, addr string) net.Listener {
	w.t.Helper()
	ln, err := h.Listen(w.t.Context(), addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return ln
}

func (w *world) script(ctx context.Context, line string, vars []string) (func() error, error) {
	_, cause, _ := strings.Cut(line, " ")
	w.scripts.add(cause)
	w.scripts.mu.Lock()
	w.vars[cause] = vars
	hang, takes := w.hang, w.takes
	w.scripts.mu.Unlock()
	return func() error {
		var end <-chan time.Time
		if !hang {
			end = time.After(takes)
		}
		select {
		case <-end:
			return nil
		case <-ctx.Done():
			return ctx.Err()
		}
	}, nil
}

// meetServer takes the client's call to the server and returns whom it presented.
func (w *world) meetServer() *rspro.ConnectClientReq {
	w.t.Helper()
	w.server = testnet.AcceptPeer(w.t, w.serverLn)
	m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.server)
	w.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	return m
}

// tell is configClientBankReq with its response.
func (w *world) tell(bank slot.Bank, addr netip.AddrPort) {
	w.t.Helper()
	w.server.Send(&rspro.ConfigClientBankReq{Bank: bank, Bankd: addr})
	if r := testnet.Expect[*rspro.ConfigClientBankRes](w.server); r.Result != rspro.OK {
		w.t.Fatalf("configClientBankRes: %v", r.Result)
	}
}

// meetBankd takes the client's call to the bankd and answers with result.
func (w *world) meetBankd(result rspro.ResultCode) *rspro.ConnectClientReq {
	w.t.Helper()
	w.bankd = testnet.AcceptPeer(w.t, w.bankLn)
	m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.bankd)
	w.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd), Result: result})
	return m
}

// serve brings the client to a card.
func (w *world) serve() {
	w.t.Helper()
	w.meetServer()
	w.tell(here, bankAddr)
	w.meetBankd(rspro.OK)
	w.card()
}

// card is setAtrReq with its response.
func (w *world) card() {
	w.t.Helper()
	w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: cardATR})
	if r := testnet.Expect[*rspro.SetAtrRes](w.bankd); r.Result != rspro.OK {
		w.t.Fatalf("setAtrRes: %v", r.Result)
	}
	synctest.Wait()
}

// exchange sends a command through.
func (w *world) exchange() {
	w.t.Helper()
	type result struct {
		data []byte
		err  error
	}
	done := make(chan result, 1)
	go func() {
		data, err := w.core.Transmit(w.t.Context(), selectMF)
		done <- result{data, err}
	}()
	m := testnet.Expect[*rspro.TpduModemToCard](w.bankd)
	if m.From != me || m.To != here || !slices.Equal(m.Data, selectMF) {
		w.t.Fatalf("command %+v", m)
	}
	w.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x9f, 0x17}})
	if r := <-done; r.err != nil || !slices.Equal(r.data, []byte{0x9f, 0x17}) {
		w.t.Fatalf("answer %x, %v", r.data, r.err)
	}
}

func (w *world) expect(what string, got []string, want ...string) {
	w.t.Helper()
	if !slices.Equal(got, want) {
		w.t.Errorf("%s:\n got %q\nwant %q", what, got, want)
	}
}

func (w *world) logged(text string) {
	w.t.Helper()
	synctest.Wait()
	if !strings.Contains(w.log.String(), text) {
		w.t.Errorf("no log line with %q", text)
	}
}

var (
	enterSteps   = []string{"atr", "remote", "insert", "reset"}
	leaveSteps   = []string{"remove", "local", "reset"}
	enterScripts = []string{"request-sim-remote", "request-card-insert", "request-modem-reset", "event-bankd-connect"}
	leaveScripts = []string{"request-card-remove", "request-sim-local", "request-modem-reset"}
)

func join(lists ...[]string) []string { return slices.Concat(lists...) }

// TestLife is a client's life with C-like peers, its scripts and its end.
func TestLife(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		req := w.meetServer()
		if req.Slot == nil || *req.Slot != me || req.Identity.Type != rspro.Client || req.Identity.Software != "remsim-client" {
			t.Errorf("presents itself as %+v", req)
		}
		w.tell(here, bankAddr)
		if req := w.meetBankd(rspro.OK); req.Slot == nil || *req.Slot != me {
			t.Errorf("presents itself to the bankd as %+v", req)
		}
		w.card()
		w.exchange()
		w.expect("scripts", w.scripts.take(), join([]string{"event-server-connect", "event-config-bankd"}, enterScripts)...)
		w.expect("modem", w.modem.take(), append(enterSteps, "atr")...)

		// The server goes and comes back, and says the same: nobody notices.
		w.server.Close()
		w.exchange()
		w.meetServer()
		w.tell(here, bankAddr)
		w.exchange()
		w.expect("modem after the server's restart", w.modem.take())
		w.expect("scripts after the server's restart", w.scripts.take(), "event-server-connect")

		// The map moves, then goes.
		there := slot.Bank{ID: 1, Slot: 7}
		w.server.Send(&rspro.ConfigClientBankReq{Bank: there, Bankd: bankAddr})
		if err := w.bankd.ExpectEnd(time.Second); err != io.EOF {
			t.Errorf("old data connection: %v", err)
		}
		testnet.Expect[*rspro.ConfigClientBankRes](w.server)
		w.meetBankd(rspro.OK)
		w.expect("modem, map moved", w.modem.take(), join(leaveSteps, enterSteps)...)
		w.expect("scripts, map moved", w.scripts.take(), join(leaveScripts, []string{"event-config-bankd"}, enterScripts)...)
		w.tell(slot.Bank{}, netip.MustParseAddrPort("0.0.0.0:0"))
		w.bankd.ExpectEnd(time.Second)
		w.expect("modem, map gone", w.modem.take(), leaveSteps...)
		w.expect("scripts, map gone", w.scripts.take(), append(leaveScripts, "event-config-bankd")...)
		if s := w.core.State(); s != client.Unconfigured {
			t.Errorf("state %v", s)
		}

		// At its end the modem is given back.
		w.tell(here, bankAddr)
		w.meetBankd(rspro.OK)
		synctest.Wait()
		w.modem.take()
		w.stop()
		<-w.ended
		w.expect("modem at the end", w.modem.take(), leaveSteps...)
	})
}

func TestScriptVariables(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		w.core.Status(slot.Phys{Reset: true, VCC: slot.On, CLK: slot.Off})
		synctest.Wait()
		w.bankd.Close()
		synctest.Wait()
		w.scripts.take()
		base := []string{"REMSIM_CLIENT_VERSION=0.2.0", "REMSIM_SERVER_ADDR=10.0.0.1:9998", "REMSIM_SERVER_STATE=CONNECTED"}
		bankd := func(addr, state, slot string) []string {
			return []string{"REMSIM_BANKD_ADDR=" + addr, "REMSIM_BANKD_STATE=" + state, "REMSIM_CLIENT_SLOT=23:1", "REMSIM_BANKD_SLOT=" + slot}
		}
		sim := func(vcc, rst, clk string) []string {
			return []string{"REMSIM_SIM_VCC=" + vcc, "REMSIM_SIM_RST=" + rst, "REMSIM_SIM_CLK=" + clk}
		}
		for cause, want := range map[string][]string{
			"event-server-connect": join(base, bankd("0.0.0.0:0", "INIT", "0:0"), sim("0", "0", "0")),
			"event-config-bankd":   join(base, bankd("10.0.0.2:9999", "INIT", "1:5"), sim("0", "0", "0")),
			"request-sim-remote":   join(base, bankd("10.0.0.2:9999", "CONNECTED", "1:5"), sim("0", "0", "0")),
			"request-card-insert":  join(base, bankd("10.0.0.2:9999", "CONNECTED", "1:5"), sim("0", "0", "0")),
			"event-bankd-connect":  join(base, bankd("10.0.0.2:9999", "CONNECTED", "1:5"), sim("0", "0", "0")),
			"event-modem-status":   join(base, bankd("10.0.0.2:9999", "CONNECTED", "1:5"), sim("1", "1", "0")),
			"request-card-remove":  join(base, bankd("10.0.0.2:9999", "REESTABLISH_DELAY", "1:5"), sim("1", "1", "0")),
		} {
			w.expect(cause, w.vars[cause], append(want, "REMSIM_CAUSE="+cause, "REMSIM_USB_PATH=2-1.1")...)
		}
	})
}

// A command in flight when the bankd dies ends at once, whether or not the connection is reset.
func TestBankdDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		w.modem.take()
		done := make(chan error, 1)
		go func() {
			_, err := w.core.Transmit(t.Context(), selectMF)
			done <- err
		}()
		testnet.Expect[*rspro.TpduModemToCard](w.bankd)
		start := time.Now()
		w.bankHost.Cut()
		if err := <-done; !errors.Is(err, client.ErrGone) {
			t.Errorf("Transmit: %v, want %v", err, client.ErrGone)
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("after %v", d)
		}
		w.meetBankd(rspro.OK)
		w.card()
		w.expect("modem", w.modem.take(), join(leaveSteps, enterSteps, []string{"atr"})...)
		w.exchange()
	})
}

// A bankd that is silent is given up by the keep-alive: 30 s after the last PONG a PING, 10 s for its PONG.
func TestBankdSilent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		w.bankd.Mute(true)
		start := time.Now()
		done := make(chan error, 1)
		go func() {
			_, err := w.core.Transmit(t.Context(), selectMF)
			done <- err
		}()
		if err := <-done; !errors.Is(err, client.ErrGone) {
			t.Errorf("Transmit: %v, want %v", err, client.ErrGone)
		}
		if d := time.Since(start); d != 40*time.Second {
			t.Errorf("after %v, want 40s", d)
		}
	})
}

// ok and setAtrReq may come in one segment, as may two answers.
func TestOneSegment(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meetServer()
		w.tell(here, bankAddr)
		w.bankd = testnet.AcceptPeer(t, w.bankLn)
		w.bankd.Expect(rspro.ChoiceConnectClientReq)
		w.bankd.SendPDU(
			rspro.PDU{Version: rspro.Version, Tag: 2342, Msg: &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)}},
			rspro.PDU{Version: rspro.Version, Msg: &rspro.SetAtrReq{Slot: me, ATR: cardATR}},
		)
		w.bankd.Expect(rspro.ChoiceSetAtrRes)
		w.expect("modem", w.modem.take(), append(enterSteps, "atr")...)
		w.exchange()
	})
}

// Frames may come byte by byte.
func TestSplitFrames(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serverHost.Fragment(1)
		w.bankHost.Fragment(1)
		w.serve()
		w.exchange()
	})
}

// TPDU contents are logged at trace level only.
func TestTPDUsAreNotLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		w.exchange()
		if strings.Contains(w.log.String(), "a0a40000023f00") {
			t.Error("a TPDU is in the log")
		}
	})
}

// cardNotPresent: the client comes back by the schedule, and takes the card when there is one.
func TestCardNotPresent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meetServer()
		w.tell(here, bankAddr)
		start := time.Now()
		for attempt := range 5 {
			w.meetBankd(rspro.CardNotPresent)
			w.bankd.ExpectEnd(time.Second)
			if s := w.core.State(); s != client.WaitBankd {
				t.Fatalf("attempt %d: state %v", attempt, s)
			}
		}
		// Three attempts at once, the others 1 s after the one before, and up to 20 % more.
		if d := time.Since(start); d < 2*time.Second || d > 2400*time.Millisecond {
			t.Errorf("five attempts in %v", d)
		}
		w.meetBankd(rspro.OK)
		w.card()
		w.exchange()
		w.expect("modem", w.modem.take(), append(enterSteps, "atr")...)
	})
}

// With a bankd that serves those who stay the client does so, for as long as it takes.
func TestLateATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meetServer()
		w.tell(here, bankAddr)
		stay := func() {
			t.Helper()
			w.bankd = testnet.AcceptPeer(t, w.bankLn)
			m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.bankd)
			if m.Features != rspro.AtrAfterReset {
				t.Errorf("presents itself with features %b", m.Features)
			}
			w.bankd.Reply(req, &rspro.ConnectClientRes{
				Identity: testnet.Identity(rspro.Bankd), Result: rspro.CardNotPresent, Features: rspro.LateAtr,
			})
		}
		stay()
		w.bankd.Quiet(10 * time.Minute)
		if s := w.core.State(); s != client.WaitBankd {
			t.Errorf("state %v", s)
		}
		w.expect("modem", w.modem.take())
		w.expect("scripts", w.scripts.take(), "event-server-connect", "event-config-bankd")
		w.expect("bankd's state in a report", report(w.core, "REMSIM_BANKD_STATE"), "ESTABLISHED")

		// A server that is new says the same: the connection stays.
		w.server.Close()
		w.meetServer()
		w.tell(here, bankAddr)
		w.bankd.Quiet(time.Second)

		w.card()
		w.exchange()
		w.expect("modem", w.modem.take(), append(enterSteps, "atr")...)
		w.expect("scripts", w.scripts.take(), append([]string{"event-server-connect"}, enterScripts...)...)
		if v := w.vars["event-bankd-connect"]; !slices.Contains(v, "REMSIM_BANKD_STATE=CONNECTED") {
			t.Errorf("event-bankd-connect got %q", v)
		}

		// The map is removed, and the bankd disconnects; later it is there again.
		w.bankd.Close()
		stay()
		w.expect("modem", w.modem.take(), leaveSteps...)
		w.expect("scripts", w.scripts.take(), leaveScripts...)
		w.tell(slot.Bank{}, netip.MustParseAddrPort("0.0.0.0:0"))
		w.bankd.ExpectEnd(time.Second)
		w.expect("modem", w.modem.take())
		w.tell(here, bankAddr)
		stay()
		w.card()
		w.exchange()

		// A bankd that is gone while we stay is missed by the keep-alive, and come back to.
		w.bankd.Close()
		stay()
		w.bankd.Mute(true)
		w.bankd.ExpectEnd(time.Minute)
		w.meetBankd(rspro.OK)
		w.card()
		w.exchange()
	})
}

// A card that is pulled and put back while all stays connected: the modem sees its slot
// empty and filled, and nothing else.
func TestHotPlug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		w.modem.take()
		w.scripts.take()
		present := func(s slot.Signal) {
			w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: s}})
		}
		for range 100 {
			present(slot.Off)
			w.expect("modem, card pulled", w.modem.take(), "remove")
			w.expect("scripts, card pulled", w.scripts.take(), "request-card-remove")
			// Whether the bankd says that it is there, or only sends its ATR, is the same.
			present(slot.On)
			w.expect("modem, no ATR yet", w.modem.take())
			w.card()
			w.expect("modem, card put back", w.modem.take(), "atr", "insert")
			w.expect("scripts, card put back", w.scripts.take(), "request-card-insert")
			present(slot.On)
			w.exchange()
		}
		// A swap that is faster than anybody looks: both in one segment.
		w.bankd.SendPDU(
			rspro.PDU{Version: rspro.Version, Msg: &rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}}},
			rspro.PDU{Version: rspro.Version, Msg: &rspro.SetAtrReq{Slot: me, ATR: cardATR}},
		)
		w.bankd.Expect(rspro.ChoiceSetAtrRes)
		w.expect("modem, card swapped", w.modem.take(), "remove", "atr", "insert")
		w.exchange()
	})
}

// report returns the values of the lines of a report that begin with name.
func report(c *client.Core, name string) (values []string) {
	var b strings.Builder
	c.Report(&b)
	for line := range strings.Lines(b.String()) {
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), name+"="); ok {
			values = append(values, v)
		}
	}
	return values
}

// A server in the bankd's place, and the other way round: a log line that says so.
func TestWrongPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meetServer()
		w.tell(here, bankAddr)
		p := testnet.AcceptPeer(t, w.bankLn)
		_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](p)
		p.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
		p.ExpectEnd(time.Second)
		w.logged("is a remsim-server, expected remsim-bankd")
		w.expect("modem", w.modem.take())
	})
}

// Bad input ends a connection, or nothing at all, and the other connection never.
func TestBadPeers(t *testing.T) {
	for _, tc := range []struct {
		name string
		send func(*testnet.Peer)
		ends bool
	}{
		{"wrong stream", func(p *testnet.Peer) { p.WriteHex("0001aa00") }, true},
		{"empty frame", func(p *testnet.Peer) { p.WriteHex("0000ee") }, true},
		{"frame too long", func(p *testnet.Peer) { p.WriteHex("f000ee07") }, true},
		{"garbage", func(p *testnet.Peer) { p.WriteHex("0003ee07ffff") }, true},
		{"version 3", func(p *testnet.Peer) {
			p.SendPDU(rspro.PDU{Version: 3, Msg: &rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x90, 0}}})
		}, true},
		{"unknown message", func(p *testnet.Peer) { p.Send(&rspro.Unknown{Number: 120, Constructed: true}) }, false},
		{"response to nothing", func(p *testnet.Peer) { p.Send(&rspro.ResetStateRes{}) }, false},
		{"second acceptance", func(p *testnet.Peer) { p.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)}) }, false},
		{"message to a bankd", func(p *testnet.Peer) { p.Send(&rspro.CreateMappingReq{}) }, false},
		{"other slots' answer", func(p *testnet.Peer) {
			p.Send(&rspro.TpduCardToModem{From: slot.Bank{ID: 9}, To: me, Data: []byte{0x90, 0}})
		}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.serve()
				before := w.log.Len()
				tc.send(w.bankd)
				if tc.ends {
					w.bankd.ExpectEnd(time.Second)
					w.meetBankd(rspro.OK)
					w.card()
				}
				synctest.Wait()
				if w.log.Len() == before {
					t.Error("no log line")
				}
				w.exchange()
				tc.send(w.server)
				if tc.ends {
					w.server.ExpectEnd(time.Second)
					w.meetServer()
				}
				w.exchange()
			})
		})
	}
}

func TestAuto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *client.Config) { c.Auto, c.Slot = true, slot.Client{} })
		if req := w.meetServer(); req.Slot != nil {
			t.Errorf("presents itself as %v", req.Slot)
		}
		w.server.Send(&rspro.ConfigClientIDReq{Slot: me})
		testnet.Expect[*rspro.ConfigClientIDRes](w.server)
		w.tell(here, bankAddr)
		if req := w.meetBankd(rspro.OK); req.Slot == nil || *req.Slot != me {
			t.Errorf("presents itself to the bankd as %v", req.Slot)
		}
		w.card()
		w.exchange()
		w.server.Close()
		if req := w.meetServer(); req.Slot == nil || *req.Slot != me {
			t.Errorf("comes back as %v", req.Slot)
		}
	})
}

// A script that is slow never holds up the state machine, and none overtakes another.
func TestSlowScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.scripts.mu.Lock()
		w.takes = time.Second
		w.scripts.mu.Unlock()
		start := time.Now()
		w.serve() // server-connect runs
		w.exchange()
		if d := time.Since(start); d != 0 {
			t.Errorf("the card took %v", d)
		}
		w.tell(slot.Bank{}, netip.MustParseAddrPort("0.0.0.0:0"))
		time.Sleep(time.Minute)
		w.expect("scripts", w.scripts.take(), join([]string{"event-server-connect", "event-config-bankd"},
			enterScripts, leaveScripts, []string{"event-config-bankd"})...)
		w.expect("modem", w.modem.take(), join(enterSteps, []string{"atr"}, leaveSteps)...)
	})
}

// At the end scripts get 4 s; the modem gets its local SIM even so.
func TestEndWithHungScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.serve()
		time.Sleep(time.Second)
		w.modem.take()
		w.scripts.mu.Lock()
		w.hang = true
		w.scripts.mu.Unlock()
		start := time.Now()
		w.stop()
		<-w.ended
		if d := time.Since(start); d != 4*time.Second {
			t.Errorf("the end took %v, want 4s", d)
		}
		w.expect("modem", w.modem.take(), leaveSteps...)
	})
}

// Names are looked up, and the server may be down at first.
func TestServerComesLate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(c *client.Config) { c.ServerHost = "server.example" })
		time.Sleep(20 * time.Second)
		w.logged("no connection")
		if s := w.core.State(); s != client.Init {
			t.Errorf("state %v", s)
		}
		w.net.Name("server.example", "10.0.0.1")
		w.serve()
		w.exchange()
	})
}

// One process can run many clients, and stop each for itself.
func TestManyClients(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a := newWorld(t, nil)
		b := newWorld(t, nil)
		a.serve()
		b.serve()
		a.exchange()
		a.stop()
		<-a.ended
		b.exchange()
	})
}

// Whatever the peers send again and again, the log stays short: what has no place ends the
// connection, the rest has a quota.
func TestLogFlood(t *testing.T) {
	for _, tc := range []struct {
		name   string
		of     func(*world) *testnet.Peer
		m      rspro.Message
		closed bool
	}{
		{"answers without a command", func(w *world) *testnet.Peer { return w.bankd },
			&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x90, 0}}, true},
		{"answers for others", func(w *world) *testnet.Peer { return w.bankd },
			&rspro.TpduCardToModem{From: here, Data: []byte{0x90, 0}}, true},
		{"ATRs for others", func(w *world) *testnet.Peer { return w.bankd }, &rspro.SetAtrReq{ATR: cardATR}, true},
		{"a bankd's errors", func(w *world) *testnet.Peer { return w.bankd }, &rspro.ErrorInd{}, false},
		{"a bankd's messages", func(w *world) *testnet.Peer { return w.server }, &rspro.CreateMappingReq{}, true},
		{"resets", func(w *world) *testnet.Peer { return w.server }, &rspro.ResetStateReq{}, false},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.serve()
				p := tc.of(w)
				p.Send(tc.m)
				for range 2000 {
					if p.Post(rspro.PDU{Version: rspro.Version, Msg: tc.m}) != nil {
						break // it is closed
					}
					synctest.Wait()
				}
				if n := strings.Count(w.log.String(), "\n"); n > 1300 || tc.closed && n > 150 {
					t.Errorf("%d lines", n)
				}
				if closed := strings.Contains(w.log.String(), link.ErrStrays.Error()); closed != tc.closed {
					t.Errorf("closed: %v, want %v", closed, tc.closed)
				}
			})
		})
	}
}

// A server that was restarted has given our assigned slot to another client.
func TestAssignedSlotTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(cfg *client.Config) { cfg.Auto, cfg.Slot = true, slot.Client{} })
		assign := func(s slot.Client) {
			if req := w.meetServer(); req.Slot != nil {
				t.Errorf("presents itself as %v, want an id to be assigned", *req.Slot)
			}
			w.server.Send(&rspro.ConfigClientIDReq{Slot: s})
			testnet.Expect[*rspro.ConfigClientIDRes](w.server)
		}
		first, second := slot.Client{ID: 1023}, slot.Client{ID: 1022}
		assign(first)
		w.server.Close()
		for range 2 {
			w.server = testnet.AcceptPeer(t, w.serverLn)
			m, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.server)
			if m.Slot == nil || *m.Slot != first {
				t.Errorf("comes back as %v, want %v", m.Slot, first)
			}
			w.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server), Result: rspro.IdentityInUse})
		}
		assign(second)
		w.tell(here, bankAddr)
		if req := w.meetBankd(rspro.OK); req.Slot == nil || *req.Slot != second {
			t.Errorf("presents itself to the bankd as %v, want %v", req.Slot, second)
		}
		w.logged("asking for another one")
	})
}
