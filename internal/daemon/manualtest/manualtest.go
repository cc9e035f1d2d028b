// SPDX-License-Identifier: GPL-2.0-or-later

// Package manualtest checks the manuals of programs.
package manualtest

import (
	"bytes"
	"os"
	"os/exec"
	"strings"
	"testing"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/daemon"
)

// Check checks that each option of a program, which is what command returns, stands in its manual page and in
// doc/programs.md with something about it, that doc/programs.md is what the program says, that
// mandoc finds nothing wrong with the page, and that there are completions.
func Check(t *testing.T, command func() *cobra.Command) {
	p := program{T: t, command: command}
	page := p.ask("manual", "man")
	doc := p.doc()
	for _, c := range append(p.cmd.Commands(), p.cmd) {
		c.Flags().VisitAll(func(f *pflag.Flag) {
			head := `\fB\-\-` + strings.ReplaceAll(f.Name, "-", `\-`) + `\fR`
			name := "`--" + f.Name
			if f.Shorthand != "" {
				head = `\fB\-` + f.Shorthand + `\fR, ` + head
				name = "`-" + f.Shorthand + "`, " + name
			}
			if !strings.Contains(page, "\n.TP\n"+head) {
				t.Errorf("%s: --%s is not in the manual page", c.CommandPath(), f.Name)
			}
			if !strings.Contains(doc, "\n| "+name+"`") && !strings.Contains(doc, "\n| "+name+" ") {
				t.Errorf("%s: --%s is not in doc/programs.md", c.CommandPath(), f.Name)
			}
			if len(f.Usage) < 8 {
				t.Errorf("%s: --%s: %q says too little", c.CommandPath(), f.Name, f.Usage)
			}
		})
	}

	p.inDoc(p.ask("manual", "markdown"))
	for _, s := range strings.Split(p.ask("manual", "shared"), "\n### ")[1:] { // which stands there once
		p.inDoc("\n### " + s)
	}
	p.lint(page)
	for _, shell := range []string{"bash", "zsh", "fish"} {
		p.ask("completion", shell)
	}
}

// CheckLibrary is Check for what has a manual but no options.
func CheckLibrary(t *testing.T, command func() *cobra.Command) {
	p := program{T: t, command: command}
	p.inDoc(p.ask("manual", "markdown"))
	p.lint(p.ask("manual", "man"))
}

// A program is one whose manual is checked.
type program struct {
	*testing.T
	command func() *cobra.Command
	cmd     *cobra.Command // that was asked last
}

// ask returns what the program says.
func (p *program) ask(args ...string) string {
	p.Helper()
	p.cmd = p.command()
	var out, errOut bytes.Buffer
	if status := daemon.Execute(p.Context(), p.cmd, args, &out, &errOut); status != 0 || out.Len() == 0 || errOut.Len() > 0 {
		p.Fatalf("%q: status %d, %d bytes of output, error %q", args, status, out.Len(), &errOut)
	}
	return out.String()
}

// doc returns doc/programs.md.
func (p *program) doc() string {
	p.Helper()
	file, err := os.ReadFile("../../doc/programs.md")
	if err != nil {
		p.Fatal(err)
	}
	return string(file)
}

// inDoc checks that doc/programs.md has text.
func (p *program) inDoc(text string) {
	p.Helper()
	if !strings.Contains(p.doc(), text) {
		p.Errorf("doc/programs.md isn't up to date, run make man; this is missing:\n%s", text)
	}
}

// lint has mandoc look at a page.
func (p *program) lint(page string) {
	p.Helper()
	lint := exec.CommandContext(p.Context(), "mandoc", "-T", "lint", "-W", "warning,stop")
	lint.Stdin = strings.NewReader(page)
	out, err := lint.CombinedOutput()
	if len(out) == 0 && err != nil {
		p.Errorf("mandoc: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // the page of a version is the same whenever it is built
			p.Error(line)
		}
	}
}
