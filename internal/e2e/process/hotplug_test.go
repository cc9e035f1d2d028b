// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// pace is the time between the commands of a user: faster than any modem.
const pace = 3 * time.Millisecond

// users are clients of cards 0 to n-1, mapped to the slots with these numbers, that use them.
func (s *site) users(n int) (users []*user) {
	s.t.Helper()
	for i := range n {
		users = append(users, s.user(i))
	}
	for _, u := range users {
		s.hasCard(u)
	}
	return users
}

// user is a client of slot i that uses card i.
func (s *site) user(i int) *user {
	s.t.Helper()
	s.create(i, 20+i)
	return s.client(20+i).use(s.t, i, pace)
}

// hasCard waits until a user has had an answer since its first ATR.
func (s *site) hasCard(u *user) {
	s.t.Helper()
	if _, err := u.Await(rig.Counts{}, rig.Counts{Answers: 1, ATRs: 1}, soon); err != nil {
		s.t.Fatal(err)
	}
}

// steady checks that nothing but answers has come to a user since its first ATR.
func steady(t *testing.T, u *user) {
	t.Helper()
	if c := u.Counts(); c.Lost != 0 || c.ATRs != 1 {
		t.Errorf("%s, which should notice nothing: %+v", u.sh.Name, c)
	}
}

// stayed checks that a user's client has never left its bankd.
func stayed(t *testing.T, u *user) {
	t.Helper()
	if strings.Contains(u.sh.Log(), "from=OPERATIONAL") {
		t.Errorf("%s has left the bankd", u.sh.Name)
	}
}

// TestPulled pulls seven cards and puts them back, 105 times altogether, while they are used: each time
// the slot is shown without and with a card, and the client gets it back on the same
// connection. An eighth card is pulled for a moment, which pcscd may not see. That a card has come or
// gone is noticed within half a second, and where the computer has other things to do most of the time within several.
func TestPulled(t *testing.T) {
	const slots, pulls = 7, 15
	s := newSite(t)
	s.startBankd(readerSpecs(slots + 1))
	users := s.users(slots + 1)
	restore(t, 0, 1, 2, 3, 4, 5, 6, 7)
	v := s.view()
	var run sync.WaitGroup
	var mu sync.Mutex
	var left, came []time.Duration
	for i, u := range users[:slots] {
		run.Go(func() {
			for k := range pulls {
				l, c, err := pullAndInsert(v, u, i)
				if err != nil {
					t.Errorf("pull %d: %v", k, err)
					return
				}
				mu.Lock()
				left, came = append(left, l), append(came, c)
				mu.Unlock()
			}
		})
	}
	run.Go(func() {
		if err := flutter(users[slots], slots); err != nil {
			t.Errorf("short pull: %v", err)
		}
	})
	run.Wait()
	for _, u := range users {
		u.works(t, 10)
		stayed(t, u)
	}
	for what, took := range map[string][]time.Duration{"gone": left, "there": came} {
		slices.Sort(took)
		t.Logf("a card was shown as %s after %v (p50), %v (p90), %v (the longest)", what, quantile(took, 0.5), quantile(took, 0.9), quantile(took, 1))
		if quantile(took, 0.5) > soon/4 {
			t.Errorf("that is too late")
		}
	}
}

// quantile returns quantile q of durations in order, rounded.
func quantile(d []time.Duration, q float64) time.Duration {
	if len(d) == 0 {
		return 0
	}
	return d[int(q*float64(len(d)-1))].Round(10 * time.Microsecond)
}

