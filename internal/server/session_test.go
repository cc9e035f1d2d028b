// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"slices"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

const serverAddr = "10.0.0.1:9998"

// world is a running server and the hosts around it.
type world struct {
	*State
	t        *testing.T
	net      *testnet.Net
	log      *logtest.Hook
	stop     func() error // ends the server; Run's error
	restAddr net.Addr
}

// inWorld runs a test with a server in virtual time.
func inWorld(t *testing.T, test func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		inWorldOf(t, Env{}, Config{}, func(w *world) { test(t, w) })
	})
}

// inWorldOf is inWorld within virtual time, with more in the server's Env and Config. It can be called again, for the next server.
func inWorldOf(t *testing.T, env Env, cfg Config, test func(w *world)) {
	t.Helper()
	w := &world{t: t, net: testnet.New()}
	log, hook := logtest.NewNullLogger()
	log.SetLevel(logrus.DebugLevel)
	w.log = hook
	ctx, cancel := context.WithCancel(context.Background())
	state := make(chan *State, 1)
	ended := make(chan error, 1)
	cfg.RSPROListen, cfg.RESTListen, cfg.Name, cfg.Version = ":9998", ":9997", "srv", "1"
	env.Net, env.Log = w.net.Host("10.0.0.1", "fd00::1"), log
	env.REST = func(ctx context.Context, ln net.Listener, s *State, _ *logrus.Entry) error {
		w.restAddr = ln.Addr()
		state <- s
		<-ctx.Done()
		return ln.Close()
	}
	go func() { ended <- Run(ctx, cfg, env) }()
	w.State = <-state
	w.stop = func() error {
		cancel()
		err := <-ended
		ended <- err
		return err
	}
	defer func() {
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
	}()
	synctest.Wait()
	test(w)
}

func (w *world) dial() *testnet.Peer {
	w.t.Helper()
	return testnet.DialPeer(w.t, w.net.Host("10.0.0.7"), serverAddr)
}

func bankReq(id uint16) *rspro.ConnectBankReq {
	return &rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Bankd), BankID: id, NumSlots: 8}
}

func clientReq(c slot.Client) *rspro.ConnectClientReq {
	return &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c}
}

// bank connects a bankd that is accepted.
func (w *world) bank(req *rspro.ConnectBankReq) *testnet.Peer {
	w.t.Helper()
	p := w.dial()
	p.Send(req)
	if res := testnet.Expect[*rspro.ConnectBankRes](p); res.Result != rspro.OK {
		w.t.Fatalf("connectBankRes: %v", res.Result)
	}
	return p
}

// client connects a client that is accepted.
func (w *world) client(c slot.Client) *testnet.Peer {
	w.t.Helper()
	p := w.dial()
	p.Send(clientReq(c))
	if res := testnet.Expect[*rspro.ConnectClientRes](p); res.Result != rspro.OK {
		w.t.Fatalf("connectClientRes: %v", res.Result)
	}
	return p
}

func (w *world) create(m slot.Map) {
	w.t.Helper()
	if err := w.Create(m); err != nil {
		w.t.Fatal(err)
	}
}

// expectMap waits for createMappingReq or removeMappingReq and answers it.
func (w *world) expectMap(p *testnet.Peer, remove bool, m slot.Map, r rspro.ResultCode) {
	w.t.Helper()
	if remove {
		if q := testnet.Expect[*rspro.RemoveMappingReq](p); q.Bank != m.Bank || q.Client != m.Client {
			w.t.Fatalf("removeMappingReq %+v, want %v", q, m)
		}
		p.Send(&rspro.RemoveMappingRes{Result: r})
	} else {
		if q := testnet.Expect[*rspro.CreateMappingReq](p); q.Bank != m.Bank || q.Client != m.Client {
			w.t.Fatalf("createMappingReq %+v, want %v", q, m)
		}
		p.Send(&rspro.CreateMappingRes{Result: r})
	}
	synctest.Wait()
}

// expectTold waits for configClientBankReq and answers it.
func (w *world) expectTold(p *testnet.Peer, b slot.Bank, bankd string) {
	w.t.Helper()
	q := testnet.Expect[*rspro.ConfigClientBankReq](p)
	if q.Bank != b || q.Bankd.String() != bankd {
		w.t.Fatalf("configClientBankReq %+v, want %v at %s", q, b, bankd)
	}
	p.Send(&rspro.ConfigClientBankRes{})
	synctest.Wait()
}

func (w *world) expectState(m slot.Map, want string) {
	w.t.Helper()
	synctest.Wait()
	got := "gone"
	for _, v := range w.Slotmaps() {
		if v.Map == m {
			got = v.State.String()
		}
	}
	if got != want {
		w.t.Fatalf("map %s is %s, want %s", m, got, want)
	}
}

