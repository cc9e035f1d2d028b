// SPDX-License-Identifier: GPL-2.0-or-later

// Package usb finds card emulators among the USB devices of a Linux host, and opens, reads and writes their
// interfaces. What devices there are it reads in sysfs, which takes no permission, notices what comes and goes,
// and is the same in containers that no udevd runs in; to open one takes libusb, and a program that was
// built without cgo says so.
package usb

import (
	"fmt"
	"io/fs"
	"os"

	"remsim/internal/simtrace"
)

// A Host is the computer that devices are attached to.
type Host struct {
	Sys  fs.FS // its /sys
	Proc fs.FS // its /proc
}

// Local is the host that this program runs on.
func Local() Host { return Host{Sys: os.DirFS("/sys"), Proc: os.DirFS("/proc")} }

// A Device is a USB device, as its descriptors and the kernel have it.
type Device struct {
	Path    string // "2-1.1": bus and the ports on the way, as in sysfs
	Bus     uint8
	Address uint8 // on its bus; another one each time it is plugged
	Vendor  uint16
	Product uint16
	// What its string descriptors say; empty: nothing.
	Manufacturer, Model, Serial string
	Active                      uint8       // number of the configuration in force; 0: none
	Interfaces                  []Interface // of all configurations, in their order
}

// An Interface is one alternate setting of one interface of a device.
type Interface struct {
	Config                    uint8 // number of the configuration it belongs to
	Number                    uint8
	Alt                       uint8 // number of the alternate setting
	Class, Subclass, Protocol uint8
	Endpoints                 []Endpoint
}

// An Endpoint is where an interface takes or gives data.
type Endpoint struct {
	Address   uint8 // bit 7: IN
	Transfer  uint8 // transferBulk, transferInterrupt and others (USB 2.0, table 9-13)
	MaxPacket uint16
}

// Kinds of endpoints (USB 2.0, table 9-13: bmAttributes).
const (
	transferBulk      = 2
	transferInterrupt = 3
)

// in reports whether the device sends at e.
func (e Endpoint) in() bool { return e.Address&0x80 != 0 }

// String returns a form such as "interrupt IN 0x86".
func (e Endpoint) String() string {
	dir := "OUT"
	if e.in() {
		dir = "IN"
	}
	return fmt.Sprintf("%s %s 0x%02x", [...]string{"control", "isochronous", "bulk", "interrupt"}[e.Transfer&3], dir, e.Address)
}

// IDs returns vendor and product as "1d50:60e3".
func (d Device) IDs() string { return fmt.Sprintf("%04x:%04x", d.Vendor, d.Product) }

// Node returns the device's file.
func (d Device) Node() string { return fmt.Sprintf("/dev/bus/usb/%03d/%03d", d.Bus, d.Address) }

// String returns what users know the device by.
func (d Device) String() string {
	s := d.Path + " (" + d.IDs()
	if name := d.Name(); name != "" {
		s += " " + name
	}
	if d.Serial != "" {
		s += ", serial number " + d.Serial
	}
	return s + ")"
}

// Name returns what kind of device it is, by its ids if they are known, else by what it says itself.
func (d Device) Name() string {
	for _, m := range append(simtrace.Models(), simtrace.OldDFU()...) {
		if d.Vendor == m.Vendor && d.Product == m.Product {
			return m.Name
		}
	}
	return d.Model
}

// Info says which interface of which device a Conn has.
type Info struct {
	Path      string // "2-1.1", as in sysfs
	Interface uint8
	Vendor    uint16
	Product   uint16
	// What the device's string descriptors say; empty: nothing.
	Manufacturer, Model, Serial, Firmware string
}
