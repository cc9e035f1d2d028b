// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"fmt"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// stopLimit is for what may take 2 s, the end of pcscd. A driver that waited for a command, or for the keep-alive, would take longer.
const stopLimit = 15 * time.Second

// TestBankdKilled kills a bankd and starts it again, five times, while an application uses a card in a reader and
// another one a card in software: both get an error at once, and have their card again.
func TestBankdKilled(t *testing.T) {
	t.Parallel()
	const card = 4
	s := newSite(t, rig.Reader(card), simulator.Profile(101).String()).start()
	h := s.host(2)
	s.create(0, 0)
	s.create(1, 1)
	users := []*user{h.app(0).use(twinOf(card)), h.app(1).use(twinOf(101))}
	for range 5 {
		for _, u := range users {
			u.more(20)
		}
		begin := time.Now()
		s.bankd.Kill()
		for _, u := range users {
			err := u.lost(soon)
			t.Logf("an error after %v: %v", time.Since(begin), err)
			u.awaits(application.Empty)
		}
		s.startBankd()
		begin = time.Now()
		users = []*user{users[0].use(twinOf(card)), users[1].use(twinOf(101))}
		t.Logf("the cards were there again after %v", time.Since(begin))
	}
	for _, u := range users {
		u.end()
	}
}

// TestServerKilled kills the server and starts it again, while an application uses a card: it notices nothing. What
// the server is told after that takes effect.
func TestServerKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, simulator.Profile(100).String()).start()
	h := s.host(1)
	s.create(0, 0)
	u := h.app(0).use(twinOf(100))
	for range 3 {
		s.server.Kill()
		u.more(50)
		s.startServer()
		s.eventually("all are back", func() error {
			peers, err := s.api.Peers()
			if err == nil && (!peers["C1:0"] || !peers["B1"]) {
				err = fmt.Errorf("there are %v", peers)
			}
			return err
		})
		u.more(50)
	}
	u.end()
	told := h.told(0)
	s.remove(0)
	u.awaits(application.Empty)
	told()
	s.create(0, 0)
	u.use(twinOf(100)).end()
}

// TestAllKilled kills server and bankd under a command that the card doesn't answer.
func TestAllKilled(t *testing.T) {
	t.Parallel()
	const card = 6
	restore(t, card)
	s := newSite(t, rig.Reader(card)).start()
	h := s.host(1)
	s.create(0, 0)
	a := h.app(0)
	a.opens(twinOf(card))
	do(t, "hang %d", card)
	s.transmits(a)
	begin := time.Now()
	s.server.Kill()
	s.bankd.Kill()
	reply := a.answered(soon)
	t.Logf("an error after %v: %v", time.Since(begin), reply.Err())
	if reply.Code == application.OK {
		t.Errorf("answer %x of a card that hangs", reply.Data)
	}
	a.awaits(application.Empty) // pcscd sees it a moment after the application
	do(t, "release %d", card)
	s.start()
	s.create(0, 0)
	twin := twinOf(card)
	a.opens(twin)
	a.likeTwin(twin, 5)
}

// transmits has a send a command, and returns when the bankd has it.
func (s *site) transmits(a *app) {
	s.t.Helper()
	if err := a.Tell(application.Request{Call: application.Transmit, Data: command(0)}); err != nil {
		s.t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond) // nothing tells that it is there; if it isn't, the test is an easier one
}

// answered waits for the reply to what transmits has sent.
func (a *app) answered(d time.Duration) application.Reply {
	a.t.Helper()
	reply, err := a.Reply(d)
	if err != nil {
		a.t.Fatal(err)
	}
	return reply
}

// TestBankdHangs stops a bankd under a command, without a word to its clients: the application gets an error when the
// keep-alive has found out, which is before the time-out of commands.
func TestBankdHangs(t *testing.T) {
	t.Parallel()
	const limit = 60 * time.Second // of IFDHTransmitToICC
	s := newSite(t, simulator.Profile(100).String(), simulator.Profile(101).String()).start()
	h := s.host(2)
	s.create(0, 0)
	s.create(1, 1)
	a, other := h.app(0), h.app(1)
	a.opens(twinOf(100))
	other.opens(twinOf(101))
	if err := s.bankd.Freeze(); err != nil {
		t.Fatal(err)
	}
	begin := time.Now()
	s.transmits(a)
	s.transmits(other)
	for _, a := range []*app{a, other} {
		reply := a.answered(limit + soon)
		t.Logf("an error after %v: %v", time.Since(begin), reply.Err())
		if reply.Code == application.OK {
			t.Errorf("answer %x of a bankd that hangs", reply.Data)
		}
		a.awaits(application.Empty) // pcscd sees it a moment after the application
	}
	if err := s.bankd.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	begin = time.Now()
	twin := twinOf(100)
	a.opens(twin)
	a.likeTwin(twin, 5)
	t.Logf("it worked again after %v", time.Since(begin))
}

