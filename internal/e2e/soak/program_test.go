// SPDX-License-Identifier: GPL-2.0-or-later

package soak

import (
	"bufio"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator/swarm"
)

// A program is started, and may be ended and started again.
type program struct {
	s       *site
	name    string
	metrics string // where it tells how it is; empty: nowhere
	line    string // of its log when it is ready
	path    string
	args    []string
	proc    *rig.Proc
	samples []sample
}

func (s *site) program(name, metrics, line, path string, args ...string) *program {
	return &program{s: s, name: name, metrics: metrics, line: line, path: path, args: args}
}

// start starts p, until the end of the test.
func (p *program) start() {
	p.s.t.Helper()
	var err error
	if p.proc, err = rig.Start(p.name, filepath.Join(bin, p.path), p.args...); err != nil {
		p.s.t.Fatal(err)
	}
	proc := p.proc
	p.s.t.Cleanup(proc.Kill)
	if p.line == "" {
		return
	}
	if _, err := p.proc.Await(2*ready, p.line); err != nil {
		p.s.t.Fatalf("%v; it says: %s", err, tail(p.proc.Log()))
	}
}

func (p *program) kill() {
	p.proc.Kill()
	p.ended()
}

// ended looks at the log of a program that has ended.
func (p *program) ended() {
	for _, bad := range []string{"panic:", "fatal error:", "DATA RACE"} {
		if log := p.proc.Log(); strings.Contains(log, bad) {
			p.s.t.Errorf("%s: %s", p.name, tail(log[strings.Index(log, bad):]))
		}
	}
}

// A sample is what a program takes at a moment.
type sample struct {
	rss         int // KiB
	goroutines  int
	descriptors int
}

func (v sample) String() string {
	return fmt.Sprintf("%.1f MB, %d goroutines, %d descriptors", float64(v.rss)/1024, v.goroutines, v.descriptors)
}

// look takes a sample.
func (p *program) look() (v sample) {
	u, err := rig.UsageOf(p.proc)
	if err != nil {
		p.s.t.Errorf("%s: %v; it says: %s", p.name, err, tail(p.proc.Log()))
	}
	v = sample{rss: u.RSS, descriptors: u.Descriptors}
	if p.metrics == "" {
		r, _ := p.s.last()
		v.goroutines = r.Goroutines
		return v
	}
	if v.goroutines, err = p.goroutines(); err != nil {
		p.s.t.Errorf("%s: %v", p.name, err)
	}
	return v
}

