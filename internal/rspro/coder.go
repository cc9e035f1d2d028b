// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"fmt"
	"math/bits"
	"strconv"
	"strings"
	"unicode/utf8"

	"remsim/internal/slot"
)

// A coder takes a PDU through its elements in one of two directions. Each type
// of the protocol is described once, as a method that is given a pointer:
// encoding only reads through it, decoding writes. The first fault is kept, and all
// that comes after it does nothing, so that a description needs no error checks
// and is looked at once, at its end.
//
// Descriptions call the coder's methods directly and never through an interface
// or a function value, which keeps the coder off the heap.
type coder struct {
	decoding bool
	err      *Error
	msg      string // the message that errors name
	msgDepth int    // levels around it

	out []byte // encoding: what is written so far

	el   element // decoding: the element that comes next, tag 0 if there is none
	rest []byte  // decoding: what follows el in the element around both

	depth  int
	levels [6]level // deepest: PDU, msg, bankSlotmapsInd, maps, item, client
}

// A level is an element that was entered and not left yet.
type level struct {
	name  string // empty if it is not worth naming
	index int    // in a list: number of the item being coded, from 1
	start int    // encoding: where the content starts in out
	rest  []byte // decoding: what follows the element
}

// A tag is class and number of an element (X.690 8.1.2). No element has tag 0: it
// stands for end-of-contents.
type tag uint32

const (
	tagBoolean     tag = 1
	tagInteger     tag = 2
	tagBitString   tag = 3
	tagOctetString tag = 4
	tagEnumerated  tag = 10
	tagUTF8String  tag = 12
	tagSequence    tag = 16
	tagIA5String   tag = 22

	maxTagNumber = 1<<28 - 1 // four octets of seven bits; no protocol needs more
)

// ctx returns the context tag [n]. The class is in the two topmost bits.
func ctx(n uint32) tag { return 2<<30 | tag(n) }

func (t tag) number() uint32 { return uint32(t & maxTagNumber) }

// String returns the form of ASN.1, such as "[2]" or "[UNIVERSAL 16]".
func (t tag) String() string {
	class := [...]string{"UNIVERSAL ", "APPLICATION ", "", "PRIVATE "}[t>>30]
	return "[" + class + strconv.Itoa(int(t.number())) + "]"
}

// fail keeps the first fault. The element name is that of an element of the
// innermost level; empty means the level itself.
func (c *coder) fail(name, rule string) {
	if c.err != nil {
		return
	}
	var path []string
	for _, l := range c.levels[c.msgDepth:c.depth] {
		if l.name == "" {
			continue
		}
		if l.index > 0 {
			l.name += "[" + strconv.Itoa(l.index-1) + "]"
		}
		path = append(path, l.name)
	}
	if name != "" {
		path = append(path, name)
	}
	c.err = &Error{Op: "encode", Message: c.msg, Element: strings.Join(path, "."), Rule: rule}
	if c.decoding {
		c.err.Op = "decode"
	}
}

// enter begins a constructed element of the tag t. What is coded until the
// matching leave is its content.
func (c *coder) enter(name string, t tag) {
	if c.err != nil {
		return
	}
	l := level{name: name}
	if c.decoding {
		if !c.match(name, t) {
			return
		}
		if !c.el.constructed {
			c.fail(name, "is primitive, want constructed")
			return
		}
		l.rest = c.rest
		c.rest = c.el.content
		c.next()
	} else {
		c.putTag(t, true)
		c.out = append(c.out, 0)
		l.start = len(c.out)
	}
	c.levels[c.depth] = l
	c.depth++
}

// leave ends the element entered last. Decoding skips what is left of it: the
// types of the protocol are extensible.
func (c *coder) leave() {
	for c.decoding && c.el.tag != 0 {
		c.next()
	}
	c.leaveClosed()
}

// leaveClosed ends the element entered last, which isn't extensible: decoding
// refuses what is left of it.
func (c *coder) leaveClosed() {
	if c.err != nil {
		return
	}
	l := &c.levels[c.depth-1]
	if c.decoding {
		if c.el.tag != 0 {
			c.fail("", c.el.tag.String()+" does not belong here")
		}
		if c.el.fault != "" {
			c.fail("", c.el.fault)
		}
		c.rest = l.rest
		c.next()
	} else {
		c.patchLength(l.start)
	}
	c.depth--
}

// item begins the i-th item of the list entered last, which has n items already,
// and reports whether there is one.
func (c *coder) item(i, n, max int) bool {
	if c.err != nil {
		return false
	}
	c.levels[c.depth-1].index = 0
	there := i < n
	if c.decoding {
		there = c.el.tag != 0
	}
	if !there {
		return false
	}
	if i == max {
		c.fail("", fmt.Sprintf("more than %d items", max))
		return false
	}
	c.levels[c.depth-1].index = i + 1
	return true
}

// present reports whether the optional element of the tag t is there: has, when
// encoding.
func (c *coder) present(t tag, has bool) bool {
	if c.decoding {
		has = c.el.tag == t
	}
	return c.err == nil && has
}

