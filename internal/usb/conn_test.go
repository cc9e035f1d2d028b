// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"context"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/simtrace"
)

// A fake is a backend whose device is two channels.
type fake struct {
	bulk, interrupt chan packet // what the device sends
	taken           chan []byte // what it takes; nobody receives: it hangs

	mu     sync.Mutex
	writes []error // what becomes of the next writes, in order; then they succeed
	queues []int   // transfers of each stream that was made
	active int     // streams whose transfers are queued
	closed int
}

// A packet is what one transfer brings.
type packet struct {
	data []byte
	err  error
}

func newFake() *fake {
	return &fake{bulk: make(chan packet), interrupt: make(chan packet), taken: make(chan []byte, 100)}
}

func (f *fake) read(e Endpoint, transfers int) (stream, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.queues = append(f.queues, transfers)
	f.active++
	if e.Transfer == transferInterrupt {
		return &fakeStream{f, f.interrupt}, nil
	}
	return &fakeStream{f, f.bulk}, nil
}

type fakeStream struct {
	f  *fake
	in chan packet
}

func (s *fakeStream) ReadContext(ctx context.Context, b []byte) (n int, err error) {
	select {
	case p := <-s.in:
		n, err = copy(b, p.data), p.err
	case <-ctx.Done():
		err = errors.New("cancelled")
	}
	if err != nil {
		s.f.mu.Lock()
		s.f.active--
		s.f.mu.Unlock()
	}
	return n, err
}

func (f *fake) write(ctx context.Context, b []byte) (int, error) {
	f.mu.Lock()
	var err error
	if len(f.writes) > 0 {
		err, f.writes = f.writes[0], f.writes[1:]
	}
	f.mu.Unlock()
	if err != nil {
		n := 0
		if partial := (*partialError)(nil); errors.As(err, &partial) {
			n = partial.n
			f.taken <- slices.Clone(b[:n])
		}
		if cancelled := (*cancelledError)(nil); errors.As(err, &cancelled) {
			cancelled.cancel()
			<-ctx.Done()
			n = cancelled.n
			f.taken <- slices.Clone(b[:n])
			if n == simtrace.PacketSize {
				err = nil
			}
		}
		return n, err
	}
	select {
	case f.taken <- slices.Clone(b):
		return len(b), nil
	case <-ctx.Done():
		return 0, errors.New("cancelled")
	}
}

// A partialError is a transient one after n bytes.
type partialError struct{ n int }

func (*partialError) Error() string { return "disturbed" }
func (*partialError) Unwrap() error { return errTransient }

// A cancelledError is that of a sender who gives up when the device has n bytes.
type cancelledError struct {
	n      int
	cancel context.CancelFunc
}

func (*cancelledError) Error() string { return "cancelled" }

func (f *fake) close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.active > 0 {
		return fmt.Errorf("%d streams are still read", f.active)
	}
	f.closed++
	return nil
}

var testTarget = Target{
	out:       Endpoint{0x04, transferBulk, 64},
	in:        Endpoint{0x85, transferBulk, 64},
	interrupt: Endpoint{0x86, transferInterrupt, 64},
}

func testConn(f *fake) *Conn {
	log := logrus.New()
	log.Out = io.Discard
	return newConn(testTarget, Info{Path: "1-1"}, f, logrus.NewEntry(log))
}

func TestConnReads(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := testConn(f)
		full := []byte(strings.Repeat("x", 64))
		f.bulk <- packet{data: full}
		f.bulk <- packet{} // a packet of length zero is nothing
		f.interrupt <- packet{data: []byte("status")}
		f.bulk <- packet{data: []byte("rest")}
		if a, b := <-c.Bulk(), <-c.Bulk(); string(a) != string(full) || string(b) != "rest" {
			t.Errorf("bulk %q, %q", a, b)
		}
		if b := <-c.Interrupt(); string(b) != "status" {
			t.Errorf("interrupt %q", b)
		}
		slices.Sort(f.queues)
		if !slices.Equal(f.queues, []int{interruptTransfers, bulkTransfers}) {
			t.Errorf("queued transfers %v", f.queues)
		}
		if c.Info().Path != "1-1" {
			t.Errorf("info %+v", c.Info())
		}
		for range 2 {
			if err := c.Close(); err != nil || c.Err() != nil || f.closed != 1 {
				t.Errorf("close %v, Err %v, closed %d times", err, c.Err(), f.closed)
			}
		}
		if _, open := <-c.Bulk(); open {
			t.Error("bulk channel is open")
		}
		if err := c.Write(t.Context(), []byte("x")); !errors.Is(err, errClosed) {
			t.Errorf("write after Close: %v", err)
		}
	})
}

