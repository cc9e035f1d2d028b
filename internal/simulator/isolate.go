// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// insideEnv is set in the environment of a process that Isolate has started.
const insideEnv = "REMSIM_SIMULATOR_INSIDE"

// Isolate runs the present program a second time, with the same arguments, in network, mount and PID
// namespaces of its own (which takes root, or user namespaces), where it calls inside. All that is started there
// ends with it, and it ends with the present process, whatever happens. Ports are its own. The directory run
// is /run/pcscd there, so that processes outside can use a pcscd inside by its socket (see Socket);
// if run is "" it is a new one, removed in the end. inside is told which.
//
// Isolate returns the exit status that inside has returned. When ctx ends, the second process gets SIGTERM and,
// 15 s later, SIGKILL: PCSCD.Stop may take 5 s of that. What the program does before it calls Isolate, it does in both processes.
func Isolate(ctx context.Context, run string, inside func(run string) (status int)) (status int, err error) {
	if run := os.Getenv(insideEnv); run != "" {
		if err := settle(run); err != nil {
			return 1, fmt.Errorf("simulator: %w", err)
		}
		return inside(run), nil
	}
	if run == "" {
		if run, err = os.MkdirTemp("", "pcscd-"); err != nil {
			return 1, err
		}
		defer os.RemoveAll(run)
	}
	if run, err = filepath.Abs(run); err != nil {
		return 1, err
	}
	if n := len(Socket(run)); n > maxSocket {
		return 1, fmt.Errorf("simulator: socket %s: %d characters, want at most %d", Socket(run), n, maxSocket)
	}
	self, err := os.Executable()
	if err != nil {
		return 1, err
	}
	cmd := exec.CommandContext(ctx, self, os.Args[1:]...)
	cmd.Env = append(os.Environ(), insideEnv+"="+run)
	cmd.Stdin, cmd.Stdout, cmd.Stderr = os.Stdin, os.Stdout, os.Stderr
	cmd.Cancel = func() error { return cmd.Process.Signal(syscall.SIGTERM) }
	cmd.WaitDelay = 15 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags: syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID,
		Pdeathsig:  syscall.SIGKILL,
	}
	if os.Geteuid() != 0 {
		cmd.SysProcAttr.Cloneflags |= syscall.CLONE_NEWUSER
		cmd.SysProcAttr.UidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Geteuid(), Size: 1}}
		cmd.SysProcAttr.GidMappings = []syscall.SysProcIDMap{{ContainerID: 0, HostID: os.Getegid(), Size: 1}}
	}
	// Pdeathsig comes when the thread ends that has started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	err = cmd.Run()
	var exit *exec.ExitError
	switch {
	case errors.As(err, &exit) && exit.ExitCode() >= 0:
		return exit.ExitCode(), nil
	case exit != nil && exit.ExitCode() < 0 || ctx.Err() != nil:
		return 1, fmt.Errorf("simulator: %w", err)
	case err != nil:
		return 1, fmt.Errorf("simulator: make namespaces (this takes root or user namespaces): %w", err)
	}
	return 0, nil
}

// settle furnishes fresh namespaces: run as /run/pcscd, the loopback interface.
func settle(run string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	// Opened before, run is reached also when it is below /run.
	dir, err := unix.Open(run, unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("open %s: %w", run, err)
	}
	defer unix.Close(dir)
	if err := unix.Mount("tmpfs", "/run", "tmpfs", 0, "mode=755"); err != nil {
		return fmt.Errorf("mount /run: %w", err)
	}
	if err := os.Mkdir(ipcDir, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(fmt.Sprintf("/proc/self/fd/%d", dir), ipcDir, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s to %s: %w", run, ipcDir, err)
	}
	return loopbackUp()
}

func loopbackUp() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return fmt.Errorf("bring up lo: %w", err)
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
