// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	bolt "go.etcd.io/bbolt"

	"remsim/internal/server"
	"remsim/internal/slot"
)

// at returns a time by its seconds.
func at(s int64) time.Time { return time.Unix(s, 5) }

func storedMap(i int, seq uint64) server.StoredMap {
	return server.StoredMap{Map: mapAt(i), Seq: seq, Created: at(1), Changed: at(2)}
}

// sorted brings a snapshot into an order.
func sorted(s server.Snapshot) server.Snapshot {
	var b bytes.Buffer
	if err := Export(&b, s); err != nil {
		panic(err)
	}
	return s
}

func load1(t testing.TB, s server.Store) server.Snapshot {
	t.Helper()
	snap, err := s.Load(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return sorted(snap)
}

// TestStore has every kind of step done by both stores.
func TestStore(t *testing.T) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			s := store.open(t)
			key := server.ClientKey{Name: "host", Serial: "1", Interface: "interface 0", Instance: 1}
			m1, m2 := storedMap(1, 1), storedMap(2, 2)
			for i, tt := range []struct {
				changes []server.Change
				want    server.Snapshot
			}{
				{[]server.Change{server.Started{}}, server.Snapshot{Starts: 1}},
				{[]server.Change{server.Want{StoredMap: m1}, server.Want{StoredMap: m2}},
					server.Snapshot{Starts: 1, Maps: []server.StoredMap{m1, m2}}},
				{[]server.Change{server.End{Removal: server.Removal{Map: m1.Map, Created: at(1), Deleted: at(3)}}},
					server.Snapshot{Starts: 1, Maps: []server.StoredMap{m2},
						Removals: []server.Removal{{Map: m1.Map, Created: at(1), Deleted: at(3)}},
						Beliefs:  []server.Belief{{Client: m1.Client, Bank: m1.Bank}}}},
				{[]server.Change{server.Removed{Map: m1.Map}, server.Told{Client: m1.Client}, server.Told{Client: m2.Client}},
					server.Snapshot{Starts: 1, Maps: []server.StoredMap{m2}}},
				{[]server.Change{
					server.End{Removal: server.Removal{Map: m2.Map, Created: at(1), Deleted: at(4)}},
					server.Want{StoredMap: server.StoredMap{Map: slot.Map{Bank: m1.Bank, Client: m2.Client}, Seq: 3, Created: at(5), Changed: at(6)}},
					server.Assign{Assignment: server.Assignment{Key: key, Client: slot.Client{ID: 900}, Given: at(7)}}},
					server.Snapshot{Starts: 1,
						Maps:     []server.StoredMap{{Map: slot.Map{Bank: m1.Bank, Client: m2.Client}, Seq: 3, Created: at(5), Changed: at(6)}},
						Removals: []server.Removal{{Map: m2.Map, Created: at(1), Deleted: at(4)}},
						Beliefs:  []server.Belief{{Client: m2.Client, Bank: m2.Bank}},
						IDs:      []server.Assignment{{Key: key, Client: slot.Client{ID: 900}, Given: at(7)}}}},
				{[]server.Change{ // the client believes what it did before
					server.End{Removal: server.Removal{Map: slot.Map{Bank: m1.Bank, Client: m2.Client}, Created: at(5), Deleted: at(8)}},
					server.Removed{Map: m2.Map}},
					server.Snapshot{Starts: 1,
						Removals: []server.Removal{{Map: slot.Map{Bank: m1.Bank, Client: m2.Client}, Created: at(5), Deleted: at(8)}},
						Beliefs:  []server.Belief{{Client: m2.Client, Bank: m2.Bank}},
						IDs:      []server.Assignment{{Key: key, Client: slot.Client{ID: 900}, Given: at(7)}}}},
			} {
				for _, wrong := range []uint64{uint64(i) + 1, uint64(i) - 1} {
					if _, err := s.Commit(t.Context(), wrong, tt.changes); !errors.Is(err, server.ErrConflict) {
						t.Fatalf("step %d at revision %d: %v", i, wrong, err)
					}
				}
				revision, err := s.Commit(t.Context(), uint64(i), tt.changes)
				if err != nil || revision != uint64(i)+1 {
					t.Fatalf("step %d: revision %d, %v", i, revision, err)
				}
				tt.want.Revision, tt.want.Durable = revision, true
				if got := load1(t, s); !reflect.DeepEqual(got, tt.want) {
					t.Fatalf("step %d: loaded\n%+v, want\n%+v", i, got, tt.want)
				}
			}
		})
	}
}

