// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"context"
	"errors"
	"net"
	"sync"

	"remsim/internal/bankd"
	"remsim/internal/client"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// Peers that know RSPRO 1.1 and nothing else, and do what the C programs do where those differ from ours: they
// announce no features, answer with tag 0 or 2342, a client leaves and comes back when it is told its bankd
// again, a client without a card leaves, and a bankd forgets a client that came before its map.

var (
	tag0    = rspro.PDU{Version: rspro.Version}
	tagC    = rspro.PDU{Version: rspro.Version, Tag: 2342} // of a connectClientRes
	errLost = errors.New("the map was removed")
)

// A plainBankd is such a bankd.
type plainBankd struct {
	w       *world
	program *program
	id      uint16

	mu   sync.Mutex
	maps map[uint16]slot.Client // by slot number
	// sessions are the newest connections of clients.
	sessions map[slot.Client]*plainSession
	// turn of each slot has an element while nobody has its card.
	turn [slots]chan struct{}
}

// plainID is the bank id of the plain bankd.
const plainID = banks + 1

func (w *world) startPlainBankd() *plainBankd {
	b := &plainBankd{w: w, id: plainID, maps: map[uint16]slot.Client{}, sessions: map[slot.Client]*plainSession{}}
	for nr := range b.turn {
		b.turn[nr] = make(chan struct{}, 1)
		b.turn[nr] <- struct{}{}
	}
	b.program = w.start("plain bankd", bankdAddr(plainID), b.run)
	return b
}

func (b *plainBankd) run(ctx context.Context, h *testnet.Host) error {
	ln, err := h.Listen(ctx, ":9999")
	if err != nil {
		return err
	}
	var all sync.WaitGroup
	all.Go(func() { _ = link.Serve(ctx, ln, b.w.log.WithField("cat", "plain"), b.serve) })
	server := &link.Caller{
		Net: h, Addr: serverAddr + ":9998", Want: rspro.Server, KeepAlive: b.w.keepAlive,
		Hello: func() rspro.Message {
			return &rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Bankd), BankID: b.id, NumSlots: slots}
		},
		Handle: b.command,
	}
	err = server.Run(ctx)
	all.Wait()
	return err
}

// command does what the server wants.
func (b *plainBankd) command(c *link.Conn, p rspro.PDU) {
	b.mu.Lock()
	defer b.mu.Unlock()
	switch m := p.Msg.(type) {
	case *rspro.CreateMappingReq:
		if b.maps[m.Bank.Slot] != m.Client {
			for nr, of := range b.maps {
				if nr == m.Bank.Slot || of == m.Client {
					b.unmapLocked(nr)
				}
			}
			b.maps[m.Bank.Slot] = m.Client
		}
		c.Reply(tag0, &rspro.CreateMappingRes{})
	case *rspro.RemoveMappingReq:
		res := &rspro.RemoveMappingRes{Result: rspro.UnknownSlotmap}
		if of, ok := b.maps[m.Bank.Slot]; ok && of == m.Client {
			b.unmapLocked(m.Bank.Slot)
			res.Result = rspro.OK
		}
		c.Reply(tag0, res)
	default:
		b.w.t.Errorf("the server sends a plain bankd %v %+v", p.Msg.Choice(), p.Msg)
	}
}

func (b *plainBankd) unmapLocked(nr uint16) {
	if s := b.sessions[b.maps[nr]]; s != nil {
		s.conn.Close(errLost)
	}
	delete(b.maps, nr)
}

// has returns its maps.
func (b *plainBankd) has() map[slot.Bank]slot.Client {
	b.mu.Lock()
	defer b.mu.Unlock()
	maps := map[slot.Bank]slot.Client{}
	for nr, c := range b.maps {
		maps[slot.Bank{ID: b.id, Slot: nr}] = c
	}
	return maps
}

// A plainSession is a client's connection to a plainBankd. Like a thread of a C bankd it does one thing after the other: a
// PING that comes after a command is answered after that.
type plainSession struct {
	b      *plainBankd
	conn   *link.Conn
	client slot.Client
	at     slot.Bank

	mu   sync.Mutex
	card bankd.Card // nil: not powered up yet
}

