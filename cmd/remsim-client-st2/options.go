// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"remsim/internal/client/cardem"
	"remsim/internal/daemon"
	"remsim/internal/monitor"
	"remsim/internal/simtrace"
	"remsim/internal/usb"
)

// options are those that no other client has.
type options struct {
	filter    usb.Filter
	presence  string
	apduTable string
	slotsFile string
	allSlots  bool
	monitor   monitor.Config

	keepRunning                    bool
	config, iface, alt, usbAddress uint16
}

// flags adds the options of devices.
func (o *options) flags(fs *pflag.FlagSet) {
	o.deviceFlags(fs)
	o.monitor.Flags(fs)
	daemon.ChoiceVar(fs, &o.presence, "set-sim-presence", "Z", "", []string{"0", "1"}, "the level of the presence contact that means a card: 0 low, 1 high (default the firmware's)")
	fs.BoolVarP(&o.keepRunning, "keep-running", "k", false, "wait for a device that isn't there, and when it goes")
	fs.StringVar(&o.apduTable, "apdu-table", "", "`FILE` of which commands have data for the card, which is tried before what is built in")
	fs.StringVar(&o.slotsFile, "slots-file", "", "serve many slots: those of this `FILE`")
	fs.BoolVar(&o.allSlots, "all-slots", false, "serve many slots: one for each interface of each card emulator")
}

// deviceFlags adds the options that choose a device.
func (o *options) deviceFlags(fs *pflag.FlagSet) {
	fs.VarP(usbID{&o.filter.Vendor}, "usb-vendor", "V", "vendor id of the device (default those of all card emulators that are known)")
	fs.VarP(usbID{&o.filter.Product}, "usb-product", "P", "product id of the device")
	daemon.Uint16Var(fs, &o.config, "usb-config", "C", 0, 1, 255, "configuration of the device (default the one with card emulators)")
	daemon.Uint16Var(fs, &o.iface, "usb-interface", "I", 0, 0, 255, "interface of the device (default the only one)")
	daemon.Uint16Var(fs, &o.alt, "usb-altsetting", "S", 0, 0, 255, "alternate setting of the interface")
	daemon.Uint16Var(fs, &o.usbAddress, "usb-address", "A", 0, 1, 127, "address of the device (default any)")
	fs.VarP((*usbPath)(&o.filter.Path), "usb-path", "H", "path of the device, such as 2-1.4 (default any)")
}

func (o *options) many() bool { return o.allSlots || o.slotsFile != "" }

// fill puts the options into cfg.
func (o *options) fill(cfg *cardem.Config, fs *pflag.FlagSet) error {
	if err := cardem.CheckATR(cfg.ATR); err != nil {
		return daemon.Usagef("option -a --atr: value %q: want 2..%d bytes in hex: %w", fs.Lookup("atr").Value, simtrace.MaxATR, err)
	}
	if err := o.checkMany(cfg, fs); err != nil {
		return err
	}
	o.choose(fs)
	cfg.KeepRunning = o.keepRunning
	switch o.presence {
	case "0":
		cfg.Presence = simtrace.PresenceValid
	case "1":
		cfg.Presence = simtrace.PresenceValid | simtrace.PresentHigh
	}
	if o.apduTable == "" {
		return nil
	}
	f, err := os.Open(o.apduTable)
	if err != nil {
		return fmt.Errorf("APDU table: %w", err)
	}
	defer f.Close()
	cfg.Rows, err = simtrace.ParseRows(o.apduTable, f)
	return err
}

// choose puts what was given of the numbers into the filter.
func (o *options) choose(fs *pflag.FlagSet) {
	for _, n := range []struct {
		name string
		from uint16
		to   **uint8
	}{
		{"usb-config", o.config, &o.filter.Config},
		{"usb-interface", o.iface, &o.filter.Interface},
		{"usb-altsetting", o.alt, &o.filter.Alt},
		{"usb-address", o.usbAddress, &o.filter.Address},
	} {
		if fs.Changed(n.name) {
			*n.to = new(uint8(n.from))
		}
	}
}

// checkMany refuses options that are about one slot where many are served.
func (o *options) checkMany(cfg *cardem.Config, fs *pflag.FlagSet) error {
	many := "--all-slots"
	switch {
	case !o.many():
		return nil
	case o.allSlots && o.slotsFile != "":
		return daemon.Usagef("--slots-file and --all-slots: want one of them")
	case o.slotsFile != "":
		many = "--slots-file"
	}
	for _, name := range []string{
		"client-slot", "usb-vendor", "usb-product", "usb-config", "usb-interface", "usb-altsetting", "usb-address", "usb-path",
	} {
		if fs.Changed(name) {
			return daemon.Usagef("option --%s with %s: it is for a single slot", name, many)
		}
	}
	if cfg.Auto {
		return daemon.Usagef("option -c --client-id: value \"auto\" with %s: want a number, as the slots' numbers are given", many)
	}
	return nil
}

// A usbID is the value of an option that is a vendor's or product's id.
type usbID struct{ id **uint16 }

func (v usbID) Set(s string) error {
	digits := s
	if len(s) > 1 && strings.EqualFold(s[:2], "0x") {
		digits = s[2:]
	}
	n, err := strconv.ParseUint(digits, 16, 16)
	if err != nil {
		return errors.New("want 1 to 4 hex digits, such as 1d50")
	}
	*v.id = new(uint16(n))
	return nil
}

func (v usbID) String() string {
	if v.id == nil || *v.id == nil {
		return ""
	}
	return fmt.Sprintf("%04x", **v.id)
}

func (usbID) Type() string { return "HEX" }

// A usbPath is the value of an option that is a device's path.
type usbPath string

func (p *usbPath) Set(s string) error {
	if !usb.ValidPath(s) {
		return errors.New("want BUS-PORT or BUS-PORT.PORT…, such as 2-1.4")
	}
	*p = usbPath(s)
	return nil
}

func (p *usbPath) String() string { return string(*p) }

func (*usbPath) Type() string { return "PATH" }
