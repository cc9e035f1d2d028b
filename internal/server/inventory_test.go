// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"errors"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// telling is a connectBankReq with feature bankState.
func telling(id uint16) *rspro.ConnectBankReq {
	req := bankReq(id)
	req.Features = rspro.BankState
	return req
}

func last(maps ...slot.Map) *rspro.BankSlotmapsInd {
	return &rspro.BankSlotmapsInd{Maps: maps, Last: true}
}

func (f *fixture) tellingBankUp(id uint16) {
	f.t.Helper()
	p := &bankPeer{bank: id, numSlots: 8, endpoint: addr(id), held: true}
	if f.s.addBank(p) != nil {
		f.t.Fatalf("bank id %d is taken", id)
	}
	f.bankd[id] = p
	f.expect(id, "")
}

// found delivers a bankd's list and returns what is found, such as "+C7:0=B1:0" for a map that is adopted
// and "C7:0=B1:0: why not" for others.
func (f *fixture) found(id uint16, maps ...slot.Map) string {
	var l []string
	for _, x := range f.s.listed(f.bankd[id], maps) {
		if x.adopted {
			l = append(l, "+"+x.Map.String())
		} else {
			l = append(l, x.Map.String()+": "+x.text)
		}
	}
	return strings.Join(l, "\n")
}

func (f *fixture) expectFound(id uint16, want string, maps ...slot.Map) {
	f.t.Helper()
	if got := f.found(id, maps...); got != want {
		f.t.Fatalf("found:\n%s\nwant:\n%s", got, want)
	}
}

