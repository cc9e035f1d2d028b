// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
)

// While a Handle lingers, its connection is read again after 5 ms, by one goroutine.
func TestLinger(t *testing.T) {
	// lingering returns a Conn of which each command lingers until it is released, and what was begun.
	lingering := func(t *testing.T) (b *bench, begun chan int, release chan struct{}) {
		begun, release = make(chan int, 10), make(chan struct{})
		b = newBench(t, link.Options{Lingers: true, Handle: func(c *link.Conn, p rspro.PDU) {
			if m, ok := p.Msg.(*rspro.TpduModemToCard); ok {
				n := len(m.Data)
				c.Linger(func() { begun <- n; <-release })
			}
		}})
		return b, begun, release
	}
	command := func(b *bench, n int) {
		b.peer.Send(&rspro.TpduModemToCard{From: client, To: bank, Data: make([]byte, n)})
	}
	want := func(t *testing.T, begun <-chan int, n int, after time.Duration) {
		t.Helper()
		start := time.Now()
		if got := <-begun; got != n || time.Since(start) != after {
			t.Errorf("command of %d bytes after %v, want %d after %v", got, time.Since(start), n, after)
		}
	}

	in(t, "others are read", func(t *testing.T) {
		b, begun, release := lingering(t)
		for n := range 3 { // each lingers on, also those that were read by the goroutine of another one's
			command(b, 5+n)
		}
		want(t, begun, 5, 0)
		want(t, begun, 6, 5*time.Millisecond)
		want(t, begun, 7, 5*time.Millisecond)
		b.peer.Write(ipa.AppendCCM(nil, ipa.Ping))
		b.peer.ExpectCCM(ipa.Pong)
		close(release)
		command(b, 8)
		want(t, begun, 8, 0)
	})
	in(t, "short ones", func(t *testing.T) {
		b, begun, release := lingering(t)
		close(release)
		for n := range 100 { // whenever the timer fires, nobody is relieved
			command(b, 5+n)
			want(t, begun, 5+n, 0)
			time.Sleep(time.Millisecond)
		}
		b.conn.Close(io.ErrClosedPipe)
		b.wantEnd(io.ErrClosedPipe, 100*time.Millisecond)
	})
	in(t, "counted from its own begin", func(t *testing.T) {
		b, begun, release := lingering(t)
		command(b, 5)
		want(t, begun, 5, 0)
		time.Sleep(3 * time.Millisecond)
		release <- struct{}{}
		command(b, 6)
		want(t, begun, 6, 0)
		command(b, 7)
		want(t, begun, 7, 5*time.Millisecond)
		close(release)
	})
	in(t, "one that hangs", func(t *testing.T) {
		b, begun, release := lingering(t)
		command(b, 5)
		want(t, begun, 5, 0)
		synctest.Wait() // the first PING is out
		b.peer.Close()
		b.wantEnd(io.EOF, 5*time.Millisecond) // Run doesn't wait for it
		close(release)
	})
	in(t, "a bad frame after it", func(t *testing.T) {
		b, begun, release := lingering(t)
		command(b, 5)
		want(t, begun, 5, 0)
		b.peer.Write([]byte{0, 0, 0xee})
		b.wantEnd(ipa.ErrEmpty, 5*time.Millisecond)
		close(release)
	})
	in(t, "Close", func(t *testing.T) {
		b, begun, release := lingering(t)
		command(b, 5)
		want(t, begun, 5, 0)
		why := errors.New("why")
		b.conn.Close(why)
		b.wantEnd(why, 5*time.Millisecond)
		close(release)
	})
}