// expectLog checks that a line with text was logged at level or above.
func (w *world) expectLog(text string) {
	w.t.Helper()
	synctest.Wait()
	var lines []string
	for _, e := range w.log.AllEntries() {
		s, err := e.String()
		if err != nil {
			w.t.Fatal(err)
		}
		if strings.Contains(s, text) {
			return
		}
		lines = append(lines, s)
	}
	w.t.Errorf("no log line has %q:\n%s", text, strings.Join(lines, ""))
}

// TestMapping takes a map from its creation to its end, with all that is said on the way.
func TestMapping(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(5, 7)
		c := w.client(m.Client)
		b := w.bank(bankReq(1))
		b.Quiet(time.Minute)
		w.create(m)
		q, pdu := testnet.ExpectPDU[*rspro.CreateMappingReq](b)
		if q.Bank != m.Bank || q.Client != m.Client {
			t.Fatalf("createMappingReq %+v", q)
		}
		w.expectState(m, "UNACKNOWLEDGED")
		c.Quiet(time.Minute)
		b.Reply(pdu, &rspro.CreateMappingRes{})
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
		w.expectState(m, "ACTIVE")
		c.Quiet(time.Minute)

		w.Delete(m.Bank)
		w.expectState(m, "DELETING")
		testnet.Expect[*rspro.RemoveMappingReq](b)
		c.Quiet(time.Minute)
		b.Send(&rspro.RemoveMappingRes{})
		w.expectTold(c, m.Bank, "0.0.0.0:0")
		w.expectState(m, "gone")
		c.Quiet(time.Minute)
		b.Quiet(time.Minute)
	})
}

// TestConnectBank checks what a bankd gets at connect and what shows meanwhile.
func TestConnectBank(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		for n := range uint16(slot.Max + 1) { // more than a bankd can have
			w.create(pair(n, n))
		}
		p := w.dial()
		p.Send(bankReq(1))
		res := testnet.Expect[*rspro.ConnectBankRes](p)
		if want := (rspro.ComponentIdentity{Type: rspro.Server, Name: "srv", Software: "remsim-server", SWVersion: "1"}); res.Identity != want {
			t.Errorf("identity %+v, want %+v", res.Identity, want)
		}
		if res.Features != 0 {
			t.Errorf("features %b, want none", res.Features)
		}
		for _, m := range w.Slotmaps() {
			if m.State != MapUnacknowledged {
				t.Fatalf("%s is %s when connectBankRes is there", m.Map, m.State)
			}
		}
		for n := range uint16(slot.Max + 1) {
			w.expectMap(p, false, pair(n, n), rspro.OK)
		}
		p.Quiet(time.Minute)
	})
}

// TestBankLost lets a bankd go and come back.
func TestBankLost(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		kept, removed, added := pair(0, 7), pair(1, 8), pair(2, 9)
		w.create(kept)
		w.create(removed)
		c7, c8 := w.client(kept.Client), w.client(removed.Client)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, kept, rspro.OK)
		w.expectMap(b, false, removed, rspro.OK)
		w.expectTold(c7, kept.Bank, "10.0.0.7:9999")
		w.expectTold(c8, removed.Bank, "10.0.0.7:9999")

		b.Close()
		w.expectState(kept, "NEW")
		w.Delete(removed.Bank)
		w.create(added)
		w.expectState(removed, "DELETE_REQ")
		w.expectTold(c8, removed.Bank, "0.0.0.0:0")

		b = w.bank(bankReq(1))
		w.expectMap(b, false, kept, rspro.OK)
		w.expectMap(b, false, added, rspro.OK)
		w.expectMap(b, true, removed, rspro.OK)
		w.expectState(kept, "ACTIVE")
		w.expectState(removed, "gone")
		b.Quiet(time.Minute)
		c7.Quiet(time.Second)
		c8.Quiet(time.Second)

		// Lost with a removal unanswered: the client needn't wait for the bankd.
		w.Delete(kept.Bank)
		testnet.Expect[*rspro.RemoveMappingReq](b)
		c7.Quiet(time.Second)
		b.Close()
		w.expectTold(c7, kept.Bank, "0.0.0.0:0")
	})
}

// TestDeleteUnacknowledged deletes a map whose createMappingReq is unanswered.
func TestDeleteUnacknowledged(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(0, 7)
		c := w.client(m.Client)
		b := w.bank(bankReq(1))
		w.create(m)
		testnet.Expect[*rspro.CreateMappingReq](b)
		w.Delete(m.Bank)
		b.Quiet(time.Minute)
		b.Send(&rspro.CreateMappingRes{})
		w.expectMap(b, true, m, rspro.OK)
		w.expectState(m, "gone")
		c.Quiet(time.Minute)
	})
}

