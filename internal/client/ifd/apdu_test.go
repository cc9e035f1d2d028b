// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"bytes"
	"encoding/hex"
	"strings"
	"testing"
)

func TestTPDU(t *testing.T) {
	full := strings.Repeat("aa", 255)
	for _, tc := range []struct{ name, apdu, want string }{
		{"case 1", "a0440000", "a044000000"},
		{"case 2", "a0c0000017", "a0c0000017"},
		{"case 2, 256 bytes", "00b0000000", "00b0000000"},
		{"case 3", "a0a40000023f00", "a0a40000023f00"},
		{"case 3, 1 byte", "0020000101aa", "0020000101aa"},
		{"case 3, 255 bytes", "00d60000ff" + full, "00d60000ff" + full},
		{"case 4", "00a40004023f0016", "00a40004023f00"},
		{"case 4, Le 00", "00a40004023f0000", "00a40004023f00"},
		{"case 4, 255 bytes", "00d60000ff" + full + "00", "00d60000ff" + full},
		{"empty", "", ""},
		{"short", "a0a400", ""},
		{"Lc 00", "00a400000000", ""},
		{"extended case 2", "00b00000000100", ""},
		{"extended case 3", "00d60000000001aa", ""},
		{"data missing", "00a40000023f", ""},
		{"too much", "00a40000023f000000", ""},
		{"far too much", "00d60000ff" + full + "0000", ""},
	} {
		apdu, err := hex.DecodeString(tc.apdu)
		if err != nil {
			t.Fatal(err)
		}
		given := bytes.Clone(apdu)
		got, err := toTPDU(apdu)
		if hex.EncodeToString(got) != tc.want || err == nil != (tc.want != "") {
			t.Errorf("%s: %x, %v, want %s", tc.name, got, err, tc.want)
		}
		if !bytes.Equal(apdu, given) {
			t.Errorf("%s: the command was changed", tc.name)
		}
	}
}

// A TPDU that is refused, or one that the core of clients takes, whatever the APDU.
func FuzzTPDU(f *testing.F) {
	for _, s := range []string{"", "\x00\xa4\x00\x00", "\x00\xb0\x00\x00\x00", "\x00\xa4\x00\x04\x02\x3f\x00\x00", "\x00\xd6\x00\x00\x00\x00\x01\xaa"} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, apdu []byte) {
		got, err := toTPDU(apdu)
		if err != nil {
			return
		}
		if len(got) < 5 || len(got) > 260 || !bytes.Equal(got[:4], apdu[:4]) || len(got) > 5 && len(got) != 5+int(got[4]) {
			t.Errorf("%x: %x", apdu, got)
		}
	})
}
