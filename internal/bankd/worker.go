// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/gsmtap"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// retryAfter is how often a card that a client waits for is looked for.
const retryAfter = 10 * time.Second

// Lengths of what passes a T=0 card (ISO 7816-3 8.2, 10.3.2): ATR, command TPDU
// (header and up to 255 data bytes), response (up to 256 data bytes and SW1 SW2).
const (
	minATR, maxATR           = 2, 33
	minCommand, maxCommand   = 5, 260
	minResponse, maxResponse = 2, 258
)

// A reset is what a client wants done to its card, the stronger one last.
type reset uint8

const (
	noReset reset = iota
	warmReset
	coldReset
)

// A worker is the card goroutine of a slot: it opens the card when there is a user
// for it, resets it, and closes it when the user
// has gone, or the card. It ends when there is no user. When a call takes too long, the
// worker is abandoned: it does nothing more than to close the card when the call returns
// after all.
//
// While it has nothing to do, it lends the card for a command to the goroutine that has read that, and does
// nothing until it has it back.
type worker struct {
	d     *bankd
	bay   *bay
	log   *logrus.Entry
	tap   *gsmtap.Source // of traces
	wake  chan struct{}  // something has changed in state
	timer *time.Timer    // runs during a call, and may run on until its end
	ctx   context.Context
	stop  context.CancelFunc // when abandoned

	// These belong to state.
	calling   bool
	deadline  time.Time // of the call
	armed     bool      // timer runs
	free      *conn     // whose next job is waited for; nil: of nobody
	lent      bool      // the card is, to who has read a command
	missed    bool      // poke was called meanwhile
	lost      bool      // the card came back and is of no use any more
	abandoned bool
	epoch     int       // bay.epoch when it was abandoned
	due       time.Time // when to try the card next, for a user that knows that there is none
	losses    int       // bay.losses when the card was opened: another one now means another card
	holds     string    // the place whose card it has

	// These belong to the goroutine.
	card Card
	cmd  [maxCommand]byte
	buf  [maxResponse]byte
	out  rspro.TpduCardToModem // the answer, made here so that none need be allocated
}

// startLocked starts the card goroutine of b; with wait it tries the card after
// retryAfter only.
func (d *bankd) startLocked(b *bay, wait bool) {
	w := &worker{
		d:    d,
		bay:  b,
		log:  d.log.WithFields(logrus.Fields{"cat": "DBANKDW", "slot": b.slot.String()}),
		tap:  d.tap(b.slot.Slot),
		wake: make(chan struct{}, 1),
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.timer = time.AfterFunc(d.cfg.CardTimeout, w.overdue)
	w.timer.Stop()
	if wait {
		w.due = time.Now().Add(retryAfter)
	}
	b.work = w
	d.working++
	go w.run()
}

// poke makes the worker look at state.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) run() {
	defer w.leave()
	for w.pause(); w.wanted(); w.pause() {
		if w.open() {
			if c := w.admit(); c != nil {
				w.serve(c)
			}
			w.close()
		}
	}
}

// pause waits until there is something to do.
func (w *worker) pause() {
	for {
		wait, idle := w.idle()
		if !idle {
			return
		}
		t := time.NewTimer(wait)
		select {
		case <-w.wake:
		case <-t.C:
		}
		t.Stop()
	}
}

// idle reports whether there is nothing to do but to wait, and how long, before the next
// try of the card: its user knows that there is none.
func (w *worker) idle() (wait time.Duration, idle bool) {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	c := w.bay.user
	wait = time.Until(w.due)
	return wait, wait > 0 && c != nil && c.answered && !s.closing && !w.abandoned
}

// wanted reports whether the card has a user, for this worker. If not, the worker is
// at its end.
func (w *worker) wanted() bool {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.abandoned {
		return false
	}
	if w.bay.user == nil || s.closing {
		s.retireLocked(w.bay)
		return false
	}
	return true
}

