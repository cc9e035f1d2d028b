// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// A bench is a Conn with a scripted peer at its other end.
type bench struct {
	t     *testing.T
	net   *testnet.Net
	near  *testnet.Host // the Conn's
	far   *testnet.Host // the peer's
	conn  *link.Conn
	peer  *testnet.Peer
	start time.Time
	ended chan error // what Run returned
	after time.Duration
	log   *test.Hook
}

// newBench connects a Conn and runs it; the Conn is the accepting end if o.Listener.
func newBench(t *testing.T, o link.Options) *bench { return newMuteBench(t, o, false) }

// newMuteBench is newBench with a peer that may never answer a PING.
func newMuteBench(t *testing.T, o link.Options, mute bool) *bench {
	t.Helper()
	b := &bench{t: t, net: testnet.New(), start: time.Now(), ended: make(chan error, 1)}
	b.near, b.far = b.net.Host("10.0.0.1"), b.net.Host("10.0.0.2")
	from, to := b.near, b.far
	if o.Listener {
		from, to = to, from
	}
	ln, err := to.Listen(t.Context(), ":9998")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	addr := netip.MustParseAddrPort("10.0.0.1:9998")
	if to == b.far {
		addr = netip.MustParseAddrPort("10.0.0.2:9998")
	}
	dialled, err := from.Dial(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	accepted, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	nc, peer := dialled, accepted
	if o.Listener {
		nc, peer = peer, nc
	}
	logger, hook := test.NewNullLogger()
	logger.Level = logrus.DebugLevel
	o.Log = logrus.NewEntry(logger)
	b.log = hook
	b.conn = link.New(nc, o)
	b.peer = testnet.NewPeer(t, peer)
	b.peer.Mute(mute)
	ctx, cancel := context.WithCancel(context.Background())
	go func() {
		err := b.conn.Run(ctx)
		b.after = time.Since(b.start)
		b.ended <- err
	}()
	t.Cleanup(func() {
		cancel()
		b.conn.Close(nil)
		synctest.Wait()
	})
	return b
}

// wantEnd passes when Run returns an error like want, after exactly that time since the start.
func (b *bench) wantEnd(want error, after time.Duration) {
	b.t.Helper()
	select {
	case err := <-b.ended:
		if !errors.Is(err, want) {
			b.t.Errorf("Run returned %v, want %v", err, want)
		}
		if b.after != after {
			b.t.Errorf("Run returned after %v, want %v", b.after, after)
		}
	case <-time.After(time.Hour):
		b.t.Fatalf("Run goes on, want %v after %v", want, after)
	}
}

// logged reports whether there is a log line of this level with these words.
func (b *bench) logged(level logrus.Level, words string) bool {
	for _, e := range b.log.AllEntries() {
		if s, _ := e.String(); e.Level == level && strings.Contains(s, words) {
			return true
		}
	}
	return false
}

// in runs a test in a bubble of its own.
func in(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

var (
	bank   = slot.Bank{ID: 1, Slot: 2}
	client = slot.Client{ID: 3, Slot: 4}
)

func bothEnds(t *testing.T, name string, f func(t *testing.T, o link.Options)) {
	for _, listener := range []bool{false, true} {
		end := map[bool]string{false: " at the caller", true: " at the listener"}[listener]
		in(t, name+end, func(t *testing.T) { f(t, link.Options{Listener: listener}) })
	}
}

func TestKeepAlive(t *testing.T) {
	bothEnds(t, "PING 30 s after each PONG", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		for k := range 100 {
			synctest.Wait()
			if n := b.peer.Pings(); n != k+1 {
				t.Fatalf("%v: %d PINGs, want %d", time.Since(b.start), n, k+1)
			}
			time.Sleep(30*time.Second - 1)
			synctest.Wait()
			if n := b.peer.Pings(); n != k+1 {
				t.Fatalf("%v: %d PINGs, want %d", time.Since(b.start), n, k+1)
			}
			time.Sleep(time.Nanosecond)
		}
	})
	bothEnds(t, "PING counts from the PONG", func(t *testing.T, o link.Options) {
		b := newMuteBench(t, o, true)
		synctest.Wait()
		if b.peer.Pings() != 1 {
			t.Fatal("no PING when the connection is up")
		}
		time.Sleep(9999 * time.Millisecond)
		b.peer.WriteHex("0001fe01")
		time.Sleep(30*time.Second - 1)
		synctest.Wait()
		if b.peer.Pings() != 1 {
			t.Error("PING before 30 s")
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if b.peer.Pings() != 2 {
			t.Error("no PING after 30 s")
		}
		b.wantEnd(link.ErrNoPong, 9999*time.Millisecond+40*time.Second)
	})
	bothEnds(t, "no PONG", func(t *testing.T, o link.Options) {
		b := newMuteBench(t, o, true)
		// Life of another kind doesn't do.
		time.Sleep(5 * time.Second)
		b.peer.WriteHex("0001fe00")
		b.peer.Send(&rspro.ResetStateReq{})
		b.wantEnd(link.ErrNoPong, 10*time.Second)
	})
	bothEnds(t, "peer's host is gone", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		time.Sleep(29 * time.Second)
		b.far.Down()
		b.wantEnd(link.ErrNoPong, 40*time.Second)
	})
	bothEnds(t, "another interval and time-out", func(t *testing.T, o link.Options) {
		o.KeepAlive = link.KeepAlive{Interval: 2 * time.Minute, Timeout: time.Second}
		b := newBench(t, o)
		time.Sleep(2*time.Minute - 1)
		synctest.Wait()
		if n := b.peer.Pings(); n != 1 {
			t.Fatalf("%d PINGs before the interval has passed, want 1", n)
		}
		b.far.Down()
		b.wantEnd(link.ErrNoPong, 2*time.Minute+time.Second)
	})
	bothEnds(t, "another time-out for the first PONG", func(t *testing.T, o link.Options) {
		o.KeepAlive = link.KeepAlive{Timeout: time.Minute}
		b := newMuteBench(t, o, true)
		b.wantEnd(link.ErrNoPong, time.Minute)
	})
	// What is sent to it stays in the stream's buffer, and a stalled writer has its own time-out: neither
	// may hide that there is no PONG, or make that come later.
	bothEnds(t, "peer's host is gone while it is sent to", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		time.Sleep(time.Second)
		b.far.Down()
		var sender sync.WaitGroup
		sender.Go(func() {
			for b.conn.Send(&rspro.TpduModemToCard{From: client, To: bank, Data: make([]byte, 200)}) == nil {
				time.Sleep(time.Second)
			}
		})
		b.wantEnd(link.ErrNoPong, 40*time.Second)
		sender.Wait()
	})
	bothEnds(t, "PONG without a PING", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		synctest.Wait()
		time.Sleep(10 * time.Second)
		b.peer.WriteHex("0001fe01")
		time.Sleep(30 * time.Second)
		synctest.Wait()
		if n := b.peer.Pings(); n != 2 {
			t.Errorf("%d PINGs, want 2", n)
		}
	})
	bothEnds(t, "PING is answered", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		for range 3 {
			b.peer.WriteHex("0001fe00")
			b.peer.ExpectCCM(ipa.Pong)
		}
	})
}

