// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"bytes"
	"reflect"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestParse(t *testing.T) {
	const key = "00112233445566778899aAbBcCdDeEfF"
	rand := unhex(t, key)
	for _, tc := range []struct {
		line string
		want command
		err  string
	}{
		{"", nil, ""},
		{" \t", nil, ""},
		{"a0a40000023f00", tpdu(unhex(t, "a0a40000023f00")), ""},
		{"A0 A4 0000 02 3F00", tpdu(unhex(t, "a0a40000023f00")), ""},
		{"reset", reset{}, ""},
		{" ReSet ", reset{}, ""},
		{"HELP", help{}, ""},
		{"info", info{}, ""},
		{"info x", nil, "want info"},
		{"select 3f00", selection{path: []uint16{0x3f00}}, ""},
		{"select 6F07", selection{path: []uint16{0x6f07}}, ""},
		{"select 3f00/7f20/6f07", selection{path: []uint16{0x3f00, 0x7f20, 0x6f07}}, ""},
		{"select 3f007f206f07", selection{path: []uint16{0x3f00, 0x7f20, 0x6f07}}, ""},
		{"select 7f206f07", selection{path: []uint16{0x7f20, 0x6f07}}, ""},
		{"select 7fff6f07", selection{path: []uint16{0x7fff, 0x6f07}}, ""},
		{"select 7f20/5f3b/4f20", selection{path: []uint16{0x7f20, 0x5f3b, 0x4f20}}, ""},
		{"select a0000000871002", selection{aid: unhex(t, "a0000000871002")}, ""},
		{"select a000000087", selection{aid: unhex(t, "a000000087")}, ""},
		{"select " + key, selection{aid: rand}, ""},
		{"select " + key + "00", nil, "want select PATH|FID|AID"},
		{"select", nil, "want select PATH|FID|AID"},
		{"select 3f00 7f20", nil, "want select PATH|FID|AID"},
		{"select 3f", nil, "want select PATH|FID|AID"},
		{"select 3f007f", nil, "want select PATH|FID|AID"},
		{"select 3f00/", nil, "want select PATH|FID|AID"},
		{"select /", nil, "want select PATH|FID|AID"},
		{"select 3f007f20/6f07", nil, "want select PATH|FID|AID"},
		{"select xyz", nil, "want select PATH|FID|AID"},
		{"select 3f00" + strings.Repeat("/7f20", 8), nil, "want select PATH|FID|AID"},
		{"read", read{}, ""},
		{"read binary", readBinary{}, ""},
		{"read BINARY 5", readBinary{offset: 5}, ""},
		{"read binary 5 10", readBinary{offset: 5, length: 10}, ""},
		{"read binary 32767 32768", readBinary{offset: 32767, length: 32768}, ""},
		{"read binary 32768", nil, `"32768": want a number 0..32767`},
		{"read binary 0 32769", nil, `"32769": want a number 0..32768`},
		{"read binary -1", nil, `"-1": want a number 0..32767`},
		{"read binary 1 2 3", nil, "want read [binary [OFFSET [LENGTH]] | record N]"},
		{"read record 3", readRecord{3}, ""},
		{"read record 254", readRecord{254}, ""},
		{"read record 255", nil, `"255": want a number 0..254`},
		{"read record", nil, "want read [binary [OFFSET [LENGTH]] | record N]"},
		{"read file", nil, "want read [binary [OFFSET [LENGTH]] | record N]"},
		{"auth " + key, auth{rand: rand}, ""},
		{"auth " + key + " " + key, auth{rand, rand}, ""},
		{"auth", nil, "want auth RAND [AUTN]"},
		{"auth 00", nil, `"00": want 16 bytes in hex`},
		{"auth " + key + " 00", nil, `"00": want 16 bytes in hex`},
		{"auth " + key + " " + key + " 00", nil, "want auth RAND [AUTN]"},
	} {
		cmd, err := parse(tc.line)
		text := ""
		if err != nil {
			text = err.Error()
		}
		if !reflect.DeepEqual(cmd, tc.want) || text != tc.err {
			t.Errorf("%q: %#v, %q, want %#v, %q", tc.line, cmd, text, tc.want, tc.err)
		}
	}
}

