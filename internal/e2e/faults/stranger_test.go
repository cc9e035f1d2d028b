// SPDX-License-Identifier: GPL-2.0-or-later

package faults

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/e2e/wan"
	"remsim/internal/ipa"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A listener is an address that strangers reach.
type listener struct {
	name  string
	on    *wan.Host
	port  string
	rest  bool
	by    *rig.Proc
	holds int // connections of silent strangers that it has at most; 0: any number
}

// identify is how long a connection may be there whose other end hasn't said who it is, or what it wants.
const identify = 10 * time.Second

func (l listener) addr() string { return net.JoinHostPort(l.on.Addr, l.port) }

func (s *site) listeners() []listener {
	return []listener{
		{"server", s.onServer, "9998", false, s.server, 2048},
		{"bankd", s.onBankd, "9999", false, s.bankd, 2*2 + 64 - 1}, // twice its slots and 64, of which the client has one
		{"REST", s.onServer, "9997", true, s.server, 0},
	}
}

// dial makes n connections from the stranger's host.
func (s *site) dial(addr string, n int) (all []net.Conn) {
	s.t.Helper()
	if err := s.onStranger.Do(func() error {
		for range n {
			c, err := net.DialTimeout("tcp", addr, soon)
			if err != nil {
				return err
			}
			all = append(all, c)
		}
		return nil
	}); err != nil {
		s.t.Error(err)
	}
	s.t.Cleanup(func() { closeAll(all) })
	return all
}

func closeAll(all []net.Conn) {
	for _, c := range all {
		c.Close()
	}
}

// hello is how a client begins.
func hello(t *testing.T, id uint16) []byte {
	t.Helper()
	b, err := rspro.PDU{Version: rspro.Version, Msg: &rspro.ConnectClientReq{Slot: &slot.Client{ID: id}, Identity: rspro.ComponentIdentity{
		Type: rspro.Client, Name: "stranger", Software: "stranger", SWVersion: "1",
	}}}.Append(ipa.Begin(nil))
	if err != nil {
		t.Fatal(err)
	}
	ipa.End(b)
	return b
}

// request is one of REST.
var request = []byte("GET /api/v2/slotmaps HTTP/1.1\r\nHost: x\r\n\r\n")

// TestTrickle has strangers send a byte a second to all listeners; they are closed when they should have said who they are, and not before.
func TestTrickle(t *testing.T) {
	t.Parallel()
	const each = 20
	s := newSite(t).chain()
	var running sync.WaitGroup
	for _, l := range s.listeners() {
		text := hello(t, 900)
		if l.rest {
			text = request
		}
		begin := time.Now()
		for _, c := range s.dial(l.addr(), each) {
			running.Go(func() {
				for i := 0; ; i++ {
					if _, err := c.Write(text[i%len(text) : i%len(text)+1]); err != nil {
						break
					}
					if d := time.Since(begin); d > 2*time.Minute {
						t.Errorf("%s: still connected after %v", l.name, d)
						break
					}
					time.Sleep(time.Second)
				}
				if d := time.Since(begin); d < identify || d > slack*identify+5*time.Second {
					t.Errorf("%s: closed after %v, want %v", l.name, d, identify)
				}
			})
		}
	}
	begin := time.Now()
	s.renew(soon)
	running.Wait()
	t.Logf("MEASURED who sends a byte a second is closed within %.0f s", time.Since(begin).Seconds())
	s.again(promised)
	s.check()
}

// TestNeverReads has strangers ask and ask, and read no answer: RSPRO programs give them up when 256 KiB wait, or nothing was taken for 10 s, and
// REST after its time limit.
func TestNeverReads(t *testing.T) {
	t.Parallel()
	const (
		each  = 5
		limit = slack * 60 * time.Second // REST has 60, from when nothing more goes out
	)
	s := newSite(t).chain()
	ping := bytes.Repeat(ipa.AppendCCM(nil, ipa.Ping), 1000)
	var running sync.WaitGroup
	begin := time.Now()
	for _, l := range s.listeners() {
		text := ping
		if l.rest {
			text = bytes.Repeat(request, 1000)
		}
		for i, c := range s.dial(l.addr(), each) {
			running.Go(func() {
				if !l.rest {
					c.Write(hello(t, 900+uint16(i)))
				}
				for time.Since(begin) < limit {
					c.SetWriteDeadline(time.Now().Add(time.Second))
					if _, err := c.Write(text); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
						if i == 0 {
							t.Logf("MEASURED who never reads is closed by %s after %.0f s", l.name, time.Since(begin).Seconds())
						}
						return
					}
				}
				t.Errorf("%s: still connected after %v", l.name, limit)
			})
		}
	}
	s.renew(soon)
	running.Wait()
	s.again(promised)
	s.check()
}

