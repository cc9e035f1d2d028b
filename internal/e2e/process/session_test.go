// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"io"
	"path/filepath"
	"strings"
	"testing"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// TestEightClients runs 2,000 commands each of eight clients through eight readers at once. The
// maps of half of them are there before bankd and client, those of the others come last.
func TestEightClients(t *testing.T) {
	s := newSite(t)
	for i := range readers / 2 {
		s.create(i, 20+i)
	}
	s.startBankd(readerSpecs(readers))
	var clients []*shell
	for i := range readers {
		clients = append(clients, s.client(20+i))
		s.connected(fmt.Sprintf("C%d:0", 20+i))
	}
	for i := readers / 2; i < readers; i++ {
		s.create(i, 20+i)
	}
	s.operational(clients...)
	var all []*traffic
	for i, sh := range clients {
		all = append(all, sh.traffic(twinOf(i), 2000))
	}
	for _, tr := range all {
		tr.complete(t)
	}
}

// TestServerKilled kills the server while sessions run and starts it again; it doesn't know its
// maps, and the back-end makes them again, whether bankds tell of them or not. Nothing of that is seen
// in the sessions: no answer is wrong or missing, and a modem that were told anything would show it
// on standard output.
func TestServerKilled(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.create(1, 2)
	s.startBankd(readerSpecs(2))
	one, two := s.client(1), s.client(2)
	s.operational(one, two)
	first, second := one.traffic(twinOf(0), 0), two.traffic(twinOf(1), 0)
	first.more(t, 100)
	second.more(t, 100)

	s.server.Kill()
	first.more(t, 200)
	second.more(t, 200)
	s.startServer()
	s.create(0, 1) // before or after its bankd and client are back
	s.connected("B1", "C1:0", "C2:0")
	s.create(1, 2)
	s.active(0, 1)
	s.active(1, 2)
	first.more(t, 200)
	first.end(t)
	s.remove(0) // the new server is in charge
	s.await(one.Proc, "server says: no bankd")
	second.more(t, 200)
	second.end(t)
}

// TestMovedInUse moves a card from one client to another while it is used, and the client to
// another card.
func TestMovedInUse(t *testing.T) {
	s := newSite(t)
	s.startBankd(readerSpecs(2))
	one, two := s.client(1), s.client(2)
	s.connected("B1", "C1:0", "C2:0")
	s.create(0, 1)
	s.operational(one)
	lost := one.untilLost(t, twinOf(0))
	told := s.told(one)
	s.remove(0)
	s.create(0, 2)
	s.operational(two)
	lost()
	told()
	second := two.traffic(twinOf(0), 0)

	s.create(1, 1)
	s.operational(one)
	first := one.traffic(twinOf(1), 0)
	first.more(t, 100)
	second.more(t, 100)
	first.end(t)
	second.end(t)
}

// TestRemovedInUse removes a map while its card is used: the card is free again, the client
// goes on, and another client notices nothing.
func TestRemovedInUse(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.create(1, 2)
	s.startBankd(readerSpecs(2))
	one, two := s.client(1), s.client(2)
	s.operational(one, two)
	second := two.traffic(twinOf(1), 0)
	second.more(t, 10)
	for range 3 {
		lost := one.untilLost(t, twinOf(0))
		told := s.told(one)
		s.remove(0)
		lost()
		told()
		if states, err := s.api.SlotMaps(); err != nil || len(states) != 1 {
			t.Errorf("maps after DELETE: %v, %v", states, err)
		}
		s.create(0, 1)
		s.operational(one)
	}
	second.more(t, 10)
	second.end(t)
}

// TestBankdKilled kills the bankd while it works on a command. The shell says that there is no
// answer, and is back with its card when the bankd is.
func TestBankdKilled(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(1))
	sh := s.client(1, "--log-level", "trace")
	s.operational(sh)
	tr := sh.traffic(twinOf(0), 5)
	tr.complete(t)
	// A stopped process takes the command and can't answer it.
	if err := s.bankd.Freeze(); err != nil {
		t.Fatal(err)
	}
	mark := sh.Mark()
	if err := sh.send(rig.Command(1, 0)); err != nil {
		t.Fatal(err)
	}
	// A line that comes when the bankd has gone would wait for the next one.
	s.awaitFrom(mark, sh.Proc, "msg=command", fmt.Sprintf("tpdu=%x", rig.Command(1, 0)))
	s.bankd.Kill()
	s.awaitFrom(mark, sh.Proc, fmt.Sprintf("line %d:", sh.sent))
	s.startBankd(readerSpecs(1))
	s.operational(sh)
	tr = sh.traffic(twinOf(0), 100)
	tr.complete(t)
}

// TestClientKilled kills a client, and freezes one: its card is free for it when it is
// started again, in the first case at once and in the other as soon as it gives no PONG.
func TestClientKilled(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(1))
	for range 2 {
		sh := s.client(1)
		s.operational(sh)
		tr := sh.traffic(twinOf(0), 20)
		tr.complete(t)
		sh.Kill()
	}
	frozen := s.client(1)
	s.operational(frozen)
	if err := frozen.Freeze(); err != nil {
		t.Fatal(err)
	}
	again := s.client(1)
	s.operational(again)
	tr := again.traffic(twinOf(0), 20)
	tr.complete(t)
	frozen.Kill()
}

// TestWrongPort has programs call others on a port that isn't for them: both sides say what is
// connected to what, and everybody else goes on.
func TestWrongPort(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(1))
	sh := s.client(1)
	s.operational(sh)
	tr := sh.traffic(twinOf(0), 0)

	client := s.client(7, "-p", "9999")
	s.await(client.Proc, "127.0.0.1:9999 is a remsim-bankd, expected remsim-server")
	bank := s.startBank(2, readerSpecs(1), "-p", "9999", "-P", "9996")
	s.await(bank, "127.0.0.1:9999 is a remsim-bankd, expected remsim-server")
	s.await(s.bankd, "level=warning", "remsim-bankd", "data port")

	tr.more(t, 50)
	tr.end(t)
}

