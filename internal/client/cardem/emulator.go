// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"bytes"
	"context"
	"fmt"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/simtrace"
	"remsim/internal/slot"
)

// An emulator is a device on behalf of a Core: its Frontend, and the caller of its Transmit.
//
// One goroutine reads what the device sends and never waits for anything, so that a reset
// is noticed while a card works. Another one carries the modem's commands to the card and
// answers the modem. An answer belongs to its exchange: the next header, a reset
// and the switch to another SIM end that, and what comes later is dropped in one place, where it would be
// written (send). The firmware doesn't help there: what it gets while it waits for a header goes out
// as the answer to the next command.
type emulator struct {
	dev  Device
	core *client.Core
	log  *logrus.Entry
	lost func(error) // has the device given up

	life    context.Context // ends with close
	close   context.CancelFunc
	jobs    chan job
	writing chan struct{}        // holds one element while something is written
	first   chan simtrace.Status // the first status on the bulk endpoint
	look    chan struct{}        // the contacts may be others than the device has told

	mu       sync.Mutex // never held while anything is waited for
	segments *simtrace.Segmenter
	present  *exchange     // the modem's command; nil: it waits for no answer
	card     client.Card   // the last one that was told of, where the core may have another one already; 0 at a session's begin: whichever there is
	phys     slot.Phys     // the contacts
	told     bool          // they were told on the interrupt endpoint since they were asked for
	waiting  time.Duration // how long modem and card wait for each other's bytes
	downAt   time.Time     // the contacts were told to be down
	held     *held         // a command that came while they were
	failures int           // of writes in a row
	gone     bool          // there is no device any more
	noise    noise

	// Of the Core's calls.
	atr   []byte // for the modem once it uses the remote SIM
	shown []byte // what the device has as ATR; nil: its own
}

// An exchange is a command of the modem, from its header to its status word.
type exchange struct {
	ctx  context.Context // ends with the exchange
	end  context.CancelFunc
	card client.Card // for which it is: a swap may cross it
}

// A held command came while the contacts were told to be down: after a reset whose end isn't told yet, as two
// endpoints have no common order, or before its begin. The modem waits for an answer to the former, which the
// device would prolong for ever, and none to the latter.
type held struct {
	m  *simtrace.RxData
	at time.Time
}

// A job is what is to be done for an exchange besides reading.
type job struct {
	*exchange
	ask    bool   // have the device collect the command's data
	doubt  bool   // with ask: the modem may have none
	ins    byte   // of the command
	tpdu   []byte // with neither ask nor refuse: for the card
	refuse bool   // answer at once: there is no card
}

const (
	// maxFailures is how many writes in a row may fail before the device is given up.
	maxFailures = 3
	// fastestClock is the highest frequency of CLK in Hz (ISO 7816-3 5.2.3). By it a waiting time is
	// never longer than the modem's own.
	fastestClock = 5_000_000
	// lateStatus is how much later than a command the status may come that was sent before it, from the other endpoint: as
	// long as this computer is busy with something else.
	lateStatus = 2 * time.Second
	// crossing is how soon after the status that begins a reset a command may come that was sent before that.
	// A card's next command takes longer: its ATR comes before it.
	crossing = 5 * time.Millisecond
	// nextCommand is how long after a reset a modem takes for its first command, ATR and PPS included.
	nextCommand = 200 * time.Millisecond
)

// technicalProblem is what the modem is answered when no card does (ISO 7816-4 5.6: no precise diagnosis).
// Without an answer the device would have it wait for ever.
var technicalProblem = [2]byte{0x6f, 0x00}

func newEmulator(dev Device, rows []simtrace.Row, log *logrus.Entry, lost func(error)) *emulator {
	life, end := context.WithCancel(context.Background())
	return &emulator{
		dev: dev, log: log, lost: lost, life: life, close: end,
		jobs: make(chan job, 1), writing: make(chan struct{}, 1), first: make(chan simtrace.Status, 1),
		look:     make(chan struct{}, 1),
		segments: simtrace.NewSegmenter(rows),
		waiting:  new(simtrace.Status).Waiting(fastestClock),
	}
}

