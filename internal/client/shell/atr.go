// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"errors"
	"fmt"
	"strings"
)

// An answerToReset is an ATR taken apart (ISO 7816-3 8.2).
type answerToReset struct {
	inverse    bool
	groups     []group // as many as there are, one at least
	historical []byte
	check      []byte // TCK, and what comes after it
	sum        byte   // of all bytes from T0 up to TCK; 0 is right
}

// A group is the interface bytes TAi TBi TCi with the protocol that TD(i-1) names.
type group struct {
	protocol byte    // T; of no meaning to the first group
	has      [3]bool // TA, TB, TC
	value    [3]byte
}

var errATREnd = errors.New("ATR ends early")

// parseATR takes an ATR apart. One that is cut off is returned as far as it goes, with an error.
func parseATR(b []byte) (answerToReset, error) {
	var a answerToReset
	if len(b) < 2 {
		return a, errATREnd
	}
	switch b[0] { // TS, ISO 7816-3 8.1
	case 0x3b:
	case 0x3f:
		a.inverse = true
	default:
		return a, fmt.Errorf("ATR begins with %02x instead of 3b or 3f", b[0])
	}
	for _, x := range b[1:] {
		a.sum ^= x
	}
	present, historical := b[1]>>4, int(b[1]&15) // Y1, K
	b = b[2:]
	for next := byte(0); ; {
		g := group{protocol: next}
		for i := range g.has {
			if present&(1<<i) == 0 {
				continue
			}
			if len(b) == 0 {
				a.groups = append(a.groups, g)
				return a, errATREnd
			}
			g.has[i], g.value[i] = true, b[0]
			b = b[1:]
		}
		a.groups = append(a.groups, g)
		if present&8 == 0 {
			break
		}
		if len(b) == 0 {
			return a, errATREnd
		}
		present, next = b[0]>>4, b[0]&15
		b = b[1:]
	}
	if len(b) < historical {
		a.historical = b
		return a, errATREnd
	}
	a.historical, a.check = b[:historical], b[historical:]
	return a, nil
}

// explainATR says in words what an ATR tells, a fact an element.
func explainATR(b []byte) []string {
	a, err := parseATR(b)
	if err != nil && len(a.groups) == 0 {
		return []string{err.Error()}
	}
	facts := []string{a.convention(), a.speed()}
	for i, g := range a.groups {
		facts = append(facts, g.explain(i+1)...)
	}
	if len(a.historical) > 0 {
		facts = append(facts, "historical bytes "+historical(a.historical))
	}
	if err != nil {
		return append(facts, err.Error())
	}
	if s := a.checked(); s != "" {
		facts = append(facts, s)
	}
	return facts
}

func (a answerToReset) convention() string {
	s := "direct convention"
	if a.inverse {
		s = "inverse convention"
	}
	// ISO 7816-3 8.2.3: T=0 when no TD1 says otherwise. T=15 is no protocol.
	protocols := ""
	for _, g := range a.groups[1:] {
		if t := fmt.Sprintf("T=%d", g.protocol); g.protocol != 15 && !strings.Contains(protocols+",", t+",") {
			protocols += ", " + t
		}
	}
	if protocols == "" {
		protocols = ", T=0"
	}
	return s + protocols
}

// Clock rate conversion integers with their largest frequencies in 0.1 MHz, and baud rate adjustment
// integers, by the halves of TA1 (ISO 7816-3 8.3, tables 7 and 8); 0: reserved.
var (
	conversion = [16]struct{ f, max int }{
		{372, 40}, {372, 50}, {558, 60}, {744, 80}, {1116, 120}, {1488, 160}, {1860, 200}, {},
		{}, {512, 50}, {768, 75}, {1024, 100}, {1536, 150}, {2048, 200}, {}, {},
	}
	adjustment = [16]int{0, 1, 2, 4, 8, 16, 32, 64, 12, 20, 0, 0, 0, 0, 0, 0}
)

// speed says what TA1 tells, or the default of ISO 7816-3 8.3.
func (a answerToReset) speed() string {
	ta1, source := byte(0x11), "no TA1"
	if a.groups[0].has[0] {
		ta1 = a.groups[0].value[0]
		source = fmt.Sprintf("TA1=%02x", ta1)
	}
	c, d := conversion[ta1>>4], adjustment[ta1&15]
	if c.f == 0 || d == 0 {
		return "speed is reserved (" + source + ")"
	}
	return fmt.Sprintf("Fi=%d, Di=%d: %.4g clocks a bit, up to %g MHz (%s)", c.f, d, float64(c.f)/float64(d), float64(c.max)/10, source)
}

