// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"cmp"
	"encoding/binary"
	"errors"
	"fmt"
	"io/fs"
	"path"
	"slices"
	"strconv"
	"strings"
)

// sysDevices is where the kernel shows its USB devices, below /sys.
const sysDevices = "bus/usb/devices"

// ErrNoUSB says that the host has no USB at all, or doesn't show it to us.
var ErrNoUSB = errors.New("no USB here: /sys/" + sysDevices + " doesn't exist")

// Devices returns all devices that are attached but hubs at the roots, in the order of their paths. One that goes
// while it is looked at is left out.
func (h Host) Devices() ([]Device, error) { return new(Watch{Host: h}).Devices() }

// A Watch lists the devices of a host again and again, at less cost than Host.Devices: of a device it has seen it reads
// the address only, which is another one each time that a device is plugged. It isn't for use by several goroutines.
type Watch struct {
	Host  Host
	known map[string]Device // by their paths
}

// Devices is as Host.Devices.
func (w *Watch) Devices() ([]Device, error) {
	h := w.Host
	entries, err := fs.ReadDir(h.Sys, sysDevices)
	if errors.Is(err, fs.ErrNotExist) {
		return nil, ErrNoUSB
	}
	if err != nil {
		return nil, fmt.Errorf("list USB devices: %w", err)
	}
	var devices []Device
	now := make(map[string]Device, len(w.known))
	for _, e := range entries {
		name := e.Name()
		if !ValidPath(name) {
			continue
		}
		d, ok := w.known[name]
		if address, there := h.text(name, "devnum"); !ok || !there || address != strconv.Itoa(int(d.Address)) {
			d, ok = h.device(name)
		}
		if !ok {
			continue
		}
		devices = append(devices, d)
		if d.Active != 0 { // else there will be more to see
			now[name] = d
		}
	}
	w.known = now
	slices.SortFunc(devices, func(a, b Device) int { return ComparePaths(a.Path, b.Path) })
	return devices, nil
}

// text reads an attribute of a device.
func (h Host) text(name, attribute string) (s string, ok bool) {
	b, err := fs.ReadFile(h.Sys, path.Join(sysDevices, name, attribute))
	return strings.TrimSpace(string(b)), err == nil
}

// device reads what there is to know of a device; !ok: it has gone.
func (h Host) device(name string) (d Device, ok bool) {
	ok = true
	text := func(attribute string, must bool) string {
		s, there := h.text(name, attribute)
		ok = ok && (there || !must)
		return s
	}
	number := func(attribute string, base, bits int) uint16 {
		n, err := strconv.ParseUint(text(attribute, true), base, bits)
		ok = ok && err == nil
		return uint16(n)
	}
	d = Device{
		Path: name,
		Bus:  uint8(number("busnum", 10, 8)), Address: uint8(number("devnum", 10, 8)),
		Vendor: number("idVendor", 16, 16), Product: number("idProduct", 16, 16),
		Manufacturer: text("manufacturer", false), Model: text("product", false), Serial: text("serial", false),
	}
	if active := text("bConfigurationValue", true); active != "" { // empty: the kernel has set none yet
		n, err := strconv.ParseUint(active, 10, 8)
		ok = ok && err == nil
		d.Active = uint8(n)
	}
	raw, err := fs.ReadFile(h.Sys, path.Join(sysDevices, name, "descriptors"))
	if err != nil {
		return d, false
	}
	d.Interfaces = parseDescriptors(raw)
	return d, ok
}

// Kinds and lengths of descriptors (USB 2.0, tables 9-5 and 9-10 to 9-13).
const (
	descConfig    = 2
	descInterface = 4
	descEndpoint  = 5

	lenConfig    = 9
	lenInterface = 9
	lenEndpoint  = 7
)

// parseDescriptors takes interfaces and endpoints out of the descriptors of a device, which follow one
// another, each with its length first (USB 2.0, 9.5). What it doesn't know and what is too short
// is passed over; what comes after a descriptor that is cut off isn't there.
func parseDescriptors(b []byte) []Interface {
	var (
		ifaces []Interface
		config uint8
		open   bool // an interface whose endpoints these are
	)
	for len(b) >= 2 && int(b[0]) >= 2 && int(b[0]) <= len(b) {
		d := b[:b[0]]
		b = b[b[0]:]
		switch {
		case d[1] == descConfig && len(d) >= lenConfig:
			config, open = d[5], false
		case d[1] == descInterface && len(d) >= lenInterface:
			ifaces = append(ifaces, Interface{
				Config: config, Number: d[2], Alt: d[3],
				Class: d[5], Subclass: d[6], Protocol: d[7],
			})
			open = true
		case d[1] == descEndpoint && len(d) >= lenEndpoint && open:
			i := &ifaces[len(ifaces)-1]
			i.Endpoints = append(i.Endpoints, Endpoint{
				Address: d[2], Transfer: d[3] & 3,
				MaxPacket: binary.LittleEndian.Uint16(d[4:]) & 0x7ff,
			})
		}
	}
	return ifaces
}

// ValidPath reports whether s has the form of a device's path: "1-1", "2-1.4".
func ValidPath(s string) bool {
	_, ok := parsePath(s)
	return ok
}

// parsePath takes a path apart: bus, then ports.
func parsePath(s string) (numbers []int, ok bool) {
	bus, ports, ok := strings.Cut(s, "-")
	if !ok {
		return nil, false
	}
	for _, f := range append([]string{bus}, strings.Split(ports, ".")...) {
		n, err := strconv.ParseUint(f, 10, 8)
		if err != nil || n == 0 || f[0] == '0' {
			return nil, false
		}
		numbers = append(numbers, int(n))
	}
	return numbers, true
}

// ComparePaths orders paths by their numbers, so that 1-2 comes before 1-10; with what isn't a path it
// compares text.
func ComparePaths(a, b string) int {
	na, oka := parsePath(a)
	nb, okb := parsePath(b)
	if !oka || !okb {
		return cmp.Compare(a, b)
	}
	return slices.Compare(na, nb)
}