// TestListed compares a bankd's list of maps with what the server knows, in time and late.
func TestListed(t *testing.T) {
	m7, m8 := pair(0, 7), pair(0, 8)
	const removed = ": unknown map to be removed: "
	const notFromBefore = removed + "it isn't from before the server's start"
	// active has C7:0=B1:0 active, and its bankd away.
	active := func(f *fixture) {
		f.tellingBankUp(1)
		f.create(m7)
		f.expectFound(1, "")
		f.expect(1, "+C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.bankDown(1)
	}
	and := func(fs ...func(*fixture)) func(*fixture) {
		return func(f *fixture) {
			for _, g := range fs {
				g(f)
			}
		}
	}
	create := func(m slot.Map) func(*fixture) { return func(f *fixture) { f.create(m) } }
	remove := func(f *fixture) { f.delete(bk(1, 0)) }
	// After the bankd is up and before its list comes.
	up := func(f *fixture) { f.tellingBankUp(1) }

	for _, tt := range []struct {
		name   string
		before func(*fixture)
		list   []slot.Map
		found  string
		life   string // after the list
		sends  string // what the bankd is asked then
	}{
		{"nothing", up, nil, "", "", ""},
		{"wanted and lacking", and(create(m7), up), nil, "", "C7:0=B1:0 NEW", "+C7:0=B1:0"},
		{"wanted while the list is awaited", and(up, create(m7)), nil, "", "C7:0=B1:0 NEW", "+C7:0=B1:0"},
		{"wanted and there", and(create(m7), up), []slot.Map{m7}, "", "C7:0=B1:0 ACTIVE", ""},
		{"wanted, there and one more lacking", and(create(m7), create(pair(1, 8)), up), []slot.Map{m7},
			"", "C7:0=B1:0 ACTIVE, C8:0=B1:1 NEW", "+C8:0=B1:1"},
		{"back with its map", and(active, up), []slot.Map{m7}, "", "C7:0=B1:0 ACTIVE", ""},
		{"back without its map", and(active, up), nil, "", "C7:0=B1:0 NEW", "+C7:0=B1:0"},
		{"back with another map", and(active, up), []slot.Map{m8},
			"C8:0=B1:0" + removed + "its bank slot is in use by map C7:0=B1:0", "C7:0=B1:0 NEW, C8:0=B1:0 DELETE_REQ+", "+C7:0=B1:0"},
		{"back with one map more", and(active, up), []slot.Map{m7, pair(1, 8)},
			"C8:0=B1:1" + notFromBefore, "C7:0=B1:0 ACTIVE, C8:0=B1:1 DELETE_REQ+", "-C8:0=B1:1"},
		{"deleted while away, there", and(active, remove, up), []slot.Map{m7}, "", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"deleted while away, lost", and(active, remove, up), nil, "", "", ""},
		{"deleted while the list is awaited, there", and(active, up, remove), []slot.Map{m7}, "", "C7:0=B1:0 DELETE_REQ", "-C7:0=B1:0"},
		{"deleted while the list is awaited, lost", and(active, up, remove), nil, "", "", ""},
		{"replaced while away, the old one there", and(active, remove, create(m8), up), []slot.Map{m7},
			"", "C7:0=B1:0 DELETE_REQ+, C8:0=B1:0 NEW", "+C8:0=B1:0"},
		{"replaced while away, none there", and(active, remove, create(m8), up), nil, "", "C8:0=B1:0 NEW", "+C8:0=B1:0"},
		{"deleted and created again while away", and(active, remove, create(m7), up), []slot.Map{m7}, "", "C7:0=B1:0 ACTIVE", ""},
		{"moved within the bank while away", and(active, remove, create(pair(1, 7)), up), []slot.Map{m7},
			"", "C7:0=B1:0 DELETE_REQ+, C7:0=B1:1 NEW", "+C7:0=B1:1 -C7:0=B1:0"},

		{"adopted", up, []slot.Map{m7, pair(1, 8)}, "+C7:0=B1:0\n+C8:0=B1:1", "C7:0=B1:0 ACTIVE, C8:0=B1:1 ACTIVE", ""},
		{"bank slot taken", and(create(m8), up), []slot.Map{m7},
			"C7:0=B1:0" + removed + "its bank slot is in use by map C8:0=B1:0", "C8:0=B1:0 NEW, C7:0=B1:0 DELETE_REQ+", "+C8:0=B1:0"},
		{"client slot taken in this bank", and(create(pair(1, 7)), up), []slot.Map{m7},
			"C7:0=B1:0" + removed + "its client slot is in use by map C7:0=B1:1", "C7:0=B1:1 NEW, C7:0=B1:0 DELETE_REQ+", "+C7:0=B1:1 -C7:0=B1:0"},
		{"client slot taken in another bank", and(create(slot.Map{Bank: bk(2, 0), Client: cl(7, 0)}), up), []slot.Map{m7},
			"C7:0=B1:0" + removed + "its client slot is in use by map C7:0=B2:0", "C7:0=B2:0 NEW, C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"bank slot and client slot exchanged", and(create(pair(0, 8)), create(pair(1, 7)), up), []slot.Map{m7, pair(1, 8)},
			"C7:0=B1:0" + removed + "its bank slot is in use by map C8:0=B1:0\n" +
				"C8:0=B1:1" + removed + "its bank slot is in use by map C7:0=B1:1",
			"C8:0=B1:0 NEW, C7:0=B1:1 NEW, C7:0=B1:0 DELETE_REQ+, C8:0=B1:1 DELETE_REQ+", "+C8:0=B1:0 +C7:0=B1:1"},
		{"deleted before the bankd came", and(create(m7), remove, up), []slot.Map{m7},
			"C7:0=B1:0" + removed + "the map of its bank slot was deleted", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"another map of its slot deleted before the list came", and(up, create(m8), remove), []slot.Map{m7},
			"C7:0=B1:0" + removed + "the map of its bank slot was deleted", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"all maps deleted before", and(func(f *fixture) { f.s.DeleteAll() }, up), []slot.Map{m7},
			"C7:0=B1:0" + removed + "all maps were deleted", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"connection lost before the first list", and(up, func(f *fixture) { f.bankDown(1) }, up), []slot.Map{m7},
			"+C7:0=B1:0", "C7:0=B1:0 ACTIVE", ""},

		{"map of another bank", up, []slot.Map{{Bank: bk(2, 0), Client: cl(7, 0)}}, "C7:0=B2:0: map passed over: it is of another bank", "", ""},
		{"map of no slot", up, []slot.Map{pair(8, 7)}, "C7:0=B1:8: map passed over: a bank of 8 slots has no such slot", "", ""},
		{"listed twice", up, []slot.Map{m7, m7}, "C7:0=B1:0: map passed over: it is listed twice\n+C7:0=B1:0", "C7:0=B1:0 ACTIVE", ""},
		{"two in a bank slot", up, []slot.Map{m7, m8},
			"+C7:0=B1:0\nC8:0=B1:0" + removed + "its bank slot is in use by map C7:0=B1:0", "C7:0=B1:0 ACTIVE, C8:0=B1:0 DELETE_REQ+", "-C8:0=B1:0"},
		{"two of a client slot", up, []slot.Map{m7, pair(1, 7)},
			"+C7:0=B1:0\nC7:0=B1:1" + removed + "its client slot is in use by map C7:0=B1:0", "C7:0=B1:0 ACTIVE, C7:0=B1:1 DELETE_REQ+", "-C7:0=B1:1"},
		{"two in a bank slot, both known", and(active, remove, create(m8), up), []slot.Map{m7, m8}, "", "C8:0=B1:0 ACTIVE", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			tt.before(f)
			f.expect(1, "") // it is held
			f.expectFound(1, tt.found, tt.list...)
			f.expectLife(tt.life)
			f.expect(1, tt.sends)
			f.expect(1, "")
		})
	}

	// A late list: the bankd was asked for all that is wanted already.
	late := func(f *fixture) {
		f.tellingBankUp(1)
		if !f.s.unhold(f.bankd[1]) || f.s.unhold(f.bankd[1]) {
			f.t.Fatal("held never or for ever")
		}
	}
	for _, tt := range []struct {
		name        string
		before      func(*fixture)
		list        []slot.Map
		found, life string
		sends       string
	}{
		{"wanted and there", and(create(m7), late, func(f *fixture) { f.expect(1, "+C7:0=B1:0") }), []slot.Map{m7},
			"", "C7:0=B1:0 UNACKNOWLEDGED", ""},
		{"wanted, accepted, and not on the list", and(create(m7), late, func(f *fixture) {
			f.expect(1, "+C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
		}), nil, "", "C7:0=B1:0 ACTIVE", ""},
		{"adopted, if it is there still", late, []slot.Map{m7}, "+C7:0=B1:0", "C7:0=B1:0 NEW", "+C7:0=B1:0"},
		{"created and deleted meanwhile", and(create(m7), late, func(f *fixture) {
			f.expect(1, "+C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
		}), []slot.Map{m7}, "C7:0=B1:0" + removed + "the map of its bank slot was deleted", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
		{"its bank slot taken", and(create(m8), late, func(f *fixture) { f.expect(1, "+C8:0=B1:0") }), []slot.Map{m7},
			"C7:0=B1:0" + removed + "its bank slot is in use by map C8:0=B1:0", "C8:0=B1:0 UNACKNOWLEDGED, C7:0=B1:0 DELETE_REQ+", ""},
		{"owed and lost", and(active, remove, late), nil, "", "C7:0=B1:0 DELETE_REQ+", "-C7:0=B1:0"},
	} {
		t.Run("late/"+tt.name, func(t *testing.T) {
			f := newFixture(t)
			tt.before(f)
			f.expectFound(1, tt.found, tt.list...)
			f.expectLife(tt.life)
			f.expect(1, tt.sends)
		})
	}

	t.Run("late/adopted and deleted at once", func(t *testing.T) {
		f := newFixture(t)
		late(f)
		f.expectFound(1, "+C7:0=B1:0", m7)
		remove(f)
		f.expect(1, "-C7:0=B1:0")
	})
	t.Run("list of a session that has ended", func(t *testing.T) {
		f := newFixture(t)
		f.tellingBankUp(1)
		old := f.bankd[1]
		f.bankDown(1)
		f.tellingBankUp(1)
		if got := f.s.listed(old, []slot.Map{m7}); got != nil {
			t.Errorf("found %v", got)
		}
		f.expectFound(1, "+C8:0=B1:0", m8)
	})
}

// TestCreateOverAdopted asks for maps where adopted ones are.
func TestCreateOverAdopted(t *testing.T) {
	for _, tt := range []struct {
		name   string
		create slot.Map
		taken  string // why it is refused
		life   string
		sends  string
		again  string // what is sent when all of that is answered
	}{
		{"the same", pair(0, 7), "", "C7:0=B1:0 ACTIVE, C8:0=B1:1 ACTIVE, C9:0=B1:2 ACTIVE", "", ""},
		{"bank slot", pair(0, 10), "", "C7:0=B1:0 DELETE_REQ, C8:0=B1:1 ACTIVE, C9:0=B1:2 ACTIVE, C10:0=B1:0 NEW", "-C7:0=B1:0", "+C10:0=B1:0"},
		{"client slot", pair(5, 7), "", "C7:0=B1:0 DELETE_REQ, C8:0=B1:1 ACTIVE, C9:0=B1:2 ACTIVE, C7:0=B1:5 NEW", "+C7:0=B1:5 -C7:0=B1:0", ""},
		{"both", pair(0, 8), "", "C7:0=B1:0 DELETE_REQ, C8:0=B1:1 DELETE_REQ, C9:0=B1:2 ACTIVE, C8:0=B1:0 NEW", "-C7:0=B1:0 -C8:0=B1:1", "+C8:0=B1:0"},
		{"bank slot adopted, client slot asked for", pair(0, 9), "client", "C7:0=B1:0 ACTIVE, C8:0=B1:1 ACTIVE, C9:0=B1:2 ACTIVE", "", ""},
		{"client slot adopted, bank slot asked for", pair(2, 7), "bank", "C7:0=B1:0 ACTIVE, C8:0=B1:1 ACTIVE, C9:0=B1:2 ACTIVE", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			f := newFixture(t)
			f.tellingBankUp(1)
			f.found(1, pair(0, 7), pair(1, 8), pair(2, 9))
			f.create(pair(2, 9)) // from now on it is a map like others
			err := f.s.Create(tt.create)
			if taken, _ := errors.AsType[*TakenError](err); (err == nil) != (tt.taken == "") || taken != nil && taken.Member != tt.taken {
				t.Errorf("Create: %v", err)
			}
			f.expectLife(tt.life)
			f.expect(1, tt.sends)
			for b := range f.out {
				f.answer(b, rspro.OK)
			}
			f.expect(1, tt.again)
			if m, ok := f.s.Slotmap(tt.create.Bank); err == nil && (!ok || m.Adopted) {
				t.Errorf("map %+v", m)
			}
			if err == nil && f.s.Create(tt.create) == nil {
				t.Error("created twice")
			}
		})
	}
}

// TestTellFound checks what clients are told of the maps on a bankd's list.
func TestTellFound(t *testing.T) {
	c, m := cl(7, 0), pair(0, 7)
	use := Target{m.Bank, addr(1)}
	for _, connected := range []bool{true, false} {
		up := func(f *fixture) {
			if f.clients[c] == nil {
				f.clientUp(c)
			}
		}
		start := func(t *testing.T) *fixture {
			f := newFixture(t)
			if connected {
				up(f)
				f.expectSilence(c)
			}
			return f
		}
		name := fmt.Sprintf("/client connected=%t", connected)
		t.Run("adopted"+name, func(t *testing.T) {
			f := start(t)
			f.tellingBankUp(1)
			f.expectFound(1, "+C7:0=B1:0", m)
			up(f)
			f.expectTold(c, use)
			f.bankDown(1)
			f.expectSilence(c)
			f.tellingBankUp(1)
			f.expectFound(1, "", m)
			f.expectSilence(c) // nothing has changed
			f.delete(m.Bank)
			f.expect(1, "-C7:0=B1:0")
			f.answer(m.Bank, rspro.OK)
			f.expectTold(c, noBankd(m.Bank))
		})
		t.Run("removed"+name, func(t *testing.T) {
			f := start(t)
			f.create(pair(0, 8))
			f.tellingBankUp(1)
			f.found(1, m)
			f.expect(1, "+C8:0=B1:0")
			if connected {
				f.expectSilence(c)
			}
			f.answer(m.Bank, rspro.OK) // which replaces the unknown one
			up(f)
			f.expectTold(c, noBankd(m.Bank))
			f.clientDown(c)
			f.clientUp(c)
			f.expectSilence(c)
		})
		t.Run("removed, the client told of another bankd"+name, func(t *testing.T) {
			f := start(t)
			up(f)
			f.bankUp(2)
			f.create(slot.Map{Bank: bk(2, 3), Client: c})
			f.expect(2, "+C7:0=B2:3")
			f.answer(bk(2, 3), rspro.OK)
			f.expectTold(c, Target{bk(2, 3), addr(2)})
			if !connected {
				f.clientDown(c)
			}
			f.delete(bk(2, 3))
			f.create(pair(0, 8))
			f.tellingBankUp(1)
			f.found(1, m)
			f.expect(1, "+C8:0=B1:0")
			f.answer(m.Bank, rspro.OK)
			f.expect(2, "-C7:0=B2:3")
			f.answer(bk(2, 3), rspro.OK)
			up(f)
			f.expectTold(c, noBankd(bk(2, 3)))
			f.expectSilence(c)
		})
		t.Run("removed, the client wanted elsewhere"+name, func(t *testing.T) {
			f := start(t)
			f.create(slot.Map{Bank: bk(2, 3), Client: c})
			f.tellingBankUp(1)
			f.found(1, m)
			f.expect(1, "-C7:0=B1:0")
			f.answer(m.Bank, rspro.OK)
			up(f)
			f.expectSilence(c) // it may be using the other bankd all the time
			f.tellingBankUp(2)
			f.expectFound(2, "", slot.Map{Bank: bk(2, 3), Client: c})
			f.expectTold(c, Target{bk(2, 3), addr(2)})
		})
	}
}

// TestManyRumours has bankds list ever other clients in unknown maps, and confirm the removals:
// few of those clients are remembered, and none of the others is forgotten for them.
func TestManyRumours(t *testing.T) {
	f := newFixture(t)
	known, here, back := cl(5, 9), cl(6, 9), cl(7, 9)
	use := slot.Map{Bank: bk(2, 0), Client: known}
	f.bankUp(2)
	f.create(use)
	f.clientUp(known)
	f.clientUp(here)
	f.expect(2, "+"+use.String())
	f.answer(use.Bank, rspro.OK)
	f.expectTold(known, Target{use.Bank, addr(2)})
	f.clientDown(known)
	f.s.DeleteAll() // so that no map is adopted
	list := func(maps ...slot.Map) {
		p := &bankPeer{bank: 1, numSlots: slot.Max + 1, endpoint: addr(1), held: true}
		if f.s.addBank(p) != nil {
			t.Fatal("bank id 1 is taken")
		}
		f.s.listed(p, maps)
		for _, q := range f.s.mapRequests(p) {
			f.s.mapAnswered(p, q, rspro.OK)
		}
		f.s.dropBank(p)
	}
	list(pair(0, here.ID), slot.Map{Bank: bk(1, 1), Client: here})
	for nr := range uint16(6) {
		var maps []slot.Map
		for i := range uint16(slot.Max + 1) {
			maps = append(maps, slot.Map{Bank: bk(1, i), Client: cl(i, nr)})
		}
		list(maps...)
	}
	list(slot.Map{Bank: bk(1, 3), Client: back})
	if got := len(f.s.clients); got > maxRumours+2 {
		t.Errorf("%d clients are remembered, want %d at the most", got, maxRumours+2)
	}
	f.clientUp(back)
	f.expectTold(back, noBankd(bk(1, 3)))
	f.clientUp(cl(8, 5)) // of the newest ones
	f.expectTold(cl(8, 5), noBankd(bk(1, 8)))
	f.clientUp(cl(8, 0)) // of the oldest ones
	f.expectSilence(cl(8, 0))
	f.expect(2, "-"+use.String())
	f.answer(use.Bank, rspro.OK)
	f.clientUp(known)
	f.expectTold(known, noBankd(use.Bank))
	if f.s.clients[here] == nil || f.s.clients[here].peer != f.clients[here] {
		t.Error("a client that is connected was forgotten")
	}
}

// TestBankState lets bankds tell their maps, and asks only for the differences.
func TestBankState(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		wanted, held, alien := pair(0, 7), pair(1, 8), pair(2, 9)
		w.create(wanted)
		w.create(held)
		c7, c8, c9 := w.client(wanted.Client), w.client(held.Client), w.client(alien.Client)
		b := w.dial()
		b.Send(telling(1))
		if res := testnet.Expect[*rspro.ConnectBankRes](b); res.Features != rspro.BankState {
			t.Errorf("features %b, want bankState", res.Features)
		}
		b.Quiet(2 * time.Second)
		w.expectState(wanted, "NEW")
		b.Send(&rspro.BankSlotmapsInd{Maps: []slot.Map{alien}})
		b.Quiet(2 * time.Second)
		w.expectState(alien, "gone")
		b.Send(last(held))
		w.expectTold(c8, held.Bank, "10.0.0.7:9999")
		w.expectTold(c9, alien.Bank, "10.0.0.7:9999")
		w.expectState(held, "ACTIVE")
		w.expectState(alien, "ACTIVE")
		w.expectLog("map adopted")
		w.expectMap(b, false, wanted, rspro.OK)
		w.expectTold(c7, wanted.Bank, "10.0.0.7:9999")
		for _, p := range []*testnet.Peer{b, c7, c8, c9} {
			p.Quiet(time.Minute)
		}

		// Back with one map lost, one deleted, one that is unknown.
		b.Close()
		synctest.Wait()
		w.Delete(alien.Bank)
		w.expectTold(c9, alien.Bank, "0.0.0.0:0")
		b = w.bank(telling(1))
		b.Send(last(held, alien, pair(5, 10)))
		w.expectMap(b, false, wanted, rspro.OK)
		w.expectMap(b, true, alien, rspro.OK)
		w.expectMap(b, true, pair(5, 10), rspro.OK)
		w.expectLog("unknown map to be removed: it isn't from before")
		for _, p := range []*testnet.Peer{b, c7, c8, c9} {
			p.Quiet(time.Minute)
		}
		if l := w.Slotmaps(); len(l) != 2 {
			t.Errorf("maps %v", l)
		}

		// Back without any.
		b.Close()
		synctest.Wait()
		b = w.bank(telling(1))
		b.Quiet(time.Second)
		b.Send(last())
		b.Patience = time.Second // at once
		w.expectMap(b, false, wanted, rspro.OK)
		w.expectMap(b, false, held, rspro.OK)
	})
}

