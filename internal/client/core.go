// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/daemon"
	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A Core is a client without the modem: it keeps the connections to server and bankd, says
// what the modem shall see, and carries commands to the card.
//
//	INIT ── accepted by the server ──► UNCONFIGURED ◄─────────────┐
//	                                     │     ▲                  │ no bankd,
//	                     told of a bankd │     │ no bankd, reset, │ reset,
//	                                     ▼     │ another id       │ another id
//	                                   WAIT_BANKD ◄────────────┐  │
//	                                     │     bankd lost,     │  │
//	              accepted by the bankd  │     another bankd   │  │
//	                                     ▼                     │  │
//	                                   OPERATIONAL ────────────┴──┘
//
// A bankd that has no map or no card for us answers cardNotPresent. One that has told LateAtr has
// us stay, in WAIT_BANKD, and accepts us by its first setAtrReq; from others we come back by the
// schedule. Losing the server changes nothing. Its methods may be called from any goroutine.
type Core struct {
	cfg      Config
	env      Env
	frontend Frontend
	source   *gsmtap.Source // of traces
	modem    *sequence
	identity rspro.ComponentIdentity

	mu       sync.Mutex // never held while anything is waited for
	lines    []func()   // log lines to write when mu is released
	speaker  peer       // whose message is handled while mu is held; nil: nobody's
	log      *logrus.Entry
	state    State
	slot     slot.Client
	assigned bool    // slot is ours: always, but for Config.Auto before configClientIdReq, or when others have it
	refusals int     // how often in a row the server has said that others have the assigned slot
	target   *target // the bankd to use; nil: none
	retarget context.CancelFunc
	server   link.State
	bankd    link.State
	session  *session  // with the bankd; nil unless operational, or staying in WAIT_BANKD
	cards    Card      // how many there have been, which is the last one's number
	phys     slot.Phys // what the modem did last, in whatever state
	physSeen bool      // phys was told by the frontend

	fences sync.WaitGroup // goroutines of fence
	watch  *Watch
	alive  daemon.Loop // of mu
}

// A target is what a configClientBankReq told.
type target struct {
	bank slot.Bank
	addr netip.AddrPort
}

// A peer is the other end of a connection, a *link.Conn but in tests.
type peer interface {
	Send(rspro.Message) error
	Post(rspro.Message) error
	Flush()
	Reply(rspro.PDU, rspro.Message) error
	Probe(time.Duration) <-chan bool
	Stray(pdu rspro.PDU, why string)
	Quota(*logrus.Entry) *logrus.Entry
	Close(error)
}

// A session is the time between a bankd's answer that has us stay, with or without a card, and the
// end of that. Whatever belongs to another session than the present one is void.
type session struct {
	peer    peer
	target  *target
	tellATR bool      // the bankd tells the ATR after each reset (rspro.AtrAfterReset)
	card    bool      // there is a card: commands may be sent
	removed bool      // the modem was shown that the card has gone
	told    slot.Phys // what the bankd knows of the modem; see Core.Status
	pending exchange  // the command that waits for its answer; nil: none
	owed    *debt     // the answer to an abandoned command that may still come
}

// An exchange is a command, by the answer its sender waits for. It has room for one: that
// of session.end.
type exchange chan answer

type answer struct {
	data []byte
	err  error
}

// A debt is an answer that the bankd owes though nobody wants it any more. As answers carry no
// mark of their command, none may be sent before that is settled: when the answer comes,
// or, after a reset, when it is sure that none will.
type debt struct {
	settled chan struct{}
	limit   *time.Timer
	fenced  bool
}

const (
	// minATR is the length of the shortest ATR, TS and T0 (ISO 7816-3 8.2).
	minATR = 2
	// debtLimit is how long after a command was abandoned its answer may come: longer than
	// bankds wait for a card.
	debtLimit = 35 * time.Second
	// fenceLimit is how long a bankd has for a PONG, as for the keep-alive.
	fenceLimit = 10 * time.Second
)

// initial is what a bankd takes for granted when a session begins.
var initial = slot.Phys{VCC: slot.On}

