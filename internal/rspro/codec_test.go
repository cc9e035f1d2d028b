// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"bytes"
	"encoding/asn1"
	"encoding/hex"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"runtime"
	"strings"
	"sync"
	"testing"

	"remsim/internal/slot"
)

// unhex reads hexadecimal digits with spaces between.
func unhex(tb testing.TB, s string) []byte {
	tb.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		tb.Fatalf("%v in %s", err, s)
	}
	return b
}

// tlv returns an element in hexadecimal with the length, which may be long, filled in.
func tlv(tag string, content ...string) string {
	c := strings.ReplaceAll(strings.Join(content, ""), " ", "")
	n := len(c) / 2
	switch {
	case n < 0x80:
		return fmt.Sprintf("%s%02x%s", tag, n, c)
	case n < 0x100:
		return fmt.Sprintf("%s81%02x%s", tag, n, c)
	}
	return fmt.Sprintf("%s82%04x%s", tag, n, c)
}

// inPDU returns a PDU of version 2 and tag 0 around a message in hexadecimal.
func inPDU(msg ...string) string { return tlv("30", "800102 810100", tlv("a2", msg...)) }

func TestAppend(t *testing.T) {
	for _, g := range append(goldens(), unknowns()...) {
		t.Run(g.name, func(t *testing.T) {
			want := unhex(t, g.hex)
			before := []byte("before")
			got, err := g.pdu.Append(before)
			if err != nil {
				t.Fatal(err)
			}
			if got, ok := bytes.CutPrefix(got, before); !ok || !bytes.Equal(got, want) {
				t.Errorf("got  %x\nwant %x", got, want)
			}
		})
	}
}

// TestAppendReads lets the race detector see that encoding doesn't write to the
// message, which may be on its way to several peers.
func TestAppendReads(t *testing.T) {
	all := goldens()
	var wg sync.WaitGroup
	for range 2 {
		wg.Go(func() {
			for i := range 20 * len(all) { // long enough to overlap
				if _, err := all[i%len(all)].pdu.Append(nil); err != nil {
					t.Error(err)
				}
			}
		})
	}
	wg.Wait()
}

func TestDecode(t *testing.T) {
	for _, g := range append(goldens(), unknowns()...) {
		t.Run(g.name, func(t *testing.T) { checkDecode(t, unhex(t, g.hex), g.pdu) })
	}
}

func checkDecode(t *testing.T, b []byte, want PDU) {
	t.Helper()
	got, err := Decode(b)
	if err != nil {
		t.Errorf("%v\nin %x", err, b)
	} else if !reflect.DeepEqual(got, want) {
		t.Errorf("got  %+v\nwant %+v\nin %x", got.Msg, want.Msg, b)
	}
}

// TestDecodeLengths decodes all PDUs with the lengths that BER has beside those of DER.
func TestDecodeLengths(t *testing.T) {
	forms := []struct {
		name string
		put  func(b []byte, constructed bool, content []byte) []byte
	}{
		{"long", func(b []byte, _ bool, content []byte) []byte {
			n := len(content)
			return append(append(b, 0x82, byte(n>>8), byte(n)), content...)
		}},
		{"padded", func(b []byte, _ bool, content []byte) []byte {
			n := len(content)
			b = append(append(b, 0x80|9), make([]byte, 7)...)
			return append(append(b, byte(n>>8), byte(n)), content...)
		}},
		{"indefinite", func(b []byte, constructed bool, content []byte) []byte {
			n := len(content)
			if constructed {
				return append(append(append(b, 0x80), content...), 0, 0)
			}
			return append(append(b, 0x82, byte(n>>8), byte(n)), content...)
		}},
	}
	for _, form := range forms {
		for _, g := range goldens() {
			t.Run(form.name+"/"+g.name, func(t *testing.T) {
				b := rewrite(t, unhex(t, g.hex), form.put)
				if len(b) > MaxSize {
					t.Fatalf("%d bytes", len(b))
				}
				checkDecode(t, b, g.pdu)
			})
		}
	}
}

// rewrite returns a sequence of DER elements with other length octets. It reads
// them with the standard library, so that reader and test don't share a fault.
func rewrite(t *testing.T, der []byte, put func(b []byte, constructed bool, content []byte) []byte) (out []byte) {
	t.Helper()
	for len(der) > 0 {
		var v asn1.RawValue
		rest, err := asn1.Unmarshal(der, &v)
		if err != nil {
			t.Fatal(err)
		}
		content := v.Bytes
		if v.IsCompound {
			content = rewrite(t, content, put)
		}
		id := v.FullBytes[:1]
		if v.Tag >= 0x1f {
			id = v.FullBytes[:2]
		}
		out = put(append(out, id...), v.IsCompound, content)
		der = rest
	}
	return out
}

