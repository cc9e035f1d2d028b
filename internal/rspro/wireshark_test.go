// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"cmp"
	"encoding/binary"
	"encoding/hex"
	"fmt"
	"math/rand/v2"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"testing"
	"unicode"
	"unicode/utf8"

	"remsim/internal/gsmtap/tshark"
	"remsim/internal/slot"
)

// These tests have Wireshark's dissector for RSPRO read what this package reads, and compare.

const dissector = "../../contrib/wireshark/rspro.lua"

// A segment is a TCP segment of a trace between port 40000 + conn and port.
type segment struct {
	conn int
	port uint16 // of the listener
	back bool   // from the listener
	data []byte
	cut  int // so much of its end isn't in the trace
}

func frameOf(pdu []byte) []byte {
	b := binary.BigEndian.AppendUint16(nil, uint16(1+len(pdu)))
	return append(append(b, 0xee, 0x07), pdu...)
}

// dissect has tshark read a trace of segments, one a millisecond, and returns the lines of the tree of each that are
// the dissector's, as "name=value", and those of others whose names begin with also.
func dissect(t *testing.T, segments []segment, also []string, options ...string) (packets [][]string) {
	t.Helper()
	b := []byte{0xa1, 0xb2, 0xc3, 0xd4, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0xff, 0xff, 0, 0, 0, 101} // raw IP
	u16, u32 := binary.BigEndian.AppendUint16, binary.BigEndian.AppendUint32
	type end struct {
		conn int
		back bool
	}
	sent := map[end]uint32{}
	for i, s := range segments {
		from, to := uint16(40000+s.conn), s.port
		if s.back {
			from, to = to, from
		}
		size := 40 + len(s.data)
		b = u32(u32(b, uint32(1+i/1000)), uint32(i%1000*1000))
		b = u32(u32(b, uint32(size-s.cut)), uint32(size))
		b = u16(append(b, 0x45, 0), uint16(size))
		b = append(b, 0, 0, 0, 0, 64, 6, 0, 0, 127, 0, 0, 1, 127, 0, 0, 1)
		b = u32(u16(u16(b, from), to), 1+sent[end{s.conn, s.back}])
		b = append(u32(b, 1+sent[end{s.conn, !s.back}]), 0x50, 0x18, 0xff, 0xff, 0, 0, 0, 0)
		b = append(b, s.data[:len(s.data)-s.cut]...)
		sent[end{s.conn, s.back}] += uint32(len(s.data))
	}
	file := filepath.Join(t.TempDir(), "trace.pcap")
	if err := os.WriteFile(file, b, 0o644); err != nil {
		t.Fatal(err)
	}
	trees, err := tshark.Tree(file, append([]string{"-X", "lua_script:" + dissector}, options...)...)
	if err != nil {
		t.Fatal(err)
	}
	if len(trees) != len(segments) {
		t.Fatalf("%d packets of %d segments", len(trees), len(segments))
	}
	also = append(also, "rspro.")
	for i, tree := range trees {
		var lines []string
		for _, f := range tree {
			if strings.Contains(f.Show, "Lua Error") {
				t.Errorf("packet %d, %x: %q", i, segments[i].data, tree)
			}
			if slices.ContainsFunc(also, func(p string) bool { return strings.HasPrefix(f.Name, p) }) {
				lines = append(lines, f.Name+"="+f.Show)
			}
		}
		packets = append(packets, lines)
	}
	return packets
}

// members are the names in filters of members of messages that are called otherwise in this package.
var members = map[string]string{
	"ComponentIdentity.Type": "component_type", "ErrorInd.Sender": "component_type",
	"ComponentIdentity.SWVersion": "identity.sw_version", "ComponentIdentity.HWManufacturer": "identity.hw_manufacturer",
	"ComponentIdentity.HWModel": "identity.hw_model", "ComponentIdentity.HWSerialNr": "identity.hw_serial_nr",
	"ComponentIdentity.HWVersion": "identity.hw_version", "ComponentIdentity.FWVersion": "identity.fw_version",
	"ComponentIdentity.Name": "identity.name", "ComponentIdentity.Software": "identity.software",
	"ConnectBankReq.BankID": "bank_id", "ConnectBankReq.NumSlots": "number_of_slots",
	"TpduModemToCard.Data": "tpdu.data", "TpduCardToModem.Data": "tpdu.data",
	"TpduFlags.HeaderPresent": "tpdu.header_present", "TpduFlags.FinalPart": "tpdu.final_part",
	"TpduFlags.ProcByteContinueTx": "tpdu.proc_byte_continue_tx", "TpduFlags.ProcByteContinueRx": "tpdu.proc_byte_continue_rx",
	"ErrorInd.Severity": "error_severity", "ErrorInd.Code": "error_code", "ErrorInd.Text": "error_string",
	"SlotInfo.Slot": "bank_slot_nr", "SlotInfo.Present": "card_present", "SlotInfo.Error": "error_string",
	"Phys.Reset": "reset_active", "Phys.VCC": "vcc_present", "Phys.CLK": "clk_active", "Phys.Card": "card_present",
}

