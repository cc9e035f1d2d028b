// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"net/netip"
	"strconv"
)

// Version is the protocol version this project speaks and expects
// (RsproPDU.version).
const Version = 2

// A ComponentType says what kind of program a peer is (RSPRO ComponentType).
// Values that are not known are kept as their numbers, although the type isn't
// extensible, so that such a peer can be answered by who expected another.
type ComponentType int32

// Component types.
const (
	Client ComponentType = 0
	Server ComponentType = 1
	Bankd  ComponentType = 2
)

// String returns the name as in the ASN.1 module, or the number.
func (t ComponentType) String() string {
	switch t {
	case Client:
		return "remsimClient"
	case Server:
		return "remsimServer"
	case Bankd:
		return "remsimBankd"
	}
	return strconv.Itoa(int(t))
}

// A ResultCode is the outcome of a request (RSPRO ResultCode). Values that are
// not known are kept as their numbers.
type ResultCode int32

// Result codes.
const (
	OK                         ResultCode = 0
	IllegalClientID            ResultCode = 1
	IllegalBankID              ResultCode = 2
	IllegalSlotID              ResultCode = 3
	UnsupportedProtocolVersion ResultCode = 4
	UnknownSlotmap             ResultCode = 5
	IdentityInUse              ResultCode = 6
	CardNotPresent             ResultCode = 100
	CardUnresponsive           ResultCode = 101
	CardTransmissionError      ResultCode = 102
)

// String returns the name as in the ASN.1 module, or the number.
func (r ResultCode) String() string {
	switch r {
	case OK:
		return "ok"
	case IllegalClientID:
		return "illegalClientId"
	case IllegalBankID:
		return "illegalBankId"
	case IllegalSlotID:
		return "illegalSlotId"
	case UnsupportedProtocolVersion:
		return "unsupportedProtocolVersion"
	case UnknownSlotmap:
		return "unknownSlotmap"
	case IdentityInUse:
		return "identityInUse"
	case CardNotPresent:
		return "cardNotPresent"
	case CardUnresponsive:
		return "cardUnresponsive"
	case CardTransmissionError:
		return "cardTransmissionError"
	}
	return strconv.Itoa(int(r))
}

// An ErrorCode says what an ErrorInd is about (RSPRO ErrorCode). Values that
// are not known are kept as their numbers.
type ErrorCode int32

// Error codes.
const (
	UnknownClientConnected    ErrorCode = 1
	UnexpectedDisconnect      ErrorCode = 2
	UnexpectedProtocolVersion ErrorCode = 3
)

// String returns the name as in the ASN.1 module, or the number.
func (e ErrorCode) String() string {
	switch e {
	case UnknownClientConnected:
		return "unknownClientConnected"
	case UnexpectedDisconnect:
		return "unexpectedDisconnect"
	case UnexpectedProtocolVersion:
		return "unexpectedProtocolVersion"
	}
	return strconv.Itoa(int(e))
}

// An ErrorSeverity says how bad an ErrorInd is (RSPRO ErrorSeverity). Values
// that are not known are kept as their numbers.
type ErrorSeverity int32

// Severities.
const (
	Minor ErrorSeverity = 1
	Major ErrorSeverity = 2
	Fatal ErrorSeverity = 3
)

// String returns the name as in the ASN.1 module, or the number.
func (e ErrorSeverity) String() string {
	switch e {
	case Minor:
		return "minor"
	case Major:
		return "major"
	case Fatal:
		return "fatal"
	}
	return strconv.Itoa(int(e))
}

// Features is the set of extensions a peer knows (extension element [101],
// BIT STRING). Bit n of the number is bit n of the string; bits from 64 up are
// dropped when decoding. The empty set is not encoded.
type Features uint64

// Feature bits.
const (
	AtrAfterReset Features = 1 << 0 // told by a client: one setAtrReq after every reset it asked for
	LateAtr       Features = 1 << 1 // told by a bankd: a client may stay after cardNotPresent
	BankState     Features = 1 << 2 // told by bankd and server: bankSlotmapsInd, bankSlotInfoInd
)

// Has reports whether all bits of x are set.
func (f Features) Has(x Features) bool { return f&x == x }

// A ComponentIdentity is how a program presents itself (RSPRO
// ComponentIdentity). Name, Software and SWVersion are mandatory; the others
// are absent when empty. Each is an IA5String of 1..32 characters.
type ComponentIdentity struct {
	Type           ComponentType
	Name           string // host name
	Software       string // "remsim-server", "remsim-bankd" or "remsim-client"
	SWVersion      string
	HWManufacturer string
	HWModel        string
	HWSerialNr     string
	HWVersion      string
	FWVersion      string
}

// TpduFlags are carried by both TPDU messages (RSPRO TpduFlags). All known
// programs send them false and read none.
type TpduFlags struct {
	HeaderPresent      bool
	FinalPart          bool
	ProcByteContinueTx bool
	ProcByteContinueRx bool
}

// IPPort is an address with a port (RSPRO IpPort). An address with a zone, or
// no address, can't be encoded. 4-byte addresses go as ipv4, all others as ipv6.
type IPPort = netip.AddrPort
