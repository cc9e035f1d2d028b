// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"slices"
	"time"

	"remsim/internal/slot"
)

// A settlement is what may have come to its end in the store, too, but that has no hurry: it is stored with the next
// transaction. A removal or a belief that a crash brings back is told again, which makes no difference: the bankd has no such map, or
// has it replaced, and the client is in no map.
type settlement struct {
	removals map[slot.Map]bool
	beliefs  map[slot.Client]bool
}

// changes returns what has indeed ended.
func (t settlement) changes(s *State) []Change {
	var l []Change
	for m := range t.removals {
		if p := s.place(m.Bank); p == nil || !slices.ContainsFunc(p.maps, func(k *mapping) bool { return k.Map == m && k.leaving() }) {
			l = append(l, Removed{m})
		}
	}
	for c := range t.beliefs {
		cl := s.clients[c]
		if m := s.byClient[c]; cl == nil || cl.told.none() || m != nil && m.Bank == cl.told.Bank {
			l = append(l, Told{c})
		}
	}
	return l
}

// add adds what u has.
func (t *settlement) add(u settlement) {
	merge(&t.removals, u.removals)
	merge(&t.beliefs, u.beliefs)
}

// settleMap notes that a map can't be at its bankd any more.
func (s *State) settleMap(m slot.Map) {
	if s.store != nil {
		set(&s.settled.removals, m, true)
		s.settling()
	}
}

// settleClient notes that a client may be in no need of being told anything any more.
func (s *State) settleClient(c slot.Client) {
	if s.store != nil {
		set(&s.settled.beliefs, c, true)
		s.settling()
	}
}

func (s *State) settling() {
	select {
	case s.unsettled <- struct{}{}:
	default:
	}
}

// settleDelay is how long what has settled may wait for a transaction to go along with.
const settleDelay = time.Second

// settle stores what has settled, soon after it has, until ctx ends, and then the last of it.
func (s *State) settle(ctx context.Context) error {
	defer close(s.done)
	var due <-chan time.Time // nil: nothing has settled
	for {
		select {
		case <-s.asked:
		case <-s.unsettled:
			if due == nil {
				due = time.After(settleDelay)
			}
		case <-due:
			due = nil
			s.flush(ctx) //nolint:errcheck // it will be stored with the next change
		case <-ctx.Done():
			end, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleDelay)
			defer cancel()
			s.flush(end) //nolint:errcheck // the store is logged
			return nil
		}
	}
}