// TestWatch checks that who watches sees each transaction once, those before it began and those after.
func TestWatch(t *testing.T) {
	for _, store := range stores {
		t.Run(store.name, func(t *testing.T) {
			s := store.open(t)
			commit := func(base uint64, n int) {
				t.Helper()
				if _, err := s.Commit(t.Context(), base, slices.Repeat([]server.Change{server.Started{}}, n)); err != nil {
					t.Fatal(err)
				}
			}
			commit(0, 1)
			commit(1, 2)
			ctx, cancel := context.WithCancelCause(t.Context())
			defer cancel(nil)
			var got []string
			enough := errors.New("enough")
			for tx, err := range s.Watch(ctx, 1) {
				if err != nil {
					got = append(got, err.Error())
					break
				}
				got = append(got, fmt.Sprintf("%d:%d", tx.Revision, len(tx.Changes)))
				switch tx.Revision {
				case 2, 3:
					commit(tx.Revision, int(tx.Revision)+1)
				default:
					cancel(enough)
				}
			}
			if want := "2:2 3:3 4:4 enough"; strings.Join(got, " ") != want {
				t.Errorf("watched %q, want %q", got, want)
			}
			first := func(after uint64) error {
				for _, err := range s.Watch(t.Context(), after) {
					return err
				}
				return nil
			}
			if err := first(5); !errors.Is(err, server.ErrConflict) {
				t.Errorf("after a revision to come: %v", err)
			}
			commit(4, maxHistory)
			if err := first(1); !errors.Is(err, server.ErrCompacted) {
				t.Errorf("after a revision long gone: %v", err)
			}
		})
	}
}

// TestWatchEnds checks that watching ends when the store is closed.
func TestWatchEnds(t *testing.T) {
	s := openNew(t)
	ended := make(chan error)
	go func() {
		for _, err := range s.Watch(context.Background(), 0) {
			ended <- err
		}
	}()
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, server.ErrClosed) {
		t.Errorf("ended by %v", err)
	}
	if _, err := s.Commit(t.Context(), 0, nil); !errors.Is(err, server.ErrClosed) {
		t.Errorf("commit: %v", err)
	}
}

// TestHeld checks that a file that is in use isn't opened, soon, and by none of the ways.
func TestHeld(t *testing.T) {
	path := filepath.Join(t.TempDir(), "state.db")
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, use := range map[string]func() error{
		"open":    func() error { _, err := Open(path); return err },
		"read":    func() error { _, err := Read(path); return err },
		"replace": func() error { return Replace(path, server.Snapshot{}, true) },
	} {
		begin := time.Now()
		err := use()
		if took := time.Since(begin); err == nil || !strings.Contains(err.Error(), path) || !strings.Contains(err.Error(), "another process has it") ||
			took < 900*time.Millisecond || took > 30*time.Second {
			t.Errorf("%s: %v after %v", name, err, took)
		}
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	if s, err = Open(path); err != nil {
		t.Fatal(err)
	}
	s.Close()
}

// sample makes a file with some of everything, and returns it with what is in it.
func sample(t testing.TB, path string) ([]byte, server.Snapshot) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	state := loadState(t, s)
	if _, err := state.Commit(t.Context(), creations(0, 400)...); err != nil {
		t.Fatal(err)
	}
	for i := range 100 {
		if _, err := state.Commit(t.Context(), server.DeleteMap(mapAt(3*i).Bank)); err != nil {
			t.Fatal(err)
		}
	}
	snap := load1(t, s)
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	return data, snap
}

