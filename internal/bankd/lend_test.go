// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"os"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

const stormTimeout = 100 * time.Millisecond // of a call to a card

// A table is where cards lie that judge how they are used. What it says of an open card
// is true of all of them: one slot uses them.
type table struct {
	t *testing.T

	mu    sync.Mutex
	rnd   *rand.Rand
	calm  bool          // calls succeed soon
	hang  time.Duration // of the next call; 0: none hangs
	fail  error         // of the next call
	cards []*judged
}

// A judged is a card that is open, from its Open on.
type judged struct {
	table  *table
	number uint32    // in its ATR and its answers
	since  time.Time // a call takes place; zero: none
	hung   bool      // a call took so long that it may have been abandoned
	closed bool
	resets uint16
}

// begin is the begin of a call to j, and says how long it takes and how it ends.
func (j *judged) begin(what string) (time.Duration, error) {
	b := j.table
	b.mu.Lock()
	defer b.mu.Unlock()
	if j.closed {
		b.t.Errorf("card %d: %s when it is closed", j.number, what)
	}
	if !j.since.IsZero() {
		b.t.Errorf("card %d: %s during another call", j.number, what)
	}
	j.since = time.Now()
	if b.calm {
		return time.Millisecond, nil
	}
	// Full milliseconds meet the relief after 5 ms and each other.
	takes, err := time.Duration(max(0, b.rnd.IntN(16)-7))*time.Millisecond, b.fail
	if b.hang > 0 {
		takes = b.hang
	}
	b.hang, b.fail = 0, nil
	return takes, err
}

// call is a call to j, with what it does at its end.
func (j *judged) call(what string, does func()) error {
	takes, err := j.begin(what)
	time.Sleep(takes)
	j.table.mu.Lock()
	defer j.table.mu.Unlock()
	j.hung = j.hung || time.Since(j.since) >= stormTimeout
	j.since = time.Time{}
	if does != nil {
		does()
	}
	return err
}

func (j *judged) ATR() []byte { return binary.BigEndian.AppendUint32([]byte{0x3b, 0x04}, j.number) }

// Transmit answers the command, which card it was, and how often it was reset before.
func (j *judged) Transmit(cmd, buf []byte) (r []byte, err error) {
	were := bytes.Clone(cmd)
	var resets uint16
	err = j.call("command", func() { resets = j.resets })
	if !bytes.Equal(cmd, were) {
		j.table.t.Errorf("card %d: command %x became %x during the call", j.number, were, cmd)
	}
	r = binary.BigEndian.AppendUint32(append(buf[:0], cmd...), j.number)
	return append(binary.BigEndian.AppendUint16(r, resets), 0x90, 0), err
}

func (j *judged) Reset(bool) error { return j.call("reset", func() { j.resets++ }) }

func (j *judged) Close() error { return j.call("close", func() { j.closed = true }) }

// open opens another card. Those from before are closed, or a call to them hung.
func (b *table) open() (Card, error) {
	b.mu.Lock()
	for _, j := range b.cards {
		if !j.closed && !j.hung && (j.since.IsZero() || time.Since(j.since) < stormTimeout) {
			b.t.Errorf("card %d isn't closed when another one is opened", j.number)
		}
	}
	j := &judged{table: b, number: uint32(len(b.cards) + 1)}
	b.cards = append(b.cards, j)
	b.mu.Unlock()
	err := j.call("open", nil)
	if err != nil {
		b.mu.Lock()
		defer b.mu.Unlock()
		j.closed = true
		return nil, err
	}
	return j, nil
}

func (b *table) set(f func()) {
	b.mu.Lock()
	defer b.mu.Unlock()
	f()
}

// A caller is a client that judges what it is answered.
type caller struct {
	*modem
	rnd  *rand.Rand
	last uint32 // command that was sent, of all connections

	first    uint32            // command of this connection
	answered uint32            // command that was answered last
	sent     time.Time         // when last was, and is to be answered; zero: it isn't
	card     uint32            // whose ATR was told; 0: there is none
	edges    uint16            // resets that were asked for on this connection
	least    uint16            // resets of the card that the next command comes after
	seen     uint16            // resets that an answer told of
	bounds   map[uint32][2]int // by command: how many resets came before it
	answers  atomic.Int64
	settled  atomic.Bool // connections stay
}