// Nobody reads any more: Close doesn't wait for that.
func TestConnCloseUnread(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := testConn(f)
		for range cap(c.bulk) + 1 {
			f.bulk <- packet{data: []byte("x")}
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// The device goes: both channels are closed at once, whichever endpoint notices.
func TestConnGone(t *testing.T) {
	for _, which := range []string{"bulk", "interrupt", "write"} {
		t.Run(which, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				c := testConn(f)
				start := time.Now()
				gone := fmt.Errorf("%w: unplugged", ErrGone)
				switch which {
				case "bulk":
					f.bulk <- packet{err: gone}
				case "interrupt":
					f.interrupt <- packet{err: gone}
				case "write":
					f.writes = []error{gone}
					if err := c.Write(t.Context(), []byte("x")); !errors.Is(err, ErrGone) {
						t.Errorf("write: %v", err)
					}
				}
				_, open1 := <-c.Bulk()
				_, open2 := <-c.Interrupt()
				if open1 || open2 || !errors.Is(c.Err(), ErrGone) || time.Since(start) > 0 {
					t.Errorf("open %v %v, Err %v after %v", open1, open2, c.Err(), time.Since(start))
				}
				if err := c.Write(t.Context(), []byte("x")); !errors.Is(err, ErrGone) {
					t.Errorf("write: %v", err)
				}
				if err := c.Close(); err != nil || !errors.Is(c.Err(), ErrGone) {
					t.Errorf("close %v, Err %v", err, c.Err())
				}
			})
		})
	}
}

// Transfers that fail on a disturbed bus are queued anew; when that goes on and on the device is given up.
func TestConnRetries(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := testConn(f)
		start := time.Now()
		for range 2 {
			for range maxRetries {
				f.bulk <- packet{err: errTransient}
				if b, open := <-c.Bulk(); len(b) > 0 || !open {
					t.Errorf("bulk %q, open %v: want to be told that something may be missing", b, open)
				}
			}
			f.bulk <- packet{data: []byte("x")}
			if b := <-c.Bulk(); string(b) != "x" {
				t.Errorf("bulk %q", b)
			}
		}
		if took, want := time.Since(start), 2*55*retryPause; took != want {
			t.Errorf("pauses of %v, want %v", took, want)
		}
		for range maxRetries + 1 {
			f.bulk <- packet{err: errTransient}
		}
		for range maxRetries {
			<-c.Bulk()
		}
		if _, open := <-c.Bulk(); open || c.Err() == nil || errors.Is(c.Err(), ErrGone) || !strings.Contains(c.Err().Error(), "read bulk IN 0x85: 11 times in a row") {
			t.Errorf("Err %v", c.Err())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// Any other failure is the end at once.
func TestConnFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := testConn(f)
		f.interrupt <- packet{err: errors.New("halted")}
		if _, open := <-c.Bulk(); open || c.Err() == nil || c.Err().Error() != "read interrupt IN 0x86: halted" {
			t.Errorf("Err %v", c.Err())
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A transfer of whole packets is followed by one of length zero.
func TestConnWrites(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		c := testConn(f)
		defer c.Close()
		for _, tc := range []struct {
			n    int
			fail []error
			want []int
		}{
			{1, nil, []int{1}},
			{63, nil, []int{63}},
			{64, nil, []int{64, 0}},
			{65, nil, []int{65}},
			{256, nil, []int{256, 0}},
			{280, nil, []int{280}},
			{280, []error{&partialError{128}, &partialError{0}}, []int{128, 0, 152}}, // goes on where it was disturbed
			{64, []error{nil, errTransient}, []int{64, 0}},
		} {
			f.writes = tc.fail
			b := make([]byte, tc.n)
			for i := range b {
				b[i] = byte(i)
			}
			if err := c.Write(t.Context(), b); err != nil {
				t.Errorf("%d bytes: %v", tc.n, err)
			}
			var got []int
			var all []byte
			for len(f.taken) > 0 {
				p := <-f.taken
				got, all = append(got, len(p)), append(all, p...)
			}
			if !slices.Equal(got, tc.want) || !slices.Equal(all, b) {
				t.Errorf("%d bytes: transfers of %v, want %v", tc.n, got, tc.want)
			}
		}
		f.writes = slices.Repeat([]error{errTransient}, maxRetries+1)
		if err := c.Write(t.Context(), []byte("x")); !errors.Is(err, errTransient) || c.Err() != nil {
			t.Errorf("a bus that is disturbed for long: %v, Err %v", err, c.Err())
		}
	})
}

// What the device has begun to take it gets to its end, though its sender gives up: with the beginning only, or without the packet of length
// zero, it would take the next message for more of this one.
func TestConnWriteBegun(t *testing.T) {
	for _, tc := range []struct {
		name string
		n    int
		take []int // of the transfers, all that the device takes before the sender gives up
		want []int
	}{
		{"in the middle", 280, []int{128}, []int{128, 152}},
		{"before the packet of length zero", 64, []int{64}, []int{64, 0}},
		{"at its end", 280, []int{280}, []int{280, 0}},
		{"before it has taken anything", 280, []int{0}, []int{0}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake()
				c := testConn(f)
				defer c.Close()
				ctx, cancel := context.WithCancel(t.Context())
				defer cancel()
				for _, n := range tc.take {
					f.writes = append(f.writes, &cancelledError{n, cancel})
				}
				err := c.Write(ctx, make([]byte, tc.n))
				var got []int
				for len(f.taken) > 0 {
					got = append(got, len(<-f.taken))
				}
				if !slices.Equal(got, tc.want) || (err == nil) != (tc.take[0] > 0) {
					t.Errorf("transfers of %v, want %v; %v", got, tc.want, err)
				}
			})
		})
	}
}

