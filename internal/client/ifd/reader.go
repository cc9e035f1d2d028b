// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/link"
	"remsim/internal/slot"
)

var (
	errClosed  = errors.New("the reader was closed")
	errTimeout = fmt.Errorf("no answer within %v", transmitTimeout)
)

// How the card's contacts are driven.
var (
	powerOff = slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off}
	inReset  = slot.Phys{Reset: true, VCC: slot.On, CLK: slot.On}
	running  = slot.Phys{VCC: slot.On, CLK: slot.On}
)

// A reader is one that pcscd has opened: the Frontend of its client.
//
// pcscd's thread of the reader looks at presence, does what follows, and polls. It must see every card's end, so
// that applications learn that theirs is no longer there, also when there is another card
// before it looks. So cards have numbers, and there is the one it has been shown, which is what presence and all
// other calls are about; it goes from one card to the next over none, at polls.
type reader struct {
	log  *logrus.Entry
	ctx  context.Context // ends with the reader
	end  context.CancelCauseFunc
	core *client.Core  // nil: there will be no card
	done chan struct{} // closed when core has ended

	mu      sync.Mutex
	changed chan struct{} // closed at the next change of what follows
	card    uint64        // the number of the card that is there; 0: none
	cards   uint64        // how many there have been
	name    client.Card   // the card as core knows it, which may have another one already
	shown   uint64        // the card that pcscd was shown; 0: none
	polled  bool          // there is a thread that polls
	stopped bool          // it is to stop
	powered bool          // pcscd has switched the card on
	atr     []byte
	atrs    uint64 // how many ATRs were told
	want    uint64 // which of them is the one after the last reset
}

func newReader(log *logrus.Entry) *reader {
	r := &reader{log: log, changed: make(chan struct{}), done: make(chan struct{})}
	r.ctx, r.end = context.WithCancelCause(context.Background())
	return r
}

// start has the reader's client begin. It is called once. A panic of the client's is its end, and no card's any more, but neither
// pcscd's nor other readers'.
func (r *reader) start(cfg client.Config, net link.Network, log *logrus.Logger) {
	ctx, end := context.WithCancel(r.ctx)
	fault := func(fault any) {
		logFault(r.log, fault)
		end()
		r.Remove(ctx)
	}
	core := client.New(cfg, client.Env{Net: net, Log: log, Fault: fault}, r)
	r.mu.Lock()
	r.core = core
	r.mu.Unlock()
	go func() {
		defer close(r.done)
		defer end()
		core.Run(ctx)
	}()
}

// close ends the client and all calls. The client is left to end by itself if that takes longer than limit.
func (r *reader) close(limit time.Duration) {
	r.end(errClosed)
	r.mu.Lock()
	core := r.core
	r.mu.Unlock()
	if core == nil {
		return
	}
	late := time.NewTimer(limit)
	defer late.Stop()
	select {
	case <-r.done:
	case <-late.C:
		r.log.Warn("reader closed before its client has ended")
	}
}

// Remote has nothing to switch.
func (*reader) Remote(context.Context, bool) {}

// Insert has nothing to do: a card is there when its ATR is.
func (*reader) Insert(context.Context) {}

// ResetModem has nothing to reset.
func (*reader) ResetModem(context.Context) {}

