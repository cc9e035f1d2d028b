// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// A callBench is a Caller on a host of its own and, where a test listens, a server.
type callBench struct {
	t      *testing.T
	net    *testnet.Net
	server *testnet.Host
	near   *testnet.Host
	caller *link.Caller
	log    *test.Hook
	start  time.Time
	mu     sync.Mutex
	events []string // states and ends, with their times
	cancel context.CancelFunc
	ended  chan error
}

const serverAddr = "10.0.0.1:9998"

func newCallBench(t *testing.T) *callBench {
	b := &callBench{t: t, net: testnet.New(), start: time.Now(), ended: make(chan error, 1)}
	b.server, b.near = b.net.Host("10.0.0.1", "fd00::1"), b.net.Host("10.0.0.2", "fd00::2")
	logger, hook := test.NewNullLogger()
	logger.Level = logrus.DebugLevel
	b.log = hook
	b.caller = &link.Caller{
		Net: b.near, Addr: serverAddr, Want: rspro.Server,
		Hello: func() rspro.Message {
			return &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &slot.Client{ID: 7}}
		},
		Down:    func(err error) { b.note("down: " + err.Error()) },
		OnState: func(s link.State) { b.note(s.String()) },
		Log:     logrus.NewEntry(logger),
	}
	return b
}

func (b *callBench) note(s string) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.events = append(b.events, fmt.Sprintf("%v %s", time.Since(b.start).Round(time.Millisecond), s))
}

func (b *callBench) run() {
	ctx, cancel := context.WithCancel(context.Background())
	b.cancel = cancel
	go func() { b.ended <- b.caller.Run(ctx) }()
	b.t.Cleanup(func() {
		cancel()
		synctest.Wait()
	})
}

func (b *callBench) listen() net.Listener {
	b.t.Helper()
	ln, err := b.server.Listen(b.t.Context(), ":9998")
	if err != nil {
		b.t.Fatal(err)
	}
	b.t.Cleanup(func() { ln.Close() })
	return ln
}

// take returns the events since the last call.
func (b *callBench) take() []string {
	synctest.Wait()
	b.mu.Lock()
	defer b.mu.Unlock()
	events := b.events
	b.events = nil
	return events
}

// want compares the events since the last call.
func (b *callBench) want(events ...string) {
	b.t.Helper()
	if got, want := strings.Join(b.take(), "\n"), strings.Join(events, "\n"); got != want {
		b.t.Errorf("got:\n%s\nwant:\n%s", got, want)
	}
}

// lines returns the log lines of a level.
func (b *callBench) lines(level logrus.Level) (lines []string) {
	for _, e := range b.log.AllEntries() {
		if e.Level == level {
			lines = append(lines, fmt.Sprint(e.Message, ": ", e.Data[logrus.ErrorKey]))
		}
	}
	return lines
}

// accept lets the caller in.
func accept(p *testnet.Peer) {
	testnet.Expect[*rspro.ConnectClientReq](p)
	p.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
}