// pullAndInsert pulls card i from under its user and puts it back. It returns how long it took
// until the server showed that.
func pullAndInsert(v *view, u *user, i int) (left, came time.Duration, err error) {
	before, err := u.Await(u.Counts(), rig.Counts{Answers: 3}, soon)
	if err != nil {
		return 0, 0, err
	}
	if _, err := bench.Do(fmt.Sprint("pull ", i)); err != nil {
		return 0, 0, err
	}
	own := func(s rig.Slot) bool {
		return strings.HasPrefix(s.Reader, simulator.ReaderName(i)) &&
			s.Client != nil && int(s.Client.ClientID) == u.sh.id && s.MapState == "ACTIVE"
	}
	left, err = v.await(i, soon, "a card that was pulled", func(s rig.Slot) bool {
		return noCard(s) && own(s) && s.State == "MAPPED" && s.ATR == ""
	})
	if err != nil {
		return 0, 0, err
	}
	if _, err := bench.Do(fmt.Sprint("insert ", i)); err != nil {
		return 0, 0, err
	}
	came, err = v.await(i, soon, "a card that is back", func(s rig.Slot) bool {
		return hasCard(s) && own(s) && s.State == "CARD" && s.ATR == fmt.Sprintf("%x", twinOf(i).ATR()) && s.LastError == ""
	})
	if err == nil {
		_, err = u.Await(before, rig.Counts{ATRs: 1}, soon)
	}
	return left, came, err
}

// flutter pulls card i from under its user for less time than pcscd takes from one look to the next. Where
// pcscd hasn't seen that, the card has failed, and is tried again after 10 s.
func flutter(u *user, i int) error {
	before, err := u.Await(u.Counts(), rig.Counts{Answers: 3}, soon)
	if err != nil {
		return err
	}
	if _, err := bench.Do(fmt.Sprint("pull ", i)); err != nil {
		return err
	}
	time.Sleep(100 * time.Millisecond)
	if _, err := bench.Do(fmt.Sprint("insert ", i)); err != nil {
		return err
	}
	_, err = u.Await(before, rig.Counts{ATRs: 1, Answers: 3}, 2*soon)
	return err
}

// TestSwapped puts another card in while the first is used: never does one answer for the other.
func TestSwapped(t *testing.T) {
	const place = readers + others - 1 // no other test uses its cards
	swap := func() int {
		t.Helper()
		card, err := bench.Swap(place)
		if err != nil {
			t.Fatal(err)
		}
		return card
	}
	s := newSite(t)
	s.startBankd([]string{rig.Reader(place)})
	s.create(0, 20)
	first := swap()
	u := s.client(20).use(t, first, pace)
	s.hasCard(u)
	before := u.Counts()
	u.becomes(first + 100)
	if second := swap(); second != first+100 {
		t.Errorf("card %d follows %d", second, first)
	}
	if _, err := u.Await(before, rig.Counts{ATRs: 1}, soon); err != nil {
		t.Fatal(err)
	}
	u.works(t, 10)
	stayed(t, u)
}

// TestLateCard has a client connected and mapped before its card is there: it gets the ATR on the
// connection it has. The modem's side sees the card come, go and come back, and no more than that.
func TestLateCard(t *testing.T) {
	s := newSite(t)
	restore(t, 0)
	do(t, "pull 0")
	s.startBankd(readerSpecs(1))
	v := s.view()
	v.shows(t, 0, "no card", noCard)
	s.create(0, 20)
	events := filepath.Join(t.TempDir(), "events")
	sh := s.client(20, "-e", "echo >>"+events)
	s.await(sh.Proc, "bankd has no card for us yet")
	v.shows(t, 0, "a map and no card", func(s rig.Slot) bool {
		return noCard(s) && s.Reader != "" && s.State == "MAPPED" && strings.Contains(s.LastError, "no card")
	})
	do(t, "insert 0")
	u := sh.use(t, 0, pace)
	s.hasCard(u)
	v.shows(t, 0, "a card", func(s rig.Slot) bool { return hasCard(s) && s.State == "CARD" && s.LastError == "" })
	enter := "request-sim-remote\nrequest-card-insert\nrequest-modem-reset\nevent-bankd-connect\n"
	came := s.events(events, enter)

	before := u.Counts()
	do(t, "pull 0")
	v.shows(t, 0, "no card", noCard)
	gone := s.events(events, came+"request-card-remove\n")
	do(t, "insert 0")
	if _, err := u.Await(before, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
		t.Fatal(err)
	}
	s.events(events, gone+"request-card-insert\n")
	stayed(t, u)
	if log := s.bankd.Log(); strings.Contains(log, "connection ended") {
		t.Error("the client hasn't stayed")
	}
}

