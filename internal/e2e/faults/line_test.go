// SPDX-License-Identifier: GPL-2.0-or-later

package faults

import (
	"fmt"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/e2e/wan"
)

var cut = wan.Quality{Cut: true}

// TestCut cuts the line between two of the hosts. Between server and the others that isn't noticed in the session; between client
// and bankd commands wait, or fail when keep-alive has found out.
func TestCut(t *testing.T) {
	t.Parallel()
	for _, tt := range []struct {
		name  string
		pair  func(*site) (a, b *wan.Host)
		quiet bool // the session goes on
	}{
		{"server and bankd", func(s *site) (a, b *wan.Host) { return s.onServer, s.onBankd }, true},
		{"server and client", func(s *site) (a, b *wan.Host) { return s.onServer, s.onClient }, true},
		{"client and bankd", func(s *site) (a, b *wan.Host) { return s.onClient, s.onBankd }, false},
	} {
		for _, d := range []time.Duration{5 * time.Second, 60 * time.Second} {
			t.Run(fmt.Sprintf("%s for %v", tt.name, d), func(t *testing.T) {
				t.Parallel()
				s := newSite(t).withReader().chain()
				a, b := tt.pair(s)
				s.net.Set(a, b, cut)
				s.endure(d, tt.quiet)
				s.net.Set(a, b, wan.Quality{})
				s.again(promised)
				s.check()
			})
		}
	}
}

// TestBadLines runs all over lines with 200 ms of delay, 5 % of whose packets are lost: it is slow, and all goes well.
func TestBadLines(t *testing.T) {
	t.Parallel()
	const d = 30 * time.Second
	s := newSite(t).withReader().chain()
	before := s.user.Counts()
	s.net.SetAll(wan.Quality{Delay: 200 * time.Millisecond, Loss: 0.05})
	begin := time.Now()
	for time.Since(begin) < d {
		s.works(5, soon)
		s.renew(soon)
	}
	during := s.user.Counts()
	t.Logf("MEASURED over bad lines in %v: %d answers, %d maps", d, during.Answers-before.Answers, during.ATRs-before.ATRs)
	s.net.SetAll(wan.Quality{})
	s.again(promised)
	s.check()
}

// TestClientVanishes has a client's host go without a word: its card is free when keep-alive has found out, and
// another client has it.
func TestClientVanishes(t *testing.T) {
	t.Parallel()
	s := newSite(t).withReader().chain()
	s.net.Set(s.onClient, s.onBankd, cut)
	s.net.Set(s.onClient, s.onServer, cut)
	s.client.Kill()
	_ = s.user.End() // it has lost its shell
	begin := time.Now()
	if err := rig.Eventually(slack*keepAlive, "the bankd has no client any more", func() error {
		l, err := s.load("bankd")
		if was := s.before["bankd"]; err == nil && l.descriptors >= was.descriptors {
			err = fmt.Errorf("it has %+v, before %+v", l, was)
		}
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Logf("MEASURED the card of a client that has vanished is free after %.1f s", time.Since(begin).Seconds())
	s.net.SetAll(wan.Quality{})
	s.startClient()
	s.again(promised)
	s.check()
}

// TestBankdVanishes has a bankd's host go without a word and another one come in its place, which knows nothing of
// the connections: they are half open.
func TestBankdVanishes(t *testing.T) {
	t.Parallel()
	s := newSite(t).withReader().chain()
	for _, other := range []*wan.Host{s.onServer, s.onClient} {
		s.net.SetOneWay(s.onBankd, other, cut)
	}
	s.bankd.Kill()
	time.Sleep(time.Second)
	s.net.SetAll(wan.Quality{})
	s.startBankd()
	s.again(keepAlive)
	s.check()
}
