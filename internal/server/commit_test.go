// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"maps"
	"reflect"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// testStore is what the comments of Change say, in memory.
type testStore struct {
	mu      sync.Mutex
	txns    [][]Change // that were stored
	starts  uint64
	wanted  map[slot.Bank]StoredMap
	owed    map[slot.Map]Removal
	beliefs map[slot.Client]slot.Bank
	ids     map[ClientKey]Assignment

	fail func() error // is called before a transaction is stored
}

func newTestStore() *testStore {
	return &testStore{
		wanted: map[slot.Bank]StoredMap{}, owed: map[slot.Map]Removal{}, beliefs: map[slot.Client]slot.Bank{}, ids: map[ClientKey]Assignment{},
	}
}

func (s *testStore) Load(context.Context) (Snapshot, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	snap := Snapshot{
		Revision: uint64(len(s.txns)), Durable: true, Starts: s.starts, Maps: slices.Collect(maps.Values(s.wanted)),
		Removals: slices.Collect(maps.Values(s.owed)), IDs: slices.Collect(maps.Values(s.ids)),
	}
	for c, b := range s.beliefs {
		snap.Beliefs = append(snap.Beliefs, Belief{c, b})
	}
	return snap, nil
}

func (s *testStore) Commit(_ context.Context, base uint64, changes []Change) (uint64, error) {
	if s.fail != nil {
		if err := s.fail(); err != nil {
			return 0, err
		}
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if base != uint64(len(s.txns)) {
		return 0, ErrConflict
	}
	for _, c := range changes {
		switch c := c.(type) {
		case Want:
			if was, ok := s.wanted[c.Bank]; ok {
				panic(fmt.Sprintf("%s is wanted where %s is", c.Map, was.Map))
			}
			s.wanted[c.Bank] = c.StoredMap
		case End:
			if was := s.wanted[c.Bank]; was.Map != c.Map {
				panic(fmt.Sprintf("%s ends where %s is wanted", c.Map, was.Map))
			}
			delete(s.wanted, c.Bank)
			s.owed[c.Map] = c.Removal
			if _, ok := s.beliefs[c.Client]; !ok {
				s.beliefs[c.Client] = c.Bank
			}
		case Removed:
			delete(s.owed, c.Map)
		case Told:
			delete(s.beliefs, c.Client)
		case Unassign:
			delete(s.ids, c.Key)
		case Assign:
			s.ids[c.Key] = c.Assignment
		case Started:
			s.starts++
		}
	}
	s.txns = append(s.txns, changes)
	return uint64(len(s.txns)), nil
}

func (s *testStore) Watch(context.Context, uint64) iter.Seq2[Transaction, error] { panic("unused") }
func (s *testStore) Close() error                                                { return nil }

// open says how many removals and beliefs are stored.
func (s *testStore) open() string {
	s.mu.Lock()
	defer s.mu.Unlock()
	return fmt.Sprint(len(s.owed), " owed, ", len(s.beliefs), " believed")
}

func (s *testStore) count() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.txns)
}

// start starts a server's state with the store.
func (s *testStore) start(t testing.TB) *State {
	t.Helper()
	state, err := LoadState(t.Context(), s)
	if err != nil {
		t.Fatal(err)
	}
	return state
}

// Create, Delete and DeleteAll commit one Op without a store.

