// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"remsim/internal/slot"
)

func logger(t *testing.T, w io.Writer, bankd bool, args ...string) *logrus.Logger {
	t.Helper()
	var o LogOptions
	fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
	o.Flags(fs, bankd)
	if err := fs.Parse(args); err != nil {
		t.Fatalf("%q: %v", args, err)
	}
	return o.Logger(w)
}

func TestLogLevels(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string // category and level of each line that appears, of all that are written
	}{
		{"", "main/info main/error rspro/info rspro/error rest/info rest/error none/info none/error"},
		{"--log-level 7", "main/error rspro/error rest/error none/error"},
		{"--log-level 8", ""},
		{"-e 7", "main/error rspro/error rest/error none/error"},
		{"--log-level error", "main/error rspro/error rest/error none/error"},
		{"--log-level 1", "main/debug main/info main/error rspro/debug rspro/info rspro/error rest/debug rest/info rest/error none/debug none/info none/error"},
		{"--log-level TRACE", "main/trace main/debug main/info main/error rspro/trace rspro/debug rspro/info rspro/error " +
			"rest/trace rest/debug rest/info rest/error none/trace none/debug none/info none/error"},
		{"-d DRSPRO", "rspro/debug rspro/info rspro/error"},
		{"-d drspro", "rspro/debug rspro/info rspro/error"},
		{"-d DRSPRO,3", "rspro/info rspro/error"},
		{"-d DRSPRO,5", "rspro/info rspro/error"},
		{"-d DRSPRO,trace", "rspro/trace rspro/debug rspro/info rspro/error"},
		{"-d DRSPRO,7:DREST,3", "rspro/error rest/info rest/error"},
		{"-d dr,7", "rspro/error rest/error"}, // with a comma by prefix
		{"-d dr", ""},                         // without one the whole name
		{"-d DMAIN,7", "main/error none/error"},
		{"-d D,7:DREST,1", "main/error rspro/error rest/debug rest/info rest/error none/error"},
		{"-d DNOSUCH", ""},
		{"-d DNOSUCH:DREST,7", "rest/error"},
		{"-d DREST,7 -d DRSPRO,7", "rspro/error"}, // each one begins with all off
		{"-d :DREST,7:", "rest/error"},
		{"-d=", ""},
		{"-d DREST:DRSPRO,1 --log-level 7", "rspro/error rest/error"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			var b bytes.Buffer
			log := logger(t, &b, true, strings.Fields(tt.args)...)
			for _, cat := range []string{"main", "rspro", "rest", "none"} {
				e := logrus.NewEntry(log)
				if cat != "none" {
					e = e.WithField("cat", "D"+strings.ToUpper(cat))
				}
				for _, l := range []logrus.Level{logrus.TraceLevel, logrus.DebugLevel, logrus.InfoLevel, logrus.ErrorLevel} {
					e.Log(l, cat+"/"+l.String())
				}
			}
			var got []string
			for _, m := range regexp.MustCompile(`msg=(\S+)`).FindAllStringSubmatch(b.String(), -1) {
				got = append(got, m[1])
			}
			if s := strings.Join(got, " "); s != tt.want {
				t.Errorf("got  %s\nwant %s", s, tt.want)
			}
		})
	}
}

func TestLogLine(t *testing.T) {
	stamp := `time="?\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}(Z|[+-]\d\d:\d\d)"? `
	line := `level=info msg="listening for RSPRO" addr="127\.0\.0\.1:9998" cat=DRSPRO` + "\n$"
	for _, tt := range []struct {
		name  string
		bankd bool
		args  []string
		want  string
	}{
		{"plain", false, nil, "^" + stamp + line},
		{"bankd", true, nil, "^" + stamp + line},
		{"bankd -T", true, []string{"-T"}, "^" + stamp + line},
		{"bankd without time", true, []string{"--timestamp=false"}, "^" + line},
		{"through the filter", false, []string{"-d", "DRSPRO"}, "^" + stamp + line},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			logger(t, &b, tt.bankd, tt.args...).WithFields(logrus.Fields{"cat": "DRSPRO", "addr": "127.0.0.1:9998"}).Info("listening for RSPRO")
			if !regexp.MustCompile(tt.want).MatchString(b.String()) {
				t.Errorf("%q doesn't match %s", b.String(), tt.want)
			}
		})
	}
}

