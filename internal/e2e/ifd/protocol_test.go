// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"bytes"
	"strings"
	"testing"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// TestBothProtocols has a card offer T=0 and T=1 to an application that takes both, of which pcscd would choose T=1: they
// come together by T=0, which is what the bankd speaks.
func TestBothProtocols(t *testing.T) {
	t.Parallel()
	const card = 5
	restore(t, card)
	s := newSite(t, rig.Reader(card))
	local := s.localApp(card)
	do(t, "atr %d 3B80800101", card)
	do(t, "pull %d", card)
	local.awaits(application.Empty)
	do(t, "insert %d", card)
	if atr := local.awaits(application.Present); !bytes.Equal(atr, unhex("3b80800101")) {
		t.Fatalf("ATR % x", atr)
	}
	s.start()
	h := s.host(1)
	s.create(0, 0)
	h.app(0).awaits(application.Present)
	socket := simulator.SocketEnv + "=" + h.Socket()
	out, errs, status, err := rig.Execute(soon, "/usr/bin/env", socket, "opensc-tool", "-s", "A0A40000023F00")
	if err != nil || status != 0 || !strings.Contains(out, "SW1=0x9F, SW2=0x17") {
		t.Errorf("opensc-tool: status %d, %v: %s%s", status, err, out, errs)
	}
}