// events waits until what event scripts have written, but for what they say of server and modem, ends
// with want, and returns it.
func (s *site) events(file, want string) (all string) {
	s.t.Helper()
	s.eventually("event scripts", func() error {
		b, err := os.ReadFile(file)
		all = string(b)
		if err == nil && !strings.HasSuffix(all, want) {
			err = fmt.Errorf("the scripts have seen %q, want %q in the end", all, want)
		}
		return err
	})
	return all
}

// TestHungCard has a card hang beside seven that are used: it fails after the card time-out, client and
// server are told, and nobody else waits for it. When it answers again, it is used again.
func TestHungCard(t *testing.T) {
	const hung, timeout = 7, 8 * time.Second // nothing else takes that long
	s := newSite(t)
	s.startBankd(append(readerSpecs(hung), rig.Reader(readers)), "--card-timeout", timeout.String())
	users := s.users(hung)
	s.create(hung, 20+hung)
	u := s.client(20+hung).use(t, readers, pace)
	s.hasCard(u)
	restore(t, readers)
	v := s.view()
	lap := func(when string) (longest time.Duration) {
		var all []time.Duration
		for _, u := range users {
			all = append(all, u.Lap()...)
		}
		slices.Sort(all)
		t.Logf("%-8s %5d commands of the others: p50 %v, p99 %v, the longest %v", when, len(all), quantile(all, 0.5), quantile(all, 0.99), quantile(all, 1))
		return quantile(all, 1)
	}
	lap("so far:")
	time.Sleep(2 * time.Second)
	lap("before:")

	before := u.Counts()
	do(t, "hang %d", readers)
	v.shows(t, hung, "a hung card", func(s rig.Slot) bool {
		return hasCard(s) && s.State == "FAILED" && strings.Contains(s.LastError, "timed out")
	})
	s.await(s.bankd, "level=error", "B1:7", "timed out")
	s.await(s.server, "level=warning", "B1:7", "timed out")
	if _, err := u.Await(before, rig.Counts{Lost: 1}, soon); err != nil { // it was told, and didn't wait for ever
		t.Error(err)
	}
	if longest := lap("hanging:"); longest >= timeout {
		t.Errorf("one of them took %v: it has waited for the hung card", longest)
	}
	for _, u := range users {
		u.works(t, 10)
	}
	do(t, "release %d", readers)
	if _, err := u.Await(before, rig.Counts{ATRs: 1, Answers: 10}, soon); err != nil {
		t.Error(err)
	}
	v.shows(t, hung, "a card that works", func(s rig.Slot) bool { return s.State == "CARD" && s.LastError == "" })
	stayed(t, u)
	for _, u := range users {
		steady(t, u)
	}
}

// TestBadCards has cards do what no card may: each time a log line names the slot, the slot has failed,
// and works again with a good card. A card in software in another slot notices nothing.
func TestBadCards(t *testing.T) {
	s := newSite(t)
	cards := []struct {
		fault string
		anew  bool   // it takes effect when the card is put in
		says  string // the log, and the slot's last error
	}{
		{"mute 0", false, "doesn't answer"},
		{"short 1", false, "doesn't answer"},
		{"long 2", false, "300, want 2..258"},
		{"atr 3 " + strings.Repeat("3b", 34), true, "doesn't answer"},
	}
	s.startBankd(append(readerSpecs(len(cards)), simulator.Profile(len(cards)).String()))
	users := s.users(len(cards) + 1)
	restore(t, 0, 1, 2, 3)
	v := s.view()
	for i, c := range cards {
		before := users[i].Counts()
		do(t, "%s", c.fault)
		if c.anew {
			do(t, "pull %d", i)
			v.shows(t, i, "no card", noCard)
			do(t, "insert %d", i)
		}
		v.shows(t, i, "a failed card", func(s rig.Slot) bool { return s.State == "FAILED" && strings.Contains(s.LastError, c.says) })
		s.await(s.bankd, "level=warning", fmt.Sprintf("slot=\"B1:%d\"", i), c.says)
		if !c.anew { // else it may have been pulled between two commands
			if _, err := users[i].Await(before, rig.Counts{Lost: 1}, soon); err != nil {
				t.Error(err)
			}
		}
		do(t, "pull %d", i)
		v.shows(t, i, "no card", func(s rig.Slot) bool { return noCard(s) && s.State == "MAPPED" })
		do(t, "release %d", i)
		do(t, "insert %d", i)
		if _, err := users[i].Await(before, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
			t.Error(err)
		}
		stayed(t, users[i])
	}
	steady(t, users[len(cards)])
}