const anything = "\x00" // a value that tshark shows in a way of its own

// shown returns the lines that the dissector should show of a PDU.
func shown(p PDU) []string {
	lines := []string{
		fmt.Sprintf("rspro.version=%d", p.Version), fmt.Sprintf("rspro.tag=%d", p.Tag), fmt.Sprintf("rspro.msg=%d", p.Msg.Choice()),
	}
	if u, ok := p.Msg.(*Unknown); ok {
		return append(lines, fmt.Sprintf("rspro.name=message %d", u.Number), "rspro.unknown="+anything)
	}
	lines = append(lines, "rspro.name="+p.Msg.Choice().String())
	return appendShown(lines, "", reflect.ValueOf(p.Msg).Elem())
}

func appendShown(lines []string, name string, v reflect.Value) []string {
	add := func(format string, a ...any) { lines = append(lines, "rspro."+name+"="+fmt.Sprintf(format, a...)) }
	switch x := v.Interface().(type) {
	case slot.Client:
		return append(lines, fmt.Sprintf("rspro.client_id=%d", x.ID), fmt.Sprintf("rspro.client_slot_nr=%d", x.Slot), "rspro.client_slot="+x.String())
	case slot.Bank:
		return append(lines, fmt.Sprintf("rspro.bank_id=%d", x.ID), fmt.Sprintf("rspro.bank_slot_nr=%d", x.Slot), "rspro.bank_slot="+x.String())
	case slot.Map:
		lines = appendShown(lines, "", reflect.ValueOf(x.Client))
		return appendShown(lines, "", reflect.ValueOf(x.Bank))
	case IPPort:
		if !x.IsValid() {
			return lines
		}
		if name = "ipv4"; x.Addr().Is6() {
			name = "ipv6"
		}
		if x.Addr().Is4In6() {
			add("%s", anything)
		} else {
			add("%s", x.Addr())
		}
		return append(lines, fmt.Sprintf("rspro.port=%d", x.Port()))
	case Features:
		var bits []string
		for i := range 64 {
			if x&(1<<i) == 0 {
				continue
			}
			if i < 3 {
				bits = append(bits, []string{"atrAfterReset", "lateAtr", "bankState"}[i])
			} else {
				bits = append(bits, fmt.Sprintf("bit %d", i))
			}
		}
		if x != 0 {
			add("%s", strings.Join(bits, ","))
		}
		return lines
	case slot.Signal:
		if x != slot.Unknown {
			add("%s", x)
		}
		return lines
	case []byte:
		if x != nil {
			add("%s", strings.ReplaceAll(fmt.Sprintf("% x", x), " ", ":"))
		}
		return lines
	case string:
		if strings.ContainsFunc(x, func(r rune) bool { return !unicode.IsPrint(r) || strings.ContainsRune(`\"`, r) }) {
			add("%s", anything)
		} else if x != "" {
			add("%s", x)
		}
		return lines
	case bool:
		if add("0"); x {
			lines[len(lines)-1] = "rspro." + name + "=1"
		}
		return lines
	}
	switch v.Kind() {
	case reflect.Pointer:
		if !v.IsNil() {
			lines = appendShown(lines, name, v.Elem())
		}
	case reflect.Slice:
		for i := range v.Len() {
			lines = appendShown(lines, name, v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			f := v.Type().Field(i)
			name, ok := members[v.Type().Name()+"."+f.Name]
			if !ok {
				name = strings.ToLower(f.Name)
			}
			lines = appendShown(lines, name, v.Field(i))
		}
	default: // a number
		add("%d", v.Interface())
	}
	return lines
}

var (
	complaints = []string{"rspro.malformed=", "rspro.rule="}
	remarks    = []string{"rspro.refused=", "rspro.error=", "rspro.unknown_message=", "rspro.request_in=", "rspro.response_in=", "rspro.time="}
)

// split takes what the dissector says of a PDU's rules and partners out of what it shows.
func split(lines []string) (values, complains []string) {
	has := func(line string, prefixes []string) bool {
		return slices.ContainsFunc(prefixes, func(p string) bool { return strings.HasPrefix(line, p) })
	}
	for _, l := range lines {
		switch {
		case has(l, complaints):
			complains = append(complains, l)
		case !has(l, remarks):
			values = append(values, l)
		}
	}
	return values, complains
}

// sameShown compares what is shown; elements that this package skips are shown as unknown, and those that are empty
// to it as absent ones, too.
func sameShown(got, want []string) bool {
	for _, g := range got {
		if len(want) > 0 {
			before, any := strings.CutSuffix(want[0], anything)
			if g == want[0] || any && strings.HasPrefix(g, before) {
				want = want[1:]
				continue
			}
		}
		if g != "rspro.features=" && g != "rspro.reader=" && !strings.HasPrefix(g, "rspro.unknown=") {
			return false
		}
	}
	return len(want) == 0
}

// checkDissected has the dissector read PDUs, each on a connection of its own, and compares it with Decode: what
// is shown, and whether there is anything to complain of.
func checkDissected(t *testing.T, pdus [][]byte) (bad int) {
	t.Helper()
	var segments []segment
	for i, b := range pdus {
		segments = append(segments, segment{conn: i, port: 9998, data: frameOf(b)})
	}
	for i, lines := range dissect(t, segments, nil) {
		values, complains := split(lines)
		p, err := Decode(pdus[i])
		switch {
		case err != nil && len(complains) == 0:
			t.Errorf("%x: %v; nothing of that in %q", pdus[i], err, lines)
		case err != nil:
			bad++
		case len(complains) > 0:
			t.Errorf("%x: %q", pdus[i], complains)
		case !sameShown(values, shown(p)):
			t.Errorf("%x:\n got %q\nwant %q", pdus[i], values, shown(p))
		}
	}
	return bad
}

// TestDissector compares what the dissector shows of every message with what this package decodes: of DER, of other forms of
// BER, and of what was recorded.
func TestDissector(t *testing.T) {
	var pdus [][]byte
	for _, g := range append(goldens(), unknowns()...) {
		b := unhex(t, g.hex)
		indefinite := rewrite(t, b, func(b []byte, constructed bool, content []byte) []byte {
			if constructed {
				return append(append(append(b, 0x80), content...), 0, 0)
			}
			return append(append(b, 0x82, byte(len(content)>>8), byte(len(content))), content...)
		})
		pdus = append(pdus, b, indefinite)
	}
	for _, f := range frames(t) {
		if !strings.Contains(f.note, "proto") && !strings.Contains(f.note, "empty") {
			pdus = append(pdus, f.pdu)
		}
	}
	for _, f := range forms() {
		if !strings.Contains(f.name, "more than 64 bits") { // of which the dissector shows all
			pdus = append(pdus, unhex(t, f.hex))
		}
	}
	for _, f := range faults() {
		if b := unhex(t, f.hex); len(b) > 0 && len(b) <= MaxSize { // those are no frames
			pdus = append(pdus, b)
		}
	}
	if bad := checkDissected(t, pdus); bad < 80 {
		t.Errorf("only %d are bad", bad)
	}
}

// TestDissectorChance compares them where PDUs are made by chance, and where octets of good ones were changed. There is
// never an error of Lua.
func TestDissectorChance(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 6))
	random := func(n int) []byte {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(rnd.Uint32())
		}
		return b
	}
	var good, changed [][]byte
	for len(good) < 150 {
		if b, err := (&source{random(600)}).pdu().Append(nil); err == nil && len(b) < 1000 {
			good = append(good, b)
		}
	}
	if bad := checkDissected(t, good); bad > 0 {
		t.Errorf("%d can't be decoded", bad)
	}
	for _, g := range append(goldens(), unknowns()...) {
		good = append(good, unhex(t, g.hex))
	}
	for range 1200 {
		b := slices.Clone(good[rnd.IntN(len(good))])
		for range 1 + rnd.IntN(3) {
			i := rnd.IntN(len(b))
			switch rnd.IntN(5) {
			case 0:
				b[i] = byte(rnd.Uint32())
			case 1:
				b[i] ^= 1 << rnd.IntN(8)
			case 2:
				b = b[:i+1]
			case 3:
				b = slices.Delete(b, i, i+1)
				b = append(b, 0)
			case 4:
				b = slices.Insert(b, i, random(1+rnd.IntN(3))...)
			}
		}
		changed = append(changed, b)
	}
	bad := checkDissected(t, changed)
	if bad < len(changed)/3 || bad > len(changed)*19/20 {
		t.Errorf("%d of %d are bad, which is no mixture", bad, len(changed))
	}
}

