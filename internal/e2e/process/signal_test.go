// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"strings"
	"syscall"
	"testing"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// TestReload changes the slots file of a bankd in use: what stays in the file goes on, the rest follows it.
func TestReload(t *testing.T) {
	s := newSite(t)
	first, software := rig.Reader(0), simulator.Profile(2).String()
	specs := []string{first, rig.Reader(1), software}
	s.startBankd(specs)
	users := s.users(len(specs))
	one := users[1]
	v := s.view()
	reload := func(specs ...string) {
		t.Helper()
		s.writeSlots(1, specs)
		mark := s.bankd.Mark()
		if err := s.bankd.Signal(syscall.SIGHUP); err != nil {
			t.Fatal(err)
		}
		s.awaitFrom(mark, s.bankd, "cat=DMAIN", "slots") // what they are, or that they stay
	}
	shows := func(what, reader, state, says string) {
		t.Helper()
		v.shows(t, 1, what, func(s rig.Slot) bool {
			return strings.HasPrefix(s.Reader, reader) && (s.Reader == "") == (reader == "") && s.State == state && strings.Contains(s.LastError, says)
		})
	}

	// Nothing new, and nothing that can be read.
	reload(specs...)
	reload(first, "a(b", software)
	s.await(s.bankd, "level=error", "slots1.csv:2", "a(b")
	for _, u := range users {
		u.works(t, 20)
		steady(t, u)
	}

	// Another card.
	before := one.Counts()
	one.becomes(3)
	reload(first, rig.Reader(3), software)
	if _, err := one.Await(before, rig.Counts{ATRs: 1, Answers: 10}, soon); err != nil {
		t.Error(err)
	}
	shows("the other reader", simulator.ReaderName(3), "CARD", "")

	// None, another slot's, and its first one.
	reload(first, "", software)
	shows("no line", "", "MAPPED", "doesn't name this slot")
	reload(first, first, software)
	s.await(s.bankd, "level=warning", `slot="B1:1"`, "line=2", simulator.ReaderName(0), "B1:0")
	shows("a reader that is another slot's", "", "MAPPED", "which slot B1:0 has by line 1")
	before = one.Counts()
	one.becomes(1)
	reload(specs...)
	if _, err := one.Await(before, rig.Counts{ATRs: 1, Answers: 10}, soon); err != nil {
		t.Error(err)
	}
	shows("its first reader", simulator.ReaderName(1), "CARD", "")
	stayed(t, one)
	steady(t, users[0])
	steady(t, users[2])
}

// TestReport asks all daemons how they stand.
func TestReport(t *testing.T) {
	s := newSite(t)
	s.startBankd(append(readerSpecs(2), "no such reader"))
	u := s.users(1)[0]
	s.create(2, 22)
	s.active(2, 22)
	for p, want := range map[*rig.Proc][]string{
		s.bankd: {
			"bank 1: 3 slots, 1 connections, server connected: true",
			fmt.Sprintf("reader %q: card present: true", simulator.ReaderName(1)+" 00 01"),
			fmt.Sprintf("slot B1:0: CARD, client C20:0; reader %q, card present: true, ATR %x", simulator.ReaderName(0)+" 00 00", twinOf(0).ATR()),
			"slot B1:1: FREE",
			`slot B1:2: MAPPED, client C22:0, no reader matches "no such reader"`,
			"SERVED, client C20:0",
		},
		s.server:  {"B1", "C20:0", "C22:0=B1:2"},
		u.sh.Proc: {"client OPERATIONAL", "REMSIM_BANKD_SLOT=1:0"},
	} {
		mark := p.Mark()
		if err := p.Signal(syscall.SIGUSR1); err != nil {
			t.Fatal(err)
		}
		for _, line := range append(want, "goroutine profile: total ") {
			if _, err := p.AwaitFrom(mark, soon, line); err != nil {
				t.Error(err)
			}
		}
	}
	u.works(t, 10)
	steady(t, u)
}

// TestServerForgets kills the server and starts it again while cards are used: it learns the maps
// from the bankd. Nobody makes them again, and nothing is seen of it in the sessions.
func TestServerForgets(t *testing.T) {
	s := newSite(t)
	s.startBankd(readerSpecs(3))
	users := s.users(2)
	s.create(2, 22) // its client isn't there
	s.active(2, 22)
	s.server.Kill()
	for _, u := range users {
		u.works(t, 20)
	}
	s.startServer()
	s.connected("B1", "C20:0", "C21:0")
	for i := range 3 {
		s.active(i, 20+i)
	}
	if n, err := s.api.Adopted(); err != nil || n != 3 {
		t.Errorf("%d adopted maps, %v, want 3", n, err)
	}
	for _, u := range users {
		u.works(t, 20)
		stayed(t, u)
		steady(t, u)
	}
	// They are maps as others are.
	s.remove(0)
	s.await(users[0].sh.Proc, "server says: no bankd")
	s.create(0, 20)
	if _, err := users[0].Await(rig.Counts{}, rig.Counts{ATRs: 2}, soon); err != nil {
		t.Error(err)
	}
	late := s.client(22).use(t, 2, pace)
	s.hasCard(late)
	steady(t, users[1])
}
