// SPDX-License-Identifier: GPL-2.0-or-later

package testnet_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/link"
	"remsim/internal/testnet"
)

var _ link.Network = (*testnet.Host)(nil)

// in runs a test in a bubble of its own.
func in(t *testing.T, name string, f func(t *testing.T)) {
	t.Run(name, func(t *testing.T) { synctest.Test(t, f) })
}

// connect makes a connection from c to s, and closes it when the test ends.
func connect(t *testing.T, c, s *testnet.Host, addr string) (near, far net.Conn) {
	t.Helper()
	ln, err := s.Listen(t.Context(), ":9998")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	near, err = c.Dial(t.Context(), netip.MustParseAddrPort(addr))
	if err != nil {
		t.Fatal(err)
	}
	far, err = ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		near.Close()
		far.Close()
	})
	return near, far
}

func pair(t *testing.T) (c, s *testnet.Host, near, far net.Conn) {
	t.Helper()
	n := testnet.New()
	c, s = n.Host("10.0.0.2", "fd00::2"), n.Host("10.0.0.1", "fd00::1")
	near, far = connect(t, c, s, "10.0.0.1:9998")
	return c, s, near, far
}

func send(t *testing.T, c net.Conn, s string) {
	t.Helper()
	if n, err := c.Write([]byte(s)); err != nil || n != len(s) {
		t.Fatalf("writing: %d, %v", n, err)
	}
}

func receive(t *testing.T, c net.Conn, want string) {
	t.Helper()
	b := make([]byte, len(want))
	if n, err := io.ReadFull(c, b); err != nil || string(b) != want {
		t.Fatalf("read %q, %v; want %q", b[:n], err, want)
	}
}

func readError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if n, err := c.Read(make([]byte, 1)); n != 0 || !errors.Is(err, want) {
		t.Fatalf("read %d bytes, %v; want %v", n, err, want)
	}
}

func writeError(t *testing.T, c net.Conn, want error) {
	t.Helper()
	if _, err := c.Write([]byte("x")); !errors.Is(err, want) {
		t.Fatalf("write: %v; want %v", err, want)
	}
}

func TestAddresses(t *testing.T) {
	n := testnet.New()
	c, s := n.Host("10.0.0.2", "10.9.9.9", "fd00::2"), n.Host("10.0.0.1", "fd00::1")
	if n.Host("fd00::2") != c || n.Host("10.9.9.9", "10.0.0.3") != c || n.Host("10.0.0.3") != c {
		t.Error("a host is another one under its other address")
	}
	for _, tt := range []struct {
		from, to    *testnet.Host
		addr        string
		near, farIP string
	}{
		{c, s, "10.0.0.1:9998", "10.0.0.2:32768", "::ffff:10.0.0.1"},
		{c, s, "[fd00::1]:9998", "[fd00::2]:32769", "fd00::1"},
		{c, s, "[::ffff:10.0.0.1]:9998", "10.0.0.2:32770", "::ffff:10.0.0.1"},
		{s, s, "127.0.0.1:9998", "127.0.0.1:32768", "::ffff:127.0.0.1"},
		{s, s, "[::1]:9998", "[::1]:32769", "::1"},
		{s, s, "10.0.0.1:9998", "10.0.0.1:32770", "::ffff:10.0.0.1"},
	} {
		near, far := connect(t, tt.from, tt.to, tt.addr)
		want := netip.MustParseAddrPort(tt.addr)
		want = netip.AddrPortFrom(want.Addr().Unmap(), want.Port())
		if near.LocalAddr().String() != tt.near || near.RemoteAddr().String() != want.String() {
			t.Errorf("%s: dialled %v -> %v, want %s -> %v", tt.addr, near.LocalAddr(), near.RemoteAddr(), tt.near, want)
		}
		if ip := far.LocalAddr().(*net.TCPAddr).AddrPort().Addr().String(); ip != tt.farIP {
			t.Errorf("%s: accepted at %s, want %s", tt.addr, ip, tt.farIP)
		}
		if far.RemoteAddr().String() != near.LocalAddr().String() {
			t.Errorf("%s: accepted from %v, want %v", tt.addr, far.RemoteAddr(), near.LocalAddr())
		}
		send(t, near, "there")
		receive(t, far, "there")
		send(t, far, "back")
		receive(t, near, "back")
	}
}

