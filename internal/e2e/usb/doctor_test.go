// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"remsim/internal/simulator/board"
)

// client runs remsim-client-st2 until it ends by itself, as root or as nobody.
func client(t *testing.T, nobody bool, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	path := filepath.Join(bin, "remsim-client-st2")
	if nobody {
		path = public(t, path)
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	var out, errs strings.Builder
	cmd.Stdout, cmd.Stderr = &out, &errs
	if nobody {
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	}
	if err := cmd.Run(); err != nil && cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return cmd.ProcessState.ExitCode(), out.String(), errs.String()
}

// public returns a copy of a program that everybody may run.
func public(t *testing.T, path string) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "public-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	program, err := os.ReadFile(path)
	if err == nil {
		err = os.WriteFile(filepath.Join(dir, filepath.Base(path)), program, 0o755)
	}
	if err == nil {
		err = os.Chmod(dir, 0o755)
	}
	if err != nil {
		t.Fatal(err)
	}
	return filepath.Join(dir, filepath.Base(path))
}

// refused runs a client that can't have a device, and checks what its one line says.
func refused(t *testing.T, nobody bool, args string, want ...string) {
	t.Helper()
	status, out, errs := client(t, nobody, strings.Fields(args)...)
	if status != 1 || out != "" || strings.Count(errs, "\n") != 1 {
		t.Errorf("%q: status %d, stdout %q, stderr %q, want 1 and one line", args, status, out, errs)
	}
	for _, w := range want {
		if !strings.Contains(errs, w) {
			t.Errorf("%q: stderr %q, want %q", args, errs, w)
		}
	}
}

// examined runs the doctor and checks what it says.
func examined(t *testing.T, nobody bool, well bool, args string, want ...string) {
	t.Helper()
	status, out, errs := client(t, nobody, append([]string{"doctor"}, strings.Fields(args)...)...)
	if (status == 0) != well || (errs == "") != well {
		t.Errorf("doctor %q: status %d, stderr %q", args, status, errs)
	}
	for _, w := range want {
		if !strings.Contains(out, w) {
			t.Errorf("doctor %q says\n%swant %q", args, out, w)
		}
	}
}

// The doctor tells what works and what doesn't, to root and to others, and disturbs nobody; the program says the same.
func TestDoctor(t *testing.T) {
	w := newWorld(t, 1)
	examined(t, false, false, "", "\nFAIL  no card emulator of a kind that is known: no USB device is attached\n", "\nok    server 127.0.0.1:9998: remsim-server ")
	boot := newDevice(t, 0, board.Config{})
	boot.board.SetDFU(true)
	boot.Plug()
	examined(t, false, false, "", "\nFAIL  1-1 (1d50:4004 sysmoQMOD, serial number "+boot.board.Config().Serial+") is in DFU mode")
	boot.Unplug()

	d := plugged(t, 0, board.Config{Version: "0.9.1"})
	examined(t, false, true, "", "\nok    1-1 (1d50:4004 sysmoQMOD, serial number ", "): firmware 0.9.1\n", "\nok    -H 1-1 -I 0: free\n", "\nok    -H 1-1 -I 1: free\n")
	examined(t, false, false, "-p 9999", "\nFAIL  server 127.0.0.1:9999: that is a remsim-bankd\n")

	// Nobody may write the device's file; then it isn't there at all, as in containers.
	node := d.node()
	if err := os.Chmod(node, 0o600); err != nil {
		t.Fatal(err)
	}
	refused(t, true, "-I 0", "no permission for "+node+": install contrib/udev/60-remsim.rules", "plugdev")
	examined(t, true, false, "", "\nFAIL  1-1 (1d50:4004 sysmoQMOD, serial number ", "no permission for "+node+"\n      → install contrib/udev/60-remsim.rules")
	if err := os.Rename(node, node+"x"); err != nil {
		t.Fatal(err)
	}
	refused(t, false, "-I 0", node, "no such file or directory: a container has to be given the host's /dev/bus/usb")
	if err := os.Rename(node+"x", node); err != nil {
		t.Fatal(err)
	}

	// The first of two processes keeps the interface, and the second says who has it.
	w.create(0, 0)
	c := w.client(0, d, 1)
	d.hasCard(1, 0)
	holder := fmt.Sprintf("process %d (%s/remsim-client-st2 -i 127.0.0.1 -c 1 -n 0 -H 1-1 -I 1)", c.PID(), bin)
	refused(t, false, "-H 1-1 -I 1", "claim interface 1 of 1-1 (", "it is in use by "+holder+": stop that")
	examined(t, false, true, "-c 1 -n 0 -H 1-1 -I 1", "\nok    -H 1-1 -I 1: in use by "+holder+"\n", "\nok    -H 1-1 -I 0: free\n")
	refused(t, true, "-H 1-1 -I 1", "no permission for")
	d.hasCard(1, 0)
}

// node returns the device's file.
func (d *device) node() string {
	d.t.Helper()
	text, err := os.ReadFile(filepath.Join(d.sysfs(), "uevent"))
	if err != nil {
		d.t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if name, ok := strings.CutPrefix(strings.TrimSpace(line), "DEVNAME="); ok {
			return "/dev/" + name
		}
	}
	d.t.Fatalf("no DEVNAME in %s", text)
	return ""
}
