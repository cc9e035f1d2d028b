// SPDX-License-Identifier: GPL-2.0-or-later

package count

import (
	"sync"
	"testing"
	"time"
)

func TestHistogram(t *testing.T) {
	var h Histogram
	took := []time.Duration{0, 50 * time.Microsecond, 51 * time.Microsecond, time.Millisecond, 30 * time.Second, time.Minute}
	var sum time.Duration
	for _, d := range took {
		h.Observe(d)
		sum += d
	}
	v := h.View()
	if v.Count != uint64(len(took)) || v.Sum != sum || len(v.UpTo) != len(bounds) {
		t.Errorf("%d things of %v in %d buckets, want %d of %v in %d", v.Count, v.Sum, len(v.UpTo), len(took), sum, len(bounds))
	}
	for _, bound := range bounds {
		var want uint64
		for _, d := range took {
			if d <= bound {
				want++
			}
		}
		if got := v.UpTo[bound]; got != want {
			t.Errorf("up to %v: %d, want %d", bound, got, want)
		}
	}
}

func TestHistogramConcurrent(t *testing.T) {
	var h Histogram
	var all sync.WaitGroup
	const goroutines, each = 8, 1000
	for range goroutines {
		all.Go(func() {
			for range each {
				h.Observe(time.Second)
				h.View()
			}
		})
	}
	all.Wait()
	if v := h.View(); v.Count != goroutines*each || v.Sum != goroutines*each*time.Second {
		t.Errorf("%d things of %v", v.Count, v.Sum)
	}
}

func BenchmarkObserve(b *testing.B) {
	var h Histogram
	for b.Loop() {
		h.Observe(300 * time.Microsecond)
	}
	if n := testing.AllocsPerRun(10, func() { h.Observe(time.Millisecond) }); n != 0 {
		b.Errorf("%v allocations", n)
	}
}