func TestListen(t *testing.T) {
	n := testnet.New()
	h := n.Host("10.0.0.1", "fd00::1")
	n.Name("me", "10.0.0.1")
	listen := func(addr string) (net.Listener, error) { return h.Listen(t.Context(), addr) }
	all, err := listen(":0")
	if err != nil {
		t.Fatal(err)
	}
	if got := all.Addr().String(); got != "[::]:32768" {
		t.Errorf("free port: %s", got)
	}
	if other, err := listen("127.0.0.1:0"); err != nil || other.Addr().String() != "127.0.0.1:32769" {
		t.Errorf("another free port: %v, %v", other, err)
	}
	for addr, want := range map[string]error{
		":32768":          syscall.EADDRINUSE,
		"10.0.0.1:32768":  syscall.EADDRINUSE,
		"10.0.0.2:1":      syscall.EADDRNOTAVAIL,
		"127.0.0.1:32769": syscall.EADDRINUSE,
	} {
		if _, err := listen(addr); !errors.Is(err, want) {
			t.Errorf("%s: %v, want %v", addr, err, want)
		}
	}
	for _, addr := range []string{"1", ":x", "nobody:1"} {
		if _, err := listen(addr); err == nil {
			t.Errorf("%s: no error", addr)
		}
	}
	if ln, err := listen("me:5"); err != nil || ln.Addr().String() != "10.0.0.1:5" {
		t.Errorf("by name: %v, %v", ln, err)
	}
	// Who waits for Accept when the listener closes is reset, who comes later refused.
	c, err := h.Dial(t.Context(), netip.MustParseAddrPort("[::1]:32768"))
	if err != nil {
		t.Fatal(err)
	}
	all.Close()
	readError(t, c, syscall.ECONNRESET)
	if _, err := h.Dial(t.Context(), netip.MustParseAddrPort("[::1]:32768")); !errors.Is(err, syscall.ECONNREFUSED) {
		t.Errorf("dial after close: %v", err)
	}
	if _, err := all.Accept(); !errors.Is(err, net.ErrClosed) {
		t.Errorf("accept after close: %v", err)
	}
	if _, err := listen(":32768"); err != nil {
		t.Errorf("listen again: %v", err)
	}
}

func TestDialFails(t *testing.T) {
	in(t, "", func(t *testing.T) {
		n := testnet.New()
		c, s := n.Host("10.0.0.2"), n.Host("10.0.0.1", "fd00::1")
		v4, err := s.Listen(t.Context(), "0.0.0.0:1")
		if err != nil {
			t.Fatal(err)
		}
		defer v4.Close()
		ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
		defer cancel()
		dial := func(h *testnet.Host, addr string, want error) {
			t.Helper()
			if nc, err := h.Dial(ctx, netip.MustParseAddrPort(addr)); !errors.Is(err, want) {
				t.Errorf("%s: %v, %v; want %v", addr, nc, err, want)
			}
		}
		start := time.Now()
		dial(c, "10.0.0.1:2", syscall.ECONNREFUSED)
		dial(c, "10.0.0.9:1", syscall.EHOSTUNREACH)
		dial(c, "[fd00::1]:1", syscall.ENETUNREACH)
		dial(s, "[::1]:1", syscall.ECONNREFUSED)
		if d := time.Since(start); d != 0 {
			t.Errorf("took %v, want nothing", d)
		}
		s.Down()
		dial(c, "10.0.0.1:1", context.DeadlineExceeded)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("dial to a host that is down took %v, want 10s", d)
		}
		dial(s, "127.0.0.1:2", syscall.ECONNREFUSED)
	})
	in(t, "host comes up", func(t *testing.T) {
		n := testnet.New()
		c, s := n.Host("10.0.0.2"), n.Host("10.0.0.1")
		start := time.Now()
		s.Down()
		time.AfterFunc(3*time.Second, s.Up)
		near, _ := connect(t, c, s, "10.0.0.1:9998")
		if near == nil || time.Since(start) != 3*time.Second {
			t.Errorf("connected after %v", time.Since(start))
		}
	})
	in(t, "full backlog", func(t *testing.T) {
		h := testnet.New().Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		dialled := make(chan net.Conn, 200)
		for range 200 {
			go func() {
				c, _ := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
				dialled <- c
			}()
		}
		synctest.Wait()
		if n := len(dialled); n != 128 {
			t.Errorf("%d dials were answered, want 128", n)
		}
		for range 200 {
			if _, err := ln.Accept(); err != nil {
				t.Fatal(err)
			}
			synctest.Wait()
		}
		if n := len(dialled); n != 200 {
			t.Errorf("%d dials were answered, want 200", n)
		}
		h.Cut()
		ln.Close()
	})
}

