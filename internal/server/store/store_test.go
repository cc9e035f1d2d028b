// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"context"
	"fmt"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"remsim/internal/server"
	"remsim/internal/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// openNew opens a new store of a file that is removed at the test's end.
func openNew(t testing.TB) server.Store {
	t.Helper()
	s, err := Open(filepath.Join(t.TempDir(), "state.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
	return s
}

func loadState(t testing.TB, s server.Store) *server.State {
	t.Helper()
	state, err := server.LoadState(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// mapAt returns the i-th of 1,048,576 maps.
func mapAt(i int) slot.Map {
	id, nr := uint16(i>>10), uint16(i&1023)
	return slot.Map{Bank: slot.Bank{ID: id, Slot: nr}, Client: slot.Client{ID: nr, Slot: id}}
}

func creations(from, to int) (ops []server.Op) {
	for i := from; i < to; i++ {
		ops = append(ops, server.CreateMap(mapAt(i)))
	}
	return ops
}

// stores are what benchmarks compare.
var stores = []struct {
	name string
	open func(testing.TB) server.Store
}{
	{"memory", func(testing.TB) server.Store { return Memory() }},
	{"file", openNew},
}

// BenchmarkCommit measures a map that is made and deleted, with as many maps there.
func BenchmarkCommit(b *testing.B) {
	for _, store := range stores {
		for _, n := range []int{1000, 1_000_000} {
			for _, callers := range []int{1, 64} {
				b.Run(fmt.Sprintf("%s/%d-maps/%d-callers", store.name, n, callers), func(b *testing.B) {
					state := loadState(b, store.open(b))
					if _, err := state.Commit(b.Context(), creations(0, n)...); err != nil {
						b.Fatal(err)
					}
					var next atomic.Int64
					b.SetParallelism(callers / 2)
					b.ResetTimer()
					if callers == 1 {
						for b.Loop() {
							flip(b, state, mapAt(1<<20-1))
						}
						return
					}
					b.RunParallel(func(pb *testing.PB) {
						m := mapAt(1<<20 - 1 - int(next.Add(1)))
						for pb.Next() {
							flip(b, state, m)
						}
					})
				})
			}
		}
	}
}

func flip(b *testing.B, state *server.State, m slot.Map) {
	for _, op := range []server.Op{server.CreateMap(m), server.DeleteMap(m.Bank)} {
		if _, err := state.Commit(context.Background(), op); err != nil {
			b.Error(err)
		}
	}
}

// BenchmarkBulk measures 20,000 maps in one transaction, and a start with as many maps as the protocol has ids for.
func BenchmarkBulk(b *testing.B) {
	for _, store := range stores {
		b.Run(store.name, func(b *testing.B) {
			state := loadState(b, store.open(b))
			for b.Loop() {
				begin := time.Now()
				if _, err := state.Commit(b.Context(), creations(0, 20_000)...); err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(20_000/time.Since(begin).Seconds(), "maps/s")
				if _, err := state.Commit(b.Context(), server.DeleteAllMaps()); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkStart measures a start with all maps that the protocol has ids for.
func BenchmarkStart(b *testing.B) {
	path := filepath.Join(b.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		b.Fatal(err)
	}
	state := loadState(b, s)
	begin := time.Now()
	if _, err := state.Commit(b.Context(), creations(0, 1<<20)...); err != nil {
		b.Fatal(err)
	}
	b.Logf("%d maps made in %s", 1<<20, time.Since(begin))
	s.Close()
	for b.Loop() {
		begin := time.Now()
		s, err := Open(path)
		if err != nil {
			b.Fatal(err)
		}
		opened := time.Since(begin)
		loadState(b, s)
		b.ReportMetric(opened.Seconds(), "s-to-open")
		s.Close()
	}
}
