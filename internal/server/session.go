// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// Limits of a connection.
const (
	identifyTimeout = 10 * time.Second // for the connect request
	answerTimeout   = 10 * time.Second // for a client's answer
	probeTimeout    = 2 * time.Second  // for the PONG of one whose identity another one wants
	refusedLinger   = 1 * time.Second  // between a refusal and the close
	listTimeout     = 5 * time.Second  // for the maps that a bankd has
	maxUnidentified = 2048             // connections at a time that haven't been accepted
	bankdPort       = 9999             // where a bankd listens that doesn't say
)

var (
	errUnidentified = fmt.Errorf("no connect request within %s", identifyTimeout)
	errLeft         = errors.New("it has left")
	errCrowd        = fmt.Errorf("%d others came after it without being accepted yet", maxUnidentified)
	errReplaced     = fmt.Errorf("another connection claims the identity, and no PONG came within %s", probeTimeout)
)

// sessions serves connections on the RSPRO port.
type sessions struct {
	state    *State
	identity rspro.ComponentIdentity
	alive    link.KeepAlive
	log      *logrus.Logger
	// strangers are the connections that haven't been accepted.
	strangers strangers
}

// A session is one connection on the RSPRO port. The read loop is the only goroutine that it always has, as most peers
// are silent most of the time: one accepts its peer, and another is there while there is something to tell it.
type session struct {
	*sessions
	ctx  context.Context // of serve
	conn *link.Conn
	// what the read loop alone touches
	greeted bool
	maps    []slot.Map // that a bankd has told so far
	mapsEnd bool       // that was the last of them
	// late is due when the connect request is missing, or when the list of a bankd's maps is; nil: neither.
	late *time.Timer
	// peer is whom errorInd is about; nil before a peer is accepted.
	peer atomic.Pointer[peer]
	// bankd is the peer that tells what it has; nil for others and before it is accepted.
	bankd atomic.Pointer[bankPeer]

	greeting  sync.WaitGroup // who accepts the peer
	leave     func()         // forgets the peer; nil: it wasn't accepted
	comparing sync.WaitGroup // who tells the peer what it should know, until leave
}

// serve serves one connection until it ends. Its frame stays on the stack meanwhile, and so is small.
func (ss *sessions) serve(ctx context.Context, nc net.Conn) {
	s := ss.begin(ctx, nc)
	s.end(s.conn.Run(ctx))
}

// begin returns a new session.
func (ss *sessions) begin(ctx context.Context, nc net.Conn) *session {
	log := ss.log.WithFields(logrus.Fields{"cat": "DRSPRO", "peer": nc.RemoteAddr().String()})
	s := &session{sessions: ss, ctx: ctx}
	s.conn = link.New(nc, link.Options{Listener: true, KeepAlive: ss.alive, Identity: ss.identity, Handle: s.handle, Log: log})
	if oldest := ss.strangers.add(s.conn); oldest != nil {
		oldest.Close(errCrowd)
	}
	s.late = time.AfterFunc(identifyTimeout, func() { s.conn.Close(errUnidentified) })
	return s
}

// end takes the end of the connection, and why.
func (s *session) end(err error) {
	s.greeting.Wait()
	if s.late != nil {
		s.late.Stop()
	}
	s.strangers.remove(s.conn)
	if s.leave != nil {
		s.leave()
		s.comparing.Wait()
	}
	switch log := s.conn.Log(); {
	case s.leave != nil, s.ctx.Err() != nil:
		log.WithError(err).Info("connection ended")
	case !s.greeted && (errors.Is(err, io.EOF) || errors.Is(err, syscall.ECONNRESET)):
		// A port scan, a health check; who closes with our PING unread resets the connection.
		log.Debug("connection without a connect request")
	default:
		log.WithError(err).Warn("connection ended before its peer was accepted")
	}
}

