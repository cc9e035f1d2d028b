// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"bytes"
	"encoding/binary"
	"errors"
	"net/netip"
	"reflect"
	"testing"
	"unicode/utf8"

	"remsim/internal/slot"
)

// FuzzDecode makes sure that nothing a peer sends can do harm: no panic, no more memory
// than 64 KiB, and what was understood can be said again.
func FuzzDecode(f *testing.F) {
	for _, fr := range frames(f) {
		f.Add(fr.pdu)
	}
	for _, g := range append(goldens(), unknowns()...) {
		f.Add(unhex(f, g.hex))
	}
	f.Add(unhex(f, "3080 800102 810100 a280 bf6580 3080 3080 020101 0101ff a080 0c0141 0000 0000 0000 0000 0000 0000"))
	f.Fuzz(func(t *testing.T, b []byte) {
		before := bytes.Clone(b)
		p, err := Decode(b)
		if !bytes.Equal(b, before) {
			t.Fatalf("the input is %x now", b)
		}
		if err != nil {
			var e *Error
			if !errors.As(err, &e) || e.Op == "" || e.Message == "" || e.Rule == "" || len(err.Error()) > 200 {
				t.Errorf("the error is %#v", err)
			}
			return
		}
		if n := held(reflect.ValueOf(p)); n > 64<<10 {
			t.Errorf("%d bytes are held for %d", n, len(b))
		}
		der, err := p.Append(nil)
		if err != nil {
			t.Fatalf("%+v can't be encoded: %v", p.Msg, err)
		}
		if _, ok := p.Msg.(*Unknown); !ok && len(der) > len(b) {
			t.Errorf("DER has %d bytes, the input %d", len(der), len(b))
		}
		again, err := Decode(der)
		if err != nil {
			t.Fatalf("%x can't be decoded: %v", der, err)
		}
		if !reflect.DeepEqual(again, p) {
			t.Errorf("%+v\nbecomes %+v", p.Msg, again.Msg)
		}
	})
}

// held returns how much memory v takes, with all it points to. (TestMemory
// measures what is taken from the system, which a fuzzer finds too slow.)
func held(v reflect.Value) int {
	n := int(v.Type().Size())
	switch v.Kind() {
	case reflect.Pointer, reflect.Interface:
		if !v.IsNil() {
			n += held(v.Elem())
		}
	case reflect.String:
		n += v.Len()
	case reflect.Slice:
		n += (v.Cap() - v.Len()) * int(v.Type().Elem().Size())
		for i := range v.Len() {
			n += held(v.Index(i))
		}
	case reflect.Struct:
		for i := range v.NumField() {
			n += held(v.Field(i)) - int(v.Field(i).Type().Size())
		}
	}
	return n
}

