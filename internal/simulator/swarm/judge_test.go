// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"bytes"
	"math/rand/v2"
	"strings"
	"testing"
	"time"

	"remsim/internal/bankd/softsim"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

// site returns a swarm's places without its peers: two banks of 4 witnesses, and a guest with 4 cards in software.
func site(t *testing.T) []place {
	t.Helper()
	s := &swarm{Config: Config{Bank: 1, Banks: 2, Slots: 4, Guests: []Guest{{Bank: 900, Slots: 4}}}}
	if err := s.makePlaces(); err != nil {
		t.Fatal(err)
	}
	if len(s.places) != 12 {
		t.Fatalf("%d places", len(s.places))
	}
	return s.places
}

// answer is what the card at p says.
func answer(t *testing.T, p place, command []byte) []byte {
	t.Helper()
	if p.iccid == nil {
		return p.appendAnswer(nil, command)
	}
	a, err := softsim.New(simulator.Profile(guestCard(p.bank))).Transmit(command, make([]byte, 258))
	if err != nil {
		t.Fatal(err)
	}
	return a
}

// TestCheck asks all cards, and has each answer judged as that of each card: none but the one that has answered may pass, but where
// cards in software have the bytes in common that were read.
func TestCheck(t *testing.T) {
	all := site(t)
	r := rand.New(rand.NewPCG(1, 2))
	caught := 0
	for range 200 {
		for i, from := range all {
			command := all[r.IntN(len(all))].command(r)
			a := answer(t, from, command)
			if !from.check(command, a) {
				t.Fatalf("%v: % x answered with % x: wrong", from.bank, command, a)
			}
			for j, p := range all {
				switch right := p.check(command, a); {
				case i == j || p.iccid != nil && bytes.Equal(answer(t, p, command), a):
				case len(a) == 2: // any word for no such file or length
				case right:
					t.Fatalf("% x answered with % x by %v passes as %v", command, a, from.bank, p.bank)
				default:
					caught++
				}
			}
		}
	}
	if caught < 10_000 {
		t.Errorf("only %d answers of other cards", caught)
	}
}

// TestCheckMutated has answers judged that were changed in one bit, cut short, made longer, or belong to another command.
func TestCheckMutated(t *testing.T) {
	r := rand.New(rand.NewPCG(3, 4))
	for _, p := range site(t) {
		for range 100 {
			command := p.command(r)
			right := answer(t, p, command)
			wrong := map[string][]byte{
				"short": right[:len(right)-1], "long": append(bytes.Clone(right), 0), "empty": nil, "status only": {0x90, 0x00}, "no such file": {0x6a, 0x82},
			}
			bit := r.IntN(8 * len(right))
			flipped := bytes.Clone(right)
			flipped[bit/8] ^= 1 << (bit % 8)
			wrong["a bit"] = flipped
			if other := p.command(r); !bytes.Equal(other, command) && p.iccid == nil {
				wrong["of another command"] = answer(t, p, other)
			}
			for what, a := range wrong {
				if p.check(command, a) {
					t.Errorf("%v: % x answered with % x (%s) passes", p.bank, command, a, what)
				}
			}
		}
	}
}

// TestAllowed follows which cards a client may use: the one of its map, and those before, until it has had the one of its map.
func TestAllowed(t *testing.T) {
	all := site(t)
	m := &member{s: &swarm{}}
	bank := func(want ...int) {
		t.Helper()
		var places []*place
		for _, i := range want {
			places = append(places, &all[i])
		}
		got := m.allowed()
		if len(got) != len(places) {
			t.Fatalf("allowed: %v, want %v", got, places)
		}
		for i := range got {
			if got[i] != places[i] {
				t.Fatalf("allowed: %v, want %v", got, places)
			}
		}
	}
	bank()
	m.assign(&all[0])
	bank(0)
	m.assign(&all[1])
	bank(1, 0)
	m.assign(nil)
	bank(0, 1)
	m.arriveLocked()
	bank()
	m.assign(&all[2])
	bank(2)
	m.assign(&all[3])
	m.arriveLocked()
	m.arriveLocked()
	bank(3)

	command := all[3].command(rand.New(rand.NewPCG(5, 6)))
	if !matches(command, answer(t, all[3], command), m.allowed(), nil) {
		t.Error("the right card's answer is wrong")
	}
	if matches(command, answer(t, all[2], command), m.allowed(), nil) {
		t.Error("the answer of the card before is right after the client had the next one")
	}
	if !matches(command, answer(t, all[2], command), m.allowed(), []*place{&all[2]}) {
		t.Error("the answer of the card before is wrong though it was the client's when it asked")
	}
}

