// SPDX-License-Identifier: GPL-2.0-or-later

// Package softsim is a SIM in software: a card with a SIM (3GPP TS 51.011) and a USIM
// (3GPP TS 31.102) application that speaks T=0 as a real one does. It serves demos,
// tests, and slots of a bankd that have no reader.
package softsim

import (
	"bytes"
	"encoding/binary"
	"encoding/hex"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
)

// Prefix begins the text of a profile where a reader's name could stand instead.
const Prefix = "softsim:"

// A Profile says who a card is. In all but ICCID and IMSI the zero value stands for a default.
type Profile struct {
	ICCID     string   // 18..20 decimal digits (ITU-T E.118; the check digit is not looked at)
	IMSI      string   // 6..15 decimal digits, MCC and MNC first (3GPP TS 23.003 2.2)
	MNCDigits int      // digits of the IMSI that are the MNC: 2 (the default) or 3
	Ki        [16]byte // K of Milenage
	OPc       [16]byte // operator variant of Milenage, already encrypted with K
	SQN       uint64   // highest sequence number accepted, 48 bits; 0: none, and the first one may be any
	MSISDN    string   // own number, up to 20 decimal digits, + before an international one; default none
	SPN       string   // name of the service provider, up to 16 characters that ASCII and GSM have in common; default "remsim"
	PIN1      string   // 4..8 decimal digits; default: PIN 1 is disabled, with the value 1234
	PUK1      string   // 8 decimal digits; default 12345678
	PIN2      string   // as PIN1, but never disabled
	PUK2      string   // as PUK1
	ADM1      string   // the issuer's key, 8 decimal digits or, for any bytes, 16 hexadecimal ones; default 12345678
	// Files are contents that replace those of a new card, by path from the MF in hexadecimal
	// identifiers: "7F20/6F46" is EF.SPN of DF.GSM, "7FFF/…" is in the USIM. A content is one piece, for a
	// file of records a piece for each; it also gives the file its size. Contents that the SIM and
	// the USIM have in common change for both.
	Files map[string][][]byte
}

// Defaults, known to everybody and thus fit for tests only. The key is that of test set 1 of 3GPP TS 35.208.
const (
	defaultPIN = "1234"
	defaultPUK = "12345678"
	defaultADM = "12345678"
	defaultSPN = "remsim"
)

var (
	testKi  = [16]byte{0x46, 0x5b, 0x5c, 0xe8, 0xb1, 0x99, 0xb4, 0x9f, 0xaa, 0x5f, 0x0a, 0x2e, 0xe2, 0x38, 0xa6, 0xbc}
	testOPc = [16]byte{0xcd, 0x63, 0xcb, 0x71, 0x95, 0x4a, 0x9f, 0x4e, 0x48, 0xa5, 0x99, 0x4e, 0x37, 0xa0, 0x2b, 0xaf}
)

// A member is a part of a profile that has a name in its text, and a value that is a string.
type member struct {
	name  string
	field func(*Profile) *string
	must  bool // be there
	quiet bool // a secret: errors don't show it
	want  string
	valid func(string) bool
}

var members = [...]member{
	{name: "iccid", field: func(p *Profile) *string { return &p.ICCID }, must: true, want: "18..20 digits", valid: digits(18, 20)},
	{name: "imsi", field: func(p *Profile) *string { return &p.IMSI }, must: true, want: "6..15 digits", valid: digits(6, 15)},
	{name: "msisdn", field: func(p *Profile) *string { return &p.MSISDN }, want: "1..20 digits, + before them or not", valid: isNumber},
	{name: "spn", field: func(p *Profile) *string { return &p.SPN }, want: "1..16 letters, digits, blanks and !\"#%&'()*+,-./:;<=>?", valid: isName},
	{name: "pin1", field: func(p *Profile) *string { return &p.PIN1 }, quiet: true, want: "4..8 digits", valid: digits(4, 8)},
	{name: "puk1", field: func(p *Profile) *string { return &p.PUK1 }, quiet: true, want: "8 digits", valid: digits(8, 8)},
	{name: "pin2", field: func(p *Profile) *string { return &p.PIN2 }, quiet: true, want: "4..8 digits", valid: digits(4, 8)},
	{name: "puk2", field: func(p *Profile) *string { return &p.PUK2 }, quiet: true, want: "8 digits", valid: digits(8, 8)},
	{name: "adm1", field: func(p *Profile) *string { return &p.ADM1 }, quiet: true, want: "8 digits, or 16 hex digits", valid: isADM},
}

// check reports what is wrong with a value of m.
func (m *member) check(v string) error {
	switch {
	case v == "" && m.must:
		return fmt.Errorf("missing; want %s", m.want)
	case m.valid(v):
		return nil
	case m.quiet:
		return fmt.Errorf("value of %d characters: want %s", len(v), m.want)
	}
	return fmt.Errorf("%q: want %s", v, m.want)
}

