// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"errors"
	"net"
	"os"
	"sync"
	"time"
)

// A Watched is a listener of which can be asked whether anybody accepts its connections.
type Watched struct {
	net.Listener

	mu    sync.Mutex
	asked chan struct{} // closed by who accepts; nil: nobody asks
}

// Watch returns ln as a Watched, which is to be used in its place.
func Watch(ln net.Listener) *Watched { return &Watched{Listener: ln} }

// A deadliner is a listener whose Accept can be interrupted, as TCP's.
type deadliner interface{ SetDeadline(time.Time) error }

// Accept implements net.Listener.
func (w *Watched) Accept() (net.Conn, error) {
	for {
		w.answer()
		c, err := w.Listener.Accept()
		if err == nil || !errors.Is(err, os.ErrDeadlineExceeded) {
			return c, err
		}
	}
}

// answer tells those who have asked that somebody accepts.
func (w *Watched) answer() {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.asked != nil {
		close(w.asked)
		w.asked = nil
		w.interrupt(time.Time{})
	}
}

func (w *Watched) interrupt(at time.Time) {
	if d, ok := w.Listener.(deadliner); ok {
		_ = d.SetDeadline(at) // of a closed listener; Accept has said so
	}
}

// Ask waits until Accept is called, or interrupts it and waits until it is called again; it fails with ctx's cause. No connection is made
// or lost. Without a listener that can be interrupted, as those of tests, one whose Accept waits doesn't answer.
func (w *Watched) Ask(ctx context.Context) error {
	w.mu.Lock()
	if w.asked == nil {
		w.asked = make(chan struct{})
	}
	c := w.asked
	w.interrupt(time.Unix(1, 0))
	w.mu.Unlock()
	select {
	case <-c:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