// New returns a client whose modem is behind f.
func New(cfg Config, env Env, f Frontend) *Core {
	start := env.StartScript
	if start == nil {
		start = StartShell
	}
	log := env.Log.WithField("cat", "DMAIN")
	if !cfg.Auto {
		log = log.WithField("slot", cfg.Slot)
	}
	watch := env.Watch
	if watch == nil {
		watch = new(Watch)
	}
	c := &Core{
		watch: watch,
		cfg:   cfg, env: env, frontend: f, log: log, source: env.Trace.Source(cfg.Slot.Slot),
		modem: newSequence(cfg, start, log),
		identity: rspro.ComponentIdentity{
			Type: rspro.Client, Name: daemon.HostName(),
			Software: "remsim-client", SWVersion: daemon.Version(),
			HWManufacturer: cfg.Hardware.Manufacturer, HWModel: cfg.Hardware.Model, HWSerialNr: cfg.Hardware.Serial,
			HWVersion: cfg.Hardware.Version, FWVersion: cfg.Hardware.Firmware,
		},
		slot: cfg.Slot, assigned: !cfg.Auto || cfg.Assigned,
	}
	c.alive = daemon.Mutex("client", &c.mu)
	return c
}

// Run is the client's life; it ends with ctx. By then the modem was given back its
// local SIM, for which event scripts get 4 s.
func (c *Core) Run(ctx context.Context) {
	c.watch.enter(c)
	defer c.watch.leave(c)
	scripts, endScripts := context.WithCancel(context.WithoutCancel(ctx))
	actions, endActions := context.WithCancel(context.WithoutCancel(ctx))
	var all, callers sync.WaitGroup
	all.Go(c.guarded(func() { c.modem.run(scripts, actions) }))
	callers.Go(c.guarded(func() { _ = c.serverCaller().Run(ctx) })) // it only returns ctx's cause
	callers.Go(c.guarded(func() { c.serveBankd(ctx) }))

	<-ctx.Done()
	grace := time.AfterFunc(scriptGrace, func() {
		c.modem.giveUp()
		endScripts()
	})
	last := time.AfterFunc(scriptGrace+actionGrace, endActions)
	c.configure(nil)
	callers.Wait()
	c.fences.Wait()
	c.modem.close()
	all.Wait()
	grace.Stop()
	last.Stop()
	endScripts()
	endActions()
}

// guarded returns run with its panics going to Env.Fault.
func (c *Core) guarded(run func()) func() {
	if c.env.Fault == nil {
		return run
	}
	return func() {
		defer func() {
			if fault := recover(); fault != nil {
				c.env.Fault(fault)
			}
		}()
		run()
	}
}

// Leave gives the modem back its local SIM, as when a bankd is left, though none was used: a client that
// was killed may have left it on the remote one. It is for before Run.
func (c *Core) Leave() {
	c.mu.Lock()
	defer c.release()
	c.leave()
}

// Ready reports whether there is a card, so that commands may be sent.
func (c *Core) Ready() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.session != nil && c.session.card
}

// State returns what the client is doing.
func (c *Core) State() State {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.state
}

// Info is how a client stands.
type Info struct {
	State       State
	Server      string // HOST:PORT
	ServerState link.State
	Bankd       netip.AddrPort // zero: none
	BankdState  link.State
	Bank        slot.Bank // the slot of Bankd
	Slot        slot.Client
	Assigned    bool // Slot is ours: always, but for Config.Auto while the server is to assign one
}

// Info returns how the client stands.
func (c *Core) Info() Info {
	c.mu.Lock()
	defer c.mu.Unlock()
	i := Info{
		State: c.state, Server: c.serverAddr(), ServerState: c.server,
		BankdState: c.bankd, Slot: c.slot, Assigned: c.assigned,
	}
	if c.target != nil {
		i.Bankd, i.Bank = c.target.addr, c.target.bank
	}
	return i
}

// Report writes the client's state for users, one item a line.
func (c *Core) Report(w io.Writer) {
	c.mu.Lock()
	state, facts := c.state, c.facts()
	c.mu.Unlock()
	fmt.Fprintln(w, "client", state)
	for _, f := range facts {
		fmt.Fprintln(w, " ", f)
	}
}