// TestDissectorStream cuts a stream of frames where chance will have it: anything from a part of a header to many frames is a segment.
func TestDissectorStream(t *testing.T) {
	var stream []byte
	var want []string
	for range 3 {
		for _, g := range goldens() {
			stream = append(stream, frameOf(unhex(t, g.hex))...)
			stream = append(stream, 0, 1, 0xfe, 0) // PING
			want = append(want, shown(g.pdu)...)
		}
	}
	rnd := rand.New(rand.NewPCG(8, 6))
	var segments []segment
	for rest := stream; len(rest) > 0; {
		n := 1 + rnd.IntN(min(len(rest), []int{5, 100, 1400}[rnd.IntN(3)]))
		segments = append(segments, segment{port: 9999, data: rest[:n]})
		rest = rest[n:]
	}
	var got []string
	pings := 0
	for _, lines := range dissect(t, segments, []string{"rspro_ipa."}) {
		values, complains := split(lines)
		if len(complains) > 0 {
			t.Error(complains)
		}
		for _, l := range values {
			switch {
			case l == "rspro_ipa.ccm=0x00":
				pings++
			case strings.HasPrefix(l, "rspro."):
				got = append(got, l)
			}
		}
	}
	if !sameShown(got, want) {
		t.Errorf("%d segments show\n%q\nwant\n%q", len(segments), got, want)
	}
	if n := 3 * len(goldens()); pings != n {
		t.Errorf("%d PINGs, want %d", pings, n)
	}
}

