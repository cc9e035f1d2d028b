// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"net/netip"
	"strings"
	"testing"

	"remsim/internal/slot"
)

// A golden is a PDU and its DER encoding.
type golden struct {
	name string
	pdu  PDU
	hex  string // spaces are for the eye
	// numbers is set if the PDU holds numbers without a name in the ASN.1
	// module, which asn1c can't show as XML.
	numbers bool
}

// Parts of the PDUs.
const (
	bankdHex  = "301d 0a0102 1605 62616e6b31 800c 72656d73696d2d62616e6b64 8103 312e30"
	serverHex = "301a 0a0101 1601 73 800d 72656d73696d2d736572766572 8103 312e30"
	clientHex = "301a 0a0100 1601 63 800d 72656d73696d2d636c69656e74 8103 312e30"
	c73Hex    = "020107 020103"
	b10Hex    = "020101 020100"
	flagsHex  = "300c 010100 010100 010100 010100"
)

// goldens returns PDUs that between them have every message, every optional
// element present and absent, every extension, and the ends of each range.
func goldens() []golden {
	var (
		bankd  = ComponentIdentity{Type: Bankd, Name: "bank1", Software: "remsim-bankd", SWVersion: "1.0"}
		server = ComponentIdentity{Type: Server, Name: "s", Software: "remsim-server", SWVersion: "1.0"}
		client = ComponentIdentity{Type: Client, Name: "c", Software: "remsim-client", SWVersion: "1.0"}
		full   = ComponentIdentity{
			Type: Client, Name: strings.Repeat("n", MaxNameLen), Software: "remsim-client", SWVersion: "1.0 <&>",
			HWManufacturer: "m", HWModel: "mo", HWSerialNr: "s", HWVersion: "h", FWVersion: "f",
		}
		c73, b10 = slot.Client{ID: 7, Slot: 3}, slot.Bank{ID: 1, Slot: 0}
		cMax     = slot.Client{ID: slot.Max, Slot: slot.Max}
		bMax     = slot.Bank{ID: slot.Max, Slot: slot.Max}
		atr      = []byte{0x3b, 0x00}
		select3f = []byte{0xa0, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00}
		loopback = netip.MustParseAddrPort("127.0.0.1:9999")
		v6       = netip.MustParseAddrPort("[2001:db8::7]:65535")
	)
	return []golden{
		{name: "connectBankReq",
			pdu: PDU{Version, 0, &ConnectBankReq{Identity: bankd, BankID: 1, NumSlots: 16}},
			hex: "302f 800102 810100 a227 a025" + bankdHex + "020101 020110"},
		{name: "connectBankReq of an old version and with the largest numbers",
			pdu: PDU{0, 1<<31 - 1, &ConnectBankReq{Identity: bankd, BankID: slot.Max, NumSlots: slot.Max}},
			hex: "3034 800100 81047fffffff a229 a027" + bankdHex + "020203ff 020203ff"},
		{name: "connectBankReq with endpoint",
			pdu: PDU{Version, 1, &ConnectBankReq{Identity: bankd, BankID: 1, NumSlots: 16, Endpoint: loopback}},
			hex: "303c 800102 810101 a234 a032" + bankdHex + "020101 020110 bf640a 80047f000001 0202270f"},
		{name: "connectBankReq with endpoint of IPv6 and features",
			pdu: PDU{Version, 1, &ConnectBankReq{Identity: bankd, BankID: 1, NumSlots: 16, Endpoint: v6, Features: LateAtr | BankState}},
			hex: "304e 800102 810101 a246 a044" + bankdHex +
				"020101 020110 bf6417 811020010db8000000000000000000000007 020300ffff 9f65020560"},
		{name: "connectBankRes",
			pdu: PDU{Version, 0, &ConnectBankRes{Identity: server, Result: OK}},
			hex: "3029 800102 810100 a221 a11f" + serverHex + "0a0100"},
		{name: "connectBankRes with features",
			pdu: PDU{Version, 127, &ConnectBankRes{Identity: server, Result: IdentityInUse, Features: BankState}},
			hex: "302e 800102 81017f a226 a124" + serverHex + "0a0106 9f65020520"},
		{name: "connectBankRes with an unknown result",
			pdu:     PDU{32, 128, &ConnectBankRes{Identity: server, Result: 1<<31 - 1}},
			hex:     "302d 800120 81020080 a224 a122" + serverHex + "0a047fffffff",
			numbers: true},
		{name: "connectClientReq",
			pdu: PDU{Version, 0, &ConnectClientReq{Identity: client, Slot: &c73}},
			hex: "302e 800102 810100 a226 a224" + clientHex + "3006" + c73Hex},
		{name: "connectClientReq without slot",
			pdu: PDU{Version, 0, &ConnectClientReq{Identity: client}},
			hex: "3026 800102 810100 a21e a21c" + clientHex},
		{name: "connectClientReq without slot, with features",
			pdu: PDU{Version, 0, &ConnectClientReq{Identity: client, Features: AtrAfterReset}},
			hex: "302b 800102 810100 a223 a221" + clientHex + "9f65020780"},
		{name: "connectClientReq with all there is",
			pdu: PDU{Version, 0, &ConnectClientReq{Identity: full, Slot: &cMax, Features: 1<<63 | AtrAfterReset}},
			hex: "306f 800102 810100 a267 a265 304d 0a0100 1620" + strings.Repeat("6e", 32) +
				"800d72656d73696d2d636c69656e74 8107312e30203c263e 82016d 83026d6f 840173 850168 860166" +
				"3008 020203ff 020203ff 9f650900 8000000000000001"},
		{name: "connectClientRes",
			pdu: PDU{Version, 2342, &ConnectClientRes{Identity: bankd, Result: CardNotPresent}},
			hex: "302d 800102 81020926 a224 a322" + bankdHex + "0a0164"},
		{name: "connectClientRes with features",
			pdu: PDU{Version, 0, &ConnectClientRes{Identity: bankd, Result: UnsupportedProtocolVersion, Features: LateAtr}},
			hex: "3031 800102 810100 a229 a327" + bankdHex + "0a0104 9f65020640"},
		{name: "createMappingReq",
			pdu: PDU{Version, 0, &CreateMappingReq{Client: c73, Bank: b10}},
			hex: "301a 800102 810100 a212 a410 3006" + c73Hex + "3006" + b10Hex},
		{name: "createMappingRes",
			pdu: PDU{Version, 0, &CreateMappingRes{Result: IllegalBankID}},
			hex: "300d 800102 810100 a205 a503 0a0102"},
		{name: "removeMappingReq",
			pdu: PDU{Version, 0, &RemoveMappingReq{Client: c73, Bank: b10}},
			hex: "301a 800102 810100 a212 a610 3006" + c73Hex + "3006" + b10Hex},
		{name: "removeMappingRes",
			pdu: PDU{Version, 0, &RemoveMappingRes{Result: UnknownSlotmap}},
			hex: "300d 800102 810100 a205 a703 0a0105"},
		{name: "configClientIdReq",
			pdu: PDU{Version, 5, &ConfigClientIDReq{Slot: c73}},
			hex: "3012 800102 810105 a20a a808 3006" + c73Hex},
		{name: "configClientIdRes",
			pdu: PDU{Version, 5, &ConfigClientIDRes{Result: IllegalClientID}},
			hex: "300d 800102 810105 a205 a903 0a0101"},
		{name: "setAtrReq",
			pdu: PDU{Version, 0, &SetAtrReq{Slot: c73, ATR: atr}},
			hex: "3016 800102 810100 a20e aa0c 3006" + c73Hex + "0402 3b00"},
		{name: "setAtrReq with the longest ATR",
			pdu: PDU{Version, 0, &SetAtrReq{Slot: c73, ATR: []byte(strings.Repeat(";", MaxATRLen))}},
			hex: "304b 800102 810100 a243 aa41 3006" + c73Hex + "0437" + strings.Repeat("3b", MaxATRLen)},
		{name: "setAtrRes",
			pdu: PDU{Version, 0, &SetAtrRes{Result: CardTransmissionError}},
			hex: "300d 800102 810100 a205 ab03 0a0166"},
		{name: "tpduModemToCard",
			pdu: PDU{Version, 0, &TpduModemToCard{From: c73, To: b10, Data: select3f}},
			hex: "3031 800102 810100 a229 ac27 3006" + c73Hex + "3006" + b10Hex + flagsHex + "0407 a0a40000023f00"},
		{name: "tpduModemToCard of 260 bytes",
			pdu: PDU{Version, 33, &TpduModemToCard{From: c73, To: b10, Data: append([]byte{0xa0, 0xd6, 0, 0, 0xff}, make([]byte, 255)...)}},
			hex: "30820134 800102 810121 a282012a ac820126 3006" + c73Hex + "3006" + b10Hex + flagsHex +
				"04820104 a0d60000ff" + strings.Repeat("00", 255)},
		{name: "tpduModemToCard with flags and no data",
			pdu: PDU{Version, 0, &TpduModemToCard{From: cMax, To: bMax, Data: []byte{},
				Flags: TpduFlags{HeaderPresent: true, ProcByteContinueTx: true}}},
			hex: "302e 800102 810100 a226 ac24 3008 020203ff 020203ff 3008 020203ff 020203ff" +
				"300c 0101ff 010100 0101ff 010100 0400"},
		{name: "tpduCardToModem",
			pdu: PDU{Version, 0, &TpduCardToModem{From: b10, To: c73, Data: []byte{0x9f, 0x17},
				Flags: TpduFlags{FinalPart: true, ProcByteContinueRx: true}}},
			hex: "302c 800102 810100 a224 ad22 3006" + b10Hex + "3006" + c73Hex + "300c 010100 0101ff 010100 0101ff 0402 9f17"},
		{name: "clientSlotStatusInd",
			pdu: PDU{Version, 0, &ClientSlotStatusInd{From: c73, To: b10, Phys: slot.Phys{Reset: true, VCC: slot.On, CLK: slot.Off, Card: slot.On}}},
			hex: "3028 800102 810100 a220 ae1e 3006" + c73Hex + "3006" + b10Hex + "300c 8001ff 8101ff 820100 8301ff"},
		{name: "clientSlotStatusInd with reset only",
			pdu: PDU{Version, 0, &ClientSlotStatusInd{From: c73, To: b10}},
			hex: "301f 800102 810100 a217 ae15 3006" + c73Hex + "3006" + b10Hex + "3003 800100"},
		{name: "bankSlotStatusInd",
			pdu: PDU{Version, 0, &BankSlotStatusInd{From: b10, To: c73, Phys: slot.Phys{Card: slot.Off}}},
			hex: "3022 800102 810100 a21a af18 3006" + b10Hex + "3006" + c73Hex + "3006 800100 830100"},
		{name: "errorInd",
			pdu: PDU{Version, 0, &ErrorInd{Sender: Client, Severity: Minor, Code: UnknownClientConnected}},
			hex: "3013 800102 810100 a20b b009 0a0100 0a0101 0a0101"},
		{name: "errorInd with slots and text",
			pdu: PDU{Version, 0, &ErrorInd{Sender: Bankd, Severity: Fatal, Code: UnexpectedProtocolVersion,
				Bank: &b10, Client: &c73, Text: "tr\"<>&'~"}},
			hex: "302d 800102 810100 a225 b023 0a0102 0a0103 0a0103 a006" + b10Hex + "a106" + c73Hex + "8208 7472223c3e26277e"},
		{name: "errorInd with the longest text",
			pdu: PDU{Version, 0, &ErrorInd{Sender: Server, Severity: Major, Code: UnexpectedDisconnect, Text: strings.Repeat("x", MaxErrorLen)}},
			hex: "30820119 800102 810100 a282010f b082010b 0a0101 0a0102 0a0102 8281ff" + strings.Repeat("78", MaxErrorLen)},
		{name: "errorInd with unknown numbers",
			pdu:     PDU{Version, 0, &ErrorInd{Sender: 3, Severity: 0, Code: -1}},
			hex:     "3013 800102 810100 a20b b009 0a0103 0a0100 0a01ff",
			numbers: true},
		{name: "configClientBankReq",
			pdu: PDU{Version, 0, &ConfigClientBankReq{Bank: b10, Bankd: loopback}},
			hex: "301e 800102 810100 a216 b114 3006" + b10Hex + "300a 80047f000001 0202270f"},
		{name: "configClientBankReq without bankd",
			pdu: PDU{Version, 0, &ConfigClientBankReq{Bank: b10, Bankd: netip.MustParseAddrPort("0.0.0.0:0")}},
			hex: "301d 800102 810100 a215 b113 3006" + b10Hex + "3009 800400000000 020100"},
		{name: "configClientBankReq with IPv6",
			pdu: PDU{Version, 0, &ConfigClientBankReq{Bank: b10, Bankd: v6}},
			hex: "302b 800102 810100 a223 b121 3006" + b10Hex + "3017 811020010db8000000000000000000000007 020300ffff"},
		{name: "configClientBankReq with IPv4 mapped to IPv6",
			pdu: PDU{Version, 0, &ConfigClientBankReq{Bank: b10, Bankd: netip.MustParseAddrPort("[::ffff:1.2.3.4]:1")}},
			hex: "3029 800102 810100 a221 b11f 3006" + b10Hex + "3015 811000000000000000000000ffff01020304 020101"},
		{name: "configClientBankRes",
			pdu: PDU{Version, 0, &ConfigClientBankRes{Result: CardUnresponsive}},
			hex: "300d 800102 810100 a205 b203 0a0165"},
		{name: "resetStateReq",
			pdu: PDU{Version, 0, &ResetStateReq{}},
			hex: "300a 800102 810100 a202 b300"},
		{name: "resetStateRes",
			pdu: PDU{Version, 0, &ResetStateRes{Result: IllegalSlotID}},
			hex: "300d 800102 810100 a205 b403 0a0103"},
		{name: "bankSlotmapsInd",
			pdu: PDU{Version, 0, &BankSlotmapsInd{Maps: []slot.Map{{Bank: b10, Client: c73}, {Bank: bMax, Client: cMax}}, Last: true}},
			hex: "3038 800102 810100 a230 bf642d 3028" +
				"3010 3006" + c73Hex + "3006" + b10Hex + "3014 3008020203ff020203ff 3008020203ff020203ff 0101ff"},
		{name: "bankSlotmapsInd with as many as there can be",
			pdu: PDU{Version, 0, &BankSlotmapsInd{Maps: repeat(slot.Map{Bank: bMax, Client: cMax}, MaxMaps)}},
			hex: "30820386 800102 810100 a282037c bf64820377 30820370" +
				strings.Repeat("3014 3008020203ff020203ff 3008020203ff020203ff", MaxMaps) + "010100"},
		{name: "bankSlotmapsInd without maps",
			pdu: PDU{Version, 0, &BankSlotmapsInd{Last: true}},
			hex: "3010 800102 810100 a208 bf6405 3000 0101ff"},
		{name: "bankSlotInfoInd",
			pdu: PDU{Version, 0, &BankSlotInfoInd{Slots: []SlotInfo{
				{Slot: 0, Present: true, Reader: "Lesegerät 1", ATR: atr},
				{Slot: slot.Max, Error: "reader is gone"},
			}}},
			hex: "3040 800102 810100 a238 bf6535 3033" +
				"3018 020100 0101ff 800c 4c6573656765 72c3a474 2031 8102 3b00" +
				"3017 020203ff 010100 820e 72656164657220697320676f6e65"},
		{name: "bankSlotInfoInd with as many as there can be",
			pdu: PDU{Version, 0, &BankSlotInfoInd{Slots: repeat(SlotInfo{Slot: 1}, MaxSlots)}},
			hex: "304d 800102 810100 a245 bf6542 3040" + strings.Repeat("3006 020101 010100", MaxSlots)},
		{name: "bankSlotInfoInd without slots",
			pdu: PDU{Version, 0, &BankSlotInfoInd{}},
			hex: "300d 800102 810100 a205 bf6502 3000"},
	}
}