func (s *State) Create(m slot.Map) error {
	_, err := s.Commit(context.Background(), CreateMap(m))
	if e := new(OpError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (s *State) Delete(b slot.Bank) (slot.Map, bool) {
	r, err := s.Commit(context.Background(), DeleteMap(b))
	if err != nil {
		return slot.Map{}, false
	}
	return r[0].Map, true
}

func (s *State) DeleteAll() int {
	r, err := s.Commit(context.Background(), DeleteAllMaps())
	if err != nil {
		panic(err)
	}
	return len(r[0].Ended)
}

// TestCommit checks what ops do, one after the other and in one transaction, and that a transaction with one that can't be done does nothing.
func TestCommit(t *testing.T) {
	m := func(text string) slot.Map {
		c, b, _ := strings.Cut(text, "=")
		client, err1 := slot.ParseClient(c)
		bank, err2 := slot.ParseBank(b)
		if err := errors.Join(err1, err2); err != nil {
			t.Fatal(err)
		}
		return slot.Map{Bank: bank, Client: client}
	}
	create := func(text string) Op { return CreateMap(m(text)) }
	put := func(text string) Op { return PutMap(m(text)) }
	del := func(text string) Op { return DeleteMap(m("C0:0=" + text).Bank) }
	for _, tt := range []struct {
		name string
		ops  []Op
		want string // maps, or which op fails and how
		done string // "+" created, "-N" ended N
	}{
		{"nothing", nil, "C1:0=B1:0 C2:0=B2:0", ""},
		{"create", []Op{create("C3:0=B3:0")}, "C1:0=B1:0 C2:0=B2:0 C3:0=B3:0", "+"},
		{"bank taken", []Op{create("C3:0=B3:0"), create("C4:0=B1:0")}, "1: bank slot B1:0 is in use by map C1:0=B1:0", ""},
		{"client taken", []Op{create("C1:0=B3:0")}, "0: client slot C1:0 is in use by map C1:0=B1:0", ""},
		{"taken by itself", []Op{create("C3:0=B3:0"), create("C4:0=B3:0")}, "1: bank slot B3:0 is in use by map C3:0=B3:0", ""},
		{"created twice", []Op{create("C1:0=B1:0")}, "0: bank slot B1:0 is in use by map C1:0=B1:0", ""},
		{"put what is there", []Op{put("C1:0=B1:0")}, "C1:0=B1:0 C2:0=B2:0", ""},
		{"put a new one", []Op{put("C3:0=B3:0")}, "C1:0=B1:0 C2:0=B2:0 C3:0=B3:0", "+"},
		{"put moves a client", []Op{put("C1:0=B3:0")}, "C2:0=B2:0 C1:0=B3:0", "+-1"},
		{"put moves a bank slot", []Op{put("C3:0=B1:0")}, "C2:0=B2:0 C3:0=B1:0", "+-1"},
		{"put ends two", []Op{put("C1:0=B2:0")}, "C1:0=B2:0", "+-2"},
		{"swap", []Op{put("C1:0=B2:0"), put("C2:0=B1:0")}, "C1:0=B2:0 C2:0=B1:0", "+-2 +"},
		{"put there and back", []Op{put("C1:0=B3:0"), put("C1:0=B1:0")}, "C2:0=B2:0 C1:0=B1:0", "+-1 +-1"},
		{"delete", []Op{del("B1:0")}, "C2:0=B2:0", "-1"},
		{"delete twice", []Op{del("B1:0"), del("B1:0")}, "1: bank slot B1:0 is in no map", ""},
		{"delete and create", []Op{del("B1:0"), create("C4:0=B1:0"), create("C1:0=B1:1")}, "C2:0=B2:0 C4:0=B1:0 C1:0=B1:1", "-1 + +"},
		{"create and delete", []Op{create("C4:0=B4:0"), del("B4:0")}, "C1:0=B1:0 C2:0=B2:0", "+ -1"},
		{"delete all", []Op{create("C4:0=B4:0"), DeleteAllMaps(), create("C1:0=B1:0")}, "C1:0=B1:0", "+ -3 +"},
		{"delete all, twice", []Op{DeleteAllMaps(), del("B1:0")}, "1: bank slot B1:0 is in no map", ""},
		{"out of range", []Op{create("C3:0=B3:0"), CreateMap(slot.Map{Bank: bk(1024, 0)})}, "1: map C0:0=B1024:0: numbers must be 0..1023", ""},
		{"only new", []Op{put("C3:0=B1:0").OnlyNew()}, "0: bank slot B1:0 is in map C1:0=B1:0", ""},
		{"only new, and is", []Op{put("C3:0=B3:0").OnlyNew()}, "C1:0=B1:0 C2:0=B2:0 C3:0=B3:0", "+"},
		{"only of", []Op{del("B1:0").OnlyOf(cl(2, 0))}, "0: bank slot B1:0 is in map C1:0=B1:0", ""},
		{"only of, and is", []Op{del("B1:0").OnlyOf(cl(1, 0))}, "C2:0=B2:0", "-1"},
		{"only of any", []Op{put("C3:0=B3:0").OnlyOfAny()}, "0: bank slot B3:0 is in no map", ""},
		{"only of any, and is", []Op{put("C3:0=B1:0").OnlyOfAny()}, "C2:0=B2:0 C3:0=B1:0", "+-1"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			store := newTestStore()
			s := store.start(t)
			if _, err := s.Commit(t.Context(), create("C1:0=B1:0"), create("C2:0=B2:0")); err != nil {
				t.Fatal(err)
			}
			before := len(store.txns)
			r, err := s.Commit(t.Context(), tt.ops...)
			list := func(s *State) string {
				var l []string
				for _, m := range s.Slotmaps() {
					if !m.Leaving() {
						l = append(l, m.Map.String())
					}
				}
				return strings.Join(l, " ")
			}
			got := list(s)
			if e := new(OpError); errors.As(err, &e) {
				if len(store.txns) != before || got != "C1:0=B1:0 C2:0=B2:0" {
					t.Errorf("failed, but has maps %s and stored %v", got, store.txns[before:])
				}
				got = fmt.Sprintf("%d: %v", e.Index, e)
			} else if err != nil {
				t.Fatal(err)
			}
			if got != tt.want {
				t.Errorf("got %s, want %s", got, tt.want)
			}
			var done []string
			for _, r := range r {
				d := ""
				if r.Created {
					d = "+"
				}
				if len(r.Ended) > 0 {
					d += fmt.Sprintf("-%d", len(r.Ended))
				}
				if d != "" {
					done = append(done, d)
				}
			}
			if d := strings.Join(done, " "); d != tt.done {
				t.Errorf("done %q, want %q", d, tt.done)
			}
			if again := list(store.start(t)); err == nil && again != tt.want {
				t.Errorf("after a start: %s, want %s", again, tt.want)
			}
		})
	}
}

// TestGroupCommit checks that changes that come while others are being stored are stored together, that none is seen before, and
// that those who leave before have changed nothing.
func TestGroupCommit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		s := store.start(t)
		syncs := 0
		store.fail = func() error {
			syncs++
			time.Sleep(time.Millisecond)
			return nil
		}
		const n = 1000
		var all sync.WaitGroup
		leaver, leave := context.WithCancel(t.Context())
		for i := range n {
			all.Go(func() {
				if _, err := s.Commit(t.Context(), CreateMap(pair(uint16(i), uint16(i)))); err != nil {
					t.Error(err)
				}
				if _, ok := s.Slotmap(bk(1, uint16(i))); !ok {
					t.Errorf("map %d isn't seen when it is confirmed", i)
				}
			})
		}
		synctest.Wait()
		for range 10 {
			all.Go(func() {
				if _, err := s.Commit(leaver, CreateMap(pair(1023, 1023))); !errors.Is(err, context.Canceled) {
					t.Errorf("left with %v", err)
				}
			})
		}
		synctest.Wait()
		if l := s.Slotmaps(); len(l) > 0 {
			t.Errorf("%d maps are seen before they are stored", len(l))
		}
		leave()
		all.Wait()
		if l := s.Slotmaps(); len(l) != n {
			t.Errorf("%d maps, want %d", len(l), n)
		}
		if syncs > 3 {
			t.Errorf("%d changes were stored in %d transactions, want 2 or 3", n, syncs)
		}
	})
}

