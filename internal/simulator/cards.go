// SPDX-License-Identifier: GPL-2.0-or-later

// Package simulator is a test bench without hardware: cards in software behind the
// virtual readers of a real pcscd (vpcd, of the vsmartcard project), and a pcscd of one's own.
package simulator

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"sync"

	"github.com/sirupsen/logrus"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
)

// VPCDPort is the TCP port of the first virtual reader where nothing else is said, in vpcd as here.
const VPCDPort = 35963

// MaxCards is the number of readers that one pcscd serves (before its version 2.5).
const MaxCards = 16

// swapStep is what the number of a card grows by when it is swapped.
const swapStep = 100

// Config says which cards there are.
type Config struct {
	Addr  netip.AddrPort // of the first reader; card i is put into the reader at the i-th port from there
	Count int            // number of cards, 1..MaxCards
	// Card makes card i, from 0; nil for softsims of Profile(i). Those that are put in in place of card i by a swap
	// are i+100, i+200 and so on.
	Card func(i int) bankd.Card
	// Ready is called once, when pcscd has seen all cards. May be nil.
	Ready func()
	// Control has commands, one a line (see Commands), each of which gets one line in Answers: ok or error,
	// followed by what there is to say. nil: there are none. It may end before the cards do.
	Control io.Reader
	Answers io.Writer
	Log     *logrus.Logger
}

// Profile returns who card i of a simulator is, from 0: ICCID 8988211000000000000 + i, IMSI
// 001010000000000 + i, and the keys that softsim.Parse takes for none.
func Profile(i int) softsim.Profile {
	const iccid, imsi = 8988211000000000000, 1010000000000 // of 19 and 15 digits
	p, err := softsim.Parse(fmt.Sprintf("%siccid=%d,imsi=%015d", softsim.Prefix, iccid+uint64(i), imsi+uint64(i)))
	if err != nil {
		panic(err) // for 0 <= i < 1e9 they are valid
	}
	return p
}

// Cards keeps cards in virtual readers until ctx ends, and returns its cause. Where no pcscd is
// there, or goes away, they wait for the next one.
func Cards(ctx context.Context, c Config) error { return cards(ctx, c, nil) }

// cards is Cards with control of a pcscd that was started for it, nil for none, which must not end by itself.
func cards(ctx context.Context, c Config, p *service) error {
	if c.Count < 1 || c.Count > MaxCards || int(c.Addr.Port())+c.Count-1 > 65535 {
		return fmt.Errorf("simulator: %d cards from port %d: want 1..%d cards and ports up to 65535", c.Count, c.Addr.Port(), MaxCards)
	}
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var run, seen sync.WaitGroup
	b := bench{config: c, service: p, swaps: make([]int, c.Count)}
	for i := range c.Count {
		card, _, log := c.card(i, 0)
		s := NewSeat(netip.AddrPortFrom(c.Addr.Addr(), c.Addr.Port()+uint16(i)), card, log)
		b.seats = append(b.seats, s)
		run.Go(func() { s.Run(ctx) })
		seen.Go(func() {
			select {
			case <-s.Seen():
			case <-ctx.Done():
			}
		})
	}
	run.Go(func() {
		if err := b.run(ctx); err != nil {
			cancel(err)
		}
	})
	seen.Wait()
	if ctx.Err() == nil && c.Ready != nil {
		c.Ready()
	}
	run.Wait()
	return context.Cause(ctx)
}

// card makes the card that is in seat i after it was swapped n times, and says who it is.
func (c Config) card(i, n int) (card bankd.Card, who string, log *logrus.Entry) {
	log = c.Log.WithFields(logrus.Fields{"cat": "DMAIN", "card": strconv.Itoa(i)})
	number := i + n*swapStep
	if c.Card != nil {
		return c.Card(number), "", log
	}
	p := Profile(number)
	return softsim.New(p), fmt.Sprintf("iccid=%s imsi=%s", p.ICCID, p.IMSI), log.WithFields(logrus.Fields{"iccid": p.ICCID, "imsi": p.IMSI})
}