func TestControl(t *testing.T) {
	in(t, "a caller answers ID_GET", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.peer.WriteHex("0005fe04 0108 0101")
		if got, want := fmt.Sprintf("%x", b.peer.ExpectCCM(ipa.IDResp)), "050007"+"08302f302f3000"+"001301"+"30302d30302d30302d30302d30302d303000"; got != want {
			t.Errorf("got %s, want %s", got, want)
		}
		b.peer.ExpectCCM(ipa.IDAck)
		b.peer.WriteHex("0001fe06 0001fe00")
		b.peer.ExpectCCM(ipa.Pong) // and nothing for the ID_ACK
	})
	in(t, "a caller gets a malformed ID_GET", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.peer.WriteHex("0003fe04 0908")
		b.peer.ExpectEnd(time.Second)
		if err := <-b.ended; err == nil || !strings.Contains(err.Error(), "ID_GET") {
			t.Errorf("got %v, want an error about ID_GET", err)
		}
	})
	in(t, "a listener answers ID_ACK before its first message", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true, Handle: func(c *link.Conn, p rspro.PDU) {
			c.Reply(p, &rspro.ResetStateRes{})
		}})
		req := testnet.Frames(t, rspro.PDU{Version: 2, Tag: 1, Msg: &rspro.ResetStateReq{}})
		b.peer.Write(append([]byte{0, 1, 0xfe, 6}, req...))
		b.peer.ExpectCCM(ipa.IDAck)
		testnet.Expect[*rspro.ResetStateRes](b.peer)
	})
	in(t, "a listener ignores what it didn't ask for", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true})
		b.peer.WriteHex("0004fe05 000108" + "0001fe00")
		b.peer.ExpectCCM(ipa.Pong)
		if !b.logged(logrus.DebugLevel, "ID_RESP") {
			t.Error("no log line")
		}
	})
	bothEnds(t, "other types are ignored", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		b.peer.WriteHex("0001fe02 0002fe30aa 0001fe00")
		b.peer.ExpectCCM(ipa.Pong)
		if !b.logged(logrus.DebugLevel, "0x30") {
			t.Error("no log line")
		}
	})
}