// explain says what the bytes of group i tell. TB1 and TB2, of the programming voltage, count for
// nothing (ISO 7816-3 8.3).
func (g group) explain(i int) (facts []string) {
	add := func(format string, args ...any) { facts = append(facts, fmt.Sprintf(format, args...)) }
	ta, tb, tc := g.value[0], g.value[1], g.value[2]
	switch {
	case i == 1:
		if g.has[2] && tc != 0 {
			add("extra guard time N=%d (TC1)", tc)
		}
		return facts
	case i == 2:
		if g.has[0] {
			change := "can change it"
			if ta&0x80 != 0 {
				change = "can't change it"
			}
			add("specific mode, T=%d, %s (TA2)", ta&15, change)
		}
		if g.has[2] { // ISO 7816-3 10.2
			add("waiting time WI=%d (TC2)", tc)
		}
	case g.protocol == 15 && g.has[0]: // ISO 7816-3 8.3, TS 102 221 6.3.2
		add("supply %s, clock stop %s (T=15)", classes(ta&0x3f), [...]string{"not supported", "low", "high", "low or high"}[ta>>6])
	case g.protocol == 1: // ISO 7816-3 11.4
		if g.has[0] {
			add("T=1: IFSC=%d", ta)
		}
		if g.has[1] {
			add("T=1: BWI=%d, CWI=%d", tb>>4, tb&15)
		}
		if g.has[2] {
			add("T=1: %s", [...]string{"LRC", "CRC"}[tc&1])
		}
	}
	return facts
}

// classes names the operating conditions of ISO 7816-3 5.1.3.
func classes(bits byte) string {
	var v []string
	for i, s := range [...]string{"5 V", "3 V", "1.8 V"} {
		if bits&(1<<i) != 0 {
			v = append(v, s)
		}
	}
	if v == nil {
		return "unknown"
	}
	return strings.Join(v, ", ")
}

// historical shows historical bytes, and what is in them where they are COMPACT-TLV
// (ISO 7816-4 8.1.1: category indicators 00, with three status bytes at the end, and 80).
func historical(b []byte) string {
	s := fmt.Sprintf("% x", b)
	if text := printable(b); text != "" {
		return s + " " + text
	}
	rest := b[1:]
	switch {
	case b[0] == 0x00 && len(rest) >= 3:
		rest = rest[:len(rest)-3]
	case b[0] != 0x80:
		return s
	}
	var objects []string
	for len(rest) > 0 {
		tag, n := rest[0]>>4, int(rest[0]&15)
		if n > len(rest)-1 {
			return s
		}
		value := rest[1 : 1+n]
		rest = rest[1+n:]
		name := [16]string{
			1: "country", 2: "issuer", 3: "services", 4: "initial access", 5: "issuer's data",
			6: "pre-issuing", 7: "capabilities", 8: "status", 15: "application",
		}[tag]
		if name == "" {
			name = fmt.Sprintf("%d", tag)
		}
		o := fmt.Sprintf("%s %x", name, value)
		if text := printable(value); text != "" {
			o += " " + text
		}
		objects = append(objects, o)
	}
	if objects == nil {
		return s
	}
	return s + ": " + strings.Join(objects, ", ")
}

// printable returns b in quotes where it is text of some length, else nothing.
func printable(b []byte) string {
	for _, x := range b {
		if x < 0x20 || x > 0x7e {
			return ""
		}
	}
	if len(b) < 3 {
		return ""
	}
	return fmt.Sprintf("%q", b)
}

// checked says what is wrong at the end of an ATR, if anything is: TCK is absent if T=0 is the only
// protocol, T=15 counted as one, and makes the sum zero elsewhere (ISO 7816-3 8.2.5).
func (a answerToReset) checked() string {
	want := false
	for _, g := range a.groups[1:] {
		want = want || g.protocol != 0
	}
	switch n := len(a.check); {
	case !want && n > 0:
		return fmt.Sprintf("bytes too many at the end: %d", n)
	case want && n == 0:
		return "check byte is missing"
	case want && n > 1:
		return fmt.Sprintf("bytes too many at the end: %d", n-1)
	case want && a.sum != 0:
		return fmt.Sprintf("check byte %02x is wrong, right is %02x", a.check[0], a.check[0]^a.sum)
	}
	return ""
}