// TestRefused checks that what is no store is refused with a word on what to do, and stays as it is.
func TestRefused(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "state.db")
	data, _ := sample(t, path)
	page := os.Getpagesize()
	edit := func(f func(*bolt.Tx) error) []byte {
		t.Helper()
		p := filepath.Join(dir, "edited")
		if err := os.WriteFile(p, data, 0o600); err != nil {
			t.Fatal(err)
		}
		db, err := bolt.Open(p, 0o600, nil)
		if err == nil {
			err = errors.Join(db.Update(f), db.Close())
		}
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(p)
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	damage := func(at int, b ...byte) []byte {
		d := slices.Clone(data)
		copy(d[at:], b)
		return d
	}
	record := bytes.Index(data, binary.BigEndian.AppendUint64(nil, 399)) // the seq of a map
	for _, tt := range []struct {
		name string
		data []byte
		want []string
	}{
		{"empty", nil, []string{"empty", "remove it"}},
		{"text", []byte("maps: none\n"), []string{"damaged, or none of this program"}},
		{"long text", bytes.Repeat([]byte("maps: none\n"), 10_000), []string{"damaged, or none of this program"}},
		{"zeroes", make([]byte, 1<<16), []string{"damaged, or none of this program"}},
		{"one page", data[:page], []string{"damaged", "put a copy in its place"}},
		{"two pages", data[:2*page], []string{"damaged"}},
		{"all but its end", data[:6*page], []string{"damaged"}},
		{"both heads", slices.Concat(bytes.Repeat([]byte{1}, 2*page), data[2*page:]), []string{"damaged"}},
		{"a record", damage(record, 9), []string{"damaged", "records"}},
		{"newer", edit(func(tx *bolt.Tx) error {
			return tx.Bucket(bucketHead).Put(keySchema, []byte{0, 0, 0, 2})
		}), []string{"newer version", "schema 2", "1 is known"}},
		{"another program's", edit(func(tx *bolt.Tx) error { return tx.DeleteBucket(bucketHead) }), []string{"another program's", "use another file"}},
		{"a table less", edit(func(tx *bolt.Tx) error { return tx.DeleteBucket(buckets[tableIDs]) }), []string{"no bucket ids"}},
		{"a map less", edit(func(tx *bolt.Tx) error {
			k, _ := tx.Bucket(buckets[tableMaps]).Cursor().First()
			return tx.Bucket(buckets[tableMaps]).Delete(k)
		}), []string{"should have"}},
		{"an id out of range", edit(func(tx *bolt.Tx) error {
			return tx.Bucket(buckets[tableBeliefs]).Put([]byte{0xff, 0, 0, 0}, []byte{0, 0, 0, 0})
		}), []string{"C65280:0", "0..1023"}},
		{"a bucket more", edit(func(tx *bolt.Tx) error {
			_, err := tx.Bucket(buckets[tableMaps]).CreateBucket([]byte("sub!"))
			return err
		}), []string{"wrong length"}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := filepath.Join(dir, strings.ReplaceAll(tt.name, " ", "-"))
			if err := os.WriteFile(p, tt.data, 0o600); err != nil {
				t.Fatal(err)
			}
			for name, use := range map[string]func() error{
				"open": func() error { _, err := Open(p); return err },
				"read": func() error { _, err := Read(p); return err },
			} {
				err := use()
				for _, want := range append(tt.want, p) {
					if err == nil || !strings.Contains(err.Error(), want) {
						t.Errorf("%s: %v; want %q in it", name, err, want)
					}
				}
			}
			if now, err := os.ReadFile(p); err != nil || !bytes.Equal(now, tt.data) {
				t.Errorf("the file was changed (%v)", err)
			}
		})
	}
	t.Run("no file", func(t *testing.T) {
		for p, want := range map[string]string{
			dir:                              "no regular file",
			filepath.Join(dir, "no", "such"): "no such file",
			filepath.Join(path, "state.db"):  "not a directory",
		} {
			if _, err := Open(p); err == nil || !strings.Contains(err.Error(), want) || !strings.Contains(err.Error(), p) {
				t.Errorf("%s: %v", p, err)
			}
		}
	})
}

// TestNewFile checks that a file is made where its path says, by nothing that is elsewhere, and that its owner alone has it.
func TestNewFile(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("TMPDIR", filepath.Join(dir, "none"))
	t.Chdir(dir)
	s, err := Open("state.db")
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 || files[0].Name() != "state.db" {
		t.Fatalf("there are %v, %v", files, err)
	}
	if info, err := files[0].Info(); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
}

