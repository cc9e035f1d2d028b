// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"testing"
	"time"

	"remsim/internal/simulator/board"
	"remsim/internal/simulator/modem"
)

func unhex(t *testing.T, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// fill returns n bytes that are all different, as far as that goes.
func fill(n int) []byte {
	b := make([]byte, n)
	for i := range b {
		b[i] = byte(i*7 + n)
	}
	return b
}

// clean fails the test when the device had to drop something, or answered a command with what came before it.
func clean(t *testing.T, d *device) {
	t.Helper()
	for i, s := range d.board.Slots() {
		if st := s.Stats(); st.Dropped+st.Strange+st.Stale > 0 {
			t.Errorf("slot %d: %+v", i, st)
		}
	}
}

// Each command brings the card what the modem has sent, and the modem what the card has answered, whatever their lengths are: messages of
// one to four whole packets both ways, the longest ones, and commands of which only the modem knows what they are.
func TestCommands(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	type command struct {
		name    string
		command []byte
		answer  []byte
	}
	var commands []command
	add := func(name, header string, data, answer []byte, sw string) {
		commands = append(commands, command{name, append(unhex(t, header), data...), append(answer, unhex(t, sw)...)})
	}
	for _, size := range []int{64, 128, 192, 256} { // of an RX_DATA
		n := size - 14
		add(fmt.Sprintf("data to the card in a message of %d bytes", size), fmt.Sprintf("a0dc0104%02x", n), fill(n), nil, "9000")
	}
	for _, size := range []int{64, 128, 192, 256} { // of a TX_DATA; with 16 bytes of the status word, too
		for _, n := range []int{size - 15, size - 15 - 16} {
			add(fmt.Sprintf("%d bytes from the card", n), fmt.Sprintf("00b20104%02x", n), nil, fill(n), "9000")
		}
	}
	for _, n := range []int{1, 248, 249, 250, 251, 255, 256} {
		add(fmt.Sprintf("%d bytes from the card", n), fmt.Sprintf("00b00000%02x", byte(n)), nil, fill(n), "9000")
	}
	for _, n := range []int{1, 49, 113, 241, 255} {
		add(fmt.Sprintf("%d bytes to the card", n), fmt.Sprintf("00d60000%02x", n), fill(n), nil, "9000")
	}
	add("status word alone", "00b0000010", nil, nil, "6a82")
	add("no data", "0044000000", nil, nil, "9000")
	add("data to the card with P3 = 0", "0020000100", nil, nil, "63c3")
	add("unknown class and instruction with data", "0100000003", []byte{0x40, 1, 1}, nil, "6e00")
	add("unknown instruction with data", "00fb000002", []byte{0xca, 0xfe}, nil, "6d00")
	add("unknown instruction without data", "00fb000000", nil, nil, "6d00")
	add("wrong length", "80ca00ff00", nil, nil, "6c05")
	add("the same with the right one", "80ca00ff05", nil, fill(5), "9000")
	add("wrong length of GET RESPONSE", "00c0000000", nil, nil, "6c07")
	add("GET RESPONSE with the right one", "00c0000007", nil, fill(7), "9000")
	for _, c := range commands {
		t.Run(c.name, func(t *testing.T) {
			wait := d.ask(0, c.command, c.answer)
			if got := o.command(); !bytes.Equal(got, c.command) {
				t.Errorf("the card gets %x, want %x", got, c.command)
			}
			o.answer(c.answer)
			if err := wait(); err != nil {
				t.Error(err)
			}
		})
	}
	clean(t, d)
}

// An unknown command whose data the modem doesn't deliver has none, which is known from then on.
func TestUnknownWithoutData(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	read, want := unhex(t, "01fb000004"), append(fill(4), 0x90, 0) // answered with data, but no table knows that
	// The modem takes the procedure byte as the announcement of data, and gives up.
	var fault *modem.Fault
	if err := d.ask(0, read, want)(); !errors.As(err, &fault) {
		t.Fatalf("first try: %v", err)
	}
	wait := d.ask(0, read, want)
	if got := o.command(); !bytes.Equal(got, read) {
		t.Errorf("the card gets %x, want %x", got, read)
	}
	o.answer(want)
	if err := wait(); err != nil {
		t.Error(err)
	}
	clean(t, d)
}

// The command right after a PTS arrives, however often that is tried.
func TestCommandAfterPTS(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	w.client(0, d, 0)
	d.operational(0)
	select0 := unhex(t, "a0a40000023f00")
	twin := newTwin(0)
	want, err := twin.Transmit(t.Context(), select0)
	if err != nil {
		t.Fatal(err)
	}
	for n := range 20 {
		d.do(0, func(ctx context.Context, terminal *modem.Terminal) {
			if _, err := terminal.WarmReset(ctx); err != nil {
				t.Fatal(n, err)
			}
			if err := terminal.PTS(ctx, 0x94); err != nil {
				t.Fatal(n, err)
			}
			x, err := terminal.Transmit(ctx, select0)
			if err != nil || !bytes.Equal(x.Response, want.Response) {
				t.Fatalf("%d: %x, %v, want %x", n, x.Response, err, want.Response)
			}
		})
	}
	clean(t, d)
}

// A modem that resets its card, warm or cold, in the middle of a command, gets no answer of before the reset, whenever that comes.
func TestResetDuringCommand(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	late, next := unhex(t, "00b0000004"), unhex(t, "00b0000005")
	for _, how := range []string{"warm", "cold"} {
		for _, when := range []string{"late", "never"} {
			t.Run(how+", answer "+when, func(t *testing.T) {
				got := make(chan struct{})
				wait := d.begin(0, func(ctx context.Context, terminal *modem.Terminal) error {
					short, cancel := context.WithCancel(ctx)
					go func() { <-got; cancel() }()
					if x, err := terminal.Transmit(short, late); !errors.Is(err, context.Canceled) {
						return fmt.Errorf("%x, %w", x.Response, err)
					}
					reset := terminal.WarmReset
					if how == "cold" {
						reset = terminal.PowerUp
					}
					if atr, err := reset(ctx); err != nil || !bytes.Equal(atr, softATR()) {
						return fmt.Errorf("ATR %x, %w", atr, err)
					}
					return nil
				})
				o.command()
				close(got)
				if err := wait(); err != nil {
					t.Fatal(err)
				}
				o.reset()
				if when == "late" {
					o.answer(append(fill(4), 0x90, 0))
					time.Sleep(100 * time.Millisecond) // for it to do harm
				}
				want := append(fill(5), 0x90, 0)
				wait = d.ask(0, next, want)
				if got := o.command(); !bytes.Equal(got, next) {
					t.Errorf("the card gets %x, want %x", got, next)
				}
				o.answer(want)
				if err := wait(); err != nil {
					t.Error(err)
				}
			})
		}
	}
	clean(t, d)
}

// A modem that resets its card while it sends the command's data gets the next command answered.
func TestResetDuringData(t *testing.T) {
	w := newWorld(t, 1)
	d := plugged(t, 0, board.Config{Slots: 1})
	w.create(0, 0)
	w.client(0, d, 0)
	d.operational(0)
	slot := d.board.Slots()[0]
	for range 5 {
		d.do(0, func(ctx context.Context, terminal *modem.Terminal) {
			slot.Write(unhex(t, "a0a4000002")) // and wait for the procedure byte
			b, _, err := slot.Read(ctx)
			if err != nil || !bytes.Equal(b, []byte{0xa4}) {
				t.Fatalf("procedure byte %x, %v", b, err)
			}
			slot.Write([]byte{0x3f})
			if _, err := terminal.WarmReset(ctx); err != nil {
				t.Fatal(err)
			}
			x, err := terminal.Transmit(ctx, unhex(t, "a0a40000027f20"))
			if err != nil || x.SW()>>8 != 0x9f {
				t.Fatalf("%x, %v", x.Response, err)
			}
		})
	}
	clean(t, d)
}

// While a card takes its time, the device keeps the modem patient, and the answer comes.
func TestSlowCard(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	want := append(fill(9), 0x90, 0)
	wait := d.ask(0, unhex(t, "00b0000009"), want)
	o.command()
	time.Sleep(3 * time.Second)
	eventually(t, "NULL bytes", func() error {
		if n := d.board.Slots()[0].Stats().Nulls; n < 3 {
			return fmt.Errorf("%d, with a waiting time of %v", n, d.board.Slots()[0].WaitingTime())
		}
		return nil
	})
	o.answer(want)
	if err := wait(); err != nil {
		t.Error(err)
	}
	clean(t, d)
}

// Transfers that the bus disturbs are tried again.
func TestDisturbedBus(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	want := append(fill(3), 0x90, 0)
	for _, irq := range []bool{false, true} {
		for range 3 {
			mark := o.client.Mark()
			d.board.Slots()[0].FailTransfers(irq, 1)
			// What comes before the client has seen that may be lost, what comes later isn't.
			if line, err := o.client.AwaitFrom(mark, soon, "USB transfers failed"); err != nil {
				t.Fatal(line, err)
			}
		}
		wait := d.ask(0, unhex(t, "00b0000003"), want)
		o.command()
		o.answer(want)
		if err := wait(); err != nil {
			t.Error(err)
		}
	}
	clean(t, d)
}

// What no firmware would send is skipped, and the session goes on.
func TestStrangeMessages(t *testing.T) {
	d := plugged(t, 0, board.Config{Slots: 1})
	o := newOffice(t, d)
	want := append(fill(3), 0x90, 0)
	for _, b := range []string{
		"0106000000000000",                          // length 0
		"01060000000007",                            // shorter than a header
		"0106000000001300010000000900a0b0000003",    // data_len beyond its end
		"010600000000ffff0100000005",                // longer than any message
		"0163000000000800",                          // unknown type
		"0963000000000800",                          // unknown class
		"0106000000000e00010000000000",              // a header of no bytes
		"00000000000012000101000005" + "6572726f72", // an error report
		"", // an empty packet
	} {
		for _, irq := range []bool{false, true} {
			d.board.Slots()[0].Inject(irq, unhex(t, b))
		}
		time.Sleep(20 * time.Millisecond) // for the client to read it
		wait := d.ask(0, unhex(t, "00b0000003"), want)
		o.command()
		o.answer(want)
		if err := wait(); err != nil {
			t.Errorf("after %s: %v", b, err)
		}
	}
}
