// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"fmt"
	"math/bits"
)

// This file holds the octets of BER (X.690 clause 8) and DER (clauses 10 and 11).
//
// Decoding takes all of BER: any form of length, and strings in parts. It refuses
// what BER itself forbids, such as padded integers, with the clause. Its cost is
// linear: only the six levels of the protocol are entered, and looking for the end of an
// element of indefinite length needs a counter, however deep others nest in it.

// An element is one element of BER.
type element struct {
	tag         tag // 0: there is none
	constructed bool
	content     []byte
	fault       string // why there is none, if it is not the end
}

// next reads the element that comes next into c.el.
func (c *coder) next() { c.rest = c.el.read(c.rest) }

// read reads the element that begins b and returns what follows it.
func (e *element) read(b []byte) (rest []byte) {
	*e = element{}
	if len(b) == 0 {
		return nil
	}
	h, fault := readHeader(b)
	if h.tag == 0 && fault == "" {
		fault = "has end-of-contents out of place (X.690 8.1.5)"
	}
	b = b[h.size:]
	n, end := h.length, h.length
	if h.indefinite && fault == "" {
		n, fault = findEnd(b)
		end = n + endOfContents
	}
	if fault != "" {
		e.fault = fault
		return nil
	}
	e.tag, e.constructed = h.tag, h.constructed
	e.content = b[:n:n] // so that nobody appends to it in place
	return b[end:]
}

// findEnd returns the number of content octets of an element of indefinite
// length, which begin b: up to its end-of-contents (X.690 8.1.5).
func findEnd(b []byte) (n int, fault string) {
	for open := 1; ; {
		h, fault := readHeader(b[n:])
		switch {
		case fault != "":
			return 0, fault
		case h.tag == 0:
			if open--; open == 0 {
				return n, ""
			}
		case h.indefinite:
			open++
		}
		n += h.size + h.length
	}
}

// A header is the identifier and length octets of an element.
type header struct {
	tag         tag // 0: these are end-of-contents octets
	constructed bool
	indefinite  bool
	size        int // of the header itself
	length      int // of the content; it is there. 0 if indefinite
}

const endOfContents = 2 // octets

const tooShort = "ends too early"

func readHeader(b []byte) (h header, fault string) {
	if len(b) < 2 {
		return h, tooShort
	}
	if b[0] == 0 && b[1] == 0 {
		return header{size: endOfContents}, ""
	}
	h.tag = tag(b[0]>>6) << 30
	h.constructed = b[0]&0x20 != 0
	n := uint32(b[0] & 0x1f)
	i := 1
	if n == 0x1f {
		// X.690 8.1.2.4: seven bits an octet, none leading and zero.
		n = 0
		for more := true; more; i++ {
			if i == len(b) {
				return h, tooShort
			}
			if n > maxTagNumber>>7 {
				return h, "has a tag above 268435455"
			}
			n = n<<7 | uint32(b[i]&0x7f)
			if n == 0 {
				return h, "has a padded tag (X.690 8.1.2.4.2)"
			}
			more = b[i]&0x80 != 0
		}
		if n < 0x1f {
			return h, "has a padded tag (X.690 8.1.2.2)"
		}
	}
	if h.tag |= tag(n); h.tag == 0 {
		return h, "has a tag that is reserved (X.690 8.1.2, table 1)"
	}

	if i == len(b) {
		return h, tooShort
	}
	l := b[i]
	i++
	switch {
	case l < 0x80:
		h.length = int(l)
	case l == 0x80:
		if !h.constructed {
			return h, "is primitive and of indefinite length (X.690 8.1.3.2)"
		}
		h.indefinite = true
	case l == 0xff:
		return h, "has a length that is reserved (X.690 8.1.3.5)"
	default:
		for ; l > 0x80; l-- {
			if i == len(b) {
				return h, tooShort
			}
			h.length = h.length<<8 | int(b[i])
			i++
			if h.length > len(b) {
				return h, tooShort
			}
		}
	}
	h.size = i
	if h.length > len(b)-i {
		return h, tooShort
	}
	return h, ""
}

// match reports whether the element that comes next has the tag t.
func (c *coder) match(name string, t tag) bool {
	switch {
	case c.err != nil:
	case c.el.tag == t:
		return true
	case c.el.fault != "":
		c.fail(name, c.el.fault)
	case c.el.tag == 0:
		c.fail(name, "is missing")
	default:
		c.fail(name, "is missing, "+c.el.tag.String()+" is in its place")
	}
	return false
}

// take returns the element that comes next if its tag is t, and moves on.
func (c *coder) take(name string, t tag) element {
	if !c.match(name, t) {
		return element{}
	}
	el := c.el
	c.next()
	return el
}

func (c *coder) takePrimitive(name string, t tag) []byte {
	el := c.take(name, t)
	if el.constructed {
		c.fail(name, "is constructed, want primitive")
	}
	return el.content
}

