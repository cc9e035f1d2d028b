// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/fnv"
	"io/fs"
	"iter"
	"os"
	"path/filepath"
	"runtime/debug"
	"slices"
	"sync"
	"time"

	bolt "go.etcd.io/bbolt"
	berrors "go.etcd.io/bbolt/errors"

	"remsim/internal/server"
)

// schema is the version of what is in a file; see record.go and head.
const schema = 1

// lockTimeout is how long another user of a file is waited for.
const lockTimeout = time.Second

// The buckets of a file: one for each table, and one of the file itself.
var (
	bucketHead = []byte("remsim")
	buckets    = [numTables][]byte{[]byte("maps"), []byte("removals"), []byte("beliefs"), []byte("ids")}

	keySchema = []byte("schema") // 4 bytes
	keyHead   = []byte("head")
)

// A head is what a file tells of its records: a transaction that changes these changes it, too.
type head struct {
	revision uint64
	starts   uint64
	records  uint64 // how many there are
	sum      uint64 // of their hashes, so that records that are lost or wrong are noticed
}

const headSize = 32

func (h head) encode() []byte {
	b := make([]byte, 0, headSize)
	for _, n := range []uint64{h.revision, h.starts, h.records, h.sum} {
		b = binary.BigEndian.AppendUint64(b, n)
	}
	return b
}

func parseHead(b []byte) (h head, err error) {
	if len(b) != headSize {
		return h, errRecord
	}
	for i, n := range []*uint64{&h.revision, &h.starts, &h.records, &h.sum} {
		*n = binary.BigEndian.Uint64(b[8*i:])
	}
	return h, nil
}

// add counts a record.
func (h *head) add(t table, key, value []byte) {
	h.records++
	h.sum += hash(t, key, value)
}

// subtract is add undone.
func (h *head) subtract(t table, key, value []byte) {
	h.records--
	h.sum -= hash(t, key, value)
}

func hash(t table, key, value []byte) uint64 {
	f := fnv.New64a()
	f.Write([]byte{byte(t), byte(len(key))})
	f.Write(key)
	f.Write(value)
	return f.Sum64()
}

// A file is a store in a file. One server at a time has it.
type file struct {
	path    string
	history *history

	mu     sync.Mutex // over a transaction
	db     *bolt.DB   // nil: closed
	broken error      // why no transaction is possible any more; nil: they are
	// undo is what brings back what was before transactions that were refused and that the file has all the same, since the second
	// of the two syncs failed. It is here only as long as the disk refuses that, too.
	undo []undo
}

// An undo is what a key was before.
type undo struct {
	bucket, key, value []byte // value nil: it wasn't there
}

// Open opens the store in a file, which is made if there is none. It fails within a second when another server has it, and
// when it isn't a store, is damaged or of a newer version; then it has changed nothing.
func Open(path string) (server.Store, error) {
	if err := inspect(path); errors.Is(err, fs.ErrNotExist) {
		if err := create(path); err != nil && !errors.Is(err, fs.ErrExist) {
			return nil, fmt.Errorf("store %s: make it: %w", path, err)
		}
	} else if err != nil {
		return nil, err
	}
	db, err := open(path, false)
	if err != nil {
		return nil, err
	}
	f := &file{path: path, db: db}
	var h head
	if err := guard(func() error {
		return db.View(func(tx *bolt.Tx) (err error) {
			h, err = readHead(tx)
			return err
		})
	}); err != nil {
		db.Close()
		return nil, f.damaged(err)
	}
	f.history = newHistory(h.revision)
	return f, nil
}

// inspect fails when there is something wrong with a file. It writes nothing.
func inspect(path string) error {
	db, err := open(path, true)
	if err != nil {
		return err
	}
	err = guard(func() error {
		return db.View(func(tx *bolt.Tx) error {
			if _, err := load(tx); err != nil {
				return err
			}
			// What load has read can't lead the check astray, which runs where no fault could be caught.
			var errs []error
			for err := range tx.Check() {
				if len(errs) < 3 {
					errs = append(errs, err)
				}
			}
			return errors.Join(errs...)
		})
	})
	return errors.Join((&file{path: path}).damaged(err), db.Close())
}

// open opens a database there is.
func open(path string, readOnly bool) (*bolt.DB, error) {
	info, err := os.Stat(path)
	switch {
	case err != nil:
		return nil, fmt.Errorf("store: %w", err)
	case !info.Mode().IsRegular():
		return nil, fmt.Errorf("store %s: it is no regular file", path)
	case info.Size() == 0:
		return nil, fmt.Errorf("store %s: the file is empty, and a store never is: remove it to begin with a new one", path)
	}
	var db *bolt.DB
	var opened *os.File
	err = guard(func() (err error) {
		db, err = bolt.Open(path, 0o600, &bolt.Options{
			Timeout: lockTimeout, ReadOnly: readOnly, PreLoadFreelist: true, FreelistType: bolt.FreelistMapType,
			OpenFile: func(name string, flag int, mode os.FileMode) (_ *os.File, err error) {
				opened, err = os.OpenFile(name, flag&^os.O_CREATE, mode)
				return opened, err
			},
		})
		return err
	})
	switch {
	case err == nil:
		return db, nil
	case errors.Is(err, berrors.ErrTimeout):
		return nil, fmt.Errorf("store %s: another process has it: a server that runs, or a store command", path)
	case errors.As(err, new(*fault)):
		opened.Close() // which bbolt couldn't do
	case errors.As(err, new(*fs.PathError)):
		return nil, fmt.Errorf("store: %w", err)
	}
	return nil, (&file{path: path}).damaged(err)
}

