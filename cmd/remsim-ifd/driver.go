// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package main

/*
#cgo CFLAGS: -I/usr/include/PCSC -I/usr/local/include/PCSC
#include <stdlib.h>
#include "driver.h"
*/
import "C"

import (
	"time"
	"unsafe"

	"remsim/internal/client"
	"remsim/internal/client/ifd"
	"remsim/internal/link"
)

// driver is the one that pcscd has loaded: the functions of IFDHandler have no other argument that would
// lead to it. It does nothing until there is a reader.
var driver = ifd.New(link.TCP(), func(p ifd.Priority, line string) {
	text := C.CString(line)
	defer C.free(unsafe.Pointer(text))
	C.remsim_log(C.int(p), text)
})

// IFDHCreateChannelByName opens a reader.
//
//export IFDHCreateChannelByName
func IFDHCreateChannelByName(lun C.DWORD, name C.LPSTR) C.RESPONSECODE {
	return guard("IFDHCreateChannelByName", func() ifd.Code {
		C.remsim_keep_handlers_off_stacks()
		if name == nil {
			return driver.CreateChannel(uint64(lun))
		}
		return driver.CreateChannelByName(uint64(lun), C.GoString(name))
	})
}

// IFDHCreateChannel fails: readers have names.
//
//export IFDHCreateChannel
func IFDHCreateChannel(lun, channel C.DWORD) C.RESPONSECODE {
	return guard("IFDHCreateChannel", func() ifd.Code { return driver.CreateChannel(uint64(lun)) })
}

// IFDHCloseChannel closes a reader.
//
//export IFDHCloseChannel
func IFDHCloseChannel(lun C.DWORD) C.RESPONSECODE {
	return guard("IFDHCloseChannel", func() ifd.Code { return driver.CloseChannel(uint64(lun)) })
}

// IFDHGetCapabilities tells the value of a tag.
//
//export IFDHGetCapabilities
func IFDHGetCapabilities(lun, tag C.DWORD, length C.PDWORD, value C.PUCHAR) C.RESPONSECODE {
	return guard("IFDHGetCapabilities", func() ifd.Code {
		var b []byte
		code := ifd.Success
		switch t := ifd.Tag(tag); t {
		case ifd.TagPolling:
			b = address(C.remsim_poll_function())
		case ifd.TagStopPolling:
			b = address(C.remsim_stop_function())
		default:
			b, code = driver.GetCapabilities(uint64(lun), t)
		}
		if code != ifd.Success {
			return code
		}
		return put(b, value, length)
	})
}

// IFDHSetCapabilities fails: there is nothing to set.
//
//export IFDHSetCapabilities
func IFDHSetCapabilities(lun, tag, length C.DWORD, value C.PUCHAR) C.RESPONSECODE {
	return guard("IFDHSetCapabilities", func() ifd.Code { return driver.SetCapabilities(uint64(lun)) })
}

// IFDHSetProtocolParameters chooses T=0.
//
//export IFDHSetProtocolParameters
func IFDHSetProtocolParameters(lun, protocol C.DWORD, flags, pts1, pts2, pts3 C.UCHAR) C.RESPONSECODE {
	return guard("IFDHSetProtocolParameters", func() ifd.Code {
		return driver.SetProtocolParameters(uint64(lun), uint64(protocol))
	})
}

// IFDHPowerICC switches the card on or off, or resets it. pcscd has no use for an ATR when it switches the card off,
// and gives no buffer then.
//
//export IFDHPowerICC
func IFDHPowerICC(lun, action C.DWORD, atr C.PUCHAR, length C.PDWORD) C.RESPONSECODE {
	return guard("IFDHPowerICC", func() ifd.Code {
		C.remsim_keep_handlers_off_stacks()
		off := ifd.Action(action) == ifd.PowerDown
		if !off && (atr == nil || length == nil) {
			zero(length)
			return ifd.InsufficientBuffer
		}
		b, code := driver.Power(uint64(lun), ifd.Action(action))
		if off || code != ifd.Success {
			zero(length)
			return code
		}
		return put(b, atr, length)
	})
}

