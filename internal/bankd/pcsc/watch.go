// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync/atomic"
	"time"

	"github.com/ebfe/scard"

	"remsim/internal/bankd"
)

const (
	// lookAfter is how long one wait for a change takes at most: a change that pcscd doesn't
	// tell of is seen then.
	lookAfter = time.Second
	// lookPause is the least time from one look to the next, should pcscd have news all the time.
	lookPause = 200 * time.Millisecond
	// reopenAfter is the pause before a pcscd that isn't there, or was lost, is tried again.
	reopenAfter = 500 * time.Millisecond
	// hungAfter is how long pcscd may take for a look.
	hungAfter = 10 * time.Second
	// reviveAfter is how long pcscd, which looks each 0.4 s, may take to notice that a card has gone. After each
	// attempt to revive it the pause before the next doubles.
	reviveAfter = time.Second
	// endWithin is how long Watch waits for the end of a call that it has cancelled.
	endWithin = time.Second
	// maxVisits is the number of contexts of which all but one hang.
	maxVisits = 3
)

// pnp is the name of a reader that isn't one: its state changes when readers come or go.
const pnp = `\\?PnP?\Notification`

// A looker is a context of PC/SC that looks at readers. Its methods but cancel are called by one
// goroutine, cancel once by another.
type looker interface {
	list() ([]string, error) // nil: there are none
	// await returns when the flags of one of states aren't right, with all of them set right, and
	// with scard.ErrTimeout after d. It takes so many states only that pcscd could have readers.
	await(states []state, d time.Duration) error
	cancel() // makes await return
	release()
	// revive makes pcscd look whether there is a card. It may take as long as any call that a card is part
	// of, and is called by a goroutine of its own.
	revive(reader string)
}

// A state is what is known of a reader. Its flags have the number of the reader's events
// in the upper 16 bits; none at all mean that nothing is known.
type state struct {
	name  string
	flags scard.StateFlag
	atr   []byte
}

// Watch reports all readers, from one context of PC/SC. It never returns an error.
func (Bank) Watch(ctx context.Context, changed func([]bankd.Reader)) error {
	newWatcher(openStatus, hungAfter, changed).run(ctx)
	return nil
}

// A watcher reports the readers of a pcscd that may go, come back, and hang.
type watcher struct {
	open     func() (looker, error)
	patience time.Duration // with one look
	changed  func([]bankd.Reader)
	visits   chan struct{} // holds one element for each visit that hasn't ended

	told bool           // changed was called
	last []bankd.Reader // with these
}

func newWatcher(open func() (looker, error), patience time.Duration, changed func([]bankd.Reader)) *watcher {
	return &watcher{open: open, patience: patience, changed: changed, visits: make(chan struct{}, maxVisits)}
}

func (w *watcher) run(ctx context.Context) {
	for {
		// Where calls hang, there is no use in making ever more of them.
		select {
		case w.visits <- struct{}{}:
		case <-ctx.Done():
			return
		}
		w.follow(ctx)
		if !pause(ctx, reopenAfter) {
			return
		}
	}
}

// follow reports what one visit sees, and nil at its end. A visit whose calls hang is abandoned.
func (w *watcher) follow(ctx context.Context) {
	visiting, stop := context.WithCancel(ctx)
	defer stop()
	looks, done := make(chan []bankd.Reader), make(chan struct{})
	go func() {
		defer func() { <-w.visits }()
		defer close(done)
		visit(visiting, w.open, looks)
	}()
	hung := time.NewTimer(w.patience)
	defer hung.Stop()
	for {
		select {
		case readers := <-looks:
			w.tell(readers)
			hung.Reset(w.patience)
			continue
		case <-done:
		case <-hung.C:
		case <-ctx.Done():
			select {
			case <-done:
			case <-time.After(endWithin):
			}
			return
		}
		w.tell(nil)
		return
	}
}

// tell calls changed when there is something new.
func (w *watcher) tell(readers []bankd.Reader) {
	same := (readers == nil) == (w.last == nil) && slices.EqualFunc(readers, w.last, func(a, b bankd.Reader) bool {
		return a.Name == b.Name && a.Present == b.Present && a.Changes == b.Changes && bytes.Equal(a.ATR, b.ATR)
	})
	if w.told && same {
		return
	}
	w.told, w.last = true, readers
	w.changed(slices.Clone(readers))
}

// visit looks at the readers until something fails or ctx ends, and sends what it sees once in
// lookAfter at least.
func visit(ctx context.Context, open func() (looker, error), looks chan<- []bankd.Reader) {
	l, err := open()
	if err != nil {
		return
	}
	defer l.release()
	cancelled := make(chan struct{})
	stop := context.AfterFunc(ctx, func() { defer close(cancelled); l.cancel() })
	defer func() {
		if !stop() {
			<-cancelled // no context that was released is cancelled: its number may be another's
		}
	}()
	for v := new(view); ; {
		began := time.Now()
		readers, err := v.look(l)
		if err != nil {
			return
		}
		select {
		case looks <- readers:
		case <-ctx.Done():
			return
		}
		if !pause(ctx, lookPause-time.Since(began)) {
			return
		}
	}
}

