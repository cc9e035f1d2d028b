// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"encoding/binary"
	"fmt"
	"iter"
)

// A Joiner puts messages together from the transfers of one endpoint, by their length fields: a
// transfer may have several of them, and a message may take several transfers. Firmware ends a message
// of whole packets by a packet of length zero sometimes, and sometimes not; neither matters.
//
// What can't be a message is skipped up to the end of its transfer, and from there on up to the first
// one that begins like a message. A transfer that isn't of whole packets ends a message in any case, and so does one without
// bytes: whoever knows that something was lost gives that, else the next message would be taken for the rest of
// the one that lacks its end. The zero value is ready for use.
type Joiner struct {
	buf  []byte // the beginning of a message, or messages that nobody took
	lost bool   // skipping since the last transfer's end, which has been told
}

// Join takes a transfer and yields the messages that are complete with it, and an error for each
// thing that was skipped. Neither keeps bytes of the transfer.
func (j *Joiner) Join(transfer []byte) iter.Seq2[Message, error] {
	return func(yield func(Message, error) bool) {
		if j.lost && len(transfer) >= HeaderLen && checkHeader(transfer) == nil {
			j.lost = false
		}
		if j.lost {
			return
		}
		j.buf = append(j.buf, transfer...)
		open := len(transfer) > 0 && len(transfer)%PacketSize == 0 // more may follow
		for len(j.buf) > 0 {
			b := j.buf
			n := len(b)
			var m Message
			var err error
			if n >= HeaderLen {
				if err = checkHeader(b); err == nil {
					n = int(binary.LittleEndian.Uint16(b[6:]))
				}
			}
			switch {
			case err != nil:
				j.lost = open
				err = fmt.Errorf("%w: %d bytes skipped", err, len(b))
				n = len(b)
			case len(b) >= HeaderLen && n <= len(b):
				m, err = Decode(b[:n])
			case open:
				return
			default:
				err = fmt.Errorf("message ends after %d bytes: skipped", len(b))
				n = len(b)
			}
			j.buf = append(b[:0], b[n:]...)
			if !yield(m, err) {
				return
			}
		}
	}
}

// checkHeader says why b, of HeaderLen bytes at least, doesn't begin with a message.
func checkHeader(b []byte) error {
	n := binary.LittleEndian.Uint16(b[6:])
	switch {
	case Class(b[0]) > ClassSniff:
		return fmt.Errorf("message of class %d: want 0..%d", b[0], ClassSniff)
	case b[4] != 0 || b[5] != 0:
		return fmt.Errorf("message with reserved bytes %02x%02x: want 0000", b[4], b[5])
	case n < HeaderLen || n > MaxMessage:
		return fmt.Errorf("message of length %d: want %d..%d", n, HeaderLen, MaxMessage)
	}
	return nil
}
