// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"context"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// A cause is why an event script runs: its argument, and its variable REMSIM_CAUSE.
type cause string

// Causes of event scripts.
const (
	noScript      cause = ""
	serverConnect cause = "event-server-connect"
	configBankd   cause = "event-config-bankd"
	bankdConnect  cause = "event-bankd-connect"
	modemStatus   cause = "event-modem-status"
	simRemote     cause = "request-sim-remote"
	simLocal      cause = "request-sim-local"
	cardInsert    cause = "request-card-insert"
	cardRemove    cause = "request-card-remove"
	modemReset    cause = "request-modem-reset"
)

// A step is one thing that happens on the modem's side: an event script, an action of the
// frontend that follows its start, or both.
type step struct {
	cause cause
	vars  []string // variables of the script, as things stood when it was caused
	do    func(context.Context)
}

const (
	// maxScripts is how many scripts may wait for their turn: several whole cycles of
	// leaving one bankd and entering the next.
	maxScripts = 64
	// maxSteps is how many steps may wait before a bankd that causes more is left.
	maxSteps = 4 * maxScripts
	// scriptGrace is what waiting and running scripts get at the client's end, and
	// actionGrace what the frontend's last actions get after that.
	scriptGrace = 4 * time.Second
	actionGrace = 500 * time.Millisecond
)

// A sequence carries out steps in order: actions one after another, scripts one after
// another, each action after the start of its script. An action without a script waits for the
// actions before it, but for no script to end. Whoever adds a step never waits.
type sequence struct {
	command string
	timeout time.Duration
	start   StartFunc
	log     *logrus.Entry

	mu      sync.Mutex
	waiting []step
	dropped int  // scripts that were given up since the last report
	closed  bool // nothing more is added
	wake    chan struct{}
}

func newSequence(cfg Config, start StartFunc, log *logrus.Entry) *sequence {
	return &sequence{
		command: cfg.Script, timeout: cfg.ScriptTimeout, start: start, log: log,
		wake: make(chan struct{}, 1),
	}
}

// add appends steps.
func (q *sequence) add(steps ...step) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, s := range steps {
		if q.command == "" || q.closed {
			s.cause = noScript
		}
		q.insert(s)
	}
	for q.scripts() > maxScripts {
		q.dropOldest()
	}
	q.signal()
}

// insert puts s in its place. Requires mu.
func (q *sequence) insert(s step) {
	n := len(q.waiting)
	switch {
	case s.cause == noScript && s.do == nil:
	case s.cause == modemStatus && n > 0 && q.waiting[n-1].cause == modemStatus:
		q.waiting[n-1] = s // only the latest status is of interest
	case s.cause == noScript:
		// Before the scripts at the end that have no action, else it would wait for them.
		for n > 0 && q.waiting[n-1].do == nil {
			n--
		}
		q.waiting = append(q.waiting, step{})
		copy(q.waiting[n+1:], q.waiting[n:])
		q.waiting[n] = s
	default:
		q.waiting = append(q.waiting, s)
	}
}

// scripts returns how many scripts wait. Requires mu.
func (q *sequence) scripts() (n int) {
	for _, s := range q.waiting {
		if s.cause != noScript {
			n++
		}
	}
	return n
}

// dropOldest gives up the script that has waited longest; its action no longer waits for
// anything, and the scripts that remain still end with the present state. Requires mu.
func (q *sequence) dropOldest() {
	for i := range q.waiting {
		if q.waiting[i].cause == noScript {
			continue
		}
		q.waiting[i].cause = noScript
		if q.waiting[i].do == nil {
			q.waiting = append(q.waiting[:i], q.waiting[i+1:]...)
		}
		q.dropped++
		return
	}
}

// full says that the modem's side is far behind.
func (q *sequence) full() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.waiting) > maxSteps
}

// giveUp drops all scripts that wait, for good.
func (q *sequence) giveUp() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	for q.scripts() > 0 {
		q.dropOldest()
	}
	q.signal()
}

// close says that nothing more will be added: run ends with the last step.
func (q *sequence) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.signal()
}

// signal wakes run. Requires mu.
func (q *sequence) signal() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// next takes the first step, unless it has a script and another one is running. last says
// that there is none and will be none.
func (q *sequence) next(running bool) (s step, ok, last bool, dropped int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	dropped, q.dropped = q.dropped, 0
	if len(q.waiting) == 0 {
		return step{}, false, q.closed, dropped
	}
	s = q.waiting[0]
	if running && s.cause != noScript {
		return step{}, false, false, dropped
	}
	q.waiting = append(q.waiting[:0], q.waiting[1:]...)
	return s, true, false, dropped
}

// run carries out the steps until close was called and all are done. Scripts are
// killed when scripts ends; the frontend's actions get the context actions.
func (q *sequence) run(scripts, actions context.Context) {
	var running chan struct{} // closed when the script has ended; nil: none runs
	for {
		s, ok, last, dropped := q.next(running != nil)
		if dropped > 0 {
			q.log.WithField("scripts", dropped).Warn("event scripts given up: too many were waiting, or the client ends")
		}
		if ok {
			if s.cause != noScript {
				running = q.script(scripts, s)
			}
			if s.do != nil {
				s.do(actions)
			}
			continue
		}
		if last && running == nil {
			return
		}
		select {
		case <-q.wake:
		case <-running:
			running = nil
		}
	}
}

// script starts the script of s and returns a channel that is closed at its end, or nil.
func (q *sequence) script(ctx context.Context, s step) chan struct{} {
	log := q.log.WithField("cause", string(s.cause))
	if ctx.Err() != nil {
		return nil
	}
	ctx, cancel := context.WithTimeout(ctx, q.timeout)
	wait, err := q.start(ctx, q.command+" "+string(s.cause), s.vars)
	if err != nil {
		cancel()
		log.WithError(err).Error("event script doesn't start")
		return nil
	}
	log.Debug("event script started")
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		defer cancel()
		switch err := wait(); {
		case err == nil:
			log.Debug("event script ended")
		case ctx.Err() != nil:
			log.WithError(ctx.Err()).Warn("event script took too long and was killed")
		default:
			log.WithError(err).Warn("event script failed")
		}
	}()
	return ended
}
