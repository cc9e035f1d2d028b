// SPDX-License-Identifier: GPL-2.0-or-later

package slot

import "strings"

// A Signal is the level of one contact, or that nothing was said about it
// (an OPTIONAL BOOLEAN of RSPRO SlotPhysStatus).
type Signal uint8

// Levels of a Signal.
const (
	Unknown Signal = iota // absent in the message: unchanged
	Off
	On
)

// Of returns On for true and Off for false.
func Of(on bool) Signal {
	if on {
		return On
	}
	return Off
}

// String returns "?", "0" or "1".
func (s Signal) String() string {
	switch s {
	case Off:
		return "0"
	case On:
		return "1"
	}
	return "?"
}

// Phys is the physical state of a slot (RSPRO SlotPhysStatus): the contacts
// VCC, CLK and RST as the modem drives them, and whether a card is there.
type Phys struct {
	Reset bool   // RST is active (low on the wire): the card is held in reset
	VCC   Signal // supply voltage is present
	CLK   Signal // clock is running
	Card  Signal // a card is present
}

// String returns a form for logs, such as "RST=0 VCC=1 CLK=1 CARD=?".
func (p Phys) String() string {
	var b strings.Builder
	b.WriteString("RST=")
	b.WriteString(Of(p.Reset).String())
	b.WriteString(" VCC=")
	b.WriteString(p.VCC.String())
	b.WriteString(" CLK=")
	b.WriteString(p.CLK.String())
	b.WriteString(" CARD=")
	b.WriteString(p.Card.String())
	return b.String()
}
