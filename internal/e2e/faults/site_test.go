// SPDX-License-Identifier: GPL-2.0-or-later

// Package faults shows how the whole fares when something goes wrong: real programs on hosts of their own, joined by lines that
// can be spoilt, cards behind a real pcscd. The table in doc/reliability.md is about these tests; each logs what it has measured.
package faults

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/rig"
	"remsim/internal/e2e/wan"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

const (
	readers = 16               // of the pcscd of all
	soon    = 60 * time.Second // for what takes well under a second when nothing is wrong
	pace    = 50 * time.Millisecond
	// patience is longer than the longest fault and what follows from it.
	patience = 150 * time.Second

	// The chain shall work again so long after the end of a fault, and where keep-alive has to find out first. Tests
	// take three times that, as the computer may be busy.
	promised  = 5 * time.Second
	keepAlive = 45 * time.Second
	slack     = 3
)

var (
	bin   string       // directory of the programs
	bench *rig.Readers // the pcscd of all, and its cards
)

func TestMain(m *testing.M) {
	os.Exit(rig.Run(func(dir string) int {
		bin = dir
		var err error
		if bench, err = rig.StartReaders(bin, readers); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer bench.Stop()
		// Most of what tests do is to wait.
		flag.Parse()
		if err := flag.Set("test.parallel", "40"); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	}, "-race"))
}

// TestSources has the sources of all programs among what go test looks at before it takes a
// cached result.
func TestSources(t *testing.T) {
	if err := rig.Sources("../../.."); err != nil {
		t.Error(err)
	}
}

// A site is a server, a bankd and clients, each on a host of its own. All end with the test, and when
// that fails their logs are shown.
type site struct {
	t   *testing.T
	dir string
	net *wan.Net
	// The hosts. That of the stranger has nothing yet.
	onServer, onBankd, onClient, onStranger *wan.Host

	api    rig.API
	host   rig.Host // the bankd's pcscd, if it has one of its own
	pcscd  *rig.Proc
	socket string   // of that; "": the bankd uses that of all
	reader string   // pattern of slot 0, which is a reader of that; "": a card in software
	card   int      // of the simulator, that is in slot 0
	more   []string // options of server and bankd

	server, bankd, client *rig.Proc
	user                  *rig.User
	before                map[string]load
}

// cards counts those of the pcscd of all that tests have taken, and pcscds those of sites.
var cards, pcscds atomic.Int32

// withReader makes slot 0 of the bank a reader.
func (s *site) withReader() *site {
	i := int(cards.Add(1)) - 1
	if i >= readers {
		s.t.Fatal("all readers are taken")
	}
	s.card, s.reader = i, rig.Reader(i)
	return s
}

func newSite(t *testing.T) *site {
	t.Helper()
	n, err := wan.New(1, 4)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	s := &site{t: t, dir: t.TempDir(), net: n, card: 50}
	s.onServer, s.onBankd, s.onClient, s.onStranger = n.Host(0), n.Host(1), n.Host(2), n.Host(3)
	s.api = rig.API{Base: "http://127.0.0.1:9997", HTTP: &http.Client{
		Transport: &http.Transport{DisableKeepAlives: true, DialContext: s.onServer.DialContext}, Timeout: soon,
	}}
	return s
}

// start runs a program on a host until the end of the test and fails the test when it logs a data race or a panic.
func (s *site) start(on *wan.Host, name, program string, args ...string) (p *rig.Proc) {
	s.t.Helper()
	path := filepath.Join(bin, program)
	if s.socket != "" {
		path, args = "/usr/bin/env", append([]string{simulator.SocketEnv + "=" + s.socket, path}, args...)
	}
	if err := on.Do(func() (err error) {
		p, err = rig.Start(name, path, args...)
		return err
	}); err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		p.Kill()
		log := p.Log()
		for _, bad := range []string{"DATA RACE", "panic:", "fatal error:"} {
			if strings.Contains(log, bad) {
				s.t.Errorf("%s: %s", name, bad)
			}
		}
		if s.t.Failed() {
			s.t.Logf("--- %s\n%s", name, log[max(0, len(log)-6000):])
		}
	})
	return p
}

func (s *site) startServer() {
	s.t.Helper()
	s.server = s.start(s.onServer, "server", "remsim-server", append([]string{"--store", "file:" + s.store()}, s.more...)...)
	s.eventually("REST answers", func() error { _, err := s.api.SlotMaps(); return err })
}

func (s *site) store() string { return filepath.Join(s.dir, "store", "state") }

