// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"time"

	"remsim/internal/ipa"
)

// relief is how long a connection isn't read while its Handle lingers.
const relief = 5 * time.Millisecond

// A reading is who reads a connection whose Handle may linger: one goroutine at a time. It belongs to Conn.mu.
type reading struct {
	frames   *ipa.Reader
	turn     int         // counts the goroutines
	since    time.Time   // the present one lingers since then; zero: it doesn't
	timer    *time.Timer // has another one read on
	watching bool        // timer runs
	ended    chan error  // gets why the last one has ended
}

// Linger calls f, which may block, from within Handle of a Conn with Options.Lingers. So what a peer waits for is done by who has read
// that it wants it, without a change of goroutines. When f takes more than some milliseconds, another goroutine reads on;
// even Run may return before f does. The PDU isn't valid any more in f, and Handle does nothing after it: it may have been called again meanwhile.
func (c *Conn) Linger(f func()) {
	r := c.reading
	c.mu.Lock()
	turn := r.turn
	r.since = time.Now()
	// The timer isn't stopped when f returns: to set one, which wakes a thread, takes longer than most commands.
	if !r.watching {
		r.watching = true
		r.timer.Reset(relief)
	}
	c.mu.Unlock()
	f()
	c.mu.Lock()
	if r.turn == turn {
		r.since = time.Time{}
	}
	c.mu.Unlock()
}

// relieve has another goroutine read on when the present one lingers for too long.
func (c *Conn) relieve() {
	r := c.reading
	c.mu.Lock()
	defer c.mu.Unlock()
	r.watching = false
	if r.since.IsZero() {
		return
	}
	if left := relief - time.Since(r.since); left > 0 {
		r.watching = true
		r.timer.Reset(left)
		return
	}
	r.since = time.Time{}
	r.turn++
	go c.readAs(r.turn)
}

// readLingering is read with goroutines that may linger.
func (c *Conn) readLingering() error {
	c.reading = &reading{frames: ipa.NewReader(c.nc), ended: make(chan error, 1)}
	c.reading.timer = time.AfterFunc(relief, c.relieve)
	defer c.reading.timer.Stop()
	go c.readAs(0)
	return <-c.reading.ended
}

// readAs hands out what comes until the stream ends, or another goroutine reads.
func (c *Conn) readAs(turn int) {
	r := c.reading
	for {
		err := c.next(r.frames)
		c.mu.Lock()
		relieved := r.turn != turn
		c.mu.Unlock()
		if relieved {
			return
		}
		if err != nil {
			r.ended <- err
			return
		}
	}
}