// TestRefusedMapping checks that a map whose bankd refuses it isn't taken for active.
func TestRefusedMapping(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(20, 7)
		c := w.client(m.Client)
		w.create(m)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.IllegalSlotID)
		w.expectState(m, "NEW")
		w.expectLog("createMappingReq refused")
		c.Quiet(time.Minute)
		b.Quiet(time.Minute)
		if v, _ := w.Slotmap(m.Bank); v.LastError != "createMapping: illegalSlotId" {
			t.Errorf("lastError %q", v.LastError)
		}
		b.Close()
		b = w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
	})
}

// TestClientBack checks that a client is told once on each connection.
func TestClientBack(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(0, 7)
		w.create(m)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		for range 3 {
			c := w.client(m.Client)
			w.expectTold(c, m.Bank, "10.0.0.7:9999")
			c.Quiet(time.Minute)
			c.Close()
			synctest.Wait()
		}
	})
}

func TestEndpoint(t *testing.T) {
	for _, tt := range []struct{ told, control, want string }{
		{"", "192.0.2.1:40000", "192.0.2.1:9999"},
		{"", "[2001:db8::1]:40000", "[2001:db8::1]:9999"},
		{"", "[fe80::1%eth0]:40000", "[fe80::1]:9999"},
		{"203.0.113.5:10000", "192.0.2.1:40000", "203.0.113.5:10000"},
		{"[2001:db8::5]:10000", "192.0.2.1:40000", "[2001:db8::5]:10000"},
		{"0.0.0.0:10000", "192.0.2.1:40000", "192.0.2.1:10000"},
		{"[::]:10000", "192.0.2.1:40000", "192.0.2.1:10000"},
		{"203.0.113.5:0", "192.0.2.1:40000", "203.0.113.5:9999"},
		{"[::ffff:203.0.113.5]:1", "192.0.2.1:40000", "203.0.113.5:1"},
	} {
		var told netip.AddrPort
		if tt.told != "" {
			told = netip.MustParseAddrPort(tt.told)
		}
		if got := endpoint(told, netip.MustParseAddrPort(tt.control)); got.String() != tt.want {
			t.Errorf("endpoint(%q, %s) = %s, want %s", tt.told, tt.control, got, tt.want)
		}
	}
}

// TestAdvertised checks that clients are sent where the bankd says, over both families.
func TestAdvertised(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		req := bankReq(1)
		req.Endpoint = netip.MustParseAddrPort("[2001:db8::9]:12345")
		m1, m2 := pair(0, 7), slot.Map{Bank: bk(2, 0), Client: cl(8, 0)}
		w.create(m1)
		w.create(m2)
		b1 := w.bank(req)
		w.expectMap(b1, false, m1, rspro.OK)
		b2 := testnet.DialPeer(t, w.net.Host("fd00::7"), "[fd00::1]:9998")
		b2.Send(bankReq(2))
		testnet.Expect[*rspro.ConnectBankRes](b2)
		w.expectMap(b2, false, m2, rspro.OK)
		w.expectTold(w.client(m1.Client), m1.Bank, "[2001:db8::9]:12345")
		w.expectTold(w.client(m2.Client), m2.Bank, "[fd00::7]:9999")
	})
}

// TestIdentify checks the time a connection has to say who it is.
func TestIdentify(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		start := time.Now()
		p := w.dial()
		p.Quiet(identifyTimeout - 1)
		p.ExpectEnd(time.Second)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("closed after %v, want 10s", d)
		}
		w.expectLog("no connect request within 10s")
	})
}

// TestSplitFrames sends a connect request byte by byte, and with the next frame behind it.
func TestSplitFrames(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.create(pair(0, 7))
		p := w.dial()
		synctest.Wait() // for the PONG, which mustn't come in between
		for _, b := range testnet.Frames(t, rspro.PDU{Version: 2, Msg: bankReq(1)}) {
			p.Write([]byte{b})
			synctest.Wait()
		}
		testnet.Expect[*rspro.ConnectBankRes](p)
		w.expectMap(p, false, pair(0, 7), rspro.OK)
		w.expectState(pair(0, 7), "ACTIVE")

		p = w.dial()
		p.SendPDU(rspro.PDU{Version: 2, Msg: clientReq(cl(9, 0))},
			rspro.PDU{Version: 2, Msg: &rspro.ErrorInd{Sender: rspro.Client, Severity: rspro.Minor, Code: 3, Text: "so soon"}})
		testnet.Expect[*rspro.ConnectClientRes](p)
		w.expectLog("so soon")
	})
}

