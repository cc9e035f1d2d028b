// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import "fmt"

// A Code is what a function of the driver returns: RESPONSECODE of IFDHandler 3.0. The names are those of
// ifdhandler.h without IFD.
type Code int

// Codes that the driver returns.
const (
	Success              Code = 0
	ErrorTag             Code = 600 // IFD_ERROR_TAG
	ErrorNotSupported    Code = 606 // IFD_ERROR_NOT_SUPPORTED
	ProtocolNotSupported Code = 607 // IFD_PROTOCOL_NOT_SUPPORTED
	ErrorPowerAction     Code = 608 // IFD_ERROR_POWER_ACTION
	CommunicationError   Code = 612 // IFD_COMMUNICATION_ERROR
	ResponseTimeout      Code = 613 // IFD_RESPONSE_TIMEOUT
	NotSupported         Code = 614 // IFD_NOT_SUPPORTED
	ICCNotPresent        Code = 616 // IFD_ICC_NOT_PRESENT
	InsufficientBuffer   Code = 618 // IFD_ERROR_INSUFFICIENT_BUFFER
)

// String returns the code's name in ifdhandler.h.
func (c Code) String() string {
	switch c {
	case Success:
		return "IFD_SUCCESS"
	case ErrorTag:
		return "IFD_ERROR_TAG"
	case ErrorNotSupported:
		return "IFD_ERROR_NOT_SUPPORTED"
	case ProtocolNotSupported:
		return "IFD_PROTOCOL_NOT_SUPPORTED"
	case ErrorPowerAction:
		return "IFD_ERROR_POWER_ACTION"
	case CommunicationError:
		return "IFD_COMMUNICATION_ERROR"
	case ResponseTimeout:
		return "IFD_RESPONSE_TIMEOUT"
	case NotSupported:
		return "IFD_NOT_SUPPORTED"
	case ICCNotPresent:
		return "IFD_ICC_NOT_PRESENT"
	case InsufficientBuffer:
		return "IFD_ERROR_INSUFFICIENT_BUFFER"
	}
	return fmt.Sprintf("Code(%d)", int(c))
}

// A Tag is what IFDHGetCapabilities is asked for.
type Tag uint64

// Tags that the driver knows. Those of the polling thread have functions as their values, which are
// the caller's: see Driver.Poll and Driver.StopPoll.
const (
	TagATR                Tag = 0x0303     // the card's ATR
	TagATRString          Tag = 0x00090303 // the same: SCARD_ATTR_ATR_STRING of PC/SC part 3
	TagSlotThreadSafe     Tag = 0x0FAC     // 1 byte
	TagThreadSafe         Tag = 0x0FAD     // 1 byte
	TagSlotsNumber        Tag = 0x0FAE     // slots of a reader, 1 byte
	TagSimultaneousAccess Tag = 0x0FAF     // readers that the driver can manage, 1 byte
	TagPollingKillable    Tag = 0x0FB1     // whether the polling thread may be cancelled, 1 byte
	TagStopPolling        Tag = 0x0FB2     // a function
	TagPolling            Tag = 0x0FB3     // a function
)

// An Action is what IFDHPowerICC is to do.
type Action uint64

// Actions of Driver.Power.
const (
	PowerUp   Action = 500 // IFD_POWER_UP
	PowerDown Action = 501 // IFD_POWER_DOWN
	Reset     Action = 502 // IFD_RESET, a warm reset
)

// Protocols as IFDHSetProtocolParameters names them.
const (
	ProtocolT0 = 1 // SCARD_PROTOCOL_T0
	ProtocolT1 = 2 // SCARD_PROTOCOL_T1
)

// GetFeatureRequest is the control code by which applications ask for a reader's features
// (CM_IOCTL_GET_FEATURE_REQUEST of PC/SC part 10, 2.2, as pcsc-lite numbers it).
const GetFeatureRequest = 0x42000000 + 3400