// FuzzRoundTrip makes a PDU of its input, of any message and with any value that
// the protocol permits, and takes it through Append and Decode.
func FuzzRoundTrip(f *testing.F) {
	for n := range Choice(24) {
		f.Add(append([]byte{byte(n)}, "some bytes to make values of, enough for every member of each message"...))
		f.Add(append([]byte{byte(n)}, bytes.Repeat([]byte{0xff}, 300)...))
		f.Add([]byte{byte(n)})
	}
	f.Fuzz(func(t *testing.T, b []byte) {
		p := (&source{b}).pdu()
		der, err := p.Append(nil)
		var e *Error
		if errors.As(err, &e) && e.Rule == tooLarge {
			return
		}
		if err != nil {
			t.Fatalf("%+v: %v", p.Msg, err)
		}
		got, err := Decode(der)
		if err != nil {
			t.Fatalf("%+v\nas %x: %v", p.Msg, der, err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Errorf("%+v\nbecomes %+v", p.Msg, got.Msg)
		}
	})
}

// A source makes values of the bytes of a fuzzer; zeros when it has no more.
type source struct{ b []byte }

func (s *source) bytes(n int) []byte {
	b := make([]byte, n)
	s.b = s.b[copy(b, s.b):]
	return b
}

func (s *source) byte() byte     { return s.bytes(1)[0] }
func (s *source) bool() bool     { return s.byte()&1 != 0 }
func (s *source) int32() int32   { return int32(binary.BigEndian.Uint32(s.bytes(4))) }
func (s *source) word() uint16   { return binary.BigEndian.Uint16(s.bytes(2)) }
func (s *source) id() uint16     { return s.word() % (slot.Max + 1) }
func (s *source) size(n int) int { return int(s.word()) % (n + 1) }

func (s *source) ia5(min, max int) string {
	b := s.bytes(min + s.size(max-min))
	for i := range b {
		b[i] &= 0x7f
	}
	return string(b)
}

func (s *source) client() slot.Client { return slot.Client{ID: s.id(), Slot: s.id()} }
func (s *source) bank() slot.Bank     { return slot.Bank{ID: s.id(), Slot: s.id()} }
func (s *source) result() ResultCode  { return ResultCode(s.int32()) }
func (s *source) atr() []byte         { return s.bytes(1 + s.size(MaxATRLen-1)) }

func (s *source) features() Features {
	if s.bool() {
		return 0
	}
	return Features(binary.BigEndian.Uint64(s.bytes(8)))
}

func (s *source) identity() ComponentIdentity {
	name := func() string { return s.ia5(1, MaxNameLen) }
	maybe := func() string { return s.ia5(0, MaxNameLen) }
	return ComponentIdentity{
		Type: ComponentType(s.int32()), Name: name(), Software: name(), SWVersion: name(),
		HWManufacturer: maybe(), HWModel: maybe(), HWSerialNr: maybe(), HWVersion: maybe(), FWVersion: maybe(),
	}
}

func (s *source) ipPort() IPPort {
	size := 4
	if s.bool() {
		size = 16
	}
	addr, _ := netip.AddrFromSlice(s.bytes(size))
	return netip.AddrPortFrom(addr, s.word())
}

func (s *source) flags() TpduFlags { return TpduFlags{s.bool(), s.bool(), s.bool(), s.bool()} }

func (s *source) phys() slot.Phys {
	signal := func() slot.Signal { return slot.Signal(s.byte() % 3) }
	return slot.Phys{Reset: s.bool(), VCC: signal(), CLK: signal(), Card: signal()}
}

func (s *source) pdu() PDU {
	m := s.message()
	return PDU{Version: s.byte() % (maxVersion + 1), Tag: s.int32() & (1<<31 - 1), Msg: m}
}

func (s *source) message() Message {
	switch n := s.byte() % 24; Choice(n) {
	case ChoiceConnectBankReq:
		m := &ConnectBankReq{Identity: s.identity(), BankID: s.id(), NumSlots: s.id(), Features: s.features()}
		if s.bool() {
			m.Endpoint = s.ipPort()
		}
		return m
	case ChoiceConnectBankRes:
		return &ConnectBankRes{s.identity(), s.result(), s.features()}
	case ChoiceConnectClientReq:
		m := &ConnectClientReq{Identity: s.identity(), Features: s.features()}
		if s.bool() {
			c := s.client()
			m.Slot = &c
		}
		return m
	case ChoiceConnectClientRes:
		return &ConnectClientRes{s.identity(), s.result(), s.features()}
	case ChoiceCreateMappingReq:
		return &CreateMappingReq{s.client(), s.bank()}
	case ChoiceCreateMappingRes:
		return &CreateMappingRes{s.result()}
	case ChoiceRemoveMappingReq:
		return &RemoveMappingReq{s.client(), s.bank()}
	case ChoiceRemoveMappingRes:
		return &RemoveMappingRes{s.result()}
	case ChoiceConfigClientIDReq:
		return &ConfigClientIDReq{s.client()}
	case ChoiceConfigClientIDRes:
		return &ConfigClientIDRes{s.result()}
	case ChoiceConfigClientBankReq:
		return &ConfigClientBankReq{s.bank(), s.ipPort()}
	case ChoiceConfigClientBankRes:
		return &ConfigClientBankRes{s.result()}
	case ChoiceSetAtrReq:
		return &SetAtrReq{s.client(), s.atr()}
	case ChoiceSetAtrRes:
		return &SetAtrRes{s.result()}
	case ChoiceTpduModemToCard:
		return &TpduModemToCard{s.client(), s.bank(), s.flags(), s.bytes(s.size(MaxSize))}
	case ChoiceTpduCardToModem:
		return &TpduCardToModem{s.bank(), s.client(), s.flags(), s.bytes(s.size(MaxSize))}
	case ChoiceClientSlotStatusInd:
		return &ClientSlotStatusInd{s.client(), s.bank(), s.phys()}
	case ChoiceBankSlotStatusInd:
		return &BankSlotStatusInd{s.bank(), s.client(), s.phys()}
	case ChoiceErrorInd:
		m := &ErrorInd{Sender: ComponentType(s.int32()), Severity: ErrorSeverity(s.int32()), Code: ErrorCode(s.int32()), Text: s.ia5(0, MaxErrorLen)}
		if s.bool() {
			b := s.bank()
			m.Bank = &b
		}
		if s.bool() {
			c := s.client()
			m.Client = &c
		}
		return m
	case ChoiceResetStateReq:
		return &ResetStateReq{}
	case ChoiceResetStateRes:
		return &ResetStateRes{s.result()}
	case 21:
		m := &BankSlotmapsInd{Last: s.bool()}
		for range s.size(MaxMaps) {
			m.Maps = append(m.Maps, slot.Map{Bank: s.bank(), Client: s.client()})
		}
		return m
	case 22:
		m := &BankSlotInfoInd{}
		for range s.size(MaxSlots) {
			i := SlotInfo{Slot: s.id(), Present: s.bool(), Error: s.ia5(0, MaxErrorLen)}
			if b := s.bytes(s.size(100)); utf8.Valid(b) {
				i.Reader = string(b)
			}
			if s.bool() {
				i.ATR = s.atr()
			}
			m.Slots = append(m.Slots, i)
		}
		return m
	default:
		const above = 1 + ChoiceBankSlotInfoInd
		number := above + Choice(uint32(s.int32())%uint32(maxTagNumber-above+1))
		return &Unknown{Number: number, Body: s.bytes(s.size(MaxSize)), Constructed: s.bool()}
	}
}