// TestDamage damages files at random: they are refused and stay as they are, or what is wrong with them doesn't matter.
func TestDamage(t *testing.T) {
	dir := t.TempDir()
	data, want := sample(t, filepath.Join(dir, "state.db"))
	rnd := rand.New(rand.NewPCG(1, 2))
	refused := 0
	const n = 300
	for i := range n {
		d := slices.Clone(data)
		switch rnd.IntN(4) {
		case 0:
			d[rnd.IntN(len(d))] ^= 1 << rnd.IntN(8)
		case 1:
			from := rnd.IntN(len(d)) &^ 511
			clear(d[from:min(from+512<<rnd.IntN(4), len(d))])
		case 2:
			from := rnd.IntN(len(d))
			for k := from; k < min(from+rnd.IntN(64)+1, len(d)); k++ {
				d[k] = byte(rnd.Uint32())
			}
		case 3: // in a page's head or the heads of its elements
			from := rnd.IntN(len(d))&^4095 + rnd.IntN(200)
			d[from] = byte(rnd.Uint32())
		}
		p := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(p, d, 0o600); err != nil {
			t.Fatal(err)
		}
		s, err := Open(p)
		if err != nil {
			refused++
			if now, err := os.ReadFile(p); err != nil || !bytes.Equal(now, d) {
				t.Fatalf("%d: the file was changed (%v)", i, err)
			}
		} else {
			// A head of the two may be lost: the one before counts then, which a crash leaves, too.
			if got := load1(t, s); !reflect.DeepEqual(got, want) && got.Revision != want.Revision-1 {
				t.Fatalf("%d: another content, of revision %d", i, got.Revision)
			}
			s.Close()
		}
		os.Remove(p)
	}
	t.Logf("%d of %d refused", refused, n)
	if refused < n/10 {
		t.Errorf("%d of %d damaged files were refused", refused, n)
	}
}

// TestCrash has a state changed at random, with a crash in each transaction: a file that has any of the pages that the transaction has
// written, but not its head, is as it was before. One that has all is as the state is.
func TestCrash(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			rnd := rand.New(rand.NewPCG(seed, 0))
			dir := t.TempDir()
			path := filepath.Join(dir, "state.db")
			s, err := Open(path)
			if err != nil {
				t.Fatal(err)
			}
			state := loadState(t, s)
			model := map[slot.Bank]slot.Client{}
			before, err := os.ReadFile(path)
			if err != nil {
				t.Fatal(err)
			}
			was := contents(model)
			for range 60 {
				var ops []server.Op
				next := copyOf(model)
				for range 1 + rnd.IntN(1+rnd.IntN(100)) {
					ops = append(ops, randomOp(rnd, next))
				}
				if _, err := state.Commit(t.Context(), ops...); err != nil {
					t.Fatal(err)
				}
				model = next
				after, err := os.ReadFile(path)
				if err != nil {
					t.Fatal(err)
				}
				crashed := crash(rnd, before, after)
				p := filepath.Join(dir, "crashed")
				if err := os.WriteFile(p, crashed, 0o600); err != nil {
					t.Fatal(err)
				}
				expectMaps(t, "before the head", p, was)
				if err := os.WriteFile(p, after, 0o600); err != nil {
					t.Fatal(err)
				}
				was = contents(model)
				expectMaps(t, "after it", p, was)
				if rnd.IntN(5) == 0 {
					s.Close()
					if s, err = Open(path); err != nil {
						t.Fatal(err)
					}
					state = loadState(t, s)
					if after, err = os.ReadFile(path); err != nil {
						t.Fatal(err)
					}
				}
				before = after
			}
			s.Close()
		})
	}
}

// crash returns a file on its way from before to after: with some of the pages that differ, but neither head.
func crash(rnd *rand.Rand, before, after []byte) []byte {
	page := os.Getpagesize()
	b := slices.Clone(before)
	if len(after) > len(b) && rnd.IntN(2) == 0 {
		b = append(b, make([]byte, len(after)-len(b))...)
	}
	for at := 2 * page; at < len(b); at += page {
		if rnd.IntN(2) == 0 {
			copy(b[at:at+page], after[at:])
		}
	}
	return b
}

// randomOp returns an operation that can be done, and does it in the model.
func randomOp(rnd *rand.Rand, model map[slot.Bank]slot.Client) server.Op {
	m := slot.Map{
		Bank:   slot.Bank{ID: uint16(rnd.IntN(3)), Slot: uint16(rnd.IntN(30))},
		Client: slot.Client{ID: uint16(rnd.IntN(90))},
	}
	_, taken := model[m.Bank]
	by := slot.Bank{}
	used := false
	for b, c := range model {
		if c == m.Client {
			by, used = b, true
		}
	}
	switch {
	case rnd.IntN(200) == 0:
		clear(model)
		return server.DeleteAllMaps()
	case !taken && !used:
		model[m.Bank] = m.Client
		return server.CreateMap(m)
	case taken && rnd.IntN(2) == 0:
		delete(model, m.Bank)
		return server.DeleteMap(m.Bank)
	}
	if used {
		delete(model, by)
	}
	model[m.Bank] = m.Client
	return server.PutMap(m)
}

