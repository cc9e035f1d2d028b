// SPDX-License-Identifier: GPL-2.0-or-later

// Package softsim is a SIM in software: a card with a SIM (3GPP TS 51.011) and a USIM
// (3GPP TS 31.102) application that speaks T=0 as a real one does. It serves demos,
// tests, and slots of a bankd that have no reader.
package softsim

import (
	"encoding/hex"
	"errors"
	"fmt"
	"strings"
)

// Prefix begins the text of a profile where a reader's name could stand instead.
const Prefix = "softsim:"

// A Profile says who a card is.
type Profile struct {
	ICCID string   // 18..20 decimal digits (ITU-T E.118; the check digit is not looked at)
	IMSI  string   // 6..15 decimal digits, MCC and MNC first (3GPP TS 23.003 2.2)
	Ki    [16]byte // K of Milenage
	OPc   [16]byte // operator variant of Milenage, already encrypted with K
}

// The key of a profile that names none: test set 1 of 3GPP TS 35.208, known to
// everybody and thus fit for tests only.
var (
	testKi  = [16]byte{0x46, 0x5b, 0x5c, 0xe8, 0xb1, 0x99, 0xb4, 0x9f, 0xaa, 0x5f, 0x0a, 0x2e, 0xe2, 0x38, 0xa6, 0xbc}
	testOPc = [16]byte{0xcd, 0x63, 0xcb, 0x71, 0x95, 0x4a, 0x9f, 0x4e, 0x48, 0xa5, 0x99, 0x4e, 0x37, 0xa0, 0x2b, 0xaf}
)

// Parse reads a profile written as
//
//	softsim:iccid=DIGITS,imsi=DIGITS[,ki=HEX][,opc=HEX]
//
// in any order. Where ki or opc is left out, that of test set 1 of 3GPP TS 35.208 is
// taken (K 465b5ce8b199b49faa5f0a2ee238a6bc, OPc cd63cb71954a9f4e48a5994e37a02baf).
// The error names the option, its value and what is allowed; of keys it shows the length only.
func Parse(s string) (Profile, error) {
	p := Profile{Ki: testKi, OPc: testOPc}
	rest, ok := strings.CutPrefix(s, Prefix)
	if !ok {
		return p, fmt.Errorf("softsim: profile %q: want %siccid=…,imsi=…", s, Prefix)
	}
	seen := make(map[string]bool)
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok {
			return p, fmt.Errorf("softsim: option %q: want NAME=VALUE", part)
		}
		if seen[name] {
			return p, fmt.Errorf("softsim: option %s is given twice", name)
		}
		seen[name] = true
		var err error
		switch name {
		case "iccid":
			p.ICCID = value
		case "imsi":
			p.IMSI = value
		case "ki":
			err = key(&p.Ki, value)
		case "opc":
			err = key(&p.OPc, value)
		default:
			err = errors.New("unknown; want iccid, imsi, ki or opc")
		}
		if err != nil {
			return p, fmt.Errorf("softsim: option %s: %w", name, err)
		}
	}
	return p, p.check()
}

// String returns the text that Parse reads, without the keys.
func (p Profile) String() string {
	return Prefix + "iccid=" + p.ICCID + ",imsi=" + p.IMSI
}

// check reports the first member that is out of range.
func (p Profile) check() error {
	if err := digits(p.ICCID, 18, 20); err != nil {
		return fmt.Errorf("softsim: iccid: %w", err)
	}
	if err := digits(p.IMSI, 6, 15); err != nil {
		return fmt.Errorf("softsim: imsi: %w", err)
	}
	return nil
}

func digits(s string, least, most int) error {
	if s == "" {
		return fmt.Errorf("missing; want %d..%d digits", least, most)
	}
	if len(s) < least || len(s) > most || strings.Trim(s, "0123456789") != "" {
		return fmt.Errorf("%q: want %d..%d digits", s, least, most)
	}
	return nil
}

func key(k *[16]byte, s string) error {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) != len(k) {
		return fmt.Errorf("value of %d characters: want %d hex digits", len(s), 2*len(k))
	}
	copy(k[:], b)
	return nil
}
