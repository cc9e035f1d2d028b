// SPDX-License-Identifier: GPL-2.0-or-later

// Package modem plays modems behind card emulators in software: what they ask of a SIM, and
// how they judge what comes.
package modem

import (
	"context"
	"errors"
	"fmt"
	"time"

	"remsim/internal/simulator/board"
)

// A Terminal is the modem's card interface: the interface device of ISO 7816-3. One goroutine uses it at a time.
type Terminal struct {
	Slot *board.Slot
	// LocalATR is the ATR of the SIM that the modem has when the emulated one isn't connected. That card knows no command.
	LocalATR []byte
	// Settle is how long the terminal waits after an ATR. The host is told of a reset's end and of the first command by two
	// endpoints, and only time puts them in order.
	Settle time.Duration

	atr  []byte
	buf  []byte
	at   time.Time // when the last byte was sent
	dead bool      // out of step with the card until the next reset
}

// An Exchange is a command and what came of it.
type Exchange struct {
	Command  []byte
	Response []byte        // data and status word
	Took     time.Duration // from the header to the status word
	Nulls    int           // NULL bytes on the way
}

// SW returns the status word; 0 when there is none.
func (x Exchange) SW() uint16 {
	if n := len(x.Response); n >= 2 {
		return uint16(x.Response[n-2])<<8 | uint16(x.Response[n-1])
	}
	return 0
}

// A Fault is a breach of ISO 7816-3 by the card: a modem would reset it.
type Fault struct {
	Command []byte // nil: none was going on
	What    string
}

func (f *Fault) Error() string {
	if f.Command == nil {
		return "modem: " + f.What
	}
	return fmt.Sprintf("modem: command %x: %s", f.Command, f.What)
}

// ErrLocal is the error of a command to the modem's local SIM.
var ErrLocal = errors.New("modem: the emulated SIM isn't connected")

// Bytes of T=0 (ISO 7816-3 9.2, 10.3).
const (
	null = 0x60
	ptss = 0xff
)

// patience is how many waiting times a modem waits, one in truth: both sides' time passes in jumps where this computer is busy.
const patience = 4

// wait is how long the card may take for a byte.
func (t *Terminal) wait() time.Duration { return patience * t.Slot.WaitingTime() }

// atrTimeout is how long a card may take to begin its ATR, and between two bytes of it: 40,000 clock cycles, 9,600 etu
// (ISO 7816-3 6.2.2, 7.2), and more, for an emulator that doesn't run in real time.
const atrTimeout = 2 * time.Second

// hold is how long a modem leaves the contacts as they are when it switches a card on or resets it. Those of ISO 7816-3 6.2 are minima,
// of 400 clock cycles and less.
const hold = 5 * time.Millisecond

// PowerUp powers the card up, or down and up again, and returns its ATR (ISO 7816-3 6.2).
func (t *Terminal) PowerUp(ctx context.Context) ([]byte, error) {
	t.PowerDown()
	time.Sleep(hold)
	t.Slot.SetVCC(true)
	time.Sleep(hold)
	t.Slot.SetCLK(true)
	return t.release(ctx)
}

// PowerDown takes reset, clock and power from the card (ISO 7816-3 6.4).
func (t *Terminal) PowerDown() {
	t.Slot.SetRST(true)
	t.Slot.SetCLK(false)
	t.Slot.SetVCC(false)
	t.buf = nil
}

// WarmReset resets the card, whatever it does, and returns its ATR (ISO 7816-3 6.2.3).
func (t *Terminal) WarmReset(ctx context.Context) ([]byte, error) {
	t.Slot.SetRST(true)
	t.buf = nil
	return t.release(ctx)
}

