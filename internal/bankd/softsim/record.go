// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "bytes"

// target returns the EF an operation is for: the one with a short identifier, which becomes the
// current one, or the current one. It has to have records or not, be activated, and allow it.
func (c *Card) target(q *command, sfi byte, records bool, op operation) (*file, result) {
	ch := q.channel
	f := ch.ef
	if sfi != 0 {
		if f = ch.dir.bySFI(sfi); f == nil {
			return nil, fileNotFound
		}
	}
	switch {
	case f == nil:
		return nil, noFile
	case records == (f.kind == transparent):
		return nil, wrongStructure
	case !c.may(f.rights[op]):
		return nil, notAllowed
	case f.deactivated:
		return nil, wrongFileState
	}
	if sfi != 0 {
		ch.enter(f)
	}
	return f, done
}

// place returns the EF and the offset that P1 and P2 of a binary command mean. In class 00 P1 can
// hold a short identifier (TS 51.011 9.2.3, TS 102 221 11.1.3).
func (c *Card) place(q *command, op operation) (f *file, offset int, r result) {
	sfi, offset := byte(0), int(q.p1)<<8|int(q.p2)
	if !q.gsm && q.p1&0x80 != 0 {
		if sfi, offset = q.p1&0x1f, int(q.p2); q.p1&0x60 != 0 {
			return nil, 0, wrongParameters
		}
		if sfi == 0 {
			return nil, 0, fileNotFound
		}
	}
	if f, r = c.target(q, sfi, false, op); r == done && offset >= len(f.data) {
		r = wrongOffset
	}
	return f, offset, r
}

// readBinary is READ BINARY (TS 51.011 8.3, TS 102 221 11.1.3).
func readBinary(c *Card, q *command) ([]byte, result) {
	f, offset, r := c.place(q, read)
	if r != done {
		return nil, r
	}
	return f.data[offset:min(len(f.data), offset+256)], done
}

// updateBinary is UPDATE BINARY (TS 51.011 8.4, TS 102 221 11.1.4).
func updateBinary(c *Card, q *command) ([]byte, result) {
	f, offset, r := c.place(q, update)
	if r != done {
		return nil, r
	}
	if len(q.data) == 0 || len(q.data) > len(f.data)-offset {
		return nil, wrongLength
	}
	copy(f.data[offset:], q.data)
	return nil, done
}

// Modes of record commands, in P2 (TS 51.011 9.2.5, TS 102 221 11.1.5).
const (
	nextRecord     = 2
	previousRecord = 3
	thatRecord     = 4 // in P1; 00: the current one
)

// records returns the EF whose records P2 of a command means, and its mode. In class 00 P2 can hold
// a short identifier.
func (c *Card) records(q *command, op operation) (f *file, mode byte, r result) {
	sfi, mode := q.p2>>3, q.p2&7
	if q.gsm && sfi != 0 {
		return nil, 0, wrongParameters
	}
	f, r = c.target(q, sfi, true, op)
	return f, mode, r
}

// pick returns the number of the record of f that P1 and a mode mean. Next and previous of no record are the
// first and the last; in a cyclic EF they go round (TS 51.011 8.5, TS 102 221 11.1.5).
func (q *command) pick(f *file, mode byte) (n int, r result) {
	n = q.channel.record
	switch {
	case mode == thatRecord && q.p1 != 0:
		n = int(q.p1)
	case mode == thatRecord:
	case q.p1 != 0:
		return 0, wrongParameters
	case mode == nextRecord:
		if n++; n > f.records() && f.kind == cyclic {
			n = 1
		}
	case mode == previousRecord && n == 0, mode == previousRecord && n == 1 && f.kind == cyclic:
		n = f.records()
	case mode == previousRecord:
		n--
	default:
		return 0, wrongParameters
	}
	if n < 1 || n > f.records() {
		return 0, recordNotFound
	}
	return n, done
}

// readRecord is READ RECORD (TS 51.011 8.5, TS 102 221 11.1.5).
func readRecord(c *Card, q *command) ([]byte, result) {
	f, mode, r := c.records(q, read)
	if r != done {
		return nil, r
	}
	n, r := q.pick(f, mode)
	if r != done {
		return nil, r
	}
	if q.le != f.size {
		q.n = f.size
		return nil, otherLength
	}
	if mode != thatRecord { // which leaves the record pointer alone
		q.channel.record = n
	}
	return f.record(n), done
}

// updateRecord is UPDATE RECORD (TS 51.011 8.6, TS 102 221 11.1.6). In a cyclic EF only "previous" is
// possible: what is written becomes record 1.
func updateRecord(c *Card, q *command) ([]byte, result) {
	f, mode, r := c.records(q, update)
	if r != done {
		return nil, r
	}
	if f.kind == cyclic && (mode != previousRecord || q.p1 != 0) {
		return nil, wrongStructure
	}
	n, r := q.pick(f, mode)
	if r != done {
		return nil, r
	}
	if len(q.data) != f.size {
		return nil, wrongLength
	}
	if f.kind == cyclic {
		n = 1
		f.push(q.data)
	} else {
		copy(f.record(n), q.data)
	}
	if mode != thatRecord {
		q.channel.record = n
	}
	return nil, done
}

// A match says whether a record is one that is searched.
type match struct {
	pattern []byte
	offset  int // where it stands in the record
	after   int // instead of offset: behind the first byte of this value; -1: not so
}

func (m match) in(record []byte) bool {
	offset := m.offset
	if m.after >= 0 {
		offset = bytes.IndexByte(record, byte(m.after)) + 1
		if offset == 0 {
			return false
		}
	}
	return offset <= len(record) && bytes.HasPrefix(record[offset:], m.pattern)
}

