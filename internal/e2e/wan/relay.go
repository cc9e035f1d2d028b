// SPDX-License-Identifier: GPL-2.0-or-later

package wan

import (
	"math/rand/v2"
	"os"
	"sync"
	"time"
)

// Sizes of what comes from a packet socket.
const (
	todo     = 10      // struct virtio_net_hdr
	maxRead  = 1 << 17 // what is to be cut into segments may have 64 KiB
	maxQueue = 1024    // packets on a line; more are lost
)

// A line is the way from one host to another.
type line struct {
	to    *os.File
	queue chan packet

	mu   sync.Mutex
	q    Quality
	rand *rand.Rand
}

// A packet is on its way.
type packet struct {
	bytes []byte
	due   time.Time // when it arrives
}

func newLine(seed uint64, to *os.File) *line {
	return &line{to: to, queue: make(chan packet, maxQueue), rand: rand.New(rand.NewPCG(seed, 0))}
}

func (l *line) set(q Quality) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.q = q
}

// send puts a packet on its way, or loses it.
func (l *line) send(b []byte) {
	l.mu.Lock()
	q, lost := l.q, l.q.Cut || l.q.Loss > 0 && l.rand.Float64() < l.q.Loss
	l.mu.Unlock()
	if lost {
		return
	}
	select {
	case l.queue <- packet{append([]byte(nil), b...), time.Now().Add(q.Delay)}:
	default:
	}
}

// cut reports whether nothing arrives any more.
func (l *line) cut() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.q.Cut
}

// run has packets arrive, until done is closed.
func (l *line) run(done <-chan struct{}) {
	for {
		select {
		case p := <-l.queue:
			if wait := time.Until(p.due); wait > 0 {
				select {
				case <-time.After(wait):
				case <-done:
					return
				}
			}
			if !l.cut() {
				_, _ = l.to.Write(p.bytes) // a packet for which there is no room is lost, as anywhere
			}
		case <-done:
			return
		}
	}
}

// relay takes the packets from a host until its wire is closed.
func (n *Net) relay(from *Host, to []*line) {
	b := make([]byte, maxRead)
	for {
		c, err := from.wire.Read(b)
		if err != nil {
			select {
			case <-n.done:
				return
			default:
				continue // the device was down for a moment
			}
		}
		// To a host by the last byte of its hardware address; they have nothing to say to all.
		if c > todo+14 && b[todo]&1 == 0 && int(b[todo+5]) < len(to) {
			to[b[todo+5]].send(b[:c])
		}
	}
}