func (c *Core) serverCaller() *link.Caller {
	addr := c.serverAddr()
	return &link.Caller{
		Net: c.env.Net, Addr: addr, Want: rspro.Server, Identity: c.identity,
		KeepAlive: c.cfg.KeepAlive, Log: c.peerLog("server " + addr),
		Hello: func() rspro.Message {
			c.mu.Lock()
			defer c.mu.Unlock()
			m := &rspro.ConnectClientReq{Identity: c.identity}
			if c.assigned {
				s := c.slot
				m.Slot = &s
			}
			return m
		},
		Accept: func(_ *link.Conn, res rspro.Response) error {
			if r := res.ResultCode(); r != rspro.OK {
				c.serverRefused(r)
				return &link.RefusedError{Result: r}
			}
			c.serverUp()
			return nil
		},
		Handle:  func(conn *link.Conn, p rspro.PDU) { c.fromServer(conn, p) },
		OnState: c.serverState,
	}
}

// serveBankd keeps the connection to the bankd that is the target, until ctx ends.
func (c *Core) serveBankd(ctx context.Context) {
	for ctx.Err() == nil {
		turn, cancel := context.WithCancel(ctx)
		c.mu.Lock()
		t := c.target
		c.retarget = cancel
		c.mu.Unlock()
		if t == nil {
			<-turn.Done()
		} else {
			_ = c.bankdCaller(t).Run(turn) // it only returns turn's cause
		}
		cancel()
	}
}

func (c *Core) bankdCaller(t *target) *link.Caller {
	return &link.Caller{
		Net: c.env.Net, Addr: t.addr.String(), Want: rspro.Bankd, Identity: c.identity,
		KeepAlive: c.cfg.KeepAlive, Log: c.peerLog("bankd "+t.addr.String()).WithField("bank", t.bank),
		Hello: func() rspro.Message {
			c.mu.Lock()
			defer c.mu.Unlock()
			s := c.slot
			return &rspro.ConnectClientReq{Identity: c.identity, Slot: &s, Features: rspro.AtrAfterReset}
		},
		Accept:  func(conn *link.Conn, res rspro.Response) error { return c.bankdUp(conn, t, res) },
		Handle:  func(conn *link.Conn, p rspro.PDU) { c.fromBankd(conn, p) },
		Down:    func(error) { c.bankdDown(t) },
		OnState: func(s link.State) { c.bankdState(t, s) },
	}
}

func (c *Core) peerLog(name string) *logrus.Entry {
	log := c.env.Log.WithFields(logrus.Fields{"cat": "DRSPRO", "peer": name})
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.assigned {
		log = log.WithField("slot", c.slot)
	}
	return log
}

func (c *Core) serverAddr() string {
	return net.JoinHostPort(c.cfg.ServerHost, strconv.Itoa(int(c.cfg.ServerPort)))
}

// hear takes mu for the handling of a message of p.
func (c *Core) hear(p peer) {
	c.mu.Lock()
	c.speaker = p
}

// release gives back mu and writes the log lines that came up under it.
func (c *Core) release() {
	lines := c.lines
	c.lines, c.speaker = nil, nil
	c.mu.Unlock()
	for _, write := range lines {
		write()
	}
}

// note has a line logged when mu is released, within the quota of the peer that is heard. Requires mu.
func (c *Core) note(level logrus.Level, fields logrus.Fields, text string) {
	if !c.env.Log.IsLevelEnabled(level) {
		return
	}
	log, p := c.log.WithFields(fields), c.speaker
	c.lines = append(c.lines, func() {
		if p != nil {
			log = p.Quota(log)
		}
		log.Log(level, text)
	})
}

// stray passes over a message of p when mu is released. Requires mu.
func (c *Core) stray(p peer, pdu rspro.PDU, why string) {
	c.lines = append(c.lines, func() { p.Stray(pdu, why) })
}

// Events of the server.

// serverUp: the server has accepted us.
func (c *Core) serverUp() {
	c.mu.Lock()
	defer c.release()
	c.server = link.Connected
	c.watch.serverWelcomes.Add(1)
	c.refusals = 0
	if c.state == Init {
		c.become(Unconfigured)
	}
	c.cause(serverConnect)
}

// maxRefusals is how often in a row the server may say that others have the slot it had assigned us
// before we ask for another one. It has seen them alive each time, but once that may have been
// a last sign of our own connection before this one; and another slot has none of our maps.
const maxRefusals = 2