// TestBadInput sends what ended C's server, and more. Its sender loses its connection or is ignored;
// others see nothing of it.
func TestBadInput(t *testing.T) {
	wrong := func(id rspro.ComponentIdentity, typ rspro.ComponentType) rspro.ComponentIdentity {
		id.Type = typ
		return id
	}
	closed := func(t *testing.T, p *testnet.Peer) { p.ExpectEnd(time.Second) }
	unsupported := func(t *testing.T, p *testnet.Peer) {
		if r := p.Next().Msg.(rspro.Response).ResultCode(); r != rspro.UnsupportedProtocolVersion {
			t.Errorf("result %v", r)
		}
		p.ExpectEnd(time.Second)
	}
	// ignored: it may still identify itself
	ignored := func(t *testing.T, p *testnet.Peer) {
		p.Quiet(time.Second)
		p.Send(clientReq(cl(99, 0)))
		testnet.Expect[*rspro.ConnectClientRes](p)
	}
	send := func(m rspro.Message) func(*testnet.Peer) {
		return func(p *testnet.Peer) { p.Send(m) }
	}
	version := func(v uint8, m rspro.Message) func(*testnet.Peer) {
		return func(p *testnet.Peer) { p.SendPDU(rspro.PDU{Version: v, Msg: m}) }
	}
	hex := func(s string) func(*testnet.Peer) {
		return func(p *testnet.Peer) { p.WriteHex(s) }
	}
	client := &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client)}
	for _, tt := range []struct {
		name string
		send func(*testnet.Peer)
		then func(*testing.T, *testnet.Peer)
		log  string
	}{
		{"connectBankReq of a client", send(&rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Client), BankID: 9, NumSlots: 1}), closed, "connectBankReq of a remsimClient"},
		{"connectClientReq of a bankd", send(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Bankd), Slot: &slot.Client{ID: 9}}), closed, "connectClientReq of a remsimBankd"},
		{"connectClientReq of a server", send(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Server), Slot: &slot.Client{ID: 9}}), closed, "connectClientReq of a remsimServer"},
		{"connectClientReq of something else", send(&rspro.ConnectClientReq{Identity: wrong(testnet.Identity(rspro.Client), 17), Slot: &slot.Client{ID: 9}}), closed, "connectClientReq of a 17"},
		{"connectBankReq in version 3", version(3, bankReq(9)), unsupported, "version 3"},
		{"connectClientReq in version 1", version(1, client), unsupported, "version 1"},
		{"errorInd in version 3", version(3, &rspro.ErrorInd{Severity: 1, Code: 1}), closed, "version 3"},
		{"empty RSPRO frame", hex("0000ee"), closed, "empty frame"},
		{"empty CCM frame", hex("0000fe"), closed, "empty frame"},
		{"other stream", hex("0002 77 07 30"), closed, "stream"},
		{"other extension", hex("0002 ee 09 30"), closed, "extension"},
		{"frame too long", hex("ffff ee 07 30"), closed, "too long"},
		{"no BER", hex("0005 ee 07 deadbeef"), closed, "bad PDU"},
		{"unsolicited removeMappingRes", send(&rspro.RemoveMappingRes{}), ignored, "removeMappingRes"},
		{"unsolicited createMappingRes", send(&rspro.CreateMappingRes{}), ignored, "createMappingRes"},
		{"unsolicited configClientBankRes", send(&rspro.ConfigClientBankRes{}), ignored, "configClientBankRes"},
		{"connectBankRes", send(&rspro.ConnectBankRes{Identity: testnet.Identity(rspro.Server)}), ignored, "connectBankRes"},
		{"createMappingReq", send(&rspro.CreateMappingReq{}), ignored, "createMappingReq"},
		{"removeMappingReq", send(&rspro.RemoveMappingReq{}), ignored, "removeMappingReq"},
		{"configClientIdReq", send(&rspro.ConfigClientIDReq{}), ignored, "configClientIdReq"},
		{"resetStateReq", send(&rspro.ResetStateReq{}), ignored, "resetStateReq"},
		{"setAtrReq", send(&rspro.SetAtrReq{ATR: []byte{0x3b, 0}}), ignored, "setAtrReq"},
		{"tpduModemToCard", send(&rspro.TpduModemToCard{Data: []byte{0, 0, 0, 0, 0}}), ignored, "tpduModemToCard"},
		{"clientSlotStatusInd", send(&rspro.ClientSlotStatusInd{}), ignored, "clientSlotStatusInd"},
		{"bankSlotmapsInd", send(&rspro.BankSlotmapsInd{Last: true}), ignored, "bankSlotmapsInd"},
		{"unknown message", send(&rspro.Unknown{Number: 120, Constructed: true}), ignored, "[120]"},
		{"errorInd", send(&rspro.ErrorInd{Severity: 1, Code: 1, Text: "help"}), ignored, "message=errorInd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				m := pair(0, 7)
				w.create(m)
				b := w.bank(bankReq(1))
				w.expectMap(b, false, m, rspro.OK)
				c := w.client(m.Client)
				w.expectTold(c, m.Bank, "10.0.0.7:9999")

				// From somebody unknown.
				p := w.dial()
				tt.send(p)
				tt.then(t, p)
				w.expectLog(tt.log)

				// From a bankd and a client that are connected.
				if strings.HasPrefix(tt.name, "connect") {
					for _, p := range []*testnet.Peer{b, c} {
						if !strings.Contains(tt.name, "version") {
							tt.send(p)
							p.Quiet(time.Second)
						}
					}
				}
				b2, c2 := w.bank(bankReq(2)), w.client(cl(2, 0))
				for _, p := range []*testnet.Peer{b2, c2} {
					tt.send(p)
				}
				w.create(slot.Map{Bank: bk(2, 0), Client: cl(2, 0)})

				b.Quiet(time.Second)
				c.Quiet(time.Second)
				w.Delete(m.Bank)
				w.expectMap(b, true, m, rspro.OK)
				w.expectTold(c, m.Bank, "0.0.0.0:0")
			})
		})
	}
}

