// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"context"
	"reflect"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/ebfe/scard"

	"remsim/internal/bankd"
)

// A fake is a pcscd, with the contexts of its library, that does what a test wants of it.
type fake struct {
	mu      sync.Mutex
	states  []state                  // of the readers
	news    chan struct{}            // closed and made anew when they change
	down    bool                     // there is no pcscd
	most    int                      // how many states await takes; 0: any number
	busy    bool                     // there is always something new
	asked   [][]state                // by each await
	hangs   map[string]chan struct{} // calls that don't return until it is closed
	open    int                      // contexts that weren't released
	opened  int                      // contexts in all
	revived []string                 // readers
}

// change changes what the fake does.
func (f *fake) change(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	close(f.news)
	f.news = make(chan struct{})
}

func newFake(states ...state) *fake {
	return &fake{states: states, news: make(chan struct{}), hangs: map[string]chan struct{}{}}
}

// call is the begin of each call.
func (f *fake) call(name string) error {
	f.mu.Lock()
	hang, down := f.hangs[name], f.down
	f.mu.Unlock()
	if hang != nil {
		<-hang
	}
	if down {
		return scard.ErrNoService
	}
	return nil
}

func (f *fake) openLooker() (looker, error) {
	f.mu.Lock()
	f.opened++
	f.mu.Unlock()
	if err := f.call("open"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.open++
	return &fakeLooker{fake: f, cancelled: make(chan struct{})}, nil
}

type fakeLooker struct {
	*fake
	cancelled chan struct{}
}

func (l *fakeLooker) list() (names []string, err error) {
	if err := l.call("list"); err != nil {
		return nil, err
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	for _, s := range l.states {
		names = append(names, s.name)
	}
	return names, nil
}

// await does as pcsc-lite: a reader without flags is news, and so are other flags than those known; a number
// of events isn't compared with 0.
func (l *fakeLooker) await(states []state, d time.Duration) error {
	l.mu.Lock()
	l.asked = append(l.asked, slices.Clone(states))
	l.mu.Unlock()
	for end := time.After(d); ; {
		if err := l.call("await"); err != nil {
			return err
		}
		l.mu.Lock()
		if l.most > 0 && len(states) > l.most {
			l.mu.Unlock()
			return scard.ErrInvalidParameter
		}
		result, changed := slices.Clone(states), l.busy
		for i, s := range states {
			k := slices.IndexFunc(l.states, func(t state) bool { return t.name == s.name })
			switch {
			case s.flags&scard.StateIgnore != 0:
				result[i].flags = 0
			case s.name == pnp:
				result[i].flags = scard.StateFlag(len(l.states)) << 16
				changed = changed || s.flags != 0 && s.flags != result[i].flags
			case k < 0:
				l.mu.Unlock()
				return scard.ErrUnknownReader
			default:
				result[i] = l.states[k]
				is := result[i].flags
				if s.flags != 0 && s.flags>>16 == 0 {
					is &= 0xffff
				}
				changed = changed || s.flags != is
			}
		}
		news := l.news
		l.mu.Unlock()
		if changed {
			copy(states, result)
			return nil
		}
		select {
		case <-news:
		case <-end:
			return scard.ErrTimeout
		case <-l.cancelled:
			return scard.ErrCancelled
		}
	}
}

func (l *fakeLooker) cancel() {
	l.call("cancel")
	close(l.cancelled)
}

func (l *fakeLooker) release() {
	l.call("release")
	l.mu.Lock()
	defer l.mu.Unlock()
	l.open--
}

func (l *fakeLooker) revive(reader string) {
	l.mu.Lock()
	l.revived = append(l.revived, reader)
	l.mu.Unlock()
	l.call("revive")
}

const (
	empty = scard.StateEmpty
	there = scard.StatePresent
	mute  = scard.StatePresent | scard.StateMute
)

func events(n int) scard.StateFlag { return scard.StateFlag(n) << 16 }

// watchFake watches f for the time of a test in a bubble; last returns what was reported last, n how often.
func watchFake(t *testing.T, f *fake) (last func() []bankd.Reader, n func() int, stop func()) {
	t.Helper()
	r := &reports{news: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() { defer close(done); newWatcher(f.openLooker, hungAfter, r.add).run(ctx) }()
	stop = func() { cancel(); <-done }
	t.Cleanup(func() {
		stop()
		synctest.Wait()
		if f.open != 0 {
			t.Errorf("%d contexts weren't released", f.open)
		}
	})
	synctest.Wait()
	return func() []bankd.Reader { synctest.Wait(); return r.list(r.count() - 1) }, func() int { synctest.Wait(); return r.count() }, stop
}

func expect(t *testing.T, got []bankd.Reader, want ...bankd.Reader) {
	t.Helper()
	if got == nil || len(got)+len(want) > 0 && !reflect.DeepEqual(got, want) {
		t.Errorf("readers %v, want %v", got, want)
	}
}

func TestLook(t *testing.T) {
	atr := []byte{0x3b, 0x00}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		last, n, _ := watchFake(t, f)
		time.Sleep(lookAfter)
		expect(t, last()) // no readers isn't no pcscd

		f.change(func() { f.states = []state{{"a", empty, nil}, {"b", there | events(7), atr}} })
		time.Sleep(lookAfter + lookPause)
		expect(t, last(), bankd.Reader{Name: "a"}, bankd.Reader{Name: "b", Present: true, ATR: atr, Changes: 7})

		f.change(func() { f.states[0] = state{"a", there | events(1), atr} })
		time.Sleep(lookPause)
		expect(t, last(), bankd.Reader{Name: "a", Present: true, ATR: atr, Changes: 1}, bankd.Reader{Name: "b", Present: true, ATR: atr, Changes: 7})

		// Others may use the card, and nothing happens for long: that is no news.
		was := n()
		f.change(func() { f.states[0].flags |= scard.StateInuse })
		time.Sleep(time.Minute)
		if n() != was {
			t.Errorf("%d reports without news", n()-was)
		}

		// Two events between two looks; the number starts anew; a reader with a fault has none.
		for _, tt := range []struct {
			flags scard.StateFlag
			want  bankd.Reader
		}{
			{there | events(3), bankd.Reader{Present: true, ATR: atr, Changes: 3}},
			{empty | events(65535), bankd.Reader{Changes: 65535}},
			{there | events(1), bankd.Reader{Present: true, ATR: atr, Changes: 65537}},
			{scard.StateUnavailable, bankd.Reader{Changes: 65537}},
			{there | events(1), bankd.Reader{Present: true, ATR: atr, Changes: 65537}},
			{mute | events(3), bankd.Reader{Present: true, ATR: atr, Changes: 65539}},
		} {
			f.change(func() { f.states[0].flags = tt.flags })
			time.Sleep(lookPause)
			tt.want.Name = "a"
			if got := last()[0]; !reflect.DeepEqual(got, tt.want) {
				t.Errorf("flags %#x: %v, want %v", tt.flags, got, tt.want)
			}
		}

		// A reader goes, with its number of changes.
		f.change(func() { f.states = f.states[1:] })
		time.Sleep(lookPause)
		expect(t, last(), bankd.Reader{Name: "b", Present: true, ATR: atr, Changes: 7})
	})
}

// pcscd shows a card before it counts that: the count, when it comes, is no news, and another one's is.
func TestLookUncounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty | events(4), nil})
		last, n, _ := watchFake(t, f)
		for i, tt := range []struct {
			flags scard.StateFlag
			want  bankd.Reader
			news  int
		}{
			{there | events(4), bankd.Reader{Present: true, Changes: 5}, 1},
			{there | events(5), bankd.Reader{Present: true, Changes: 5}, 0},
			{there | events(7), bankd.Reader{Present: true, Changes: 7}, 1},
			{empty | events(8), bankd.Reader{Changes: 8}, 1},
			{there | events(8), bankd.Reader{Present: true, Changes: 9}, 1},
			{there | events(8) | scard.StateInuse, bankd.Reader{Present: true, Changes: 9}, 0},
			{there | events(11), bankd.Reader{Present: true, Changes: 11}, 1}, // counted, and swapped
		} {
			was := n()
			f.change(func() { f.states[0].flags = tt.flags })
			time.Sleep(lookAfter + lookPause)
			tt.want.Name = "a"
			expect(t, last(), tt.want)
			if news := n() - was; news != tt.news {
				t.Errorf("step %d: %d reports, want %d", i, news, tt.news)
			}
		}
	})
}

