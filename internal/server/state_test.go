// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"errors"
	"fmt"
	"net/netip"
	"strings"
	"testing"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// fixture drives a State without a network: what its sessions would send, it notes.
type fixture struct {
	t       *testing.T
	s       *State
	bankd   map[uint16]*bankPeer
	clients map[slot.Client]*clientPeer
	out     map[slot.Bank]mapRequest // unanswered
}

func newFixture(t *testing.T) *fixture {
	return &fixture{
		t: t, s: NewState(), bankd: map[uint16]*bankPeer{}, clients: map[slot.Client]*clientPeer{},
		out: map[slot.Bank]mapRequest{},
	}
}

func bk(id, nr uint16) slot.Bank   { return slot.Bank{ID: id, Slot: nr} }
func cl(id, nr uint16) slot.Client { return slot.Client{ID: id, Slot: nr} }
func addr(id uint16) netip.AddrPort {
	return netip.MustParseAddrPort(fmt.Sprintf("10.0.0.%d:9999", id))
}
func pair(b, c uint16) (m slot.Map)  { return slot.Map{Bank: bk(1, b), Client: cl(c, 0)} }
func noBankd(b slot.Bank) (t Target) { return Target{b, netip.MustParseAddrPort("0.0.0.0:0")} }

func (f *fixture) create(m slot.Map) {
	f.t.Helper()
	if err := f.s.Create(m); err != nil {
		f.t.Fatal(err)
	}
}

func (f *fixture) delete(b slot.Bank) {
	f.t.Helper()
	if _, ok := f.s.Delete(b); !ok {
		f.t.Fatalf("no map at %s to delete", b)
	}
}

func (f *fixture) bankUp(id uint16) {
	f.t.Helper()
	p := &bankPeer{bank: id, numSlots: 8, endpoint: addr(id)}
	if f.s.addBank(p) != nil {
		f.t.Fatalf("bank id %d is taken", id)
	}
	f.bankd[id] = p
}

func (f *fixture) bankDown(id uint16) {
	f.s.dropBank(f.bankd[id])
	delete(f.bankd, id)
	for b := range f.out {
		if b.ID == id {
			delete(f.out, b)
		}
	}
}

// requests returns what the session of a bankd sends, such as "+C7:0=B1:0 -C8:0=B1:1".
func (f *fixture) requests(id uint16) string {
	var l []string
	for _, q := range f.s.mapRequests(f.bankd[id]) {
		sign := "+"
		if q.remove {
			sign = "-"
		}
		l = append(l, sign+q.Map.String())
		f.out[q.Bank] = q
	}
	return strings.Join(l, " ")
}

func (f *fixture) expect(id uint16, want string) {
	f.t.Helper()
	if got := f.requests(id); got != want {
		f.t.Fatalf("bankd B%d is asked %q, want %q", id, got, want)
	}
}

func (f *fixture) answer(b slot.Bank, r rspro.ResultCode) {
	f.t.Helper()
	q, ok := f.out[b]
	if !ok {
		f.t.Fatalf("nothing was asked about %s", b)
	}
	delete(f.out, b)
	f.s.mapAnswered(f.bankd[b.ID], q, r)
}

func (f *fixture) clientUp(c slot.Client) {
	f.t.Helper()
	p := &clientPeer{slot: c}
	if f.s.addClient(p) != nil {
		f.t.Fatalf("client %s is taken", c)
	}
	f.clients[c] = p
}

func (f *fixture) clientDown(c slot.Client) {
	f.s.dropClient(f.clients[c])
	delete(f.clients, c)
}

// told takes what a client is told and answers ok.
func (f *fixture) told(c slot.Client) (t Target, ok bool) {
	t, n := f.s.tell(f.clients[c])
	if n == 0 {
		return t, false
	}
	f.s.told(f.clients[c], n, rspro.OK)
	return t, true
}

func (f *fixture) expectTold(c slot.Client, want Target) {
	f.t.Helper()
	if got, ok := f.told(c); !ok || got != want {
		f.t.Fatalf("client %s is told %v (%v), want %v", c, got, ok, want)
	}
}

func (f *fixture) expectSilence(c slot.Client) {
	f.t.Helper()
	if got, ok := f.told(c); ok {
		f.t.Fatalf("client %s is told %v, want nothing", c, got)
	}
}