// dialog types a line and has the card answer: pairs of command and response in hex. It
// returns what standard error shows.
func (w *world) dialog(line string, exchange ...string) string {
	w.t.Helper()
	before := len(w.err.String())
	w.typed(line + "\n")
	for i := 0; i < len(exchange); i += 2 {
		w.answer(strings.ReplaceAll(exchange[i], " ", ""), unhex(w.t, exchange[i+1])...)
	}
	return w.err.String()[before:]
}

// TestUICC has the words at a UICC.
func TestUICC(t *testing.T) {
	big := strings.Repeat("ab", 300)
	for _, tc := range []struct {
		name  string
		lines [][]string // line, then commands and responses
		want  string     // of the last line
	}{
		{"select MF", [][]string{{"select 3f00", "00a40004023f00", "610d", "00c000000d", "620b 82027821 83023f00 8a0105 9000"}}, "  MF 3f00\n"},
		{"select by AID", [][]string{{"select a0000000871002", "00a4040407a0000000871002", "6117", "00c0000017", "6215 82027821 840ca0000000871002ff33ff0189 8a0105 9000"}},
			"  ADF a0000000871002ff33ff0189\n"},
		{"select by path", [][]string{{"select 3f00/7f20/6f07", "00a40804047f206f07", "610e", "00c000000e", "620c 82024121 83026f07 80020009 9000"}}, "  transparent EF 6f07, 9 bytes\n"},
		{"select below the ADF", [][]string{{"select 7fff/6f07", "00a40804047fff6f07", "610e", "00c000000e", "620c 82024121 83026f07 80020009 9000"}}, "  transparent EF 6f07, 9 bytes\n"},
		{"select from here", [][]string{{"select 7f20/6f07", "00a40904047f206f07", "9000"}}, "line 1: card's description of the file makes no sense\n"},
		{"not found", [][]string{{"select 6f99", "00a40004026f99", "6a82"}}, "line 1: card answers 6a82: file not found\n"},
		{"read before select", [][]string{{"read"}}, "line 1: select a file to be read first, or use read binary or read record N\n"},
		{"read transparent", [][]string{
			{"select 6f07", "00a40004026f07", "610e", "00c000000e", "620c 82024121 83026f07 80020009 9000"},
			{"read", "00b0000009", "08 49 06 20 00 11 11 11 11 9000"},
		}, "00000000  08 49 06 20 00 11 11 11  11                       |.I. .....|\n"},
		{"read in parts", [][]string{
			{"select 6f07", "00a40004026f07", "610e", "00c000000e", "620c 82024121 83026f07 8002012c 9000"},
			{"read", "00b00000ff", big[:510] + "9000", "00b000ff2d", big[510:] + "9000"},
		}, ""},
		{"read as much as there is", [][]string{{"read binary", "00b0000000", "6c09", "00b0000009", "3132333435363738399000"}},
			"00000000  31 32 33 34 35 36 37 38  39                       |123456789|\n"},
		{"read a part", [][]string{{"read binary 258 4", "00b0010204", "313233349000"}},
			"00000000  31 32 33 34                                       |1234|\n"},
		{"less than asked for", [][]string{{"read binary 0 4", "00b0000004", "31326282"}},
			"00000000  31 32                                             |12|\nline 1: card answers 6282: end of file or record came early, or nothing was found\n"},
		{"nothing comes", [][]string{{"read binary 0 4", "00b0000004", "9000"}}, ""},
		{"read records", [][]string{
			{"select 6f3c", "00a40004026f3c", "6111", "00c0000011", "620f 82054221000302 83026f3c 80020006 9000"},
			{"read", "00b2010403", "6162639000", "00b2020403", "6465669000"},
		}, "  record 1\n00000000  61 62 63                                          |abc|\n  record 2\n00000000  64 65 66                                          |def|\n"},
		{"read a record of unknown length", [][]string{{"read record 2", "00b2020400", "6c03", "00b2020403", "6162639000"}},
			"  record 2\n00000000  61 62 63                                          |abc|\n"},
		{"no such record", [][]string{{"read record 9", "00b2090400", "6a83"}}, "line 1: card answers 6a83: record not found\n"},
		{"file is forgotten after SELECT in hex", [][]string{
			{"select 6f07", "00a40004026f07", "610e", "00c000000e", "620c 82024121 83026f07 80020009 9000"},
			{"00a40004026f99", "00a40004026f99", "6a82"},
			{"read"},
		}, "line 3: select a file to be read first, or use read binary or read record N\n"},
		{"authenticate", [][]string{{"auth 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
			"008800812210000102030405060708090a0b0c0d0e0f10101112131415161718191a1b1c1d1e1f", "612e", "00c000002e",
			"db 08 0102030405060708 10 00000000000000000000000000000001 10 00000000000000000000000000000002 08 0807060504030201 9000"}},
			"  RES 0102030405060708\n  CK 00000000000000000000000000000001\n  IK 00000000000000000000000000000002\n  Kc 0807060504030201\n"},
		{"authenticate, no Kc", [][]string{{"auth 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
			"008800812210000102030405060708090a0b0c0d0e0f10101112131415161718191a1b1c1d1e1f", "6107", "00c0000007", "db 01 aa 01 bb 01 cc 9000"}},
			"  RES aa\n  CK bb\n  IK cc\n"},
		{"authenticate, out of step", [][]string{{"auth 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
			"008800812210000102030405060708090a0b0c0d0e0f10101112131415161718191a1b1c1d1e1f", "6103", "00c0000003", "dc 01 aa 9000"}},
			"  AUTS, the card is out of step: aa\n"},
		{"authenticate, wrong MAC", [][]string{{"auth 000102030405060708090a0b0c0d0e0f 101112131415161718191a1b1c1d1e1f",
			"008800812210000102030405060708090a0b0c0d0e0f10101112131415161718191a1b1c1d1e1f", "9862"}},
			"line 1: card answers 9862: authentication failed: wrong MAC\n"},
		{"authenticate as GSM", [][]string{{"auth 000102030405060708090a0b0c0d0e0f",
			"008800801110000102030405060708090a0b0c0d0e0f", "610e", "00c000000e", "04 01020304 08 0807060504030201 9000"}},
			"  SRES 01020304\n  Kc 0807060504030201\n"},
		{"proactive", [][]string{{"read record 1", "00b2010400", "6c01", "00b2010401", "61 910c"}},
			"  record 1\n00000000  61                                                |a|\n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.meet()
				w.card(0x3b, 0x00)
				var got string
				lines := 0
				for _, l := range tc.lines {
					got = w.dialog(l[0], l[1:]...)
					lines += len(l) / 2
				}
				if tc.want != "" && got != tc.want {
					t.Errorf("\n got %q\nwant %q", got, tc.want)
				}
				w.bankd.Quiet(time.Second)
				// Standard output has an answer for each command, and nothing else.
				out := strings.TrimPrefix(w.out.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 00 \n")
				if n := strings.Count(out, "R-APDU: "); n != lines || strings.Count(out, "\n") != lines {
					t.Errorf("standard output %q, want %d answers", out, lines)
				}
			})
		})
	}
}