// TestCardHangs has a card hang under a command: the application gets an error when the bankd's time-out has passed, and
// the one at the reader beside it doesn't notice.
func TestCardHangs(t *testing.T) {
	t.Parallel()
	const card, timeout = 8, 6 * time.Second // nothing else takes that long
	restore(t, card)
	s := newSite(t, rig.Reader(card), simulator.Profile(101).String())
	s.bankdArgs = append(s.bankdArgs, "--card-timeout", timeout.String())
	s.start()
	h := s.host(2)
	s.create(0, 0)
	s.create(1, 1)
	a, other := h.app(0), h.app(1).use(twinOf(101))
	a.opens(twinOf(card))
	do(t, "hang %d", card)
	begin := time.Now()
	s.transmits(a)
	other.more(100)
	reply := a.answered(soon)
	t.Logf("an error after %v: %v", time.Since(begin), reply.Err())
	if took := time.Since(begin); reply.Code == application.OK || took < timeout {
		t.Errorf("answer %x after %v", reply.Data, took)
	}
	a.awaits(application.Empty) // pcscd sees it a moment after the application
	do(t, "release %d", card)
	twin := twinOf(card)
	a.opens(twin)
	a.likeTwin(twin, 5)
	other.end()
}

// TestStop has pcscd end, in all that it can be in the middle of.
func TestStop(t *testing.T) {
	t.Parallel()
	const card = 10
	restore(t, card)
	for _, tt := range []struct {
		name    string
		prepare func(*testing.T, *site, *host)
	}{
		{"with a card that is used", func(t *testing.T, s *site, h *host) {
			s.create(0, 0)
			h.app(0).opens(twinOf(card))
		}},
		{"in a command", func(t *testing.T, s *site, h *host) {
			s.create(0, 0)
			a := h.app(0)
			a.opens(twinOf(card))
			do(t, "hang %d", card)
			s.transmits(a)
		}},
		{"while bankd and server hang", func(t *testing.T, s *site, h *host) {
			s.create(1, 0)
			a := h.app(0)
			a.opens(twinOf(101))
			for _, p := range []*rig.Proc{s.bankd, s.server} {
				if err := p.Freeze(); err != nil {
					t.Fatal(err)
				}
			}
			s.transmits(a)
		}},
		{"without a server", func(t *testing.T, s *site, h *host) {
			s.server.Kill()
			time.Sleep(100 * time.Millisecond)
		}},
		{"without a card", func(t *testing.T, s *site, h *host) { h.app(0).awaits(application.Empty) }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newSite(t, rig.Reader(card), simulator.Profile(101).String()).start()
			h := s.host(2)
			tt.prepare(t, s, h)
			took := h.stop()
			t.Logf("pcscd has ended after %v", took)
			if took > stopLimit {
				t.Error("that is too late")
			}
			do(t, "release %d", card)
		})
	}
}

// TestPCSCDKilled kills the pcscd that has loaded the driver and starts it again: its clients take their places at once.
func TestPCSCDKilled(t *testing.T) {
	t.Parallel()
	s := newSite(t, simulator.Profile(100).String()).start()
	h := s.host(1)
	s.create(0, 0)
	u := h.app(0).use(twinOf(100))
	for range 3 {
		h.stopped = true
		h.Kill()
		if err := u.lost(soon); err == nil {
			t.Error("an application goes on without pcscd")
		}
		h.start()
		u = h.app(0).use(twinOf(100))
	}
	u.end()
}

// TestReadersPCSCDKilled kills the pcscd that the bankd's readers are in, and starts it again. Other tests wait for its end.
func TestReadersPCSCDKilled(t *testing.T) {
	const card = 0
	s := newSite(t, rig.Reader(card)).start()
	h := s.host(1)
	s.create(0, 0)
	u := h.app(0).use(twinOf(card))
	for range 2 {
		begin := time.Now()
		bench.PCSCD.Kill()
		t.Logf("an error after %v: %v", time.Since(begin), u.lost(soon))
		u.awaits(application.Empty)
		begin = time.Now()
		if err := bench.StartPCSCD(readers, nil); err != nil {
			t.Fatal(err)
		}
		u = u.use(twinOf(card))
		t.Logf("the card was there again after %v", time.Since(begin))
	}
	u.end()
}

