// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

// A result is how a command ended, in words; the class says which status that is.
type result uint8

const (
	done            result = iota
	doneDeactivated        // selected, and the EF is deactivated
	wrongLength
	otherLength      // P3 should be command.n
	wrongParameters  // P1 P2
	wrongOffset      // outside the EF
	wrongData        // data that can't be read
	fileNotFound     // no file of that identifier or name within reach
	recordNotFound   // no such record
	patternNotFound  // SEEK
	nothingFound     // SEARCH RECORD
	noFile           // no EF selected
	wrongStructure   // not for an EF of that structure
	wrongFileState   // deactivated, or already as wanted
	fullRecord       // INCREASE beyond what the record can hold
	notAllowed       // access condition not fulfilled
	notNow           // not in this state of the card
	noKey            // P2 refers to no key that can do that
	wrongPIN         // command.n tries are left
	wrongPINState    // disabled, or already as wanted
	blocked          // no tries left
	wrongMAC         // the network could not authenticate itself
	nothingToFetch   // GET RESPONSE, FETCH or TERMINAL RESPONSE that nothing came before
	toolkitBusy      // ENVELOPE while a proactive command isn't answered
	unknownCommand   // INS
	unknownClass     // CLA
	noLogicalChannel // CLA or P2 names a channel that isn't open
	noFreeChannel    // all channels are open
	noSecureMessages // CLA asks for secure messaging
)

// statusWords are SW1 SW2 of a result in class A0 (TS 51.011 9.4) and in the others (TS 102 221 10.2.1,
// TS 31.102 7.3).
var statusWords = [...]struct{ gsm, uicc uint16 }{
	done:             {0x9000, 0x9000},
	doneDeactivated:  {0x9000, 0x6283},
	wrongLength:      {0x6700, 0x6700},
	otherLength:      {0x6700, 0x6c00}, // and the length
	wrongParameters:  {0x6b00, 0x6a86},
	wrongOffset:      {0x6b00, 0x6b00},
	wrongData:        {0x6f00, 0x6a80},
	fileNotFound:     {0x9404, 0x6a82},
	recordNotFound:   {0x9402, 0x6a83},
	patternNotFound:  {0x9404, 0x6a83},
	nothingFound:     {0x9404, 0x6282},
	noFile:           {0x9400, 0x6986},
	wrongStructure:   {0x9408, 0x6981},
	wrongFileState:   {0x9810, 0x6985},
	fullRecord:       {0x9850, 0x9850},
	notAllowed:       {0x9804, 0x6982},
	notNow:           {0x9804, 0x6985},
	noKey:            {0x6b00, 0x6a88},
	wrongPIN:         {0x9804, 0x63c0}, // and the tries
	wrongPINState:    {0x9808, 0x6984},
	blocked:          {0x9840, 0x6983},
	wrongMAC:         {0x9862, 0x9862},
	nothingToFetch:   {0x6f00, 0x6985},
	toolkitBusy:      {0x9300, 0x9300},
	unknownCommand:   {0x6d00, 0x6d00},
	unknownClass:     {0x6e00, 0x6e00},
	noLogicalChannel: {0x6881, 0x6881},
	noFreeChannel:    {0x6a81, 0x6a81},
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
	gsm     bool     // class A0
	channel *channel // it is for
	p1, p2  byte
	p3      byte
	data    []byte // what came with it
	le      int    // what is wanted, 1..256, when the command has data from the card
	n       int    // what some results tell with the status
}

// word returns the status of a result.
func (q *command) word(r result) uint16 {
	if !q.gsm {
		sw := statusWords[r].uicc
		if r == otherLength || r == wrongPIN {
			sw |= uint16(byte(q.n))
		}
		return sw
	}
	switch {
	case r == otherLength:
		return statusWords[r].gsm | uint16(byte(q.n)) // TS 51.011 9.4.6
	case r == wrongPIN && q.n == 0:
		r = blocked
	}
	return statusWords[r].gsm
}

// An instruction is what the card can do. With out, P3 is the length of data wanted (case 2);
// otherwise P3 is the length of data that comes with the command (case 1, 3 and 4), and data
// returned by run waits for GET RESPONSE. What run returns is valid until the next command.
type instruction struct {
	cla, ins byte
	out      bool
	run      func(*Card, *command) ([]byte, result)
}