// TestManyMaps has a bankd tell as many maps as there can be.
func TestManyMaps(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		req := telling(1)
		req.NumSlots = slot.Max
		b := w.bank(req)
		var all []slot.Map
		for n := range req.NumSlots {
			all = append(all, pair(n, n))
		}
		for part := range slices.Chunk(all, rspro.MaxMaps) {
			b.Send(&rspro.BankSlotmapsInd{Maps: part, Last: part[len(part)-1] == all[len(all)-1]})
		}
		b.Quiet(time.Minute)
		l := w.Slotmaps()
		if len(l) != len(all) {
			t.Fatalf("%d maps, want %d", len(l), len(all))
		}
		for i, m := range l {
			if m.Map != all[i] || m.State != MapActive {
				t.Fatalf("map %d is %v %v", i, m.Map, m.State)
			}
		}
	})
}

// TestListLate checks that a bankd has 5 s to tell its maps, and what becomes of them later.
func TestListLate(t *testing.T) {
	for _, parts := range []int{0, 1} { // of the list that come in time
		inWorld(t, func(t *testing.T, w *world) {
			wanted, alien := pair(0, 7), pair(1, 8)
			w.create(wanted)
			w.create(pair(2, 9))
			start := time.Now()
			b := w.bank(telling(1))
			b.Patience = time.Minute
			for range parts {
				b.Send(&rspro.BankSlotmapsInd{Maps: []slot.Map{alien}})
			}
			w.expectMap(b, false, wanted, rspro.OK)
			if d := time.Since(start); d != 5*time.Second {
				t.Errorf("asked after %v, want 5s", d)
			}
			w.expectMap(b, false, pair(2, 9), rspro.OK)
			w.expectLog("hasn't told the maps it has within 5s")
			b.Quiet(time.Minute)
			if parts == 0 {
				b.Send(&rspro.BankSlotmapsInd{Maps: []slot.Map{alien}})
			}
			b.Send(last(wanted))
			w.expectMap(b, false, alien, rspro.OK)
			w.expectState(alien, "ACTIVE")
			b.Quiet(time.Minute)
		})
	}
}