// TestDissectorNoise has streams whose frames are changed, cut anywhere, and in part not in the trace: whatever
// that shows, there is no error of Lua.
func TestDissectorNoise(t *testing.T) {
	rnd := rand.New(rand.NewPCG(8, 6))
	all := goldens()
	for _, options := range [][]string{nil, {"-o", "tcp.desegment_tcp_streams:FALSE"}} {
		var segments []segment
		for conn := range 60 {
			var stream []byte
			for range 40 {
				switch b := frameOf(unhex(t, all[rnd.IntN(len(all))].hex)); rnd.IntN(6) {
				case 0:
					stream = append(stream, 0, byte(rnd.IntN(30)), 0xfe, byte(rnd.IntN(8)))
				case 1:
					b[rnd.IntN(len(b))] = byte(rnd.Uint32())
					fallthrough
				default:
					stream = append(stream, b...)
				}
			}
			for len(stream) > 0 {
				n := 1 + rnd.IntN(min(len(stream), 400))
				s := segment{conn: conn, port: uint16(9997 + rnd.IntN(3)), back: rnd.IntN(2) == 0, data: stream[:n]}
				if rnd.IntN(10) == 0 {
					s.cut = rnd.IntN(n + 1)
				}
				segments = append(segments, s)
				stream = stream[n:]
			}
		}
		messages := 0
		for _, lines := range dissect(t, segments, nil, options...) {
			messages += len(lines)
		}
		if messages < 1000 {
			t.Errorf("only %d lines", messages)
		}
	}
}