// handle takes the PDUs that answer no request, in the read loop.
func (s *session) handle(_ *link.Conn, pdu rspro.PDU) {
	switch m := pdu.Msg.(type) {
	case *rspro.ErrorInd:
		if s.greeted {
			s.fault(m)
			return
		}
	case *rspro.ConnectBankReq, *rspro.ConnectClientReq:
		if !s.greeted {
			s.greeted = true
			s.late.Stop()
			s.late = nil
			s.greeting.Go(func() { s.greet(pdu) })
			return
		}
	case *rspro.BankSlotmapsInd:
		if p := s.bankd.Load(); p != nil && !s.mapsEnd {
			s.listMaps(p, m)
			return
		}
	case *rspro.BankSlotInfoInd:
		if p := s.bankd.Load(); p != nil {
			s.slotInfo(p, pdu, m)
			return
		}
	}
	// A request in the wrong direction, a second connect request, or anything before the first.
	s.conn.Stray(pdu, "unexpected")
}

// fault notes an errorInd.
func (s *session) fault(m *rspro.ErrorInd) {
	text := fmt.Sprintf("errorInd: code %d, severity %d", m.Code, m.Severity)
	fields := logrus.Fields{}
	if m.Text != "" {
		fields["text"] = m.Text
	}
	if m.Bank != nil {
		fields["slot"] = m.Bank.String()
	}
	if m.Client != nil {
		fields["client"] = m.Client.String()
	}
	s.conn.Quota(nil).WithFields(fields).Warn(text)
	if p := s.peer.Load(); p != nil {
		if m.Text != "" {
			text += ": " + m.Text
		}
		s.state.fault(p, m.Bank, text)
	}
}

// listMaps takes a part of the list of maps that a bankd has.
func (s *session) listMaps(p *bankPeer, m *rspro.BankSlotmapsInd) {
	s.maps = append(s.maps, m.Maps...)
	if n := len(s.maps); n > int(p.numSlots) {
		s.conn.Close(fmt.Errorf("bankSlotmapsInd: %d maps in a bank of %d slots", n, p.numSlots))
		return
	}
	if !m.Last {
		return
	}
	s.mapsEnd = true
	log := s.conn.Log().WithField("cat", "DSLOTMAP")
	log.WithField("maps", len(s.maps)).Info("told the maps it has")
	for _, f := range s.state.listed(p, s.maps) {
		log := log.WithFields(logrus.Fields{"slot": f.Bank.String(), "client": f.Client.String()})
		if f.adopted {
			log.Info("map adopted")
		} else {
			log.Warn(f.text)
		}
	}
	s.maps = nil
}

// slotInfo takes what a bankd knows of some of its slots.
func (s *session) slotInfo(p *bankPeer, pdu rspro.PDU, m *rspro.BankSlotInfoInd) {
	for _, i := range m.Slots {
		b := slot.Bank{ID: p.bank, Slot: i.Slot}
		log := s.conn.Log().WithFields(logrus.Fields{"slot": b.String(), "reader": i.Reader, "present": i.Present})
		switch {
		case !s.state.slotInfo(p, i):
			s.conn.Stray(pdu, fmt.Sprintf("a bank of %d slots has no slot %d", p.numSlots, i.Slot))
		case i.Error != "":
			s.conn.Quota(log).WithField("text", i.Error).Warn("slot in trouble")
		default:
			log.Debug("slot")
		}
	}
}

// greet answers the connect request.
func (s *session) greet(pdu rspro.PDU) {
	switch m := pdu.Msg.(type) {
	case *rspro.ConnectBankReq:
		s.bank(pdu, m)
	case *rspro.ConnectClientReq:
		s.client(pdu, m)
	}
}

// claim registers the session's peer by add, which returns the session that holds the
// identity already, if any, with a function that forgets it. One that is alive
// keeps the identity. The end of ctx is that of all sessions: nobody gets it any more.
func (s *session) claim(add func() (holder, func())) bool {
	var dead holder
	for s.ctx.Err() == nil {
		old, drop := add()
		if dead != nil {
			dead.Close(errReplaced) // not before, as that wakes others who claim the identity
		}
		if old == nil {
			return true
		}
		select {
		case alive := <-old.Probe(probeTimeout):
			if alive {
				return false
			}
		case <-s.conn.Done():
			return false
		}
		drop()
		dead = old
	}
	s.conn.Close(context.Cause(s.ctx))
	return false
}

// refuse answers the connect request req with a reason and leaves the peer the time to read it.
func (s *session) refuse(req rspro.PDU, res rspro.Response, name string) {
	s.reply(req, res)
	timer := time.NewTimer(refusedLinger)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-s.conn.Done():
	}
	s.conn.Finish(fmt.Errorf("refused as %s: %s", name, res.ResultCode()))
}

