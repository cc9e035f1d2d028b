// SPDX-License-Identifier: GPL-2.0-or-later

// Package usb tests remsim-client-st2 as its users run it, on a real USB stack: kernel, usbfs, libusb. The devices, and the modems
// behind them, are software that a virtual computer's kernel takes for devices on its bus; the tests run inside that.
package usb

import (
	"os"
	"testing"

	"remsim/internal/e2e/guest"
)

// bin is the directory of the programs.
var bin string

func TestMain(m *testing.M) {
	os.Exit(guest.Run(func(dir string) int {
		bin = dir
		return m.Run()
	}, []string{"remsim-server", "remsim-bankd", "remsim-client-st2", "remsim-simulator"}))
}