// TestBadList sends lists that break the rules.
func TestBadList(t *testing.T) {
	nine := make([]slot.Map, 9)
	for i := range nine {
		nine[i] = pair(uint16(i), uint16(i))
	}
	for _, tt := range []struct {
		name string
		send func(w *world, b *testnet.Peer)
		end  bool // of the connection
		log  string
	}{
		{"more maps than slots", func(_ *world, b *testnet.Peer) { b.Send(last(nine...)) }, true, "9 maps in a bank of 8 slots"},
		{"more maps than slots, in parts", func(_ *world, b *testnet.Peer) {
			for range 3 {
				b.Send(&rspro.BankSlotmapsInd{Maps: nine[:3]})
			}
		}, true, "9 maps in a bank of 8 slots"},
		{"another bank's", func(_ *world, b *testnet.Peer) { b.Send(last(slot.Map{Bank: bk(2, 0), Client: cl(7, 0)})) },
			false, "it is of another bank"},
		{"twice", func(_ *world, b *testnet.Peer) { b.Send(last(nine[0], nine[0])) }, false, "listed twice"},
		{"a second list", func(_ *world, b *testnet.Peer) {
			b.Send(last(nine[0]))
			b.Send(last(nine[1]))
		}, false, "message passed over: unexpected"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				b, c := w.bank(telling(1)), w.client(cl(99, 0))
				tt.send(w, b)
				if tt.end {
					b.ExpectEnd(time.Second)
				} else {
					b.Quiet(time.Minute)
					m := pair(5, 50)
					w.create(m)
					w.expectMap(b, false, m, rspro.OK)
				}
				w.expectLog(tt.log)
				c.Quiet(time.Second)
			})
		})
	}
	// Who hasn't announced the feature, or isn't accepted yet, has no say.
	t.Run("without the feature", func(t *testing.T) {
		inWorld(t, func(t *testing.T, w *world) {
			for _, p := range []*testnet.Peer{w.bank(bankReq(1)), w.client(cl(7, 0)), w.dial()} {
				p.Send(last(pair(0, 7)))
				p.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Present: true}}})
				p.Quiet(time.Second)
			}
			if l := w.Slotmaps(); len(l) != 0 {
				t.Errorf("maps %v", l)
			}
			if _, l, _ := w.Slots(1); l[1].Told {
				t.Error("slot information taken")
			}
			w.expectLog("message=bankSlotInfoInd")
			w.expectLog("message=bankSlotmapsInd")
		})
	})
}

