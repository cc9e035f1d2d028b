// SPDX-License-Identifier: GPL-2.0-or-later

// Package cardem is a client whose modem is behind a SIMtrace2-compatible card emulator.
package cardem

import "context"

// A Device is one card emulation interface that was claimed. Its reading goes on from the
// moment it was opened, so that nothing the firmware sends is lost; who has it reads both channels until
// they are closed, without delay.
type Device interface {
	// Bulk delivers what arrives at the bulk IN endpoint, one USB transfer each. One without bytes says that transfers have
	// failed: a message may lack its end, or be missing. It is closed when the device has gone or Close was called.
	Bulk() <-chan []byte
	// Interrupt does the same for the interrupt IN endpoint.
	Interrupt() <-chan []byte
	// Err says why the channels were closed; nil before that and after Close.
	Err() error
	// Write sends one bulk OUT transfer, and a packet of length zero after it where the last one was
	// full. It fails when the device hasn't begun to take it by the end of ctx, or hasn't taken it within a second.
	Write(ctx context.Context, b []byte) error
	// Info says which device it is.
	Info() Info
	// Close gives the interface back. It waits for all that reads and writes.
	Close() error
}

// Info says which interface of which device a Device is.
type Info struct {
	Path      string // "2-1.1", as in sysfs
	Interface uint8
	Vendor    uint16
	Product   uint16
	// What the device's string descriptors say; empty: nothing.
	Manufacturer, Model, Serial, Firmware string
}
