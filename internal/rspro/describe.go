// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"fmt"
	"math"
	"net/netip"

	"remsim/internal/slot"
)

// This file describes the types and messages, in the order and with the names of
// asn1/RSPRO.asn. It is the only place where their tags and limits are.

// Limits of the protocol.
const (
	MaxNameLen  = 32  // characters of a ComponentName
	MaxErrorLen = 255 // characters of an ErrorString
	MaxATRLen   = 55  // bytes of an ATR

	// A bankd sends longer series in several messages. The numbers keep a
	// message under the 1,016 bytes that C programs take, with reader names of
	// usual length.
	MaxMaps  = 40 // items of BankSlotmapsInd
	MaxSlots = 8  // items of BankSlotInfoInd

	maxVersion = 32
	maxPort    = math.MaxUint16
)

func (c *coder) pdu(p *PDU) {
	c.enter("", tagSequence)
	integer(c, "version", ctx(0), &p.Version, maxVersion)
	integer(c, "tag", ctx(1), &p.Tag, math.MaxInt32)
	c.enter("msg", ctx(2))
	c.message(&p.Msg)
	c.leaveClosed()
	c.leave()
}

// message is the choice of RsproPDU. All alternatives have context tags.
func (c *coder) message(m *Message) {
	if c.decoding {
		n := c.el.tag.number()
		if c.match("", ctx(n)) {
			*m = newMessage(Choice(n))
		}
	} else if *m == nil {
		c.fail("", "there is none")
	}
	if c.err != nil {
		return
	}
	choice := (*m).Choice()
	if choice > maxTagNumber {
		c.fail("", "number of the message is above 268435455")
		return
	}
	t := ctx(uint32(choice))
	if m, ok := (*m).(*Unknown); ok {
		c.unknown(t, m)
		return
	}

	c.msg, c.msgDepth = choice.String(), c.depth
	c.enter("", t)
	switch m := (*m).(type) {
	case *ConnectBankReq:
		c.identity("identity", &m.Identity)
		c.id("bankId", &m.BankID)
		c.id("numberOfSlots", &m.NumSlots)
		if c.extension(ctx(100), m.Endpoint != IPPort{}) {
			c.ipPort("endpoint", ctx(100), &m.Endpoint)
		}
		c.featuresExt(&m.Features)
	case *ConnectBankRes:
		c.identity("identity", &m.Identity)
		c.result(&m.Result)
		c.featuresExt(&m.Features)
	case *ConnectClientReq:
		c.identity("identity", &m.Identity)
		if optional(c, tagSequence, &m.Slot) {
			c.clientSlot("clientSlot", tagSequence, m.Slot)
		}
		c.featuresExt(&m.Features)
	case *ConnectClientRes:
		c.identity("identity", &m.Identity)
		c.result(&m.Result)
		c.featuresExt(&m.Features)
	case *CreateMappingReq:
		c.clientSlot("client", tagSequence, &m.Client)
		c.bankSlot("bank", tagSequence, &m.Bank)
	case *CreateMappingRes:
		c.result(&m.Result)
	case *RemoveMappingReq:
		c.clientSlot("client", tagSequence, &m.Client)
		c.bankSlot("bank", tagSequence, &m.Bank)
	case *RemoveMappingRes:
		c.result(&m.Result)
	case *ConfigClientIDReq:
		c.clientSlot("clientSlot", tagSequence, &m.Slot)
	case *ConfigClientIDRes:
		c.result(&m.Result)
	case *ConfigClientBankReq:
		c.bankSlot("bankSlot", tagSequence, &m.Bank)
		c.ipPort("bankd", tagSequence, &m.Bankd)
	case *ConfigClientBankRes:
		c.result(&m.Result)
	case *SetAtrReq:
		c.clientSlot("slot", tagSequence, &m.Slot)
		c.octetString("atr", tagOctetString, &m.ATR, 1, MaxATRLen)
	case *SetAtrRes:
		c.result(&m.Result)
	case *TpduModemToCard:
		c.clientSlot("fromClientSlot", tagSequence, &m.From)
		c.bankSlot("toBankSlot", tagSequence, &m.To)
		c.tpduFlags("flags", &m.Flags)
		c.octetString("data", tagOctetString, &m.Data, 0, MaxSize)
	case *TpduCardToModem:
		c.bankSlot("fromBankSlot", tagSequence, &m.From)
		c.clientSlot("toClientSlot", tagSequence, &m.To)
		c.tpduFlags("flags", &m.Flags)
		c.octetString("data", tagOctetString, &m.Data, 0, MaxSize)
	case *ClientSlotStatusInd:
		c.clientSlot("fromClientSlot", tagSequence, &m.From)
		c.bankSlot("toBankSlot", tagSequence, &m.To)
		c.slotPhysStatus("slotPhysStatus", &m.Phys)
	case *BankSlotStatusInd:
		c.bankSlot("fromBankSlot", tagSequence, &m.From)
		c.clientSlot("toClientSlot", tagSequence, &m.To)
		c.slotPhysStatus("slotPhysStatus", &m.Phys)
	case *ErrorInd:
		enumerated(c, "sender", tagEnumerated, &m.Sender)
		enumerated(c, "severity", tagEnumerated, &m.Severity)
		enumerated(c, "code", tagEnumerated, &m.Code)
		if optional(c, ctx(0), &m.Bank) {
			c.bankSlot("bankSlot", ctx(0), m.Bank)
		}
		if optional(c, ctx(1), &m.Client) {
			c.clientSlot("clientSlot", ctx(1), m.Client)
		}
		if c.present(ctx(2), m.Text != "") {
			c.ia5String("errorString", ctx(2), &m.Text, MaxErrorLen)
		}
	case *ResetStateReq:
	case *ResetStateRes:
		c.result(&m.Result)
	case *BankSlotmapsInd:
		c.enter("maps", tagSequence)
		for i := 0; c.item(i, len(m.Maps), MaxMaps); i++ {
			if i == len(m.Maps) {
				m.Maps = append(m.Maps, slot.Map{})
			}
			c.slotmap(&m.Maps[i])
		}
		c.leaveClosed()
		c.boolean("last", tagBoolean, &m.Last)
	case *BankSlotInfoInd:
		c.enter("slots", tagSequence)
		for i := 0; c.item(i, len(m.Slots), MaxSlots); i++ {
			if i == len(m.Slots) {
				m.Slots = append(m.Slots, SlotInfo{})
			}
			c.slotInfo(&m.Slots[i])
		}
		c.leaveClosed()
	default:
		c.fail("", fmt.Sprintf("%T is not a message", m))
	}
	c.leave()
	c.msg, c.msgDepth = envelope, 0
}

