// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"fmt"

	"remsim/internal/count"
	"remsim/internal/daemon"
)

// counts are kept as things happen, so that to read them takes no longer with 100,000 maps than with none.
type counts struct {
	maps            [MapDeleting + 1]int // by MapState
	bankds, clients gauge
	faults          uint64
	unstored        uint64
}

// A gauge counts who is connected.
type gauge struct {
	now int
	all uint64 // since the start
}

func (g *gauge) enter() {
	g.now++
	g.all++
}

// setState is where the state of a map changes.
func (s *State) setState(m *mapping, to MapState) {
	s.counts.maps[m.state]--
	s.counts.maps[to]++
	m.state = to
}

// Stats is what State has counted, since the server's start where it isn't what there is.
type Stats struct {
	Bankds, Clients                   int    // connected ones
	Unidentified                      int    // connections that haven't been accepted; Running.Stats has it
	BankdsConnected, ClientsConnected uint64 // how often one was accepted
	Maps                              map[MapState]int
	Faults                            uint64     // that peers have told
	Events                            uint64     // of the feed
	Stored                            count.View // transactions, with how long the store took until they were safe
	NotStored                         uint64     // of those, that failed
}

// Stats returns what s has counted. It takes no longer when there are more maps or peers.
func (s *State) Stats() Stats {
	v := Stats{Maps: make(map[MapState]int), Events: s.feed.Last().ID, Stored: s.stored.View()}
	s.mu.Lock()
	defer s.mu.Unlock()
	c := &s.counts
	v.Bankds, v.BankdsConnected = c.bankds.now, c.bankds.all
	v.Clients, v.ClientsConnected = c.clients.now, c.clients.all
	v.Faults, v.NotStored = c.faults, c.unstored
	for state, n := range c.maps {
		v.Maps[MapState(state)] = n
	}
	return v
}

// String says how the server stands, for people.
func (v Stats) String() string {
	maps := 0
	for _, n := range v.Maps {
		maps += n
	}
	return fmt.Sprintf("%d bankds, %d clients; %d maps, %d of them active", v.Bankds, v.Clients, maps, v.Maps[MapActive])
}

// A Running is a server as those see it who watch it.
type Running struct {
	ss    *sessions
	loops []daemon.Loop // of its listeners
}

// Stats returns what the server has counted. It takes no longer when there are more maps or peers.
func (r Running) Stats() Stats {
	v := r.ss.state.Stats()
	v.Unidentified = r.ss.strangers.len()
	return v
}

// Health returns how the server stands. It is ready as soon as it listens. Each session compares on its own, with
// the mutex that all of them need, which therefore is a loop.
func (r Running) Health() daemon.Health {
	s := r.ss.state
	return daemon.Health{
		Loops: append([]daemon.Loop{
			daemon.Mutex("reconciliation of peers", &s.mu),
			daemon.Patient("store", s.askStore),
		}, r.loops...),
		Ready:  func() error { return nil },
		Status: func() string { return s.Stats().String() },
	}
}

// askStore waits until it was its turn to commit, and until settle is at leisure or has ended. On a slow disk that is as long as
// several transactions take.
func (s *State) askStore() {
	s.leading <- struct{}{}
	<-s.leading
	select {
	case s.asked <- struct{}{}:
	case <-s.done:
	}
}
