// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/bankd/softsim"
	"remsim/internal/client"
	"remsim/internal/e2e/rig"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

// selectMF is what is sent all the time; every card answers 9F and a length.
var selectMF = []byte{0xa0, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00}

func check(answer []byte) error {
	if len(answer) != 2 || answer[0] != 0x9f {
		return fmt.Errorf("SELECT answered with % x", answer)
	}
	return nil
}

// A way is one way for a command to a card.
type way struct {
	name     string
	c        string                      // what the C suite took: median, p99
	exchange func() error                // one command; nil where there is
	batch    func(n int) (series, error) // so many of them, in another process
	took     series
}

// measure adds how long n commands take.
func (w *way) measure(n int) error {
	if w.batch != nil {
		took, err := w.batch(n)
		w.took = append(w.took, took...)
		return err
	}
	for range n {
		if err := w.took.measure(w.exchange); err != nil {
			return err
		}
	}
	return nil
}

// Ways that are compared.
const (
	wayDirect = "SCardTransmit → pcscd → virtual card"
	wayRaw    = "raw RSPRO → bankd → pcscd → virtual card"
	wayCore   = "client core → bankd → pcscd → virtual card"
	wayShell  = "remsim-client-shell → bankd → pcscd → virtual card"
	wayDriver = "SCardTransmit → pcscd → driver → bankd → pcscd → virtual card"
)

// Bank slots and the readers of their cards; those from softSlot up are cards in software, without a reader.
const (
	coreSlot = iota
	rawSlot
	shellSlot
	driverSlot
	softSlot
	softRawSlot
	softDriverSlot
	benchSlots
)

// transmit measures the ways to a card, in alternating rounds.
func (b *bench) transmit() error {
	ways, err := b.ways()
	if err != nil {
		return err
	}
	const round = 200
	for n := -1; n < *samples/round; n++ { // the first round warms up
		for _, w := range ways {
			if err := w.measure(round); err != nil {
				return fmt.Errorf("%s: %w", w.name, err)
			}
			if n < 0 {
				w.took = nil
			}
		}
	}
	rows := [][]string{{"way of a SELECT", "median", "p99", "C suite: median, p99", "n"}}
	for _, w := range ways {
		rows = append(rows, []string{w.name, micros(w.took.quantile(0.5)), micros(w.took.quantile(0.99)), w.c, fmt.Sprint(len(w.took))})
	}
	table(b.out, rows...)
	median := func(name string) time.Duration {
		return ways[slices.IndexFunc(ways, func(w *way) bool { return w.name == name })].took.quantile(0.5)
	}
	adds := func(name string) string { return micros(median(name) - median(wayDirect)) }
	table(b.out, [][]string{
		{"what SCardTransmit takes longer by, median", "", "C suite"},
		{"the bankd alone", adds(wayRaw), "65-75 µs"},
		{"client core and bankd", adds(wayCore), "–"},
		{"remsim-client-shell and bankd", adds(wayShell), "165-180 µs"},
		{"the PC/SC driver and bankd", adds(wayDriver), "–"},
	}...)
	fmt.Fprintf(b.out, "All ways in the same run, %d commands of each in turn; client core and SCardTransmit alone use the same card. \"Virtual\n"+
		"card\" is one of `remsim-simulator cards` behind vpcd. A command that the driver refuses shows what application, pcscd\n"+
		"and the call of the driver alone take.\n\n", round)
	return nil
}

