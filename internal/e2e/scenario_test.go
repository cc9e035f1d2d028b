// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"maps"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/client"
	"remsim/internal/e2e/rig"
	"remsim/internal/server/store"
	"remsim/internal/slot"
)

var (
	scenarios = flag.Uint64("scenarios", 300, "run TestScenarios with `COUNT` seeds")
	firstSeed = flag.Uint64("seed", 0, "run TestScenarios from this `SEED` on")
)

const (
	rounds     = 5 // of a scenario: each is a sequence of faults, then peace
	oldClients = 1 // that are as the C suite's, besides
	newClients = 4
)

// TestScenarios has a server, bankds and clients, some as those of the C suite, go through sequences of losses, half-open
// lines, restarts, changes of maps and card events, by chance. After each sequence a judge says whether all agree.
// A seed that fails is run again by -seed SEED -scenarios 1: with the same sequence, though not with the same order of what
// happens at one moment; -count helps.
func TestScenarios(t *testing.T) {
	var failed atomic.Int32
	var answers atomic.Int64
	t.Cleanup(func() {
		if n := answers.Load(); n < int64(5*rounds**scenarios) && failed.Load() == 0 {
			t.Errorf("only %d commands were answered: the test tests nothing", n)
		}
	})
	for seed := *firstSeed; seed < *firstSeed+*scenarios; seed++ {
		t.Run(fmt.Sprintf("seed %d", seed), func(t *testing.T) {
			t.Parallel()
			if failed.Load() >= 3 {
				return // more of them say no more
			}
			inWorld(t, func(t *testing.T, w *world) {
				if seed%3 > 0 {
					w.server.stop()
					w.disk = store.Memory()
					w.startServer()
				}
				s := &scenario{world: w, judge: newJudge(w), r: rand.New(rand.NewPCG(seed, 0)), rivals: map[slot.Client]*program{}}
				defer func() {
					if t.Failed() {
						failed.Add(1)
						t.Logf("again: go test ./internal/e2e -run TestScenarios -scenarios 1 -count 20 -seed %d\nWhat was done:\n%s", seed, strings.Join(s.done, "\n"))
					}
				}()
				s.run(&answers)
			})
		})
	}
}

// A scenario is one run.
type scenario struct {
	*world
	*judge
	r    *rand.Rand
	done []string // what was done
	// those whom it may happen to
	victims []*victim
	theme   theme
	busy    []chan struct{} // has each client send a command
	// rivals are second clients with the id of another one.
	rivals map[slot.Client]*program
	open   []rig.Op // that the server was killed in the middle of
}

// A victim is a program that faults happen to.
type victim struct {
	name    string
	program func() *program // it changes with each start
	start   func()
	meddle  func() // with whom it serves
	dead    bool
}

// do notes and does something.
func (s *scenario) do(f func(), format string, args ...any) {
	s.done = append(s.done, time.Now().Format("04:05.000 ")+fmt.Sprintf(format, args...))
	f()
}

func (s *scenario) run(answers *atomic.Int64) {
	s.populate()
	ctx, stop := context.WithCancel(s.t.Context())
	var traffic sync.WaitGroup
	for _, u := range s.users() {
		kick := make(chan struct{}, 1)
		s.busy = append(s.busy, kick)
		traffic.Go(func() { s.chatter(ctx, u, kick, answers) })
	}
	defer traffic.Wait()
	defer stop()
	for round := range rounds {
		s.theme = themes[s.r.IntN(len(themes))]
		s.do(func() {}, "round %d: %s", round, s.theme.name)
		for range 3 + s.r.IntN(10) {
			s.pause()
			for _, kick := range s.busy {
				select {
				case kick <- struct{}{}:
				default:
				}
			}
			s.theme.steps[s.r.IntN(len(s.theme.steps))](s)
			if s.t.Failed() {
				return
			}
		}
		s.peace()
		if err := s.quiet(); err != nil {
			s.t.Error(err)
			return
		}
	}
}

