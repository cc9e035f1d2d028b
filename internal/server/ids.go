// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"strconv"
	"strings"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// Client slots are given to clients that ask for one (connectClientReq without clientSlot, RSPRO ConfigClientIdReq): slot 0
// of an id of the pool. Whoever asks again is given the same one; see ClientKey.

// An IDPool is the client ids that are given, First..Last.
type IDPool struct{ First, Last uint16 }

// ParseIDPool reads "N-M" or "N" with N and M 0..1023.
func ParseIDPool(s string) (IDPool, error) {
	first, last, ok := strings.Cut(s, "-")
	if !ok {
		last = first
	}
	f, err1 := strconv.ParseUint(first, 10, 16)
	l, err2 := strconv.ParseUint(last, 10, 16)
	if err := errors.Join(err1, err2); err != nil || f > l || l > slot.Max {
		return IDPool{}, fmt.Errorf("client ids %q: want N-M or N with N <= M and both 0..%d", s, slot.Max)
	}
	return IDPool{uint16(f), uint16(l)}, nil
}

// String returns what ParseIDPool reads.
func (p IDPool) String() string {
	if p.First == p.Last {
		return strconv.Itoa(int(p.First))
	}
	return fmt.Sprintf("%d-%d", p.First, p.Last)
}

func (p IDPool) has(id uint16) bool { return p.First <= id && id <= p.Last }

// Why a client isn't given a slot.
var (
	errNoPool = errors.New("there is no pool of client ids (--client-id-pool)")
	errNoID   = errors.New("no client id of the pool is free")
)

// keyOf returns how a client that asks for a slot is known, as the first of its kind.
func keyOf(id rspro.ComponentIdentity) ClientKey {
	return ClientKey{Name: id.Name, Serial: id.HWSerialNr, Interface: id.HWVersion}
}

// first returns the key of the first of k's kind.
func (k ClientKey) first() ClientKey {
	k.Instance = 0
	return k
}

// assign checks that there is a client slot for key and finds it: the one it has, or the first of the pool that
// nobody has or was given, that is in no map and that nobody was told to use.
func (p *plan) assign(t *txn, key ClientKey, r *Result, now time.Time) error {
	pool := p.s.pool
	if pool == nil {
		return errNoPool
	}
	if c, ok := p.assigned(key); ok && pool.has(c.ID) {
		r.Map.Client = c
		return nil
	}
	for id := pool.First; id <= pool.Last; id++ {
		c := slot.Client{ID: id}
		if p.s.clients[c] == nil && p.client(c) == nil && !p.isGiven(c) {
			r.Map.Client = c
			t.changes = append(t.changes, Assign{Assignment{key, c, now}})
			set(&p.ids, key, c)
			set(&p.given, c, true)
			return nil
		}
	}
	return errNoID
}

// assigned returns the client slot that key will have.
func (p *plan) assigned(key ClientKey) (slot.Client, bool) {
	for q := p; q != nil; q = q.under {
		if c, ok := q.ids[key]; ok {
			return c, true
		}
	}
	c, ok := p.s.ids[key]
	return c, ok
}

// isGiven reports whether a client slot will be given to anybody.
func (p *plan) isGiven(c slot.Client) bool {
	for q := p; q != nil; q = q.under {
		if q.given[c] {
			return true
		}
	}
	_, ok := p.s.given[c]
	return ok
}

// giveID returns the client slot of key, which is given one if it has none yet, and stored.
func (s *State) giveID(ctx context.Context, key ClientKey) (slot.Client, error) {
	r, err := s.Commit(ctx, Op{kind: opAssign, key: key})
	if err != nil {
		return slot.Client{}, err
	}
	return r[0].Map.Client, nil
}

// assign notes that a client slot was given.
func (s *State) assign(a Assignment) {
	if c, ok := s.ids[a.Key]; ok {
		delete(s.given, c)
	}
	s.ids[a.Key] = a.Client
	s.given[a.Client] = a.Key
}
