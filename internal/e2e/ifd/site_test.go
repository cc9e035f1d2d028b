// SPDX-License-Identifier: GPL-2.0-or-later

// Package ifd tests the PC/SC driver as an operator uses it: in a second pcscd, whose applications reach the cards
// in the readers of the first one, and cards in software, through server and bankd.
package ifd

import (
	"flag"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/slot"
)

const (
	readers = 12               // of the first pcscd
	soon    = 20 * time.Second // for what takes well under a second when nothing is wrong
)

var (
	bin   string       // directory of the programs and the driver
	bench *rig.Readers // the first pcscd and its cards
)

func TestMain(m *testing.M) {
	application.Main()
	os.Exit(rig.Run(func(dir string) int {
		bin = dir
		err := rig.BuildDriver(bin)
		if err == nil {
			bench, err = rig.StartReaders(bin, readers)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer bench.Stop()
		// Most of what tests do is to wait.
		flag.Parse()
		if err := flag.Set("test.parallel", "6"); err != nil {
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

// sites counts them: each has ports of its own, so that tests run side by side.
var sites atomic.Int32

// A site is a server with a bankd, and pcscds with the driver. All end with the test, and when
// that fails their logs are shown.
type site struct {
	t    *testing.T
	dir  string
	base int // its ports are the default ones and this
	api  rig.API

	serverArgs, bankdArgs []string
	server, bankd         *rig.Proc
}

// newSite starts a server and a bankd with one slot for each of specs.
func newSite(t *testing.T, specs ...string) *site {
	t.Helper()
	s := &site{t: t, dir: t.TempDir(), base: int(sites.Add(1)) * 10}
	rest := fmt.Sprintf("127.0.0.1:%d", 9997+s.base)
	s.api = rig.API{
		Base: "http://" + rest,
		HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon},
	}
	s.serverArgs = []string{"--rspro-listen", fmt.Sprintf("127.0.0.1:%d", s.port()), "--rest-listen", rest}
	bankd := 9999 + s.base
	s.bankdArgs = []string{"-i", "127.0.0.1", "-p", fmt.Sprint(s.port()), "-I", "127.0.0.1", "-P", fmt.Sprint(bankd),
		"--advertise", fmt.Sprintf("127.0.0.1:%d", bankd), "-n", fmt.Sprint(len(specs)), "--slots-file", s.slots(specs)}
	return s
}

// port is the server's for clients and bankds.
func (s *site) port() int { return 9998 + s.base }

func (s *site) slots(specs []string) (file string) {
	s.t.Helper()
	var text strings.Builder
	for i, spec := range specs {
		fmt.Fprintf(&text, "1,%d,%q\n", i, spec)
	}
	file = filepath.Join(s.dir, "slots.csv")
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// start starts server and bankd.
func (s *site) start() *site {
	s.t.Helper()
	s.startServer()
	s.startBankd()
	return s
}

func (s *site) startServer() {
	s.t.Helper()
	s.server = s.run("server", "remsim-server", s.serverArgs...)
	await(s.t, s.server, 0, "listening for RSPRO")
	s.eventually("REST answers", func() error { _, err := s.api.SlotMaps(); return err })
}

func (s *site) startBankd(more ...string) {
	s.t.Helper()
	s.bankd = s.run("bankd", "remsim-bankd", append(s.bankdArgs, more...)...)
	await(s.t, s.bankd, 0, "msg=connected")
}

// run runs a program until the end of the test and fails the test when it logs a data race.
func (s *site) run(name, program string, args ...string) *rig.Proc {
	s.t.Helper()
	p, err := rig.Start(name, filepath.Join(bin, program), args...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.keep(p)
	return p
}

// keep has p end with the test.
func (s *site) keep(p *rig.Proc) {
	s.t.Cleanup(func() {
		p.Kill()
		if strings.Contains(p.Log(), "DATA RACE") {
			s.t.Errorf("%s has a data race", p.Name)
		}
		if s.t.Failed() {
			log := p.Log()
			s.t.Logf("--- %s\n%s", p.Name, log[max(0, len(log)-6000):])
		}
	})
}

// await waits for a line of a log after a mark.
func await(t *testing.T, p *rig.Proc, mark int, parts ...string) string {
	t.Helper()
	line, err := p.AwaitFrom(mark, soon, parts...)
	if err != nil {
		t.Fatal(err)
	}
	return line
}

// eventually asks until there is no error.
func (s *site) eventually(what string, ask func() error) {
	s.t.Helper()
	if err := rig.Eventually(soon, what, ask); err != nil {
		s.t.Fatal(err)
	}
}

// create maps a slot of the bank to client 1, slot nr.
func (s *site) create(bankSlot, nr int) {
	s.t.Helper()
	m := slot.Map{Bank: slot.Bank{ID: 1, Slot: uint16(bankSlot)}, Client: slot.Client{ID: 1, Slot: uint16(nr)}}
	if err := s.api.Create(m); err != nil {
		s.t.Fatal(err)
	}
}

// remove ends the map of a slot of the bank.
func (s *site) remove(bankSlot int) {
	s.t.Helper()
	if err := s.api.Delete(slot.Bank{ID: 1, Slot: uint16(bankSlot)}); err != nil {
		s.t.Fatal(err)
	}
}

// A host is a pcscd with the driver, with readers "Remote 0", "Remote 1" and so on.
type host struct {
	*rig.Proc
	rig.Host
	s       *site
	stopped bool // by the test
}

// readerName is the name of a reader as applications see it.
func readerName(nr int) string { return fmt.Sprintf("Remote %d %02X 00", nr, nr) }

// device is a DEVICENAME for client 1, slot nr, of the site.
func (s *site) device(nr int) string { return fmt.Sprintf("1:%d:127.0.0.1:%d", nr, s.port()) }

// host starts a pcscd with n readers, of client 1.
func (s *site) host(n int) *host {
	s.t.Helper()
	h := s.newHost()
	for nr := range n {
		h.Reader(bin, fmt.Sprintf("Remote %d", nr), s.device(nr))
	}
	return h.start()
}

func (s *site) newHost() *host {
	return &host{s: s, Host: rig.Host{Dir: s.t.TempDir(), Args: []string{"--info"}}}
}

// start starts pcscd until the end of the test, before which it must not end by itself.
func (h *host) start() *host {
	t := h.s.t
	t.Helper()
	p, err := h.Host.Start()
	if err != nil {
		t.Fatal(err)
	}
	h.Proc = p
	h.s.keep(p)
	t.Cleanup(func() { h.alive(t) })
	return h
}

// alive checks that pcscd hasn't ended by itself.
func (h *host) alive(t *testing.T) {
	t.Helper()
	select {
	case <-h.Done():
		if !h.stopped {
			t.Error("pcscd has ended by itself")
		}
	default:
	}
}

// told returns what waits until the server has told client 1, slot nr, that it has no bankd, from now on. A reader may be empty before that, as
// bankds know first; with a map that is made in between its card would come, go and come back.
func (h *host) told(nr int) (wait func()) {
	mark := h.Mark()
	return func() {
		h.s.t.Helper()
		await(h.s.t, h.Proc, mark, "server says: no bankd", fmt.Sprintf("slot=\"C1:%d\"", nr))
	}
}

// stop has pcscd end in order and returns how long that took.
func (h *host) stop() time.Duration {
	t := h.s.t
	t.Helper()
	h.stopped = true
	begin := time.Now()
	if err := h.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, err := h.Wait(soon); err != nil || status != 0 {
		t.Errorf("pcscd's end: status %d, %v", status, err)
	}
	return time.Since(begin)
}
