// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"reflect"
	"strings"
	"testing"
)

const (
	testICCID = "8988211000000000001"
	testIMSI  = "001010000000001"
)

func TestParse(t *testing.T) {
	const set2 = "0396EB317B6D1C36F19C1C84CD6FFD16"
	for _, tt := range []struct {
		in   string
		want Profile
	}{
		{"softsim:iccid=8988211000000000001,imsi=001010000000001",
			Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc}},
		{"softsim: imsi = 001011, iccid = 898821100000000000 ,ki=" + set2,
			Profile{ICCID: "898821100000000000", IMSI: "001011", Ki: block16(t, set2), OPc: testOPc}},
		{"softsim:opc=" + set2 + ",iccid=89882110000000000012,imsi=001010000000001",
			Profile{ICCID: "89882110000000000012", IMSI: testIMSI, Ki: testKi, OPc: block16(t, set2)}},
	} {
		p, err := Parse(tt.in)
		if err != nil || !reflect.DeepEqual(p, tt.want) {
			t.Errorf("Parse(%q) = %+v, %v", tt.in, p, err)
		}
		if again, err := Parse(p.String()); err != nil || again.ICCID != p.ICCID || again.IMSI != p.IMSI {
			t.Errorf("Parse(%q) = %+v, %v", p.String(), again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const ok = "softsim:iccid=8988211000000000001,imsi=001010000000001"
	for _, tt := range []struct{ in, want string }{
		{"", `profile "": want softsim:iccid=…,imsi=… or softsim:file=…`},
		{"Reader 1", `profile "Reader 1": want softsim:`},
		{"softsim:", `option "": want NAME=VALUE`},
		{"softsim:iccid=8988211000000000001", "imsi: missing; want 6..15 digits"},
		{"softsim:imsi=001010000000001", "iccid: missing; want 18..20 digits"},
		{"softsim:iccid=89882110000000001,imsi=001010000000001", `iccid: "89882110000000001": want 18..20 digits`},
		{"softsim:iccid=898821100000000000123,imsi=001010000000001", `want 18..20 digits`},
		{"softsim:iccid=89882110000000000a1,imsi=001010000000001", `iccid: "89882110000000000a1": want 18..20 digits`},
		{"softsim:iccid=8988211000000000001,imsi=0010100000000012", `imsi: "0010100000000012": want 6..15 digits`},
		{"softsim:iccid=8988211000000000001,imsi=-00101000", `imsi: "-00101000": want`},
		{"softsim:iccid=8988211000000000001,imsi=١٢٣٤٥٦٧", `want 6..15 digits`},
		{ok + ",ki=465b5c", "option ki: value of 6 characters: want 32 hex digits"},
		{ok + ",opc=cd63cb71954a9f4e48a5994e37a02baz", "option opc: value of 32 characters: want 32 hex digits"},
		{ok + ",pin=1234", "option pin: unknown; want file, iccid, imsi, mncdigits, ki, opc, sqn, msisdn, spn, pin1, puk1, pin2, puk2, adm1"},
		{ok + ",imsi=001010000000002", "option imsi is given twice"},
		{ok + ",", `option "": want NAME=VALUE`},
	} {
		if _, err := Parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q): %v, want …%s…", tt.in, err, tt.want)
		}
	}
}

// An error must not show a key.
func TestParseKeepsKeys(t *testing.T) {
	const secret = "0396eb317b6d1c36f19c1c84cd6ffd"
	_, err := Parse("softsim:iccid=8988211000000000001,imsi=001010000000001,ki=" + secret)
	if err == nil || strings.Contains(err.Error(), secret) {
		t.Errorf("error %v", err)
	}
}

func FuzzParse(f *testing.F) {
	f.Add("softsim:iccid=8988211000000000001,imsi=001010000000001")
	f.Add("softsim:iccid=8988211000000000001,imsi=001010000000001,ki=465b5ce8b199b49faa5f0a2ee238a6bc,opc=cd63cb71954a9f4e48a5994e37a02baf")
	f.Add("softsim:,=,,")
	f.Fuzz(func(t *testing.T, s string) {
		p, err := Parse(s)
		if err != nil {
			return
		}
		// What Parse takes makes a card that can be read.
		c := New(p)
		defer c.Close()
		if got := iccid(t, c); got != p.ICCID {
			t.Errorf("profile %+v gives ICCID %s", p, got)
		}
	})
}
