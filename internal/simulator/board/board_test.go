// SPDX-License-Identifier: GPL-2.0-or-later

package board

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"remsim/internal/simtrace"
	"remsim/internal/simulator/usbip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A rig is a board whose host is a test.
type rig struct {
	t     *testing.T
	board *Board
	slot  *Slot
}

func newRig(t *testing.T) *rig {
	t.Helper()
	b := New(Config{})
	if err := b.Attached(true); err != nil {
		t.Fatal(err)
	}
	r := &rig{t, b, b.Slots()[0]}
	r.control(0x00, 9, 1, 0) // SET_CONFIGURATION
	return r
}

func (r *rig) control(typ, request uint8, value, length uint16) []byte {
	r.t.Helper()
	d, err := r.board.Control(usbip.Setup{Type: typ, Request: request, Value: value, Length: length}, nil)
	if err != nil {
		r.t.Fatal(err)
	}
	return d
}

// send sends messages in one transfer.
func (r *rig) send(messages ...simtrace.Message) {
	r.t.Helper()
	var b []byte
	var err error
	for _, m := range messages {
		if b, err = simtrace.Append(b, m); err != nil {
			r.t.Fatal(err)
		}
	}
	if shake := r.board.Out(4, b, true); shake != usbip.ACK {
		r.t.Fatalf("handshake %d", shake)
	}
}

// packets returns what waits at an endpoint, packet by packet.
func (r *rig) packets(ep uint8) (all []string) {
	for {
		p, shake := r.board.In(ep)
		if shake != usbip.ACK {
			return all
		}
		all = append(all, hex.EncodeToString(p))
	}
}

// told returns what waits at an endpoint as messages in hexadecimal without their reserved bytes.
func (r *rig) told(ep uint8) string {
	var all []string
	for _, p := range r.packets(ep) {
		if len(p) < 16 {
			r.t.Fatalf("packet %q", p)
		}
		all = append(all, p[:4]+":"+p[16:])
	}
	return strings.Join(all, " ")
}

const (
	bulkEP = 5
	irqEP  = 6
)

// sent returns what the modem gets.
func (r *rig) sent() string {
	ctx, cancel := context.WithCancel(r.t.Context())
	cancel()
	b, _, _ := r.slot.Read(ctx)
	return hex.EncodeToString(b)
}

func (r *rig) write(s string) {
	r.t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		r.t.Fatal(err)
	}
	r.slot.Write(b)
}

func (r *rig) check(what, got, want string) {
	r.t.Helper()
	if got != want {
		r.t.Errorf("%s: %s, want %s", what, got, want)
	}
}

// on has the modem switch the emulated card on, and returns the ATR.
func (r *rig) on() string {
	r.t.Helper()
	r.send(&simtrace.SimSelect{Remote: true})
	r.slot.SetVCC(true)
	r.slot.SetCLK(true)
	r.slot.SetRST(false)
	time.Sleep(time.Second)
	synctest.Wait()
	return r.sent()
}

// The contacts, as the host is told of them, and the states that they lead to.
func TestContacts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.send(&simtrace.Config{Features: simtrace.StatusOnIRQ})
		r.check("answer to CONFIG", r.told(bulkEP), "0108:010000000003")
		step := func(what string, do func(), state, status string) {
			t.Helper()
			do()
			synctest.Wait()
			r.check(what+": state", r.slot.State(), state)
			r.check(what+": status", r.told(irqEP), status)
		}
		const rest = "0000" + "01010a80250000"
		const powered = "860b" + "01010a80250000"
		step("VCC with the local SIM", func() { r.slot.SetVCC(true); r.slot.SetCLK(true) }, "wait-power", "")
		step("remote SIM", func() { r.send(&simtrace.SimSelect{Remote: true}) }, "wait-rst", "0104:11000000"+powered+" 0104:13000000"+powered)
		step("RST", func() { r.slot.SetRST(false) }, "wait-atr", "0104:03000000"+powered)
		step("ATR", func() { time.Sleep(100 * time.Millisecond) }, "wait-tpdu", "")
		r.check("ATR", r.sent(), "3b8080811fc759")
		step("PTS", func() { r.write("ff10947b") }, "wait-tpdu", "")
		r.check("PTS", r.sent(), "ff10947b")
		r.check("message of PTS", r.told(bulkEP), "0107:04ff10947b0000ff10947b0000")
		r.send(&simtrace.StatusReq{})
		r.check("status that was asked for", r.told(bulkEP), "0104:03000000860b09040a002c0100")
		step("warm reset", func() { r.slot.SetRST(true) }, "wait-rst", "0104:13000000"+powered)
		step("the same again", func() { r.slot.SetRST(true) }, "wait-rst", "")
		step("its end", func() { r.slot.SetRST(false) }, "wait-atr", "0104:03000000"+powered)
		step("local SIM", func() { r.send(&simtrace.SimSelect{}) }, "wait-power", "0104:02000000"+rest+" 0104:00000000"+rest)
	})
}