// IFDHTransmitToICC sends a command to the card.
//
//export IFDHTransmitToICC
func IFDHTransmitToICC(lun C.DWORD, send C.SCARD_IO_HEADER, command C.PUCHAR, commandLength C.DWORD,
	response C.PUCHAR, responseLength C.PDWORD, received C.PSCARD_IO_HEADER) C.RESPONSECODE {
	return guard("IFDHTransmitToICC", func() ifd.Code {
		switch {
		case response == nil || responseLength == nil || *responseLength < client.MinResponse:
			zero(responseLength)
			return ifd.InsufficientBuffer
		case command == nil || commandLength > ifd.MaxAPDU:
			zero(responseLength)
			return ifd.NotSupported
		}
		// A copy: what comes of the command may come later than this returns.
		apdu := C.GoBytes(unsafe.Pointer(command), C.int(commandLength))
		b, code := driver.Transmit(uint64(lun), uint64(send.Protocol), apdu)
		if code != ifd.Success {
			zero(responseLength)
			return code
		}
		return put(b, response, responseLength)
	})
}

// IFDHControl answers the request for features.
//
//export IFDHControl
func IFDHControl(lun, controlCode C.DWORD, request C.PUCHAR, requestLength C.DWORD, response C.PUCHAR, responseLength C.DWORD,
	returned C.LPDWORD) C.RESPONSECODE {
	return guard("IFDHControl", func() ifd.Code {
		if returned == nil {
			return ifd.InsufficientBuffer
		}
		b, code := driver.Control(uint64(lun), uint64(controlCode))
		if code != ifd.Success {
			zero(C.PDWORD(returned))
			return code
		}
		*returned = responseLength
		return put(b, response, C.PDWORD(returned))
	})
}

// IFDHICCPresence tells whether there is a card.
//
//export IFDHICCPresence
func IFDHICCPresence(lun C.DWORD) C.RESPONSECODE {
	return guard("IFDHICCPresence", func() ifd.Code { return driver.Presence(uint64(lun)) })
}

// remsim_poll is the function of pcscd's polling thread; its time-out is in milliseconds.
//
//export remsim_poll
func remsim_poll(lun C.DWORD, timeout C.int) C.RESPONSECODE {
	return guard("poll", func() ifd.Code {
		C.remsim_keep_handlers_off_stacks()
		return driver.Poll(uint64(lun), time.Duration(timeout)*time.Millisecond)
	})
}

// remsim_stop_poll ends remsim_poll.
//
//export remsim_stop_poll
func remsim_stop_poll(lun C.DWORD) C.RESPONSECODE {
	return guard("stop poll", func() ifd.Code { return driver.StopPoll(uint64(lun)) })
}

// guard is Driver.Guard for C.
func guard(name string, call func() ifd.Code) C.RESPONSECODE {
	return C.RESPONSECODE(driver.Guard(name, call))
}

// put copies b to a buffer of *length bytes, which becomes how many these are: 0 when they are too many.
func put(b []byte, to C.PUCHAR, length C.PDWORD) ifd.Code {
	if length == nil {
		return ifd.InsufficientBuffer
	}
	room := *length
	*length = 0
	if uint64(room) < uint64(len(b)) || to == nil && len(b) > 0 {
		return ifd.InsufficientBuffer
	}
	*length = C.DWORD(copy(unsafe.Slice((*byte)(unsafe.Pointer(to)), len(b)), b))
	return ifd.Success
}

// zero makes a length 0, if there is one.
func zero(length C.PDWORD) {
	if length != nil {
		*length = 0
	}
}

// address returns the bytes of a function's address.
func address(f unsafe.Pointer) []byte {
	b := make([]byte, unsafe.Sizeof(f))
	*(*unsafe.Pointer)(unsafe.Pointer(&b[0])) = f
	return b
}
