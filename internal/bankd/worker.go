// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
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
// for it, makes all calls to it, one after the other, and closes it when the user
// has gone. It ends when there is no user. When a call takes too long, the worker
// is abandoned: it does nothing more than to close the card when the call returns
// after all.
type worker struct {
	d     *bankd
	bay   *bay
	log   *logrus.Entry
	wake  chan struct{} // something has changed in state
	timer *time.Timer   // runs during a call
	ctx   context.Context
	stop  context.CancelFunc // when abandoned

	// These belong to state.
	calling   bool
	deadline  time.Time // of the call
	abandoned bool

	// These belong to the goroutine.
	card Card
	cmd  [maxCommand]byte
	buf  [maxResponse]byte
	out  rspro.TpduCardToModem // the answer, made here so that none need be allocated
}

// startLocked starts the card goroutine of b; with wait it looks for the card after
// retryAfter only.
func (d *bankd) startLocked(b *bay, wait bool) {
	w := &worker{
		d:    d,
		bay:  b,
		log:  d.log.WithFields(logrus.Fields{"cat": "DBANKDW", "slot": b.slot.String()}),
		wake: make(chan struct{}, 1),
	}
	w.ctx, w.stop = context.WithCancel(context.Background())
	w.timer = time.AfterFunc(d.cfg.CardTimeout, w.overdue)
	w.timer.Stop()
	b.work = w
	d.working++
	go w.run(wait)
}

// poke makes the worker look at state.
func (w *worker) poke() {
	select {
	case w.wake <- struct{}{}:
	default:
	}
}

func (w *worker) run(wait bool) {
	defer w.leave()
	if wait {
		w.pause()
	}
	for w.wanted() {
		if !w.open() {
			w.pause()
			continue
		}
		if c := w.admit(); c != nil {
			w.welcome(c)
			w.serve(c)
		}
		w.close()
	}
}

// pause waits for retryAfter, or until there is something to do.
func (w *worker) pause() {
	t := time.NewTimer(retryAfter)
	defer t.Stop()
	for w.idle() {
		select {
		case <-w.wake:
		case <-t.C:
			return
		}
	}
}