// start brings the device into a defined state: telling all changes of the contacts, and with the modem on its
// local SIM. A client that was killed has left it on the remote one; then the modem gets its whole leave sequence, also from a client
// that is to end before it has begun.
// With the local SIM connected the device sees no VCC (which it tells only if its firmware answers requests).
func (e *emulator) start(p simtrace.Presence) error {
	if err := e.ask(&simtrace.Config{Features: simtrace.StatusOnIRQ, Presence: p}); err != nil {
		return fmt.Errorf("set up the card emulator: %w", err)
	}
	var s simtrace.Status
	select {
	case s = <-e.first:
	case <-time.After(statusWithin):
		e.log.Debug("no status when asked for it")
	}
	if s.Flags&simtrace.VCC != 0 {
		e.log.Info("the modem was left on a remote SIM: giving it back its local one")
		e.core.Leave()
		return nil
	}
	e.Remove(e.life)
	e.Remote(e.life, false)
	return nil
}

// ask asks the device for its contacts, after other messages.
func (e *emulator) ask(before ...simtrace.Message) error {
	e.mu.Lock()
	e.told = false
	e.mu.Unlock()
	return e.send(e.life, append(before, &simtrace.StatusReq{})...)
}

// What the device sends.

// read takes what the device sends until it ends.
func (e *emulator) read() {
	var bulk, interrupt simtrace.Joiner
	bulks, interrupts := e.dev.Bulk(), e.dev.Interrupt()
	for bulks != nil || interrupts != nil {
		select {
		case b, ok := <-interrupts:
			if !ok {
				interrupts = nil
				continue
			}
			e.interrupt(&interrupt, b)
		case b, ok := <-bulks:
			if !ok {
				bulks = nil
				continue
			}
			// A reset that was told before counts before: a header that came after it must not
			// be taken for one that it has ended.
			for more := interrupts != nil; more; {
				select {
				case b, ok := <-interrupts:
					if more = ok; !ok {
						interrupts = nil
					} else {
						e.interrupt(&interrupt, b)
					}
				default:
					more = false
				}
			}
			e.bulk(&bulk, b)
		}
	}
	e.mu.Lock()
	e.gone = true
	e.mu.Unlock()
	err := errGone
	if cause := e.dev.Err(); cause != nil {
		err = fmt.Errorf("%w: %w", errGone, cause)
	}
	e.lost(err)
}

func (e *emulator) interrupt(j *simtrace.Joiner, transfer []byte) {
	if len(transfer) == 0 { // a status may be missing, such as that of a reset's end, before which no command counts
		select {
		case e.look <- struct{}{}:
		default:
		}
	}
	for m, err := range j.Join(transfer) {
		s, ok := m.(*simtrace.Status)
		switch {
		case err != nil:
			e.strange("interrupt endpoint", err)
		case !ok: // in what order with the modem's commands, nobody knows
			e.strange("interrupt endpoint", fmt.Errorf("message passed over: %s", simtrace.Name(m)))
		default:
			e.mu.Lock()
			e.told = true
			e.mu.Unlock()
			e.status(s)
		}
	}
}

func (e *emulator) bulk(j *simtrace.Joiner, transfer []byte) {
	for m, err := range j.Join(transfer) {
		if err != nil {
			e.strange("bulk endpoint", err)
			continue
		}
		if s, ok := m.(*simtrace.Status); ok {
			select {
			case e.first <- *s:
			default:
			}
		}
		e.message(m)
	}
}

