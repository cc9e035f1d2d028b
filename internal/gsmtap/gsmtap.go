// SPDX-License-Identifier: GPL-2.0-or-later

// Package gsmtap shows Wireshark what passes between cards and their users: as GSMTAP packets
// over UDP, and in a pcap file. Whoever has a card's traffic never waits for that.
//
// Traces hold whatever the card was told and told itself, PINs and keys included.
package gsmtap

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync/atomic"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
)

// Port is where receivers of GSMTAP listen (IANA "gsmtap").
const Port = 4729

const (
	queueLen    = 1024                   // packets that wait to be written
	writeWithin = 250 * time.Millisecond // a write may wait for its receiver
	closeWithin = 500 * time.Millisecond // Close may wait for what is queued
	lossEvery   = 10 * time.Minute       // between log lines about lost packets
)

// Config says where traces go; the zero value: nowhere.
type Config struct {
	Receiver netip.AddrPort // of GSMTAP over UDP
	File     string         // in pcap format; one that is there is continued
}

// A Tracer writes traces. Its methods may be called by several goroutines at once; those of
// nil do nothing.
type Tracer struct {
	log     *logrus.Entry
	queue   chan packet
	dropped atomic.Uint64 // packets that found queue full
	stop    chan struct{} // closed by Close
	done    chan struct{} // closed when run is over

	// These belong to run.
	receiver netip.AddrPort
	conns    map[uint16]*net.UDPConn // by slot
	file     file                    // nil: none
	buf      [headerLen + maxPayload]byte
	unqueued loss
	unsent   loss
	unsaved  loss
}

// A packet is one thing to trace.
type packet struct {
	at   time.Time
	slot uint16
	kind kind
	n    int // bytes of data
	data [maxPayload]byte
}

// Open starts a Tracer, nil when cfg says nowhere. It fails when the file can't be written; a
// receiver may come and go.
func Open(cfg Config, log *logrus.Logger) (*Tracer, error) {
	if cfg == (Config{}) {
		return nil, nil
	}
	var f file
	if cfg.File != "" {
		var err error
		if f, err = openFile(cfg.File); err != nil {
			return nil, fmt.Errorf("pcap file: %w", err)
		}
	}
	t := newTracer(cfg.Receiver, f, log)
	if cfg.Receiver.IsValid() {
		t.log.WithField("receiver", cfg.Receiver.String()).Info("sending traces, PINs and keys included")
	}
	if f != nil {
		t.log.WithField("file", cfg.File).Info("writing traces, PINs and keys included")
	}
	return t, nil
}

func newTracer(receiver netip.AddrPort, f file, log *logrus.Logger) *Tracer {
	t := &Tracer{
		log:      log.WithField("cat", "DGSMTAP"),
		queue:    make(chan packet, queueLen),
		stop:     make(chan struct{}),
		done:     make(chan struct{}),
		receiver: receiver,
		conns:    make(map[uint16]*net.UDPConn),
		file:     f,
		unqueued: loss{why: "more traces than can be written: some are dropped"},
		unsent:   loss{why: "traces don't get to their receiver"},
		unsaved:  loss{why: "traces can't be written to the pcap file"},
	}
	go t.run()
	return t
}

// Close writes what is queued, for which it takes a second at most, and ends the Tracer. What
// comes later is lost. To be called once.
func (t *Tracer) Close() {
	if t == nil {
		return
	}
	close(t.stop)
	limit := time.NewTimer(closeWithin + 2*writeWithin)
	defer limit.Stop()
	select {
	case <-t.done:
	case <-limit.C: // a file system that hangs
		t.log.Warn("writing to the pcap file takes too long: traces are left behind")
	}
}

// A Source is a slot whose card's traffic is traced. Its methods may be called by several
// goroutines at once; those of nil do nothing. They never wait, allocate nothing and keep
// nothing of what they are given.
type Source struct {
	t    *Tracer
	slot uint16
}

// Source returns the Source for a slot 0..1023, nil if t is. GSMTAP has no room for a slot: what
// tells them apart is the UDP source port, one of its own for each; in the file it
// is 10000 and the slot's number.
func (t *Tracer) Source(slot uint16) *Source {
	if t == nil {
		return nil
	}
	return &Source{t, slot}
}