// life returns the maps with their states, such as "C7:0=B1:0 NEW"; + says owed.
func (f *fixture) life() string {
	var l []string
	for _, m := range f.s.Slotmaps() {
		o := ""
		if m.Owed {
			o = "+"
		}
		l = append(l, m.Map.String()+" "+m.State.String()+o)
	}
	return strings.Join(l, ", ")
}

func (f *fixture) expectLife(want string) {
	f.t.Helper()
	if got := f.life(); got != want {
		f.t.Fatalf("maps: %s\nwant: %s", got, want)
	}
}

// TestMapLife drives one map from every state by every event.
func TestMapLife(t *testing.T) {
	b, m := bk(1, 0), pair(0, 7)
	const map7 = "C7:0=B1:0 "
	const oddResult = rspro.ResultCode(4711)
	states := map[string]func(*fixture){
		"NEW, bankd away": func(f *fixture) { f.create(m) },
		"NEW, refused": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.IllegalSlotID)
			f.requests(1)
		},
		"NEW, bankd lost": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
			f.bankDown(1)
		},
		"NEW, bankd back": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.bankDown(1)
			f.bankUp(1)
		},
		"UNACKNOWLEDGED": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
		},
		"ACTIVE": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
		},
		"DELETE_REQ": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
			f.delete(b)
		},
		"DELETE_REQ, create unanswered": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.delete(b)
		},
		"DELETE_REQ, owed": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
			f.bankDown(1)
			f.delete(b)
		},
		"DELETE_REQ, refused": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
			f.delete(b)
			f.requests(1)
			f.answer(b, oddResult)
		},
		"DELETING": func(f *fixture) {
			f.bankUp(1)
			f.create(m)
			f.requests(1)
			f.answer(b, rspro.OK)
			f.delete(b)
			f.requests(1)
		},
	}
	events := map[string]func(*fixture){
		"delete": func(f *fixture) { f.delete(b) },
		"delete again": func(f *fixture) {
			if _, ok := f.s.Delete(b); ok {
				f.t.Fatal("a map that is leaving was deleted")
			}
		},
		"compare": func(f *fixture) {},
		"ok":      func(f *fixture) { f.answer(b, rspro.OK) },
		"unknown": func(f *fixture) { f.answer(b, rspro.UnknownSlotmap) },
		"odd":     func(f *fixture) { f.answer(b, oddResult) },
		"lost":    func(f *fixture) { f.bankDown(1) },
		"back":    func(f *fixture) { f.bankUp(1) },
		"back again": func(f *fixture) {
			f.bankDown(1)
			f.bankUp(1)
		},
	}
	for _, tt := range []struct {
		from, event string
		life        string // after the event
		sends       string // what the session of the bankd then sends, if there is one
		then        string // after it was sent
	}{
		{"NEW, bankd away", "delete", "", "", ""},
		{"NEW, bankd away", "back", "NEW", "+", "UNACKNOWLEDGED"},

		{"NEW, refused", "compare", "NEW", "", "NEW"},
		{"NEW, refused", "delete", "", "", ""},
		{"NEW, refused", "lost", "NEW", "", "NEW"},
		{"NEW, refused", "back again", "NEW", "+", "UNACKNOWLEDGED"},

		{"NEW, bankd lost", "delete", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"NEW, bankd lost", "back", "NEW", "+", "UNACKNOWLEDGED"},

		{"NEW, bankd back", "compare", "NEW", "+", "UNACKNOWLEDGED"},
		{"NEW, bankd back", "delete", "DELETE_REQ", "-", "DELETING"},
		{"NEW, bankd back", "lost", "NEW", "", "NEW"},

		{"UNACKNOWLEDGED", "compare", "UNACKNOWLEDGED", "", "UNACKNOWLEDGED"},
		{"UNACKNOWLEDGED", "ok", "ACTIVE", "", "ACTIVE"},
		{"UNACKNOWLEDGED", "unknown", "NEW", "", "NEW"},
		{"UNACKNOWLEDGED", "odd", "NEW", "", "NEW"},
		{"UNACKNOWLEDGED", "delete", "DELETE_REQ", "", "DELETE_REQ"},
		{"UNACKNOWLEDGED", "lost", "NEW", "", "NEW"},
		{"UNACKNOWLEDGED", "back again", "NEW", "+", "UNACKNOWLEDGED"},

		{"ACTIVE", "compare", "ACTIVE", "", "ACTIVE"},
		{"ACTIVE", "delete", "DELETE_REQ", "-", "DELETING"},
		{"ACTIVE", "lost", "NEW", "", "NEW"},
		{"ACTIVE", "back again", "NEW", "+", "UNACKNOWLEDGED"},

		{"DELETE_REQ", "compare", "DELETE_REQ", "-", "DELETING"},
		{"DELETE_REQ", "delete again", "DELETE_REQ", "-", "DELETING"},
		{"DELETE_REQ", "lost", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"DELETE_REQ", "back again", "DELETE_REQ+", "-", "DELETING+"},

		{"DELETE_REQ, create unanswered", "compare", "DELETE_REQ", "", "DELETE_REQ"},
		{"DELETE_REQ, create unanswered", "delete again", "DELETE_REQ", "", "DELETE_REQ"},
		{"DELETE_REQ, create unanswered", "ok", "DELETE_REQ", "-", "DELETING"},
		{"DELETE_REQ, create unanswered", "odd", "", "", ""},
		{"DELETE_REQ, create unanswered", "lost", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"DELETE_REQ, create unanswered", "back again", "DELETE_REQ+", "-", "DELETING+"},

		{"DELETE_REQ, owed", "delete again", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"DELETE_REQ, owed", "back", "DELETE_REQ+", "-", "DELETING+"},

		{"DELETE_REQ, refused", "compare", "DELETE_REQ", "", "DELETE_REQ"},
		{"DELETE_REQ, refused", "lost", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"DELETE_REQ, refused", "back again", "DELETE_REQ+", "-", "DELETING+"},

		{"DELETING", "compare", "DELETING", "", "DELETING"},
		{"DELETING", "delete again", "DELETING", "", "DELETING"},
		{"DELETING", "ok", "", "", ""},
		{"DELETING", "unknown", "", "", ""},
		{"DELETING", "odd", "DELETE_REQ", "", "DELETE_REQ"},
		{"DELETING", "lost", "DELETE_REQ+", "", "DELETE_REQ+"},
		{"DELETING", "back again", "DELETE_REQ+", "-", "DELETING+"},
	} {
		t.Run(tt.from+"/"+tt.event, func(t *testing.T) {
			f := newFixture(t)
			full := func(s string) string {
				if s == "" {
					return ""
				}
				return map7 + s
			}
			states[tt.from](f)
			events[tt.event](f)
			f.expectLife(full(tt.life))
			if f.bankd[1] != nil {
				want := tt.sends
				if want != "" {
					want += "C7:0=B1:0"
				}
				f.expect(1, want)
			}
			f.expectLife(full(tt.then))
			if tt.then == "" && (len(f.s.byClient) > 0 || f.s.first != nil || f.s.last != nil) {
				t.Error("something of the map is left")
			}
			if tt.then == "" && f.s.banks[1] != nil && len(f.s.banks[1].places) > 0 {
				t.Error("its place is left")
			}
		})
	}
}

