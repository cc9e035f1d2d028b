// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"cmp"
	"encoding/hex"
	"fmt"
	"maps"
	"slices"
	"strconv"
	"strings"
)

// usimAID is the AID of the USIM application (TS 101 220 annex E: RID of 3GPP, application code 1002,
// country and provider not used).
var usimAID = []byte{0xa0, 0x00, 0x00, 0x00, 0x87, 0x10, 0x02, 0xff, 0xff, 0xff, 0xff, 0x89, 0x07, 0x09, 0x00, 0x00}

// allow returns rights with conditions to read and to update; the issuer may deactivate and activate, nobody increase.
func allow(toRead, toUpdate access) rights {
	return rights{read: toRead, update: toUpdate, increase: never, deactivate: adm, activate: adm}
}

// tree returns the MF of a new card with all that is below. Contents that the standards leave to the issuer are as
// TS 51.011 annex D and TS 31.102 annex E suggest.
func tree(p Profile) (*file, error) {
	var (
		anybody  = allow(always, adm)
		fixed    = allow(always, never)
		language = allow(always, pin1)
		issuer   = allow(pin1, adm)
		user     = allow(pin1, pin1)
		limit    = allow(pin1, pin2) // what may be spent and called
		// Those with exceptions (TS 51.011 10.3.2, 10.3.17, 10.5.1 and 10.3.8).
		imsi, location, adn, meter = issuer, user, user, limit
	)
	imsi[activate], location[activate] = pin1, pin1
	adn[deactivate], adn[activate] = pin2, pin2
	meter[increase] = pin1
	// What SIM and USIM have in common.
	var (
		imsiData     = bytesOf(imsiContent(p.IMSI))
		ad           = bytesOf([]byte{0, 0, 0, byte(max(p.MNCDigits, 2))}) // normal operation, digits of the MNC
		acc          = bytesOf(accessClass(p.IMSI))
		spn          = bytesOf(filled(17, append([]byte{0}, cmp.Or(p.SPN, defaultSPN)...)...))
		locationData = bytesOf(unhexed("ffffffffffffff0000ff01")) // not updated
		fplmn        = bytesOf(filled(12))
		kc           = bytesOf(unhexed("ffffffffffffffff07"))
		acm          = recordsOf(cyclic, 3, 3, []byte{0, 0, 0}, []byte{0, 0, 0}, []byte{0, 0, 0})
		acmMax       = bytesOf([]byte{0, 0, 0})
		puct         = bytesOf(unhexed("ffffff0000"))
		searches     = bytesOf([]byte{5}) // for the home network every 30 minutes
		sms          = recordsOf(linear, 176, 10)
		msisdn       = recordsOf(linear, 28, 2, number(p.MSISDN, 28))
		smsp         = recordsOf(linear, 42, 2)
		smss         = bytesOf(filled(2))
		fdn          = recordsOf(linear, 28, 10)
		languages    = bytesOf(filled(6, []byte("en")...))
	)
	for i := range sms.records() {
		sms.record(i + 1)[0] = 0 // free (TS 31.102 4.2.25)
	}
	mf := &file{kind: directory, id: idMF, children: []*file{
		// The UICC: TS 102 221 13.1 to 13.3.
		ef(0x2f00, 30, anybody, recordsOf(linear, 38, 2, directoryEntry(usimAID, "USIM"))), // EF.DIR
		ef(0x2f05, 5, language, languages),                                                 // EF.PL
		ef(0x2fe2, 2, fixed, bytesOf(bcd(nil, p.ICCID, 10))),                               // EF.ICCID
		// DF.TELECOM: TS 51.011 10.5.
		{kind: directory, id: 0x7f10, children: []*file{
			ef(0x6f3a, 0, adn, recordsOf(linear, 28, 20)), // EF.ADN
			ef(0x6f3b, 0, limit, fdn),                     // EF.FDN
			ef(0x6f3c, 0, user, sms),                      // EF.SMS
			ef(0x6f40, 0, user, msisdn),                   // EF.MSISDN
			ef(0x6f42, 0, user, smsp),                     // EF.SMSP
			ef(0x6f43, 0, user, smss),                     // EF.SMSS
			ef(0x6f44, 0, user, recordsOf(cyclic, 28, 5)), // EF.LND
		}},
		// DF.GSM: TS 51.011 10.3.
		{kind: directory, id: idGSM, children: []*file{
			ef(0x6f05, 0, language, bytesOf(filled(2, 1))), // EF.LP: English
			ef(0x6f07, 0, imsi, imsiData),                  // EF.IMSI
			ef(0x6f20, 0, user, kc),                        // EF.Kc
			ef(0x6f30, 0, user, bytesOf(filled(24))),       // EF.PLMNsel
			ef(0x6f31, 0, issuer, searches),                // EF.HPLMN
			ef(0x6f37, 0, limit, acmMax),                   // EF.ACMmax
			// EF.SST: CHV1 can be disabled, ADN, FDN, SMS; AoC, PLMNsel; MSISDN, SMSP; LND; SPN;
			// menu selection; proactive SIM.
			ef(0x6f38, 0, issuer, bytesOf(services(2, 8, 1, 2, 3, 4, 5, 7, 9, 12, 13, 17, 27, 29))),
			ef(0x6f39, 0, meter, acm),                  // EF.ACM
			ef(0x6f41, 0, limit, puct),                 // EF.PUCT
			ef(0x6f46, 0, anybody, spn),                // EF.SPN
			ef(0x6f74, 0, user, bytesOf(filled(16))),   // EF.BCCH
			ef(0x6f78, 0, issuer, acc),                 // EF.ACC
			ef(0x6f7b, 0, user, fplmn),                 // EF.FPLMN
			ef(0x6f7e, 0, location, locationData),      // EF.LOCI
			ef(0x6fad, 0, anybody, ad),                 // EF.AD
			ef(0x6fae, 0, anybody, bytesOf([]byte{3})), // EF.PHASE: 2, with profile download
		}},
		// ADF.USIM: TS 31.102 4.2.
		{kind: application, id: idADF, name: usimAID, children: []*file{
			ef(0x6f05, 2, language, languages),          // EF.LI
			ef(0x6f07, 7, imsi, imsiData),               // EF.IMSI
			ef(0x6f08, 8, user, bytesOf(filled(33, 7))), // EF.Keys: none
			ef(0x6f09, 9, user, bytesOf(filled(33, 7))), // EF.KeysPS
			ef(0x6f31, 18, issuer, searches),            // EF.HPPLMN
			ef(0x6f37, 0, limit, acmMax),                // EF.ACMmax
			// EF.UST: FDN, SMS, SMSP, AoC; SPN, MSISDN; GSM access; 33 has to be there; EST, GSM context.
			ef(0x6f38, 4, issuer, bytesOf(services(1, 7, 2, 10, 12, 13, 19, 21, 27, 33, 34, 38))),
			ef(0x6f39, 0, meter, acm),                                                  // EF.ACM
			ef(0x6f3b, 0, limit, fdn),                                                  // EF.FDN
			ef(0x6f3c, 0, user, sms),                                                   // EF.SMS
			ef(0x6f40, 0, user, msisdn),                                                // EF.MSISDN
			ef(0x6f41, 0, limit, puct),                                                 // EF.PUCT
			ef(0x6f42, 0, user, smsp),                                                  // EF.SMSP
			ef(0x6f43, 0, user, smss),                                                  // EF.SMSS
			ef(0x6f46, 0, anybody, spn),                                                // EF.SPN
			ef(0x6f56, 5, limit, bytesOf([]byte{0})),                                   // EF.EST: FDN is off
			ef(0x6f5b, 15, user, bytesOf(unhexed("f00000f00000"))),                     // EF.START-HFN
			ef(0x6f5c, 16, issuer, bytesOf(filled(3))),                                 // EF.THRESHOLD
			ef(0x6f73, 12, location, bytesOf(unhexed("ffffffffffffffffffff0000ff01"))), // EF.PSLOCI
			ef(0x6f78, 6, issuer, acc),                                                 // EF.ACC
			ef(0x6f7b, 13, user, fplmn),                                                // EF.FPLMN
			ef(0x6f7e, 11, location, locationData),                                     // EF.LOCI
			ef(0x6fad, 3, anybody, ad),                                                 // EF.AD
			ef(0x6fb7, 1, anybody, recordsOf(linear, 4, 3, unhexed("11f2ff00"), unhexed("19f1ff00"))), // EF.ECC: 112, 911
			ef(0x6fc4, 0, user, bytesOf(filled(64))),                                                  // EF.NETPAR
			// DF.GSM-ACCESS: TS 31.102 4.4.3.
			{kind: directory, id: 0x5f3b, children: []*file{
				ef(0x4f20, 1, user, kc), // EF.Kc
				ef(0x4f52, 2, user, bytesOf(unhexed("ffffffffffffffff07"))), // EF.KcGPRS
			}},
		}},
	}}
	mf.adopt()
	return mf, mf.override(p.Files)
}