// ATRs come at the reset after they were set; those that are too long never do.
func TestATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		long := append([]byte{0x3b}, make([]byte, simtrace.MaxATR-1)...)
		r.send(&simtrace.SetATR{ATR: []byte{0x3b, 0x00}}, &simtrace.SetATR{ATR: append(long, 0)})
		r.check("ATR", r.on(), "3b00")
		r.send(&simtrace.SetATR{ATR: long})
		r.check("without a reset", r.sent(), "")
		r.slot.SetRST(true)
		r.slot.SetRST(false)
		time.Sleep(time.Second)
		r.check("after one", r.sent(), hex.EncodeToString(long))
	})
}

func TestWaitingInteger(t *testing.T) {
	for atr, want := range map[string]uint8{
		"": 10, "3b": 10, "3b00": 10, "3b80": 10, "3b8040": 10, // without TC2
		"3b9e94801fc78031": 10, "3bc00040": 10, // T=0 in TD1, TC1 alone
		"3b804014": 20, "3bf0112233c0ff05": 255, "3b8050ff05": 5, // TC2, after TA2 or not
		"3b804000": 10, // reserved
	} {
		b, err := hex.DecodeString(atr)
		if err != nil {
			t.Fatal(err)
		}
		if got := waitingInteger(b); got != want {
			t.Errorf("%s: %d, want %d", atr, got, want)
		}
	}
}

// Commands go from the modem to the host, and answers back.
func TestCommand(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.on()
		tx := func(flags simtrace.DataFlags, data string) *simtrace.TxData {
			b, err := hex.DecodeString(data)
			if err != nil {
				t.Fatal(err)
			}
			return &simtrace.TxData{Flags: flags, Data: b}
		}
		// Data to the card.
		r.write("a0a4")
		r.check("half a header", r.told(bulkEP), "")
		r.write("000002")
		r.check("header", r.told(bulkEP), "0106:010000000500a0a4000002")
		r.send(tx(simtrace.ContinueRx, "a4"))
		r.check("procedure byte", r.sent(), "a4")
		r.write("3f")
		r.check("half of the data", r.told(bulkEP), "")
		r.write("00")
		r.check("data", r.told(bulkEP), "0106:0200000002003f00")
		r.send(tx(simtrace.ContinueTx|simtrace.Final, "9f17"))
		r.check("status word", r.sent(), "9f17")
		// Data from it, with the status word in the same transfer; the next command comes at once.
		r.write("a0c0000002")
		r.check("header", r.told(bulkEP), "0106:010000000500a0c0000002")
		r.send(tx(simtrace.ContinueTx, "c01122"), tx(simtrace.ContinueTx|simtrace.Final, "9000"))
		r.check("data and status word", r.sent(), "c011229000")
		r.check("state", r.slot.State(), "wait-tpdu")
		// The modem is kept patient at half of the waiting time, of 9600 etu of 372 cycles.
		r.write("a0b0000001")
		time.Sleep(r.slot.WaitingTime()/2 - time.Millisecond)
		synctest.Wait()
		r.check("before half of the waiting time", r.sent(), "")
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		r.check("after it", r.sent(), "60")
		time.Sleep(r.slot.WaitingTime())
		synctest.Wait()
		r.check("later", r.sent(), "6060")
		r.send(tx(simtrace.ContinueTx|simtrace.Final, "9404"))
		r.check("status word", r.sent(), "9404")
		time.Sleep(r.slot.WaitingTime() * 2)
		synctest.Wait()
		r.check("afterwards", r.sent(), "")
		if want := 1098 * time.Millisecond; r.slot.WaitingTime().Truncate(time.Millisecond) != want {
			t.Errorf("waiting time %v, want %v", r.slot.WaitingTime(), want)
		}
		// An answer that comes too late answers the next command, one that comes in a reset is dropped.
		r.packets(bulkEP)
		r.send(tx(simtrace.ContinueTx|simtrace.Final, "6f00"))
		r.write("a0b0000001")
		r.check("answer to another command", r.sent(), "6f00")
		r.slot.SetRST(true)
		r.send(tx(simtrace.ContinueTx|simtrace.Final, "6f00"))
		r.slot.SetRST(false)
		time.Sleep(time.Second)
		r.check("after a reset", r.sent(), "3b8080811fc759")
		r.write("a0b0000001")
		r.check("answer of before the reset", r.sent(), "")
		if s := r.slot.Stats(); s.Stale != 1 || s.Ignored != 1 || s.Nulls != 3 || s.Commands != 5 {
			t.Errorf("statistics %+v", s)
		}
		r.slot.SetVCC(false)
	})
}

