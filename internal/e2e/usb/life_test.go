// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator/board"
	"remsim/internal/simulator/modem"
)

// readICCID are the commands that tell one card from another.
var readICCID = []string{"a0a40000023f00", "a0a40000022fe2", "a0b000000a"}

// hasCard fails the test unless modem i has card n of the bankd. It waits as long as the modem is on its way to that.
func (d *device) hasCard(i, n int) {
	d.t.Helper()
	twin := newTwin(n)
	var want []byte
	for _, c := range readICCID {
		_, response, err := modem.Follow(context.Background(), twin, unhex(d.t, c))
		if err != nil {
			d.t.Fatal(err)
		}
		want = response
	}
	eventually(d.t, fmt.Sprintf("modem %d of %s has card %d", i, d.path, n), func() error {
		if s := d.modems[i].State(); s.Local || !s.Idle || s.ATR == nil {
			return fmt.Errorf("%+v", s)
		}
		var got []byte
		var err error
		d.do(i, func(ctx context.Context, t *modem.Terminal) {
			for _, c := range readICCID {
				if _, got, err = modem.Follow(ctx, t, unhex(d.t, c)); err != nil {
					_, _ = t.WarmReset(ctx)
					return
				}
			}
		})
		if err == nil && !bytes.Equal(got, want) {
			err = fmt.Errorf("ICCID %x, want %x", got, want)
		}
		return err
	})
}

// SIGTERM leaves the modem on its local SIM, and a client that is started after one that was killed puts that right, and serves again.
func TestEnd(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	for range 2 {
		c := w.client(0, d, 0)
		d.hasCard(0, 0)
		c.Kill()
		if !d.board.Slots()[0].Remote() {
			t.Error("the end of the client was no kill: the modem has its local SIM")
		}
	}
	c := w.client(0, d, 0)
	d.hasCard(0, 0)
	resets := d.board.Slots()[0].Stats().Resets
	stop(t, c)
	d.local(0)
	if n := d.board.Slots()[0].Stats().Resets - resets; n != 1 {
		t.Errorf("the modem was reset %d times", n)
	}
}

// A client that was killed has left the modem on the remote SIM; the next one gives it back its own while there is no bankd.
func TestKilledWithoutBankd(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	c := w.client(0, d, 0)
	d.hasCard(0, 0)
	c.Kill()
	w.bankd.Kill()
	w.client(0, d, 0)
	d.local(0)
}

// A bankd that is killed costs the modem its SIM until there is one again.
func TestBankdRestarted(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	w.client(0, d, 0)
	d.hasCard(0, 0)
	w.bankd.Kill()
	d.local(0)
	w.startBankd()
	d.hasCard(0, 0)
}

// A map that is moved gives the modem another card.
func TestMapMoved(t *testing.T) {
	w := newWorld(t, 2)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	w.client(0, d, 0)
	d.hasCard(0, 0)
	w.remove(0)
	w.create(1, 0)
	d.hasCard(0, 1)
	w.remove(1)
	d.local(0)
}

// A card that is pulled at the bank is refused to the modem, and there again when it is back.
func TestCardPulled(t *testing.T) {
	run := t.TempDir()
	cards := (&world{t: t}).start("cards", "remsim-simulator", "pcscd", "--count", "1", "--control", "--dir", run)
	line, err := cards.Line(soon)
	if err != nil {
		t.Fatal(err)
	}
	name, value, _ := strings.Cut(line, "=")
	t.Setenv(name, value)
	control := func(command string) {
		t.Helper()
		if _, err := fmt.Fprintln(cards.Stdin, command); err != nil {
			t.Fatal(err)
		}
		if answer, err := cards.Line(soon); err != nil || !strings.HasPrefix(answer, "ok ") {
			t.Fatalf("%s: %q, %v", command, answer, err)
		}
	}
	w := &world{t: t, dir: t.TempDir(), api: api()}
	w.server = w.start("server", "remsim-server")
	w.await(w.server, "listening for RSPRO")
	w.startBank([]string{rig.Reader(0)})
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	w.client(0, d, 0)
	d.hasCard(0, 0)
	mark := w.bankd.Mark()
	control("pull 0")
	w.awaitFrom(mark, w.bankd, "card")
	d.do(0, func(ctx context.Context, terminal *modem.Terminal) {
		// Any answer but that of the card, and no waiting for ever.
		if x, err := terminal.Transmit(ctx, unhex(t, readICCID[0])); err == nil && x.SW()>>8 == 0x9f {
			t.Errorf("a card that was pulled has answered %x", x.Response)
		}
		_, _ = terminal.WarmReset(ctx)
	})
	control("insert 0")
	d.hasCard(0, 0)
}

