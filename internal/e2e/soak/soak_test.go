// SPDX-License-Identifier: GPL-2.0-or-later

// Package soak has real programs live through faults by seed for as long as wanted, under a swarm that judges each answer, and looks
// for what they lose meanwhile: memory, goroutines, descriptors, speed.
package soak

import (
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/simulator/swarm"
	"remsim/internal/slot"
)

// durationEnv is how long TestSoak takes, and seedEnv what it chooses.
const (
	durationEnv = "REMSIM_SOAK"
	seedEnv     = "REMSIM_SEED"
)

var bin string // directory of the programs

func TestMain(m *testing.M) {
	os.Exit(rig.Run(func(dir string) int { bin = dir; return m.Run() }))
}

// TestSources has the sources of all programs among what go test looks at before it takes a
// cached result: the programs are built, not imported.
func TestSources(t *testing.T) {
	if err := rig.Sources("../../.."); err != nil {
		t.Error(err)
	}
}

const (
	bankds     = 3 // with cards in software
	bankdSlots = 16
	firstBankd = 200
	ready      = 60 * time.Second
	settle     = 60 * time.Second
	samples    = 4 // of a program, in each quarter of its time at least
)

// TestSoak runs a server with a file, three bankds, and a swarm of more banks and of clients that use all of them; maps move,
// modems send commands, connections are cut or hang, and programs are killed, stopped for a while, or ended and started again. The
// swarm judges. Server and first bankd live through the second half, with as many connections all the time: they and the swarm must not
// grow in that time. When the swarm has gone, server and bankd have the goroutines and descriptors that they had before it came.
func TestSoak(t *testing.T) {
	s := newSite(t)
	s.run()
}

// A site is what is soaked.
type site struct {
	t      *testing.T
	dir    string
	length time.Duration
	r      *rand.Rand
	server *program
	bankds []*program
	swarm  *program

	mu      sync.Mutex
	reports []swarm.Report // of the swarm
	faults  map[string]int
}

func newSite(t *testing.T) *site {
	s := &site{t: t, dir: t.TempDir(), length: 20 * time.Second, faults: map[string]int{}}
	seed := uint64(time.Now().UnixNano())
	if text := os.Getenv(durationEnv); text != "" {
		var err error
		if s.length, err = time.ParseDuration(text); err != nil || s.length < 10*time.Second {
			t.Fatalf("%s=%q: want a duration from 10s up, such as 60m", durationEnv, text)
		}
	}
	if text := os.Getenv(seedEnv); text != "" {
		if _, err := fmt.Sscan(text, &seed); err != nil {
			t.Fatalf("%s=%q: want a number", seedEnv, text)
		}
	}
	t.Logf("%s=%v %s=%d", durationEnv, s.length, seedEnv, seed)
	s.r = rand.New(rand.NewPCG(seed, 0))

	alive := []string{"--keepalive-interval", "3s", "--keepalive-timeout", "2s"}
	s.server = s.program("server", "http://127.0.0.1:9997", "listening for RSPRO", "remsim-server",
		append(alive, "-d", "DMAIN,info:DRSPRO,info", "--store", "file:"+filepath.Join(s.dir, "state"))...)
	for i := range bankds {
		id := firstBankd + i
		var slots strings.Builder
		for nr := range bankdSlots {
			fmt.Fprintf(&slots, "%d,%d,%s\n", id, nr, simulator.Profile(id*(slot.Max+1)+nr))
		}
		file := filepath.Join(s.dir, fmt.Sprint(id))
		if err := os.WriteFile(file, []byte(slots.String()), 0o600); err != nil {
			t.Fatal(err)
		}
		metrics := fmt.Sprintf("127.0.0.1:%d", 9700+i)
		s.bankds = append(s.bankds, s.program(fmt.Sprintf("bankd %d", id), "http://"+metrics, "msg=connected", "remsim-bankd",
			append(alive, "-d", "DMAIN,info:DRSPRO,info", "-i", "127.0.0.1", "-b", fmt.Sprint(id), "-n", fmt.Sprint(bankdSlots), "--slots-file", file,
				"-P", fmt.Sprint(9800+i), "--advertise", fmt.Sprintf("127.0.0.1:%d", 9800+i), "--metrics-listen", metrics)...))
	}
	args := append(alive, "swarm", "--banks", "6", "--slots", "20", "--clients", "180", "--churn", "5", "--tpdus", "300", "--faults", "1",
		"--settle", fmt.Sprint(int(settle.Seconds())), "--interval", s.every().String(), "--seed", fmt.Sprint(seed))
	for i := range bankds {
		args = append(args, "--bankd", fmt.Sprintf("%d:%d", firstBankd+i, bankdSlots))
	}
	args[0], args[1], args[2], args[3], args[4] = args[4], args[0], args[1], args[2], args[3] // the command first
	s.swarm = s.program("swarm", "", "", "remsim-simulator", args...)
	return s
}

// every is the time between two samples.
func (s *site) every() time.Duration {
	return min(max(s.length/80, 250*time.Millisecond), 10*time.Second)
}

