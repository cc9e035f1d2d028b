// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"context"
	"os"
	"os/exec"
	"strings"
	"syscall"
)

// A StartFunc starts an event script: line is the command with the cause as its argument,
// vars are its variables, "NAME=value". When ctx ends the script is killed with all it
// started. wait returns when it has ended; it is called once, also after that.
type StartFunc func(ctx context.Context, line string, vars []string) (wait func() error, err error)

// StartShell runs line by "sh -c", in a process group of its own, with the standard streams of
// this process, no other descriptor, and a white list of its environment besides vars.
func StartShell(ctx context.Context, line string, vars []string) (wait func() error, err error) {
	cmd := exec.CommandContext(ctx, "sh", "-c", line)
	cmd.Env = append(inherited(os.Environ()), vars...)
	// As files, not as streams that a goroutine would copy: Wait then waits for the shell alone.
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	cmd.Cancel = func() error { return syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }
	if err := cmd.Start(); err != nil {
		return nil, err
	}
	return cmd.Wait, nil
}

// inherited returns the variables of environ that event scripts get.
func inherited(environ []string) []string {
	var vars []string
	for _, v := range environ {
		name, _, _ := strings.Cut(v, "=")
		switch name {
		case "USER", "LOGNAME", "HOME", "LANG", "PATH", "PWD", "SHELL", "TERM", "TMPDIR",
			"LD_LIBRARY_PATH", "LD_PRELOAD", "POSIXLY_CORRECT", "HOSTALIASES", "TZ", "TZDIR",
			"TERMCAP", "COLUMNS", "LINES":
			vars = append(vars, v)
		default:
			if strings.HasPrefix(name, "LC_") {
				vars = append(vars, v)
			}
		}
	}
	return vars
}