// optional is present for an element that a pointer stands for; decoding makes
// what it points to.
func optional[T any](c *coder, t tag, v **T) bool {
	there := c.present(t, *v != nil)
	if there && c.decoding {
		*v = new(T)
	}
	return there
}

// extension is present for an element behind the extension marker: decoding
// skips unknown elements before it.
func (c *coder) extension(t tag, has bool) bool {
	if c.decoding {
		el, rest := c.el, c.rest
		for c.el.tag != t && c.el.tag != 0 {
			c.next()
		}
		if c.el.tag != t {
			c.el, c.rest = el, rest
		}
	}
	return c.present(t, has)
}

// integer is an INTEGER of 0 to max.
func integer[T uint8 | uint16 | int32](c *coder, name string, t tag, v *T, max int64) {
	n := int64(*v)
	if c.decoding {
		n = c.takeInt(name, t)
	}
	if n < 0 || n > max {
		c.fail(name, fmt.Sprintf("is %d, want 0..%d", n, max))
	}
	if c.err != nil {
		return
	}
	if c.decoding {
		*v = T(n)
	} else {
		c.putInt(t, n)
	}
}

// enumerated is an ENUMERATED; it needn't be one of the values known.
func enumerated[T ~int32](c *coder, name string, t tag, v *T) {
	if !c.decoding {
		c.putInt(t, int64(*v))
		return
	}
	n := c.takeInt(name, t)
	if n != int64(int32(n)) {
		c.fail(name, fmt.Sprintf("is %d, want 32 bits", n))
		return
	}
	*v = T(n)
}

func (c *coder) boolean(name string, t tag, v *bool) {
	if !c.decoding {
		b := byte(0)
		if *v {
			b = 0xff // X.690 11.1
		}
		c.putHeader(t, 1)
		c.out = append(c.out, b)
		return
	}
	b := c.takePrimitive(name, t)
	if c.err != nil {
		return
	}
	if len(b) != 1 {
		c.fail(name, fmt.Sprintf("has %d octets, want 1 (X.690 8.2.1)", len(b)))
		return
	}
	*v = b[0] != 0
}

// signal is an OPTIONAL BOOLEAN.
func (c *coder) signal(name string, t tag, v *slot.Signal) {
	if *v > slot.On {
		c.fail(name, fmt.Sprintf("is %d, want 0..%d", *v, slot.On))
	}
	if !c.present(t, *v != slot.Unknown) {
		return
	}
	on := *v == slot.On
	c.boolean(name, t, &on)
	if c.decoding {
		*v = slot.Of(on)
	}
}

// octetString is an OCTET STRING of min to max octets. When decoded it aliases
// the input, unless it is put together of parts.
func (c *coder) octetString(name string, t tag, v *[]byte, min, max int) {
	b := *v
	if c.decoding {
		b = c.takeString(name, t, tagOctetString)
	}
	c.checkSize(name, len(b), min, max)
	if c.err != nil {
		return
	}
	if c.decoding {
		*v = b
		return
	}
	c.putHeader(t, len(b))
	c.out = append(c.out, b...)
}

// ia5String is an IA5String of 1 to max characters.
func (c *coder) ia5String(name string, t tag, v *string, max int) {
	c.text(name, t, v, 1, max)
	for i := 0; i < len(*v); i++ {
		if (*v)[i] > 0x7f {
			c.fail(name, "has characters that are not ASCII")
			return
		}
	}
}

// utf8String is a UTF8String.
func (c *coder) utf8String(name string, t tag, v *string) {
	c.text(name, t, v, 0, MaxSize)
	if !utf8.ValidString(*v) {
		c.fail(name, "is not UTF-8")
	}
}

// text is a character string of min to max octets.
func (c *coder) text(name string, t tag, v *string, min, max int) {
	if !c.decoding {
		c.checkSize(name, len(*v), min, max)
		c.putHeader(t, len(*v))
		c.out = append(c.out, *v...)
		return
	}
	// The parts of a character string are OCTET STRINGs (X.690 8.23.6).
	b := c.takeString(name, t, tagOctetString)
	c.checkSize(name, len(b), min, max)
	if c.err == nil {
		*v = string(b)
	}
}

// features is a BIT STRING with named bits of which the first 64 count.
func (c *coder) features(name string, t tag, v *Features) {
	if !c.decoding {
		c.putBits(t, uint64(*v))
		return
	}
	b := c.takeString(name, t, tagBitString)
	if c.err != nil {
		return
	}
	if rule := checkBits(b); rule != "" {
		c.fail(name, rule)
		return
	}
	unused, b := b[0], b[1:]
	var set uint64
	for i := range min(len(b), 8) {
		o := b[i]
		if i == len(b)-1 {
			o &= 0xff << unused
		}
		set |= uint64(o) << (56 - 8*i)
	}
	*v = Features(bits.Reverse64(set))
}

func (c *coder) checkSize(name string, n, min, max int) {
	if n < min || n > max {
		c.fail(name, fmt.Sprintf("size is %d, want %d..%d", n, min, max))
	}
}