// run is the whole.
func (s *site) run() {
	s.server.start()
	for _, b := range s.bankds {
		b.start()
	}
	watched := []*program{s.server, s.bankds[0]}
	s.settled(watched)
	before := map[*program]sample{}
	for _, p := range watched {
		before[p] = p.look()
	}
	s.swarm.start()
	go s.listen(s.swarm.proc)
	s.await("the swarm works", func() bool { r, ok := s.last(); return ok && r.Phase == swarm.Working })

	begin := time.Now()
	half, end := begin.Add(s.length/2), begin.Add(s.length)
	nextFault, nextSample, nextLine := begin, begin, begin
	// Where the computer is busy, faults take their time, and there have to be samples enough all the same.
	enough := func() bool { return len(s.server.samples) >= 4*samples || time.Since(end) > ready*samples }
	for now := begin; (now.Before(end) || !enough()) && !s.t.Failed(); now = time.Now() {
		if !now.Before(nextSample) {
			nextSample = now.Add(s.every())
			for _, p := range append(watched, s.swarm) {
				p.sample(now.After(half))
			}
		}
		if !now.Before(nextLine) {
			nextLine = now.Add(s.length / 30)
			s.line(now.Sub(begin))
		}
		if !now.Before(nextFault) {
			pause := min(max(s.length/25, time.Second), 20*time.Second)
			nextFault = now.Add(pause/2 + time.Duration(s.r.Int64N(int64(pause))))
			// What was ended before the second half is to be as it was in time for its first samples.
			s.fault(now.Before(half.Add(-min(s.length/4, 30*time.Second))))
		}
		time.Sleep(50 * time.Millisecond)
	}
	s.line(time.Since(begin))
	s.end(watched, before)
}

// fault does something to a program. Server and first bankd aren't ended unless they may be, so that it is seen whether they grow.
func (s *site) fault(ends bool) {
	all := append([]*program{s.server}, s.bankds...)
	p := all[s.r.IntN(len(all))]
	kinds := []string{"stop", "kill", "end"}
	if !ends && (p == s.server || p == s.bankds[0]) {
		kinds = kinds[:1]
	}
	kind := kinds[s.r.IntN(len(kinds))]
	away := time.Duration(s.r.Int64N(int64(min(s.length/10, 8*time.Second))))
	s.faults[kind+" "+strings.Fields(p.name)[0]]++
	switch kind {
	case "stop":
		if err := p.proc.Freeze(); err != nil {
			s.t.Errorf("%s: %v", p.name, err)
		}
		time.Sleep(away)
		if err := p.proc.Signal(syscall.SIGCONT); err != nil {
			s.t.Errorf("%s: %v", p.name, err)
		}
		return
	case "kill":
		p.kill()
	case "end":
		if err := p.proc.Signal(syscall.SIGTERM); err != nil {
			s.t.Errorf("%s: %v", p.name, err)
		}
		if status, err := p.proc.Wait(ready); err != nil || status != 0 {
			s.t.Errorf("%s was asked to end: status %d, %v", p.name, status, err)
			p.proc.Kill()
		}
		p.ended()
	}
	time.Sleep(away / 4)
	p.start()
}

// end has the swarm end, and looks what is left.
func (s *site) end(watched []*program, before map[*program]sample) {
	if err := s.swarm.proc.Signal(syscall.SIGTERM); err != nil {
		s.t.Fatalf("the swarm has ended: %s", tail(s.swarm.proc.Log()))
	}
	status, err := s.swarm.proc.Exit(settle + ready)
	if err != nil || status != 0 {
		s.t.Errorf("the swarm's status is %d, %v: %s", status, err, tail(s.swarm.proc.Log()))
	}
	s.await("the swarm's last report", func() bool { r, ok := s.last(); return ok && r.Phase == swarm.Done })
	for _, p := range watched {
		err := rig.Eventually(ready, p.name+" has what it had before the swarm", func() error {
			now, was := p.look(), before[p]
			if now.goroutines > was.goroutines+3 || now.descriptors > was.descriptors+1 {
				return fmt.Errorf("%v, before %v", now, was)
			}
			return nil
		})
		if err != nil {
			s.t.Error(err)
		}
	}
	s.table(watched)
	for _, p := range append(watched, s.swarm) {
		if err := p.growth(); err != nil {
			s.t.Error(err)
		}
	}
	if s.length >= 5*time.Minute { // in less, whatever else the machine does is in the figures
		if err := drift(s.reports); err != nil {
			s.t.Error(err)
		}
	}
}

// settled waits until the bankds are connected.
func (s *site) settled(watched []*program) {
	s.await("bankds are connected", func() bool {
		peers, err := api().Peers()
		return err == nil && len(peers) == bankds
	})
	time.Sleep(100 * time.Millisecond) // what that has begun ends
}

func api() rig.API {
	return rig.API{Base: "http://127.0.0.1:9997", HTTP: &http.Client{Timeout: ready, Transport: &http.Transport{DisableKeepAlives: true}}}
}

func (s *site) await(what string, ok func() bool) {
	s.t.Helper()
	err := rig.Eventually(2*ready, what, func() error {
		if !ok() {
			return errors.New("not yet")
		}
		return nil
	})
	if err != nil {
		s.t.Fatal(err)
	}
}

// listen keeps the swarm's reports.
func (s *site) listen(p *rig.Proc) {
	for line := range p.Lines {
		var r swarm.Report
		if err := json.Unmarshal([]byte(line), &r); err != nil {
			s.t.Errorf("the swarm reports %q: %v", line, err)
		}
		s.mu.Lock()
		s.reports = append(s.reports, r)
		s.mu.Unlock()
	}
}

func (s *site) last() (r swarm.Report, ok bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.reports) == 0 {
		return r, false
	}
	return s.reports[len(s.reports)-1], true
}

// tail is the end of a log.
func tail(s string) string { return s[max(0, len(s)-4000):] }