// memberNames are all there are.
const memberNames = "iccid, imsi, mncdigits, ki, opc, sqn, msisdn, spn, pin1, puk1, pin2, puk2, adm1"

// Parse reads a profile written as
//
//	softsim:[file=PATH,]NAME=VALUE,…
//
// with iccid and imsi and, as wanted, mncdigits (2 or 3), ki and opc (32 hexadecimal digits each), sqn (12
// hexadecimal digits), msisdn, spn, pin1, puk1, pin2, puk2 and adm1; see Profile for what they are.
// Where ki or opc is left out, that of test set 1 of 3GPP TS 35.208 is
// taken (K 465b5ce8b199b49faa5f0a2ee238a6bc, OPc cd63cb71954a9f4e48a5994e37a02baf).
//
// The file, relative to the working directory, holds a JSON object with the same names, each value a string or a
// number. Its member "files" is an object of contents for files: a path of identifiers as in
// Profile.Files, and hexadecimal digits, for a file of records a list of them.
//
//	{
//	  "iccid": "8988211000000000001", "imsi": "001010000000001", "pin1": "1234",
//	  "files": {"7F20/6F46": "0172656d73696dffffffffffffffffffff", "7F10/6F3C": ["00ff…", "00ff…"]}
//	}
//
// What else the text names goes before the file. Unknown names, and names given twice, are errors.
// The error names file, option, value and what is allowed; of secrets it shows the length only.
func Parse(s string) (Profile, error) {
	p := Profile{Ki: testKi, OPc: testOPc}
	rest, ok := strings.CutPrefix(s, Prefix)
	if !ok {
		return p, fmt.Errorf("softsim: profile %q: want %siccid=…,imsi=… or %sfile=…", s, Prefix, Prefix)
	}
	var names, values []string
	for part := range strings.SplitSeq(rest, ",") {
		name, value, ok := strings.Cut(part, "=")
		name, value = strings.TrimSpace(name), strings.TrimSpace(value)
		if !ok { // it may be a key whose name was forgotten
			return p, fmt.Errorf("softsim: option %d: %d characters without a =: want NAME=VALUE", len(names)+1, len(name))
		}
		if slices.Contains(names, name) {
			return p, fmt.Errorf("softsim: option %s is given twice", name)
		}
		names, values = append(names, name), append(values, value)
	}
	if i := slices.Index(names, "file"); i >= 0 {
		if err := p.load(values[i]); err != nil {
			return p, fmt.Errorf("softsim: %w", err)
		}
		names, values = slices.Delete(names, i, i+1), slices.Delete(values, i, i+1)
	}
	for i, name := range names {
		if err := p.set(name, values[i], "file"); err != nil {
			return p, fmt.Errorf("softsim: option %s: %w", name, err)
		}
	}
	_, err := newMemory(p)
	return p, err
}

// set gives a member of p the value that a text has for it. The text may have one more, which isn't set's.
func (p *Profile) set(name, value, more string) error {
	for i := range members {
		if m := &members[i]; m.name == name {
			*m.field(p) = value
			return m.check(value)
		}
	}
	switch name {
	case "ki":
		return hexInto(p.Ki[:], value)
	case "opc":
		return hexInto(p.OPc[:], value)
	case "sqn":
		var b [8]byte
		err := hexInto(b[2:], value)
		p.SQN = binary.BigEndian.Uint64(b[:])
		return err
	case "mncdigits":
		if value != "2" && value != "3" {
			return fmt.Errorf("%q: want 2 or 3", value)
		}
		p.MNCDigits = int(value[0] - '0')
		return nil
	}
	return errors.New("unknown; want " + more + ", " + memberNames)
}

// check reports the first member that is out of range.
func (p *Profile) check() error {
	for i := range members {
		m := &members[i]
		if v := *m.field(p); v != "" || m.must {
			if err := m.check(v); err != nil {
				return fmt.Errorf("softsim: %s: %w", m.name, err)
			}
		}
	}
	if p.MNCDigits != 0 && p.MNCDigits != 2 && p.MNCDigits != 3 {
		return fmt.Errorf("softsim: mncdigits: %d: want 2 or 3", p.MNCDigits)
	}
	if p.SQN >= 1<<48 {
		return fmt.Errorf("softsim: sqn: %#x: want 48 bits", p.SQN)
	}
	return nil
}

// String returns the text that Parse reads, without keys and other secrets, and without files.
func (p Profile) String() string {
	return Prefix + "iccid=" + p.ICCID + ",imsi=" + p.IMSI
}