// TestStranger connects programs that don't speak RSPRO: the log says what they are.
func TestStranger(t *testing.T) {
	const nothing = "connection without a connect request"
	for _, tt := range []struct{ says, log string }{
		{"GET / HTTP/1.1\r\n\r\n", "looks like HTTP"},
		{"OPTIONS * HTTP/1.1\r\n\r\n", "looks like HTTP"},
		{"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03", "looks like TLS"},
		{"SSH-2.0-OpenSSH_9.2\r\n", "looks like SSH"},
		{"", nothing},
	} {
		inWorld(t, func(t *testing.T, w *world) {
			c, err := w.net.Host("10.0.0.7").Dial(t.Context(), netip.MustParseAddrPort(serverAddr))
			if err != nil {
				t.Fatal(err)
			}
			defer c.Close()
			if _, err := io.WriteString(c, tt.says); err != nil {
				t.Fatal(err)
			}
			if tt.says == "" {
				if _, err := io.ReadFull(c, make([]byte, 4)); err != nil { // a PING
					t.Fatal(err)
				}
				c.Close()
			}
			io.Copy(io.Discard, c) //nolint:errcheck // ends somehow
			w.expectLog(tt.log)
		})
	}
	inWorld(t, func(t *testing.T, w *world) {
		c, err := w.net.Host("10.0.0.7").Dial(t.Context(), netip.MustParseAddrPort(serverAddr))
		if err != nil {
			t.Fatal(err)
		}
		synctest.Wait() // until the PING is there
		c.Close()       // a reset, since it isn't read
		w.expectLog(nothing)
	})
}

// TestStrays checks that nobody can fill the log: by messages out of place, which end the
// connection, nor by what a peer may tell as often as it likes.
func TestStrays(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		fault := &rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 1, Bank: &slot.Bank{ID: 1}}
		noSlot := &rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 9}}}
		flood := func(p *testnet.Peer, n int, m rspro.Message) (lines int) {
			t.Helper()
			synctest.Wait()
			w.log.Reset()
			pdus := make([]rspro.PDU, n)
			for i := range pdus {
				pdus[i] = rspro.PDU{Version: rspro.Version, Msg: m}
			}
			p.Write(testnet.Frames(t, pdus...))
			synctest.Wait()
			return len(w.log.AllEntries())
		}
		for _, m := range []rspro.Message{&rspro.CreateMappingReq{}, &rspro.RemoveMappingRes{}, fault, noSlot} {
			p := w.dial()
			if n := flood(p, 500, m); n != 101 { // and the connection's end
				t.Errorf("%s of a stranger: %d lines, want 101", m.Choice(), n)
			}
			p.ExpectEnd(time.Second)
			w.expectLog("100 messages out of place")
		}
		b := w.bank(telling(1))
		trouble := &rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Error: "mute"}}}
		if n := flood(b, 1000, fault) + flood(b, 1000, trouble); n != 1200 {
			t.Errorf("%d lines, want 1200", n)
		}
		if _, v, _ := w.Slots(1); v[1].LastError != "mute" {
			t.Errorf("slot %+v isn't what was told last", v[1])
		}
		time.Sleep(time.Minute)
		if n := flood(b, 1, fault); n != 2 {
			t.Errorf("%d lines, want one and how many are missing", n)
		}
		w.expectLog("lines=800")
		if n := flood(b, 500, noSlot); n != 101 {
			t.Errorf("%d lines of slots that aren't there, want 101", n)
		}
		b.ExpectEnd(time.Second)
	})
}