// TestLateAnswer lets answers come from sessions that have ended.
func TestLateAnswer(t *testing.T) {
	f := newFixture(t)
	f.create(pair(0, 7))
	f.bankUp(1)
	f.expect(1, "+C7:0=B1:0")
	old, q := f.bankd[1], f.out[bk(1, 0)]
	f.bankDown(1)
	f.s.mapAnswered(old, q, rspro.OK)
	f.expectLife("C7:0=B1:0 NEW")
	f.bankUp(1)
	f.expect(1, "+C7:0=B1:0")
	f.s.mapAnswered(old, q, rspro.OK)
	f.expectLife("C7:0=B1:0 UNACKNOWLEDGED")
	f.s.dropBank(old)
	f.answer(bk(1, 0), rspro.OK)
	f.expectLife("C7:0=B1:0 ACTIVE")
}

func TestCreateRefused(t *testing.T) {
	s := NewState()
	if err := s.Create(pair(0, 7)); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		m      slot.Map
		member string
	}{
		{slot.Map{Bank: bk(1, 0), Client: cl(7, 0)}, "bank"},
		{slot.Map{Bank: bk(1, 0), Client: cl(8, 0)}, "bank"},
		{slot.Map{Bank: bk(1, 1), Client: cl(7, 0)}, "client"},
		{slot.Map{Bank: bk(1024, 1), Client: cl(7, 1)}, ""},
		{slot.Map{Bank: bk(1, 1024), Client: cl(7, 1)}, ""},
		{slot.Map{Bank: bk(1, 1), Client: cl(1024, 1)}, ""},
		{slot.Map{Bank: bk(1, 1), Client: cl(7, 1024)}, ""},
	} {
		err := s.Create(tt.m)
		var taken *TakenError
		if errors.As(err, &taken); err == nil || (taken == nil) != (tt.member == "") || taken != nil && taken.Member != tt.member {
			t.Errorf("Create(%v) = %v", tt.m, err)
		}
	}
	if n := len(s.Slotmaps()); n != 1 {
		t.Errorf("%d maps, want 1", n)
	}
}

