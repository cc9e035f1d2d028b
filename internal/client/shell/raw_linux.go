// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import "golang.org/x/sys/unix"

// raw puts a terminal into raw mode, with two exceptions: Ctrl-C is still a signal, which ends the
// program when it waits for a card, too, and lines that others write, such as event scripts,
// still begin at the left.
func raw(fd int) (restore func(), err error) {
	old, err := unix.IoctlGetTermios(fd, unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t := *old
	t.Iflag &^= unix.BRKINT | unix.PARMRK | unix.ISTRIP | unix.INLCR | unix.IGNCR | unix.ICRNL | unix.IXON
	t.Lflag &^= unix.ECHO | unix.ECHONL | unix.ICANON | unix.IEXTEN
	t.Cc[unix.VMIN], t.Cc[unix.VTIME] = 1, 0
	t.Cc[unix.VSUSP] = 0 // Ctrl-Z: whoever resumes the program wouldn't resume this mode
	t.Cc[unix.VQUIT] = 0 // Ctrl-\: it would leave the terminal in this mode
	if err := unix.IoctlSetTermios(fd, unix.TCSETS, &t); err != nil {
		return nil, err
	}
	return func() { _ = unix.IoctlSetTermios(fd, unix.TCSETS, old) }, nil
}