// populate starts all programs.
func (s *scenario) populate() {
	add := func(name string, program func() *program, start, meddle func()) {
		start()
		s.victims = append(s.victims, &victim{name: name, program: program, start: start, meddle: meddle})
	}
	s.victims = append(s.victims, &victim{name: "server", program: func() *program { return s.server }, start: s.startServer, meddle: func() {
		for c := range s.plainClients { // they leave and come back when they are told again what they know
			s.meddle(c)
		}
	}})
	for id := uint16(1); id <= banks; id++ {
		add(fmt.Sprintf("bankd %d", id), func() *program { return s.bankds[id] }, func() { s.startBankd(id) }, func() { s.meddleBank(id) })
	}
	add("plain bankd", func() *program { return s.plainBankd.program }, func() { s.plainBankd = s.startPlainBankd() }, func() { s.meddleBank(plainID) })
	for id := uint16(1); id <= newClients; id++ {
		c := slot.Client{ID: id}
		m := s.newModem(clientAddr(c), c)
		s.clients[c] = m
		add("client "+c.String(), func() *program { return m.program }, m.start, func() { s.meddle(c) })
	}
	for id := uint16(newClients + 1); id <= newClients+oldClients; id++ {
		m := s.newPlainClient(slot.Client{ID: id})
		add("plain client "+m.slot.String(), func() *program { return m.program }, m.start, func() { s.meddle(m.slot) })
	}
}

// victim returns the program of a client.
func (s *scenario) victim(c slot.Client) *victim {
	return s.victims[slices.IndexFunc(s.victims, func(v *victim) bool { return v.name == "client "+c.String() })]
}

// losses are how commands may fail when a card, a bankd, a map or a line goes, or the modem resets the card.
var losses = []error{client.ErrNoCard, client.ErrGone, client.ErrReset}

// chatter sends commands of a client, whatever becomes of them, now and then and when it is told to.
func (s *scenario) chatter(ctx context.Context, u user, kick <-chan struct{}, answers *atomic.Int64) {
	for {
		select {
		case <-ctx.Done():
			return
		case <-kick:
		case <-time.After(20 * time.Second):
		}
		_, err := u.transmit(ctx)
		switch {
		case err == nil:
			answers.Add(1)
		case ctx.Err() != nil:
		case !slices.ContainsFunc(losses, func(loss error) bool { return errors.Is(err, loss) }):
			s.t.Errorf("a command fails: %v", err)
		}
	}
}

// pause lets some time pass: none, what a command takes, or what time-outs take.
func (s *scenario) pause() {
	spans := []time.Duration{0, 0, 30 * time.Millisecond, 30 * time.Millisecond, time.Second, 3 * time.Second, 15 * time.Second, time.Minute}
	if d := spans[s.r.IntN(len(spans))]; d > 0 {
		time.Sleep(time.Duration(s.r.Int64N(int64(d))))
	}
}

// A theme is what may happen in a round. Rounds in which little may happen show that nothing comes of it elsewhere.
type theme struct {
	name  string
	steps []func(*scenario)
}

var themes = []theme{
	{"anything", anything}, {"anything", anything}, {"anything", anything}, {"anything", anything},
	{"server", []func(*scenario){to((*scenario).fault, 0), to((*scenario).restart, 0), to((*scenario).kill, 0), (*scenario).repair}},
	{"a bankd", []func(*scenario){to((*scenario).fault, 1), to((*scenario).restart, 1), to((*scenario).kill, 1), (*scenario).repair}},
	{"a client", []func(*scenario){to((*scenario).fault, 4), to((*scenario).restart, 4), (*scenario).repair, (*scenario).reset, (*scenario).rival,
		(*scenario).vanish, (*scenario).takeover}},
	{"maps", []func(*scenario){(*scenario).put, (*scenario).bulk, (*scenario).remove, (*scenario).conflict}},
	{"maps and a bankd", []func(*scenario){(*scenario).put, (*scenario).bulk, (*scenario).remove, to((*scenario).fault, 1), (*scenario).repair}},
	{"maps and a plain bankd", []func(*scenario){(*scenario).put, (*scenario).bulk, (*scenario).remove, to((*scenario).fault, banks+1), (*scenario).repair}},
	{"cards", []func(*scenario){(*scenario).pull, (*scenario).insert, (*scenario).reset}},
	{"maps and server", []func(*scenario){(*scenario).put, (*scenario).bulk, (*scenario).remove, (*scenario).interrupt, to((*scenario).fault, 0), to((*scenario).restart, 0), (*scenario).repair}},
}

var anything = []func(*scenario){
	(*scenario).put, (*scenario).put, (*scenario).put, (*scenario).bulk, (*scenario).remove, (*scenario).interrupt, (*scenario).conflict,
	toAny((*scenario).fault), toAny((*scenario).fault), toAny((*scenario).fault), toAny((*scenario).restart), toAny((*scenario).kill),
	(*scenario).repair, (*scenario).repair, (*scenario).pull, (*scenario).insert, (*scenario).reset, (*scenario).rival,
	(*scenario).vanish, (*scenario).takeover,
}