// TestOrder checks the order of listings and of requests: that of creation, removals last.
func TestOrder(t *testing.T) {
	f := newFixture(t)
	f.bankUp(1)
	for _, n := range []uint16{5, 3, 4, 1, 2} {
		f.create(pair(n, n))
	}
	f.expect(1, "+C5:0=B1:5 +C3:0=B1:3 +C4:0=B1:4 +C1:0=B1:1 +C2:0=B1:2")
	for _, n := range []uint16{1, 2, 3, 4, 5} {
		f.answer(bk(1, n), rspro.OK)
	}
	f.bankDown(1)
	f.delete(bk(1, 3))
	f.delete(bk(1, 5))
	f.create(pair(0, 9))
	f.expectLife("C5:0=B1:5 DELETE_REQ+, C3:0=B1:3 DELETE_REQ+, C4:0=B1:4 NEW, C1:0=B1:1 NEW, C2:0=B1:2 NEW, C9:0=B1:0 NEW")
	f.bankUp(1)
	f.expect(1, "+C4:0=B1:4 +C1:0=B1:1 +C2:0=B1:2 +C9:0=B1:0 -C5:0=B1:5 -C3:0=B1:3")
	if n := f.s.DeleteAll(); n != 4 {
		t.Errorf("DeleteAll = %d, want 4", n)
	}
	f.expect(1, "")
	for _, n := range []uint16{0, 1, 2, 3, 4, 5} {
		f.answer(bk(1, n), rspro.OK)
	}
	f.expect(1, "-C4:0=B1:4 -C1:0=B1:1 -C2:0=B1:2 -C9:0=B1:0")
}

