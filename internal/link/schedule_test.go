// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"testing"
	"time"

	"remsim/internal/link"
)

func TestSchedule(t *testing.T) {
	const s = time.Second
	steps := []struct {
		n     int
		delay time.Duration
	}{{3, 0}, {30, 1 * s}, {30, 2 * s}, {30, 4 * s}, {30, 8 * s}, {1000, 16 * s}}
	for _, jitter := range []float64{0, 0.5, 0.999} {
		for _, takes := range []time.Duration{0, 700 * time.Millisecond, 10 * s} {
			var sched link.Schedule
			now := time.Now()
			for k, step := range steps {
				for i := range step.n {
					if sched.Step() != k {
						t.Fatalf("attempt %d of step %d: step %d", i, k, sched.Step())
					}
					want := step.delay + time.Duration(float64(step.delay)*0.2*jitter)
					if k == 0 && i == 0 {
						want = 0
					} else {
						want = max(0, want-takes) // counted from attempt to attempt
					}
					got := sched.Next(now, jitter)
					if got != want {
						t.Fatalf("jitter %v, attempts that take %v: attempt %d of step %d after %v, want %v", jitter, takes, i, k, got, want)
					}
					now = now.Add(got + takes)
				}
			}
		}
	}
}

func TestScheduleStartsAnew(t *testing.T) {
	var sched link.Schedule
	now := time.Now()
	for range 50 {
		now = now.Add(sched.Next(now, 0))
	}
	if sched.Step() != 2 {
		t.Fatalf("step %d", sched.Step())
	}
	if got := sched.Next(now.Add(32*time.Second), 0); got != 0 || sched.Step() != 2 {
		t.Errorf("after 32 s: %v, step %d; want 0, 2", got, sched.Step())
	}
	now = now.Add(64*time.Second + 1)
	if got := sched.Next(now, 0); got != 0 || sched.Step() != 0 {
		t.Errorf("after more than 32 s: %v, step %d; want 0, 0", got, sched.Step())
	}
}

func TestScheduleSlowest(t *testing.T) {
	var sched link.Schedule
	now := time.Now()
	sched.Next(now, 0)
	sched.Slowest()
	for range 50 {
		got := sched.Next(now, 0)
		if got != 16*time.Second {
			t.Fatalf("got %v, want 16s", got)
		}
		now = now.Add(got)
	}
}
