// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"bytes"
	"encoding/xml"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strconv"
	"strings"
	"testing"

	"remsim/internal/slot"
)

// TestASN1C lets an independent implementation, a decoder that asn1c makes of the
// ASN.1 module, read what Append writes, and compares the values it shows as
// XML. It also writes each PDU from BER and from XML, which must give the same DER.
func TestASN1C(t *testing.T) {
	run := buildConverter(t)
	for _, g := range goldens() {
		t.Run(g.name, func(t *testing.T) {
			der, err := g.pdu.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			// -1 takes one PDU, -c checks ranges and sizes (asn1c does so where they
			// stand with the element, not where they come with a named type).
			if again := run(t, der, "-c", "-1", "-iber", "-oder"); !bytes.Equal(again, der) {
				t.Errorf("asn1c encodes DER as\n%x, we as\n%x", again, der)
			}
			if g.numbers {
				return
			}
			text := run(t, der, "-1", "-iber", "-oxer")
			var n node
			if err := xml.Unmarshal(text, &n); err != nil {
				t.Fatalf("%v in %s", err, text)
			}
			got := n.pdu(t)
			if t.Failed() {
				t.Fatalf("in %s", text)
			}
			if !reflect.DeepEqual(got, g.pdu) {
				t.Errorf("asn1c reads %+v\nof %+v", got.Msg, g.pdu.Msg)
			}
			if again := run(t, text, "-1", "-ixer", "-oder"); !bytes.Equal(again, der) {
				t.Errorf("asn1c encodes XML as\n%x, we as\n%x", again, der)
			}
		})
	}
}

// buildConverter makes asn1c's converter of the module and returns a function that runs it.
func buildConverter(t *testing.T) func(t *testing.T, in []byte, args ...string) []byte {
	t.Helper()
	for _, tool := range []string{"asn1c", "gcc"} {
		if _, err := exec.LookPath(tool); err != nil {
			t.Fatalf("%v: install the Debian packages asn1c, gcc and libc6-dev", err)
		}
	}
	module, err := filepath.Abs("../../asn1/RSPRO.asn")
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	compile := func(name string, args ...string) {
		t.Helper()
		cmd := exec.Command(name, args...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("%v: %v\n%s", cmd, err, out)
		}
	}
	compile("asn1c", "-Werror", module)
	sources, err := filepath.Glob(filepath.Join(dir, "*.c"))
	if err != nil {
		t.Fatal(err)
	}
	compile("gcc", append([]string{"-O0", "-w", "-I.", "-DPDU=RsproPDU", "-o", "converter"}, sources...)...)

	return func(t *testing.T, in []byte, args ...string) []byte {
		t.Helper()
		file := filepath.Join(dir, "pdu")
		if err := os.WriteFile(file, in, 0o600); err != nil {
			t.Fatal(err)
		}
		var stderr strings.Builder
		cmd := exec.Command(filepath.Join(dir, "converter"), append(args, file)...)
		cmd.Stderr = &stderr
		out, err := cmd.Output()
		if err != nil {
			t.Fatalf("converter %v of %x: %v\n%s", args, in, err, stderr.String())
		}
		return out
	}
}

// A node is an element of XML. Its methods read the basic XML encoding of the
// module's types (X.693 clause 8) into the types of this package.
type node struct {
	XMLName xml.Name
	Text    string `xml:",chardata"`
	Kids    []node `xml:",any"`
}

// kid returns the element name of n, or nil.
func (n *node) kid(name string) *node {
	for i := range n.Kids {
		if n.Kids[i].XMLName.Local == name {
			return &n.Kids[i]
		}
	}
	return nil
}

// must returns the element name of n.
func (n *node) must(t *testing.T, name string) *node {
	t.Helper()
	if k := n.kid(name); k != nil {
		return k
	}
	t.Fatalf("no %s in %s", name, n.XMLName.Local)
	return nil
}

// only returns the one element in n.
func (n *node) only(t *testing.T) *node {
	t.Helper()
	if len(n.Kids) != 1 {
		t.Fatalf("%d elements in %s, want 1", len(n.Kids), n.XMLName.Local)
	}
	return &n.Kids[0]
}

