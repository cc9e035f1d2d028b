// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"fmt"
	"testing"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// The rules of maps, without clients.
func TestMaps(t *testing.T) {
	type step struct {
		op   byte // '+' create, '-' remove
		c, b uint16
		want rspro.ResultCode
	}
	for _, tt := range []struct {
		name  string
		steps []step
		want  string // client=slot of what is left
	}{
		{"create", []step{{'+', 1, 1, rspro.OK}}, "[1=1]"},
		{"twice", []step{{'+', 1, 1, rspro.OK}, {'+', 1, 1, rspro.OK}}, "[1=1]"},
		{"two", []step{{'+', 1, 1, rspro.OK}, {'+', 2, 0, rspro.OK}}, "[2=0 1=1]"},
		{"slot to another client", []step{{'+', 1, 1, rspro.OK}, {'+', 2, 1, rspro.OK}}, "[2=1]"},
		{"client to another slot", []step{{'+', 1, 1, rspro.OK}, {'+', 1, 2, rspro.OK}}, "[1=2]"},
		{"both ends are taken", []step{{'+', 1, 1, rspro.OK}, {'+', 2, 2, rspro.OK}, {'+', 1, 2, rspro.OK}}, "[1=2]"},
		{"swap", []step{{'+', 1, 1, rspro.OK}, {'+', 2, 2, rspro.OK}, {'+', 1, 2, rspro.OK}, {'+', 2, 1, rspro.OK}}, "[2=1 1=2]"},
		{"slot too large", []step{{'+', 1, 4, rspro.IllegalSlotID}, {'-', 1, 4, rspro.IllegalSlotID}}, "[]"},
		{"other bank", []step{{'+', 1, 1000, rspro.IllegalBankID}, {'-', 1, 1000, rspro.IllegalBankID}}, "[]"},
		{"remove", []step{{'+', 1, 1, rspro.OK}, {'-', 1, 1, rspro.OK}, {'-', 1, 1, rspro.UnknownSlotmap}}, "[]"},
		{"remove none", []step{{'-', 1, 1, rspro.UnknownSlotmap}, {'-', 0, 0, rspro.UnknownSlotmap}}, "[]"},
		{"remove another's", []step{{'+', 1, 1, rspro.OK}, {'-', 2, 1, rspro.UnknownSlotmap}, {'-', 1, 2, rspro.UnknownSlotmap}}, "[1=1]"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			s := newState(5, 4)
			for _, x := range tt.steps {
				m := slot.Map{Client: slot.Client{ID: x.c}, Bank: slot.Bank{ID: 5, Slot: x.b}}
				if x.b == 1000 {
					m.Bank = slot.Bank{ID: 6, Slot: 1}
				}
				var code rspro.ResultCode
				if x.op == '+' {
					code, _ = s.createMap(m)
				} else {
					code, _ = s.removeMap(m)
				}
				if code != x.want {
					t.Errorf("%c %v: %v, want %v", x.op, m, code, x.want)
				}
			}
			var got []string
			for _, b := range s.bays {
				if b.state != Free {
					got = append(got, fmt.Sprintf("%d=%d", b.client.ID, b.slot.Slot))
					if s.byMap[b.client] != b {
						t.Errorf("client %v isn't found", b.client)
					}
				}
			}
			if fmt.Sprint(got) != tt.want || len(s.byMap) != len(got) {
				t.Errorf("got %v (%d by client), want %s", got, len(s.byMap), tt.want)
			}
		})
	}
}

// After close no card goroutine starts, whatever comes.
func TestClosedState(t *testing.T) {
	s := newState(5, 4)
	s.start = func(*bay, bool) { t.Error("a card goroutine starts") }
	c := &conn{client: slot.Client{ID: 1}, state: WaitMap, answered: true}
	s.conns, s.clients[c.client] = []*conn{c}, c
	if leave := s.close(); len(leave) != 1 || leave[0] != c {
		t.Errorf("to be closed: %v", leave)
	}
	<-s.idle
	if code, _ := s.createMap(slot.Map{Client: c.client, Bank: slot.Bank{ID: 5}}); code != rspro.OK {
		t.Errorf("createMap: %v", code)
	}
}

func TestStateNames(t *testing.T) {
	if s := fmt.Sprint(Free, Mapped, Carded, Failed, WaitID, WaitMap, Served); s != "FREE MAPPED CARD FAILED WAIT_ID WAIT_MAP SERVED" {
		t.Error(s)
	}
}