// serverRefused: the server has not accepted us. One that was started anew doesn't know whom
// it had assigned slots, and may have given ours to a client that came first: in that case we ask
// for another one. Until there is one a session with the bankd goes on.
func (c *Core) serverRefused(r rspro.ResultCode) {
	c.mu.Lock()
	defer c.release()
	if !c.cfg.Auto || !c.assigned || r != rspro.IdentityInUse {
		return
	}
	if c.refusals++; c.refusals < maxRefusals {
		return
	}
	c.assigned, c.refusals = false, 0
	c.note(logrus.WarnLevel, nil, "another client has the slot that the server assigned us: asking for another one")
}

func (c *Core) serverState(s link.State) {
	c.mu.Lock()
	defer c.release()
	c.server = s
}

// fromServer takes all that an accepting server says.
func (c *Core) fromServer(p peer, pdu rspro.PDU) {
	switch m := pdu.Msg.(type) {
	case *rspro.ConfigClientIDReq:
		c.configClientID(p, pdu, m)
	case *rspro.ConfigClientBankReq:
		c.configClientBank(p, pdu, m)
	case *rspro.ResetStateReq:
		c.resetState(p, pdu)
	case *rspro.ErrorInd:
		c.errorInd(p, "server", m)
	default:
		p.Stray(pdu, "not of a server")
	}
}

// configClientID: the server says which slot we are. A session under another name ends, and
// the server tells anew which bankd is right.
func (c *Core) configClientID(p peer, pdu rspro.PDU, m *rspro.ConfigClientIDReq) {
	c.hear(p)
	defer c.release()
	if c.slot != m.Slot {
		c.configureLocked(nil)
	}
	if !c.assigned || c.slot != m.Slot {
		c.slot, c.assigned = m.Slot, true
		c.log = c.log.WithField("slot", m.Slot)
		c.note(logrus.InfoLevel, nil, "server assigned us this slot")
	}
	c.reply(p, pdu, &rspro.ConfigClientIDRes{Result: rspro.OK})
}

// configClientBank: the server says which bankd to use.
func (c *Core) configClientBank(p peer, pdu rspro.PDU, m *rspro.ConfigClientBankReq) {
	c.hear(p)
	defer c.release()
	if c.state == Init || !c.assigned {
		c.stray(p, pdu, "we have no identity yet")
		c.reply(p, pdu, &rspro.ConfigClientBankRes{Result: rspro.IllegalClientID})
		return
	}
	fields := logrus.Fields{"bank": m.Bank, "bankd": m.Bankd}
	c.reply(p, pdu, &rspro.ConfigClientBankRes{Result: rspro.OK})
	t := &target{bank: m.Bank, addr: netip.AddrPortFrom(m.Bankd.Addr().Unmap(), m.Bankd.Port())}
	switch {
	case t.addr.Port() == 0:
		c.note(logrus.InfoLevel, nil, "server says: no bankd")
		c.configureLocked(nil)
	case c.session != nil && *c.session.target == *t:
		// A server that was restarted says again what we know.
		c.note(logrus.DebugLevel, fields, "server tells the bankd that is in use")
		return
	default:
		c.note(logrus.InfoLevel, fields, "server tells a bankd")
		c.configureLocked(t)
	}
	c.cause(configBankd)
}

// resetState: the server has us forget the bankd.
func (c *Core) resetState(p peer, pdu rspro.PDU) {
	c.hear(p)
	defer c.release()
	c.note(logrus.InfoLevel, nil, "server resets our state")
	c.configureLocked(nil)
	c.reply(p, pdu, &rspro.ResetStateRes{Result: rspro.OK})
}

// configure makes t the bankd to use, nil: none.
func (c *Core) configure(t *target) {
	c.mu.Lock()
	defer c.release()
	c.configureLocked(t)
}

func (c *Core) configureLocked(t *target) {
	c.endSession() // its scripts are told of the bankd that is left
	c.target = t
	c.bankd = link.Init
	switch {
	case t != nil:
		c.become(WaitBankd)
	case c.state != Init:
		c.become(Unconfigured)
	}
	if c.retarget != nil {
		c.retarget()
	}
}

// Events of the bankd.