func TestLookup(t *testing.T) {
	in(t, "", func(t *testing.T) {
		n := testnet.New()
		h := n.Host("10.0.0.1")
		n.Name("server", "fd00::1", "10.0.0.1")
		for name, want := range map[string]string{
			"server": "[fd00::1 10.0.0.1]", "10.1.1.1": "[10.1.1.1]", "::ffff:10.1.1.1": "[10.1.1.1]",
			"::1": "[::1]", "localhost": "[::1 127.0.0.1]",
		} {
			if got, err := h.Lookup(t.Context(), name); err != nil || fmt.Sprint(got) != want {
				t.Errorf("%s: %v, %v; want %s", name, got, err, want)
			}
		}
		n.Name("server")
		var dns *net.DNSError
		if _, err := h.Lookup(t.Context(), "server"); !errors.As(err, &dns) || !dns.IsNotFound {
			t.Errorf("unknown name: %v", err)
		}
		h.Down()
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := h.Lookup(ctx, "server"); !errors.As(err, &dns) || !dns.IsTimeout {
			t.Errorf("on a host that is down: %v", err)
		}
	})
}

func TestBuffer(t *testing.T) {
	in(t, "", func(t *testing.T) {
		_, s, near, far := pair(t)
		const size = 64 << 10
		s.Stall()
		big := bytes.Repeat([]byte("0123456789abcdef"), size/16)
		if _, err := near.Write(big); err != nil {
			t.Fatal(err)
		}
		// A full buffer holds the writer, for as long as its deadline.
		start := time.Now()
		near.SetWriteDeadline(start.Add(time.Second))
		writeError(t, near, os.ErrDeadlineExceeded)
		if time.Since(start) != time.Second {
			t.Errorf("deadline after %v", time.Since(start))
		}
		near.SetWriteDeadline(time.Time{})
		go func() {
			time.Sleep(time.Second)
			s.Up()
		}()
		go near.Write([]byte("more"))
		receive(t, far, string(big)+"more")
		if time.Since(start) != 2*time.Second {
			t.Errorf("read while stalled, after %v", time.Since(start))
		}
	})
}

func TestDeadlines(t *testing.T) {
	in(t, "", func(t *testing.T) {
		_, _, near, far := pair(t)
		start := time.Now()
		near.SetReadDeadline(start.Add(time.Second))
		readError(t, near, os.ErrDeadlineExceeded)
		if time.Since(start) != time.Second {
			t.Errorf("deadline after %v", time.Since(start))
		}
		// Moved while a read waits.
		near.SetDeadline(start.Add(time.Hour))
		time.AfterFunc(time.Second, func() { near.SetDeadline(time.Now()) })
		readError(t, near, os.ErrDeadlineExceeded)
		if time.Since(start) != 2*time.Second {
			t.Errorf("deadline after %v", time.Since(start))
		}
		near.SetDeadline(time.Time{})
		send(t, far, "x")
		receive(t, near, "x")
		near.Close()
		if err := near.SetDeadline(time.Time{}); !errors.Is(err, net.ErrClosed) {
			t.Errorf("after Close: %v", err)
		}
	})
}

func TestClose(t *testing.T) {
	in(t, "FIN after the data", func(t *testing.T) {
		_, _, near, far := pair(t)
		send(t, near, "bye")
		near.Close()
		readError(t, near, net.ErrClosed)
		writeError(t, near, net.ErrClosed)
		if err := near.Close(); !errors.Is(err, net.ErrClosed) {
			t.Errorf("closed twice: %v", err)
		}
		receive(t, far, "bye")
		readError(t, far, io.EOF)
		writeError(t, far, syscall.ECONNRESET)
	})
	in(t, "reset with data unread", func(t *testing.T) {
		_, _, near, far := pair(t)
		send(t, far, "unread")
		send(t, near, "bye")
		near.Close()
		receive(t, far, "bye")
		readError(t, far, syscall.ECONNRESET)
		writeError(t, far, syscall.EPIPE)
	})
	in(t, "one direction", func(t *testing.T) {
		_, _, near, far := pair(t)
		near.(interface{ CloseWrite() error }).CloseWrite()
		writeError(t, near, syscall.EPIPE)
		readError(t, far, io.EOF)
		send(t, far, "still")
		receive(t, near, "still")
	})
	in(t, "while a read waits", func(t *testing.T) {
		_, _, near, _ := pair(t)
		time.AfterFunc(time.Second, func() { near.Close() })
		readError(t, near, net.ErrClosed)
	})
}