func (t *Terminal) release(ctx context.Context) ([]byte, error) {
	t.dead, t.atr = false, nil
	time.Sleep(hold)
	t.Slot.SetRST(false)
	if !t.Slot.Remote() {
		t.atr = t.LocalATR
		return t.atr, nil
	}
	atr, err := readATR(func() (byte, error) { return t.read(ctx, atrTimeout) })
	if err != nil {
		t.dead = true
		return nil, err
	}
	t.atr = atr
	select {
	case <-time.After(t.Settle):
		return atr, nil
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// readATR reads an ATR by what it says of its own length (ISO 7816-3 8.2).
func readATR(next func() (byte, error)) (atr []byte, err error) {
	take := func() byte {
		var c byte
		if err == nil {
			if c, err = next(); err == nil {
				atr = append(atr, c)
			}
		}
		return c
	}
	if ts := take(); err == nil && ts != 0x3b && ts != 0x3f {
		return nil, &Fault{What: fmt.Sprintf("ATR begins with %02x", ts)}
	}
	t0 := take()
	check := false // TCK, which is there unless T=0 alone is indicated
	for y := t0 >> 4; y != 0 && err == nil; {
		for range popcount(y & 7) {
			take()
		}
		if y&8 == 0 {
			break
		}
		td := take()
		check = check || td&15 != 0
		y = td >> 4
		if len(atr) > 32 {
			return nil, &Fault{What: fmt.Sprintf("ATR %x has no end", atr)}
		}
	}
	for range t0 & 15 {
		take()
	}
	if check {
		take()
		var sum byte
		for _, c := range atr[min(1, len(atr)):] {
			sum ^= c
		}
		if err == nil && sum != 0 {
			return nil, &Fault{What: fmt.Sprintf("ATR %x: its check byte is wrong", atr)}
		}
	}
	if err != nil {
		return nil, fmt.Errorf("modem: ATR, after %x: %w", atr, err)
	}
	return atr, nil
}

func popcount(b byte) (n int) {
	for ; b != 0; b &= b - 1 {
		n++
	}
	return n
}

// ATR returns the last ATR; nil when there was none.
func (t *Terminal) ATR() []byte { return t.atr }

// PTS asks for other transmission factors, F and D as TA1 has them (ISO 7816-3 9).
func (t *Terminal) PTS(ctx context.Context, ta1 byte) error {
	const pts1Follows = 0x10
	request := []byte{ptss, pts1Follows, ta1, ptss ^ pts1Follows ^ ta1}
	t.Slot.Write(request)
	for i, want := range request {
		got, err := t.read(ctx, t.wait())
		if err != nil {
			t.dead = true
			return fmt.Errorf("modem: PTS: %w", err)
		}
		if got != want {
			t.dead = true
			return &Fault{What: fmt.Sprintf("PTS: byte %d is %02x, want %02x", i, got, want)}
		}
	}
	return nil
}

// read returns the next byte of the card.
func (t *Terminal) read(ctx context.Context, d time.Duration) (byte, error) {
	if len(t.buf) == 0 {
		wait, cancel := context.WithTimeout(ctx, d)
		defer cancel()
		var err error
		if t.buf, t.at, err = t.Slot.Read(wait); err != nil {
			if ctx.Err() != nil {
				return 0, ctx.Err()
			}
			return 0, &Fault{What: fmt.Sprintf("nothing for %v", d)}
		}
	}
	c := t.buf[0]
	t.buf = t.buf[1:]
	return c, nil
}

// Transmit sends a command TPDU, of a header and, for one with data to the card, P3 bytes, and judges each byte that
// comes (ISO 7816-3 10.3). After an error the card has to be reset. When ctx ends the command is left as it is.
func (t *Terminal) Transmit(ctx context.Context, command []byte) (x Exchange, err error) {
	x.Command = command
	if len(command) < 5 || len(command) > 5 && len(command) != 5+int(command[4]) {
		return x, fmt.Errorf("modem: command %x: want five bytes, or P3 bytes after them", command)
	}
	if !t.Slot.Remote() {
		return x, ErrLocal
	}
	if t.dead {
		return x, &Fault{command, "out of step with the card, which needs a reset"}
	}
	fail := func(err error) (Exchange, error) {
		t.dead = true
		var f *Fault
		if errors.As(err, &f) {
			f.Command = command
		}
		return x, err
	}
	past, cancel := context.WithCancel(ctx)
	cancel()
	stray, _, _ := t.Slot.Read(past)
	if stray = append(t.buf, stray...); len(stray) > 0 {
		return fail(&Fault{What: fmt.Sprintf("the card has sent %x unasked", stray)})
	}
	ins, data := command[1], command[5:]
	left := len(data) // to be sent
	want := 0         // to come
	if left == 0 {
		want = int(command[4])
		if want == 0 {
			want = 256
		}
	}
	start := time.Now()
	t.Slot.Write(command[:5])
	for {
		pb, err := t.read(ctx, t.wait())
		if err != nil {
			return fail(err)
		}
		n := 0
		switch {
		case pb == null:
			x.Nulls++
			continue
		case pb == ins:
			n = max(left, want)
		case pb == ^ins:
			n = 1
		case pb&0xf0 == 0x60 || pb&0xf0 == 0x90:
			sw2, err := t.read(ctx, t.wait())
			if err != nil {
				return fail(err)
			}
			x.Response = append(x.Response, pb, sw2)
			x.Took = t.at.Sub(start)
			return x, nil
		default:
			return fail(&Fault{What: fmt.Sprintf("%02x is no procedure byte", pb)})
		}
		switch {
		case left > 0:
			t.Slot.Write(data[len(data)-left:][:n])
			left -= n
		case want > 0:
			for range n {
				c, err := t.read(ctx, t.wait())
				if err != nil {
					return fail(err)
				}
				x.Response = append(x.Response, c)
			}
			want -= n
		default:
			return fail(&Fault{What: fmt.Sprintf("procedure byte %02x after all data", pb)})
		}
	}
}
