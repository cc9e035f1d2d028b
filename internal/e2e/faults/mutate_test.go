// SPDX-License-Identifier: GPL-2.0-or-later

package faults

import (
	"bufio"
	"bytes"
	"encoding/binary"
	"flag"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"net/http"
	"slices"
	"sync"
	"testing"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
)

var (
	mutations = flag.Int("mutations", 200_000, "mutated frames that each listener is sent")
	seed      = flag.Uint64("mutation-seed", 1, "what becomes of them follows from it")
)

// TestMutated sends 200,000 recorded frames with faults in them to each listener: RSPRO frames to server and bankd, requests to REST. The session notices
// nothing.
func TestMutated(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	s.more = []string{"--log-level", "error"} // who writes a line about each has less time for them
	s.chain()
	before := s.user.Counts()
	var running sync.WaitGroup
	begin := time.Now()
	for i, l := range s.listeners() {
		corpus := recorded(t)
		if l.rest {
			corpus = requests()
		}
		for part := range uint64(2) {
			m := &mutator{
				rand: rand.New(rand.NewPCG(*seed, uint64(2*i)+part)), corpus: corpus, rest: l.rest,
				greeting: hello(t, 900+uint16(part)),
			}
			running.Go(func() {
				err := l.on.Do(func() error { return m.attack(l.addr(), *mutations/2) })
				if err != nil {
					t.Errorf("%s: %v", l.name, err)
				}
				t.Logf("%s took %d frames over %d connections", l.name, m.sent, m.connections)
			})
		}
	}
	running.Wait()
	t.Logf("MEASURED %d mutated frames to each of the listeners took %.0f s", *mutations, time.Since(begin).Seconds())
	s.unnoticed(before)
	s.again(promised)
	// Some of the requests were good ones.
	states, err := s.api.SlotMaps()
	if err != nil {
		t.Fatal(err)
	}
	for m := range states {
		if m != mapOf(0, 1) {
			if err := s.api.Delete(m.Bank); err != nil {
				t.Error(err)
			}
		}
	}
	s.check()
}

// requests are some of REST: method, path and body.
func requests() (all [][]byte) {
	for _, r := range []string{
		"GET /api/backend/v1/slotmaps ", "GET /api/v2/banks/1 ", "GET /api/backend/v1/clients/2 ", "DELETE /api/backend/v1/slotmaps/130000 ",
		`POST /api/backend/v1/slotmaps {"bank":{"bankId":9,"slotNr":9},"client":{"clientId":999,"slotNr":0}}`,
		`PUT /api/v2/slotmaps/9:9 {"client":{"clientId":900,"slotNr":1}}`,
	} {
		all = append(all, []byte(r))
	}
	return all
}

// A mutator sends frames with faults.
type mutator struct {
	rand     *rand.Rand
	corpus   [][]byte
	greeting []byte
	rest     bool

	sent, connections int
}

// mutate returns a frame with one to three faults, and whether it surely ends the connection. Few of those are taken: it is the others that
// are looked at for long.
func (m *mutator) mutate() (b []byte, fatal bool) {
	for {
		if b, fatal = m.draw(); !fatal || m.rand.IntN(4) == 0 {
			return b, fatal
		}
	}
}

func (m *mutator) draw() (b []byte, fatal bool) {
	b = slices.Clone(m.corpus[m.rand.IntN(len(m.corpus))])
	if m.rand.IntN(8) > 0 {
		at := m.values(b)
		for range 1 + m.rand.IntN(3) {
			if len(at) > 0 {
				b[at[m.rand.IntN(len(at))]] ^= 1 << m.rand.IntN(8)
			}
		}
	} else {
		for range 1 + m.rand.IntN(3) {
			b = m.damage(b)
		}
		if !m.rest && len(b) < 1000 && m.rand.IntN(20) > 0 {
			binary.BigEndian.PutUint16(b, uint16(len(b)-3))
		}
	}
	if m.rest {
		method, more, _ := bytes.Cut(b, []byte(" "))
		path, body, _ := bytes.Cut(more, []byte(" "))
		b = fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n%s", method, path, len(body), body)
		_, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(b)))
		return b, err != nil
	}
	stream := b[2]
	return b, int(binary.BigEndian.Uint16(b)) != len(b)-3 || stream == 0xee && (b[3] != 7 || undecodable(b[4:])) || stream != 0xfe && stream != 0xee
}

