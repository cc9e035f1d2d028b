// SPDX-License-Identifier: GPL-2.0-or-later

// Package pcsc opens cards in PC/SC readers, with pcscd's library: T=0, one context a card, so
// that one that hangs holds up nobody else. A program that was built without cgo has no PC/SC, and
// its Bank says so.
package pcsc

import "remsim/internal/bankd"

// Bank opens cards in PC/SC readers.
type Bank struct {
	// Shared opens cards in mode SCARD_SHARE_SHARED, so that other programs can use them, too;
	// otherwise it is SCARD_SHARE_EXCLUSIVE.
	Shared bool
}

var _ bankd.ReaderBank = Bank{}