// goroutines asks p's figures for those.
func (p *program) goroutines() (n int, err error) {
	c := http.Client{Timeout: ready, Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Get(p.metrics + "/metrics")
	if err != nil {
		return 0, err
	}
	defer res.Body.Close()
	for lines := bufio.NewScanner(res.Body); lines.Scan(); {
		if _, err := fmt.Sscanf(lines.Text(), "go_goroutines %d", &n); err == nil {
			return n, nil
		}
	}
	return 0, fmt.Errorf("%s tells no go_goroutines", p.metrics)
}

// sample takes a sample, and keeps it if that is wanted.
func (p *program) sample(keep bool) {
	if v := p.look(); keep {
		p.samples = append(p.samples, v)
	}
}

// quarters returns the medians of the first quarter of samples, and of the last one.
func (p *program) quarters() (first, last sample) {
	n := len(p.samples) / 4
	if n == 0 {
		return first, last
	}
	median := func(some []sample) sample {
		of := func(f func(sample) int) int {
			var all []int
			for _, v := range some {
				all = append(all, f(v))
			}
			slices.Sort(all)
			return all[len(all)/2]
		}
		return sample{
			of(func(v sample) int { return v.rss }), of(func(v sample) int { return v.goroutines }), of(func(v sample) int { return v.descriptors }),
		}
	}
	return median(p.samples[:n]), median(p.samples[len(p.samples)-n:])
}

// growth fails when p takes more at the end than at the beginning, beyond what comes and goes with connections and with
// Go's collection of garbage.
func (p *program) growth() error {
	first, last := p.quarters()
	return grown(p.name, first, last)
}

func grown(name string, first, last sample) error {
	const rssSlack, slack = 16 << 10, 64 // the clients of one of the bankds take 48 goroutines
	switch {
	case first.rss == 0:
		return fmt.Errorf("%s: too few samples", name)
	case last.rss > first.rss+first.rss/4+rssSlack,
		last.goroutines > first.goroutines+first.goroutines/5+slack,
		last.descriptors > first.descriptors+first.descriptors/5+slack:
		return fmt.Errorf("%s has grown: %v, at first %v", name, last, first)
	}
	return nil
}

// working returns the reports of what the swarm did when all had begun, the first quarter and the last one.
func working(all []swarm.Report) (first, last []swarm.Report) {
	all = slices.DeleteFunc(slices.Clone(all), func(r swarm.Report) bool { return r.Phase != swarm.Working || r.TPDUs.N == 0 })
	n := len(all) / 4
	return all[:n], all[len(all)-n:]
}

// medianOf returns the median of the reports' medians, in microseconds.
func medianOf(some []swarm.Report) float64 {
	var all []float64
	for _, r := range some {
		all = append(all, r.TPDUs.Median)
	}
	if len(all) == 0 {
		return 0
	}
	slices.Sort(all)
	return all[len(all)/2]
}

// drift fails when commands take far longer at the end than at the beginning.
func drift(all []swarm.Report) error {
	const slack = 1000 // µs
	first, last := working(all)
	switch a, b := medianOf(first), medianOf(last); {
	case len(first) == 0:
		return fmt.Errorf("too few reports to see whether commands become slower")
	case b > 3*a+slack:
		return fmt.Errorf("a command takes %.0f µs at the end, %.0f µs at the beginning", b, a)
	}
	return nil
}

// line says how things stand.
func (s *site) line(at time.Duration) {
	r, _ := s.last()
	s.t.Logf("%8s %d banks %d clients %d cards; commands %d, median %.0f µs, p99 %.0f µs; moves %d, median %.1f ms; wrong %d | server %v | bankd %v | swarm %v, heap %.1f MB",
		at.Round(time.Second), r.Banks, r.Clients, r.Cards, r.TPDUs.N, r.TPDUs.Median, r.TPDUs.P99, r.Moves.N, r.Moves.Median/1000, r.Wrong,
		s.server.look(), s.bankds[0].look(), s.swarm.look(), float64(r.Heap)/(1<<20))
}

// table writes what there is to say of all of it.
func (s *site) table(watched []*program) {
	var b strings.Builder
	fmt.Fprintf(&b, "| program | first quarter of its time | last quarter |\n| --- | --- | --- |\n")
	for _, p := range append(watched, s.swarm) {
		first, last := p.quarters()
		fmt.Fprintf(&b, "| %s | %v | %v |\n", p.name, first, last)
	}
	first, last := working(s.reports)
	fmt.Fprintf(&b, "| a command, median | %.0f µs | %.0f µs |\n", medianOf(first), medianOf(last))
	r, _ := s.last()
	fmt.Fprintf(&b, "\n%v: %d commands answered (median %.0f µs, p99 %.0f µs), %d without a card, %d whose card went, %d failed; %d moves (median %.1f ms, p99 %.1f ms); %d wrong answers.\n",
		s.length, r.TPDUs.N, r.TPDUs.Median, r.TPDUs.P99, r.NoCard, r.Gone, r.Failed, r.Moves.N, r.Moves.Median/1000, r.Moves.P99/1000, r.Wrong)
	fmt.Fprintf(&b, "Connections cut %d, hung %d; banks killed %d; %d connections made, %d couldn't be; REST without an answer %d; programs: %v.\n",
		r.Cuts, r.Hangs, r.Kills, r.Dialled, r.Refused, r.RESTErrors, s.faults)
	s.t.Log("\n" + b.String())
}
