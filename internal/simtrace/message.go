// SPDX-License-Identifier: GPL-2.0-or-later

// Package simtrace has the messages that SIMtrace2-compatible card emulators and their host
// exchange over USB, what such devices look like on the bus, and how a T=0 command is
// put together from them. It knows no USB stack.
package simtrace

import (
	"encoding/binary"
	"errors"
	"fmt"
	"time"
)

const (
	// PacketSize is the wMaxPacketSize of all endpoints.
	PacketSize = 64
	// HeaderLen is the length of a message's header.
	HeaderLen = 8
	// MaxMessage is the length of the longest message, header included, in either direction.
	MaxMessage = 280
	// DataOverhead is what a TxData or an RxData has besides its data.
	DataOverhead = HeaderLen + 6
	// MaxATR is the length of the longest ATR that the firmware takes; it ignores a SetATR with more.
	MaxATR = 33
	// maxLength is what the header's length field holds.
	maxLength = 1<<16 - 1
)

// A Class says what part of the device a message concerns.
type Class uint8

// Classes of messages.
const (
	ClassGeneric Class = 0
	ClassCardem  Class = 1 // card emulation
	ClassModem   Class = 2 // the modem beside the device
	ClassSniff   Class = 3
)

// Types of messages, by class.
const (
	typeError = 0 // generic

	typeTxData     = 1 // cardem
	typeSetATR     = 2
	typeStats      = 3
	typeStatus     = 4
	typeCardInsert = 5
	typeRxData     = 6
	typePTS        = 7
	typeConfig     = 8

	typeReset       = 1 // modem
	typeSimSelect   = 2
	typeModemStatus = 3
)

// A Message is one of the types of this package that have a header: *TxData, *SetATR, *Stats, *StatusReq,
// *Status, *CardInsert, *RxData, *PTS, *Config, *Reset, *SimSelect, *ModemStatus, *ErrorReport or *Unknown.
type Message interface {
	// kind returns the header's class and type.
	kind() (Class, uint8)
	// append appends what follows the header.
	append(b []byte) ([]byte, error)
	// decode takes what follows the header. It keeps nothing of it.
	decode(b []byte) error
}

// DataFlags say what the bytes of TxData and RxData are.
type DataFlags uint32

// Flags of TxData and RxData.
const (
	Header     DataFlags = 0x1 // the header of a command begins here
	Final      DataFlags = 0x2 // the last part: of a command's data, or the status word
	ContinueTx DataFlags = 0x4 // a procedure byte begins here, then the device goes on sending to the modem
	ContinueRx DataFlags = 0x8 // a procedure byte; then the device receives the modem's data
)

// TxData has the device send bytes to the modem.
type TxData struct {
	Flags DataFlags
	Data  []byte
}

// RxData has bytes the modem has sent.
type RxData struct {
	Flags DataFlags
	Data  []byte
}

// SetATR says what the device answers from the modem's next reset on.
type SetATR struct {
	ATR []byte // MaxATR bytes at most
}

// Stats asks for statistics. Today's firmware doesn't answer.
type Stats struct{}

// StatusReq has the device tell its Status on the bulk endpoint.
type StatusReq struct{}

// StatusFlags say how the modem drives the contacts of the card.
type StatusFlags uint32

// Flags of Status.
const (
	VCC         StatusFlags = 0x01 // supply voltage is present
	CLK         StatusFlags = 0x02 // clock is running
	Emulated    StatusFlags = 0x04 // the emulation is active; no firmware sets it
	Inserted    StatusFlags = 0x08 // a card is shown; no firmware sets it
	ResetActive StatusFlags = 0x10 // RST is low
)

// Status tells the contacts and parameters of the modem's interface. It comes on the interrupt
// endpoint when a signal has changed and Config has asked for that, on the bulk endpoint after StatusReq.
type Status struct {
	Flags       StatusFlags
	Millivolts  uint16 // of VCC
	F, D        uint8  // indices of the transmission factors (ISO 7816-3 8.3, tables 7 and 8)
	WI          uint8  // waiting integer (ISO 7816-3 10.2)
	WaitingTime uint32 // etu
}

// CardInsert has the device show the modem a card, or an empty slot.
type CardInsert struct {
	Inserted bool
}

// PTS tells of a protocol and parameter selection, which the device has answered (ISO 7816-3 9).
type PTS struct {
	Req, Resp []byte // of the same length, ptsSize bytes at most
}

// Features of Config.
const (
	StatusOnIRQ uint32 = 0x1 // Status is sent on the interrupt endpoint
)

// Presence says what the contact that tells the modem of a card is like.
type Presence uint8

