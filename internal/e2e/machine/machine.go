// SPDX-License-Identifier: GPL-2.0-or-later

// Package machine runs a Debian 12 system for tests: its files, a real systemd as its first process, a loopback
// interface and nothing else of a network. What a test does in there is gone at its end. It needs root, a Linux with
// namespaces, cgroup2 and overlayfs, and Debian's mmdebstrap, which makes the files from the mirror that the
// system's own apt uses.
package machine

import (
	"bytes"
	"context"
	_ "embed"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

//go:embed boot.sh
var boot string

// A Machine is a running system.
type Machine struct {
	cmd     *exec.Cmd // its first process
	dir     string    // where the machine mounts its file system
	cgroup  string
	console bytes.Buffer
	ended   chan struct{}
}

// A Bind is a file or directory of this system that a machine has, too.
type Bind struct{ From, To string }

// Start boots a machine, whose files are made in the directory cache unless they are there, and returns when
// all of its units have started.
func Start(cache string, binds ...Bind) (*Machine, error) {
	if os.Geteuid() != 0 {
		return nil, errors.New("machine: only root can start one; these tests take root")
	}
	lower, err := tree(cache)
	if err != nil {
		return nil, err
	}
	if lower, err = filepath.Abs(lower); err != nil {
		return nil, err
	}
	m := &Machine{ended: make(chan struct{})}
	if m.dir, err = os.MkdirTemp("", "remsim-machine-"); err != nil {
		return nil, err
	}
	if m.cgroup, err = makeCgroup(); err != nil {
		return nil, errors.Join(err, os.Remove(m.dir))
	}
	args := []string{"--cgroup", "sh", "-c", boot, "boot.sh", m.dir, lower}
	for _, b := range binds {
		args = append(args, b.From, b.To)
	}
	if err := m.start(args); err != nil {
		return nil, errors.Join(err, removeCgroup(m.cgroup), os.Remove(m.dir))
	}
	if err := m.awaitBoot(); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

// start starts the first process in its cgroup, of which it then makes the root of a namespace.
func (m *Machine) start(args []string) error {
	cgroup, err := os.Open(m.cgroup)
	if err != nil {
		return err
	}
	defer cgroup.Close()
	m.cmd = exec.Command("unshare", args...)
	m.cmd.Stdout, m.cmd.Stderr = &m.console, &m.console
	m.cmd.WaitDelay = time.Second
	m.cmd.SysProcAttr = &syscall.SysProcAttr{
		Cloneflags:  syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWNET | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC,
		Pdeathsig:   syscall.SIGKILL,
		UseCgroupFD: true,
		CgroupFD:    int(cgroup.Fd()),
		Setsid:      true,
	}
	if err := m.cmd.Start(); err != nil {
		return fmt.Errorf("machine: start: %w", err)
	}
	go func() {
		defer close(m.ended)
		_ = m.cmd.Wait() // it is killed
	}()
	return nil
}

// awaitBoot waits until systemd has nothing left to start.
func (m *Machine) awaitBoot() error {
	ctx, cancel := context.WithTimeout(context.Background(), 2*time.Minute)
	defer cancel()
	for {
		out, err := m.Command(ctx, "systemctl", "is-system-running").CombinedOutput()
		state := strings.TrimSpace(string(out))
		if err == nil && state == "running" {
			return nil
		}
		if state == "degraded" {
			failed, _ := m.Run(ctx, "systemctl", "--no-pager", "--failed")
			return fmt.Errorf("machine: units have failed at its start:\n%s", failed)
		}
		select {
		case <-m.ended:
			return fmt.Errorf("machine: its first process has ended:\n%s", m.console.String())
		case <-ctx.Done():
			return fmt.Errorf("machine: not started within 2 minutes, but %q (%v)", state, err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// PID returns the number that the machine's first process has outside.
func (m *Machine) PID() int { return m.cmd.Process.Pid }

// Path returns by what path this system reaches a file of the machine.
func (m *Machine) Path(inside string) string {
	return filepath.Join("/proc", strconv.Itoa(m.PID()), "root", inside)
}

// Command is exec.CommandContext for a program of the machine, run by its root from "/" with little in its environment.
func (m *Machine) Command(ctx context.Context, name string, args ...string) *exec.Cmd {
	enter := []string{"--target", strconv.Itoa(m.PID()), "--mount", "--pid", "--net", "--uts", "--ipc", "--cgroup",
		"/usr/bin/env", "-i", "-C", "/", "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin", "HOME=/root",
		"LANG=C.UTF-8", "TERM=dumb", "DEBIAN_FRONTEND=noninteractive", name}
	cmd := exec.CommandContext(ctx, "nsenter", append(enter, args...)...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd
}

// Run runs a program of the machine to its end, and returns what it writes to either stream, which is in the error,
// too.
func (m *Machine) Run(ctx context.Context, name string, args ...string) (output string, err error) {
	out, err := m.Command(ctx, name, args...).CombinedOutput()
	if err != nil {
		err = fmt.Errorf("%s: %w\n%s", strings.Join(append([]string{name}, args...), " "), err, bytes.TrimSpace(out))
	}
	return string(out), err
}

// Close ends the machine and all that runs in it at once, and removes what it has left outside.
func (m *Machine) Close() error {
	_ = m.cmd.Process.Kill() // it may have ended
	<-m.ended
	return errors.Join(removeCgroup(m.cgroup), os.Remove(m.dir))
}

// makeCgroup makes a cgroup below that of the present process, and removes those of machines whose processes have all gone.
func makeCgroup() (string, error) {
	own, err := ownCgroup()
	if err != nil {
		return "", fmt.Errorf("machine: %w", err)
	}
	const prefix = "remsim-machine-"
	old, err := filepath.Glob(filepath.Join(own, prefix+"*"))
	if err != nil {
		return "", err
	}
	for _, dir := range old {
		pid, _, _ := strings.Cut(strings.TrimPrefix(filepath.Base(dir), prefix), "-")
		_, err := os.Stat("/proc/" + pid) // the tests may be in another namespace, where the machine lives on
		events, _ := os.ReadFile(filepath.Join(dir, "cgroup.events"))
		if errors.Is(err, fs.ErrNotExist) && strings.Contains(string(events), "populated 0") {
			_ = removeCgroup(dir) // another test may be at it
		}
	}
	return os.MkdirTemp(own, fmt.Sprintf("%s%d-", prefix, os.Getpid()))
}

// ownCgroup returns the directory of the cgroup2 that the present process is in.
func ownCgroup() (string, error) {
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		return "", err
	}
	groups, err := os.ReadFile("/proc/self/cgroup")
	if err != nil {
		return "", err
	}
	var group string
	for line := range strings.Lines(string(groups)) {
		if path, ok := strings.CutPrefix(strings.TrimSpace(line), "0::"); ok {
			group = path
		}
	}
	for line := range strings.Lines(string(mounts)) {
		about, kind, _ := strings.Cut(line, " - ")
		if fields := strings.Fields(about); strings.HasPrefix(kind, "cgroup2 ") && len(fields) > 4 && fields[3] == "/" {
			return filepath.Join(fields[4], group), nil
		}
	}
	return "", errors.New("no cgroup2 is mounted; it is at /sys/fs/cgroup, or at /sys/fs/cgroup/unified")
}

// removeCgroup removes a cgroup with those below, whose processes are killed but may not have gone yet. Others may be at it, too.
func removeCgroup(dir string) error {
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(10 * time.Millisecond) {
		var all []string
		err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				all = append(all, path)
			}
			return err
		})
		for _, dir := range slices.Backward(all) {
			if err == nil {
				err = os.Remove(dir)
			}
		}
		if _, gone := os.Lstat(dir); errors.Is(gone, fs.ErrNotExist) {
			return nil
		}
		if time.Now().After(end) {
			return err
		}
	}
}
