// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"flag"
	"fmt"
	"os"
	"strings"
	"testing"
)

var write = flag.Bool("write", false, "write the figures into README.md")

// A tables is a document whose tables can be looked at.
type tables struct {
	t     *testing.T
	file  string
	lines []string
}

func open(t *testing.T, file string) tables {
	t.Helper()
	text, err := os.ReadFile(root + "/" + file)
	if err != nil {
		t.Fatal(err)
	}
	return tables{t, file, strings.Split(string(text), "\n")}
}

// cell returns a cell of the row that begins so, in the table whose head begins with head. Columns count from 1, that of the row's beginning
// being 0.
func (d tables) cell(head, row string, column int) string {
	d.t.Helper()
	in := false
	for _, line := range d.lines {
		cells := strings.Split(strings.Trim(line, "|"), "|")
		first := strings.TrimSpace(cells[0])
		switch {
		case !strings.HasPrefix(line, "|"):
			in = false
		case strings.HasPrefix(first, head):
			in = true
		case in && first == row && column < len(cells):
			return strings.TrimSpace(cells[column])
		}
	}
	d.t.Errorf("%s has no table %q with a row %q of more than %d columns", d.file, head, row, column)
	return ""
}

// figures returns the table of README.md as the documents have its figures. What is said of the C suite and isn't in them was seen with
// its version 1.1.3.
func figures(t *testing.T) string {
	p, r := open(t, "doc/performance.md"), open(t, "doc/reliability.md")
	const (
		shell = "remsim-client-shell → bankd → pcscd → virtual card"
		st2   = "remsim-client-st2, bankd, softsim"
		raw   = "raw RSPRO → bankd → softsim"
	)
	// A row of reliability.md that says that strangers' frames change nothing, and how many they were.
	const mutated = "200,000 mutated frames to each of server, bankd and REST"
	if got := r.cell("fault", mutated, 1); got != "the session notices nothing" {
		t.Errorf("doc/reliability.md: %s: %s", mutated, got)
	}
	upTo := func(cell, end string) string { before, _, _ := strings.Cut(cell, end); return before }
	perSecond := func(cell string) string {
		n := upTo(cell, "/s")
		if len(n) > 3 && !strings.Contains(n, ",") {
			n = n[:len(n)-3] + "," + n[len(n)-3:]
		}
		return n + "/s"
	}
	memory := func(cell string) string { return strings.TrimPrefix(cell, upTo(cell, ",")+", ") }
	median := func(cell string) string {
		before, after, _ := strings.Cut(cell, ",")
		return before + after[strings.LastIndex(after, " "):]
	}
	var b strings.Builder
	b.WriteString("| | osmo-remsim | remsim | by |\n| --- | --- | --- | --- |\n")
	for _, row := range [][4]string{
		{"16 slots at once: commands", perSecond(p.cell("16 slots", raw, 5)), perSecond(p.cell("16 slots", raw, 1)), "make bench"},
		{"REST: lists of 1,000 maps", p.cell("GET /slotmaps", "1000 maps", 2), perSecond(p.cell("GET /slotmaps", "1000 maps", 1)), "make bench"},
		{"REST: new maps, beside 100,000", "the time grows with each map", perSecond(p.cell("maps", "100000", 3)), "make bench"},
		{"a single command over shell client, bankd and pcscd, median", median(p.cell("way of a SELECT", shell, 3)), p.cell("way of a SELECT", shell, 1), "make bench"},
		{"a single command over SIMtrace2, median", median(p.cell("way of a command", st2, 3)), p.cell("way of a command", st2, 1), "make bench"},
		{"memory of a bankd with 16 slots", memory(p.cell("program", "remsim-bankd", 3)), p.cell("program", "remsim-bankd", 2), "make bench"},
		{"server killed and started: 19,600 maps active with their peers", "maps are lost", "after " + upTo(p.cell("19600 clients", "killed and started: all peers back, all maps ACTIVE", 1), ";"), "make bench"},
		{"frames made wrong by chance, sent to a server: " + upTo(mutated, " "), "some single ones end it", "it goes on", "make test-faults"},
		{"bankd killed in a command: a PC/SC application is told", "never", "after " + r.cell("fault", "bankd killed during commands", 2), "make test"},
	} {
		fmt.Fprintf(&b, "| %s | %s | %s | `%s` |\n", row[0], row[1], row[2], row[3])
	}
	return b.String()
}

// TestFigures checks that the figures in README.md are those that were measured.
func TestFigures(t *testing.T) {
	const (
		from = "<!-- figures: go test ./internal/e2e/manual -run TestFigures -write -->\n"
		to   = "<!-- end of figures -->\n"
	)
	text, err := os.ReadFile(root + "/README.md")
	if err != nil {
		t.Fatal(err)
	}
	before, rest, ok := strings.Cut(string(text), from)
	got, after, ok2 := strings.Cut(rest, to)
	if !ok || !ok2 {
		t.Fatalf("README.md has no lines %q and %q", from, to)
	}
	want := "\n" + figures(t) + "\n"
	if t.Failed() || got == want {
		return
	}
	if !*write {
		t.Errorf("README.md has\n%s\nwhere this was measured; write it by go test ./internal/e2e/manual -run TestFigures -write\n%s", got, want)
		return
	}
	if err := os.WriteFile(root+"/README.md", []byte(before+from+want+to+after), 0o644); err != nil {
		t.Fatal(err)
	}
}