func (s *site) startBankd() {
	s.t.Helper()
	first := s.reader
	if first == "" {
		first = simulator.Profile(s.card).String()
	}
	file := filepath.Join(s.dir, "slots.csv")
	text := fmt.Sprintf("1,0,%q\n1,1,%q\n", first, simulator.Profile(s.card+1))
	if err := os.WriteFile(file, []byte(text), 0o644); err != nil {
		s.t.Fatal(err)
	}
	args := append([]string{"-i", s.onServer.Addr, "-b", "1", "-n", "2", "--slots-file", file}, s.more...)
	s.bankd = s.start(s.onBankd, "bankd", "remsim-bankd", args...)
}

// startClient starts client 1 and its user.
func (s *site) startClient() {
	s.t.Helper()
	s.client, s.user = s.use(1, s.card)
}

// use starts a client and a user of a card with it.
func (s *site) use(client, card int) (*rig.Proc, *rig.User) {
	s.t.Helper()
	p := s.start(s.onClient, fmt.Sprintf("client%d", client), "remsim-client-shell", "-i", s.onServer.Addr, "-c", fmt.Sprint(client))
	u := rig.Use(p, client, twinOf(card), pace, patience)
	s.t.Cleanup(func() {
		p.Kill()
		_ = u.End() // it has ended before, but in a test that has failed
	})
	return p, u
}

func twinOf(card int) *softsim.Card { return softsim.New(simulator.Profile(card)) }

// chain starts all, has the client use the card of slot 0, and notes what the programs take of their hosts then.
func (s *site) chain() *site {
	s.t.Helper()
	if err := os.MkdirAll(filepath.Dir(s.store()), 0o755); err != nil {
		s.t.Fatal(err)
	}
	s.startServer()
	s.create(0, 1)
	s.startBankd()
	s.startClient()
	s.works(20, soon)
	s.renew(soon) // so that all has been used
	s.before = s.loads()
	return s
}

func mapOf(nr, client int) slot.Map {
	return slot.Map{Bank: slot.Bank{ID: 1, Slot: uint16(nr)}, Client: slot.Client{ID: uint16(client)}}
}