// live makes connections until stop.
func (c *caller) live(r *rig, stop <-chan struct{}) {
	for {
		select {
		case <-stop:
			return
		default:
		}
		nc, err := r.clients.Dial(c.t.Context(), netip.MustParseAddrPort(bankdAddr))
		if err != nil { // the bankd stops
			time.Sleep(100 * time.Millisecond)
			continue
		}
		c.Peer = testnet.NewPeer(c.t, nc)
		c.first, c.card, c.sent, c.edges, c.least, c.seen, c.bounds = c.last+1, 0, time.Time{}, 0, 0, 0, make(map[uint32][2]int)
		c.answered = c.last
		c.features = 0
		if c.rnd.IntN(3) > 0 {
			c.features = rspro.AtrAfterReset
		}
		c.post(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c.slot, Features: c.features})
		c.converse(stop)
		if c.rnd.IntN(8) > 0 {
			c.Close()
		} else {
			c.Mute(true) // the next connection has to take over
		}
		time.Sleep(time.Duration(c.rnd.IntN(8)) * time.Millisecond)
	}
}

// post sends ms at once. When that fails, the connection's end is seen by who reads.
func (c *caller) post(ms ...rspro.Message) {
	var pdus []rspro.PDU
	for _, m := range ms {
		pdus = append(pdus, rspro.PDU{Version: rspro.Version, Msg: m})
	}
	_, _ = c.Conn().Write(testnet.Frames(c.t, pdus...))
}

// converse is the life of a connection.
func (c *caller) converse(stop <-chan struct{}) {
	for life := time.Now().Add(time.Duration(c.rnd.IntN(3000)) * time.Millisecond); ; {
		select {
		case <-stop:
			return
		case <-c.Done():
			return
		default:
		}
		if life.Before(time.Now()) && !c.settled.Load() {
			return // also while a command isn't answered
		}
		c.act()
		// Each call can take its time: that of a command that counts no more, a reset, the command.
		if !c.sent.IsZero() && time.Since(c.sent) > 4*stormTimeout {
			c.t.Errorf("%v: no answer to command %d", c.slot, c.last)
			return
		}
		// Never 0: a timer that is due at once, in a select, has crashed Go 1.26's runtime with the race detector.
		const least = time.Microsecond
		for wait := least + time.Duration(c.rnd.IntN(8))*time.Millisecond; ; wait = least {
			pdu, ok := c.Poll(wait)
			if !ok {
				break
			}
			c.judge(pdu)
		}
	}
}

// act sends commands and resets, as far as they are allowed.
func (c *caller) act() {
	if c.card == 0 {
		return
	}
	var ms []rspro.Message
	command := func() {
		c.last++
		c.sent = time.Now()
		c.bounds[c.last] = [2]int{int(c.least), int(c.edges)}
		ms = append(ms, &rspro.TpduModemToCard{From: c.slot, To: c.bank, Data: binary.BigEndian.AppendUint32([]byte{0}, c.last)})
	}
	if c.sent.IsZero() {
		command()
	}
	if c.rnd.IntN(8) == 0 {
		c.edges++
		c.least = c.seen + 1
		for _, rst := range []bool{true, false} {
			ms = append(ms, &rspro.ClientSlotStatusInd{From: c.slot, To: c.bank, Phys: slot.Phys{Reset: rst, VCC: slot.On}})
		}
		c.sent = time.Time{}
		if c.rnd.IntN(2) == 0 {
			command()
		}
	}
	if len(ms) > 0 {
		c.post(ms...)
	}
}

// judge takes what came.
func (c *caller) judge(pdu rspro.PDU) {
	switch m := pdu.Msg.(type) {
	case *rspro.SetAtrReq:
		if n := binary.BigEndian.Uint32(m.ATR[2:]); n != c.card {
			c.card, c.least, c.seen, c.sent = n, 0, 0, time.Time{}
		}
		_ = c.Post(rspro.PDU{Version: rspro.Version, Tag: pdu.Tag, Msg: &rspro.SetAtrRes{}})
	case *rspro.BankSlotStatusInd:
		if m.Phys.Card == slot.Off {
			c.card, c.sent = 0, time.Time{}
		}
	case *rspro.TpduCardToModem:
		if len(m.Data) != 13 {
			c.t.Errorf("%v: answer %x", c.slot, m.Data)
			return
		}
		n, card, resets := binary.BigEndian.Uint32(m.Data[1:]), binary.BigEndian.Uint32(m.Data[5:]), binary.BigEndian.Uint16(m.Data[9:])
		if n < c.first || n > c.last || n <= c.answered {
			c.t.Errorf("%v: answer to command %d after %d; sent are %d..%d", c.slot, n, c.answered, c.first, c.last)
		}
		if card != c.card {
			c.t.Errorf("%v: command %d was answered by card %d, the ATR is that of %d", c.slot, n, card, c.card)
		}
		if b := c.bounds[n]; int(resets) < b[0] || int(resets) > b[1] {
			c.t.Errorf("%v: card %d had %d resets before command %d, want %d..%d", c.slot, card, resets, n, b[0], b[1])
		}
		c.answered, c.seen = n, resets
		if n == c.last {
			c.sent = time.Time{}
		}
		c.answers.Add(1)
	}
}