// TestSlots checks what is shown of a bankd's slots.
func TestSlots(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		if _, l, ok := w.Slots(1); ok {
			t.Errorf("slots of nobody: %v", l)
		}
		m := pair(1, 7)
		b := w.bank(telling(1))
		b.Send(last(m))
		expect := func(nr int, want Slot, state string) {
			t.Helper()
			synctest.Wait()
			_, l, _ := w.Slots(1)
			if len(l) != 8 {
				t.Fatalf("%d slots, want 8", len(l))
			}
			got := l[nr]
			got.Map, got.Served, got.Used = nil, false, false
			want.Nr = uint16(nr)
			if !reflect.DeepEqual(got, want) || l[nr].State() != state {
				t.Errorf("slot %d is %+v %s\nwant %+v %s", nr, got, l[nr].State(), want, state)
			}
		}
		none := Slot{}
		expect(0, none, "")
		expect(1, none, "")
		atr := []byte{0x3b, 0}
		info := rspro.SlotInfo{Slot: 1, Present: true, Reader: "Reader ü", ATR: atr}
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{info, {Slot: 7}}})
		there := Slot{Told: true, Present: true, Reader: "Reader ü", ATR: atr}
		expect(0, none, "")
		expect(1, there, "MAPPED") // without a client
		expect(7, Slot{Told: true}, "FREE")
		c := w.client(m.Client)
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
		expect(1, there, "CARD")
		c.Close()
		expect(1, there, "MAPPED")
		c = w.client(m.Client)
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
		if _, l, _ := w.Slots(1); l[1].Map == nil || l[1].Map.Map != m || l[1].Map.State != MapActive {
			t.Errorf("map %+v", l[1].Map)
		}

		// What is kept doesn't change with what comes after it.
		for range 100 {
			b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 6, Reader: strings.Repeat("x", 100), ATR: slices.Repeat([]byte{0xff}, 55)}}})
		}
		expect(1, there, "CARD")

		// An errorInd, which the next information ends.
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 2, Bank: &m.Bank, Text: "mute"})
		failed := there
		failed.LastError = "errorInd: code 2, severity 2: mute"
		expect(1, failed, "FAILED")
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{info}})
		expect(1, there, "CARD")
		info.Error = "card call timed out"
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{info}})
		failed.LastError = info.Error
		expect(1, failed, "FAILED")
		w.expectLog(`text="card call timed out"`)
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Error: "no reader"}}})
		expect(1, Slot{Told: true, LastError: "no reader"}, "MAPPED")

		// The map goes, and comes.
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Present: true}}})
		w.Delete(m.Bank)
		expect(1, Slot{Told: true, Present: true}, "MAPPED") // the client is being sent away
		w.expectMap(b, true, m, rspro.OK)
		w.expectTold(c, m.Bank, "0.0.0.0:0")
		expect(1, Slot{Told: true, Present: true}, "FREE")
		w.create(m)
		expect(1, Slot{Told: true, Present: true}, "FREE")
		w.expectMap(b, false, m, rspro.OK)
		w.expectTold(c, m.Bank, "10.0.0.7:9999")
		expect(1, Slot{Told: true, Present: true}, "CARD")

		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 8, Present: true}}})
		w.expectLog("a bank of 8 slots has no slot 8")

		// Others have no say, and what was told ends with the connection.
		other := w.bank(telling(2))
		other.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 2, Bank: &m.Bank, Text: "hearsay"})
		other.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 2, Bank: &slot.Bank{ID: 2, Slot: 1000}, Text: "no such slot"})
		expect(1, Slot{Told: true, Present: true}, "CARD")
		b.Close()
		synctest.Wait()
		b = w.bank(bankReq(1))
		w.expectMap(b, false, m, rspro.OK)
		expect(1, none, "")
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 2, Bank: &m.Bank, Text: "mute"})
		failed = Slot{LastError: "errorInd: code 2, severity 2: mute"}
		expect(1, failed, "")
	})
}