// takeInt takes an INTEGER or ENUMERATED. All that the protocol has fit easily in 64 bits.
func (c *coder) takeInt(name string, t tag) (n int64) {
	b := c.takePrimitive(name, t)
	if c.err != nil {
		return 0
	}
	switch {
	case len(b) == 0:
		c.fail(name, "has no octets (X.690 8.3.1)")
		return 0
	case len(b) > 1 && (b[0] == 0 && b[1] < 0x80 || b[0] == 0xff && b[1] >= 0x80):
		c.fail(name, "is padded (X.690 8.3.2)")
		return 0
	case len(b) > 8:
		c.fail(name, fmt.Sprintf("has %d octets, far out of range", len(b)))
		return 0
	}
	n = int64(int8(b[0]))
	for _, o := range b[1:] {
		n = n<<8 | int64(o)
	}
	return n
}

// takeString takes an element of a string type, whose parts, if it comes in
// parts, have the tag part (X.690 8.6.4, 8.7.3).
func (c *coder) takeString(name string, t, part tag) []byte {
	el := c.take(name, t)
	if !el.constructed {
		return el.content
	}
	b, fault := join(make([]byte, 0, len(el.content)), el.content, part, 1)
	if fault != "" {
		c.fail(name, fault)
	}
	return b
}

// maxParts is how deep a string's parts may have parts.
const maxParts = 4

func join(dst, parts []byte, part tag, depth int) (_ []byte, fault string) {
	for {
		var el element
		parts = el.read(parts)
		switch {
		case el.fault != "":
			return nil, "part " + el.fault
		case el.tag == 0:
			return dst, ""
		case el.tag != part:
			return nil, "part is " + el.tag.String() + ", want " + part.String()
		case el.constructed && depth == maxParts:
			return nil, fmt.Sprintf("parts nest deeper than %d", maxParts)
		case el.constructed:
			if dst, fault = join(dst, el.content, part, depth+1); fault != "" {
				return nil, fault
			}
		case part == tagBitString:
			if dst, fault = joinBits(dst, el.content); fault != "" {
				return nil, fault
			}
		default:
			dst = append(dst, el.content...)
		}
	}
}

// joinBits appends a part to the content octets of a BIT STRING, the first of
// which counts the unused bits at its end: only the last part may have any.
func joinBits(dst, part []byte) (_ []byte, fault string) {
	if fault = checkBits(part); fault != "" {
		return nil, fault
	}
	if len(dst) == 0 {
		return append(dst, part...), ""
	}
	if dst[0] != 0 {
		return nil, "part before the last has unused bits (X.690 8.6.4)"
	}
	dst[0] = part[0]
	return append(dst, part[1:]...), ""
}

func checkBits(b []byte) (fault string) {
	switch {
	case len(b) == 0:
		return "has no octets (X.690 8.6.2)"
	case b[0] > 7 || b[0] > 0 && len(b) == 1:
		return fmt.Sprintf("has %d unused bits in %d octets (X.690 8.6.2)", b[0], len(b)-1)
	}
	return ""
}

func (c *coder) putTag(t tag, constructed bool) {
	first := byte(t >> 30 << 6)
	if constructed {
		first |= 0x20
	}
	n := t.number()
	if n < 0x1f {
		c.out = append(c.out, first|byte(n))
		return
	}
	c.out = append(c.out, first|0x1f)
	for shift := (bits.Len32(n) - 1) / 7 * 7; shift > 0; shift -= 7 {
		c.out = append(c.out, 0x80|byte(n>>shift)&0x7f)
	}
	c.out = append(c.out, byte(n)&0x7f)
}

// putHeader puts the header of a primitive element with n content octets.
func (c *coder) putHeader(t tag, n int) {
	c.putTag(t, false)
	c.putLength(n)
}

func (c *coder) putLength(n int) {
	if n < 0x80 {
		c.out = append(c.out, byte(n))
		return
	}
	size := lengthSize(n)
	c.out = append(c.out, 0x80|byte(size))
	for size--; size >= 0; size-- {
		c.out = append(c.out, byte(n>>(8*size)))
	}
}

// patchLength sets the length of the element whose content starts at start and
// is the last of c.out. One octet was left free for it; the few messages that need
// more have their content moved.
func (c *coder) patchLength(start int) {
	n := len(c.out) - start
	if n < 0x80 {
		c.out[start-1] = byte(n)
		return
	}
	for range lengthSize(n) {
		c.out = append(c.out, 0)
	}
	end := len(c.out)
	copy(c.out[end-n:], c.out[start:])
	c.out = c.out[:start-1]
	c.putLength(n)
	c.out = c.out[:end]
}

// lengthSize returns how many octets the number n has.
func lengthSize(n int) int { return (bits.Len(uint(n)) + 7) / 8 }

func (c *coder) putInt(t tag, n int64) {
	// The sign bit counts, too (X.690 8.3.2).
	size := 1
	for m := n; m > 0x7f || m < -0x80; m >>= 8 {
		size++
	}
	c.putHeader(t, size)
	for size--; size >= 0; size-- {
		c.out = append(c.out, byte(n>>(8*size)))
	}
}

// putBits puts a BIT STRING with named bits, without zeros at its end (X.690 11.2.2).
func (c *coder) putBits(t tag, set uint64) {
	size := (bits.Len64(set) + 7) / 8
	c.putHeader(t, 1+size)
	c.out = append(c.out, byte(8*size-bits.Len64(set)))
	for set = bits.Reverse64(set); size > 0; size-- {
		c.out = append(c.out, byte(set>>56))
		set <<= 8
	}
}