func TestCaller(t *testing.T) {
	in(t, "accepted, lost, back", func(t *testing.T) {
		b := newCallBench(t)
		var got []string
		b.caller.Handle = func(c *link.Conn, p rspro.PDU) {
			got = append(got, p.Msg.Choice().String())
			c.Reply(p, &rspro.ConfigClientBankRes{})
		}
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		b.want("0s REESTABLISH", "0s ESTABLISHED")
		time.Sleep(time.Second)
		accept(p)
		b.want("1s CONNECTED")
		p.Send(&rspro.ConfigClientBankReq{Bankd: netip.MustParseAddrPort("10.0.0.3:9999")})
		testnet.Expect[*rspro.ConfigClientBankRes](p)
		if fmt.Sprint(got) != "[configClientBankReq]" {
			t.Errorf("handed out %v", got)
		}
		time.Sleep(time.Minute)
		p.Close()
		p = testnet.AcceptPeer(t, ln)
		accept(p)
		b.want("1m1s down: EOF", "1m1s REESTABLISH", "1m1s ESTABLISHED", "1m1s CONNECTED")
		b.cancel()
		if err := <-b.ended; err != context.Canceled {
			t.Errorf("Run returned %v, want %v", err, context.Canceled)
		}
		b.want("1m1s down: context canceled")
		p.ExpectEnd(time.Second)
	})
	in(t, "response and request in one segment", func(t *testing.T) {
		b := newCallBench(t)
		b.caller.Accept = func(_ *link.Conn, m rspro.Response) error {
			b.note("accept " + m.ResultCode().String())
			return nil
		}
		b.caller.Handle = func(_ *link.Conn, p rspro.PDU) { b.note(p.Msg.Choice().String()) }
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		testnet.Expect[*rspro.ConnectClientReq](p)
		atr := rspro.PDU{Version: 2, Msg: &rspro.SetAtrReq{ATR: []byte{0x3b}}}
		p.SendPDU(
			atr, // too early: ignored
			rspro.PDU{Version: 2, Tag: 2342, Msg: &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server), Result: rspro.CardNotPresent}},
			atr)
		b.want("0s REESTABLISH", "0s ESTABLISHED", "0s accept cardNotPresent", "0s CONNECTED", "0s setAtrReq")
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "before the connect response") {
			t.Errorf("warnings %q", w)
		}
	})
	in(t, "refused connections follow the schedule", func(t *testing.T) {
		b := newCallBench(t)
		b.run()
		time.Sleep(1500 * time.Millisecond) // three attempts at once, one after 1 to 1.2 s
		// The last attempt and its delay are at a time that jitter decides.
		if got := strings.Join(b.take(), ","); !strings.HasPrefix(got, "0s REESTABLISH,0s REESTABLISH,0s REESTABLISH,0s REESTABLISH_DELAY,1") || strings.Count(got, ",") != 5 {
			t.Errorf("got %s", got)
		}
		time.Sleep(38 * time.Second)
		last, gaps := time.Duration(0), map[time.Duration]bool{}
		for _, e := range b.take() {
			at, state, _ := strings.Cut(e, " ")
			d, err := time.ParseDuration(at)
			if err != nil {
				t.Fatal(err)
			}
			if state == "REESTABLISH" {
				if gap := d - last; last > 0 && d < 30*time.Second {
					gaps[gap] = true
					if gap < time.Second || gap > 1201*time.Millisecond {
						t.Errorf("attempt %v after the one before, want 1 s to 1.2 s", gap)
					}
				}
				last = d
			}
		}
		if len(gaps) < 5 {
			t.Errorf("delays without jitter: %v", gaps)
		}
		time.Sleep(time.Hour)
		if w := b.lines(logrus.WarnLevel); len(w) != 5 || !strings.Contains(w[0], "connection refused") {
			t.Errorf("in an hour %d warnings, want one a step, the attempts without delay in the first: %q", len(w), w)
		}
	})
	in(t, "unreachable host has 10 s", func(t *testing.T) {
		b := newCallBench(t)
		b.server.Down()
		b.run()
		time.Sleep(30 * time.Second)
		b.want("0s REESTABLISH", "10s REESTABLISH", "20s REESTABLISH", "30s REESTABLISH")
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "no connection within 10s") {
			t.Errorf("warnings %q, want one", w)
		}
	})
	in(t, "silent server has 10 s", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		testnet.Expect[*rspro.ConnectClientReq](p)
		time.Sleep(10*time.Second - 1)
		b.want("0s REESTABLISH", "0s ESTABLISHED")
		time.Sleep(time.Nanosecond)
		b.want("10s REESTABLISH", "10s ESTABLISHED")
		p.ExpectEnd(time.Second)
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "no response in time: connectClientReq, 10s") {
			t.Errorf("warnings %q", w)
		}
	})
	in(t, "no response but in time", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		time.Sleep(10*time.Second - 1)
		accept(p)
		time.Sleep(time.Second)
		b.want("0s REESTABLISH", "0s ESTABLISHED", "10s CONNECTED")
	})
	in(t, "refused by result", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		for range 3 {
			p := testnet.AcceptPeer(t, ln)
			testnet.Expect[*rspro.ConnectClientReq](p)
			p.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server), Result: rspro.IdentityInUse})
			p.ExpectEnd(time.Second)
		}
		b.want("0s REESTABLISH", "0s ESTABLISHED", "0s REESTABLISH", "0s ESTABLISHED", "0s REESTABLISH", "0s ESTABLISHED", "0s REESTABLISH_DELAY")
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "refused with identityInUse") {
			t.Errorf("warnings %q", w)
		}
	})
	in(t, "refused by Accept", func(t *testing.T) {
		b := newCallBench(t)
		b.caller.Accept = func(*link.Conn, rspro.Response) error { return errBoom }
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		accept(p)
		p.ExpectEnd(time.Second)
		b.want("0s REESTABLISH", "0s ESTABLISHED", "0s REESTABLISH", "0s ESTABLISHED")
	})
	in(t, "wrong peer", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		for range 3 {
			p := testnet.AcceptPeer(t, ln)
			testnet.Expect[*rspro.ConnectClientReq](p)
			p.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
			p.ExpectEnd(time.Second)
		}
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "10.0.0.1:9998 is a remsim-bankd, expected remsim-server") {
			t.Errorf("warnings %q", w)
		}
		synctest.Wait()
		// 0 s, then twice the slowest step
		if d := time.Since(b.start); d < 32*time.Second || d > 39*time.Second {
			t.Errorf("third attempt after %v, want 32 s to 38.4 s", d)
		}
	})
	in(t, "accepted and closed at once", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		n := 0
		for ; time.Since(b.start) < time.Hour; n++ {
			p := testnet.AcceptPeer(t, ln)
			accept(p)
			synctest.Wait()
			p.Close()
		}
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); n < 200 || len(w) != 5 || !strings.Contains(w[4], "connection lost: EOF") {
			t.Errorf("in %d connections %d warnings, want one a step: %q", n, len(w), w)
		}
		if i := b.lines(logrus.InfoLevel); len(i) != 1 {
			t.Errorf("said %d times that it is connected, want once: %q", len(i), i)
		}
		// One that holds is said, and so is its end.
		b.log.Reset()
		for range 2 {
			p := testnet.AcceptPeer(t, ln)
			accept(p)
			time.Sleep(5 * time.Second)
			synctest.Wait()
			p.Close()
		}
		synctest.Wait()
		if i, w := b.lines(logrus.InfoLevel), b.lines(logrus.WarnLevel); len(i) != 2 || len(w) != 2 {
			t.Errorf("said %q and %q, want two each", i, w)
		}
	})
	in(t, "closed without a word", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		synctest.Wait() // what it didn't read would be answered with a reset
		p.Close()
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "10.0.0.1:9998 closed the connection without a connect response") {
			t.Errorf("warnings %q", w)
		}
	})
	in(t, "a peer of another version", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		p.SendPDU(rspro.PDU{Version: 3, Tag: 2342, Msg: &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)}})
		testnet.Expect[*rspro.ConnectClientReq](p)
		p.ExpectEnd(time.Second)
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "unsupported protocol version 3 (connectClientRes)") {
			t.Errorf("warnings %q", w)
		}
	})
	in(t, "schedule starts anew after a long connection", func(t *testing.T) {
		b := newCallBench(t)
		b.run()
		time.Sleep(20 * time.Second)
		ln := b.listen()
		p := testnet.AcceptPeer(t, ln)
		accept(p)
		time.Sleep(40 * time.Second)
		b.take()
		p.Close()
		ln.Close()
		got := strings.Join(b.take(), ",")
		if n := strings.Count(got, "REESTABLISH,") + strings.Count(got, "REESTABLISH_DELAY"); n != 4 {
			t.Errorf("%d attempts at once, want 3: %s", n-1, got)
		}
	})
	in(t, "ends while it waits", func(t *testing.T) {
		b := newCallBench(t)
		b.server.Down()
		b.run()
		time.Sleep(3 * time.Second)
		b.cancel()
		if err := <-b.ended; !errors.Is(err, context.Canceled) || time.Since(b.start) != 3*time.Second {
			t.Errorf("%v after %v", err, time.Since(b.start))
		}
	})
}