// TestStoreFails checks that a change that can't be stored is refused and changes nothing, that one of a group that can is made, and that the
// next one is when the store is well again.
func TestStoreFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		f := newFixture(t)
		f.s = store.start(t)
		f.create(pair(0, 1))
		full := &StoreError{fmt.Errorf("write state.db: %w", syscall.ENOSPC)}
		store.fail = func() error { return full.Err }
		f.bankUp(1)
		for _, op := range []Op{CreateMap(pair(1, 2)), DeleteMap(bk(1, 0)), DeleteAllMaps(), PutMap(pair(2, 1))} {
			_, err := f.s.Commit(t.Context(), op)
			if e := new(StoreError); !errors.As(err, &e) || !e.Full() {
				t.Errorf("%+v: %v", op, err)
			}
		}
		f.expectLife("C1:0=B1:0 NEW")
		f.expect(1, "+C1:0=B1:0")

		// What fails is one of many.
		n := 0
		store.fail = func() error {
			time.Sleep(time.Millisecond)
			if n++; n == 2 || n == 3 {
				return full.Err
			}
			return nil
		}
		var all sync.WaitGroup
		failed := make(chan error, 4)
		for i := range uint16(4) {
			all.Go(func() {
				if _, err := f.s.Commit(t.Context(), CreateMap(pair(4+i, 4+i))); err != nil {
					failed <- err
				}
			})
			synctest.Wait() // the first is being stored, the others are behind it
		}
		all.Wait()
		if len(failed) != 1 || len(f.s.Slotmaps()) != 4 {
			t.Errorf("%d failed, and there are %d maps; want 1 and 4", len(failed), len(f.s.Slotmaps()))
		}

		// What comes with one that fails isn't judged by what that would have done.
		n = 0
		errs := make([]error, 5)
		for i, op := range []Op{
			CreateMap(pair(100, 100)), CreateMap(pair(101, 101)), DeleteMap(bk(1, 101)), CreateMap(pair(102, 101)), CreateMap(pair(103, 101)),
		} {
			all.Go(func() { _, errs[i] = f.s.Commit(t.Context(), op) })
			synctest.Wait()
		}
		all.Wait()
		if e := new(MissingError); errs[0] != nil || !errors.Is(errs[1], syscall.ENOSPC) || !errors.As(errs[2], &e) || errs[3] != nil {
			t.Errorf("failed with %v", errs)
		}
		if e := new(TakenError); !errors.As(errs[4], &e) || e.By != pair(102, 101) {
			t.Errorf("failed with %v", errs[4])
		}
	})
}

