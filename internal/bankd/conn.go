// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"errors"
	"fmt"
	"io"
	"net"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

const (
	identifyWithin = 10 * time.Second // a connection has to say who it is
	probeFor       = 2 * time.Second  // a client whose slot another one asks for has to answer
	refusedFor     = time.Second      // a connection stays after identityInUse
)

// A conn is one connection of the data listener, made by a client.
type conn struct {
	d        *bankd
	link     *link.Conn
	identify *time.Timer

	// These belong to the read loop.
	asked bool // it has sent connectClientReq

	// This is set by the read loop before state knows the client, and stays.
	req rspro.PDU // its connectClientReq, to answer it

	// These are set once it has said who it is, and stay.
	stays    bool // it can wait for another card where it lost one
	wantsATR bool // after every reset it asks for (RSPRO atrAfterReset)

	// These belong to state.
	state    ConnState
	client   slot.Client // set when it has said so, and stays
	bay      *bay        // whose card it has or waits for; nil: no map
	answered bool        // it was told that there is no card yet
	over     bool        // it is being closed: nothing it sends counts
	vcc, rst bool        // the contacts as the client drives them; rst: active
	unheard  int         // cards it lost and hasn't confirmed the next one's ATR: nothing counts
	reset    reset
	busy     bool   // a command of it is not answered yet
	gen      uint64 // counts resets: what was asked before is not to be answered
	mail     int    // bytes of a command that the card goroutine hasn't taken; 0: none
	command  [maxCommand]byte
}

// serve is the life of one connection.
func (d *bankd) serve(nc net.Conn) {
	c := &conn{d: d, vcc: true}
	log := d.log.WithFields(logrus.Fields{"cat": "DBANKDW", "peer": nc.RemoteAddr().String()})
	c.link = link.New(nc, link.Options{Listener: true, KeepAlive: d.cfg.KeepAlive, Identity: d.identity, Handle: c.handle, Lingers: true, Log: log})
	s := d.state
	crowded, err := s.enter(c, d.cfg.MaxConnections)
	if err != nil {
		log.WithError(err).Warn("refused")
		nc.Close()
		return
	}
	d.counts.connections.Add(1)
	if crowded != nil {
		crowded.link.Close(errCrowded)
	}

	c.identify = time.AfterFunc(identifyWithin, func() { c.link.Close(errNobody) })
	err = c.link.Run(d.life)
	c.identify.Stop()
	s.leave(c)
	level := logrus.WarnLevel
	if errors.Is(err, io.EOF) || errors.Is(err, errStopping) || errors.Is(err, errUnmapped) {
		level = logrus.InfoLevel
	}
	c.link.Log().WithError(err).Log(level, "connection ended")
}

// handle takes what the client sends, in the read loop.
func (c *conn) handle(_ *link.Conn, p rspro.PDU) {
	switch m := p.Msg.(type) {
	case *rspro.TpduModemToCard:
		if err := c.transmit(m); err != nil {
			c.drop(err)
		}
	case *rspro.ClientSlotStatusInd:
		c.status(p, m)
	case *rspro.ConnectClientReq:
		c.connect(p, m)
	case *rspro.ConnectBankReq:
		c.link.Reply(p, &rspro.ConnectBankRes{Identity: c.d.identity, Result: rspro.IllegalBankID})
		c.drop(fmt.Errorf("%s %s is connected to the data port of a bankd", m.Identity.Software, m.Identity.Name))
	case *rspro.ErrorInd:
		c.link.Stray(p, fmt.Sprintf("it is for servers; code %v, severity %v", m.Code, m.Severity))
	default:
		c.link.Stray(p, "not of a client")
	}
}

// drop ends the connection when what was sent to it is written, and releases its
// card now.
func (c *conn) drop(err error) {
	s := c.d.state
	s.mu.Lock()
	s.releaseLocked(c)
	s.mu.Unlock()
	c.link.Finish(err)
}

// connect is RSPRO connectClientReq.
func (c *conn) connect(p rspro.PDU, m *rspro.ConnectClientReq) {
	var err error
	switch {
	case c.asked:
		err = errors.New("a second connectClientReq")
	case m.Identity.Type != rspro.Client:
		err = fmt.Errorf("%v %s is connected to the data port of a bankd", m.Identity.Type, m.Identity.Name)
	case m.Slot == nil:
		err = errors.New("connectClientReq without client slot")
	}
	if err != nil {
		c.link.Reply(p, c.result(rspro.IllegalClientID))
		c.drop(err)
		return
	}
	c.asked = true
	c.identify.Stop()
	c.d.mu.Lock()
	c.client = *m.Slot
	c.d.mu.Unlock()
	c.stays, c.wantsATR = m.Features != 0, m.Features.Has(rspro.AtrAfterReset)
	c.req = rspro.PDU{Version: p.Version, Tag: p.Tag}
	c.link.SetLog(c.link.Log().WithField("client", c.client.String()))
	c.link.Log().WithFields(logrus.Fields{"name": m.Identity.Name, "software": m.Identity.Software, "version": m.Identity.SWVersion}).Debug("client")
	c.join()
}

