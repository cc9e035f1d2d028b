// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"encoding/json"
	"math/bits"
	"runtime"
	"runtime/metrics"
	"sync"
	"sync/atomic"
	"time"
)

// A Phase is what a swarm is doing.
type Phase string

// Phases, in their order.
const (
	Connecting Phase = "connecting" // peers come
	Mapping    Phase = "mapping"    // they get their first cards
	Working    Phase = "working"
	Settling   Phase = "settling" // faults and moves have ended
	Done       Phase = "done"
)

// Standing is who is there at a moment.
type Standing struct {
	Banks   int `json:"banks"`   // that the server has accepted
	Clients int `json:"clients"` // that the server has accepted
	Cards   int `json:"cards"`   // clients that have one
}

// A Latency is how long things took.
type Latency struct {
	N      int     `json:"n"`
	Median float64 `json:"median_us"` // microseconds, to 6 %
	P99    float64 `json:"p99_us"`
	Max    float64 `json:"max_us"`
}

// A Report is one line of a swarm's output, in JSON. Counts are of the time since the report before, but those of the
// last one, whose phase is done, which are of all the work.
type Report struct {
	Time  float64 `json:"time_s"` // since the start
	Phase Phase   `json:"phase"`
	Standing
	Seconds float64 `json:"seconds"` // that the counts are of

	TPDUs  Latency `json:"tpdus"`   // commands with an answer
	Moves  Latency `json:"moves"`   // from asking the server for a map until the client has the card
	REST   Latency `json:"rest"`    // requests for maps that were answered
	NoCard uint64  `json:"no_card"` // commands that weren't sent: there was no card at that moment
	Gone   uint64  `json:"gone"`    // commands whose card went before the answer
	Failed uint64  `json:"failed"`  // commands without an answer, for other reasons
	Late   uint64  `json:"late"`    // commands that weren't sent, since too many waited for their answers

	RESTErrors uint64 `json:"rest_errors"` // requests without an answer, or with one that blames the server; they are made again
	PassedOver uint64 `json:"passed_over"` // moves that weren't made, since the client hadn't its card yet
	Dialled    uint64 `json:"dialled"`     // connections that were made
	Refused    uint64 `json:"refused"`     // connections that couldn't be made
	Cuts       uint64 `json:"cuts"`        // connections that were cut, as a fault
	Hangs      uint64 `json:"hangs"`       // that were made to hang
	Kills      uint64 `json:"kills"`       // banks that were killed

	Wrong      int    `json:"wrong"`      // answers, since the start
	Goroutines int    `json:"goroutines"` // of the swarm's process
	Heap       uint64 `json:"heap_bytes"` // that is in use after the last garbage collection, and what came since

	Took  map[Phase]float64 `json:"took_s,omitempty"`
	Error string            `json:"error,omitempty"`
}

// A tally is a count of things.
type tally struct{ now, all atomic.Uint64 }

func (t *tally) Add(n uint64) { t.now.Add(n) }

// take returns what was counted since it was taken before.
func (t *tally) take() uint64 {
	n := t.now.Swap(0)
	t.all.Add(n)
	return n
}

// A meter counts.
type meter struct {
	tpdus, moves, rest         histogram
	noCard, gone, failed, late tally
	restErrors, passedOver     tally
	dialled, refused           tally
	cuts, hangs, kills         tally

	mu    sync.Mutex
	phase Phase
	since time.Time // of the phase
	taken time.Time // the last report
	work  time.Time // begin of it
	took  map[Phase]float64
}

// set begins a phase.
func (m *meter) set(p Phase) {
	m.mu.Lock()
	m.phase, m.since = p, time.Now()
	if p == Working {
		m.work = time.Now()
	}
	m.mu.Unlock()
}

// passed notes how long a phase took; the next one begins.
func (m *meter) passed(p Phase) {
	m.mu.Lock()
	if m.took == nil {
		m.took = map[Phase]float64{}
	}
	m.took[p] = time.Since(m.since).Seconds()
	m.mu.Unlock()
	if p == Connecting {
		m.set(Mapping)
	}
}

// report writes a line from time to time, until ctx ends.
func (s *swarm) report(ctx context.Context) {
	t := time.NewTicker(s.Interval)
	defer t.Stop()
	s.meter.taken = time.Now()
	for {
		select {
		case <-ctx.Done():
			return
		case <-t.C:
			s.meter.write(s)
		}
	}
}

