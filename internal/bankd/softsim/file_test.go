// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"slices"
	"testing"
)

// exchange sends commands and compares the answers: cmd, want, cmd, want, ….
func exchange(t testing.TB, c *Card, steps ...string) {
	t.Helper()
	for i := 0; i < len(steps); i += 2 {
		if got := send(t, c, steps[i]); got != steps[i+1] {
			t.Fatalf("step %d: %s: got %s, want %s", i/2, steps[i], got, steps[i+1])
		}
	}
}

// A listed file is what the standards say of an EF.
type listed struct {
	path       []uint16 // from the MF
	sfi        byte
	structure  byte // 1 transparent, 2 linear, 6 cyclic (TS 102 221 table 11.5)
	size       int  // of the content
	record     int
	read       string // always, pin1, pin2, adm or never
	update     string
	deactivate string
	activate   string
}

const (
	telecom = 0x7f10
	gsm     = 0x7f20
	usim    = 0x7fff
	access_ = 0x5f3b
)

// list is the card: TS 102 221 13, TS 51.011 10.3 and 10.5, TS 31.102 4.2 and 4.4.3.
var list = []listed{
	{[]uint16{0x2f00}, 30, 2, 76, 38, "always", "adm", "adm", "adm"},
	{[]uint16{0x2f05}, 5, 1, 6, 0, "always", "pin1", "adm", "adm"},
	{[]uint16{0x2fe2}, 2, 1, 10, 0, "always", "never", "adm", "adm"},
	{[]uint16{telecom, 0x6f3a}, 0, 2, 560, 28, "pin1", "pin1", "pin2", "pin2"},
	{[]uint16{telecom, 0x6f3b}, 0, 2, 280, 28, "pin1", "pin2", "adm", "adm"},
	{[]uint16{telecom, 0x6f3c}, 0, 2, 1760, 176, "pin1", "pin1", "adm", "adm"},
	{[]uint16{telecom, 0x6f40}, 0, 2, 56, 28, "pin1", "pin1", "adm", "adm"},
	{[]uint16{telecom, 0x6f42}, 0, 2, 84, 42, "pin1", "pin1", "adm", "adm"},
	{[]uint16{telecom, 0x6f43}, 0, 1, 2, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{telecom, 0x6f44}, 0, 6, 140, 28, "pin1", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f05}, 0, 1, 2, 0, "always", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f07}, 0, 1, 9, 0, "pin1", "adm", "adm", "pin1"},
	{[]uint16{gsm, 0x6f20}, 0, 1, 9, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f30}, 0, 1, 24, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f31}, 0, 1, 1, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{gsm, 0x6f37}, 0, 1, 3, 0, "pin1", "pin2", "adm", "adm"},
	{[]uint16{gsm, 0x6f38}, 0, 1, 8, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{gsm, 0x6f39}, 0, 6, 9, 3, "pin1", "pin2", "adm", "adm"},
	{[]uint16{gsm, 0x6f41}, 0, 1, 5, 0, "pin1", "pin2", "adm", "adm"},
	{[]uint16{gsm, 0x6f46}, 0, 1, 17, 0, "always", "adm", "adm", "adm"},
	{[]uint16{gsm, 0x6f74}, 0, 1, 16, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f78}, 0, 1, 2, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{gsm, 0x6f7b}, 0, 1, 12, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{gsm, 0x6f7e}, 0, 1, 11, 0, "pin1", "pin1", "adm", "pin1"},
	{[]uint16{gsm, 0x6fad}, 0, 1, 4, 0, "always", "adm", "adm", "adm"},
	{[]uint16{gsm, 0x6fae}, 0, 1, 1, 0, "always", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f05}, 2, 1, 6, 0, "always", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f07}, 7, 1, 9, 0, "pin1", "adm", "adm", "pin1"},
	{[]uint16{usim, 0x6f08}, 8, 1, 33, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f09}, 9, 1, 33, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f31}, 18, 1, 1, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f37}, 0, 1, 3, 0, "pin1", "pin2", "adm", "adm"},
	{[]uint16{usim, 0x6f38}, 4, 1, 7, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f39}, 0, 6, 9, 3, "pin1", "pin2", "adm", "adm"},
	{[]uint16{usim, 0x6f3b}, 0, 2, 280, 28, "pin1", "pin2", "adm", "adm"},
	{[]uint16{usim, 0x6f3c}, 0, 2, 1760, 176, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f40}, 0, 2, 56, 28, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f41}, 0, 1, 5, 0, "pin1", "pin2", "adm", "adm"},
	{[]uint16{usim, 0x6f42}, 0, 2, 84, 42, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f43}, 0, 1, 2, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f46}, 0, 1, 17, 0, "always", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f56}, 5, 1, 1, 0, "pin1", "pin2", "adm", "adm"},
	{[]uint16{usim, 0x6f5b}, 15, 1, 6, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f5c}, 16, 1, 3, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f73}, 12, 1, 14, 0, "pin1", "pin1", "adm", "pin1"},
	{[]uint16{usim, 0x6f78}, 6, 1, 2, 0, "pin1", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6f7b}, 13, 1, 12, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, 0x6f7e}, 11, 1, 11, 0, "pin1", "pin1", "adm", "pin1"},
	{[]uint16{usim, 0x6fad}, 3, 1, 4, 0, "always", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6fb7}, 1, 2, 12, 4, "always", "adm", "adm", "adm"},
	{[]uint16{usim, 0x6fc4}, 0, 1, 64, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, access_, 0x4f20}, 1, 1, 9, 0, "pin1", "pin1", "adm", "adm"},
	{[]uint16{usim, access_, 0x4f52}, 2, 1, 9, 0, "pin1", "pin1", "adm", "adm"},
}

