// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A place is where the card of a slot is: in a reader, or for a card in software in the
// line of the slots file.
type place struct {
	name    string // of the reader, or the line's third field; empty: there is no place
	reader  string // what users are shown of name
	present bool   // there is a card
	atr     []byte // its ATR; nil: not known
	changes uint64 // see Reader
	err     error  // why there is no place
}

// Reasons why a slot has no place.
var (
	errNoLine = fmt.Errorf("%w: the slots file doesn't name this slot", ErrNoReader)
	errNotYet = fmt.Errorf("%w: pcscd hasn't told what there is", ErrNoReader)
)

// readSlots reads the slots file and returns the line of each slot, nil for those that have none.
func (d *bankd) readSlots() ([]*Slot, error) {
	file := d.cfg.SlotsFile
	lines, err := ReadSlots(file)
	if err != nil {
		return nil, err
	}
	specs := make([]*Slot, len(d.bays))
	used := 0
	for i := range lines {
		s := &lines[i]
		if s.Bank.ID != d.bankID || int(s.Bank.Slot) >= len(specs) {
			continue
		}
		if err := d.bank(s).Check(*s); err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, s.Line, err)
		}
		specs[s.Bank.Slot] = s
		used++
	}
	d.log.WithFields(logrus.Fields{"cat": "DMAIN", "file": file, "lines": len(lines), "used": used}).Info("slots file")
	return specs, nil
}

// bank returns who opens the card of s.
func (d *bankd) bank(s *Slot) Bank {
	if s.Software() {
		return d.env.Softsim
	}
	return d.env.Readers
}

// apply gives the slots their lines of the slots file, and has readers watched when one
// of them needs it. Slots whose cards stay where they were don't notice.
func (d *bankd) apply(ctx context.Context, specs []*Slot) {
	d.mu.Lock()
	for i, b := range d.bays {
		b.spec = specs[i]
	}
	watch := !d.watched && slices.ContainsFunc(specs, func(s *Slot) bool { return s != nil && !s.Software() })
	d.watched = d.watched || watch
	moves := d.settleLocked()
	readers := d.readers
	d.mu.Unlock()
	d.logMoves(moves, readers)
	if watch {
		go d.watch(ctx)
	}
}

// reload reads the slots file each time it is asked to, until ctx ends.
func (d *bankd) reload(ctx context.Context) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-d.env.Reload:
		}
		if specs, err := d.readSlots(); err != nil {
			d.log.WithField("cat", "DMAIN").WithError(err).Error("the slots stay as they were")
		} else {
			d.apply(ctx, specs)
		}
		if d.env.Reloaded != nil {
			d.env.Reloaded()
		}
	}
}

// watch follows the readers until ctx ends.
func (d *bankd) watch(ctx context.Context) {
	defer close(d.unwatched)
	log := d.log.WithField("cat", "DMAIN")
	if err := d.env.Readers.Watch(ctx, d.follow); err != nil {
		log.WithError(err).Error("readers can't be watched")
	}
}

// awaitReaders waits for the first word of the readers, so that a client that comes early isn't told
// that there are none; not for long, as pcscd may hang.
func (d *bankd) awaitReaders(ctx context.Context) {
	d.mu.Lock()
	watched := d.watched
	d.mu.Unlock()
	if !watched {
		return
	}
	t := time.NewTimer(readersWithin)
	defer t.Stop()
	select {
	case <-d.seen:
	case <-d.unwatched:
	case <-ctx.Done():
	case <-t.C:
	}
}

// follow makes the slots follow what a ReaderBank tells.
func (d *bankd) follow(readers []Reader) {
	d.mu.Lock()
	if d.closing {
		d.mu.Unlock()
		return
	}
	were, known := d.readers, d.known
	d.readers, d.known = readers, true
	if !known {
		close(d.seen)
	}
	if readers == nil {
		// No call can hang in a pcscd that is gone.
		for _, b := range d.bays {
			if b.spec != nil && !b.spec.Software() && b.abandoned > 0 {
				b.startOverLocked()
			}
		}
	}
	moves := d.settleLocked()
	d.mu.Unlock()

	log := d.log.WithField("cat", "DMAIN")
	switch {
	case readers == nil && (were != nil || !known):
		log.Warn(ErrNoService)
	case !slices.Equal(names(were), names(readers)):
		log.WithField("readers", fmt.Sprintf("%q", names(readers))).Info("readers")
	}
	d.logMoves(moves, readers)
}