func TestCallerAddresses(t *testing.T) {
	// connects returns how long it takes until somebody is let in.
	connects := func(t *testing.T, b *callBench, ln net.Listener) (*testnet.Peer, time.Duration) {
		t.Helper()
		b.run()
		p := testnet.AcceptPeer(t, ln)
		accept(p)
		synctest.Wait()
		return p, time.Since(b.start)
	}
	for _, addr := range []string{serverAddr, "[fd00::1]:9998", "both:9998", "localhost:9998"} {
		in(t, addr, func(t *testing.T) {
			b := newCallBench(t)
			b.net.Name("both", "fd00::1", "10.0.0.1")
			if addr == "localhost:9998" {
				b.server = b.near
			}
			b.caller.Addr = addr
			if _, d := connects(t, b, b.listen()); d != 0 {
				t.Errorf("connected after %v", d)
			}
		})
	}
	in(t, "second address when the first refuses", func(t *testing.T) {
		b := newCallBench(t)
		b.net.Name("server", "fd00::1", "10.0.0.1")
		b.caller.Addr = "server:9998"
		ln, err := b.server.Listen(t.Context(), "0.0.0.0:9998")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		p, d := connects(t, b, ln)
		if d != 0 {
			t.Errorf("connected after %v, want at once", d)
		}
		if a := p.Conn().RemoteAddr().String(); !strings.HasPrefix(a, "10.0.0.2:") {
			t.Errorf("connected from %v", a)
		}
	})
	in(t, "third address when the others are silent", func(t *testing.T) {
		b := newCallBench(t)
		b.net.Host("10.0.0.8").Down()
		b.net.Host("fd00::8").Down()
		b.net.Name("server", "fd00::8", "10.0.0.8", "10.0.0.1")
		b.caller.Addr = "server:9998"
		if _, d := connects(t, b, b.listen()); d != 500*time.Millisecond {
			t.Errorf("connected after %v, want 500ms", d)
		}
	})
	in(t, "only one of two is kept", func(t *testing.T) {
		b := newCallBench(t)
		slow := b.net.Host("10.0.0.8")
		b.net.Name("server", "10.0.0.8", "10.0.0.1")
		b.caller.Addr = "server:9998"
		slowLn, err := slow.Listen(t.Context(), ":9998")
		if err != nil {
			t.Fatal(err)
		}
		defer slowLn.Close()
		b.near.Delay(400 * time.Millisecond) // both dials are under way
		b.run()
		p := testnet.AcceptPeer(t, slowLn)
		accept(p)
		time.Sleep(time.Minute)
		if n := b.server.Conns(); n != 0 {
			t.Errorf("%d connections to the loser", n)
		}
	})
	in(t, "name is looked up anew", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		b.caller.Addr = "server:9998"
		b.run()
		time.Sleep(5 * time.Second)
		if w := b.lines(logrus.WarnLevel); len(w) != 1 || !strings.Contains(w[0], "no such host") {
			t.Errorf("warnings %q", w)
		}
		b.net.Name("server", "10.0.0.1")
		p := testnet.AcceptPeer(t, ln)
		accept(p)
		b.net.Name("server", "10.0.0.9")
		ln2, err := b.net.Host("10.0.0.9").Listen(t.Context(), ":9998")
		if err != nil {
			t.Fatal(err)
		}
		defer ln2.Close()
		p.Close()
		accept(testnet.AcceptPeer(t, ln2))
	})
	in(t, "all fail", func(t *testing.T) {
		b := newCallBench(t)
		b.net.Name("server", "fd00::1", "10.0.0.1", "10.0.0.77")
		b.caller.Addr = "server:9998"
		b.run()
		synctest.Wait()
		w := b.lines(logrus.WarnLevel)
		for _, part := range []string{"[fd00::1]:9998", "10.0.0.1:9998", "10.0.0.77:9998", "refused", "no route"} {
			if len(w) == 0 || !strings.Contains(w[0], part) {
				t.Errorf("%q lacks %q", w, part)
			}
		}
	})
	in(t, "no port", func(t *testing.T) {
		b := newCallBench(t)
		b.caller.Addr = "server"
		b.run()
		synctest.Wait()
		if w := b.lines(logrus.WarnLevel); len(w) == 0 || !strings.Contains(w[0], "missing port") {
			t.Errorf("warnings %q", w)
		}
	})
}