// TestPeersText checks that a peer's words don't get into messages, where a line of its own
// could be made of them.
func TestPeersText(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const evil = "x\ntime=now level=error msg=\"all is lost\"\x1b[2J"
		b := w.bank(telling(1))
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 1, Bank: &slot.Bank{ID: 1, Slot: 2}, Text: evil})
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Error: evil, Reader: evil}}})
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 1})
		synctest.Wait()
		texts := 0
		for _, e := range w.log.AllEntries() {
			if strings.Contains(e.Message, "lost") {
				t.Errorf("message %q", e.Message)
			}
			if e.Data["text"] == evil {
				texts++
			}
		}
		if texts != 2 {
			t.Errorf("%d lines with the peer's text, want 2", texts)
		}
	})
}

// TestInUse checks what becomes of a second connection with an identity.
func TestInUse(t *testing.T) {
	connect := map[string]func() rspro.Message{
		"bankd":  func() rspro.Message { return bankReq(1) },
		"client": func() rspro.Message { return clientReq(cl(7, 0)) },
	}
	accepted := func(t *testing.T, p *testnet.Peer) {
		t.Helper()
		if r := p.Next().Msg.(rspro.Response).ResultCode(); r != rspro.OK {
			t.Fatalf("result %v", r)
		}
	}
	for name, req := range connect {
		t.Run(name+"/the first is alive", func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				first := w.dial()
				first.Send(req())
				accepted(t, first)
				start := time.Now()
				second := w.dial()
				second.Send(req())
				if r := second.Next().Msg.(rspro.Response).ResultCode(); r != rspro.IdentityInUse {
					t.Errorf("result %v, want identityInUse", r)
				}
				if d := time.Since(start); d != 0 {
					t.Errorf("refused after %v, want at once", d)
				}
				second.ExpectEnd(2 * time.Second)
				if d := time.Since(start); d != time.Second {
					t.Errorf("closed after %v, want 1s", d)
				}
				first.Quiet(time.Minute)
				w.expectLog(": identityInUse")
			})
		})
		t.Run(name+"/the first is dead", func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				first := w.dial()
				first.Send(req())
				accepted(t, first)
				time.Sleep(time.Second) // its own PING is answered
				first.Mute(true)
				start := time.Now()
				second, third := w.dial(), w.dial()
				second.Send(req())
				time.Sleep(time.Second)
				third.Send(req())
				accepted(t, second)
				if d := time.Since(start); d != 2*time.Second {
					t.Errorf("accepted after %v, want 2s", d)
				}
				first.ExpectEnd(time.Second)
				// Who asked meanwhile is refused for the sake of the one that was accepted.
				if r := third.Next().Msg.(rspro.Response).ResultCode(); r != rspro.IdentityInUse {
					t.Errorf("third: %v, want identityInUse", r)
				}
				second.Quiet(time.Minute)
				if n := len(w.Banks()) + len(w.Clients()); n != 1 {
					t.Errorf("%d peers, want 1", n)
				}
				w.expectLog("another connection claims the identity")
			})
		})
		t.Run(name+"/the second gives up", func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				first := w.dial()
				first.Send(req())
				accepted(t, first)
				synctest.Wait()
				first.Mute(true)
				second := w.dial()
				second.Send(req())
				synctest.Wait()
				second.Close()
				first.Mute(false)
				first.Quiet(3 * time.Second)
			})
		})
	}
}

// A corpse is a holder that is dead.
type corpse struct{ closed func() }

func (corpse) Probe(time.Duration) <-chan bool {
	up := make(chan bool, 1)
	up <- false
	return up
}

func (c corpse) Close(error) { c.closed() }

// TestClaimInOrder checks that who found an identity's holder dead has it before the others that wait for the same are woken, which
// they are by the end of that connection: they came later.
func TestClaimInOrder(t *testing.T) {
	near, far := net.Pipe()
	defer near.Close()
	defer far.Close()
	s := &session{ctx: t.Context(), conn: link.New(near, link.Options{})}
	taken := true
	var steps []string
	old := corpse{func() { steps = append(steps, "close") }}
	if !s.claim(func() (holder, func()) {
		steps = append(steps, "add")
		if taken {
			return old, func() { steps, taken = append(steps, "drop"), false }
		}
		return nil, nil
	}) {
		t.Error("refused")
	}
	if want := []string{"add", "drop", "add", "close"}; !slices.Equal(steps, want) {
		t.Errorf("%v, want %v", steps, want)
	}
}

// TestDeadClient checks that a peer that answers no PING goes, and may come back.
func TestDeadClient(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		start := time.Now()
		c := w.client(cl(7, 0))
		synctest.Wait()
		c.Mute(true)
		c.ExpectEnd(time.Minute)
		if d := time.Since(start); d != 40*time.Second {
			t.Errorf("closed after %v, want 40s", d)
		}
		synctest.Wait()
		if l := w.Clients(); len(l) != 0 {
			t.Errorf("clients %v", l)
		}
		w.client(cl(7, 0)).Quiet(time.Minute)
	})
}