// Whatever happens to clients, maps, readers and calls to the card of a slot, each command is answered once at
// most, in order, by the card whose ATR was told, after the resets that were asked for before it. No two calls to a card are made at once, each is
// closed once, and in the end all is well.
func TestLendingStorm(t *testing.T) {
	for seed := range uint64(4) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) { lendingStorm(t, seed) })
	}
}

func lendingStorm(t *testing.T, seed uint64) {
	simulate(t, func(r *rig) {
		rnd := rand.New(rand.NewPCG(seed, 0))
		cards := &table{t: r.t, rnd: rand.New(rand.NewPCG(seed, 1))}
		for _, c := range r.cards {
			c.card = cards.open
		}
		stop := make(chan struct{})
		var all sync.WaitGroup
		all.Go(func() { // of the server, nothing is wanted
			for {
				select {
				case <-r.server.Done():
					return
				default:
					r.server.Poll(time.Second)
				}
			}
		})
		var callers []*caller
		answers := func() (n int64) {
			for _, c := range callers {
				n += c.answers.Load()
			}
			return n
		}
		for i, id := range []slot.Client{c23, c42, c23} { // the last one is a rival
			c := &caller{modem: &modem{t: r.t, slot: id, bank: slot.Bank{ID: 1}}, rnd: rand.New(rand.NewPCG(seed, uint64(2+i)))}
			callers = append(callers, c)
		}
		rival := make(chan struct{})
		all.Go(func() { callers[0].live(r, stop) })
		all.Go(func() { callers[1].live(r, stop) })
		all.Go(func() { callers[2].live(r, rival) })

		bank := slot.Bank{ID: 1}
		create := func(c slot.Client) { r.server.Send(&rspro.CreateMappingReq{Client: c, Bank: bank}) }
		for range 1000 {
			time.Sleep(time.Duration(rnd.IntN(60)) * time.Millisecond)
			switch rnd.IntN(12) {
			case 0, 1:
				create(c23)
			case 2, 3:
				create(c42)
			case 4:
				r.server.Send(&rspro.RemoveMappingReq{Client: c23, Bank: bank})
			case 5:
				cards.set(func() { cards.hang = stormTimeout + time.Duration(rnd.IntN(5)-2)*time.Millisecond })
			case 6:
				cards.set(func() { cards.hang = time.Duration(rnd.IntN(1000)) * time.Millisecond })
			case 7:
				cards.set(func() { cards.fail = ErrMute })
			case 8:
				r.pcscd.change(func(rs []Reader) []Reader { rs[0].Changes += 2; return rs })
			case 9:
				r.pcscd.pull(0)
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				r.pcscd.insert(0, testATR)
			case 10:
				var were []Reader
				r.pcscd.change(func(rs []Reader) []Reader { were = slices.Clone(rs); return nil })
				r.pcscd.change(func([]Reader) []Reader { return were })
			case 11:
				writeFile(t, r.file, fmt.Sprintf("1,0,Fake Reader %02d\n", rnd.IntN(2)))
				r.hup <- os.Interrupt
			}
		}
		cards.set(func() { cards.calm, cards.hang, cards.fail = true, 0, nil })
		create(c23)
		close(rival)
		callers[0].settled.Store(true)
		time.Sleep(retryAfter + 5*time.Second)
		r.wantSlot(0, "CARD, client C23:0")
		were := callers[0].answers.Load()
		time.Sleep(time.Second)
		if n := callers[0].answers.Load() - were; n < 50 {
			t.Errorf("%d answers within a second, in the end", n)
		}

		// The end may come in any moment of a call, also of one that hangs.
		cards.set(func() {
			cards.calm = false
			if seed%2 > 0 {
				cards.hang = 10 * time.Second
			}
		})
		time.Sleep(time.Duration(rnd.IntN(50)) * time.Millisecond)
		r.stop(5 * time.Second)
		close(stop)
		all.Wait()
		time.Sleep(20 * time.Second)
		cards.set(func() {
			for _, j := range cards.cards {
				if !j.closed {
					t.Errorf("card %d was never closed", j.number)
				}
			}
		})
		t.Logf("%d answers of %d cards", answers(), len(cards.cards))
	}, func(s *setup) { s.CardTimeout = stormTimeout })
}
