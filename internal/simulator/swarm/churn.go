// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"remsim/internal/client"
	"remsim/internal/slot"
)

// backends is how many change maps at a time; each has clients and places of its own.
const backends = 4

// firstMaps takes away what an earlier swarm has left, and gives each client a card while there are any, both in some order.
func (s *swarm) firstMaps(ctx context.Context) error {
	if err := s.removeMaps(ctx); err != nil {
		return err
	}
	var ops []operation
	who, where := s.rand.Perm(len(s.members)), s.rand.Perm(len(s.places))
	for i := range min(len(who), len(where)) {
		m, p := s.members[who[i]], &s.places[where[i]]
		m.assign(p)
		ops = append(ops, operation{Op: "create", Map: slot.Map{Bank: p.bank, Client: m.id}})
	}
	return s.api.bulk(ctx, ops)
}

// removeMaps takes away all maps of the swarm's clients and places.
func (s *swarm) removeMaps(ctx context.Context) error {
	has, err := s.api.maps(ctx)
	if err != nil {
		return err
	}
	var ops []operation
	for m := range has {
		if s.ours(m) {
			ops = append(ops, operation{Op: "delete", Map: m})
		}
	}
	return s.api.bulk(ctx, ops)
}

// ours reports whether a map concerns the swarm.
func (s *swarm) ours(m slot.Map) bool {
	if i := int(m.Client.Slot)*(slot.Max+1) + int(m.Client.ID) - s.Client; i >= 0 && i < s.Clients {
		return true
	}
	if i := int(m.Bank.ID) - int(s.Bank); i >= 0 && i < s.Banks {
		return int(m.Bank.Slot) < s.Slots
	}
	for _, g := range s.Guests {
		if g.Bank == m.Bank.ID {
			return int(m.Bank.Slot) < g.Slots
		}
	}
	return false
}

// wanted returns the maps there should be.
func (s *swarm) wanted() map[slot.Bank]slot.Client {
	want := make(map[slot.Bank]slot.Client, len(s.members))
	for _, m := range s.members {
		m.mu.Lock()
		if m.want != nil {
			want[m.want.bank] = m.id
		}
		m.mu.Unlock()
	}
	return want
}

// mapsAgree fails when the server's maps aren't those that are wanted, or not all are in use.
func (s *swarm) mapsAgree(ctx context.Context) error {
	has, err := s.api.maps(ctx)
	if err != nil {
		return err
	}
	return differ(has, s.wanted(), s.ours)
}

// agree fails when not all agree: the server's maps are those that are wanted, each client has its card and no other, and the swarm's banks
// have powered the cards that are mapped.
func (s *swarm) agree(ctx context.Context) error {
	if err := errors.Join(s.connected(), s.arrived()); err != nil {
		return err
	}
	if err := s.mapsAgree(ctx); err != nil {
		return err
	}
	var all sync.WaitGroup
	errs := make([]error, talkers)
	for i := range talkers {
		all.Go(func() {
			r := rand.New(rand.NewPCG(s.Seed, uint64(time.Now().UnixNano())))
			for j := i; j < len(s.members) && errs[i] == nil; j += talkers {
				errs[i] = s.members[j].prove(ctx, r)
			}
		})
	}
	all.Wait()
	if err := errors.Join(errs...); err != nil {
		return err
	}
	powered := map[uint16]int64{}
	for b := range s.wanted() {
		powered[b.ID]++
	}
	for _, b := range s.banks {
		if n := b.cards.open.Load(); n != powered[b.id] {
			return fmt.Errorf("bank %d has powered %d cards, mapped are %d", b.id, n, powered[b.id])
		}
	}
	return nil
}

// churn moves clients until ctx ends; what is begun then goes on until it is known what has become of it, or life ends.
func (s *swarm) churn(ctx, life context.Context, all *sync.WaitGroup) {
	if s.Churn <= 0 || len(s.members) == 0 || len(s.places) == 0 {
		return
	}
	for i := range backends {
		b := &backend{s: s, r: rand.New(rand.NewPCG(s.Seed, uint64(1+i))), users: map[*place]*member{}}
		for j := i; j < len(s.places); j += backends {
			b.places = append(b.places, &s.places[j])
		}
		mine := map[*place]bool{}
		for _, p := range b.places {
			mine[p] = true
		}
		for _, m := range s.members {
			if m.want != nil && mine[m.want] {
				b.members = append(b.members, m)
				b.users[m.want] = m
			}
		}
		for j := i; j < len(s.members); j += backends {
			if m := s.members[j]; m.want == nil {
				b.members = append(b.members, m)
			}
		}
		if len(b.members) > 0 && len(b.places) > 0 {
			all.Go(func() { b.run(ctx, life) })
		}
	}
}

