// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"encoding/hex"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// twinOf returns a card that is like card i of the first pcscd, or like the softsim of that number, freshly powered.
func twinOf(i int) *softsim.Card { return softsim.New(simulator.Profile(i)) }

// spaced is how PC/SC tools write bytes.
func spaced(b []byte, between string) string {
	return strings.ReplaceAll(fmt.Sprintf("% x", b), " ", between)
}

// TestTools has the tools that come with a system read cards: one in a reader of the first pcscd, and one in software.
func TestTools(t *testing.T) {
	t.Parallel()
	const card = 0
	s := newSite(t, rig.Reader(card), simulator.Profile(100).String()).start()
	h := s.host(2)
	s.create(0, 0)
	s.create(1, 1)
	for nr, twin := range []bankd.Card{twinOf(card), twinOf(100)} {
		h.app(nr).awaits(application.Present)
		socket := simulator.SocketEnv + "=" + h.Socket()
		scan, err := rig.Start("pcsc_scan", "/usr/bin/env", socket, "pcsc_scan", "-n")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(scan.Kill)
		want := []string{" Reader " + fmt.Sprint(nr) + ": " + readerName(nr), "  Card state: Card inserted, ", "  ATR: " + strings.ToUpper(spaced(twin.ATR(), " "))}
		var seen []string
		for len(want) > 0 {
			line, err := scan.Line(soon)
			if err != nil {
				t.Fatalf("pcsc_scan -n: %v; it has written %q, and not %q", err, seen, want[0])
			}
			seen = append(seen, line)
			if strings.HasPrefix(line, want[0]) {
				want = want[1:]
			}
		}
		scan.Kill()

		tool := func(args ...string) string {
			t.Helper()
			args = append([]string{socket, "opensc-tool", "-r", fmt.Sprint(nr)}, args...)
			out, errs, status, err := rig.Execute(soon, "/usr/bin/env", args...)
			if err != nil || status != 0 {
				t.Fatalf("%q: status %d, %v: %s%s", args, status, err, out, errs)
			}
			return out
		}
		if got, want := strings.TrimSpace(tool("-a")), spaced(twin.ATR(), ":"); got != want {
			t.Errorf("opensc-tool -a: %q, want %q", got, want)
		}
		got := tool("-s", "A0A40000023F00", "-s", "A0A40000027F20", "-s", "A0A40000026F07", "-s", "A0B0000009")
		if want := strings.ToUpper(spaced(imsiOf(t, twin), " ")); !strings.Contains(got, want) {
			t.Errorf("opensc-tool -s: %q, want %q in it", got, want)
		}
	}
}

// imsiOf reads EF.IMSI of a card.
func imsiOf(t *testing.T, card bankd.Card) []byte {
	t.Helper()
	var buf [258]byte
	var got []byte
	for _, cmd := range readIMSI {
		var err error
		if got, err = card.Transmit(unhex(cmd), buf[:]); err != nil {
			t.Fatal(err)
		}
	}
	return got[:len(got)-2]
}

// longSoftsim writes a profile whose EF.BCCH of DF.GSM has 256 bytes.
func longSoftsim(t *testing.T) (spec string, content []byte) {
	t.Helper()
	for i := range 256 {
		content = append(content, byte(i))
	}
	p := simulator.Profile(200)
	file := filepath.Join(t.TempDir(), "long.json")
	text := fmt.Sprintf(`{"iccid": %q, "imsi": %q, "files": {"7F20/6F74": "%x"}}`, p.ICCID, p.IMSI, content)
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	return softsim.Prefix + "file=" + file, content
}

// TestCommands has an application see what a card at a T=0 reader answers: status words of all kinds are its own to
// judge, and what no card can be sent is refused without harm.
func TestCommands(t *testing.T) {
	t.Parallel()
	spec, content := longSoftsim(t)
	s := newSite(t, spec).start()
	h := s.host(1)
	s.create(0, 0)
	a := h.app(0)
	twin := twinOf(200)
	a.opens(twin)
	for _, tt := range []struct{ what, cmd, want string }{
		{"case 1, without P3", "a0040000", "9400"},
		{"case 3, 9Fxx", "a0a40000023f00", "9f17"},
		{"case 2, a part", "a0c0000003", "0000009000"},
		{"case 2, not selected", "a0b0000009", "9400"},
		{"case 3, wrong length", "a0a4000003010203", "6700"},
		{"case 3, 61xx", "00a40004023f00", "6124"},
		{"case 4, 61xx", "00a40004022fe200", "6136"},
		{"case 2, 6Cxx", "00b000000b", "6c0a"},
		{"unknown class", "ff00000000", "6e00"},
		{"case 3", "a0a40000027f20", "9f17"},
		{"case 3", "a0a40000026f74", "9f0f"},
		{"case 2, 256 bytes", "a0b0000000", hex.EncodeToString(content) + "9000"},
		{"case 2, 255 bytes", "a0b00001ff", hex.EncodeToString(content[1:]) + "9000"},
		{"case 3, 255 bytes", "a0d60000ff" + strings.Repeat("5a", 255), "9000"},
	} {
		if got := a.call(application.Request{Call: application.Transmit, Data: unhex(tt.cmd)}).Data; hex.EncodeToString(got) != tt.want {
			t.Errorf("%s: %s is answered with %x, want %s", tt.what, tt.cmd, got, tt.want)
		}
	}
	for what, cmd := range map[string][]byte{
		"3 bytes": unhex("a0a400"), "too much data": unhex("a0a40000013f0000"),
		"extended length": append(unhex("00d60000000100"), make([]byte, 256)...), "300 bytes": make([]byte, 300),
	} {
		if code := a.transmit(soon, cmd).Code; code == application.OK {
			t.Errorf("%s: it was sent", what)
		}
		a.exchange("a0040000", "9804")
	}
	if got := a.call(application.Request{Call: application.Features}).Data; len(got) != 0 {
		t.Errorf("features %x, want none", got)
	}

	// What is selected is not after a reset, be it warm or cold.
	for _, how := range []uint32{application.Warm, application.Unpower} {
		a.reconnects(how, twin)
		a.exchange("a0b0000009", "9400")
		a.likeTwin(twin, 10)
	}
	a.reconnects(application.Leave, twin)
}