func names(readers []Reader) []string {
	var n []string
	for _, r := range readers {
		n = append(n, r.Name)
	}
	return n
}

// settleLocked gives each slot its place, from the slots file and the readers that are
// there, whatever happened before. A slot keeps its reader as long as that is there and
// matches; else it gets the first reader that matches. A reader is never that of two slots:
// the one that has it keeps it, of others the first one gets it.
func (s *state) settleLocked() (moves []move) {
	all := names(s.readers)
	owners := make(map[string]*bay)
	for _, b := range s.bays {
		if n := b.place.name; b.spec != nil && b.spec.Pattern != nil && slices.Contains(all, n) && b.spec.Pattern.MatchString(n) {
			owners[n] = b
		}
	}
	for _, b := range s.bays {
		to := s.findLocked(b, all, owners)
		if to.name != "" {
			owners[to.name] = b
		}
		if m, ok := s.moveLocked(b, to); ok {
			moves = append(moves, m)
		}
	}
	return moves
}

// findLocked returns the place of b among the readers whose names are all.
func (s *state) findLocked(b *bay, all []string, owners map[string]*bay) place {
	switch {
	case b.spec == nil:
		return place{err: errNoLine}
	case b.spec.Software():
		return place{name: b.spec.Spec, reader: "softsim", present: true}
	case !s.known:
		return place{err: errNotYet}
	case s.readers == nil:
		return place{err: ErrNoService}
	}
	name := b.place.name
	if owners[name] != b {
		var ok bool
		if name, ok = b.spec.Match(all); !ok {
			return place{err: fmt.Errorf("%w %q", ErrNoReader, b.spec.Spec)}
		}
		if o := owners[name]; o != nil {
			return place{err: fmt.Errorf("%w %q but %q, which slot %v has by line %d of the slots file", ErrNoReader, b.spec.Spec, name, o.slot, o.spec.Line)}
		}
	}
	r := s.readers[slices.Index(all, name)]
	return place{name: name, reader: name, present: r.Present, atr: r.ATR, changes: r.Changes}
}

// A move is a change of the place of a slot, for the log.
type move struct {
	slot       slot.Bank
	spec       *Slot
	from, to   place
	gone, came bool
	user       slot.Client // who lost its card
	served     bool        // there is a user
}

// moveLocked gives b its place and does what follows when a card left or came. It reports
// whether there is something to say.
func (s *state) moveLocked(b *bay, to place) (m move, news bool) {
	from := b.place
	stays := from.present && to.present && from.name == to.name && from.changes == to.changes
	gone, came := from.present && !stays, to.present && !stays
	moved := from.name != to.name || fmt.Sprint(from.err) != fmt.Sprint(to.err)
	b.place = to
	if b.abandoned > 0 && from.name != "" && to.name != "" && from.name != to.name {
		b.startOverLocked() // what hangs, hangs at the old place
	}
	if gone || came || moved {
		b.fault = "" // it is another's
	}
	m = move{slot: b.slot, spec: b.spec, from: from, to: to, gone: gone, came: came}
	if gone {
		b.losses++
		b.atr = nil
		switch {
		case b.user != nil && b.user.state == Served:
			m.user, m.served = b.user.client, true
			s.loseLocked(b, from.leftFor(to))
		case b.state == Failed:
			s.setLocked(b, b.restLocked(), nil)
		}
	}
	if came && b.state != Free {
		s.setLocked(b, b.restLocked(), nil)
		s.hurryLocked(b)
	}
	if moved && b.state != Free && b.state != Carded && !m.served {
		s.setLocked(b, b.restLocked(), nil) // what failed at the old place
	}
	s.tellLocked(b)
	return m, gone || came || moved
}

// leftFor says what became of a card in p where there is to now.
func (p place) leftFor(to place) error {
	switch {
	case to.err != nil:
		return to.err
	case to.name != p.name:
		return fmt.Errorf("%w: the slots file has another one now", ErrNoCard)
	case to.present:
		return fmt.Errorf("%w: it was swapped", ErrNoCard)
	}
	return fmt.Errorf("%w: it was pulled", ErrNoCard)
}