// TestDissectorPairs checks which answer belongs to which request, and that commands and answers, and ATRs, are handed on to the
// dissectors of Wireshark that know them.
func TestDissectorPairs(t *testing.T) {
	c, b := slot.Client{ID: 7, Slot: 3}, slot.Bank{ID: 1, Slot: 0}
	mapping := &CreateMappingReq{c, b}
	tpdu := func(h string) []byte { return unhex(t, h) }
	var segments []segment
	var wants []string
	say := func(conn int, back bool, want string, pdus ...PDU) {
		s := segment{conn: conn, port: 9998, back: back}
		for _, p := range pdus {
			der, err := p.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			s.data = append(s.data, frameOf(der)...)
		}
		segments, wants = append(segments, s), append(wants, want)
	}
	read := PDU{2, 1, &TpduModemToCard{From: c, To: b, Data: tpdu("a0b0000002")}}
	auth := PDU{2, 1, &TpduModemToCard{From: c, To: b, Data: tpdu("a088000010" + strings.Repeat("5a", 16))}}
	answer := PDU{2, 9, &TpduCardToModem{From: b, To: c, Data: tpdu("0123 9000")}}
	const alone = "gsm_sim.apdu.data=01:23 gsm_sim.apdu.sw=0x9000"

	// By tags, whatever their order; by their order where tags are others or the same; in one segment or several.
	say(0, false, "rspro.response_in=4", PDU{2, 5, mapping})
	say(0, false, "rspro.response_in=4", PDU{2, 6, mapping})
	say(1, false, "rspro.response_in=6 rspro.response_in=5", PDU{2, 6, mapping}, PDU{2, 0, &RemoveMappingReq{c, b}})
	say(0, true, "rspro.request_in=2 rspro.time=0.002000000 rspro.refused= rspro.request_in=1 rspro.time=0.003000000",
		PDU{2, 6, &CreateMappingRes{}}, PDU{2, 5, &CreateMappingRes{Result: IllegalSlotID}})
	say(1, true, "rspro.request_in=3 rspro.time=0.002000000", PDU{2, 2342, &RemoveMappingRes{}})
	say(1, true, "rspro.request_in=3 rspro.time=0.003000000", PDU{2, 2342, &CreateMappingRes{}}, PDU{2, 1, &CreateMappingRes{}})
	say(2, false, "rspro.response_in=8 rspro.response_in=9", PDU{2, 0, mapping}, PDU{2, 0, mapping})
	say(2, true, "rspro.request_in=7 rspro.time=0.001000000", PDU{2, 0, &CreateMappingRes{}})
	say(2, true, "rspro.request_in=7 rspro.time=0.002000000", PDU{2, 0, &CreateMappingRes{}})

	// A command that gets no answer, one that does, and an answer to nothing.
	say(3, false, "gsm_sim.apdu.ins=0xa4 gsm_sim.file_id=0x6f07", PDU{2, 1, &TpduModemToCard{From: c, To: b, Data: tpdu("a0a40000026f07")}})
	say(3, false, "rspro.response_in=12 gsm_sim.apdu.ins=0xb0", read)
	say(3, true, "rspro.request_in=11 rspro.time=0.001000000 gsm_sim.apdu.ins=0xb0 "+alone, answer)
	say(3, true, alone, answer)
	say(3, true, "iso7816.atr.init_char=0x3b", PDU{2, 1, &SetAtrReq{Slot: c, ATR: unhex(t, "3b7d9400005555530a7486930b247c4d5468")}})
	say(3, false, "rspro.response_in=16 gsm_sim.apdu.ins=0x88", auth)
	say(3, true, "rspro.request_in=15 rspro.time=0.001000000 gsm_sim.apdu.sw=0x9f0c", PDU{2, 1, &TpduCardToModem{From: b, To: c, Data: tpdu("9f0c")}})

	// What those dissectors find too short.
	say(3, false, "rspro.response_in=18", PDU{2, 1, &TpduModemToCard{From: c, To: b, Data: tpdu("a088")}})
	say(3, true, "rspro.request_in=17 rspro.time=0.001000000 gsm_sim.apdu.ins=0x88", PDU{2, 1, &TpduCardToModem{From: b, To: c, Data: tpdu("9f0c00")}})

	// Another connection from the same port.
	say(3, false, "gsm_sim.apdu.ins=0xb0", read)
	say(3, false, "", PDU{2, 2, &ConnectClientReq{Identity: ComponentIdentity{Name: "c", Software: "c", SWVersion: "1"}}})
	say(3, true, alone, answer)

	for i, lines := range dissect(t, segments, []string{"gsm_sim.", "iso7816.atr."}, "-2") { // reads twice, as Wireshark does
		var got []string
		for _, l := range lines {
			name, _, _ := strings.Cut(l, "=")
			if slices.Contains(remarks, name+"=") || slices.Contains([]string{
				"gsm_sim.apdu.ins", "gsm_sim.file_id", "gsm_sim.apdu.data", "gsm_sim.apdu.sw", "iso7816.atr.init_char"}, name) {
				got = append(got, l)
			}
		}
		if got := strings.Join(got, " "); got != wants[i] {
			t.Errorf("packet %d shows %s, want %s", i+1, got, wants[i])
		}
	}
}