// What waits for a host that doesn't come for it: one message on its way, three behind it, of which the oldest
// gives way.
func TestDropsOldest(t *testing.T) {
	r := newRig(t)
	for i := range 6 {
		r.slot.Inject(false, []byte{byte(i)})
	}
	r.check("messages", strings.Join(r.packets(bulkEP), " "), "00 03 04 05")
	if n := r.slot.Stats().Dropped; n != 2 {
		t.Errorf("%d dropped, want 2", n)
	}
}

// An empty packet follows messages of one whole packet, and no others.
func TestPackets(t *testing.T) {
	r := newRig(t)
	for n, want := range map[int][]int{0: {0}, 1: {1}, 63: {63}, 64: {64, 0}, 65: {64, 1}, 128: {64, 64}, 192: {64, 64, 64}, 256: {64, 64, 64, 64}, 280: {64, 64, 64, 64, 24}} {
		r.slot.Inject(false, make([]byte, n))
		var got []int
		for _, p := range r.packets(bulkEP) {
			got = append(got, len(p)/2)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("message of %d bytes in packets of %v, want %v", n, got, want)
		}
	}
}

// Transfers of whole packets end with the next one that isn't full.
func TestTransfers(t *testing.T) {
	whole, err := simtrace.Append(nil, &simtrace.SetATR{ATR: append([]byte{0x3b}, make([]byte, 54)...)}) // 64 bytes, and ignored
	if err != nil || len(whole) != simtrace.PacketSize {
		t.Fatal(len(whole), err)
	}
	for _, tt := range []struct {
		name      string
		transfers []string
		zero      bool
		messages  int
		strange   int
	}{
		{name: "without an end", transfers: []string{string(whole)}},
		{name: "with an empty packet", transfers: []string{string(whole), ""}, messages: 1},
		{name: "with one that the host adds", transfers: []string{string(whole)}, zero: true, messages: 1},
		{name: "with the next message", transfers: []string{string(whole), string(whole[:8])}, messages: 1, strange: 1},
		{name: "two messages", transfers: []string{string(whole) + "\x01\x03\x00\x00\x00\x00\x08\x00"}, messages: 2},
		{name: "too long", transfers: []string{strings.Repeat("x", 281)}, strange: 1},
		{name: "half a header", transfers: []string{"abc"}, strange: 1},
		{name: "length 0", transfers: []string{"\x01\x03\x00\x00\x00\x00\x00\x00"}, strange: 1},
		{name: "length beyond the end", transfers: []string{"\x01\x03\x00\x00\x00\x00\x09\x00"}, strange: 1},
		{name: "unknown message", transfers: []string{"\x09\x03\x00\x00\x00\x00\x08\x00"}, messages: 1, strange: 1},
	} {
		r := newRig(t)
		for _, b := range tt.transfers {
			r.board.Out(4, []byte(b), tt.zero)
		}
		if s := r.slot.Stats(); s.Messages != tt.messages || s.Strange != tt.strange {
			t.Errorf("%s: %+v, want %d messages and %d strange ones", tt.name, s, tt.messages, tt.strange)
		}
	}
}

// What the host does to the modem.
func TestEvents(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRig(t)
		r.send(&simtrace.SimSelect{Remote: true}, &simtrace.SetATR{ATR: []byte{0x3b, 0}}, &simtrace.CardInsert{Inserted: true},
			&simtrace.Reset{Action: simtrace.ResetPulse, Pulse: 300 * time.Millisecond})
		r.check("events", fmt.Sprint(r.slot.Events()), "[remote inserted reset]")
		time.Sleep(299 * time.Millisecond)
		synctest.Wait()
		r.check("before the end of the pulse", fmt.Sprint(r.slot.Events()), "[]")
		time.Sleep(2 * time.Millisecond)
		synctest.Wait()
		r.check("after it", fmt.Sprint(r.slot.Events()), "[running]")
		r.send(&simtrace.Reset{Action: simtrace.ResetAssert}, &simtrace.Reset{Action: simtrace.ResetRelease}, &simtrace.Reset{Action: 9})
		r.check("assert and release", fmt.Sprint(r.slot.Events()), "[reset running]")
		r.send(&simtrace.Reset{Action: simtrace.ResetPulse, Pulse: time.Second})
		if err := r.board.Attached(false); err != nil {
			t.Fatal(err)
		}
		r.check("unplugged", fmt.Sprint(r.slot.Events()), "[reset running local removed]")
		time.Sleep(2 * time.Second)
		r.check("the pulse that was interrupted", fmt.Sprint(r.slot.Events()), "[]")
	})
}

