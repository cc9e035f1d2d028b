// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator/board"
)

// A client that can't have its device ends with status 1 and says what it has found.
func TestNoDevice(t *testing.T) {
	run := func(args []string, want ...string) {
		t.Helper()
		_, log, status, err := rig.Execute(soon, filepath.Join(bin, "remsim-client-st2"), append([]string{"-i", "127.0.0.1"}, args...)...)
		if err != nil || status != 1 {
			t.Errorf("%q: status %d, %v: %s", args, status, err, log)
		}
		for _, s := range want {
			if !strings.Contains(log, s) {
				t.Errorf("%q lacks %q: %s", args, s, log)
			}
		}
	}
	run(nil, "no card emulator", "no USB device is attached")
	t.Run("several", func(t *testing.T) {
		plugged(t, 0, board.Config{})
		plugged(t, 1, board.Config{Slots: 1})
		run(nil, "3 card emulators", "1-1", "1-2")
		run([]string{"-H", "1-1"}, "2 card emulators", "1-1")
		run([]string{"-H", "1-2", "-I", "1"}, "no card emulation interface 1", "1-2")
		run([]string{"-H", "1-2", "-I", "7"}, "no card emulation interface 7")
		run([]string{"-H", "1-3"}, "1-3", "attached are", "1-1", "1-2")
		run([]string{"-V", "1234"}, "1234", "attached are")
	})
	t.Run("DFU mode", func(t *testing.T) {
		d := newDevice(t, 0, board.Config{})
		d.board.SetDFU(true)
		d.Plug()
		run(nil, "1-1", "DFU")
	})
	t.Run("sniffer", func(t *testing.T) {
		plugged(t, 0, board.Config{Slots: 1, Sniffer: true})
		run(nil, "1-1")
	})
	t.Run("no interrupt endpoint", func(t *testing.T) {
		plugged(t, 0, board.Config{Slots: 1, NoIRQ: true})
		run(nil, "1-1", "no interrupt IN endpoint")
	})
}

// Two processes want one interface: the second says who is in the way, and the first isn't disturbed.
func TestTwoProcesses(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	first := w.client(0, d, 0)
	d.hasCard(0, 0)
	_, log, status, err := rig.Execute(soon, filepath.Join(bin, "remsim-client-st2"), "-i", "127.0.0.1", "-c", "2")
	if err != nil || status != 1 || !strings.Contains(log, fmt.Sprint(first.PID())) {
		t.Errorf("status %d, %v: %s", status, err, log)
	}
	d.hasCard(0, 0)
}

// One process serves every interface of every device: what comes is served soon, what goes disturbs nothing else, and
// what comes back has its slot again.
func TestAllSlots(t *testing.T) {
	w := newWorld(t, 4)
	t.Setenv("STATE_DIRECTORY", w.dir)
	for i := range 4 {
		w.create(i, i)
	}
	a := plugged(t, 0, board.Config{})
	c := w.start("client", "remsim-client-st2", "-i", "127.0.0.1", "-c", "1", "--all-slots")
	a.hasCard(0, 0)
	a.hasCard(1, 1)
	mark := c.Mark()
	begin := time.Now()
	b := plugged(t, 1, board.Config{})
	w.awaitFrom(mark, c, "card emulator is set up", "usb=1-2")
	t.Logf("a device that was plugged in is served after %v", time.Since(begin).Round(time.Millisecond))
	b.hasCard(0, 2)
	b.hasCard(1, 3)
	starts := a.modems[0].State().Starts
	a.Unplug()
	b.hasCard(0, 2)
	b.Unplug()
	b.Plug()
	b.hasCard(1, 3)
	a.Plug()
	a.hasCard(0, 0)
	a.hasCard(1, 1)
	if a.modems[0].State().Starts == starts {
		t.Error("the first device's modem hasn't noticed that it was unplugged")
	}
	stop(t, c)
	for i := range 2 {
		a.local(i)
		b.local(i)
	}
}

// A slots file says which slot is whose; a mistake in it is told with its place.
func TestSlotsFile(t *testing.T) {
	w := newWorld(t, 2)
	d := plugged(t, 0, board.Config{})
	file := filepath.Join(w.dir, "client-slots.csv")
	write := func(text string) {
		t.Helper()
		if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	write("7, 1-1, 0\n8, 1-1, 0\n")
	_, log, status, err := rig.Execute(soon, filepath.Join(bin, "remsim-client-st2"), "-i", "127.0.0.1", "--slots-file", file)
	if err != nil || status == 0 || !strings.Contains(log, file+":2") {
		t.Errorf("status %d, %v: %s", status, err, log)
	}
	write(fmt.Sprintf("7, 1-1, 1\n8, serial:%s, 0\n", d.board.Config().Serial))
	w.create(0, 7)
	w.create(1, 8)
	w.start("client", "remsim-client-st2", "-i", "127.0.0.1", "-c", "1", "--slots-file", file)
	d.hasCard(1, 0)
	d.hasCard(0, 1)
}