// to is something that happens to one victim, toAny to any of them.
func to(f func(*scenario, *victim), nr int) func(*scenario) {
	return func(s *scenario) { f(s, s.victims[nr]) }
}

func toAny(f func(*scenario, *victim)) func(*scenario) {
	return func(s *scenario) { f(s, s.victims[s.r.IntN(len(s.victims))]) }
}

// fault takes a victim's lines away, in some way.
func (s *scenario) fault(v *victim) {
	if v.dead {
		return
	}
	p := v.program()
	switch s.r.IntN(5) {
	case 0:
		s.do(func() { p.setDown(true) }, "%s is off the network", v.name)
	case 1, 2:
		s.do(p.host.Cut, "%s loses its connections", v.name)
	case 3:
		s.do(func() { p.down = true; p.host.Stall() }, "%s stops reading", v.name)
	case 4:
		d, n := time.Duration(s.r.IntN(300))*time.Millisecond, s.r.IntN(20)
		s.do(func() { p.host.Delay(d); p.host.Fragment(n) }, "%s has a line of %v, in pieces of %d", v.name, d, n)
		if d < 100*time.Millisecond {
			return // that does nobody harm
		}
	}
	v.meddle()
}

// kill ends a victim until the next repair.
func (s *scenario) kill(v *victim) {
	if v.dead || v == s.victims[0] && s.disk == nil {
		return // what a server without a durable store owes is gone
	}
	v.meddle()
	s.do(v.program().kill, "%s is killed", v.name)
	v.dead = true
}

// restart kills a victim and starts it at once.
func (s *scenario) restart(v *victim) {
	switch {
	case v.dead:
	case v == s.victims[0] && s.disk == nil:
		s.replaceServer()
	default:
		s.kill(v)
		s.pause()
		s.revive(v)
	}
}

// revive starts a victim that was killed.
func (s *scenario) revive(v *victim) {
	if !v.dead {
		return
	}
	s.do(v.start, "%s is started", v.name)
	v.dead = false
	if v != s.victims[0] {
		return
	}
	s.settleWrite()
	if err := s.kept(); err != nil {
		s.t.Errorf("after a restart: %v", err)
	}
	if n, err := s.api.Starts(); err != nil || n != s.starts {
		s.t.Errorf("the restart counter is %d, %v, after %d starts", n, err, s.starts)
	}
}

// repair ends all faults but those of cards.
func (s *scenario) repair() {
	s.do(func() {
		for _, v := range s.victims {
			v.program().setDown(false)
			s.revive(v)
		}
	}, "repair")
}

// peace ends all faults.
func (s *scenario) peace() {
	for c, p := range s.rivals {
		p.kill()
		s.restart(s.victim(c)) // what the server told one of them, the other one may have missed
	}
	clear(s.rivals)
	s.repair()
	for _, v := range s.victims {
		v.program().host.Delay(0)
		v.program().host.Fragment(0)
	}
	for b := range s.bank.places() {
		s.bank.pull(b, false)
	}
	time.Sleep(2 * time.Second) // what was sent before comes as late as lines were, and is no sign of a fault later
}

// replaceServer kills a server that forgets everything, when no removal is left to do, and no client to be told of one, that nobody
// would remember then, and makes the maps again as a back-end with a list of its own does.
func (s *scenario) replaceServer() {
	s.repair()
	s.do(func() {
		s.victims[0].meddle()
		s.eventually("removals are done", func() error {
			n, err := s.api.Leaving()
			if err == nil && n > 0 {
				err = fmt.Errorf("%d maps are leaving", n)
			}
			return err
		})
		if err := within(settleWithin, s.leftTold); err != nil {
			s.t.Error(err)
		}
		clear(s.left)
		s.server.kill()
		s.startServer()
		for b, c := range s.wanted {
			s.create(slot.Map{Bank: b, Client: c})
		}
		s.eventually("bankds are back", func() error {
			peers, err := s.api.Peers()
			for id := uint16(1); id <= plainID; id++ {
				if err == nil && !peers[fmt.Sprintf("B%d", id)] {
					err = fmt.Errorf("peers: %v", peers)
				}
			}
			return err
		})
	}, "server is killed and started, and forgets")
}

// askable reports whether the server can be asked for something.
func (s *scenario) askable() bool { return !s.victims[0].dead && !s.server.down }

