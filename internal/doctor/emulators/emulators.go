// SPDX-License-Identifier: GPL-2.0-or-later

// Package emulators checks card emulators on USB.
package emulators

import (
	"errors"
	"fmt"
	"slices"
	"strings"

	"remsim/internal/doctor"
	"remsim/internal/usb"
)

// A Host has the devices: a usb.Host, but in tests.
type Host interface {
	Devices() ([]usb.Device, error)
	Firmware(usb.Device) (string, error)
	Driver(usb.Target) string
	Holders(usb.Device) []usb.Process
}

// Check reports what card emulators there are, and whether f chooses one of them; nil: it isn't asked for.
func Check(r *doctor.Report, h Host, f *usb.Filter) {
	devices, err := h.Devices()
	if err != nil {
		r.Bad(err, "is the kernel's USB support loaded, and in a container /sys there?")
		return
	}
	targets, unfit := usb.Cardems(devices)
	if f != nil {
		// Also devices of other kinds.
		t, err := f.Choose(devices)
		if err != nil {
			r.Bad(err, "see --usb-path and --usb-interface in the manual")
		} else if !slices.ContainsFunc(targets, func(u usb.Target) bool { return u.Compare(t) == 0 }) {
			targets = append(targets, t)
		}
	}
	if len(targets) == 0 && len(unfit) == 0 && f == nil {
		r.Bad(usb.Filter{}.None(devices),
			"is it plugged in and powered? Devices of other kinds can be named by --usb-vendor and --usb-product")
	}
	for _, err := range unfit {
		r.Bad(err, "")
	}
	last := ""
	for _, t := range targets {
		if t.Device.Path != last {
			last = t.Device.Path
			device(r, h, t.Device)
		}
		iface(r, h, t)
	}
}

// device checks whether a device can be opened.
func device(r *doctor.Report, h Host, d usb.Device) {
	version, err := h.Firmware(d)
	var denied *usb.PermissionError
	switch {
	case errors.As(err, &denied):
		r.Bad(fmt.Errorf("%s: no permission for %s", d, denied.Node), usb.PermissionRemedy)
	case err != nil:
		r.Bad(err, "plug the device anew")
	case version == "":
		r.Good("%s: it doesn't say which firmware it has", d)
	default:
		r.Good("%s: firmware %s", d, version)
	}
}

// iface says whether an interface is free. One that is in use is, as far as anybody can tell, in the right hands.
func iface(r *doctor.Report, h Host, t usb.Target) {
	choice := fmt.Sprintf("-H %s -I %d", t.Device.Path, t.Interface.Number)
	switch driver := h.Driver(t); driver {
	case "":
		r.Good("%s: free", choice)
	case usb.ProgramDriver:
		by := "a program of another user"
		var list []string
		for _, p := range h.Holders(t.Device) {
			list = append(list, fmt.Sprintf("process %d (%s)", p.PID, p.Command))
		}
		if len(list) > 0 {
			by = strings.Join(list, " or ")
		}
		r.Good("%s: in use by %s", choice, by)
	default:
		r.Good("%s: free; the kernel's driver %s gives way", choice, driver)
	}
}
