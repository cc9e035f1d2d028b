// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"strconv"

	"remsim/internal/slot"
)

// A Choice is the context tag of a message in the choice of RsproPDU.
type Choice uint32

// The messages.
const (
	ChoiceConnectBankReq      Choice = 0
	ChoiceConnectBankRes      Choice = 1
	ChoiceConnectClientReq    Choice = 2
	ChoiceConnectClientRes    Choice = 3
	ChoiceCreateMappingReq    Choice = 4
	ChoiceCreateMappingRes    Choice = 5
	ChoiceRemoveMappingReq    Choice = 6
	ChoiceRemoveMappingRes    Choice = 7
	ChoiceConfigClientIDReq   Choice = 8
	ChoiceConfigClientIDRes   Choice = 9
	ChoiceSetAtrReq           Choice = 10
	ChoiceSetAtrRes           Choice = 11
	ChoiceTpduModemToCard     Choice = 12
	ChoiceTpduCardToModem     Choice = 13
	ChoiceClientSlotStatusInd Choice = 14
	ChoiceBankSlotStatusInd   Choice = 15
	ChoiceErrorInd            Choice = 16
	ChoiceConfigClientBankReq Choice = 17
	ChoiceConfigClientBankRes Choice = 18
	ChoiceResetStateReq       Choice = 19
	ChoiceResetStateRes       Choice = 20
	ChoiceBankSlotmapsInd     Choice = 100 // extension, feature BankState
	ChoiceBankSlotInfoInd     Choice = 101 // extension, feature BankState
)

// String returns the message's name as in the ASN.1 module, such as
// "connectBankReq", or "[N]" for an unknown one.
func (c Choice) String() string {
	switch c {
	case ChoiceConnectBankReq:
		return "connectBankReq"
	case ChoiceConnectBankRes:
		return "connectBankRes"
	case ChoiceConnectClientReq:
		return "connectClientReq"
	case ChoiceConnectClientRes:
		return "connectClientRes"
	case ChoiceCreateMappingReq:
		return "createMappingReq"
	case ChoiceCreateMappingRes:
		return "createMappingRes"
	case ChoiceRemoveMappingReq:
		return "removeMappingReq"
	case ChoiceRemoveMappingRes:
		return "removeMappingRes"
	case ChoiceConfigClientIDReq:
		return "configClientIdReq"
	case ChoiceConfigClientIDRes:
		return "configClientIdRes"
	case ChoiceSetAtrReq:
		return "setAtrReq"
	case ChoiceSetAtrRes:
		return "setAtrRes"
	case ChoiceTpduModemToCard:
		return "tpduModemToCard"
	case ChoiceTpduCardToModem:
		return "tpduCardToModem"
	case ChoiceClientSlotStatusInd:
		return "clientSlotStatusInd"
	case ChoiceBankSlotStatusInd:
		return "bankSlotStatusInd"
	case ChoiceErrorInd:
		return "errorInd"
	case ChoiceConfigClientBankReq:
		return "configClientBankReq"
	case ChoiceConfigClientBankRes:
		return "configClientBankRes"
	case ChoiceResetStateReq:
		return "resetStateReq"
	case ChoiceResetStateRes:
		return "resetStateRes"
	case ChoiceBankSlotmapsInd:
		return "bankSlotmapsInd"
	case ChoiceBankSlotInfoInd:
		return "bankSlotInfoInd"
	}
	return "[" + strconv.FormatUint(uint64(c), 10) + "]"
}

// Response returns the choice that answers the request c, and whether c is a
// request that has one.
func (c Choice) Response() (Choice, bool) {
	switch c {
	case ChoiceConnectBankReq, ChoiceConnectClientReq, ChoiceCreateMappingReq, ChoiceRemoveMappingReq,
		ChoiceConfigClientIDReq, ChoiceSetAtrReq, ChoiceConfigClientBankReq, ChoiceResetStateReq:
		// The tag of a response follows that of its request.
		return c + 1, true
	}
	return 0, false
}

// A Message is one alternative of RsproPDU's choice: a pointer to one of the
// message types of this package.
type Message interface {
	// Choice returns the message's tag in the choice.
	Choice() Choice
}

