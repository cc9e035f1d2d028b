// SPDX-License-Identifier: GPL-2.0-or-later

package emulators_test

import (
	"bytes"
	"errors"
	"fmt"
	"strings"
	"testing"

	"remsim/internal/doctor"
	"remsim/internal/doctor/emulators"
	"remsim/internal/simtrace"
	"remsim/internal/usb"
)

// A host has these devices.
type host struct {
	devices  []usb.Device
	err      error
	firmware map[string]string // by path
	refuse   map[string]error
	drivers  map[string]string // by path/interface
	holders  []usb.Process
}

func (h host) Devices() ([]usb.Device, error)        { return h.devices, h.err }
func (h host) Firmware(d usb.Device) (string, error) { return h.firmware[d.Path], h.refuse[d.Path] }
func (h host) Holders(usb.Device) []usb.Process      { return h.holders }
func (h host) Driver(t usb.Target) string {
	return h.drivers[fmt.Sprintf("%s/%d", t.Device.Path, t.Interface.Number)]
}

func cardem(n uint8) usb.Interface {
	return usb.Interface{
		Config: 1, Number: n, Class: simtrace.InterfaceClass, Subclass: simtrace.InterfaceCardem,
		Endpoints: []usb.Endpoint{{Address: 4, Transfer: 2, MaxPacket: 64}, {Address: 0x85, Transfer: 2, MaxPacket: 64}, {Address: 0x86, Transfer: 3, MaxPacket: 64}},
	}
}

func TestCheck(t *testing.T) {
	device := func(path string, vendor, product uint16, interfaces ...usb.Interface) usb.Device {
		return usb.Device{Path: path, Bus: 1, Address: 7, Vendor: vendor, Product: product, Active: 1, Interfaces: interfaces}
	}
	qmod := device("1-1", 0x1d50, 0x4004, cardem(0), cardem(1))
	trace := device("1-2", 0x1d50, 0x60e3, cardem(0))
	dfu := device("1-3", 0x1d50, 0x60e3, usb.Interface{Class: simtrace.DFUClass, Subclass: simtrace.DFUSubclass})
	other := device("1-4", 0x1234, 0x5678, cardem(0))
	vendor := other.Vendor
	for _, tc := range []struct {
		name   string
		host   host
		filter *usb.Filter
		want   string // without the first line
	}{
		{"all well", host{devices: []usb.Device{qmod, trace, other}, firmware: map[string]string{"1-1": "0.9"},
			drivers: map[string]string{"1-1/0": "usbfs", "1-2/0": "cdc_acm"}, holders: []usb.Process{{PID: 12, Command: "remsim-client-st2 -I 0"}}}, nil, `
ok    1-1 (1d50:4004 sysmoQMOD): firmware 0.9
ok    -H 1-1 -I 0: in use by process 12 (remsim-client-st2 -I 0)
ok    -H 1-1 -I 1: free
ok    1-2 (1d50:60e3 SIMtrace2): it doesn't say which firmware it has
ok    -H 1-2 -I 0: free; the kernel's driver cdc_acm gives way
`},
		{"another user's", host{devices: []usb.Device{trace}, drivers: map[string]string{"1-2/0": "usbfs"}}, nil, `
ok    1-2 (1d50:60e3 SIMtrace2): it doesn't say which firmware it has
ok    -H 1-2 -I 0: in use by a program of another user
`},
		{"no USB", host{err: usb.ErrNoUSB}, nil, `
FAIL  no USB here: /sys/bus/usb/devices doesn't exist
      → is the kernel's USB support loaded, and in a container /sys there?
`},
		{"nothing", host{}, nil, `
FAIL  no card emulator of a kind that is known: no USB device is attached
      → is it plugged in and powered? Devices of other kinds can be named by --usb-vendor and --usb-product
`},
		{"nothing known", host{devices: []usb.Device{other}}, nil, `
FAIL  no card emulator of a kind that is known: attached are 1-4 (1234:5678)
      → is it plugged in and powered? Devices of other kinds can be named by --usb-vendor and --usb-product
`},
		{"of another kind", host{devices: []usb.Device{other}}, &usb.Filter{Vendor: &vendor}, `
ok    1-4 (1234:5678): it doesn't say which firmware it has
ok    -H 1-4 -I 0: free
`},
		{"choice", host{devices: []usb.Device{trace}}, &usb.Filter{Path: "1-9"}, `
FAIL  no card emulator of a kind that is known at path 1-9: attached are 1-2 (1d50:60e3 SIMtrace2)
      → see --usb-path and --usb-interface in the manual
ok    1-2 (1d50:60e3 SIMtrace2): it doesn't say which firmware it has
ok    -H 1-2 -I 0: free
`},
		{"DFU mode", host{devices: []usb.Device{dfu}}, nil, `
FAIL  1-3 (1d50:60e3 SIMtrace2) is in DFU mode: its boot loader waits for firmware; start the firmware by dfu-util -e or by plugging the device anew, or flash the cardem one by dfu-util
`},
		{"no permission", host{devices: []usb.Device{trace}, refuse: map[string]error{"1-2": fmt.Errorf("open: %w", &usb.PermissionError{Node: "/dev/x"})}}, nil, `
FAIL  1-2 (1d50:60e3 SIMtrace2): no permission for /dev/x
      → ` + usb.PermissionRemedy + `
ok    -H 1-2 -I 0: free
`},
		{"broken", host{devices: []usb.Device{trace}, refuse: map[string]error{"1-2": errors.New("open 1-2: broken")}}, nil, `
FAIL  open 1-2: broken
      → plug the device anew
ok    -H 1-2 -I 0: free
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			var out bytes.Buffer
			r := doctor.New(&out, "program")
			emulators.Check(r, tc.host, tc.filter)
			_, got, _ := strings.Cut(out.String(), "\n")
			if got != tc.want[1:] {
				t.Errorf("report:\n%swant:%s", got, tc.want)
			}
			if bad := strings.Contains(got, "FAIL"); bad != (r.Err() != nil) {
				t.Errorf("error %v", r.Err())
			}
		})
	}
}