// TestRestart checks what a server does with what the one before has stored.
func TestRestart(t *testing.T) {
	c1, c2 := cl(1, 0), cl(2, 0)
	store := newTestStore()
	f := newFixture(t)
	start := func() {
		f.s = store.start(t)
		f.bankd, f.clients, f.out = map[uint16]*bankPeer{}, map[slot.Client]*clientPeer{}, map[slot.Bank]mapRequest{}
	}
	start()
	f.bankUp(1)
	f.create(pair(1, 1))
	f.create(pair(0, 2))
	f.expect(1, "+C1:0=B1:1 +C2:0=B1:0")
	f.answer(bk(1, 1), rspro.OK)
	f.answer(bk(1, 0), rspro.OK)
	f.delete(bk(1, 0))
	f.create(pair(2, 2))
	made := f.s.Slotmaps()

	start() // nothing of it was confirmed
	if n := f.s.Starts(); n != 2 {
		t.Errorf("%d starts", n)
	}
	f.expectLife("C2:0=B1:0 DELETE_REQ+, C1:0=B1:1 NEW, C2:0=B1:2 NEW")
	if m, _ := f.s.Slotmap(bk(1, 1)); !m.Created.Equal(made[0].Created) {
		t.Errorf("created at %v, want %v", m.Created, made[0].Created)
	}
	f.clientUp(c1)
	f.expectSilence(c1) // its session goes on
	f.bankUp(1)
	f.expect(1, "+C1:0=B1:1 +C2:0=B1:2 -C2:0=B1:0")
	f.answer(bk(1, 1), rspro.OK)
	f.answer(bk(1, 2), rspro.OK)
	f.answer(bk(1, 0), rspro.OK)
	f.expectLife("C1:0=B1:1 ACTIVE, C2:0=B1:2 ACTIVE")
	f.expectTold(c1, Target{bk(1, 1), addr(1)})

	start() // the end of the removal wasn't stored yet: it is asked for again
	f.expectLife("C2:0=B1:0 DELETE_REQ+, C1:0=B1:1 NEW, C2:0=B1:2 NEW")
	f.bankUp(1)
	f.expect(1, "+C1:0=B1:1 +C2:0=B1:2 -C2:0=B1:0")
	for nr := range uint16(3) {
		f.answer(bk(1, nr), rspro.OK)
	}
	f.bankDown(1)
	f.delete(bk(1, 1)) // of a client that isn't here, and may have been told
	if err := f.s.flush(t.Context()); err != nil {
		t.Fatal(err)
	}

	start()
	f.expectLife("C1:0=B1:1 DELETE_REQ+, C2:0=B1:2 NEW")
	f.clientUp(c1)
	f.clientUp(c2)
	f.expectTold(c1, noBankd(bk(1, 1)))
	f.expectSilence(c2)
	f.bankUp(1)
	f.expect(1, "+C2:0=B1:2 -C1:0=B1:1")
	f.answer(bk(1, 1), rspro.OK)
	if err := f.s.flush(t.Context()); err != nil {
		t.Fatal(err)
	}
	if got := store.open(); got != "0 owed, 0 believed" {
		t.Errorf("still stored: %s", got)
	}

	start()
	f.expectLife("C2:0=B1:2 NEW")
	f.clientUp(c1)
	f.expectSilence(c1)
}