// TestSlotsConsistent looks at a bank while bankds of different sizes take turns: what is shown of
// bankd and slots belongs together.
func TestSlotsConsistent(t *testing.T) {
	s := NewState()
	stop, stopped := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(stopped)
		for n := uint16(0); ; n++ {
			select {
			case <-stop:
				return
			default:
			}
			p := &bankPeer{bank: 1, numSlots: n%8 + 1, endpoint: addr(n%8 + 1)}
			s.addBank(p)
			s.dropBank(p)
		}
	}()
	defer func() {
		close(stop)
		<-stopped
	}()
	for seen, last := 0, 0; seen < 20; {
		b, slots, ok := s.Slots(1)
		if len(slots) != int(b.NumSlots) || ok != (len(slots) > 0) || ok && b.Endpoint != addr(b.NumSlots) {
			t.Fatalf("bankd of %d slots at %s is shown with %d slots", b.NumSlots, b.Endpoint, len(slots))
		}
		if len(slots) != last {
			seen, last = seen+1, len(slots)
		}
	}
}

// TestLogNamesPeer checks that what the link logs of a peer names it once it is known.
func TestLogNamesPeer(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		peers := map[string]*testnet.Peer{"B1": w.bank(bankReq(1)), "C7:0": w.client(cl(7, 0))}
		for name, p := range peers {
			p.Send(&rspro.ResetStateRes{})
			synctest.Wait()
			if e := w.log.LastEntry(); e.Level != logrus.WarnLevel || e.Data["peer"] != name || e.Data["addr"] == nil {
				t.Errorf("log %v %v", e.Message, e.Data)
			}
		}
	})
}

