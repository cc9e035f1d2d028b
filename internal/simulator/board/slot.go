// SPDX-License-Identifier: GPL-2.0-or-later

package board

import (
	"encoding/binary"
	"time"

	"remsim/internal/simtrace"
)

// A state of the emulated card, as the firmware has them.
//
//	waitPower ──VCC──→ waitClock ──CLK──→ waitReset ──RST released──→ waitATR ──→ inATR ──→ waitTPDU
//	                                                                                       │ ↑  │ ↑
//	                                                                                  inPTS┘ │  └inTPDU
//
// VCC off leads to waitPower from anywhere, RST to waitReset.
type state uint8

const (
	waitPower state = iota
	waitClock
	waitReset
	waitATR
	inATR
	waitTPDU
	inPTS
	inTPDU
)

func (s state) String() string {
	return [...]string{"wait-power", "wait-clk", "wait-rst", "wait-atr", "in-atr", "wait-tpdu", "in-pts", "in-tpdu"}[s]
}

// A phase is what happens in inTPDU.
type phase uint8

const (
	inHeader  phase = iota // of five bytes
	waitHost               // for a procedure byte
	collectRx              // data of the modem
)

// Times of the firmware.
const (
	// atrDelay is from RST being released to the ATR, in clock cycles: 400 to 40,000 (ISO 7816-3 6.2.2).
	atrDelay = 20000
	// guardTime is from one byte to the next, in etu (ISO 7816-3 7.2).
	guardTime = 12
	// defaultWI is the waiting integer without TC2 (ISO 7816-3 10.2).
	defaultWI = 10
)

// defaultATR is what the firmware answers before any SET_ATR.
var defaultATR = []byte{0x3b, 0x80, 0x80, 0x81, 0x1f, 0xc7, 0x59}

// Transmission factors by their indices (ISO 7816-3 8.3, tables 7 and 8); those reserved are as index 0 or 1.
var (
	factorF = [16]float64{372, 372, 558, 744, 1116, 1488, 1860, 372, 372, 512, 768, 1024, 1536, 2048, 372, 372}
	factorD = [16]uint32{1, 1, 2, 4, 8, 16, 32, 64, 12, 20, 1, 1, 1, 1, 1, 1}
)

// A Slot is one emulated card: an interface of the firmware, and the contacts that a modem has. The Board's lock guards it.
type Slot struct {
	board  *Board
	number int

	// Of the firmware, until it starts anew.
	bulk, irq  pipe
	received   []byte // of a message, from the host
	config     simtrace.Config
	inserted   bool
	remote     bool
	atr        []byte
	stopPulse  func()
	state      state
	phase      phase
	vcc, clk   bool // as the firmware sees them
	fi, di, wi uint8
	got        []byte // header, PTS or data of the modem, so far
	header     [5]byte
	want       int // bytes of data
	queue      []simtrace.TxData
	stopTimer  func() // of the ATR or the waiting time

	// Of the modem's side, which has its own power.
	power, clock, reset bool   // reset is active (low)
	sent                []byte // to the modem
	sentAt              time.Time
	arrived             chan struct{}
	events              []Event
	happened            chan struct{}

	deaf  bool // takes nothing from the host
	stats Stats
}

// Stats counts what a slot has seen since it was made.
type Stats struct {
	Dropped  int // messages at the bulk endpoint that gave way to newer ones
	Missed   int // the same at the interrupt endpoint: the host has only seen the later ones
	Ignored  int // TX_DATA in a state in which the firmware drops it
	Strange  int // messages of the host that the firmware doesn't know, or can't understand
	Stale    int // commands that were answered by what had come before them
	Commands int // headers the host was told
	Nulls    int // NULL procedure bytes
	Messages int // of the host
	Resets   int // pulses and assertions of the modem's reset line
}

// An Event is what the host has done to the modem.
type Event uint8

