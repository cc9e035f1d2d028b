// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !cgo

package usb

import (
	"errors"

	"github.com/sirupsen/logrus"
)

var errNotBuilt = errors.New("USB devices need a program that was built with cgo and libusb-1.0-0-dev")

// Open returns an error.
func (Host) Open(Target, *logrus.Entry) (*Conn, error) { return nil, errNotBuilt }

// Firmware returns an error.
func (Host) Firmware(Device) (string, error) { return "", errNotBuilt }
