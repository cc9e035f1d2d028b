// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"regexp"
	"strings"
	"time"
)

// An event is a line that go test -json prints (go doc test2json, go help buildjson).
type event struct {
	Action      string
	Package     string
	ImportPath  string // of build events
	Test        string // empty when the event is about the package
	Elapsed     float64
	Output      string
	FailedBuild string // import path of the package that didn't build
}

// A run is a package whose tests run.
type run struct {
	order  []string // names of tests as they began; "" is the package
	output map[string]*strings.Builder
	state  map[string]string // last action: run, pass, fail or skip
}

// read reads go test's events and counts; a package's lines are written when it has ended.
func (t *tally) read(r io.Reader) error {
	runs := map[string]*run{}
	builds := map[string]*strings.Builder{} // output of the compiler by import path
	for dec := json.NewDecoder(r); ; {
		var e event
		if err := dec.Decode(&e); errors.Is(err, io.EOF) {
			return t.unfinished(runs)
		} else if err != nil {
			return err
		}
		switch e.Action {
		case "build-output":
			if builds[e.ImportPath] == nil {
				builds[e.ImportPath] = new(strings.Builder)
			}
			builds[e.ImportPath].WriteString(e.Output)
			continue
		case "build-fail":
			continue // the packages that need it fail, too
		}
		p := runs[e.Package]
		if p == nil {
			p = &run{output: map[string]*strings.Builder{}, state: map[string]string{}}
			runs[e.Package] = p
		}
		if p.output[e.Test] == nil {
			p.output[e.Test] = new(strings.Builder)
			p.order = append(p.order, e.Test)
		}
		switch e.Action {
		case "output":
			p.output[e.Test].WriteString(e.Output)
		case "run", "pass", "fail", "skip":
			p.state[e.Test] = e.Action
			if e.Test == "" {
				delete(runs, e.Package)
				if b := builds[e.FailedBuild]; b != nil {
					p.output[""].WriteString(b.String())
				}
				t.finish(e, p)
			}
		}
	}
}

// finish counts a package's tests. One that was skipped, or didn't come to its end, has failed. A
// package that failed where no test did (it doesn't build, it leaks) counts as one.
func (t *tally) finish(e event, p *run) {
	passed, failed := 0, 0
	var report strings.Builder
	for _, name := range p.order {
		switch state := p.state[name]; {
		case name == "":
		case state == "pass":
			passed++
		default:
			failed++
			fmt.Fprintf(&report, "%s (%s)\n%s", name, state, p.output[name])
			t.reasons = append(t.reasons, fmt.Sprintf("%s %s (%s)", e.Package, name, state))
			t.reasons = append(t.reasons, said(p.output[name].String())...)
		}
	}
	if e.Action == "fail" {
		report.WriteString(p.output[""].String())
		failed = max(failed, 1)
	}
	t.passed += passed
	t.failed += failed
	if passed+failed == 0 {
		return // no tests there
	}
	verdict, what := "ok", fmt.Sprintf("%d passed", passed)
	if failed > 0 {
		verdict, what = "FAIL", fmt.Sprintf("%d passed, %d failed", passed, failed)
	}
	t.line(verdict, e.Package, what, time.Duration(e.Elapsed*float64(time.Second)))
	io.WriteString(t.w, report.String())
}

// A reason is a line that a test has written, rather than a program that it ran.
var reason = regexp.MustCompile(`^\s*\w+_test\.go:\d+: |^panic: `)

// said returns the first lines of a test's output that may say why it failed.
func said(output string) (reasons []string) {
	for line := range strings.Lines(output) {
		if reason.MatchString(line) && len(reasons) < 5 {
			reasons = append(reasons, "    "+strings.TrimSpace(line))
		}
	}
	return reasons
}

// unfinished counts the packages of which no end was seen.
func (t *tally) unfinished(runs map[string]*run) error {
	for name, p := range runs {
		t.finish(event{Action: "fail", Package: name}, p)
	}
	return nil
}