var instructions = [...]instruction{
	{claGSM, 0xa4, false, selectGSM},
	{claGSM, insGetResponse, true, getResponse},
	{claGSM, 0xb0, true, readBinary},
	{claGSM, 0xb2, true, readRecord},
	{claGSM, 0xf2, true, statusGSM},
	{claGSM, 0x88, false, runGSMAlgorithm},
	{claGSM, 0xd6, false, updateBinary},
	{claGSM, 0xdc, false, updateRecord},
	{claGSM, 0xa2, false, seek},
	{claGSM, 0x32, false, increaseRecord},
	{claGSM, 0x20, false, verify},
	{claGSM, 0x24, false, changePIN},
	{claGSM, 0x26, false, disablePIN},
	{claGSM, 0x28, false, enablePIN},
	{claGSM, 0x2c, false, unblockPIN},
	{claGSM, 0x04, false, deactivateFile},
	{claGSM, 0x44, false, activateFile},
	{claGSM, 0x10, false, terminalProfile},
	{claGSM, 0x12, true, fetch},
	{claGSM, 0x14, false, terminalResponse},
	{claGSM, 0xc2, false, envelope},
	{claISO, 0xa4, false, selectFile},
	{claISO, insGetResponse, true, getResponse},
	{claISO, 0xb0, true, readBinary},
	{claISO, 0xb2, true, readRecord},
	{claUICC, 0xf2, true, status},
	{claISO, 0x88, false, authenticate},
	{claISO, 0xd6, false, updateBinary},
	{claISO, 0xdc, false, updateRecord},
	{claISO, 0xa2, false, searchRecord},
	{claUICC, 0x32, false, increaseRecord},
	{claISO, 0x20, false, verify},
	{claISO, 0x24, false, changePIN},
	{claISO, 0x26, false, disablePIN},
	{claISO, 0x28, false, enablePIN},
	{claISO, 0x2c, false, unblockPIN},
	{claISO, 0x04, false, deactivateFile},
	{claISO, 0x44, false, activateFile},
	{claISO, 0x70, true, manageChannel},
	{claUICC, 0x10, false, terminalProfile},
	{claUICC, 0x12, true, fetch},
	{claUICC, 0x14, false, terminalResponse},
	{claUICC, 0xc2, false, envelope},
}

// lookup finds the instruction for CLA and INS, and the number of the channel (TS 102 221 10.1.1
// table 10.3 and 10.4).
func lookup(cla, ins byte) (in *instruction, channel byte, r result) {
	switch {
	case cla == claGSM:
	case cla&0x70 == 0x00: // 0X, 8X: channels 0 to 3
		if cla&0x0c != 0 {
			return nil, 0, noSecureMessages
		}
		cla, channel = cla&0x80, cla&0x03
	case cla&0x40 != 0 && cla != 0xff: // 4X, 6X, CX, EX: channels 4 to 19
		return nil, 0, noLogicalChannel
	default:
		return nil, 0, unknownClass
	}
	for i := range instructions {
		if in := &instructions[i]; in.cla == cla && in.ins == ins {
			return in, channel, done
		}
	}
	return nil, channel, unknownCommand
}

// execute runs a command of at least 5 bytes and returns data and status. It does what T=0
// needs around the command itself (ISO 7816-3 10.3, TS 102 221 7.3.1.1).
func (c *Card) execute(cmd []byte) (data []byte, sw uint16) {
	q := &c.command
	*q = command{gsm: cmd[0] == claGSM, p1: cmd[2], p2: cmd[3], p3: cmd[4], data: cmd[5:]}
	in, number, r := lookup(cmd[0], cmd[1])
	q.channel = &c.channels[number]
	if !q.channel.open {
		in, r = nil, noLogicalChannel
	}
	// A response can be fetched by the next command only, on its channel.
	if in == nil || in.ins != insGetResponse || q.channel != c.asker {
		c.pending = nil
	}
	if r != done {
		return nil, q.word(r)
	}
	p3 := int(q.p3)
	if in.out && len(q.data) != 0 || !in.out && len(q.data) != p3 {
		return nil, q.word(wrongLength)
	}
	if q.le = p3; p3 == 0 {
		q.le = 256
	}
	data, r = in.run(c, q)
	switch {
	case r > doneDeactivated || len(data) == 0:
		return nil, q.word(r)
	case !in.out:
		c.pending, c.asker = append(c.store[:0], data...), q.channel
		if r != done {
			return nil, q.word(r)
		}
		return nil, more(q.gsm, len(data))
	case q.le > len(data):
		q.n = len(data)
		return nil, q.word(otherLength)
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
	return data, q.word(done)
}

// more is the status that says how much GET RESPONSE can fetch; 00 stands for 256.
func more(gsm bool, n int) uint16 {
	if gsm {
		return 0x9f00 | uint16(byte(n))
	}
	return 0x6100 | uint16(byte(n))
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