// ways starts all that the ways need. The first two use the same card.
func (b *bench) ways() ([]*way, error) {
	readers, err := rig.StartReaders(b.bin, softSlot)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, killer(readers.Stop))
	if _, err := b.startServer(); err != nil {
		return nil, err
	}
	api := newAPI()
	if err := b.startBankd(api); err != nil {
		return nil, err
	}

	direct, err := pcsc.Bank{Shared: true}.Open(context.Background(), bankd.Slot{Pattern: regexp.MustCompile(rig.Reader(coreSlot))})
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, killer(func() { direct.Close() }))
	buf := make([]byte, 258)
	core, err := b.core(coreSlot)
	if err != nil {
		return nil, err
	}
	raw, err := b.raw(rawSlot)
	if err != nil {
		return nil, err
	}
	shell, err := b.shell(shellSlot)
	if err != nil {
		return nil, err
	}
	soft, err := b.core(softSlot)
	if err != nil {
		return nil, err
	}
	softRaw, err := b.raw(softRawSlot)
	if err != nil {
		return nil, err
	}
	driver, err := b.driver(driverSlot)
	if err != nil {
		return nil, err
	}
	softDriver, err := b.driver(softDriverSlot)
	if err != nil {
		return nil, err
	}
	card := softsim.New(simulator.Profile(0))
	onCard := func(c bankd.Card) func() error {
		return func() error {
			res, err := c.Transmit(selectMF, buf)
			if err != nil {
				return err
			}
			return check(res)
		}
	}
	return []*way{
		{name: wayDirect, c: "107-126, 215-261 µs", exchange: onCard(direct)},
		{name: wayCore, c: "–", exchange: core},
		{name: wayRaw, c: "192-254, 325-373 µs", exchange: raw},
		{name: wayShell, c: "289-312, 468-718 µs", exchange: shell},
		{name: wayDriver, c: "–", batch: driver.exchange},
		{name: "client core → bankd → softsim", c: "–", exchange: soft},
		{name: "raw RSPRO → bankd → softsim", c: "–", exchange: softRaw},
		{name: "SCardTransmit → pcscd → driver → bankd → softsim", c: "–", batch: softDriver.exchange},
		{name: "SCardTransmit → pcscd → driver, which refuses the command", c: "–", batch: softDriver.refused},
		{name: "softsim alone", c: "–", exchange: onCard(card)},
	}, nil
}

// startBankd starts a bankd with cards for all slots, and maps slot N to client N.
func (b *bench) startBankd(api rig.API) error {
	dir, err := b.dir()
	if err != nil {
		return err
	}
	var slots strings.Builder
	for i := range benchSlots {
		spec := rig.Reader(i)
		if i >= softSlot {
			spec = simulator.Profile(i).String()
		}
		fmt.Fprintf(&slots, "1,%d,%s\n", i, spec)
	}
	file := filepath.Join(dir, "slots.csv")
	if err := os.WriteFile(file, []byte(slots.String()), 0o644); err != nil {
		return err
	}
	_, err = b.start("listening for RSPRO", "remsim-bankd", "-i", "127.0.0.1", "-s", "--slots-file", file)
	if err != nil {
		return err
	}
	for i := range uint16(benchSlots) {
		if err := api.Create(slot.Map{Bank: bankSlot(i), Client: clientSlot(i)}); err != nil {
			return err
		}
	}
	return nil
}

func bankSlot(i uint16) slot.Bank     { return slot.Bank{ID: 1, Slot: i} }
func clientSlot(i uint16) slot.Client { return slot.Client{ID: i} }

// A killer is a step of bench.stop.
type killer func()

// Kill implements the interface of bench.started.
func (k killer) Kill() { k() }

// core starts a client in this process, with a modem that only sends commands.
func (b *bench) core(i uint16) (exchange func() error, err error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := modem{card: make(chan struct{}, 1)}
	core := client.New(client.Config{
		ServerHost: "127.0.0.1", ServerPort: 9998, Slot: clientSlot(i), ATR: []byte{0x3b, 0x00},
	}, client.Env{Net: link.TCP(), Log: log}, m)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); core.Run(ctx) }()
	b.started = append(b.started, killer(func() { cancel(); <-done }))
	select {
	case <-m.card:
	case <-time.After(ready):
		return nil, fmt.Errorf("client %d has no card after %v", i, ready)
	}
	return func() error {
		res, err := core.Transmit(ctx, selectMF)
		if err != nil {
			return err
		}
		return check(res)
	}, nil
}

// A modem tells that there is a card.
type modem struct{ card chan struct{} }

func (modem) Remote(context.Context, bool) {}
func (modem) Insert(context.Context)       {}
func (modem) Remove(context.Context)       {}
func (modem) ResetModem(context.Context)   {}
func (m modem) ATR(_ context.Context, _ []byte, card client.Card) {
	if card != 0 {
		select {
		case m.card <- struct{}{}:
		default:
		}
	}
}