// TestDissectorFrames has frames that are no RSPRO, connection control, and connections at other ports.
func TestDissectorFrames(t *testing.T) {
	pdu := frameOf(unhex(t, goldens()[0].hex))
	const recognised, seen = "rspro.name=connectBankReq", "rspro_ipa.length"
	type test struct {
		name    string
		port    uint16
		data    string
		want    string // "": nothing of ours
		options []string
	}
	groups := map[string][]test{} // by options: tshark takes its time to start
	for _, tt := range []test{
		{"a stream of others", 9998, "0003 55 616263", "Stream 55 isn't RSPRO", nil},
		{"an extension of others", 9998, "0003 ee 016263", "Extension 01 isn't RSPRO", nil},
		{"no contents", 9998, "0000 ee", "A frame without contents", nil},
		{"no contents of connection control", 9998, "0000 fe", "A frame without contents", nil},
		{"no PDU", 9998, "0001 ee 07", "A frame without a PDU", nil},
		{"PONG", 9999, "0001 fe 01", "rspro_ipa.ccm=0x01", nil},
		{"ID_GET", 9998, "0011 fe 04 0108 0107 0102 0103 0104 0105 0101 0100", "rspro_ipa.item=0x08", nil},
		{"ID_RESP", 9998, "001f fe 05 0013 01 30302d30302d30302d30302d30302d303000 0007 08 302f302f3000", "rspro_ipa.value=00-00-00-00-00-00", nil},
		{"ID_RESP cut off", 9998, "0004 fe 05 0013 01", "ID_RESP with an item that ends too early", nil},
		{"ID_GET of nothing", 9998, "0002 fe 04 00", "ID_GET with an item that ends too early", nil},
		{"ID_ACK", 9998, "0001 fe 06", "rspro_ipa.ccm=0x06", nil},
		{"other control", 9998, "0001 fe 17", "Connection control 17 isn't known", nil},
		{"not the whole frame", 9998, "0039ee0730", "", nil},
		{"another port", 12345, hex.EncodeToString(pdu), recognised, nil},
		{"another port, only a ping", 12345, "0001 fe 00", "", nil},
		{"another port, something else", 12345, "0039 ee 07 31 3730", "", nil},
		{"another port by preference", 12345, "0001 fe 00", seen, []string{"-o", "rspro_ipa.ports:12000-13000"}},
		{"another port by decode as", 12345, "0001 fe 00", seen, []string{"-d", "tcp.port==12345,rspro_ipa"}},
		{"Wireshark's own reading of IPA", 12345, hex.EncodeToString(pdu), recognised, []string{"-d", "tcp.port==12345,gsm_ipa"}},
	} {
		group := strings.Join(tt.options, " ")
		groups[group] = append(groups[group], tt)
	}
	for _, tests := range groups {
		var segments []segment
		for i, tt := range tests {
			segments = append(segments, segment{conn: i, port: tt.port, data: unhex(t, tt.data)})
		}
		for i, lines := range dissect(t, segments, []string{"rspro_ipa.", "_ws.expert.message"}, tests[0].options...) {
			got, tt := strings.Join(lines, "\n"), tests[i]
			if tt.want == "" && got != "" || !strings.Contains(got, tt.want) {
				t.Errorf("%s: shows %q, want %q", tt.name, got, tt.want)
			}
		}
	}
}

// TestDissectorNames checks that the dissector has every name of the ASN.1 module, and each number that has one.
func TestDissectorNames(t *testing.T) {
	lua, err := os.ReadFile(dissector)
	if err != nil {
		t.Fatal(err)
	}
	module, err := os.ReadFile("../../asn1/RSPRO.asn")
	if err != nil {
		t.Fatal(err)
	}
	if !utf8.Valid(lua) {
		t.Error("it isn't UTF-8")
	}
	names := 0
	for _, m := range regexp.MustCompile(`(?m)^\t([a-z]\w*)[ \t]+(?:\((\d+)\)|\[(\d+)\])?`).FindAllStringSubmatch(string(module), -1) {
		names++
		name, value, tag := m[1], m[2], m[3]
		number := ""
		if value != "" {
			number = fmt.Sprintf("[%s] = %q", value, name)
		} else if n, err := strconv.Atoi(tag); err == nil && strings.HasPrefix(Choice(n).String(), name) {
			number = fmt.Sprintf("[%s] = { %q", tag, name)
		}
		if name == "ipv4" || name == "ipv6" { // alternatives of a CHOICE, which are fields
			continue
		}
		if want := cmp.Or(number, `"`+name+`"`); !strings.Contains(string(lua), want) {
			t.Errorf("no %s", want)
		}
	}
	if names < 100 {
		t.Errorf("only %d names in the module", names)
	}
}
