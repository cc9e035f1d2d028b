// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"os"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/ebfe/scard"
	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
	"remsim/internal/simulator"
)

// readers is the number of virtual readers; the names of the last four are as odd as they come.
const (
	readers = 8
	oddName = `Ünïcode (SIM) [x] + 読取機 \d {2}^$`
)

// longName is the longest one that pcscd takes, and isn't UTF-8.
var longName = "Caf\xe9  " + strings.Repeat("n", 114)

func name(i int) string {
	switch i {
	case 4:
		return oddName
	case 6:
		return longName
	}
	return simulator.ReaderName(i)
}

// TestMain runs the tests beside a pcscd of their own. One process knows one pcscd only.
func TestMain(m *testing.M) {
	status, err := simulator.Isolate(context.Background(), "", func(string) int {
		p, err := simulator.StartPCSCD(context.Background(), readers, name)
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		pcscd = p
		status := m.Run()
		pcscd.Stop()
		if status == 0 {
			if err := goleak.Find(); err != nil {
				fmt.Fprintln(os.Stderr, err)
				return 1
			}
		}
		return status
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// pcscd is the one that runs; a test that restarts it puts the new one here.
var pcscd *simulator.PCSCD

// A scripted card is a softsim that notes its resets and can be told to be otherwise.
type scripted struct {
	bankd.Card
	mu      sync.Mutex
	resets  []string
	atrs    map[string][]byte // ATR after that reset; none: the softsim's
	atr     []byte            // nil: the softsim's
	answer  []byte            // to every command; nil: the softsim's
	command []byte            // the last one
	working func()            // called within each command; may be nil
}

func newScripted(i int) *scripted { return &scripted{Card: softsim.New(simulator.Profile(i))} }

func (s *scripted) ATR() []byte {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.atr != nil {
		return s.atr
	}
	return s.Card.ATR()
}

func (s *scripted) Reset(cold bool) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	how := "warm"
	if cold {
		how = "cold"
	}
	s.resets = append(s.resets, how)
	if a := s.atrs[how]; a != nil {
		s.atr = a
	}
	return s.Card.Reset(cold)
}

func (s *scripted) Transmit(cmd, buf []byte) ([]byte, error) {
	s.mu.Lock()
	s.command = bytes.Clone(cmd)
	answer, working := s.answer, s.working
	s.mu.Unlock()
	if working != nil {
		working()
	}
	if answer != nil {
		return append(buf[:0], answer...), nil
	}
	return s.Card.Transmit(cmd, buf)
}

// set changes the card's script.
func (s *scripted) set(change func()) {
	s.mu.Lock()
	defer s.mu.Unlock()
	change()
}

func (s *scripted) takeResets() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	r := s.resets
	s.resets = nil
	return r
}

// insert puts a card into reader i for the time of the test.
func insert(t testing.TB, i int, card bankd.Card) *simulator.Seat {
	t.Helper()
	seat := seatOf(t, i, card)
	if !await(t, i, true, long) {
		t.Fatalf("reader %d: pcscd doesn't see the card; it says: %s", i, pcscd.Output())
	}
	return seat
}

// seatOf is insert without looking whether pcscd sees the card.
func seatOf(t testing.TB, i int, card bankd.Card) *simulator.Seat {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	first := simulator.Loopback()
	seat := simulator.NewSeat(netip.AddrPortFrom(first.Addr(), first.Port()+uint16(i)), card, logrus.NewEntry(log))
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); seat.Run(ctx) }()
	t.Cleanup(func() { cancel(); <-done; await(t, i, false, long) })
	return seat
}

// full returns the name that pcscd makes for reader i.
func full(i int) string { return fmt.Sprintf("%s 00 %02X", name(i&^1), i%2) }

// reader returns the pattern of reader i.
func reader(i int) string { return regexp.QuoteMeta(full(i)) }

func slotOf(pattern string) bankd.Slot {
	return bankd.Slot{Spec: pattern, Pattern: regexp.MustCompilePOSIX(pattern)}
}