// A SIM refuses the class of UICCs, once.
func TestSIM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(0x3b, 0x00)
		for _, tc := range []struct {
			line     string
			exchange []string
			want     string
		}{
			{"select a0000000871002", []string{"00a4040407a0000000871002", "6e00"}, "line 1: this card is a SIM: it has no applications\n"},
			{"select 3f00", []string{"00a40004023f00", "6e00", "a0a40000023f00", "9f0d", "a0c000000d", "0000 1000 3f00 01 000000000001 9000"}, "  MF 3f00\n"},
			{"select 7f20/6f07", []string{"a0a40000027f20", "9f0d", "a0c000000d", "0000 1000 7f20 02 000000000001 9000",
				"a0a40000026f07", "9f0f", "a0c000000f", "0000 0009 6f07 04 00 000000 00 02 00 00 9000"}, "  transparent EF 6f07, 9 bytes\n"},
			{"read", []string{"a0b0000009", "084906200011111111 9000"}, "00000000  08 49 06 20 00 11 11 11  11                       |.I. .....|\n"},
			{"select 6f3c", []string{"a0a40000026f3c", "9f0f", "a0c000000f", "0000 0006 6f3c 04 00 000000 00 02 01 03 9000"}, "  linear fixed EF 6f3c, 2 records of 3 bytes\n"},
			{"read", []string{"a0b2010403", "616263 9000", "a0b2020403", "646566 9000"},
				"  record 1\n00000000  61 62 63                                          |abc|\n  record 2\n00000000  64 65 66                                          |def|\n"},
			{"read binary", []string{"a0b0000000", "9408"}, "line 7: card answers 9408: command doesn't fit the file's type\n"},
			{"read record 1", []string{"a0b2010403", "6704", "a0b2010404", "616263649000"}, "  record 1\n00000000  61 62 63 64                                       |abcd|\n"},
			{"auth 000102030405060708090a0b0c0d0e0f", []string{"a088000010000102030405060708090a0b0c0d0e0f", "9f0c", "a0c000000c", "010203040807060504030201 9000"},
				"  SRES 01020304\n  Kc 0807060504030201\n"},
			{"auth 000102030405060708090a0b0c0d0e0f 000102030405060708090a0b0c0d0e0f", nil, "line 10: this card is a SIM: it knows no AUTN\n"},
		} {
			if got := w.dialog(tc.line, tc.exchange...); got != tc.want {
				t.Errorf("%s:\n got %q\nwant %q", tc.line, got, tc.want)
			}
		}
		// The next card may be another one.
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		synctest.Wait()
		w.card(0x3b, 0x01)
		w.dialog("read record 1", "00b2010400", "6a83")
		// So may be one with another ATR.
		w.card(0x3b, 0x02)
		w.dialog("read record 1", "00b2010400", "6e00", "a0b2010400", "9402")
	})
}

