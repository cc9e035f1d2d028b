// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

const (
	// bulkTransfers and interruptTransfers are how many IN transfers are always queued at each endpoint. The
	// firmware keeps 3 messages for a host that isn't ready and drops the oldest then, and with one
	// bulk transfer the first header after a PTS was seen to get lost. Each is one packet long, as a message of
	// several whole packets isn't always followed by one of length zero, and would leave a longer one waiting.
	bulkTransfers      = 16
	interruptTransfers = 2
	// writeLimit is how long a device may take for what it is sent; it has a buffer for it or it hangs.
	writeLimit = time.Second
	// maxRetries is how often in a row a transfer may fail on a busy or disturbed bus, and retryPause, which grows
	// by itself each time, the time between.
	maxRetries = 10
	retryPause = 10 * time.Millisecond
)

// ErrGone says that the device isn't there any more.
var ErrGone = errors.New("USB device has gone")

// errTransient is a transfer that failed, but may succeed when it is tried again.
var errTransient = errors.New("USB transfer failed")

var errClosed = errors.New("USB device was closed")

// A Conn is an interface that was claimed. All its methods may be called from any goroutine.
type Conn struct {
	info    Info
	out     Endpoint
	backend backend
	log     *logrus.Entry

	bulk, interrupt chan []byte
	writing         chan struct{} // holds one token: whoever has it may write
	ctx             context.Context
	end             context.CancelFunc
	limits          limits
	pumps           sync.WaitGroup
	closing         sync.Once
	closed          error // what came of closing

	mu   sync.Mutex
	dead bool
	err  error // why it is dead
}

// A backend is what a Conn needs of an open interface: libusb, but in tests.
type backend interface {
	// read queues transfers of one packet each at an IN endpoint.
	read(e Endpoint, transfers int) (stream, error)
	// write sends one transfer and says how much of it the device has taken.
	write(ctx context.Context, b []byte) (int, error)
	// close gives everything back.
	close() error
}

// A stream is a queue of IN transfers. ReadContext waits for the next one; when it fails or ctx ends, all are
// cancelled.
type stream interface {
	ReadContext(ctx context.Context, b []byte) (int, error)
}

// newConn starts to read.
func newConn(t Target, info Info, b backend, log *logrus.Entry) *Conn {
	ctx, end := context.WithCancel(context.Background())
	c := &Conn{
		info: info, out: t.out, backend: b, log: log,
		bulk: make(chan []byte, 4*bulkTransfers), interrupt: make(chan []byte, bulkTransfers),
		writing: make(chan struct{}, 1),
		ctx:     ctx, end: end,
	}
	c.pumps.Go(func() { c.pump(t.in, bulkTransfers, c.bulk) })
	c.pumps.Go(func() { c.pump(t.interrupt, interruptTransfers, c.interrupt) })
	return c
}

// Bulk delivers what arrives at the bulk IN endpoint, one transfer each. One without bytes says that transfers have failed: a message may lack its
// end, or be missing. It is closed when the device has gone or Close was called.
func (c *Conn) Bulk() <-chan []byte { return c.bulk }

// Interrupt does the same for the interrupt IN endpoint.
func (c *Conn) Interrupt() <-chan []byte { return c.interrupt }

// Info says which device it is.
func (c *Conn) Info() Info { return c.info }

// Err says why the channels were closed: ErrGone, or what went wrong. It is nil before that and after Close.
func (c *Conn) Err() error {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.err
}

// fail is the end of the connection; err is nil for Close.
func (c *Conn) fail(err error) {
	c.mu.Lock()
	if !c.dead {
		c.dead, c.err = true, err
	}
	c.mu.Unlock()
	c.end()
}

// Close gives the interface back, after all that reads and writes has ended. Later calls return what the first did.
func (c *Conn) Close() error {
	c.closing.Do(func() {
		c.fail(nil)
		c.pumps.Wait()
		c.writing <- struct{}{} // for good: nobody writes any more
		c.closed = c.backend.close()
	})
	return c.closed
}

// pump reads at e until the end.
func (c *Conn) pump(e Endpoint, transfers int, to chan<- []byte) {
	defer close(to)
	log := c.log.WithField("endpoint", e.String())
	buf := make([]byte, e.MaxPacket)
	for failed := 0; ; {
		s, err := c.backend.read(e, transfers)
		for err == nil {
			var n int
			if n, err = s.ReadContext(c.ctx, buf); err != nil {
				break
			}
			failed = 0
			if n == 0 {
				continue
			}
			select {
			case to <- append([]byte(nil), buf[:n]...):
			case <-c.ctx.Done():
				// Once more, which cancels the transfers.
			}
		}
		failed++
		switch {
		case c.ctx.Err() != nil:
			return
		case !errors.Is(err, errTransient):
			c.fail(fmt.Errorf("read %s: %w", e, err))
			return
		case failed > maxRetries:
			c.fail(fmt.Errorf("read %s: %d times in a row: %w", e, failed, err))
			return
		}
		log.WithError(err).Warn("USB transfers failed, messages may be lost: trying again")
		select {
		case to <- nil:
		case <-c.ctx.Done():
		}
		select {
		case <-time.After(time.Duration(failed) * retryPause):
		case <-c.ctx.Done():
		}
	}
}

// Write sends one bulk OUT transfer, and a packet of length zero after it where the last one was full. It fails when the
// device hasn't taken it by the deadline of ctx or within a second. What the device has begun to take it gets whole, even if ctx ends
// meanwhile: else the rest would be missing at the next message's beginning.
func (c *Conn) Write(ctx context.Context, b []byte) error {
	limit, done := c.limits.start(c.ctx)
	defer done()
	begin, stop := context.WithCancel(ctx)
	defer stop()
	defer context.AfterFunc(limit, stop)()
	select {
	case c.writing <- struct{}{}:
		defer func() { <-c.writing }()
	case <-begin.Done():
	}
	err := cmp.Or(ctx.Err(), limit.Err())
	if err == nil {
		err = c.send(begin, limit, b)
	}
	if err == nil && len(b)%int(c.out.MaxPacket) == 0 {
		err = c.send(limit, limit, nil)
	}
	switch {
	case err == nil:
		return nil
	case errors.Is(err, ErrGone):
		c.fail(err)
	case c.ctx.Err() != nil:
		if err = c.Err(); err == nil {
			err = errClosed
		}
	case ctx.Err() != nil:
		err = context.Cause(ctx)
	case limit.Err() != nil:
		err = context.Cause(limit)
	}
	return fmt.Errorf("write %d bytes to %s: %w", len(b), c.out, err)
}

// send sends one transfer, unless begin ends before the device takes any of it. After a disturbance it goes on with what the device
// hasn't taken.
func (c *Conn) send(begin, limit context.Context, b []byte) error {
	ctx := begin
	for failed := 0; ; {
		if ctx.Err() != nil {
			return ctx.Err()
		}
		n, err := c.backend.write(ctx, b)
		if n > 0 {
			ctx, b = limit, b[min(n, len(b)):]
		}
		switch {
		case err == nil && len(b) == 0:
			return nil
		case err == nil:
			return fmt.Errorf("the device has left %d bytes", len(b))
		case n > 0 && begin.Err() != nil:
			continue // it was cancelled half-way
		case !errors.Is(err, errTransient) || ctx.Err() != nil:
			return err
		}
		if failed++; failed > maxRetries {
			return fmt.Errorf("%d times in a row: %w", failed, err)
		}
		select {
		case <-time.After(time.Duration(failed) * retryPause):
		case <-ctx.Done():
		}
	}
}