// values returns where values stand in a frame, other than lengths and types.
func (m *mutator) values(b []byte) (at []int) {
	if m.rest {
		for i := bytes.IndexByte(b, ' ') + 2; i < len(b); i++ {
			at = append(at, i)
		}
		return at
	}
	if b[2] != 0xee || len(b) < 5 {
		return nil
	}
	var walk func(from, to int)
	walk = func(from, to int) { // all tags and lengths in the corpus are of one byte
		for from+2 <= to {
			begin, end := from+2, min(to, from+2+int(b[from+1]))
			if b[from]&0x20 != 0 {
				walk(begin, end)
			} else {
				for i := begin; i < end; i++ {
					at = append(at, i)
				}
			}
			from = end
		}
	}
	walk(4, len(b))
	return at
}

// damage makes one fault, anywhere.
func (m *mutator) damage(b []byte) []byte {
	i := m.rand.IntN(len(b))
	switch m.rand.IntN(6) {
	case 0:
		b[i] ^= 1 << m.rand.IntN(8)
	case 1:
		b[i] = byte(m.rand.Uint32())
	case 2:
		b = slices.Insert(b, i, byte(m.rand.Uint32()))
	case 3:
		b = slices.Delete(b, i, i+1)
	case 4: // the end of another one
		o := m.corpus[m.rand.IntN(len(m.corpus))]
		b = append(b[:i:i], o[m.rand.IntN(len(o)):]...)
	case 5: // a part twice
		b = slices.Insert(b, i, slices.Clone(b[i:min(len(b), i+1+m.rand.IntN(8))])...)
	}
	for len(b) < 4 {
		b = append(b, 0)
	}
	return b
}

func undecodable(pdu []byte) bool {
	p, err := rspro.Decode(pdu)
	return err != nil || p.Version != rspro.Version
}

// attack sends so many frames to an address. It goes on with a connection until the other end has closed it, or will.
func (m *mutator) attack(addr string, frames int) error {
	for m.sent < frames {
		nc, err := net.DialTimeout("tcp", addr, soon)
		if err != nil {
			return err
		}
		c := nc.(*net.TCPConn)
		_ = c.SetLinger(0) // no port is kept for it
		_ = c.SetDeadline(time.Now().Add(soon))
		m.connections++
		if m.rest {
			err = m.ask(c, frames)
		} else {
			err = m.flood(c, frames)
		}
		c.Close()
		if err != nil {
			return err
		}
	}
	return nil
}

// maxRun is how many frames are sent over a connection, at most.
const maxRun = 100

// flood sends RSPRO frames.
func (m *mutator) flood(c *net.TCPConn, frames int) error {
	closed := make(chan struct{})
	go func() {
		defer close(closed)
		_, _ = io.Copy(io.Discard, c)
	}()
	if m.rand.IntN(2) == 0 {
		_, _ = c.Write(append(ipa.AppendCCM(nil, ipa.Pong), m.greeting...))
	}
	for range min(maxRun, frames-m.sent) {
		b, fatal := m.mutate()
		if _, err := c.Write(b); err != nil {
			break // the other end has closed it
		}
		m.sent++
		if fatal {
			break
		}
	}
	_ = c.CloseWrite() // seen after all the frames
	select {
	case <-closed:
		return nil
	case <-time.After(soon):
		return fmt.Errorf("a connection whose other end is closed is there after %v", soon)
	}
}

// ask sends requests, and reads the answers.
func (m *mutator) ask(c *net.TCPConn, frames int) error {
	r := bufio.NewReader(c)
	for range min(maxRun, frames-m.sent) {
		b, fatal := m.mutate()
		if _, err := c.Write(b); err != nil {
			return fmt.Errorf("%q: %w", b, err)
		}
		m.sent++
		if fatal {
			_ = c.CloseWrite()
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			if fatal {
				return nil
			}
			return fmt.Errorf("%q: %w", b, err)
		}
		_, err = io.Copy(io.Discard, res.Body)
		if fatal || res.Close || err != nil {
			return nil
		}
		if res.StatusCode >= 500 && res.StatusCode != http.StatusNotImplemented {
			return fmt.Errorf("%q: %s", b, res.Status)
		}
	}
	return nil
}