// A card that always has more to say is left at some time.
func TestEndlessCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(0x3b, 0x00)
		w.typed("select 3f00\n")
		w.answer("00a40004023f00", 0x61, 0x01)
		for range 255 {
			w.answer("00c0000001", 0x00, 0x61, 0x01)
		}
		if got, want := w.err.String(), "line 1: card has too much to say\n"; got != want {
			t.Errorf("%q, want %q", got, want)
		}
		w.typed("00b0000000\n")
		w.answer("00b0000000", 0x90, 0x00)
	})
}

func TestInfo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		if got, want := w.dialog("info"), "state   INIT\nserver  10.0.0.1:9998, ESTABLISHED\nbankd   none\nslot    C23:0\nATR     none, there is no card\n"; got != want {
			t.Errorf("at first:\n%s\nwant:\n%s", got, want)
		}
		w.meet()
		w.card(0x3b, 0x02, 0x14, 0x50)
		want := `state   OPERATIONAL
server  10.0.0.1:9998, CONNECTED
bankd   10.0.0.2:9999, CONNECTED
slot    C23:0, of bank B1:5
ATR     3b 02 14 50
        direct convention, T=0
        Fi=372, Di=1: 372 clocks a bit, up to 5 MHz (no TA1)
        historical bytes 14 50
`
		if got := w.dialog("INFO"); got != want {
			t.Errorf("with a card:\n%s\nwant:\n%s", got, want)
		}
	})
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(cfg *Config, _ *Env) {
			cfg.Config = client.Config{ServerHost: "::1", ServerPort: 1, Auto: true, ATR: cfg.ATR}
		})
		if got := w.dialog("info"); !strings.Contains(got, "slot    to be assigned\n") {
			t.Errorf("without a slot:\n%s", got)
		}
	})
}

func TestHelp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		got := w.dialog("help")
		for _, word := range words {
			if !strings.Contains(got, "\n  "+strings.TrimSpace(word.name+" "+word.args)+" ") {
				t.Errorf("%s is missing", word.name)
			}
		}
		if w.out.String() != "" {
			t.Errorf("standard output %q", w.out.String())
		}
	})
}