// TestUnknownMaps checks that a server with a durable store has bankds remove what it doesn't know, which one without adopts.
func TestUnknownMaps(t *testing.T) {
	f := newFixture(t)
	f.s = newTestStore().start(t)
	f.tellingBankUp(1)
	f.expectFound(1, "C7:0=B1:0: unknown map to be removed: it is none of those that are stored", pair(0, 7))
	f.expect(1, "-C7:0=B1:0")
}

// TestSettle checks that what has been confirmed is stored within a second, or at the end.
func TestSettle(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		const settled = "0 owed, 0 believed"
		inWorldOf(t, Env{Store: store}, Config{}, func(w *world) {
			b := w.bank(bankReq(1))
			w.create(pair(0, 7))
			w.expectMap(b, false, pair(0, 7), rspro.OK)
			if _, ok := w.Delete(bk(1, 0)); !ok {
				t.Fatal("no map")
			}
			w.expectMap(b, true, pair(0, 7), rspro.OK)
			synctest.Wait()
			if got := store.open(); got != "1 owed, 1 believed" {
				t.Errorf("stored: %s", got)
			}
			time.Sleep(settleDelay)
			synctest.Wait()
			if got := store.open(); got != settled {
				t.Errorf("after %s still stored: %s", settleDelay, got)
			}
			n := store.count()
			time.Sleep(time.Minute)
			if store.count() != n {
				t.Errorf("%d transactions were stored although nothing happened", store.count()-n)
			}
			w.create(pair(0, 7))
			w.expectMap(b, false, pair(0, 7), rspro.OK)
			w.Delete(bk(1, 0))
			w.expectMap(b, true, pair(0, 7), rspro.OK)
			synctest.Wait()
		})
		if got := store.open(); got != settled {
			t.Errorf("after the end still stored: %s", got)
		}
	})
}