// A backend moves some clients among some places.
type backend struct {
	s       *swarm
	r       *rand.Rand
	members []*member
	places  []*place
	users   map[*place]*member
}

// run moves clients at its share of the rate.
func (b *backend) run(ctx, life context.Context) {
	every := time.NewTicker(time.Duration(float64(time.Second) * backends / b.s.Churn))
	defer every.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-every.C:
			b.move(life)
		}
	}
}

// move puts some client on some place; who is there gets the place that the client had, or none. Only who has the card that
// was asked for last is moved, so that it is known whose answers may still come.
func (b *backend) move(life context.Context) {
	m, to := b.members[b.r.IntN(len(b.members))], b.places[b.r.IntN(len(b.places))]
	other, from := b.users[to], m.want // which only this goroutine changes
	if m == other || !m.settled() || other != nil && !other.settled() {
		b.s.meter.passedOver.Add(1)
		return
	}
	m.assign(to)
	b.users[to] = m
	if from != nil {
		delete(b.users, from)
	}
	if other != nil {
		other.assign(from)
		if from != nil {
			b.users[from] = other
		}
	}
	b.insist(life, slot.Map{Bank: to.bank, Client: m.id})
	if other != nil && from != nil {
		b.insist(life, slot.Map{Bank: from.bank, Client: other.id})
	}
}

// insist has the server have a map, however often that takes: who doesn't get an answer doesn't know what has become of it, and asks
// again.
func (b *backend) insist(ctx context.Context, m slot.Map) {
	const pause = 100 * time.Millisecond
	for {
		begin := time.Now()
		err := b.s.api.put(ctx, m)
		if err == nil {
			b.s.meter.rest.add(time.Since(begin))
			return
		}
		if refused, ok := errors.AsType[*refusedError](err); ok && refused.status < 500 {
			b.s.judge.wrong(fmt.Errorf("map %v: %w", m, err))
			return
		}
		b.s.meter.restErrors.Add(1)
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause):
		}
	}
}

// talkers is how many clients have a command at a time.
const talkers = 32

// traffic has clients send commands until ctx ends.
func (s *swarm) traffic(ctx context.Context, all *sync.WaitGroup) {
	if s.TPDUs <= 0 || len(s.members) == 0 {
		return
	}
	// The timer of a tick is as coarse as that; what is due is sent at once.
	const tick = 5 * time.Millisecond
	due := make(chan struct{}, talkers)
	all.Go(func() {
		defer close(due)
		t := time.NewTicker(tick)
		defer t.Stop()
		begin, sent := time.Now(), 0
		for {
			select {
			case <-ctx.Done():
				return
			case <-t.C:
			}
			n := int(time.Since(begin).Seconds() * s.TPDUs)
			for ; sent < n; sent++ {
				select {
				case due <- struct{}{}:
				default:
					s.meter.late.Add(1) // all are busy
				}
			}
		}
	})
	for i := range talkers {
		r := rand.New(rand.NewPCG(s.Seed, uint64(1000+i)))
		all.Go(func() {
			for range due {
				s.talk(ctx, r)
			}
		})
	}
}

// talk has some client send a command.
func (s *swarm) talk(ctx context.Context, r *rand.Rand) {
	m := s.members[r.IntN(len(s.members))]
	if !m.busy.CompareAndSwap(false, true) {
		s.meter.late.Add(1)
		return
	}
	defer m.busy.Store(false)
	switch err := m.exchange(ctx, r); {
	case err == nil, ctx.Err() != nil:
	case errors.Is(err, client.ErrNoCard):
		s.meter.noCard.Add(1)
	case errors.Is(err, client.ErrGone), errors.Is(err, client.ErrReset):
		s.meter.gone.Add(1)
	default:
		s.meter.failed.Add(1)
	}
}