func (n *node) number(t *testing.T, name string) int {
	t.Helper()
	v, err := strconv.Atoi(n.must(t, name).Text)
	if err != nil {
		t.Errorf("%s: %v", name, err)
	}
	return v
}

func (n *node) id(t *testing.T, name string) uint16 { return uint16(n.number(t, name)) }

func (n *node) boolean(t *testing.T, name string) bool {
	return n.must(t, name).only(t).XMLName.Local == "true"
}

func (n *node) signal(t *testing.T, name string) slot.Signal {
	if n.kid(name) == nil {
		return slot.Unknown
	}
	return slot.Of(n.boolean(t, name))
}

// enum returns the value of type T whose name n has.
func enum[T interface {
	~int32
	String() string
}](t *testing.T, n *node, name string) T {
	t.Helper()
	want := n.must(t, name).only(t).XMLName.Local
	for v := range T(256) {
		if v.String() == want {
			return v
		}
	}
	t.Errorf("%s is %s, which we don't know", name, want)
	return -1
}

// text returns a string, "" if it is absent.
func (n *node) text(name string) string {
	if k := n.kid(name); k != nil {
		return k.Text
	}
	return ""
}

// octets returns an OCTET STRING, nil if it is absent.
func (n *node) octets(t *testing.T, name string) []byte {
	k := n.kid(name)
	if k == nil {
		return nil
	}
	return unhex(t, strings.Join(strings.Fields(k.Text), ""))
}

func (n *node) client(t *testing.T, name string) slot.Client {
	k := n.must(t, name)
	return slot.Client{ID: k.id(t, "clientId"), Slot: k.id(t, "slotNr")}
}

func (n *node) bank(t *testing.T, name string) slot.Bank {
	k := n.must(t, name)
	return slot.Bank{ID: k.id(t, "bankId"), Slot: k.id(t, "slotNr")}
}

func (n *node) identity(t *testing.T) ComponentIdentity {
	k := n.must(t, "identity")
	return ComponentIdentity{
		Type: enum[ComponentType](t, k, "type"), Name: k.text("name"), Software: k.text("software"),
		SWVersion: k.text("swVersion"), HWManufacturer: k.text("hwManufacturer"), HWModel: k.text("hwModel"),
		HWSerialNr: k.text("hwSerialNr"), HWVersion: k.text("hwVersion"), FWVersion: k.text("fwVersion"),
	}
}

func (n *node) result(t *testing.T) ResultCode { return enum[ResultCode](t, n, "result") }

func (n *node) features() (f Features) {
	for i, bit := range strings.TrimSpace(n.text("features")) {
		if bit == '1' {
			f |= 1 << i
		}
	}
	return f
}

func (n *node) ipPort(t *testing.T, name string) IPPort {
	k := n.kid(name)
	if k == nil {
		return IPPort{}
	}
	alternative := k.must(t, "ip").only(t).XMLName.Local
	addr, ok := netip.AddrFromSlice(k.must(t, "ip").octets(t, alternative))
	if !ok || addr.Is4() != (alternative == "ipv4") {
		t.Errorf("%s is %v", alternative, addr)
	}
	return netip.AddrPortFrom(addr, k.id(t, "port"))
}

func (n *node) flags(t *testing.T) TpduFlags {
	k := n.must(t, "flags")
	return TpduFlags{
		HeaderPresent:      k.boolean(t, "tpduHeaderPresent"),
		FinalPart:          k.boolean(t, "finalPart"),
		ProcByteContinueTx: k.boolean(t, "procByteContinueTx"),
		ProcByteContinueRx: k.boolean(t, "procByteContinueRx"),
	}
}

func (n *node) phys(t *testing.T) slot.Phys {
	k := n.must(t, "slotPhysStatus")
	return slot.Phys{
		Reset: k.boolean(t, "resetActive"), VCC: k.signal(t, "vccPresent"),
		CLK: k.signal(t, "clkActive"), Card: k.signal(t, "cardPresent"),
	}
}

func (n *node) pdu(t *testing.T) PDU {
	return PDU{
		Version: uint8(n.number(t, "version")),
		Tag:     int32(n.number(t, "tag")),
		Msg:     n.must(t, "msg").only(t).message(t),
	}
}

