// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"bytes"
	"context"
	"strings"
	"testing"

	"github.com/spf13/cobra"
)

// Each construct of Markdown that manuals may have, as roff.
func TestRoff(t *testing.T) {
	for _, tt := range []struct{ name, in, want string }{
		{"paragraphs", "one\ntwo\n\nthree", "one\ntwo\n.PP\nthree"},
		{"what roff would take for a request", ".so it\n'is", "\\&.so it\n\\&'is"},
		{"dash and backslash", `a-b c:\d`, `a\-b c:\ed`},
		{"inline", "`-p 1`, **so `x`**, [here](#there), `a\\|b`, _, \\_", `\fB\-p 1\fR, \fBso \fBx\fR\fR, here, \fBa|b\fR, _, _`},
		{"list", "- one\n  and\n- two\n\nend", ".IP \\(bu 2\none\nand\n.IP \\(bu 2\ntwo\n.PP\nend"},
		{"code", "so:\n\n    .a  `b`\n    c\n\nend", "so:\n.PP\n.in +4n\n.nf\n\\&.a  `b`\nc\n.fi\n.in\n.PP\nend"},
		{"code first", "```\n\n\\n\n```\nend", ".in +4n\n.nf\n\n\\en\n.fi\n.in\n.PP\nend"},
		{"table", "so:\n\n| a | b | c |\n| --- | --- | --- |\n| `x \\| y` | z | 1 |\n| u | v | |\nend",
			"so:\n.TP\n\\fBx | y\\fR\nz; 1\n.TP\nu\nv\n.PP\nend"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var r roff
			r.markdown(tt.in)
			if got := strings.TrimSuffix(r.String(), "\n"); got != tt.want {
				t.Errorf("%q\ngot  %q\nwant %q", tt.in, got, tt.want)
			}
		})
	}
}

func TestManual(t *testing.T) {
	write := func(args ...string) (status int, stdout, stderr string) {
		cmd := testCommand(new(settings), func(context.Context) error { t.Error("ran"); return nil })
		cmd.Long = "It is for tests."
		cmd.Example = "    remsim-test -i h\n      more"
		Manual(cmd, 8, "### Files\n\nNone.\n\n### See also\n\ntest(8)\n", "### Shared\n\nText.\n")
		var out, errOut bytes.Buffer
		status = Execute(t.Context(), cmd, args, &out, &errOut)
		return status, out.String(), errOut.String()
	}

	_, page, _ := write("manual", "man")
	var titles []string
	for line := range strings.Lines(page) {
		if title, ok := strings.CutPrefix(line, ".SH "); ok {
			titles = append(titles, strings.TrimSpace(title))
		}
	}
	if got, want := strings.Join(titles, ", "), "NAME, SYNOPSIS, DESCRIPTION, OPTIONS, EXAMPLES, FILES, SHARED, EXIT STATUS, SIGNALS, LOG, SEE ALSO"; got != want {
		t.Errorf("sections\n%s, want\n%s", got, want)
	}
	for _, want := range []string{
		".TH REMSIM\\-TEST 8 \"\" \"remsim " + Version() + "\"",
		"\nremsim\\-test \\- a program of this test\n",
		"\n\\fBremsim\\-test\\fR \\fB\\-i\\fR \\fIhost\\fR [\\fIOPTION\\fR]...\n",
		"\n.TP\n\\fB\\-i\\fR, \\fB\\-\\-server\\-host\\fR \\fIhost\\fR\nHost of the server; mandatory.\n",
		"\n.TP\n\\fB\\-\\-card\\-timeout\\fR \\fI1s..1h\\fR\nTime for a card (default 30s).\n",
		"\nremsim\\-test \\-i h\n  more\n",
	} {
		if !strings.Contains(page, want) {
			t.Errorf("%q is missing in\n%s", want, page)
		}
	}

	_, text, _ := write("manual", "markdown")
	for _, want := range []string{
		"## remsim-test\n\nIt is for tests.\n\n| option | meaning | default |\n| --- | --- | --- |\n| `-i`, `--server-host host` | host of the server; mandatory |  |\n",
		"\n### Examples\n\n```\nremsim-test -i h\n  more\n```\n\n### Files\n\nNone.\n\n### See also\n\ntest(8)\n",
	} {
		if !strings.Contains(text, want) {
			t.Errorf("%q is missing in\n%s", want, text)
		}
	}
	_, shared, _ := write("manual", "shared")
	for _, option := range []string{"`--log-format text\\|json`", "`-h`, `--help`", "`-V`, `--version`"} {
		if strings.Contains(text, option) || !strings.Contains(shared, option) {
			t.Errorf("%s should be with what is shared, and there only", option)
		}
	}
	if !strings.Contains(shared, "\n### Shared\n\nText.\n\n### Exit status\n") {
		t.Errorf("shared:\n%s", shared)
	}

	for _, args := range []string{"manual", "manual tex", "manual man -i"} {
		if status, out, errOut := write(strings.Fields(args)...); status != 2 || out != "" || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: status %d, output %q, error %q", args, status, out, errOut)
		}
	}
	cmd := &cobra.Command{Use: "remsim-test", RunE: func(*cobra.Command, []string) error { return nil }}
	if status := Execute(t.Context(), cmd, []string{"manual", "man"}, new(bytes.Buffer), new(bytes.Buffer)); status != 2 {
		t.Errorf("without a manual: status %d", status)
	}
}

// A program without a log has nothing about logs in its manual.
func TestManualWithoutLog(t *testing.T) {
	cmd := &cobra.Command{Use: "remsim-test", Short: "Test", RunE: func(*cobra.Command, []string) error { return nil }}
	Manual(cmd, 1, "")
	var out bytes.Buffer
	Execute(t.Context(), cmd, []string{"manual", "man"}, &out, new(bytes.Buffer))
	for title, want := range map[string]bool{"EXIT STATUS": true, "SIGNALS": false, "LOG": false} {
		if strings.Contains(out.String(), ".SH "+title+"\n") != want {
			t.Errorf("section %s: want %v in\n%s", title, want, &out)
		}
	}
}