func (e *emulator) message(m simtrace.Message) {
	switch m := m.(type) {
	case *simtrace.RxData:
		e.hear(m, func() bool { return true })
	case *simtrace.Status: // was asked for, and may be from before what the other endpoint has told
		e.mu.Lock()
		told := e.told
		e.mu.Unlock()
		if !told {
			e.status(m)
		}
	case *simtrace.PTS:
		e.log.WithFields(logrus.Fields{"request": fmt.Sprintf("%x", m.Req), "answer": fmt.Sprintf("%x", m.Resp)}).Info("modem has done a PPS")
		e.core.PPS(m.Req, m.Resp)
	case *simtrace.Config:
		e.log.WithFields(logrus.Fields{"features": m.Features, "presence": m.Presence}).Debug("card emulator is set up")
	case *simtrace.ErrorReport:
		e.strange("device", fmt.Errorf("it reports an error: severity %d, subsystem %d, code %d, text %q", m.Severity, m.Subsystem, m.Code, m.Text))
	default:
		e.strange("device", fmt.Errorf("message passed over: %s", simtrace.Name(m)))
	}
}

// status: the modem has changed the contacts, or is asked for.
func (e *emulator) status(m *simtrace.Status) {
	p := slot.Phys{
		Reset: m.Flags&simtrace.ResetActive != 0,
		VCC:   slot.Of(m.Flags&simtrace.VCC != 0),
		CLK:   slot.Of(m.Flags&simtrace.CLK != 0),
	}
	var late *simtrace.RxData
	now := time.Now()
	e.mu.Lock()
	if down(p) {
		if !down(e.phys) {
			e.downAt, e.held = now, nil
		}
		e.void()
		e.segments.Reset()
	} else if h := e.held; h != nil {
		switch {
		case now.Sub(h.at) >= lateStatus:
			e.held = nil
		case h.at.Sub(e.downAt) >= crossing:
			e.held, late = nil, h.m
		default:
			// If it was sent before the reset, the modem sends another one now.
			time.AfterFunc(nextCommand, func() { e.release(h) })
		}
	}
	e.phys = p
	e.waiting = m.Waiting(fastestClock)
	e.mu.Unlock()
	e.core.Status(p)
	if late != nil {
		e.message(late)
	}
}

// release has h taken as a command of the modem's unless there was another one.
func (e *emulator) release(h *held) {
	e.hear(h.m, func() bool { return e.held == h })
}

// down reports whether a card is in reset, or without power.
func down(p slot.Phys) bool { return p.Reset || p.VCC == slot.Off }

// hear takes a part of a command of the modem's, if counts, which is called with mu, says that it is one.
func (e *emulator) hear(m *simtrace.RxData, counts func() bool) {
	ready := e.core.Ready()
	var guessed simtrace.Case
	var err error
	e.mu.Lock()
	if counts() {
		guessed, err = e.received(m, ready)
	}
	e.mu.Unlock()
	if guessed != 0 {
		e.log.WithFields(logrus.Fields{"cla": octet(m.Data[0]), "ins": octet(m.Data[1]), "case": int(guessed)}).
			Warn("unknown command: its case is a guess (--apdu-table has room for it)")
	}
	if err != nil {
		e.strange("RX_DATA", err)
	}
}

// received: the modem has sent a part of a command, which may be an unknown one. Requires mu.
func (e *emulator) received(m *simtrace.RxData, ready bool) (guessed simtrace.Case, err error) {
	header := m.Flags&simtrace.Header != 0
	if down(e.phys) {
		if header {
			e.held = &held{m, time.Now()}
			return 0, nil
		}
		return 0, fmt.Errorf("%d bytes while the modem holds the card in reset", len(m.Data))
	}
	if header {
		e.void()
		e.held = nil
	}
	step, err := e.segments.Receive(m)
	if err != nil {
		return 0, err
	}
	if e.present == nil {
		x := &exchange{card: e.card}
		x.ctx, x.end = context.WithCancel(e.life)
		e.present = x
	}
	j := job{exchange: e.present, ins: step.INS}
	switch {
	case !ready:
		e.segments.Reset()
		j.refuse = true
	case step.Ask:
		j.ask, j.doubt = true, e.segments.Asked()
	case step.TPDU != nil:
		j.tpdu = step.TPDU
	default:
		return step.Guessed, nil
	}
	e.post(j)
	return step.Guessed, nil
}