// A Conn whose peer has said who it is names it.
func TestSetLog(t *testing.T) {
	in(t, "", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true})
		stray := func() {
			b.peer.Send(&rspro.ResetStateRes{})
			synctest.Wait()
		}
		stray()
		if e := b.log.LastEntry(); e == nil || e.Data["peer"] != nil {
			t.Fatalf("log %v", e)
		}
		b.conn.SetLog(b.conn.Log().WithField("peer", "C23:0"))
		stray()
		if e := b.log.LastEntry(); e.Data["peer"] != "C23:0" || e.Data["message"] != rspro.ChoiceResetStateRes {
			t.Errorf("log %v", e)
		}
		b.conn.SetLog(nil)
		stray()
		if n := len(b.log.AllEntries()); n != 2 {
			t.Errorf("%d log lines, want 2", n)
		}
	})
}

// What comes reaches Handle in order, however the stream is cut.
func TestSplit(t *testing.T) {
	pdus := []rspro.PDU{
		{Version: 2, Tag: 0, Msg: &rspro.CreateMappingReq{Client: client, Bank: bank}},
		{Version: 2, Tag: 9, Msg: &rspro.ResetStateReq{}},
		{Version: 2, Tag: 0, Msg: &rspro.TpduModemToCard{From: client, To: bank, Data: bytes.Repeat([]byte{0xa5}, 260)}},
	}
	run := func(t *testing.T, send func(b *bench, stream []byte)) {
		var got []rspro.PDU
		b := newBench(t, link.Options{Handle: func(_ *link.Conn, p rspro.PDU) {
			if m, ok := p.Msg.(*rspro.TpduModemToCard); ok {
				c := *m
				c.Data = bytes.Clone(c.Data)
				p.Msg = &c
			}
			got = append(got, p)
		}})
		synctest.Wait() // the peer's PONG would get into a part of a frame
		send(b, testnet.Frames(t, pdus...))
		synctest.Wait()
		if fmt.Sprintf("%+v", deref(got)) != fmt.Sprintf("%+v", deref(pdus)) {
			t.Errorf("got %+v, want %+v", deref(got), deref(pdus))
		}
	}
	n := len(testnet.Frames(t, pdus...))
	in(t, "one segment", func(t *testing.T) {
		run(t, func(b *bench, s []byte) { b.peer.Write(s) })
	})
	in(t, "byte by byte", func(t *testing.T) {
		run(t, func(b *bench, s []byte) {
			b.far.Fragment(1)
			b.peer.Write(s)
		})
	})
	t.Run("at each byte", func(t *testing.T) {
		for i := range n {
			synctest.Test(t, func(t *testing.T) {
				run(t, func(b *bench, s []byte) {
					b.peer.Write(s[:i])
					time.Sleep(time.Second)
					b.peer.Write(s[i:])
				})
			})
		}
	})
}

func deref(pdus []rspro.PDU) (s []string) {
	for _, p := range pdus {
		s = append(s, fmt.Sprintf("%d %d %v %+v", p.Version, p.Tag, p.Msg.Choice(), p.Msg))
	}
	return s
}