// Bits of Presence.
const (
	PresentHigh   Presence = 0x1 // high when there is a card, else low
	PresenceValid Presence = 0x2 // PresentHigh counts, else the device goes by its default
)

// Config has the device work in some way. It answers with what is in force.
type Config struct {
	Features uint32
	SlotMux  uint8
	Presence Presence
}

// Actions of Reset.
const (
	ResetRelease uint8 = 0
	ResetAssert  uint8 = 1
	ResetPulse   uint8 = 2
)

// Reset drives the modem's reset line. Only sysmoQMOD and ngff-cardem have one.
type Reset struct {
	Action uint8
	Pulse  time.Duration // of ResetPulse, whole milliseconds up to 65535
}

// SimSelect connects the modem with the emulated card or with its local SIM, to which devices
// connect it when they start.
type SimSelect struct {
	Remote bool
}

// ModemStatus are bit masks of the modem's status lines. Today's firmware sends none.
type ModemStatus struct {
	Supported, Status, Changed uint8
}

// ErrorReport is a complaint of the device. Today's firmware sends none.
type ErrorReport struct {
	Severity, Subsystem uint8
	Code                uint16
	Text                string
}

// Unknown is a message of another class or type.
type Unknown struct {
	Class Class
	Type  uint8
	Data  []byte
}

const (
	ptsSize    = 6  // of PTS.Req and PTS.Resp on the wire
	statusSize = 13 // of Status on the wire
)

// Append appends the encoding of m to b. It fails when m has more bytes than its length fields can say,
// or members out of range, but encodes what is longer than devices take.
func Append(b []byte, m Message) ([]byte, error) {
	start := len(b)
	class, kind := m.kind()
	out, err := m.append(append(b, byte(class), kind, 0, 0, 0, 0, 0, 0))
	if err == nil && len(out)-start > maxLength {
		err = fmt.Errorf("message of %d bytes", len(out)-start)
	}
	if err != nil {
		return b, fmt.Errorf("encode %s: %w", Name(m), err)
	}
	binary.LittleEndian.PutUint16(out[start+6:], uint16(len(out)-start))
	return out, nil
}

// Decode decodes one whole message. Sequence and slot number of the header are of no meaning and not
// looked at: one interface is one slot.
func Decode(b []byte) (Message, error) {
	if len(b) < HeaderLen {
		return nil, fmt.Errorf("message of %d bytes: its header has %d", len(b), HeaderLen)
	}
	if n := int(binary.LittleEndian.Uint16(b[6:])); n != len(b) {
		return nil, fmt.Errorf("message of %d bytes says that it has %d", len(b), n)
	}
	body := b[HeaderLen:]
	m := blank(Class(b[0]), b[1], len(body))
	if err := m.decode(body); err != nil {
		return nil, fmt.Errorf("decode %s: %w", Name(m), err)
	}
	return m, nil
}

// blank returns a message to decode size bytes into.
func blank(class Class, kind uint8, size int) Message {
	switch class {
	case ClassGeneric:
		if kind == typeError {
			return &ErrorReport{}
		}
	case ClassCardem:
		switch kind {
		case typeTxData:
			return &TxData{}
		case typeSetATR:
			return &SetATR{}
		case typeStats:
			if size == 0 {
				return &Stats{}
			}
		case typeStatus:
			if size == 0 {
				return &StatusReq{}
			}
			return &Status{}
		case typeCardInsert:
			return &CardInsert{}
		case typeRxData:
			return &RxData{}
		case typePTS:
			return &PTS{}
		case typeConfig:
			return &Config{}
		}
	case ClassModem:
		switch kind {
		case typeReset:
			return &Reset{}
		case typeSimSelect:
			return &SimSelect{}
		case typeModemStatus:
			return &ModemStatus{}
		}
	}
	return &Unknown{Class: class, Type: kind}
}

// Name returns what the firmware's interface calls m, for logs: RX_DATA, or class and type.
func Name(m Message) string {
	switch m := m.(type) {
	case *ErrorReport:
		return "ERROR"
	case *TxData:
		return "TX_DATA"
	case *SetATR:
		return "SET_ATR"
	case *Stats:
		return "STATS"
	case *StatusReq, *Status:
		return "STATUS"
	case *CardInsert:
		return "CARDINSERT"
	case *RxData:
		return "RX_DATA"
	case *PTS:
		return "PTS"
	case *Config:
		return "CONFIG"
	case *Reset:
		return "RESET"
	case *SimSelect:
		return "SIM_SELECT"
	case *ModemStatus:
		return "MODEM_STATUS"
	case *Unknown:
		return fmt.Sprintf("class %d type %d", m.Class, m.Type)
	}
	return "?"
}