// Parts of messages.
const (
	c73TLV     = "3006" + c73Hex
	b10TLV     = "3006" + b10Hex
	tpduHex    = c73TLV + b10TLV + flagsHex
	infoHex    = "020101 010100"
	bankIDsHex = "020101 020110"
)

// A form is an encoding of a message in a PDU of version 2 and tag 0.
type form struct {
	name string
	hex  string
	want Message
}

// forms returns what BER and the extension markers permit beside DER.
func forms() []form {
	var (
		c73 = slot.Client{ID: 7, Slot: 3}
		b10 = slot.Bank{ID: 1, Slot: 0}
		ci  = ComponentIdentity{Type: Client, Name: "c", Software: "remsim-client", SWVersion: "1.0"}
	)
	tpdu := &TpduModemToCard{From: c73, To: b10, Data: []byte{1, 2, 3, 4, 5}}
	mapping := &CreateMappingReq{Client: c73, Bank: b10}
	res := func(f Features) *ConnectClientRes {
		return &ConnectClientRes{Identity: ci, Features: f}
	}

	return []form{
		{"unknown elements everywhere",
			tlv("30", "800102 810100", tlv("a2", tlv("a4",
				tlv("30", "020107 020103 0500"), tlv("30", "020101 020100", "a8050c01780500"), "9f8f7f00 3000")), "83018a a400"),
			mapping},
		{"unknown elements of indefinite length",
			inPDU(tlv("a4", c73TLV, tlv("30", "020101 020100", "a880 3080 0000 040100 0000"), "bf8148 80 a080a080a08000000000 0000 0000")),
			mapping},
		{"unknown elements around extensions",
			inPDU(tlv("a3", clientHex, "0a0100", "870101", "bf63020500", "9f65020780", "9f6600")),
			res(AtrAfterReset)},
		{"unknown elements and no extension",
			inPDU(tlv("a3", clientHex, "0a0100", "870101 880102", "9f6400")),
			res(0)},
		{"an unknown element in front of endpoint",
			inPDU(tlv("a0", clientHex, bankIDsHex, "8500", "bf640a 80047f000001 0202270f")),
			&ConnectBankReq{Identity: ci, BankID: 1, NumSlots: 16, Endpoint: netip.MustParseAddrPort("127.0.0.1:9999")}},
		{"unknown elements in an item of a list",
			inPDU(tlv("bf64", tlv("30", tlv("30", c73TLV, b10TLV, "0500")), "0101ff", "0500")),
			&BankSlotmapsInd{Maps: []slot.Map{{Client: c73, Bank: b10}}, Last: true}},
		{"BOOLEAN of another value",
			inPDU(tlv("ac", c73TLV, b10TLV, "300c 010101 010180 010100 0101fe", "0405 0102030405")),
			&TpduModemToCard{From: c73, To: b10, Data: tpdu.Data,
				Flags: TpduFlags{HeaderPresent: true, FinalPart: true, ProcByteContinueRx: true}}},
		{"optional BOOLEAN of another value",
			inPDU(tlv("ae", c73TLV, b10TLV, "3006 800101 820102")),
			&ClientSlotStatusInd{From: c73, To: b10, Phys: slot.Phys{Reset: true, CLK: slot.On}}},
		{"OCTET STRING in parts",
			inPDU(tlv("ac", tpduHex, "2409 0402 0102 0403 030405")), tpdu},
		{"OCTET STRING in parts of indefinite length, empty ones and parts of parts",
			inPDU(tlv("ac", tpduHex, "2480 0402 0102 2480 2407 0400 0403 030405 0000 0400 0000")), tpdu},
		{"OCTET STRING in parts as deep as may be",
			inPDU(tlv("ac", tpduHex, "240d 240b 2409 2407 0405 0102030405")), tpdu},
		{"OCTET STRING in no parts",
			inPDU(tlv("ac", tpduHex, "2400")), &TpduModemToCard{From: c73, To: b10, Data: []byte{}}},
		{"IA5String and its implicit forms in parts",
			inPDU(tlv("a2", tlv("30", "0a0100 3603 040163", "a080 0403 72656d 040a 73696d2d636c69656e74 0000", "8103312e30"))),
			&ConnectClientReq{Identity: ci}},
		{"BIT STRING with zeros at its end", inPDU(tlv("a3", clientHex, "0a0100 9f6503 00 c000")), res(3)},
		{"BIT STRING with unused bits set", inPDU(tlv("a3", clientHex, "0a0100 9f6502 06 ff")), res(3)},
		{"BIT STRING without bits", inPDU(tlv("a3", clientHex, "0a0100 9f6501 00")), res(0)},
		{"BIT STRING of more than 64 bits", inPDU(tlv("a3", clientHex, "0a0100 9f650a 07 8000000000000001 80")), res(1<<63 | 1)},
		{"BIT STRING in parts", inPDU(tlv("a3", clientHex, "0a0100 bf6508 0302 0080 0302 0740")), res(1)},
		{"BIT STRING in parts with bits in the last", inPDU(tlv("a3", clientHex, "0a0100 bf6508 0302 0080 0302 0680")), res(1 | 1<<8)},
		{"ENUMERATED of any 32 bits", inPDU("a5060a0480000000"), &CreateMappingRes{Result: -1 << 31}},
		{"a string of no characters that may have none",
			inPDU(tlv("bf65", tlv("30", tlv("30", infoHex, "8000")))), &BankSlotInfoInd{Slots: []SlotInfo{{Slot: 1}}}},
		{"an unknown message", inPDU("bf8148 03 020105"),
			&Unknown{Number: 200, Body: []byte{2, 1, 5}, Constructed: true}},
		{"an unknown message of indefinite length", inPDU("b880 020105 0000"),
			&Unknown{Number: 24, Body: []byte{2, 1, 5}, Constructed: true}},
	}
}

