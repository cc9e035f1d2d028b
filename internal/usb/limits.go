// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"
)

var errLimit = fmt.Errorf("not taken by the device within %v", writeLimit)

// limits end writes that take longer than writeLimit. They share a timer that runs on when a write is done: to set one
// wakes a thread, and a command of the modem's waits for that.
type limits struct {
	mu      sync.Mutex
	timer   *time.Timer // nil: it wasn't needed yet
	running bool
	present []*limit // oldest first
}

type limit struct {
	ends time.Time
	end  context.CancelCauseFunc
}

// start returns a context that ends with ctx, after writeLimit, or with done, which must be called.
func (l *limits) start(ctx context.Context) (limited context.Context, done func()) {
	limited, end := context.WithCancelCause(ctx)
	x := &limit{time.Now().Add(writeLimit), end}
	l.mu.Lock()
	defer l.mu.Unlock()
	l.present = append(l.present, x)
	switch {
	case l.running:
	case l.timer == nil:
		l.timer = time.AfterFunc(writeLimit, l.expire)
	default:
		l.timer.Reset(writeLimit)
	}
	l.running = true
	return limited, func() {
		end(nil)
		l.mu.Lock()
		defer l.mu.Unlock()
		if i := slices.Index(l.present, x); i >= 0 {
			l.present = slices.Delete(l.present, i, i+1)
		}
	}
}

// expire ends the writes whose time is over.
func (l *limits) expire() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.running = false
	for len(l.present) > 0 {
		if left := time.Until(l.present[0].ends); left > 0 {
			l.running = true
			l.timer.Reset(left)
			return
		}
		l.present[0].end(errLimit)
		l.present = slices.Delete(l.present, 0, 1)
	}
}