// bankdUp: the bankd has answered our connectClientReq. An error ends the connection.
func (c *Core) bankdUp(p peer, t *target, res rspro.Response) error {
	c.mu.Lock()
	defer c.release()
	if c.target != t {
		return errors.New("the server has told another bankd meanwhile")
	}
	// Bankds know AtrAfterReset since they know LateAtr.
	s := &session{peer: p, target: t, told: initial, tellATR: late(res)}
	switch r := res.ResultCode(); {
	case r == rspro.OK:
		c.session = s
		c.watch.bankdWelcomes.Add(1)
		c.enter()
	case r == rspro.CardNotPresent && late(res):
		c.session = s
		c.watch.bankdWelcomes.Add(1)
		c.note(logrus.InfoLevel, logrus.Fields{"bank": t.bank}, "bankd has no card for us yet: waiting for it")
	default:
		return &link.RefusedError{Result: r}
	}
	return nil
}

// late reports whether the bankd of res serves clients that stay after cardNotPresent.
func late(res rspro.Response) bool {
	m, ok := res.(*rspro.ConnectClientRes)
	return ok && m.Features.Has(rspro.LateAtr)
}

// bankdDown: the connection to the bankd of t is lost.
func (c *Core) bankdDown(t *target) {
	c.mu.Lock()
	defer c.release()
	if c.session == nil || c.target != t {
		return // we left it ourselves
	}
	c.bankd = link.ReestablishDelay
	c.endSession()
	c.become(WaitBankd)
}

func (c *Core) bankdState(t *target, s link.State) {
	c.mu.Lock()
	defer c.release()
	// A bankd that has us wait for a card has not accepted us yet, whatever the connection says.
	if c.target == t && (s != link.Connected || c.state == Operational) {
		c.bankd = s
	}
}

// fromBankd takes all that an accepting bankd says.
func (c *Core) fromBankd(p peer, pdu rspro.PDU) {
	if c.modem.full() {
		p.Close(errors.New("the modem's side doesn't keep up with the bankd"))
		return
	}
	switch m := pdu.Msg.(type) {
	case *rspro.TpduCardToModem:
		c.cardToModem(p, pdu, m)
	case *rspro.SetAtrReq:
		c.setAtr(p, pdu, m)
	case *rspro.BankSlotStatusInd:
		c.bankSlotStatus(p, pdu, m)
	case *rspro.ErrorInd:
		c.errorInd(p, "bankd", m)
	default:
		p.Stray(pdu, "not of a bankd")
	}
}

// of returns the session of p, nil when it is over. Requires mu.
func (c *Core) of(p peer) *session {
	if c.session == nil || c.session.peer != p {
		return nil
	}
	return c.session
}

// setAtr: the bankd has a card for us, and this is what it answers to reset.
func (c *Core) setAtr(p peer, pdu rspro.PDU, m *rspro.SetAtrReq) {
	c.hear(p)
	defer c.release()
	s := c.of(p)
	switch {
	case s == nil:
		return
	case m.Slot != c.slot:
		c.stray(p, pdu, fmt.Sprintf("ATR for %v", m.Slot))
		c.reply(p, pdu, &rspro.SetAtrRes{Result: rspro.IllegalSlotID})
		return
	case len(m.ATR) < minATR:
		c.stray(p, pdu, fmt.Sprintf("ATR of %d byte", len(m.ATR)))
		c.reply(p, pdu, &rspro.SetAtrRes{Result: rspro.CardTransmissionError})
		return
	}
	c.source.ATR(m.ATR)
	atr := bytes.Clone(m.ATR)
	level := logrus.InfoLevel
	if s.card {
		level = logrus.DebugLevel // it was reset
	}
	c.note(level, logrus.Fields{"atr": fmt.Sprintf("%x", atr)}, "card is there")
	if c.cfg.KeepATR {
		atr = c.cfg.ATR
	}
	if c.state != Operational {
		c.enter() // the bankd had us wait for this
	}
	if !s.card {
		s.card = true
		c.cards++
	}
	c.showATR(atr, c.cards)
	if s.removed {
		s.removed = false
		c.act(cardInsert, c.frontend.Insert)
	}
	c.reply(p, pdu, &rspro.SetAtrRes{Result: rspro.OK})
}

