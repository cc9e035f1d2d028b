// SPDX-License-Identifier: GPL-2.0-or-later

// Package board is a SIMtrace2-compatible card emulator in software: its USB side as the host sees it, the
// behaviour of its cardem firmware, and the contacts by which a modem sees a card.
package board

import (
	"encoding/binary"
	"errors"
	"fmt"
	"sync"
	"time"

	"remsim/internal/simtrace"
	"remsim/internal/simulator/usbip"
)

// Config says what a board is like.
type Config struct {
	Model     simtrace.Model // the zero value: a sysmoQMOD
	Slots     int            // card emulation interfaces, 1 or 2; 0: 2
	Serial    string         // 32 hex digits; empty: zeros
	Version   string         // of the firmware
	Sniffer   bool           // the first interface is that of the sniffer firmware
	NoIRQ     bool           // interfaces have no interrupt endpoint
	Frequency float64        // of the modem's clock, in Hz; 0: 3.25 MHz
	Voltage   uint16         // of the modem's supply, in mV; 0: 2950
}

// A Board is one device. Slots outlive its being unplugged, since a modem has its own power, but
// the firmware starts anew then.
type Board struct {
	config  Config
	changed chan struct{} // for usbip.Device
	slots   []*Slot

	mu            sync.Mutex
	dfu           bool
	attached      bool
	configuration uint8
	halted        map[uint8]bool // endpoint addresses
}

// errStall is a control request that the device doesn't know.
var errStall = errors.New("board: request not supported")

// ErrBusy is the error of a board that a host has already.
var ErrBusy = errors.New("board: another host has this device")

// New returns a board that isn't plugged in.
func New(c Config) *Board {
	if c.Model == (simtrace.Model{}) {
		c.Model = simtrace.Model{Vendor: 0x1d50, Product: 0x4004, Name: "sysmoQMOD"}
	}
	if c.Slots == 0 {
		c.Slots = len(endpoints)
	}
	if c.Serial == "" {
		c.Serial = fmt.Sprintf("%032x", 0)
	}
	if c.Version == "" {
		c.Version = "0.9.0-simulator"
	}
	if c.Frequency == 0 {
		c.Frequency = 3.25e6
	}
	if c.Voltage == 0 {
		c.Voltage = 2950
	}
	b := &Board{config: c, changed: make(chan struct{}, 1), halted: map[uint8]bool{}}
	for i := range c.Slots {
		b.slots = append(b.slots, newSlot(b, i))
	}
	return b
}

// Slots returns the board's slots, by the numbers of their interfaces.
func (b *Board) Slots() []*Slot { return b.slots }

// Config returns what the board is like, with all defaults.
func (b *Board) Config() Config { return b.config }

// SetDFU has the device be, from when it is plugged in again, one that waits for firmware, or not.
func (b *Board) SetDFU(on bool) {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.dfu = on
}

// DFU reports whether the device waits for firmware.
func (b *Board) DFU() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.dfu
}

// Attached plugs the device in, or out: the firmware starts anew, with the modems on their local SIMs.
func (b *Board) Attached(on bool) error {
	b.mu.Lock()
	defer b.mu.Unlock()
	if on && b.attached {
		return ErrBusy
	}
	b.attached = on
	b.configuration = 0
	clear(b.halted)
	for _, s := range b.slots {
		s.boot()
	}
	return nil
}

// Changed delivers when there is more for the host.
func (b *Board) Changed() <-chan struct{} { return b.changed }

// wake tells the host's side that there is something.
func (b *Board) wake() {
	select {
	case b.changed <- struct{}{}:
	default:
	}
}

// slot returns the slot that has an endpoint.
func (b *Board) slot(address uint8) (s *Slot, kind int) {
	if b.configuration != 1 || b.dfu {
		return nil, 0
	}
	for i, s := range b.slots {
		for kind, a := range endpoints[i] {
			if a == address {
				return s, kind
			}
		}
	}
	return nil, 0
}

// Out takes a bulk OUT transfer.
func (b *Board) Out(ep uint8, data []byte, zero bool) usbip.Handshake {
	b.mu.Lock()
	defer b.mu.Unlock()
	s, _ := b.slot(ep)
	switch {
	case s == nil:
		return usbip.Fault
	case b.halted[ep]:
		return usbip.Stall
	case s.deaf:
		return usbip.NAK
	}
	s.take(data, zero)
	return usbip.ACK
}

// In gives a packet of an IN endpoint.
func (b *Board) In(ep uint8) ([]byte, usbip.Handshake) {
	b.mu.Lock()
	defer b.mu.Unlock()
	address := ep | dirIn
	s, kind := b.slot(address)
	switch {
	case s == nil:
		return nil, usbip.Fault
	case b.halted[address]:
		return nil, usbip.Stall
	}
	p := &s.bulk
	if kind == irqIn {
		p = &s.irq
	}
	if p.faults > 0 {
		p.faults--
		return nil, usbip.Fault
	}
	packet, ok := p.next()
	if !ok {
		return nil, usbip.NAK
	}
	return packet, usbip.ACK
}