// pause reports whether ctx hasn't ended before d has passed.
func pause(ctx context.Context, d time.Duration) bool {
	if d <= 0 {
		return ctx.Err() == nil
	}
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
	case <-ctx.Done():
	}
	return ctx.Err() == nil
}

// A view is what looks at the readers of one pcscd have shown.
type view struct {
	known    map[string]known // by the names of readers and pnp
	turn     int              // see ask
	reviving atomic.Bool      // a reader is being revived
}

// What is known of a reader.
type known struct {
	flags   scard.StateFlag // those to compare with, 0 to ask for them
	present bool
	mute    bool // there is a card without an ATR
	atr     []byte
	events  uint16 // pcscd's number, which starts anew at 65536
	changes uint64
	ahead   bool          // changes has a card that pcscd shows and hasn't counted yet
	seen    bool          // present or empty, since it had a fault
	card    uint16        // a number of events at which there is a card, if it was seen
	lost    bool          // there is no card, and no event that took it away
	since   time.Time     // it was lost, or last revived
	wait    time.Duration // from then until it is revived
}

// look waits for news of the readers, at most for lookAfter, and returns those there are.
func (v *view) look(l looker) ([]bankd.Reader, error) {
	names, err := l.list()
	if err != nil {
		return nil, err
	}
	states := v.ask(names)
	err = l.await(states, lookAfter)
	if errors.Is(err, scard.ErrInvalidParameter) {
		// There are as many readers as can be: no more can come, and one that goes has news.
		states = states[:len(names)]
		err = l.await(states, lookAfter)
	}
	now := make(map[string]known, len(states))
	for _, s := range states {
		k := v.known[s.name]
		switch {
		case errors.Is(err, scard.ErrTimeout), errors.Is(err, scard.ErrUnknownReader):
			// Nothing new, or a reader has gone since it was listed: the next look asks for all.
			k.flags = 0
		case err != nil:
			return nil, err
		case s.flags == 0: // it wasn't asked for
		case s.flags&scard.StateUnknown != 0:
			continue
		default:
			k.update(s)
		}
		now[s.name] = k
	}
	v.revive(l, now)
	v.known = now
	readers := make([]bankd.Reader, 0, len(names))
	for _, n := range names {
		if k, ok := now[n]; ok {
			readers = append(readers, bankd.Reader{Name: n, Present: k.present, ATR: k.atr, Changes: k.changes})
		}
	}
	return readers, nil
}

// ask returns the states that one look asks for: those of all readers and of pnp, the last.
func (v *view) ask(names []string) []state {
	var mute []int
	states := make([]state, 0, len(names)+1)
	for i, n := range append(slices.Clip(names), pnp) {
		k := v.known[n]
		if k.mute {
			mute = append(mute, i)
		}
		states = append(states, state{name: n, flags: k.flags})
	}
	// PC/SC's library stops for 0.4 s at each card without an ATR: more than one at a time would
	// make all others wait.
	v.turn++
	for i, m := range mute {
		if i != v.turn%len(mute) {
			states[m].flags |= scard.StateIgnore
		}
	}
	return states
}

// revive helps one of the readers whose card is lost: it was pulled, found missing when pcscd was to reset it, and put back
// before pcscd looked, which then says that the reader is empty until the card moves again.
func (v *view) revive(l looker, readers map[string]known) {
	for n, k := range readers {
		if !k.lost || time.Since(k.since) < k.wait || !v.reviving.CompareAndSwap(false, true) {
			continue
		}
		k.since, k.wait = time.Now(), 2*k.wait
		readers[n] = k
		go func() { // ends with the calls it makes
			defer v.reviving.Store(false)
			l.revive(n)
		}()
	}
}

// update takes in what a look has shown.
func (k *known) update(s state) {
	was := *k
	k.flags = s.flags &^ scard.StateChanged
	k.present = s.flags&scard.StatePresent != 0
	k.mute = s.flags&scard.StateMute != 0
	k.atr = nil
	if k.present && len(s.atr) > 0 {
		k.atr = s.atr
	}
	if s.flags&scard.StateUnavailable == 0 {
		events := uint16(s.flags >> 16)
		k.changes += uint64(events - k.events)
		if k.ahead && events != k.events {
			k.changes--
			k.ahead = false
		}
		k.events = events
	} else {
		k.seen = false // there is no number, and the end of the fault is an event, too
	}
	empty := s.flags&scard.StateEmpty != 0
	switch {
	case k.present && was.seen && !was.present && !was.lost && k.events == was.events:
		// pcscd shows a card a moment before it counts that: then it isn't another one.
		k.changes++
		k.ahead = true
	case k.present:
		k.seen, k.card = true, k.events
	case empty && !k.seen:
		k.seen, k.card = true, k.events+1
	}
	// Events take a card away and put one there by turns: an even number of them after there was one, pcscd itself
	// believes in the card that it says isn't there. Looks may have missed what was between, also that there was one.
	k.lost = empty && (k.events-k.card)%2 == 0
	if k.lost && (!was.lost || k.events != was.events) {
		k.since, k.wait = time.Now(), reviveAfter
	}
}