// leave is the end of the worker. If it was abandoned, its call has returned now: the
// card is closed, and who waits for it needn't wait for the next try.
func (w *worker) leave() {
	w.stop()
	w.timer.Stop()
	s, b := w.d.state, w.bay
	s.mu.Lock()
	abandoned := w.abandoned
	s.mu.Unlock()
	if !abandoned {
		return
	}
	if w.card != nil {
		w.card.Close()
	}
	w.log.Warn("an abandoned card call has returned")
	w.release()
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.epoch != b.epoch {
		return // it doesn't count any more
	}
	b.abandoned--
	s.hurryLocked(b)
}

// begin and end enclose a call to the card. When one of them has returned false, the
// worker is abandoned and the slot is another's.
func (w *worker) begin() bool {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	if w.abandoned {
		return false
	}
	w.beginLocked()
	return true
}

func (w *worker) beginLocked() {
	w.calling = true
	w.deadline = time.Now().Add(w.d.cfg.CardTimeout)
	if !w.armed { // or else it runs long enough: to set it, which wakes a thread, takes longer than most commands
		w.armed = true
		w.timer.Reset(w.d.cfg.CardTimeout)
	}
}

// began returns when the call to the card has begun that was last.
func (w *worker) began() time.Time { return w.deadline.Add(-w.d.cfg.CardTimeout) }

func (w *worker) end() bool {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	w.calling = false
	return !w.abandoned
}

// overdue abandons the worker when its call has taken too long.
func (w *worker) overdue() {
	s, b := w.d.state, w.bay
	s.mu.Lock()
	w.armed = false
	left := time.Until(w.deadline)
	if !w.calling || left > 0 { // the call that it was set for has returned
		if w.calling {
			w.armed = true
			w.timer.Reset(left)
		}
		s.mu.Unlock()
		return
	}
	w.abandoned, w.epoch = true, b.epoch
	s.retireLocked(b)
	b.abandoned++
	w.d.counts.abandoned.Add(1)
	hanging := b.abandoned
	c := b.user
	served := c != nil && c.state == Served // then the server is told that it loses the card
	// A card that has left meanwhile says nothing of the one that came: that is tried at once.
	stale := w.losses != b.losses && b.abandoned < maxAbandoned
	if !stale && s.failLocked(b, ErrTimeout) && !served {
		s.reportLocked(b, c, ErrTimeout)
	}
	if b.user != nil && !s.closing && b.abandoned < maxAbandoned {
		s.start(b, !stale)
	}
	s.mu.Unlock()

	w.stop()
	w.log.WithField("hanging", hanging).Errorf("%v after %v, abandoned", ErrTimeout, w.d.cfg.CardTimeout)
}

// open powers the card up. Who waits for it is told when that fails.
func (w *worker) open() bool {
	spec, err := w.aim()
	if err == nil {
		w.card, err = w.d.bank(&spec).Open(w.ctx, spec)
		if !w.end() {
			return false
		}
	}
	if err == nil {
		if err = checkATR(w.card.ATR()); err == nil {
			w.tap.ATR(w.card.ATR())
			w.d.counts.opened.Add(1)
			return true
		}
		w.close()
	}

	s, b := w.d.state, w.bay
	s.mu.Lock()
	if w.abandoned {
		s.mu.Unlock()
		return false
	}
	news := w.losses != b.losses || s.failLocked(b, err) // a card that has left says nothing of the slot
	s.mu.Unlock()
	w.release()
	w.d.counts.openFailed(err)
	w.log.WithError(err).Log(faultLevel(news), "no card")
	return false
}