// unknowns returns PDUs with messages that nobody knows, not even the module.
func unknowns() []golden {
	return []golden{
		{name: "unknown",
			pdu: PDU{Version, 1, &Unknown{Number: 21, Body: []byte{0x02, 0x01, 0x05}, Constructed: true}},
			hex: "300d 800102 810101 a205 b503 020105"},
		{name: "unknown, primitive and empty",
			pdu: PDU{Version, 1, &Unknown{Number: 30, Body: []byte{}}},
			hex: "300a 800102 810101 a202 9e00"},
		{name: "unknown with the largest number",
			pdu: PDU{Version, 1, &Unknown{Number: 1<<28 - 1, Body: []byte{}, Constructed: true}},
			hex: "300e 800102 810101 a206 bfffffff7f00"},
		{name: "unknown with a number of two octets",
			pdu: PDU{Version, 1, &Unknown{Number: 128, Body: make([]byte, 128)}},
			hex: "30818e 800102 810101 a28185 9f81008180" + strings.Repeat("00", 128)},
	}
}

func repeat[T any](v T, n int) []T {
	s := make([]T, n)
	for i := range s {
		s[i] = v
	}
	return s
}

// TestGoldensComplete makes sure that no message is forgotten in the table.
func TestGoldensComplete(t *testing.T) {
	have := map[Choice]bool{}
	for _, g := range goldens() {
		have[g.pdu.Msg.Choice()] = true
	}
	for n := range Choice(256) {
		_, unknown := newMessage(n).(*Unknown)
		if have[n] == unknown {
			t.Errorf("%v: in the table %t, unknown %t", n, have[n], unknown)
		}
	}
	if len(have) != 23 {
		t.Errorf("%d messages, want 23", len(have))
	}
}
