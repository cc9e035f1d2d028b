// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"crypto/subtle"
	"encoding/hex"
)

// Key references of class 00 (TS 102 221 9.5.1).
const (
	keyPIN1 = 0x01 // global PIN 1
	keyPIN2 = 0x81 // PIN 2 of the application
	keyADM1 = 0x0a
)

// Tries of a new card (TS 51.011 8.9 and 8.13).
const (
	pinTries = 3
	pukTries = 10
)

// A pin is a secret that gives an access.
type pin struct {
	enabled         bool // without it the access is everybody's
	value, puk      [8]byte
	tries, pukTries byte // left; 0: blocked
}

// newPINs returns the PINs of a new card. PIN 1 is asked for when the profile names it.
func newPINs(p Profile) (pins [adm + 1]pin) {
	pins[pin1] = pin{enabled: p.PIN1 != "", value: secret(p.PIN1, defaultPIN), puk: secret(p.PUK1, defaultPUK)}
	pins[pin2] = pin{enabled: true, value: secret(p.PIN2, defaultPIN), puk: secret(p.PUK2, defaultPUK)}
	pins[adm] = pin{enabled: true, value: secret(p.ADM1, defaultADM)}
	for i := range pins {
		pins[i].tries, pins[i].pukTries = pinTries, pukTries
	}
	return pins
}

// secret returns digits as a terminal sends them, in IA5, filled up with FF (TS 51.011 9.3);
// 16 hexadecimal digits stand for 8 bytes of any value.
func secret(s, otherwise string) (b [8]byte) {
	if s == "" {
		s = otherwise
	}
	if len(s) == 16 {
		hex.Decode(b[:], []byte(s))
		return b
	}
	copy(b[:], filled(8, []byte(s)...))
	return b
}

// wellFormed reports whether b is a PIN: 4 to 8 digits, filled up with FF.
func wellFormed(b []byte) bool {
	n := 0
	for n < len(b) && b[n] >= '0' && b[n] <= '9' {
		n++
	}
	return n >= 4 && len(bytes.Trim(b[n:], "\xff")) == 0
}

// whose returns what a command's P2 refers to, 0 for nothing there is, and whether P1 is as it
// has to be (TS 51.011 9.2.9 to 9.2.13, TS 102 221 11.1.9 to 11.1.13).
func (q *command) whose() (who access, r result) {
	switch {
	case q.p1 != 0:
		return 0, wrongParameters
	case q.gsm && (q.p2 == 1 || q.p2 == 2):
		return access(q.p2), done
	case !q.gsm && q.p2 == keyPIN1:
		return pin1, done
	case !q.gsm && q.p2 == keyPIN2:
		return pin2, done
	case !q.gsm && q.p2 == keyADM1:
		return adm, done
	}
	return 0, noKey
}

// present compares a value with a PIN and counts the try.
func (c *Card) present(who access, value []byte) result {
	p := &c.memory.pins[who]
	if p.tries == 0 {
		return blocked
	}
	if subtle.ConstantTimeCompare(value, p.value[:]) == 0 {
		p.tries--
		c.verified[who] = false
		c.command.n = int(p.tries)
		return wrongPIN
	}
	p.tries = pinTries
	c.verified[who] = true
	return done
}

// tries answers to an empty command of class 00 how many tries are left (TS 102 221 11.1.9.1.2, 11.1.13.1.2).
func (q *command) tries(n byte) ([]byte, result) {
	q.n = int(n)
	return nil, wrongPIN
}

// verify is VERIFY CHV and VERIFY PIN (TS 51.011 8.9, TS 102 221 11.1.9).
func verify(c *Card, q *command) ([]byte, result) {
	who, r := q.whose()
	p := &c.memory.pins[who]
	switch {
	case r != done:
		return nil, r
	case !q.gsm && len(q.data) == 0:
		return q.tries(p.tries)
	case len(q.data) != 8:
		return nil, wrongLength
	case !p.enabled:
		return nil, wrongPINState
	}
	return nil, c.present(who, q.data)
}

// changePIN is CHANGE CHV and CHANGE PIN (TS 51.011 8.10, TS 102 221 11.1.10).
func changePIN(c *Card, q *command) ([]byte, result) {
	who, r := q.whose()
	p := &c.memory.pins[who]
	switch {
	case r != done:
		return nil, r
	case who == adm:
		return nil, noKey
	case len(q.data) != 16:
		return nil, wrongLength
	case !p.enabled:
		return nil, wrongPINState
	case !wellFormed(q.data[8:]):
		return nil, wrongData
	}
	if r = c.present(who, q.data[:8]); r == done {
		copy(p.value[:], q.data[8:])
	}
	return nil, r
}

// disablePIN is DISABLE CHV and DISABLE PIN, of PIN 1 only (TS 51.011 8.11, TS 102 221 11.1.11).
func disablePIN(c *Card, q *command) ([]byte, result) { return nil, c.enable(q, false) }

// enablePIN is ENABLE CHV and ENABLE PIN, of PIN 1 only (TS 51.011 8.12, TS 102 221 11.1.12).
func enablePIN(c *Card, q *command) ([]byte, result) { return nil, c.enable(q, true) }

func (c *Card) enable(q *command, on bool) result {
	who, r := q.whose()
	p := &c.memory.pins[who]
	switch {
	case r != done:
		return r
	case who != pin1:
		return noKey
	case len(q.data) != 8:
		return wrongLength
	case p.enabled == on:
		return wrongPINState
	}
	if r = c.present(who, q.data); r == done {
		p.enabled = on
	}
	return r
}

// unblockPIN is UNBLOCK CHV and UNBLOCK PIN (TS 51.011 8.13, TS 102 221 11.1.13): the PIN is as new with another
// value, enabled and presented.
func unblockPIN(c *Card, q *command) ([]byte, result) {
	if q.gsm { // P2 00 is CHV1
		switch q.p2 {
		case 0:
			q.p2 = 1
		case 1:
			return nil, wrongParameters
		}
	}
	who, r := q.whose()
	p := &c.memory.pins[who]
	switch {
	case r != done:
		return nil, r
	case who == adm:
		return nil, noKey
	case !q.gsm && len(q.data) == 0:
		return q.tries(p.pukTries)
	case len(q.data) != 16:
		return nil, wrongLength
	case p.pukTries == 0:
		return nil, blocked
	case !wellFormed(q.data[8:]):
		return nil, wrongData
	}
	if subtle.ConstantTimeCompare(q.data[:8], p.puk[:]) == 0 {
		p.pukTries--
		return q.tries(p.pukTries)
	}
	p.enabled, p.tries, p.pukTries = true, pinTries, pukTries
	copy(p.value[:], q.data[8:])
	c.verified[who] = true
	return nil, done
}
