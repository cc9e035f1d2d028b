// SPDX-License-Identifier: GPL-2.0-or-later

// Package rspro holds the types and messages of RSPRO, the Remote SIM protocol
// (asn1/RSPRO.asn), and their BER encoding. It knows no network.
//
// What is sent is DER. What is taken is BER (X.690 clause 8) with any form of
// length and with strings in parts; BOOLEANs are true when not zero. Unknown elements
// behind the known ones are skipped, unknown values of enumerations and
// unknown messages are kept as their numbers. What breaks a range or a size
// is refused in both directions, with an *Error.
package rspro

// MaxSize is the largest PDU, in bytes, that Append makes and Decode takes:
// what an IPA frame of 4 KiB holds behind its header of 4 bytes. C programs make
// and take 1,016 bytes; only messages that a sender fills to more than that
// with TPDU data or names of readers get longer.
const MaxSize = 4<<10 - 4

// envelope is what errors name when they are in no message.
const envelope = "RsproPDU"

// Append appends the DER encoding of p to dst and returns the longer slice. It
// allocates nothing when dst has room. If p breaks a rule it returns dst as it was
// and an *Error.
func (p PDU) Append(dst []byte) ([]byte, error) {
	c := coder{out: dst, msg: envelope}
	c.pdu(&p)
	if n := len(c.out) - len(dst); n > MaxSize {
		c.fail("", tooLarge)
	}
	if c.err != nil {
		return dst, c.err
	}
	return c.out, nil
}

// Decode reads one PDU that fills b. Byte slices of the message alias b: they are
// good until b is written to again. Whatever b holds, the message takes
// little more memory than b. If b breaks a rule Decode returns an *Error.
//
// PDUs of any version are decoded; whether to go on is the caller's decision.
func Decode(b []byte) (PDU, error) {
	c := coder{decoding: true, rest: b, msg: envelope}
	if len(b) > MaxSize {
		c.fail("", tooLarge)
	}
	var p PDU
	c.next()
	c.pdu(&p)
	if c.el.tag != 0 || c.el.fault != "" {
		c.fail("", "is followed by more")
	}
	if c.err != nil {
		return PDU{}, c.err
	}
	return p, nil
}

const tooLarge = "is larger than 4092 bytes"
