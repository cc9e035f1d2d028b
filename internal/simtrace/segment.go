// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"errors"
	"fmt"
)

// A Segmenter puts the modem's commands together from RxData. For use by one goroutine at a time.
//
//	IDLE ── header ──┬── all is there ────────────────► complete: IDLE
//	 ▲               └── data to come: the device ──► COLLECTING ── data ──► complete: IDLE
//	 │                   is to ask for it                 │
//	 └──────────────── reset, or a new header ────────────┘
type Segmenter struct {
	find finder

	tpdu []byte // the command being received; empty: none
	want int    // its length when it is complete

	asked   bool // for the data of tpdu, whose case was guessed
	last    [4]byte
	lastC   Case             // case of the last command, whose first bytes are last; 0: none
	repeat  bool             // the last answer was 6Cxx
	nothing map[[2]byte]bool // CLA and INS of unknown commands whose data never came
	told    map[[2]byte]bool // CLA and INS of unknown commands that were told
}

// A Step is what follows from something the modem sent.
type Step struct {
	TPDU    []byte // the whole command, to be forwarded; nil: not complete yet
	Ask     bool   // the device must ask the modem for the command's data now
	INS     byte   // of the command
	Guessed Case   // the command is unknown and was taken as of this case, for the first time
}

// NewSegmenter returns a Segmenter that tries rows before what standards say.
func NewSegmenter(rows []Row) *Segmenter {
	return &Segmenter{find: finder{rows: rows, tables: tables()}, nothing: make(map[[2]byte]bool), told: make(map[[2]byte]bool)}
}

var (
	errNoHeader = errors.New("data without a command")
	errEmpty    = errors.New("no data")
)

// Receive takes what the modem sent. An error says why that is nothing; a command that was being received is
// over after a header, and goes on after anything else.
func (s *Segmenter) Receive(m *RxData) (Step, error) {
	switch {
	case m.Flags&Header != 0:
		return s.begin(m.Data)
	case len(m.Data) == 0:
		return Step{}, errEmpty
	case len(s.tpdu) == 0:
		return Step{}, fmt.Errorf("%w (%d bytes)", errNoHeader, len(m.Data))
	case len(s.tpdu)+len(m.Data) > s.want:
		return Step{}, fmt.Errorf("%d bytes of data: the command wants %d more", len(m.Data), s.want-len(s.tpdu))
	}
	if s.asked {
		// It does have data, even if that was slow.
		s.asked = false
		delete(s.nothing, [2]byte(s.tpdu))
	}
	s.tpdu = append(s.tpdu, m.Data...)
	return s.step(), nil
}

// begin takes a header, and the data it may have with it.
func (s *Segmenter) begin(data []byte) (Step, error) {
	s.tpdu, s.asked = nil, false
	if len(data) < len(header{}) {
		return Step{}, fmt.Errorf("header of %d bytes: want %d", len(data), len(header{}))
	}
	h := header(data)
	c, known := s.caseOf(h)
	want := len(h)
	if c >= Case3 {
		want += int(h[4])
	}
	if len(data) > want {
		return Step{}, fmt.Errorf("command of %d bytes: its header says %d", len(data), want)
	}
	s.tpdu, s.want = append(make([]byte, 0, want), data...), want
	s.last, s.lastC = [4]byte(data), c
	step := s.step()
	step.Ask = step.TPDU == nil
	s.asked = step.Ask && !known
	if key := [2]byte(data); !known && !s.told[key] {
		s.told[key] = true
		step.Guessed = c
	}
	return step, nil
}

// caseOf returns the case of a new command.
func (s *Segmenter) caseOf(h header) (c Case, known bool) {
	again := s.repeat && s.last == [4]byte(h[:])
	s.repeat = false
	if again && s.lastC != Case4 {
		return s.lastC, true
	}
	c, known = s.find.find(h)
	if !known && s.nothing[[2]byte(h[:])] {
		return Case2, false
	}
	return c, known
}

// step returns the command if it is complete.
func (s *Segmenter) step() Step {
	step := Step{INS: s.tpdu[1]}
	if len(s.tpdu) == s.want {
		step.TPDU, s.tpdu = s.tpdu, nil
	}
	return step
}

// Respond takes note of the card's answer to the last command, SW1 SW2 at its end. After 6Cxx the modem
// sends the command again, with P3 = xx: it has the same case then, as P3 is no longer what the
// tables go by (ISO 7816-3 12.2.2).
func (s *Segmenter) Respond(response []byte) {
	s.repeat = s.lastC != 0 && len(response) == 2 && response[0] == 0x6c
}

// Reset forgets a command that isn't complete, and what the last one was answered: the card was reset.
func (s *Segmenter) Reset() {
	s.tpdu, s.asked, s.repeat, s.lastC = nil, false, false, 0
}

// Asked reports whether the modem was asked for the data of a command whose case was guessed, and
// has sent nothing yet.
func (s *Segmenter) Asked() bool { return s.asked }

// Expired takes note that what Asked says is so still after the waiting time: commands of this CLA and INS
// are taken as of case 2 from now on. It returns these.
func (s *Segmenter) Expired() (cla, ins byte) {
	s.nothing[[2]byte(s.tpdu)] = true
	return s.tpdu[0], s.tpdu[1]
}

// Forget forgets all that was learnt about commands: another SIM is to be used.
func (s *Segmenter) Forget() {
	s.Reset()
	clear(s.nothing)
	clear(s.told)
}