// A number of events that pcscd begins with isn't compared there.
func TestLookMissedEvent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", there, nil})
		last, _, _ := watchFake(t, f)
		f.mu.Lock() // without a word
		f.states[0].flags |= events(2)
		f.mu.Unlock()
		time.Sleep(lookAfter + lookPause)
		expect(t, last(), bankd.Reader{Name: "a", Present: true, Changes: 2})
	})
}

// A reader is empty without an event: pcscd may have missed a card that was put back.
func TestLookRevive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", there | events(3), nil}, state{"b", there | events(3), nil}, state{"c", there | events(3), nil})
		last, _, _ := watchFake(t, f)
		hang := make(chan struct{})
		f.change(func() {
			f.hangs["revive"] = hang
			f.states[0].flags = empty | events(4)
			f.states[1].flags = empty | events(3)
			f.states[2].flags = empty | events(3)
		})
		time.Sleep(reviveAfter - 2*lookPause)
		f.change(func() { f.states[2].flags = empty | events(4) }) // it had noticed too late
		f.mu.Lock()
		if len(f.revived) != 0 {
			t.Errorf("revived %q too early", f.revived)
		}
		f.mu.Unlock()
		time.Sleep(time.Minute) // it hangs
		expect(t, last(), bankd.Reader{Name: "a", Changes: 4}, bankd.Reader{Name: "b", Changes: 3}, bankd.Reader{Name: "c", Changes: 4})
		f.mu.Lock()
		delete(f.hangs, "revive")
		if !slices.Equal(f.revived, []string{"b"}) {
			t.Errorf("revived %q, want b once", f.revived)
		}
		f.mu.Unlock()
		close(hang)
		time.Sleep(reviveAfter + lookAfter + lookPause)
		f.change(func() { f.states[1].flags = there | events(3) })
		time.Sleep(lookPause)
		expect(t, last(), bankd.Reader{Name: "a", Changes: 4}, bankd.Reader{Name: "b", Present: true, Changes: 3}, bankd.Reader{Name: "c", Changes: 4})
		f.mu.Lock()
		if len(f.revived) < 2 {
			t.Errorf("revived %q, want b again", f.revived)
		}
		f.revived = nil
		f.mu.Unlock()
		time.Sleep(time.Minute)
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.revived) != 0 {
			t.Errorf("revived %q with its card", f.revived)
		}
	})
}

