// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"strings"
	"testing"
	"time"
)

func TestBuiltin(t *testing.T) {
	s, err := Builtin("init")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Steps) < 80 {
		t.Errorf("%d steps", len(s.Steps))
	}
	if _, err := Builtin("nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
}

func TestParseScript(t *testing.T) {
	s, err := ParseScript("x", strings.NewReader(`
# comment
reset cold 3b*   # and a remark
pts
pts 94
repeat 2
  A0A40000023F00 9F..
  repeat 2
    00b0000001
  end
end
sleep 100ms
reset warm
`))
	if err != nil {
		t.Fatal(err)
	}
	var kinds []Kind
	for _, step := range s.Steps {
		kinds = append(kinds, step.Kind)
	}
	want := []Kind{Cold, PTS, PTS, Command, Command, Command, Command, Command, Command, Sleep, Warm}
	if len(kinds) != len(want) {
		t.Fatalf("steps %v, want %v", kinds, want)
	}
	for i := range want {
		if kinds[i] != want[i] {
			t.Fatalf("steps %v, want %v", kinds, want)
		}
	}
	if c := s.Steps[0]; c.Want != "3b*" || c.Line != 3 {
		t.Errorf("%+v", c)
	}
	if !s.Steps[1].Auto || s.Steps[2].Auto || s.Steps[2].TA1 != 0x94 || s.Steps[3].Want != "9f.." || s.Steps[9].Pause != 100*time.Millisecond {
		t.Errorf("%+v", s.Steps)
	}

	for text, want := range map[string]string{
		"00":                            "x:1: command \"00\"",
		"\n00a4000002":                  "", // a command without data is one
		"00a40000023f":                  "x:1: command",
		"zz":                            "x:1: command \"zz\"",
		"00b0000001 90x0":               "pattern \"90x0\"",
		"00b0000001 9000 9000":          "3 words",
		"reset":                         "words",
		"reset luke":                    "reset \"luke\"",
		"pts 9":                         "pts \"9\"",
		"pts 9495":                      "pts \"9495\"",
		"sleep long":                    "sleep \"long\"",
		"sleep 2h":                      "0s..1h",
		"\n\nrepeat 0":                  "x:3:",
		"repeat":                        "repeat",
		"end":                           "end without repeat",
		"repeat 2\n00b0000001":          "repeat without end",
		"repeat 1000000\npts\npts\nend": "more than 1000000 steps",
	} {
		_, err := ParseScript("x", strings.NewReader(text))
		if want == "" && err != nil || want != "" && (err == nil || !strings.Contains(err.Error(), want)) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
}

func FuzzScript(f *testing.F) {
	f.Add("reset cold\npts\nrepeat 2\na0a40000023f00 9f*\nend\nsleep 1ms\n")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Count(s, "repeat") > 2 {
			return // it would only take long
		}
		script, err := ParseScript("x", strings.NewReader(s))
		if err != nil {
			return
		}
		for _, step := range script.Steps {
			if step.Kind == Command && len(step.Command) < 5 {
				t.Errorf("command %x", step.Command)
			}
		}
	})
}

func FuzzOrder(f *testing.F) {
	for _, s := range []string{"unplug 0", "dfu 1 on", "reset 0 cold", "send 1 a0a40000023f00", "inject 0 irq 00", "fail 0 bulk 3", "run 0 init", "deaf 0 off", ""} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		if o, err := parseOrder(s, 2, 4); err == nil && (o.number < 0 || o.number > 3) {
			t.Errorf("%q: %+v", s, o)
		}
	})
}

func FuzzATR(f *testing.F) {
	f.Add([]byte{0x3b, 0x9e, 0x94, 0x80, 0x1f, 0xc7})
	f.Fuzz(func(t *testing.T, b []byte) {
		_, _ = readATR(func() (byte, error) {
			if len(b) == 0 {
				return 0, &Fault{What: "end"}
			}
			c := b[0]
			b = b[1:]
			return c, nil
		})
		offered(b)
	})
}