func copyOf(m map[slot.Bank]slot.Client) map[slot.Bank]slot.Client {
	c := map[slot.Bank]slot.Client{}
	for k, v := range m {
		c[k] = v
	}
	return c
}

// contents returns the maps of a model, in the order of their text.
func contents(model map[slot.Bank]slot.Client) []string {
	l := []string{}
	for b, c := range model {
		l = append(l, slot.Map{Bank: b, Client: c}.String())
	}
	slices.Sort(l)
	return l
}

// expectMaps checks which maps a server has that starts with a file.
func expectMaps(t *testing.T, when, path string, want []string) {
	t.Helper()
	s, err := Open(path)
	if err != nil {
		t.Fatalf("%s: %v", when, err)
	}
	defer s.Close()
	got := []string{}
	for _, m := range loadState(t, s).Slotmaps() {
		if !m.Leaving() {
			got = append(got, m.Map.String())
		}
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		t.Fatalf("%s: maps %v, want %v", when, got, want)
	}
}

// TestRoundTrip checks that what is written as JSON is read as the same, and put into a file is the same.
func TestRoundTrip(t *testing.T) {
	dir := t.TempDir()
	_, want := sample(t, filepath.Join(dir, "state.db"))
	want.IDs = []server.Assignment{
		{Key: server.ClientKey{Name: "a"}, Client: slot.Client{ID: 900}, Given: at(1)},
		{Key: server.ClientKey{Name: "a", Serial: "\"\x00\x7f", Interface: "interface 1", Instance: 65535}, Client: slot.Client{ID: 901}, Given: at(2)},
	}
	var text bytes.Buffer
	if err := Export(&text, want); err != nil {
		t.Fatal(err)
	}
	first := text.String()
	for i := range want.Maps { // Seq is by the order
		want.Maps[i].Seq = uint64(i) + 1
	}
	parsed, err := Parse(&text)
	if err != nil {
		t.Fatal(err)
	}
	path := filepath.Join(dir, "imported.db")
	if err := Replace(path, parsed, false); err != nil {
		t.Fatal(err)
	}
	got, err := Read(path)
	if err != nil {
		t.Fatal(err)
	}
	got.Revision, got.Durable = want.Revision, want.Durable
	if !reflect.DeepEqual(sorted(got), sorted(want)) {
		t.Errorf("imported\n%+v, want\n%+v", got, want)
	}
	var again strings.Builder
	if err := Export(&again, got); err != nil || again.String() != first {
		t.Errorf("exported again: %v, not the same", err)
	}
	if err := Replace(path, server.Snapshot{Starts: 7}, false); !errors.Is(err, ErrNotEmpty) {
		t.Errorf("import over something: %v", err)
	}
	if got, err := Read(path); err != nil || len(got.Maps) != len(want.Maps) {
		t.Errorf("import over something: %d maps left, %v", len(got.Maps), err)
	}
	if err := Replace(path, server.Snapshot{Starts: 7}, true); err != nil {
		t.Error(err)
	}
	if got, err := Read(path); err != nil || got.Starts != 7 || len(got.Maps) > 0 {
		t.Errorf("replaced: %+v, %v", got, err)
	}
}

const emptyJSON = `{
"format": "remsim-server store",
"version": 1,
"starts": 3,
"slotmaps": [],
"removals": [],
"untold": [],
"clientIds": []
}
`

