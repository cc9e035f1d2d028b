// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"bufio"
	"fmt"
	"io"
	"maps"
	"strconv"
	"strings"
)

// A Case says which way a command's data goes (ISO 7816-3 12.1). T=0 itself doesn't tell: P3 is the
// length of the data for the card as well as that of the data from it.
type Case uint8

// Cases of commands.
const (
	Case1 Case = 1 // no data
	Case2 Case = 2 // P3 bytes from the card, 256 if P3 is 0
	Case3 Case = 3 // P3 bytes to the card
	Case4 Case = 4 // P3 bytes to the card; the modem fetches the card's by GET RESPONSE
)

// A header is that of a command: CLA INS P1 P2 P3.
type header [5]byte

// A Row gives commands a case: those of INS whose CLA, masked by Mask, is CLA.
type Row struct {
	CLA, Mask, INS byte
	Case           Case
}

// A rule gives a command a case by its parameters; 0: none.
type rule func(header) Case

// A table is the commands of one standard.
type table struct {
	classes []byte
	mask    byte
	rules   map[byte]rule // by INS
}

// always is the rule of a command whose parameters don't matter.
func always(c Case) rule { return func(header) Case { return c } }

// byCase returns rules for commands whose parameters don't matter, and more.
func byCase(cases map[Case][]byte, more map[byte]rule) map[byte]rule {
	rules := make(map[byte]rule)
	for c, list := range cases {
		for _, ins := range list {
			rules[ins] = always(c)
		}
	}
	maps.Copy(rules, more)
	return rules
}

// tables returns what standards say, in the order in which to look.
func tables() []table {
	globalPlatform := byCase(map[Case][]byte{
		Case2: {0xc0},
		Case3: {0xf0},
		Case4: {0xe4, 0xe6, 0xe8, 0xd8},
	}, map[byte]rule{0xe2: storeData, 0xca: getData, 0xcb: getData, 0xf2: statusOrGetStatus})
	return []table{
		{ // TS 51.011 9.2
			[]byte{0xa0}, 0xff, byCase(map[Case][]byte{
				Case1: {0x04, 0x44, 0xfa},
				Case2: {0xf2, 0xb0, 0xb2, 0xc0, 0x12},
				Case3: {0xd6, 0xdc, 0x20, 0x24, 0x26, 0x28, 0x2c, 0x10, 0x14},
				Case4: {0xa4, 0xa2, 0x32, 0x88, 0xc2},
			}, nil),
		},
		{ // TS 102 221 table 10.5, TS 31.111: commands of the toolkit and of relays
			[]byte{0x80}, 0xff, byCase(map[Case][]byte{
				Case2: {0x12},
				Case3: {0x10, 0x14},
				Case4: {0xc2, 0x76, 0x7a},
			}, nil),
		},
		{ // TS 102 221 table 10.5, TS 31.102 7
			[]byte{0x00, 0x40, 0x60}, 0xf0, byCase(map[Case][]byte{
				Case1: {0x04, 0x44},
				Case2: {0xb0, 0xb2, 0x84, 0x70, 0xc0},
				Case3: {0xd6, 0xdc, 0x20, 0x24, 0x26, 0x28, 0x2c},
				Case4: {0xa4, 0xa2, 0x88, 0x89},
			}, map[byte]rule{0x73: manageSecureChannel, 0x75: transactData}),
		},
		{ // GlobalPlatform Card Specification 11
			[]byte{0x80}, 0xf0, globalPlatform,
		},
		{ // TS 102 221 table 10.5
			[]byte{0x80, 0xc0, 0xe0}, 0xf0, byCase(map[Case][]byte{
				Case2: {0xf2},
				Case3: {0xdb, 0xaa},
				Case4: {0x32, 0xcb, 0x78},
			}, nil),
		},
		{ // GlobalPlatform Card Specification 11, further logical channels
			[]byte{0xc0, 0xe0}, 0xf0, globalPlatform,
		},
		{ // what other software sends, such as desktops that look what card there is
			[]byte{0x00}, 0xff, byCase(map[Case][]byte{Case2: {0xca, 0xc0}, Case4: {0xa4}}, nil),
		},
	}
}

// manageSecureChannel is the rule of MANAGE SECURE CHANNEL (TS 102 221 11.1.20).
func manageSecureChannel(h header) Case {
	p1, p2 := h[2], h[3]
	switch {
	case p1 == 0:
		return Case2
	case p1&0x07 == 4:
		return Case3
	case p1&0x07 < 1 || p1&0x07 > 3:
		return 0
	}
	switch {
	case p2 == 0x80 || p2>>5 == 0:
		return Case3
	case p2>>5 == 5 || p2>>5 == 1:
		return Case2
	}
	return 0
}

