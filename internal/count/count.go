// SPDX-License-Identifier: GPL-2.0-or-later

// Package count is how long things took, counted where they happen: without a lock, without an
// allocation, and without knowing who reads it.
package count

import (
	"sync/atomic"
	"time"
)

// bounds are the upper bounds of the buckets of a Histogram: in the lower half for what takes a
// network, in the upper one for what takes a card or a disk, and one for what hangs.
var bounds = [...]time.Duration{
	50 * time.Microsecond, 100 * time.Microsecond, 200 * time.Microsecond, 500 * time.Microsecond,
	time.Millisecond, 2 * time.Millisecond, 5 * time.Millisecond,
	10 * time.Millisecond, 20 * time.Millisecond, 50 * time.Millisecond,
	100 * time.Millisecond, 200 * time.Millisecond, 500 * time.Millisecond,
	time.Second, 2 * time.Second, 5 * time.Second, 10 * time.Second, 30 * time.Second,
}

// A Histogram is how many things took how long. The zero value is ready; its methods may be called from any
// goroutine.
type Histogram struct {
	sum     atomic.Int64                   // nanoseconds
	buckets [len(bounds) + 1]atomic.Uint64 // the last one is of what took longer than all bounds
}

// Observe adds a thing that took d.
func (h *Histogram) Observe(d time.Duration) {
	i := 0
	for i < len(bounds) && d > bounds[i] {
		i++
	}
	h.sum.Add(int64(d))
	h.buckets[i].Add(1)
}

// A View is what a Histogram has at a moment.
type View struct {
	Count uint64
	Sum   time.Duration
	// UpTo has how many took at most as long as the bound that is its key, in ascending bounds cumulatively. What took
	// longer than the last bound is in Count only.
	UpTo map[time.Duration]uint64
}

// View returns what h has. Things that are added meanwhile may be in Sum and not in Count.
func (h *Histogram) View() View {
	v := View{UpTo: make(map[time.Duration]uint64, len(bounds))}
	for i := range h.buckets {
		v.Count += h.buckets[i].Load()
		if i < len(bounds) {
			v.UpTo[bounds[i]] = v.Count
		}
	}
	v.Sum = time.Duration(h.sum.Load())
	return v
}