// await waits until pcscd says that reader i has a card that is ready, or none, and reports whether
// it did so within d.
func await(t testing.TB, i int, card bool, d time.Duration) bool {
	t.Helper()
	l, err := openStatus()
	if err != nil {
		t.Fatal(err)
	}
	defer l.release()
	states := []state{{name: full(i)}}
	for end := time.Now().Add(d); ; {
		left := time.Until(end)
		if left <= 0 || l.await(states, left) != nil {
			return false
		}
		got := states[0]
		if card && got.flags&scard.StatePresent != 0 && len(got.atr) > 0 || !card && got.flags&scard.StateEmpty != 0 {
			return true
		}
		states[0].flags &^= scard.StateChanged
	}
}

// long is far more than pcscd takes to see a card come or go.
const long = 30 * time.Second

// replace puts a card that was pulled back. Where pcscd has not looked between, it may hold the reader for
// empty or the card for the old one, so that this takes patience.
func replace(t *testing.T, seat *simulator.Seat, i int) {
	t.Helper()
	for try := 0; try < 10; try++ {
		seat.Pull()
		time.Sleep(time.Duration(try+1) * 500 * time.Millisecond) // pcscd looks each 0.4 s
		seat.Insert()
		if await(t, i, true, time.Second) {
			return
		}
	}
	t.Fatalf("reader %d: pcscd doesn't see the card; it says: %s", i, pcscd.Output())
}

