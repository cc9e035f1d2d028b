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
		if cl := p.s.clients[c]; (cl == nil || cl.peer == nil && cl.told.none()) && p.client(c) == nil && p.givenTo(c) == nil {
			r.Map.Client = c
			t.changes = append(t.changes, Assign{Assignment{key, c, now}})
			set(&p.ids, key, c)
			set(&p.given, c, &key)
			return nil
		}
	}
	return errNoID
}

// assigned returns the client slot that key will have.
func (p *plan) assigned(key ClientKey) (slot.Client, bool) {
	for q := p; q != nil; q = q.under {
		if c, ok := q.ids[key]; ok {
			return c, p.has(key, c)
		}
	}
	c, ok := p.s.ids[key]
	return c, ok && p.has(key, c)
}

func (p *plan) has(key ClientKey, c slot.Client) bool {
	k := p.givenTo(c)
	return k != nil && *k == key
}

// givenTo returns whose a client slot will be; nil: nobody's.
func (p *plan) givenTo(c slot.Client) *ClientKey {
	for q := p; q != nil; q = q.under {
		if k, ok := q.given[c]; ok {
			return k
		}
	}
	if k, ok := p.s.given[c]; ok {
		return &k
	}
	return nil
}

// ForgetClient returns the Op after which a client slot that was given is nobody's, and can be given to another. It fails with an
// *UnassignedError when it is nobody's, and with a *BusyError while a client has it or a map needs it.
func ForgetClient(c slot.Client) Op { return Op{kind: opUnassign, client: c} }

// An UnassignedError says that a client slot wasn't given to any client.
type UnassignedError struct{ Client slot.Client }

// Error implements error.
func (e *UnassignedError) Error() string {
	return fmt.Sprintf("client slot %s was given to nobody", e.Client)
}

// A BusyError says that a client slot that was given is in use.
type BusyError struct {
	Client slot.Client
	In     *slot.Map // that it is in; nil: its client is connected
}

// Error implements error.
func (e *BusyError) Error() string {
	if e.In == nil {
		return fmt.Sprintf("client %s is connected", e.Client)
	}
	return fmt.Sprintf("client slot %s is in map %s", e.Client, e.In)
}

// unassign checks that a client slot is somebody's who doesn't use it.
func (p *plan) unassign(t *txn, c slot.Client) error {
	key := p.givenTo(c)
	if key == nil {
		return &UnassignedError{c}
	}
	if cl := p.s.clients[c]; cl != nil && cl.peer != nil {
		return &BusyError{Client: c}
	}
	if m := p.client(c); m != nil {
		return &BusyError{c, &m.Map}
	}
	t.changes = append(t.changes, Unassign{Assignment{Key: *key, Client: c}})
	set(&p.given, c, nil)
	return nil
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

// unassign notes that a client slot is nobody's. What its client was told is forgotten: the next one wasn't.
func (s *State) unassign(a Assignment) {
	delete(s.ids, a.Key)
	delete(s.given, a.Client)
	s.note(ClientForgotten, a)
	if c := s.clients[a.Client]; c != nil && c.peer == nil && s.byClient[a.Client] == nil {
		c.told, c.rumour = Target{}, false
		s.settleClient(c.slot)
		s.release(c)
	}
}