// A Caller and a listener of ours, with a message through.
func TestCallerAndServe(t *testing.T) {
	in(t, "", func(t *testing.T) {
		b := newCallBench(t)
		ln := b.listen()
		ctx, cancel := context.WithCancel(t.Context())
		served := make(chan error, 1)
		go func() {
			served <- link.Serve(ctx, ln, nil, func(ctx context.Context, nc net.Conn) {
				err := link.New(nc, link.Options{Listener: true, Handle: func(c *link.Conn, p rspro.PDU) {
					switch m := p.Msg.(type) {
					case *rspro.ConnectClientReq:
						c.Reply(p, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
					case *rspro.TpduModemToCard:
						c.Send(&rspro.TpduCardToModem{From: m.To, To: m.From, Data: []byte{0x90, 0}})
						c.Finish(nil)
					}
				}}).Run(ctx)
				if err != nil {
					t.Errorf("connection ended with %v", err)
				}
			})
		}()
		b.caller.Accept = func(c *link.Conn, m rspro.Response) error {
			return c.Send(&rspro.TpduModemToCard{From: client, To: bank, Data: []byte{0xa0, 0xa4, 0, 0, 2}})
		}
		down := make(chan error, 1)
		b.caller.Handle = func(_ *link.Conn, p rspro.PDU) { b.note(p.Msg.Choice().String()) }
		b.caller.Down = func(err error) {
			down <- err
			b.cancel()
		}
		b.run()
		if err := <-down; err != io.EOF {
			t.Errorf("went down with %v", err)
		}
		b.want("0s REESTABLISH", "0s ESTABLISHED", "0s CONNECTED", "0s tpduCardToModem")
		cancel()
		if err := <-served; err != nil {
			t.Error(err)
		}
	})
}

func TestNames(t *testing.T) {
	for s, want := range map[link.State]string{
		link.Init: "INIT", link.Established: "ESTABLISHED", link.Connected: "CONNECTED",
		link.ReestablishDelay: "REESTABLISH_DELAY", link.Reestablish: "REESTABLISH", 17: "State(17)",
	} {
		if s.String() != want {
			t.Errorf("got %q, want %q", s, want)
		}
	}
	for got, want := range map[rspro.ComponentType]string{
		rspro.Client: "A is a remsim-client, expected remsim-server",
		rspro.Bankd:  "A is a remsim-bankd, expected remsim-server",
		9:            "A is a component of type 9, expected remsim-server",
	} {
		if err := (&link.WrongPeerError{Addr: "A", Got: got, Want: rspro.Server}); err.Error() != want {
			t.Errorf("got %q, want %q", err, want)
		}
	}
}