// raw connects to the bankd as a client does and exchanges frames over the bare socket.
func (b *bench) raw(i uint16) (exchange func() error, err error) {
	nc, err := net.Dial("tcp", "127.0.0.1:9999")
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, killer(func() { nc.Close() }))
	who := clientSlot(i)
	hello, err := frame(&rspro.ConnectClientReq{Slot: &who, Identity: rspro.ComponentIdentity{
		Type: rspro.Client, Name: "bench", Software: "remsim-client", SWVersion: "1",
	}})
	if err != nil {
		return nil, err
	}
	tpdu, err := frame(&rspro.TpduModemToCard{From: who, To: bankSlot(i), Data: selectMF})
	if err != nil {
		return nil, err
	}
	r := rawReader{nc: nc, buf: make([]byte, 4096)}
	if _, err := nc.Write(hello); err != nil {
		return nil, err
	}
	if err := nc.SetReadDeadline(time.Now().Add(ready)); err != nil {
		return nil, err
	}
	for {
		m, err := r.next()
		if err != nil {
			return nil, err
		}
		if _, ok := m.(*rspro.SetAtrReq); ok {
			break
		}
	}
	if err := nc.SetReadDeadline(time.Time{}); err != nil {
		return nil, err
	}
	return func() error {
		if _, err := nc.Write(tpdu); err != nil {
			return err
		}
		m, err := r.next()
		if err != nil {
			return err
		}
		res, ok := m.(*rspro.TpduCardToModem)
		if !ok {
			return fmt.Errorf("got a %v", m.Choice())
		}
		return check(res.Data)
	}, nil
}

// frame returns m as an IPA frame.
func frame(m rspro.Message) ([]byte, error) {
	b, err := rspro.PDU{Version: rspro.Version, Msg: m}.Append([]byte{0, 0, streamOSMO, extRSPRO})
	b[0], b[1] = byte((len(b)-3)>>8), byte(len(b)-3)
	return b, err
}

const (
	streamCCM  = 0xfe
	streamOSMO = 0xee
	extRSPRO   = 0x07
)

var pong = []byte{0, 1, streamCCM, 1}

// A rawReader reads frames from a socket with one read each, when they come singly.
type rawReader struct {
	nc   net.Conn
	buf  []byte
	have []byte // part of buf that isn't used yet
}

// next returns the next RSPRO message, which is valid until the call after it, and answers PING.
func (r *rawReader) next() (rspro.Message, error) {
	for {
		if len(r.have) >= 3 {
			n := 3 + int(r.have[0])<<8 + int(r.have[1])
			if len(r.have) >= n {
				f := r.have[:n]
				r.have = r.have[n:]
				if f[2] == streamOSMO {
					p, err := rspro.Decode(f[4:])
					return p.Msg, err
				}
				if len(f) == 4 && f[3] == 0 {
					if _, err := r.nc.Write(pong); err != nil {
						return nil, err
					}
				}
				continue
			}
		}
		kept := copy(r.buf, r.have)
		n, err := r.nc.Read(r.buf[kept:])
		if err != nil {
			return nil, err
		}
		r.have = r.buf[:kept+n]
	}
}

// shell starts a remsim-client-shell and speaks to it through its standard streams.
func (b *bench) shell(i uint16) (exchange func() error, err error) {
	p, err := b.start("card is there", "remsim-client-shell", "-c", fmt.Sprint(i))
	if err != nil {
		return nil, err
	}
	for range 2 { // the default ATR and the card's
		if line, err := p.Line(ready); err != nil || !strings.HasPrefix(line, "SET_ATR: ") {
			return nil, errors.Join(fmt.Errorf("shell printed %q", line), err)
		}
	}
	command := fmt.Appendf(nil, "%x\n", selectMF)
	return func() error {
		if _, err := p.Stdin.Write(command); err != nil {
			return err
		}
		line, ok := <-p.Lines
		if !ok || !strings.HasPrefix(line, "R-APDU: 9f ") {
			return fmt.Errorf("shell printed %q", line)
		}
		return nil
	}, nil
}
