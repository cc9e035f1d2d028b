// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"bytes"
	"encoding/hex"
	"reflect"
	"strings"
	"testing"
)

// unhex reads hexadecimal digits with spaces between.
func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatalf("%v in %s", err, s)
	}
	return b
}

func TestAppend(t *testing.T) {
	for _, g := range append(goldens(), unknowns()...) {
		t.Run(g.name, func(t *testing.T) {
			want := unhex(t, g.hex)
			before := []byte("before")
			got, err := g.pdu.Append(before)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := bytes.CutPrefix(got, before); !ok || !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

func TestDecode(t *testing.T) {
	for _, g := range append(goldens(), unknowns()...) {
		t.Run(g.name, func(t *testing.T) {
			got, err := Decode(unhex(t, g.hex))
			if err != nil {
				t.Fatal(err)
			}
			if !reflect.DeepEqual(got, g.pdu) {
				t.Errorf("got  %+v\nwant %+v", got.Msg, g.pdu.Msg)
			}
		})
	}
}