// cardToModem: the answer of the card.
func (c *Core) cardToModem(p peer, pdu rspro.PDU, m *rspro.TpduCardToModem) {
	c.hear(p)
	defer c.release()
	s := c.of(p)
	if s == nil {
		return
	}
	switch {
	case m.From != s.target.bank || m.To != c.slot:
		c.stray(p, pdu, fmt.Sprintf("answer of %v for %v", m.From, m.To))
	case s.pending != nil && (len(m.Data) < MinResponse || len(m.Data) > MaxResponse):
		err := fmt.Errorf("answer of %d bytes: want %d..%d", len(m.Data), MinResponse, MaxResponse)
		s.abandon(err) // nothing is sent any more until the connection's end is told
		p.Close(err)
	case s.pending != nil:
		s.end(bytes.Clone(m.Data), nil)
	case s.owed != nil:
		c.note(logrus.InfoLevel, logrus.Fields{"bytes": len(m.Data)}, "late answer to an abandoned command dropped")
		s.settle()
	default:
		c.stray(p, pdu, "answer without a command")
	}
}

// bankSlotStatus: what became of the card. One that is back is told by setAtrReq.
func (c *Core) bankSlotStatus(p peer, pdu rspro.PDU, m *rspro.BankSlotStatusInd) {
	c.hear(p)
	defer c.release()
	s := c.of(p)
	if s == nil {
		return
	}
	fields := logrus.Fields{"from": m.From, "to": m.To, "status": m.Phys}
	switch {
	case m.From != s.target.bank || m.To != c.slot:
		c.stray(p, pdu, fmt.Sprintf("status of %v for %v", m.From, m.To))
	case m.Phys.Card != slot.Off || s.removed || c.state != Operational:
		c.note(logrus.DebugLevel, fields, "status of the card's slot")
	default:
		c.note(logrus.InfoLevel, fields, "card has gone")
		s.card, s.removed = false, true
		s.drop()
		c.act(cardRemove, c.frontend.Remove)
	}
}

// Events of the modem.

// Transmit sends a command TPDU of MinTPDU..MaxTPDU bytes to the card and returns the response
// of MinResponse..MaxResponse bytes, data followed by SW1 SW2. One command is outstanding at a time. When ctx ends
// first, the response is dropped when it comes; until then the next command waits.
func (c *Core) Transmit(ctx context.Context, tpdu []byte) (response []byte, err error) {
	return c.TransmitTo(ctx, 0, tpdu)
}

// TransmitTo is Transmit to one card and no other: where there is another one by now, nothing is sent, and the error is
// ErrNoCard. The frontend may not know that yet, as it is told of cards one step after the other. Card 0 is whichever is there.
func (c *Core) TransmitTo(ctx context.Context, card Card, tpdu []byte) (response []byte, err error) {
	began := time.Now()
	defer func() { c.watch.command(time.Since(began), err) }()
	if len(tpdu) < MinTPDU || len(tpdu) > MaxTPDU {
		return nil, fmt.Errorf("command of %d bytes: want %d..%d", len(tpdu), MinTPDU, MaxTPDU)
	}
	s, x, m, err := c.begin(ctx, card)
	if err != nil {
		return nil, err
	}
	m.Data = tpdu
	c.trace("command", tpdu)
	if err := s.peer.Post(&m); err != nil { // the connection is at its end
		c.abandon(s, x, fmt.Errorf("%w: %w", ErrGone, err))
	}
	s.peer.Flush()
	var a answer
	select {
	case a = <-x:
	case <-ctx.Done():
		c.abandon(s, x, context.Cause(ctx))
		a = <-x // which it may have got at the last moment
	}
	if a.err == nil {
		c.source.APDU(tpdu, a.data)
		c.trace("response", a.data)
	}
	return a.data, a.err
}

// PPS traces a protocol and parameters selection of the modem and what it was answered.
func (c *Core) PPS(req, resp []byte) { c.source.PPS(req, resp) }

// trace logs the bytes of a TPDU.
func (c *Core) trace(what string, b []byte) {
	if c.env.Log.IsLevelEnabled(logrus.TraceLevel) {
		c.mu.Lock()
		defer c.release()
		c.note(logrus.TraceLevel, logrus.Fields{"tpdu": fmt.Sprintf("%x", b)}, what)
	}
}