// newMessage returns an empty message to decode into.
func newMessage(n Choice) Message {
	switch n {
	case ChoiceConnectBankReq:
		return new(ConnectBankReq)
	case ChoiceConnectBankRes:
		return new(ConnectBankRes)
	case ChoiceConnectClientReq:
		return new(ConnectClientReq)
	case ChoiceConnectClientRes:
		return new(ConnectClientRes)
	case ChoiceCreateMappingReq:
		return new(CreateMappingReq)
	case ChoiceCreateMappingRes:
		return new(CreateMappingRes)
	case ChoiceRemoveMappingReq:
		return new(RemoveMappingReq)
	case ChoiceRemoveMappingRes:
		return new(RemoveMappingRes)
	case ChoiceConfigClientIDReq:
		return new(ConfigClientIDReq)
	case ChoiceConfigClientIDRes:
		return new(ConfigClientIDRes)
	case ChoiceSetAtrReq:
		return new(SetAtrReq)
	case ChoiceSetAtrRes:
		return new(SetAtrRes)
	case ChoiceTpduModemToCard:
		return new(TpduModemToCard)
	case ChoiceTpduCardToModem:
		return new(TpduCardToModem)
	case ChoiceClientSlotStatusInd:
		return new(ClientSlotStatusInd)
	case ChoiceBankSlotStatusInd:
		return new(BankSlotStatusInd)
	case ChoiceErrorInd:
		return new(ErrorInd)
	case ChoiceConfigClientBankReq:
		return new(ConfigClientBankReq)
	case ChoiceConfigClientBankRes:
		return new(ConfigClientBankRes)
	case ChoiceResetStateReq:
		return new(ResetStateReq)
	case ChoiceResetStateRes:
		return new(ResetStateRes)
	case ChoiceBankSlotmapsInd:
		return new(BankSlotmapsInd)
	case ChoiceBankSlotInfoInd:
		return new(BankSlotInfoInd)
	}
	return &Unknown{Number: n}
}

// unknown keeps an element as it is.
func (c *coder) unknown(t tag, m *Unknown) {
	if c.decoding {
		el := c.take("", t)
		m.Body, m.Constructed = el.content, el.constructed
		return
	}
	c.putTag(t, m.Constructed)
	c.putLength(len(m.Body))
	c.out = append(c.out, m.Body...)
}

