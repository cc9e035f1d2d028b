// SPDX-License-Identifier: GPL-2.0-or-later

package faults

import (
	"fmt"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// frozen is for how long programs are stopped: longer than keep-alive needs to find out.
const frozen = 60 * time.Second

// TestFrozen stops each of the programs for 60 s.
func TestFrozen(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name    string
		program func(*site) *rig.Proc
		own     bool // with a pcscd of its own
	}{
		{"server", func(s *site) *rig.Proc { return s.server }, false},
		{"bankd", func(s *site) *rig.Proc { return s.bankd }, false},
		{"client", func(s *site) *rig.Proc { return s.client }, false},
		{"pcscd", func(s *site) *rig.Proc { return s.pcscd }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tt.own {
				s.withPCSCD()
			} else {
				s.withReader()
			}
			s.chain()
			p := tt.program(s)
			if err := p.Freeze(); err != nil {
				t.Fatal(err)
			}
			s.endure(frozen, p == s.server)
			if err := p.Signal(syscall.SIGCONT); err != nil {
				t.Fatal(err)
			}
			s.again(promised)
			s.check()
		})
	}
}

// TestKilled kills each of the programs, and starts it again at once.
func TestKilled(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name string
		kill func(*site)
		own  bool
	}{
		{"server", func(s *site) {
			before := s.user.Counts()
			s.server.Kill()
			s.works(10, soon)
			s.startServer()
			s.unnoticed(before)
		}, false},
		{"bankd", func(s *site) { s.bankd.Kill(); s.startBankd() }, false},
		{"client", func(s *site) { s.client.Kill(); _ = s.user.End(); s.startClient() }, false},
		{"pcscd", func(s *site) { s.pcscd.Kill(); s.startPCSCD() }, true},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Parallel()
			s := newSite(t)
			if tt.own {
				s.withPCSCD()
			} else {
				s.withReader()
			}
			s.chain()
			for range 3 {
				tt.kill(s)
				s.again(promised)
			}
			s.check()
		})
	}
}

// withPCSCD gives the bankd a pcscd of its own, with a card in its reader.
func (s *site) withPCSCD() *site {
	const port = 36500 // and above: those of pcscds of sites
	s.t.Helper()
	// A socket's path is short.
	dir, err := os.MkdirTemp("", "pcscd-")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { os.RemoveAll(dir) })
	at := port + 2*int(pcscds.Add(1))
	s.host = rig.Host{Dir: dir}
	if err := s.host.Virtual(simulator.ReaderName(0), at); err != nil {
		s.t.Fatal(err)
	}
	s.startPCSCD()
	p, err := rig.Start("cards", filepath.Join(bin, "remsim-simulator"), "cards", "--vpcd", fmt.Sprintf("127.0.0.1:%d", at), "--count", "1")
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(p.Kill)
	s.socket, s.reader, s.card = s.host.Socket(), rig.Reader(0), 0
	return s
}

func (s *site) startPCSCD() {
	s.t.Helper()
	p, err := s.host.Start()
	if err != nil {
		s.t.Fatal(err)
	}
	s.pcscd = p
	s.t.Cleanup(p.Kill)
}
