// SPDX-License-Identifier: GPL-2.0-or-later

// Package ipa is the IPA multiplex on a byte stream: frames and the messages of
// connection control (CCM). Of RSPRO it knows no more than its extension id.
//
// A frame is a length (2 bytes, big-endian, counting what follows the stream id), a
// stream id, and the payload. The payload of the OSMO extension stream begins
// with an extension id.
package ipa

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Stream says what a frame carries.
type Stream byte

// The streams an RSPRO connection has.
const (
	CCM   Stream = 0xfe // connection control
	RSPRO Stream = 0xee // OSMO extension stream; with the extension id of RSPRO
)

// extRSPRO is RSPRO's extension id on the OSMO extension stream.
const extRSPRO = 0x07

// MaxFrame is the longest frame a Reader takes, in bytes with its header. Real
// frames stay under 1 KiB.
const MaxFrame = 4096

// headerLen is the length of a frame's header: length and stream id.
const headerLen = 3

// Overhead is what framing adds to an RSPRO PDU: header and extension id.
const Overhead = headerLen + 1

// What a Reader finds wrong with a stream. Each ends the connection, since
// nothing after it can be trusted.
var (
	ErrEmpty     = errors.New("empty frame")
	ErrTooLong   = errors.New("frame too long")
	ErrStream    = errors.New("unknown stream id")
	ErrExtension = errors.New("unknown extension id")
)

// firstBuffer is what a Reader holds at first: most peers of a server, which has thousands, never send more at once.
const firstBuffer = 128

// A Reader takes frames from a stream that may be split and joined anywhere. It
// reads as much as there is with each call, and holds up to MaxFrame bytes, once that much comes.
type Reader struct {
	r        io.Reader
	buf      []byte
	pos, end int  // of what was read and not returned yet
	begun    bool // a frame was returned
	full     bool // the last read has filled buf: there may be more
}

// NewReader returns a Reader of r.
func NewReader(r io.Reader) *Reader { return &Reader{r: r} }

// Next returns the next frame's stream and payload, without the extension id.
// The payload is valid until the next call. The error is io.EOF at the end of
// the stream between two frames, io.ErrUnexpectedEOF within one, one of this
// package's, or the stream's.
func (r *Reader) Next() (Stream, []byte, error) {
	for {
		n, err := check(r.buf[r.pos:r.end])
		if err != nil {
			if what := guess([2]byte(r.buf[r.pos:])); what != "" && !r.begun {
				err = fmt.Errorf("%w: that looks like %s", err, what)
			}
			return 0, nil, err
		}
		if n > 0 && r.end-r.pos >= n {
			f := r.buf[r.pos : r.pos+n : r.pos+n]
			r.pos += n
			r.begun = true
			s := Stream(f[2])
			if s == RSPRO {
				return s, f[Overhead:], nil
			}
			return s, f[headerLen:], nil
		}
		if err := r.fill(); err != nil {
			if err == io.EOF && r.end > r.pos {
				err = io.ErrUnexpectedEOF
			}
			if r.end > r.pos {
				err = fmt.Errorf("ipa: within a frame, after %d bytes: %w", r.end-r.pos, err)
			}
			return 0, nil, err
		}
	}
}

// check looks at the beginning of a frame as far as it has come. It returns the
// frame's length with its header, or 0 when that isn't known yet.
func check(b []byte) (int, error) {
	if len(b) < 2 {
		return 0, nil
	}
	n := headerLen + int(binary.BigEndian.Uint16(b))
	switch {
	case n == headerLen:
		return 0, fmt.Errorf("ipa: %w", ErrEmpty)
	case n > MaxFrame:
		return 0, fmt.Errorf("ipa: %w: %d bytes, at most %d", ErrTooLong, n, MaxFrame)
	case len(b) < 3:
		return n, nil
	}
	switch s := Stream(b[2]); s {
	case CCM:
	case RSPRO:
		if n == Overhead {
			return 0, fmt.Errorf("ipa: %w", ErrEmpty)
		}
		if len(b) > headerLen && b[headerLen] != extRSPRO {
			return 0, fmt.Errorf("ipa: %w %#02x", ErrExtension, b[headerLen])
		}
	default:
		return 0, fmt.Errorf("ipa: %w %#02x", ErrStream, byte(s))
	}
	return n, nil
}

// guess names the protocol of a peer that isn't an IPA one by the first bytes it sent, as
// one does who was given the wrong port. Two of them say enough, and a length in
// their place would be over MaxFrame. Empty: unknown.
func guess(b [2]byte) string {
	const space, del = 0x20, 0x7f
	switch string(b[:]) {
	case "HT": // a response
		return "HTTP"
	case "GE", "HE", "PO", "PU", "DE", "CO", "OP", "TR", "PA", "PR": // the methods
		return "HTTP"
	case "\x16\x03", "\x15\x03": // records of a handshake, of an alert
		return "TLS"
	case "SS":
		return "SSH"
	}
	if b[0] >= space && b[0] < del && b[1] < del {
		return "text"
	}
	return ""
}

// fill reads more, making room first.
func (r *Reader) fill() error {
	if r.pos > 0 {
		r.end = copy(r.buf, r.buf[r.pos:r.end])
		r.pos = 0
	}
	if r.full || r.end == len(r.buf) {
		r.grow()
	}
	for range 100 {
		n, err := r.r.Read(r.buf[r.end:])
		r.end += n
		switch {
		case n > 0:
			r.full = r.end == len(r.buf)
			return nil // an error will come again
		case err != nil:
			return err
		}
	}
	return io.ErrNoProgress
}

// grow doubles the buffer, up to MaxFrame.
func (r *Reader) grow() {
	n := min(max(2*len(r.buf), firstBuffer), MaxFrame)
	if n == len(r.buf) {
		return
	}
	buf := make([]byte, n)
	copy(buf, r.buf[:r.end])
	r.buf = buf
}

// Begin appends the header of an RSPRO frame, its length to be set by End when
// the payload was appended after it.
func Begin(dst []byte) []byte { return append(dst, 0, 0, byte(RSPRO), extRSPRO) }

// End sets the length of frame, which began with Begin's header and is complete.
func End(frame []byte) {
	binary.BigEndian.PutUint16(frame, uint16(len(frame)-headerLen))
}