// TestAdoptedMeanwhile checks that maps that are adopted while a change is being stored give way to it.
func TestAdoptedMeanwhile(t *testing.T) {
	store := newTestStore()
	s := store.start(t)
	s.durable, s.adopts = false, true // as without a store that outlives the server
	wanted := func() (l []slot.Map) {
		for _, m := range s.Slotmaps() {
			if !m.Leaving() {
				l = append(l, m.Map)
			}
		}
		return l
	}
	list := func(bank uint16, has ...slot.Map) {
		p := &bankPeer{bank: bank, numSlots: 8, held: true}
		s.addBank(p)
		store.fail = func() error {
			store.fail = nil
			for _, f := range s.listed(p, has) {
				if !f.adopted {
					t.Errorf("%s: %s", f.Map, f.text)
				}
			}
			return nil
		}
	}
	list(1, pair(0, 8), pair(1, 7))
	if err := s.Create(pair(0, 7)); err != nil {
		t.Fatal(err)
	}
	if got := wanted(); !slices.Equal(got, []slot.Map{pair(0, 7)}) {
		t.Errorf("wanted are %v", got)
	}
	list(2, slot.Map{Bank: bk(2, 0), Client: cl(9, 0)})
	s.DeleteAll()
	if got := wanted(); len(got) > 0 {
		t.Errorf("after all were deleted wanted are %v", got)
	}
}

// TestMovedSettles checks that when a client is told of its new bank slot it isn't stored any more that it believes in the old one: after a crash
// in the next moment it would be told to leave.
func TestMovedSettles(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		inWorldOf(t, Env{Store: store}, Config{}, func(w *world) {
			b, c := w.bank(bankReq(1)), w.client(cl(7, 0))
			w.create(pair(0, 7))
			w.expectMap(b, false, pair(0, 7), rspro.OK)
			w.expectTold(c, bk(1, 0), "10.0.0.7:9999")
			if _, err := w.Commit(t.Context(), PutMap(pair(1, 7))); err != nil {
				t.Fatal(err)
			}
			if got := store.open(); got != "1 owed, 1 believed" {
				t.Errorf("stored: %s", got)
			}
			w.expectMap(b, false, pair(1, 7), rspro.OK)
			w.expectTold(c, bk(1, 1), "10.0.0.7:9999")
			if got := store.open(); got != "1 owed, 0 believed" {
				t.Errorf("when the client is told: %s", got)
			}
		})
	})
}

// TestSettleFails checks that what has settled isn't lost when it can't be stored, and that nothing of it is left when it is.
func TestSettleFails(t *testing.T) {
	store := newTestStore()
	s := store.start(t)
	if err := s.Create(pair(0, 7)); err != nil {
		t.Fatal(err)
	}
	s.Delete(bk(1, 0)) // which no bankd knows
	store.fail = func() error { return syscall.ENOSPC }
	if err := s.flush(t.Context()); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("flush: %v", err)
	}
	if got := store.open(); got != "1 owed, 1 believed" {
		t.Errorf("stored: %s", got)
	}
	store.fail = nil
	if err := s.flush(t.Context()); err != nil {
		t.Error(err)
	}
	if got := store.open(); got != "0 owed, 0 believed" {
		t.Errorf("still stored: %s", got)
	}
	if len(s.clients) > 0 {
		t.Errorf("%d clients are kept in mind", len(s.clients))
	}
}

// TestStoreLogged checks that a store that fails is logged once, and that it is well again.
func TestStoreLogged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		inWorldOf(t, Env{Store: store}, Config{}, func(w *world) {
			store.fail = func() error { return syscall.EIO }
			for i := range uint16(3) {
				if err := w.Create(pair(i, i)); !errors.Is(err, syscall.EIO) {
					t.Errorf("created: %v", err)
				}
			}
			store.fail = nil
			w.create(pair(1, 1))
			var l []string
			for _, e := range w.log.AllEntries() {
				if e.Data["cat"] == "DSLOTMAP" {
					l = append(l, fmt.Sprint(e.Level, " ", e.Message, " ", e.Data["error"], e.Data["err"]))
				}
			}
			if got := strings.Join(l, "\n"); len(l) != 2 || !strings.HasPrefix(l[0], "error changes can't be stored") ||
				!strings.Contains(l[0], syscall.EIO.Error()) || !strings.HasPrefix(l[1], "info changes are stored again") {
				t.Errorf("logged:\n%s", got)
			}
		})
	})
}