// A card was pulled and put back, and then lost, all of it between two looks; and more is missed while it is lost.
func TestLookReviveMissed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", there | events(65535), nil})
		watchFake(t, f)
		revived := func(want int, what string) {
			t.Helper()
			time.Sleep(reviveAfter + lookAfter + lookPause)
			f.mu.Lock()
			defer f.mu.Unlock()
			if len(f.revived) != want {
				t.Errorf("revived %d times %s, want %d", len(f.revived), what, want)
			}
			f.revived = nil
		}
		for _, tt := range []struct {
			what  string
			flags scard.StateFlag
			want  int
		}{
			{"after two events", empty | events(1), 1},
			{"after two more", empty | events(3), 1},
			{"when the card has gone", empty | events(4), 0},
			{"when another one has come and gone", empty | events(6), 0},
			{"when that was lost", empty | events(7), 1},
			{"when the reader has a fault", scard.StateUnavailable, 0},
			{"when it was found", there | events(7), 0},
		} {
			f.change(func() { f.states[0].flags = tt.flags })
			revived(tt.want, tt.what)
		}
		// Ever less often.
		f.change(func() { f.states[0].flags = empty | events(7) })
		time.Sleep(time.Hour)
		f.mu.Lock()
		defer f.mu.Unlock()
		if n := len(f.revived); n < 10 || n > 12 {
			t.Errorf("revived %d times in an hour", n)
		}
	})
}

