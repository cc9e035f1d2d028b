// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
)

// cases lists, row by row in the order in which they are tried, the case of each instruction: what
// ISO 7816-4, TS 51.011, TS 102 221, TS 31.102 and GlobalPlatform say. * stands for TestParameters.
var cases = []struct {
	classes []byte // masked by mask
	mask    byte
	list    string
}{
	{[]byte{0xa0}, 0xff, "A4:4 F2:2 B0:2 D6:3 B2:2 DC:3 A2:4 32:4 20:3 24:3 26:3 28:3 2C:3 04:1 44:1 88:4 FA:1 C0:2 10:3 C2:4 12:2 14:3"},
	{[]byte{0x80}, 0xff, "10:3 C2:4 12:2 14:3 76:4 7A:4"},
	{[]byte{0x00, 0x40, 0x60}, 0xf0, "A4:4 B0:2 D6:3 B2:2 DC:3 A2:4 20:3 24:3 26:3 28:3 2C:3 04:1 44:1 88:4 89:4 84:2 70:2 C0:2 73:* 75:*"},
	{[]byte{0x80}, 0xf0, "E4:4 E2:* CA:* CB:* F2:* E6:4 E8:4 D8:4 F0:3 C0:2"},
	{[]byte{0x80, 0xc0, 0xe0}, 0xf0, "F2:2 32:4 CB:4 DB:3 AA:3 78:4"},
	{[]byte{0xc0, 0xe0}, 0xf0, "E4:4 E2:* CA:* CB:* F2:* E6:4 E8:4 D8:4 F0:3 C0:2"},
	{[]byte{0x00}, 0xff, "A4:4 CA:2 C0:2"},
}

// TestCases has every CLA with every INS, but for the rules of TestParameters.
func TestCases(t *testing.T) {
	f := finder{tables: tables()}
	for cla := range 256 {
		want := make(map[byte]Case) // 0: by parameters
		for _, row := range cases {
			for _, c := range row.classes {
				if byte(cla)&row.mask != c {
					continue
				}
				for _, entry := range strings.Fields(row.list) {
					var ins byte
					var kase rune
					if _, err := fmt.Sscanf(entry, "%02X:%c", &ins, &kase); err != nil {
						t.Fatalf("%s: %v", entry, err)
					}
					if _, before := want[ins]; before {
						continue
					}
					want[ins] = 0
					if kase != '*' {
						want[ins] = Case(kase - '0')
					}
				}
			}
		}
		for ins := range 256 {
			w, listed := want[byte(ins)]
			if listed && w == 0 {
				continue
			}
			got, known := f.find(header{byte(cla), byte(ins), 1, 2, 3})
			if known != listed || known && got != w {
				t.Errorf("CLA %02X INS %02X: case %d (known: %v), want %d (%v)", cla, ins, got, known, w, listed)
			}
		}
	}
}

// TestRows looks at the tables themselves: each row has its instructions and no other.
func TestRows(t *testing.T) {
	tables := tables()
	if len(tables) != len(cases) {
		t.Fatalf("%d rows, want %d", len(tables), len(cases))
	}
	for i, row := range cases {
		table := tables[i]
		if !reflect.DeepEqual(table.classes, row.classes) || table.mask != row.mask {
			t.Errorf("row %d: CLA %X & %02X, want %X & %02X", i, table.classes, table.mask, row.classes, row.mask)
		}
		n := 0
		for _, entry := range strings.Fields(row.list) {
			var ins byte
			var kase rune
			if _, err := fmt.Sscanf(entry, "%02X:%c", &ins, &kase); err != nil {
				t.Fatalf("%s: %v", entry, err)
			}
			n++
			if rule := table.rules[ins]; rule == nil || kase != '*' && rule(header{row.classes[0], ins}) != Case(kase-'0') {
				t.Errorf("row %d: not %s", i, entry)
			}
		}
		if n != len(table.rules) {
			t.Errorf("row %d: %d instructions, want %d", i, len(table.rules), n)
		}
	}
}