// aim returns which card to open: then the call that opens it has begun. An error says that
// there is none to try.
func (w *worker) aim() (Slot, error) {
	s, b := w.d.state, w.bay
	s.mu.Lock()
	defer s.mu.Unlock()
	w.due, w.losses = time.Now().Add(retryAfter), b.losses
	switch {
	case b.place.err != nil:
		return Slot{}, b.place.err
	case !b.place.present:
		return Slot{}, fmt.Errorf("reader %q: %w", b.place.name, ErrNoCard)
	case !b.spec.Software() && s.heldLocked(b.place.name):
		return Slot{}, fmt.Errorf("%w: another slot still holds that of reader %q", ErrNoCard, b.place.name)
	}
	spec := *b.spec
	if !spec.Software() {
		spec.Reader, w.holds = b.place.name, b.place.name
	}
	w.beginLocked()
	return spec, nil
}

// kind says what an error of a card means to the client and to the slot.
func kind(err error) (rspro.ResultCode, SlotState) {
	switch {
	case errors.Is(err, ErrNoReader), errors.Is(err, ErrNoCard), errors.Is(err, ErrNoService):
		return rspro.CardNotPresent, Mapped
	case errors.Is(err, ErrMute), errors.Is(err, ErrTimeout):
		return rspro.CardUnresponsive, Failed
	}
	return rspro.CardNotPresent, Failed
}

// admit gives the open card to the slot's user and tells it so. It returns nil when that
// has left, or the card has.
func (w *worker) admit() *conn {
	atr := bytes.Clone(w.card.ATR())
	s, b := w.d.state, w.bay
	s.mu.Lock()
	c := b.user
	if c == nil || s.closing || w.abandoned || w.losses != b.losses {
		s.mu.Unlock()
		return nil
	}
	c.state = Served
	b.atr, b.opened = atr, time.Now()
	s.setLocked(b, Carded, nil)
	if !c.answered { // nobody else answers now
		c.link.Reply(c.req, c.result(rspro.OK))
	}
	c.setATR(atr)
	if c.unheard > 0 {
		c.link.Send(&rspro.BankSlotStatusInd{From: b.slot, To: c.client, Phys: slot.Phys{Card: slot.On}})
	}
	s.mu.Unlock()
	w.log.WithFields(logrus.Fields{"client": c.client.String(), "atr": fmt.Sprintf("%x", atr)}).Info("card open")
	return c
}

// serve does what c wants of the card until c or the card has gone.
func (w *worker) serve(c *conn) {
	for j := w.next(c); !j.over && w.do(c, j); j = w.next(c) {
	}
}

// do does a job of c. It reports whether the card is of use after that.
func (w *worker) do(c *conn, j job) bool {
	var r []byte
	var err error
	var took time.Duration
	if j.reset != noReset {
		if err = w.card.Reset(j.reset == coldReset); err == nil {
			r = w.card.ATR()
			err = checkATR(r)
		}
	} else {
		w.trace("command", w.cmd[:j.n])
		r, err = w.card.Transmit(w.cmd[:j.n], w.buf[:])
		took = time.Since(w.began())
		if err == nil && (len(r) < minResponse || len(r) > maxResponse) {
			err = fmt.Errorf("response of %d bytes, want %d..%d", len(r), minResponse, maxResponse)
		}
	}
	goes := w.finish(c, j, r, err)
	if goes { // or else it was counted when it was abandoned
		w.d.counts.job(j, took, err)
	}
	switch { // traced when the client waits no more
	case err != nil:
		goes = false
	case j.reset != noReset:
		w.tap.ATR(r)
	default:
		w.tap.APDU(w.cmd[:j.n], r)
	}
	return goes
}

// lendLocked lends the card for a command of c, if there is nothing else to do: then the call has begun.
func (w *worker) lendLocked(c *conn) job {
	if w == nil || w.free != c || w.lent || c.reset != noReset {
		return job{}
	}
	w.lent, w.missed = true, false
	return w.commandLocked(c)
}

// doLent does what the card was lent for, and gives it back.
func (w *worker) doLent(c *conn, j job) {
	goes := w.do(c, j)
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	w.lent, w.lost = false, !goes
	if w.missed || w.lost {
		w.poke()
	}
}