// TestBadImport checks that each fault of an import is named with its line.
func TestBadImport(t *testing.T) {
	const one = `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":3,"slotNr":4},"createdAt":"2026-01-01T00:00:00Z","changedAt":"2026-01-01T00:00:00Z"}`
	maps := func(s string) string {
		return strings.Replace(emptyJSON, `"slotmaps": []`, `"slotmaps": [`+"\n"+s+"]", 1)
	}
	ids := func(s string) string {
		return strings.Replace(emptyJSON, `"clientIds": []`, `"clientIds": [`+"\n"+s+"]", 1)
	}
	const id = `{"name":"h","serial":"","interface":"","instance":0,"client":{"clientId":9,"slotNr":0},"givenAt":"2026-01-01T00:00:00Z"}`
	for _, tt := range []struct {
		text string
		want []string
	}{
		{"", []string{"line 1", "ends too early"}},
		{"[]", []string{"line 1", "want an object"}},
		{"{}", []string{"line 1", "format is missing"}},
		{emptyJSON + "x", []string{"line 10", "more after"}},
		{emptyJSON[:40], []string{"ends too early"}},
		{strings.Replace(emptyJSON, "store", "stork", 1), []string{"line 2", "format", "stork"}},
		{strings.Replace(emptyJSON, ": 1,", ": 2,", 1), []string{"line 3", "version is 2"}},
		{strings.Replace(emptyJSON, ": 3,", ": -3,", 1), []string{"line 4", "starts"}},
		{strings.Replace(emptyJSON, "untold", "told", 1), []string{"line 7", `unknown member "told"`}},
		{strings.Replace(emptyJSON, "untold", "removals", 1), []string{"line 7", "removals is there twice"}},
		{strings.Replace(emptyJSON, `,
"untold": []`, "", 1), []string{"untold is missing"}},
		{maps(`null`), []string{"line 6", "slotmaps[0]", "bank is missing"}},
		{maps(`7`), []string{"line 6", "slotmaps[0]", "an object"}},
		{maps(`{"bank":]`), []string{"line 6", "invalid character"}},
		{maps(one + ",\n" + one), []string{"line 7", "slotmaps[1]", "bank slot B1:2 is in two maps"}},
		{maps(one + ",\n" + strings.Replace(one, `"bankId":1`, `"bankId":2`, 1)), []string{"line 7", "slotmaps[1]", "client slot C3:4 is in two maps"}},
		{maps(strings.Replace(one, `"bankId":1`, `"bankId":1024`, 1)), []string{"line 6", "bank.bankId is 1024", "0..1023"}},
		{maps(strings.Replace(one, `"bankId":1`, `"bankId":-1`, 1)), []string{"line 6", "slotmaps[0].bank.bankId", "0..1023"}},
		{maps(strings.Replace(one, `"bankId":1,`, ``, 1)), []string{"line 6", "bank.bankId is missing"}},
		{maps(strings.Replace(one, `2026`, `1026`, 1)), []string{"line 6", "createdAt", "1026"}},
		{maps(strings.Replace(one, `2026`, `x`, 1)), []string{"line 6", "slotmaps[0]"}},
		{maps(strings.Replace(one, `"changedAt"`, `"changed"`, 1)), []string{"line 6", "slotmaps[0]", `"changed"`}},
		{ids(id + "," + id), []string{"line 9", "clientIds[1]", "is there twice"}},
		{ids(id + "," + strings.Replace(id, `"instance":0`, `"instance":1`, 1)), []string{"clientIds[1]", "C9:0 is given twice"}},
		{ids(strings.Replace(id, `"h"`, `"é"`, 1)), []string{"line 9", "clientIds[0]", "name", "IA5"}},
		{ids(strings.Replace(id, `"h"`, `""`, 1)), []string{"line 9", "name", "1..32"}},
	} {
		_, err := Parse(strings.NewReader(tt.text))
		for _, want := range tt.want {
			if err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("%.200q:\n%v; want %q in it", tt.text, err, want)
			}
		}
	}
	if s, err := Parse(strings.NewReader(emptyJSON)); err != nil || s.Starts != 3 {
		t.Errorf("%+v, %v", s, err)
	}
}

// FuzzImport checks that what is read as a store's JSON, it writes again as the same.
func FuzzImport(f *testing.F) {
	f.Add([]byte(emptyJSON))
	var b bytes.Buffer
	Export(&b, server.Snapshot{
		Starts: 1, Maps: []server.StoredMap{storedMap(1, 1), storedMap(5000, 2)},
		Removals: []server.Removal{{Map: mapAt(1), Created: at(1), Deleted: at(2)}},
		Beliefs:  []server.Belief{{Client: mapAt(9).Client, Bank: mapAt(1).Bank}},
		IDs:      []server.Assignment{{Key: server.ClientKey{Name: "h", Serial: "s"}, Client: slot.Client{ID: 1}, Given: at(1)}},
	})
	f.Add(b.Bytes())
	f.Add([]byte(`{"format":7}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		s, err := Parse(bytes.NewReader(data))
		if err != nil {
			if !strings.HasPrefix(err.Error(), "line ") {
				t.Errorf("%v doesn't name the line", err)
			}
			return
		}
		var b bytes.Buffer
		if err := Export(&b, s); err != nil {
			t.Fatal(err)
		}
		again, err := Parse(io.TeeReader(&b, io.Discard))
		if err != nil || !reflect.DeepEqual(sorted(again), sorted(s)) {
			t.Errorf("read again: %v\n%+v, want\n%+v", err, again, s)
		}
	})
}