// reply answers the connect request req.
func (s *session) reply(req rspro.PDU, res rspro.Response) {
	if err := s.conn.Reply(req, res); err != nil {
		s.conn.Close(err)
	}
}

// welcome notes that the peer was accepted under a name.
func (s *session) welcome(p *peer, name string) *logrus.Entry {
	s.strangers.remove(s.conn)
	s.peer.Store(p)
	log := s.log.WithFields(logrus.Fields{"cat": "DRSPRO", "peer": name, "addr": p.addr.String()})
	s.conn.SetLog(log)
	log.WithFields(logrus.Fields{
		"name": p.identity.Name, "software": p.identity.Software, "version": p.identity.SWVersion,
	}).Info("connected")
	return log
}

func (s *session) newPeer(id rspro.ComponentIdentity, f rspro.Features) peer {
	return peer{conn: s.conn, identity: id, addr: s.conn.RemoteAddr(), features: f}
}

// bank accepts a bankd.
func (s *session) bank(pdu rspro.PDU, req *rspro.ConnectBankReq) {
	if req.Identity.Type != rspro.Bankd {
		s.conn.Close(fmt.Errorf("connectBankReq of a %s", req.Identity.Type))
		return
	}
	p := &bankPeer{peer: s.newPeer(req.Identity, req.Features), bank: req.BankID, numSlots: req.NumSlots}
	p.endpoint = endpoint(req.Endpoint, p.addr)
	name := fmt.Sprintf("B%d", p.bank)
	p.held = p.features.Has(rspro.BankState)
	res := &rspro.ConnectBankRes{Identity: s.identity}
	if !s.claim(func() (holder, func()) {
		if old := s.state.addBank(p); old != nil {
			return old.conn, func() { s.state.dropBank(old) }
		}
		return nil, nil
	}) {
		res.Result = rspro.IdentityInUse
		s.refuse(pdu, res, name)
		return
	}
	s.leave = func() { s.state.dropBank(p) }
	log := s.welcome(&p.peer, name)
	if p.features.Has(rspro.BankState) {
		// Told only to those who know it, so that others get what a C server says.
		res.Features = rspro.BankState
		s.bankd.Store(p)
		s.late = time.AfterFunc(listTimeout, func() {
			if s.state.unhold(p) {
				log.Warnf("hasn't told the maps it has within %s: all that are wanted are created", listTimeout)
			}
		})
	}
	// What the bankd is asked first is decided before it is told that it is accepted:
	// whoever sees that sees its maps unacknowledged.
	reqs := s.state.mapRequests(p)
	s.reply(pdu, res)
	s.askAll(p, reqs, log)
	s.state.attend(&p.peer, &s.comparing, func() { s.askAll(p, s.state.mapRequests(p), log) })
}

func (s *session) askAll(p *bankPeer, reqs []mapRequest, log *logrus.Entry) {
	for _, q := range reqs {
		s.ask(p, q, log)
	}
}

// ask sends a bankd the request q.
func (s *session) ask(p *bankPeer, q mapRequest, log *logrus.Entry) {
	log = log.WithFields(logrus.Fields{"cat": "DSLOTMAP", "slot": q.Bank.String(), "client": q.Client.String()})
	var m rspro.Message = &rspro.CreateMappingReq{Client: q.Client, Bank: q.Bank}
	done := "map created"
	if q.remove {
		m = &rspro.RemoveMappingReq{Client: q.Client, Bank: q.Bank}
		done = "map removed"
	}
	name := m.Choice().String()
	s.conn.Request(m, 0, func(m rspro.Message, err error) {
		if err != nil {
			return // the connection has ended; its reason is logged with that
		}
		r := result(m)
		switch {
		case r == rspro.OK:
			log.Info(done)
		case q.remove && r == rspro.UnknownSlotmap:
			log.Info("map was gone already")
		default:
			log.WithField("result", r.String()).Warn(name + " refused")
		}
		s.state.mapAnswered(p, q, r)
	})
}