// meters are the cyclic files that can be increased, by PIN 1 (TS 51.011 10.3.8, TS 31.102 4.2.9).
func (l listed) increase() string {
	switch {
	case l.structure != 6:
		return ""
	case l.path[len(l.path)-1] == 0x6f39:
		return "pin1"
	}
	return "never"
}

func (l listed) String() string { return fmt.Sprintf("%04x", l.path) }

// fcp is a decoded answer of SELECT in class 00.
type fcp struct {
	descriptor []byte
	id         []byte
	state      byte
	size       int
	sfi        byte
	conditions map[string]string // by what is done
}

// tlvs splits simple BER-TLV objects.
func tlvs(t testing.TB, b []byte) (objects [][2][]byte) {
	t.Helper()
	for len(b) > 0 {
		if len(b) < 2 || len(b) < 2+int(b[1]) || b[1] > 0x7f {
			t.Fatalf("no TLV: % x", b)
		}
		objects = append(objects, [2][]byte{b[:1], b[2 : 2+int(b[1])]})
		b = b[2+int(b[1]):]
	}
	return objects
}

// decodeFCP reads an FCP as TS 102 221 11.1.1.3 has it; what isn't known is an error.
func decodeFCP(t testing.TB, b []byte) (f fcp) {
	t.Helper()
	outer := tlvs(t, b)
	if len(outer) != 1 || outer[0][0][0] != 0x62 {
		t.Fatalf("no FCP: % x", b)
	}
	for _, o := range tlvs(t, outer[0][1]) {
		switch tag, v := o[0][0], o[1]; tag {
		case 0x82:
			f.descriptor = v
		case 0x83:
			f.id = v
		case 0x8a:
			f.state = v[0]
		case 0x80:
			f.size = int(v[0])<<8 | int(v[1])
		case 0x88:
			if len(v) == 1 {
				f.sfi = v[0] >> 3
			}
		case 0xab:
			f.conditions = decodeConditions(t, v)
		case 0x84, 0xa5, 0xc6:
		default:
			t.Fatalf("tag %02x in the FCP % x", tag, b)
		}
	}
	return f
}

// decodeConditions reads security attributes in expanded format (TS 102 221 9.3, table 9.3 for keys).
func decodeConditions(t testing.TB, b []byte) map[string]string {
	t.Helper()
	conditions := make(map[string]string)
	objects := tlvs(t, b)
	for i := 0; i+1 < len(objects); i += 2 {
		mode := map[string]string{"8001": "read", "8002": "update", "8008": "deactivate", "8010": "activate", "8432": "increase", "8047": "directory"}[hex.EncodeToString(objects[i][0])+hex.EncodeToString(objects[i][1])]
		who := map[string]string{
			"90": "always", "97": "never",
			"a4830101950108": "pin1", "a4830181950108": "pin2", "a483010a950108": "adm",
		}[hex.EncodeToString(objects[i+1][0])+hex.EncodeToString(objects[i+1][1])]
		if mode == "" || who == "" {
			t.Fatalf("security attributes % x", b)
		}
		conditions[mode] = who
	}
	return conditions
}

