// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package main

import (
	"context"
	"encoding/hex"
	"fmt"
	"os"
	"os/exec"
	"regexp"
	"testing"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/simulator"
)

const visitEnv = "REMSIM_SIMULATOR_VISIT"

// visit reads the cards of the pcscd at path, in a process of its own: one knows one pcscd only.
func visit(t *testing.T, path string, cards int) {
	t.Helper()
	cmd := exec.Command(os.Args[0], "-test.run=^TestVisit$", "-test.count=1")
	cmd.Env = append(os.Environ(), visitEnv+"="+fmt.Sprint(cards), simulator.SocketEnv+"="+path)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v: %s", err, out)
	}
}

// TestVisit is what visit runs; by itself it has nothing to visit.
func TestVisit(t *testing.T) {
	var cards int
	if _, err := fmt.Sscan(os.Getenv(visitEnv), &cards); err != nil {
		return
	}
	for i := range cards {
		pattern := fmt.Sprintf("^%s 00 %02d$", simulator.ReaderName(i), i%2)
		c, err := pcsc.Bank{}.Open(context.Background(), bankd.Slot{Spec: pattern, Pattern: regexp.MustCompilePOSIX(pattern)})
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Transmit([]byte{0x00, 0xb0, 0x82, 0, 10}, make([]byte, 0, 258)) // READ BINARY of EF.ICCID
		if got, want := hex.EncodeToString(resp), fmt.Sprintf("988812010000000000f%d9000", i); err != nil || got != want {
			t.Errorf("card %d: %s, %v; want %s", i, got, err, want)
		}
		c.Close()
	}
}
