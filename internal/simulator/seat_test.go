// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"context"
	"encoding/binary"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// soon is far more than what is waited for takes.
const soon = time.Minute

func quiet() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	return log
}

// A reader is vpcd's end of a connection.
type reader struct {
	t  *testing.T
	nc net.Conn
}

// accept waits for a card.
func accept(t *testing.T, ln net.Listener) *reader {
	t.Helper()
	if err := ln.(*net.TCPListener).SetDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	nc, err := ln.Accept()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { nc.Close() })
	return &reader{t, nc}
}

// send writes as vpcd does: length and message with a call each.
func (r *reader) send(msg ...byte) {
	r.t.Helper()
	if _, err := r.nc.Write(binary.BigEndian.AppendUint16(nil, uint16(len(msg)))); err != nil {
		r.t.Fatal(err)
	}
	if _, err := r.nc.Write(msg); err != nil {
		r.t.Fatal(err)
	}
}

// ask sends a message and returns the answer in hex.
func (r *reader) ask(msg ...byte) string {
	r.t.Helper()
	r.send(msg...)
	return r.read()
}

func (r *reader) read() string {
	r.t.Helper()
	_ = r.nc.SetReadDeadline(time.Now().Add(soon))
	var head [2]byte
	if _, err := io.ReadFull(r.nc, head[:]); err != nil {
		r.t.Fatal(err)
	}
	msg := make([]byte, binary.BigEndian.Uint16(head[:]))
	if _, err := io.ReadFull(r.nc, msg); err != nil {
		r.t.Fatal(err)
	}
	return hex.EncodeToString(msg)
}

// gone waits for the card to go.
func (r *reader) gone() {
	r.t.Helper()
	_ = r.nc.SetReadDeadline(time.Now().Add(soon))
	if n, err := r.nc.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Fatalf("the card is still there: %d bytes, %v", n, err)
	}
}

func listen(t *testing.T, addr string) (net.Listener, netip.AddrPort) {
	t.Helper()
	ln, err := net.Listen("tcp4", addr)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	return ln, ln.Addr().(*net.TCPAddr).AddrPort()
}

