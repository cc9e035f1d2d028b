// SPDX-License-Identifier: GPL-2.0-or-later

// Package process tests the programs as an operator runs them: real binaries on
// their default ports, cards behind a real pcscd, signals that kill.
package process

import (
	"fmt"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/slot"
)

const (
	readers = 8                // most tests use no more
	others  = 2                // for a card that hangs: pcscd waits for it with the other reader of the pair, too
	soon    = 20 * time.Second // for what takes well under a second when nothing is wrong
)

var (
	bin   string       // directory of the programs
	bench *rig.Readers // pcscd and cards
)

func TestMain(m *testing.M) {
	os.Exit(rig.Run(func(dir string) int {
		bin = dir
		var err error
		if bench, err = rig.StartReaders(bin, readers+others); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		defer bench.Stop()
		return m.Run()
	}, "-race"))
}

// TestSources has the sources of all programs among what go test looks at before it takes a
// cached result: the programs are built, not imported.
func TestSources(t *testing.T) {
	if err := rig.Sources("../../.."); err != nil {
		t.Error(err)
	}
}

// A site is a server with its bankds and clients. All end with the test, and when
// that fails their logs are shown.
type site struct {
	t      *testing.T
	dir    string
	api    rig.API
	server *rig.Proc
	bankd  *rig.Proc
}

func newSite(t *testing.T) *site {
	s := newSiteWithout(t)
	s.startServer()
	return s
}

// newSiteWithout returns a site without a server.
func newSiteWithout(t *testing.T) *site {
	return &site{t: t, dir: t.TempDir(), api: rig.API{
		Base: "http://127.0.0.1:9997",
		HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon},
	}}
}

// start runs a program of ours until the end of the test and fails the test when it logs a data race.
func (s *site) start(name, program string, args ...string) *rig.Proc {
	s.t.Helper()
	return s.run(name, filepath.Join(bin, program), args...)
}

// run is start for a program's path.
func (s *site) run(name, path string, args ...string) *rig.Proc {
	s.t.Helper()
	p, err := rig.Start(name, path, args...)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() {
		p.Kill()
		if strings.Contains(p.Log(), "DATA RACE") {
			s.t.Errorf("%s has a data race", name)
		}
		if s.t.Failed() {
			s.t.Logf("--- %s\n%s", name, tail(p.Log(), 6000))
		}
	})
	return p
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

func (s *site) startServer(args ...string) {
	s.t.Helper()
	s.server = s.start("server", "remsim-server", args...)
	s.await(s.server, "listening for RSPRO")
	s.eventually("REST answers", func() error { _, err := s.api.SlotMaps(); return err })
}

// startBankd starts bank 1 with a slots file of lines `"1","SLOT","SPEC"`.
func (s *site) startBankd(specs []string, args ...string) {
	s.t.Helper()
	s.bankd = s.startBank(1, specs, append([]string{"-n", fmt.Sprint(len(specs))}, args...)...)
}

func (s *site) startBank(id int, specs []string, args ...string) *rig.Proc {
	s.t.Helper()
	args = append([]string{"-i", "127.0.0.1", "-b", fmt.Sprint(id), "--slots-file", s.writeSlots(id, specs)}, args...)
	return s.start(fmt.Sprintf("bankd%d", id), "remsim-bankd", args...)
}

// writeSlots writes the slots file of a bank; a slot without a spec gets no line.
func (s *site) writeSlots(id int, specs []string) (file string) {
	s.t.Helper()
	var text strings.Builder
	for i, spec := range specs {
		if spec != "" {
			fmt.Fprintf(&text, "\"%d\",\"%d\",\"%s\"\n", id, i, spec)
		}
	}
	file = filepath.Join(s.dir, fmt.Sprintf("slots%d.csv", id))
	if err := os.WriteFile(file, []byte(text.String()), 0o644); err != nil {
		s.t.Fatal(err)
	}
	return file
}

// readerSpecs returns the patterns of the first n readers.
func readerSpecs(n int) (specs []string) {
	for i := range n {
		specs = append(specs, rig.Reader(i))
	}
	return specs
}

// operational waits until the clients have a card of the simulator and take commands.
func (s *site) operational(clients ...*shell) {
	s.t.Helper()
	for _, sh := range clients {
		err := sh.atr(twinOf(0).ATR())
		if err == nil {
			err = sh.settle()
		}
		if err != nil {
			s.t.Fatal(err)
		}
	}
}

// client starts a shell client.
func (s *site) client(id int, args ...string) *shell {
	s.t.Helper()
	args = append([]string{"-i", "127.0.0.1", "-c", fmt.Sprint(id)}, args...)
	return &shell{Proc: s.start(fmt.Sprintf("client%d", id), "remsim-client-shell", args...), id: id}
}

func (s *site) await(p *rig.Proc, parts ...string) string {
	s.t.Helper()
	return s.awaitFrom(0, p, parts...)
}

func (s *site) awaitFrom(mark int, p *rig.Proc, parts ...string) string {
	s.t.Helper()
	line, err := p.AwaitFrom(mark, soon, parts...)
	if err != nil {
		s.t.Fatal(err)
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

func mapOf(bankSlot, client int) slot.Map {
	return slot.Map{Bank: slot.Bank{ID: 1, Slot: uint16(bankSlot)}, Client: slot.Client{ID: uint16(client)}}
}

func (s *site) create(bankSlot, client int) {
	s.t.Helper()
	if err := s.api.Create(mapOf(bankSlot, client)); err != nil {
		s.t.Fatal(err)
	}
}

func (s *site) remove(bankSlot int) {
	s.t.Helper()
	if err := s.api.Delete(slot.Bank{ID: 1, Slot: uint16(bankSlot)}); err != nil {
		s.t.Fatal(err)
	}
}

// told returns what waits until the server has told a client that it has no bankd, from now on. It may have lost its bankd before that; with a map
// that is made in between it would get a card, lose it and get it back.
func (s *site) told(sh *shell) (wait func()) {
	mark := sh.Mark()
	return func() {
		s.t.Helper()
		s.awaitFrom(mark, sh.Proc, "server says: no bankd")
	}
}

// active waits until the map is ACTIVE.
func (s *site) active(bankSlot, client int) {
	s.t.Helper()
	s.eventually("map is ACTIVE", func() error {
		states, err := s.api.SlotMaps()
		if state := states[mapOf(bankSlot, client)]; err == nil && state != "ACTIVE" {
			err = fmt.Errorf("map %v is %q", mapOf(bankSlot, client), state)
		}
		return err
	})
}

// connected waits until the server knows all these peers.
func (s *site) connected(peers ...string) {
	s.t.Helper()
	s.eventually("peers are connected", func() error {
		there, err := s.api.Peers()
		for _, p := range peers {
			if err == nil && !there[p] {
				err = fmt.Errorf("%s isn't among %v", p, there)
			}
		}
		return err
	})
}

// busyPort takes a port for the test and returns its address.
func busyPort(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln.Addr().String()
}