// decodeHeader reads what class A0 tells of an EF (TS 51.011 9.2.1).
func decodeHeader(t testing.TB, h []byte) (f fcp, structure byte, record int) {
	t.Helper()
	if len(h) != 15 || h[6] != 4 || h[12] != 2 {
		t.Fatalf("no header of an EF: % x", h)
	}
	who := func(nibble byte) string {
		s := map[byte]string{0: "always", 1: "pin1", 2: "pin2", 4: "adm", 15: "never"}[nibble]
		if s == "" {
			t.Fatalf("condition %x in % x", nibble, h)
		}
		return s
	}
	f = fcp{id: h[4:6], size: int(h[2])<<8 | int(h[3]), state: h[11], conditions: map[string]string{
		"read": who(h[8] >> 4), "update": who(h[8] & 15), "increase": who(h[9] >> 4),
		"activate": who(h[10] >> 4), "deactivate": who(h[10] & 15),
	}}
	if h[13] == 3 != (h[7]&0x40 != 0) && f.conditions["increase"] != "never" {
		t.Errorf("INCREASE is allowed: %02x, by %s", h[7], f.conditions["increase"])
	}
	return f, h[13], int(h[14])
}

// reply sends a command and fetches what waits.
func reply(t testing.TB, c *Card, cmd string) (data []byte, sw string) {
	t.Helper()
	r := send(t, c, cmd)
	if len(r) == 4 && (r[:2] == "61" || r[:2] == "9f") {
		r = send(t, c, cmd[:2]+"c00000"+r[2:])
	}
	return unhex(t, r[:len(r)-4]), r[len(r)-4:]
}

// goTo selects a file step by step; class is a0 or 00.
func goTo(t testing.TB, c *Card, class string, path []uint16) (data []byte, sw string) {
	t.Helper()
	p2 := map[string]string{"a0": "00", "00": "04"}[class]
	data, sw = reply(t, c, class+"a400"+p2+"023f00")
	for _, id := range path {
		if id == usim {
			data, sw = reply(t, c, selAID)
		} else {
			data, sw = reply(t, c, fmt.Sprintf("%sa400%s02%04x", class, p2, id))
		}
		if sw != "9000" {
			return nil, sw
		}
	}
	return data, sw
}

// Each file of the card is reached by both classes, is told alike by both, and is as its standard
// says; the directories hold no others.
func TestWalk(t *testing.T) {
	c := newCard(t)
	children := make(map[string]int)
	for _, l := range list {
		t.Run(l.String(), func(t *testing.T) {
			children[fmt.Sprint(l.path[:len(l.path)-1])]++
			data, sw := goTo(t, c, "00", l.path)
			if sw != "9000" {
				t.Fatalf("SELECT: %s", sw)
			}
			f := decodeFCP(t, data)
			want := map[string]string{"read": l.read, "update": l.update, "deactivate": l.deactivate, "activate": l.activate}
			if l.structure == 6 {
				want["increase"] = l.increase()
			}
			if fmt.Sprint(f.conditions) != fmt.Sprint(want) {
				t.Errorf("FCP: conditions %v, want %v", f.conditions, want)
			}
			descriptor := []byte{0x40 | l.structure, 0x21}
			if l.record != 0 {
				descriptor = append(descriptor, 0, byte(l.record), byte(l.size/l.record))
			}
			id := l.path[len(l.path)-1]
			if !bytes.Equal(f.descriptor, descriptor) || !bytes.Equal(f.id, []byte{byte(id >> 8), byte(id)}) ||
				f.size != l.size || f.sfi != l.sfi || f.state != 5 {
				t.Errorf("FCP: %+v, want %+v", f, l)
			}
			if path := l.path; path[0] != usim { // which class A0 doesn't know
				data, _ = goTo(t, c, "a0", path)
				h, structure, record := decodeHeader(t, data)
				if l.structure != 6 {
					want["increase"] = "never"
				}
				if fmt.Sprint(h.conditions) != fmt.Sprint(want) {
					t.Errorf("header: conditions %v, want %v", h.conditions, want)
				}
				if !bytes.Equal(h.id, f.id) || h.size != f.size || h.state != 1 || record != l.record ||
					structure != map[byte]byte{1: 0, 2: 1, 6: 3}[l.structure] {
					t.Errorf("header: %+v, structure %d, record %d", h, structure, record)
				}
			}
			// All of the content, and nothing behind it, can be read.
			if l.record == 0 {
				exchange(t, c, "00b0000000", fmt.Sprintf("6c%02x", l.size))
				if r := send(t, c, fmt.Sprintf("00b00000%02x", l.size)); len(r) != 2*l.size+4 {
					t.Errorf("READ BINARY: %s", r)
				}
				exchange(t, c, fmt.Sprintf("00b0%04x01", l.size), "6b00")
				return
			}
			for n := 1; n <= l.size/l.record; n++ {
				if r := send(t, c, fmt.Sprintf("00b2%02x04%02x", n, l.record)); len(r) != 2*l.record+4 {
					t.Errorf("READ RECORD %d: %s", n, r)
				}
			}
			exchange(t, c, fmt.Sprintf("00b2%02x0400", l.size/l.record+1), "6a83")
		})
	}
	// TS 51.011 9.2.1: numbers of DFs and EFs in a directory.
	for _, d := range []struct {
		path []uint16
		dfs  byte
	}{{nil, 2}, {[]uint16{telecom}, 0}, {[]uint16{gsm}, 0}} {
		data, _ := goTo(t, c, "a0", d.path)
		if want := []byte{d.dfs, byte(children[fmt.Sprint(d.path)])}; len(d.path) == 0 && !bytes.Equal(data[14:16], []byte{2, 3}) ||
			len(d.path) != 0 && !bytes.Equal(data[14:16], want) {
			t.Errorf("%04x: holds % x, want % x", d.path, data[14:16], want)
		}
	}
	// Identifiers that aren't listed are no files.
	for _, dir := range [][]uint16{{}, {telecom}, {gsm}, {usim}, {usim, access_}} {
		for id := 0; id < 1<<16; id++ {
			switch id >> 8 {
			case 0x2f, 0x4f, 0x6f:
			default:
				continue
			}
			path := append(slices.Clone(dir), uint16(id))
			known := slices.ContainsFunc(list, func(l listed) bool { return slices.Equal(l.path, path) })
			if c.memory.mf.at(path) != nil != known {
				t.Errorf("%04x: there %t, listed %t", path, !known, known)
			}
		}
	}
}

