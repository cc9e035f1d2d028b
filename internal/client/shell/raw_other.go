// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !linux

package shell

import "golang.org/x/term"

// raw puts a terminal into raw mode.
func raw(fd int) (restore func(), err error) {
	old, err := term.MakeRaw(fd)
	if err != nil {
		return nil, err
	}
	return func() { _ = term.Restore(fd, old) }, nil
}