// create makes the file, complete or not at all, unless it has come to be there meanwhile.
func create(path string) error {
	dir := filepath.Dir(path)
	tmp, err := os.CreateTemp(dir, "."+filepath.Base(path)+".*")
	if err != nil {
		return err
	}
	defer os.Remove(tmp.Name())
	if err := tmp.Close(); err != nil {
		return err
	}
	db, err := bolt.Open(tmp.Name(), 0o600, &bolt.Options{Timeout: lockTimeout})
	if err != nil {
		return err
	}
	err = db.Update(initialise)
	if err := errors.Join(err, db.Close()); err != nil {
		return err
	}
	if err := os.Link(tmp.Name(), path); err != nil {
		return err
	}
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	defer d.Close()
	return d.Sync()
}

// initialise makes an empty store of an empty database.
func initialise(tx *bolt.Tx) error {
	for _, name := range buckets {
		if _, err := tx.CreateBucket(name); err != nil {
			return err
		}
	}
	b, err := tx.CreateBucket(bucketHead)
	if err != nil {
		return err
	}
	if err := b.Put(keySchema, binary.BigEndian.AppendUint32(nil, schema)); err != nil {
		return err
	}
	return b.Put(keyHead, head{}.encode())
}

// A fault is a panic of bbolt's at what it has read, or a page that can't be read.
type fault struct{ what any }

// Error implements error. What the panic says is about bbolt's inside, or Go's, and of no use to who has the file.
func (f *fault) Error() string {
	if e, ok := f.what.(error); ok && errors.As(e, new(interface{ Addr() uintptr })) {
		return "a page of it can't be read: the disk fails, or the file was cut while in use"
	}
	return "its pages contradict each other"
}

// guard calls f, which uses a database, and makes an error of a panic in it.
func guard(f func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if p := recover(); p != nil {
			err = &fault{p}
		}
	}()
	return f()
}

// damaged says what to do about a file that can't be used as it is.
func (f *file) damaged(err error) error {
	var newer newerError
	switch {
	case err == nil:
		return nil
	case errors.As(err, &newer):
		return fmt.Errorf("store %s: %w; use that, or another file", f.path, err)
	case errors.Is(err, errForeign):
		return fmt.Errorf("store %s: %w; use another file", f.path, err)
	}
	return fmt.Errorf("store %s: the file is damaged, or none of this program: %w; "+
		"put a copy in its place, or move it away and make the maps anew", f.path, err)
}

var errForeign = errors.New("it is another program's database")

// A newerError is the schema of a file that a later version has made.
type newerError uint32

// Error implements error.
func (e newerError) Error() string {
	return fmt.Sprintf("it is of a newer version of this program: it has schema %d, and %d is known", uint32(e), schema)
}

// readHead returns a file's head, when its schema is known.
func readHead(tx *bolt.Tx) (head, error) {
	b := tx.Bucket(bucketHead)
	if b == nil {
		return head{}, errForeign
	}
	v := b.Get(keySchema)
	if len(v) != 4 {
		return head{}, fmt.Errorf("schema: %w", errRecord)
	}
	if n := binary.BigEndian.Uint32(v); n != schema {
		return head{}, newerError(n)
	}
	h, err := parseHead(b.Get(keyHead))
	if err != nil {
		return head{}, fmt.Errorf("head: %w", err)
	}
	return h, nil
}

// load reads and checks all that is stored.
func load(tx *bolt.Tx) (s server.Snapshot, err error) {
	h, err := readHead(tx)
	if err != nil {
		return s, err
	}
	s = server.Snapshot{Revision: h.revision, Durable: true, Starts: h.starts}
	var found head
	for t, name := range buckets {
		b := tx.Bucket(name)
		if b == nil {
			return s, fmt.Errorf("it has no bucket %s", name)
		}
		if err := b.ForEach(func(k, v []byte) error {
			found.add(table(t), k, v)
			if err := read(&s, table(t), k, v); err != nil {
				return fmt.Errorf("%s %x: %w", name, k, err)
			}
			return nil
		}); err != nil {
			return s, err
		}
	}
	if found.records != h.records || found.sum != h.sum {
		return s, fmt.Errorf("it should have %d records with the sum %016x and has %d with %016x", h.records, h.sum, found.records, found.sum)
	}
	return s, nil
}

// Load implements server.Store.
func (f *file) Load(context.Context) (s server.Snapshot, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		return s, server.ErrClosed
	}
	err = guard(func() error {
		return f.db.View(func(tx *bolt.Tx) (err error) {
			s, err = load(tx)
			return err
		})
	})
	return s, f.damaged(err)
}

