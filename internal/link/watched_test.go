// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
)

// Somebody who accepts says so as often as asked, and no connection is lost by that. Nobody does so no longer when the loop is stuck
// or has ended.
func TestWatched(t *testing.T) {
	ln, err := TCP().Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	w := Watch(ln)
	stuck := errors.New("nobody accepts")
	ask := func(d time.Duration) error {
		ctx, cancel := context.WithTimeoutCause(t.Context(), d, stuck)
		defer cancel()
		return w.Ask(ctx)
	}
	const briefly = 50 * time.Millisecond
	if err := ask(briefly); !errors.Is(err, stuck) {
		t.Fatalf("before anybody accepts: %v", err)
	}

	ctx, end := context.WithCancel(t.Context())
	served := make(chan struct{}, 100)
	var loop sync.WaitGroup
	loop.Go(func() {
		if err := Serve(ctx, w, logrus.NewEntry(logrus.New()), func(context.Context, net.Conn) { served <- struct{}{} }); err != nil {
			t.Error(err)
		}
	})
	var askers sync.WaitGroup
	for range 4 {
		askers.Go(func() {
			for range 50 {
				if err := ask(30 * time.Second); err != nil {
					t.Error(err)
				}
			}
		})
	}
	for range 50 {
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		c.Close()
		select {
		case <-served:
		case <-time.After(30 * time.Second):
			t.Fatal("a connection was lost")
		}
	}
	askers.Wait()
	end()
	loop.Wait()
	if err := ask(briefly); !errors.Is(err, stuck) {
		t.Fatalf("after the end: %v", err)
	}
}
