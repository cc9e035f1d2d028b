// SPDX-License-Identifier: GPL-2.0-or-later

// Package rig runs the project's programs, and a pcscd with virtual readers, as
// processes for the tests and benchmarks of the whole. All of it lives in
// namespaces of its own: default ports are free, nothing is reached from outside,
// and whatever was started ends with the process that called Enter.
package rig

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"

	"golang.org/x/sys/unix"
)

// binEnv names the directory of the built programs in the environment of the process
// that runs inside; it also tells that process that it is inside.
const binEnv = "REMSIM_RIG_BIN"

var programs = []string{"remsim-server", "remsim-bankd", "remsim-client-shell", "remsim-apitool", "remsim-simulator"}

// Enter builds the programs with the given flags of go build (such as "-race") and runs
// the present process a second time in network, mount and PID namespaces of its own,
// where it returns the directory of the programs. In the first process it returns the
// second one's exit status (inside is false). Call it first in main or TestMain.
func Enter(buildFlags ...string) (bin string, inside bool, status int) {
	if bin = os.Getenv(binEnv); bin != "" {
		if err := settle(); err != nil {
			fmt.Fprintln(os.Stderr, "rig:", err)
			os.Exit(1)
		}
		return bin, true, 0
	}
	status, err := launch(buildFlags)
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
		status = 1
	}
	return "", false, status
}

// launch builds the programs, runs this process again inside and returns its exit status.
func launch(buildFlags []string) (int, error) {
	dir, err := os.MkdirTemp("", "remsim-rig-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)

	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, buildFlags...)
	for _, p := range programs {
		args = append(args, "remsim/cmd/"+p)
	}
	build := exec.Command("go", args...)
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	if err := build.Run(); err != nil {
		return 0, fmt.Errorf("build the programs: %w", err)
	}

	self, err := os.Executable()
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), binEnv+"="+dir)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL, // and with process 1 of the PID namespace all others
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getgid(), Size: 1}}
	}
	runtime.LockOSThread() // Pdeathsig is about the thread that starts the child
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit):
		return max(exit.ExitCode(), 1), nil // a signal is reported as -1
	case err != nil:
		return 0, fmt.Errorf("make namespaces (this takes root or user namespaces): %w", err)
	}
	return 0, nil
}

// settle furnishes fresh namespaces: a /proc of their processes, a private /run, the
// loopback interface.
func settle() error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
		return fmt.Errorf("mount /proc: %w", err)
	}
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP)
	if err := unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo); err != nil {
		return fmt.Errorf("bring up lo: %w", err)
	}
	return nil
}
