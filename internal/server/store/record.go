// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"

	"remsim/internal/server"
	"remsim/internal/slot"
)

// Records have numbers in big-endian order, so that keys are in the order of slots:
//
//	table     key                                        value
//	maps      bank slot                                  client slot, seq, created, changed
//	removals  bank slot, client slot                     created, deleted
//	beliefs   client slot                                bank slot
//	ids       name, serial, interface, instance          client slot, given
//
// A slot is its id and its number, of 2 bytes each; seq and times are of 8, the latter in nanoseconds since 1970; instance is of
// 2; a text has a byte with its length before it.

var (
	errRecord  = errors.New("record of a wrong length")
	errNoTable = errors.New("no such table")
)

func appendSlot(b []byte, id, nr uint16) []byte {
	return binary.BigEndian.AppendUint16(binary.BigEndian.AppendUint16(b, id), nr)
}
func appendBank(b []byte, s slot.Bank) []byte     { return appendSlot(b, s.ID, s.Slot) }
func appendClient(b []byte, s slot.Client) []byte { return appendSlot(b, s.ID, s.Slot) }
func appendTime(b []byte, t time.Time) []byte {
	return binary.BigEndian.AppendUint64(b, uint64(t.UnixNano()))
}

func bankAt(b []byte) (s slot.Bank, err error) {
	s = slot.Bank{ID: binary.BigEndian.Uint16(b), Slot: binary.BigEndian.Uint16(b[2:])}
	if !s.Valid() {
		err = fmt.Errorf("bank slot %s: want numbers 0..%d", s, slot.Max)
	}
	return s, err
}

func clientAt(b []byte) (s slot.Client, err error) {
	s = slot.Client{ID: binary.BigEndian.Uint16(b), Slot: binary.BigEndian.Uint16(b[2:])}
	if !s.Valid() {
		err = fmt.Errorf("client slot %s: want numbers 0..%d", s, slot.Max)
	}
	return s, err
}

func timeAt(b []byte) time.Time { return time.Unix(0, int64(binary.BigEndian.Uint64(b))) }

func mapRecord(m server.StoredMap) (key, value []byte) {
	b := make([]byte, 0, 32)
	b = appendBank(b, m.Bank)
	b = appendClient(b, m.Client)
	b = binary.BigEndian.AppendUint64(b, m.Seq)
	b = appendTime(b, m.Created)
	b = appendTime(b, m.Changed)
	return b[:4:4], b[4:]
}

func parseMap(key, value []byte) (m server.StoredMap, err error) {
	if len(key) != 4 || len(value) != 28 {
		return m, errRecord
	}
	bank, err1 := bankAt(key)
	client, err2 := clientAt(value)
	m.Bank, m.Client = bank, client
	m.Seq = binary.BigEndian.Uint64(value[4:])
	m.Created, m.Changed = timeAt(value[12:]), timeAt(value[20:])
	return m, errors.Join(err1, err2)
}

func removalKey(m slot.Map) []byte { return appendClient(appendBank(nil, m.Bank), m.Client) }
func removalValue(r server.Removal) []byte {
	return appendTime(appendTime(nil, r.Created), r.Deleted)
}

func parseRemoval(key, value []byte) (r server.Removal, err error) {
	if len(key) != 8 || len(value) != 16 {
		return r, errRecord
	}
	bank, err1 := bankAt(key)
	client, err2 := clientAt(key[4:])
	r.Bank, r.Client = bank, client
	r.Created, r.Deleted = timeAt(value), timeAt(value[8:])
	return r, errors.Join(err1, err2)
}

func parseBelief(key, value []byte) (b server.Belief, err error) {
	if len(key) != 4 || len(value) != 4 {
		return b, errRecord
	}
	client, err1 := clientAt(key)
	bank, err2 := bankAt(value)
	b.Client, b.Bank = client, bank
	return b, errors.Join(err1, err2)
}

func idKey(k server.ClientKey) []byte {
	var b []byte
	for _, s := range []string{k.Name, k.Serial, k.Interface} {
		b = append(append(b, byte(len(s))), s...)
	}
	return binary.BigEndian.AppendUint16(b, k.Instance)
}

func idValue(a server.Assignment) []byte {
	return appendTime(appendClient(nil, a.Client), a.Given)
}

func parseID(key, value []byte) (a server.Assignment, err error) {
	for _, s := range []*string{&a.Key.Name, &a.Key.Serial, &a.Key.Interface} {
		if len(key) == 0 || len(key) < 1+int(key[0]) {
			return a, errRecord
		}
		*s, key = string(key[1:1+key[0]]), key[1+key[0]:]
	}
	if len(key) != 2 || len(value) != 12 {
		return a, errRecord
	}
	a.Key.Instance = binary.BigEndian.Uint16(key)
	a.Client, err = clientAt(value)
	a.Given = timeAt(value[4:])
	return a, err
}
