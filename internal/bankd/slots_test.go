// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"remsim/internal/slot"
)

func TestParseSlots(t *testing.T) {
	slots, err := ReadSlots("testdata/slots.csv")
	if err != nil {
		t.Fatal(err)
	}
	want := []Slot{
		{Bank: slot.Bank{ID: 1, Slot: 0}, Line: 3, Spec: "ACS ACR33 ICC Reader 00 00"},
		{Bank: slot.Bank{ID: 1, Slot: 1}, Line: 4, Spec: `sysmocom sysmoOCTSIM \[CCID\] \(ab19180f3335355320202034463a15ff\) [0-9]{2} 01`},
		{Bank: slot.Bank{ID: 1, Slot: 2}, Line: 6, Spec: `a "quoted" name`},
		{Bank: slot.Bank{ID: 2, Slot: 0}, Line: 8, Spec: `Reader (0{1,2}|1)`},
		{Bank: slot.Bank{ID: 1, Slot: 1023}, Line: 9, Spec: "softsim:iccid=89490000000000000011,imsi=262010000000001"},
		{Bank: slot.Bank{ID: 1023, Slot: 3}, Line: 10, Spec: "softsim:iccid=1,imsi=2"},
	}
	if len(slots) != len(want) {
		t.Fatalf("got %d slots, want %d: %v", len(slots), len(want), slots)
	}
	for i, w := range want {
		g := slots[i]
		if g.Software() != strings.HasPrefix(w.Spec, "softsim:") {
			t.Errorf("%v: Software() = %t", g.Bank, g.Software())
		}
		g.Pattern = nil
		if g != w {
			t.Errorf("slot %d: got %+v, want %+v", i, g, w)
		}
	}
}