// maxFile is the longest profile file: three times a card that is full.
const maxFile = 1 << 20

// load reads a profile file into p. Its errors begin with the file's name and, if there is one, the line.
func (p *Profile) load(name string) error {
	f, err := os.Open(name)
	if err != nil {
		return err
	}
	defer f.Close()
	data, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return err
	}
	if len(data) > maxFile {
		return fmt.Errorf("%s: longer than %d bytes", name, maxFile)
	}
	d := json.NewDecoder(bytes.NewReader(data))
	d.UseNumber()
	if err = p.read(d); err == nil {
		return nil
	}
	at := d.InputOffset()
	if se := (*json.SyntaxError)(nil); errors.As(err, &se) {
		at = se.Offset
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errors.New("the file ends too soon")
	}
	line := 1 + bytes.Count(data[:min(at, int64(len(data)))], []byte{'\n'})
	return fmt.Errorf("%s:%d: %w", name, line, err)
}

// read reads the text of a profile file into p.
func (p *Profile) read(d *json.Decoder) error {
	// Whether contents fit is found out on a card of nobody, while the line is known.
	blank, err := tree(Profile{IMSI: "001010"})
	if err != nil {
		return err
	}
	err = eachMember(d, func(name string) error {
		if name == "files" {
			p.Files = make(map[string][][]byte)
			return eachMember(d, func(path string) error {
				f, err := blank.byPath(path)
				if err != nil {
					return err
				}
				if p.Files[path], err = pieces(d); err != nil {
					return err
				}
				return f.content.set(p.Files[path])
			})
		}
		v, err := scalar(d)
		if err != nil {
			return err
		}
		return p.set(name, v, "files")
	})
	if err != nil {
		return err
	}
	if _, err := d.Token(); err != io.EOF {
		return errors.New("more follows the profile")
	}
	return nil
}

// eachMember reads an object and calls f for each of its members, to read the value.
func eachMember(d *json.Decoder, f func(name string) error) error {
	if t, err := d.Token(); err != nil {
		return err
	} else if t != json.Delim('{') {
		return errors.New("want an object: {")
	}
	seen := make(map[string]bool)
	for d.More() {
		t, err := d.Token()
		if err != nil {
			return err
		}
		name := t.(string) // the decoder takes nothing else
		if seen[name] {
			return fmt.Errorf("member %s is given twice", name)
		}
		seen[name] = true
		if err := f(name); err != nil {
			return fmt.Errorf("member %s: %w", name, err)
		}
	}
	_, err := d.Token()
	return err
}

// scalar reads a string or a number.
func scalar(d *json.Decoder) (string, error) {
	t, err := d.Token()
	if err != nil {
		return "", err
	}
	switch v := t.(type) {
	case string:
		return v, nil
	case json.Number:
		return v.String(), nil
	}
	return "", errors.New("want a string or a number")
}

// pieces reads the content of a file: a string of hexadecimal digits, or a list of them.
func pieces(d *json.Decoder) (pieces [][]byte, err error) {
	for list := false; ; {
		t, err := d.Token()
		if err != nil {
			return nil, err
		}
		switch v := t.(type) {
		case json.Delim:
			if v == '[' && !list {
				list = true
				continue
			}
			if v == ']' {
				return pieces, nil
			}
		case string:
			b, err := hex.DecodeString(v)
			if err != nil {
				return nil, fmt.Errorf("value of %d characters: want an even number of hex digits", len(v))
			}
			if pieces = append(pieces, b); !list {
				return pieces, nil
			}
			continue
		}
		return nil, errors.New("want a string of hex digits, or a list of them")
	}
}

// hexInto reads hexadecimal digits that fill b. The error doesn't show them.
func hexInto(b []byte, s string) error {
	d, err := hex.DecodeString(s)
	if err != nil || len(d) != len(b) {
		return fmt.Errorf("value of %d characters: want %d hex digits", len(s), 2*len(b))
	}
	copy(b, d)
	return nil
}

// digits returns a check for a number of decimal digits.
func digits(least, most int) func(string) bool {
	return func(s string) bool {
		return len(s) >= least && len(s) <= most && strings.Trim(s, "0123456789") == ""
	}
}

func isNumber(s string) bool { return digits(1, 20)(strings.TrimPrefix(s, "+")) }

// isName reports whether s has only characters that are the same in ASCII and in the default
// alphabet of GSM (TS 23.038 6.2.1).
func isName(s string) bool {
	const same = " !\"#%&'()*+,-./0123456789:;<=>?ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
	return len(s) >= 1 && len(s) <= 16 && strings.Trim(s, same) == ""
}

func isADM(s string) bool {
	return digits(8, 8)(s) || hexInto(make([]byte, 8), s) == nil
}
