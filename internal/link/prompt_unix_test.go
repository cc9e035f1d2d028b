// SPDX-License-Identifier: GPL-2.0-or-later

//go:build unix

package link_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

// sockets returns the two ends of a TCP connection with small buffers.
func sockets(t *testing.T) (near, far *net.TCPConn) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	peer, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	near, far = nc.(*net.TCPConn), peer.(*net.TCPConn)
	t.Cleanup(func() { near.Close(); far.Close() })
	if err := errors.Join(near.SetWriteBuffer(16<<10), far.SetReadBuffer(16<<10)); err != nil {
		t.Fatal(err)
	}
	return near, far
}

// patient is of a Conn whose peer answers no PING.
var patient = link.Options{KeepAlive: link.KeepAlive{Timeout: time.Hour}}

// numbered is a command that tells its number.
func numbered(i int) *rspro.TpduModemToCard {
	return &rspro.TpduModemToCard{From: client, To: bank, Data: append(make([]byte, 198), byte(i>>8), byte(i))}
}

// wantNumbered reads n of those, in their order.
func wantNumbered(t *testing.T, frames *ipa.Reader, n int) {
	t.Helper()
	for i := range n {
		s, b, err := frames.Next()
		for err == nil && s == ipa.CCM {
			s, b, err = frames.Next()
		}
		if err != nil {
			t.Fatalf("message %d: %v", i, err)
		}
		want, _ := rspro.PDU{Version: rspro.Version, Msg: numbered(i)}.Append(nil)
		if !bytes.Equal(b, want) {
			t.Fatalf("message %d is % x", i, b)
		}
	}
}

// What is flushed, sent, and more than a socket takes comes in order.
func TestFlush(t *testing.T) {
	near, far := sockets(t)
	c := link.New(near, patient)
	for i := range 10 { // nothing goes before Run
		if err := c.Post(numbered(i)); err != nil {
			t.Fatal(err)
		}
		c.Flush()
	}
	far.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if n, err := far.Read(make([]byte, 1)); n > 0 {
		t.Errorf("%d bytes came before Run, %v", n, err)
	}
	ran := make(chan error, 1)
	go func() { ran <- c.Run(t.Context()) }()
	far.SetReadDeadline(time.Now().Add(5 * time.Minute))
	frames := ipa.NewReader(far)
	wantNumbered(t, frames, 10)

	const n = 800 // 170 KB: far more than the socket takes
	for i := range n {
		send := c.Send
		if i%3 > 0 {
			send = c.Post
		}
		if err := send(numbered(i)); err != nil {
			t.Fatal(err)
		}
		if i%3 == 1 {
			c.Flush()
		}
	}
	c.Flush()
	wantNumbered(t, frames, n)

	for i := range n { // all is taken at once
		if err := c.Post(numbered(0)); err != nil {
			t.Fatal(i, err)
		}
		c.Flush()
		wantNumbered(t, frames, 1)
	}

	for i := range n {
		if err := c.Post(numbered(i)); err != nil {
			t.Fatal(err)
		}
		c.Flush()
	}
	c.Finish(errBoom) // which waits for all of that
	wantNumbered(t, frames, n)
	if _, _, err := frames.Next(); err != io.EOF {
		t.Errorf("at the end: %v, want %v", err, io.EOF)
	}
	if err := <-ran; err != errBoom {
		t.Errorf("Run returned %v, want %v", err, errBoom)
	}
	if err := c.Post(numbered(0)); err != link.ErrClosed {
		t.Errorf("afterwards: %v, want %v", err, link.ErrClosed)
	}
	c.Flush()
}

// Flush doesn't wait for a peer that reads nothing, whose connection ends when the queue is full.
func TestFlushToNobody(t *testing.T) {
	near, _ := sockets(t)
	c := link.New(near, patient)
	ran := make(chan error, 1)
	go func() { ran <- c.Run(t.Context()) }()
	err := error(nil)
	for i := 0; err == nil && i < 100_000; i++ {
		err = c.Post(numbered(i))
		c.Flush()
	}
	if err != link.ErrQueueFull {
		t.Errorf("got %v, want %v", err, link.ErrQueueFull)
	}
	if err := <-ran; err != link.ErrQueueFull {
		t.Errorf("Run returned %v, want %v", err, link.ErrQueueFull)
	}
}

// A deadline of the writer's isn't one for what comes after it, and a peer that is no more is noticed.
func TestFlushAfterDeadline(t *testing.T) {
	near, far := sockets(t)
	c := link.New(near, patient)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	ran := make(chan error, 1)
	go func() { ran <- c.Run(ctx) }()
	frames := ipa.NewReader(far)
	for i := range 800 { // the writer has to wait
		if err := c.Send(numbered(i)); err != nil {
			t.Fatal(err)
		}
	}
	wantNumbered(t, frames, 800)
	for range 100 {
		if err := c.Post(numbered(0)); err != nil {
			t.Fatal(err)
		}
		c.Flush()
		wantNumbered(t, frames, 1)
	}
	far.SetLinger(0)
	far.Close()
	for {
		if c.Post(numbered(0)) != nil {
			break
		}
		c.Flush()
	}
	if err := <-ran; err == nil {
		t.Error("Run returned nil")
	}
}

// Flush from many goroutines, with an end at any moment.
func TestConcurrentFlush(t *testing.T) {
	for range 10 {
		near, far := sockets(t)
		c := link.New(near, patient)
		ran := make(chan error, 1)
		go func() { ran <- c.Run(t.Context()) }()
		var users sync.WaitGroup
		for range 4 {
			users.Go(func() {
				for c.Post(numbered(0)) == nil {
					c.Flush()
					time.Sleep(time.Microsecond) // or else the queue is full
				}
			})
		}
		frames := ipa.NewReader(far)
		broken := some(frames, 50)
		c.Close(errBoom)
		// On a busy machine the queue may be full before anything was read.
		if err := <-ran; !errors.Is(err, link.ErrQueueFull) && (err != errBoom || broken != nil) {
			t.Errorf("Run returned %v; reading: %v", err, broken)
		}
		users.Wait()
	}
}

// some reads n messages that are whole.
func some(frames *ipa.Reader, n int) error {
	for n > 0 {
		s, b, err := frames.Next()
		if err != nil {
			return err
		}
		if s == ipa.RSPRO {
			if _, err := rspro.Decode(b); err != nil {
				return err
			}
			n--
		}
	}
	return nil
}

// Where a stream can only be waited for, Flush leaves all to the writer.
func TestFlushWithoutSocket(t *testing.T) {
	in(t, "", func(t *testing.T) {
		b := newBench(t, link.Options{})
		for range 100 {
			if err := b.conn.Post(numbered(1)); err != nil {
				t.Fatal(err)
			}
			b.conn.Flush()
			testnet.Expect[*rspro.TpduModemToCard](b.peer)
		}
		b.far.Stall()
		for range 500 {
			if err := b.conn.Post(numbered(1)); err != nil {
				t.Fatal(err)
			}
			b.conn.Flush()
		}
		b.wantEnd(link.ErrStalled, 10*time.Second)
	})
}
