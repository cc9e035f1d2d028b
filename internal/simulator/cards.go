// SPDX-License-Identifier: GPL-2.0-or-later

// Package simulator is a test bench without hardware: cards in software behind the
// virtual readers of a real pcscd (vpcd, of the vsmartcard project), and a pcscd of one's own.
package simulator

import (
	"context"
	"fmt"
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

// Config says which cards there are.
type Config struct {
	Addr  netip.AddrPort // of the first reader; card i is put into the reader at the i-th port from there
	Count int            // number of cards, 1..MaxCards
	// Card makes card i, from 0; nil for softsims of Profile(i).
	Card func(i int) bankd.Card
	// Ready is called once, when pcscd has seen all cards. May be nil.
	Ready func()
	Log   *logrus.Logger
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

// Cards keeps cards in virtual readers until ctx ends, and returns its error. Where no pcscd is
// there, or goes away, they wait for the next one.
func Cards(ctx context.Context, c Config) error {
	if c.Count < 1 || c.Count > MaxCards || int(c.Addr.Port())+c.Count-1 > 65535 {
		return fmt.Errorf("simulator: %d cards from port %d: want 1..%d cards and ports up to 65535", c.Count, c.Addr.Port(), MaxCards)
	}
	var run, seen sync.WaitGroup
	for i := range c.Count {
		log := c.Log.WithFields(logrus.Fields{"cat": "DMAIN", "card": strconv.Itoa(i)})
		var card bankd.Card
		if c.Card != nil {
			card = c.Card(i)
		} else {
			p := Profile(i)
			card = softsim.New(p)
			log = log.WithFields(logrus.Fields{"iccid": p.ICCID, "imsi": p.IMSI})
		}
		s := NewSeat(netip.AddrPortFrom(c.Addr.Addr(), c.Addr.Port()+uint16(i)), card, log)
		run.Go(func() { s.Run(ctx) })
		seen.Go(func() {
			select {
			case <-s.Seen():
			case <-ctx.Done():
			}
		})
	}
	seen.Wait()
	if ctx.Err() == nil && c.Ready != nil {
		c.Ready()
	}
	run.Wait()
	return context.Cause(ctx)
}
