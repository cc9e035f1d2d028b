// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "bytes"

// A kind is what a file is.
type kind uint8

const (
	directory   kind = iota // MF or DF
	application             // ADF
	transparent             // EF with a transparent structure
)

// An access is a condition for the use of a file, coded as in TS 51.011 9.3.
type access uint8

const (
	always access = 0x0
	pin1   access = 0x1 // CHV1, the user's PIN
	adm    access = 0x4 // ADM1
	never  access = 0xf
)

// rights are the conditions for what can be done with an EF.
type rights struct {
	read, update, deactivate, activate access
}

// File identifiers that have a meaning of their own (TS 102 221 8.6).
const (
	idMF  = 0x3f00
	idADF = 0x7fff // the ADF of the current application
	idGSM = 0x7f20 // DF.GSM (TS 51.011 10.3)
)

// A file is a node of the card's tree.
type file struct {
	kind     kind
	id       uint16
	name     []byte // of an ADF: its AID
	sfi      byte   // of an EF: its short identifier 1..30, 0 without one
	rights   rights
	data     []byte // of an EF
	parent   *file
	children []*file
}

// usimAID is the AID of the USIM application (TS 101 220 annex E: RID of 3GPP, application code 1002,
// country and provider not used).
var usimAID = []byte{0xa0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02, 0xff, 0xff, 0xff, 0xff, 0x89, 0x07, 0x09, 0x00, 0x00}

// tree returns the MF of a new card with all that is below.
func tree(p Profile) *file {
	imsi := rights{read: pin1, update: adm, deactivate: adm, activate: pin1}
	ad := rights{read: always, update: adm, deactivate: adm, activate: adm}
	mf := &file{kind: directory, id: idMF, children: []*file{
		// EF.ICCID (TS 102 221 13.2; TS 51.011 10.1.1)
		{kind: transparent, id: 0x2fe2, sfi: 2, data: bcd(nil, p.ICCID, 10),
			rights: rights{read: always, update: never, deactivate: adm, activate: adm}},
		{kind: directory, id: idGSM, children: []*file{
			// EF.IMSI (TS 51.011 10.3.2), EF.AD (10.3.18): normal operation, MNC of 2 digits
			{kind: transparent, id: 0x6f07, data: imsiData(p.IMSI), rights: imsi},
			{kind: transparent, id: 0x6fad, data: []byte{0, 0, 0, 2}, rights: ad},
		}},
		{kind: application, id: idADF, name: usimAID, children: []*file{
			// EF.IMSI (TS 31.102 4.2.2), EF.AD (4.2.18)
			{kind: transparent, id: 0x6f07, sfi: 7, data: imsiData(p.IMSI), rights: imsi},
			{kind: transparent, id: 0x6fad, sfi: 3, data: []byte{0, 0, 0, 2}, rights: ad},
		}},
	}}
	mf.adopt()
	return mf
}

// adopt sets the parents of all that is below f.
func (f *file) adopt() {
	for _, c := range f.children {
		c.parent = f
		c.adopt()
	}
}

// bcd appends decimal digits to b, two a byte, the first in the low half, filled up with F to n bytes.
func bcd(b []byte, digits string, n int) []byte {
	for i := range n {
		nibble := func(j int) byte {
			if j < len(digits) {
				return digits[j] - '0'
			}
			return 0xf
		}
		b = append(b, nibble(2*i)|nibble(2*i+1)<<4)
	}
	return b
}

// imsiData returns the content of EF.IMSI: length, then identity type 1 with the parity of
// the number of digits, then the digits (TS 31.102 4.2.2, TS 24.008 10.5.1.4).
func imsiData(imsi string) []byte {
	n := len(imsi)/2 + 1
	first := "1"
	if len(imsi)%2 == 1 {
		first = "9"
	}
	b := bcd([]byte{byte(n)}, first+imsi, n)
	for len(b) < 9 {
		b = append(b, 0xff)
	}
	return b
}

// isDir reports whether f can hold other files.
func (f *file) isDir() bool { return f.kind != transparent }

// child returns the EF or DF directly below f with an identifier. An ADF is not reached so.
func (f *file) child(id uint16) *file {
	for _, c := range f.children {
		if c.id == id && c.kind != application {
			return c
		}
	}
	return nil
}

