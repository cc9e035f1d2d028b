// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"reflect"
	"strings"
	"testing"
	"time"
)

func TestParse(t *testing.T) {
	for _, tt := range []struct {
		line string
		want command
		err  string // what the error says, "" for none
	}{
		{"pull 0", command{verb: "pull"}, ""},
		{" insert \t 2 ", command{verb: "insert", card: 2}, ""},
		{"swap 1", command{verb: "swap", card: 1}, ""},
		{"hang 1", command{verb: "hang", card: 1}, ""},
		{"mute 1", command{verb: "mute", card: 1}, ""},
		{"short 1", command{verb: "short", card: 1}, ""},
		{"long 1", command{verb: "long", card: 1}, ""},
		{"release 1", command{verb: "release", card: 1}, ""},
		{"atr 1 3B00", command{verb: "atr", card: 1, atr: []byte{0x3b, 0}}, ""},
		{"pcscd kill", command{verb: "pcscd kill"}, ""},
		{"pcscd start", command{verb: "pcscd start"}, ""},
		{"pcscd start 16", command{verb: "pcscd start", readers: 16}, ""},
		{"pcscd stop", command{verb: "pcscd stop"}, ""},
		{"pcscd continue", command{verb: "pcscd continue"}, ""},

		{"", command{}, `no command ""`},
		{"pull", command{}, "pull: 0 arguments, want 1"},
		{"pull 1 2", command{}, "pull: 2 arguments, want 1"},
		{"pull 3", command{}, `card "3": want 0..2`},
		{"pull -1", command{}, `card "-1": want 0..2`},
		{"pull x", command{}, `card "x": want 0..2`},
		{"pull 99999999999999999999", command{}, "want 0..2"},
		{"push 1", command{}, `no command "push"`},
		{"PULL 1", command{}, `no command "PULL"`},
		{"atr 1", command{}, "atr: 1 arguments, want 2"},
		{"atr 1 3b0", command{}, `ATR "3b0": want 1..64 bytes in hexadecimal`},
		{"atr 1 " + strings.Repeat("3b", 65), command{}, "want 1..64 bytes"},
		{"atr 3 3b", command{}, `card "3": want 0..2`},
		{"pcscd", command{}, `no command "pcscd"`},
		{"pcscd bake", command{}, `no command "pcscd bake"`},
		{"pcscd kill now", command{}, "pcscd kill: 1 arguments, want 0"},
		{"pcscd start 0", command{}, `readers "0": want 1..16`},
		{"pcscd start 17", command{}, `readers "17": want 1..16`},
	} {
		got, err := parse(tt.line, 3)
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) {
				t.Errorf("%q: %v, want %s", tt.line, err, tt.err)
			}
			continue
		}
		if err != nil || !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.line, got, err, tt.want)
		}
	}
}

// Each command that is described is one, and the other way round.
func TestCommands(t *testing.T) {
	r := strings.NewReplacer(" N", " 1", " HEX", " 3b00", "[R]", "4")
	described := 0
	for line := range strings.Lines(Commands) {
		form, _, _ := strings.Cut(strings.TrimSpace(line), "  ")
		if _, err := parse(r.Replace(form), 3); err != nil {
			t.Errorf("%q: %v", form, err)
		}
		described++
	}
	if described != 13 {
		t.Errorf("%d commands", described)
	}
}

func FuzzParse(f *testing.F) {
	for line := range strings.Lines(Commands) {
		f.Add(line)
	}
	f.Add("atr 1 3b00")
	f.Add("pcscd start 4")
	f.Fuzz(func(t *testing.T, line string) {
		c, err := parse(line, 3)
		if err != nil {
			if !reflect.DeepEqual(c, command{}) {
				t.Errorf("%q: %+v and %v", line, c, err)
			}
			return
		}
		if c.card < 0 || c.card >= 3 || c.readers < 0 || c.readers > MaxCards || len(c.atr) > 64 || c.verb == "" {
			t.Errorf("%q: %+v", line, c)
		}
	})
}

