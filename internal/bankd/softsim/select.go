// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

// find returns the file that an identifier means in the current directory: the MF, the directory
// itself, its parent, what is in it and the DFs beside it (TS 51.011 6.5, TS 102 221 8.4.1).
func (ch *channel) find(id uint16) *file {
	d := ch.dir
	if id == idMF {
		for d.parent != nil {
			d = d.parent
		}
		return d
	}
	if id == d.id {
		return d
	}
	if f := d.child(id); f != nil {
		return f
	}
	if d.parent != nil {
		if d.parent.id == id {
			return d.parent
		}
		if f := d.parent.child(id); f != nil && f.isDir() {
			return f
		}
	}
	return nil
}

// follow returns the file at the end of a path of identifiers, each 2 bytes, that begins in f. 7FFF at its begin is
// the current application (TS 102 221 8.4.2).
func (ch *channel) follow(f *file, path []byte) *file {
	for i := 0; i < len(path) && f != nil; i += 2 {
		if id := identifier(path[i:]); i == 0 && id == idADF {
			f = ch.app
		} else {
			f = f.child(id)
		}
	}
	return f
}

func identifier(b []byte) uint16 { return uint16(b[0])<<8 | uint16(b[1]) }

// enter makes f the current file. The current record of a cyclic EF is the one that was updated
// last (TS 51.011 8.1, TS 102 221 8.2.2.3), that of a linear one isn't defined.
func (ch *channel) enter(f *file) {
	ch.record = 0
	if f.isDir() {
		ch.dir, ch.ef = f, nil
		return
	}
	ch.dir, ch.ef = f.parent, f
	if f.kind == cyclic {
		ch.record = 1
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
	f := q.channel.find(identifier(q.data))
	if f == nil || f.kind == application { // which TS 51.011 doesn't know
		return nil, fileNotFound
	}
	q.channel.enter(f)
	return c.memory.appendHeader(c.scratch[:0], f), done
}

// P1 of SELECT in class 00 (TS 102 221 11.1.1.2).
const (
	byIdentifier  = 0x00
	byChild       = 0x01 // DF in the current directory
	byParent      = 0x03
	byName        = 0x04
	byPathFromMF  = 0x08
	byPathFromDir = 0x09
)

// selectFile is SELECT of class 00 (TS 102 221 11.1.1).
func selectFile(c *Card, q *command) ([]byte, result) {
	// P2: in bits 7 and 6 what happens to the application's session (activation or termination), in 4
	// and 3 what is returned (FCI, FCP or nothing), in 2 and 1 which of several AIDs that fit.
	session, nothing := q.p2&0x60, q.p2&0x0c == 0x0c
	if q.p2&0x90 != 0 || q.p2&0x0c == 0x08 || session != 0 && (session != 0x40 || q.p1 != byName) {
		return nil, wrongParameters
	}
	ch, n := q.channel, len(q.data)
	var f *file
	switch q.p1 {
	case byIdentifier, byChild:
		if n != 2 {
			return nil, wrongLength
		}
		switch id := identifier(q.data); {
		case q.p1 == byChild:
			if f = ch.dir.child(id); f != nil && !f.isDir() {
				f = nil
			}
		case id == idADF:
			f = ch.app
		default:
			f = ch.find(id)
		}
	case byParent:
		if n != 0 {
			return nil, wrongLength
		}
		f = ch.dir.parent
	case byName:
		if n < 1 || n > 16 {
			return nil, wrongLength
		}
		f = c.memory.mf.byName(q.data, q.p2&0x03, ch.app)
	case byPathFromMF, byPathFromDir:
		if n == 0 || n%2 != 0 {
			return nil, wrongLength
		}
		if f = ch.dir; q.p1 == byPathFromMF {
			f = c.memory.mf
		}
		f = ch.follow(f, q.data)
	default:
		return nil, wrongParameters
	}
	if f == nil {
		return nil, fileNotFound
	}
	if session != 0 {
		return nil, ch.terminate(c.memory.mf, f)
	}
	if f.kind == application {
		ch.app = f
	}
	ch.enter(f)
	r := done
	if f.deactivated {
		r = doneDeactivated
	}
	if nothing {
		return nil, r
	}
	return c.memory.appendFCP(c.scratch[:0], f), r
}

// terminate ends the session of an application, which has to be the current one (TS 102 221 11.1.1.2).
func (ch *channel) terminate(mf, app *file) result {
	if app != ch.app {
		return notNow
	}
	if ch.app = nil; ch.dir.within(app) {
		ch.enter(mf)
	}
	return done
}

// statusGSM is STATUS of class A0: the header of the current directory (TS 51.011 8.2, 9.2.2).
func statusGSM(c *Card, q *command) ([]byte, result) {
	if q.p1 != 0 || q.p2 != 0 {
		return nil, wrongParameters
	}
	return c.memory.appendHeader(c.scratch[:0], q.channel.dir), done
}

// status is STATUS of class 80: the FCP of the current directory, the name of the current
// application, or nothing. P1 tells that the terminal has initialised or will end the
// application, which changes nothing here (TS 102 221 11.1.2).
func status(c *Card, q *command) ([]byte, result) {
	if q.p1 > 2 {
		return nil, wrongParameters
	}
	ch := q.channel
	switch q.p2 {
	case 0x00:
		return c.memory.appendFCP(c.scratch[:0], ch.dir), done
	case 0x01:
		if ch.app == nil {
			return nil, notNow
		}
		b := append(c.scratch[:0], 0x84, byte(len(ch.app.name)))
		return append(b, ch.app.name...), done
	case 0x0c:
		return nil, done
	}
	return nil, wrongParameters
}

// manageChannel is MANAGE CHANNEL: it opens a logical channel, whose number the card chooses and answers, or
// closes one. A new channel begins in the MF, or where the one is that opened it when that isn't number 0
// (TS 102 221 8.7, 11.1.17).
func manageChannel(c *Card, q *command) ([]byte, result) {
	switch {
	case q.p1 == 0x80 && q.p2 >= 1 && int(q.p2) < len(c.channels):
		if q.p3 != 0 {
			return nil, wrongLength
		}
		ch := &c.channels[q.p2]
		if !ch.open {
			return nil, noLogicalChannel
		}
		*ch = channel{}
		return nil, done
	case q.p1 != 0 || q.p2 != 0:
		return nil, wrongParameters
	}
	for i := range c.channels {
		if c.channels[i].open {
			continue
		}
		if q.le != 1 {
			q.n = 1
			return nil, otherLength
		}
		c.channels[i] = channel{open: true, dir: c.memory.mf}
		if from := q.channel; from != &c.channels[0] {
			c.channels[i].dir, c.channels[i].app = from.dir, from.app
		}
		return append(c.scratch[:0], byte(i)), done
	}
	return nil, noFreeChannel
}