func (*ErrorReport) kind() (Class, uint8) { return ClassGeneric, typeError }
func (*TxData) kind() (Class, uint8)      { return ClassCardem, typeTxData }
func (*SetATR) kind() (Class, uint8)      { return ClassCardem, typeSetATR }
func (*Stats) kind() (Class, uint8)       { return ClassCardem, typeStats }
func (*StatusReq) kind() (Class, uint8)   { return ClassCardem, typeStatus }
func (*Status) kind() (Class, uint8)      { return ClassCardem, typeStatus }
func (*CardInsert) kind() (Class, uint8)  { return ClassCardem, typeCardInsert }
func (*RxData) kind() (Class, uint8)      { return ClassCardem, typeRxData }
func (*PTS) kind() (Class, uint8)         { return ClassCardem, typePTS }
func (*Config) kind() (Class, uint8)      { return ClassCardem, typeConfig }
func (*Reset) kind() (Class, uint8)       { return ClassModem, typeReset }
func (*SimSelect) kind() (Class, uint8)   { return ClassModem, typeSimSelect }
func (*ModemStatus) kind() (Class, uint8) { return ClassModem, typeModemStatus }
func (m *Unknown) kind() (Class, uint8)   { return m.Class, m.Type }

func (m *TxData) append(b []byte) ([]byte, error) { return appendData(b, m.Flags, m.Data) }
func (m *RxData) append(b []byte) ([]byte, error) { return appendData(b, m.Flags, m.Data) }

func appendData(b []byte, flags DataFlags, data []byte) ([]byte, error) {
	if len(data) > maxLength {
		return b, fmt.Errorf("%d bytes of data", len(data))
	}
	b = binary.LittleEndian.AppendUint32(b, uint32(flags))
	b = binary.LittleEndian.AppendUint16(b, uint16(len(data)))
	return append(b, data...), nil
}

func (m *TxData) decode(b []byte) (err error) {
	m.Flags, m.Data, err = decodeData(b)
	return err
}

func (m *RxData) decode(b []byte) (err error) {
	m.Flags, m.Data, err = decodeData(b)
	return err
}

func decodeData(b []byte) (DataFlags, []byte, error) {
	if len(b) < DataOverhead-HeaderLen {
		return 0, nil, short(b, DataOverhead-HeaderLen)
	}
	flags, data := DataFlags(binary.LittleEndian.Uint32(b)), b[6:]
	if n := int(binary.LittleEndian.Uint16(b[4:])); n != len(data) {
		return 0, nil, fmt.Errorf("data_len is %d, %d bytes are there", n, len(data))
	}
	return flags, clone(data), nil
}

func (m *SetATR) append(b []byte) ([]byte, error) {
	if len(m.ATR) > 255 {
		return b, fmt.Errorf("ATR of %d bytes", len(m.ATR))
	}
	return append(append(b, byte(len(m.ATR))), m.ATR...), nil
}

func (m *SetATR) decode(b []byte) error {
	if len(b) < 1 {
		return short(b, 1)
	}
	if int(b[0]) != len(b)-1 {
		return fmt.Errorf("atr_len is %d, %d bytes are there", b[0], len(b)-1)
	}
	m.ATR = clone(b[1:])
	return nil
}

func (*Stats) append(b []byte) ([]byte, error)     { return b, nil }
func (*Stats) decode([]byte) error                 { return nil }
func (*StatusReq) append(b []byte) ([]byte, error) { return b, nil }
func (*StatusReq) decode([]byte) error             { return nil }

func (m *Status) append(b []byte) ([]byte, error) {
	b = binary.LittleEndian.AppendUint32(b, uint32(m.Flags))
	b = binary.LittleEndian.AppendUint16(b, m.Millivolts)
	return binary.LittleEndian.AppendUint32(append(b, m.F, m.D, m.WI), m.WaitingTime), nil
}

func (m *Status) decode(b []byte) error {
	if len(b) < statusSize {
		return short(b, statusSize)
	}
	*m = Status{
		Flags: StatusFlags(binary.LittleEndian.Uint32(b)), Millivolts: binary.LittleEndian.Uint16(b[4:]),
		F: b[6], D: b[7], WI: b[8], WaitingTime: binary.LittleEndian.Uint32(b[9:]),
	}
	return nil
}

func (m *CardInsert) append(b []byte) ([]byte, error) { return append(b, bit(m.Inserted)), nil }

func (m *CardInsert) decode(b []byte) (err error) {
	m.Inserted, err = decodeBit(b)
	return err
}

func (m *PTS) append(b []byte) ([]byte, error) {
	if len(m.Req) != len(m.Resp) || len(m.Req) > ptsSize {
		return b, fmt.Errorf("request of %d, answer of %d bytes", len(m.Req), len(m.Resp))
	}
	var field [2 * ptsSize]byte
	copy(field[:], m.Req)
	copy(field[ptsSize:], m.Resp)
	return append(append(b, byte(len(m.Req))), field[:]...), nil
}