// open opens the card of reader i for the time of the test.
func open(t testing.TB, b Bank, i int) bankd.Card {
	t.Helper()
	c, err := b.Open(context.Background(), bankd.Slot{Reader: full(i)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

// exchange sends commands in hex and wants the answers that follow each.
func exchange(t *testing.T, c bankd.Card, steps ...string) {
	t.Helper()
	for i := 0; i < len(steps); i += 2 {
		cmd, err := hex.DecodeString(steps[i])
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Transmit(cmd, make([]byte, 0, 258))
		if got := hex.EncodeToString(resp); err != nil || got != steps[i+1] {
			t.Fatalf("%s: %s, %v; want %s", steps[i], got, err, steps[i+1])
		}
	}
}

func TestOpen(t *testing.T) {
	sim := newScripted(0)
	insert(t, 0, sim)
	sim.takeResets()
	c := open(t, Bank{}, 0)
	if !bytes.Equal(c.ATR(), sim.Card.ATR()) {
		t.Errorf("ATR % x", c.ATR())
	}
	exchange(t, c,
		"a0a40000022fe2", "9f0f", "a0b000000a", "988812010000000000f09000",
		"00a4040407a0000000871002", "6131", "00b0870009", "0809101000000000009000", "00b0000000", "6c09")
	if err := c.Close(); err != nil {
		t.Error(err)
	}
	// A pattern that fits several readers means the first, card or not.
	if c, err := (Bank{}).Open(context.Background(), slotOf("Virtual SIM")); err != nil {
		t.Error(err)
	} else {
		exchange(t, c, "a0a40000022fe2", "9f0f")
		c.Close()
	}
}

// A context that has ended opens nothing.
func TestOpenEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Bank{}).Open(ctx, slotOf(reader(0))); !errors.Is(err, context.Canceled) {
		t.Errorf("%v", err)
	}
}

func TestCheck(t *testing.T) {
	if err := (Bank{}).Check(slotOf("x")); err != nil {
		t.Error(err)
	}
	if err := (Bank{}).Check(bankd.Slot{Spec: "softsim:iccid=1,imsi=2"}); err == nil {
		t.Error("a software card is taken")
	}
}

func TestNoReader(t *testing.T) {
	_, err := Bank{}.Open(context.Background(), slotOf("^sysmocom"))
	if !errors.Is(err, bankd.ErrNoReader) {
		t.Fatalf("%v, want ErrNoReader", err)
	}
	for _, s := range []string{`"^sysmocom"`, `"Virtual SIM reader A 00 00"`, "Ünïcode"} {
		if !strings.Contains(err.Error(), s) {
			t.Errorf("%q doesn't name %s", err, s)
		}
	}
}

func TestNoCard(t *testing.T) {
	_, err := Bank{}.Open(context.Background(), slotOf(reader(1)))
	if !errors.Is(err, bankd.ErrNoCard) || !strings.Contains(err.Error(), `reader "Virtual SIM reader A 00 01": connect: `) {
		t.Errorf("%v, want ErrNoCard and the reader's name", err)
	}
}

// A single look shows all readers and the ATRs of their cards, which hear nothing of it.
func TestSingleLook(t *testing.T) {
	card := newScripted(0)
	insert(t, 0, card)
	seen, err := Bank{}.Look(context.Background())
	if err != nil || len(seen) != readers {
		t.Fatalf("%v, %v, want %d readers", seen, err, readers)
	}
	for i, r := range seen {
		if i == 0 && (!r.Present || !bytes.Equal(r.ATR, card.ATR())) || i > 0 && r.Present {
			t.Errorf("reader %d: %+v", i, r)
		}
	}
	ctx, cancel := context.WithCancel(context.Background())
	cancel()
	if _, err := (Bank{}).Look(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("nobody waits for it: %v", err)
	}
}

// A reader is found by a pattern, and by the name that Watch reports, whatever that is.
func TestOddName(t *testing.T) {
	for i := 4; i < readers; i++ {
		insert(t, i, newScripted(i))
		ask := []string{"a0a40000022fe2", "9f0f", "a0b000000a", fmt.Sprintf("988812010000000000f%d9000", i)}
		pattern := slotOf(`読取機.*0` + fmt.Sprint(i%2) + "$")
		if i >= 6 {
			pattern = slotOf("^Caf.  n+ 00 0" + fmt.Sprint(i%2) + "$")
		}
		for _, s := range []bankd.Slot{pattern, {Reader: full(i), Pattern: regexp.MustCompile("^Virtual")}} {
			c, err := Bank{}.Open(context.Background(), s)
			if err != nil {
				t.Fatal(err)
			}
			exchange(t, c, ask...)
			if err := c.Close(); err != nil {
				t.Error(err)
			}
		}
	}
}

// A reader that isn't there any more is no fault of the card.
func TestVanished(t *testing.T) {
	for _, name := range []string{"Virtual SIM reader A 00 02", oddName + " 00 02"} {
		_, err := Bank{}.Open(context.Background(), bankd.Slot{Reader: name})
		if !errors.Is(err, bankd.ErrNoReader) || !strings.Contains(err.Error(), fmt.Sprintf("reader %q: connect: ", name)) {
			t.Errorf("%v, want ErrNoReader and the reader's name", err)
		}
	}
}

// Cold is VCC off and on, warm is RST only; each reset reads the ATR that it has brought.
func TestReset(t *testing.T) {
	sim := newScripted(0)
	warm := []byte{0x3b, 0x02, 0x36, 0x02}
	cold := []byte{0x3b, 0x00}
	sim.atrs = map[string][]byte{"warm": warm}
	insert(t, 0, sim)
	c := open(t, Bank{}, 0)
	sim.takeResets()
	before := c.ATR()

	check := func(how string, atr []byte) {
		t.Helper()
		if got := sim.takeResets(); !slices.Equal(got, []string{how}) {
			t.Errorf("the card saw %v, want one %s reset", got, how)
		}
		if !bytes.Equal(c.ATR(), atr) {
			t.Errorf("ATR % x, want % x", c.ATR(), atr)
		}
		// The reset has selected the MF.
		exchange(t, c, "a0b0000001", "9400", "a0a40000022fe2", "9f0f")
	}
	if err := c.Reset(false); err != nil {
		t.Fatal(err)
	}
	check("warm", warm)
	sim.set(func() { sim.atrs["cold"] = cold })
	if err := c.Reset(true); err != nil {
		t.Fatal(err)
	}
	check("cold", cold)
	if bytes.Equal(before, warm) {
		t.Error("the ATR returned before has changed")
	}
}

// The longest command and the longest response pass.
func TestLengths(t *testing.T) {
	sim := newScripted(0)
	answer := append(bytes.Repeat([]byte{0xa5}, 256), 0x90, 0x00)
	sim.answer = answer
	insert(t, 0, sim)
	c := open(t, Bank{}, 0)
	cmd := append([]byte{0, 0xd6, 0, 0, 255}, bytes.Repeat([]byte{0x5a}, 255)...)
	resp, err := c.Transmit(cmd, make([]byte, 0, 258))
	if err != nil || !bytes.Equal(resp, answer) {
		t.Errorf("response of %d bytes, %v", len(resp), err)
	}
	sim.set(func() {
		if !bytes.Equal(sim.command, cmd) {
			t.Errorf("the card got % x", sim.command)
		}
	})
	// What no T=0 card can answer is an error.
	for _, n := range []int{259, 300} {
		sim.set(func() { sim.answer = bytes.Repeat([]byte{0x90}, n) })
		if resp, err := c.Transmit(cmd, make([]byte, 0, 258)); err == nil {
			t.Errorf("a response of %d bytes is taken: % x", n, resp)
		}
	}
}

func TestPulled(t *testing.T) {
	sim := newScripted(0)
	seat := insert(t, 0, sim)
	for _, tt := range []struct {
		name string
		use  func(bankd.Card) error
	}{
		{"transmit", func(c bankd.Card) error {
			_, err := c.Transmit([]byte{0xa0, 0xf2, 0, 0, 0x17}, make([]byte, 0, 258))
			return err
		}},
		{"cold reset", func(c bankd.Card) error { return c.Reset(true) }},
		{"warm reset", func(c bankd.Card) error { return c.Reset(false) }},
	} {
		for _, noticed := range []bool{false, true} {
			t.Run(fmt.Sprintf("%s, noticed %v", tt.name, noticed), func(t *testing.T) {
				c := open(t, Bank{}, 0)
				if err := tt.use(c); err != nil {
					t.Fatal(err)
				}
				seat.Pull()
				if noticed { // by pcscd
					await(t, 0, false, long)
				}
				if err := tt.use(c); !errors.Is(err, bankd.ErrNoCard) || !strings.Contains(err.Error(), "Virtual SIM reader A 00 00") {
					t.Errorf("%v, want ErrNoCard and the reader's name", err)
				}
				if err := c.Close(); err != nil {
					t.Errorf("Close: %v", err)
				}
				replace(t, seat, 0)
			})
		}
	}
}

// A card that is pulled while it works.
func TestPulledInTransmit(t *testing.T) {
	sim := newScripted(0)
	seat := insert(t, 0, sim)
	c := open(t, Bank{}, 0)
	gone := make(chan struct{})
	sim.set(func() { sim.working = func() { seat.Pull(); <-gone } })
	_, err := c.Transmit([]byte{0xa0, 0xf2, 0, 0, 0x17}, make([]byte, 0, 258))
	close(gone)
	if !errors.Is(err, bankd.ErrNoCard) {
		t.Errorf("%v, want ErrNoCard", err)
	}
	c.Close()
}

// Cards that are there and don't do as cards do, each with the kind of error, nil for none of them, and a
// word of the message.
func TestBadCard(t *testing.T) {
	seat := insert(t, 2, newScripted(2))
	for _, tt := range []struct {
		name  string
		fault simulator.Fault
		kind  error
		want  string
	}{
		{"no answer", simulator.Mute, bankd.ErrMute, "doesn't answer"},
		{"one byte", simulator.Short, bankd.ErrMute, "response of length 1,"},
		{"300 bytes", simulator.Long, nil, "response of length 300,"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := open(t, Bank{}, 2)
			exchange(t, c, "a0a40000022fe2", "9f0f")
			seat.SetFault(tt.fault)
			_, err := c.Transmit([]byte{0xa0, 0xf2, 0, 0, 0x17}, make([]byte, 0, 258))
			seat.SetFault(simulator.None)
			if err == nil || kind(err) != tt.kind && !errors.Is(err, tt.kind) {
				t.Errorf("%v, want %v", err, tt.kind)
			}
			for _, other := range []error{bankd.ErrMute, bankd.ErrNoCard, bankd.ErrNoReader, bankd.ErrNoService} {
				if other != tt.kind && errors.Is(err, other) {
					t.Errorf("%v, which is %v", err, other)
				}
			}
			if !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), `reader "Virtual SIM reader B 00 00": transmit: `) {
				t.Errorf("error %q", err)
			}
			// Opened anew, the card is as good as before.
			c.Close()
			exchange(t, open(t, Bank{}, 2), "a0a40000022fe2", "9f0f")
		})
	}
}