func TestParseSlotsErrors(t *testing.T) {
	for _, tt := range []struct{ name, data, want string }{
		{"one field", "1", "f:1: bank id: last field of the line, want three"},
		{"two fields", "1,2", "f:1: slot number: last field of the line, want three"},
		{"two fields, quoted", `"1","2"`, "f:1: slot number: last field of the line, want three"},
		{"empty bank id", ",0,x", "f:1: bank id: empty"},
		{"empty pattern", "\n\n1,0,", "f:3: reader pattern: empty"},
		{"empty quoted pattern", `1,0,""`, "f:1: reader pattern: empty"},
		{"bank id too large", "1024,0,x", `f:1: bank id "1024": want 0..1023`},
		{"slot negative", "1,-1,x", `f:1: slot number "-1": want 0..1023`},
		{"slot not a number", "1,x,x", `f:1: slot number "x": want 0..1023`},
		{"open quote", `1,0,"abc`, "f:1: reader pattern: no closing quote"},
		{"text after quote", `"1"0,0,abc`, "f:1: bank id: no comma follows the closing quote"},
		{"fourth field", `"1","0","abc","d"`, "f:1: reader pattern: more follows the third field"},
		{"twice", "1,0,a\n#\n\"1\",\"0\",\"b\"\n", "f:3: bank 1 slot 0 stands in f:1 already"},
		{"twice for another bank", "7,9,a\n7,9,a\n", "f:2: bank 7 slot 9 stands in f:1 already"},
		{"pattern", "1,0,a(b", `f:1: reader pattern "a(b": missing closing ): a(b`},
		{"word edge", `1,0,ab\bc`, `f:1: reader pattern "ab\\bc": character 3: \b isn't supported`},
		{"not a word edge", `1,0,\B`, `f:1: reader pattern "\\B": character 1: \B isn't supported`},
		{"begin of word", `1,0,x\<ab`, `f:1: reader pattern "x\\<ab": character 2: \< isn't supported`},
		{"end of word", `1,0,\>`, `f:1: reader pattern "\\>": character 1: \> isn't supported`},
		{"Perl class", `1,0,a\d`, `f:1: reader pattern "a\\d": character 2: \d isn't supported`},
		{"back reference", `1,0,(a)\1`, `f:1: reader pattern "(a)\\1": character 4: \1 isn't supported`},
		{"backslash at the end", `1,0,a\`, `f:1: reader pattern "a\\": character 2: nothing follows the backslash`},
		{"open bracket", `1,0,x[ab`, `f:1: reader pattern "x[ab": character 2: [ without ]`},
		{"collating", `1,0,[[.a.]]`, `f:1: reader pattern "[[.a.]]": character 1: [.…] isn't supported`},
	} {
		t.Run(tt.name, func(t *testing.T) {
			_, err := ParseSlots("f", tt.data)
			if err == nil || err.Error() != tt.want {
				t.Errorf("got  %v\nwant %s", err, tt.want)
			}
		})
	}
}

// A card in software that is misspelt is no pattern, and its keys are told nobody.
func TestMisspeltSoftware(t *testing.T) {
	const want = `f:1: third field: a card in software begins with "softsim:", written just so`
	for _, spec := range []string{
		"softsim :iccid=1,imsi=2,ki=SECRET(",
		"Softsim:iccid=1,imsi=2,ki=SECRET",
		"SOFTSIM\t : ki=SECRET",
		"soft sim:ki=SECRET",
		"'softsim:ki=SECRET'",
		`" softsim:ki=SECRET"`,
	} {
		if _, err := ParseSlots("f", "1,0,"+spec); err == nil || err.Error() != want {
			t.Errorf("%s: got %v, want %s", spec, err, want)
		}
	}
	for _, line := range []string{`1,0,"softsim:"iccid=1,ki=SECRET`, `1,0,"softsim:ki=SECRET`, `1,"0"softsim:ki=SECRET`} {
		if _, err := ParseSlots("f", line); err == nil || strings.Contains(err.Error(), "SECRET") {
			t.Errorf("%s: got %v", line, err)
		}
	}
	if s, err := ParseSlots("f", "1,0,softsim reader"); err != nil || len(s) != 1 || s[0].Software() {
		t.Errorf("a pattern: %v, %v", s, err)
	}
}

func TestReadSlotsMissing(t *testing.T) {
	file := filepath.Join(t.TempDir(), "none.csv")
	if _, err := ReadSlots(file); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("got %v, want an error that names the file", err)
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, reader string
		want            bool
	}{
		{"ACR33", "ACS ACR33 ICC Reader 00 00", true}, // searched, not anchored
		{"^ACR33", "ACS ACR33 ICC Reader 00 00", false},
		{`\[CCID\] \(ab\) [0-9]{2} 01`, "x [CCID] (ab) 17 01", true},
		{`\[CCID\] \(ab\) [0-9]{2} 01`, "x [CCID] (ab) 7 01", false},
		{`a\wb`, "a_b", true},
		{`a\Wb`, "a_b", false},
		{`a\Wb`, "a-b", true},
		{`a\sb`, "a b", true},
		{`a\Sb`, "a b", false},
		{`[\w]`, "w", true}, // in brackets a backslash is an ordinary character
		{`[\w]`, `\`, true},
		{`[\w]`, "x", false},
		{`a[\]]b`, `a\]b`, true},
		{`[]x]1`, "]1", true},
		{`[^]x]1`, "]1", false},
		{`[[:digit:]]{2}$`, "a 07", true},
		{`^a{,2}$`, "aa", true},
		{`^a{,2}$`, "aaa", false},
		{`a|b`, "xbx", true},
	} {
		re, err := compile(tt.pattern)
		if err != nil {
			t.Errorf("%q: %v", tt.pattern, err)
			continue
		}
		if _, got := (Slot{Pattern: re}).Match([]string{tt.reader}); got != tt.want {
			t.Errorf("%q in %q: got %t", tt.pattern, tt.reader, got)
		}
	}
	re, err := compile("R[12]")
	if err != nil {
		t.Fatal(err)
	}
	if r, _ := (Slot{Pattern: re}).Match([]string{"R0", "R2", "R1"}); r != "R2" {
		t.Errorf("got %q, want the first that matches", r)
	}
}

func FuzzParseSlots(f *testing.F) {
	seed, err := os.ReadFile("testdata/slots.csv")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(string(seed))
	for _, s := range []string{"", "1,0,x", `"1","0","[[:alpha:]]\w{,3}"`, `1,0,"a""b"`, "1,0,[\\]", "1,0,softsim:", "\r\n# c\r\n", `1,0,[`, `1,0,\`} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, data string) {
		slots, err := ParseSlots("f", data)
		if err != nil {
			if !strings.HasPrefix(err.Error(), "f:") {
				t.Errorf("error without file and line: %v", err)
			}
			return
		}
		seen := make(map[slot.Bank]bool)
		for _, s := range slots {
			if !s.Bank.Valid() || s.Spec == "" || s.Line < 1 || seen[s.Bank] {
				t.Errorf("bad slot %+v", s)
			}
			seen[s.Bank] = true
			s.Match([]string{"ACS ACR33 ICC Reader 00 00"})
		}
	})
}