// ATR traces what a card has answered to a reset.
func (s *Source) ATR(atr []byte) {
	if s != nil {
		s.add(kindATR, atr, nil)
	}
}

// PPS traces a protocol and parameters selection (ISO 7816-3 9) and the answer to it.
func (s *Source) PPS(req, resp []byte) {
	if s != nil {
		s.add(kindPPSReq, req, nil)
		s.add(kindPPSResp, resp, nil)
	}
}

// APDU traces a command TPDU and the response to it, data followed by SW1 SW2.
func (s *Source) APDU(command, response []byte) {
	if s != nil {
		s.add(kindAPDU, command, response)
	}
}

func (s *Source) add(k kind, a, b []byte) {
	p := packet{at: time.Now(), slot: s.slot, kind: k}
	p.n = copy(p.data[:], a)
	p.n += copy(p.data[p.n:], b)
	select {
	case s.t.queue <- p:
	default:
		s.t.dropped.Add(1)
	}
}

// run writes packets until Close.
func (t *Tracer) run() {
	defer close(t.done)
	defer t.end()
	for {
		select { // alone, as beside a queue that never gets empty it could be passed over
		case <-t.stop:
			t.drain(time.Now().Add(closeWithin))
			return
		default:
		}
		select {
		case p := <-t.queue:
			t.write(&p)
		case <-t.stop:
		}
	}
}

// drain writes what is queued, unless that takes too long.
func (t *Tracer) drain(limit time.Time) {
	for {
		select {
		case p := <-t.queue:
			if time.Now().After(limit) {
				t.dropped.Add(uint64(1 + len(t.queue)))
				return
			}
			t.write(&p)
		default:
			return
		}
	}
}

func (t *Tracer) write(p *packet) {
	b := encode(&t.buf, p)
	if t.receiver.IsValid() {
		if n, err := t.send(p.slot, b[recordLen+ipLen+udpLen:]); n > 0 {
			t.unsent.add(t.log, n, err)
		}
	}
	if t.file != nil {
		if err := save(t.file, b); err != nil {
			t.unsaved.add(t.log, 1, err)
		}
	}
	if n := t.dropped.Swap(0); n > 0 {
		t.unqueued.add(t.log, n, nil)
	}
}

// send sends a datagram and returns how many are known to be lost, this one or earlier ones,
// and why.
func (t *Tracer) send(slot uint16, b []byte) (lost uint64, err error) {
	c := t.conns[slot]
	if c == nil {
		if c, err = net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(t.receiver)); err != nil {
			return 1, err
		}
		t.conns[slot] = c
	}
	write := func() error {
		c.SetWriteDeadline(time.Now().Add(writeWithin))
		_, err := c.Write(b)
		return err
	}
	if err = write(); errors.Is(err, syscall.ECONNREFUSED) {
		// That is what came of an earlier one. This one wasn't sent yet.
		lost = 1
		if again := write(); again == nil || errors.Is(again, syscall.ECONNREFUSED) {
			return lost, err
		} else {
			err = again
		}
	}
	if err != nil { // perhaps the host has other addresses now: the next one gets a new socket
		c.Close()
		delete(t.conns, slot)
		lost++
	}
	return lost, err
}

// end closes what is open and says what was lost and not told yet.
func (t *Tracer) end() {
	for _, c := range t.conns {
		c.Close()
	}
	if t.file != nil {
		if err := t.file.Close(); err != nil {
			t.log.WithError(err).Warn("closing the pcap file")
		}
	}
	t.unqueued.n += t.dropped.Swap(0)
	for _, l := range []*loss{&t.unqueued, &t.unsent, &t.unsaved} {
		if l.n > 0 {
			l.say(t.log)
		}
	}
}

// A loss counts packets that are lost for one reason. The first is logged at once, what follows
// every lossEvery.
type loss struct {
	why  string
	n    uint64 // not told yet
	err  error  // of the last
	next time.Time
}

func (l *loss) add(log *logrus.Entry, n uint64, err error) {
	l.n, l.err = l.n+n, err
	if now := time.Now(); !now.Before(l.next) {
		l.next = now.Add(lossEvery)
		l.say(log)
	}
}

func (l *loss) say(log *logrus.Entry) {
	log = log.WithField("lost", l.n)
	if l.err != nil {
		log = log.WithError(l.err)
	}
	log.Warn(l.why)
	l.n = 0
}
