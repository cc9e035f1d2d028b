// SPDX-License-Identifier: GPL-2.0-or-later

// Package swarm is as many bankds and clients as asked, in one process, on a server that is given: real ones
// but for their cards and modems, which are made for judging. Back-ends of its own move clients from card to card, modems
// send commands, faults come by seed; and each answer has to be that of its card to its command.
package swarm

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/slot"
)

// Config says what a swarm is and does.
type Config struct {
	Server string     // where the server takes RSPRO, HOST:PORT
	REST   string     // where its REST API is, http://HOST:PORT
	Listen netip.Addr // where the swarm's bankds listen; clients are told that address
	Bank   uint16     // id of the first bank; those of others follow
	Banks  int        // banks of the swarm, 0..1024
	Slots  int        // of each, 1..1023
	Guests []Guest    // banks of other programs, whose cards are used, too
	// Clients is how many there are, from number Client up; number N is the client slot N%1024:N/1024, up to 1048575.
	Clients, Client int

	// Idle has the swarm connect its peers and do no more: maps are others' business, and nothing is judged.
	Idle bool

	Churn  float64 // maps that are moved, per second; 0: all stay
	TPDUs  float64 // commands of all clients, per second; 0: none
	Faults float64 // per second; see fault
	Seed   uint64  // of what is chosen; when things happen is up to the machine

	Duration  time.Duration // from the time when all cards are in use; 0: until the context ends
	Start     time.Duration // within which all peers have to be connected, and then all cards to be in use
	Settle    time.Duration // within which all have to agree at the end
	Interval  time.Duration // between two reports
	KeepAlive link.KeepAlive

	Log   *logrus.Logger // of the swarm
	Peers *logrus.Logger // of its bankds and clients
	Out   io.Writer      // of reports, one a line (see Report)
}

// A Guest is a bank of another program that the swarm uses: slot N of bank B has the card in software of
// simulator.Profile(1024·B + N).
type Guest struct {
	Bank  uint16
	Slots int
}

// A swarm is a Config at work.
type swarm struct {
	Config
	api     api
	rand    *rand.Rand // of setting up
	places  []place
	members []*member
	banks   []*bank
	judge   judge
	meter   meter
	begin   time.Time
}

// Run is a swarm: it connects all peers, gives each client a card while there are any, does what it is told until
// ctx ends or c.Duration is over, waits until all agree, and takes its maps away. It fails when it can't begin, when an answer was
// wrong, or when not all agree in the end.
func Run(ctx context.Context, c Config) error {
	if err := needDescriptors(2*c.Clients + c.Banks*(c.Slots+3) + 64); err != nil {
		return err
	}
	dir, err := os.MkdirTemp("", "remsim-swarm-")
	if err != nil {
		return fmt.Errorf("swarm: %w", err)
	}
	defer os.RemoveAll(dir)
	s := &swarm{Config: c, rand: rand.New(rand.NewPCG(c.Seed, 0)), begin: time.Now()}
	s.api = newAPI(c.REST)
	defer s.api.http.CloseIdleConnections()
	if err := s.makePlaces(); err != nil {
		return err
	}

	life, end := context.WithCancel(context.WithoutCancel(ctx))
	defer end()
	var peers sync.WaitGroup
	defer peers.Wait()
	defer end()
	var reports sync.WaitGroup
	reporting, endReports := context.WithCancel(life)
	defer reports.Wait()
	defer endReports()
	reports.Go(func() { s.report(reporting) })

	for i := range c.Banks {
		b := newBank(s, c.Bank+uint16(i), dir)
		if err := b.listen(life); err != nil {
			return fmt.Errorf("swarm: %w", err)
		}
		s.banks = append(s.banks, b)
	}
	for _, b := range s.banks {
		peers.Go(func() { b.run(life) })
	}
	for i := range c.Clients {
		s.members = append(s.members, newMember(s, c.Client+i))
	}
	s.meter.set(Connecting)
	if err := s.start(ctx, life, &peers); err != nil {
		return err
	}
	if c.Idle {
		s.meter.set(Working)
		<-ctx.Done()
		return nil
	}
	err = s.work(ctx, life)
	endReports()
	reports.Wait()
	s.meter.total(s, err)
	return err
}

