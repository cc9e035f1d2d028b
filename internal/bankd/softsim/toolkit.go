// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "bytes"

// A toolkit is the card's application toolkit (TS 102 223, TS 51.014): a menu whose items show what is printed on
// a card. Terminals without menus don't notice it.
type toolkit struct {
	menu, display bool   // what the terminal can do
	proactive     []byte // command that waits to be fetched
	session       byte   // type of the command that was fetched and not yet answered; 0: none
}

// Tags of BER-TLV data objects and, without the bit that asks for comprehension, of COMPREHENSION-TLV ones
// (TS 101 220 7.2, TS 102 223 9.2 and 9.3).
const (
	tagProactive     = 0xd0
	tagMenuSelection = 0xd3

	tagDetails     = 0x01
	tagDevices     = 0x02
	tagResult      = 0x03
	tagAlpha       = 0x05
	tagText        = 0x0d
	tagItem        = 0x0f
	tagItemID      = 0x10
	comprehension  = 0x80
	typeText       = 0x21 // DISPLAY TEXT
	typeMenu       = 0x25 // SET UP MENU
	commandNumber  = 1
	deviceDisplay  = 0x02
	deviceUICC     = 0x81
	deviceTerminal = 0x82
)

// items are what the menu offers, by their identifiers 1, 2, ….
var items = [...]struct {
	label string
	text  func(*Profile) string
}{
	{"Card", func(p *Profile) string { return "ICCID " + p.ICCID }},
	{"Subscriber", func(p *Profile) string { return "IMSI " + p.IMSI }},
}

// proactive makes a proactive command: details, devices, and what parts hold, each of them tag and
// value (TS 102 223 6.6).
func proactive(typ, qualifier, to byte, parts ...[]byte) []byte {
	b := []byte{
		tagProactive, 0,
		comprehension | tagDetails, 3, commandNumber, typ, qualifier,
		comprehension | tagDevices, 2, deviceUICC, to,
	}
	for _, p := range parts {
		b = append(append(b, comprehension|p[0], byte(len(p)-1)), p[1:]...)
	}
	b[1] = byte(len(b) - 2)
	return b
}

// object returns the value of the first data object in b with a tag, comprehended or not; nil when there is none, or
// b isn't well formed up to it.
func object(b []byte, tag byte) []byte {
	for {
		at, value, rest := split(b)
		if value == nil {
			return nil
		}
		if at&^comprehension == tag {
			return value
		}
		b = rest
	}
}

// split takes the first data object off b: a tag of one byte, a length of one or, after 81, two bytes,
// the value. value is nil when there is no whole one.
func split(b []byte) (tag byte, value, rest []byte) {
	if len(b) < 2 {
		return 0, nil, nil
	}
	tag, n, b := b[0], int(b[1]), b[2:]
	if n == 0x81 && len(b) > 0 {
		n, b = int(b[0]), b[1:]
	} else if n > 0x7f {
		return 0, nil, nil
	}
	if n > len(b) {
		return 0, nil, nil
	}
	return tag, b[:n:n], b[n:]
}

// terminalProfile is TERMINAL PROFILE: what the terminal can do. The menu is set up when it can do
// that: SET UP MENU and menu selection, DISPLAY TEXT (TS 102 221 11.2.1, TS 102 223 5.2).
func terminalProfile(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	if len(q.data) == 0 {
		return nil, wrongLength
	}
	can := func(octet, bit int) bool { return octet <= len(q.data) && q.data[octet-1]>>(bit-1)&1 != 0 }
	t := &c.toolkit
	*t = toolkit{menu: can(4, 6) && can(1, 4), display: can(3, 1)}
	if t.menu {
		parts := [][]byte{append([]byte{tagAlpha}, "remsim"...)}
		for i, item := range items {
			parts = append(parts, append([]byte{tagItem, byte(i + 1)}, item.label...))
		}
		t.proactive = proactive(typeMenu, 0, deviceTerminal, parts...)
	}
	return nil, done
}

// fetch is FETCH: the proactive command (TS 102 221 11.2.3).
func fetch(c *Card, q *command) ([]byte, result) {
	t := &c.toolkit
	switch {
	case q.p1 != 0 || q.p2 != 0:
		return nil, wrongParameters
	case t.proactive == nil:
		return nil, nothingToFetch
	case q.le != len(t.proactive):
		q.n = len(t.proactive)
		return nil, otherLength
	}
	b := t.proactive
	t.proactive, t.session = nil, object(b[2:], tagDetails)[1]
	return b, done
}

// terminalResponse is TERMINAL RESPONSE: how the command that was fetched ended, which changes
// nothing here (TS 102 221 11.2.4, TS 102 223 6.8).
func terminalResponse(c *Card, q *command) ([]byte, result) {
	t := &c.toolkit
	switch {
	case q.p1 != 0 || q.p2 != 0:
		return nil, wrongParameters
	case t.session == 0:
		return nil, nothingToFetch
	}
	details := object(q.data, tagDetails)
	if len(details) != 3 || details[0] != commandNumber || details[1] != t.session || len(object(q.data, tagResult)) == 0 {
		return nil, wrongData
	}
	t.session = 0
	return nil, done
}

// envelope is ENVELOPE: something happened at the terminal. The choice of an item of the menu shows a
// text; other events are taken and ignored (TS 102 221 11.2.2, TS 102 223 7).
func envelope(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	t := &c.toolkit
	tag, value, rest := split(q.data)
	switch {
	case value == nil || len(rest) != 0:
		return nil, wrongData
	case t.proactive != nil || t.session != 0:
		return nil, toolkitBusy
	case tag != tagMenuSelection:
		return nil, done
	}
	id := object(value, tagItemID)
	if len(id) != 1 || id[0] < 1 || int(id[0]) > len(items) {
		return nil, wrongData
	}
	if t.display {
		text := items[id[0]-1].text(&c.memory.profile)
		// Until the user clears it; 8 bits a character (TS 102 223 8.6, 8.15).
		t.proactive = proactive(typeText, 0x80, deviceDisplay, bytes.Join([][]byte{{tagText, 4}, []byte(text)}, nil))
	}
	return nil, done
}