// whole is a log entry of everything: an error as logrus names it, and values that have a text of their own.
func whole(log *logrus.Logger) {
	log.WithError(errors.New(`reader "A" is gone`)).WithFields(logrus.Fields{
		"cat": "DBANKDW", "slot": slot.Bank{ID: 1, Slot: 5}, "served": 3, "retry": time.Second, "present": false, "readers": []string{"<A>"},
	}).Warn("card\nerror")
}

// A JSON log has an object a line, whose values are text as in the other log, but for numbers,
// truth values and lists.
func TestLogJSON(t *testing.T) {
	for _, args := range [][]string{{"--log-format", "json"}, {"--log-format=json", "-d", "DBANKDW:DMAIN"}} {
		var b bytes.Buffer
		log := logger(t, &b, true, args...)
		before := time.Now().Truncate(time.Millisecond)
		whole(log)
		log.Info("")
		lines := strings.Split(b.String(), "\n")
		if len(lines) != 3 || lines[2] != "" {
			t.Fatalf("%q isn't two lines", b.String())
		}
		for i, want := range []map[string]any{
			{"level": "warning", "msg": "card\nerror", "cat": "DBANKDW", "err": `reader "A" is gone`, "slot": "B1:5", "served": 3.0,
				"retry": "1s", "present": false, "readers": []any{"<A>"}},
			{"level": "info", "msg": "", "cat": "DMAIN"},
		} {
			var got map[string]any
			if err := json.Unmarshal([]byte(lines[i]), &got); err != nil {
				t.Fatalf("%s: %v", lines[i], err)
			}
			text, _ := got["time"].(string)
			if at, err := time.Parse(time.RFC3339, text); err != nil || at.Before(before) || at.After(time.Now()) {
				t.Errorf("time %q: %v", text, err)
			}
			delete(got, "time")
			if !reflect.DeepEqual(got, want) {
				t.Errorf("%s\ngot  %v\nwant %v", lines[i], got, want)
			}
		}
	}
}

// Nobody who gets a text into the log commands the terminal it is shown on.
func TestLogColors(t *testing.T) {
	const evil = "a \"b\\ ü\x1b[2J\r\n\u009b2J\xff\u202e"
	for _, args := range [][]string{nil, {"-d", "DMAIN"}} {
		var b bytes.Buffer
		log := logger(t, &b, true, args...)
		text := log.Formatter.(*formatter).next.(*logrus.TextFormatter)
		text.ForceColors, text.DisableColors = true, false
		log.WithField("text", evil).WithError(errors.New(evil)).Warn(evil)
		got := b.String()
		if !strings.HasPrefix(got, "\x1b[33mWARN\x1b[0m[") || !strings.Contains(got, `] a "b\ ü\x1b[2J\r\n\u009b2J\xff\u202e `) {
			t.Errorf("%q", got)
		}
		ours := strings.NewReplacer("\x1b[33m", "", "\x1b[0m", "").Replace(strings.TrimSuffix(got, "\n"))
		if printable(ours) != ours {
			t.Errorf("%q", ours)
		}
	}
}

// In the journal each line has its priority in front, and the time is the journal's.
func TestLogJournal(t *testing.T) {
	const text = `level=warning msg="card\nerror" cat=DBANKDW err="reader \"A\" is gone" present=false readers="[<A>]" retry=1s served=3 slot="B1:5"`
	for _, tt := range []struct {
		name    string
		args    []string
		journal string // JOURNAL_STREAM; D and I stand for device and inode
		want    string // a regular expression
	}{
		{"text", nil, "D:I", "^<4>" + regexp.QuoteMeta(text) + "\n$"},
		{"through the filter", []string{"-d", "DBANKDW"}, "D:I", "^<4>" + regexp.QuoteMeta(text) + "\n$"},
		{"JSON", []string{"--log-format", "json"}, "D:I", `^<4>\{.*"time":.*\}\n$`},
		{"of another device", nil, "0:I", "^time=[^ ]+ " + regexp.QuoteMeta(text) + "\n$"},
		{"of another file", nil, "D:0", "^time=[^ ]+ " + regexp.QuoteMeta(text) + "\n$"},
		{"no journal", nil, "", "^time=[^ ]+ " + regexp.QuoteMeta(text) + "\n$"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f, err := os.Create(filepath.Join(t.TempDir(), "stderr"))
			if err != nil {
				t.Fatal(err)
			}
			defer f.Close()
			var stat syscall.Stat_t
			if err := syscall.Fstat(int(f.Fd()), &stat); err != nil {
				t.Fatal(err)
			}
			t.Setenv("JOURNAL_STREAM", strings.NewReplacer("D", fmt.Sprint(stat.Dev), "I", fmt.Sprint(stat.Ino)).Replace(tt.journal))
			whole(logger(t, f, true, tt.args...))
			got, err := os.ReadFile(f.Name())
			if err != nil {
				t.Fatal(err)
			}
			if !regexp.MustCompile(tt.want).Match(got) {
				t.Errorf("%q doesn't match %s", got, tt.want)
			}
		})
	}
	for l, want := range map[logrus.Level]string{
		logrus.ErrorLevel: "<3>", logrus.WarnLevel: "<4>", logrus.InfoLevel: "<6>", logrus.DebugLevel: "<7>", logrus.TraceLevel: "<7>",
	} {
		if got := priority(l); got != want {
			t.Errorf("priority(%v) = %s, want %s", l, got, want)
		}
	}
}

