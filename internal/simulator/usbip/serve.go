// SPDX-License-Identifier: GPL-2.0-or-later

package usbip

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
)

// An attachment is a host's connection with a device, after it was imported. One goroutine answers, so that
// the end of a transfer and the answer to its unlinking go out in the order in which they happened: the kernel
// drops the device otherwise.
type attachment struct {
	dev     Device
	conn    io.Writer
	buf     []byte
	waiting [2][16][]transfer // OUT and IN transfers that the device has NAKed, by endpoint
}

// A transfer waits for its device.
type transfer struct {
	request
	got []byte // so far, of an IN transfer
}

// packetSize is the wMaxPacketSize of bulk and interrupt endpoints at full speed.
const packetSize = 64

// Attach has a host use the device over conn until ctx ends, the host disconnects (nil), or breaks the protocol. It
// closes conn.
func Attach(ctx context.Context, conn io.ReadWriteCloser, dev Device) error {
	ctx, cancel := context.WithCancel(ctx)
	closed := make(chan struct{})
	defer func() { cancel(); <-closed }()
	context.AfterFunc(ctx, func() { conn.Close(); close(closed) })
	if err := dev.Attached(true); err != nil {
		return err
	}
	defer func() { _ = dev.Attached(false) }()

	requests := make(chan request)
	var failed error
	go func() {
		defer close(requests)
		r := bufio.NewReader(conn)
		for {
			q, err := readRequest(r)
			if err != nil {
				failed = err
				return
			}
			select {
			case requests <- q:
			case <-ctx.Done():
				return
			}
		}
	}()
	defer func() {
		cancel()
		for range requests { // until it has ended
		}
	}()

	a := &attachment{dev: dev, conn: conn}
	for {
		var err error
		select {
		case <-ctx.Done():
			return nil
		case <-dev.Changed():
			err = a.changed()
		case q, ok := <-requests:
			if !ok {
				if ctx.Err() != nil || errors.Is(failed, io.EOF) {
					return nil
				}
				return failed
			}
			err = a.handle(q)
		}
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return err
		}
	}
}

// handle takes a request, and answers it unless the device doesn't yet.
func (a *attachment) handle(q request) error {
	switch {
	case q.command == cmdUnlink:
		a.unlink(q)
	case q.ep == 0:
		a.control(q)
	default:
		queue := a.queue(q)
		*queue = append(*queue, transfer{request: q})
		a.advance(queue)
	}
	return a.flush()
}

func (a *attachment) queue(q request) *[]transfer {
	if q.in {
		return &a.waiting[1][q.ep]
	}
	return &a.waiting[0][q.ep]
}

// changed looks at all transfers that wait.
func (a *attachment) changed() error {
	for dir := range a.waiting {
		for ep := range a.waiting[dir] {
			a.advance(&a.waiting[dir][ep])
		}
	}
	return a.flush()
}

func (a *attachment) control(q request) {
	b, err := a.dev.Control(q.setup, q.data)
	if err != nil {
		a.end(q, ePipe, 0, nil)
		return
	}
	n := len(q.data)
	if q.in {
		b = b[:min(len(b), q.length, int(q.setup.Length))]
		n = len(b)
	} else {
		b = nil
	}
	a.end(q, 0, n, b)
}

// advance ends the transfers of one endpoint in their order, as far as the device goes.
func (a *attachment) advance(queue *[]transfer) {
	for len(*queue) > 0 {
		status, done := a.transact(&(*queue)[0])
		if !done {
			return
		}
		t := (*queue)[0]
		*queue = append((*queue)[:0], (*queue)[1:]...)
		switch {
		case t.in:
			a.end(t.request, status, len(t.got), t.got)
		case status == 0:
			a.end(t.request, 0, len(t.data), nil)
		default:
			a.end(t.request, status, 0, nil)
		}
	}
}

// transact goes on with a transfer until it has ended or the device has nothing.
func (a *attachment) transact(t *transfer) (status int32, done bool) {
	for {
		var b []byte
		var shake Handshake
		if t.in {
			b, shake = a.dev.In(t.ep)
		} else {
			shake = a.dev.Out(t.ep, t.data, t.flags&urbZeroPacket != 0)
		}
		switch {
		case shake == NAK:
			return 0, false
		case shake == Stall:
			return ePipe, true
		case shake != ACK:
			return eProto, true
		case !t.in:
			return 0, true
		case len(t.got)+len(b) > t.length: // more than the host has room for
			t.got = append(t.got, b[:t.length-len(t.got)]...)
			return eOverflow, true
		}
		t.got = append(t.got, b...)
		if len(b) < packetSize || len(t.got) == t.length {
			return 0, true
		}
	}
}

// unlink takes a transfer back, if it still waits.
func (a *attachment) unlink(q request) {
	for dir := range a.waiting {
		for ep := range a.waiting[dir] {
			queue := &a.waiting[dir][ep]
			for i := range *queue {
				if (*queue)[i].seq == q.unlink {
					*queue = append((*queue)[:i], (*queue)[i+1:]...)
					a.buf = appendUnlinked(a.buf, q.seq, eConnReset)
					return
				}
			}
		}
	}
	a.buf = appendUnlinked(a.buf, q.seq, 0)
}

func (a *attachment) end(q request, status int32, n int, data []byte) {
	a.buf = appendSubmitted(a.buf, q.seq, status, n, data)
}

// flush sends the answers.
func (a *attachment) flush() error {
	if len(a.buf) == 0 {
		return nil
	}
	_, err := a.conn.Write(a.buf)
	a.buf = a.buf[:0]
	if err != nil {
		return fmt.Errorf("usbip: %w", err)
	}
	return nil
}