func TestFaults(t *testing.T) {
	in(t, "cut", func(t *testing.T) {
		c, s, near, far := pair(t)
		if c.Conns() != 1 || s.Conns() != 1 {
			t.Errorf("%d and %d connections", c.Conns(), s.Conns())
		}
		send(t, far, "last words")
		s.Cut()
		receive(t, near, "last words")
		readError(t, near, syscall.ECONNRESET)
		readError(t, far, syscall.ECONNRESET)
		writeError(t, near, syscall.EPIPE)
		if s.Conns() != 0 {
			t.Errorf("%d connections", s.Conns())
		}
	})
	in(t, "down and up", func(t *testing.T) {
		_, s, near, far := pair(t)
		s.Down()
		send(t, near, "there")
		send(t, far, "back")
		for _, c := range []net.Conn{near, far} {
			c.SetReadDeadline(time.Now().Add(time.Hour))
			readError(t, c, os.ErrDeadlineExceeded)
			c.SetReadDeadline(time.Time{})
		}
		s.Up()
		receive(t, far, "there")
		receive(t, near, "back")
	})
	in(t, "half-open", func(t *testing.T) {
		_, s, near, far := pair(t)
		s.Down()
		s.Cut() // nobody hears it
		readError(t, far, syscall.ECONNRESET)
		near.SetReadDeadline(time.Now().Add(time.Hour))
		readError(t, near, os.ErrDeadlineExceeded)
		send(t, near, "anybody there?")
		s.Up()
		near.SetReadDeadline(time.Now().Add(time.Hour))
		readError(t, near, os.ErrDeadlineExceeded)
		near.SetReadDeadline(time.Time{})
		writeError(t, near, syscall.ECONNRESET)
		readError(t, near, syscall.ECONNRESET)
	})
	in(t, "closed while down", func(t *testing.T) {
		_, s, near, far := pair(t)
		s.Down()
		send(t, far, "bye")
		far.Close()
		time.AfterFunc(time.Minute, s.Up)
		receive(t, near, "bye")
		readError(t, near, io.EOF)
	})
	in(t, "delay", func(t *testing.T) {
		c, s, near, far := pair(t)
		start := time.Now()
		s.Delay(time.Second)
		c.Delay(500 * time.Millisecond)
		send(t, near, "a")
		time.Sleep(time.Second)
		send(t, near, "b")
		near.Close()
		receive(t, far, "a")
		if d := time.Since(start); d != 1500*time.Millisecond {
			t.Errorf("first byte after %v, want 1.5s", d)
		}
		receive(t, far, "b")
		readError(t, far, io.EOF)
		if d := time.Since(start); d != 2500*time.Millisecond {
			t.Errorf("end after %v, want 2.5s", d)
		}
		connect(t, c, s, "10.0.0.1:9998")
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("a dial took %v, want 500ms", d-2500*time.Millisecond)
		}
	})
	in(t, "fragments", func(t *testing.T) {
		_, s, near, far := pair(t)
		s.Fragment(3)
		send(t, near, "0123456789")
		b := make([]byte, 100)
		for _, want := range []string{"012", "345", "678", "9"} {
			if n, err := far.Read(b); err != nil || string(b[:n]) != want {
				t.Errorf("read %q, %v; want %q", b[:n], err, want)
			}
		}
	})
	in(t, "accept", func(t *testing.T) {
		h := testnet.New().Host("10.0.0.1")
		h.FailAccept(syscall.EMFILE)
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		dial := func() net.Conn {
			c, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1"))
			if err != nil {
				t.Fatal(err)
			}
			return c
		}
		c := dial()
		if _, err := ln.Accept(); !errors.Is(err, syscall.EMFILE) {
			t.Errorf("got %v", err)
		}
		readError(t, c, syscall.ECONNRESET)
		dial()
		if _, err := ln.Accept(); err != nil {
			t.Error(err)
		}
	})
}