// A card that hangs holds up nobody else, not even in the other half of its reader, and its late answer is that of its command.
func TestHang(t *testing.T) {
	seat := insert(t, 0, newScripted(0))
	hung := open(t, Bank{}, 0)
	exchange(t, hung, "a0a40000022fe2", "9f0f")
	seat.SetFault(simulator.Hang)
	answer := make(chan string)
	go func() {
		resp, err := hung.Transmit([]byte{0xa0, 0xb0, 0, 0, 10}, make([]byte, 0, 258))
		answer <- fmt.Sprintf("%x, %v", resp, err)
	}()
	time.Sleep(time.Second) // pcscd's look at the card hangs, too

	r := watch(t, Bank{}.Watch)
	n := r.await(t, 0, "a list", has(0, true))
	for i := 1; i < 4; i++ {
		other := insert(t, i, newScripted(i))
		n = r.await(t, n, "another card", has(i, true))
		c := open(t, Bank{}, i)
		exchange(t, c, "a0a40000022fe2", "9f0f", "a0b000000a", fmt.Sprintf("988812010000000000f%d9000", i))
		if err := c.Reset(true); err != nil {
			t.Error(err)
		}
		c.Close()
		other.Pull()
		n = r.await(t, n, "no other card", has(i, false))
	}
	select {
	case a := <-answer:
		t.Errorf("answer %s of a card that hangs", a)
	default:
	}
	seat.SetFault(simulator.None)
	if got := <-answer; got != "988812010000000000f09000, <nil>" {
		t.Errorf("late answer %s", got)
	}
	exchange(t, hung, "a0b0000001", "989000")
}