// A card came and was lost before any look has shown it.
func TestLookReviveUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty | events(4), nil}, state{"b", scard.StateUnavailable, nil}, state{"c", empty, nil})
		watchFake(t, f)
		for _, tt := range []struct {
			a, b, c scard.StateFlag
			want    []string
		}{
			{empty | events(4), scard.StateUnavailable, empty, nil},
			{empty | events(5), empty | events(9), empty | events(2), []string{"a"}},
			{there | events(5), empty | events(10), empty | events(2), []string{"b"}},
			{empty | events(6), there | events(10), empty | events(4), nil},
			// The end of a fault counts, too, be there a card or not.
			{scard.StateUnavailable, scard.StateUnavailable, scard.StateUnavailable, nil},
			{empty | events(7), there | events(11), empty | events(5), nil},
			{empty | events(8), there | events(11), empty | events(7), []string{"a"}},
			{there | events(8), empty | events(11), empty | events(7), []string{"b"}},
		} {
			f.change(func() { f.states[0].flags, f.states[1].flags, f.states[2].flags = tt.a, tt.b, tt.c })
			time.Sleep(reviveAfter + lookAfter + lookPause)
			f.mu.Lock()
			if !slices.Equal(f.revived, tt.want) {
				t.Errorf("revived %q with events %d, %d and %d, want %q", f.revived, tt.a>>16, tt.b>>16, tt.c>>16, tt.want)
			}
			f.revived = nil
			f.mu.Unlock()
		}
	})
}

// pcscd shows a card before it counts that: a look between says nothing of what the numbers mean.
func TestLookReviveUncounted(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty | events(4), nil}, state{"b", empty | events(4), nil}, state{"c", empty | events(4), nil})
		watchFake(t, f)
		time.Sleep(lookPause)
		see := func(a, b, c scard.StateFlag, d time.Duration) {
			f.change(func() { f.states[0].flags, f.states[1].flags, f.states[2].flags = a, b, c })
			time.Sleep(d)
		}
		see(there|events(4), there|events(4), there|events(4), lookPause)
		see(empty|events(5), there|events(5), there|events(4), reviveAfter+lookAfter+lookPause) // a is lost
		see(there|events(5), empty|events(6), empty|events(4), reviveAfter+lookAfter+lookPause) // c is: it had been lost from the first
		f.mu.Lock()
		defer f.mu.Unlock()
		if !slices.Equal(f.revived, []string{"a", "c"}) {
			t.Errorf("revived %q, want a and c", f.revived)
		}
	})
}

// A reader goes after it was listed.
func TestLookVanished(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty, nil}, state{"b", empty, nil})
		hang := make(chan struct{})
		f.hangs["await"] = hang
		last, _, _ := watchFake(t, f)
		f.change(func() { f.states = f.states[:1]; delete(f.hangs, "await") })
		close(hang)
		time.Sleep(lookPause)
		expect(t, last(), bankd.Reader{Name: "a"})
	})
}

// With as many readers as its library takes there is no room for the one that tells of others.
func TestLookFull(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty, nil}, state{"b", empty, nil})
		f.most = 2
		last, _, _ := watchFake(t, f)
		expect(t, last(), bankd.Reader{Name: "a"}, bankd.Reader{Name: "b"})
		f.change(func() { f.states[1].flags = there | events(1) })
		time.Sleep(lookPause)
		expect(t, last(), bankd.Reader{Name: "a"}, bankd.Reader{Name: "b", Present: true, Changes: 1})
	})
}

// Of cards without an ATR, each of which costs 0.4 s, one at a time is looked at.
func TestLookMute(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", mute, nil}, state{"b", there, nil}, state{"c", mute, nil}, state{"d", mute, nil})
		f.busy = true // many looks
		last, _, _ := watchFake(t, f)
		f.mu.Lock()
		f.asked = nil
		f.mu.Unlock()
		time.Sleep(9*lookPause + lookPause/2)
		f.mu.Lock()
		looked := map[string]int{}
		for _, states := range f.asked {
			for _, s := range states {
				if s.flags&scard.StateIgnore == 0 {
					looked[s.name]++
				}
			}
		}
		f.mu.Unlock()
		if want := map[string]int{"a": 3, "b": 9, "c": 3, "d": 3, pnp: 9}; !reflect.DeepEqual(looked, want) {
			t.Errorf("looked at %v, want %v", looked, want)
		}
		expect(t, last(), bankd.Reader{Name: "a", Present: true}, bankd.Reader{Name: "b", Present: true},
			bankd.Reader{Name: "c", Present: true}, bankd.Reader{Name: "d", Present: true})
	})
}

