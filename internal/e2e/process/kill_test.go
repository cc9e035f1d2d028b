// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"net/http"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/slot"
)

const (
	kills   = 200
	writers = 4 // each of a bank of its own
	places  = 64
)

// TestServerKilledWriting kills the server 200 times, at any moment, while several back-ends change maps one by one and in
// bulks, and a bankd comes back each time. After each start all changes that were answered are there, a bulk that wasn't is there as a
// whole or not at all, and the restart counter has grown.
func TestServerKilledWriting(t *testing.T) {
	s := newKillSite(t)
	s.startBank(1, make([]string, places), "-n", fmt.Sprint(places))
	r := rand.New(rand.NewPCG(uint64(time.Now().UnixNano()), 0))
	var all []*backend
	for i := range writers {
		b := &backend{t: t, id: uint16(i + 1), r: rand.New(rand.NewPCG(r.Uint64(), 0)), maps: map[slot.Bank]slot.Client{}}
		b.api = rig.API{Base: s.api.Base, HTTP: &http.Client{Transport: &http.Transport{}, Timeout: soon}}
		all = append(all, b)
	}
	var down series
	begins := 0
	for kill := range kills {
		begin := time.Now()
		s.run()
		begins++
		if kill%10 == 9 { // before it is up, perhaps
			time.Sleep(time.Duration(r.IntN(60)) * time.Millisecond)
			s.kill()
			s.run()
			begins++
		}
		s.ready()
		down = append(down, time.Since(begin))
		s.judge(all, begins)
		if t.Failed() {
			return
		}
		var writing sync.WaitGroup
		for _, b := range all {
			writing.Go(b.write)
		}
		time.Sleep(time.Duration(r.IntN(150)) * time.Millisecond)
		s.kill()
		writing.Wait()
	}
	s.run()
	s.ready()
	s.judge(all, begins+1)
	// After so many losses the bankd comes back at intervals of up to 19 s, if all this has taken minutes.
	err := rig.Eventually(3*soon, "the bankd has its maps", func() error {
		states, err := s.api.SlotMaps()
		for m, state := range states {
			if m.Bank.ID == 1 && state != "ACTIVE" {
				err = fmt.Errorf("map %v is %s", m, state)
			}
		}
		slots, slotsErr := s.api.Slots(1)
		for _, v := range slots {
			m := slot.Map{Bank: slot.Bank{ID: 1, Slot: v.SlotNr}}
			if v.Client != nil {
				m.Client = slot.Client{ID: v.Client.ClientID, Slot: v.Client.SlotNr}
			}
			if all[0].maps[m.Bank] != m.Client {
				err = fmt.Errorf("slot %v has a map of %v, not of %v", m.Bank, m.Client, all[0].maps[m.Bank])
			}
		}
		return errors.Join(err, slotsErr)
	})
	if err != nil {
		t.Fatal(err)
	}

	var answered, done, undone int
	for _, b := range all {
		answered, done, undone = answered+b.answered, done+b.done, undone+b.undone
	}
	t.Logf("%d changes were answered; of those that weren't %d were done, %d not; ready after %v (median)", answered, done, undone, down.median())
	if answered < kills/4 || done < kills/40 || undone < kills/40 {
		t.Errorf("%d answers, and in the middle of %d and %d changes a kill: the test tests next to nothing", answered, done, undone)
	}
}

// A killSite is a site whose server keeps its state in a file.
type killSite struct {
	*site
	counter int // the restart counter last seen
}

func newKillSite(t *testing.T) *killSite {
	s := &killSite{site: newSiteWithout(t)}
	t.Cleanup(func() {
		s.kill()
		if t.Failed() {
			t.Logf("--- the last server\n%s", tail(s.server.Log(), 6000))
		}
	})
	return s
}

// run starts the server.
func (s *killSite) run() {
	s.t.Helper()
	var err error
	if s.server, err = rig.Start("server", filepath.Join(bin, "remsim-server"), "--store", "file:"+filepath.Join(s.dir, "state")); err != nil {
		s.t.Fatal(err)
	}
}

// kill kills the server.
func (s *killSite) kill() {
	s.server.Kill()
	if strings.Contains(s.server.Log(), "DATA RACE") {
		s.t.Errorf("the server has a data race:\n%s", s.server.Log())
	}
}

// ready waits until the server answers.
func (s *killSite) ready() {
	s.t.Helper()
	s.await(s.server, "listening for RSPRO")
	s.eventually("REST answers", func() error { _, err := s.api.Starts(); return err })
}

// judge compares what the server has with what the back-ends were answered.
func (s *killSite) judge(all []*backend, begins int) {
	s.t.Helper()
	n, err := s.api.Starts()
	switch {
	case err != nil:
		s.t.Fatal(err)
	case n <= s.counter || n > begins:
		s.t.Errorf("the restart counter is %d, after %d, in the start number %d", n, s.counter, begins)
	}
	s.counter = n
	states, err := s.api.SlotMaps()
	if err != nil {
		s.t.Fatal(err)
	}
	has := map[uint16]map[slot.Bank]slot.Client{}
	for m := range states {
		if has[m.Bank.ID] == nil {
			has[m.Bank.ID] = map[slot.Bank]slot.Client{}
		}
		has[m.Bank.ID][m.Bank] = m.Client
	}
	for _, b := range all {
		b.judge(has[b.id])
	}
}

