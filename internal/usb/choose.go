// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"remsim/internal/simtrace"
)

// A Target is one card emulation interface of a device, with all the endpoints that it takes.
type Target struct {
	Device    Device
	Interface Interface
	out       Endpoint // bulk OUT
	in        Endpoint // bulk IN
	interrupt Endpoint // interrupt IN
}

// String returns what chooses the target on the command line, and what users know the device by.
func (t Target) String() string {
	return fmt.Sprintf("-H %s -I %d (%s)", t.Device.Path, t.Interface.Number, t.Device.facts())
}

// facts returns what Device.String has beside the path.
func (d Device) facts() string {
	_, s, _ := strings.Cut(d.String(), " (")
	return strings.TrimSuffix(s, ")")
}

// A Filter says which interface of which device is meant. What is nil or empty doesn't matter.
type Filter struct {
	Vendor, Product        *uint16 // without both, only devices that are known to be card emulators
	Config, Interface, Alt *uint8  // without Alt, 0
	Address                *uint8
	Path                   string
}

// named reports whether f means d, as far as ids, path and address go.
func (f Filter) named(d Device) bool {
	return is(f.Vendor, d.Vendor) && is(f.Product, d.Product) && is(f.Address, d.Address) && (f.Path == "" || f.Path == d.Path) &&
		(f.Vendor != nil || f.Product != nil || known(d, simtrace.Models()) || known(d, simtrace.OldDFU()))
}

func is[T comparable](want *T, have T) bool { return want == nil || *want == have }

func known(d Device, models []simtrace.Model) bool {
	return slices.ContainsFunc(models, func(m simtrace.Model) bool { return m.Vendor == d.Vendor && m.Product == d.Product })
}

// Choose returns the one interface that f means. When there is none, or are several, the error says what
// there is.
func (f Filter) Choose(devices []Device) (Target, error) {
	var (
		targets []Target
		errs    []string
	)
	for _, d := range devices {
		if !f.named(d) {
			continue
		}
		ts, err := f.targets(d)
		if err != nil {
			errs = append(errs, err.Error())
		}
		targets = append(targets, ts...)
	}
	switch {
	case len(targets) == 1:
		return targets[0], nil
	case len(targets) > 1:
		var list []string
		for _, t := range targets {
			list = append(list, t.String())
		}
		return Target{}, fmt.Errorf("%d card emulators could be meant, choose one by its path and interface: %s",
			len(targets), strings.Join(list, "; "))
	case len(errs) > 0:
		return Target{}, fmt.Errorf("no card emulator to use: %s", strings.Join(errs, "; "))
	}
	return Target{}, f.None(devices)
}

// None returns the error that f means no device, which names those there are.
func (f Filter) None(devices []Device) error {
	var list []string
	for _, d := range devices {
		list = append(list, d.String())
	}
	there := "no USB device is attached"
	if len(list) > 0 {
		there = "attached are " + strings.Join(list, ", ")
	}
	return fmt.Errorf("no %s: %s", f, there)
}

// String returns what f asks for in words.
func (f Filter) String() string {
	s := "card emulator of a kind that is known"
	if f.Vendor != nil || f.Product != nil {
		s = "USB device " + hex(f.Vendor) + ":" + hex(f.Product)
	}
	if f.Path != "" {
		s += " at path " + f.Path
	}
	if f.Address != nil {
		s += fmt.Sprintf(" with address %d", *f.Address)
	}
	return s
}

func hex(id *uint16) string {
	if id == nil {
		return "*"
	}
	return fmt.Sprintf("%04x", *id)
}

// Cardems returns the card emulation interfaces of all known devices, and for each known device that has
// none, or one that can't be used, why.
func Cardems(devices []Device) (targets []Target, unfit []error) {
	for _, d := range devices {
		if !(Filter{}).named(d) {
			continue
		}
		ts, err := Filter{}.targets(d)
		if err != nil {
			unfit = append(unfit, err)
		}
		targets = append(targets, ts...)
	}
	return targets, unfit
}

// targets returns the interfaces of d that f means; if an interface is missing or unfit, err says why.
func (f Filter) targets(d Device) (targets []Target, err error) {
	cardems := slices.DeleteFunc(slices.Clone(d.Interfaces), func(i Interface) bool {
		return i.Class != simtrace.InterfaceClass || i.Subclass != simtrace.InterfaceCardem
	})
	if len(cardems) == 0 {
		return nil, noCardem(d)
	}
	config := cardems[0].Config
	if slices.ContainsFunc(cardems, func(i Interface) bool { return i.Config == d.Active }) {
		config = d.Active
	}
	if f.Config != nil {
		config = *f.Config
	}
	alt := uint8(0)
	if f.Alt != nil {
		alt = *f.Alt
	}
	for _, i := range cardems {
		if i.Config != config || i.Alt != alt || !is(f.Interface, i.Number) {
			continue
		}
		t, unfit := newTarget(d, i)
		if unfit != nil {
			err = unfit
			continue
		}
		targets = append(targets, t)
	}
	if len(targets) == 0 && err == nil {
		var list []string
		for _, i := range d.Interfaces {
			list = append(list, i.String())
		}
		err = fmt.Errorf("%s has no card emulation interface%s: it has %s", d, f.where(), strings.Join(list, ", "))
	}
	return targets, err
}

