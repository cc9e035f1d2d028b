// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/rig"
)

// A user is a client that sends command after command, whatever becomes of its card. Each command gets its
// answer, or the shell says that there is none. An answer is compared with that of a twin of the card, which
// begins anew with each ATR: no answer can be that of another card, to another command, or from before the ATR.
type user struct {
	sh    *shell
	pause time.Duration // after each answer
	n     int           // commands
	stop  chan struct{}
	done  chan struct{} // closed at its end, then err tells why

	mu      sync.Mutex
	twin    *softsim.Card // of the next ATR's card
	err     error
	answers int
	lost    int // commands without an answer
	atrs    int
	times   []time.Duration // of the commands since lap
	changed chan struct{}   // closed when one of these is another
}

// use has a shell that was just started use card i of the simulator, until the test ends.
func (sh *shell) use(t *testing.T, i int, pause time.Duration) *user {
	u := &user{
		sh: sh, pause: pause,
		stop: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
	}
	u.becomes(i)
	go func() {
		defer close(u.done)
		err := u.run(twinOf(i))
		u.change(func() { u.err = err })
	}()
	t.Cleanup(func() { u.end(t) })
	return u
}

// becomes says that the next card will be card i.
func (u *user) becomes(i int) { u.change(func() { u.twin = twinOf(i) }) }

func (u *user) run(twin *softsim.Card) error {
	for {
		began := time.Now()
		answered, err := u.command(&twin)
		if err != nil {
			return fmt.Errorf("%s: command %d: %w", u.sh.Name, u.n, err)
		}
		u.change(func() {
			if answered {
				u.answers++
				u.times = append(u.times, time.Since(began))
			} else {
				u.lost++
			}
		})
		select {
		case <-u.stop:
			return nil
		case <-time.After(u.pause):
		}
	}
}

// command sends one command to a card like twin, and reports whether it was answered.
func (u *user) command(twin **softsim.Card) (answered bool, err error) {
	cmd := command(u.sh.id, u.n)
	u.n++
	var buf [258]byte
	want, err := (*twin).Transmit(cmd, buf[:])
	if err != nil {
		return false, err
	}
	mark := u.sh.Mark()
	if err := u.sh.send(cmd); err != nil {
		return false, err
	}
	none := fmt.Sprintf("line %d: ", u.sh.sent)
	for late := time.After(2 * soon); ; {
		log, more := u.sh.LogFrom(mark)
		if strings.HasPrefix(log, none) || strings.Contains(log, "\n"+none) {
			return false, nil
		}
		select {
		case line, ok := <-u.sh.Lines:
			switch line {
			case output("R-APDU", want):
				return true, nil
			case output("SET_ATR", []byte{0x3b, 0x00}): // there is none yet
			case output("SET_ATR", (*twin).ATR()): // those of all cards are the same
				u.change(func() { *twin, u.atrs = u.twin, u.atrs+1 })
				if err := (*twin).Reset(true); err != nil {
					return false, err
				}
				if want, err = (*twin).Transmit(cmd, buf[:]); err != nil {
					return false, err
				}
			default:
				return false, fmt.Errorf("%x: got %q (%t), want %x", cmd, line, ok, want)
			}
		case <-more:
		case <-late:
			return false, fmt.Errorf("%x: neither answer nor error", cmd)
		}
	}
}

func (u *user) change(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
	close(u.changed)
	u.changed = make(chan struct{})
}

// counts are what has happened to a user.
type counts struct{ answers, lost, atrs int }

func (u *user) counts() counts {
	u.mu.Lock()
	defer u.mu.Unlock()
	return counts{u.answers, u.lost, u.atrs}
}

// await waits until so much more has happened than at from, and returns how things are then.
func (u *user) await(from counts, more counts, d time.Duration) (counts, error) {
	for end := time.After(d); ; {
		u.mu.Lock()
		now, err, changed := counts{u.answers, u.lost, u.atrs}, u.err, u.changed
		u.mu.Unlock()
		switch {
		case err != nil:
			return now, err
		case now.answers >= from.answers+more.answers && now.lost >= from.lost+more.lost && now.atrs >= from.atrs+more.atrs:
			return now, nil
		}
		select {
		case <-changed:
		case <-end:
			return now, fmt.Errorf("%s has %+v, %v after %+v, want %+v more", u.sh.Name, now, d, from, more)
		}
	}
}

// works waits for n more answers.
func (u *user) works(t *testing.T, n int) {
	t.Helper()
	if _, err := u.await(u.counts(), counts{answers: n}, soon); err != nil {
		t.Fatal(err)
	}
}

// lap returns how long the commands took that were answered since the last lap, in order of length.
func (u *user) lap() []time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	times := u.times
	u.times = nil
	slices.Sort(times)
	return times
}

// end has it end after its present command, which must have gone well.
func (u *user) end(t *testing.T) {
	t.Helper()
	select {
	case <-u.stop:
		return
	default:
		close(u.stop)
	}
	<-u.done
	if u.err != nil {
		t.Error(u.err)
	}
}

// A view is what the server shows of the slots of bank 1, looked at all the time.
type view struct {
	mu    sync.Mutex
	slots []rig.Slot
	err   error
	news  chan struct{} // closed with the next look
}

// view looks until the test ends.
func (s *site) view() *view {
	v := &view{news: make(chan struct{})}
	stop, done := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(done)
		for {
			slots, err := s.api.Slots(1)
			v.mu.Lock()
			v.slots, v.err = slots, err
			close(v.news)
			v.news = make(chan struct{})
			v.mu.Unlock()
			select {
			case <-stop:
				return
			case <-time.After(20 * time.Millisecond):
			}
		}
	}()
	s.t.Cleanup(func() { close(stop); <-done })
	return v
}

// await waits until a slot is shown as right wants it, and returns how long that took.
func (v *view) await(nr int, d time.Duration, what string, right func(rig.Slot) bool) (took time.Duration, err error) {
	began := time.Now()
	for end := time.After(d); ; {
		v.mu.Lock()
		slots, err, news := v.slots, v.err, v.news
		v.mu.Unlock()
		if nr < len(slots) && right(slots[nr]) {
			return time.Since(began), nil
		}
		select {
		case <-news:
		case <-end:
			return d, fmt.Errorf("slot %d isn't shown with %s after %v: %+v, %v", nr, what, d, slots, err)
		}
	}
}

// shows is await in the test's goroutine.
func (v *view) shows(t *testing.T, nr int, what string, right func(rig.Slot) bool) {
	t.Helper()
	if _, err := v.await(nr, soon, what, right); err != nil {
		t.Fatal(err)
	}
}

func hasCard(s rig.Slot) bool { return s.Present != nil && *s.Present }
func noCard(s rig.Slot) bool  { return s.Present != nil && !*s.Present }

// do has the cards obey a command and returns what they say.
func do(t *testing.T, format string, a ...any) (answer string) {
	t.Helper()
	answer, err := bench.Do(fmt.Sprintf(format, a...))
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

// restore has a card be there and good again at the end of the test.
func restore(t *testing.T, cards ...int) {
	t.Cleanup(func() {
		for _, i := range cards {
			do(t, "release %d", i)
			do(t, "insert %d", i)
		}
	})
}