// at returns the file with a path.
func (mf *file) at(path []uint16) *file {
	f := mf
	for _, id := range path {
		i := slices.IndexFunc(f.children, func(c *file) bool { return c.id == id })
		if i < 0 {
			return nil
		}
		f = f.children[i]
	}
	return f
}

// What the FCP says is needed for an operation is what is asked for, in both classes and for all
// files: TS 102 221 9, TS 51.011 9.3.
func TestConditions(t *testing.T) {
	present := map[string]string{"pin1": "0020000108" + "31323334ffffffff", "pin2": "0020008108" + "31323334ffffffff", "adm": "0020000a08" + "3132333435363738"}
	p := Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc, PIN1: "1234"}
	for _, key := range []string{"", "pin1", "pin2", "adm"} {
		c := New(p)
		if key != "" {
			exchange(t, c, present[key], "9000")
		}
		for _, l := range list {
			for _, class := range []string{"a0", "00"} {
				if class == "a0" && l.path[0] == usim {
					continue
				}
				denied := map[string]string{"a0": "9804", "00": "6982"}[class]
				try := func(operation, who, cmd, ok string) {
					t.Helper()
					want := denied
					if who == "always" || who == key {
						want = ok
					}
					if _, sw := goTo(t, c, class, l.path); sw != "9000" && (sw != "6283" || operation != "activate") {
						t.Fatal(sw)
					}
					if got := send(t, c, cmd); got[len(got)-4:] != want {
						t.Errorf("%v: %s with %q in class %s: %s, want %s", l, operation, key, class, got, want)
					}
				}
				if l.record == 0 {
					try("read", l.read, class+"b0000001", "9000")
					old := hex.EncodeToString(c.memory.mf.at(l.path).data[:1])
					try("update", l.update, class+"d6000001"+old, "9000")
				} else {
					try("read", l.read, fmt.Sprintf("%sb20104%02x", class, l.record), "9000")
					try("update", l.update, fmt.Sprintf("%sdc0003%02x%x", class, l.record, c.memory.mf.at(l.path).record(l.size/l.record)), "9000")
				}
				if l.structure == 6 {
					cmd := map[string]string{"a0": "a032000003000001", "00": "8032000003000001"}[class]
					try("increase", l.increase(), cmd, map[string]string{"a0": "9f06", "00": "6106"}[class])
				}
				try("deactivate", l.deactivate, class+"04000000", "9000")
				c.memory.mf.at(l.path).deactivated = true
				try("activate", l.activate, class+"44000000", "9000")
				c.memory.mf.at(l.path).deactivated = false
			}
		}
	}
}