// control runs three cards that obey, and returns what sends a line and returns its answer.
func control(t *testing.T) (obey func(string) string, readers func(int) *reader) {
	t.Helper()
	first, lns := listenRow(t)
	in, w := io.Pipe()
	out, answers := io.Pipe()
	run(t, func(ctx context.Context) {
		c := Config{Addr: first, Count: 3, Control: in, Answers: answers, Log: quiet()}
		if err := Cards(ctx, c); !errors.Is(err, context.Canceled) {
			t.Errorf("Cards: %v", err)
		}
		answers.Close()
	})
	t.Cleanup(func() { w.Close() })
	lines := bufio.NewScanner(out)
	return func(line string) string {
		t.Helper()
		if _, err := fmt.Fprintln(w, line); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() {
			t.Fatalf("%q: no answer", line)
		}
		return lines.Text()
	}, func(i int) *reader { return accept(t, lns[i]) }
}

func TestControl(t *testing.T) {
	obey, reader := control(t)
	ok := func(line string) {
		t.Helper()
		if got := obey(line); got != "ok "+line {
			t.Errorf("%q: %q", line, got)
		}
	}
	r := reader(1)
	good := iccid(r)
	ok("short 1")
	if got := iccid(r); got != "90" {
		t.Errorf("a short answer: %s", got)
	}
	ok("long 1")
	if got := iccid(r); len(got) != 600 {
		t.Errorf("a long answer: %s", got)
	}
	ok("atr 1 3b01ff")
	if got := r.ask(atrWanted); got != "3b01ff" {
		t.Errorf("ATR %s", got)
	}
	ok("hang 1")
	r.send(0xa0, 0xb0, 0, 0, 10)
	r.silent()
	ok("release 1")
	if got := r.read(); got != good {
		t.Errorf("late answer %s", got)
	}
	if got := r.ask(atrWanted); got == "3b01ff" {
		t.Errorf("ATR %s", got)
	}
	ok("mute 1")
	if got := r.ask(0xa0, 0xb0, 0, 0, 10); got != "" {
		t.Errorf("a mute card answers %s", got)
	}
	ok("release 1")
	r = reader(1)
	ok("pull 1")
	r.gone()
	ok("insert 1")
	r = reader(1)
	if got := obey("  swap   1"); got != "ok swap 1 iccid=8988211000000000101 imsi=001010000000101" {
		t.Error(got)
	}
	r.gone()
	if got := iccid(reader(1)); got != "988812010000000001f19000" {
		t.Errorf("the swapped card: %s", got)
	}
	if got := obey("swap 1"); !strings.Contains(got, "iccid=8988211000000000201") {
		t.Error(got)
	}
	// Others don't notice.
	if got := iccid(reader(2)); got != "988812010000000000f29000" {
		t.Errorf("another card: %s", got)
	}

	for line, want := range map[string]string{
		"pull 3":          `error pull: card "3": want 0..2`,
		"bogus":           `error no command "bogus"`,
		"pcscd kill":      "error this program has no pcscd",
		"\n# x\n\npull 9": `error pull: card "9": want 0..2`,
	} {
		if got := obey(line); got != want {
			t.Errorf("%q: %q, want %q", line, got, want)
		}
	}
}

// Cards stay when there are no more commands.
func TestControlEnds(t *testing.T) {
	first, lns := listenRow(t)
	var answers bytes.Buffer
	logged := make(lines, 16)
	logger := quiet()
	logger.SetOutput(logged)
	t.Run("cards", func(t *testing.T) {
		run(t, func(ctx context.Context) {
			_ = Cards(ctx, Config{
				Addr: first, Count: 1, Control: strings.NewReader("short 0\n" + strings.Repeat("x", 1<<17)), Answers: &answers, Log: logger,
			})
		})
		r := accept(t, lns[0])
		end := time.After(soon)
		for iccid(r) != "90" {
			select {
			case <-end:
				t.Fatal("the first command isn't obeyed")
			default:
			}
		}
		for said := false; !said; {
			select {
			case line := <-logged:
				said = strings.Contains(line, "no more commands")
			case <-end:
				t.Fatal("the end of the commands isn't logged")
			}
		}
		iccid(r)
	})
	if answers.String() != "ok short 0\n" {
		t.Errorf("answers %q", answers.String())
	}
}

// lines takes what a log writes, a line a time.
type lines chan string

func (l lines) Write(p []byte) (int, error) {
	l <- string(p)
	return len(p), nil
}