func TestDecodeBER(t *testing.T) {
	for _, tt := range forms() {
		t.Run(tt.name, func(t *testing.T) { checkDecode(t, unhex(t, tt.hex), PDU{Version: Version, Msg: tt.want}) })
	}
}

// A fault is a PDU that breaks a rule, and what Decode says of it.
type fault struct {
	name    string
	hex     string
	message string
	element string
	rule    string
}

// faults returns one PDU for each rule that can be broken.
func faults() []fault {
	const (
		isMissing  = "is missing"
		outOf1023  = ", want 0..1023"
		outOf32    = ", want 1..32"
		tooManyBit = "9f65020801"
	)
	name := func(n int) string { return tlv("16", strings.Repeat("6e", n)) }
	identity := func(name string, more ...string) string {
		return tlv("a2", tlv("30", "0a0100", name, "800163 810131", strings.Join(more, "")))
	}
	return []fault{
		// The envelope.
		{"nothing", "", "RsproPDU", "", isMissing},
		{"end-of-contents", "0000", "RsproPDU", "", "has end-of-contents out of place (X.690 8.1.5)"},
		{"text", "616263", "RsproPDU", "", "ends too early"},
		{"no SEQUENCE", "0a0100", "RsproPDU", "", "is missing, [UNIVERSAL 10] is in its place"},
		{"primitive SEQUENCE", "1000", "RsproPDU", "", "is primitive, want constructed"},
		{"more behind it", inPDU("b300") + "00", "RsproPDU", "", "is followed by more"},
		{"two PDUs", inPDU("b300") + inPDU("b300"), "RsproPDU", "", "is followed by more"},
		{"empty SEQUENCE", "3000", "RsproPDU", "version", isMissing},
		{"version", tlv("30", "800121 810100 a202b300"), "RsproPDU", "version", "is 33, want 0..32"},
		{"negative version", tlv("30", "8001ff 810100 a202b300"), "RsproPDU", "version", "is -1, want 0..32"},
		{"no tag", tlv("30", "800102 a202b300"), "RsproPDU", "tag", "is missing, [2] is in its place"},
		{"tag", tlv("30", "800102 81050080000000 a202b300"), "RsproPDU", "tag", "is 2147483648, want 0..2147483647"},
		{"tag of 9 octets", tlv("30", "800102 8109010000000000000000 a202b300"), "RsproPDU", "tag", "has 9 octets, far out of range"},
		{"tag of no octets", tlv("30", "800102 8100 a202b300"), "RsproPDU", "tag", "has no octets (X.690 8.3.1)"},
		{"padded tag", tlv("30", "800102 81020001 a202b300"), "RsproPDU", "tag", "is padded (X.690 8.3.2)"},
		{"padded negative tag", tlv("30", "800102 8102ff80 a202b300"), "RsproPDU", "tag", "is padded (X.690 8.3.2)"},
		{"constructed tag", tlv("30", "800102 a103020101 a202b300"), "RsproPDU", "tag", "is constructed, want primitive"},
		{"no msg", tlv("30", "800102 810100"), "RsproPDU", "msg", isMissing},
		{"empty msg", tlv("30", "800102 810100 a200"), "RsproPDU", "msg", isMissing},
		{"two messages", inPDU("b300 b300"), "RsproPDU", "msg", "[19] does not belong here"},
		{"message of another class", inPDU("7300"), "RsproPDU", "msg", "is missing, [APPLICATION 19] is in its place"},
		{"private message", inPDU("f300"), "RsproPDU", "msg", "is missing, [PRIVATE 19] is in its place"},
		{"primitive message", inPDU("9300"), "resetStateReq", "", "is primitive, want constructed"},
		{"garbage behind the last element", tlv("30", "800102 810100 a202b300 04"), "RsproPDU", "", "ends too early"},
		{"too large", inPDU(tlv("ac", tpduHex, tlv("04", strings.Repeat("00", MaxSize)))), "RsproPDU", "", "is larger than 4092 bytes"},

		// Headers of elements.
		{"tag with padding", inPDU("bf808000"), "RsproPDU", "msg", "has a padded tag (X.690 8.1.2.4.2)"},
		{"tag in a needless long form", inPDU("bf1e00"), "RsproPDU", "msg", "has a padded tag (X.690 8.1.2.2)"},
		{"tag that never ends", inPDU("bfff"), "RsproPDU", "msg", "ends too early"},
		{"tag without length", inPDU("bf8148"), "RsproPDU", "msg", "ends too early"},
		{"tag too large", inPDU("bf818080800000"), "RsproPDU", "msg", "has a tag above 268435455"},
		{"reserved tag", inPDU("0001ff"), "RsproPDU", "msg", "has a tag that is reserved (X.690 8.1.2, table 1)"},
		{"reserved length", inPDU("b3ff"), "RsproPDU", "msg", "has a length that is reserved (X.690 8.1.3.5)"},
		{"length past the end", inPDU("b301"), "RsproPDU", "msg", "ends too early"},
		{"length with octets missing", inPDU("b38200"), "RsproPDU", "msg", "ends too early"},
		{"length of 64 bits", inPDU("b388ffffffffffffffff"), "RsproPDU", "msg", "ends too early"},
		{"primitive of indefinite length", inPDU("a506 0a80 0a0100 0000"), "createMappingRes", "result", "is primitive and of indefinite length (X.690 8.1.3.2)"},
		{"indefinite length without end", inPDU("b380"), "RsproPDU", "msg", "ends too early"},
		{"indefinite length with one zero", inPDU("b38000"), "RsproPDU", "msg", "ends too early"},
		{"end-of-contents in definite length", inPDU("a505 0a0100 0000"), "createMappingRes", "", "has end-of-contents out of place (X.690 8.1.5)"},

		// Elements of messages.
		{"result missing", inPDU("a500"), "createMappingRes", "result", isMissing},
		{"result of 33 bits", inPDU("a5070a050080000000"), "createMappingRes", "result", "is 2147483648, want 32 bits"},
		{"element that does not fit", inPDU("a502 0a01"), "createMappingRes", "result", "ends too early"},
		{"client id", inPDU(tlv("a4", "3007 02020400 020103", b10TLV)), "createMappingReq", "client.clientId", "is 1024" + outOf1023},
		{"slot", inPDU(tlv("a4", c73TLV, "3007 020101 02020400")), "createMappingReq", "bank.slotNr", "is 1024" + outOf1023},
		{"bank id", inPDU(tlv("a0", clientHex, "0201ff 020110")), "connectBankReq", "bankId", "is -1" + outOf1023},
		{"number of slots", inPDU(tlv("a0", clientHex, "020101 02027fff")), "connectBankReq", "numberOfSlots", "is 32767" + outOf1023},
		{"empty name", inPDU(identity("1600")), "connectClientReq", "identity.name", "size is 0" + outOf32},
		{"long name", inPDU(identity(name(33))), "connectClientReq", "identity.name", "size is 33" + outOf32},
		{"long name in parts", inPDU(identity(tlv("36", tlv("04", strings.Repeat("6e", 20)), tlv("04", strings.Repeat("6e", 13))))),
			"connectClientReq", "identity.name", "size is 33" + outOf32},
		{"name that is not ASCII", inPDU(identity("160180")), "connectClientReq", "identity.name", "has characters that are not ASCII"},
		{"empty fwVersion", inPDU(identity("1601 63", "8600")), "connectClientReq", "identity.fwVersion", "size is 0" + outOf32},
		{"identity missing", inPDU("a200"), "connectClientReq", "identity", isMissing},
		{"primitive identity", inPDU("a202 1000"), "connectClientReq", "identity", "is primitive, want constructed"},
		{"optional slot", inPDU(tlv("a2", clientHex, "3007 02020400 020103")), "connectClientReq", "clientSlot.clientId", "is 1024" + outOf1023},
		{"empty ATR", inPDU(tlv("aa", c73TLV, "0400")), "setAtrReq", "atr", "size is 0, want 1..55"},
		{"long ATR", inPDU(tlv("aa", c73TLV, tlv("04", strings.Repeat("3b", 56)))), "setAtrReq", "atr", "size is 56, want 1..55"},
		{"flag of two octets", inPDU(tlv("ac", c73TLV, b10TLV, "3004 01020000")), "tpduModemToCard", "flags.tpduHeaderPresent", "has 2 octets, want 1 (X.690 8.2.1)"},
		{"no data", inPDU(tlv("ac", tpduHex)), "tpduModemToCard", "data", isMissing},
		{"data in parts of another type", inPDU(tlv("ac", tpduHex, "2403 160100")), "tpduModemToCard", "data", "part is [UNIVERSAL 22], want [UNIVERSAL 4]"},
		{"data in parts too deep", inPDU(tlv("ac", tpduHex, "240a 2408 2406 2404 2402 0400")), "tpduModemToCard", "data", "parts nest deeper than 4"},
		{"data in a part that is too long", inPDU(tlv("ac", tpduHex, "2402 0401")), "tpduModemToCard", "data", "part ends too early"},
		{"data in a part of a part that is too long", inPDU(tlv("ac", tpduHex, "2404 2402 0401")), "tpduModemToCard", "data", "part ends too early"},
		{"reset missing", inPDU(tlv("af", b10TLV, c73TLV, "3000")), "bankSlotStatusInd", "slotPhysStatus.resetActive", isMissing},
		{"vcc without octets", inPDU(tlv("af", b10TLV, c73TLV, "3005 800100 8100")), "bankSlotStatusInd", "slotPhysStatus.vccPresent", "has 0 octets, want 1 (X.690 8.2.1)"},
		{"empty error text", inPDU("b00b 0a0100 0a0101 0a0101 8200"), "errorInd", "errorString", "size is 0, want 1..255"},
		{"long error text", inPDU(tlv("b0", "0a0100 0a0101 0a0101", tlv("82", strings.Repeat("78", 256)))), "errorInd", "errorString", "size is 256, want 1..255"},
		{"error slot", inPDU("b011 0a0100 0a0101 0a0101 a006 020101 020180"), "errorInd", "bankSlot.slotNr", "is -128" + outOf1023},

		// Addresses.
		{"IPv4 of 3 octets", inPDU(tlv("b1", b10TLV, "3008 80037f0000 020100")), "configClientBankReq", "bankd.ip", "size is 3, want 4..4"},
		{"IPv6 of 4 octets", inPDU(tlv("b1", b10TLV, "3009 81047f000001 020100")), "configClientBankReq", "bankd.ip", "size is 4, want 16..16"},
		{"another kind of address", inPDU(tlv("b1", b10TLV, "3009 82047f000001 020100")), "configClientBankReq", "bankd.ip", "is missing, [2] is in its place"},
		{"port", inPDU(tlv("b1", b10TLV, "300b 80047f000001 0203010000")), "configClientBankReq", "bankd.port", "is 65536, want 0..65535"},
		{"more in an IpPort", inPDU(tlv("b1", b10TLV, "300b 80047f000001 020100 0500")), "configClientBankReq", "bankd", "[UNIVERSAL 5] does not belong here"},
		{"more in an endpoint", inPDU(tlv("a0", clientHex, bankIDsHex, "bf640b 80047f000001 020100 0500")), "connectBankReq", "endpoint", "[UNIVERSAL 5] does not belong here"},
		{"primitive endpoint", inPDU(tlv("a0", clientHex, bankIDsHex, "9f6400")), "connectBankReq", "endpoint", "is primitive, want constructed"},

		// Features.
		{"no octets", inPDU(tlv("a3", clientHex, "0a0100 9f6500")), "connectClientRes", "features", "has no octets (X.690 8.6.2)"},
		{"too many unused bits", inPDU(tlv("a3", clientHex, "0a0100", tooManyBit)), "connectClientRes", "features", "has 8 unused bits in 1 octets (X.690 8.6.2)"},
		{"unused bits of nothing", inPDU(tlv("a3", clientHex, "0a0100 9f650101")), "connectClientRes", "features", "has 1 unused bits in 0 octets (X.690 8.6.2)"},
		{"no parts", inPDU(tlv("a3", clientHex, "0a0100 bf6500")), "connectClientRes", "features", "has no octets (X.690 8.6.2)"},
		{"empty part", inPDU(tlv("a3", clientHex, "0a0100 bf6502 0300")), "connectClientRes", "features", "has no octets (X.690 8.6.2)"},
		{"unused bits amidst", inPDU(tlv("a3", clientHex, "0a0100 bf6508 0302 0780 0302 0080")), "connectClientRes", "features", "part before the last has unused bits (X.690 8.6.4)"},

		// Lists.
		{"41 maps", inPDU(tlv("bf64", tlv("30", strings.Repeat(tlv("30", c73TLV, b10TLV), 41)), "0101ff")), "bankSlotmapsInd", "maps", "more than 40 items"},
		{"9 slots", inPDU(tlv("bf65", tlv("30", strings.Repeat(tlv("30", infoHex), 9)))), "bankSlotInfoInd", "slots", "more than 8 items"},
		{"second map", inPDU(tlv("bf64", tlv("30", tlv("30", c73TLV, b10TLV), tlv("30", c73TLV, "3005 020101 0500")), "0101ff")),
			"bankSlotmapsInd", "maps[1].bank.slotNr", "is missing, [UNIVERSAL 5] is in its place"},
		{"map of another type", inPDU("bf6407 3002 0500 0101ff"), "bankSlotmapsInd", "maps[0]", "is missing, [UNIVERSAL 5] is in its place"},
		{"garbage in a list", inPDU(tlv("bf64", tlv("30", tlv("30", c73TLV, b10TLV), "30"), "0101ff")), "bankSlotmapsInd", "maps", "ends too early"},
		{"last missing", inPDU("bf6402 3000"), "bankSlotmapsInd", "last", isMissing},
		{"reader that is not UTF-8", inPDU(tlv("bf65", tlv("30", tlv("30", infoHex, "8001ff")))), "bankSlotInfoInd", "slots[0].reader", "is not UTF-8"},
		{"empty ATR of a slot", inPDU(tlv("bf65", tlv("30", tlv("30", infoHex, "8100")))), "bankSlotInfoInd", "slots[0].atr", "size is 0, want 1..55"},
	}
}

