// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"slices"
	"strings"
	"testing"
)

const (
	right  = "31323334ffffffff" // 1234
	wrong  = "39393939ffffffff"
	other  = "3938373635343332" // 98765432
	puk    = "3837363534333231" // 87654321
	badPUK = "3030303030303030"
)

// pinCard asks for PIN 1, 1234, with PUK 1 87654321; PIN 2 is 1234, PUK 2 12345678.
func pinCard(t testing.TB) *Card {
	t.Helper()
	return New(Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc, PIN1: "1234", PUK1: "87654321"})
}

// times repeats steps.
func times(n int, steps ...string) []string { return slices.Repeat(steps, n) }

func TestPIN(t *testing.T) {
	selIMSI := []string{"a0a40000027f20", "9f17", "a0a40000026f07", "9f0f"}
	for _, tt := range []struct {
		name  string
		steps [][]string
	}{
		{"VERIFY CHV: TS 51.011 8.9, 9.2.9", [][]string{selIMSI, {
			"a0b0000009", "9804", "a020000108" + wrong, "9804", "a0b0000009", "9804", "a020000108" + right, "9000", "a0b0000009", imsi1 + "9000",
			"a020000108" + wrong, "9804", "a0b0000009", "9804", // taken back
			"a020000108" + wrong, "9804", "a020000108" + wrong, "9840", "a020000108" + right, "9840", "a0b0000009", "9804",
			"a020000208" + right, "9000", "a020000308" + right, "6b00", "a020000008" + right, "6b00", "a020010108" + right, "6b00",
			"a020000107" + right[2:], "6700", "a020000100", "6700",
		}}},
		{"tries in the header: TS 51.011 9.2.1", [][]string{{
			"a0a40000023f00", "9f17", "a0c0000017", "00000000" + "3f00" + "01" + "0000000000" + "0a" + "31" + "0203" + "0400" + "838a838a00" + "9000",
			"a020000108" + wrong, "9804", "a020000208" + wrong, "9804", "a020000208" + wrong, "9804", "a02c000010" + badPUK + right, "9804",
			"a0f2000017", "00000000" + "3f00" + "01" + "0000000000" + "0a" + "31" + "0203" + "0400" + "8289818a00" + "9000",
		}}},
		{"VERIFY PIN: TS 102 221 11.1.9", [][]string{selIMSI, {
			"0020000100", "63c3", "00b0000009", "6982", "0020000108" + wrong, "63c2", "0020000100", "63c2", "0020000108" + wrong, "63c1",
			"0020000108" + right, "9000", "00b0000009", imsi1 + "9000", "0020000100", "63c3",
			"0020000108" + wrong, "63c2", "0020000108" + wrong, "63c1", "0020000108" + wrong, "63c0", "0020000100", "63c0",
			"0020000108" + right, "6983", "00b0000009", "6982",
			"0020008108" + right, "9000", "0020000a08" + puk, "63c2", "0020000208" + right, "6a88", "0020001108" + right, "6a88", "0020010108" + right, "6a86",
			"0020000107" + right[2:], "6700",
		}}},
		{"CHANGE CHV: TS 51.011 8.10, 9.2.10", [][]string{{
			"a024000110" + wrong + other, "9804", "a024000110" + right + other, "9000", "a020000108" + right, "9804", "a020000108" + other, "9000",
			"a024000110" + other + "313233ffffffffff", "6f00", "a024000110" + other + "ffffffffffffffff", "6f00", "a024000110" + other + "31323334ff353637", "6f00",
			"a024000108" + other, "6700", "a024000310" + right + other, "6b00",
			"a024000210" + wrong + other, "9804", "a024000210" + wrong + other, "9804", "a024000210" + wrong + other, "9840", "a024000210" + right + other, "9840",
		}}},
		{"CHANGE PIN: TS 102 221 11.1.10", [][]string{{
			"0024000110" + wrong + other, "63c2", "0024000110" + right + other, "9000", "0020000108" + right, "63c2", "0020000108" + other, "9000",
			"0024000110" + other + "313233ffffffffff", "6a80", "0024008110" + right + other, "9000", "0024000a10" + right + other, "6a88", "0024000100", "6700",
		}}},
		{"DISABLE and ENABLE CHV: TS 51.011 8.11, 8.12", [][]string{selIMSI, {
			"a028000108" + right, "9808", "a026000108" + wrong, "9804", "a026000108" + right, "9000", "a0b0000009", imsi1 + "9000",
			"a026000108" + right, "9808", "a020000108" + right, "9808", "a024000110" + right + other, "9808",
			"a0f2000017", "00000000" + "7f20" + "02" + "0000000000" + "0a" + "b1" + "0010" + "0400" + "838a838a00" + "9000",
			"a028000108" + wrong, "9804", "a028000108" + right, "9000", "a0b0000009", imsi1 + "9000",
			"a026000208" + right, "6b00", "a028000208" + right, "6b00", "a026000107" + right[2:], "6700", "a026010108" + right, "6b00",
		}}},
		{"DISABLE and ENABLE PIN, told in the FCP: TS 102 221 11.1.11, 11.1.12, 9.5.2", [][]string{{
			"80f2000024", strings.Replace(fcpMF, "900140", "9001c0", 1) + "9000", "0026000108" + right, "9000", "80f2000024", fcpMF + "9000",
			"0020000108" + right, "6984", "0026000108" + right, "6984", "0028000108" + right, "9000", "0028000108" + right, "6984",
			"0026008108" + right, "6a88", "0028000a08" + right, "6a88", "0026000108" + wrong, "63c2",
		}}},
		{"UNBLOCK CHV: TS 51.011 8.13, 9.2.13", [][]string{selIMSI, times(2, "a020000108"+wrong, "9804"), {
			"a020000108" + wrong, "9840", "a02c000010" + badPUK + other, "9804", "a02c000010" + puk + other, "9000", "a0b0000009", imsi1 + "9000",
			"a020000108" + other, "9000", "a02c000210" + "3132333435363738" + other, "9000", "a020000208" + other, "9000",
			"a02c000110" + puk + other, "6b00", "a02c000310" + puk + other, "6b00", "a02c000008" + puk, "6700", "a02c000010" + puk + "00" + other[2:], "6f00"},
			times(9, "a02c000010"+badPUK+other, "9804"), {"a02c000010" + badPUK + other, "9840", "a02c000010" + puk + other, "9840"},
		}},
		{"UNBLOCK PIN: TS 102 221 11.1.13", [][]string{{
			"002c000100", "63ca", "002c000110" + badPUK + other, "63c9", "002c000100", "63c9", "002c000110" + puk + other, "9000", "0020000108" + other, "9000",
			"0026000108" + other, "9000", "002c000110" + puk + right, "9000", "80f2000c00", "9000", "0020000108" + right, "9000", // enables it, too
			"002c008100", "63ca", "002c000a00", "6a88", "002c000200", "6a88", "002c000110" + puk + "ffffffffffffffff", "6a80"},
			{"002c000110" + badPUK + other, "63c9", "002c000110" + badPUK + other, "63c8", "002c000110" + badPUK + other, "63c7", "002c000110" + badPUK + other, "63c6",
				"002c000110" + badPUK + other, "63c5", "002c000110" + badPUK + other, "63c4", "002c000110" + badPUK + other, "63c3", "002c000110" + badPUK + other, "63c2",
				"002c000110" + badPUK + other, "63c1", "002c000110" + badPUK + other, "63c0", "002c000110" + puk + other, "6983", "002c000100", "63c0"},
		}},
		{"one PIN for both classes and all channels: TS 102 221 9.4.4", [][]string{{
			"0070000001", "019000", "a020000108" + right, "9000", "01a4040c07a0000000871002", "9000", "01b0870009", imsi1 + "9000",
			"0020000108" + wrong, "63c2", "01b0870009", "6982",
		}}},
		{"algorithms want PIN 1: TS 51.011 8.16, TS 31.102 7.1", [][]string{{
			"a0a40000027f20", "9f17", "a088000010" + rand1, "9804", selAID, "6131", "0088008122" + "10" + rand1 + "10" + autn1, "6982",
			"0020000108" + right, "9000", "0088008122" + "10" + rand1 + "10" + autn1, "6135", "a0a40000027f20", "9f17", "a088000010" + rand1, "9f0c",
		}}},
	} {
		t.Run(tt.name, func(t *testing.T) { exchange(t, pinCard(t), slices.Concat(tt.steps...)...) })
	}
}

// Values of a profile are those that a terminal has to send.
func TestSecrets(t *testing.T) {
	c := New(Profile{ICCID: testICCID, IMSI: testIMSI, PIN1: "12345678", PIN2: "98765", PUK2: "11223344", ADM1: "00ff00ff00ff00ff"})
	exchange(t, c,
		"0020000108"+"3132333435363738", "9000", "0020008108"+"3938373635ffffff", "9000", "0020000a08"+"00ff00ff00ff00ff", "9000",
		"002c000110"+"3132333435363738"+right, "9000", "002c008110"+"3131323233333434"+right, "9000")
}
