// SPDX-License-Identifier: GPL-2.0-or-later

// Package store keeps the state of a server: in a file, or in memory for the next server of the same process.
//
// The file is a bbolt database. Each transaction of the server is one of it: its pages are written and synced, and then the
// page that makes them count is, so that a crash at any moment leaves all of a transaction or nothing.
package store

import (
	"context"
	"iter"
	"slices"
	"sync"

	"remsim/internal/server"
)

// maxHistory is how many steps of transactions are kept for those who watch.
const maxHistory = 1 << 14

// A history is the latest transactions of a store, for those who watch them.
type history struct {
	mu     sync.Mutex
	recent []server.Transaction // with revisions that follow on each other
	steps  int                  // of them
	last   uint64               // revision of the last transaction, which may be older than recent
	closed bool
	news   chan struct{} // closed when one of the above changes
}

func newHistory(revision uint64) *history {
	return &history{last: revision, news: make(chan struct{})}
}

// add adds the transaction that made the next revision.
func (h *history) add(t server.Transaction) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.recent = append(h.recent, t)
	h.steps += len(t.Changes)
	h.last = t.Revision
	if h.steps > maxHistory {
		n := 0
		for ; h.steps > maxHistory/2 && n < len(h.recent); n++ {
			h.steps -= len(h.recent[n].Changes)
		}
		h.recent = slices.Delete(h.recent, 0, n)
	}
	h.tell()
}

// close ends all watching.
func (h *history) close() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.closed = true
	h.tell()
}

func (h *history) tell() {
	close(h.news)
	h.news = make(chan struct{})
}

// next returns the transactions after a revision; when there are none, news is closed once that may have changed.
func (h *history) next(after uint64) (l []server.Transaction, news <-chan struct{}, err error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	missing := h.last - after
	switch {
	case h.closed:
		return nil, nil, server.ErrClosed
	case after > h.last:
		return nil, nil, server.ErrConflict
	case missing > uint64(len(h.recent)):
		return nil, nil, server.ErrCompacted
	}
	return slices.Clone(h.recent[uint64(len(h.recent))-missing:]), h.news, nil
}

// watch is server.Store's Watch.
func (h *history) watch(ctx context.Context, after uint64) iter.Seq2[server.Transaction, error] {
	return func(yield func(server.Transaction, error) bool) {
		for {
			l, news, err := h.next(after)
			if err != nil {
				yield(server.Transaction{}, err)
				return
			}
			for _, t := range l {
				if !yield(t, nil) {
					return
				}
				after = t.Revision
			}
			if len(l) > 0 {
				continue
			}
			select {
			case <-news:
			case <-ctx.Done():
				yield(server.Transaction{}, context.Cause(ctx))
				return
			}
		}
	}
}

// table is a kind of record. Each record is a key and a value, which is the same in memory and in a file.
type table uint8

const (
	tableMaps table = iota
	tableRemovals
	tableBeliefs
	tableIDs
	numTables
)

// tables is where records are: a file in a transaction, or memory.
type tables interface {
	has(t table, key []byte) bool
	put(t table, key, value []byte)
	remove(t table, key []byte)
}

// apply does the steps of a transaction, and returns how many of them are starts.
func apply(to tables, changes []server.Change) (starts uint64) {
	for _, c := range changes {
		switch c := c.(type) {
		case server.Want:
			key, value := mapRecord(c.StoredMap)
			to.put(tableMaps, key, value)
		case server.End:
			to.remove(tableMaps, appendBank(nil, c.Bank))
			to.put(tableRemovals, removalKey(c.Map), removalValue(c.Removal))
			if key := appendClient(nil, c.Client); !to.has(tableBeliefs, key) {
				to.put(tableBeliefs, key, appendBank(nil, c.Bank))
			}
		case server.Removed:
			to.remove(tableRemovals, removalKey(c.Map))
		case server.Told:
			to.remove(tableBeliefs, appendClient(nil, c.Client))
		case server.Assign:
			to.put(tableIDs, idKey(c.Key), idValue(c.Assignment))
		case server.Unassign:
			to.remove(tableIDs, idKey(c.Key))
		case server.Started:
			starts++
		}
	}
	return starts
}

// read adds a record to a snapshot.
func read(s *server.Snapshot, t table, key, value []byte) error {
	switch t {
	case tableMaps:
		m, err := parseMap(key, value)
		s.Maps = append(s.Maps, m)
		return err
	case tableRemovals:
		r, err := parseRemoval(key, value)
		s.Removals = append(s.Removals, r)
		return err
	case tableBeliefs:
		b, err := parseBelief(key, value)
		s.Beliefs = append(s.Beliefs, b)
		return err
	case tableIDs:
		a, err := parseID(key, value)
		s.IDs = append(s.IDs, a)
		return err
	}
	return errNoTable
}
