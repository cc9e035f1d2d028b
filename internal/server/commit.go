// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"fmt"
	"iter"
	"maps"
	"net/netip"
	"slices"
	"time"

	"remsim/internal/slot"
)

// How a change is made: Commit puts it into a queue. Whoever leads takes all that is in the queue, checks it against the
// maps there are, has it stored as one transaction, and applies it. So changes that come together share a sync,
// nothing is seen by anybody before it is stored, and a bankd never has a map that the store doesn't know.

// An Op is a change of the maps that is asked for.
type Op struct {
	kind   opKind
	m      slot.Map
	key    ClientKey
	only   condition
	client slot.Client // of onlyOf, or opUnassign
}

type opKind uint8

const (
	opCreate opKind = iota
	opPut
	opDelete
	opDeleteAll
	opAssign
	opUnassign
)

// A condition is what is to be at the bank slot of an Op.
type condition uint8

const (
	always    condition = iota
	onlyNew             // no map that was asked for
	onlyOfAny           // a map
	onlyOf              // a map of Op.client
)

// OnlyNew returns op on condition that its bank slot is in no map that was asked for: else it fails with a *ConditionError.
func (op Op) OnlyNew() Op {
	op.only = onlyNew
	return op
}

// OnlyOfAny returns op on condition that its bank slot is in a map: else it fails with a *ConditionError.
func (op Op) OnlyOfAny() Op {
	op.only = onlyOfAny
	return op
}

// OnlyOf returns op on condition that its bank slot is in a map of client slot c: else it fails with a *ConditionError.
func (op Op) OnlyOf(c slot.Client) Op {
	op.only, op.client = onlyOf, c
	return op
}

// check fails unless at, the map of op's bank slot or nil, is as it is to be.
func (op Op) check(at *planned) error {
	met := true
	switch op.only {
	case onlyNew:
		met = at == nil || at.adopted
	case onlyOfAny:
		met = at != nil
	case onlyOf:
		met = at != nil && at.Client == op.client
	}
	switch {
	case met:
		return nil
	case at == nil:
		return &ConditionError{op.m.Bank, nil}
	}
	return &ConditionError{op.m.Bank, &at.Map}
}

// CreateMap returns the Op that adds a map. It fails with a *TakenError when one of its ends is in a map already. An
// adopted map is in nobody's way: asked for, it becomes a map like others, and it ends for one
// that needs one of its ends. So it makes no difference whether a map is asked for before or after its bankd is there.
func CreateMap(m slot.Map) Op { return Op{kind: opCreate, m: m} }

// PutMap returns the Op after which there is a map, whatever there was before: maps that its ends are in
// end. A client that had another bank slot keeps the map's time of creation. A map that is there is left as it is.
func PutMap(m slot.Map) Op { return Op{kind: opPut, m: m} }

// DeleteMap returns the Op that asks for the end of the map of a bank slot. From then on both its slots are free for new maps. It
// fails with a *MissingError when there is none.
func DeleteMap(b slot.Bank) Op { return Op{kind: opDelete, m: slot.Map{Bank: b}} }

// DeleteAllMaps returns the Op that asks for the end of all maps; maps that a bankd has from before the server's start
// aren't adopted any more.
func DeleteAllMaps() Op { return Op{kind: opDeleteAll} }

// A Result is what an Op has done.
type Result struct {
	Map     slot.Map   // that was created or put; for DeleteMap that was deleted
	Created bool       // Map wasn't there before
	Ended   []slot.Map // whose end was asked for
}

// An OpError says which of a transaction's Ops can't be done. None of them was.
type OpError struct {
	Index int // of the Op, from 0
	Err   error
}

// Error implements error.
func (e *OpError) Error() string { return e.Err.Error() }

// Unwrap returns why it can't: a *TakenError, a *MissingError, a *ConditionError, an *UnassignedError, a
// *BusyError or an error that names an id out of range.
func (e *OpError) Unwrap() error { return e.Err }

// A TakenError says that a slot is in a map already.
type TakenError struct {
	Member string // "bank" or "client"
	By     slot.Map
}

