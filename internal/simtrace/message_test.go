// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"
	"time"
)

// A recorded message is a line of testdata/simtrace-usb.txt: what a C client and an emulated device sent each other.
type recorded struct {
	line     int
	toDevice bool
	name     string // type and members, as its comment says
	bytes    []byte
}

// conversation returns the messages of testdata/simtrace-usb.txt.
func conversation(t testing.TB) []recorded {
	t.Helper()
	text, err := os.ReadFile("testdata/simtrace-usb.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []recorded
	for i, line := range strings.Split(string(text), "\n") {
		text, comment, _ := strings.Cut(line, " # ")
		words := strings.Fields(text)
		if len(words) < 2 || !strings.Contains(words[0], "device") || !strings.Contains(words[0], "host") {
			continue
		}
		b, err := hex.DecodeString(words[len(words)-1])
		if err != nil {
			continue // the head of the file, which explains the lines
		}
		all = append(all, recorded{i + 1, words[0] == "host->device", comment, b})
	}
	if len(all) < 200 {
		t.Fatalf("%d messages", len(all))
	}
	return all
}

// describe returns what the comments of the recording say of m.
func describe(m Message) string {
	flags := func(f DataFlags) string {
		var names []string
		for i, n := range []string{"TPDU_HDR", "FINAL", "PB_AND_TX", "PB_AND_RX"} {
			if f&(1<<i) != 0 {
				names = append(names, n)
			}
		}
		if len(names) == 0 {
			return "0"
		}
		return strings.Join(names, "|")
	}
	number := map[bool]int{true: 1}
	switch m := m.(type) {
	case *TxData:
		return fmt.Sprintf("TX_DATA flags=%s data_len=%d", flags(m.Flags), len(m.Data))
	case *RxData:
		return fmt.Sprintf("RX_DATA flags=%s data_len=%d", flags(m.Flags), len(m.Data))
	case *SetATR:
		return fmt.Sprintf("SET_ATR atr_len=%d", len(m.ATR))
	case *Status:
		return fmt.Sprintf("STATUS flags=%02x mv=%d F=%d D=%d WI=%d WT=%d", uint32(m.Flags), m.Millivolts, m.F, m.D, m.WI, m.WaitingTime)
	case *CardInsert:
		return fmt.Sprintf("CARDINSERT %d", number[m.Inserted])
	case *PTS:
		return fmt.Sprintf("PTS pts_len=%d", len(m.Req))
	case *Config:
		return fmt.Sprintf("CONFIG features=%d slot_mux=%d pres_pol=%d", m.Features, m.SlotMux, m.Presence)
	case *Reset:
		return fmt.Sprintf("RESET %d pulse=%dms", m.Action, m.Pulse.Milliseconds())
	case *SimSelect:
		return fmt.Sprintf("SIM_SELECT %d", number[m.Remote])
	}
	return Name(m)
}

// TestRecorded decodes what a C client and a device sent, and encodes it to the same bytes.
func TestRecorded(t *testing.T) {
	kinds := make(map[string]int)
	for _, r := range conversation(t) {
		if strings.Contains(r.name, "38 bytes") {
			continue // two messages, see TestJoinRecorded
		}
		m, err := Decode(r.bytes)
		if err != nil {
			// Its text is missing.
			if want := "decode ERROR: msg_len is 4, 0 bytes are there"; err.Error() != want || r.name != "class 0 type 0" {
				t.Errorf("line %d: %v", r.line, err)
			}
			continue
		}
		name, _, _ := strings.Cut(r.name, " [")
		name, _, _ = strings.Cut(name, " (")
		if got := describe(m); got != name {
			t.Errorf("line %d: decoded %q, want %q", r.line, got, name)
		}
		kinds[reflect.TypeOf(m).Elem().Name()]++
		if got, err := Append([]byte("before"), m); err != nil || string(got) != "before"+string(r.bytes) {
			t.Errorf("line %d: encoded %x (%v), want %x", r.line, got, err, r.bytes)
		}
	}
	for _, k := range []string{"TxData", "RxData", "SetATR", "Status", "CardInsert", "PTS", "Config", "Reset", "SimSelect", "Unknown"} {
		if kinds[k] == 0 {
			t.Errorf("no %s in the recording", k)
		}
	}
}

// TestMessages has the messages that are in no recording.
func TestMessages(t *testing.T) {
	for _, c := range []struct {
		m   Message
		hex string
	}{
		{&Stats{}, "0103000000000800"},
		{&StatusReq{}, "0104000000000800"},
		{&ModemStatus{Supported: 3, Status: 2, Changed: 1}, "0203000000000b00030201"},
		{&ErrorReport{Severity: 1, Subsystem: 2, Code: 0x0304, Text: "no"}, "0000000000000f00010204030" + "26e6f"},
		{&Unknown{Class: ClassGeneric, Type: 1, Data: []byte{7}}, "000100000000090007"},
		{&Unknown{Class: ClassCardem, Type: typeStats, Data: []byte{7}}, "010300000000090007"},
		{&Reset{Action: ResetAssert}, "0201000000000b00010000"},
		{&Reset{Action: ResetPulse, Pulse: 65535 * time.Millisecond}, "0201000000000b0002ffff"},
		{&Config{Features: StatusOnIRQ, SlotMux: 1, Presence: PresenceValid | PresentHigh}, "0108000000000e00010000000103"},
	} {
		b, err := Append(nil, c.m)
		if got := hex.EncodeToString(b); err != nil || got != c.hex {
			t.Errorf("%#v: encoded %s (%v), want %s", c.m, got, err, c.hex)
		}
		m, err := Decode(b)
		if err != nil || !reflect.DeepEqual(m, c.m) {
			t.Errorf("%s: decoded %#v (%v), want %#v", c.hex, m, err, c.m)
		}
	}
}

// TestShortConfig has the forms of CONFIG that older hosts send.
func TestShortConfig(t *testing.T) {
	for in, want := range map[string]Config{
		"0108000000000c0001000000":   {Features: 1},
		"0108000000000d000100000002": {Features: 1, SlotMux: 2},
	} {
		b, _ := hex.DecodeString(in)
		m, err := Decode(b)
		if got, ok := m.(*Config); err != nil || !ok || *got != want {
			t.Errorf("%s: %#v (%v), want %+v", in, m, err, want)
		}
	}
}

func TestDecodeErrors(t *testing.T) {
	for in, want := range map[string]string{
		"":                                      "message of 0 bytes: its header has 8",
		"01060000000008":                        "message of 7 bytes: its header has 8",
		"0106000000000900":                      "message of 8 bytes says that it has 9",
		"0106000000000d000100000005":            "decode RX_DATA: 5 bytes after the header, at least 6",
		"0106000000001000010000000300aa":        "message of 15 bytes says that it has 16",
		"01060000000010000100000003" + "00aaaa": "decode RX_DATA: data_len is 3, 2 bytes are there",
		"01010000000010000100000001" + "00aaaa": "decode TX_DATA: data_len is 1, 2 bytes are there",
		"0102000000000800":                      "decode SET_ATR: 0 bytes after the header, at least 1",
		"0102000000000b00033b00":                "decode SET_ATR: atr_len is 3, 2 bytes are there",
		"01040000000009" + "0000":               "decode STATUS: 1 bytes after the header, at least 13",
		"0105000000000800":                      "decode CARDINSERT: 0 bytes after the header, at least 1",
		"010500000000090002":                    "decode CARDINSERT: neither 0 nor 1",
		"0107000000000900" + "03":               "decode PTS: 1 bytes after the header, at least 13",
		"0107000000001500" + "07" + "000000000000000000000000": "decode PTS: pts_len is 7, at most 6",
		"0108000000000b00010000":                               "decode CONFIG: 3 bytes after the header, at least 4",
		"0201000000000900" + "02":                              "decode RESET: 1 bytes after the header, at least 3",
		"0203000000000900" + "02":                              "decode MODEM_STATUS: 1 bytes after the header, at least 3",
		"0000000000000900" + "02":                              "decode ERROR: 1 bytes after the header, at least 5",
	} {
		b, err := hex.DecodeString(in)
		if err != nil {
			t.Fatal(err)
		}
		if m, err := Decode(b); err == nil || err.Error() != want {
			t.Errorf("%s: %v, error %v, want %s", in, m, err, want)
		}
	}
}

func TestAppendErrors(t *testing.T) {
	for _, c := range []struct {
		m    Message
		want string
	}{
		{&TxData{Data: make([]byte, 65536)}, "encode TX_DATA: 65536 bytes of data"},
		{&TxData{Data: make([]byte, 65535)}, "encode TX_DATA: message of 65549 bytes"},
		{&SetATR{ATR: make([]byte, 256)}, "encode SET_ATR: ATR of 256 bytes"},
		{&PTS{Req: make([]byte, 4), Resp: make([]byte, 3)}, "encode PTS: request of 4, answer of 3 bytes"},
		{&PTS{Req: make([]byte, 7), Resp: make([]byte, 7)}, "encode PTS: request of 7, answer of 7 bytes"},
		{&Reset{Pulse: 65536 * time.Millisecond}, "encode RESET: pulse of 1m5.536s"},
		{&Reset{Pulse: -time.Second}, "encode RESET: pulse of -1s"},
		{&ErrorReport{Text: strings.Repeat("x", 256)}, "encode ERROR: text of 256 bytes"},
	} {
		b, err := Append([]byte{1}, c.m)
		if err == nil || err.Error() != c.want || !bytes.Equal(b, []byte{1}) {
			t.Errorf("%s: %d bytes, error %v, want %s", Name(c.m), len(b), err, c.want)
		}
	}
}

func TestWaiting(t *testing.T) {
	for _, c := range []struct {
		s     Status
		clock int
		want  time.Duration
	}{
		{Status{WI: 10, F: 1, D: 1}, 3_571_200, time.Second},                // 9600 etu of 372 cycles
		{Status{WI: 10, F: 9, D: 4}, 4_915_200, time.Second},                // 76800 etu of 64 cycles
		{Status{}, 3_571_200, time.Second},                                  // nothing known yet
		{Status{WI: 10, F: 200}, 3_571_200, time.Second},                    // no such factor
		{Status{WI: 255, F: 13}, 5_000_000, 100_270_080 * time.Microsecond}, // the longest
	} {
		if got := c.s.Waiting(c.clock); got != c.want {
			t.Errorf("%+v at %d Hz: %v, want %v", c.s, c.clock, got, c.want)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, r := range conversation(f) {
		f.Add(r.bytes)
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		m, err := Decode(b)
		if err != nil {
			return
		}
		out, err := Append(nil, m)
		if err != nil {
			t.Fatalf("%x: %s can't be encoded: %v", b, Name(m), err)
		}
		again, err := Decode(out)
		if err != nil || !reflect.DeepEqual(again, m) {
			t.Fatalf("%x: %#v became %#v (%v)", b, m, again, err)
		}
	})
}
