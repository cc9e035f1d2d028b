// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"strconv"
	"syscall"
	"time"

	"remsim/internal/slot"
)

// A Store keeps what a State must not forget. Each transaction makes the next revision of what is stored;
// revision 0 is that of a new store, which is empty. Its methods may be called from any goroutine.
type Store interface {
	// Load returns all that is stored.
	Load(ctx context.Context) (Snapshot, error)
	// Commit stores a transaction, all of it or nothing, and returns the new revision: from then on it
	// outlives the process, if the store is one that does. It fails with ErrConflict when the store
	// isn't at revision base (any more), and nothing is changed when it fails.
	Commit(ctx context.Context, base uint64, changes []Change) (revision uint64, err error)
	// Watch yields the transactions that follow a revision, in order and as they are made, until ctx ends or the
	// store is closed. An error is the last thing it yields: ErrCompacted when the first of those
	// transactions aren't kept any more, so that all is to be loaded anew.
	Watch(ctx context.Context, after uint64) iter.Seq2[Transaction, error]
	// Close ends the use of the store.
	Close() error
}

// What a Store's methods fail with, among other things.
var (
	ErrConflict  = errors.New("another has changed what is stored")
	ErrCompacted = errors.New("these transactions aren't kept any more")
	ErrClosed    = errors.New("the store is closed")
)

// A Transaction is what a Store's Commit has stored.
type Transaction struct {
	Revision uint64 // that it made
	Changes  []Change
}

// A Snapshot is all that is stored at a revision. Its lists are in no particular order.
type Snapshot struct {
	Revision uint64
	// Durable reports whether the store outlives servers: then it knows all maps there are, and what else a bankd
	// has isn't wanted.
	Durable  bool
	Starts   uint64 // of servers, with this store
	Maps     []StoredMap
	Removals []Removal
	Beliefs  []Belief
	IDs      []Assignment
}

// A StoredMap is a map that is wanted. A bank slot and a client slot are each in one at most.
type StoredMap struct {
	slot.Map
	Seq     uint64    // ascending in the order in which maps were made
	Created time.Time // when it was asked for
	Changed time.Time // when its bank slot was, if that was later
}

// A Removal is a map whose end was asked for and that its bankd may still have. There is one at most for the same two slots.
type Removal struct {
	slot.Map
	Created time.Time // as of the map that it was
	Deleted time.Time // when its end was asked for
}

// A Belief is a client that may believe to be in a map that isn't wanted any more: it is to be told otherwise.
type Belief struct {
	slot.Client
	Bank slot.Bank // that it was told to use
}

// An Assignment is a client slot that was given to a client that asked for one.
type Assignment struct {
	Key    ClientKey
	Client slot.Client
	Given  time.Time
}

// A ClientKey is how clients that ask for a client slot (connectClientReq without one, option -c auto) are told apart:
// who has the same key is given the same slot again.
type ClientKey struct {
	Name      string // ComponentIdentity.name: the host's
	Serial    string // ComponentIdentity.hwSerialNr: the device's; may be empty
	Interface string // ComponentIdentity.hwVersion, which clients of several interfaces of one device have differ; may be empty
	// Instance counts clients that say the same of themselves and are connected at the same time, from 0. Which of them is
	// which isn't known when they come back together.
	Instance uint16
}

// String returns a form for people, such as "host,0123abcd,interface 1"; a second one of the same has "#1" behind it.
func (k ClientKey) String() string {
	s := k.Name + "," + k.Serial + "," + k.Interface
	if k.Instance > 0 {
		s += "#" + strconv.Itoa(int(k.Instance))
	}
	return s
}

// A Change is a step of a transaction: Want, End, Removed, Told, Assign, Unassign or Started. A transaction's steps
// are taken in order.
type Change interface{ isChange() }

type (
	// Want has a map be wanted. The caller sees to it that neither slot is in a wanted map.
	Want struct{ StoredMap }
	// End has a map not be wanted any more: it is a Removal from then on, and there is a Belief of its client, unless there is
	// one already: then the client wasn't told of this map. A map that isn't stored has an end like others.
	End struct{ Removal }
	// Removed ends a Removal.
	Removed struct{ slot.Map }
	// Told ends a Belief.
	Told struct{ slot.Client }
	// Assign has a key have a client slot, and neither any other.
	Assign struct{ Assignment }
	// Unassign has a key have no client slot.
	Unassign struct{ Assignment }
	// Started counts the start of a server.
	Started struct{}
)

func (Want) isChange()     {}
func (End) isChange()      {}
func (Removed) isChange()  {}
func (Told) isChange()     {}
func (Assign) isChange()   {}
func (Unassign) isChange() {}
func (Started) isChange()  {}

// A StoreError says that a change was refused because it couldn't be stored. Nothing has changed.
type StoreError struct{ Err error }

// Error implements error.
func (e *StoreError) Error() string { return fmt.Sprintf("can't be stored: %v", e.Err) }

// Unwrap returns what the Store has said.
func (e *StoreError) Unwrap() error { return e.Err }

// Full reports whether that is for want of space.
func (e *StoreError) Full() bool {
	return errors.Is(e.Err, syscall.ENOSPC) || errors.Is(e.Err, syscall.EDQUOT) || errors.Is(e.Err, syscall.EFBIG)
}
