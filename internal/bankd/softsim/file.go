// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "bytes"

// A kind is what a file is.
type kind uint8

const (
	directory   kind = iota // MF or DF
	application             // ADF
	transparent             // EF, a string of bytes
	linear                  // EF with records of one size
	cyclic                  // EF with records of one size, the newest first
)

// An access is a condition for the use of a file, coded as in TS 51.011 9.3.
type access uint8

const (
	always access = 0x0
	pin1   access = 0x1 // CHV1, the user's PIN
	pin2   access = 0x2 // CHV2
	adm    access = 0x4 // ADM1, the issuer's key
	never  access = 0xf
)

// An operation is what can be done with an EF.
type operation uint8

const (
	read operation = iota
	update
	increase
	deactivate // class A0: INVALIDATE
	activate   // class A0: REHABILITATE
)

// rights are the conditions for each operation.
type rights [activate + 1]access

// File identifiers that have a meaning of their own (TS 102 221 8.6).
const (
	idMF  = 0x3f00
	idADF = 0x7fff // the ADF of the current application
	idGSM = 0x7f20 // DF.GSM (TS 51.011 10.3)
)

// A content is what an EF holds. Files that a SIM and a USIM have in common share one.
type content struct {
	kind kind   // transparent, linear or cyclic
	size int    // of a record, 1..255; 0 without records
	data []byte // all records, number 1 first
}

// records returns the number of records, 1..254.
func (c *content) records() int { return len(c.data) / c.size }

// record returns record n, from 1.
func (c *content) record(n int) []byte { return c.data[(n-1)*c.size : n*c.size] }

// push makes b record 1 of a cyclic content; the oldest record goes (TS 102 221 8.2.2.3).
func (c *content) push(b []byte) {
	copy(c.data[c.size:], c.data)
	copy(c.data[:c.size], b)
}

// A file is a node of the card's tree.
type file struct {
	kind        kind
	id          uint16
	name        []byte // of an ADF: its AID
	sfi         byte   // of an EF: its short identifier 1..30, 0 without one
	rights      rights // of an EF
	deactivated bool   // of an EF
	*content           // of an EF
	parent      *file
	children    []*file
}

// adopt sets the parents of all that is below f.
func (f *file) adopt() {
	for _, c := range f.children {
		c.parent = f
		c.adopt()
	}
}

// isDir reports whether f can hold other files.
func (f *file) isDir() bool { return f.content == nil }

// child returns the EF or DF directly below f with an identifier. An ADF is not reached so.
func (f *file) child(id uint16) *file {
	for _, c := range f.children {
		if c.id == id && c.kind != application {
			return c
		}
	}
	return nil
}

// bySFI returns the EF directly below f with a short identifier 1..30.
func (f *file) bySFI(sfi byte) *file {
	for _, c := range f.children {
		if sfi != 0 && c.sfi == sfi {
			return c
		}
	}
	return nil
}

// within reports whether f is d or below it.
func (f *file) within(d *file) bool {
	for ; f != nil; f = f.parent {
		if f == d {
			return true
		}
	}
	return false
}

// Which of several AIDs that fit is meant, in P2 of SELECT (TS 102 221 11.1.1.2).
const (
	firstOne = iota
	lastOne
	nextOne     // after the current application; without one the first
	previousOne // before it; without one the last
)

// byName returns an ADF below the MF f whose AID begins with name (TS 102 221 8.5.1).
func (f *file) byName(name []byte, which byte, current *file) *file {
	var latest *file
	passed := current == nil
	for _, c := range f.children {
		if which == previousOne && c == current {
			return latest
		}
		if c.kind == application && bytes.HasPrefix(c.name, name) {
			if which == firstOne || which == nextOne && passed {
				return c
			}
			latest = c
		}
		passed = passed || c == current
	}
	if which == nextOne {
		return nil
	}
	return latest
}

// appendHeader appends what SELECT and STATUS answer in class A0 (TS 51.011 9.2.1, 9.3).
func (m *memory) appendHeader(b []byte, f *file) []byte {
	if !f.isDir() {
		size := len(f.data)
		increasable, state := byte(0), byte(1)
		if f.kind == cyclic && f.rights[increase] != never {
			increasable = 0x40
		}
		if f.deactivated {
			state = 0
		}
		return append(b,
			0, 0, // RFU
			byte(size>>8), byte(size),
			byte(f.id>>8), byte(f.id),
			4, // EF
			increasable,
			byte(f.rights[read]<<4|f.rights[update]),
			byte(f.rights[increase]<<4), // RFU
			byte(f.rights[activate]<<4|f.rights[deactivate]),
			state,
			2, // length of what follows
			structures[f.kind].gsm,
			byte(f.size))
	}
	typ := byte(2)
	if f.id == idMF {
		typ = 1
	}
	var dfs, efs byte
	for _, c := range f.children {
		switch {
		case c.kind == directory:
			dfs++
		case !c.isDir():
			efs++
		}
	}
	chv1, chv2 := &m.pins[pin1], &m.pins[pin2]
	characteristics := byte(0x31) // 1.8 and 3 V, clock stop allowed
	if !chv1.enabled {
		characteristics |= 0x80
	}
	return append(b,
		0, 0, // RFU
		0, 0, // no memory left
		byte(f.id>>8), byte(f.id),
		typ,
		0, 0, 0, 0, 0, // RFU
		10, // length of what follows
		characteristics,
		dfs, efs,
		4, // number of CHVs and unblock CHVs
		0, // RFU
		// Set, tries left.
		0x80|chv1.tries, 0x80|chv1.pukTries, 0x80|chv2.tries, 0x80|chv2.pukTries,
		0) // RFU
}