// TestReaderUnknown starts a bankd with a pattern that no reader matches, and one that matches
// another slot's: it says so, and which readers exist, and serves its other slot.
func TestReaderUnknown(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd([]string{rig.Reader(0), "Virtual SIM raeder", rig.Reader(0)})
	s.await(s.bankd, "level=warning", "Virtual SIM raeder", "line=2", simulator.ReaderName(0), simulator.ReaderName(readers-1))
	s.await(s.bankd, "level=warning", "B1:0", "line=3")
	sh := s.client(1)
	s.operational(sh)
	tr := sh.traffic(twinOf(0), 10)
	tr.complete(t)
}

// TestShellInput gives the shell what it can't use, in all ways lines may arrive; it says what is
// wrong and goes on.
func TestShellInput(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd([]string{simulator.Profile(0).String()})
	sh := s.client(1)
	s.operational(sh)
	n := sh.sent
	input := strings.Join([]string{
		"a0a40000",                               // 4 bytes
		"a0d60000ff" + strings.Repeat("00", 256), // 261 bytes
		"a0a40000023f0",                          // odd
		"NONSENSE",                               // unknown word
		"",
		"A0 a4 00 00 02 3F 00", // good, and last
	}, "\n") + "\r\n"
	if _, err := io.WriteString(sh.Stdin, input); err != nil {
		t.Fatal(err)
	}
	if line, err := sh.Line(soon); err != nil || !strings.HasPrefix(line, "R-APDU: 9f ") {
		t.Errorf("got %q, %v", line, err)
	}
	for _, parts := range [][]string{{"4 bytes"}, {"261 bytes"}, {"odd"}, {"NONSENSE"}} {
		n++
		s.await(sh.Proc, append(parts, fmt.Sprintf("line %d:", n))...)
	}
	if err := sh.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	if status, err := sh.Wait(soon); err != nil || status != 0 {
		t.Errorf("at the end of input: exit status %d, %v", status, err)
	}
}

// TestShellReset resets the card from the shell, twice: each time what was selected is forgotten.
func TestShellReset(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(1))
	sh := s.client(1)
	s.operational(sh)
	twin := twinOf(0)
	var buf [258]byte
	for range 2 {
		for _, cmd := range []string{"a0a40000027f20", "a0a40000026f07", "a0b0000009", "reset", "a0b0000009"} {
			if cmd == "reset" {
				if _, err := io.WriteString(sh.Stdin, "Reset\r\n"); err != nil {
					t.Fatal(err)
				}
				if err := twin.Reset(true); err != nil {
					t.Fatal(err)
				}
				continue
			}
			want, err := twin.Transmit(unhex(cmd), buf[:])
			if err == nil {
				err = sh.exchange(unhex(cmd), want)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
	}
}

// TestPipe runs two commands as a script would: the shell waits for the card, and ends after the last
// answer.
func TestPipe(t *testing.T) {
	s := newSite(t)
	s.startBankd(readerSpecs(1))
	s.connected("B1")
	sh := s.client(1)
	if _, err := io.WriteString(sh.Stdin, "a0a40000027f20\na0a40000026f07\n"); err != nil {
		t.Fatal(err)
	}
	if err := sh.Stdin.Close(); err != nil {
		t.Fatal(err)
	}
	s.connected("C1:0")
	s.create(0, 1)
	if err := sh.atr(twinOf(0).ATR()); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if line, err := sh.Line(soon); err != nil || !strings.HasPrefix(line, "R-APDU: 9f ") {
			t.Errorf("got %q, %v", line, err)
		}
	}
	if status, err := sh.Wait(soon); err != nil || status != 0 {
		t.Errorf("exit status %d, %v", status, err)
	}
}

// TestUnreachable starts a bankd and clients whose server isn't there, or has no address: they say so and go
// on, and connect when it comes.
func TestUnreachable(t *testing.T) {
	s := newSite(t)
	s.server.Kill()
	s.startBankd(readerSpecs(1))
	s.await(s.bankd, "level=warning", "refused")
	sh := s.client(1)
	s.await(sh.Proc, "level=warning", "refused")
	nameless := s.start("nameless", "remsim-client-shell", "-i", "server.invalid")
	s.await(nameless, "level=warning", "server.invalid")
	s.startServer()
	s.connected("B1", "C1:0")
}

// TestAPITool makes, lists and deletes a map as an operator does.
func TestAPITool(t *testing.T) {
	s := newSite(t)
	s.startBankd(readerSpecs(1))
	s.connected("B1")
	tool := func(wantStatus int, args ...string) string {
		t.Helper()
		stdout, stderr, status, err := rig.Execute(soon, filepath.Join(bin, "remsim-apitool"), args...)
		if err != nil || status != wantStatus {
			t.Errorf("remsim-apitool %q: exit status %d, %v: %s", args, status, err, stderr)
		}
		return stdout + stderr
	}
	tool(0, "-m", "1", "0", "23", "0")
	s.active(0, 23)
	if out := tool(0, "-s"); !strings.Contains(out, "ACTIVE") {
		t.Errorf("no active map in %q", out)
	}
	tool(1, "-m", "1", "0", "24", "0") // taken
	tool(0, "-d", "1", "0")
	tool(1, "-d", "1", "0")
	if states, err := s.api.SlotMaps(); err != nil || len(states) != 0 {
		t.Errorf("maps: %v, %v", states, err)
	}
}