// A pipe is what waits at an IN endpoint: a message that the USB controller has already, and a
// queue behind it.
type pipe struct {
	busy    bool   // the controller has a message
	flight  []byte // what is left of it
	zero    bool   // an empty packet follows it
	queue   [][]byte
	dropped int // messages
	faults  int // transaction errors to come
}

// maxQueue is how many messages the firmware keeps for an IN endpoint.
const maxQueue = 3

// push adds a message. The oldest that waits gives way when there are too many.
func (p *pipe) push(msg []byte) {
	if len(p.queue) == maxQueue {
		p.queue = append(p.queue[:0], p.queue[1:]...)
		p.dropped++
	}
	p.queue = append(p.queue, msg)
	p.load()
}

// load gives the controller the next message when it has none. A message of one whole packet is followed by an empty one;
// those of several whole packets aren't, which is how the firmware does it.
func (p *pipe) load() {
	if p.busy || len(p.queue) == 0 {
		return
	}
	p.busy, p.flight, p.zero = true, p.queue[0], len(p.queue[0]) == simtrace.PacketSize
	p.queue = append(p.queue[:0], p.queue[1:]...)
}

// next returns the next packet.
func (p *pipe) next() (packet []byte, ok bool) {
	if !p.busy {
		return nil, false
	}
	n := min(len(p.flight), simtrace.PacketSize)
	packet, p.flight = p.flight[:n], p.flight[n:]
	switch {
	case len(p.flight) > 0:
	case p.zero:
		p.zero = false
	default:
		p.busy = false
		p.load()
	}
	return packet, true
}

// Control answers endpoint 0 (USB 2.0 9.4).
func (b *Board) Control(q usbip.Setup, data []byte) ([]byte, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	const (
		getStatus, clearFeature, setFeature, setAddress = 0, 1, 3, 5
		getDescriptor, getConfiguration, setConfig      = 6, 8, 9
		getInterface, setInterface                      = 10, 11
		recipientMask                                   = 0x1f
		typeMask, typeStandard, typeClass               = 0x60, 0x00, 0x20
		toInterface, toEndpoint                         = 1, 2
		dfuDetach, dfuGetStatus                         = 0, 3
		endpointHalt                                    = 0
	)
	if q.Type&typeMask == typeClass && q.Type&recipientMask == toInterface {
		switch q.Request {
		case dfuDetach: // has effect when the host resets the bus, here when it is plugged in again
			b.dfu = true
			return nil, nil
		case dfuGetStatus: // OK, appIDLE or dfuIDLE (DFU 1.1 6.1.2)
			state := byte(0)
			if b.dfu {
				state = 2
			}
			return []byte{0, 0, 0, 0, state, 0}, nil
		}
		return nil, errStall
	}
	if q.Type&typeMask != typeStandard {
		return nil, errStall
	}
	switch q.Request {
	case getStatus:
		status := []byte{0, 0}
		if q.Type&recipientMask == toEndpoint && b.halted[uint8(q.Index)] {
			status[0] = 1
		}
		return status, nil
	case clearFeature, setFeature:
		if q.Type&recipientMask == toEndpoint && q.Value == endpointHalt {
			b.halted[uint8(q.Index)] = q.Request == setFeature
			b.wake()
			return nil, nil
		}
		return nil, errStall
	case setAddress:
		return nil, nil
	case getDescriptor:
		return b.descriptor(uint8(q.Value>>8), uint8(q.Value))
	case getConfiguration:
		return []byte{b.configuration}, nil
	case setConfig:
		if int(q.Value) > len(b.configurations()) {
			return nil, errStall
		}
		b.configuration = uint8(q.Value)
		clear(b.halted)
		return nil, nil
	case getInterface:
		return []byte{0}, nil
	case setInterface:
		if q.Value != 0 {
			return nil, errStall
		}
		return nil, nil
	}
	return nil, errStall
}

// usb descriptors and what is in them (USB 2.0 9.6).
const (
	descDevice    = 1
	descConfig    = 2
	descString    = 3
	descInterface = 4
	descEndpoint  = 5
	descDFU       = 0x21 // DFU 1.1 4.1.3

	bulk      = 2
	interrupt = 3
	dirIn     = 0x80
)

// Kinds of endpoints of a slot, as indices.
const (
	bulkOut = iota
	bulkIn
	irqIn
)

// endpoints are the addresses of the slots' endpoints.
var endpoints = [2][3]uint8{{0x04, 0x85, 0x86}, {0x01, 0x82, 0x83}}

// Strings, by their indices from 1 on.
const (
	strManufacturer = 1 + iota
	strProduct
	strSerial
	strCardem
	strDFU
	strVersionConfig
	strVersion
)

