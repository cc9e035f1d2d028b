// SPDX-License-Identifier: GPL-2.0-or-later

package usbip

import (
	"context"
	"fmt"
	"net"
	"os"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"
)

// vhci is where the kernel's virtual host controller (module vhci-hcd) takes devices.
const vhci = "/sys/devices/platform/vhci_hcd.0/"

// FreePort returns the lowest port of this computer's vhci-hcd for full-speed devices that has none.
func FreePort() (int, error) {
	text, err := os.ReadFile(vhci + "status")
	if err != nil {
		return 0, fmt.Errorf("usbip: is the module vhci-hcd loaded? %w", err)
	}
	port, ok := freePort(string(text))
	if !ok {
		return 0, fmt.Errorf("usbip: no port of vhci-hcd is free")
	}
	return port, nil
}

// freePort finds a line "hs PORT STATE …" with the state of a free port.
func freePort(status string) (port int, ok bool) {
	const free = "004"
	for line := range strings.Lines(status) {
		f := strings.Fields(line)
		if len(f) < 3 || f[0] != "hs" || f[2] != free {
			continue
		}
		if port, err := strconv.Atoi(f[1]); err == nil {
			return port, true
		}
	}
	return 0, false
}

// Plug plugs a device into a port of this computer's vhci-hcd, without a network. It returns when the kernel
// has the device; run is Attach's rest and to be called then.
func Plug(port int, dev Device) (run func(context.Context) error, err error) {
	fds, err := unix.Socketpair(unix.AF_UNIX, unix.SOCK_STREAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, fmt.Errorf("usbip: %w", err)
	}
	theirs, ours := os.NewFile(uintptr(fds[0]), "vhci"), os.NewFile(uintptr(fds[1]), "device")
	defer theirs.Close() // the kernel has taken its own reference
	conn, err := net.FileConn(ours)
	ours.Close()
	if err != nil {
		return nil, fmt.Errorf("usbip: %w", err)
	}
	const devID = 1 // any
	line := fmt.Sprintf("%d %d %d %d", port, fds[0], devID, SpeedFull)
	if err := os.WriteFile(vhci+"attach", []byte(line), 0); err != nil {
		conn.Close()
		return nil, fmt.Errorf("usbip: port %d: %w", port, err)
	}
	return func(ctx context.Context) error { return Attach(ctx, conn, dev) }, nil
}