// where says which interface f asks for.
func (f Filter) where() (s string) {
	if f.Interface != nil {
		s += fmt.Sprintf(" %d", *f.Interface)
	}
	if f.Alt != nil {
		s += fmt.Sprintf(" with alternate setting %d", *f.Alt)
	}
	if f.Config != nil {
		s += fmt.Sprintf(" in configuration %d", *f.Config)
	}
	return s
}

// newTarget looks for the endpoints of i.
func newTarget(d Device, i Interface) (Target, error) {
	t := Target{Device: d, Interface: i}
	find := func(kind uint8, in bool) Endpoint {
		n := slices.IndexFunc(i.Endpoints, func(e Endpoint) bool { return e.Transfer == kind && e.in() == in && e.MaxPacket > 0 })
		if n < 0 {
			return Endpoint{}
		}
		return i.Endpoints[n]
	}
	t.out, t.in, t.interrupt = find(transferBulk, false), find(transferBulk, true), find(transferInterrupt, true)
	var missing []string
	for _, e := range []struct {
		Endpoint
		name string
	}{{t.out, "bulk OUT"}, {t.in, "bulk IN"}, {t.interrupt, "interrupt IN"}} {
		if e.MaxPacket == 0 {
			missing = append(missing, e.name)
		}
	}
	if len(missing) == 0 {
		return t, nil
	}
	have := "none"
	if len(i.Endpoints) > 0 {
		var list []string
		for _, e := range i.Endpoints {
			list = append(list, e.String())
		}
		have = strings.Join(list, ", ")
	}
	return Target{}, fmt.Errorf("interface %d of %s has no %s endpoint, its endpoints are: %s; its firmware may be too old, flash a newer one",
		i.Number, d, strings.Join(missing, " and no "), have)
}

// String returns what kind of interface i is.
func (i Interface) String() string {
	kind := fmt.Sprintf("class %02x subclass %02x", i.Class, i.Subclass)
	switch {
	case i.Class == simtrace.InterfaceClass && i.Subclass == simtrace.InterfaceCardem:
		kind = "card emulation"
	case i.Class == simtrace.InterfaceClass && i.Subclass == simtrace.InterfaceSniffer:
		kind = "sniffer"
	case i.Class == simtrace.DFUClass && i.Subclass == simtrace.DFUSubclass:
		kind = "DFU"
	}
	s := fmt.Sprintf("interface %d (%s", i.Number, kind)
	if i.Alt > 0 {
		s += fmt.Sprintf(", alternate setting %d", i.Alt)
	}
	if i.Config > 1 {
		s += fmt.Sprintf(", configuration %d", i.Config)
	}
	return s + ")"
}

// A FirmwareError says that a device is a card emulator by its ids but has no card emulation interface.
type FirmwareError struct {
	Device Device
	DFU    bool // it runs its boot loader, which waits for firmware
	Found  string
}

func (e *FirmwareError) Error() string {
	if e.DFU {
		return fmt.Sprintf("%s is in DFU mode: its boot loader waits for firmware; start the firmware by dfu-util -e or by plugging the device anew, "+
			"or flash the cardem one by dfu-util", e.Device)
	}
	return fmt.Sprintf("%s has no card emulation interface, but %s: flash the cardem firmware", e.Device, e.Found)
}

// noCardem says why d, which has no card emulation interface, is of no use.
func noCardem(d Device) error {
	e := &FirmwareError{Device: d, DFU: known(d, simtrace.OldDFU()), Found: "no interface at all"}
	var list []string
	sniffer := false
	for _, i := range d.Interfaces {
		list = append(list, i.String())
		e.DFU = e.DFU || i.Class == simtrace.DFUClass && i.Subclass == simtrace.DFUSubclass
		sniffer = sniffer || i.Class == simtrace.InterfaceClass && i.Subclass == simtrace.InterfaceSniffer
	}
	// Firmware for tracing has a DFU interface, too, to leave it.
	e.DFU = e.DFU && !sniffer
	if len(list) > 0 {
		e.Found = strings.Join(list, ", ")
	}
	return e
}

// Compare orders targets by path and interface.
func (t Target) Compare(u Target) int {
	return cmp.Or(ComparePaths(t.Device.Path, u.Device.Path), cmp.Compare(t.Interface.Number, u.Interface.Number))
}

// info returns what the descriptors say of t.
func (t Target) info() Info {
	d := t.Device
	return Info{
		Path: d.Path, Interface: t.Interface.Number, Vendor: d.Vendor, Product: d.Product,
		Manufacturer: d.Manufacturer, Model: d.Model, Serial: d.Serial,
	}
}