func (s *site) create(nr, client int) {
	s.t.Helper()
	if err := s.api.Create(mapOf(nr, client)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(nr int) {
	s.t.Helper()
	if err := s.api.Delete(mapOf(nr, 0).Bank); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) await(p *rig.Proc, parts ...string) {
	s.t.Helper()
	if _, err := p.Await(soon, parts...); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) eventually(what string, ask func() error) {
	s.t.Helper()
	if err := rig.Eventually(soon, what, ask); err != nil {
		s.t.Fatal(err)
	}
}

// works waits for n more answers.
func (s *site) works(n int, d time.Duration) {
	s.t.Helper()
	if _, err := s.user.Await(s.user.Counts(), rig.Counts{Answers: n}, d); err != nil {
		s.t.Fatal(err)
	}
}

// renew removes the map of client 1, and makes it again when the bankd has confirmed that: server, bankd and client all have to be
// told, and to talk to each other.
func (s *site) renew(d time.Duration) {
	s.t.Helper()
	before := s.user.Counts()
	s.remove(0)
	if err := rig.Eventually(d, "the removal is confirmed", func() error {
		var list struct {
			SlotMaps []struct {
				Bank struct{ BankID, SlotNr uint16 }
			}
		}
		if err := s.api.Get("/api/v2/slotmaps", &list); err != nil {
			return err
		}
		for _, m := range list.SlotMaps {
			if m.Bank.BankID == 1 && m.Bank.SlotNr == 0 {
				return errors.New("it's still there")
			}
		}
		return nil
	}); err != nil {
		s.t.Fatal(err)
	}
	s.create(0, 1)
	if _, err := s.user.Await(before, rig.Counts{ATRs: 1}, d); err != nil {
		s.t.Fatal(err)
	}
	s.works(3, d)
}

// endure waits while a fault lasts, and checks that the session doesn't notice it or, unless it is quiet, that it does. It logs when the first
// command failed.
func (s *site) endure(d time.Duration, quiet bool) {
	s.t.Helper()
	before, begin := s.user.Counts(), time.Now()
	if _, err := s.user.Await(before, rig.Counts{Lost: 1}, d); err == nil {
		s.t.Logf("MEASURED a command failed after %.1f s", time.Since(begin).Seconds())
	}
	time.Sleep(d - time.Since(begin))
	switch now := s.user.Counts(); {
	case quiet && (now.Lost > before.Lost || now.ATRs > before.ATRs || now.Answers < before.Answers+10):
		s.t.Errorf("the session has noticed: %+v, before %+v", now, before)
	case !quiet && now.Answers > before.Answers+2:
		s.t.Errorf("there is no fault: %+v, before %+v", now, before)
	}
}

// unnoticed checks that the session hasn't noticed anything since before.
func (s *site) unnoticed(before rig.Counts) {
	s.t.Helper()
	if now := s.user.Counts(); now.Lost > before.Lost || now.ATRs > before.ATRs {
		s.t.Errorf("the session has noticed: %+v, before %+v", now, before)
	}
}

// again is called at the end of a fault. It logs how long it takes until commands are answered again, and until a new map works, which is at most
// what was promised, with slack.
func (s *site) again(promised time.Duration) {
	s.t.Helper()
	begin := time.Now()
	s.works(3, slack*promised)
	answers := time.Since(begin)
	s.renew(slack * promised)
	all := time.Since(begin)
	s.t.Logf("MEASURED answers again after %.1f s, a new map works after %.1f s; %+v", answers.Seconds(), all.Seconds(), s.user.Counts())
	if all > slack*promised {
		s.t.Errorf("that is later than %d times %v", slack, promised)
	}
}

// check ends the test: all is as it was before the fault, server and bankd agree, and when the map is removed no card is held.
func (s *site) check() {
	s.t.Helper()
	s.eventually("server and bankd agree", func() error {
		has, err := s.reported()
		if err != nil {
			return err
		}
		return s.agree(has)
	})
	for name, was := range s.before {
		s.eventually(name+" takes what it took", func() error {
			is, err := s.load(name)
			if err == nil && (is.goroutines > was.goroutines || is.descriptors > was.descriptors) {
				err = fmt.Errorf("%+v, before the fault %+v", is, was)
			}
			return err
		})
	}
	if err := s.user.End(); err != nil {
		s.t.Error(err)
	}
	s.remove(0)
	s.eventually("no slot is in use", func() error {
		has, err := s.reported()
		if err == nil && len(has) > 0 {
			err = fmt.Errorf("the bankd has %v", has)
		}
		return err
	})
	if s.reader != "" && s.socket == "" {
		s.eventually("the reader is free", func() error {
			card, err := pcsc.Bank{}.Open(context.Background(), bankd.Slot{Pattern: regexp.MustCompile(s.reader)})
			if err != nil {
				return err
			}
			return card.Close()
		})
	}
}

// agree compares what the server takes for active maps, and what it shows of the bank, with what the bankd has.
func (s *site) agree(has map[slot.Map]bool) error {
	states, err := s.api.SlotMaps()
	if err != nil {
		return err
	}
	active := map[slot.Map]bool{}
	for m, state := range states {
		if state != "ACTIVE" {
			return fmt.Errorf("%v is %s", m, state)
		}
		active[m] = true
	}
	if !maps.Equal(active, has) {
		return fmt.Errorf("the server has %v, the bankd %v", active, has)
	}
	slots, err := s.api.Slots(1)
	if err != nil {
		return err
	}
	shown := map[slot.Map]bool{}
	for _, v := range slots {
		if v.Client != nil {
			shown[slot.Map{Bank: slot.Bank{ID: 1, Slot: v.SlotNr}, Client: slot.Client{ID: v.Client.ClientID, Slot: v.Client.SlotNr}}] = true
		}
	}
	if !maps.Equal(shown, has) {
		return fmt.Errorf("the server shows %v, the bankd has %v", shown, has)
	}
	return nil
}

// slotLine is of the bankd's report.
var slotLine = regexp.MustCompile(`(?m)^slot B1:(\d+): \w+, client C(\d+):0`)

// reported returns the maps that the bankd reports.
func (s *site) reported() (map[slot.Map]bool, error) {
	text, err := report(s.bankd)
	if err != nil {
		return nil, err
	}
	has := map[slot.Map]bool{}
	for _, m := range slotLine.FindAllStringSubmatch(text, -1) {
		var nr, client int
		fmt.Sscan(m[1]+" "+m[2], &nr, &client)
		has[mapOf(nr, client)] = true
	}
	return has, nil
}

// report asks a program for its report.
func report(p *rig.Proc) (string, error) {
	mark := p.Mark()
	if err := p.Signal(syscall.SIGUSR1); err != nil {
		return "", err
	}
	if _, err := p.AwaitFrom(mark, soon, "goroutine profile: total "); err != nil {
		return "", err
	}
	text, _ := p.LogFrom(mark)
	return text, nil
}

// A load is what a program takes of its host.
type load struct{ goroutines, descriptors int }

func (s *site) load(name string) (l load, err error) {
	p := map[string]*rig.Proc{"server": s.server, "bankd": s.bankd, "client": s.client}[name]
	text, err := report(p)
	if err != nil {
		return l, err
	}
	_, after, _ := strings.Cut(text, "goroutine profile: total ")
	if _, err := fmt.Sscan(after, &l.goroutines); err != nil {
		return l, err
	}
	u, err := rig.UsageOf(p)
	l.descriptors = u.Descriptors
	return l, err
}

func (s *site) loads() map[string]load {
	s.t.Helper()
	all := map[string]load{}
	for _, name := range []string{"server", "bankd", "client"} {
		l, err := s.load(name)
		if err != nil {
			s.t.Fatal(err)
		}
		all[name] = l
	}
	return all
}