// Input that nothing sensible can follow ends the connection and says why.
func TestBadInput(t *testing.T) {
	tests := []struct{ name, in, want string }{
		{"empty CCM frame", "0000fe", "ipa: empty frame"},
		{"empty OSMO frame", "0000ee", "ipa: empty frame"},
		{"unknown stream", "000355616263", "unknown stream id 0x55"},
		{"unknown extension", "0003ee006263", "unknown extension id 0x00"},
		{"frame over 4 KiB", "0ffeee07", "frame too long: 4097 bytes"},
		{"cut frame", "0005ee0730", "unexpected EOF"},
		{"BER garbage", "0005ee0730038001", "bad PDU"},
		{"BER cut", "0005ee0730800001", "bad PDU"},
	}
	for _, tt := range tests {
		bothEnds(t, tt.name, func(t *testing.T, o link.Options) {
			o.Handle = func(_ *link.Conn, p rspro.PDU) { t.Errorf("handed out %+v", p) }
			b := newBench(t, o)
			synctest.Wait()
			b.peer.WriteHex(tt.in)
			if tt.want == "unexpected EOF" {
				b.peer.Close()
			}
			synctest.Wait()
			select {
			case err := <-b.ended:
				if err == nil || !strings.Contains(err.Error(), tt.want) {
					t.Errorf("Run returned %v, want %q", err, tt.want)
				}
			default:
				t.Error("connection goes on")
			}
		})
	}
	bothEnds(t, "another protocol", func(t *testing.T, o link.Options) {
		b := newMuteBench(t, o, true)
		b.peer.Write([]byte("HTTP/1.1 400 Bad Request\r\n\r\n"))
		if err := <-b.ended; !strings.HasSuffix(err.Error(), "that looks like HTTP") {
			t.Errorf("Run returned %v", err)
		}
	})
	bothEnds(t, "peer closes", func(t *testing.T, o link.Options) {
		b := newBench(t, o)
		synctest.Wait()
		b.peer.Close()
		b.wantEnd(io.EOF, 0)
	})
	in(t, "reset", func(t *testing.T) {
		b := newBench(t, link.Options{})
		synctest.Wait()
		b.far.Cut()
		if err := <-b.ended; err == nil || err.Error() != "link: read: connection reset by peer" {
			t.Errorf("got %v", err)
		}
	})
	in(t, "unknown message is passed over", func(t *testing.T) {
		b := newBench(t, link.Options{Handle: func(c *link.Conn, p rspro.PDU) {
			if _, ok := p.Msg.(*rspro.Unknown); ok {
				t.Error("unknown message handed out")
			}
			c.Reply(p, &rspro.ResetStateRes{})
		}})
		b.peer.SendPDU(
			rspro.PDU{Version: 2, Msg: &rspro.Unknown{Number: 99, Body: []byte{5, 0}, Constructed: true}},
			rspro.PDU{Version: 2, Tag: 4, Msg: &rspro.ResetStateReq{}})
		if p := b.peer.Expect(rspro.ChoiceResetStateRes); p.Tag != 4 {
			t.Errorf("reply has tag %d, want 4", p.Tag)
		}
		if !b.logged(logrus.InfoLevel, "[99]") {
			t.Error("no log line names it")
		}
	})
}