func octet(b byte) string { return fmt.Sprintf("%02X", b) }

// post leaves j to work, in place of what that hasn't begun, which is of an exchange that has ended.
// Requires mu: there is one that posts.
func (e *emulator) post(j job) {
	for {
		select {
		case e.jobs <- j:
			return
		default:
		}
		select {
		case <-e.jobs:
		default:
		}
	}
}

// void ends the exchange there is. Requires mu.
func (e *emulator) void() {
	if e.present != nil {
		e.present.end()
		e.present = nil
	}
}

// What is done for the modem.

// work does jobs until close.
func (e *emulator) work() {
	for {
		select {
		case j := <-e.jobs:
			e.do(j)
		case <-e.look:
			e.failed("the question for the contacts", e.life, e.ask())
		case <-e.life.Done():
			return
		}
	}
}

func (e *emulator) do(j job) {
	switch {
	case j.ask:
		err := e.send(j.ctx, &simtrace.TxData{Flags: simtrace.ContinueRx, Data: []byte{j.ins}})
		e.failed("the card's request for data", j.ctx, err)
		if j.doubt && err == nil {
			e.mu.Lock()
			limit := e.waiting
			e.mu.Unlock()
			time.AfterFunc(limit, func() { e.expire(j.exchange) })
		}
	case j.refuse:
		e.answer(j, technicalProblem[:])
	default:
		response, err := e.core.TransmitTo(j.ctx, j.card, j.tpdu)
		if j.ctx.Err() != nil {
			return
		}
		if err != nil {
			e.log.WithError(err).Warn("command failed: the modem is answered 6F00")
			response = technicalProblem[:]
		}
		e.answer(j, response)
	}
}

// answer gives the modem a response, and with it ends the exchange.
func (e *emulator) answer(j job, response []byte) {
	e.mu.Lock()
	if e.present != j.exchange {
		e.mu.Unlock()
		return
	}
	e.segments.Respond(response)
	e.mu.Unlock()

	n := len(response) - 2
	status := &simtrace.TxData{Flags: simtrace.ContinueTx | simtrace.Final, Data: response[n:]}
	data := &simtrace.TxData{Flags: simtrace.ContinueTx, Data: append([]byte{j.ins}, response[:n]...)}
	var err error
	switch {
	case n == 0:
		err = e.send(j.ctx, status)
	case len(data.Data)+len(status.Data)+2*simtrace.DataOverhead <= simtrace.MaxMessage:
		err = e.send(j.ctx, data, status)
	default:
		if err = e.send(j.ctx, data); err == nil {
			err = e.send(j.ctx, status)
		}
	}
	e.failed("the card's answer", j.ctx, err)

	e.mu.Lock()
	defer e.mu.Unlock()
	if e.present == j.exchange {
		e.void()
	}
}

// expire: the modem had time enough to send the data of an unknown command.
func (e *emulator) expire(x *exchange) {
	e.mu.Lock()
	if x.ctx.Err() != nil || !e.segments.Asked() {
		e.mu.Unlock()
		return
	}
	cla, ins := e.segments.Expired()
	e.mu.Unlock()
	e.log.WithFields(logrus.Fields{"cla": octet(cla), "ins": octet(ins)}).Warn("the modem has no data for an unknown command: taken as case 2 from now on")
}

// The Frontend.

// Remote switches the modem between its local SIM and the emulated one, with the ATR that was set for it.
func (e *emulator) Remote(ctx context.Context, on bool) {
	e.mu.Lock()
	e.void()
	e.held = nil
	e.segments.Forget()
	e.mu.Unlock()
	e.failed("SIM_SELECT", ctx, e.send(ctx, &simtrace.SimSelect{Remote: on}))
	if on {
		e.shown = nil // whatever the device has
		e.setATR(ctx)
	}
}

