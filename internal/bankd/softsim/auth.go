// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"crypto/subtle"
	"encoding/binary"
)

// Sequence numbers are of 48 bits: SEQ, then IND, by which the card keeps apart what several nodes of a
// network use side by side (TS 33.102 annex C.1.1.1).
const (
	indBits = 5
	// maxJump is how much higher than all before a SEQ may be (TS 33.102 annex C.2.1, C.3).
	maxJump = 1 << 28
)

// A sequence is what a card knows of the sequence numbers it accepted.
type sequence struct {
	last uint64               // the highest; 0: none
	seqs [1 << indBits]uint64 // the highest SEQ for each IND
}

// newSequence returns what a card knows that accepted last, 0 for a card that accepted none.
func newSequence(last uint64) sequence {
	s := sequence{last: last}
	for i := range s.seqs {
		s.seqs[i] = last >> indBits
	}
	return s
}

// accept reports whether a sequence number is fresh, and notes it (TS 33.102 annex C.2.2). A card that accepted
// none can't know what is too high.
func (s *sequence) accept(sqn uint64) bool {
	seq, highest := sqn>>indBits, &s.seqs[sqn%(1<<indBits)]
	if seq <= *highest || s.last != 0 && seq > s.last>>indBits+maxJump {
		return false
	}
	*highest = seq
	s.last = max(s.last, sqn)
	return true
}

// runGSMAlgorithm answers SRES and Kc to a challenge, by Milenage for GSM (TS 55.205) in the
// place of COMP128, in DF.GSM only and with CHV1 (TS 51.011 8.16, 9.2.16).
func runGSMAlgorithm(c *Card, q *command) ([]byte, result) {
	switch {
	case q.p1 != 0 || q.p2 != 0:
		return nil, wrongParameters
	case len(q.data) != 16:
		return nil, wrongLength
	case q.channel.dir.id != idGSM:
		return nil, notNow
	case !c.may(pin1):
		return nil, notAllowed
	}
	c.memory.auth.answer(q.data, &c.answer)
	sres, kc := c.answer.sres(), c.answer.kc()
	return append(append(c.scratch[:0], sres[:]...), kc[:]...), done
}

// authenticate is AUTHENTICATE in the GSM and in the 3G security context, in the USIM application only
// and with PIN 1 (TS 31.102 7.1).
func authenticate(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0x80 && q.p2 != 0x81 {
		return nil, wrongParameters
	}
	if app := q.channel.app; app == nil || !q.channel.dir.within(app) {
		return nil, notNow
	}
	if !c.may(pin1) {
		return nil, notAllowed
	}
	// Data: length and RAND, in the 3G context also length and AUTN.
	gsm := q.p2 == 0x80
	if gsm && len(q.data) != 17 || !gsm && len(q.data) != 34 {
		return nil, wrongLength
	}
	if q.data[0] != 16 || !gsm && q.data[17] != 16 {
		return nil, wrongData
	}
	auth := c.memory.auth
	auth.answer(q.data[1:17], &c.answer)
	v, b := &c.answer, c.scratch[:0]
	kc := v.kc()
	if gsm {
		sres := v.sres()
		b = append(append(b, 4), sres[:]...)
		return append(append(b, 8), kc[:]...), done
	}
	// AUTN: SQN xor AK, AMF, MAC (TS 33.102 6.3.2).
	autn := q.data[18:34]
	var sqn [8]byte
	subtle.XORBytes(sqn[2:], autn[:6], v.ak[:])
	auth.f1(sqn[2:], autn[6:8], &v.scratch)
	if subtle.ConstantTimeCompare(autn[8:], v.scratch[:8]) == 0 {
		return nil, wrongMAC
	}
	numbers := &c.memory.numbers
	if !numbers.accept(binary.BigEndian.Uint64(sqn[:])) {
		// Synchronisation failure: AUTS, which is the highest SQN xor AK* and MAC-S over it with an
		// AMF of 0 (TS 33.102 6.3.3, TS 31.102 7.1.2.1).
		var highest [8]byte
		binary.BigEndian.PutUint64(highest[:], numbers.last)
		b = append(b, 0xdc, 14)
		auth.out(12, 8, &v.scratch) // f5*
		for i, x := range highest[2:] {
			b = append(b, x^v.scratch[i])
		}
		auth.f1(highest[2:], []byte{0, 0}, &v.scratch)
		return append(b, v.scratch[8:]...), done
	}
	// Success: RES, CK, IK, and Kc as with service 27, GSM access (TS 31.102 7.1.2.1).
	b = append(append(b, 0xdb, 8), v.res[:]...)
	b = append(append(b, 16), v.ck[:]...)
	b = append(append(b, 16), v.ik[:]...)
	return append(append(b, 8), kc[:]...), done
}
