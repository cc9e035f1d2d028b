// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"context"
	"fmt"

	"remsim/internal/bankd"
)

// Bank opens cards in software, for the slots that name one. It has no readers.
type Bank struct{}

var (
	_ bankd.Bank = Bank{}
	_ bankd.Card = (*Card)(nil)
)

// Check reports what is wrong with the profile of s; see Parse.
func (Bank) Check(s bankd.Slot) error {
	_, err := Parse(s.Spec)
	return err
}

// Open makes the card of s, as it is when it is new.
func (Bank) Open(ctx context.Context, s bankd.Slot) (bankd.Card, error) {
	p, err := Parse(s.Spec)
	if err != nil {
		return nil, fmt.Errorf("slot %s: %w", s.Bank, err)
	}
	return New(p), nil
}

// Readers returns nothing.
func (Bank) Readers() ([]string, error) { return nil, nil }