// ef makes an EF.
func ef(id uint16, sfi byte, r rights, c *content) *file {
	return &file{kind: c.kind, id: id, sfi: sfi, rights: r, content: c}
}

// bytesOf makes the content of a transparent EF.
func bytesOf(b []byte) *content { return &content{kind: transparent, data: b} }

// recordsOf makes n records of a size, the first ones given, the others empty.
func recordsOf(k kind, size, n int, first ...[]byte) *content {
	c := &content{kind: k, size: size, data: filled(size * n)}
	for i, r := range first {
		copy(c.record(i+1), r)
	}
	return c
}

// filled returns n bytes that begin with b; the others are FF.
func filled(n int, b ...byte) []byte {
	return append(b, bytes.Repeat([]byte{0xff}, n-len(b))...)
}

// unhexed returns the bytes of a constant of this file.
func unhexed(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err)
	}
	return b
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

// imsiContent returns the content of EF.IMSI: length, then identity type 1 with the parity of
// the number of digits, then the digits (TS 31.102 4.2.2, TS 24.008 10.5.1.4).
func imsiContent(imsi string) []byte {
	n := len(imsi)/2 + 1
	first := "1"
	if len(imsi)%2 == 1 {
		first = "9"
	}
	return filled(9, bcd([]byte{byte(n)}, first+imsi, n)...)
}