// ATR takes note of a card, or of the ATR after a reset. One that nobody has asked for and that is another one
// is another card's.
func (r *reader) ATR(_ context.Context, atr []byte, card client.Card) {
	if card == 0 {
		return
	}
	if len(atr) > maxATR {
		r.log.WithField("bytes", len(atr)).Errorf("card with an ATR that is too long, so there is no card: want at most %d bytes", maxATR)
		r.setCard(0)
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	asked := r.atrs < r.want
	r.atrs++
	if r.card == 0 || !asked && string(atr) != string(r.atr) {
		r.cards++
		r.setCardLocked(r.cards)
	}
	r.atr, r.name = atr, card
	r.signal()
}

// Remove takes note that there is no card.
func (r *reader) Remove(context.Context) { r.setCard(0) }

func (r *reader) setCard(n uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.setCardLocked(n)
}

// setCardLocked makes n the card that is there. Requires mu.
func (r *reader) setCardLocked(n uint64) {
	if r.card == n {
		return
	}
	r.card, r.powered, r.want = n, false, 0
	r.signal()
}

// signal wakes all who wait. Requires mu.
func (r *reader) signal() {
	close(r.changed)
	r.changed = make(chan struct{})
}

// presentLocked says whether the card that pcscd was shown is there. Requires mu.
func (r *reader) presentLocked() bool { return r.card != 0 && r.shown == r.card }

// show goes one step from the card that pcscd was shown to the one that is there. Requires mu.
func (r *reader) show() {
	if r.shown != 0 {
		r.shown = 0
	} else {
		r.shown = r.card
	}
}

// presence is for whoever asks. Where nobody polls, asking is what shows a card.
func (r *reader) presence() Code {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.polled && r.shown != r.card {
		r.show()
	}
	if !r.presentLocked() {
		return ICCNotPresent
	}
	return Success
}

// poll waits until there is something to show, and shows it.
func (r *reader) poll(timeout time.Duration) {
	limit := time.NewTimer(timeout)
	defer limit.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.polled = true
	for !r.stopped && r.shown == r.card {
		if !r.waitLocked(limit.C) {
			return
		}
	}
	r.stopped = false
	if r.shown != r.card {
		r.show()
	}
}

// waitLocked waits for a change; it returns false when there was none before limit, or before the reader's end.
// Requires mu, which is free meanwhile.
func (r *reader) waitLocked(limit <-chan time.Time) bool {
	changed := r.changed
	r.mu.Unlock()
	defer r.mu.Lock()
	select {
	case <-changed:
		return true
	case <-limit:
	case <-r.ctx.Done():
	}
	return false
}

// stopPoll ends a poll. One that is about to begin ends at once, else whoever waits for its thread would have to
// wait for its time-out.
func (r *reader) stopPoll() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	r.signal()
}

// answerToReset returns the last ATR.
func (r *reader) answerToReset() ([]byte, Code) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.presentLocked() {
		return nil, ICCNotPresent
	}
	return r.atr, Success
}

// powerDown switches the card off, if there is one.
func (r *reader) powerDown() Code {
	r.mu.Lock()
	present := r.presentLocked()
	r.powered = false
	r.mu.Unlock()
	if present {
		r.drive(powerOff)
	}
	return Success
}

// powerUp switches the card on, or resets it, and returns the ATR.
func (r *reader) powerUp(reset bool) ([]byte, Code) {
	r.mu.Lock()
	present, card := r.presentLocked(), r.card
	r.mu.Unlock()
	if !present {
		return nil, ICCNotPresent
	}
	if reset {
		r.drive(inReset)
	}
	r.drive(running)

	limit := time.NewTimer(powerTimeout)
	defer limit.Stop()
	r.mu.Lock()
	defer r.mu.Unlock()
	for {
		switch {
		case r.ctx.Err() != nil:
			return nil, CommunicationError
		case !r.presentLocked(), r.card != card: // while nobody looked another one may have come
			return nil, ICCNotPresent
		case r.atrs >= r.want:
			r.powered = true
			return r.atr, Success
		case r.waitLocked(limit.C) || r.ctx.Err() != nil:
		default:
			r.powered = false
			r.log.WithField("limit", powerTimeout).Warn("no ATR after a reset")
			return nil, ErrorPowerAction
		}
	}
}

// drive tells the bankd of the card's contacts, and takes note if an ATR will follow, which may come before
// Status returns.
func (r *reader) drive(p slot.Phys) {
	r.mu.Lock()
	card, before, want := r.card, r.want, r.atrs+1
	r.want = want
	r.mu.Unlock()
	if r.core.Status(p) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.card == card && r.want == want {
		r.want = before
		r.signal()
	}
}

// transmit sends a command to the card.
func (r *reader) transmit(apdu []byte) ([]byte, Code) {
	r.mu.Lock()
	present, powered, card := r.presentLocked(), r.powered, r.name
	r.mu.Unlock()
	switch {
	case !present:
		return nil, ICCNotPresent
	case !powered:
		return nil, CommunicationError
	}
	tpdu, err := toTPDU(apdu)
	if err != nil {
		r.log.WithError(err).Info("command not sent")
		return nil, NotSupported
	}
	ctx, cancel := context.WithTimeoutCause(r.ctx, transmitTimeout, errTimeout)
	defer cancel()
	response, err := r.core.TransmitTo(ctx, card, tpdu)
	if err == nil {
		return response, Success
	}
	r.log.WithError(err).Info("command failed")
	switch {
	case r.ctx.Err() != nil:
		return nil, CommunicationError
	case errors.Is(err, errTimeout):
		return nil, ResponseTimeout
	case errors.Is(err, client.ErrNoCard), errors.Is(err, client.ErrGone):
		return nil, ICCNotPresent
	}
	return nil, CommunicationError
}