// With --explain what comes is said in words; standard output stays as it is.
func TestExplain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(cfg *Config, _ *Env) { cfg.Explain = true })
		w.meet()
		if got, want := w.dialog("a0a40000023f00"), "  no card yet: waiting for one up to 30s\n"; got != want {
			t.Errorf("without a card: %q, want %q", got, want)
		}
		before := len(w.err.String())
		w.card(0x3b, 0x02, 0x14, 0x50)
		w.answer("a0a40000023f00", 0x9f, 0x17)
		if got, want := w.err.String()[before:], `  direct convention, T=0
  Fi=372, Di=1: 372 clocks a bit, up to 5 MHz (no TA1)
  historical bytes 14 50
  9f17: done; 23 bytes wait for GET RESPONSE
`; got != want {
			t.Errorf("got:\n%s\nwant:\n%s", got, want)
		}
		if got, want := w.dialog("select 6f99", "00a40004026f99", "6a82"), "  00a40004026f99\nline 2: card answers 6a82: file not found\n"; got != want {
			t.Errorf("a word: %q, want %q", got, want)
		}
		if got, want := w.out.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 02 14 50 \nR-APDU: 9f 17 \nR-APDU: 6a 82 \n"; got != want {
			t.Errorf("standard output %q, want %q", got, want)
		}
	})
}

// An ATR that is told again after a reset isn't shown: the C suite's shell prints nothing then.
// Another one is, and so is any after a card was pulled.
func TestATRAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(cfg *Config, _ *Env) { cfg.Explain = true })
		w.meet()
		w.card(0x3b, 0x01, 0xaa)
		before := len(w.err.String())
		w.typed("RESET\n")
		for range 2 {
			testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
		}
		w.card(0x3b, 0x01, 0xaa)
		if got, want := w.err.String()[before:], "  card was reset, its ATR is the same\n"; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		w.card(0x3b, 0x01, 0xbb)
		w.card(0x3b, 0x01, 0xbb)
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		synctest.Wait()
		w.card(0x3b, 0x01, 0xbb)
		if got, want := w.out.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 01 aa \nSET_ATR: 3b 01 bb \nSET_ATR: 3b 01 bb \n"; got != want {
			t.Errorf("standard output %q, want %q", got, want)
		}
	})
}

