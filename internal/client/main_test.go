// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"context"
	"fmt"
	"io"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// What tests take for granted.
var (
	me      = slot.Client{ID: 23, Slot: 1}
	here    = slot.Bank{ID: 1, Slot: 5}
	there   = slot.Bank{ID: 1, Slot: 6}
	ownATR  = []byte{0x3b, 0x00}
	cardATR = []byte{0x3b, 0x02, 0x14, 0x50}
	selectC = []byte{0xa0, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00}
)

// A journal is what happened, in order.
type journal struct {
	mu    sync.Mutex
	lines []string
	card  Card // the last one whose ATR was told
}

func (j *journal) add(format string, a ...any) {
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf(format, a...))
}

// take returns what came since the last time, with blanks between.
func (j *journal) take() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	s := strings.Join(j.lines, " ")
	j.lines = nil
	return s
}

// A recorder is a Frontend that writes a journal.
type recorder struct{ *journal }

func (r recorder) Remote(_ context.Context, on bool) { r.add("Remote(%v)", on) }
func (r recorder) ATR(_ context.Context, atr []byte, card Card) {
	r.card = card
	r.add("ATR(%x,%v)", atr, card != 0)
}
func (r recorder) Insert(context.Context)     { r.add("Insert") }
func (r recorder) Remove(context.Context)     { r.add("Remove") }
func (r recorder) ResetModem(context.Context) { r.add("ResetModem") }

// A fakePeer is the other end of a connection that writes a journal.
type fakePeer struct {
	journal
	pong  chan bool // results of Probe
	end   error     // of the connection: nothing more can be sent
	lines int       // logged within its quota

	posted atomic.Pointer[rspro.Message] // and not flushed yet
}

// Post and Flush note a message when it is flushed.
func (p *fakePeer) Post(m rspro.Message) error {
	if p.end == nil {
		p.posted.Store(&m)
	}
	return p.end
}

func (p *fakePeer) Flush() {
	if m := p.posted.Swap(nil); m != nil {
		_ = p.Send(*m) // Post has looked for errors
	}
}

func (p *fakePeer) Send(m rspro.Message) error {
	if p.end != nil {
		return p.end
	}
	switch m := m.(type) {
	case *rspro.TpduModemToCard:
		p.add("tpdu(%v>%v,%x)", m.From, m.To, m.Data)
	case *rspro.ClientSlotStatusInd:
		p.add("status(%v)", m.Phys)
	default:
		p.add("%v", m.Choice())
	}
	return nil
}

func (p *fakePeer) Reply(req rspro.PDU, m rspro.Message) error {
	p.add("%d:%v(%v)", req.Tag, m.Choice(), m.(rspro.Response).ResultCode())
	return nil
}

func (p *fakePeer) Probe(time.Duration) <-chan bool {
	p.add("PING")
	return p.pong
}

func (p *fakePeer) Stray(pdu rspro.PDU, why string) {
	p.add("stray(%v: %s)", pdu.Msg.Choice(), why)
}

func (p *fakePeer) Quota(log *logrus.Entry) *logrus.Entry {
	p.lines++
	return log
}

func (p *fakePeer) Close(err error) { p.add("Close(%v)", err) }

// quiet is a log nobody reads.
func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// poll waits until ok.
func poll(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within a minute", what)
		}
	}
}