// ATR has the device answer the modem's next reset with atr; until there is a card, from Remote on.
func (e *emulator) ATR(ctx context.Context, atr []byte, card client.Card) {
	e.mu.Lock()
	e.card = card
	e.mu.Unlock()
	if err := CheckATR(atr); err != nil {
		e.log.WithError(err).Warn("the modem doesn't get the card's ATR but the one before")
		return
	}
	e.atr = atr
	if card != 0 {
		e.setATR(ctx)
	}
}

// setATR gives the device the ATR unless it has it: bankds tell it after each reset, when the device
// may be sending it to the modem.
func (e *emulator) setATR(ctx context.Context) {
	if bytes.Equal(e.atr, e.shown) {
		return
	}
	err := e.send(ctx, &simtrace.SetATR{ATR: e.atr})
	e.failed("SET_ATR", ctx, err)
	if err == nil {
		e.shown = e.atr
	}
}

// Insert shows the modem a card.
func (e *emulator) Insert(ctx context.Context) {
	e.failed("CARDINSERT", ctx, e.send(ctx, &simtrace.CardInsert{Inserted: true}))
}

// Remove shows the modem an empty slot.
func (e *emulator) Remove(ctx context.Context) {
	e.failed("CARDINSERT", ctx, e.send(ctx, &simtrace.CardInsert{}))
}

// ResetModem resets the modem where the device has a line for that.
func (e *emulator) ResetModem(ctx context.Context) {
	e.failed("RESET", ctx, e.send(ctx, &simtrace.Reset{Action: simtrace.ResetPulse, Pulse: modemReset}))
}

// send writes messages as one transfer, unless ctx has ended.
func (e *emulator) send(ctx context.Context, messages ...simtrace.Message) error {
	var b []byte
	for _, m := range messages {
		var err error
		if b, err = simtrace.Append(b, m); err != nil {
			return err
		}
	}
	select {
	case e.writing <- struct{}{}:
		defer func() { <-e.writing }()
	case <-ctx.Done():
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := e.dev.Write(ctx, b)
	e.mu.Lock()
	switch {
	case err == nil:
		e.failures = 0
	case ctx.Err() == nil && !e.gone:
		e.failures++
	}
	hopeless := err != nil && e.failures >= maxFailures
	e.mu.Unlock()
	if hopeless {
		e.lost(fmt.Errorf("%w: it doesn't take what is sent: %w", errGone, err))
	}
	return err
}

// failed logs that something couldn't be sent, unless it was no longer to be.
func (e *emulator) failed(what string, ctx context.Context, err error) {
	if err == nil {
		return
	}
	e.mu.Lock()
	gone := e.gone
	e.mu.Unlock()
	log := e.log.WithError(err)
	if gone || ctx.Err() != nil {
		log.Debugf("%s: not sent", what)
		return
	}
	log.Errorf("%s: not sent to the device", what)
}

// A noise counts what a device does wrong, within a minute.
type noise struct {
	since time.Time
	n     int
}

// maxNoise is how many lines a minute are logged of a device's faults.
const maxNoise = 20

// strange logs something that isn't as it should be, and is passed over.
func (e *emulator) strange(where string, err error) {
	e.mu.Lock()
	now := time.Now()
	if now.Sub(e.noise.since) >= time.Minute {
		e.noise = noise{since: now}
	}
	e.noise.n++
	n := e.noise.n
	e.mu.Unlock()
	log := e.log.WithError(err)
	switch {
	case n < maxNoise:
		log.Warnf("%s: passed over", where)
	case n == maxNoise:
		log.Warnf("%s: passed over; more of this minute at debug level", where)
	default:
		log.Debugf("%s: passed over", where)
	}
}
