// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"fmt"
	"io/fs"
	"os"
	"path"
	"slices"
	"strconv"
	"strings"
)

// A Process is one that has a device open.
type Process struct {
	PID     int
	Command string // its command line, cut
}

// maxCommand is how much of a command line is of interest.
const maxCommand = 200

// Holders returns the other processes that have d open, as far as we may look into them.
func (h Host) Holders(d Device) (holders []Process) {
	entries, _ := fs.ReadDir(h.Proc, ".") // what can't be seen isn't said
	for _, e := range entries {
		pid, err := strconv.Atoi(e.Name())
		if err != nil || pid == os.Getpid() || !h.holds(e.Name(), d.Node()) {
			continue
		}
		line, _ := fs.ReadFile(h.Proc, path.Join(e.Name(), "cmdline"))
		command := strings.TrimSpace(strings.ReplaceAll(string(line), "\x00", " "))
		if len(command) > maxCommand {
			command = command[:maxCommand] + "…"
		}
		holders = append(holders, Process{pid, command})
	}
	slices.SortFunc(holders, func(a, b Process) int { return a.PID - b.PID })
	return holders
}

// holds reports whether a process has a file open.
func (h Host) holds(pid, file string) bool {
	fds, _ := fs.ReadDir(h.Proc, path.Join(pid, "fd"))
	return slices.ContainsFunc(fds, func(fd fs.DirEntry) bool {
		to, err := fs.ReadLink(h.Proc, path.Join(pid, "fd", fd.Name()))
		return err == nil && to == file
	})
}

// A BusyError says that another program has claimed an interface.
type BusyError struct {
	Interface uint8
	Holders   []Process // who has the device open: one of these; empty: we may not see who
}

func (e *BusyError) Error() string {
	if len(e.Holders) == 0 {
		return "another program uses it, of another user perhaps: run as root to see which"
	}
	var list []string
	for _, p := range e.Holders {
		list = append(list, fmt.Sprintf("process %d (%s)", p.PID, p.Command))
	}
	s := "it is in use by " + strings.Join(list, " or ")
	return s + ": stop that, or choose another interface"
}

// A PermissionError says that a device's file may not be written.
type PermissionError struct{ Node string }

func (e *PermissionError) Error() string {
	return "no permission for " + e.Node + ": " + PermissionRemedy
}

// PermissionRemedy is what to do about a PermissionError.
const PermissionRemedy = "install contrib/udev/60-remsim.rules into /etc/udev/rules.d, plug the device anew, " +
	"and be a member of group plugdev (adduser USER plugdev, then log in again), or run as root"

// ProgramDriver is what Driver returns of an interface that a program has.
const ProgramDriver = "usbfs"

// Driver returns what has the interface of t: ProgramDriver, a driver of the kernel, or nothing.
func (h Host) Driver(t Target) string {
	d := t.Device
	link, err := fs.ReadLink(h.Sys, fmt.Sprintf("%s/%s:%d.%d/driver", sysDevices, d.Path, t.Interface.Config, t.Interface.Number))
	if err != nil {
		return ""
	}
	return path.Base(link)
}
