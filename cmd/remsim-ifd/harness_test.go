// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package main

import (
	"bytes"
	"fmt"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// TestHost loads the driver into a program in C that isn't pcscd, but does to it and expects of it what
// pcscd does, and worse.
func TestHost(t *testing.T) {
	dir := t.TempDir()
	library := filepath.Join(dir, "libifd_remsim_client.so")
	run(t, "go", "build", "-buildmode=c-shared", "-o", library, ".")
	harness := filepath.Join(dir, "harness")
	withLog := filepath.Join(dir, "harness-log")
	compile := []string{"-Wall", "-Wextra", "-Werror", "-O1", "-pthread", "-I/usr/include/PCSC", "testdata/harness.c", "-ldl", "-o"}
	run(t, "gcc", append(compile, harness)...)
	run(t, "gcc", append(compile, withLog, "-rdynamic")...)
	// A user without rights of any kind is to reach it.
	for d := dir; d != os.TempDir() && d != "/"; d = filepath.Dir(d) {
		if err := os.Chmod(d, 0o755); err != nil {
			break // not ours, so it is open already
		}
	}

	const nobody = "5:1:127.0.0.1:1"
	for _, scenario := range []string{
		"arguments", "sigpipe-default", "sigpipe-ignored", "sigpipe-caught", "broken-stderr", "handlers", "threads", "reload",
	} {
		t.Run(scenario, func(t *testing.T) {
			start(t, harness, library, scenario, nobody)()
		})
	}
	for _, scenario := range []string{"card", "stop", "confined"} {
		t.Run(scenario, func(t *testing.T) {
			f := newFarSide(t)
			wait := start(t, harness, library, scenario, f.device())
			f.serve()
			wait()
		})
	}
	t.Run("log", func(t *testing.T) {
		wait := start(t, harness, library, "arguments", "5:1024:host")
		if out := wait(); !strings.Contains(out, `wrong DEVICENAME`) || strings.Contains(out, "LOG") {
			t.Errorf("without pcscd's function: %.1000s", out)
		}
		wait = start(t, withLog, library, "arguments", "5:1024:host")
		if out := wait(); !strings.Contains(out, `LOG 2 remsim: level=error msg="wrong DEVICENAME`) || !strings.Contains(out, `slot \"1024\": want a number 0..1023`) {
			t.Errorf("with pcscd's function: %.1000s", out)
		}
	})
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
}

// start runs a scenario; wait returns all that it has written.
func start(t *testing.T, harness, library, scenario, device string) (wait func() string) {
	t.Helper()
	var out bytes.Buffer
	cmd := exec.CommandContext(t.Context(), harness, library, scenario, device)
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	return func() string {
		t.Helper()
		if err := cmd.Wait(); err != nil {
			t.Errorf("%v\n%s", err, &out)
		}
		return out.String()
	}
}

// A farSide is a server and a bankd, whose card answers all commands but FF00.
type farSide struct {
	t            *testing.T
	server, bank net.Listener
}

func newFarSide(t *testing.T) *farSide {
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	return &farSide{t: t, server: listen(), bank: listen()}
}

func (f *farSide) device() string { return fmt.Sprintf("5:1:%s", f.server.Addr()) }

// serve plays both until the driver leaves the bankd.
func (f *farSide) serve() {
	me, here := slot.Client{ID: 5, Slot: 1}, slot.Bank{ID: 1, Slot: 5}
	server := testnet.AcceptPeer(f.t, f.server)
	server.Patience = time.Minute
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](server)
	server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: netip.MustParseAddrPort(f.bank.Addr().String())})
	bankd := testnet.AcceptPeer(f.t, f.bank)
	bankd.Patience = time.Minute
	_, req = testnet.ExpectPDU[*rspro.ConnectClientReq](bankd)
	atr := &rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x02, 0x14, 0x50}}
	bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd), Features: rspro.LateAtr})
	bankd.Send(atr)
	for last := (slot.Phys{VCC: slot.On}); ; {
		pdu, ok := bankd.Poll(30 * time.Second)
		if !ok {
			return // the end: what is amiss the harness says
		}
		switch m := pdu.Msg.(type) {
		case *rspro.ClientSlotStatusInd:
			if last.VCC == slot.On && m.Phys.VCC == slot.Off || !last.Reset && m.Phys.Reset {
				bankd.Send(atr)
			}
			last = m.Phys
		case *rspro.TpduModemToCard:
			response := []byte{0x90, 0x00}
			switch m.Data[1] {
			case 0x00:
				continue
			case 0xb0:
				response = append(make([]byte, 256), response...)
			}
			bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: response})
		}
	}
}