// A Response is a Message that answers a request and says how it went.
type Response interface {
	Message
	// ResultCode returns the outcome.
	ResultCode() ResultCode
}

// A PDU is one RsproPDU.
type PDU struct {
	Version uint8 // protocol version 0..32; see the constant Version
	Tag     int32 // OperationTag 0..2147483647: a response echoes its request's
	Msg     Message
}

// ConnectBankReq presents a bankd to the server; the first message of its
// control connection.
type ConnectBankReq struct {
	Identity ComponentIdentity
	BankID   uint16   // 0..1023
	NumSlots uint16   // 0..1023
	Endpoint IPPort   // extension [100]: where clients reach this bankd; zero: absent
	Features Features // extension [101]; zero: absent
}

// ConnectBankRes answers ConnectBankReq.
type ConnectBankRes struct {
	Identity ComponentIdentity
	Result   ResultCode
	Features Features // extension [101]; zero: absent
}

// ConnectClientReq presents a client to the server or to a bankd; the first
// message of the connection.
type ConnectClientReq struct {
	Identity ComponentIdentity
	Slot     *slot.Client // nil: the server shall assign one; mandatory towards a bankd
	Features Features     // extension [101]; zero: absent
}

// ConnectClientRes answers ConnectClientReq.
type ConnectClientRes struct {
	Identity ComponentIdentity
	Result   ResultCode
	Features Features // extension [101]; zero: absent
}

// CreateMappingReq tells a bankd to serve a client slot from a bank slot.
type CreateMappingReq struct {
	Client slot.Client
	Bank   slot.Bank
}

// CreateMappingRes answers CreateMappingReq.
type CreateMappingRes struct{ Result ResultCode }

// RemoveMappingReq tells a bankd to end a map.
type RemoveMappingReq struct {
	Client slot.Client
	Bank   slot.Bank
}

// RemoveMappingRes answers RemoveMappingReq.
type RemoveMappingRes struct{ Result ResultCode }

// ConfigClientIDReq assigns a client its slot.
type ConfigClientIDReq struct{ Slot slot.Client }

// ConfigClientIDRes answers ConfigClientIDReq.
type ConfigClientIDRes struct{ Result ResultCode }

// ConfigClientBankReq tells a client which bank slot to use and where its bankd
// is. Port 0 (with address 0.0.0.0) means: no bankd.
type ConfigClientBankReq struct {
	Bank  slot.Bank
	Bankd IPPort
}

// ConfigClientBankRes answers ConfigClientBankReq.
type ConfigClientBankRes struct{ Result ResultCode }

// SetAtrReq tells a client the ATR of its card.
type SetAtrReq struct {
	Slot slot.Client
	ATR  []byte // 1..55 bytes
}

// SetAtrRes answers SetAtrReq.
type SetAtrRes struct{ Result ResultCode }

// TpduModemToCard carries a command TPDU.
type TpduModemToCard struct {
	From  slot.Client
	To    slot.Bank
	Flags TpduFlags
	Data  []byte // 5..260 bytes towards a card; the codec takes any number
}

// TpduCardToModem carries a response: data, SW1, SW2.
type TpduCardToModem struct {
	From  slot.Bank
	To    slot.Client
	Flags TpduFlags
	Data  []byte
}

// ClientSlotStatusInd tells a bankd how the modem drives the card's contacts.
type ClientSlotStatusInd struct {
	From slot.Client
	To   slot.Bank
	Phys slot.Phys
}

// BankSlotStatusInd tells a client what became of its card.
type BankSlotStatusInd struct {
	From slot.Bank
	To   slot.Client
	Phys slot.Phys
}

// ErrorInd reports a fault to the server.
type ErrorInd struct {
	Sender   ComponentType
	Severity ErrorSeverity
	Code     ErrorCode
	Bank     *slot.Bank   // nil: absent
	Client   *slot.Client // nil: absent
	Text     string       // IA5String 1..255; empty: absent
}

// ResetStateReq tells a peer to forget all maps and configuration.
type ResetStateReq struct{}