// Error implements error.
func (e *TakenError) Error() string {
	s := e.By.Bank.String()
	if e.Member == "client" {
		s = e.By.Client.String()
	}
	return fmt.Sprintf("%s slot %s is in use by map %s", e.Member, s, e.By)
}

// A MissingError says that a bank slot is in no map.
type MissingError struct{ Bank slot.Bank }

// Error implements error.
func (e *MissingError) Error() string { return fmt.Sprintf("bank slot %s is in no map", e.Bank) }

// A ConditionError says that a bank slot isn't in the map that an Op is for.
type ConditionError struct {
	Bank slot.Bank
	In   *slot.Map // that it is in; nil: in none
}

// Error implements error.
func (e *ConditionError) Error() string {
	if e.In == nil {
		return fmt.Sprintf("bank slot %s is in no map", e.Bank)
	}
	return fmt.Sprintf("bank slot %s is in map %s", e.Bank, e.In)
}

// A txn is a call of Commit.
type txn struct {
	ops     []Op
	done    chan struct{} // closed when the rest is set
	results []Result
	err     error

	changes []Change // while it is being committed
	all     bool     // it has an opDeleteAll
}

// Commit does all ops, in order, or none of them. When it returns nil they are stored: nothing that happens to the server
// undoes them. It fails with an *OpError when one can't be done, with a *StoreError when they can't be
// stored, and with ctx's error when that ends before they have begun.
func (s *State) Commit(ctx context.Context, ops ...Op) ([]Result, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	t := &txn{ops: ops, done: make(chan struct{})}
	s.mu.Lock()
	s.queue = append(s.queue, t)
	s.mu.Unlock()
	select {
	case s.leading <- struct{}{}:
		s.lead()
		<-s.leading
	case <-t.done:
	case <-ctx.Done():
		if s.withdraw(t) {
			return nil, ctx.Err()
		}
	}
	<-t.done
	return t.results, t.err
}

// withdraw takes t out of the queue; it reports false when t isn't there any more.
func (s *State) withdraw(t *txn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	i := slices.Index(s.queue, t)
	if i >= 0 {
		s.queue = slices.Delete(s.queue, i, i+1)
	}
	return i >= 0
}

// flush stores what has settled since the last transaction, if anything.
func (s *State) flush(ctx context.Context) error {
	select {
	case s.leading <- struct{}{}:
	case <-ctx.Done():
		return ctx.Err()
	}
	defer func() { <-s.leading }()
	return s.lead()
}

// lead commits what is in the queue. One that can't be stored doesn't take the others with it.
func (s *State) lead() error {
	s.mu.Lock()
	batch := s.queue
	s.queue = nil
	s.mu.Unlock()
	err := s.commit(batch)
	for i, t := range batch {
		failed := err
		if err != nil && len(batch) > 1 {
			failed = s.commit(batch[i : i+1])
		}
		if failed != nil {
			t.err = failed
		}
		close(t.done)
	}
	return err
}

// commit does as many of the transactions as can be done; the others get an *OpError. It fails without a change when they can't be stored.
func (s *State) commit(batch []*txn) error {
	s.mu.Lock()
	settled := s.settled
	s.settled = settlement{}
	ended := settled.changes(s)
	changes := ended
	all := &plan{s: s}
	for i, t := range batch {
		p := &plan{s: s, under: all}
		if t.err = p.txn(t, i == len(batch)-1); t.err == nil {
			all.take(p)
			changes = append(changes, t.changes...)
		}
	}
	s.mu.Unlock()

	if len(changes) > 0 && s.store != nil {
		// Not with the context of whose call it is: the others' calls go on when that has ended.
		began := time.Now()
		revision, err := s.store.Commit(context.Background(), s.revision, changes)
		s.stored.Observe(time.Since(began))
		if err != nil {
			s.mu.Lock()
			defer s.mu.Unlock()
			s.counts.unstored++
			s.settled.add(settled)
			return &StoreError{err}
		}
		s.revision = revision
	}

	s.mu.Lock()
	defer s.unlock()
	for _, c := range ended {
		if told, ok := c.(Told); ok && s.clients[told.Client] != nil {
			s.clients[told.Client].stale = false
			s.release(s.clients[told.Client])
		}
	}
	for _, t := range batch {
		if t.err == nil {
			s.apply(t)
		}
	}
	return nil
}

