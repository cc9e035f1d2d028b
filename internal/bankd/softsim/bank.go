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
// sequence numbers as they were left, unless its profile is another now. The zero value is ready.
type Bank struct {
	mu       sync.Mutex
	memories map[place]*memory
}

// A place is where a card is: twins in two slots are two cards.
type place struct {
	slot slot.Bank
	spec string
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
	at := place{s.Bank, s.Spec}
	b.mu.Lock()
	defer b.mu.Unlock()
	m := b.memories[at]
	if m == nil || !reflect.DeepEqual(m.profile, p) {
		if m, err = newMemory(p); err != nil {
			return nil, fmt.Errorf("slot %s: %w", s.Bank, err)
		}
		if b.memories == nil {
			b.memories = make(map[place]*memory)
		}
		b.memories[at] = m
	}
	return m.power(), nil
}