// Contents of a new card, by the standards' clauses.
func TestContents(t *testing.T) {
	c := New(Profile{ICCID: testICCID, IMSI: "262019876543215", MNCDigits: 3, MSISDN: "+491701234567", SPN: "Test Net"})
	for _, tt := range []struct {
		clause string
		path   []uint16
		record string // number
		want   string
	}{
		{"TS 102 221 13.1", []uint16{0x2f00}, "01", "6118" + "4f10a0000000871002ffffffff8907090000" + "50045553494d" + "ffffffffffffffffffffffff"},
		{"TS 102 221 13.1", []uint16{0x2f00}, "02", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
		{"TS 102 221 13.3", []uint16{0x2f05}, "", "656effffffff"},
		{"TS 51.011 10.3.11", []uint16{gsm, 0x6f46}, "", "00" + "54657374204e6574" + "ffffffffffffffff"},
		{"TS 31.102 4.2.12", []uint16{usim, 0x6f46}, "", "00" + "54657374204e6574" + "ffffffffffffffff"},
		// Services 1 to 5, 7, 9, 12, 13, 17, 27 and 29, two bits each.
		{"TS 51.011 10.3.7", []uint16{gsm, 0x6f38}, "", "ff33c30303003003"},
		// Services 2, 10, 12, 13, 19, 21, 27, 33, 34 and 38, a bit each.
		{"TS 31.102 4.2.8", []uint16{usim, 0x6f38}, "", "021a1404230000"},
		{"TS 31.102 4.2.17", []uint16{usim, 0x6f7e}, "", "ffffffffffffff0000ff01"},
		{"TS 31.102 4.2.23", []uint16{usim, 0x6f73}, "", "ffffffffffffffffffff0000ff01"},
		{"TS 51.011 10.3.15", []uint16{gsm, 0x6f78}, "", "0020"}, // the IMSI ends with 5
		{"TS 31.102 4.2.18", []uint16{usim, 0x6fad}, "", "00000003"},
		{"TS 51.011 10.3.19", []uint16{gsm, 0x6fae}, "", "03"},
		{"TS 51.011 10.5.5", []uint16{telecom, 0x6f40}, "01", "ffffffffffffffffffffffffffff" + "07" + "91" + "947110325476ffffffff" + "ffff"},
		{"TS 31.102 4.2.26", []uint16{usim, 0x6f40}, "02", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
		{"TS 31.102 4.2.21", []uint16{usim, 0x6fb7}, "01", "11f2ff00"},
		{"TS 31.102 4.4.3.1", []uint16{usim, access_, 0x4f20}, "", "ffffffffffffffff07"},
		{"TS 51.011 10.5.8", []uint16{telecom, 0x6f44}, "05", "ffffffffffffffffffffffffffffffffffffffffffffffffffffffff"},
	} {
		if _, sw := goTo(t, c, "00", tt.path); sw != "9000" {
			t.Fatalf("%04x: %s", tt.path, sw)
		}
		cmd := "00b00000"
		if tt.record != "" {
			cmd = "00b2" + tt.record + "04"
		}
		if got := send(t, c, fmt.Sprintf("%s%02x", cmd, len(tt.want)/2)); got != tt.want+"9000" {
			t.Errorf("%s: %04x: %s, want %s", tt.clause, tt.path, got, tt.want)
		}
	}
	// SMS: ten records, all free (TS 31.102 4.2.25).
	goTo(t, c, "00", []uint16{telecom, 0x6f3c})
	for range 10 {
		if got := send(t, c, "00b20002b0"); got[:6] != "00ffff" || len(got) != 356 {
			t.Fatalf("EF.SMS: %s", got)
		}
	}
	for number, want := range map[string]string{
		"123": "03" + "81" + "21f3ffffffffffffffff", "+12345678901234567890": "0b" + "91" + "21436587092143658709", "": "ffffffffffffffffffffffff",
	} {
		c := New(Profile{ICCID: testICCID, IMSI: testIMSI, MSISDN: number})
		goTo(t, c, "a0", []uint16{telecom, 0x6f40})
		if got := send(t, c, "a0b201041c"); got[28:52] != want {
			t.Errorf("MSISDN %q: %s, want %s", number, got[28:52], want)
		}
	}
}

// A file of the SIM and one of the USIM that hold the same change together.
func TestShared(t *testing.T) {
	c := newCard(t)
	goTo(t, c, "a0", []uint16{gsm, 0x6f7e})
	exchange(t, c, "a0d600000b"+"0102030462f2100123ff00", "9000")
	goTo(t, c, "00", []uint16{usim, 0x6f7e})
	exchange(t, c, "00b000000b", "0102030462f2100123ff00"+"9000")
	goTo(t, c, "00", []uint16{usim, 0x6f39})
	exchange(t, c, "8032000003000010", "6106")
	goTo(t, c, "a0", []uint16{gsm, 0x6f39})
	exchange(t, c, "a0b2010403", "000010"+"9000")
}
