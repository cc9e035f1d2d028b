// SPDX-License-Identifier: GPL-2.0-or-later

// Package bankd is the SIM bank: the slots with their cards, the clients that use
// them, and the control connection by which the server maps one to the other.
package bankd

import (
	"context"
	"errors"
)

// A Bank opens cards and says where they could be: PC/SC readers, or cards in
// software. Its methods may be called by several goroutines at once.
type Bank interface {
	// Check reports what is wrong with the card of s as the slots file names it,
	// without looking for it. It is asked once, when the file is read.
	Check(s Slot) error
	// Open finds the card of s and powers it up; no reset beyond that, and no
	// command, reaches the card. Errors tell their kind by wrapping one of the
	// Err variables of this package. All later calls of the Card are made by the
	// goroutine that called Open. When ctx ends nobody wants the card any more:
	// an Open that can't stop then may go on, its card is closed at once.
	Open(ctx context.Context, s Slot) (Card, error)
	// Readers returns the names of the readers that are there. It may block.
	Readers() ([]string, error)
}

// A Card is a card that is powered up. Its methods are called by one goroutine
// and may block; the slot that owns it never waits for them. They need no
// time-out of their own: a call that takes too long is abandoned together with
// its goroutine and its card, and when it returns after all the card is closed.
type Card interface {
	// ATR returns the answer to the last reset, 2..33 bytes (ISO 7816-3 8.2).
	ATR() []byte
	// Transmit sends a command TPDU of 5..260 bytes and returns the response,
	// data followed by SW1 SW2, in buf (which has room for 258 bytes). After an error
	// the card is only closed.
	Transmit(cmd, buf []byte) ([]byte, error)
	// Reset makes a cold (VCC off and on) or a warm reset and reads the ATR again.
	// After an error the card is only closed.
	Reset(cold bool) error
	// Close powers the card off and releases it.
	Close() error
}

// Kinds of errors of a Bank and its Cards. Any other error counts as a fault of
// the reader.
var (
	// ErrNoReader says that no reader matches the slot's pattern.
	ErrNoReader = errors.New("no reader matches")
	// ErrNoCard says that the reader is empty, or the card was pulled (RSPRO
	// cardNotPresent).
	ErrNoCard = errors.New("no card in the reader")
	// ErrMute says that there is a card and it doesn't answer (RSPRO
	// cardUnresponsive).
	ErrMute = errors.New("card doesn't answer")
	// ErrTimeout says that a call to the card took longer than the card time-out.
	// Only this package makes it.
	ErrTimeout = errors.New("card call timed out")
)
