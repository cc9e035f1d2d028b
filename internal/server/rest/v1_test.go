// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"fmt"
	"testing"

	"remsim/internal/server"
	"remsim/internal/slot"
)

// someMaps returns n maps with all kinds of numbers and states.
func someMaps(n int) []server.WantedMap {
	l := make([]server.WantedMap, n)
	for i := range l {
		id, nr := uint16(i/(slot.Max+1)), uint16(i%(slot.Max+1))
		l[i] = server.WantedMap{
			Map:   slot.Map{Bank: slot.Bank{ID: id, Slot: nr}, Client: slot.Client{ID: slot.Max - id, Slot: slot.Max - nr}},
			State: server.MapState(i) % server.MapDeleteReq,
		}
	}
	return l
}

// The list of maps is what encoding/json makes of it.
func TestSlotmapsV1(t *testing.T) {
	type slotmapV1 struct {
		Bank   bankSlot   `json:"bank"`
		Client clientSlot `json:"client"`
		State  string     `json:"state"`
	}
	for _, n := range []int{0, 1, 2, 3000} {
		l := someMaps(n)
		want := []slotmapV1{}
		for _, m := range l {
			want = append(want, slotmapV1{bankSlot(m.Bank), clientSlot(m.Client), m.State.String()})
		}
		got, text := slotmapsV1(l), encode(struct {
			Slotmaps []slotmapV1 `json:"slotmaps"`
		}{want})
		if string(got) != string(text) {
			t.Errorf("%d maps: got %.300s, want %.300s", n, got, text)
		}
	}
	l := someMaps(3000)
	if got := testing.AllocsPerRun(10, func() { slotmapsV1(l) }); got != 1 {
		t.Errorf("%v allocations for 3000 maps, want 1", got)
	}
}

// BenchmarkSlotmapsV1 is the list of maps without HTTP.
func BenchmarkSlotmapsV1(b *testing.B) {
	for _, n := range []int{0, 100, 1000, 10_000} {
		b.Run(fmt.Sprintf("maps=%d", n), func(b *testing.B) {
			state := server.NewState()
			for _, m := range someMaps(n) {
				if _, err := state.Commit(b.Context(), server.PutMap(m.Map)); err != nil {
					b.Fatal(err)
				}
			}
			b.ReportAllocs()
			for b.Loop() {
				slotmapsV1(state.Wanted())
			}
		})
	}
}