func TestVersion(t *testing.T) {
	id := testnet.Identity(rspro.Bankd)
	const no = rspro.UnsupportedProtocolVersion
	tests := []struct{ req, res rspro.Message }{
		{&rspro.ConnectBankReq{Identity: id}, &rspro.ConnectBankRes{Identity: id, Result: no}},
		{&rspro.ConnectClientReq{Identity: id}, &rspro.ConnectClientRes{Identity: id, Result: no}},
		{&rspro.CreateMappingReq{}, &rspro.CreateMappingRes{Result: no}},
		{&rspro.RemoveMappingReq{}, &rspro.RemoveMappingRes{Result: no}},
		{&rspro.ConfigClientIDReq{}, &rspro.ConfigClientIDRes{Result: no}},
		{&rspro.ConfigClientBankReq{Bankd: netip.MustParseAddrPort("1.2.3.4:5")}, &rspro.ConfigClientBankRes{Result: no}},
		{&rspro.SetAtrReq{ATR: []byte{0x3b}}, &rspro.SetAtrRes{Result: no}},
		{&rspro.ResetStateReq{}, &rspro.ResetStateRes{Result: no}},
		{&rspro.TpduModemToCard{Data: []byte{1}}, nil},
		{&rspro.SetAtrRes{}, nil},
		{&rspro.Unknown{Number: 99, Body: []byte{}}, nil},
	}
	for _, tt := range tests {
		for _, version := range []uint8{0, 1, 3, 32} {
			in(t, fmt.Sprintf("%v version %d", tt.req.Choice(), version), func(t *testing.T) {
				b := newBench(t, link.Options{
					Listener: true,
					Identity: id,
					Handle:   func(_ *link.Conn, p rspro.PDU) { t.Errorf("handed out %+v", p) },
				})
				b.peer.SendPDU(rspro.PDU{Version: version, Tag: 77, Msg: tt.req})
				if tt.res != nil {
					got := b.peer.Expect(tt.res.Choice())
					if want := (rspro.PDU{Version: 2, Tag: 77, Msg: tt.res}); fmt.Sprint(deref([]rspro.PDU{got})) != fmt.Sprint(deref([]rspro.PDU{want})) {
						t.Errorf("got %+v, want %+v", got.Msg, tt.res)
					}
				}
				b.peer.ExpectEnd(time.Second)
				err := <-b.ended
				if !errors.Is(err, link.ErrVersion) || !strings.Contains(err.Error(), fmt.Sprintf("version %d (%v)", version, tt.req.Choice())) {
					t.Errorf("Run returned %v", err)
				}
			})
		}
	}
	in(t, "without an identity", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true})
		b.peer.SendPDU(rspro.PDU{Version: 1, Msg: &rspro.ConnectBankReq{Identity: id}})
		b.peer.ExpectEnd(time.Second)
	})
}

func TestSend(t *testing.T) {
	in(t, "tag 0", func(t *testing.T) {
		b := newBench(t, link.Options{})
		if err := b.conn.Send(&rspro.ErrorInd{Severity: rspro.Minor, Code: 1}); err != nil {
			t.Fatal(err)
		}
		if p := b.peer.Expect(rspro.ChoiceErrorInd); p.Tag != 0 || p.Version != 2 {
			t.Errorf("got %+v", p)
		}
	})
	in(t, "what C programs don't take", func(t *testing.T) {
		b := newBench(t, link.Options{})
		if err := b.conn.Send(&rspro.TpduCardToModem{Data: make([]byte, 960)}); err != nil {
			t.Error(err)
		}
		testnet.Expect[*rspro.TpduCardToModem](b.peer)
		err := b.conn.Send(&rspro.TpduCardToModem{Data: make([]byte, 1000)})
		if err == nil || !strings.Contains(err.Error(), "tpduCardToModem of 10") || !strings.Contains(err.Error(), "1016") {
			t.Errorf("got %v, want an error with message and size", err)
		}
		if err := b.conn.Send(&rspro.SetAtrReq{}); err == nil {
			t.Error("a message that breaks a size was sent")
		}
		// Nothing of it is on the wire.
		if err := b.conn.Send(&rspro.ResetStateReq{}); err != nil {
			t.Error(err)
		}
		testnet.Expect[*rspro.ResetStateReq](b.peer)
	})
	in(t, "after the end", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.conn.Close(errBoom)
		select {
		case <-b.conn.Done():
		default:
			t.Error("Done isn't closed")
		}
		if err := b.conn.Send(&rspro.ResetStateReq{}); !errors.Is(err, link.ErrClosed) {
			t.Errorf("got %v, want %v", err, link.ErrClosed)
		}
		b.conn.Close(io.EOF)
		b.conn.Finish(io.EOF)
		b.wantEnd(errBoom, 0)
		b.peer.ExpectEnd(time.Second)
	})
	in(t, "addresses", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true})
		if a := b.conn.LocalAddr(); a != netip.MustParseAddrPort("10.0.0.1:9998") {
			t.Errorf("local address %v", a)
		}
		if a := b.conn.RemoteAddr(); a.Addr() != netip.MustParseAddr("10.0.0.2") || a.Port() == 0 {
			t.Errorf("remote address %v", a)
		}
	})
}