// client accepts a client.
func (s *session) client(pdu rspro.PDU, req *rspro.ConnectClientReq) {
	if req.Identity.Type != rspro.Client {
		s.conn.Close(fmt.Errorf("connectClientReq of a %s", req.Identity.Type))
		return
	}
	p := &clientPeer{peer: s.newPeer(req.Identity, req.Features)}
	res := &rspro.ConnectClientRes{Identity: s.identity}
	if req.Slot == nil {
		if err := s.give(p); err != nil {
			s.conn.Log().WithFields(logrus.Fields{
				"name": p.identity.Name, "serial": p.identity.HWSerialNr, "interface": p.identity.HWVersion,
			}).WithError(err).Warn("no client slot can be given to a client that asks for one")
			res.Result = rspro.IllegalClientID
			s.refuse(pdu, res, "client without a slot")
			return
		}
	} else {
		p.slot = *req.Slot
		if !s.seat(p) {
			res.Result = rspro.IdentityInUse
			s.refuse(pdu, res, p.slot.String())
			return
		}
	}
	s.leave = func() { s.state.dropClient(p) }
	log := s.welcome(&p.peer, p.slot.String())
	s.reply(pdu, res)
	if req.Slot == nil {
		s.assign(p, log)
	}
	s.state.attend(&p.peer, &s.comparing, func() { s.tell(p, log) })
}

// seat has p be the client of its slot, unless one that is alive is.
func (s *session) seat(p *clientPeer) bool {
	return s.claim(func() (holder, func()) {
		if old := s.state.addClient(p); old != nil {
			return old.conn, func() { s.state.dropClient(old) }
		}
		return nil, nil
	})
}

// give has p be the client of a slot of the pool: of the one that clients with its key have, and when one of those is connected
// and alive, of the next instance's.
func (s *session) give(p *clientPeer) error {
	for key := keyOf(p.identity); ; key.Instance++ {
		c, err := s.state.giveID(s.ctx, key)
		if err != nil {
			return err
		}
		p.slot, p.key, p.waiting = c, key, true
		if s.seat(p) {
			return nil
		}
		select {
		case <-s.conn.Done():
			return errLeft
		default:
		}
	}
}

// assign sends a client the slot it shall use.
func (s *session) assign(p *clientPeer, log *logrus.Entry) {
	log.WithField("key", p.key.String()).Info("client slot assigned")
	s.conn.Request(&rspro.ConfigClientIDReq{Slot: p.slot}, answerTimeout, func(m rspro.Message, err error) {
		switch {
		case errors.Is(err, link.ErrTimeout):
			s.conn.Close(fmt.Errorf("no configClientIdRes within %s", answerTimeout))
		case err != nil:
		case result(m) != rspro.OK:
			s.conn.Close(fmt.Errorf("configClientIdRes: %s", result(m)))
		default:
			s.state.agreed(p)
		}
	})
}

// tell sends a client what it should use, when that isn't what it was told.
func (s *session) tell(p *clientPeer, log *logrus.Entry) {
	t, n := s.state.tell(p)
	if n == 0 {
		return
	}
	log = log.WithFields(logrus.Fields{"slot": t.Bank.String(), "bankd": t.Bankd.String()})
	if !t.none() && s.state.outdated(p.slot) {
		s.state.flush(s.ctx) //nolint:errcheck // a client that is told late is worse
	}
	log.Info("told its bankd")
	late := time.AfterFunc(answerTimeout, func() { log.Warnf("no configClientBankRes within %s", answerTimeout) })
	s.conn.Request(&rspro.ConfigClientBankReq{Bank: t.Bank, Bankd: t.Bankd}, 0, func(m rspro.Message, err error) {
		late.Stop()
		if err != nil {
			return // the connection has ended; its reason is logged with that
		}
		r := result(m)
		if r != rspro.OK {
			log.WithField("result", r.String()).Warn("configClientBankReq refused")
		}
		s.state.told(p, n, r)
	})
}

// result returns the outcome told by a response.
func result(m rspro.Message) rspro.ResultCode { return m.(rspro.Response).ResultCode() }

// endpoint returns where clients reach a bankd: what it said itself, completed by the
// address of its control connection and the usual port.
func endpoint(told, control netip.AddrPort) netip.AddrPort {
	addr, port := told.Addr().Unmap(), told.Port()
	if !addr.IsValid() || addr.IsUnspecified() {
		addr = control.Addr()
	}
	if port == 0 {
		port = bankdPort
	}
	return netip.AddrPortFrom(addr.WithZone(""), port)
}
