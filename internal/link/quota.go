// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
)

// What a peer may cause within a minute, so that none can fill a log.
const (
	quotaPeriod = time.Minute
	// maxStrays is how many messages out of place end the connection. Some cross each other
	// now and then; a peer that sends more of them is broken.
	maxStrays = 100
	// maxLines is how many lines are logged by Quota. Each slot of the greatest bank may be
	// told of once.
	maxLines = 1200
)

// A quota counts events by the minute.
type quota struct {
	since time.Time // the minute's begin
	n     int       // events in it
}

// add counts an event; it returns how many there are in this minute and, with the first of a
// minute, how many there were in the last one.
func (q *quota) add(now time.Time) (n, last int) {
	if now.Sub(q.since) >= quotaPeriod {
		last = q.n
		*q = quota{since: now}
	}
	q.n++
	return q.n, last
}

// Stray logs, as a warning, that p was passed over since it has no place here, and why:
// in words of the caller, not of the peer. The 100th within a minute closes the connection
// with ErrStrays.
func (c *Conn) Stray(p rspro.PDU, why string) {
	c.Log().WithFields(logrus.Fields{"message": p.Msg.Choice(), "tag": p.Tag}).Warn("message passed over: " + why)
	c.mu.Lock()
	defer c.mu.Unlock()
	if n, _ := c.strays.add(time.Now()); n >= maxStrays {
		c.endLocked(closing, ErrStrays)
	}
}

// Quota returns a log for one line about something that the peer may tell of its own accord
// and as often as it likes: log itself, but a silent one after 1200 lines within a minute. How
// many were left out is logged later. Nil: the Conn's log.
func (c *Conn) Quota(log *logrus.Entry) *logrus.Entry {
	c.mu.Lock()
	n, last := c.lines.add(time.Now())
	c.mu.Unlock()
	c.leftOut(last)
	switch {
	case n > maxLines:
		return orSilent(nil)
	case log == nil:
		return c.Log()
	}
	return log
}

// leftOut logs how many of the lines of a minute weren't logged.
func (c *Conn) leftOut(lines int) {
	if lines > maxLines {
		c.Log().WithField("lines", lines-maxLines).Warn("the peer told so much that lines were left out of the log")
	}
}