// begin claims the session for a command to card whose message, but for the data, it returns.
func (c *Core) begin(ctx context.Context, card Card) (*session, exchange, rspro.TpduModemToCard, error) {
	fail := func(err error) (*session, exchange, rspro.TpduModemToCard, error) {
		return nil, nil, rspro.TpduModemToCard{}, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	for {
		s := c.session
		switch {
		case s == nil || !s.card || card != 0 && card != c.cards:
			return fail(ErrNoCard)
		case s.pending != nil:
			return fail(ErrBusy)
		case s.owed == nil:
			s.pending = make(exchange, 1)
			return s, s.pending, rspro.TpduModemToCard{From: c.slot, To: s.target.bank}, nil
		}
		settled := s.owed.settled
		c.mu.Unlock()
		select {
		case <-settled:
		case <-ctx.Done():
		}
		c.mu.Lock()
		if ctx.Err() != nil {
			return fail(context.Cause(ctx))
		}
	}
}

// abandon ends x with err unless it has ended.
func (c *Core) abandon(s *session, x exchange, err error) {
	c.mu.Lock()
	defer c.release()
	if s.pending == x {
		s.abandon(err)
	}
}

// Status says how the modem drives the card's contacts, and whether it is
// shown a card. Members that are unknown stay as they were. The last status is told to
// a bankd when the client becomes operational; one that repeats the last is not told again.
// tellsATR says that it resets the card and that the bankd tells the ATR after that, by Frontend.ATR.
func (c *Core) Status(p slot.Phys) (tellsATR bool) {
	c.mu.Lock()
	defer c.release()
	old := c.phys
	c.phys, c.physSeen = merge(old, p), true
	s := c.session
	if s == nil || c.state != Operational {
		return false
	}
	reset := s.told.VCC != slot.Off && c.phys.VCC == slot.Off || !s.told.Reset && c.phys.Reset
	if reset {
		c.watch.resets.Add(1)
		s.abandon(ErrReset)
	}
	c.tell(c.phys)
	if d := s.owed; reset && d != nil && !d.fenced {
		d.fenced = true
		c.fences.Go(c.guarded(func() { c.fence(s, d) }))
	}
	if old.Reset != c.phys.Reset || old.VCC != c.phys.VCC || old.CLK != c.phys.CLK {
		c.cause(modemStatus)
	}
	return reset && s.card && s.tellATR
}

// fence settles d once the bankd has seen the reset: what it answers to commands before that
// comes before its PONG, or never.
func (c *Core) fence(s *session, d *debt) {
	// The first PONG may belong to a PING of the keep-alive that was sent before the reset; the
	// second one can't.
	for range 2 {
		if !<-s.peer.Probe(fenceLimit) {
			return // the connection is at its end
		}
	}
	c.mu.Lock()
	defer c.release()
	if s.owed == d {
		s.settle()
	}
}

// tell sends the modem's status to the bankd, if it is news. Requires mu.
func (c *Core) tell(p slot.Phys) {
	s := c.session
	if p == s.told {
		return
	}
	s.told = p
	c.failed(s.peer.Send(&rspro.ClientSlotStatusInd{From: c.slot, To: s.target.bank, Phys: p}))
}

// merge returns what old becomes by p.
func merge(old, p slot.Phys) slot.Phys {
	if p.VCC == slot.Unknown {
		p.VCC = old.VCC
	}
	if p.CLK == slot.Unknown {
		p.CLK = old.CLK
	}
	if p.Card == slot.Unknown {
		p.Card = old.Card
	}
	return p
}

// What follows from the events.

// become changes the state. Requires mu.
func (c *Core) become(to State) {
	if c.state == to {
		return
	}
	c.note(logrus.InfoLevel, logrus.Fields{"from": c.state, "to": to}, "state changed")
	c.state = to
}

// enter is what follows when the bankd of the session accepts us: the modem uses the remote SIM.
// Requires mu.
func (c *Core) enter() {
	c.bankd = link.Connected
	c.become(Operational)
	c.showATR(c.cfg.ATR, 0)
	c.act(simRemote, func(ctx context.Context) { c.frontend.Remote(ctx, true) })
	c.act(cardInsert, c.frontend.Insert)
	c.act(modemReset, c.frontend.ResetModem)
	c.cause(bankdConnect)
	if c.physSeen {
		c.tell(c.phys)
	}
}

// endSession leaves the bankd, if we are with one, and gives the modem its local SIM if it
// used the remote one. Requires mu.
func (c *Core) endSession() {
	s := c.session
	if s == nil {
		return
	}
	c.session = nil
	s.drop()
	if c.state == Operational {
		c.leave()
	}
}

// leave is what has the modem use its local SIM. Requires mu.
func (c *Core) leave() {
	c.act(cardRemove, c.frontend.Remove)
	c.act(simLocal, func(ctx context.Context) { c.frontend.Remote(ctx, false) })
	c.act(modemReset, c.frontend.ResetModem)
}

// showATR has the frontend take an ATR; card 0: there is none that answers. Requires mu.
func (c *Core) showATR(atr []byte, card Card) {
	c.act(noScript, func(ctx context.Context) { c.frontend.ATR(ctx, bytes.Clone(atr), card) })
}

// cause has an event script run. Requires mu.
func (c *Core) cause(why cause) { c.act(why, nil) }

// act has an event script run and the frontend do something. Requires mu.
func (c *Core) act(why cause, do func(context.Context)) {
	s := step{cause: why, do: do}
	if why != noScript && c.cfg.Script != "" {
		s.vars = c.vars(why)
	}
	c.modem.add(s)
}

// vars returns the variables of an event script. Requires mu.
func (c *Core) vars(why cause) []string {
	return append(append(c.facts(), "REMSIM_CAUSE="+string(why)), c.cfg.ScriptVars...)
}

// facts returns how things stand, as event scripts are told. Requires mu.
func (c *Core) facts() []string {
	var t target
	addr := "0.0.0.0:0" // how the protocol says that there is none
	if c.target != nil {
		t = *c.target
		addr = t.addr.String()
	}
	return []string{
		"REMSIM_CLIENT_VERSION=" + daemon.Version(),
		"REMSIM_SERVER_ADDR=" + c.serverAddr(),
		"REMSIM_SERVER_STATE=" + c.server.String(),
		"REMSIM_BANKD_ADDR=" + addr,
		"REMSIM_BANKD_STATE=" + c.bankd.String(),
		"REMSIM_CLIENT_SLOT=" + c.slot.Pair(),
		"REMSIM_BANKD_SLOT=" + t.bank.Pair(),
		"REMSIM_SIM_VCC=" + level(c.phys.VCC == slot.On),
		"REMSIM_SIM_RST=" + level(c.phys.Reset),
		"REMSIM_SIM_CLK=" + level(c.phys.CLK == slot.On),
	}
}

func level(on bool) string {
	if on {
		return "1"
	}
	return "0"
}

// end ends the command that waits for its answer. It doesn't block: no command is ended twice, as it
// no longer waits then. Requires the Core's mu.
func (s *session) end(data []byte, err error) {
	s.pending <- answer{data, err}
	s.pending = nil
}

// abandon ends the command that waits for its answer with err; the answer is
// owed from then on. Requires the Core's mu.
func (s *session) abandon(err error) {
	if s.pending == nil {
		return
	}
	s.end(nil, err)
	s.owed = &debt{
		settled: make(chan struct{}),
		limit: time.AfterFunc(debtLimit, func() {
			s.peer.Close(errors.New("no answer to a command"))
		}),
	}
}

// settle ends the wait for an abandoned command's answer. Requires the Core's mu.
func (s *session) settle() {
	if s.owed == nil {
		return
	}
	s.owed.limit.Stop()
	close(s.owed.settled)
	s.owed = nil
}

// drop ends all commands of a card that has gone. Requires the Core's mu.
func (s *session) drop() {
	s.settle()
	if s.pending != nil {
		s.end(nil, ErrGone)
	}
}

// Messages in general.

// reply answers a request. Requires mu.
func (c *Core) reply(p peer, pdu rspro.PDU, m rspro.Message) { c.failed(p.Reply(pdu, m)) }

// failed notes a message that couldn't be sent; the connection ends by itself. Requires mu.
func (c *Core) failed(err error) {
	if err != nil {
		c.note(logrus.DebugLevel, logrus.Fields{logrus.ErrorKey: err}, "message not sent")
	}
}

// errorInd: a peer complains.
func (c *Core) errorInd(p peer, from string, m *rspro.ErrorInd) {
	c.hear(p)
	defer c.release()
	fields := logrus.Fields{"peer": from, "code": m.Code, "severity": m.Severity, "text": m.Text}
	c.note(logrus.WarnLevel, fields, "peer reports an error")
}