// join makes c the connection of its client. When there is one already, that one
// has to prove that it is alive.
func (c *conn) join() {
	other := c.d.state.join(c)
	if other != nil {
		alive := other.link.Probe(probeFor)
		c.d.contests.Go(func() { c.contest(other, alive) })
		return
	}
	if code := c.d.state.attend(c); code != rspro.OK {
		c.reply(code)
		c.d.state.answered(c)
	}
}

// contest waits for the other connection of the client to prove that it is alive.
func (c *conn) contest(other *conn, alive <-chan bool) {
	if <-alive {
		c.reply(rspro.IdentityInUse)
		t := time.NewTimer(refusedFor)
		defer t.Stop()
		select {
		case <-t.C:
			c.drop(fmt.Errorf("%v is connected already", c.client))
		case <-c.link.Done():
		}
		return
	}
	other.cut(errReplaced)
	c.join()
}

// reply answers connectClientReq.
func (c *conn) reply(code rspro.ResultCode) {
	c.link.Log().WithField("result", code).Info("client answered")
	c.link.Reply(c.req, c.result(code))
}

func (c *conn) result(code rspro.ResultCode) *rspro.ConnectClientRes {
	return &rspro.ConnectClientRes{Identity: c.d.identity, Result: code, Features: rspro.LateAtr}
}

// cut ends the connection at once, without a word.
func (c *conn) cut(err error) {
	s := c.d.state
	s.mu.Lock()
	s.releaseLocked(c)
	s.mu.Unlock()
	c.link.Close(err)
}

// transmit has a command done: here, if the card goroutine has nothing else to do, which spares whoever waits for the answer
// the change of goroutines. An error says what is wrong with the command.
func (c *conn) transmit(m *rspro.TpduModemToCard) error {
	w, j, err := c.post(m)
	switch {
	case j.n > 0:
		c.link.Linger(func() { w.doLent(c, j) })
	case w != nil:
		w.poke()
	}
	return err
}

// post puts a command into the mailbox and returns whose it is; nil when the command
// is an error, or when it doesn't count any more. With a job
// the card is lent for that, and the call has begun.
func (c *conn) post(m *rspro.TpduModemToCard) (w *worker, lent job, err error) {
	s := c.d.state
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case c.over || c.unheard > 0 || s.closing:
		return nil, job{}, nil
	case c.state != Served:
		return nil, job{}, fmt.Errorf("tpduModemToCard in state %v", c.state)
	case m.From != c.client || m.To != c.bay.slot:
		return nil, job{}, fmt.Errorf("tpduModemToCard from %v to %v, mapped are %v and %v", m.From, m.To, c.client, c.bay.slot)
	case len(m.Data) < minCommand || len(m.Data) > maxCommand:
		return nil, job{}, fmt.Errorf("tpduModemToCard of %d bytes, want %d..%d", len(m.Data), minCommand, maxCommand)
	case c.busy:
		return nil, job{}, errors.New("tpduModemToCard before the answer to the last one")
	}
	c.busy = true
	c.mail = copy(c.command[:], m.Data)
	w = c.bay.work
	return w, w.lendLocked(c), nil
}

// status is RSPRO clientSlotStatusInd: only edges count. VCC falling is a cold reset
// (the card has power all the time but then); with VCC, RST going active is a warm one.
func (c *conn) status(p rspro.PDU, m *rspro.ClientSlotStatusInd) {
	s := c.d.state
	s.mu.Lock()
	if c.over || c.state != Served && c.unheard == 0 || m.From != c.client || m.To != c.bay.slot {
		state, over := c.state, c.over
		s.mu.Unlock()
		if !over {
			c.link.Stray(p, fmt.Sprintf("from %v to %v in state %v", m.From, m.To, state))
		}
		return
	}
	want := c.edgeLocked(m.Phys)
	if want != noReset && c.unheard == 0 {
		r := max(c.reset, want)
		c.voidLocked()
		c.reset = r
		c.bay.work.poke()
	}
	s.mu.Unlock()
	c.link.Log().WithFields(logrus.Fields{"phys": m.Phys.String(), "reset": want}).Debug("client slot status")
}

// voidLocked makes what was asked before count no more.
func (c *conn) voidLocked() {
	c.gen++
	c.busy, c.mail, c.reset = false, 0, noReset
}

// edgeLocked records p and returns which reset it asks for.
func (c *conn) edgeLocked(p slot.Phys) reset {
	vcc := c.vcc
	if p.VCC != slot.Unknown {
		vcc = p.VCC == slot.On
	}
	want := noReset
	switch {
	case c.vcc && !vcc:
		want = coldReset
	case vcc && p.Reset && !c.rst:
		want = warmReset
	}
	c.vcc, c.rst = vcc, p.Reset
	return want
}

// setATR tells the client the ATR of its card. It is called with the mutex of state
// held, as its sender may be told something else the next moment.
func (c *conn) setATR(atr []byte) {
	back := c.unheard > 0
	c.link.Request(&rspro.SetAtrReq{Slot: c.client, ATR: atr}, 0, func(m rspro.Message, err error) {
		if err != nil {
			return // the connection has ended
		}
		if back {
			c.d.mu.Lock()
			c.unheard--
			c.d.mu.Unlock()
		}
		if r, ok := m.(*rspro.SetAtrRes); ok && r.Result != rspro.OK {
			c.link.Quota(nil).WithField("result", r.Result).Warn("the client doesn't want the ATR")
		}
	})
}
