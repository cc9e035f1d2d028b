// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"crypto/subtle"
)

// A result is how a command ended, in words; the class says which status that is.
type result uint8

const (
	done result = iota
	wrongLength
	wrongParameters  // P1 P2
	wrongOffset      // outside the EF
	wrongData        // data that can't be read
	fileNotFound     // no file of that identifier or name within reach
	noFile           // no EF selected
	wrongStructure   // not for an EF of that structure
	notAllowed       // access condition not fulfilled
	notNow           // not in this state of the card
	wrongMAC         // the network could not authenticate itself
	nothingToFetch   // GET RESPONSE without a response
	unknownCommand   // INS
	unknownClass     // CLA
	noLogicalChannel // CLA names a channel that isn't open
	noSecureMessages // CLA asks for secure messaging
)

// statusWords are SW1 SW2 of a result in class A0 (TS 51.011 9.4) and in the others (TS 102 221 10.2.1,
// TS 31.102 7.3).
var statusWords = [...]struct{ gsm, uicc uint16 }{
	done:             {0x9000, 0x9000},
	wrongLength:      {0x6700, 0x6700},
	wrongParameters:  {0x6b00, 0x6a86},
	wrongOffset:      {0x6b00, 0x6b00},
	wrongData:        {0x6f00, 0x6a80},
	fileNotFound:     {0x9404, 0x6a82},
	noFile:           {0x9400, 0x6986},
	wrongStructure:   {0x9408, 0x6981},
	notAllowed:       {0x9804, 0x6982},
	notNow:           {0x9804, 0x6985},
	wrongMAC:         {0x9862, 0x9862},
	nothingToFetch:   {0x6f00, 0x6985},
	unknownCommand:   {0x6d00, 0x6d00},
	unknownClass:     {0x6e00, 0x6e00},
	noLogicalChannel: {0x6881, 0x6881},
	noSecureMessages: {0x6882, 0x6882},
}

// Classes of commands. In the last two the low bits of CLA tell channel and secure messaging.
const (
	claGSM  = 0xa0 // TS 51.011
	claISO  = 0x00 // TS 102 221, as in ISO 7816-4
	claUICC = 0x80 // TS 102 221, its own
)

const insGetResponse = 0xc0

// A command is a command TPDU, taken apart.
type command struct {
	gsm    bool // class A0
	p1, p2 byte
	data   []byte // what came with it
	le     int    // what is wanted, 1..256, when the command has data from the card
}

// An instruction is what the card can do. With out, P3 is the length of data wanted (case 2);
// otherwise P3 is the length of data that comes with the command (case 1, 3 and 4), and data
// returned by run waits for GET RESPONSE.
type instruction struct {
	cla, ins byte
	out      bool
	run      func(*Card, *command) ([]byte, result)
}

var instructions = [...]instruction{
	{claGSM, 0xa4, false, selectGSM},
	{claGSM, 0xf2, true, statusGSM},
	{claGSM, 0xb0, true, readBinary},
	{claGSM, insGetResponse, true, getResponse},
	{claGSM, 0x88, false, runGSMAlgorithm},
	{claISO, 0xa4, false, selectFile},
	{claUICC, 0xf2, true, status},
	{claISO, 0xb0, true, readBinary},
	{claISO, insGetResponse, true, getResponse},
	{claISO, 0x88, false, authenticate},
}

// lookup finds the instruction for CLA and INS (TS 102 221 10.1.1 table 10.3 and 10.4).
func lookup(cla, ins byte) (*instruction, result) {
	switch {
	case cla == claGSM:
	case cla&0x70 == 0x00: // 0X, 8X: channels 0 to 3
		if cla&0x0c != 0 {
			return nil, noSecureMessages
		}
		if cla&0x03 != 0 {
			return nil, noLogicalChannel
		}
	case cla&0x40 != 0 && cla != 0xff: // 4X, 6X, CX, EX: channels 4 to 19
		return nil, noLogicalChannel
	default:
		return nil, unknownClass
	}
	for i := range instructions {
		if in := &instructions[i]; in.cla == cla && in.ins == ins {
			return in, done
		}
	}
	return nil, unknownCommand
}

