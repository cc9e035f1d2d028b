// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"slices"
	"strings"
	"testing"
)

func TestRead(t *testing.T) {
	const (
		pass = `{"Action":"start","Package":"p"}
{"Action":"run","Package":"p","Test":"TestA"}
{"Action":"output","Package":"p","Test":"TestA","Output":"noise\n"}
{"Action":"pass","Package":"p","Test":"TestA","Elapsed":0.1}
`
		end = `{"Action":"output","Package":"p","Output":"ok\n"}
{"Action":"pass","Package":"p","Elapsed":1.5}
`
		failEnd = `{"Action":"output","Package":"p","Output":"exit status 1\n"}
{"Action":"fail","Package":"p","Elapsed":1.5}
`
	)
	for _, tt := range []struct {
		name           string
		in             string
		passed, failed int
		shows, hides   string
	}{
		{"all pass", pass + end, 1, 0, "1 passed", "noise"},
		{"one fails", pass + `{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"b_test.go:1: wrong\n"}
{"Action":"fail","Package":"p","Test":"TestB"}
` + failEnd, 1, 1, "b_test.go:1: wrong", "noise"},
		{"a skipped test has failed", pass + `{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"no card\n"}
{"Action":"skip","Package":"p","Test":"TestB"}
` + end, 1, 1, "no card", "noise"},
		{"a test without an end has failed", pass + `{"Action":"run","Package":"p","Test":"TestB"}
{"Action":"output","Package":"p","Test":"TestB","Output":"panic: oh\n"}
` + failEnd, 1, 1, "panic: oh", "noise"},
		{"the package fails though no test does", pass + failEnd, 1, 1, "exit status 1", "noise"},
		{"it doesn't build", `{"ImportPath":"p [p.test]","Action":"build-output","Output":"# p\nx.go:1: no\n"}
{"ImportPath":"p [p.test]","Action":"build-fail"}
{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"FAIL\tp [build failed]\n"}
{"Action":"fail","Package":"p","Elapsed":0,"FailedBuild":"p [p.test]"}
`, 0, 1, "x.go:1: no", ""},
		{"no tests", `{"Action":"start","Package":"p"}
{"Action":"output","Package":"p","Output":"?   \tp\t[no test files]\n"}
{"Action":"skip","Package":"p","Elapsed":0}
`, 0, 0, "", "p"},
		{"cut off", pass, 1, 1, "1 failed", ""},
		{"nothing", "", 0, 0, "", "p"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var b bytes.Buffer
			got := tally{w: &b}
			if err := got.read(strings.NewReader(tt.in)); err != nil {
				t.Fatal(err)
			}
			if got.passed != tt.passed || got.failed != tt.failed {
				t.Errorf("%d passed, %d failed, want %d, %d", got.passed, got.failed, tt.passed, tt.failed)
			}
			if !strings.Contains(b.String(), tt.shows) || tt.hides != "" && strings.Contains(b.String(), tt.hides) {
				t.Errorf("output %q should have %q and not %q", &b, tt.shows, tt.hides)
			}
		})
	}
	got := said("log\n    b_test.go:1: wrong\n        more\npanic: oh\n")
	if want := []string{"    b_test.go:1: wrong", "    panic: oh"}; !slices.Equal(got, want) {
		t.Errorf("said %q, want %q", got, want)
	}
	if err := (&tally{w: new(bytes.Buffer)}).read(strings.NewReader("not JSON")); err == nil {
		t.Error("no error for what isn't JSON")
	}
}

func TestStep(t *testing.T) {
	for _, tt := range []struct {
		step   step
		passed int
	}{
		{step{args: []string{"true"}}, 1},
		{step{args: []string{"false"}}, 0},
		{step{args: []string{"echo", "x"}}, 1},
		{step{args: []string{"echo", "x"}, quiet: true}, 0},
		{step{args: []string{"sh", "-c", "test $X = 1"}, env: "X=1"}, 1},
		{step{args: []string{"/nonexistent"}}, 0},
	} {
		got := tally{w: new(bytes.Buffer)}
		got.step(tt.step)
		if got.passed != tt.passed || got.failed != 1-tt.passed {
			t.Errorf("%q: %d passed, %d failed", tt.step.args, got.passed, got.failed)
		}
	}
}