// idle reports whether there is nothing to do before the next look for the card: its
// user knows that there is none.
func (w *worker) idle() bool {
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	c := w.bay.user
	return c != nil && c.answered && !s.closing && !w.abandoned
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
// card is closed, and the slot may have a new worker where too many hung.
func (w *worker) leave() {
	w.stop()
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
	s.mu.Lock()
	defer s.mu.Unlock()
	b.abandoned--
	if b.user != nil && b.work == nil && !s.closing {
		s.start(b, false)
	}
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
	w.timer.Reset(w.d.cfg.CardTimeout)
}

func (w *worker) end() bool {
	w.timer.Stop()
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
	if !w.calling || time.Now().Before(w.deadline) { // it has returned at the last moment
		s.mu.Unlock()
		return
	}
	w.abandoned = true
	s.retireLocked(b)
	b.abandoned++
	hanging := b.abandoned
	if b.state != Free {
		b.state, b.err = Failed, ErrTimeout
	}
	c := b.user
	served := c != nil && c.state == Served
	if served {
		s.releaseLocked(c)
	}
	ask := c != nil && !served && !c.answered
	if c != nil {
		c.answered = true
	}
	if b.user != nil && !s.closing && b.abandoned < maxAbandoned {
		s.start(b, true)
	}
	s.mu.Unlock()

	w.stop()
	w.log.WithField("hanging", hanging).Errorf("%v after %v, abandoned", ErrTimeout, w.d.cfg.CardTimeout)
	if served {
		c.loseCard(ErrTimeout)
	}
	if ask {
		c.reply(rspro.CardUnresponsive)
	}
	w.d.report(b, c, ErrTimeout)
}

// open powers the card up. Who waits for it is told when that fails.
func (w *worker) open() bool {
	w.begin()
	card, err := w.d.openCard(w.ctx, w.bay)
	w.card = card
	if !w.end() {
		return false
	}
	if err == nil {
		if err = checkATR(card.ATR()); err == nil {
			return true
		}
		w.close()
	}

	code, state := kind(err)
	s, b := w.d.state, w.bay
	s.mu.Lock()
	if w.abandoned {
		s.mu.Unlock()
		return false
	}
	known := b.err != nil && b.err.Error() == err.Error()
	if b.state != Free {
		b.state, b.err = state, err
	}
	c := b.user
	ask := c != nil && !c.answered
	if ask {
		c.answered = true
	}
	s.mu.Unlock()
	level := logrus.WarnLevel
	if known { // it was said when it was new
		level = logrus.DebugLevel
	}
	w.log.WithError(err).Log(level, "no card")
	if ask {
		c.reply(code)
	}
	return false
}

// kind says what an error of a card means to the client and to the slot.
func kind(err error) (rspro.ResultCode, SlotState) {
	switch {
	case errors.Is(err, ErrNoReader), errors.Is(err, ErrNoCard):
		return rspro.CardNotPresent, Mapped
	case errors.Is(err, ErrMute), errors.Is(err, ErrTimeout):
		return rspro.CardUnresponsive, Failed
	}
	return rspro.CardNotPresent, Failed
}

// admit gives the open card to the slot's user, or returns nil when that has left.
func (w *worker) admit() *conn {
	s, b := w.d.state, w.bay
	s.mu.Lock()
	defer s.mu.Unlock()
	c := b.user
	if c == nil || s.closing {
		return nil
	}
	b.state, b.err = Carded, nil
	c.state = Served
	c.vcc = true
	return c
}

// welcome tells c that it has a card.
func (w *worker) welcome(c *conn) {
	w.log.WithFields(logrus.Fields{"client": c.client.String(), "atr": fmt.Sprintf("%x", w.card.ATR())}).Info("card open")
	if !c.answered { // nobody else answers now
		c.reply(rspro.OK)
	}
	c.setATR(w.card.ATR())
}

// serve does what c wants of the card until c has gone or the card fails.
func (w *worker) serve(c *conn) {
	atr := bytes.Clone(w.card.ATR())
	for {
		j := w.next(c)
		var err error
		switch {
		case j.over:
			return
		case j.reset != noReset:
			err = w.card.Reset(j.reset == coldReset)
			if !w.end() {
				return
			}
			if err == nil {
				err = checkATR(w.card.ATR())
			}
			if err == nil && !bytes.Equal(atr, w.card.ATR()) {
				atr = append(atr[:0], w.card.ATR()...)
				c.setATR(atr)
			}
		default:
			var r []byte
			r, err = w.card.Transmit(w.cmd[:j.n], w.buf[:])
			if err == nil && (len(r) < minResponse || len(r) > maxResponse) {
				err = fmt.Errorf("response of %d bytes, want %d..%d", len(r), minResponse, maxResponse)
			}
			wanted, abandoned := w.endTransmit(c, j.gen, err == nil)
			if abandoned {
				return
			}
			if err == nil && wanted {
				c.trace("response", r)
				w.out = rspro.TpduCardToModem{From: w.bay.slot, To: c.client, Data: r}
				c.link.Send(&w.out)
			}
		}
		if err != nil {
			w.fail(c, err)
			return
		}
	}
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
	for {
		s.mu.Lock()
		switch {
		case w.bay.user != c:
			s.mu.Unlock()
			return job{over: true}
		case c.reset != noReset && !s.closing:
			j := job{reset: c.reset}
			c.reset = noReset
			w.beginLocked()
			s.mu.Unlock()
			return j
		case c.mail > 0:
			j := job{n: copy(w.cmd[:], c.command[:c.mail]), gen: c.gen}
			c.mail = 0
			w.beginLocked()
			s.mu.Unlock()
			return j
		case s.closing:
			s.releaseLocked(c)
			s.mu.Unlock()
			c.link.Finish(errStopping)
			return job{over: true}
		}
		s.mu.Unlock()
		<-w.wake
	}
}

// endTransmit is end for a command of c. It reports whether its answer is still
// wanted: not when a reset, or the end of the connection, has come in between.
// This is the one place where late answers are dropped.
func (w *worker) endTransmit(c *conn, gen uint64, answered bool) (wanted, abandoned bool) {
	w.timer.Stop()
	s := w.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	w.calling = false
	if wanted = !c.over && c.gen == gen; wanted && answered {
		c.busy = false
	}
	return wanted, w.abandoned
}

// fail takes the card, which has returned err, from its user.
func (w *worker) fail(c *conn, err error) {
	_, state := kind(err)
	s, b := w.d.state, w.bay
	s.mu.Lock()
	if b.user != c { // it has left meanwhile
		s.mu.Unlock()
		w.log.WithError(err).Warn("card error")
		return
	}
	s.releaseLocked(c)
	b.state, b.err = state, err
	s.mu.Unlock()
	w.log.WithError(err).Warn("card error, its client is disconnected")
	c.loseCard(err)
	w.d.report(b, c, err)
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
	if err != nil {
		w.log.WithError(err).Warn("powering the card off")
	} else {
		w.log.Info("card powered off")
	}
}

func checkATR(atr []byte) error {
	if len(atr) < minATR || len(atr) > maxATR {
		return fmt.Errorf("ATR of %d bytes, want %d..%d", len(atr), minATR, maxATR)
	}
	return nil
}