func (n *node) message(t *testing.T) Message {
	switch name := n.XMLName.Local; name {
	case "connectBankReq":
		return &ConnectBankReq{Identity: n.identity(t), BankID: n.id(t, "bankId"), NumSlots: n.id(t, "numberOfSlots"),
			Endpoint: n.ipPort(t, "endpoint"), Features: n.features()}
	case "connectBankRes":
		return &ConnectBankRes{Identity: n.identity(t), Result: n.result(t), Features: n.features()}
	case "connectClientReq":
		m := &ConnectClientReq{Identity: n.identity(t), Features: n.features()}
		if n.kid("clientSlot") != nil {
			c := n.client(t, "clientSlot")
			m.Slot = &c
		}
		return m
	case "connectClientRes":
		return &ConnectClientRes{Identity: n.identity(t), Result: n.result(t), Features: n.features()}
	case "createMappingReq":
		return &CreateMappingReq{Client: n.client(t, "client"), Bank: n.bank(t, "bank")}
	case "createMappingRes":
		return &CreateMappingRes{Result: n.result(t)}
	case "removeMappingReq":
		return &RemoveMappingReq{Client: n.client(t, "client"), Bank: n.bank(t, "bank")}
	case "removeMappingRes":
		return &RemoveMappingRes{Result: n.result(t)}
	case "configClientIdReq":
		return &ConfigClientIDReq{Slot: n.client(t, "clientSlot")}
	case "configClientIdRes":
		return &ConfigClientIDRes{Result: n.result(t)}
	case "configClientBankReq":
		return &ConfigClientBankReq{Bank: n.bank(t, "bankSlot"), Bankd: n.ipPort(t, "bankd")}
	case "configClientBankRes":
		return &ConfigClientBankRes{Result: n.result(t)}
	case "setAtrReq":
		return &SetAtrReq{Slot: n.client(t, "slot"), ATR: n.octets(t, "atr")}
	case "setAtrRes":
		return &SetAtrRes{Result: n.result(t)}
	case "tpduModemToCard":
		return &TpduModemToCard{From: n.client(t, "fromClientSlot"), To: n.bank(t, "toBankSlot"),
			Flags: n.flags(t), Data: n.octets(t, "data")}
	case "tpduCardToModem":
		return &TpduCardToModem{From: n.bank(t, "fromBankSlot"), To: n.client(t, "toClientSlot"),
			Flags: n.flags(t), Data: n.octets(t, "data")}
	case "clientSlotStatusInd":
		return &ClientSlotStatusInd{From: n.client(t, "fromClientSlot"), To: n.bank(t, "toBankSlot"), Phys: n.phys(t)}
	case "bankSlotStatusInd":
		return &BankSlotStatusInd{From: n.bank(t, "fromBankSlot"), To: n.client(t, "toClientSlot"), Phys: n.phys(t)}
	case "errorInd":
		m := &ErrorInd{Sender: enum[ComponentType](t, n, "sender"), Severity: enum[ErrorSeverity](t, n, "severity"),
			Code: enum[ErrorCode](t, n, "code"), Text: n.text("errorString")}
		if n.kid("bankSlot") != nil {
			b := n.bank(t, "bankSlot")
			m.Bank = &b
		}
		if n.kid("clientSlot") != nil {
			c := n.client(t, "clientSlot")
			m.Client = &c
		}
		return m
	case "resetStateReq":
		return &ResetStateReq{}
	case "resetStateRes":
		return &ResetStateRes{Result: n.result(t)}
	case "bankSlotmapsInd":
		m := &BankSlotmapsInd{Last: n.boolean(t, "last")}
		for _, k := range n.must(t, "maps").Kids {
			m.Maps = append(m.Maps, slot.Map{Client: k.client(t, "client"), Bank: k.bank(t, "bank")})
		}
		return m
	case "bankSlotInfoInd":
		m := &BankSlotInfoInd{}
		for _, k := range n.must(t, "slots").Kids {
			m.Slots = append(m.Slots, SlotInfo{Slot: k.id(t, "slotNr"), Present: k.boolean(t, "present"),
				Reader: k.text("reader"), ATR: k.octets(t, "atr"), Error: k.text("error")})
		}
		return m
	default:
		t.Errorf("message %s", name)
		return nil
	}
}