// Nor do mute cards hold up a look where nothing happens.
func TestLookMuteQuiet(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", mute, nil}, state{"b", mute, nil}, state{"c", mute, nil}, state{"d", there, nil})
		watchFake(t, f)
		f.mu.Lock()
		f.asked = nil
		f.mu.Unlock()
		time.Sleep(10 * (lookAfter + lookPause))
		f.mu.Lock()
		defer f.mu.Unlock()
		if len(f.asked) < 5 {
			t.Errorf("%d looks", len(f.asked))
		}
		for i, states := range f.asked {
			n := 0
			for _, s := range states {
				if s.name <= "c" && s.flags&scard.StateIgnore == 0 && s.name != pnp {
					n++
				}
			}
			if n != 1 {
				t.Errorf("look %d asks for %d mute cards", i, n)
			}
		}
	})
}

// A pcscd that has news all the time, or none at all, keeps nobody busy.
func TestLookPause(t *testing.T) {
	for _, busy := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(state{"a", empty, nil})
			f.busy = busy
			_, n, _ := watchFake(t, f)
			time.Sleep(time.Minute)
			synctest.Wait()
			f.mu.Lock()
			defer f.mu.Unlock()
			if looks := len(f.asked); looks > int(time.Minute/lookPause)+1 || looks < int(time.Minute/(lookAfter+lookPause)) {
				t.Errorf("%d looks a minute", looks)
			}
			if n() != 1 {
				t.Errorf("%d reports, want 1", n())
			}
		})
	}
	synctest.Test(t, func(t *testing.T) {
		f := newFake()
		f.down = true
		last, n, _ := watchFake(t, f)
		if n() != 1 || last() != nil {
			t.Errorf("%d reports, the last %v", n(), last())
		}
		time.Sleep(time.Minute)
		synctest.Wait()
		f.mu.Lock()
		if f.opened > int(time.Minute/reopenAfter)+1 {
			t.Errorf("%d attempts a minute", f.opened)
		}
		f.down = false
		f.mu.Unlock()
		time.Sleep(reopenAfter + lookAfter)
		expect(t, last())
	})
}

// Whatever call hangs: there are no readers then, the calls that are made meanwhile are few, Watch ends, and all is well
// when they return.
func TestLookHung(t *testing.T) {
	for _, call := range []string{"open", "list", "await"} {
		t.Run(call, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				f := newFake(state{"a", empty, nil})
				last, n, _ := watchFake(t, f)
				expect(t, last(), bankd.Reader{Name: "a"})
				if call == "open" {
					f.change(func() { f.down = true })
					time.Sleep(reopenAfter)
				}
				hang := make(chan struct{})
				f.change(func() { f.down = false; f.hangs[call] = hang })
				time.Sleep(time.Hour)
				if last() != nil || n() != 2 {
					t.Errorf("%d reports, the last %v", n(), last())
				}
				f.mu.Lock()
				if f.opened > 2+maxVisits {
					t.Errorf("%d contexts", f.opened)
				}
				delete(f.hangs, call)
				f.mu.Unlock()
				close(hang)
				time.Sleep(reopenAfter + lookPause)
				expect(t, last(), bankd.Reader{Name: "a"})
			})
		})
	}
	t.Run("at the end", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(state{"a", empty, nil})
			_, _, stop := watchFake(t, f)
			hang := make(chan struct{})
			f.change(func() { f.hangs["cancel"], f.hangs["await"] = hang, hang })
			time.Sleep(2 * lookPause) // between two looks there is nothing to cancel
			began := time.Now()
			stop()
			if d := time.Since(began); d != endWithin {
				t.Errorf("Watch took %v to end, want %v", d, endWithin)
			}
			close(hang)
		})
	})
	t.Run("released late", func(t *testing.T) {
		synctest.Test(t, func(t *testing.T) {
			f := newFake(state{"a", empty, nil})
			_, _, stop := watchFake(t, f)
			hang := make(chan struct{})
			f.change(func() { f.hangs["cancel"] = hang })
			time.Sleep(lookPause + lookAfter/2) // between two looks there is nothing to cancel
			stop()
			f.mu.Lock()
			if f.open != 1 {
				t.Error("a context was released that is being cancelled")
			}
			f.mu.Unlock()
			close(hang)
		})
	})
}

// The end of the context ends a wait at once.
func TestLookEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		f := newFake(state{"a", empty, nil})
		_, n, stop := watchFake(t, f)
		time.Sleep(lookPause + lookAfter/2)
		began := time.Now()
		stop()
		if d := time.Since(began); d != 0 || n() != 1 {
			t.Errorf("Watch took %v to end, with %d reports", d, n())
		}
	})
}