// TestSilent makes 5,000 connections to each listener that say nothing, and that it keeps as long as it should. While they are there the chain
// works, for those, too, who come new.
func TestSilent(t *testing.T) {
	t.Parallel()
	const n = 5000
	s := newSite(t).chain()
	for _, l := range s.listeners() {
		before := s.descriptors(l.by)
		var all []net.Conn
		fresh := 0 // of them, those that it doesn't close yet, however long it took to make them
		peak := 0  // of those that it held
		for end := time.Now().Add(identify / 2); len(all) < n; {
			all = append(all, s.dial(l.addr(), n/50)...)
			if time.Now().Before(end) {
				fresh = len(all)
			}
			peak = max(peak, s.descriptors(l.by)-before)
		}
		least, most := fresh, n
		if l.holds > 0 {
			least, most = min(fresh, l.holds), l.holds
		}
		s.eventually(fmt.Sprintf("%s holds %d..%d silent connections", l.name, least, most), func() error {
			held := s.descriptors(l.by) - before
			peak = max(peak, held)
			const others = 20 // descriptors that the site's own users come to need, or need no more
			if peak < least-others || held > most+others {
				return fmt.Errorf("%d, at most %d", held, peak)
			}
			return nil
		})
		s.works(10, soon)
		begin := time.Now()
		s.renew(soon)
		took := time.Since(begin)
		held := s.descriptors(l.by) - before
		begin = time.Now()
		left := 0
		for _, c := range all {
			c.SetReadDeadline(begin.Add(slack * identify))
			if _, err := io.Copy(io.Discard, c); errors.Is(err, os.ErrDeadlineExceeded) {
				left++
			}
		}
		t.Logf("MEASURED %d silent connections to %s: a new map works after %.1f s, with %d of them there still; all are closed after %.1f s",
			n, l.name, took.Seconds(), held, time.Since(begin).Seconds())
		if left > 0 {
			t.Errorf("%s: %d are there still", l.name, left)
		}
		closeAll(all)
	}
	s.again(promised)
	s.check()
}

// descriptors returns how many a program has.
func (s *site) descriptors(p *rig.Proc) int {
	s.t.Helper()
	u, err := rig.UsageOf(p)
	if err != nil {
		s.t.Fatal(err)
	}
	return u.Descriptors
}

// recorded are frames of conversations between C programs, and others that such programs are sent.
func recorded(t *testing.T) (all [][]byte) {
	t.Helper()
	text, err := os.ReadFile("../../rspro/testdata/frames.txt")
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(text)) {
		if fields := strings.Fields(line); len(fields) > 1 && fields[0] != "#" {
			if b, err := hex.DecodeString(fields[1]); err == nil && len(b) > 3 {
				all = append(all, b)
			}
		}
	}
	if len(all) < 50 {
		t.Fatalf("%d frames", len(all))
	}
	return all
}

// TestDescriptors has programs that may have 64 descriptors only, and strangers that take them all.
func TestDescriptors(t *testing.T) {
	t.Parallel()
	const limit, crowd = 64, 200
	s := newSite(t).chain()
	for _, p := range []*rig.Proc{s.server, s.bankd, s.client} {
		if err := p.Limit(limit); err != nil {
			t.Fatal(err)
		}
	}
	before := s.user.Counts()
	for _, l := range s.listeners()[:2] {
		// The last ones wait to be accepted.
		all := s.dial(l.addr(), crowd)
		s.works(20, soon)
		for name, p := range map[string]*rig.Proc{"server": s.server, "bankd": s.bankd} {
			if l.name == name {
				s.await(p, "level=warning", "too many open files")
			}
		}
		closeAll(all)
	}
	s.unnoticed(before)
	s.again(promised)
	s.check()
}
