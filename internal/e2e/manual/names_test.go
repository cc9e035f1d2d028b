// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"io/fs"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// read returns a file of the tree.
func read(t *testing.T, file string) string {
	t.Helper()
	text, err := os.ReadFile(filepath.Join(root, file))
	if err != nil {
		t.Fatal(err)
	}
	return string(text)
}

// TestIncluded checks that the book has every chapter there is.
func TestIncluded(t *testing.T) {
	index := read(t, "doc/manual/index.adoc")
	all := ""
	for _, name := range chapters(t) {
		all += read(t, name)
	}
	for _, name := range chapters(t) {
		base := filepath.Base(name)
		if strings.HasSuffix(base, ".adoc") && base != "index.adoc" && !strings.Contains(all, "\ninclude::"+base+"[]\n") {
			t.Errorf("no chapter of doc/manual includes %s", base)
		}
	}
	documents, err := filepath.Glob(root + "/doc/*.md")
	if err != nil {
		t.Fatal(err)
	}
	for _, d := range documents {
		name := strings.TrimSuffix(filepath.Base(d), ".md")
		if !strings.Contains(index, "\ninclude::{chapters}/"+name+".adoc[]\n") {
			t.Errorf("doc/manual/index.adoc doesn't include doc/%s.md", name)
		}
	}
}

var (
	spans  = regexp.MustCompile("`([^`\n]+)`")
	option = regexp.MustCompile(`(?:^| )(--[a-z][a-z0-9-]*)`)
	// typographic is what AsciiDoc makes other characters of, also in code.
	typographic = regexp.MustCompile(`\w'\w|\.\.\.`)
	section     = regexp.MustCompile(`(?m)^## (remsim-[a-z0-9-]+)$`)
)

// options returns the options that doc/programs.md has, by program; those of all programs are each one's, and "" has all.
func options(t *testing.T) map[string][]string {
	text := read(t, "doc/programs.md")
	has := regexp.MustCompile("`(--[a-z][a-z0-9-]*)")
	found := map[string][]string{"": {"--help", "--version"}}
	starts := section.FindAllStringSubmatchIndex(text, -1)
	for i, s := range starts {
		end := len(text)
		if i+1 < len(starts) {
			end = starts[i+1][0]
		} else if all := strings.Index(text, "\n## All programs"); all > s[0] {
			end = all
		}
		program := text[s[2]:s[3]]
		for _, m := range has.FindAllStringSubmatch(text[s[0]:end], -1) {
			found[program] = append(found[program], m[1])
			found[""] = append(found[""], m[1])
		}
	}
	_, shared, _ := strings.Cut(text, "\n## All programs")
	for _, m := range has.FindAllStringSubmatch(shared, -1) {
		for program := range found {
			found[program] = append(found[program], m[1])
		}
	}
	return found
}

// TestOptions checks that the options are there that the guide's text names; those of commands are run.
func TestOptions(t *testing.T) {
	known, seen := options(t), 0
	for _, name := range chapters(t) {
		for _, span := range spans.FindAllStringSubmatch(read(t, name), -1) {
			words := strings.Fields(span[1])
			program := strings.TrimPrefix(words[0], "osmo-")
			switch {
			case strings.HasPrefix(program, "--"):
				program = ""
			case known[program] == nil:
				continue // somebody else's
			}
			quoted := regexp.MustCompile(`'[^']*'|"[^"]*"`).ReplaceAllString(span[1], "") // somebody else's, too
			for _, m := range option.FindAllStringSubmatch(quoted, -1) {
				seen++
				if !slices.Contains(known[program], m[1]) && m[1] != "--server" { // which is said to be none
					t.Errorf("%s: `%s`: doc/programs.md has no option %s of it", name, span[1], m[1])
				}
			}
		}
	}
	if seen < 20 {
		t.Errorf("only %d options were found", seen)
	}
}

// TestTargets checks that make has the targets that are named.
func TestTargets(t *testing.T) {
	var targets []string
	for _, rule := range regexp.MustCompile(`(?m)^([a-z][a-z -]*):`).FindAllStringSubmatch(read(t, "Makefile"), -1) {
		targets = append(targets, strings.Fields(rule[1])...)
	}
	for _, name := range chapters(t) {
		for _, m := range regexp.MustCompile("`make ([a-z-]+)").FindAllStringSubmatch(read(t, name), -1) {
			if !slices.Contains(targets, m[1]) {
				t.Errorf("%s: there is no make %s", name, m[1])
			}
		}
	}
}

// TestLogLines checks that what the reference and the chapter about trouble have between backticks in the first column of a table is said by a
// program, in their log, errors or names.
func TestLogLines(t *testing.T) {
	var source strings.Builder
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err != nil || !strings.HasSuffix(path, ".go") || strings.HasSuffix(path, "_test.go") {
				return err
			}
			text, err := os.ReadFile(path)
			source.Write(text)
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"reference", "trouble"} {
		text := read(t, "doc/manual/"+name+".adoc")
		if name == "reference" {
			_, text, _ = strings.Cut(text, "[#reference-log]")
		}
		seen := 0
		for line := range strings.Lines(text) {
			first, _, ok := strings.Cut(strings.TrimPrefix(line, "|"), " |")
			if !ok || !strings.HasPrefix(line, "|") {
				continue
			}
			for _, said := range spans.FindAllStringSubmatch(first, -1) {
				if strings.HasPrefix(said[1], "remsim-") || strings.HasPrefix(said[1], "--") || strings.HasPrefix(said[1], "FILE") {
					continue // a command or an option
				}
				seen++
				line := strings.TrimSuffix(strings.TrimPrefix(said[1], "+"), "+") // as it stands
				if !strings.Contains(source.String(), line) {
					t.Errorf("doc/manual/%s.adoc: no program says %q", name, line)
				}
				if line == said[1] && typographic.MatchString(line) {
					t.Errorf("doc/manual/%s.adoc: `%s` is not shown as it is said without + around it", name, line)
				}
			}
		}
		if seen < 10 {
			t.Errorf("doc/manual/%s.adoc: only %d lines were found", name, seen)
		}
	}
}

// TestComplete checks that chapters have all that there is of a kind.
func TestComplete(t *testing.T) {
	for _, tt := range []struct{ chapter, of, pattern string }{
		{"doc/manual/rspro.adoc", "asn1/RSPRO.asn", `(?m)^\t([a-zA-Z]+)\t+\[\d+\] [A-Z][A-Za-z]*(?:Req|Res|Ind|ToCard|ToModem),?$`},
		{"doc/manual/trouble.adoc", "contrib/prometheus/remsim.rules.yml", `alert: (\w+)`},
	} {
		text := read(t, tt.chapter)
		all := regexp.MustCompile(tt.pattern).FindAllStringSubmatch(read(t, tt.of), -1)
		if len(all) < 10 {
			t.Errorf("%s has only %d", tt.of, len(all))
		}
		for _, m := range all {
			if !regexp.MustCompile(`\b` + m[1] + `\b`).MatchString(text) {
				t.Errorf("%s lacks %s of %s", tt.chapter, m[1], tt.of)
			}
		}
	}
}