func (b *plainBankd) serve(ctx context.Context, nc net.Conn) {
	s := &plainSession{b: b}
	var opening sync.WaitGroup
	s.conn = link.New(nc, link.Options{Listener: true, KeepAlive: b.w.keepAlive, Handle: func(_ *link.Conn, p rspro.PDU) {
		switch m := p.Msg.(type) {
		case *rspro.ConnectClientReq:
			if !s.mapped(*m.Slot) {
				s.conn.Reply(tagC, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd), Result: rspro.CardNotPresent})
				return
			}
			opening.Go(s.open)
		case *rspro.TpduModemToCard:
			s.transmit(m)
		case *rspro.ClientSlotStatusInd: // a reset, which is nobody's business here
		default:
			b.w.t.Errorf("%v sends a plain bankd %v %+v", s.client, p.Msg.Choice(), p.Msg)
		}
	}})
	_ = s.conn.Run(ctx)
	opening.Wait()
	if s.card != nil {
		s.card.Close()
		b.turn[s.at.Slot] <- struct{}{}
	}
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.sessions[s.client] == s {
		delete(b.sessions, s.client)
	}
}

// mapped makes s the session of a client and reports whether that has a map.
func (s *plainSession) mapped(c slot.Client) bool {
	s.b.mu.Lock()
	defer s.b.mu.Unlock()
	if old := s.b.sessions[c]; old != nil {
		old.conn.Close(errLost)
	}
	s.client = c
	s.b.sessions[c] = s
	for nr, of := range s.b.maps {
		if of == c {
			s.at = slot.Bank{ID: s.b.id, Slot: nr}
			return true
		}
	}
	return false
}

// open powers the card up, when it is free.
func (s *plainSession) open() {
	select {
	case <-s.b.turn[s.at.Slot]:
	case <-s.conn.Done():
		return
	}
	card, err := s.b.w.bank.Open(context.Background(), bankd.Slot{Bank: s.at})
	if err != nil {
		s.b.turn[s.at.Slot] <- struct{}{}
		s.conn.Close(err)
		return
	}
	s.mu.Lock()
	s.card = card
	s.mu.Unlock()
	s.conn.Reply(tagC, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	s.conn.Request(&rspro.SetAtrReq{Slot: s.client, ATR: card.ATR()}, 0, func(rspro.Message, error) {})
}

// transmit is a command and its answer.
func (s *plainSession) transmit(m *rspro.TpduModemToCard) {
	s.mu.Lock()
	card := s.card
	s.mu.Unlock()
	if card == nil || m.From != s.client {
		s.b.w.t.Errorf("a command from %v to %v on a connection of %v", m.From, m.To, s.client)
		return
	}
	if m.To != s.at { // the client hasn't heard yet that its map is another one
		s.conn.Close(errLost)
		return
	}
	res, err := card.Transmit(m.Data, nil)
	if err != nil {
		s.conn.Close(err)
		return
	}
	s.conn.Send(&rspro.TpduCardToModem{From: s.at, To: s.client, Data: res})
}

// A plainClient is such a client, with its modem.
type plainClient struct {
	w       *world
	program *program
	slot    slot.Client
	turn    chan struct{} // has an element while no command is under way

	mu     sync.Mutex
	target chan netTarget // the newest bankd it was told; one element
	conn   *link.Conn     // with the bankd, once there is a card; else nil
	bank   slot.Bank
	atr    []byte
	events int         // how often it got or lost a card
	failed int         // commands
	answer chan []byte // where the answer to the command under way goes; nil: there is none
}

// A netTarget is a bankd; port 0: none.
type netTarget = rspro.ConfigClientBankReq

func (w *world) newPlainClient(c slot.Client) *plainClient {
	m := &plainClient{w: w, slot: c, turn: make(chan struct{}, 1)}
	m.turn <- struct{}{}
	w.plainClients[c] = m
	return m
}

func (m *plainClient) start() {
	m.target = make(chan netTarget, 1)
	m.program = m.w.start("plain client "+m.slot.String(), clientAddr(m.slot), m.run)
}

func (m *plainClient) run(ctx context.Context, h *testnet.Host) error {
	hello := func() rspro.Message {
		return &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &m.slot}
	}
	var bankd sync.WaitGroup
	bankd.Go(func() {
		stop := func() {}
		for {
			select {
			case to := <-m.target:
				stop()
				if to.Bankd.Port() == 0 {
					stop = func() {}
					continue
				}
				c := &link.Caller{
					Net: h, Addr: to.Bankd.String(), Want: rspro.Bankd, KeepAlive: m.w.keepAlive, Hello: hello,
					Handle: func(c *link.Conn, p rspro.PDU) { m.fromBankd(c, to.Bank, p) },
					Down:   func(error) { m.lost() },
				}
				turn, cancel := context.WithCancel(ctx)
				done := make(chan struct{})
				go func() {
					defer close(done)
					_ = c.Run(turn)
				}()
				stop = func() { cancel(); <-done }
			case <-ctx.Done():
				stop()
				return
			}
		}
	})
	var last netTarget // on this connection
	var on *link.Conn
	server := &link.Caller{
		Net: h, Addr: serverAddr + ":9998", Want: rspro.Server, KeepAlive: m.w.keepAlive, Hello: hello,
		Handle: func(c *link.Conn, p rspro.PDU) {
			to, ok := p.Msg.(*rspro.ConfigClientBankReq)
			if !ok {
				m.w.t.Errorf("the server sends a plain client %v %+v", p.Msg.Choice(), p.Msg)
				return
			}
			if on == c && last == *to {
				m.w.t.Errorf("%v is told %v twice on one connection", m.slot, to)
			}
			last, on = *to, c
			select {
			case <-m.target:
			default:
			}
			m.target <- *to
			c.Reply(tag0, &rspro.ConfigClientBankRes{})
		},
	}
	err := server.Run(ctx)
	bankd.Wait()
	return err
}

