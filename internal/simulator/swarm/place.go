// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"strconv"
	"strings"
	"sync/atomic"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

// A place is a bank slot that clients may be mapped to.
type place struct {
	bank  slot.Bank
	iccid []byte // of the card, as EF.ICCID has it, where the bank is a guest; nil: the card is a witness
}

// guestCard returns the number of the card of a guest's slot.
func guestCard(b slot.Bank) int { return int(b.ID)*(slot.Max+1) + int(b.Slot) }

// makePlaces lists all slots of all banks.
func (s *swarm) makePlaces() error {
	for i := range s.Banks {
		for nr := range s.Slots {
			s.places = append(s.places, place{bank: slot.Bank{ID: s.Bank + uint16(i), Slot: uint16(nr)}})
		}
	}
	for _, g := range s.Guests {
		for nr := range g.Slots {
			p := place{bank: slot.Bank{ID: g.Bank, Slot: uint16(nr)}}
			if int(g.Bank) >= int(s.Bank) && int(g.Bank) < int(s.Bank)+s.Banks {
				return fmt.Errorf("swarm: bank %d is one of the swarm's and of another program", g.Bank)
			}
			answer, err := softsim.New(simulator.Profile(guestCard(p.bank))).Transmit(readICCID(0, iccidLen), make([]byte, 258))
			if err != nil || len(answer) != iccidLen+2 {
				return fmt.Errorf("swarm: a card in software answers % x, %w", answer, err)
			}
			p.iccid = answer[:iccidLen:iccidLen]
			s.places = append(s.places, p)
		}
	}
	return nil
}

const (
	iccidLen  = 10 // of EF.ICCID (TS 102 221 13.2)
	minAnswer = 9  // of a witness, without status: all that it tells
)

// readICCID returns READ BINARY of EF.ICCID by its short identifier (TS 102 221 11.1.3), which needs no file selected, and selects none
// that matters to the next one.
func readICCID(offset, n byte) []byte { return []byte{0x00, 0xb0, 0x82, offset, n} }

// command returns some command to the card at p.
func (p place) command(r *rand.Rand) []byte {
	if p.iccid != nil {
		offset := r.IntN(iccidLen)
		return readICCID(byte(offset), byte(1+r.IntN(iccidLen-offset)))
	}
	return []byte{0x00, 0xb0, 0x80 | byte(r.IntN(32)), byte(r.Uint32()), byte(minAnswer + r.IntN(64))}
}

// check reports whether an answer is that of the card at p to a command, which may have been made for a card of the other kind.
func (p place) check(command, answer []byte) bool {
	if p.iccid == nil {
		return string(answer) == string(p.appendAnswer(nil, command))
	}
	if string(command[:3]) != string(readICCID(0, 0)[:3]) || int(command[3])+int(command[4]) > iccidLen {
		// Of another file, or beyond the end: ISO 7816-4 has several words for that.
		return len(answer) == 2 && answer[0] != 0x90
	}
	return string(answer) == string(p.iccid[command[3]:command[3]+command[4]])+"\x90\x00"
}

// appendAnswer appends what the witness at p answers: which card it is, and which command that was.
func (p place) appendAnswer(b, command []byte) []byte {
	if len(command) != 5 || command[1] != 0xb0 {
		return append(b, 0x6d, 0x00)
	}
	begin, n := len(b), int(command[4])
	if n < minAnswer {
		return append(b, 0x6c, minAnswer) // in less there is no room
	}
	b = binary.BigEndian.AppendUint16(b, p.bank.ID)
	b = binary.BigEndian.AppendUint16(b, p.bank.Slot)
	b = append(b, command...)
	for len(b)-begin < n {
		b = append(b, byte(len(b)-begin)^command[3])
	}
	return append(b[:begin+n], 0x90, 0x00)
}

// A witness is a card that tells in each answer which card it is and what it was asked.
type witness struct {
	place
	open *atomic.Int64
}

// ATR tells which card it is, in historical bytes; the protocol is T=0, so that there is no check byte (ISO 7816-3 8.2).
func (w *witness) ATR() []byte {
	b := []byte{0x3b, 0x08, 's', 'w', 'r', 'm'}
	b = binary.BigEndian.AppendUint16(b, w.bank.ID)
	return binary.BigEndian.AppendUint16(b, w.bank.Slot)
}

func (w *witness) Transmit(cmd, buf []byte) ([]byte, error) { return w.appendAnswer(buf[:0], cmd), nil }

func (w *witness) Reset(bool) error { return nil }

func (w *witness) Close() error {
	w.open.Add(-1)
	return nil
}

// witnesses are the cards of one bank.
type witnesses struct{ open atomic.Int64 }

func (*witnesses) Check(bankd.Slot) error { return nil }

func (w *witnesses) Open(_ context.Context, s bankd.Slot) (bankd.Card, error) {
	w.open.Add(1)
	return &witness{place{bank: s.Bank}, &w.open}, nil
}

// noReaders is a host without PC/SC.
type noReaders struct{}

func (noReaders) Check(bankd.Slot) error { return nil }

func (noReaders) Open(context.Context, bankd.Slot) (bankd.Card, error) {
	return nil, errors.New("there are no readers")
}

func (noReaders) Watch(ctx context.Context, _ func([]bankd.Reader)) error {
	<-ctx.Done()
	return nil
}

// String returns the text that ParseGuest reads.
func (g Guest) String() string { return fmt.Sprintf("%d:%d", g.Bank, g.Slots) }

// ParseGuest reads a bank's id and its number of slots, "ID:SLOTS".
func ParseGuest(s string) (g Guest, err error) {
	id, slots, ok := strings.Cut(s, ":")
	bank, idErr := strconv.ParseUint(id, 10, 16)
	n, slotsErr := strconv.ParseUint(slots, 10, 16)
	if !ok || idErr != nil || slotsErr != nil || bank > slot.Max || n < 1 || n > slot.Max {
		return g, fmt.Errorf("bank %q: want ID:SLOTS with an id 0..%d and 1..%d slots", s, slot.Max, slot.Max)
	}
	return Guest{Bank: uint16(bank), Slots: int(n)}, nil
}