// logMoves tells what has become of the slots' places among readers.
func (d *bankd) logMoves(moves []move, readers []Reader) {
	for _, m := range moves {
		log := d.log.WithFields(logrus.Fields{"cat": "DSLOTMAP", "slot": m.slot.String()})
		if m.spec != nil {
			log = log.WithField("line", m.spec.Line)
		}
		if m.to.name != "" {
			log = log.WithField("reader", m.to.reader)
		}
		if m.served {
			log = log.WithField("client", m.user.String())
		}
		switch {
		case !m.served && (m.to.err == ErrNoService || m.to.err == errNotYet): // that is nothing about the slot
			log.WithError(m.to.err).Debug("no reader")
		case m.to.err != nil:
			if m.spec != nil && readers != nil {
				log = log.WithField("readers", fmt.Sprintf("%q", names(readers)))
			}
			log.WithError(m.to.err).Warn("no reader")
		case m.gone && m.came:
			log.Info("another card")
		case m.gone:
			log.Info("the card has gone")
		case m.came:
			log.Info("a card is there")
		default:
			log.Info("an empty reader")
		}
	}
}

// problem is why b has no card, nil when that isn't asked for.
func (b *bay) problem() error {
	switch {
	case b.err != nil:
		return b.err
	case b.spec == nil && b.state == Free:
		return nil
	}
	return b.place.err
}

// maxReader is what is told of a reader's name, in bytes. PC/SC allows 127.
const maxReader = 128

// info is what the server is told of b.
func (b *bay) info() rspro.SlotInfo {
	i := rspro.SlotInfo{Slot: b.slot.Slot, Present: b.place.present, Reader: utf8Name(b.place.reader)}
	atr := b.atr
	if atr == nil {
		atr = b.place.atr
	}
	if checkATR(atr) == nil {
		i.ATR = atr
	}
	if err := b.problem(); err != nil {
		i.Error = ia5(err.Error())
	}
	return i
}

// utf8Name makes an RSPRO UTF8String of moderate length of s.
func utf8Name(s string) string {
	s = strings.ToValidUTF8(s, "?")
	if len(s) <= maxReader {
		return s
	}
	n := maxReader
	for !utf8.RuneStart(s[n]) {
		n--
	}
	return s[:n]
}

func sameInfo(a, b rspro.SlotInfo) bool {
	return a.Slot == b.Slot && a.Present == b.Present && a.Reader == b.Reader && a.Error == b.Error && bytes.Equal(a.ATR, b.ATR)
}

// Of a message that tells of slots: the bytes of one without its texts, and of all slots
// together, so that the PDU has at most link.MaxPDU.
const (
	infoSize  = 24
	infosSize = link.MaxPDU - 40
)

// tellLocked tells the server what is new of bays (RSPRO bankSlotInfoInd).
func (s *state) tellLocked(bays ...*bay) {
	if !s.tells {
		return
	}
	var m rspro.BankSlotInfoInd
	size := 0
	for _, b := range bays {
		i := b.info()
		if b.told != nil && sameInfo(*b.told, i) {
			continue
		}
		b.told = &i
		n := infoSize + len(i.Reader) + len(i.ATR) + len(i.Error)
		if len(m.Slots) == rspro.MaxSlots || size+n > infosSize {
			s.server.Send(&m)
			m.Slots, size = nil, 0
		}
		m.Slots, size = append(m.Slots, i), size+n
	}
	if len(m.Slots) > 0 {
		s.server.Send(&m)
	}
}

// setServer makes c the control connection, nil: there is none. With tells the server is
// told the maps there are (RSPRO bankSlotmapsInd), and all slots.
func (s *state) setServer(c *link.Conn, tells bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.server, s.tells = c, tells
	if !tells {
		return
	}
	var maps []slot.Map
	for _, b := range s.bays {
		b.told = nil
		if b.state != Free {
			maps = append(maps, slot.Map{Client: b.client, Bank: b.slot})
		}
	}
	for last := false; !last; {
		n := min(len(maps), rspro.MaxMaps)
		last = n == len(maps)
		s.server.Send(&rspro.BankSlotmapsInd{Maps: maps[:n], Last: last})
		maps = maps[n:]
	}
	s.tellLocked(s.bays...)
}
