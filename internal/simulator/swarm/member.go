// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net"
	"net/netip"
	"strconv"
	"sync"
	"sync/atomic"
	"time"

	"remsim/internal/client"
	"remsim/internal/slot"
)

// clientsPerAddr is how many clients share an address on loopback. It has some 28,000 ports, but when a third of them is taken a
// system already searches long for one that is free.
const clientsPerAddr = 2000

// source returns where client number i comes from on loopback, 127.0.0.1 and up; the system's choice for the first ones.
func source(i int) (a netip.Addr) {
	const perByte = 250
	if n := i / clientsPerAddr; n > 0 {
		a = netip.AddrFrom4([4]byte{127, 0, byte(n / perByte), byte(1 + n%perByte)})
	}
	return a
}

// A member is one client of the swarm, with its modem.
type member struct {
	s    *swarm
	id   slot.Client
	net  network
	core *client.Core
	busy atomic.Bool // it has a command

	mu    sync.Mutex
	want  *place    // whose card it shall have, as the server was asked; nil: none's
	old   []*place  // whose it had before, until it is known to have another
	asked time.Time // when want was asked for; zero: it has that card, and that was noted
}

func newMember(s *swarm, i int) *member {
	m := &member{s: s, id: clientSlot(i)}
	m.net.meter, m.net.from = &s.meter, source(i)
	host, port, _ := net.SplitHostPort(s.Server) // looked at when the command line was
	nr, _ := strconv.ParseUint(port, 10, 16)
	m.core = client.New(client.Config{
		ServerHost: host, ServerPort: uint16(nr), Slot: m.id, ATR: []byte{0x3b, 0x00}, KeepAlive: s.KeepAlive,
	}, client.Env{Net: &m.net, Log: s.Peers}, modem{m})
	return m
}

// A modem is told what happens to the card.
type modem struct{ m *member }

func (modem) Remote(context.Context, bool)                     {}
func (modem) ResetModem(context.Context)                       {}
func (m modem) Insert(context.Context)                         { m.m.settled() }
func (m modem) Remove(context.Context)                         { m.m.settled() }
func (m modem) ATR(_ context.Context, _ []byte, _ client.Card) { m.m.settled() }

// settled reports whether m has the card it shall have, or none where there is none.
func (m *member) settled() bool {
	info, ready := m.core.Info(), m.core.Ready()
	m.mu.Lock()
	defer m.mu.Unlock()
	there := !ready
	if m.want != nil {
		there = ready && info.Bank == m.want.bank
	}
	if there {
		m.arriveLocked()
	}
	return there
}

// arriveLocked notes that m has the card it shall have: from now on those before are out of the question.
func (m *member) arriveLocked() {
	if m.asked.IsZero() {
		return
	}
	if m.want != nil {
		m.s.meter.moves.add(time.Since(m.asked))
	}
	m.asked = time.Time{}
	m.old = nil
}

// assign notes that the server is asked for another card.
func (m *member) assign(p *place) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.want != nil {
		m.old = append(m.old, m.want)
	}
	m.want, m.asked = p, time.Now()
}

// allowed returns the cards that m may use at this moment.
func (m *member) allowed() []*place {
	m.mu.Lock()
	defer m.mu.Unlock()
	var all []*place
	if m.want != nil {
		all = append(all, m.want)
	}
	return append(all, m.old...)
}

// commandTimeout is longer than bankds wait for a card.
const commandTimeout = time.Minute

// exchange sends a command, and judges the answer. Without a card it does nothing, and returns client.ErrNoCard.
func (m *member) exchange(ctx context.Context, r *rand.Rand) error {
	before := m.allowed()
	if len(before) == 0 || !m.core.Ready() {
		return client.ErrNoCard
	}
	command := before[0].command(r)
	ctx, cancel := context.WithTimeout(ctx, commandTimeout)
	defer cancel()
	begin := time.Now()
	answer, err := m.core.Transmit(ctx, command)
	took := time.Since(begin)
	if err != nil {
		return err
	}
	m.s.meter.tpdus.add(took)
	if !matches(command, answer, before, m.allowed()) {
		err := fmt.Errorf("%v: the answer to % x is % x; its card is at %v", m.id, command, answer, places(before))
		m.s.judge.wrong(err)
	}
	return nil
}

// prove fails when m doesn't have the card it shall have, and no other; r is of one goroutine.
func (m *member) prove(ctx context.Context, r *rand.Rand) error {
	if !m.settled() {
		return fmt.Errorf("%v: %v with the card at %v", m.id, m.core.Info().State, m.core.Info().Bank)
	}
	if !m.busy.CompareAndSwap(false, true) {
		return nil // it has a command, which is judged by itself
	}
	defer m.busy.Store(false)
	switch err := m.exchange(ctx, r); {
	case errors.Is(err, client.ErrNoCard) && len(m.allowed()) == 0:
		return nil
	case err != nil:
		return fmt.Errorf("%v: %w", m.id, err)
	}
	return nil
}