// TestGivenAgain checks that a client that asks for a slot gets the same one after it and the server were started anew, that two of the same
// key get different ones, and that a dead one's is given to the next.
func TestGivenAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := newTestStore()
		run := func(test func(*world)) {
			inWorldOf(t, Env{Store: store}, Config{ClientIDPool: &IDPool{900, 910}}, test)
		}
		ask := func(w *world, serial, iface string) (*testnet.Peer, slot.Client) {
			t.Helper()
			id := testnet.Identity(rspro.Client)
			id.HWSerialNr, id.HWVersion = serial, iface
			p := w.dial()
			p.Send(&rspro.ConnectClientReq{Identity: id})
			if r := testnet.Expect[*rspro.ConnectClientRes](p).Result; r != rspro.OK {
				t.Fatalf("connectClientRes %v", r)
			}
			c := testnet.Expect[*rspro.ConfigClientIDReq](p).Slot
			p.Send(&rspro.ConfigClientIDRes{})
			synctest.Wait()
			return p, c
		}
		devices := [][2]string{{"1", "interface 0"}, {"1", "interface 1"}, {"2", "interface 0"}, {"", ""}}
		for _, order := range [][]int{{0, 1, 2, 3}, {3, 1, 0, 2}} {
			run(func(w *world) {
				for _, i := range order {
					_, c := ask(w, devices[i][0], devices[i][1])
					if want := cl(900+uint16(i), 0); c != want {
						t.Errorf("%q gets %s, want %s", devices[i], c, want)
					}
					v, ok := w.Client(c)
					if want := (ClientKey{Name: v.Identity.Name, Serial: devices[i][0], Interface: devices[i][1]}); !ok || !v.Assigned || v.Key != want {
						t.Errorf("shown as %+v", v)
					}
				}
			})
		}
		run(func(w *world) {
			first, c := ask(w, "1", "interface 0")
			if c != cl(900, 0) {
				t.Errorf("the first gets %s", c)
			}
			second, c := ask(w, "1", "interface 0")
			if c != cl(904, 0) {
				t.Errorf("the second of the same gets %s", c)
			}
			second.Close()
			synctest.Wait()
			if _, c = ask(w, "1", "interface 0"); c != cl(904, 0) {
				t.Errorf("the second gets %s when it is back", c)
			}
			first.Mute(true)
			if _, c = ask(w, "1", "interface 0"); c != cl(900, 0) {
				t.Errorf("the next after a dead one gets %s", c)
			}
		})
		// One that comes with a slot that it was given is shown as such.
		run(func(w *world) {
			id := testnet.Identity(rspro.Client)
			id.HWSerialNr, id.HWVersion = "1", "interface 1"
			w.dial().Send(&rspro.ConnectClientReq{Identity: id, Slot: &slot.Client{ID: 901}})
			w.client(cl(902, 0)) // another's
			synctest.Wait()
			a, _ := w.Client(cl(901, 0))
			b, _ := w.Client(cl(902, 0))
			if !a.Assigned || b.Assigned {
				t.Errorf("shown as %+v, %+v", a, b)
			}
		})
	})
}

// TestGivenOnce checks that what was given to one is given to no other, as long as the pool has it, up to the last of the pool, and
// that one whose slot the pool hasn't any more gets another.
func TestGivenOnce(t *testing.T) {
	store := newTestStore()
	give := func(pool IDPool, names ...string) string {
		t.Helper()
		s := store.start(t)
		s.pool = &pool
		var l []string
		for _, name := range names {
			c, err := s.giveID(t.Context(), ClientKey{Name: name})
			if err != nil {
				l = append(l, name+": "+err.Error())
				continue
			}
			l = append(l, name+" "+c.String())
		}
		return strings.Join(l, ", ")
	}
	for _, tt := range []struct {
		pool  IDPool
		names []string
		want  string
	}{
		{IDPool{0, 2}, []string{"a", "b", "c", "d"}, "a C0:0, b C1:0, c C2:0, d: " + errNoID.Error()},
		{IDPool{0, 3}, []string{"d", "b", "a", "c"}, "d C3:0, b C1:0, a C0:0, c C2:0"},
		{IDPool{2, 5}, []string{"a", "b", "c", "d", "e"}, "a C4:0, b C5:0, c C2:0, d C3:0, e: " + errNoID.Error()},
	} {
		if got := give(tt.pool, tt.names...); got != tt.want {
			t.Errorf("%s: %s, want %s", tt.pool, got, tt.want)
		}
	}
}