// transactData is the rule of TRANSACT DATA (TS 102 221 11.1.21).
func transactData(h header) Case {
	if h[2]&0x04 != 0 {
		return Case3
	}
	return Case2
}

// storeData is the rule of STORE DATA (GlobalPlatform Card Specification 11.11).
func storeData(h header) Case {
	if h[2]&0x01 != 0 {
		return Case4
	}
	return Case3
}

// statusOrGetStatus tells GET STATUS (GlobalPlatform Card Specification 11.4) from STATUS (TS 102 221
// 11.1.2): they have the same INS.
func statusOrGetStatus(h header) Case {
	if h[2]&0xf0 != 0 {
		return Case4
	}
	return Case2
}

// getData is the rule of GET DATA, which may have a list of tags (GlobalPlatform Card Specification 11.3).
func getData(h header) Case {
	if h[4] == 0 {
		return Case2
	}
	return Case4
}

// covers reports whether t is about commands of this CLA.
func (t *table) covers(cla byte) bool {
	for _, c := range t.classes {
		if cla&t.mask == c {
			return true
		}
	}
	return false
}

// A finder knows the case of commands.
type finder struct {
	rows   []Row // tried first
	tables []table
}

// find returns the case of a command. known is false when that is a guess, as nothing lists the
// command: case 1 without P3 (the header is all there is), else that of the same INS with another
// CLA, else 3, so that no data which the modem may have gets lost.
func (f *finder) find(h header) (c Case, known bool) {
	for _, r := range f.rows {
		if h[0]&r.Mask == r.CLA && h[1] == r.INS {
			return r.Case, true
		}
	}
	for i := range f.tables {
		t := &f.tables[i]
		if rule := t.rules[h[1]]; rule != nil && t.covers(h[0]) {
			if c = rule(h); c != 0 {
				return c, true
			}
			break
		}
	}
	if h[4] == 0 {
		return Case1, false
	}
	for _, r := range f.rows {
		if h[1] == r.INS {
			return r.Case, false
		}
	}
	for i := range f.tables {
		if rule := f.tables[i].rules[h[1]]; rule != nil {
			if c = rule(h); c != 0 {
				return c, false
			}
		}
	}
	return Case3, false
}

// ParseRows reads rows, one a line: CLA, mask and INS as two hex digits, then the case, 1 to 4; separated
// by blanks or commas. What follows # is a comment. Errors begin with name and line.
func ParseRows(name string, r io.Reader) ([]Row, error) {
	var rows []Row
	seen := make(map[[3]byte]int) // line by CLA, mask and INS
	lines := bufio.NewScanner(r)
	n := 0
	for lines.Scan() {
		n++
		text, _, _ := strings.Cut(lines.Text(), "#")
		words := strings.FieldsFunc(text, func(c rune) bool { return c == ' ' || c == '\t' || c == '\r' || c == ',' })
		if len(words) == 0 {
			continue
		}
		row, err := parseRow(words)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", name, n, err)
		}
		key := [3]byte{row.CLA, row.Mask, row.INS}
		if before, ok := seen[key]; ok {
			return nil, fmt.Errorf("%s:%d: CLA %02X mask %02X INS %02X stands in line %d already", name, n, row.CLA, row.Mask, row.INS, before)
		}
		seen[key] = n
		rows = append(rows, row)
	}
	if err := lines.Err(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, n+1, err)
	}
	return rows, nil
}

func parseRow(words []string) (Row, error) {
	if len(words) != 4 {
		return Row{}, fmt.Errorf("%d values: want CLA, mask, INS and case", len(words))
	}
	var b [3]byte
	for i, what := range []string{"CLA", "mask", "INS"} {
		v, err := strconv.ParseUint(words[i], 16, 8)
		if err != nil || len(words[i]) != 2 {
			return Row{}, fmt.Errorf("%s %q: want two hex digits", what, words[i])
		}
		b[i] = byte(v)
	}
	if b[0]&^b[1] != 0 {
		return Row{}, fmt.Errorf("CLA %02X has bits that mask %02X takes away: nothing would match", b[0], b[1])
	}
	c := words[3]
	if len(c) != 1 || c[0] < '1' || c[0] > '4' {
		return Row{}, fmt.Errorf("case %q: want 1..4", c)
	}
	return Row{CLA: b[0], Mask: b[1], INS: b[2], Case: Case(c[0] - '0')}, nil
}
