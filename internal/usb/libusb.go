// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package usb

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"

	"github.com/google/gousb"
	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"remsim/internal/simtrace"
)

// Open claims the interface of t and begins to read.
func (h Host) Open(t Target, log *logrus.Entry) (*Conn, error) {
	l, err := openDevice(t.Device)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", t.Device, h.explain(t, err))
	}
	info := t.info()
	info.Firmware = l.firmware()
	if err := l.claim(t); err != nil {
		l.close()
		return nil, fmt.Errorf("claim interface %d of %s: %w", t.Interface.Number, t.Device, h.explain(t, err))
	}
	return newConn(t, info, l, log), nil
}

// Firmware returns the version that d says its firmware has; empty: it says none.
func (h Host) Firmware(d Device) (string, error) {
	l, err := openDevice(d)
	if err != nil {
		return "", fmt.Errorf("open %s: %w", d, h.explain(Target{Device: d}, err))
	}
	version := l.firmware()
	return version, l.close()
}

// explain says in place of an error of libusb what users can do.
func (h Host) explain(t Target, err error) error {
	switch {
	case errors.Is(err, gousb.ErrorAccess), errors.Is(err, fs.ErrPermission):
		return &PermissionError{Node: t.Device.Node()}
	case errors.Is(err, fs.ErrNotExist):
		return fmt.Errorf("%w: a container has to be given the host's /dev/bus/usb", err)
	case strings.Contains(err.Error(), gousb.ErrorBusy.Error()): // gousb doesn't wrap it
		return &BusyError{Interface: t.Interface.Number, Holders: h.Holders(t.Device)}
	}
	return err
}

// A libusb is a device that was opened, with the Context it was found in: a Context that exists already doesn't
// see devices that come later unless udevd runs.
type libusb struct {
	ctx    *gousb.Context
	dev    *gousb.Device
	config *gousb.Config
	iface  *gousb.Interface
	out    *gousb.OutEndpoint
}

// openDevice finds d again and opens it.
func openDevice(d Device) (_ *libusb, err error) {
	// libusb says "no device" where a container lacks the file, and nothing of which file it was.
	if err := unix.Access(d.Node(), unix.R_OK|unix.W_OK); err != nil {
		return nil, &fs.PathError{Op: "open", Path: d.Node(), Err: err}
	}
	ctx, err := newContext()
	if err != nil {
		return nil, err
	}
	devices, err := ctx.OpenDevices(func(desc *gousb.DeviceDesc) bool {
		return desc.Bus == int(d.Bus) && desc.Address == int(d.Address) &&
			uint16(desc.Vendor) == d.Vendor && uint16(desc.Product) == d.Product
	})
	l := &libusb{ctx: ctx}
	if len(devices) == 1 {
		l.dev = devices[0]
		return l, nil // an error is another device's
	}
	for _, other := range devices { // can't be
		other.Close()
	}
	if err == nil {
		err = ErrGone
	}
	return nil, errors.Join(classify(err), ctx.Close())
}

// newContext is gousb.NewContext with an error instead of a panic.
func newContext() (ctx *gousb.Context, err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("libusb doesn't start: %v", r)
		}
	}()
	return gousb.NewContext(), nil
}

// claim takes the interface of t, and the configuration it belongs to if another one is in force.
func (l *libusb) claim(t Target) (err error) {
	if l.config, err = l.dev.Config(int(t.Interface.Config)); err != nil {
		return err
	}
	// Only now, else Config would take the kernel's drivers off all interfaces, not this one only.
	if err := l.dev.SetAutoDetach(true); err != nil {
		return err
	}
	// gousb takes an interface's number as an index of this list, too.
	byNumber := make([]gousb.InterfaceDesc, t.Interface.Number+1)
	for i := range byNumber {
		byNumber[i].Number = -1
	}
	for _, i := range l.config.Desc.Interfaces {
		if i.Number == int(t.Interface.Number) {
			byNumber[i.Number] = i
		}
	}
	l.config.Desc.Interfaces = byNumber
	if l.iface, err = l.config.Interface(int(t.Interface.Number), int(t.Interface.Alt)); err != nil {
		return err
	}
	l.out, err = l.iface.OutEndpoint(int(t.out.Address))
	return err
}

// firmware returns the string of the configuration that has nothing but the firmware's version: that of its
// interface, of class and subclass FF, or its own.
func (l *libusb) firmware() string {
	for number, config := range l.dev.Desc.Configs {
		for _, i := range config.Interfaces {
			alt := i.AltSettings[0]
			if alt.Class != simtrace.InterfaceClass || alt.SubClass != 0xff {
				continue
			}
			if s, err := l.dev.InterfaceDescription(number, i.Number, alt.Alternate); err == nil && s != "" {
				return s
			}
			s, _ := l.dev.ConfigDescription(number) // a device that doesn't say it has none
			return s
		}
	}
	return ""
}

func (l *libusb) read(e Endpoint, transfers int) (stream, error) {
	in, err := l.iface.InEndpoint(int(e.Address & 0x0f))
	if err != nil {
		return nil, err
	}
	s, err := in.NewStream(int(e.MaxPacket), transfers)
	if err != nil {
		return nil, err
	}
	return inStream{s}, nil
}

// An inStream is a ReadStream with errors as Conn knows them.
type inStream struct{ s *gousb.ReadStream }

func (s inStream) ReadContext(ctx context.Context, b []byte) (int, error) {
	n, err := s.s.ReadContext(ctx, b)
	return n, classify(err)
}

func (l *libusb) write(ctx context.Context, b []byte) (int, error) {
	n, err := l.out.WriteContext(ctx, b)
	return n, classify(err)
}

func (l *libusb) close() error {
	var errs []error
	if l.iface != nil {
		l.iface.Close()
	}
	if l.config != nil {
		errs = append(errs, l.config.Close())
	}
	errs = append(errs, l.dev.Close(), l.ctx.Close())
	return errors.Join(errs...)
}

// classify tells a device that has gone, and transfers to be tried again, from other failures. Submitting
// and completing a transfer fail with different types.
func classify(err error) error {
	wraps := func(target error) bool { return errors.Is(err, target) }
	switch {
	case err == nil:
		return nil
	case slices.ContainsFunc([]error{gousb.ErrorNoDevice, gousb.TransferNoDevice}, wraps):
		return fmt.Errorf("%w: %w", ErrGone, err)
	case slices.ContainsFunc([]error{gousb.TransferError, gousb.ErrorIO, gousb.ErrorInterrupted}, wraps):
		return fmt.Errorf("%w: %w", errTransient, err)
	}
	return err
}