func TestFiles(t *testing.T) {
	for _, tc := range []struct {
		name, in string
		parse    func([]byte) (file, error)
		want     string // "" : an error
	}{
		{"MF", "620a 82027821 83023f00 8a00", parseFCP, "MF 3f00"},
		{"DF", "6208 82027821 83027f20", parseFCP, "DF 7f20"},
		{"ADF", "620d 82027821 8407a0000000871002", parseFCP, "ADF a0000000871002"},
		{"transparent", "620c 82024121 83026f07 80020009", parseFCP, "transparent EF 6f07, 9 bytes"},
		{"transparent, long size", "620d 82024121 83026f07 8003010000", parseFCP, "transparent EF 6f07, 65536 bytes"},
		{"linear fixed", "620b 82054221001c0a 83026f3a", parseFCP, "linear fixed EF 6f3a, 10 records of 28 bytes"},
		{"cyclic", "620b 82054621000302 83026f39", parseFCP, "cyclic EF 6f39, 2 records of 3 bytes"},
		{"internal", "6208 82020921 83026f01", parseFCP, "transparent EF 6f01, 0 bytes"},
		{"BER-TLV", "6208 82027921 83026f01", parseFCP, "file 6f01"},
		{"of another structure", "6208 82020021 83026f01", parseFCP, "EF 6f01"},
		{"long length", "62810c 82024121 83026f07 80020009", parseFCP, "transparent EF 6f07, 9 bytes"},
		{"longer length", "6282000c 82024121 83026f07 80020009", parseFCP, "transparent EF 6f07, 9 bytes"},
		{"empty", "6200", parseFCP, "file"},
		{"nothing", "", parseFCP, ""},
		{"another template", "6f00", parseFCP, ""},
		{"cut off", "620c 82024121", parseFCP, ""},
		{"cut off inside", "6204 82054121", parseFCP, ""},
		{"more behind", "620000", parseFCP, ""},
		{"records without a length", "6208 82024221 83026f3a", parseFCP, ""},
		{"indefinite length", "6280 0000", parseFCP, ""},

		{"SIM: MF", "00001000 3f00 01", parseGSM, "MF 3f00"},
		{"SIM: DF", "00001000 7f20 02 0000", parseGSM, "DF 7f20"},
		{"SIM: transparent", "00000009 6f07 04 00000000000200", parseGSM, "transparent EF 6f07, 9 bytes"},
		{"SIM: linear fixed", "00000118 6f3a 04 00000000000201 1c", parseGSM, "linear fixed EF 6f3a, 10 records of 28 bytes"},
		{"SIM: cyclic", "00000006 6f39 04 00000000000203 03", parseGSM, "cyclic EF 6f39, 2 records of 3 bytes"},
		{"SIM: another structure", "00000006 6f39 04 00000000000207 03", parseGSM, "EF 6f39"},
		{"SIM: another type", "00000006 6f39 09", parseGSM, "file 6f39"},
		{"SIM: nothing", "", parseGSM, ""},
		{"SIM: EF cut off", "00000009 6f07 04", parseGSM, ""},
		{"SIM: no record length", "00000118 6f3a 04 00000000000201", parseGSM, ""},
		{"SIM: records of no bytes", "00000118 6f3a 04 00000000000201 00", parseGSM, ""},
	} {
		f, err := tc.parse(unhex(t, tc.in))
		if got := f.String(); tc.want == "" && err == nil || tc.want != "" && (err != nil || got != tc.want) {
			t.Errorf("%s: %q, %v, want %q", tc.name, got, err, tc.want)
		}
	}
}

func TestVectorErrors(t *testing.T) {
	for _, tc := range []struct {
		gsm, autn bool
		in        string
	}{
		{true, false, ""},
		{true, false, "00112233445566778899aa"},
		{true, false, "00112233445566778899aabbcc"},
		{false, false, ""},
		{false, false, "0401020304"},
		{false, false, "0401020304 09 0807060504030201"},
		{false, false, "0401020304 08 0807060504030201 00"},
		{false, true, ""},
		{false, true, "aa"},
		{false, true, "db 01aa 01bb"},
		{false, true, "db 01aa 01bb 01cc 02dd"},
		{false, true, "dc"},
		{false, true, "dc 02aa"},
		{false, false, "ff" + strings.Repeat("cc", 255)}, // the longest part there can be, alone
	} {
		if got, err := vector(tc.gsm, tc.autn, unhex(t, tc.in)); err == nil {
			t.Errorf("%+v: %q", tc, got)
		}
	}
}

// FuzzAnswers: whatever a card answers to SELECT and AUTHENTICATE, its parts come from there.
func FuzzAnswers(f *testing.F) {
	for _, s := range []string{
		"620b82054221001c0a83026f3a", "62820001aa", "000000096f0704000000000002001c", "000001186f3a04000000000002011c",
		"db01aa01bb01cc01dd", "dc01aa", "0401020304080807060504030201",
		"ff" + strings.Repeat("cc", 255),
	} {
		f.Add(unhex(f, s))
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, parse := range []func([]byte) (file, error){parseFCP, parseGSM} {
			x, err := parse(b)
			if err == nil && (x.size < 0 || x.records < 0 || x.records*x.record > 0xffff*0xff || !bytes.Contains(b, x.name)) {
				t.Errorf("%x: %+v", b, x)
			}
			if s := x.String(); strings.ContainsAny(s, "\r\n\x1b%") {
				t.Errorf("%x: %q", b, s)
			}
		}
		for i := range 4 {
			facts, err := vector(i&1 != 0, i&2 != 0, b)
			if err == nil && len(facts) == 0 {
				t.Errorf("%x: nothing, and no error", b)
			}
		}
	})
}