// TestForgetClient checks that a client slot that was given is free for the next client once it is forgotten, before a restart and
// after it, and that one that is in use isn't forgotten.
func TestForgetClient(t *testing.T) {
	store := newTestStore()
	start := func() *fixture {
		f := newFixture(t)
		f.s = store.start(t)
		f.s.pool = &IDPool{900, 900}
		return f
	}
	give := func(f *fixture, name, want string) {
		t.Helper()
		c, err := f.s.giveID(t.Context(), ClientKey{Name: name})
		if err != nil && err.Error() != want || err == nil && c.String() != want {
			t.Errorf("%s is given %s, %v; want %s", name, c, err, want)
		}
	}
	forget := func(f *fixture, want string) {
		t.Helper()
		if _, err := f.s.Commit(t.Context(), ForgetClient(cl(900, 0))); (err == nil) != (want == "") || err != nil && err.Error() != want {
			t.Errorf("%v, want %q", err, want)
		}
	}
	f := start()
	forget(f, "client slot C900:0 was given to nobody")
	give(f, "a", "C900:0")
	give(f, "b", errNoID.Error())
	f.clientUp(cl(900, 0))
	forget(f, "client C900:0 is connected")
	f.clientDown(cl(900, 0))
	f.create(slot.Map{Bank: bk(1, 0), Client: cl(900, 0)})
	forget(f, "client slot C900:0 is in map C900:0=B1:0")
	f.delete(bk(1, 0))
	at := f.s.Feed().Last()
	forget(f, "")
	events, err := f.s.Feed().Next(t.Context(), at, 10)
	if err != nil || events[0].Type != ClientForgotten || events[0].Data.(Assignment).Key.Name != "a" {
		t.Errorf("events %v, %v", events, err)
	}
	forget(f, "client slot C900:0 was given to nobody")

	f = start()
	give(f, "b", "C900:0")
	give(f, "a", errNoID.Error())

	// A transaction knows what it has done so far.
	if _, err := f.s.Commit(t.Context(), ForgetClient(cl(900, 0)), Op{kind: opAssign, key: ClientKey{Name: "c"}}); err != nil {
		t.Fatal(err)
	}
	give(f, "b", errNoID.Error())
	f = start()
	give(f, "c", "C900:0")
	if _, err := f.s.Commit(t.Context(), ForgetClient(cl(900, 0)), ForgetClient(cl(900, 0))); err == nil {
		t.Error("forgotten twice")
	}
	give(f, "c", "C900:0")
}

// TestIDPool checks what is taken for a pool.
func TestIDPool(t *testing.T) {
	for _, tt := range []struct {
		in   string
		want IDPool
		ok   bool
	}{
		{"900-1023", IDPool{900, 1023}, true}, {"7", IDPool{7, 7}, true}, {"0-0", IDPool{0, 0}, true},
		{"", IDPool{}, false}, {"-", IDPool{}, false}, {"1-", IDPool{}, false}, {"2-1", IDPool{}, false}, {"1-1024", IDPool{}, false},
		{"-1", IDPool{}, false}, {"1-2-3", IDPool{}, false}, {"a", IDPool{}, false}, {"1 - 2", IDPool{}, false}, {"65536", IDPool{}, false},
	} {
		got, err := ParseIDPool(tt.in)
		if (err == nil) != tt.ok || got != tt.want {
			t.Errorf("%q: %v, %v", tt.in, got, err)
		}
		if again, err := ParseIDPool(got.String()); err != nil || !reflect.DeepEqual(again, got) {
			t.Errorf("%v is %q, which is %v, %v", got, got.String(), again, err)
		}
	}
}
