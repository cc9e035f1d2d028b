// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"errors"
	"fmt"
	"sync"
)

// ErrClosed is the error of a card that was closed, or that was powered up again elsewhere.
var ErrClosed = errors.New("softsim: card is powered off")

// atr is the answer to reset (ISO 7816-3 8.2, TS 102 221 6.3): direct convention; TA1 94, up to 8 times the
// default speed; T=0; global bytes (T=15): clock stop allowed, all supply voltages; historical bytes: selection by
// full and partial DF name, EF.DIR read by READ RECORD; selection by name, path and identifier, short identifiers,
// record numbers, 4 logical channels that the card assigns; and the name. The check byte is there since T=15 is
// indicated.
var atr = [...]byte{
	0x3b, 0x9e, 0x94, 0x80, 0x1f, 0xc7,
	0x80, 0x31, 0xe0, 0x73, 0xf6, 0x21, 0x13, 0x66, 'r', 'e', 'm', 's', 'i', 'm',
	0xdf,
}

// A memory is what a card keeps without power.
type memory struct {
	mu      sync.Mutex // held while a card executes a command
	profile Profile    // it was made from
	powered *Card      // the one that has it; nil: none
	mf      *file
	pins    [adm + 1]pin // by the access they give; unused ones are as disabled
	auth    *milenage
	numbers sequence
}

// newMemory makes the memory of a new card, or says what is wrong with its profile.
func newMemory(p Profile) (*memory, error) {
	if err := p.check(); err != nil {
		return nil, err
	}
	mf, err := tree(p)
	if err != nil {
		return nil, fmt.Errorf("softsim: %w", err)
	}
	return &memory{profile: p, mf: mf, pins: newPINs(p), auth: newMilenage(p.Ki, p.OPc), numbers: newSequence(p.SQN)}, nil
}

// power powers the card up. One that has the memory already loses it.
func (m *memory) power() *Card {
	m.mu.Lock()
	defer m.mu.Unlock()
	c := &Card{memory: m}
	m.powered = c
	c.reset()
	return c
}

// A Card is a powered card. It implements bankd.Card; one goroutine uses it at a time.
type Card struct {
	memory   *memory
	channels [4]channel
	verified [adm + 1]bool // PINs that were presented, by the access they give
	toolkit  toolkit
	command  command // being executed
	answer   vector
	pending  []byte    // what GET RESPONSE will return, in store
	asker    *channel  // where it will
	store    [256]byte // response of a command with data in both directions
	scratch  [256]byte // response being made
}

// A channel is a logical channel (TS 102 221 8.7); number 0 is always open.
type channel struct {
	open   bool
	dir    *file // current directory; never nil when open
	ef     *file // current EF, in dir; nil without one
	record int   // current record of ef, from 1; 0 without one
	app    *file // ADF of the current application; nil without one
}

// New makes a card of a profile and powers it up. It panics on a profile that Parse would refuse.
func New(p Profile) *Card {
	m, err := newMemory(p)
	if err != nil {
		panic(err)
	}
	return m.power()
}

// ATR returns the answer to reset.
func (c *Card) ATR() []byte { return append([]byte(nil), atr[:]...) }

// Reset makes a cold or a warm reset, which are the same to this card: the MF is
// selected, no application is active, no other channel open and no PIN presented (TS 102 221 6.4).
func (c *Card) Reset(cold bool) error {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.memory.powered != c {
		return ErrClosed
	}
	c.reset()
	return nil
}

func (c *Card) reset() {
	c.channels = [...]channel{0: {open: true, dir: c.memory.mf}, 3: {}}
	c.verified = [adm + 1]bool{}
	c.toolkit = toolkit{}
	c.pending = nil
}

// Close powers the card off.
func (c *Card) Close() error {
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.memory.powered == c {
		c.memory.powered = nil
	}
	return nil
}

// Transmit executes a command TPDU of 5..260 bytes (header CLA INS P1 P2 P3, then data) and
// returns data and status in buf, which needs room for 258 bytes. Whatever the bytes are, the
// answer is a status; only other lengths and a closed card are errors.
func (c *Card) Transmit(cmd, buf []byte) ([]byte, error) {
	if len(cmd) < 5 || len(cmd) > 260 {
		return nil, fmt.Errorf("softsim: command of %d bytes: want 5..260", len(cmd))
	}
	c.memory.mu.Lock()
	defer c.memory.mu.Unlock()
	if c.memory.powered != c {
		return nil, ErrClosed
	}
	data, sw := c.execute(cmd)
	if sw == 0x9000 && len(c.toolkit.proactive) > 0 {
		// A proactive command waits to be fetched (TS 102 221 7.4.2, TS 51.011 9.4.1).
		sw = 0x9100 | uint16(len(c.toolkit.proactive))
	}
	buf = append(buf[:0], data...)
	return append(buf, byte(sw>>8), byte(sw)), nil
}

// may reports whether a condition is met.
func (c *Card) may(who access) bool {
	return who <= adm && (!c.memory.pins[who].enabled || c.verified[who])
}
