// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"os/exec"
	"strings"
	"testing"
	"time"
)

// TestParse checks that what nobody knows how to run is an error that names the line.
func TestParse(t *testing.T) {
	for _, tt := range []struct{ name, text, want string }{
		{"a.adoc", "[source,console]\n----\nno command\n----\n", "a.adoc:4: block of line 3: \"no command\": no command is before it"},
		{"a.adoc", "[source,console]\n----\n----\n", "no command in it"},
		{"a.adoc", "[source,perl]\n----\nprint\n----\n", "don't know how to run \"perl\""},
		{"a.adoc", "[source,python]\n----\nprint()\n----\n", "a file has role=file"},
		{"a.adoc", "[source,ini,role=file]\n----\nx=1\n----\n", "without its path"},
		{"a.adoc", "[source,console,role=stay]\n----\n$ x\n----\n", "role=stay"},
		{"a.adoc", "[source,console,terminal=x]\n----\n$ x\n----\n", "terminal=x"},
		{"a.adoc", "[source,console,x]\n----\n$ x\n----\n", `"x"`},
		{"a.adoc", "[source,console,role=stays]\n----\n$ tail -f x\n----\n", "show what it prints"},
		{"a.adoc", "[source,console,status=bad]\n----\n$ x\n----\n", "status=bad"},
		{"a.adoc", "----\n$ x\n----\n", "commands need [source,console]"},
		{"a.adoc", "....\n$ x\n....\n", "commands need [source,console]"},
		{"a.adoc", "text\n\n $ x\n", "a.adoc:3: a command outside of a block"},
		{"a.adoc", "[source,console]\n$ x\n", "without ----"},
		{"a.adoc", "[source,console]\n----\n$ x\n", "without its end"},
		{"a.adoc", "//any: x\n", "without a block"},
		{"a.adoc", "//any: (\n", "missing closing"},
		{"a.adoc", "//setup:\n", "without a command"},
		{"a.md", "text\n\n    x\n", "between fences"},
		{"a.md", "```\n$ x\n```\n", `don't know how to run ""`},
	} {
		_, err := Parse(tt.name, tt.text)
		if err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%q: %v, want %q", tt.text, err, tt.want)
		}
	}
	p, err := Parse("a.md", "<!-- machine -->\n<!-- setup: x -->\n```console term=a role=stays\n$ y \\\n> z\nready\n```\n```sh\nw\n```\n"+
		"<!-- usb -->\n```ini title=/etc/f role=file\nv=1\n```\n")
	if err != nil || len(p) != 2 || p[0].World != Machine || p[1].World != USB || len(p[0].Steps) != 3 || len(p[1].Steps) != 1 {
		t.Fatalf("%v %v", p, err)
	}
	y := p[0].Steps[1]
	if y.Text != "y \\\nz" || y.Terminal != "a" || !y.Stays || p[1].Steps[0].Path != "/etc/f" {
		t.Errorf("%+v %+v", y, p[1].Steps[0])
	}
}

func TestMatches(t *testing.T) {
	for _, tt := range []struct {
		pattern, lines string
		want           bool
	}{
		{"a", "a", true},
		{"a", "b", false},
		{"a b", "a    b ", true},
		{"a", "a\n\n", true},
		{"a", "a\nb", false},
		{"a\nb", "a", false},
		{"", "", true},
		{"…", "", true},
		{"…\nb", "a\na\nb", true},
		{"a\n…", "a", true},
		{"…\nb\n…\nd", "a\nb\nb\nc\nd", true},
		{"…\nb", "a\nc", false},
		{"x … y", "x 1 y", true},
		{"x … y … z", "x 1 y 2 z", true},
		{"x … y", "x 1 z", false},
		{"x …", "y", false},
		{"x … x", "x x", false},
	} {
		if got := Matches(strings.Split(tt.pattern, "\n"), strings.Split(tt.lines, "\n")); got != tt.want {
			t.Errorf("%q is %q: %t", tt.lines, tt.pattern, got)
		}
	}
}

func TestScreen(t *testing.T) {
	got := strings.Join(Screen("\x1b[36mINFO\x1b[0m a\r\n 10%\r100%\r\n\x1b]0;title\ab"), "|")
	if want := "INFO a|100%|b"; got != want {
		t.Errorf("%q, want %q", got, want)
	}
}

// TestRun checks that a page runs whose commands do what is shown, and that each other fails at its line.
func TestRun(t *testing.T) {
	runInProcess(t, &Page{Name: "internal/e2e/manual/testdata/works.adoc"}, 0, t.TempDir())
	shell := func() *exec.Cmd {
		cmd := exec.Command("env", append([]string{"--ignore-signal=INT,QUIT"}, bash...)...) // as in the background
		cmd.Dir = t.TempDir()
		cmd.Env = environment(cmd.Environ()...)
		return cmd
	}
	for _, tt := range []struct {
		name, text, want string
		soon             time.Duration // of what isn't to come, or be repeated, not to wait long
	}{
		{"status", "[source,console]\n----\n$ echo why; (exit 7)\n----\n", "a.adoc:3: echo why; (exit 7): status 7, want 0; it has written:\n\twhy", time.Second},
		{"no failure", "[source,console,status=1]\n----\n$ true\n----\n", "status 0, want 1", time.Second},
		{"output", "[source,console]\n----\n$ echo a\nb\n----\n", "prints\n\ta\nwhere this is shown:\n\tb", time.Second},
		{"more output", "[source,console]\n----\n$ printf 'a\\nb\\n'\na\n----\n", "prints\n\ta\n\tb", time.Second},
		{"script", "[source,sh]\n----\nfalse\ntrue\n----\n", "script: status 1", time.Second},
		{"setup", "//setup: echo why; false\n", "status 1, want 0; it has written:\n\twhy", time.Second},
		{"ends", "[source,console,term=x,role=stays]\n----\n$ echo a; sleep 0.3\na\n----\n//setup: sleep 3\n", "has ended by itself with status 0", soon},
		{"never ready", "[source,console,role=stays]\n----\n$ echo a; sleep 60\nb\n----\n", "not within", time.Second},
		{"no more", "[source,console,term=x,role=stays]\n----\n$ sh -c 'echo a; sleep 60'\na\n----\n[source,console,term=x]\n----\nb\n----\n", "not within", time.Second},
		{"more of nothing", "[source,console,term=x]\n----\nb\n----\n", "nothing goes on", time.Second},
		{"ends badly", "[source,console,role=stays]\n----\n$ sh -c \"trap 'exit 5' INT; echo a; while :; do sleep 0.1; done\"\na\n----\n", "ended with status 5 by Ctrl-C", soon},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			p, err := Parse("a.adoc", tt.text)
			if err != nil || len(p) != 1 {
				t.Fatal(p, err)
			}
			if err := p[0].Run(shell, tt.soon); err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %q", err, tt.want)
			}
		})
	}
}