// An ATR has 2 to 33 bytes (ISO 7816-3 8.2), and T=0 is what it says first, or nothing of protocols.
func TestBadATR(t *testing.T) {
	most := append([]byte{0x3b, 0xff, 0x13, 0, 0, 0x80, 0, 0, 0, 0}, make([]byte, 23)...)
	for _, tt := range []struct {
		name string
		atr  []byte
		kind error
		want string // in the error; empty: none
	}{
		{"33 bytes", most, nil, ""},
		{"34 bytes", append(most, 0), bankd.ErrMute, "connect: "},
		{"one byte", []byte{0x3b}, nil, "doesn't offer T=0"},
		{"nonsense", bytes.Repeat([]byte{0xff}, 20), nil, "doesn't offer T=0"},
		{"zeros", make([]byte, 8), nil, "doesn't offer T=0"},
		{"T=1", []byte{0x3b, 0x80, 0x01, 0x81}, nil, "doesn't offer T=0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			seat := seatOf(t, 2, newScripted(2))
			seat.SetATR(tt.atr)
			r := watch(t, Bank{}.Watch)
			n := r.await(t, 0, "a card", has(2, true))
			atr := r.list(n - 1)[2].ATR
			c, err := Bank{}.Open(context.Background(), slotOf(reader(2)))
			if tt.want == "" {
				if err != nil || !bytes.Equal(c.ATR(), tt.atr) || !bytes.Equal(atr, tt.atr) {
					t.Fatalf("ATR % x, %v", atr, err)
				}
				exchange(t, c, "a0a40000022fe2", "9f0f")
				c.Close()
				return
			}
			if err == nil || tt.kind != nil && !errors.Is(err, tt.kind) || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("%v, want %v and %q", err, tt.kind, tt.want)
			}
		})
	}
}

