// SPDX-License-Identifier: GPL-2.0-or-later

package soak

import (
	"testing"

	"remsim/internal/simulator/swarm"
)

// TestGrown: what comes and goes is no growth, and what stays is.
func TestGrown(t *testing.T) {
	for _, tt := range []struct {
		name        string
		first, last sample
		grown       bool
	}{
		{"same", sample{30 << 10, 400, 200}, sample{30 << 10, 400, 200}, false},
		{"less", sample{60 << 10, 900, 400}, sample{30 << 10, 400, 200}, false},
		{"a little", sample{30 << 10, 400, 200}, sample{50 << 10, 500, 270}, false},
		{"memory", sample{30 << 10, 400, 200}, sample{54 << 10, 400, 200}, true},
		{"goroutines", sample{30 << 10, 400, 200}, sample{30 << 10, 545, 200}, true},
		{"descriptors", sample{30 << 10, 400, 200}, sample{30 << 10, 400, 305}, true},
		{"not seen", sample{}, sample{30 << 10, 400, 200}, true},
	} {
		if err := grown(tt.name, tt.first, tt.last); (err != nil) != tt.grown {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}

// TestDrift: only reports of work count, and of those the first and the last quarter.
func TestDrift(t *testing.T) {
	run := func(medians ...float64) (all []swarm.Report) {
		all = append(all, swarm.Report{Phase: swarm.Mapping, TPDUs: swarm.Latency{N: 9, Median: 1e6}})
		for _, m := range medians {
			all = append(all, swarm.Report{Phase: swarm.Working, TPDUs: swarm.Latency{N: 9, Median: m}}, swarm.Report{Phase: swarm.Working})
		}
		return append(all, swarm.Report{Phase: swarm.Settling, TPDUs: swarm.Latency{N: 9, Median: 1e6}})
	}
	for _, tt := range []struct {
		name  string
		all   []swarm.Report
		drift bool
	}{
		{"steady", run(200, 210, 190, 200, 205, 200, 200, 210), false},
		{"in between", run(200, 210, 9000, 9000, 9000, 9000, 200, 210), false},
		{"slower", run(200, 210, 400, 800, 1200, 1500, 1700, 1800), true},
		{"too short", run(200, 210), true},
	} {
		if err := drift(tt.all); (err != nil) != tt.drift {
			t.Errorf("%s: %v", tt.name, err)
		}
	}
}