// commandLocked takes the command in c's mailbox. The call has begun then.
func (w *worker) commandLocked(c *conn) job {
	j := job{n: copy(w.cmd[:], c.command[:c.mail]), gen: c.gen}
	c.mail = 0
	w.beginLocked()
	return j
}

// A job is what is to be done next with a card.
type job struct {
	over  bool   // nothing: its user has gone
	reset reset  // a reset
	n     int    // or else a command of n bytes, in worker.cmd
	gen   uint64 // conn.gen when it was taken
}

// next waits for a job of c. The call that does it has begun when next returns.
func (w *worker) next(c *conn) job {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	w.free = c
	defer func() { w.free = nil }()
	for {
		switch {
		case w.lent:
			w.missed = true
		case w.lost, w.abandoned, w.bay.user != c, c.state != Served:
			w.lost = false
			return job{over: true}
		case c.mail > 0 && c.reset == noReset:
			return w.commandLocked(c)
		case s.closing: // a reset isn't done any more, nor a command that is to come after it
			s.releaseLocked(c)
			c.link.Finish(errStopping)
			return job{over: true}
		case c.reset != noReset:
			j := job{reset: c.reset}
			c.reset = noReset
			w.beginLocked()
			return j
		}
		s.mu.Unlock()
		<-w.wake
		s.mu.Lock()
	}
}

// finish is end for a job of c, with its outcome r: the card's response, or its ATR. An
// answer is sent in the same moment in which it is found to be wanted: not when a reset,
// or the end of connection or card, has come in between. This is the one place where late
// answers are dropped.
func (w *worker) finish(c *conn, j job, r []byte, err error) bool {
	s, b := w.d.state, w.bay
	s.mu.Lock()
	w.calling = false
	if w.abandoned {
		s.mu.Unlock()
		return false
	}
	served := b.user == c && c.state == Served
	news := false
	switch {
	case !served:
		news = err != nil && b.news(err)
	case err != nil:
		news = s.failLocked(b, err)
	case j.reset != noReset:
		if c.wantsATR || !bytes.Equal(b.atr, r) {
			b.atr = bytes.Clone(r)
			s.tellLocked(b)
			c.setATR(b.atr)
		}
	case c.gen == j.gen:
		c.busy = false
		w.out = rspro.TpduCardToModem{From: b.slot, To: c.client, Data: r}
		c.link.Post(&w.out)
	}
	s.mu.Unlock()
	c.link.Flush() // the client waits
	switch {
	case err != nil:
		w.log.WithError(err).WithField("served", served).Log(faultLevel(news), "card error")
	case j.reset == noReset:
		w.trace("response", r)
	}
	return true
}

// faultLevel is that of what is wrong with a card, which is said when it is news.
func faultLevel(news bool) logrus.Level {
	if news {
		return logrus.WarnLevel
	}
	return logrus.DebugLevel
}

// trace logs the bytes of a TPDU.
func (w *worker) trace(what string, b []byte) {
	if w.log.Logger.IsLevelEnabled(logrus.TraceLevel) {
		w.log.WithField("tpdu", fmt.Sprintf("%x", b)).Trace(what)
	}
}

// close powers the card off, unless the worker is abandoned.
func (w *worker) close() {
	if !w.begin() {
		return
	}
	err := w.card.Close()
	w.card = nil
	if !w.end() {
		return
	}
	w.release()
	if err != nil {
		w.log.WithError(err).Warn("powering the card off")
	} else {
		w.log.Info("card powered off")
	}
}

// release lets go of the place, which another slot may wait for.
func (w *worker) release() {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	held := w.holds
	w.holds = ""
	if held == "" {
		return
	}
	for _, b := range s.bays {
		if b != w.bay && b.place.name == held {
			s.hurryLocked(b)
		}
	}
}

func checkATR(atr []byte) error {
	if len(atr) < minATR || len(atr) > maxATR {
		return fmt.Errorf("ATR of %d bytes, want %d..%d", len(atr), minATR, maxATR)
	}
	return nil
}