// Events.
const (
	Remote        Event = iota // the emulated card is connected
	Local                      // the modem's local SIM is
	Inserted                   // presence is shown
	Removed                    //
	ResetAsserted              // the modem's reset line
	ResetReleased              //
)

func (e Event) String() string {
	return [...]string{"remote", "local", "inserted", "removed", "reset", "running"}[e]
}

func newSlot(b *Board, number int) *Slot {
	s := &Slot{board: b, number: number, reset: true, arrived: make(chan struct{}, 1), happened: make(chan struct{}, 1)}
	s.boot()
	return s
}

// boot starts the firmware anew.
func (s *Slot) boot() {
	s.cancelTimer()
	if s.stopPulse != nil {
		s.stopPulse()
		s.stopPulse = nil
		s.event(ResetReleased)
	}
	s.count()
	s.bulk, s.irq, s.received = pipe{}, pipe{}, nil
	s.config = simtrace.Config{Presence: simtrace.PresentHigh | simtrace.PresenceValid}
	if s.remote {
		s.event(Local)
	}
	if s.inserted {
		s.event(Removed)
	}
	s.inserted, s.remote = false, false
	s.atr = defaultATR
	s.vcc, s.clk = false, false
	s.enter(waitPower)
}

// count adds what the pipes have dropped to the statistics.
func (s *Slot) count() {
	s.stats.Dropped += s.bulk.dropped
	s.stats.Missed += s.irq.dropped
	s.bulk.dropped, s.irq.dropped = 0, 0
}

// enter changes the state. Buffers are empty in those without a card that runs.
func (s *Slot) enter(next state) {
	s.cancelTimer()
	s.state = next
	switch next {
	case waitPower, waitClock, waitReset:
		s.queue, s.got, s.sent = nil, nil, nil
		s.setParameters(1, 1, defaultWI)
	case waitATR:
		// Alone of all that is sent, the ATR takes the time that it does on a wire: a host relies on having been
		// told of the end of a reset before a command comes.
		cycles := atrDelay + guardTime*factorF[1]*float64(len(s.atr))
		s.stopTimer = s.board.after(time.Duration(cycles/s.board.config.Frequency*float64(time.Second)), func() {
			s.enter(inATR)
			s.wi = waitingInteger(s.atr)
			s.send(s.atr...)
			s.enter(waitTPDU)
		})
	case waitTPDU:
		s.got = nil
	}
}

func (s *Slot) setParameters(fi, di, wi uint8) { s.fi, s.di, s.wi = fi, di, wi }

func (s *Slot) cancelTimer() {
	if s.stopTimer != nil {
		s.stopTimer()
		s.stopTimer = nil
	}
}

// waitingTime is the work waiting time, in etu and as the modem's clock makes it (ISO 7816-3 10.2).
func (s *Slot) waitingTime() (etu uint32, d time.Duration) {
	const cycles = 960
	etu = uint32(s.wi) * cycles * factorD[s.di]
	seconds := float64(s.wi) * cycles * factorF[s.fi] / s.board.config.Frequency
	return etu, time.Duration(seconds * float64(time.Second))
}

// waitingInteger is TC2 of an ATR (ISO 7816-3 10.2, 8.2).
func waitingInteger(atr []byte) uint8 {
	if len(atr) < 2 {
		return defaultWI
	}
	y, at := atr[1]>>4, 2
	for level := 1; ; level++ {
		for bit := range 4 {
			if y&(1<<bit) == 0 {
				continue
			}
			if at >= len(atr) {
				return defaultWI
			}
			if bit == 2 && level == 2 && atr[at] != 0 {
				return atr[at]
			}
			at++
		}
		if y&8 == 0 || level == 2 {
			return defaultWI
		}
		y = atr[at-1] >> 4
	}
}

// send sends bytes to the modem.
func (s *Slot) send(b ...byte) {
	s.sent = append(s.sent, b...)
	s.sentAt = time.Now()
	signal(s.arrived)
}

func (s *Slot) event(e Event) {
	s.events = append(s.events, e)
	signal(s.happened)
}