// TestNames has readers whose names are wrong among good ones: they have no card, the log says which part is
// wrong, and the others work.
func TestNames(t *testing.T) {
	t.Parallel()
	s := newSite(t, simulator.Profile(100).String(), simulator.Profile(101).String()).start()
	names := []struct{ name, says string }{
		{fmt.Sprintf("x:0:127.0.0.1:%d", s.port()), `err="client \"x\"`},
		{fmt.Sprintf("1024:0:127.0.0.1:%d", s.port()), `client \"1024\"`},
		{fmt.Sprintf("1:99999:127.0.0.1:%d", s.port()), `slot \"99999\"`},
		{"1:0:127.0.0.1:70000", `port \"70000\"`},
		{"1:0:no..such..host:9998", `addr="no..such..host:9998"`},
		{"1:0:host.invalid:9998", `addr="host.invalid:9998"`},
		{"1:0:[::1:9998", "bracket"},
		{"1:0:127.0.0.1:9998:5", `\"5\"`},
		{"client=1;colour=red;server=127.0.0.1:9998", "colour"},
		{"client=1;slot=0;server=127.0.0.1:x", `port \"x\"`},
		{"=:", "unknown name"},
		{"1:0", ""}, // nobody is at the default address
	}
	h := s.newHost()
	h.Reader(bin, "Remote 0", s.device(0))
	for i, n := range names {
		h.Reader(bin, fmt.Sprintf("Remote %d", 1+i), n.name)
	}
	last := 1 + len(names)
	h.Reader(bin, fmt.Sprintf("Remote %d", last), fmt.Sprintf("client=1;slot=%d;server=127.0.0.1:%d", last, s.port()))
	h.start()
	s.create(0, 0)
	s.create(1, last)
	users := []*user{h.app(0).use(twinOf(100)), h.app(last).use(twinOf(101))}
	for i, n := range names {
		a := h.app(1 + i)
		a.awaits(application.Empty)
		if code := a.ask(soon, application.Request{Call: application.Connect, Reader: a.reader}).Code; code != application.ErrNoCard {
			t.Errorf("DEVICENAME %s: a connection to its card: code %#x, want no card", n.name, code)
		}
		if n.says != "" {
			await(t, h.Proc, 0, n.says, "level=")
		}
	}
	if listed := h.app(0).names(); len(listed) != last+1 { // not of a user, which makes calls of its own
		t.Errorf("readers %q, want %d", listed, last+1)
	}
	for _, u := range users {
		u.more(10)
		u.end()
	}
}

// TestTwins has two readers be the same client: only the first to come has the card.
func TestTwins(t *testing.T) {
	t.Parallel()
	s := newSite(t, simulator.Profile(100).String()).start()
	h := s.host(1)
	s.create(0, 0)
	u := h.app(0).use(twinOf(100))
	two := s.host(1)
	await(t, two.Proc, 0, "identityInUse")
	a := two.app(0)
	a.awaits(application.Empty)
	u.more(50)
	u.end()
	h.stop()
	a.awaits(application.Present)
	a.use(twinOf(100)).end()
}

// TestServerLate has the server come after pcscd: until then its readers are empty.
func TestServerLate(t *testing.T) {
	t.Parallel()
	s := newSite(t, simulator.Profile(100).String())
	h := s.host(1)
	a := h.app(0)
	a.awaits(application.Empty)
	if code := a.ask(soon, application.Request{Call: application.Connect, Reader: a.reader}).Code; code != application.ErrNoCard {
		t.Errorf("a connection to a card that isn't there: code %#x", code)
	}
	await(t, h.Proc, 0, fmt.Sprint(s.port()), "refused")
	s.start()
	s.create(0, 0)
	begin := time.Now()
	a.use(twinOf(100)).end()
	t.Logf("the card was there after %v", time.Since(begin))
}

// TestUnprivileged has pcscd run as distributions have it run: as a user who may do nothing, without a home, and without
// memory that is both writable and executable.
func TestUnprivileged(t *testing.T) {
	t.Parallel()
	const nobody = 65534
	s := newSite(t, simulator.Profile(100).String()).start()
	h := s.newHost()
	h.Sealed = true
	if oneUser(t) { // of a user namespace, who may do nothing outside
		t.Log("pcscd runs as the user who runs the test")
	} else {
		h.UID = nobody
	}
	h.Reader(bin, "Remote 0", s.device(0))
	h.start()
	s.create(0, 0)
	u := h.app(0).use(twinOf(100))
	u.more(50)
	u.end()
	s.remove(0)
	u.awaits(application.Empty)
	if took := h.stop(); took > stopLimit {
		t.Errorf("pcscd has ended after %v", took)
	}
	if log := h.Log(); strings.Contains(log, "fault in the driver") {
		t.Error("the driver has a fault")
	}
}