// apply does what was stored.
func (s *State) apply(t *txn) {
	for _, c := range t.changes {
		switch c := c.(type) {
		case Want:
			s.want(c.StoredMap)
		case End:
			if m := s.wanted(c.Bank); m != nil {
				s.end(m, c.Deleted)
			}
		case Assign:
			s.assign(c.Assignment)
		case Unassign:
			s.unassign(c.Assignment)
		}
	}
	if t.all {
		s.adopts = false
		for _, m := range s.byClient {
			if m.adopted { // since the transaction was checked
				s.end(m, time.Now())
			}
		}
	}
	t.changes = nil
}

// want takes a map that is wanted from now on. Adopted ones alone can be in its way.
func (s *State) want(w StoredMap) {
	at, of := s.wanted(w.Bank), s.byClient[w.Client]
	if at != nil && at == of {
		at.adopted = false
		s.noteMap(SlotmapChanged, at)
		return
	}
	for _, m := range []*mapping{at, of} {
		if m != nil {
			s.end(m, time.Now())
		}
	}
	p, m := s.enlist(w.Map, w.Seq)
	s.byClient[m.Client] = m
	p.create(m)
	m.created = stampOf(w.Created)
	s.markPlace(p)
}

// end has a map not be wanted any more.
func (s *State) end(m *mapping, when time.Time) {
	p := s.place(m.Bank)
	delete(s.byClient, m.Client)
	p.bank.freed[p.nr] = true
	s.outdate(m)
	s.forget(p, p.delete(m))
	m.deleted = stampOf(when)
	s.markPlace(p)
	s.markClient(m.Client)
}

// someBankd stands for the address of a bankd that an earlier server has told.
var someBankd = netip.AddrPortFrom(netip.IPv4Unspecified(), bankdPort)

// outdate notes that the client of a map that ends may have been told of it.
func (s *State) outdate(m *mapping) {
	c := s.clients[m.Client]
	if s.store == nil {
		if m.inherited && (c == nil || c.peer == nil || c.peer.tells == 0) {
			s.believed(Target{m.Bank, someBankd}, m.Client)
		}
		return
	}
	if c == nil {
		c = &client{slot: m.Client}
		s.clients[m.Client] = c
	}
	if m.inherited && c.told.none() && (c.peer == nil || c.peer.tells == 0) {
		c.told = Target{m.Bank, someBankd} // by an earlier server
	}
	c.stale = true
	s.settleClient(m.Client)
}

// A plan is what the maps and ids will be when what has been checked so far is stored: what differs from State.
type plan struct {
	s     *State
	under *plan // that p begins with; may be nil
	at    map[slot.Bank]*planned
	of    map[slot.Client]*planned // nil in both: there will be none
	none  bool                     // there are no maps but those of at
	last  bool                     // the op that is being planned is the last: what maps there are then need not be known
	ids   map[ClientKey]slot.Client
	given map[slot.Client]*ClientKey // nil: it will be nobody's
}

// planned is a map that will be wanted.
type planned struct {
	StoredMap
	adopted bool
}

// planned returns what a plan has of m, which may be nil.
func (m *mapping) planned() *planned {
	if m == nil {
		return nil
	}
	return &planned{StoredMap{m.Map, m.seq, m.created.time(), m.changed.time()}, m.adopted}
}

// take adds what q, which began with p, has come to.
func (p *plan) take(q *plan) {
	if q.none {
		p.at, p.of, p.none = nil, nil, true
	}
	merge(&p.at, q.at)
	merge(&p.of, q.of)
	merge(&p.ids, q.ids)
	merge(&p.given, q.given)
}

func merge[K comparable, V any](to *map[K]V, from map[K]V) {
	if *to == nil {
		*to = from
		return
	}
	maps.Copy(*to, from)
}

