// SPDX-License-Identifier: GPL-2.0-or-later

package board

import (
	"context"
	"time"

	"remsim/internal/simtrace"
)

// SetVCC switches the supply of the card.
func (s *Slot) SetVCC(on bool) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	s.power = on
	s.settle()
}

// SetCLK starts or stops the clock.
func (s *Slot) SetCLK(on bool) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	s.clock = on
	s.settle()
}

// SetRST drives the reset contact: active resets the card.
func (s *Slot) SetRST(active bool) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	if active == s.reset {
		return
	}
	s.reset = active
	if active && s.state > waitReset {
		s.enter(waitReset)
	}
	if s.remote {
		s.edge()
	}
	s.release()
}

// Write sends bytes to the card. They take no time, unlike those on a wire.
func (s *Slot) Write(b []byte) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	if s.remote {
		s.input(b)
	}
}

// Read waits for bytes of the card until ctx ends, and returns all that have come, with the time at which the last one was sent.
func (s *Slot) Read(ctx context.Context) (b []byte, at time.Time, err error) {
	for {
		s.board.mu.Lock()
		b, at, s.sent = s.sent, s.sentAt, nil
		s.board.mu.Unlock()
		if len(b) > 0 {
			return b, at, nil
		}
		select {
		case <-s.arrived:
		case <-ctx.Done():
			return nil, time.Time{}, ctx.Err()
		}
	}
}

// Remote reports whether the modem is connected with the emulated card, else with its local SIM.
func (s *Slot) Remote() bool {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.remote
}

// Present reports whether the device shows a card to the modem.
func (s *Slot) Present() bool {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.inserted
}

// ATR returns what the card answers from the next reset on.
func (s *Slot) ATR() []byte {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.atr
}

// State names the state of the emulated card, as the firmware's source does.
func (s *Slot) State() string {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.state.String()
}

// WaitingTime is how long the card may let the modem wait for a byte (ISO 7816-3 10.2).
func (s *Slot) WaitingTime() time.Duration {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	_, d := s.waitingTime()
	return d
}

// Stats returns what was counted.
func (s *Slot) Stats() Stats {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	return s.stats
}

// Events returns what has happened since the last call. Happened delivers when there is something.
func (s *Slot) Events() []Event {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	e := s.events
	s.events = nil
	return e
}

// Happened delivers after an event. One goroutine may wait for it.
func (s *Slot) Happened() <-chan struct{} { return s.happened }

// Inject puts bytes on the bulk or the interrupt endpoint that the firmware would not send.
func (s *Slot) Inject(irq bool, b []byte) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	p := &s.bulk
	if irq {
		p = &s.irq
	}
	p.push(append([]byte(nil), b...))
	s.count()
	s.board.wake()
}

// Report puts a message on the bulk or the interrupt endpoint.
func (s *Slot) Report(irq bool, m simtrace.Message) error {
	b, err := simtrace.Append(nil, m)
	if err == nil {
		s.Inject(irq, b)
	}
	return err
}

// FailTransfers has the next n transfers of the bulk or the interrupt IN endpoint end with an error, as a bus that is
// disturbed does.
func (s *Slot) FailTransfers(irq bool, n int) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	if irq {
		s.irq.faults = n
	} else {
		s.bulk.faults = n
	}
	s.board.wake()
}

// SetDeaf has the device take nothing from the host, as firmware that hangs does.
func (s *Slot) SetDeaf(on bool) {
	s.board.mu.Lock()
	defer s.board.mu.Unlock()
	s.deaf = on
	s.board.wake()
}