// fromBankd takes what a bankd sends.
func (m *plainClient) fromBankd(c *link.Conn, at slot.Bank, p rspro.PDU) {
	m.mu.Lock()
	defer m.mu.Unlock()
	switch msg := p.Msg.(type) {
	case *rspro.SetAtrReq:
		m.conn, m.bank, m.atr = c, at, append([]byte(nil), msg.ATR...)
		m.events++
		c.Reply(tag0, &rspro.SetAtrRes{})
	case *rspro.TpduCardToModem:
		if m.answer == nil || msg.From != at || msg.To != m.slot {
			m.w.t.Errorf("%v gets an answer of %v for %v that it didn't ask for", m.slot, msg.From, msg.To)
			return
		}
		m.answer <- append([]byte(nil), msg.Data...)
		m.answer = nil
	}
}

// lost ends the use of a card.
func (m *plainClient) lost() {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.conn, m.atr = nil, nil
	m.events++
	if m.answer != nil {
		close(m.answer)
		m.answer = nil
	}
}

func (m *plainClient) card() []byte {
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.atr
}

// transmit is as that of modem.
func (m *plainClient) transmit(ctx context.Context) (slot.Bank, error) {
	select {
	case <-m.turn:
	case <-ctx.Done():
		return slot.Bank{}, ctx.Err()
	}
	defer func() { m.turn <- struct{}{} }()
	from, err := m.w.exchange(m.slot, func(cmd []byte) ([]byte, error) {
		m.mu.Lock()
		conn, answer := m.conn, make(chan []byte, 1)
		if conn != nil {
			m.answer = answer
		}
		at := m.bank
		m.mu.Unlock()
		if conn == nil {
			return nil, client.ErrNoCard
		}
		conn.Send(&rspro.TpduModemToCard{From: m.slot, To: at, Data: cmd})
		select {
		case res, ok := <-answer:
			if ok {
				return res, nil
			}
		case <-ctx.Done():
		}
		return nil, client.ErrGone
	})
	if err != nil {
		m.mu.Lock()
		m.failed++
		m.mu.Unlock()
	}
	return from, err
}

// trail implements user.
func (m *plainClient) trail() trail {
	m.mu.Lock()
	defer m.mu.Unlock()
	return trail{events: m.events, failed: m.failed}
}
