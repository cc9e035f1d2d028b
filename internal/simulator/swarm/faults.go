// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"math/rand/v2"
	"time"
)

// faults makes faults until ctx ends.
func (s *swarm) faults(ctx context.Context) {
	if s.Faults <= 0 {
		return
	}
	r := rand.New(rand.NewPCG(s.Seed, 100))
	every := time.NewTicker(time.Duration(float64(time.Second) / s.Faults))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			s.fault(ctx, r)
		}
	}
}

// fault does one of these, of 20 on average: 10 times a connection of a client is cut, 5 times one hangs until the keep-alive ends it;
// twice each the same happens to a connection of a bankd, and once a bankd is killed, and started again within 2 s.
func (s *swarm) fault(ctx context.Context, r *rand.Rand) {
	const longest = 2 * time.Second
	kind := r.IntN(20)
	n := new(network)
	switch {
	case kind < 15 && len(s.members) > 0:
		n = &s.members[r.IntN(len(s.members))].net
	case len(s.banks) > 0:
		b := s.banks[r.IntN(len(s.banks))]
		n = &b.net
		if kind == 19 {
			select {
			case b.kill <- time.Duration(r.Int64N(int64(longest))):
				s.meter.kills.Add(1)
			case <-ctx.Done():
			case <-time.After(longest): // it is away
			}
			return
		}
	}
	c := n.some(r.IntN)
	if c == nil {
		return
	}
	if kind < 10 || kind == 15 || kind == 16 {
		s.meter.cuts.Add(1)
		c.cut()
		return
	}
	s.meter.hangs.Add(1)
	c.hang()
}

// heal ends what is left of faults.
func (s *swarm) heal() {
	for _, m := range s.members {
		m.net.heal()
	}
	for _, b := range s.banks {
		b.net.heal()
	}
}