// TestAssignSession connects clients without a slot of their own.
func TestAssignSession(t *testing.T) {
	auto := &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client)}
	assigned := func(w *world) *testnet.Peer {
		w.State.pool = &IDPool{900, 901}
		p := w.dial()
		p.Send(auto)
		if r := testnet.Expect[*rspro.ConnectClientRes](p).Result; r != rspro.OK {
			w.t.Fatalf("connectClientRes %v", r)
		}
		if q := testnet.Expect[*rspro.ConfigClientIDReq](p); q.Slot != cl(900, 0) {
			w.t.Fatalf("assigned %v", q.Slot)
		}
		synctest.Wait()
		if c, _ := w.Client(cl(900, 0)); c.State() != "WAIT_CONFIG_RES" {
			w.t.Fatalf("client is %+v", c)
		}
		return p
	}
	t.Run("agreed", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			b := w.bank(bankReq(1))
			p := assigned(w)
			m := slot.Map{Bank: bk(1, 0), Client: cl(900, 0)}
			w.create(m)
			w.expectMap(b, false, m, rspro.OK)
			p.Quiet(time.Second) // nothing before its answer
			p.Send(&rspro.ConfigClientIDRes{})
			w.expectTold(p, m.Bank, "10.0.0.7:9999")
			if c, _ := w.Client(m.Client); c.State() != "CONNECTED_CLIENT" {
				t.Errorf("client is %+v", c)
			}
		})
	})
	t.Run("refused", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			p := assigned(w)
			p.Send(&rspro.ConfigClientIDRes{Result: rspro.IllegalClientID})
			p.ExpectEnd(time.Second)
			w.expectLog("configClientIdRes: illegalClientId")
		})
	})
	t.Run("no answer", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			start := time.Now()
			p := assigned(w)
			p.ExpectEnd(time.Minute)
			if d := time.Since(start); d != 10*time.Second {
				t.Errorf("closed after %v, want 10s", d)
			}
		})
	})
	t.Run("has left when its slot is stored", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			store := newTestStore()
			inWorldOf(t, Env{Store: store}, Config{ClientIDPool: &IDPool{900, 901}}, func(w *world) {
				store.fail = func() error { time.Sleep(2 * time.Second); return nil }
				p := w.dial()
				p.Send(auto)
				time.Sleep(time.Second)
				p.Close()
				time.Sleep(2 * time.Second)
				if l := w.Assignments(); len(l) != 1 {
					t.Errorf("assigned: %+v", l)
				}
				if l := w.Clients(); len(l) > 0 {
					t.Errorf("still there: %+v", l)
				}
			})
		})
	})
	for _, tt := range []struct {
		name, log string
		pool      *IDPool
	}{
		{"no pool", "no pool of client ids", nil},
		{"none free", "no client id of the pool is free", &IDPool{7, 7}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.State.pool = tt.pool
				w.client(cl(7, 0))
				p := w.dial()
				p.Send(auto)
				if r := testnet.Expect[*rspro.ConnectClientRes](p).Result; r != rspro.IllegalClientID {
					t.Errorf("connectClientRes %v", r)
				}
				p.ExpectEnd(2 * time.Second)
				w.expectLog(tt.log)
			})
		})
	}
}

// TestClientAnswers checks what a client's answers leave behind.
func TestClientAnswers(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(0, 7)
		w.create(m)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		c := w.client(m.Client)
		testnet.Expect[*rspro.ConfigClientBankReq](c)
		synctest.Wait()
		v, _ := w.Client(m.Client)
		if want := (Target{m.Bank, netip.MustParseAddrPort("10.0.0.7:9999")}); v.Told != want || v.Answered {
			t.Errorf("client %+v", v)
		}
		c.Send(&rspro.ConfigClientBankRes{Result: rspro.IllegalBankID})
		c.Quiet(time.Minute)
		if v, _ = w.Client(m.Client); !v.Answered || v.Answer != rspro.IllegalBankID || v.LastError == "" {
			t.Errorf("client %+v", v)
		}
		c.Close()
		c = w.client(m.Client)
		testnet.Expect[*rspro.ConfigClientBankReq](c)
		c.Quiet(time.Minute)
		w.expectLog("no configClientBankRes within 10s")
		c.Send(&rspro.ConfigClientBankRes{}) // late: its line was dead for a while
		synctest.Wait()
		if v, _ = w.Client(m.Client); !v.Answered || v.Answer != rspro.OK {
			t.Errorf("client %+v after a late answer", v)
		}
	})
}

