// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"context"
	"fmt"
	"reflect"
	"sync"

	"remsim/internal/bankd"
	"remsim/internal/slot"
)

// A Bank opens cards in software, for the slots that name one. It keeps what they keep without
// power, for as long as it lives: a slot that is opened again has its card with the files, tries and
// sequence numbers as they were left, unless its line or profile is another now, which ends the old
// card. Twins in two slots are two cards. The zero value is ready.
type Bank struct {
	mu    sync.Mutex
	cards map[slot.Bank]kept
}

// A kept is the card that a slot had last.
type kept struct {
	spec   string
	memory *memory
}

var (
	_ bankd.Bank = (*Bank)(nil)
	_ bankd.Card = (*Card)(nil)
)

// Check reports what is wrong with the profile of s; see Parse.
func (*Bank) Check(s bankd.Slot) error {
	_, err := Parse(s.Spec)
	return err
}

// Open powers the card of s up. A Card of the same slot that is still open loses its power.
func (b *Bank) Open(_ context.Context, s bankd.Slot) (bankd.Card, error) {
	p, err := Parse(s.Spec)
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w", s.Bank, err)
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	k, ok := b.cards[s.Bank]
	if !ok || k.spec != s.Spec || !reflect.DeepEqual(k.memory.profile, p) {
		m, err := newMemory(p)
		if err != nil {
			return nil, fmt.Errorf("slot %s: %w", s.Bank, err)
		}
		if b.cards == nil {
			b.cards = make(map[slot.Bank]kept)
		}
		k = kept{s.Spec, m}
		b.cards[s.Bank] = k
	}
	return k.memory.power(), nil
}
