// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"errors"
	"fmt"
)

// A file is what the answer to SELECT tells of it.
type file struct {
	kind    kind
	id      uint16 // 0: not told
	name    []byte // AID of an ADF
	size    int    // of an EF in bytes
	record  int    // length of a record
	records int
}

// A kind is what a file is like.
type kind string

const (
	unknown     kind = ""
	mf          kind = "MF"
	df          kind = "DF"
	adf         kind = "ADF"
	otherEF     kind = "EF"
	transparent kind = "transparent EF"
	linear      kind = "linear fixed EF"
	cyclic      kind = "cyclic EF"
)

// hasRecords reports whether a file is read by records.
func (k kind) hasRecords() bool { return k == linear || k == cyclic }

func (f file) String() string {
	s := string(f.kind)
	if f.kind == unknown {
		s = "file"
	}
	if f.id != 0 {
		s += fmt.Sprintf(" %04x", f.id)
	}
	if len(f.name) > 0 {
		s += fmt.Sprintf(" %x", f.name)
	}
	switch {
	case f.kind == transparent:
		s += fmt.Sprintf(", %d bytes", f.size)
	case f.kind.hasRecords():
		s += fmt.Sprintf(", %d records of %d bytes", f.records, f.record)
	}
	return s
}

var errFile = errors.New("card's description of the file makes no sense")

// parseFCP reads the file control parameters of a UICC (TS 102 221 11.1.1.3).
func parseFCP(b []byte) (file, error) {
	var f file
	tag, b, rest, ok := tlv(b)
	if !ok || tag != 0x62 || len(rest) > 0 {
		return f, errFile
	}
	var v []byte
	for len(b) > 0 {
		if tag, v, b, ok = tlv(b); !ok {
			return f, errFile
		}
		switch {
		case tag == 0x82 && len(v) >= 1: // file descriptor, 11.1.1.4.3
			f.kind = descriptor(v[0])
			if f.kind.hasRecords() {
				if len(v) < 5 {
					return f, errFile
				}
				f.record, f.records = int(v[2])<<8|int(v[3]), int(v[4])
			}
		case tag == 0x83 && len(v) == 2: // file identifier, 11.1.1.4.4
			f.id = uint16(v[0])<<8 | uint16(v[1])
		case tag == 0x84: // DF name, 11.1.1.4.5
			f.name = v
		case tag == 0x80 && len(v) >= 2 && len(v) <= 3: // file size, 11.1.1.4.1
			for _, x := range v {
				f.size = f.size<<8 | int(x)
			}
		}
	}
	if f.kind == df {
		switch {
		case f.id == 0x3f00:
			f.kind = mf
		case f.name != nil:
			f.kind = adf
		}
	}
	return f, nil
}

// descriptor reads the file descriptor byte (TS 102 221 table 11.5).
func descriptor(b byte) kind {
	switch {
	case b&0xbf == 0x38:
		return df
	case b&0x80 != 0 || b&0x38 > 0x08: // neither working nor internal EF
		return unknown
	}
	switch b & 7 {
	case 1:
		return transparent
	case 2:
		return linear
	case 6:
		return cyclic
	}
	return otherEF
}

// tlv takes the first data object of b (TS 101 220 7.1.2, lengths of one to three bytes).
func tlv(b []byte) (tag byte, value, rest []byte, ok bool) {
	if len(b) < 2 {
		return 0, nil, nil, false
	}
	tag, n := b[0], int(b[1])
	b = b[2:]
	switch {
	case n < 0x80:
	case n == 0x81 && len(b) >= 1:
		n, b = int(b[0]), b[1:]
	case n == 0x82 && len(b) >= 2:
		n, b = int(b[0])<<8|int(b[1]), b[2:]
	default:
		return 0, nil, nil, false
	}
	if n > len(b) {
		return 0, nil, nil, false
	}
	return tag, b[:n], b[n:], true
}

// parseGSM reads what a SIM answers to SELECT (TS 51.011 9.2.1).
func parseGSM(b []byte) (file, error) {
	var f file
	if len(b) < 7 {
		return f, errFile
	}
	f.id = uint16(b[4])<<8 | uint16(b[5])
	switch b[6] { // type of file, 9.3
	case 1:
		f.kind = mf
	case 2:
		f.kind = df
	case 4:
		if len(b) < 14 {
			return f, errFile
		}
		f.size = int(b[2])<<8 | int(b[3])
		switch b[13] {
		case 0:
			f.kind = transparent
		case 1:
			f.kind = linear
		case 3:
			f.kind = cyclic
		default:
			f.kind = otherEF
		}
		if !f.kind.hasRecords() {
			break
		}
		if len(b) < 15 || b[14] == 0 {
			return f, errFile
		}
		f.record = int(b[14])
		f.records = f.size / f.record
	}
	return f, nil
}