func TestDecodeErrors(t *testing.T) {
	for _, tt := range faults() {
		t.Run(tt.name, func(t *testing.T) {
			p, err := Decode(unhex(t, tt.hex))
			checkError(t, err, Error{"decode", tt.message, tt.element, tt.rule})
			if p != (PDU{}) {
				t.Errorf("with the error comes %+v", p)
			}
		})
	}
}

func checkError(t *testing.T, err error, want Error) {
	t.Helper()
	var got *Error
	if !errors.As(err, &got) || *got != want {
		t.Errorf("got  %v\nwant %v", err, &want)
	}
}

// TestAppendErrors makes sure that nothing leaves that a receiver would refuse.
func TestAppendErrors(t *testing.T) {
	var (
		c    = slot.Client{ID: 7, Slot: 3}
		ci   = ComponentIdentity{Type: Client, Name: "c", Software: "remsim-client", SWVersion: "1.0"}
		zone = netip.AddrPortFrom(netip.MustParseAddr("fe80::1%eth0"), 1)
	)
	with := func(set func(*ComponentIdentity)) *ConnectClientReq {
		m := &ConnectClientReq{Identity: ci}
		set(&m.Identity)
		return m
	}
	for _, tt := range []struct {
		name    string
		pdu     PDU
		message string
		element string
		rule    string
	}{
		{"version", PDU{33, 0, &ResetStateReq{}}, "RsproPDU", "version", "is 33, want 0..32"},
		{"tag", PDU{2, -1, &ResetStateReq{}}, "RsproPDU", "tag", "is -1, want 0..2147483647"},
		{"no message", PDU{2, 0, nil}, "RsproPDU", "msg", "there is none"},
		{"foreign message", PDU{2, 0, foreign{}}, "resetStateReq", "", "rspro.foreign is not a message"},
		{"unknown number", PDU{2, 0, &Unknown{Number: 1 << 28}}, "RsproPDU", "msg", "number of the message is above 268435455"},
		{"no name", PDU{2, 0, with(func(i *ComponentIdentity) { i.Name = "" })}, "connectClientReq", "identity.name", "size is 0, want 1..32"},
		{"long software", PDU{2, 0, with(func(i *ComponentIdentity) { i.Software = strings.Repeat("s", 33) })}, "connectClientReq", "identity.software", "size is 33, want 1..32"},
		{"hwModel not ASCII", PDU{2, 0, with(func(i *ComponentIdentity) { i.HWModel = "ü" })}, "connectClientReq", "identity.hwModel", "has characters that are not ASCII"},
		{"client id", PDU{2, 0, &ConfigClientIDReq{Slot: slot.Client{ID: 1024}}}, "configClientIdReq", "clientSlot.clientId", "is 1024, want 0..1023"},
		{"bank slot", PDU{2, 0, &RemoveMappingReq{Bank: slot.Bank{Slot: 65535}}}, "removeMappingReq", "bank.slotNr", "is 65535, want 0..1023"},
		{"no ATR", PDU{2, 0, &SetAtrReq{Slot: c}}, "setAtrReq", "atr", "size is 0, want 1..55"},
		{"signal", PDU{2, 0, &ClientSlotStatusInd{Phys: slot.Phys{VCC: 3}}}, "clientSlotStatusInd", "slotPhysStatus.vccPresent", "is 3, want 0..2"},
		{"no address", PDU{2, 0, &ConfigClientBankReq{}}, "configClientBankReq", "bankd.ip", "is invalid IP, want an address without zone"},
		{"zone", PDU{2, 0, &ConfigClientBankReq{Bankd: zone}}, "configClientBankReq", "bankd.ip", "is fe80::1%eth0, want an address without zone"},
		{"port without address", PDU{2, 0, &ConnectBankReq{Identity: ci, Endpoint: netip.AddrPortFrom(netip.Addr{}, 1)}}, "connectBankReq", "endpoint.ip", "is invalid IP, want an address without zone"},
		{"long text", PDU{2, 0, &ErrorInd{Text: strings.Repeat("x", 256)}}, "errorInd", "errorString", "size is 256, want 1..255"},
		{"41 maps", PDU{2, 0, &BankSlotmapsInd{Maps: make([]slot.Map, 41)}}, "bankSlotmapsInd", "maps", "more than 40 items"},
		{"third slot", PDU{2, 0, &BankSlotInfoInd{Slots: []SlotInfo{{}, {}, {Reader: "\xff"}}}}, "bankSlotInfoInd", "slots[2].reader", "is not UTF-8"},
		{"much data", PDU{2, 0, &TpduCardToModem{Data: make([]byte, MaxSize+1)}}, "tpduCardToModem", "data", "size is 4093, want 0..4092"},
		{"too large", PDU{2, 0, &TpduCardToModem{Data: make([]byte, MaxSize)}}, "RsproPDU", "", "is larger than 4092 bytes"},
		{"too large with definite lists", PDU{2, 0, &BankSlotInfoInd{Slots: repeat(SlotInfo{Reader: strings.Repeat("r", MaxSize)}, MaxSlots)}}, "RsproPDU", "", "is larger than 4092 bytes"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			got, err := tt.pdu.Append([]byte("before"))
			checkError(t, err, Error{"encode", tt.message, tt.element, tt.rule})
			if string(got) != "before" {
				t.Errorf("with the error comes %x", got)
			}
		})
	}
}