// run runs f until the end of the test.
func run(t *testing.T, f func(context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	t.Cleanup(func() {
		cancel()
		select {
		case <-done:
		case <-time.After(soon):
			t.Error("doesn't end with its context")
		}
	})
}

// A noting card notes its resets, which vpcd does not answer.
type noting struct {
	*softsim.Card
	mu     sync.Mutex
	resets []bool
}

func (n *noting) Reset(cold bool) error {
	n.mu.Lock()
	n.resets = append(n.resets, cold)
	n.mu.Unlock()
	return n.Card.Reset(cold)
}

func TestSeat(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	card := &noting{Card: softsim.New(Profile(3))}
	s := NewSeat(addr, card, logrus.NewEntry(quiet()))
	run(t, s.Run)
	r := accept(t, ln)
	select {
	case <-s.Seen():
		t.Error("seen before anybody has looked")
	default:
	}
	atr := hex.EncodeToString(card.ATR())
	if got := r.ask(atrWanted); got != atr {
		t.Errorf("ATR %s", got)
	}
	<-s.Seen()
	r.send(powerOn)
	r.send(warmReset)
	r.send(powerOff)
	r.send(77) // not known, no answer
	for _, tt := range [][2]string{
		{"a0a40000022fe2", "9f0f"},
		{"a0b000000a", "988812010000000000f39000"},
		{"a0a40000", "6700"}, // four bytes are no command of T=0
		{"00a4040410" + strings.Repeat("00", 300), "6700"},
		{"", "6700"},
		{"a0b000000a", "988812010000000000f39000"},
	} {
		cmd, _ := hex.DecodeString(tt[0])
		if got := r.ask(cmd...); got != tt[1] {
			t.Errorf("%s: %s, want %s", tt[0], got, tt[1])
		}
	}
	card.mu.Lock()
	if !slices.Equal(card.resets, []bool{true, false}) {
		t.Errorf("resets %v, want one cold and one warm", card.resets)
	}
	card.mu.Unlock()

	// Several messages at once, and one byte at a time.
	both := []byte{0, 1, atrWanted, 0, 5, 0xa0, 0xb0, 0, 0, 1}
	if _, err := r.nc.Write(both); err != nil {
		t.Fatal(err)
	}
	for i := range both {
		if _, err := r.nc.Write(both[i : i+1]); err != nil {
			t.Fatal(err)
		}
	}
	for _, want := range []string{atr, "989000", atr, "989000"} {
		if got := r.read(); got != want {
			t.Errorf("%s, want %s", got, want)
		}
	}
}

func TestSeatPull(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	s := NewSeat(addr, softsim.New(Profile(0)), logrus.NewEntry(quiet()))
	run(t, s.Run)
	for range 20 {
		r := accept(t, ln)
		r.ask(atrWanted)
		s.Pull()
		s.Pull()
		r.gone()
		s.Insert()
	}
	accept(t, ln).ask(atrWanted)
}

// A card in the seat answers commands with its ICCID.
func iccid(r *reader) string {
	r.ask(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
	return r.ask(0xa0, 0xb0, 0, 0, 10)
}

func TestSeatSwap(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	log := logrus.NewEntry(quiet())
	s := NewSeat(addr, softsim.New(Profile(0)), log)
	run(t, s.Run)
	for i := range 10 {
		r := accept(t, ln)
		if got, want := iccid(r), fmt.Sprintf("988812010000000000f%d9000", i); got != want {
			t.Errorf("%s, want %s", got, want)
		}
		s.SetFault(Mute)
		s.SetATR([]byte{1})
		s.Swap(softsim.New(Profile(i+1)), log)
		r.gone()
	}
}

func TestSeatFaults(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	card := softsim.New(Profile(0))
	s := NewSeat(addr, card, logrus.NewEntry(quiet()))
	run(t, s.Run)
	r := accept(t, ln)
	good := iccid(r)
	for _, tt := range []struct {
		fault Fault
		want  string
	}{
		{Short, "90"}, {Long, strings.Repeat("00", 300)}, {None, good},
	} {
		s.SetFault(tt.fault)
		if got := iccid(r); got != tt.want {
			t.Errorf("fault %d: %s, want %s", tt.fault, got, tt.want)
		}
	}
	for _, atr := range []string{strings.Repeat("3b", 40), "3b", hex.EncodeToString(card.ATR())} {
		odd, _ := hex.DecodeString(atr)
		s.SetATR(odd)
		if got := r.ask(atrWanted); got != atr {
			t.Errorf("ATR %s, want %s", got, atr)
		}
	}
	s.SetATR(nil)
	if got := r.ask(atrWanted); got != hex.EncodeToString(card.ATR()) {
		t.Errorf("ATR %s", got)
	}
}

// A mute card waits with its next connection when the reader hears that there is no answer.
func TestSeatMute(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	s := NewSeat(addr, softsim.New(Profile(0)), logrus.NewEntry(quiet()))
	s.SetFault(Mute)
	run(t, s.Run)
	for range 3 {
		r := accept(t, ln)
		r.ask(atrWanted)
		if got := r.ask(0xa0, 0xf2, 0, 0, 0x17); got != "" {
			t.Errorf("answer %s", got)
		}
		r.gone()
	}
	// Pulled then, it doesn't wait any longer.
	r := accept(t, ln)
	r.ask(0xa0, 0xf2, 0, 0, 0x17)
	s.Pull()
	accept(t, ln).gone()
	s.SetFault(None)
	s.Insert()
	iccid(accept(t, ln))
}

func TestSeatHang(t *testing.T) {
	ln, addr := listen(t, "127.0.0.1:0")
	s := NewSeat(addr, softsim.New(Profile(0)), logrus.NewEntry(quiet()))
	run(t, s.Run)
	r := accept(t, ln)
	for _, tt := range []struct {
		fault Fault
		want  string
	}{
		{None, "9f0f"}, {Short, "90"}, {None, "9f0f"},
	} {
		s.SetFault(Hang)
		r.ask(atrWanted) // is told as ever
		r.send(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
		r.silent()
		s.SetFault(Hang) // it goes on
		r.silent()
		s.SetFault(tt.fault)
		if got := r.read(); got != tt.want {
			t.Errorf("late answer %s, want %s", got, tt.want)
		}
	}
	// One that hangs can be pulled, is there again for the next pcscd, and ends with Run.
	s.SetFault(Hang)
	for range 2 {
		r.send(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
		r.silent()
		s.Pull()
		r.gone()
		s.SetFault(Hang)
		s.Insert()
		r = accept(t, ln)
		r.send(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
		r.silent()
		r.nc.Close()
		r = accept(t, ln)
	}
	r.send(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
	r.silent()
}

// silent wants no answer for a moment.
func (r *reader) silent() {
	r.t.Helper()
	_ = r.nc.SetReadDeadline(time.Now().Add(20 * time.Millisecond))
	if n, err := r.nc.Read(make([]byte, 1)); n != 0 || !errors.Is(err, os.ErrDeadlineExceeded) {
		r.t.Errorf("%d bytes, %v", n, err)
	}
}

// A card waits for a pcscd, and comes back when one comes back.
func TestSeatRetry(t *testing.T) {
	// Nobody else takes a port there while nobody listens on it.
	ln, addr := listen(t, fmt.Sprintf("127.%d.%d.1:0", 1+os.Getpid()>>8&0x7f, os.Getpid()&0xff))
	ln.Close()
	s := NewSeat(addr, softsim.New(Profile(0)), logrus.NewEntry(quiet()))
	run(t, s.Run)
	for range 3 {
		ln, _ := listen(t, addr.String())
		r := accept(t, ln)
		r.ask(atrWanted)
		ln.Close()
		r.nc.Close()
	}
}

// listenRow listens on three ports in a row.
func listenRow(t *testing.T) (first netip.AddrPort, lns []net.Listener) {
	t.Helper()
	for try := 0; len(lns) < 3; try++ {
		if try == 50 {
			t.Fatal("no three free ports in a row")
		}
		for _, ln := range lns {
			ln.Close()
		}
		lns = lns[:0]
		ln, addr := listen(t, "127.0.0.1:0")
		lns, first = append(lns, ln), addr
		for i := uint16(1); i < 3 && int(addr.Port())+2 < 1<<16; i++ {
			ln, err := net.Listen("tcp4", netip.AddrPortFrom(addr.Addr(), addr.Port()+i).String())
			if err != nil {
				break
			}
			t.Cleanup(func() { ln.Close() })
			lns = append(lns, ln)
		}
	}
	return first, lns
}

func TestCards(t *testing.T) {
	first, lns := listenRow(t)
	ready := make(chan struct{})
	var log strings.Builder
	logger := logrus.New()
	logger.SetOutput(&log)
	t.Run("cards", func(t *testing.T) {
		run(t, func(ctx context.Context) {
			err := Cards(ctx, Config{Addr: first, Count: 3, Ready: func() { close(ready) }, Log: logger})
			if !errors.Is(err, context.Canceled) {
				t.Errorf("Cards: %v", err)
			}
		})
		for i, ln := range lns {
			select {
			case <-ready:
				t.Error("ready too early")
			default:
			}
			r := accept(t, ln)
			r.ask(atrWanted)
			r.ask(0xa0, 0xa4, 0, 0, 2, 0x2f, 0xe2)
			if got, want := r.ask(0xa0, 0xb0, 0, 0, 10), "988812010000000000f"+string(rune('0'+i))+"9000"; got != want {
				t.Errorf("card %d: %s, want %s", i, got, want)
			}
		}
		select {
		case <-ready:
		case <-time.After(soon):
			t.Error("not ready")
		}
	})
	for _, s := range []string{"card=2", "iccid=8988211000000000002", "imsi=001010000000002", first.String()} {
		if !strings.Contains(log.String(), s) {
			t.Errorf("log lacks %s:\n%s", s, log.String())
		}
	}
}

func TestCardsRange(t *testing.T) {
	local := netip.MustParseAddr("127.0.0.1")
	for _, c := range []Config{
		{Addr: netip.AddrPortFrom(local, 1000), Count: 0},
		{Addr: netip.AddrPortFrom(local, 1000), Count: MaxCards + 1},
		{Addr: netip.AddrPortFrom(local, 65535), Count: 2},
	} {
		if err := Cards(context.Background(), c); err == nil {
			t.Errorf("%+v is taken", c)
		}
	}
}

func TestProfile(t *testing.T) {
	a, b := Profile(0), Profile(999)
	if a.ICCID != "8988211000000000000" || a.IMSI != "001010000000000" || b.ICCID != "8988211000000000999" || b.IMSI != "001010000000999" {
		t.Errorf("%v, %v", a, b)
	}
}

// Out of its namespaces pcscd would take the host's place.
func TestPCSCDOutside(t *testing.T) {
	if _, err := StartPCSCD(context.Background(), 2, nil); err == nil || !strings.Contains(err.Error(), "namespaces") {
		t.Errorf("%v", err)
	}
}

var _ bankd.Card = (*noting)(nil)
