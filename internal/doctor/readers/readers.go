// SPDX-License-Identifier: GPL-2.0-or-later

// Package readers checks card readers, and the slots that a bankd finds in them.
package readers

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/doctor"
)

// within is how long pcscd has for a look.
const within = 5 * time.Second

// A Looker looks once at all readers: a pcsc.Bank, but in tests.
type Looker interface {
	Look(ctx context.Context) ([]bankd.Reader, error)
}

// Check reports the readers there are and the slots of a bankd, by what its slots file says. numSlots is how many it
// serves.
func Check(ctx context.Context, r *doctor.Report, l Looker, software bankd.Bank, file string, bank, numSlots uint16) {
	slots, err := bankd.ReadSlots(file)
	if err != nil {
		r.Bad(err, "a line has a bank id, a slot number and a pattern for the reader's name: "+
			`"1","0","ACS ACR33 ICC Reader 00 00"; see the manual`)
	}
	var mine []bankd.Slot
	for _, s := range slots {
		if s.Bank.ID == bank && s.Bank.Slot < numSlots {
			mine = append(mine, s)
		}
	}
	// Cards in software need no pcscd; who has no slots yet wants to know which readers there are.
	hardware := len(mine) == 0 || slices.ContainsFunc(mine, func(s bankd.Slot) bool { return !s.Software() })
	switch {
	case err != nil:
	case len(mine) == 0:
		r.Bad(fmt.Errorf("slots file %s: none of its %d lines is for a slot below %d of bank %d", file, len(slots), numSlots, bank),
			"see --bank-id, --num-slots and the first field of the lines")
	default:
		r.Good("slots file %s: %d lines for bank %d", file, len(mine), bank)
	}
	var readers []bankd.Reader
	if hardware {
		limit, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %v", within))
		defer cancel()
		readers, err = l.Look(limit)
		switch {
		case errors.Is(err, bankd.ErrNoService):
			r.Bad(err, "start it: systemctl start pcscd.socket; in a container it is reached by /run/pcscd/pcscd.comm of the host")
			return
		case limit.Err() != nil:
			r.Bad(fmt.Errorf("pcscd: %w", context.Cause(limit)), "a reader's driver may hang: plug the readers anew, or systemctl restart pcscd")
			return
		case err != nil:
			r.Bad(err, "pcscd may ask polkit for a rule that lets the user use cards; see journalctl -u pcscd")
			return
		case len(readers) == 0:
			r.Bad(errors.New("pcscd runs and has no reader"), "plug one in; does lsusb show it, and is a driver for it installed (libccid)?")
		default:
			r.Good("pcscd runs and has readers: %d", len(readers))
		}
	}
	for _, d := range readers {
		r.Good("reader %q: %s", d.Name, card(d))
	}
	names := make([]string, len(readers))
	for i, d := range readers {
		names[i] = d.Name
	}
	for _, s := range mine {
		check(r, s, software, readers, names)
	}
}

// card says what is in a reader.
func card(d bankd.Reader) string {
	switch {
	case !d.Present:
		return "no card"
	case d.ATR == nil:
		return "a card that doesn't answer"
	}
	return fmt.Sprintf("card with ATR % x", d.ATR)
}

// check reports whether a slot has a card.
func check(r *doctor.Report, s bankd.Slot, software bankd.Bank, readers []bankd.Reader, names []string) {
	fail := func(remedy, format string, a ...any) {
		r.Bad(fmt.Errorf("slot %d: %w", s.Bank.Slot, fmt.Errorf(format, a...)), remedy)
	}
	if s.Software() {
		if err := software.Check(s); err != nil {
			fail("see the manual about cards in software", "%w", err)
		} else {
			r.Good("slot %d: a card in software", s.Bank.Slot)
		}
		return
	}
	name, ok := s.Match(names)
	if !ok {
		there := "there is none"
		if len(names) > 0 {
			there = fmt.Sprintf("there are %q", names)
		}
		fail("correct the line, or plug the reader in", "no reader's name matches %q of line %d: %s", s.Spec, s.Line, there)
		return
	}
	for _, d := range readers {
		switch {
		case d.Name != name:
		case !d.Present:
			fail("put one in", "reader %q has no card", name)
		case d.ATR == nil:
			fail("is it the right way round, are its contacts clean, is it a SIM?", "the card in reader %q doesn't answer", name)
		default:
			r.Good("slot %d: reader %q", s.Bank.Slot, strings.TrimSpace(name))
		}
	}
}
