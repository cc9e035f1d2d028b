// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"strings"
	"testing"
)

func TestExplainSW(t *testing.T) {
	for sw, want := range map[uint16]string{
		0x9000: "done",
		0x910b: "done; a proactive command of 11 bytes waits for FETCH",
		0x9200: "done",
		0x9203: "done after 3 internal retries",
		0x9210: "done; a data transfer session goes on",
		0x9240: "memory problem",
		0x9f17: "done; 23 bytes wait for GET RESPONSE",
		0x6100: "done; 256 bytes wait for GET RESPONSE",
		0x611e: "done; 30 bytes wait for GET RESPONSE",
		0x6c09: "wrong length; right is 9",
		0x6700: "wrong length",
		0x6709: "wrong length; right is 9",
		0x6282: "end of file or record came early, or nothing was found",
		0x63c0: "wrong PIN, no try left",
		0x63c2: "wrong PIN with 2 tries left, or done after as many internal retries",
		0x6982: "access condition not fulfilled",
		0x6a82: "file not found",
		0x6b01: "wrong P1 or P2",
		0x6e00: "class not supported",
		0x9404: "file or pattern not found",
		0x9804: "access condition not fulfilled, wrong CHV with tries left, or authentication failed",
		0x9862: "authentication failed: wrong MAC",
		0x0000: "unknown status",
		0xffff: "unknown status",
		0x9001: "unknown status",
		0x6a85: "unknown status",
	} {
		if got := explainSW(sw); got != want {
			t.Errorf("%04x: %q, want %q", sw, got, want)
		}
	}
}

// Each row of the table is the meaning of some status word, and no row is spoilt.
func TestMeanings(t *testing.T) {
	used := map[int]bool{}
	for sw := range 0x10000 {
		for i, m := range meanings {
			if uint16(sw)&m.mask == m.sw {
				used[i] = true
				break
			}
		}
		if s := explainSW(uint16(sw)); s == "" || strings.Contains(s, "%") {
			t.Errorf("%04x: %q", sw, s)
		}
	}
	for i, m := range meanings {
		if !used[i] {
			t.Errorf("%04x %q is hidden by an earlier row", m.sw, m.text)
		}
	}
}
