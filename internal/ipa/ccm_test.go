// SPDX-License-Identifier: GPL-2.0-or-later

package ipa_test

import (
	"bytes"
	"testing"

	"remsim/internal/ipa"
)

func TestAppendCCM(t *testing.T) {
	for typ, want := range map[ipa.Type]string{ipa.Ping: "0001fe00", ipa.Pong: "0001fe01", ipa.IDAck: "0001fe06"} {
		if got := ipa.AppendCCM(nil, typ); !bytes.Equal(got, unhex(t, want)) {
			t.Errorf("%v: %x, want %s", typ, got, want)
		}
	}
}

func TestAppendIDResp(t *testing.T) {
	const name, id = "001301 30302d30302d30302d30302d30302d303000", "000708 302f302f3000"
	tests := []struct{ what, in, want string }{
		{"name and id", "04 0101 0108", "001ffe05" + name + id},
		{"id and name", "04 0108 0101", "001ffe05" + id + name},
		{"id", "04 0108", "000afe05" + id},
		{"C-style", "04 0108 0107 0102 0103 0104 0105 0101 0100",
			"0048fe05" + id + "001307 30303a30303a30303a30303a30303a303000" +
				"00020200 00020300 00020400 00020500" + name + "00020000"},
		{"nothing", "04", "0001fe05"},
		{"tags that don't exist", "04 0109 01ff 0108", "000afe05" + id},
		{"item with more than its tag", "04 0308aabb", "000afe05" + id},
	}
	for _, tt := range tests {
		got, err := ipa.AppendIDResp([]byte{0xaa}, unhex(t, tt.in), ipa.Unit())
		if want := append([]byte{0xaa}, unhex(t, tt.want)...); err != nil || !bytes.Equal(got, want) {
			t.Errorf("%s: %x, %v; want %x", tt.what, got, err, want)
		}
	}
}

func TestAppendIDRespBadInput(t *testing.T) {
	for what, in := range map[string][]byte{
		"empty":                nil,
		"other type":           {5},
		"length without tag":   {4, 1},
		"length 0":             {4, 1, 8, 0},
		"item over the end":    {4, 1, 8, 9, 1},
		"answer of over 1 KiB": append([]byte{4}, bytes.Repeat([]byte{1, 1}, 60)...),
	} {
		got, err := ipa.AppendIDResp([]byte{0xaa}, in, ipa.Unit())
		if err == nil || !bytes.Equal(got, []byte{0xaa}) {
			t.Errorf("%s: %x, %v; want an error and nothing appended", what, got, err)
		}
	}
}

func FuzzIDGet(f *testing.F) {
	f.Add(unhex(f, "04 0108 0107 0102 0103 0104 0105 0101 0100"))
	f.Add(unhex(f, "04 0308aabb 00"))
	f.Add([]byte{})
	f.Fuzz(func(t *testing.T, b []byte) {
		out, err := ipa.AppendIDResp(nil, b, ipa.Unit())
		if err != nil {
			if len(out) != 0 {
				t.Errorf("error, and %x appended", out)
			}
			return
		}
		if len(out) > 1024 {
			t.Errorf("%d bytes: C programs close on more than 1024", len(out))
		}
		s, p, err := ipa.NewReader(bytes.NewReader(out)).Next()
		if err != nil || s != ipa.CCM || ipa.Type(p[0]) != ipa.IDResp {
			t.Errorf("%x is not an ID_RESP frame: %v", out, err)
		}
	})
}

func TestIDGet(t *testing.T) {
	who := ipa.Identity{ipa.UnitName: "host", ipa.SoftwareVersion: "1.2"}
	ask := ipa.AppendIDGet(nil, ipa.UnitName, ipa.UnitType, ipa.SoftwareVersion)
	if want := unhex(t, "0007fe04 0101 0103 0105"); !bytes.Equal(ask, want) {
		t.Errorf("question %x, want %x", ask, want)
	}
	answer, err := ipa.AppendIDResp(nil, ask[3:], who)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ipa.ParseIDResp(answer[3:]); err != nil || got != who {
		t.Errorf("answer %x is %q, %v, want %q", answer, got, err, who)
	}
	for _, bad := range []string{"", "04", "0500", "050000", "05000001", "0500020101 00", "05000401 6100"} {
		if got, err := ipa.ParseIDResp(unhex(t, bad)); err == nil {
			t.Errorf("%s: %q, want an error", bad, got)
		}
	}
}

func FuzzIDResp(f *testing.F) {
	f.Add(unhex(f, "05 001301 30302d30302d30302d30302d30302d303000 000708 302f302f3000"))
	f.Add(unhex(f, "05 0001ff 000301"))
	f.Fuzz(func(t *testing.T, b []byte) {
		who, err := ipa.ParseIDResp(b)
		if err == nil && len(b) < 3 && who != (ipa.Identity{}) {
			t.Errorf("%x is %q", b, who)
		}
	})
}
