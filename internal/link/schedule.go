// SPDX-License-Identifier: GPL-2.0-or-later

package link

import "time"

// steps is the reconnect schedule: how many attempts are made with which delay. The
// last step goes on for ever.
var steps = [...]struct {
	attempts int
	delay    time.Duration
}{
	{3, 0},
	{30, 1 * time.Second},
	{30, 2 * time.Second},
	{30, 4 * time.Second},
	{30, 8 * time.Second},
	{0, 16 * time.Second},
}

const (
	// maxJitter is what a delay grows by at most, as a part of it, so that
	// thousands of peers don't return in one instant.
	maxJitter = 0.2
	// restartAfter is how long after an attempt the schedule starts anew: the
	// connection had been up.
	restartAfter = 32 * time.Second
)

// A Schedule says when a caller connects again. The zero value begins with the first attempt.
type Schedule struct {
	step, attempt int // the next attempt's
	last          time.Time
}

// Next returns how long to wait, from now, before the next attempt, and counts that
// attempt. Delays are counted from attempt to attempt. jitter is a random number from 0 up
// to 1; from the 1 s step on, it stretches the delay by up to 20 %.
func (s *Schedule) Next(now time.Time, jitter float64) time.Duration {
	if !s.last.IsZero() && now.Sub(s.last) > restartAfter {
		*s = Schedule{}
	}
	delay := steps[s.step].delay
	delay += time.Duration(jitter * maxJitter * float64(delay))
	wait := max(0, s.last.Add(delay).Sub(now))
	if s.last.IsZero() {
		wait = 0
	}
	s.last = now.Add(wait)
	if s.attempt++; s.attempt >= steps[s.step].attempts && s.step < len(steps)-1 {
		s.step, s.attempt = s.step+1, 0
	}
	return wait
}

// Step returns the number of the step that the next attempt belongs to, from 0.
func (s *Schedule) Step() int { return s.step }

// Slowest goes to the last step.
func (s *Schedule) Slowest() { s.step, s.attempt = len(steps)-1, 0 }