func signal(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}

// await waits for the host, and keeps the modem patient meanwhile.
func (s *Slot) await() {
	s.phase = waitHost
	s.cancelTimer()
	_, wt := s.waitingTime()
	s.stopTimer = s.board.after(wt/2, func() {
		const null = 0x60
		s.stats.Nulls++
		s.send(null)
		s.await()
	})
}

// input takes bytes of the modem.
func (s *Slot) input(b []byte) {
	for _, c := range b {
		if s.state == waitTPDU {
			const ptss = 0xff // ISO 7816-3 9.2
			if c == ptss {
				s.enter(inPTS)
			} else {
				s.enter(inTPDU)
				s.phase = inHeader
			}
			s.got = nil
		}
		s.got = append(s.got, c)
		switch {
		case s.state == inPTS:
			s.pts()
		case s.state == inTPDU && s.phase == inHeader:
			if len(s.got) == len(s.header) {
				copy(s.header[:], s.got)
				s.got = nil
				s.stats.Commands++
				if len(s.queue) > 0 {
					s.stats.Stale++
				}
				s.tell(&s.bulk, &simtrace.RxData{Flags: simtrace.Header, Data: s.header[:]})
				s.await()
				s.answer()
			}
		case s.state == inTPDU && s.phase == collectRx:
			if len(s.got) == s.want {
				s.tell(&s.bulk, &simtrace.RxData{Flags: simtrace.Final, Data: s.got})
				s.got = nil
				s.await()
				s.answer()
			}
		default: // nobody listens
			s.got = nil
		}
	}
}

// pts answers a protocol and parameters selection when it is complete (ISO 7816-3 9.2).
func (s *Slot) pts() {
	if len(s.got) < 2 {
		return
	}
	length := 3
	for bit := byte(0x10); bit <= 0x40; bit <<= 1 {
		if s.got[1]&bit != 0 {
			length++
		}
	}
	if len(s.got) < length {
		return
	}
	var sum byte
	for _, c := range s.got {
		sum ^= c
	}
	if sum == 0 {
		s.send(s.got...)
		s.tell(&s.bulk, &simtrace.PTS{Req: s.got, Resp: s.got})
		if s.got[1]&0x10 != 0 {
			s.setParameters(s.got[2]>>4, s.got[2]&15, s.wi)
		}
	}
	s.enter(waitTPDU)
}

// answer sends the modem what the host has sent.
func (s *Slot) answer() {
	for s.state == inTPDU && s.phase == waitHost && len(s.queue) > 0 {
		m := s.queue[0]
		s.queue = s.queue[1:]
		s.send(m.Data...)
		switch {
		case m.Flags&simtrace.Final != 0:
			s.enter(waitTPDU)
		case m.Flags&simtrace.ContinueRx != 0:
			s.cancelTimer()
			s.phase, s.want, s.got = collectRx, int(s.header[4]), nil
			if s.want == 0 { // nothing to wait for: the host shouldn't have asked
				s.stats.Strange++
				s.await()
			}
		default:
			s.await()
		}
	}
}

// tell queues a message for the host.
func (s *Slot) tell(p *pipe, m simtrace.Message) {
	b, err := simtrace.Append(nil, m)
	if err != nil {
		panic(err) // the firmware's messages are within bounds
	}
	p.push(b)
	s.count()
	s.board.wake()
}

func (s *Slot) status() *simtrace.Status {
	m := &simtrace.Status{F: s.fi, D: s.di, WI: s.wi}
	m.WaitingTime, _ = s.waitingTime()
	if s.vcc {
		m.Flags |= simtrace.VCC
		m.Millivolts = s.board.config.Voltage
	}
	if s.clk {
		m.Flags |= simtrace.CLK
	}
	if s.reset {
		m.Flags |= simtrace.ResetActive
	}
	return m
}