func set[K comparable, V any](m *map[K]V, k K, v V) {
	if *m == nil {
		*m = make(map[K]V)
	}
	(*m)[k] = v
}

// bank returns the map that a bank slot will be in; nil: none.
func (p *plan) bank(b slot.Bank) *planned {
	for q := p; q != nil; q = q.under {
		if m, ok := q.at[b]; ok || q.none {
			return m
		}
	}
	return p.s.wanted(b).planned()
}

// client returns the map that a client slot will be in; nil: none.
func (p *plan) client(c slot.Client) *planned {
	for q := p; q != nil; q = q.under {
		if m, ok := q.of[c]; ok || q.none {
			return m
		}
	}
	return p.s.byClient[c].planned()
}

// txn checks t's ops and finds what they change and result in. last: none comes after it.
func (p *plan) txn(t *txn, last bool) error {
	t.changes, t.results, t.all = nil, make([]Result, len(t.ops)), false
	now := time.Now()
	for i, op := range t.ops {
		p.last = last && i == len(t.ops)-1
		if err := p.op(t, op, &t.results[i], now); err != nil {
			t.changes, t.results = nil, nil
			return &OpError{i, err}
		}
	}
	return nil
}

func (p *plan) op(t *txn, op Op, r *Result, now time.Time) error {
	switch op.kind {
	case opAssign:
		return p.assign(t, op.key, r, now)
	case opUnassign:
		r.Map.Client = op.client
		return p.unassign(t, op.client)
	case opDelete:
		m := p.bank(op.m.Bank)
		if err := op.check(m); err != nil {
			return err
		}
		if m == nil {
			return &MissingError{op.m.Bank}
		}
		r.Map = m.Map
		p.end(t, m, r, now)
		return nil
	case opDeleteAll:
		for m := range p.all() {
			t.end(m, r, now)
		}
		p.at, p.of, p.none, t.all = nil, nil, true, true
		return nil
	}
	if !op.m.Bank.Valid() || !op.m.Client.Valid() {
		return fmt.Errorf("map %s: numbers must be 0..%d", op.m, slot.Max)
	}
	at, of := p.bank(op.m.Bank), p.client(op.m.Client)
	if err := op.check(at); err != nil {
		return err
	}
	switch {
	case op.kind == opPut:
	case at != nil && !at.adopted:
		return &TakenError{"bank", at.Map}
	case of != nil && !of.adopted:
		return &TakenError{"client", of.Map}
	}
	r.Map = op.m
	w := StoredMap{Map: op.m, Created: now, Changed: now}
	switch {
	case at != nil && at.Map == op.m:
		if !at.adopted {
			return nil
		}
	default:
		r.Created = true
		if at != nil {
			p.end(t, at, r, now)
		}
		if of != nil {
			w.Created = of.Created
			p.end(t, of, r, now)
		}
	}
	p.s.seq++
	w.Seq = p.s.seq
	t.changes = append(t.changes, Want{w})
	if !p.last {
		m := &planned{StoredMap: w}
		set(&p.at, w.Bank, m)
		set(&p.of, w.Client, m)
	}
	return nil
}

// all returns all maps that there will be.
func (p *plan) all() iter.Seq[*planned] {
	return func(yield func(*planned) bool) {
		seen := make(map[slot.Client]bool)
		for q := p; q != nil; q = q.under {
			for c, m := range q.of {
				if !seen[c] {
					seen[c] = true
					if m != nil && !yield(m) {
						return
					}
				}
			}
			if q.none {
				return
			}
		}
		for m := p.s.first; m != nil; m = m.next {
			if !m.leaving() && !seen[m.Client] && !yield(m.planned()) {
				return
			}
		}
	}
}

func (t *txn) end(m *planned, r *Result, now time.Time) {
	r.Ended = append(r.Ended, m.Map)
	t.changes = append(t.changes, End{Removal{m.Map, m.Created, now}})
}

func (p *plan) end(t *txn, m *planned, r *Result, now time.Time) {
	t.end(m, r, now)
	if !p.last {
		set(&p.at, m.Bank, nil)
		set(&p.of, m.Client, nil)
	}
}
