// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"context"
	"errors"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/link"
	"remsim/internal/testnet"
)

func TestServe(t *testing.T) {
	in(t, "", func(t *testing.T) {
		h := testnet.New().Host("10.0.0.1")
		ctx, cancel := context.WithCancel(t.Context())
		ln, err := h.Listen(ctx, ":1")
		if err != nil {
			t.Fatal(err)
		}
		var active atomic.Int32
		served := make(chan error, 1)
		go func() {
			served <- link.Serve(ctx, ln, logrus.NewEntry(logrus.New()), func(ctx context.Context, nc net.Conn) {
				active.Add(1)
				<-ctx.Done()
				time.Sleep(3 * time.Second) // says goodbye
				active.Add(-1)
			})
		}()
		var peers []*testnet.Peer
		for range 5 {
			peers = append(peers, testnet.DialPeer(t, h, "127.0.0.1:1"))
			synctest.Wait()
		}
		if n := active.Load(); n != 5 {
			t.Errorf("%d connections are served, want 5", n)
		}
		cancel()
		synctest.Wait()
		if _, err := h.Dial(t.Context(), netip.MustParseAddrPort("127.0.0.1:1")); !errors.Is(err, syscall.ECONNREFUSED) {
			t.Errorf("listener after the end: %v", err)
		}
		select {
		case <-served:
			t.Error("Serve didn't wait for its connections")
		default:
		}
		if err := <-served; err != nil || active.Load() != 0 {
			t.Errorf("Serve returned %v, with %d connections", err, active.Load())
		}
		for _, p := range peers {
			p.ExpectEnd(time.Second)
		}
	})
	in(t, "accept fails", func(t *testing.T) {
		h := testnet.New().Host("10.0.0.1")
		ctx, cancel := context.WithCancel(t.Context())
		ln, err := h.Listen(ctx, ":1")
		if err != nil {
			t.Fatal(err)
		}
		failing := &failingListener{Listener: ln, fails: 12}
		log, hook := test.NewNullLogger()
		served, accepted := make(chan error, 1), 0
		go func() {
			served <- link.Serve(ctx, failing, logrus.NewEntry(log), func(context.Context, net.Conn) { accepted++ })
		}()
		testnet.DialPeer(t, h, "127.0.0.1:1").ExpectEnd(time.Minute)
		synctest.Wait()
		want := []time.Duration{5, 10, 20, 40, 80, 160, 320, 640, 1000, 1000, 1000, 1000} // ms
		if len(failing.at) != len(want)+1 {
			t.Fatalf("%d attempts, want %d", len(failing.at), len(want)+1)
		}
		for i, w := range want {
			if d := failing.at[i+1].Sub(failing.at[i]); d != w*time.Millisecond {
				t.Errorf("delay %d is %v, want %v", i, d, w*time.Millisecond)
			}
		}
		if n := len(hook.AllEntries()); n != len(want) {
			t.Errorf("%d log lines, want %d", n, len(want))
		}
		if accepted != 1 {
			t.Errorf("%d connections, want 1", accepted)
		}
		// Success ends the back-off; the end of ctx ends one at once.
		h.FailAccept(syscall.EMFILE)
		testnet.DialPeer(t, h, "127.0.0.1:1").ExpectEnd(time.Minute)
		synctest.Wait()
		start := time.Now()
		cancel()
		if err := <-served; err != nil || time.Since(start) != 0 {
			t.Errorf("Serve returned %v after %v", err, time.Since(start))
		}
	})
	in(t, "closed by others", func(t *testing.T) {
		h := testnet.New().Host("10.0.0.1")
		ln, err := h.Listen(t.Context(), ":1")
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { ln.Close() })
		if err := link.Serve(t.Context(), ln, nil, nil); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v", err)
		}
	})
}

// A failingListener fails at first, and notes when it was asked.
type failingListener struct {
	net.Listener
	fails int
	at    []time.Time
}

func (l *failingListener) Accept() (net.Conn, error) {
	if len(l.at) <= l.fails {
		l.at = append(l.at, time.Now())
	}
	if len(l.at) <= l.fails {
		return nil, syscall.EMFILE
	}
	return l.Listener.Accept()
}