// What virtual readers can't do.
func TestKind(t *testing.T) {
	for _, tt := range []struct{ err, want error }{
		{scard.ErrUnresponsiveCard, bankd.ErrMute},
		{scard.ErrUnpoweredCard, bankd.ErrMute},
		{scard.ErrReaderUnavailable, bankd.ErrNoReader},
		{scard.ErrUnknownReader, bankd.ErrNoReader},
		{scard.ErrServiceStopped, bankd.ErrNoService},
		{scard.ErrCommError, bankd.ErrNoService},
		{scard.ErrNotTransacted, bankd.ErrMute},
		{lengthError(0), bankd.ErrMute},
		{lengthError(1), bankd.ErrMute},
		{lengthError(259), nil},
		{scard.ErrInternalError, nil},
		{errors.New("other"), nil},
	} {
		if got := kind(tt.err); got != tt.want {
			t.Errorf("kind(%v) = %v, want %v", tt.err, got, tt.want)
		}
		if err := fault("x", tt.err); !errors.Is(err, tt.err) || tt.want != nil && !errors.Is(err, tt.want) {
			t.Errorf("fault: %v", err)
		}
	}
}

func TestSharing(t *testing.T) {
	insert(t, 0, newScripted(0))
	for _, tt := range []struct{ first, second, ok bool }{ // shared, shared, both may have it
		{false, false, false}, {false, true, false}, {true, false, false}, {true, true, true},
	} {
		one, err := Bank{Shared: tt.first}.Open(context.Background(), slotOf(reader(0)))
		if err != nil {
			t.Fatal(err)
		}
		two, err := Bank{Shared: tt.second}.Open(context.Background(), slotOf(reader(0)))
		if (err == nil) != tt.ok {
			t.Errorf("shared %v, then %v: %v", tt.first, tt.second, err)
		}
		if err != nil && !strings.Contains(strings.ToLower(err.Error()), "sharing violation") {
			t.Errorf("error %q doesn't say why", err)
		}
		if err == nil {
			exchange(t, two, "a0a40000022fe2", "9f0f")
			exchange(t, one, "a0b000000a", "988812010000000000f09000")
			two.Close()
		}
		one.Close()
	}
}

// Cards in different readers work at the same time.
func TestParallel(t *testing.T) {
	var wg sync.WaitGroup
	for i := range readers {
		insert(t, i, newScripted(i))
	}
	for i := range readers {
		c := open(t, Bank{}, i)
		wg.Go(func() {
			want := fmt.Sprintf("988812010000000000f%d9000", i)
			for range 200 {
				for cmd, want := range map[string]string{"a0a40000022fe2": "9f0f", "00b082000a": want} {
					b, _ := hex.DecodeString(cmd)
					if resp, err := c.Transmit(b, make([]byte, 0, 258)); err != nil || hex.EncodeToString(resp) != want {
						t.Errorf("reader %d: %s: %x, %v", i, cmd, resp, err)
						return
					}
				}
			}
		})
	}
	wg.Wait()
}

// pcscd goes and comes back: errors say so, and afterwards all is well.
func TestService(t *testing.T) {
	insert(t, 0, newScripted(0))
	c := open(t, Bank{}, 0)
	pcscd.Kill()
	if _, err := c.Transmit([]byte{0xa0, 0xf2, 0, 0, 0x17}, make([]byte, 0, 258)); !errors.Is(err, bankd.ErrNoService) {
		t.Errorf("Transmit: %v", err)
	}
	if err := c.Close(); err != nil {
		t.Errorf("Close: %v", err)
	}
	_, err := Bank{}.Open(context.Background(), slotOf(reader(0)))
	if !errors.Is(err, bankd.ErrNoService) {
		t.Errorf("Open: %v", err)
	}
	if seen, err := (Bank{}).Look(context.Background()); !errors.Is(err, bankd.ErrNoService) {
		t.Errorf("Look: %v, %v", seen, err)
	}
	start(t, readers)
	await(t, 0, true, long)
	exchange(t, open(t, Bank{}, 0), "a0a40000022fe2", "9f0f")
}

// BenchmarkTransmit is a SELECT through scard, pcscd and a virtual reader.
func BenchmarkTransmit(b *testing.B) {
	insert(b, 0, softsim.New(simulator.Profile(0)))
	c := open(b, Bank{}, 0)
	cmd, buf := []byte{0xa0, 0xa4, 0, 0, 2, 0x3f, 0}, make([]byte, 0, 258)
	b.ReportAllocs()
	for b.Loop() {
		if _, err := c.Transmit(cmd, buf); err != nil {
			b.Fatal(err)
		}
	}
}
