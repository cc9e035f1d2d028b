// SPDX-License-Identifier: GPL-2.0-or-later

// Package bankd is the SIM bank: the slots with their cards, the clients that use
// them, and the control connection by which the server maps one to the other.
package bankd

import (
	"context"
	"errors"
)

// A Bank opens cards: those in PC/SC readers, or cards in software. Its methods may be
// called by several goroutines at once.
type Bank interface {
	// Check reports what is wrong with the card of s as the slots file names it,
	// without looking for it. It is asked once each time the file is read.
	Check(s Slot) error
	// Open finds the card of s and powers it up; no reset beyond that, and no
	// command, reaches the card. Errors tell their kind by wrapping one of the
	// Err variables of this package. All later calls of the Card are made one
	// after the other, not all by the same goroutine. When ctx ends nobody wants the card any more:
	// an Open that can't stop then may go on, its card is closed at once.
	Open(ctx context.Context, s Slot) (Card, error)
}

// A ReaderBank is a Bank whose cards are in readers that come and go, and with them the
// cards. Its Open is given a Slot with the name of the reader. Cards in software are
// always there: their Bank needs no Watch.
type ReaderBank interface {
	Bank
	// Watch calls changed, never two at a time, with all readers there are: soon after
	// it was called, and each time something changed, a card within a second; nil as
	// long as there is no service that knows readers (pcscd). What a call is given
	// is changed's to keep. Calls that tell nothing new do no harm. Watch goes on
	// whatever happens to service and readers, until ctx ends, and returns an error only
	// when it can never work. A call into a service that hangs may delay its return.
	Watch(ctx context.Context, changed func([]Reader)) error
}

// A Reader is one place for a card as its Bank sees it.
type Reader struct {
	Name    string // what patterns of the slots file are searched in; no two have the same
	Present bool   // there is a card, mute ones included
	ATR     []byte // of the card; nil when it isn't known
	// Changes grows with each insertion and each removal, so that a card that was swapped
	// between two reports is seen: Present both times, Changes not the same.
	Changes uint64
}

// A Card is a card that is powered up. Its methods are called one after the other
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
	// ErrNoService says that nobody knows readers: pcscd isn't running, or hangs.
	ErrNoService = errors.New("pcscd doesn't answer")
	// ErrMute says that there is a card and it doesn't answer (RSPRO
	// cardUnresponsive).
	ErrMute = errors.New("card doesn't answer")
	// ErrTimeout says that a call to the card took longer than the card time-out.
	// Only this package makes it.
	ErrTimeout = errors.New("card call timed out")
)