// TestDiffer compares maps with those that are wanted, after each of the things that can be wrong.
func TestDiffer(t *testing.T) {
	at := func(b, c uint16) slot.Map {
		return slot.Map{Bank: slot.Bank{ID: 1, Slot: b}, Client: slot.Client{ID: c}}
	}
	want := map[slot.Bank]slot.Client{{ID: 1, Slot: 0}: {ID: 0}, {ID: 1, Slot: 1}: {ID: 1}}
	ours := func(m slot.Map) bool { return m.Client.ID < 10 }
	for _, tt := range []struct {
		name string
		has  map[slot.Map]string
		err  string // empty: none
	}{
		{"same", map[slot.Map]string{at(0, 0): "ACTIVE", at(1, 1): "ACTIVE"}, ""},
		{"and others'", map[slot.Map]string{at(0, 0): "ACTIVE", at(1, 1): "ACTIVE", at(7, 77): "NEW"}, ""},
		{"lost", map[slot.Map]string{at(0, 0): "ACTIVE"}, "1 of 2"},
		{"one too many", map[slot.Map]string{at(0, 0): "ACTIVE", at(1, 1): "ACTIVE", at(2, 2): "ACTIVE"}, "C2:0=B1:2"},
		{"swapped", map[slot.Map]string{at(0, 1): "ACTIVE", at(1, 0): "ACTIVE"}, "isn't wanted"},
		{"not in use", map[slot.Map]string{at(0, 0): "ACTIVE", at(1, 1): "NEW"}, "is NEW"},
		{"none", nil, "0 of 2"},
	} {
		err := differ(tt.has, want, ours)
		if (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s: %v, want %q", tt.name, err, tt.err)
		}
	}
}

// TestHistogram compares quantiles with the true ones, over all lengths.
func TestHistogram(t *testing.T) {
	for _, scale := range []time.Duration{time.Nanosecond, time.Microsecond, time.Millisecond, 100 * time.Millisecond} {
		var h histogram
		for i := range 1000 {
			h.add(time.Duration(i+20) * scale)
		}
		c := h.take()
		for q, want := range map[float64]time.Duration{0: 20, 0.5: 520, 0.99: 1010, 0.999: 1019} {
			got := c.quantile(q)
			if want *= scale; got > want || got < want-want/10 {
				t.Errorf("scale %v, quantile %v: %v, want %v", scale, q, got, want)
			}
		}
		if c.n != 1000 || c.max != 1019*scale || h.take().n != 0 || h.all.n != 1000 {
			t.Errorf("scale %v: %d things, at most %v", scale, c.n, c.max)
		}
	}
	for _, d := range []time.Duration{-1, 0, 1, 15, 16, 1 << 62} {
		if i := bucket(d); i < 0 || i >= len(counts{}.buckets) || lower(i) > max(d, 16) {
			t.Errorf("bucket of %v: %d, from %v", d, i, lower(i))
		}
	}
}

// FuzzParseGuest: what is read is within its range, and reads the same when it is written.
func FuzzParseGuest(f *testing.F) {
	for _, s := range []string{"0:1", "200:16", "1023:1023", "1024:1", "1:0", "1:1024", "1", ":", "-1:5", "1:2:3", "", "+1:1", "1 :1"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		g, err := ParseGuest(s)
		if err != nil {
			if !strings.Contains(err.Error(), "ID:SLOTS") {
				t.Errorf("%q: %v", s, err)
			}
			return
		}
		if g.Bank > slot.Max || g.Slots < 1 || g.Slots > slot.Max {
			t.Errorf("%q: %+v", s, g)
		}
		if again, err := ParseGuest(g.String()); err != nil || again != g {
			t.Errorf("%q: %v, again %v, %v", s, g, again, err)
		}
	})
}
