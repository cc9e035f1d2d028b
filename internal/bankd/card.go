// SPDX-License-Identifier: GPL-2.0-or-later

// Package bankd is the SIM bank: the slots with their cards, the clients that use
// them, and the control connection by which the server maps one to the other.
package bankd

// A Card is a card that is powered up. Its methods are called by one goroutine
// and may block; the slot that owns it never waits for them.
type Card interface {
	// ATR returns the answer to the last reset, 2..33 bytes (ISO 7816-3 8.2).
	ATR() []byte
	// Transmit sends a command TPDU of 5..260 bytes and returns the response,
	// data followed by SW1 SW2, in buf (which has room for 258 bytes).
	Transmit(cmd, buf []byte) ([]byte, error)
	// Reset makes a cold (VCC off and on) or a warm reset and reads the ATR again.
	Reset(cold bool) error
	// Close powers the card off and releases it.
	Close() error
}
