// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"math/rand/v2"
	"net/netip"
	"sync"
	"testing"
	"time"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// TestStorm has peers come, claim each other's identities and go at any time, while back-ends change maps of theirs: all at once, which
// is the race detector's business. Nobody is left then, and who comes next is served.
func TestStorm(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		const ids = 3
		w.State.pool = &IDPool{900, 901}
		id := func() uint16 { return uint16(rand.IntN(ids)) }
		end := time.Now().Add(30 * time.Second)
		var all sync.WaitGroup
		for range 16 {
			all.Go(func() {
				for time.Now().Before(end) {
					life := time.Duration(rand.IntN(50)) * time.Millisecond
					if rand.IntN(4) == 0 {
						life = time.Duration(rand.IntN(8)) * time.Second // as long as a bankd may take to list its maps, and more
					}
					w.visit(id(), life)
				}
			})
		}
		for range 3 {
			all.Go(func() {
				for time.Now().Before(end) {
					op := PutMap(slot.Map{Bank: bk(id(), id()), Client: cl(id(), 0)})
					if rand.IntN(2) == 0 {
						op = DeleteMap(bk(id(), id()))
					}
					_, err := w.Commit(t.Context(), op)
					if _, missing := errors.AsType[*MissingError](err); err != nil && !missing {
						t.Error(err)
					}
					time.Sleep(time.Duration(rand.IntN(20)) * time.Millisecond)
				}
			})
		}
		all.Wait()
		time.Sleep(probeTimeout + refusedLinger)
		if b, c := w.Banks(), w.Clients(); len(b)+len(c) > 0 {
			t.Errorf("still there: %+v, %+v", b, c)
		}
		if err := recount(w.State); err != nil {
			t.Error(err)
		}

		m := slot.Map{Bank: bk(ids, 0), Client: cl(ids, 0)}
		w.create(m)
		w.expectMap(w.bank(bankReq(ids)), false, m, rspro.OK)
		w.expectTold(w.client(m.Client), m.Bank, "10.0.0.7:9999")
	})
}

// visit is a peer, of one kind or another, that is there for some time.
func (w *world) visit(id uint16, life time.Duration) {
	var hello rspro.Message
	listed := false
	switch client := clientReq(cl(id, 0)); rand.IntN(6) {
	case 0:
		client.Slot = nil // the server gives one
		hello = client
	case 1, 2:
		hello = client
	default:
		bank := bankReq(id)
		if listed = rand.IntN(2) == 0; listed {
			bank.Features = rspro.BankState
		}
		hello = bank
	}
	if rand.IntN(4) == 0 {
		p := w.dial()
		p.Mute(true)
		p.Send(hello)
		time.Sleep(life)
		p.Close()
		return
	}
	nc, err := w.net.Host("10.0.0.7").Dial(w.t.Context(), netip.MustParseAddrPort(serverAddr))
	if err != nil {
		w.t.Error(err)
		return
	}
	c := link.New(nc, link.Options{Handle: func(c *link.Conn, p rspro.PDU) {
		switch p.Msg.(type) {
		case *rspro.CreateMappingReq:
			r := rspro.OK
			if rand.IntN(10) == 0 {
				r = rspro.IllegalSlotID
			}
			c.Reply(p, &rspro.CreateMappingRes{Result: r})
		case *rspro.RemoveMappingReq:
			c.Reply(p, &rspro.RemoveMappingRes{})
		case *rspro.ConfigClientBankReq:
			c.Reply(p, &rspro.ConfigClientBankRes{})
		case *rspro.ConfigClientIDReq:
			c.Reply(p, &rspro.ConfigClientIDRes{})
		}
	}})
	c.Request(hello, 0, func(_ rspro.Message, err error) {
		if err == nil && listed && rand.IntN(3) > 0 {
			c.Send(&rspro.BankSlotmapsInd{Maps: []slot.Map{{Bank: bk(id, 0), Client: cl(id, 0)}}, Last: true})
		}
	})
	ctx, cancel := context.WithTimeout(w.t.Context(), life)
	defer cancel()
	c.Run(ctx)
}
