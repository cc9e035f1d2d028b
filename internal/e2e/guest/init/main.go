// SPDX-License-Identifier: GPL-2.0-or-later

// Command init is the first process of a guest: it makes the file systems, loads the modules, runs what the
// host has asked for and switches the guest off. It has no libraries.
package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"

	"golang.org/x/sys/unix"

	"remsim/internal/e2e/guest"
)

func main() {
	if os.Getpid() != 1 {
		fmt.Fprintln(os.Stderr, "init: this is for the first process of a guest")
		os.Exit(2)
	}
	if err := run(); err != nil {
		fmt.Println("init:", err) // on the console
	}
	unix.Sync()
	_ = unix.Reboot(unix.LINUX_REBOOT_CMD_POWER_OFF)
}

// root is where the file system of the command is put together.
const root = "/root"

func run() error {
	if err := mount("devtmpfs", "/dev", "devtmpfs", 0, ""); err != nil {
		return err
	}
	modules, err := filepath.Glob("/modules/*")
	if err != nil {
		return err
	}
	for _, m := range modules {
		if err := load(m); err != nil {
			return err
		}
	}
	const options = "trans=virtio,version=9p2000.L,msize=524288,"
	if err := errors.Join(
		mount("host", "/host", "9p", unix.MS_RDONLY, options+"cache=loose"),
		mount("root", root, "tmpfs", 0, ""),
		graft("/host", root),
		mount("proc", root+"/proc", "proc", 0, ""),
		mount("sysfs", root+"/sys", "sysfs", 0, ""),
		mount("devtmpfs", root+"/dev", "devtmpfs", 0, ""),
		mount("shm", root+"/dev/shm", "tmpfs", 0, ""),
		mount("devpts", root+"/dev/pts", "devpts", 0, ""),
		mount("tmp", root+"/tmp", "tmpfs", 0, "mode=1777"),
		mount("run", root+"/run", "tmpfs", 0, ""),
		mount("share", root+guest.Share, "9p", 0, options+"cache=loose"),
	); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(root+guest.Share, guest.CommandFile))
	if err != nil {
		return err
	}
	var c guest.Command
	if err := json.Unmarshal(text, &c); err != nil {
		return err
	}
	if _, err := os.Stat(root + c.Tree); err != nil {
		if err := mount("/host"+c.Tree, root+c.Tree, "", unix.MS_BIND, ""); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chroot(root), unix.Chdir("/"), loopback()); err != nil {
		return err
	}
	status, err := do(c)
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(guest.Share, guest.StatusFile), []byte(strconv.Itoa(status)), 0o644)
}

func mount(source, target, kind string, flags uintptr, options string) error {
	if err := os.MkdirAll(target, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(source, target, kind, flags, options); err != nil {
		return fmt.Errorf("mount %s on %s: %w", kind, target, err)
	}
	return nil
}

func load(module string) error {
	f, err := os.Open(module)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := unix.FinitModule(int(f.Fd()), "", 0); err != nil && !errors.Is(err, unix.EEXIST) {
		return fmt.Errorf("module %s: %w", module, err)
	}
	return nil
}

// graft shows the host's directories in the new root, but for those that are the guest's own.
func graft(host, to string) error {
	entries, err := os.ReadDir(host)
	if err != nil {
		return err
	}
	for _, e := range entries {
		from, at := filepath.Join(host, e.Name()), filepath.Join(to, e.Name())
		switch e.Name() {
		case "proc", "sys", "dev", "tmp", "run":
			continue
		}
		switch e.Type() {
		case fs.ModeDir:
			err = mount(from, at, "", unix.MS_BIND, "")
		case fs.ModeSymlink:
			var link string
			if link, err = os.Readlink(from); err == nil {
				err = os.Symlink(link, at)
			}
		default:
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// loopback brings up the guest's only network.
func loopback() error {
	s, err := unix.Socket(unix.AF_INET, unix.SOCK_DGRAM|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return err
	}
	defer unix.Close(s)
	lo, err := unix.NewIfreq("lo")
	if err != nil {
		return err
	}
	lo.SetUint16(unix.IFF_UP | unix.IFF_RUNNING)
	return unix.IoctlIfreq(s, unix.SIOCSIFFLAGS, lo)
}

// do runs what the host has asked for, writing to the second serial line.
func do(c guest.Command) (status int, err error) {
	out, err := raw("/dev/ttyS1")
	if err != nil {
		return 0, err
	}
	cmd := exec.Command(c.Path, c.Args...)
	cmd.Env, cmd.Dir = c.Env, c.Dir
	cmd.Stdout, cmd.Stderr = out, out
	if err := cmd.Start(); err != nil {
		return 0, err
	}
	// Orphans become this process's children.
	for {
		var ws syscall.WaitStatus
		pid, err := syscall.Wait4(-1, &ws, 0, nil)
		if err != nil && !errors.Is(err, syscall.EINTR) {
			return 0, err
		}
		if pid == cmd.Process.Pid && (ws.Exited() || ws.Signaled()) {
			status = ws.ExitStatus()
			if ws.Signaled() {
				status = 128 + int(ws.Signal())
			}
			break
		}
	}
	return status, drain(out)
}

// raw opens a serial line on which every byte is as it was written.
func raw(path string) (*os.File, error) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		return nil, err
	}
	t, err := unix.IoctlGetTermios(int(f.Fd()), unix.TCGETS)
	if err != nil {
		return nil, err
	}
	t.Oflag &^= unix.OPOST
	t.Lflag &^= unix.ECHO | unix.ICANON | unix.ISIG
	t.Cflag = t.Cflag&^unix.CBAUD | unix.B115200
	return f, unix.IoctlSetTermios(int(f.Fd()), unix.TCSETS, t)
}

// drain waits until all was sent.
func drain(f *os.File) error {
	for {
		// Signals come any time: of children, and those by which Go's runtime has goroutines take turns.
		if err := unix.IoctlSetInt(int(f.Fd()), unix.TCSBRK, 1); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