// search appends to b the numbers of the records of f that match, from record n on in steps of 1 or -1, at
// most limit of them.
func (f *file) search(b []byte, m match, n, step, limit int) []byte {
	for ; n >= 1 && n <= f.records() && len(b) < limit; n += step {
		if m.in(f.record(n)) {
			b = append(b, byte(n))
		}
	}
	return b
}

// seek is SEEK: the next record that begins with a pattern becomes the current one (TS 51.011 8.7, 9.2.7).
func seek(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2&0xec != 0 {
		return nil, wrongParameters
	}
	f, r := c.target(q, 0, true, read)
	switch {
	case r != done:
		return nil, r
	case f.kind != linear:
		return nil, wrongStructure
	case len(q.data) < 1 || len(q.data) > 16 || len(q.data) > f.size:
		return nil, wrongLength
	}
	from, step := 1, 1
	switch current := q.channel.record; q.p2 & 0x03 {
	case 1:
		from, step = f.records(), -1
	case 2:
		from = current + 1
	case 3:
		if from, step = current-1, -1; current == 0 {
			from = f.records()
		}
	}
	found := f.search(c.scratch[:0], match{pattern: q.data, after: -1}, from, step, 1)
	if len(found) == 0 {
		return nil, patternNotFound
	}
	q.channel.record = int(found[0])
	if q.p2&0x10 == 0 {
		return nil, done
	}
	return found, done
}

// Modes of SEARCH RECORD, in P2 and in the first byte of an enhanced search (TS 102 221 11.1.7).
const (
	searchForward  = 4 // from the record in P1; 00: the current one
	searchBackward = 5
	searchNext     = 6 // forward from the one after it; in P2: enhanced search
	searchPrevious = 7 // backward from the one before it
)

// searchRecord is SEARCH RECORD: the numbers of all records that have a pattern at a place, which is
// the begin in a simple search. The first becomes the current one (TS 102 221 11.1.7).
func searchRecord(c *Card, q *command) ([]byte, result) {
	f, mode, r := c.records(q, read)
	if r != done {
		return nil, r
	}
	m := match{pattern: q.data, after: -1}
	switch mode {
	case searchForward, searchBackward:
	case searchNext:
		if len(q.data) < 2 {
			return nil, wrongLength
		}
		if mode = q.data[0] & 0x07; mode < searchForward || q.data[0]&0xf0 != 0 {
			return nil, wrongData
		}
		m.pattern = q.data[2:]
		if q.data[0]&0x08 != 0 {
			m.after = int(q.data[1])
		} else {
			m.offset = int(q.data[1])
		}
	default:
		return nil, wrongParameters
	}
	if len(m.pattern) == 0 || len(m.pattern) > f.size {
		return nil, wrongLength
	}
	n, step := int(q.p1), 1
	if n == 0 {
		n = q.channel.record
	}
	switch mode {
	case searchBackward:
		step = -1
	case searchNext:
		n++
	case searchPrevious:
		step = -1
		if n--; n < 0 { // before no record is the last
			n = f.records()
		}
	}
	if mode <= searchBackward && n == 0 || n > f.records() && mode != searchNext {
		return nil, recordNotFound
	}
	found := f.search(c.scratch[:0], m, n, step, 254)
	if len(found) == 0 {
		return nil, nothingFound
	}
	q.channel.record = int(found[0])
	return found, done
}

// increaseRecord is INCREASE: record 1 and a number make the new record 1 (TS 51.011 8.8, TS 102 221 11.1.8).
func increaseRecord(c *Card, q *command) ([]byte, result) {
	sfi := byte(0)
	if !q.gsm && q.p1&0x80 != 0 {
		if sfi, q.p1 = q.p1&0x1f, q.p1&0x60; sfi == 0 {
			return nil, fileNotFound
		}
	}
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	f, r := c.target(q, sfi, true, increase)
	switch {
	case r != done:
		return nil, r
	case f.kind != cyclic || f.size > 127:
		return nil, wrongStructure
	case q.gsm && len(q.data) != 3 || len(q.data) < 1 || len(q.data) > 127:
		return nil, wrongLength
	}
	// The sum is made where the response goes, then the number added follows.
	b := append(c.scratch[:0], f.record(1)...)
	carry := 0
	for i := range max(len(b), len(q.data)) {
		at, x := len(b)-1-i, 0
		if i < len(q.data) {
			x = int(q.data[len(q.data)-1-i])
		}
		if x += carry; at < 0 {
			if x != 0 {
				return nil, fullRecord
			}
			continue
		}
		x += int(b[at])
		b[at], carry = byte(x), x>>8
	}
	if carry != 0 {
		return nil, fullRecord
	}
	f.push(b)
	q.channel.record = 1
	return append(b, q.data...), done
}

// deactivateFile is INVALIDATE and DEACTIVATE FILE of the current EF (TS 51.011 8.14, TS 102 221 11.1.14).
func deactivateFile(c *Card, q *command) ([]byte, result) { return nil, c.setActive(q, false) }

// activateFile is REHABILITATE and ACTIVATE FILE of the current EF (TS 51.011 8.15, TS 102 221 11.1.15).
func activateFile(c *Card, q *command) ([]byte, result) { return nil, c.setActive(q, true) }

func (c *Card) setActive(q *command, active bool) result {
	f, op := q.channel.ef, deactivate
	if active {
		op = activate
	}
	switch {
	case q.p1 != 0 || q.p2 != 0:
		return wrongParameters
	case len(q.data) != 0:
		return wrongLength
	case f == nil:
		return noFile
	case !c.may(f.rights[op]):
		return notAllowed
	case f.deactivated != active:
		return wrongFileState
	}
	f.deactivated = !active
	return done
}