// TestReplace lets a new map take a bank slot whose old one isn't gone yet.
func TestReplace(t *testing.T) {
	old, next := pair(0, 7), pair(0, 8)
	active := func(t *testing.T) *fixture {
		f := newFixture(t)
		f.bankUp(1)
		f.create(old)
		f.expect(1, "+C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		return f
	}
	t.Run("connected: removed first", func(t *testing.T) {
		f := active(t)
		f.delete(bk(1, 0))
		f.create(next)
		f.expect(1, "-C7:0=B1:0")
		f.expectLife("C7:0=B1:0 DELETING, C8:0=B1:0 NEW")
		f.answer(bk(1, 0), rspro.OK)
		f.expect(1, "+C8:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("C8:0=B1:0 ACTIVE")
		f.expect(1, "")
	})
	t.Run("away: replaced", func(t *testing.T) {
		f := active(t)
		f.bankDown(1)
		f.delete(bk(1, 0))
		f.create(next)
		f.bankUp(1)
		f.expect(1, "+C8:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("C8:0=B1:0 ACTIVE")
		f.expect(1, "")
	})
	t.Run("away: refused, so removed", func(t *testing.T) {
		f := active(t)
		f.bankDown(1)
		f.delete(bk(1, 0))
		f.create(next)
		f.bankUp(1)
		f.expect(1, "+C8:0=B1:0")
		f.answer(bk(1, 0), rspro.IllegalClientID)
		f.expect(1, "-C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("C8:0=B1:0 NEW")
		f.expect(1, "")
	})
	t.Run("either of two may be there", func(t *testing.T) {
		f := active(t)
		f.bankDown(1)
		f.delete(bk(1, 0))
		f.create(next)
		f.bankUp(1)
		f.expect(1, "+C8:0=B1:0")
		f.bankDown(1) // did it arrive?
		f.delete(bk(1, 0))
		f.expectLife("C7:0=B1:0 DELETE_REQ+, C8:0=B1:0 DELETE_REQ+")
		f.bankUp(1)
		f.expect(1, "-C7:0=B1:0")
		f.answer(bk(1, 0), rspro.UnknownSlotmap)
		f.expect(1, "-C8:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("")
	})
	t.Run("a third while the second is unanswered", func(t *testing.T) {
		f := active(t)
		f.bankDown(1)
		f.delete(bk(1, 0))
		f.create(next)
		f.bankUp(1)
		f.expect(1, "+C8:0=B1:0")
		f.delete(bk(1, 0))
		f.create(pair(0, 9))
		f.expect(1, "")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("C8:0=B1:0 DELETE_REQ, C9:0=B1:0 NEW")
		f.expect(1, "-C8:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expect(1, "+C9:0=B1:0")
	})
	t.Run("the same again", func(t *testing.T) {
		f := active(t)
		f.delete(bk(1, 0))
		f.create(old)
		f.expect(1, "-C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expect(1, "+C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectLife("C7:0=B1:0 ACTIVE")
	})
}

// TestRefused checks that a refused map says why and is tried again on the next connection.
func TestRefused(t *testing.T) {
	f := newFixture(t)
	f.bankUp(1)
	f.create(pair(20, 7))
	f.expect(1, "+C7:0=B1:20")
	f.answer(bk(1, 20), rspro.IllegalSlotID)
	f.expect(1, "")
	m, _ := f.s.Slotmap(bk(1, 20))
	if m.State != MapNew || m.LastError != "createMapping: illegalSlotId" {
		t.Errorf("refused map is %+v", m)
	}
	f.bankDown(1)
	f.bankUp(1)
	f.expect(1, "+C7:0=B1:20")
	f.answer(bk(1, 20), rspro.OK)
	if m, _ = f.s.Slotmap(bk(1, 20)); m.State != MapActive || m.LastError != "" {
		t.Errorf("map accepted at last is %+v", m)
	}
}

// TestTell checks what clients are told, and that nothing is told twice.
func TestTell(t *testing.T) {
	c := cl(7, 0)
	use := func(b slot.Bank) Target { return Target{b, addr(b.ID)} }
	// up has client and bankd connected, the map active and told.
	up := func(t *testing.T) *fixture {
		f := newFixture(t)
		f.bankUp(1)
		f.clientUp(c)
		f.expectSilence(c)
		f.create(pair(0, 7))
		f.expectSilence(c)
		f.expect(1, "+C7:0=B1:0")
		f.expectSilence(c)
		f.answer(bk(1, 0), rspro.OK)
		f.expectTold(c, use(bk(1, 0)))
		f.expectSilence(c)
		return f
	}
	for _, tt := range []struct {
		name string
		test func(*fixture)
	}{
		{"removed", func(f *fixture) {
			f.delete(bk(1, 0))
			f.expectSilence(c)
			f.expect(1, "-C7:0=B1:0")
			f.expectSilence(c)
			f.answer(bk(1, 0), rspro.OK)
			f.expectTold(c, noBankd(bk(1, 0)))
			f.expectSilence(c)
		}},
		{"removed, which the bankd refuses", func(f *fixture) {
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), 4711)
			f.expectTold(c, noBankd(bk(1, 0)))
		}},
		{"removed with its bankd away", func(f *fixture) {
			f.bankDown(1)
			f.expectSilence(c)
			f.delete(bk(1, 0))
			f.expectTold(c, noBankd(bk(1, 0)))
			f.bankUp(1)
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.expectSilence(c)
		}},
		{"bankd lost while the map is removed", func(f *fixture) {
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.expectSilence(c)
			f.bankDown(1)
			f.expectTold(c, noBankd(bk(1, 0)))
		}},
		{"bankd lost and back", func(f *fixture) {
			f.bankDown(1)
			f.expectSilence(c)
			f.bankUp(1)
			f.expectSilence(c)
			f.expect(1, "+C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.expectSilence(c)
		}},
		{"bankd back elsewhere", func(f *fixture) {
			f.bankDown(1)
			p := &bankPeer{bank: 1, numSlots: 8, endpoint: addr(77)}
			f.s.addBank(p)
			f.bankd[1] = p
			f.expect(1, "+C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.expectTold(c, Target{bk(1, 0), addr(77)})
		}},
		{"removed while its bankd comes back", func(f *fixture) {
			f.bankDown(1)
			f.bankUp(1)
			f.expect(1, "+C7:0=B1:0")
			f.delete(bk(1, 0))
			f.expectSilence(c)
			f.answer(bk(1, 0), rspro.OK)
			f.expectSilence(c)
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.expectTold(c, noBankd(bk(1, 0)))
		}},
		{"moved, removal confirmed first", func(f *fixture) {
			f.bankUp(2)
			f.delete(bk(1, 0))
			f.create(slot.Map{Bank: bk(2, 3), Client: c})
			f.expect(1, "-C7:0=B1:0")
			f.expect(2, "+C7:0=B2:3")
			f.expectSilence(c)
			f.answer(bk(1, 0), rspro.OK)
			f.expectTold(c, noBankd(bk(1, 0)))
			f.answer(bk(2, 3), rspro.OK)
			f.expectTold(c, use(bk(2, 3)))
		}},
		{"moved, new map confirmed first", func(f *fixture) {
			f.bankUp(2)
			f.delete(bk(1, 0))
			f.create(slot.Map{Bank: bk(2, 3), Client: c})
			f.expect(1, "-C7:0=B1:0")
			f.expect(2, "+C7:0=B2:3")
			f.answer(bk(2, 3), rspro.OK)
			f.expectTold(c, use(bk(2, 3)))
			f.answer(bk(1, 0), rspro.OK)
			f.expectSilence(c)
		}},
		{"moved to a bankd that isn't there", func(f *fixture) {
			f.delete(bk(1, 0))
			f.create(slot.Map{Bank: bk(2, 3), Client: c})
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.expectTold(c, noBankd(bk(1, 0)))
			f.bankUp(2)
			f.expect(2, "+C7:0=B2:3")
			f.answer(bk(2, 3), rspro.OK)
			f.expectTold(c, use(bk(2, 3)))
		}},
		{"client back", func(f *fixture) {
			f.clientDown(c)
			f.clientUp(c)
			f.expectTold(c, use(bk(1, 0)))
			f.expectSilence(c)
		}},
		{"client back with its bankd away", func(f *fixture) {
			f.clientDown(c)
			f.bankDown(1)
			f.clientUp(c)
			f.expectSilence(c)
		}},
		{"removed while the client was away", func(f *fixture) {
			f.clientDown(c)
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			f.clientUp(c)
			f.expectTold(c, noBankd(bk(1, 0)))
			f.clientDown(c)
			f.clientUp(c)
			f.expectSilence(c)
		}},
		{"client away before it answered port 0", func(f *fixture) {
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			if _, n := f.s.tell(f.clients[c]); n == 0 {
				f.t.Fatal("not told")
			}
			f.clientDown(c)
			f.clientUp(c)
			f.expectTold(c, noBankd(bk(1, 0)))
		}},
		{"late answer to something older", func(f *fixture) {
			f.delete(bk(1, 0))
			f.expect(1, "-C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			_, n := f.s.tell(f.clients[c])
			f.create(pair(0, 7))
			f.expect(1, "+C7:0=B1:0")
			f.answer(bk(1, 0), rspro.OK)
			if t, n := f.s.tell(f.clients[c]); n == 0 || t != use(bk(1, 0)) {
				f.t.Fatal("not told of the new map")
			}
			f.s.told(f.clients[c], n, rspro.OK)
			if f.s.clients[c].told.none() {
				f.t.Fatal("the answer to the older one counts for the newer one")
			}
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { tt.test(up(t)) })
	}

	t.Run("removed before anything was told", func(t *testing.T) {
		f := newFixture(t)
		f.bankUp(1)
		f.clientUp(c)
		f.create(pair(0, 7))
		f.expect(1, "+C7:0=B1:0")
		f.delete(bk(1, 0))
		f.answer(bk(1, 0), rspro.OK)
		f.expect(1, "-C7:0=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectSilence(c)
	})
	t.Run("slot not agreed yet", func(t *testing.T) {
		f := newFixture(t)
		f.bankUp(1)
		p := &clientPeer{slot: c, waiting: true}
		if f.s.addClient(p) != nil {
			t.Fatal("the slot is taken")
		}
		f.clients[p.slot] = p
		f.create(slot.Map{Bank: bk(1, 0), Client: p.slot})
		f.expect(1, "+"+p.slot.String()+"=B1:0")
		f.answer(bk(1, 0), rspro.OK)
		f.expectSilence(p.slot)
		f.s.agreed(p)
		f.expectTold(p.slot, use(bk(1, 0)))
	})
}

// TestAssign checks that a slot that is given is the first of the pool that nobody has or shall have, and that who asks
// again is given it again.
func TestAssign(t *testing.T) {
	f := newFixture(t)
	f.s.pool = &IDPool{900, 904}
	f.clientUp(cl(900, 0))
	f.create(slot.Map{Bank: bk(1, 0), Client: cl(901, 0)})
	key := func(name string) ClientKey { return ClientKey{Name: name, Serial: "1", Interface: "2"} }
	for _, tt := range []struct {
		key  ClientKey
		want string
	}{
		{key("a"), "C902:0"},
		{key("b"), "C903:0"},
		{key("a"), "C902:0"},
		{ClientKey{Name: "a", Serial: "1"}, "C904:0"},
		{ClientKey{Name: "a", Serial: "1", Interface: "2", Instance: 1}, errNoID.Error()},
		{key("b"), "C903:0"},
	} {
		c, err := f.s.giveID(t.Context(), tt.key)
		if err != nil && !strings.Contains(err.Error(), tt.want) || err == nil && c.String() != tt.want {
			t.Errorf("%s is given %s, %v; want %s", tt.key, c, err, tt.want)
		}
	}
	// A pool that has moved.
	f.s.pool = &IDPool{904, 905}
	for _, tt := range []struct{ name, want string }{{"b", "C905:0"}, {"b", "C905:0"}} {
		if c, err := f.s.giveID(t.Context(), key(tt.name)); err != nil || c.String() != tt.want {
			t.Errorf("%s is given %s, %v; want %s of another pool", tt.name, c, err, tt.want)
		}
	}
	f.s.pool = nil
	if c, err := f.s.giveID(t.Context(), key("b")); !errors.Is(err, errNoPool) {
		t.Errorf("given %s, %v without a pool", c, err)
	}
}

// TestWake checks that a change wakes the sessions it concerns and no others.
func TestWake(t *testing.T) {
	f := newFixture(t)
	f.bankUp(1)
	f.bankUp(2)
	f.clientUp(cl(7, 0))
	f.clientUp(cl(8, 0))
	drain := func() (woken []string) {
		for _, p := range []struct {
			name string
			*peer
		}{
			{"B1", &f.bankd[1].peer}, {"B2", &f.bankd[2].peer},
			{"C7:0", &f.clients[cl(7, 0)].peer}, {"C8:0", &f.clients[cl(8, 0)].peer},
		} {
			if f.s.unmark(p.peer) {
				woken = append(woken, p.name)
			}
		}
		f.requests(1)
		f.requests(2)
		return woken
	}
	drain()
	for _, tt := range []struct {
		name string
		do   func()
		want string
	}{
		{"create", func() { f.create(pair(0, 7)) }, "B1"},
		{"confirmed", func() { f.answer(bk(1, 0), rspro.OK) }, "B1 C7:0"},
		{"delete", func() { f.delete(bk(1, 0)) }, "B1 C7:0"},
		{"gone", func() { f.answer(bk(1, 0), rspro.OK) }, "B1 C7:0"},
		{"create again", func() { f.create(pair(0, 7)) }, "B1"},
		{"bankd lost", func() { f.s.dropBank(f.bankd[1]) }, "C7:0"},
		{"bankd back", func() { f.s.addBank(f.bankd[1]) }, "B1"},
	} {
		tt.do()
		if got := strings.Join(drain(), " "); got != tt.want {
			t.Errorf("%s wakes %q, want %q", tt.name, got, tt.want)
		}
	}
	if f.expect(1, ""); len(f.bankd[1].due) != 0 {
		t.Error("places are still due")
	}
}

// BenchmarkCreateMap takes one map through its life beside others.
func BenchmarkCreateMap(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			s := NewState()
			nth := func(i int) slot.Map {
				id, nr := uint16(i/(slot.Max+1)), uint16(i%(slot.Max+1))
				return slot.Map{Bank: bk(id, nr), Client: cl(id, nr)}
			}
			for i := range n {
				if err := s.Create(nth(i)); err != nil {
					b.Fatal(err)
				}
			}
			m := nth(n)
			p := &bankPeer{bank: m.Bank.ID}
			s.addBank(p)
			answer := func() {
				for _, q := range s.mapRequests(p) {
					s.mapAnswered(p, q, rspro.OK)
				}
			}
			answer()
			b.ReportAllocs()
			for b.Loop() {
				if err := s.Create(m); err != nil {
					b.Fatal(err)
				}
				answer()
				s.Delete(m.Bank)
				answer()
			}
		})
	}
}