var errBoom = errors.New("boom")

func TestWriter(t *testing.T) {
	tpdu := &rspro.TpduModemToCard{From: client, To: bank, Data: make([]byte, 200)}
	in(t, "full queue", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.far.Stall()
		sent, err := 0, error(nil)
		for err == nil && sent < 10000 {
			synctest.Wait() // what the stream takes is not in the queue
			if err = b.conn.Send(tpdu); err == nil {
				sent++
			}
		}
		if err != link.ErrQueueFull {
			t.Fatalf("after %d messages: %v, want %v", sent, err, link.ErrQueueFull)
		}
		if sent < 1023 {
			t.Errorf("only %d messages were taken", sent)
		}
		b.wantEnd(link.ErrQueueFull, 0)
		if err := b.conn.Send(tpdu); err != link.ErrClosed {
			t.Errorf("afterwards: %v", err)
		}
	})
	in(t, "stalled peer", func(t *testing.T) {
		b := newBench(t, link.Options{})
		synctest.Wait()
		time.Sleep(5 * time.Second)
		b.far.Stall()
		for range 500 { // more than the stream's 64 KiB
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		b.wantEnd(link.ErrStalled, 15*time.Second)
	})
	in(t, "stall that ends in time", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.far.Stall()
		for range 500 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		time.Sleep(9 * time.Second)
		b.far.Up()
		for range 500 {
			testnet.Expect[*rspro.TpduModemToCard](b.peer)
		}
	})
	in(t, "a slow reader", func(t *testing.T) {
		n := testnet.New()
		h := n.Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		nc, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		c := link.New(nc, link.Options{})
		for range 700 { // much more than the stream holds
			if err := c.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		var reader sync.WaitGroup
		reader.Go(func() {
			for range 140 {
				time.Sleep(time.Second)
				if _, err := io.ReadFull(peer, make([]byte, 1<<10)); err != nil {
					t.Error(err)
					break
				}
				peer.Write([]byte{0, 1, 0xfe, 1}) // PONG
			}
			c.Close(errBoom)
		})
		if err := c.Run(t.Context()); err != errBoom {
			t.Errorf("Run returned %v, want %v", err, errBoom)
		}
		reader.Wait()
	})
	in(t, "close while the writer waits", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.far.Stall()
		for range 500 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		synctest.Wait()
		b.conn.Close(errBoom)
		b.wantEnd(errBoom, 0)
	})
	in(t, "read loop goes on while the writer waits", func(t *testing.T) {
		got := 0
		b := newBench(t, link.Options{Handle: func(*link.Conn, rspro.PDU) { got++ }})
		b.far.Stall()
		for range 500 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		for range 100 {
			b.peer.Send(tpdu)
			b.peer.WriteHex("0001fe00") // its PONG has to wait
		}
		synctest.Wait()
		if got != 100 {
			t.Errorf("%d messages of 100 were handed out", got)
		}
	})
}

func TestFinish(t *testing.T) {
	tpdu := &rspro.TpduModemToCard{From: client, To: bank, Data: make([]byte, 200)}
	in(t, "flushes", func(t *testing.T) {
		var conn *link.Conn
		b := newBench(t, link.Options{Handle: func(c *link.Conn, p rspro.PDU) {
			if c != conn {
				t.Error("other Conn")
			}
			if err := c.Reply(p, &rspro.ResetStateRes{Result: rspro.IllegalBankID}); err != nil {
				t.Error(err)
			}
			c.Finish(errBoom)
			if err := c.Send(tpdu); err != link.ErrClosed {
				t.Errorf("Send after Finish: %v", err)
			}
		}})
		conn = b.conn
		for range 1000 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		// The second one comes after Finish.
		b.peer.SendPDU(rspro.PDU{Version: 2, Tag: 5, Msg: &rspro.ResetStateReq{}}, rspro.PDU{Version: 2, Tag: 6, Msg: &rspro.ResetStateReq{}})
		for range 1000 {
			testnet.Expect[*rspro.TpduModemToCard](b.peer)
		}
		testnet.Expect[*rspro.ResetStateRes](b.peer)
		if err := b.peer.ExpectEnd(time.Second); err != io.EOF {
			t.Errorf("peer saw %v, want EOF", err)
		}
		b.wantEnd(errBoom, 0)
	})
	in(t, "before Run", func(t *testing.T) {
		n := testnet.New()
		h := n.Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		nc, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		peer := testnet.AcceptPeer(t, ln)
		c := link.New(nc, link.Options{})
		if err := c.Send(&rspro.ResetStateReq{}); err != nil {
			t.Fatal(err)
		}
		c.Finish(nil)
		if err := c.Run(t.Context()); err != nil {
			t.Errorf("Run returned %v, want nil", err)
		}
		testnet.Expect[*rspro.ResetStateReq](peer)
		peer.ExpectEnd(time.Second)
	})
	in(t, "a peer that takes nothing", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.far.Stall()
		for range 500 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		b.conn.Finish(errBoom)
		b.wantEnd(errBoom, 10*time.Second)
	})
	in(t, "Close makes haste", func(t *testing.T) {
		b := newBench(t, link.Options{})
		b.far.Stall()
		for range 500 {
			if err := b.conn.Send(tpdu); err != nil {
				t.Fatal(err)
			}
		}
		b.conn.Finish(errBoom)
		time.Sleep(time.Second)
		b.conn.Close(io.EOF)
		b.wantEnd(errBoom, time.Second)
	})
}