func (b *Board) text(index uint8) (string, bool) {
	all := [...]string{
		"sysmocom - s.f.m.c. GmbH", b.config.Model.Name, b.config.Serial, "CardEmulator Modem", "DFU",
		"firmware version", b.config.Version,
	}
	if index < 1 || int(index) > len(all) {
		return "", false
	}
	return all[index-1], true
}

func (b *Board) descriptor(kind, index uint8) ([]byte, error) {
	switch kind {
	case descDevice:
		d := []byte{18, descDevice, 0x00, 0x02, 0, 0, 0, simtrace.PacketSize}
		le := binary.LittleEndian
		d = le.AppendUint16(le.AppendUint16(d, b.config.Model.Vendor), b.config.Model.Product)
		return append(d, 0x00, 0x00, strManufacturer, strProduct, strSerial, byte(len(b.configurations()))), nil
	case descConfig:
		if all := b.configurations(); int(index) < len(all) {
			return all[index], nil
		}
	case descString:
		if index == 0 {
			return []byte{4, descString, 0x09, 0x04}, nil // English
		}
		if s, ok := b.text(index); ok {
			d := []byte{byte(2 + 2*len(s)), descString}
			for _, c := range []byte(s) {
				d = append(d, c, 0)
			}
			return d, nil
		}
	}
	return nil, errStall
}

// configurations returns the configuration descriptors with all that follows them.
func (b *Board) configurations() [][]byte {
	configuration := func(value, text byte, interfaces ...[]byte) []byte {
		const selfPowered, milliamps = 0xc0, 100
		d := []byte{9, descConfig, 0, 0, byte(len(interfaces)), value, text, selfPowered, milliamps / 2}
		for _, i := range interfaces {
			d = append(d, i...)
		}
		binary.LittleEndian.PutUint16(d[2:], uint16(len(d)))
		return d
	}
	if b.dfu {
		const dfuMode = 2 // bInterfaceProtocol
		return [][]byte{configuration(1, 0, dfuInterface(0, dfuMode))}
	}
	var interfaces [][]byte
	for i := range b.slots {
		subclass := byte(simtrace.InterfaceCardem)
		if i == 0 && b.config.Sniffer {
			subclass = simtrace.InterfaceSniffer
		}
		n := len(endpoints[i])
		if b.config.NoIRQ {
			n--
		}
		d := []byte{9, descInterface, byte(i), 0, byte(n), simtrace.InterfaceClass, subclass, simtrace.InterfaceProtocol, strCardem}
		for kind := range n {
			attributes, interval := byte(bulk), byte(0)
			if kind == irqIn {
				attributes, interval = interrupt, 1
			}
			d = append(d, 7, descEndpoint, endpoints[i][kind], attributes, simtrace.PacketSize, 0, interval)
		}
		interfaces = append(interfaces, d)
	}
	const runtime = 1 // bInterfaceProtocol
	interfaces = append(interfaces, dfuInterface(byte(len(b.slots)), runtime))
	return [][]byte{
		configuration(1, 0, interfaces...),
		configuration(2, strVersionConfig, []byte{9, descInterface, 0, 0, 0, 0xff, 0xff, 0, strVersion}),
	}
}

func dfuInterface(number, protocol byte) []byte {
	return []byte{
		9, descInterface, number, 0, 0, simtrace.DFUClass, simtrace.DFUSubclass, protocol, strDFU,
		9, descDFU, 0x0b, 0xff, 0x00, 0x00, 0x02, 0x10, 0x01, // can download, will detach; 512 bytes; DFU 1.1
	}
}

// Summary is the board in a list of devices; it is the n-th there, from 0.
func (b *Board) Summary(n int) usbip.Summary {
	b.mu.Lock()
	defer b.mu.Unlock()
	s := usbip.Summary{
		Vendor: b.config.Model.Vendor, Product: b.config.Model.Product,
		Configuration: b.configuration, Configurations: uint8(len(b.configurations())),
		Bus: 1, Number: uint32(n + 2), // 1 would be the root hub
		BusID: fmt.Sprintf("1-%d", n+1), Path: fmt.Sprintf("/sys/devices/remsim/usb1/1-%d", n+1),
	}
	for d := b.configurations()[0]; len(d) > 1; d = d[d[0]:] {
		if d[1] == descInterface {
			s.Interfaces = append(s.Interfaces, [3]byte{d[5], d[6], d[7]})
		}
	}
	return s
}

// after runs f with the board's lock after d, unless stop was called.
func (b *Board) after(d time.Duration, f func()) (stop func()) {
	stopped := false
	t := time.AfterFunc(d, func() {
		b.mu.Lock()
		defer b.mu.Unlock()
		if !stopped {
			f()
		}
	})
	return func() { stopped = true; t.Stop() }
}

// IsAttached reports whether a host has the board.
func (b *Board) IsAttached() bool {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.attached
}