// A device that is pulled in the middle of a command, and plugged in again, serves again.
func TestUnplugDuringCommand(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d, "--keep-running")
	for range 2 {
		wait := d.ask(0, unhex(t, "00b0000004"), nil)
		o.command()
		d.Unplug()
		if err := wait(); err == nil {
			t.Error("the command was answered")
		}
		if err := o.bankd.ExpectEnd(soon); err != nil {
			t.Logf("data connection: %v", err)
		}
		d.Plug()
		o.again()
	}
	want := append(fill(4), 0x90, 0)
	wait := d.ask(0, unhex(t, "00b0000004"), want)
	o.command()
	o.answer(want)
	if err := wait(); err != nil {
		t.Error(err)
	}
}

// Plugging and unplugging leaves nothing behind in the client: no descriptors, no goroutines.
func TestUnplugOften(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	c := w.client(0, d, 0, "--keep-running")
	d.hasCard(0, 0)
	count := func() (files, goroutines int) {
		t.Helper()
		entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", c.PID()))
		if err != nil {
			t.Fatal(err)
		}
		mark := c.Mark()
		if err := c.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		const total = "goroutine profile: total "
		_, n, _ := strings.Cut(w.awaitFrom(mark, c, total), total)
		if goroutines, err = strconv.Atoi(n); err != nil {
			t.Fatal(err)
		}
		return len(entries), goroutines
	}
	cycle := func() {
		mark := c.Mark()
		d.Unplug()
		d.Plug()
		w.awaitFrom(mark, c, "card emulator is set up")
	}
	cycle()
	d.hasCard(0, 0)
	files, goroutines := count()
	for range 20 {
		cycle()
	}
	d.hasCard(0, 0)
	var f, g int
	for end := time.Now().Add(soon); ; time.Sleep(100 * time.Millisecond) {
		if f, g = count(); f <= files && g <= goroutines || time.Now().After(end) {
			break
		}
	}
	if f > files || g > goroutines {
		t.Errorf("after 20 times %d descriptors and %d goroutines, before %d and %d", f, g, files, goroutines)
	}
}

// The event script is called with the causes in their order, and told which device it is about.
func TestScript(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{})
	file := filepath.Join(w.dir, "causes")
	script := filepath.Join(w.dir, "script.sh")
	text := fmt.Sprintf("#!/bin/sh\necho \"$1 $REMSIM_CAUSE $REMSIM_USB_PATH $REMSIM_USB_INTERFACE\" >>%s\n", file)
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}
	w.create(0, 0)
	c := w.client(0, d, 1, "-e", script)
	d.hasCard(1, 0)
	w.remove(0)
	d.local(1)
	eventually(t, "the last script is called", func() error { // those that wait at the client's end have little time
		got, err := os.ReadFile(file)
		if err == nil && strings.Count(string(got), "event-config-bankd event-config-bankd ") < 2 {
			err = fmt.Errorf("it was called with %q", got)
		}
		return err
	})
	stop(t, c)
	got, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	var causes []string
	for line := range strings.Lines(string(got)) {
		f := strings.Fields(line)
		if len(f) != 4 || f[0] != f[1] || f[2] != d.path || f[3] != "1" {
			t.Errorf("called with %q", line)
			continue
		}
		if f[0] != "event-modem-status" { // comes when the modem does something, and several are one
			causes = append(causes, f[0])
		}
	}
	want := []string{
		"event-server-connect", "event-config-bankd",
		"request-sim-remote", "request-card-insert", "request-modem-reset", "event-bankd-connect",
		"request-card-remove", "request-sim-local", "request-modem-reset", "event-config-bankd",
	}
	if strings.Join(causes, " ") != strings.Join(want, " ") {
		t.Errorf("causes %q, want %q", causes, want)
	}
}