// write writes a line.
func (m *meter) write(s *swarm) {
	m.mu.Lock()
	defer m.mu.Unlock()
	now := time.Now()
	r := m.line(s, m.phase, now.Sub(m.taken), m.tpdus.take(), m.moves.take(), m.rest.take(), func(t *tally) uint64 { return t.take() })
	m.taken = now
	m.print(s, r)
}

// total writes the last line; reports have ended.
func (m *meter) total(s *swarm, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.tpdus.take()
	m.moves.take()
	m.rest.take()
	r := m.line(s, Done, time.Since(m.work), m.tpdus.all, m.moves.all, m.rest.all, func(t *tally) uint64 { t.take(); return t.all.Load() })
	r.Took = m.took
	if err != nil {
		r.Error = err.Error()
	}
	m.print(s, r)
}

func (m *meter) line(s *swarm, p Phase, over time.Duration, tpdus, moves, rest counts, of func(*tally) uint64) Report {
	return Report{
		Time: time.Since(s.begin).Seconds(), Phase: p, Standing: s.standing(), Seconds: over.Seconds(),
		TPDUs: tpdus.latency(), Moves: moves.latency(), REST: rest.latency(),
		NoCard: of(&m.noCard), Gone: of(&m.gone), Failed: of(&m.failed), Late: of(&m.late),
		RESTErrors: of(&m.restErrors), PassedOver: of(&m.passedOver), Dialled: of(&m.dialled), Refused: of(&m.refused),
		Cuts: of(&m.cuts), Hangs: of(&m.hangs), Kills: of(&m.kills), Wrong: s.judge.found(),
		Goroutines: runtime.NumGoroutine(), Heap: heap(),
	}
}

// heap returns what objects take.
func heap() uint64 {
	s := []metrics.Sample{{Name: "/memory/classes/heap/objects:bytes"}}
	metrics.Read(s)
	return s[0].Value.Uint64()
}

func (m *meter) print(s *swarm, r Report) {
	b, err := json.Marshal(r)
	if err == nil {
		_, err = s.Out.Write(append(b, '\n'))
	}
	if err != nil {
		s.Log.WithError(err).Error("no report")
	}
}

// A histogram counts durations by their leading binary digits: 16 buckets for each doubling.
type histogram struct {
	mu  sync.Mutex
	now counts
	all counts
}

const perDoubling = 16

type counts struct {
	buckets [40 * perDoubling]uint32 // of nanoseconds, up to 500 s
	n       int
	max     time.Duration
}

func (h *histogram) add(d time.Duration) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.now.buckets[bucket(d)]++
	h.now.n++
	h.now.max = max(h.now.max, d)
}

// take returns what was counted since it was taken before.
func (h *histogram) take() counts {
	h.mu.Lock()
	defer h.mu.Unlock()
	c := h.now
	for i, n := range c.buckets {
		h.all.buckets[i] += n
	}
	h.all.n += c.n
	h.all.max = max(h.all.max, c.max)
	h.now = counts{}
	return c
}

// bucket returns where d is counted.
func bucket(d time.Duration) int {
	n := uint64(max(d, perDoubling))
	shift := bits.Len64(n) - 5 // five digits remain, the first of which is 1
	return min(shift*perDoubling+int(n>>shift)-perDoubling, len(counts{}.buckets)-1)
}

// lower returns the shortest duration of a bucket.
func lower(i int) time.Duration {
	return time.Duration(perDoubling+i%perDoubling) << (i / perDoubling)
}

// quantile returns the duration that the share q, 0..1, of all isn't over, to 6 %.
func (c *counts) quantile(q float64) time.Duration {
	rest := int(q * float64(c.n))
	for i, n := range c.buckets {
		if rest -= int(n); rest < 0 {
			return lower(i)
		}
	}
	return c.max
}

func (c *counts) latency() Latency {
	us := func(d time.Duration) float64 { return float64(d.Nanoseconds()/100) / 10 }
	if c.n == 0 {
		return Latency{}
	}
	return Latency{N: c.n, Median: us(c.quantile(0.5)), P99: us(c.quantile(0.99)), Max: us(c.max)}
}
