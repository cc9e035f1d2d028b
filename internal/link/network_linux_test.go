// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

// Real sockets on loopback: both families reach one listener, both ends have the options set.
func TestTCP(t *testing.T) {
	n := link.TCP()
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Minute)
	defer cancel()
	ln, err := n.Listen(ctx, ":0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	port := uint16(ln.Addr().(*net.TCPAddr).Port)

	for _, ip := range []string{"127.0.0.1", "::1"} {
		t.Run(ip, func(t *testing.T) {
			to := netip.AddrPortFrom(netip.MustParseAddr(ip), port)
			out, err := n.Dial(ctx, to)
			if err != nil {
				t.Fatal(err)
			}
			defer out.Close()
			in, err := ln.Accept()
			if err != nil {
				t.Fatal(err)
			}
			defer in.Close()
			for end, nc := range map[string]net.Conn{"dialled": out, "accepted": in} {
				for _, o := range []struct {
					name              string
					level, opt, value int
				}{
					{"TCP_NODELAY", unix.IPPROTO_TCP, unix.TCP_NODELAY, 1},
					{"TCP_USER_TIMEOUT", unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT, 20000},
					{"SO_KEEPALIVE", unix.SOL_SOCKET, unix.SO_KEEPALIVE, 1},
					{"TCP_KEEPIDLE", unix.IPPROTO_TCP, unix.TCP_KEEPIDLE, 30},
					{"TCP_KEEPINTVL", unix.IPPROTO_TCP, unix.TCP_KEEPINTVL, 5},
					{"TCP_KEEPCNT", unix.IPPROTO_TCP, unix.TCP_KEEPCNT, 4},
				} {
					if got := sockopt(t, nc, o.level, o.opt); got != o.value {
						t.Errorf("%s: %s is %d, want %d", end, o.name, got, o.value)
					}
				}
			}

			// The listener's end shows a caller's IPv4 address as such.
			conn := link.New(in, link.Options{Listener: true, KeepAlive: link.KeepAlive{Timeout: time.Minute}})
			if got := sockopt(t, in, unix.IPPROTO_TCP, unix.TCP_USER_TIMEOUT); got != 60000 {
				t.Errorf("TCP_USER_TIMEOUT is %d with a time-out of 1m for the PONG, want 60000", got)
			}
			if got := conn.RemoteAddr(); got != out.LocalAddr().(*net.TCPAddr).AddrPort() {
				t.Errorf("remote address %v, want %v", got, out.LocalAddr())
			}
			if got := conn.LocalAddr(); got != to {
				t.Errorf("local address %v, want %v", got, to)
			}
			ran := make(chan error, 1)
			go func() { ran <- conn.Run(ctx) }()
			peer := testnet.NewPeer(t, out)
			peer.Patience = time.Minute
			for k := range 100 {
				if err := conn.Send(&rspro.TpduCardToModem{Data: []byte{byte(k)}}); err != nil {
					t.Fatal(err)
				}
			}
			conn.Finish(nil)
			for k := range 100 {
				if m := testnet.Expect[*rspro.TpduCardToModem](peer); m.Data[0] != byte(k) {
					t.Fatalf("message %d is %d", k, m.Data[0])
				}
			}
			peer.ExpectEnd(time.Minute)
			if err := <-ran; err != nil {
				t.Error(err)
			}
		})
	}
}

func sockopt(t *testing.T, nc net.Conn, level, opt int) int {
	t.Helper()
	rc, err := nc.(syscall.Conn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var v int
	var oerr error
	if err := rc.Control(func(fd uintptr) { v, oerr = unix.GetsockoptInt(int(fd), level, opt) }); err != nil || oerr != nil {
		t.Fatal(err, oerr)
	}
	return v
}

func TestTCPRefused(t *testing.T) {
	n := link.TCP()
	ln, err := n.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	addr := ln.Addr().String()
	if _, err := n.Listen(t.Context(), addr); !errors.Is(err, syscall.EADDRINUSE) {
		t.Errorf("listening twice: %v", err)
	}
	ln.Close()
	if _, err := n.Dial(t.Context(), netip.MustParseAddrPort(addr)); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("got %v", err)
	}
}

func TestTCPLookup(t *testing.T) {
	for in, want := range map[string]string{"fe80::1%lo": "[fe80::1%lo]", "127.0.0.1": "[127.0.0.1]", "::1": "[::1]", "::ffff:10.1.2.3": "[10.1.2.3]"} {
		if got, err := link.TCP().Lookup(t.Context(), in); err != nil || fmt.Sprint(got) != want {
			t.Errorf("%s: %v, %v; want %v", in, got, err, want)
		}
	}
	if got, err := link.TCP().Lookup(t.Context(), "localhost"); err != nil || len(got) == 0 || !got[0].IsLoopback() {
		t.Errorf("localhost: %v, %v", got, err)
	}
}

// The way of a command and its answer over loopback: what one connection adds.
func BenchmarkExchange(b *testing.B) {
	n := link.TCP()
	ln, err := n.Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	defer ln.Close()
	out, err := n.Dial(b.Context(), ln.Addr().(*net.TCPAddr).AddrPort())
	if err != nil {
		b.Fatal(err)
	}
	in, err := ln.Accept()
	if err != nil {
		b.Fatal(err)
	}
	var res rspro.TpduCardToModem
	bank := link.New(in, link.Options{Listener: true, Handle: func(c *link.Conn, p rspro.PDU) {
		m := p.Msg.(*rspro.TpduModemToCard)
		res = rspro.TpduCardToModem{From: m.To, To: m.From, Data: m.Data}
		c.Send(&res)
	}})
	back := make(chan struct{}, 1)
	client := link.New(out, link.Options{Handle: func(*link.Conn, rspro.PDU) { back <- struct{}{} }})
	ended := make(chan error, 2)
	for _, c := range []*link.Conn{bank, client} {
		go func() { ended <- c.Run(b.Context()) }()
	}
	req := &rspro.TpduModemToCard{Data: make([]byte, 7)}
	b.ReportAllocs()
	for b.Loop() {
		client.Send(req)
		<-back
	}
	client.Close(nil)
	<-ended
	<-ended
}
