// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"fmt"
	"math"
	"slices"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
)

// tagC is the tag that C programs give their connectClientRes, whatever the request's;
// so no request of ours carries it.
const tagC = 2342

// A call is an outstanding request.
type call struct {
	tag   int32
	want  rspro.Choice // the response's
	done  func(rspro.Message, error)
	timer *time.Timer // nil: no limit
}

// Request queues a request with a tag of its own and calls done exactly once, never from
// within Request: in the read loop with the response; or from a goroutine of its own
// with ErrTimeout after d (0: no limit), with the reason when m can't be sent, or with the
// reason when the connection ends.
//
// A response is matched by tag and type. C programs answer with tags that
// aren't the request's, but in order: a tag that was never given out is that of the oldest
// outstanding request of the type. m passed to done is valid only until done returns.
func (c *Conn) Request(m rspro.Message, d time.Duration, done func(m rspro.Message, err error)) {
	c.mu.Lock()
	defer c.mu.Unlock()
	want, ok := m.Choice().Response()
	if !ok {
		c.failLocked(done, fmt.Errorf("link: %v has no response", m.Choice()))
		return
	}
	if c.tag++; c.tag == tagC {
		c.tag++
	}
	if err := c.sendLocked(c.tag, m); err != nil {
		c.failLocked(done, err)
		return
	}
	q := &call{tag: c.tag, want: want, done: done}
	c.calls = append(c.calls, q)
	if d > 0 {
		q.timer = c.after(d, func() {
			if c.takeCall(q) {
				done(nil, fmt.Errorf("%w: %v, %v", ErrTimeout, m.Choice(), d))
			}
		})
	}
	if c.tag == math.MaxInt32 {
		c.tag = 0
	}
}

// failLocked has done called with err.
func (c *Conn) failLocked(done func(rspro.Message, error), err error) {
	if c.end == ended {
		go done(nil, err)
		return
	}
	c.timers.Go(func() { done(nil, err) })
}

// after calls f in d, unless disarmed; Run waits for it. c.mu is held.
func (c *Conn) after(d time.Duration, f func()) *time.Timer {
	c.timers.Add(1)
	return time.AfterFunc(d, func() {
		defer c.timers.Done()
		f()
	})
}

// disarm stops a timer of after, which may be nil or have fired.
func (c *Conn) disarm(t *time.Timer) {
	if t != nil && t.Stop() {
		c.timers.Done()
	}
}

// takeCall takes q from the outstanding requests; it reports whether it was one.
func (c *Conn) takeCall(q *call) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := slices.Index(c.calls, q)
	if i < 0 {
		return false
	}
	c.calls = slices.Delete(c.calls, i, i+1)
	return true
}

// response gives a response to the request it belongs to; it reports whether there is one.
func (c *Conn) response(p rspro.PDU) bool {
	c.mu.Lock()
	ours := p.Tag > 0 && p.Tag <= c.tag && p.Tag != tagC
	i := slices.IndexFunc(c.calls, func(q *call) bool {
		return q.want == p.Msg.Choice() && (q.tag == p.Tag || !ours)
	})
	var q *call
	if i >= 0 {
		q = c.calls[i]
		c.calls = slices.Delete(c.calls, i, i+1)
		c.disarm(q.timer)
	}
	c.mu.Unlock()
	if q == nil {
		return false
	}
	q.done(p.Msg, nil)
	return true
}

// A probe waits for a PONG.
type probe struct {
	up    chan bool
	timer *time.Timer
}

// Probe sends a PING at once and reports on the channel whether a PONG came within d.
func (c *Conn) Probe(d time.Duration) <-chan bool {
	p := &probe{up: make(chan bool, 1)}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.end != running {
		p.up <- false
		return p.up
	}
	c.queueCCMLocked(ipa.Ping)
	c.probes = append(c.probes, p)
	p.timer = c.after(d, func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		if i := slices.Index(c.probes, p); i >= 0 {
			c.probes = slices.Delete(c.probes, i, i+1)
			p.up <- false
		}
	})
	return p.up
}
