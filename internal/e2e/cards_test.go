// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"bytes"
	"context"
	"crypto/sha256"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/slot"
)

// A bank has a card for each slot of all bankds. A card's ATR and its answers tell which
// one it is, and an answer tells to which command it belongs. It judges what bankds do with the cards, at all times:
// one has a card at a time, for one client, and no command reaches a card twice.
type bank struct {
	t     *testing.T
	mu    sync.Mutex
	cards map[slot.Bank]*place
	news  chan struct{} // closed and made anew when a card is pulled or inserted
}

// A place is a card and where it is.
type place struct {
	open    *card  // who has it powered; nil: nobody
	pulled  bool   // from its reader
	changes uint64 // how often it was pulled or inserted
	ended   int    // how often it was powered off
	resets  int
	seen    map[uint32]bool // numbers of the commands it got
}

func newBank(t *testing.T) *bank {
	return &bank{t: t, cards: map[slot.Bank]*place{}, news: make(chan struct{})}
}

// place returns where the card of a slot is; b.mu is held.
func (b *bank) place(s slot.Bank) *place {
	p := b.cards[s]
	if p == nil {
		p = &place{seen: map[uint32]bool{}}
		b.cards[s] = p
	}
	return p
}

// Check implements bankd.Bank.
func (b *bank) Check(bankd.Slot) error { return nil }

// Open implements bankd.Bank.
func (b *bank) Open(_ context.Context, s bankd.Slot) (bankd.Card, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	p := b.place(s.Bank)
	switch {
	case p.pulled:
		return nil, bankd.ErrNoCard
	case p.open != nil:
		b.t.Errorf("card %v is powered up twice", s.Bank)
		return nil, fmt.Errorf("card %v is in use", s.Bank)
	}
	p.open = &card{bank: b, slot: s.Bank, changes: p.changes}
	return p.open, nil
}

// open returns the slots whose cards are powered, in order.
func (b *bank) open() (open []slot.Bank) {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, p := range b.cards {
		if p.open != nil {
			open = append(open, s)
		}
	}
	slices.SortFunc(open, compareBank)
	return open
}

// offs returns how often the card was powered off.
func (b *bank) offs(s slot.Bank) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.place(s).ended
}

func (b *bank) resetsOf(s slot.Bank) int {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.place(s).resets
}

// user returns the client whose commands a powered card gets; ok is false when it isn't powered or has got none.
func (b *bank) user(s slot.Bank) (c slot.Client, ok bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if open := b.place(s).open; open != nil && open.user != nil {
		return *open.user, true
	}
	return slot.Client{}, false
}

// usedBy returns the slot of a powered card that serves a client; nil: there is none.
func (b *bank) usedBy(c slot.Client) *slot.Bank {
	b.mu.Lock()
	defer b.mu.Unlock()
	for s, p := range b.cards {
		if p.open != nil && p.open.user != nil && *p.open.user == c {
			return &s
		}
	}
	return nil
}

// pull takes a card out of its reader, or puts it back.
func (b *bank) pull(s slot.Bank, pulled bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if p := b.place(s); p.pulled != pulled {
		p.pulled = pulled
		p.changes++
		close(b.news)
		b.news = make(chan struct{})
	}
}

// places returns the slots that anything has happened at, and whether their cards are pulled.
func (b *bank) places() map[slot.Bank]bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	all := map[slot.Bank]bool{}
	for s, p := range b.cards {
		all[s] = p.pulled
	}
	return all
}

// readers are those of a bankd.
type readers struct {
	*bank
	id uint16
}

func readerName(b slot.Bank) string { return fmt.Sprintf("Reader %d.%d", b.ID, b.Slot) }

// Watch implements bankd.ReaderBank.
func (r readers) Watch(ctx context.Context, changed func([]bankd.Reader)) error {
	for {
		r.mu.Lock()
		news := r.news
		var there []bankd.Reader
		for nr := uint16(firstReader); nr < slots; nr++ {
			s := slot.Bank{ID: r.id, Slot: nr}
			p := r.place(s)
			reader := bankd.Reader{Name: readerName(s), Present: !p.pulled, Changes: p.changes}
			if reader.Present {
				reader.ATR = cardATR(s)
			}
			there = append(there, reader)
		}
		r.mu.Unlock()
		changed(there)
		select {
		case <-news:
		case <-ctx.Done():
			return nil
		}
	}
}

// A card is one that is powered up.
type card struct {
	bank    *bank
	slot    slot.Bank
	changes uint64       // of its place, when it was powered up
	user    *slot.Client // whose commands it gets; nil: none came yet. Guarded by bank.mu
}

// ATR implements bankd.Card.
func (c *card) ATR() []byte { return cardATR(c.slot) }

// Transmit implements bankd.Card. It takes the time of a real card, so that faults meet commands in flight.
func (c *card) Transmit(cmd, buf []byte) ([]byte, error) {
	if err := c.take(cmd); err != nil {
		return nil, err
	}
	time.Sleep(time.Duration(10+cmd[7]%40) * time.Millisecond)
	if err := c.there(); err != nil {
		return nil, err
	}
	return append(buf[:0], cardAnswer(c.slot, cmd)...), nil
}

// take judges a command as it comes.
func (c *card) take(cmd []byte) error {
	if err := c.there(); err != nil {
		return err
	}
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	by := slot.Client{ID: uint16(cmd[1]), Slot: uint16(cmd[2])}
	if c.user == nil {
		c.user = &by
	}
	if *c.user != by {
		c.bank.t.Errorf("card %v serves %v, and then gets a command of %v", c.slot, *c.user, by)
	}
	which := commandNumber(cmd)
	if p := c.bank.place(c.slot); p.seen[which] {
		c.bank.t.Errorf("card %v gets the command %x a second time", c.slot, cmd)
	} else {
		p.seen[which] = true
	}
	return nil
}

// there fails when the card is another one by now, or none.
func (c *card) there() error {
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	switch p := c.bank.place(c.slot); {
	case p.open != c:
		c.bank.t.Errorf("card %v is used when it was powered off", c.slot)
		return bankd.ErrNoCard
	case p.changes != c.changes:
		return bankd.ErrNoCard
	}
	return nil
}

// Reset implements bankd.Card.
func (c *card) Reset(bool) error {
	if err := c.there(); err != nil {
		return err
	}
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	c.bank.place(c.slot).resets++
	return nil
}

// Close implements bankd.Card.
func (c *card) Close() error {
	c.bank.mu.Lock()
	defer c.bank.mu.Unlock()
	p := c.bank.place(c.slot)
	if p.open != c {
		c.bank.t.Errorf("card %v is powered off twice", c.slot)
		return nil
	}
	p.open = nil
	p.ended++
	return nil
}

func cardATR(b slot.Bank) []byte { return []byte{0x3b, 0x02, byte(b.ID), byte(b.Slot)} }

func cardAnswer(b slot.Bank, cmd []byte) []byte {
	sum := sha256.Sum256(cmd)
	return slices.Concat([]byte{byte(b.ID), byte(b.Slot)}, sum[:12], []byte{0x90, 0x00})
}

func compareBank(a, b slot.Bank) int {
	return bytes.Compare([]byte{byte(a.ID), byte(a.Slot)}, []byte{byte(b.ID), byte(b.Slot)})
}