// TestEndedBeforeClientIsBack has a server that forgets start anew and end a map that a bankd had from before, while
// the client, which an earlier server has told of it, isn't back yet: it is told that it has no bankd any more.
func TestEndedBeforeClientIsBack(t *testing.T) {
	m := pair(0, 7)
	for _, c := range []struct {
		name  string
		begin func(f *fixture)
	}{
		{"adopted", func(f *fixture) {
			f.tellingBankUp(1)
			f.found(1, m)
		}},
		{"made anew before the bankd is back", func(f *fixture) {
			f.create(m)
			f.tellingBankUp(1)
			f.found(1, m)
		}},
	} {
		t.Run(c.name, func(t *testing.T) {
			f := newFixture(t)
			c.begin(f)
			f.delete(m.Bank)
			f.expect(1, "-"+m.String())
			f.answer(m.Bank, rspro.OK)
			f.clientUp(m.Client)
			f.expectTold(m.Client, noBankd(m.Bank))
			f.clientDown(m.Client)
			f.clientUp(m.Client)
			f.expectSilence(m.Client)
		})
	}
	t.Run("the bankd hadn't it", func(t *testing.T) {
		f := newFixture(t)
		f.create(m)
		f.tellingBankUp(1)
		f.found(1)
		f.expect(1, "+"+m.String())
		f.answer(m.Bank, rspro.OK)
		f.delete(m.Bank)
		f.expect(1, "-"+m.String())
		f.answer(m.Bank, rspro.OK)
		f.clientUp(m.Client)
		f.expectSilence(m.Client)
	})
}
