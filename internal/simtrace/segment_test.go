// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"strings"
	"testing"
)

// A dialogue has a Segmenter hear "h HEX" (header), "d HEX" (data), "r HEX" (the card's response), reset, expire,
// forget. It returns what follows: "ask INS", "tpdu HEX", "guess N", errors.
func dialogue(t *testing.T, s *Segmenter, script string) string {
	t.Helper()
	var out []string
	for _, line := range strings.Split(script, ",") {
		what, arg, _ := strings.Cut(strings.TrimSpace(line), " ")
		b, err := hex.DecodeString(strings.ReplaceAll(arg, " ", ""))
		if err != nil {
			t.Fatalf("%s: %v", line, err)
		}
		var step Step
		switch what {
		case "h":
			step, err = s.Receive(&RxData{Flags: Header, Data: b})
		case "d":
			step, err = s.Receive(&RxData{Flags: Final, Data: b})
		case "r":
			s.Respond(b)
		case "reset":
			s.Reset()
		case "forget":
			s.Forget()
		case "expire":
			if !s.Asked() {
				out = append(out, "not asked")
				continue
			}
			cla, ins := s.Expired()
			out = append(out, fmt.Sprintf("none for %02x%02x", cla, ins))
		default:
			t.Fatalf("no such line: %s", line)
		}
		if err != nil {
			out = append(out, "["+err.Error()+"]")
		}
		if step.Guessed != 0 {
			out = append(out, fmt.Sprintf("guess %d", step.Guessed))
		}
		if step.Ask {
			out = append(out, fmt.Sprintf("ask %02x", step.INS))
		}
		if step.TPDU != nil {
			out = append(out, fmt.Sprintf("tpdu %x", step.TPDU))
		}
	}
	return strings.Join(out, ", ")
}

