// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"encoding/binary"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"time"

	"remsim/internal/simulator/usbip"
)

// attach attaches a device of a USB/IP server, as the program usbip does, to a port of the guest's.
func attach(t *testing.T, addr, busID string, port int) {
	t.Helper()
	conn, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close() // the kernel has its own reference by then
	if err := conn.SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	request := append([]byte{0x01, 0x11, 0x80, 0x03, 0, 0, 0, 0}, make([]byte, 32)...)
	copy(request[8:], busID)
	if _, err := conn.Write(request); err != nil {
		t.Fatal(err)
	}
	answer := make([]byte, 320)
	if _, err := io.ReadFull(conn, answer[:8]); err != nil || binary.BigEndian.Uint32(answer[4:]) != 0 {
		t.Fatalf("import of %s: %x, %v", busID, answer[:8], err)
	}
	if _, err := io.ReadFull(conn, answer[8:]); err != nil {
		t.Fatal(err)
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		t.Fatal(err)
	}
	file, err := conn.(*net.TCPConn).File()
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	line := fmt.Sprintf("%d %d %d %d", port, file.Fd(), 1, usbip.SpeedFull)
	eventually(t, "attach", func() error { return os.WriteFile("/sys/devices/platform/vhci_hcd.0/attach", []byte(line), 0) })
}

// The simulator's card emulators are attached over TCP, and their modems say how they fare.
func TestSimulator(t *testing.T) {
	const addr = "127.0.0.1:3240"
	w := newWorld(t, 1)
	w.create(0, 0)
	sim := w.start("simulator", "remsim-simulator", "modem", "--control", "--usbip-listen", addr, "--script", "init")
	w.await(sim, "listening for USB/IP")
	order := func(line string) string {
		t.Helper()
		if _, err := fmt.Fprintln(sim.Stdin, line); err != nil {
			t.Fatal(err)
		}
		answer, err := sim.Line(2 * soon)
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
	attach(t, addr, "1-1", 0)
	w.start("client", "remsim-client-st2", "-i", "127.0.0.1", "-c", "1", "-I", "0", "--keep-running")
	remote := func() {
		t.Helper()
		eventually(t, "the modem has played its script", func() error {
			state := order("state 0")
			// No steps: the SIM has just become the remote one, and idle is what the modem was with its own.
			if !strings.Contains(state, "sim=remote present=true idle=true") || strings.Contains(state, "atr= ") || strings.Contains(state, "steps=0") {
				return fmt.Errorf("%s", state)
			}
			if !strings.Contains(state, "failed=0") {
				t.Fatalf("it has failed: %s", state)
			}
			return nil
		})
	}
	remote()
	if answer := order("send 0 a0a40000023f00"); !strings.HasPrefix(answer, "ok send 0 a0a40000023f00 0000") {
		t.Errorf("send: %s", answer)
	}
	if answer := order("run 0 init"); !strings.Contains(answer, " median=") {
		t.Errorf("run: %s", answer)
	}
	if answer := order("unplug 0"); answer != "ok unplug 0" {
		t.Errorf("unplug: %s", answer)
	}
	if answer := order("plug 0"); answer != "ok plug 0" {
		t.Errorf("plug: %s", answer)
	}
	attach(t, addr, "1-1", 0)
	remote()
}