// anySlot returns some bank slot.
func (s *scenario) anySlot() slot.Bank {
	return slot.Bank{ID: uint16(s.r.IntN(plainID) + 1), Slot: uint16(s.r.IntN(slots))}
}

func (s *scenario) anyClient() slot.Client {
	return slot.Client{ID: uint16(s.r.IntN(newClients+oldClients) + 1)}
}

// put maps a client to a slot, in place of the maps that either has.
func (s *scenario) put() {
	m := s.anyMap()
	if !s.askable() || s.wanted[m.Bank] == m.Client {
		return
	}
	if s.r.IntN(2) == 0 {
		s.write("put", rig.Op{Op: "put", Map: m})
		return
	}
	s.do(func() {
		if b, ok := s.bankOf(m.Client); ok {
			s.delete(b)
		}
		if _, ok := s.wanted[m.Bank]; ok {
			s.delete(m.Bank)
		}
		if s.r.IntN(3) == 0 {
			s.pause()
		}
		s.world.create(m)
		s.created(m)
	}, "map %v", m)
}

// anyMap returns some client with some bank slot.
func (s *scenario) anyMap() slot.Map { return slot.Map{Bank: s.anySlot(), Client: s.anyClient()} }

// bulk changes several maps in one transaction.
func (s *scenario) bulk() {
	if s.askable() {
		s.write("bulk", s.someOps()...)
	}
}

// someOps returns operations that can be done one after the other.
func (s *scenario) someOps() (ops []rig.Op) {
	maps := maps.Clone(s.wanted)
	for range 1 + s.r.IntN(4) {
		op := rig.Op{Op: "put", Map: s.anyMap()}
		if _, ok := maps[op.Bank]; ok && s.r.IntN(3) == 0 {
			op.Op = "delete"
		}
		apply(maps, op)
		ops = append(ops, op)
	}
	return ops
}

// apply does to maps what an operation does.
func apply(all map[slot.Bank]slot.Client, op rig.Op) {
	if op.Op == "put" {
		maps.DeleteFunc(all, func(b slot.Bank, c slot.Client) bool { return c == op.Client })
		all[op.Bank] = op.Client
	} else {
		delete(all, op.Bank)
	}
}

// request sends a write to the server.
func (s *scenario) request(how string, ops []rig.Op) error {
	if how == "put" {
		return s.api.Put(ops[0].Map)
	}
	return s.api.Bulk(ops)
}

// write changes maps by version 2.
func (s *scenario) write(how string, ops ...rig.Op) {
	s.do(func() {
		if err := s.request(how, ops); err != nil {
			s.t.Error(err)
		}
		s.written(ops)
	}, "%s %v", how, ops)
}

// written says that the server has done operations.
func (s *scenario) written(ops []rig.Op) {
	before := maps.Clone(s.wanted)
	for _, op := range ops {
		apply(s.wanted, op)
	}
	for b, c := range before {
		if s.wanted[b] != c {
			s.meddle(c)
			s.left[c] = true
			delete(s.born, slot.Map{Bank: b, Client: c})
		}
	}
	for b, c := range s.wanted {
		if before[b] != c {
			s.meddle(c)
			delete(s.born, slot.Map{Bank: b, Client: c})
		}
	}
	for _, op := range ops { // a bulk may end a map and make it again
		s.meddle(op.Client)
		s.meddle(before[op.Bank])
		delete(s.born, op.Map)
	}
}

// interrupt kills the server while it is asked to change maps, so that nobody knows whether it has done so.
func (s *scenario) interrupt() {
	if !s.askable() || s.disk == nil {
		return
	}
	how, ops := "bulk", s.someOps()
	if ops[0].Op == "put" && s.r.IntN(2) == 0 {
		how, ops = "put", ops[:1]
	}
	after := time.Duration(s.r.IntN(8)) * time.Millisecond
	s.do(func() {
		answer := make(chan error, 1)
		go func() { answer <- s.request(how, ops) }()
		time.Sleep(after)
		s.kill(s.victims[0])
		if <-answer == nil {
			s.written(ops)
		} else {
			s.open = ops
		}
	}, "%s %v, and after %v", how, ops, after)
}

// settleWrite finds out what became of an unanswered write: all of it was done, or nothing.
func (s *scenario) settleWrite() {
	if s.open == nil {
		return
	}
	if states, err := s.api.SlotMaps(); err != nil {
		s.t.Error(err)
	} else if has := byBank(states); !maps.Equal(has, s.wanted) {
		s.written(s.open) // then these must be the server's maps
	}
	s.open = nil
}