// A writer is a transaction that writes. It writes what has come of its steps at their end and in the order of keys: until then
// bbolt has all that is new between two old keys in one page, and moves what comes behind a key for each that it is given.
type writer struct {
	buckets [numTables]*bolt.Bucket
	records [numTables]map[string][]byte // that are to be written; nil: it is to go
	head    head
	undo    []undo
}

func (w *writer) has(t table, key []byte) bool {
	if v, ok := w.records[t][string(key)]; ok {
		return v != nil
	}
	return w.buckets[t].Get(key) != nil
}

func (w *writer) put(t table, key, value []byte) {
	if w.records[t] == nil {
		w.records[t] = make(map[string][]byte)
	}
	w.records[t][string(key)] = value
}

func (w *writer) remove(t table, key []byte) { w.put(t, key, nil) }

// flush writes the records, and notes what was before.
func (w *writer) flush() error {
	type record struct{ key, value []byte }
	for t, records := range w.records {
		b := w.buckets[t]
		sorted := make([]record, 0, len(records))
		for k, v := range records {
			sorted = append(sorted, record{[]byte(k), v})
		}
		slices.SortFunc(sorted, func(x, y record) int { return bytes.Compare(x.key, y.key) })
		w.undo = slices.Grow(w.undo, len(sorted))
		for _, r := range sorted {
			key, value := r.key, r.value
			old := slices.Clone(b.Get(key))
			if old == nil && value == nil {
				continue
			}
			w.undo = append(w.undo, undo{buckets[t], key, old})
			if old != nil {
				w.head.subtract(table(t), key, old)
			}
			var err error
			if value == nil {
				err = b.Delete(key)
			} else {
				w.head.add(table(t), key, value)
				err = b.Put(key, value)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// Commit implements server.Store. ctx isn't looked at: a transaction that has begun isn't given up.
func (f *file) Commit(_ context.Context, base uint64, changes []server.Change) (uint64, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	switch {
	case f.db == nil:
		return 0, server.ErrClosed
	case f.broken != nil:
		return 0, fmt.Errorf("store %s: out of use since an earlier failure, until the server is started again: %w", f.path, f.broken)
	}
	var w writer
	var id int
	err := guard(func() error {
		return f.db.Update(func(tx *bolt.Tx) (err error) {
			id = tx.ID()
			return w.write(tx, base, changes, f.undo)
		})
	})
	if err != nil {
		if !errors.Is(err, server.ErrConflict) {
			f.failed(err, id, w.undo)
		}
		return 0, fmt.Errorf("store %s: %w", f.path, err)
	}
	f.undo = nil
	f.history.add(server.Transaction{Revision: w.head.revision, Changes: changes})
	return w.head.revision, nil
}

// write is a transaction; it first undoes what isn't to be there.
func (w *writer) write(tx *bolt.Tx, base uint64, changes []server.Change, refused []undo) (err error) {
	if err := restore(tx, refused); err != nil {
		return err
	}
	if w.head, err = readHead(tx); err != nil {
		return err
	}
	if w.head.revision != base {
		return server.ErrConflict
	}
	w.undo = []undo{{bucketHead, keyHead, w.head.encode()}}
	for t, name := range buckets {
		w.buckets[t] = tx.Bucket(name)
	}
	w.head.starts += apply(w, changes)
	w.head.revision++
	if err := w.flush(); err != nil {
		return err
	}
	return tx.Bucket(bucketHead).Put(keyHead, w.head.encode())
}

// failed finds out what of a transaction that was refused is there.
func (f *file) failed(why error, id int, u []undo) {
	if errors.As(why, new(*fault)) {
		f.broken = why
		return
	}
	var last int
	if err := guard(func() error {
		return f.db.View(func(tx *bolt.Tx) error {
			last = tx.ID()
			return nil
		})
	}); err != nil {
		f.broken = err
		return
	}
	if last == id {
		f.undo = append(f.undo, u...)
		// If that fails, too, the next transaction begins with it.
		if guard(func() error { return f.db.Update(func(tx *bolt.Tx) error { return restore(tx, f.undo) }) }) == nil {
			f.undo = nil
		}
	}
}

// restore brings back what was before a transaction.
func restore(tx *bolt.Tx, l []undo) (err error) {
	for i := len(l) - 1; i >= 0 && err == nil; i-- {
		b := tx.Bucket(l[i].bucket)
		if l[i].value == nil {
			err = b.Delete(l[i].key)
		} else {
			err = b.Put(l[i].key, l[i].value)
		}
	}
	return err
}

// Watch implements server.Store.
func (f *file) Watch(ctx context.Context, after uint64) iter.Seq2[server.Transaction, error] {
	return f.history.watch(ctx, after)
}

// Close implements server.Store.
func (f *file) Close() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.db == nil {
		return nil
	}
	f.history.close()
	err := guard(f.db.Close)
	f.db = nil
	if err != nil {
		return fmt.Errorf("store %s: close it: %w", f.path, err)
	}
	return nil
}
