// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"

	"remsim/internal/slot"
)

// A judge keeps what was wrong. An answer is wrong unless it is the answer to its own command, of a card that the client may have had
// between sending the one and getting the other: the one of its map, or of one before until it has had the card of its map.
type judge struct {
	mu    sync.Mutex
	count int
	first []error // of them
}

// keepWrong is how many of the things that were wrong are told.
const keepWrong = 10

func (j *judge) wrong(err error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.count++; j.count <= keepWrong {
		j.first = append(j.first, err)
	}
}

// found returns how many answers were wrong.
func (j *judge) found() int {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.count
}

func (j *judge) err() error {
	j.mu.Lock()
	defer j.mu.Unlock()
	if j.count == 0 {
		return nil
	}
	return fmt.Errorf("swarm: %d answers were wrong: %w", j.count, errors.Join(j.first...))
}

// matches reports whether an answer is that of one of the cards to a command.
func matches(command, answer []byte, cards ...[]*place) bool {
	for _, some := range cards {
		if slices.ContainsFunc(some, func(p *place) bool { return p.check(command, answer) }) {
			return true
		}
	}
	return false
}

// places tells where cards are.
func places(all []*place) string {
	var s []string
	for _, p := range all {
		s = append(s, p.bank.String())
	}
	return strings.Join(s, ", ")
}

// differ compares the maps that a server has with those of the swarm, and says what is wrong with the first that isn't as it should
// be. Maps that concern neither a place nor a client of the swarm are nobody's business here.
func differ(has map[slot.Map]string, want map[slot.Bank]slot.Client, ours func(slot.Map) bool) error {
	n := 0
	for m, state := range has {
		c, ok := want[m.Bank]
		switch {
		case !ours(m):
		case !ok || c != m.Client:
			return fmt.Errorf("the server has the map %v, which isn't wanted", m)
		case state != "ACTIVE":
			return fmt.Errorf("map %v is %s", m, state)
		default:
			n++
		}
	}
	if n < len(want) {
		return fmt.Errorf("%d of %d maps are ACTIVE", n, len(want))
	}
	return nil
}
