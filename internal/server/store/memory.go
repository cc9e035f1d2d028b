// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"context"
	"iter"
	"sync"

	"remsim/internal/server"
)

// Memory returns a store in memory. It outlives servers that it is handed to one after the other: to all but the first it is a durable
// one.
func Memory() server.Store {
	m := &memory{history: newHistory(0)}
	for t := range m.records {
		m.records[t] = make(map[string][]byte)
	}
	return m
}

type memory struct {
	mu       sync.Mutex
	revision uint64
	starts   uint64
	records  [numTables]map[string][]byte
	history  *history
}

// Load implements server.Store.
func (m *memory) Load(context.Context) (server.Snapshot, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	s := server.Snapshot{Revision: m.revision, Durable: m.starts > 0, Starts: m.starts}
	for t, records := range m.records {
		for k, v := range records {
			if err := read(&s, table(t), []byte(k), v); err != nil {
				return server.Snapshot{}, err
			}
		}
	}
	return s, nil
}

// Commit implements server.Store.
func (m *memory) Commit(_ context.Context, base uint64, changes []server.Change) (uint64, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if base != m.revision {
		return 0, server.ErrConflict
	}
	m.starts += apply(m, changes)
	m.revision++
	m.history.add(server.Transaction{Revision: m.revision, Changes: changes})
	return m.revision, nil
}

// Watch implements server.Store.
func (m *memory) Watch(ctx context.Context, after uint64) iter.Seq2[server.Transaction, error] {
	return m.history.watch(ctx, after)
}

// Close implements server.Store; a store in memory may be used again, by the next server.
func (m *memory) Close() error { return nil }

func (m *memory) has(t table, key []byte) bool {
	_, ok := m.records[t][string(key)]
	return ok
}

func (m *memory) put(t table, key, value []byte) { m.records[t][string(key)] = value }

func (m *memory) remove(t table, key []byte) { delete(m.records[t], string(key)) }
