// SPDX-License-Identifier: GPL-2.0-or-later

// Command check, which make test and make lint build and run, makes all the checks of the project, or those
// of style only:
//
//	.cache/check [lint]
//
// What passes takes a line a package, what fails is shown in full. The last line is
// "N passed, N failed", which also goes into the file .cache/tally; the exit status is 1
// when something failed.
package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"
)

const staticcheck = "honnef.co/go/tools/cmd/staticcheck@v0.8.2"

// scripts names all shell scripts.
const scripts = "git grep -lE '^#!/bin/(ba)?sh( |$)' -- .ci contrib debian"

// packages are all packages; a dot directory is named since "./..." leaves it out.
var packages = []string{"./...", "./.ci/check"}

// built is where the packages are that the tests of packages and manual share, below the top of the tree.
const built = ".cache/packages"

// A step is a command that passes when its exit status is 0 and, with quiet, it prints nothing.
type step struct {
	name  string
	env   string
	args  []string
	quiet bool
}

func lintSteps() []step {
	return []step{
		{name: "gofmt", args: []string{"gofmt", "-l", "cmd", "internal", ".ci"}, quiet: true},
		{name: "go vet", args: append([]string{"go", "vet"}, packages...)},
		{name: "staticcheck", args: append([]string{"go", "run", staticcheck}, packages...)},
		{name: "shellcheck", args: []string{"sh", "-c", scripts + " | xargs shellcheck"}},
	}
}

func main() {
	if len(os.Args) > 2 || len(os.Args) == 2 && os.Args[1] != "lint" {
		fmt.Fprintln(os.Stderr, "usage: check [lint]")
		os.Exit(2)
	}
	t := tally{w: os.Stdout}
	for _, s := range lintSteps() {
		t.step(s)
	}
	if len(os.Args) == 1 {
		t.step(step{name: "build without cgo", env: "CGO_ENABLED=0", args: []string{"go", "build", "./..."}})
		t.step(step{name: "build Debian packages", env: "QUICK=1", args: []string{"sh", "-c", "rm -rf " + built + " && contrib/package " + built}})
		t.tests()
	}
	for _, line := range t.reasons {
		fmt.Println(line)
	}
	last := fmt.Sprintf("%d passed, %d failed\n", t.passed, t.failed)
	err := os.WriteFile(".cache/tally", []byte(last), 0o644)
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	fmt.Print(last)
	if err != nil || t.failed > 0 || t.passed == 0 {
		os.Exit(1)
	}
}

// A tally counts what passed and failed, and writes about it.
type tally struct {
	w              io.Writer
	passed, failed int
	reasons        []string // of the tests that failed, told once more at the end, where they are found
}

// step runs a command that is one check.
func (t *tally) step(s step) {
	start := time.Now()
	cmd := exec.Command(s.args[0], s.args[1:]...)
	if s.env != "" {
		cmd.Env = append(os.Environ(), s.env)
	}
	out, err := cmd.CombinedOutput()
	if err == nil && s.quiet && len(out) > 0 {
		err = fmt.Errorf("it should print nothing")
	}
	if err == nil {
		t.passed++
		t.line("ok", s.name, "", time.Since(start))
		return
	}
	t.failed++
	t.line("FAIL", s.name, err.Error(), time.Since(start))
	fmt.Fprintf(t.w, "$ %s %s\n%s\n", s.env, strings.Join(s.args, " "), out)
}

// greedy are packages whose tests take all processors for minutes: they build much, or run many programs side by side. Tests
// that judge how soon something happens don't run beside them.
var greedy = []string{"remsim/internal/e2e/manual", "remsim/internal/e2e/packages", "remsim/internal/e2e/release"}

// tests runs all tests, the greedy ones last and one package after the other.
func (t *tally) tests() {
	out, err := exec.Command("go", append([]string{"list"}, packages...)...).Output()
	if err != nil {
		t.failed++
		fmt.Fprintln(t.w, "go list:", err)
		return
	}
	test := []string{"test", "-race", "-json", "-timeout", "20m"}
	t.test(append(test, slices.DeleteFunc(strings.Fields(string(out)), func(p string) bool { return slices.Contains(greedy, p) })...))
	t.test(append(append(test, "-p", "1"), greedy...))
}

// test runs go with args, which print go test's JSON, and counts each test.
func (t *tally) test(args []string) {
	cmd := exec.Command("go", args...)
	cmd.Stderr = os.Stderr
	if dir, err := filepath.Abs(built); err == nil {
		cmd.Env = append(os.Environ(), "REMSIM_PACKAGES="+dir)
	}
	out, err := cmd.StdoutPipe()
	if err == nil {
		err = cmd.Start()
	}
	if err != nil {
		t.failed++
		fmt.Fprintln(t.w, err)
		return
	}
	before := t.failed
	if err := t.read(out); err != nil {
		t.failed++
		fmt.Fprintln(t.w, "go test:", err)
	}
	if err := cmd.Wait(); err != nil && t.failed == before {
		t.failed++
		fmt.Fprintln(t.w, "go test:", err)
	}
}

// line writes one line of the summary.
func (t *tally) line(verdict, name, what string, d time.Duration) {
	fmt.Fprintf(t.w, "%-4s %-36s %7.1fs  %s\n", verdict, name, d.Seconds(), what)
}
