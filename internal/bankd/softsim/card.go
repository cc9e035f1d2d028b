// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"errors"
	"fmt"
)

// ErrClosed is the error of a card that was closed.
var ErrClosed = errors.New("softsim: card is powered off")

// atr is the answer to reset (ISO 7816-3 8.2, TS 102 221 6.3): direct convention; TA1 94, up to 8 times the
// default speed; T=0; global bytes (T=15): clock stop allowed, all supply voltages; historical bytes: selection by
// full and partial DF name, EFs read by READ BINARY, by identifier and short identifier, and the name.
// The check byte is there since T=15 is indicated.
var atr = [...]byte{
	0x3b, 0x9e, 0x94, 0x80, 0x1f, 0xc7,
	0x80, 0x31, 0xc8, 0x73, 0xd4, 0x21, 0x00, 0x66, 'r', 'e', 'm', 's', 'i', 'm',
	0xc6,
}

// A Card is a powered card. It implements bankd.Card; one goroutine uses it at a time.
type Card struct {
	mf      *file
	auth    *milenage
	answer  vector
	command command // being executed
	closed  bool
	dir     *file     // current directory, never nil
	ef      *file     // current EF, in dir; nil without one
	app     *file     // ADF of the current application; nil without one
	pending []byte    // what GET RESPONSE will return, in store
	store   [256]byte // response of a command with data in both directions
	scratch [256]byte // response being made
}

// New makes a card of a profile and powers it up. It panics on a profile that Parse would refuse.
func New(p Profile) *Card {
	if err := p.check(); err != nil {
		panic(err)
	}
	c := &Card{mf: tree(p), auth: newMilenage(p.Ki, p.OPc)}
	c.reset()
	return c
}

// ATR returns the answer to reset.
func (c *Card) ATR() []byte { return append([]byte(nil), atr[:]...) }

// Reset makes a cold or a warm reset, which are the same to this card: the MF is
// selected and no application is active (TS 102 221 6.4).
func (c *Card) Reset(cold bool) error {
	if c.closed {
		return ErrClosed
	}
	c.reset()
	return nil
}

func (c *Card) reset() {
	c.dir, c.ef, c.app, c.pending = c.mf, nil, nil, nil
}

// Close powers the card off.
func (c *Card) Close() error {
	c.closed = true
	return nil
}

// Transmit executes a command TPDU of 5..260 bytes (header CLA INS P1 P2 P3, then data) and
// returns data and status in buf, which needs room for 258 bytes. Whatever the bytes are, the
// answer is a status; only other lengths and a closed card are errors.
func (c *Card) Transmit(cmd, buf []byte) ([]byte, error) {
	if c.closed {
		return nil, ErrClosed
	}
	if len(cmd) < 5 || len(cmd) > 260 {
		return nil, fmt.Errorf("softsim: command of %d bytes: want 5..260", len(cmd))
	}
	data, sw := c.execute(cmd)
	buf = append(buf[:0], data...)
	return append(buf, byte(sw>>8), byte(sw)), nil
}

// may reports whether a condition is met. PIN 1 is disabled, so what needs it is open.
func (c *Card) may(who access) bool { return who == always || who == pin1 }