// accessClass returns the content of EF.ACC: the access class is the last digit of the IMSI
// (TS 22.011 4.2, TS 31.102 4.2.15).
func accessClass(imsi string) []byte {
	class := uint16(1) << (imsi[len(imsi)-1] - '0')
	return []byte{byte(class >> 8), byte(class)}
}

// number returns a record of EF.MSISDN of a size: no name, the number with its type, no further
// capabilities (TS 51.011 10.5.1, 10.5.5). Without a number the record is empty.
func number(s string, size int) []byte {
	b := filled(size)
	if s == "" {
		return b
	}
	typ := byte(0x81) // unknown, ISDN
	if strings.HasPrefix(s, "+") {
		typ, s = 0x91, s[1:] // international
	}
	d := b[size-14:]
	d[0], d[1] = byte(len(s)+1)/2+1, typ
	bcd(d[:2], s, 10)
	return b
}

// directoryEntry returns a record of EF.DIR: an application template with AID and label
// (TS 102 221 13.1).
func directoryEntry(aid []byte, label string) []byte {
	b := []byte{0x61, byte(4 + len(aid) + len(label)), 0x4f, byte(len(aid))}
	b = append(append(b, aid...), 0x50, byte(len(label)))
	return append(b, label...)
}

// services returns a service table of n bytes: services, from 1, of some bits each, all of them set for those
// that are there (TS 51.011 10.3.7: allocated and activated; TS 31.102 4.2.8: available).
func services(bits, n int, available ...int) []byte {
	b := make([]byte, n)
	for _, s := range available {
		at := (s - 1) * bits
		b[at/8] |= (1<<bits - 1) << (at % 8)
	}
	return b
}

// override gives files the contents that a profile names. A content that several files share changes
// for all of them.
func (mf *file) override(files map[string][][]byte) error {
	given := make(map[*content]string)
	for _, path := range slices.Sorted(maps.Keys(files)) {
		f, err := mf.byPath(path)
		if err == nil {
			err = f.content.set(files[path])
		}
		if err != nil {
			return fmt.Errorf("files: %s: %w", path, err)
		}
		if other, ok := given[f.content]; ok {
			return fmt.Errorf("files: %s and %s are one content: name one of them", other, path)
		}
		given[f.content] = path
	}
	return nil
}

// set replaces a content by one piece, or one for each record.
func (c *content) set(pieces [][]byte) error {
	if c.kind == transparent {
		if len(pieces) != 1 {
			return fmt.Errorf("%d pieces: want one, since the file has no records", len(pieces))
		}
		if n := len(pieces[0]); n < 1 || n > 0x7fff {
			return fmt.Errorf("a content of %d bytes: want 1..32767", n)
		}
		c.data = bytes.Clone(pieces[0])
		return nil
	}
	if len(pieces) < 1 || len(pieces) > 254 {
		return fmt.Errorf("%d records: want 1..254", len(pieces))
	}
	size := len(pieces[0])
	if size < 1 || size > 255 {
		return fmt.Errorf("record 1 of %d bytes: want 1..255", size)
	}
	var data []byte
	for i, r := range pieces {
		if len(r) != size {
			return fmt.Errorf("record %d of %d bytes: want %d as in record 1", i+1, len(r), size)
		}
		data = append(data, r...)
	}
	c.data, c.size = data, size
	return nil
}

// byPath returns the EF below the MF that a path like 7F20/6F46 names; 7FFF is the USIM.
func (mf *file) byPath(path string) (*file, error) {
	f := mf
	for part := range strings.SplitSeq(path, "/") {
		id, err := strconv.ParseUint(part, 16, 16)
		if err != nil || len(part) != 4 {
			return nil, fmt.Errorf("identifier %q: want a path from the MF like 7F20/6F46", part)
		}
		var names []string
		next := slices.IndexFunc(f.children, func(c *file) bool {
			names = append(names, fmt.Sprintf("%04X", c.id))
			return c.id == uint16(id)
		})
		switch {
		case next < 0 && f.isDir():
			return nil, fmt.Errorf("no file %s: want %s", part, strings.Join(names, ", "))
		case next < 0:
			return nil, fmt.Errorf("no file %s: %04X isn't a directory", part, f.id)
		}
		f = f.children[next]
	}
	if f.isDir() {
		return nil, fmt.Errorf("%04X is a directory, which has no content", f.id)
	}
	return f, nil
}