// ResetStateRes answers ResetStateReq.
type ResetStateRes struct{ Result ResultCode }

// BankSlotmapsInd tells the server the maps a bankd has (extension message
// [100], feature BankState).
type BankSlotmapsInd struct {
	Maps []slot.Map // at most MaxMaps
	Last bool       // no further message of this series follows
}

// A SlotInfo is what a bankd knows of one slot.
type SlotInfo struct {
	Slot    uint16 // 0..1023
	Present bool   // a card is in the reader
	Reader  string // UTF-8 name of the reader; empty: absent
	ATR     []byte // 1..55 bytes; nil: absent
	Error   string // IA5String 1..255, the slot's last error; empty: absent
}

// BankSlotInfoInd tells the server the state of slots (extension message
// [101], feature BankState).
type BankSlotInfoInd struct {
	Slots []SlotInfo // at most MaxSlots
}

// Unknown is a message whose tag in the choice is not known. It can be encoded
// again as it came.
type Unknown struct {
	Number Choice
	Body   []byte // content octets of the element
	// Constructed is the element's P/C bit.
	Constructed bool
}

// Choice returns the message's tag in the choice of RsproPDU.
func (*ConnectBankReq) Choice() Choice      { return ChoiceConnectBankReq }
func (*ConnectBankRes) Choice() Choice      { return ChoiceConnectBankRes }
func (*ConnectClientReq) Choice() Choice    { return ChoiceConnectClientReq }
func (*ConnectClientRes) Choice() Choice    { return ChoiceConnectClientRes }
func (*CreateMappingReq) Choice() Choice    { return ChoiceCreateMappingReq }
func (*CreateMappingRes) Choice() Choice    { return ChoiceCreateMappingRes }
func (*RemoveMappingReq) Choice() Choice    { return ChoiceRemoveMappingReq }
func (*RemoveMappingRes) Choice() Choice    { return ChoiceRemoveMappingRes }
func (*ConfigClientIDReq) Choice() Choice   { return ChoiceConfigClientIDReq }
func (*ConfigClientIDRes) Choice() Choice   { return ChoiceConfigClientIDRes }
func (*ConfigClientBankReq) Choice() Choice { return ChoiceConfigClientBankReq }
func (*ConfigClientBankRes) Choice() Choice { return ChoiceConfigClientBankRes }
func (*SetAtrReq) Choice() Choice           { return ChoiceSetAtrReq }
func (*SetAtrRes) Choice() Choice           { return ChoiceSetAtrRes }
func (*TpduModemToCard) Choice() Choice     { return ChoiceTpduModemToCard }
func (*TpduCardToModem) Choice() Choice     { return ChoiceTpduCardToModem }
func (*ClientSlotStatusInd) Choice() Choice { return ChoiceClientSlotStatusInd }
func (*BankSlotStatusInd) Choice() Choice   { return ChoiceBankSlotStatusInd }
func (*ErrorInd) Choice() Choice            { return ChoiceErrorInd }
func (*ResetStateReq) Choice() Choice       { return ChoiceResetStateReq }
func (*ResetStateRes) Choice() Choice       { return ChoiceResetStateRes }
func (*BankSlotmapsInd) Choice() Choice     { return ChoiceBankSlotmapsInd }
func (*BankSlotInfoInd) Choice() Choice     { return ChoiceBankSlotInfoInd }
func (m *Unknown) Choice() Choice           { return m.Number }

// ResultCode returns the outcome of the request that is answered.
func (m *ConnectBankRes) ResultCode() ResultCode      { return m.Result }
func (m *ConnectClientRes) ResultCode() ResultCode    { return m.Result }
func (m *CreateMappingRes) ResultCode() ResultCode    { return m.Result }
func (m *RemoveMappingRes) ResultCode() ResultCode    { return m.Result }
func (m *ConfigClientIDRes) ResultCode() ResultCode   { return m.Result }
func (m *ConfigClientBankRes) ResultCode() ResultCode { return m.Result }
func (m *SetAtrRes) ResultCode() ResultCode           { return m.Result }
func (m *ResetStateRes) ResultCode() ResultCode       { return m.Result }
