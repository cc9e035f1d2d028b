// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !cgo

package usb

import (
	"strings"
	"testing"
)

// A program without USB says so when a device is to be opened; it can still look for them.
func TestNotBuilt(t *testing.T) {
	_, open := Host{}.Open(Target{}, nil)
	_, firmware := Host{}.Firmware(Device{})
	for what, err := range map[string]error{"Open": open, "Firmware": firmware} {
		if err == nil || !strings.Contains(err.Error(), "built with cgo") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