func TestRunEndsWithContext(t *testing.T) {
	in(t, "", func(t *testing.T) {
		n := testnet.New()
		h := n.Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		nc, err := h.Dial(t.Context(), netip.MustParseAddrPort("[::1]:1"))
		if err != nil {
			t.Fatal(err)
		}
		peer := testnet.AcceptPeer(t, ln)
		ctx, cancel := context.WithCancelCause(t.Context())
		c := link.New(nc, link.Options{})
		time.AfterFunc(time.Second, func() { cancel(errBoom) })
		if err := c.Run(ctx); err != errBoom {
			t.Errorf("got %v, want the cause", err)
		}
		peer.ExpectEnd(time.Second)
	})
}

func TestProbe(t *testing.T) {
	in(t, "alive", func(t *testing.T) {
		b := newBench(t, link.Options{})
		time.Sleep(15 * time.Second)
		b.far.Delay(999 * time.Millisecond)
		up := b.conn.Probe(2 * time.Second)
		if !<-up || time.Since(b.start) != 15*time.Second+2*999*time.Millisecond {
			t.Errorf("probe of a live peer failed, or too late: %v", time.Since(b.start))
		}
	})
	in(t, "dead", func(t *testing.T) {
		b := newBench(t, link.Options{})
		time.Sleep(15 * time.Second)
		b.far.Down()
		up := b.conn.Probe(2 * time.Second)
		if <-up || time.Since(b.start) != 17*time.Second {
			t.Errorf("probe of a dead peer passed, or at the wrong time: %v", time.Since(b.start))
		}
		// The connection is the keep-alive's business.
		b.wantEnd(link.ErrNoPong, 40*time.Second)
	})
	in(t, "closed meanwhile", func(t *testing.T) {
		b := newMuteBench(t, link.Options{}, true)
		up := b.conn.Probe(2 * time.Second)
		time.Sleep(time.Second)
		b.conn.Close(errBoom)
		b.wantEnd(errBoom, time.Second)
		if <-up {
			t.Error("probe passed")
		}
		if <-b.conn.Probe(time.Second) {
			t.Error("probe of a closed connection passed")
		}
	})
}

// A TPDU's way through a Conn costs the allocation of its decoding, and no other.
func TestAllocations(t *testing.T) {
	n := testnet.New()
	h := n.Host("10.0.0.1")
	ln, err := h.Listen(t.Context(), ":1")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	var answer rspro.TpduCardToModem
	c := link.New(nc, link.Options{Handle: func(c *link.Conn, p rspro.PDU) {
		m := p.Msg.(*rspro.TpduModemToCard)
		answer = rspro.TpduCardToModem{From: m.To, To: m.From, Data: m.Data}
		c.Send(&answer)
	}})
	ran := make(chan error)
	go func() { ran <- c.Run(t.Context()) }()

	frame := testnet.Frames(t, rspro.PDU{Version: 2, Msg: &rspro.TpduModemToCard{From: client, To: bank, Data: make([]byte, 260)}})
	in := make([]byte, 4096)
	if _, err := io.ReadFull(peer, in[:4]); err != nil { // PING
		t.Fatal(err)
	}
	exchange := func() {
		if _, err := peer.Write(frame); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(peer, in[:len(frame)]); err != nil {
			t.Fatal(err)
		}
	}
	for range 10 {
		exchange()
	}
	if got := testing.AllocsPerRun(1000, exchange); got > 1 {
		t.Errorf("%v allocations an exchange, want 1", got)
	}
	peer.Close()
	<-ran
}