func byBank(states map[slot.Map]string) map[slot.Bank]slot.Client {
	all := map[slot.Bank]slot.Client{}
	for m := range states {
		all[m.Bank] = m.Client
	}
	return all
}

func (s *scenario) delete(b slot.Bank) {
	s.world.remove(b)
	s.removed(b)
}

// remove deletes a map.
func (s *scenario) remove() {
	b := s.anySlot()
	if _, ok := s.wanted[b]; ok && s.askable() {
		s.do(func() { s.delete(b) }, "delete the map of %v", b)
	}
}

// conflict asks for maps that can't be, which changes nothing.
func (s *scenario) conflict() {
	for b, c := range s.wanted {
		if !s.askable() {
			return
		}
		s.do(func() {
			other := slot.Bank{ID: b.ID, Slot: b.Slot + slots}
			for _, m := range []slot.Map{{Bank: b, Client: slot.Client{ID: 999}}, {Bank: other, Client: c}, {Bank: b, Client: c}} {
				if err := s.api.Create(m); err == nil {
					s.t.Errorf("map %v was made beside %v=%v", m, c, b)
				}
			}
		}, "conflicts with %v=%v", c, b)
	}
}

// pull takes a card out of its reader, or out and in again.
func (s *scenario) pull() {
	b := s.anySlot()
	if b.ID == plainID || b.Slot < firstReader {
		return
	}
	s.meddle(s.wanted[b])
	s.do(func() {
		s.bank.pull(b, true)
		if s.r.IntN(2) == 0 {
			s.bank.pull(b, false)
		}
	}, "the card at %v is pulled", b)
}

// vanish takes a client off the network: within 45 s its id and its card are free.
func (s *scenario) vanish() {
	c := slot.Client{ID: uint16(s.r.IntN(newClients) + 1)}
	v := s.victim(c)
	if v.dead || s.rivals[c] != nil {
		return
	}
	s.meddle(c)
	s.do(func() { v.program().setDown(true) }, "%v vanishes", c)
	time.Sleep(45 * time.Second)
	if s.askable() {
		if peers, err := s.api.Peers(); err != nil || peers[c.String()] {
			s.t.Errorf("%v vanished 45 s ago, and the server has it still: %v, %v", c, peers, err)
		}
	}
	if b := s.bank.usedBy(c); b != nil {
		s.t.Errorf("%v vanished 45 s ago, and the card at %v is still powered", c, *b)
	}
}

// takeover has a client die without a word and come back with another address: it needn't wait until the dead connection is
// noticed.
func (s *scenario) takeover() {
	c := slot.Client{ID: uint16(s.r.IntN(newClients) + 1)}
	v, m := s.victim(c), s.clients[c]
	if v.dead || s.rivals[c] != nil || !s.askable() {
		return
	}
	s.meddle(c)
	s.do(func() {
		v.program().vanish()
		m.addr = fmt.Sprintf("10.0.%d.%d", 5+len(s.started)%200, c.ID)
		m.start()
		if err := within(15*time.Second, func() error {
			if core := m.core.Load(); core == nil || core.State() == client.Init {
				return errors.New("the server hasn't accepted it")
			}
			return nil
		}); err != nil {
			s.t.Errorf("%v is back with another address: %v", c, err)
		}
	}, "%v dies and comes back elsewhere", c)
}

// insert puts all cards back.
func (s *scenario) insert() {
	s.do(func() {
		for b := range s.bank.places() {
			s.bank.pull(b, false)
		}
	}, "all cards are put back")
}

// reset has a modem reset its card.
func (s *scenario) reset() {
	c := slot.Client{ID: uint16(s.r.IntN(newClients) + 1)}
	s.meddle(c)
	on, off := slot.Phys{VCC: slot.On, CLK: slot.On}, slot.Phys{Reset: true, VCC: slot.Off}
	s.do(func() {
		if core := s.clients[c].core.Load(); core != nil {
			core.Status(off)
			core.Status(on)
		}
	}, "%v resets its card", c)
}

// rival starts a second client with the id of another one.
func (s *scenario) rival() {
	c := slot.Client{ID: uint16(s.r.IntN(newClients) + 1)}
	if s.rivals[c] != nil {
		return
	}
	s.meddle(c)
	s.do(func() {
		s.rivals[c] = s.startClientOn(fmt.Sprintf("10.0.4.%d", c.ID), c).program
	}, "a second %v", c)
}