// structures codes the structure of an EF in a header (TS 51.011 9.3) and in the file descriptor of an FCP,
// working EF, shareable (TS 102 221 11.1.1.4.3).
var structures = [...]struct{ gsm, uicc byte }{
	transparent: {0, 0x41},
	linear:      {1, 0x42},
	cyclic:      {3, 0x46},
}

// appendFCP appends the file control parameters that SELECT and STATUS answer in
// class 00 (TS 102 221 11.1.1.3).
func (m *memory) appendFCP(b []byte, f *file) []byte {
	b = append(b, 0x62, 0)
	start := len(b)
	switch {
	case f.isDir():
		b = append(b, 0x82, 2, 0x78, 0x21) // file descriptor: DF, shareable
	case f.kind == transparent:
		b = append(b, 0x82, 2, structures[f.kind].uicc, 0x21)
	default:
		b = append(b, 0x82, 5, structures[f.kind].uicc, 0x21, 0, byte(f.size), byte(f.records()))
	}
	b = append(b, 0x83, 2, byte(f.id>>8), byte(f.id))
	if f.kind == application {
		b = append(b, 0x84, byte(len(f.name)))
		b = append(b, f.name...)
	}
	if f.id == idMF {
		b = append(b, 0xa5, 3, 0x80, 1, 0x71) // UICC: all voltages, clock stop allowed
	}
	if f.deactivated {
		b = append(b, 0x8a, 1, 4) // operational, deactivated
	} else {
		b = append(b, 0x8a, 1, 5) // operational, activated
	}
	if f.isDir() {
		// Deleting and creating files (access mode 47) is for nobody.
		b = append(b, 0xab, 5, 0x80, 1, 0x47, 0x97, 0)
		// PIN status: a bit for each key reference, set when it is enabled (TS 102 221 9.5.2).
		status := byte(0)
		for i, who := range [...]access{pin1, pin2} {
			if m.pins[who].enabled {
				status |= 0x80 >> i
			}
		}
		b = append(b, 0xc6, 9, 0x90, 1, status, 0x83, 1, keyPIN1, 0x83, 1, keyPIN2)
	} else {
		b = f.appendSecurity(b)
		b = append(b, 0x80, 2, byte(len(f.data)>>8), byte(len(f.data)))
		// Without this object the identifier's low bits would be the short identifier.
		if f.sfi == 0 {
			b = append(b, 0x88, 0)
		} else {
			b = append(b, 0x88, 1, f.sfi<<3)
		}
	}
	b[start-1] = byte(len(b) - start)
	return b
}

// accessModes are the tags and values that stand for operations in security attributes: a bit of the access
// mode byte, or an instruction (TS 102 221 9.3, ISO 7816-4 5.4.3.2).
var accessModes = [...][2]byte{
	read:       {0x80, 0x01},
	update:     {0x80, 0x02},
	increase:   {0x84, 0x32},
	deactivate: {0x80, 0x08},
	activate:   {0x80, 0x10},
}

// appendSecurity appends the security attributes of an EF in expanded format: pairs of an
// access mode and a security condition (TS 102 221 9.3, ISO 7816-4 5.4.3.2).
func (f *file) appendSecurity(b []byte) []byte {
	b = append(b, 0xab, 0)
	start := len(b)
	for op, who := range f.rights {
		if operation(op) == increase && f.kind != cyclic {
			continue
		}
		b = append(b, accessModes[op][0], 1, accessModes[op][1])
		switch who {
		case always:
			b = append(b, 0x90, 0)
		case never:
			b = append(b, 0x97, 0)
		case pin1:
			b = append(b, 0xa4, 6, 0x83, 1, keyPIN1, 0x95, 1, 8)
		case pin2:
			b = append(b, 0xa4, 6, 0x83, 1, keyPIN2, 0x95, 1, 8)
		case adm:
			b = append(b, 0xa4, 6, 0x83, 1, keyADM1, 0x95, 1, 8)
		}
	}
	b[start-1] = byte(len(b) - start)
	return b
}