// TestPCSCDKilled kills pcscd 20 times and starts it again, while two of its cards are used; every other
// time as soon as it has gone. A card in software notices nothing.
func TestPCSCDKilled(t *testing.T) {
	s := newSite(t)
	s.startBankd(append(readerSpecs(2), simulator.Profile(2).String()))
	users := s.users(3)
	v := s.view()
	for k := range 20 {
		before := []rig.Counts{users[0].Counts(), users[1].Counts()}
		bench.PCSCD.Kill()
		for i := range before {
			if k%2 == 1 {
				v.shows(t, i, "no pcscd", func(s rig.Slot) bool {
					return noCard(s) && s.Reader == "" && s.State == "MAPPED" && strings.Contains(s.LastError, "pcscd")
				})
			}
		}
		if err := bench.StartPCSCD(readers+others, nil); err != nil {
			t.Fatal(err)
		}
		for i, from := range before {
			if _, err := users[i].Await(from, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
				t.Fatalf("pcscd %d: %v", k, err)
			}
		}
	}
	for i, u := range users {
		v.shows(t, i, "a card", func(s rig.Slot) bool { return hasCard(s) && s.State == "CARD" && s.LastError == "" })
		u.works(t, 10)
		stayed(t, u)
	}
	steady(t, users[2])
}

// TestReaders has pcscd come back with fewer readers than there were, with all of them, and with readers
// whose names are odd.
func TestReaders(t *testing.T) {
	const odd = `L'été [№ 1] (x*)+\n`
	s := newSite(t)
	s.startBankd([]string{rig.Reader(0), rig.Reader(5), `^L'été \[№ 1\] \(x\*\)\+.n [0-9]+ 00`})
	v := s.view()
	restart := func(readers int, name func(int) string) {
		t.Helper()
		bench.PCSCD.Kill()
		if err := bench.StartPCSCD(readers, name); err != nil {
			t.Fatal(err)
		}
	}
	t.Cleanup(func() { restart(readers+others, nil) })
	s.create(0, 20)
	s.create(1, 21)
	s.create(2, 22)
	one, two, three := s.client(20).use(t, 0, pace), s.client(21).use(t, 5, pace), s.client(22).use(t, 0, pace)
	s.hasCard(one)
	s.hasCard(two)
	none := func(pattern string) func(rig.Slot) bool {
		return func(s rig.Slot) bool {
			return noCard(s) && s.Reader == "" && s.State == "MAPPED" &&
				strings.Contains(s.LastError, "no reader matches") && strings.Contains(s.LastError, pattern)
		}
	}
	v.shows(t, 2, "no reader", none("x"))

	before, other := one.Counts(), two.Counts()
	restart(2, nil)
	if _, err := one.Await(before, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
		t.Error(err)
	}
	v.shows(t, 1, "no reader", none("reader C"))
	restart(readers+others, nil)
	if _, err := two.Await(other, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
		t.Error(err)
	}

	restart(2, func(int) string { return odd })
	s.hasCard(three)
	v.shows(t, 2, "its odd name", func(s rig.Slot) bool { return strings.HasPrefix(s.Reader, odd+" 00 00") && s.State == "CARD" })
	v.shows(t, 0, "no reader", none("reader A"))
	stayed(t, three)
	three.end(t)
	before, other = one.Counts(), two.Counts()
	restart(readers+others, nil)
	for u, from := range map[*user]rig.Counts{one: before, two: other} {
		if _, err := u.Await(from, rig.Counts{ATRs: 1, Answers: 3}, soon); err != nil {
			t.Error(err)
		}
		stayed(t, u)
	}
	v.shows(t, 2, "no reader", none("x"))
}