// TestErrorInd checks that what peers complain of is logged and shown.
func TestErrorInd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(0, 7)
		w.create(m)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: rspro.UnexpectedDisconnect, Bank: &m.Bank, Client: &m.Client, Text: "card is mute"})
		w.expectLog("card is mute")
		bank, _ := w.Bank(1)
		sm, _ := w.Slotmap(m.Bank)
		for _, s := range []string{bank.LastError, sm.LastError} {
			if !strings.Contains(s, "card is mute") {
				t.Errorf("lastError %q", s)
			}
		}
		// Others have no say about the bank's slots.
		c := w.client(m.Client)
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
		c.Send(&rspro.ErrorInd{Sender: rspro.Client, Severity: rspro.Minor, Code: 1, Bank: &m.Bank, Text: "hearsay"})
		w.expectLog("hearsay")
		if sm, _ = w.Slotmap(m.Bank); strings.Contains(sm.LastError, "hearsay") {
			t.Errorf("lastError %q", sm.LastError)
		}
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Minor, Code: 77})
		w.expectLog("code 77")
	})
}

// TestUnidentifiedLimit checks that connections that say nothing are bounded in number, and
// keep nobody out.
func TestUnidentifiedLimit(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		c := w.client(cl(7, 0))
		var idle []*testnet.Peer
		for i := range maxUnidentified {
			idle = append(idle, w.dial())
			if i < 2 {
				synctest.Wait() // so that it is accepted before the next one
			}
		}
		synctest.Wait()
		w.client(cl(8, 0))
		idle[0].ExpectEnd(time.Second)
		w.expectLog("2048 others came after it")
		w.dial() // the accepted one has left its place
		synctest.Wait()
		idle[1].Send(clientReq(cl(9, 0)))
		testnet.Expect[*rspro.ConnectClientRes](idle[1])
		c.Quiet(time.Second)
	})
}

// TestEnd checks that the server ends at once with peers in all states, and tells nobody anything.
func TestEnd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.create(pair(0, 7))
		peers := []*testnet.Peer{w.dial(), w.bank(bankReq(1)), w.client(cl(7, 0))}
		testnet.Expect[*rspro.CreateMappingReq](peers[1])
		muted := w.client(cl(8, 0))
		synctest.Wait() // its first PONG has come, and is no sign of life later
		muted.Mute(true)
		second := w.dial()
		second.Send(clientReq(cl(8, 0)))
		synctest.Wait()
		start := time.Now()
		if err := w.stop(); err != nil {
			t.Errorf("Run: %v", err)
		}
		if d := time.Since(start); d > time.Second {
			t.Errorf("ended after %v", d)
		}
		for _, p := range append(peers, muted, second) {
			p.ExpectEnd(time.Second)
		}
	})
}

// TestListenFails checks that a port in use ends the server, whose start doesn't count then.
func TestListenFails(t *testing.T) {
	for port, want := range map[int]string{9998: "listen for RSPRO on :9998", 9997: "listen for REST on :9997"} {
		t.Run(fmt.Sprint(port), func(t *testing.T) {
			host := testnet.New().Host("10.0.0.1")
			ln, err := host.Listen(t.Context(), fmt.Sprintf(":%d", port))
			if err != nil {
				t.Fatal(err)
			}
			defer ln.Close()
			log, _ := logtest.NewNullLogger()
			store := newTestStore()
			err = Run(t.Context(), Config{RSPROListen: ":9998", RESTListen: ":9997"}, Env{
				Net: host, Log: log, Store: store,
				REST: func(context.Context, net.Listener, *State, *logrus.Entry) error { return nil },
			})
			if !errors.Is(err, syscall.EADDRINUSE) || !strings.Contains(fmt.Sprint(err), want) {
				t.Errorf("Run = %v", err)
			}
			if store.starts != 0 {
				t.Errorf("%d starts are counted", store.starts)
			}
		})
	}
}

// TestServiceFails checks that a service that fails ends the server with its reason.
func TestServiceFails(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	broken := errors.New("broken")
	err := Run(t.Context(), Config{RSPROListen: ":9998", RESTListen: ":9997"}, Env{
		Net: testnet.New().Host("10.0.0.1"), Log: log,
		REST: func(context.Context, net.Listener, *State, *logrus.Entry) error { return broken },
	})
	if !errors.Is(err, broken) {
		t.Errorf("Run = %v", err)
	}
}

// TestReport checks what SIGUSR1 shows.
func TestReport(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		m := pair(0, 7)
		w.create(m)
		b := w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		w.expectTold(w.client(m.Client), m.Bank, "10.0.0.7:9999")
		var out strings.Builder
		w.Report(&out)
		words := strings.Fields(out.String())
		for _, want := range []string{"B1", "CONNECTED_BANKD", "C7:0", "CONNECTED_CLIENT", "C7:0=B1:0", "ACTIVE"} {
			if !slices.Contains(words, want) {
				t.Errorf("%q is not in the report:\n%s", want, out.String())
			}
		}
	})
}