// Everything at once, from several goroutines, until one of them ends the connection.
func TestConcurrentUse(t *testing.T) {
	in(t, "", func(t *testing.T) {
		b := newBench(t, link.Options{Handle: func(c *link.Conn, p rspro.PDU) { c.Reply(p, &rspro.ResetStateRes{}) }})
		var users sync.WaitGroup
		var asked, told atomic.Int32
		for k := range 8 {
			users.Go(func() {
				for i := range 200 {
					b.conn.Send(&rspro.TpduModemToCard{From: client, To: bank, Data: []byte{byte(k), byte(i)}})
					asked.Add(1)
					b.conn.Request(&rspro.ResetStateReq{}, time.Millisecond, func(rspro.Message, error) { told.Add(1) })
					b.conn.Probe(time.Millisecond)
					if i%20 == k {
						time.Sleep(time.Millisecond)
					}
				}
				if k == 7 {
					b.conn.Finish(errBoom)
				}
			})
		}
		users.Go(func() {
			for {
				p, ok := b.peer.Poll(time.Second)
				if !ok {
					return
				}
				if p.Msg.Choice() == rspro.ChoiceResetStateReq && p.Tag%3 > 0 {
					b.peer.Post(rspro.PDU{Version: 2, Tag: p.Tag, Msg: &rspro.ResetStateRes{}})
					b.peer.Post(rspro.PDU{Version: 2, Msg: &rspro.ResetStateReq{}})
				}
			}
		})
		users.Wait()
		if err := <-b.ended; err != errBoom {
			t.Errorf("Run returned %v", err)
		}
		time.Sleep(time.Second)
		if asked.Load() != told.Load() || told.Load() != 1600 {
			t.Errorf("%d requests, %d callbacks", asked.Load(), told.Load())
		}
	})
}

// Whatever comes, a Conn ends with its stream and never panics.
func FuzzConn(f *testing.F) {
	hexSeed := func(s string) {
		b, err := hex.DecodeString(s)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(b, true)
		f.Add(b, false)
	}
	hexSeed("0001fe00" + "0001fe01" + "0001fe06" + "0003fe040108" + "0001fe30")
	hexSeed("0037ee07303480010281020926a22ba32930240a01021602766d800c72656d73696d2d62616e6b64810d312e312e332e31342d346233360a0100" +
		"001dee07301a800102810100a212a41030060201070201033006020101020100")
	hexSeed("000dee07300a800103810109a202b300" + "000dee07300a800102810109a202b300") // another version, then ours
	hexSeed("0005ee0730038001")
	f.Fuzz(func(t *testing.T, b []byte, listener bool) {
		n := testnet.New()
		h := n.Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		nc, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
		if err != nil {
			t.Fatal(err)
		}
		peer, err := ln.Accept()
		if err != nil {
			t.Fatal(err)
		}
		defer peer.Close()
		go func() {
			peer.Write(b[:min(len(b), 60000)])
			peer.(interface{ CloseWrite() error }).CloseWrite()
			io.Copy(io.Discard, peer)
		}()
		told := 0
		c := link.New(nc, link.Options{Listener: listener, Identity: testnet.Identity(rspro.Bankd), Handle: func(c *link.Conn, p rspro.PDU) {
			if p.Version != rspro.Version {
				t.Errorf("version %d handed out", p.Version)
			}
		}})
		c.Request(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client)}, 0, func(rspro.Message, error) { told++ })
		if err := c.Run(t.Context()); err == nil {
			t.Error("Run returned no error")
		}
		if told != 1 {
			t.Errorf("request called back %d times", told)
		}
	})
}