// execute runs a command of at least 5 bytes and returns data and status. It does what T=0
// needs around the command itself (ISO 7816-3 10.3, TS 102 221 7.3.1.1).
func (c *Card) execute(cmd []byte) (data []byte, sw uint16) {
	q := &c.command
	*q = command{gsm: cmd[0] == claGSM, p1: cmd[2], p2: cmd[3], data: cmd[5:]}
	word := func(r result) uint16 {
		if q.gsm {
			return statusWords[r].gsm
		}
		return statusWords[r].uicc
	}
	in, r := lookup(cmd[0], cmd[1])
	// A response can be fetched by the next command only.
	if in == nil || in.ins != insGetResponse {
		c.pending = nil
	}
	if r != done {
		return nil, word(r)
	}
	p3 := int(cmd[4])
	if in.out && len(q.data) != 0 || !in.out && len(q.data) != p3 {
		return nil, word(wrongLength)
	}
	if q.le = p3; p3 == 0 {
		q.le = 256
	}
	data, r = in.run(c, q)
	switch {
	case r != done || len(data) == 0:
		return nil, word(r)
	case !in.out:
		c.pending = append(c.store[:0], data...)
		return nil, more(q.gsm, len(data))
	case q.le > len(data) && q.gsm:
		return nil, 0x6700 | uint16(byte(len(data))) // TS 51.011 9.4.6
	case q.le > len(data):
		return nil, 0x6c00 | uint16(byte(len(data)))
	}
	data = data[:q.le]
	if in.ins == insGetResponse {
		// In class 00 the rest can be fetched, too (ISO 7816-3 10.3.4).
		if c.pending = c.pending[q.le:]; q.gsm {
			c.pending = nil
		} else if len(c.pending) > 0 {
			return data, more(q.gsm, len(c.pending))
		}
	}
	return data, word(done)
}

// more is the status that says how much GET RESPONSE can fetch; 00 stands for 256.
func more(gsm bool, n int) uint16 {
	if gsm {
		return 0x9f00 | uint16(byte(n))
	}
	return 0x6100 | uint16(byte(n))
}

// find returns the file that an identifier means in the current directory: the MF, the directory
// itself, its parent, what is in it and the DFs beside it (TS 51.011 6.5, TS 102 221 8.4.1).
func (c *Card) find(id uint16) *file {
	switch d := c.dir; {
	case id == idMF:
		return c.mf
	case id == d.id:
		return d
	case d.child(id) != nil:
		return d.child(id)
	case d.parent != nil && d.parent.id == id:
		return d.parent
	case d.parent != nil:
		if f := d.parent.child(id); f != nil && f.isDir() {
			return f
		}
	}
	return nil
}

// enter makes f the current file.
func (c *Card) enter(f *file) {
	if f.isDir() {
		c.dir, c.ef = f, nil
	} else {
		c.dir, c.ef = f.parent, f
	}
}

// selectGSM is SELECT of class A0: by file identifier (TS 51.011 8.1, 9.2.1).
func selectGSM(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	if len(q.data) != 2 {
		return nil, wrongLength
	}
	f := c.find(uint16(q.data[0])<<8 | uint16(q.data[1]))
	if f == nil || f.kind == application { // which TS 51.011 doesn't know
		return nil, fileNotFound
	}
	c.enter(f)
	return f.appendHeader(c.scratch[:0]), done
}

// selectFile is SELECT of class 00: by file identifier, by AID, or the parent directory
// (TS 102 221 11.1.1).
func selectFile(c *Card, q *command) ([]byte, result) {
	// P2: session control, return FCP or nothing, and for an AID which occurrence (first, last, next,
	// previous; there is one application, which is the first and the last).
	if q.p2&0xe0 != 0 || q.p2&0x10 != 0 || q.p2&0x0c == 0x08 {
		return nil, wrongParameters
	}
	var f *file
	switch q.p1 {
	case 0x00:
		if len(q.data) != 2 {
			return nil, wrongLength
		}
		id := uint16(q.data[0])<<8 | uint16(q.data[1])
		if f = c.find(id); id == idADF {
			f = c.app
		}
	case 0x03:
		if len(q.data) != 0 {
			return nil, wrongLength
		}
		f = c.dir.parent
	case 0x04:
		if len(q.data) < 1 || len(q.data) > 16 {
			return nil, wrongLength
		}
		if q.p2&0x02 == 0 || c.app == nil {
			f = c.mf.byName(q.data)
		}
	default:
		return nil, wrongParameters
	}
	if f == nil {
		return nil, fileNotFound
	}
	if f.kind == application {
		c.app = f
	}
	c.enter(f)
	if q.p2&0x0c == 0x0c {
		return nil, done
	}
	return f.appendFCP(c.scratch[:0]), done
}