// The line of a program that fails has the form of its log.
func TestFailureLine(t *testing.T) {
	failed := func(context.Context) error { return errors.New("port in use") }
	_, status, _, errOut := execute(t, failed, "-i", "h", "--log-format", "json")
	var got map[string]string
	if err := json.Unmarshal([]byte(errOut), &got); err != nil || status != 1 {
		t.Fatalf("status %d, %q: %v", status, errOut, err)
	}
	if got["level"] != "error" || got["cat"] != "DMAIN" || got["msg"] != "remsim-test: port in use" || got["time"] == "" {
		t.Errorf("%v", got)
	}

	r, w, err := os.Pipe()
	if err != nil {
		t.Fatal(err)
	}
	defer r.Close()
	var stat syscall.Stat_t
	if err := syscall.Fstat(int(w.Fd()), &stat); err != nil {
		t.Fatal(err)
	}
	t.Setenv("JOURNAL_STREAM", fmt.Sprintf("%d:%d", stat.Dev, stat.Ino))
	Execute(t.Context(), testCommand(new(settings), failed), []string{"-i", "h"}, io.Discard, w)
	w.Close()
	if line, err := io.ReadAll(r); err != nil || string(line) != "<3>remsim-test: port in use\n" {
		t.Errorf("%q, %v", line, err)
	}
}

type countingWriter int

func (w *countingWriter) Write(b []byte) (int, error) { *w++; return len(b), nil }

// What is filtered out costs no write; what is below every category's level isn't even formatted.
func TestLogCost(t *testing.T) {
	var writes countingWriter
	log := logger(t, &writes, false, "-d", "DRSPRO,1:DREST,7")
	log.WithField("cat", "DREST").Info("filtered out")
	log.WithField("cat", "DMAIN").Error("filtered out")
	if writes != 0 {
		t.Errorf("%d writes for entries that were filtered out", writes)
	}
	if log.IsLevelEnabled(logrus.TraceLevel) {
		t.Error("trace is on and no category wants it")
	}
	log.WithField("cat", "DREST").Error("written")
	if writes != 1 {
		t.Errorf("%d writes for an entry", writes)
	}
}

func FuzzParseDebug(f *testing.F) {
	for _, s := range []string{"", ":", ",", "DMAIN", "DMAIN,1", "DMAIN,1:DRSPRO:DREST,7", "D,3:,8", "DMAIN,,1", "DMAIN,99", "dmain,Trace", "ſ,1", "\x00\xff,1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		rules, err := parseDebug(s)
		if err != nil {
			if rules != nil || !strings.Contains(s, ",") {
				t.Fatalf("%q: %v, %v", s, rules, err)
			}
			return
		}
		// What was read, written out and read again, is the same.
		text := formatDebug(rules)
		again, err := parseDebug(text)
		if err != nil || formatDebug(again) != text {
			t.Fatalf("%q: %q became %v (%v)", s, text, again, err)
		}
		for _, r := range rules {
			r.matches("DMAIN")
			if !r.matches(r.name) {
				t.Fatalf("%q: rule %+v doesn't match its own name", s, r)
			}
		}
	})
}