// TestParameters has the commands whose case follows from their parameters.
func TestParameters(t *testing.T) {
	f := finder{tables: tables()}
	for _, c := range []struct {
		h     header
		want  Case
		known bool
	}{
		// MANAGE SECURE CHANNEL
		{header{0x00, 0x73, 0x00, 0x00, 5}, 2, true},
		{header{0x01, 0x73, 0x01, 0x80, 5}, 3, true},
		{header{0x40, 0x73, 0x02, 0x1f, 5}, 3, true},
		{header{0x60, 0x73, 0x83, 0x00, 5}, 3, true},
		{header{0x00, 0x73, 0x01, 0xa0, 5}, 2, true},
		{header{0x00, 0x73, 0x01, 0x20, 5}, 2, true},
		{header{0x00, 0x73, 0x04, 0xff, 5}, 3, true},
		{header{0x00, 0x73, 0x01, 0x40, 5}, 3, false}, // no rule; case 3 is the guess
		{header{0x00, 0x73, 0x05, 0x00, 5}, 3, false},
		{header{0x00, 0x73, 0x08, 0x00, 5}, 3, false},
		{header{0x00, 0x73, 0x05, 0x00, 0}, 1, false},
		// TRANSACT DATA
		{header{0x00, 0x75, 0x04, 0, 5}, 3, true},
		{header{0x0f, 0x75, 0xfb, 0, 5}, 2, true},
		// STORE DATA
		{header{0x80, 0xe2, 0x90, 0, 5}, 3, true},
		{header{0x84, 0xe2, 0x11, 0, 5}, 4, true},
		{header{0xc0, 0xe2, 0x01, 0, 5}, 4, true},
		{header{0xe0, 0xe2, 0x00, 0, 5}, 3, true},
		// GET STATUS, and STATUS, for which the GlobalPlatform rows come first in 8x, and the others in Cx and Ex
		{header{0x80, 0xf2, 0x40, 0, 5}, 4, true},
		{header{0x80, 0xf2, 0x01, 0, 5}, 2, true},
		{header{0x8f, 0xf2, 0x0f, 0, 5}, 2, true},
		{header{0xc0, 0xf2, 0x40, 0, 5}, 2, true},
		{header{0xe5, 0xf2, 0x40, 0, 5}, 2, true},
		// GET DATA
		{header{0x80, 0xca, 0, 0x66, 0}, 2, true},
		{header{0x80, 0xca, 0, 0x66, 5}, 4, true},
		{header{0x81, 0xcb, 0, 0x66, 0}, 2, true},
		{header{0x81, 0xcb, 0, 0x66, 5}, 4, true},
		{header{0xc0, 0xca, 0, 0x66, 0}, 2, true},
		{header{0xc0, 0xcb, 0, 0x66, 0}, 4, true},
		{header{0x00, 0xca, 0, 0x66, 5}, 2, true},
		// unknown: like the same INS of another class, whose parameters count; like nothing; without P3
		{header{0xb0, 0xb0, 0, 0, 5}, 2, false},
		{header{0xb0, 0xfa, 0, 0, 5}, 1, false},
		{header{0x01, 0xca, 0, 0x66, 5}, 4, false},
		{header{0xa0, 0xe2, 0x01, 0, 5}, 4, false},
		{header{0xa0, 0xf2, 0x40, 0, 5}, 2, true},
		{header{0x20, 0x73, 0x00, 0, 5}, 2, false},
		{header{0xb0, 0xee, 0, 0, 4}, 3, false},
		{header{0xa0, 0xee, 0, 0, 2}, 3, false},
		{header{0xb0, 0xee, 0, 0, 0}, 1, false},
	} {
		if got, known := f.find(c.h); got != c.want || known != c.known {
			t.Errorf("%X: case %d (known: %v), want %d (%v)", c.h, got, known, c.want, c.known)
		}
	}
}

func TestOwnRows(t *testing.T) {
	file, err := os.Open("testdata/rows")
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	rows, err := ParseRows("rows", file)
	want := []Row{{0xb0, 0xff, 0xee, 2}, {0x80, 0xf0, 0xca, 1}, {0x00, 0x00, 0xa4, 3}, {0x00, 0x80, 0xb0, 4}}
	if err != nil || !reflect.DeepEqual(rows, want) {
		t.Fatalf("%v (%v), want %v", rows, err, want)
	}
	f := finder{rows, tables()}
	for _, c := range []struct {
		h     header
		want  Case
		known bool
	}{
		{header{0xb0, 0xee, 0, 0, 5}, 2, true},
		{header{0xb1, 0xee, 0, 0, 5}, 2, false},
		{header{0x8c, 0xca, 0, 0, 5}, 1, true},
		{header{0xa0, 0xa4, 0, 0, 5}, 3, true},
		{header{0xff, 0xa4, 0, 0, 5}, 3, true},
		{header{0x40, 0xb0, 0, 0, 5}, 4, true},
		{header{0xa0, 0xb0, 0, 0, 5}, 2, true},
		{header{0x90, 0xca, 0, 0, 5}, 1, false},
	} {
		if got, known := f.find(c.h); got != c.want || known != c.known {
			t.Errorf("%X: case %d (known: %v), want %d (%v)", c.h, got, known, c.want, c.known)
		}
	}
}

func TestRowErrors(t *testing.T) {
	for in, want := range map[string]string{
		"\n80 F0 CA":               "f:2: 3 values: want CLA, mask, INS and case",
		"80 F0 CA 2 2":             "f:1: 5 values: want CLA, mask, INS and case",
		"8 F0 CA 2":                `f:1: CLA "8": want two hex digits`,
		"80 0xF0 CA 2":             `f:1: mask "0xF0": want two hex digits`,
		"80 F0 XY 2":               `f:1: INS "XY": want two hex digits`,
		"80 F0 CA 5":               `f:1: case "5": want 1..4`,
		"80 F0 CA 22":              `f:1: case "22": want 1..4`,
		"81 F0 CA 2":               "f:1: CLA 81 has bits that mask F0 takes away: nothing would match",
		"80 F0 CA 2\n\n80 f0 ca 3": "f:3: CLA 80 mask F0 INS CA stands in line 1 already",
		strings.Repeat("#", 1<<17): "f:1: bufio.Scanner: token too long",
	} {
		if rows, err := ParseRows("f", strings.NewReader(in)); err == nil || err.Error() != want {
			t.Errorf("%.40q: %v, error %v, want %s", in, rows, err, want)
		}
	}
}

func FuzzParseRows(f *testing.F) {
	f.Add("80 F0 CA 2\n# comment\n00,00,a4,3\r\n")
	f.Fuzz(func(t *testing.T, in string) {
		rows, err := ParseRows("name", strings.NewReader(in))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "name:") {
				t.Errorf("%q: %v", in, err)
			}
			return
		}
		for _, r := range rows {
			if r.CLA&^r.Mask != 0 || r.Case < Case1 || r.Case > Case4 {
				t.Errorf("%q: %+v", in, r)
			}
		}
	})
}