func (m *PTS) decode(b []byte) error {
	if len(b) < 1+2*ptsSize {
		return short(b, 1+2*ptsSize)
	}
	n := int(b[0])
	if n > ptsSize {
		return fmt.Errorf("pts_len is %d, at most %d", n, ptsSize)
	}
	m.Req, m.Resp = clone(b[1:1+n]), clone(b[1+ptsSize:1+ptsSize+n])
	return nil
}

func (m *Config) append(b []byte) ([]byte, error) {
	return append(binary.LittleEndian.AppendUint32(b, m.Features), m.SlotMux, byte(m.Presence)), nil
}

// decode takes the short forms that the firmware takes, too.
func (m *Config) decode(b []byte) error {
	if len(b) < 4 {
		return short(b, 4)
	}
	*m = Config{Features: binary.LittleEndian.Uint32(b)}
	if len(b) > 4 {
		m.SlotMux = b[4]
	}
	if len(b) > 5 {
		m.Presence = Presence(b[5])
	}
	return nil
}

func (m *Reset) append(b []byte) ([]byte, error) {
	ms := m.Pulse.Milliseconds()
	if ms < 0 || ms > maxLength {
		return b, fmt.Errorf("pulse of %v", m.Pulse)
	}
	return binary.LittleEndian.AppendUint16(append(b, m.Action), uint16(ms)), nil
}

func (m *Reset) decode(b []byte) error {
	if len(b) < 3 {
		return short(b, 3)
	}
	*m = Reset{Action: b[0], Pulse: time.Duration(binary.LittleEndian.Uint16(b[1:])) * time.Millisecond}
	return nil
}

func (m *SimSelect) append(b []byte) ([]byte, error) { return append(b, bit(m.Remote)), nil }

func (m *SimSelect) decode(b []byte) (err error) {
	m.Remote, err = decodeBit(b)
	return err
}

func (m *ModemStatus) append(b []byte) ([]byte, error) {
	return append(b, m.Supported, m.Status, m.Changed), nil
}

func (m *ModemStatus) decode(b []byte) error {
	if len(b) < 3 {
		return short(b, 3)
	}
	*m = ModemStatus{Supported: b[0], Status: b[1], Changed: b[2]}
	return nil
}

func (m *ErrorReport) append(b []byte) ([]byte, error) {
	if len(m.Text) > 255 {
		return b, fmt.Errorf("text of %d bytes", len(m.Text))
	}
	b = binary.LittleEndian.AppendUint16(append(b, m.Severity, m.Subsystem), m.Code)
	return append(append(b, byte(len(m.Text))), m.Text...), nil
}

func (m *ErrorReport) decode(b []byte) error {
	if len(b) < 5 {
		return short(b, 5)
	}
	if n := int(b[4]); n > len(b)-5 {
		return fmt.Errorf("msg_len is %d, %d bytes are there", n, len(b)-5)
	}
	*m = ErrorReport{
		Severity: b[0], Subsystem: b[1], Code: binary.LittleEndian.Uint16(b[2:]), Text: string(b[5 : 5+int(b[4])]),
	}
	return nil
}

func (m *Unknown) append(b []byte) ([]byte, error) { return append(b, m.Data...), nil }

func (m *Unknown) decode(b []byte) error {
	m.Data = clone(b)
	return nil
}

func short(b []byte, want int) error {
	return fmt.Errorf("%d bytes after the header, at least %d", len(b), want)
}

// clone copies b; what has no bytes is nil.
func clone(b []byte) []byte { return append([]byte(nil), b...) }

func bit(on bool) byte {
	if on {
		return 1
	}
	return 0
}

func decodeBit(b []byte) (bool, error) {
	if len(b) < 1 {
		return false, short(b, 1)
	}
	if b[0] > 1 {
		return false, errors.New("neither 0 nor 1")
	}
	return b[0] == 1, nil
}

// Waiting returns how long modem and card wait for each other's bytes when CLK has this frequency in Hz: WI x 960 x
// Fi of its cycles (ISO 7816-3 10.2).
func (m *Status) Waiting(clock int) time.Duration {
	wi := time.Duration(m.WI)
	if wi == 0 {
		wi = 10 // which is RFU, like any F without a factor
	}
	fi := time.Duration(372)
	if factors := [...]time.Duration{372, 372, 558, 744, 1116, 1488, 1860, 372, 372, 512, 768, 1024, 1536, 2048}; int(m.F) < len(factors) {
		fi = factors[m.F]
	}
	return wi * 960 * fi * time.Second / time.Duration(clock)
}