// What the device doesn't take ends in a second, or when its sender wants, and holds up others no longer.
func TestConnWriteLimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.taken = make(chan []byte)
		c := testConn(f)
		var all sync.WaitGroup
		for _, tc := range []struct {
			limit time.Duration
			want  time.Duration
			err   string
		}{
			{time.Hour, writeLimit, "write 1 bytes to bulk OUT 0x04: not taken by the device within 1s"},
			{300 * time.Millisecond, 300 * time.Millisecond, "context deadline exceeded"},
		} {
			all.Go(func() {
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), tc.limit)
				defer cancel()
				err := c.Write(ctx, []byte("x"))
				if err == nil || !strings.Contains(err.Error(), tc.err) || time.Since(start) != tc.want {
					t.Errorf("%v after %v, want %q after %v", err, time.Since(start), tc.err, tc.want)
				}
			})
		}
		all.Wait()
		if c.Err() != nil {
			t.Errorf("Err %v", c.Err())
		}
		f.taken = make(chan []byte, 100)
		ctx, cancel := context.WithCancel(t.Context())
		cancel()
		for range cap(f.taken) {
			if err := c.Write(ctx, []byte("x")); !errors.Is(err, context.Canceled) || len(f.taken) > 0 {
				t.Fatalf("sender has given up: %v, %d sent", err, len(f.taken))
			}
		}
		f.taken = make(chan []byte)
		all.Go(func() {
			if err := c.Write(t.Context(), []byte("x")); !errors.Is(err, errClosed) {
				t.Errorf("write while Close is called: %v", err)
			}
		})
		synctest.Wait()
		if err := c.Close(); err != nil {
			t.Error(err)
		}
		all.Wait()
	})
}

// The time that a write may take counts from its own begin, whichever there were before.
func TestConnWriteLimitOfEach(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.taken = make(chan []byte)
		c := testConn(f)
		write := func(wait time.Duration, want time.Duration) {
			t.Helper()
			time.AfterFunc(wait, func() {
				select {
				case <-f.taken:
				case <-time.After(writeLimit): // it has given up
				}
			})
			start := time.Now()
			err := c.Write(t.Context(), []byte("x"))
			if took := time.Since(start); took != want || (err == nil) != (want < writeLimit) {
				t.Errorf("%v after %v, want it after %v", err, took, want)
			}
		}
		for range 3 {
			write(0, 0)
			time.Sleep(700 * time.Millisecond)
			write(600*time.Millisecond, 600*time.Millisecond)
			write(2*writeLimit, writeLimit)
			time.Sleep(5 * time.Second)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
}