// statusGSM is STATUS of class A0: the header of the current directory (TS 51.011 8.2, 9.2.2).
func statusGSM(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	return c.dir.appendHeader(c.scratch[:0]), done
}

// status is STATUS of class 80: the FCP of the current directory, the name of the current
// application, or nothing. P1 tells that the terminal has initialised or will end the
// application, which changes nothing here (TS 102 221 11.1.2).
func status(c *Card, q *command) ([]byte, result) {
	if q.p1 > 2 {
		return nil, wrongParameters
	}
	switch q.p2 {
	case 0x00:
		return c.dir.appendFCP(c.scratch[:0]), done
	case 0x01:
		if c.app == nil {
			return nil, notNow
		}
		b := append(c.scratch[:0], 0x84, byte(len(c.app.name)))
		return append(b, c.app.name...), done
	case 0x0c:
		return nil, done
	}
	return nil, wrongParameters
}

// readBinary is READ BINARY of both classes (TS 51.011 8.3, TS 102 221 11.1.3). In class 00 P1 can
// hold a short identifier, which selects the EF.
func readBinary(c *Card, q *command) ([]byte, result) {
	f, offset := c.ef, int(q.p1)<<8|int(q.p2)
	if !q.gsm && q.p1&0x80 != 0 {
		if q.p1&0x60 != 0 {
			return nil, wrongParameters
		}
		if f, offset = c.dir.bySFI(q.p1&0x1f), int(q.p2); f == nil {
			return nil, fileNotFound
		}
	}
	switch {
	case f == nil:
		return nil, noFile
	case f.kind != transparent:
		return nil, wrongStructure
	case !c.may(f.rights.read):
		return nil, notAllowed
	}
	c.ef = f
	if offset >= len(f.data) {
		return nil, wrongOffset
	}
	return f.data[offset:min(len(f.data), offset+256)], done
}

// getResponse is GET RESPONSE of both classes (TS 51.011 8.18, TS 102 221 12.1).
func getResponse(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	if len(c.pending) == 0 {
		return nil, nothingToFetch
	}
	return c.pending, done
}

// runGSMAlgorithm answers SRES and Kc to a challenge, by Milenage for GSM (TS 55.205) in the
// place of COMP128, in DF.GSM only (TS 51.011 8.16, 9.2.16).
func runGSMAlgorithm(c *Card, q *command) ([]byte, result) {
	switch {
	case q.p1 != 0 || q.p2 != 0:
		return nil, wrongParameters
	case len(q.data) != 16:
		return nil, wrongLength
	case c.dir.id != idGSM:
		return nil, notNow
	}
	c.auth.answer(q.data, &c.answer)
	sres, kc := c.answer.sres(), c.answer.kc()
	return append(append(c.scratch[:0], sres[:]...), kc[:]...), done
}

// authenticate is AUTHENTICATE in the GSM and in the 3G security context, in the USIM application only
// (TS 31.102 7.1). Every sequence number is taken as fresh.
func authenticate(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0x80 && q.p2 != 0x81 {
		return nil, wrongParameters
	}
	if c.dir.kind != application || !bytes.Equal(c.dir.name, usimAID) {
		return nil, notNow
	}
	// Data: length and RAND, in the 3G context also length and AUTN.
	gsm := q.p2 == 0x80
	if gsm && len(q.data) != 17 || !gsm && len(q.data) != 34 {
		return nil, wrongLength
	}
	if q.data[0] != 16 || !gsm && q.data[17] != 16 {
		return nil, wrongData
	}
	c.auth.answer(q.data[1:17], &c.answer)
	v, b := &c.answer, c.scratch[:0]
	kc := v.kc()
	if gsm {
		sres := v.sres()
		b = append(append(b, 4), sres[:]...)
		return append(append(b, 8), kc[:]...), done
	}
	// AUTN: SQN xor AK, AMF, MAC (TS 33.102 6.3.2).
	autn := q.data[18:34]
	var sqn [6]byte
	subtle.XORBytes(sqn[:], autn[:6], v.ak[:])
	c.auth.f1(sqn[:], autn[6:8], &v.scratch)
	if subtle.ConstantTimeCompare(autn[8:], v.scratch[:8]) == 0 {
		return nil, wrongMAC
	}
	// Success: RES, CK, IK, and Kc as with service 27, GSM access (TS 31.102 7.1.2.1).
	b = append(append(b, 0xdb, 8), v.res[:]...)
	b = append(append(b, 16), v.ck[:]...)
	b = append(append(b, 16), v.ik[:]...)
	return append(append(b, 8), kc[:]...), done
}