// start connects all clients and gives them their cards.
func (s *swarm) start(ctx, life context.Context, peers *sync.WaitGroup) error {
	// Not all at the same moment: a listener's queue of connections that wait has some thousands of places.
	const (
		crowd = 50
		pause = 10 * time.Millisecond
	)
	for i, m := range s.members {
		if i%crowd == crowd-1 {
			time.Sleep(pause)
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		peers.Go(func() { m.core.Run(life) })
	}
	if err := s.await(ctx, s.Start, "all peers are connected", s.connected); err != nil {
		return err
	}
	s.meter.passed(Connecting)
	if s.Idle {
		return nil
	}
	begin := time.Now()
	if err := s.firstMaps(ctx); err != nil {
		return err
	}
	if err := s.await(ctx, s.Start-time.Since(begin), "all maps are ACTIVE", func() error { return s.mapsAgree(ctx) }); err != nil {
		return err
	}
	s.meter.passed(Mapping)
	return s.await(ctx, s.Start-time.Since(begin), "all clients have their cards", s.arrived)
}

// work is what there is to do when all cards are in use; ctx ends it.
func (s *swarm) work(ctx, life context.Context) error {
	s.meter.set(Working)
	if s.Duration > 0 {
		var cancel context.CancelFunc
		ctx, cancel = context.WithTimeout(ctx, s.Duration)
		defer cancel()
	}
	traffic, endTraffic := context.WithCancel(life)
	defer endTraffic()
	var working, talking sync.WaitGroup
	s.churn(ctx, life, &working)
	working.Go(func() { s.faults(ctx) })
	s.traffic(traffic, &talking)
	<-ctx.Done() // also when nothing moves, and there are no faults
	working.Wait()

	s.meter.set(Settling)
	s.heal()
	err := s.await(life, s.Settle, "all agree", func() error { return s.agree(life) })
	endTraffic()
	talking.Wait()
	if wrong := s.judge.err(); wrong != nil {
		err = errors.Join(wrong, err)
	}
	return errors.Join(err, s.removeMaps(life))
}

// await asks until there is no error, for a limited time.
func (s *swarm) await(ctx context.Context, limit time.Duration, what string, ask func() error) error {
	const pause = 100 * time.Millisecond
	for end := time.Now().Add(limit); ; {
		err := ask()
		switch {
		case err == nil:
			return nil
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case time.Now().After(end):
			return fmt.Errorf("swarm: not true after %v: %s: %w", limit, what, err)
		}
		select {
		case <-ctx.Done():
		case <-time.After(pause):
		}
	}
}

// connected fails when the server hasn't accepted all peers.
func (s *swarm) connected() error {
	n := s.standing()
	if n.Banks < len(s.banks) || n.Clients < len(s.members) {
		return fmt.Errorf("%d of %d banks and %d of %d clients", n.Banks, len(s.banks), n.Clients, len(s.members))
	}
	return nil
}

// arrived fails when a client doesn't have its card, or has one without a map.
func (s *swarm) arrived() error {
	late := 0
	var first *member
	for _, m := range s.members {
		if !m.settled() {
			if late++; first == nil {
				first = m
			}
		}
	}
	if late > 0 {
		return fmt.Errorf("%d clients, such as %v: %v", late, first.id, first.core.Info())
	}
	return nil
}

// standing counts who is connected and who has a card.
func (s *swarm) standing() (n Standing) {
	for _, b := range s.banks {
		if b.up() {
			n.Banks++
		}
	}
	for _, m := range s.members {
		i := m.core.Info()
		if i.ServerState == link.Connected {
			n.Clients++
		}
		if m.core.Ready() {
			n.Cards++
		}
	}
	return n
}

// clientSlot returns who client number i is.
func clientSlot(i int) slot.Client {
	return slot.Client{ID: uint16(i % (slot.Max + 1)), Slot: uint16(i / (slot.Max + 1))}
}
