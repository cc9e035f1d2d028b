// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"sync"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
)

// A user is a rig.User in a test.
type user struct {
	*rig.User
	sh   *shell
	told bool // what was wrong
}

// use has a shell that was just started use card i of the simulator, until the test ends.
func (sh *shell) use(t *testing.T, i int, pause time.Duration) *user {
	u := &user{rig.Use(sh.Proc, sh.id, twinOf(i), pause, 2*soon), sh, false}
	t.Cleanup(func() { u.end(t) })
	return u
}

// becomes says that the next card will be card i.
func (u *user) becomes(i int) { u.Becomes(twinOf(i)) }

// works waits for n more answers.
func (u *user) works(t *testing.T, n int) {
	t.Helper()
	if _, err := u.Await(u.Counts(), rig.Counts{Answers: n}, soon); err != nil {
		t.Fatal(err)
	}
}

// end has it end after its present command, which must have gone well.
func (u *user) end(t *testing.T) {
	t.Helper()
	if err := u.End(); err != nil && !u.told {
		u.told = true
		t.Error(err)
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
