// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"encoding/hex"
	"slices"
	"strings"
	"testing"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func TestExplainATR(t *testing.T) {
	const noTA1 = "Fi=372, Di=1: 372 clocks a bit, up to 5 MHz (no TA1)"
	for _, tc := range []struct {
		name, atr string
		want      []string
	}{
		{"shortest", "3b00", []string{"direct convention, T=0", noTA1}},
		{"inverse", "3f00", []string{"inverse convention, T=0", noTA1}},
		{"historical bytes", "3b021450", []string{"direct convention, T=0", noTA1, "historical bytes 14 50"}},
		{"GSM SIM", "3b7d9400005555530a7486930b247c4d5468", []string{
			"direct convention, T=0", "Fi=512, Di=8: 64 clocks a bit, up to 5 MHz (TA1=94)",
			"historical bytes 55 55 53 0a 74 86 93 0b 24 7c 4d 54 68"}},
		{"USIM", "3b9f96801fc78031a073be21136743200718000001a5", []string{
			"direct convention, T=0", "Fi=512, Di=32: 16 clocks a bit, up to 5 MHz (TA1=96)",
			"supply 5 V, 3 V, 1.8 V, clock stop low or high (T=15)",
			"historical bytes 80 31 a0 73 be 21 13 67 43 20 07 18 00 00 01: services a0, capabilities be2113, pre-issuing 43200718000001"}},
		{"check byte wrong", "3b9f96801fc78031a073be21136743200718000001a4", []string{
			"direct convention, T=0", "Fi=512, Di=32: 16 clocks a bit, up to 5 MHz (TA1=96)",
			"supply 5 V, 3 V, 1.8 V, clock stop low or high (T=15)",
			"historical bytes 80 31 a0 73 be 21 13 67 43 20 07 18 00 00 01: services a0, capabilities be2113, pre-issuing 43200718000001",
			"check byte a4 is wrong, right is a5"}},
		{"check byte missing", "3b 80 81 11 10", []string{
			"direct convention, T=1", noTA1, "T=1: IFSC=16", "check byte is missing"}},
		{"T=0 and T=1", "3b 80 80 71 fe 45 01 0b", []string{
			"direct convention, T=0, T=1", noTA1, "T=1: IFSC=254", "T=1: BWI=4, CWI=5", "T=1: CRC", "check byte 0b is wrong, right is cb"}},
		{"text", "3b66 00 00 72656d73696d", []string{
			"direct convention, T=0", noTA1, `historical bytes 72 65 6d 73 69 6d "remsim"`}},
		{"guard time and waiting time", "3b c0 ff 40 0a", []string{
			"direct convention, T=0", noTA1, "extra guard time N=255 (TC1)", "waiting time WI=10 (TC2)"}},
		{"specific mode", "3b 90 11 10 80", []string{
			"direct convention, T=0", "Fi=372, Di=1: 372 clocks a bit, up to 5 MHz (TA1=11)", "specific mode, T=0, can't change it (TA2)"}},
		{"reserved speed", "3b 10 70", []string{"direct convention, T=0", "speed is reserved (TA1=70)"}},
		{"one byte too many", "3b0000", []string{"direct convention, T=0", noTA1, "bytes too many at the end: 1"}},
		{"wrong begin", "ff00", []string{"ATR begins with ff instead of 3b or 3f"}},
		{"nothing", "", []string{"ATR ends early"}},
		{"one byte", "3b", []string{"ATR ends early"}},
		{"ends in interface bytes", "3bf096", []string{
			"direct convention, T=0", "Fi=512, Di=32: 16 clocks a bit, up to 5 MHz (TA1=96)", "ATR ends early"}},
		{"ends in historical bytes", "3b0314", []string{"direct convention, T=0", noTA1, "historical bytes 14", "ATR ends early"}},
	} {
		got := explainATR(unhex(t, tc.atr))
		if !slices.Equal(got, tc.want) {
			t.Errorf("%s:\n got %q\nwant %q", tc.name, got, tc.want)
		}
	}
}

// FuzzATR: whatever an ATR is, parts that it is taken into are parts of it, and facts are lines.
func FuzzATR(f *testing.F) {
	for _, s := range []string{"", "3b00", "3b9f96801fc78031a073be21136743200718000001a5", "3bf096", "3f" + strings.Repeat("f", 108), "3b8080b1fe45010b"} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		a, err := parseATR(b)
		n := 2 + len(a.historical) + len(a.check)
		for i, g := range a.groups {
			if i > 0 {
				n++ // TD
			}
			for _, has := range g.has {
				if has {
					n++
				}
			}
		}
		if n > len(b) && err == nil || err == nil && n != len(b) {
			t.Errorf("%x: %d bytes used, %v", b, n, err)
		}
		facts := explainATR(b)
		if len(facts) == 0 || strings.ContainsAny(strings.Join(facts, ""), "\r\n\x1b") || strings.Contains(strings.Join(facts, ""), "%!") {
			t.Errorf("%x: %q", b, facts)
		}
	})
}
