// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// TestCtrlC ends the program by the terminal, at the prompt and while a line waits for a card.
func TestCtrlC(t *testing.T) {
	for _, tc := range []struct{ name, typed, shown string }{
		{"prompt", "", "> "},
		{"waiting", "a0a40000023f00\r", "no card yet"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			master, tty := openPTY(t)
			before := mode(t, tty)
			cmd := exec.Command(os.Args[0], "-p", "1")
			cmd.Env = append(os.Environ(), asProgram+"=1")
			cmd.Stdin, cmd.Stdout, cmd.Stderr = tty, tty, tty
			cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true, Setctty: true}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			limit := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
			defer limit.Stop()

			var screen strings.Builder
			until := func(text string) {
				b := make([]byte, 4096)
				for !strings.Contains(screen.String(), text) {
					n, err := master.Read(b)
					if err != nil {
						t.Errorf("no %q: %v", text, err)
						return
					}
					screen.Write(b[:n])
				}
			}
			if err := master.SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
				t.Fatal(err)
			}
			until("> ")
			io.WriteString(master, tc.typed)
			until(tc.shown)
			io.WriteString(master, "\x03")
			go io.Copy(io.Discard, master)
			if err := cmd.Wait(); err != nil {
				t.Errorf("status: %v, screen %q", err, screen.String())
			}
			if after := mode(t, tty); after != before {
				t.Errorf("the terminal is left in mode %+v, was in %+v", after, before)
			}
		})
	}
}

// openPTY opens both sides of a pseudo-terminal.
func openPTY(t *testing.T) (master, tty *os.File) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	raw, err := master.SyscallConn()
	n := 0
	if err == nil {
		err = raw.Control(func(fd uintptr) {
			if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err == nil {
				n, err = unix.IoctlGetInt(int(fd), unix.TIOCGPTN)
			}
		})
	}
	if err != nil {
		t.Fatal(err)
	}
	tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { tty.Close() })
	return master, tty
}

func mode(t *testing.T, tty *os.File) unix.Termios {
	t.Helper()
	m, err := unix.IoctlGetTermios(int(tty.Fd()), unix.TCGETS)
	if err != nil {
		t.Fatal(err)
	}
	return *m
}