// bySFI returns the EF directly below f with a short identifier.
func (f *file) bySFI(sfi byte) *file {
	for _, c := range f.children {
		if !c.isDir() && c.sfi == sfi {
			return c
		}
	}
	return nil
}

// byName returns the ADF below the MF f whose AID begins with name.
func (f *file) byName(name []byte) *file {
	for _, c := range f.children {
		if c.kind == application && bytes.HasPrefix(c.name, name) {
			return c
		}
	}
	return nil
}

// appendHeader appends what SELECT and STATUS answer in class A0 (TS 51.011 9.2.1, 9.3).
func (f *file) appendHeader(b []byte) []byte {
	if !f.isDir() {
		size := len(f.data)
		return append(b,
			0, 0, // RFU
			byte(size>>8), byte(size),
			byte(f.id>>8), byte(f.id),
			4, // EF
			0, // RFU
			byte(f.rights.read<<4|f.rights.update),
			byte(never<<4), // INCREASE, RFU
			byte(f.rights.activate<<4|f.rights.deactivate),
			1, // not invalidated
			2, // length of what follows
			0, // transparent
			0) // no records
	}
	typ := byte(2)
	if f.id == idMF {
		typ = 1
	}
	var dfs, efs byte
	for _, c := range f.children {
		switch c.kind {
		case directory:
			dfs++
		case transparent:
			efs++
		}
	}
	return append(b,
		0, 0, // RFU
		0, 0, // no memory left
		byte(f.id>>8), byte(f.id),
		typ,
		0, 0, 0, 0, 0, // RFU
		10,   // length of what follows
		0xb1, // CHV1 disabled, 1.8 and 3 V, clock stop allowed
		dfs, efs,
		4,                      // number of CHVs and unblock CHVs
		0,                      // RFU
		0x83, 0x8a, 0x83, 0x8a, // CHV1, unblock 1, CHV2, unblock 2: set, tries left
		0) // RFU
}

// appendFCP appends the file control parameters that SELECT and STATUS answer in
// class 00 (TS 102 221 11.1.1.3).
func (f *file) appendFCP(b []byte) []byte {
	b = append(b, 0x62, 0)
	start := len(b)
	if f.isDir() {
		b = append(b, 0x82, 2, 0x78, 0x21) // file descriptor: DF, shareable
	} else {
		b = append(b, 0x82, 2, 0x41, 0x21) // file descriptor: transparent EF, shareable
	}
	b = append(b, 0x83, 2, byte(f.id>>8), byte(f.id))
	if f.kind == application {
		b = append(b, 0x84, byte(len(f.name)))
		b = append(b, f.name...)
	}
	if f.id == idMF {
		b = append(b, 0xa5, 3, 0x80, 1, 0x71) // UICC: all voltages, clock stop allowed
	}
	b = append(b, 0x8a, 1, 5) // operational, activated
	if f.isDir() {
		// Deleting and creating files (access mode 47) is for nobody. PIN status: one key, the global PIN 1
		// (key reference 01), disabled (TS 102 221 9.5.2).
		b = append(b, 0xab, 5, 0x80, 1, 0x47, 0x97, 0)
		b = append(b, 0xc6, 6, 0x90, 1, 0, 0x83, 1, 1)
	} else {
		size := len(f.data)
		b = f.rights.appendSecurity(b)
		b = append(b, 0x80, 2, byte(size>>8), byte(size))
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

// appendSecurity appends the security attributes of an EF in expanded format: pairs of an
// access mode and a security condition (TS 102 221 9.3, ISO 7816-4 5.4.3.2).
func (r rights) appendSecurity(b []byte) []byte {
	b = append(b, 0xab, 0)
	start := len(b)
	for _, x := range [...]struct {
		mode byte
		who  access
	}{{0x01, r.read}, {0x02, r.update}, {0x08, r.deactivate}, {0x10, r.activate}} {
		b = append(b, 0x80, 1, x.mode)
		switch x.who {
		case always:
			b = append(b, 0x90, 0)
		case never:
			b = append(b, 0x97, 0)
		case pin1:
			b = append(b, 0xa4, 6, 0x83, 1, 0x01, 0x95, 1, 8)
		case adm:
			b = append(b, 0xa4, 6, 0x83, 1, 0x0a, 0x95, 1, 8)
		}
	}
	b[start-1] = byte(len(b) - start)
	return b
}