func TestSegmenter(t *testing.T) {
	for _, c := range []struct{ name, script, want string }{
		{"case 1", "h a004000000", "tpdu a004000000"},
		{"case 1 with P3", "h a0fa000003", "tpdu a0fa000003"},
		{"case 2", "h a0b000000a", "tpdu a0b000000a"},
		{"case 2 of 256 bytes", "h 00b0000000", "tpdu 00b0000000"},
		{"case 3", "h a0d6000004, d deadbeef", "ask d6, tpdu a0d6000004deadbeef"},
		{"case 3 without data", "h 0020000100", "tpdu 0020000100"},
		{"case 4", "h a0a4000002, d 3f00", "ask a4, tpdu a0a40000023f00"},
		{"case 4 without data", "h 00a4030400", "tpdu 00a4030400"},
		{"data in parts is asked for once", "h 00a4040407, d a0, d 0000, d 00871002", "ask a4, tpdu 00a4040407a0000000871002"},
		{"header and data together", "h a0d600000411223344", "tpdu a0d600000411223344"},
		{"header and a part of the data", "h a0d60000041122, d 3344", "ask d6, tpdu a0d600000411223344"},
		{
			"header and more data than it says, then another", "h a0d6000002112233445566, d 11, h a0b0000002",
			"[command of 11 bytes: its header says 7], [data without a command (1 bytes)], tpdu a0b0000002",
		},
		{"short headers", "h a0d600, h, d 00", "[header of 3 bytes: want 5], [header of 0 bytes: want 5], [data without a command (1 bytes)]"},
		{"data without a command", "d 1122", "[data without a command (2 bytes)]"},
		{"data after the command", "h a0b0000002, d 1122", "tpdu a0b0000002, [data without a command (2 bytes)]"},
		{
			"no data, and too much of it", "h a0d6000002, d, d 112233, d 1122",
			"ask d6, [no data], [3 bytes of data: the command wants 2 more], tpdu a0d60000021122",
		},
		{"a new header in the middle", "h a0d6000004, d 1122, h a0b0000001, d 3344", "ask d6, tpdu a0b0000001, [data without a command (2 bytes)]"},
		{"a reset in the middle", "h a0d6000004, d 1122, reset, d 3344", "ask d6, [data without a command (2 bytes)]"},

		// 6Cxx: the same command again has the case it had.
		{"6Cxx, case 2 by P3", "h 80ca006600, r 6c05, h 80ca006605", "tpdu 80ca006600, tpdu 80ca006605"},
		{"6Cxx after data", "h 80ca006600, r 006c05, h 80ca006605", "tpdu 80ca006600, ask ca"},
		{"data that looks like 6Cxx", "h 80ca006600, r 6c059000, h 80ca006605", "tpdu 80ca006600, ask ca"},
		{"6Cxx, case 3 without data", "h 0020000100, r 6c01, h 0020000101, d aa", "tpdu 0020000100, ask 20, tpdu 0020000101aa"},
		{"6Cxx, case 1", "h a0fa000000, r 6c05, h a0fa000005", "tpdu a0fa000000, tpdu a0fa000005"},
		{"6Cxx, case 4 isn't kept", "h 80ca006601, d aa, r 6c00, h 80ca006600", "ask ca, tpdu 80ca006601aa, tpdu 80ca006600"},
		{"6Cxx twice", "h 80ca006600, r 6c05, h 80ca006605, r 6c06, h 80ca006606", "tpdu 80ca006600, tpdu 80ca006605, tpdu 80ca006606"},
		{"6Cxx, then another command", "h 80ca006600, r 6c05, h 80ca006705", "tpdu 80ca006600, ask ca"},
		{
			"6Cxx, another command, and then again", "h 80ca006600, r 6c05, h a0b0000001, r 9000, h 80ca006605",
			"tpdu 80ca006600, tpdu a0b0000001, ask ca",
		},
		{"6Cxx, then a reset", "h 80ca006600, r 6c05, reset, h 80ca006605", "tpdu 80ca006600, ask ca"},
		{"another status word", "h 80ca006600, r 6105, h 80ca006605", "tpdu 80ca006600, ask ca"},
		{"no command yet", "r 6c05, h 80ca006605", "ask ca"},

		// Unknown commands.
		{"unknown without data", "h b0ee000000", "guess 1, tpdu b0ee000000"},
		{"unknown with data", "h b0ee000002, d 1122, h b0ee000003, d 112233", "guess 3, ask ee, tpdu b0ee0000021122, ask ee, tpdu b0ee000003112233"},
		{"INS of another class", "h b0b0000002", "guess 2, tpdu b0b0000002"},
		{"INS of another class, case 4", "h b0a4000002, d 3f00", "guess 4, ask a4, tpdu b0a40000023f00"},
		{
			"no data ever comes", "h b0ee000002, expire, reset, h b0ee000002, h b0ee010203, h b0ef000001, h b1ee000001",
			"guess 3, ask ee, none for b0ee, tpdu b0ee000002, tpdu b0ee010203, guess 3, ask ef, guess 3, ask ee",
		},
		{
			"no data for INS of another class", "h b0d6000002, expire, h b0d6000002",
			"guess 3, ask d6, none for b0d6, tpdu b0d6000002",
		},
		{"no data for a known command", "h a0d6000002, expire, h a0d6000002", "ask d6, not asked, ask d6"},
		{
			"data comes late", "h b0ee000002, expire, d 1122, h b0ee000002",
			"guess 3, ask ee, none for b0ee, tpdu b0ee0000021122, ask ee",
		},
		{"data comes in time", "h b0ee000002, d 11, expire, d 22", "guess 3, ask ee, not asked, tpdu b0ee0000021122"},
		{"it has come", "h b0ee000001, d 11, expire", "guess 3, ask ee, tpdu b0ee00000111, not asked"},
		{"another SIM", "h b0ee000002, expire, forget, h b0ee000002", "guess 3, ask ee, none for b0ee, guess 3, ask ee"},
	} {
		if got := dialogue(t, NewSegmenter(nil), c.script); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestSegmenterRows has rows of the user, which come first and make a command known.
func TestSegmenterRows(t *testing.T) {
	s := NewSegmenter([]Row{{0xb0, 0xf0, 0xee, Case2}, {0xa0, 0xff, 0xb0, Case3}})
	if got, want := dialogue(t, s, "h b1ee000002, h a0b0000001, d aa"), "tpdu b1ee000002, ask b0, tpdu a0b0000001aa"; got != want {
		t.Errorf("got %s, want %s", got, want)
	}
}

// FuzzSegmenter feeds what a device might send: what comes out is a command of the length its header says.
func FuzzSegmenter(f *testing.F) {
	f.Add([]byte{5, 1, 0xa0, 0xa4, 0, 0, 2, 2, 0, 0x3f, 0})
	f.Add([]byte{5, 1, 0xb0, 0xee, 0, 0, 2, 0x80, 1, 0, 0x3f, 1, 0, 0})
	f.Fuzz(func(t *testing.T, in []byte) {
		s := NewSegmenter(nil)
		for len(in) > 1 {
			n, flags := int(in[0]), DataFlags(in[1])
			in = in[2:]
			if n >= 0x80 {
				if s.Asked() {
					s.Expired()
				}
				s.Respond([]byte{byte(flags), byte(n)})
				continue
			}
			data := in[:min(n, len(in))]
			in = in[len(data):]
			step, err := s.Receive(&RxData{Flags: flags, Data: data})
			switch {
			case err != nil && (step.Ask || step.TPDU != nil):
				t.Fatalf("%v and %+v", err, step)
			case step.Ask && step.TPDU != nil:
				t.Fatalf("%+v", step)
			case step.TPDU == nil:
				continue
			}
			if n := len(step.TPDU); n < 5 || n != 5 && n != 5+int(step.TPDU[4]) || !bytes.HasSuffix(step.TPDU, data) {
				t.Fatalf("%x after %x", step.TPDU, data)
			}
		}
	})
}