func (c *coder) identity(name string, v *ComponentIdentity) {
	c.enter(name, tagSequence)
	enumerated(c, "type", tagEnumerated, &v.Type)
	c.ia5String("name", tagIA5String, &v.Name, MaxNameLen)
	c.ia5String("software", ctx(0), &v.Software, MaxNameLen)
	c.ia5String("swVersion", ctx(1), &v.SWVersion, MaxNameLen)
	c.optionalName("hwManufacturer", ctx(2), &v.HWManufacturer)
	c.optionalName("hwModel", ctx(3), &v.HWModel)
	c.optionalName("hwSerialNr", ctx(4), &v.HWSerialNr)
	c.optionalName("hwVersion", ctx(5), &v.HWVersion)
	c.optionalName("fwVersion", ctx(6), &v.FWVersion)
	c.leave()
}

func (c *coder) optionalName(name string, t tag, v *string) {
	if c.present(t, *v != "") {
		c.ia5String(name, t, v, MaxNameLen)
	}
}

func (c *coder) result(v *ResultCode) { enumerated(c, "result", tagEnumerated, v) }

func (c *coder) featuresExt(v *Features) {
	if c.extension(ctx(101), *v != 0) {
		c.features("features", ctx(101), v)
	}
}

// id is a BankId, ClientId or SlotNumber.
func (c *coder) id(name string, v *uint16) { integer(c, name, tagInteger, v, slot.Max) }

func (c *coder) clientSlot(name string, t tag, v *slot.Client) {
	c.enter(name, t)
	c.id("clientId", &v.ID)
	c.id("slotNr", &v.Slot)
	c.leave()
}

func (c *coder) bankSlot(name string, t tag, v *slot.Bank) {
	c.enter(name, t)
	c.id("bankId", &v.ID)
	c.id("slotNr", &v.Slot)
	c.leave()
}

func (c *coder) slotmap(v *slot.Map) {
	c.enter("", tagSequence)
	c.clientSlot("client", tagSequence, &v.Client)
	c.bankSlot("bank", tagSequence, &v.Bank)
	c.leave()
}

func (c *coder) slotInfo(v *SlotInfo) {
	c.enter("", tagSequence)
	c.id("slotNr", &v.Slot)
	c.boolean("present", tagBoolean, &v.Present)
	if c.present(ctx(0), v.Reader != "") {
		c.utf8String("reader", ctx(0), &v.Reader)
	}
	if c.present(ctx(1), v.ATR != nil) {
		c.octetString("atr", ctx(1), &v.ATR, 1, MaxATRLen)
	}
	if c.present(ctx(2), v.Error != "") {
		c.ia5String("error", ctx(2), &v.Error, MaxErrorLen)
	}
	c.leave()
}

func (c *coder) tpduFlags(name string, v *TpduFlags) {
	c.enter(name, tagSequence)
	c.boolean("tpduHeaderPresent", tagBoolean, &v.HeaderPresent)
	c.boolean("finalPart", tagBoolean, &v.FinalPart)
	c.boolean("procByteContinueTx", tagBoolean, &v.ProcByteContinueTx)
	c.boolean("procByteContinueRx", tagBoolean, &v.ProcByteContinueRx)
	c.leave()
}

func (c *coder) slotPhysStatus(name string, v *slot.Phys) {
	c.enter(name, tagSequence)
	c.boolean("resetActive", ctx(0), &v.Reset)
	c.signal("vccPresent", ctx(1), &v.VCC)
	c.signal("clkActive", ctx(2), &v.CLK)
	c.signal("cardPresent", ctx(3), &v.Card)
	c.leave()
}

// ipPort is the only type that isn't extensible.
func (c *coder) ipPort(name string, t tag, v *IPPort) {
	c.enter(name, t)
	addr, port := v.Addr(), v.Port()
	c.ipAddress("ip", &addr)
	integer(c, "port", tagInteger, &port, maxPort)
	c.leaveClosed()
	if c.decoding && c.err == nil {
		*v = netip.AddrPortFrom(addr, port)
	}
}

func (c *coder) ipAddress(name string, v *netip.Addr) {
	t, size := ctx(0), 4
	if c.present(ctx(1), v.Is6()) {
		t, size = ctx(1), 16
	}
	if c.decoding {
		var b []byte
		c.octetString(name, t, &b, size, size)
		*v, _ = netip.AddrFromSlice(b)
		return
	}
	if !v.IsValid() || v.Zone() != "" {
		c.fail(name, fmt.Sprintf("is %s, want an address without zone", v.String()))
		return
	}
	a := v.As16() // an IPv4 address is at its end
	c.putHeader(t, size)
	c.out = append(c.out, a[len(a)-size:]...)
}