// A backend changes the maps of a bank and keeps a list of its own.
type backend struct {
	t    *testing.T
	api  rig.API
	id   uint16
	r    *rand.Rand
	maps map[slot.Bank]slot.Client // as answered
	open []rig.Op                  // that wasn't answered; nil: all was

	answered, done, undone int
}

// write changes maps until the server is gone.
func (b *backend) write() {
	for {
		ask, ops := b.change()
		err := ask()
		if _, gone := errors.AsType[*url.Error](err); gone {
			b.open = ops
			return
		}
		if err != nil {
			b.t.Errorf("bank %d: %v: %v", b.id, ops, err)
			return
		}
		b.answered++
		b.maps = after(b.maps, ops)
	}
}

// change returns some change, by version 1 or 2, of one map or many.
func (b *backend) change() (ask func() error, ops []rig.Op) {
	some := func() rig.Op {
		return rig.Op{Op: "put", Map: slot.Map{
			Bank:   slot.Bank{ID: b.id, Slot: uint16(b.r.IntN(places))},
			Client: slot.Client{ID: b.id, Slot: uint16(b.r.IntN(places))},
		}}
	}
	op := some()
	_, taken := b.maps[op.Bank]
	for _, c := range b.maps {
		taken = taken || c == op.Client
	}
	switch kind := b.r.IntN(3); {
	case kind == 0:
		at := b.maps
		for range 2 + b.r.IntN(40) {
			op := some()
			if _, ok := at[op.Bank]; ok && b.r.IntN(3) == 0 {
				op.Op = "delete"
			}
			ops = append(ops, op)
			at = after(at, ops[len(ops)-1:])
		}
		return func() error { return b.api.Bulk(ops) }, ops
	case kind == 1 && !taken:
		return func() error { return b.api.Create(op.Map) }, []rig.Op{op}
	case kind == 1 && b.maps[op.Bank] != slot.Client{}:
		op.Op = "delete"
		return func() error { return b.api.Delete(op.Bank) }, []rig.Op{op}
	}
	return func() error { return b.api.Put(op.Map) }, []rig.Op{op}
}

// after returns what maps are when operations were done.
func after(before map[slot.Bank]slot.Client, ops []rig.Op) map[slot.Bank]slot.Client {
	all := maps.Clone(before)
	for _, op := range ops {
		if op.Op == "delete" {
			delete(all, op.Bank)
			continue
		}
		maps.DeleteFunc(all, func(_ slot.Bank, c slot.Client) bool { return c == op.Client })
		all[op.Bank] = op.Client
	}
	return all
}

// judge compares the maps there are with those there should be, and takes note of what became of the change that wasn't answered.
func (b *backend) judge(has map[slot.Bank]slot.Client) {
	b.t.Helper()
	undone, done := maps.Equal(has, b.maps), maps.Equal(has, after(b.maps, b.open))
	switch {
	case !undone && !done:
		b.t.Errorf("bank %d has the maps %v; answered were %v, and not answered %v", b.id, has, b.maps, b.open)
	case undone && !done:
		b.undone++
	case done && !undone:
		b.done++
		b.maps = after(b.maps, b.open)
	}
	b.open = nil
}

// TestChainKilled kills server, bankd and clients in turn, in traffic, and starts them again: the chain works again soon, and
// the session doesn't notice that the server was away.
func TestChainKilled(t *testing.T) {
	const slack = 3 // times what is aimed at
	s := newKillSite(t)
	s.run()
	s.ready()
	s.create(0, 1)
	s.create(1, 2)
	s.startBankd(readerSpecs(3))
	one, two := s.client(1), s.client(2)
	s.operational(one, two)
	witness := two.traffic(twinOf(1), 0)
	took := map[string]series{}
	again := func(who string, f func()) {
		begin := time.Now()
		f()
		d := time.Since(begin)
		took[who] = append(took[who], d)
		if d > slack*5*time.Second {
			t.Errorf("%s was killed: the chain works again after %v", who, d)
		}
	}
	for range 3 {
		first := one.traffic(twinOf(0), 0)
		first.more(t, 20)
		s.kill()
		again("server", func() {
			s.run()
			s.ready()
			s.create(2, 3)
			s.active(2, 3)
			s.active(0, 1)
			s.connected("B1", "C1:0", "C2:0")
		})
		s.remove(2)
		first.more(t, 20)
		first.end(t)
		witness.more(t, 20)

		one.Kill()
		again("client", func() {
			one = s.client(1)
			s.operational(one)
		})
		witness.more(t, 20)
		witness.end(t)

		lost := one.untilLost(t, twinOf(0))
		s.bankd.Kill()
		again("bankd", func() {
			s.startBankd(readerSpecs(3))
			lost()
			s.operational(one, two)
			s.active(0, 1)
			s.active(1, 2)
		})
		witness = two.traffic(twinOf(1), 0)
		witness.more(t, 20)
	}
	witness.end(t)
	for who, d := range took {
		t.Logf("%s killed: the chain works again after %v", who, d)
	}
}

// A series is durations of one thing.
type series []time.Duration

func (s series) median() time.Duration { return slices.Sorted(slices.Values(s))[len(s)/2] }