func TestDescriptors(t *testing.T) {
	interfaces := func(c Config, dfu bool) string {
		b := New(c)
		b.SetDFU(dfu)
		var list []string
		for i := range int(must(b.Control(usbip.Setup{Type: 0x80, Request: 6, Value: 0x0100}, nil))[17]) {
			d := must(b.Control(usbip.Setup{Type: 0x80, Request: 6, Value: 0x0200 | uint16(i)}, nil))
			if n := int(d[2]) | int(d[3])<<8; n != len(d) {
				t.Errorf("configuration of %d bytes says %d", len(d), n)
			}
			for ; len(d) > 0; d = d[d[0]:] {
				switch d[1] {
				case descConfig:
					list = append(list, fmt.Sprintf("config %d:", d[5]))
				case descInterface:
					list = append(list, fmt.Sprintf("%d=%02x%02x%02x", d[2], d[5], d[6], d[7]))
				case descEndpoint:
					list = append(list, fmt.Sprintf("%02x/%d", d[2], d[3]))
				}
			}
		}
		return strings.Join(list, " ")
	}
	for _, tt := range []struct {
		c    Config
		dfu  bool
		want string
	}{
		{Config{}, false, "config 1: 0=ff0200 04/2 85/2 86/3 1=ff0200 01/2 82/2 83/3 2=fe0101 config 2: 0=ffff00"},
		{Config{Slots: 1}, false, "config 1: 0=ff0200 04/2 85/2 86/3 1=fe0101 config 2: 0=ffff00"},
		{Config{Slots: 1, Sniffer: true, NoIRQ: true}, false, "config 1: 0=ff0100 04/2 85/2 1=fe0101 config 2: 0=ffff00"},
		{Config{}, true, "config 1: 0=fe0102"},
	} {
		if got := interfaces(tt.c, tt.dfu); got != tt.want {
			t.Errorf("%+v: %s, want %s", tt.c, got, tt.want)
		}
	}
	b := New(Config{Serial: "0123", Version: "9.9"})
	var texts []string
	for i := uint16(1); ; i++ {
		d, err := b.Control(usbip.Setup{Type: 0x80, Request: 6, Value: 0x0300 | i}, nil)
		if err != nil {
			break
		}
		texts = append(texts, string(bytes.ReplaceAll(d[2:], []byte{0}, nil)))
	}
	if got := strings.Join(texts, "|"); got != "sysmocom - s.f.m.c. GmbH|sysmoQMOD|0123|CardEmulator Modem|DFU|firmware version|9.9" {
		t.Errorf("strings %s", got)
	}
	if err := b.Attached(true); err != nil {
		t.Fatal(err)
	}
	if err := b.Attached(true); err != ErrBusy {
		t.Errorf("a second host: %v", err)
	}
}

func must(b []byte, err error) []byte {
	if err != nil {
		panic(err)
	}
	return b
}

// The host's faults of any kind do no harm.
func FuzzOut(f *testing.F) {
	f.Add([]byte("\x01\x08\x00\x00\x00\x00\x0e\x00\x01\x00\x00\x00\x00\x00"), "a0a4000002")
	f.Add([]byte("\x01\x01\x00\x00\x00\x00\x0f\x00\x08\x00\x00\x00\x01\x00\xa4"), "ff10947b")
	f.Fuzz(func(t *testing.T, b []byte, modem string) {
		board := New(Config{})
		if err := board.Attached(true); err != nil {
			t.Fatal(err)
		}
		if _, err := board.Control(usbip.Setup{Request: 9, Value: 1}, nil); err != nil {
			t.Fatal(err)
		}
		s := board.Slots()[0]
		s.SetVCC(true)
		s.SetCLK(true)
		s.SetRST(false)
		board.Out(4, b, true)
		s.Write([]byte(modem))
		board.Out(4, b, true)
		for {
			if _, shake := board.In(5); shake != usbip.ACK {
				break
			}
		}
		if err := board.Attached(false); err != nil {
			t.Fatal(err)
		}
	})
}