type foreign struct{}

func (foreign) Choice() Choice { return ChoiceResetStateReq }

// TestDataAliases holds Decode to its doc comment: data isn't copied, and
// appending to it doesn't reach what follows in the frame.
func TestDataAliases(t *testing.T) {
	b := unhex(t, inPDU(tlv("ac", tpduHex, "0403 010203", "8401 7f")))
	p, err := Decode(b)
	if err != nil {
		t.Fatal(err)
	}
	data := p.Msg.(*TpduModemToCard).Data
	at := bytes.Index(b, []byte{1, 2, 3})
	b[at] = 9
	if data[0] != 9 {
		t.Errorf("data is a copy")
	}
	_ = append(data, 0xee)
	if b[at+3] != 0x84 {
		t.Errorf("appending to data wrote % x into the frame", b[at+3])
	}
}

func tpdu260() PDU {
	return PDU{Version: Version, Tag: 1, Msg: &TpduModemToCard{
		From: slot.Client{ID: 23}, To: slot.Bank{ID: 1, Slot: 5}, Data: make([]byte, 260),
	}}
}

func TestAllocs(t *testing.T) {
	p := tpdu260()
	b, err := p.Append(nil)
	if err != nil {
		t.Fatal(err)
	}
	exact := make([]byte, 0, len(b)) // room and not a byte more
	if n := testing.AllocsPerRun(100, func() {
		if _, err := p.Append(exact); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("encoding a TPDU allocates %v times, want 0", n)
	}
	if n := testing.AllocsPerRun(100, func() {
		if _, err := Decode(b); err != nil {
			t.Fatal(err)
		}
	}); n > 1 {
		t.Errorf("decoding a TPDU allocates %v times, want 1 at most", n)
	}
	for _, g := range goldens() {
		buf := make([]byte, 0, MaxSize)
		if n := testing.AllocsPerRun(10, func() { g.pdu.Append(buf) }); n != 0 {
			t.Errorf("encoding %s allocates %v times, want 0", g.name, n)
		}
	}
}

// TestMemory lets Decode have the worst frames there are.
func TestMemory(t *testing.T) {
	const limit = 64 << 10
	fill := func(head, unit string) string {
		return head + strings.Repeat(unit, (2*MaxSize-len(head))/len(unit))
	}
	info := tlv("30", infoHex, tlv("80", strings.Repeat("72", 200)), tlv("81", strings.Repeat("3b", MaxATRLen)), tlv("82", strings.Repeat("78", 200)))
	parts := tlv("24", strings.Repeat("2402 0400", 500))
	whole := tlv("30", "0a0100", tlv("36", tlv("04", strings.Repeat("6e", 32))))
	for _, tt := range []struct{ name, hex string }{
		{"nested SEQUENCEs", fill("", "3080")},
		{"nested messages", fill("3080800102810100a280", "a080")},
		{"nested parts", fill("3080800102810100a280ac80"+tpduHex, "2480")},
		{"many parts", inPDU(tlv("ac", tpduHex, parts))},
		{"large data in parts", inPDU(tlv("ac", tpduHex, tlv("24", strings.Repeat(tlv("04", strings.Repeat("00", 100)), 38))))},
		{"unknown elements", inPDU(tlv("a5", "0a0100", strings.Repeat("9f6600", 1300)))},
		{"unknown elements of indefinite length", inPDU(tlv("a5", "0a0100", strings.Repeat("a0800000", 1000)))},
		{"items of a list", inPDU(tlv("bf64", tlv("30", strings.Repeat("3000", 2000))))},
		{"empty items of a list", inPDU(tlv("bf65", tlv("30", strings.Repeat(tlv("30", infoHex), 450))))},
		{"maps", inPDU(tlv("bf64", tlv("30", strings.Repeat(tlv("30", c73TLV, b10TLV), MaxMaps)), "0101ff"))},
		{"slots", inPDU(tlv("bf65", tlv("30", strings.Repeat(info, MaxSlots))))},
		{"identity in parts", inPDU(tlv("a2", whole))},
		{"a name as large as the frame", inPDU(tlv("a2", tlv("30", "0a0100", tlv("16", strings.Repeat("80", 4000)))))},
		{"a reader as large as the frame", inPDU(tlv("bf65", tlv("30", tlv("30", infoHex, tlv("80", strings.Repeat("ff", 4000))))))},
		{"more than the limit", strings.Repeat("30", 1<<20)},
	} {
		b := unhex(t, tt.hex)
		if n := decodeCost(b); n > limit {
			t.Errorf("%s: %d bytes, want %d at most", tt.name, n, limit)
		}
	}
}

// decodeCost returns how much memory Decode and the text of its error take,
// freed again or not.
func decodeCost(b []byte) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := Decode(b); err != nil {
		_ = err.Error()
	}
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func TestChoice(t *testing.T) {
	names := map[string]bool{}
	for _, g := range goldens() {
		c := g.pdu.Msg.Choice()
		name := c.String()
		names[name] = true
		// The table names its rows by their message.
		if first, _, _ := strings.Cut(g.name, " "); first != name {
			t.Errorf("%d is called %s, want %s", c, name, first)
		}
		res, ok := c.Response()
		_, answers := newMessage(res).(Response)
		_, isResponse := g.pdu.Msg.(Response)
		switch {
		case strings.HasSuffix(name, "Req"):
			if want := strings.TrimSuffix(name, "Req") + "Res"; !ok || res.String() != want || !answers {
				t.Errorf("%v is answered by %v, %t, want %s", c, res, ok, want)
			}
		case ok:
			t.Errorf("%v is answered by %v, want nothing", c, res)
		}
		if isResponse != strings.HasSuffix(name, "Res") {
			t.Errorf("%v is a Response: %t", c, isResponse)
		}
	}
	if len(names) != 23 {
		t.Errorf("%d names, want 23", len(names))
	}
	if got := Choice(4711).String(); got != "[4711]" {
		t.Errorf("an unknown choice is %s, want [4711]", got)
	}
}

func TestEnumNames(t *testing.T) {
	for _, tt := range []struct {
		value fmt.Stringer
		want  string
	}{
		{Bankd, "remsimBankd"}, {ComponentType(3), "3"},
		{IdentityInUse, "identityInUse"}, {CardTransmissionError, "cardTransmissionError"}, {ResultCode(-7), "-7"},
		{UnexpectedDisconnect, "unexpectedDisconnect"}, {ErrorCode(0), "0"},
		{Fatal, "fatal"}, {ErrorSeverity(4), "4"},
	} {
		if got := tt.value.String(); got != tt.want {
			t.Errorf("%#v is called %s, want %s", tt.value, got, tt.want)
		}
	}
}

func TestResultCode(t *testing.T) {
	for _, m := range []Response{
		&ConnectBankRes{Result: CardNotPresent}, &ConnectClientRes{Result: CardNotPresent},
		&CreateMappingRes{Result: CardNotPresent}, &RemoveMappingRes{Result: CardNotPresent},
		&ConfigClientIDRes{Result: CardNotPresent}, &ConfigClientBankRes{Result: CardNotPresent},
		&SetAtrRes{Result: CardNotPresent}, &ResetStateRes{Result: CardNotPresent},
	} {
		if got := m.ResultCode(); got != CardNotPresent {
			t.Errorf("%v: result %v", m.Choice(), got)
		}
	}
}

func TestFeaturesHas(t *testing.T) {
	f := AtrAfterReset | BankState
	if !f.Has(BankState) || !f.Has(f) || f.Has(LateAtr) || f.Has(LateAtr|BankState) {
		t.Errorf("Has of %b is wrong", f)
	}
}