// edge tells the host of a signal that changed.
func (s *Slot) edge() {
	if s.config.Features&simtrace.StatusOnIRQ != 0 && !s.board.config.NoIRQ {
		s.tell(&s.irq, s.status())
	}
}

// settle has the firmware see the contacts, one signal after the other: only those of a modem that is connected to it
// have power, and clock follows power.
func (s *Slot) settle() {
	if vcc := s.power && s.remote; vcc != s.vcc {
		s.vcc = vcc
		if vcc {
			s.enter(waitClock)
		} else {
			s.enter(waitPower)
		}
		s.edge()
	}
	if clk := s.clock && s.vcc; clk != s.clk {
		s.clk = clk
		if clk && s.state == waitClock {
			s.enter(waitReset)
		}
		s.edge()
		s.release()
	}
}

// release begins the answer to reset when all signals are there.
func (s *Slot) release() {
	if s.state == waitReset && s.vcc && s.clk && !s.reset {
		s.enter(waitATR)
	}
}

// take takes a transfer of the host: whole messages, up to a packet that isn't full.
func (s *Slot) take(data []byte, zero bool) {
	s.received = append(s.received, data...)
	if len(data) > 0 && len(data)%simtrace.PacketSize == 0 && !zero {
		return // more may follow
	}
	b := s.received
	s.received = nil
	if len(b) > simtrace.MaxMessage { // more than the firmware has room for
		s.stats.Strange++
		return
	}
	for len(b) > 0 {
		if len(b) < simtrace.HeaderLen {
			s.stats.Strange++
			return
		}
		n := int(binary.LittleEndian.Uint16(b[6:]))
		if n < simtrace.HeaderLen || n > len(b) {
			s.stats.Strange++
			return
		}
		m, err := simtrace.Decode(b[:n])
		if err != nil {
			s.stats.Strange++
		} else {
			s.stats.Messages++
			s.message(m)
		}
		b = b[n:]
	}
}

// message does what the host says.
func (s *Slot) message(m simtrace.Message) {
	switch m := m.(type) {
	case *simtrace.TxData:
		switch s.state {
		case inPTS, waitTPDU, inTPDU:
			s.queue = append(s.queue, *m)
			s.answer()
		default:
			s.stats.Ignored++
		}
	case *simtrace.SetATR:
		if len(m.ATR) <= simtrace.MaxATR {
			s.atr = m.ATR
		}
	case *simtrace.StatusReq:
		s.tell(&s.bulk, s.status())
	case *simtrace.CardInsert:
		if m.Inserted != s.inserted {
			s.inserted = m.Inserted
			s.event(map[bool]Event{true: Inserted, false: Removed}[m.Inserted])
		}
	case *simtrace.Config:
		s.config.Features = m.Features
		s.config.SlotMux = m.SlotMux
		if m.Presence&simtrace.PresenceValid != 0 {
			s.config.Presence = m.Presence
		}
		c := s.config
		s.tell(&s.bulk, &c)
	case *simtrace.SimSelect:
		if m.Remote != s.remote {
			s.remote = m.Remote
			s.event(map[bool]Event{true: Remote, false: Local}[m.Remote])
			s.settle()
		}
	case *simtrace.Reset:
		s.pulse(m)
	case *simtrace.Stats: // today's firmware doesn't answer
	default:
		s.stats.Strange++
	}
}

// pulse drives the modem's reset line.
func (s *Slot) pulse(m *simtrace.Reset) {
	if s.stopPulse != nil {
		s.stopPulse()
		s.stopPulse = nil
	}
	switch m.Action {
	case simtrace.ResetRelease:
		s.event(ResetReleased)
	case simtrace.ResetAssert, simtrace.ResetPulse:
		s.stats.Resets++
		s.event(ResetAsserted)
		if m.Action == simtrace.ResetPulse {
			s.stopPulse = s.board.after(m.Pulse, func() {
				s.stopPulse = nil
				s.event(ResetReleased)
			})
		}
	default:
		s.stats.Strange++
	}
}
