// SPDX-License-Identifier: GPL-2.0-or-later

// Package usbip makes USB devices in software appear on this computer's or another one's bus, by the USB/IP
// protocol, as the Linux kernel's documentation (usb/usbip_protocol) has it: the kernel's vhci-hcd is its client.
package usbip

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
)

// A Device is a USB device in software. One attachment at a time calls its methods, none of which may block.
type Device interface {
	// Control answers a control request to endpoint 0; data is what an OUT request brings. What it returns is cut to
	// the length that was asked for. An error stalls the endpoint.
	Control(setup Setup, data []byte) ([]byte, error)
	// Out takes what one transfer brought to a bulk OUT endpoint, given by its number: whole, or ended by a
	// packet of length zero when zero is set. NAK means not now: it is offered again after Changed.
	Out(ep uint8, b []byte, zero bool) Handshake
	// In returns the next packet of an IN endpoint, given by its number; NAK when there is none, until Changed.
	In(ep uint8) ([]byte, Handshake)
	// Changed delivers when something that was NAKed may no longer be.
	Changed() <-chan struct{}
	// Attached tells that a host has connected the device, or that it has gone. A second host is refused.
	Attached(on bool) error
}

// A Handshake is how a device answers a transaction (USB 2.0 8.4.5).
type Handshake uint8

// Handshakes.
const (
	ACK   Handshake = iota
	NAK             // not now
	Stall           // endpoint halted
	Fault           // nothing that could be understood: a transaction error
)

// Setup is the setup packet of a control request (USB 2.0 9.3).
type Setup struct {
	Type    uint8 // bmRequestType
	Request uint8 // bRequest
	Value   uint16
	Index   uint16
	Length  uint16
}

// Summary is what a list of devices tells of one.
type Summary struct {
	Vendor, Product, Release      uint16
	Class, SubClass, Protocol     uint8
	Configuration, Configurations uint8     // in force, 0 for none; how many there are
	Interfaces                    [][3]byte // class, subclass, protocol of each
	Bus, Number                   uint32    // on the exporting computer
	Path                          string    // there
	BusID                         string    // by which it is imported, up to 31 bytes
}

// SpeedFull is the speed of 12 Mbit/s as USB/IP and the kernel number it.
const SpeedFull = 2

// Lengths and codes of the protocol.
const (
	version     = 0x0111
	opReqList   = 0x8005
	opRepList   = 0x0005
	opReqImport = 0x8003
	opRepImport = 0x0003
	opHeaderLen = 8
	busIDLen    = 32
	pathLen     = 256

	cmdSubmit = 1
	cmdUnlink = 2
	retSubmit = 3
	retUnlink = 4
	headerLen = 48

	dirIn = 1

	// urbZeroPacket has a host end an OUT transfer of whole packets by one of length zero.
	urbZeroPacket = 0x40

	// MaxTransfer is the longest transfer that is taken; the kernel splits at 16 KiB where it can.
	maxTransfer = 1 << 20
)

// Errors of the kernel that transfers end with.
const (
	ePipe      = -32
	eOverflow  = -75
	eProto     = -71
	eConnReset = -104
)

// A request is USBIP_CMD_SUBMIT or USBIP_CMD_UNLINK.
type request struct {
	command uint32
	seq     uint32
	in      bool
	ep      uint8
	flags   uint32
	length  int // of the transfer's buffer
	setup   Setup
	unlink  uint32 // sequence number of what is to be unlinked
	data    []byte // of an OUT transfer
}

var errProtocol = errors.New("usbip: protocol error")

// readRequest reads a request, with its data.
func readRequest(r io.Reader) (request, error) {
	var h [headerLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return request{}, err
	}
	be := binary.BigEndian
	q := request{command: be.Uint32(h[0:]), seq: be.Uint32(h[4:]), in: be.Uint32(h[12:]) == dirIn}
	ep := be.Uint32(h[16:])
	if ep > 15 {
		return q, fmt.Errorf("%w: endpoint %d", errProtocol, ep)
	}
	q.ep = uint8(ep)
	switch q.command {
	case cmdUnlink:
		q.unlink = be.Uint32(h[20:])
		return q, nil
	case cmdSubmit:
	default:
		return q, fmt.Errorf("%w: command %d", errProtocol, q.command)
	}
	q.flags = be.Uint32(h[20:])
	n := be.Uint32(h[24:])
	if n > maxTransfer {
		return q, fmt.Errorf("%w: transfer of %d bytes", errProtocol, n)
	}
	q.length = int(n)
	q.setup = Setup{
		Type: h[40], Request: h[41], Value: binary.LittleEndian.Uint16(h[42:]),
		Index: binary.LittleEndian.Uint16(h[44:]), Length: binary.LittleEndian.Uint16(h[46:]),
	}
	if !q.in && n > 0 {
		q.data = make([]byte, n)
		if _, err := io.ReadFull(r, q.data); err != nil {
			return q, fmt.Errorf("data of a transfer: %w", err)
		}
	}
	return q, nil
}

// appendSubmitted appends USBIP_RET_SUBMIT: the end of a transfer that moved n bytes, with the data of an IN transfer.
func appendSubmitted(b []byte, seq uint32, status int32, n int, data []byte) []byte {
	b = appendReply(b, retSubmit, seq, status)
	binary.BigEndian.PutUint32(b[len(b)-headerLen+24:], uint32(n))
	return append(b, data...)
}

// appendUnlinked appends USBIP_RET_UNLINK.
func appendUnlinked(b []byte, seq uint32, status int32) []byte {
	return appendReply(b, retUnlink, seq, status)
}

func appendReply(b []byte, command, seq uint32, status int32) []byte {
	var h [headerLen]byte
	binary.BigEndian.PutUint32(h[0:], command)
	binary.BigEndian.PutUint32(h[4:], seq)
	binary.BigEndian.PutUint32(h[20:], uint32(status))
	return append(b, h[:]...)
}

// appendDevice appends what OP_REP_DEVLIST and OP_REP_IMPORT tell of a device.
func (s *Summary) appendDevice(b []byte) []byte {
	var text [pathLen + busIDLen]byte
	copy(text[:pathLen-1], s.Path)
	copy(text[pathLen:len(text)-1], s.BusID)
	b = append(b, text[:]...)
	be := binary.BigEndian
	b = be.AppendUint32(be.AppendUint32(be.AppendUint32(b, s.Bus), s.Number), SpeedFull)
	b = be.AppendUint16(be.AppendUint16(be.AppendUint16(b, s.Vendor), s.Product), s.Release)
	return append(b, s.Class, s.SubClass, s.Protocol, s.Configuration, s.Configurations, uint8(len(s.Interfaces)))
}

// DevID is the number by which requests name the device, which is of no account here: a connection is one device.
func (s *Summary) DevID() uint32 { return s.Bus<<16 | s.Number }
