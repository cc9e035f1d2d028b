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
// doc/manual.md with something about it, that doc/manual.md is what the program says, that
// mandoc finds nothing wrong with the page, and that there are completions.
func Check(t *testing.T, command func() *cobra.Command) {
	var cmd *cobra.Command
	file, err := os.ReadFile("../../doc/manual.md")
	if err != nil {
		t.Fatal(err)
	}
	doc := string(file)
	ask := func(args ...string) string {
		t.Helper()
		cmd = command()
		var out, errOut bytes.Buffer
		if status := daemon.Execute(t.Context(), cmd, args, &out, &errOut); status != 0 || out.Len() == 0 || errOut.Len() > 0 {
			t.Fatalf("%q: status %d, %d bytes of output, error %q", args, status, out.Len(), &errOut)
		}
		return out.String()
	}

	page := ask("manual", "man")
	for _, c := range append(cmd.Commands(), cmd) {
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
				t.Errorf("%s: --%s is not in doc/manual.md", c.CommandPath(), f.Name)
			}
			if len(f.Usage) < 8 {
				t.Errorf("%s: --%s: %q says too little", c.CommandPath(), f.Name, f.Usage)
			}
		})
	}

	// What programs share stands there once.
	texts := []string{ask("manual", "markdown")}
	for _, s := range strings.Split(ask("manual", "shared"), "\n### ")[1:] {
		texts = append(texts, "\n### "+s)
	}
	for _, s := range texts {
		if !strings.Contains(doc, s) {
			t.Errorf("doc/manual.md isn't up to date, run make man; this is missing:\n%s", s)
		}
	}

	lint := exec.CommandContext(t.Context(), "mandoc", "-T", "lint", "-W", "warning,stop")
	lint.Stdin = strings.NewReader(page)
	out, err := lint.CombinedOutput()
	if len(out) == 0 && err != nil {
		t.Errorf("mandoc: %v", err)
	}
	for line := range strings.Lines(string(out)) {
		if !strings.Contains(line, "missing date") { // the page of a version is the same whenever it is built
			t.Error(line)
		}
	}
	for _, shell := range []string{"bash", "zsh", "fish"} {
		ask("completion", shell)
	}
}
