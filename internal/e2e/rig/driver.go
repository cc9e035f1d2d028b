// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"syscall"
	"time"
	"unsafe"

	"golang.org/x/sys/unix"

	"remsim/internal/simulator"
)

const (
	driver = "libifd_remsim_client.so" // the PC/SC driver, in the directory of the programs
	ipcDir = "/run/pcscd"              // where pcscd has its socket
)

// BuildDriver builds the PC/SC driver, beside the programs, where any user can read it. It is built without the race
// detector, whose shadow memory has no room for data at the addresses of a library that is loaded at run time.
func BuildDriver(bin string) error {
	if err := os.Chmod(bin, 0o755); err != nil {
		return err
	}
	cmd := exec.Command("go", "build", "-buildmode=c-shared", "-o", filepath.Join(bin, driver), "remsim/cmd/remsim-ifd")
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("build the PC/SC driver: %w", err)
	}
	return nil
}

// A Host is a pcscd that loads the PC/SC driver, beside that of Readers: in a mount namespace of its own, with
// the network of all.
type Host struct {
	Dir  string // /run/pcscd to it; shorter than a socket's path may be
	Conf string // its reader.conf; see Host.Reader
	Args []string
	// UID is the user that it runs as, without a home and without any other group than that of the same number; 0 for the present one.
	UID int
	// Sealed has no memory become executable that is or was writable, as MemoryDenyWriteExecute of systemd.exec(5).
	Sealed bool
}

// Reader adds a reader with the built driver to what h starts with. Only in quotes does pcscd take all kinds of characters.
func (h *Host) Reader(bin, name, device string) {
	h.Conf += fmt.Sprintf("FRIENDLYNAME \"%s\"\nDEVICENAME \"%s\"\nLIBPATH %s\n\n", name, device, filepath.Join(bin, driver))
}

// Virtual adds a pair of virtual readers, like simulator.StartPCSCD's: their cards connect to port and the one after it. A Host has one pair, as
// the driver is loaded once.
func (h *Host) Virtual(name string, port int) error {
	driver, err := simulator.Driver()
	if err != nil {
		return err
	}
	h.Conf += fmt.Sprintf("FRIENDLYNAME \"%s\"\nDEVICENAME /dev/null:%#X\nLIBPATH %s\nCHANNELID %#X\n\n", name, port, driver, port)
	return nil
}

// Socket is where applications find it, by simulator.SocketEnv.
func (h *Host) Socket() string { return simulator.Socket(h.Dir) }

// Start starts pcscd and returns when it takes connections. Its log is that of the process. Only inside Run.
func (h *Host) Start() (*Proc, error) {
	const conf = "reader.conf.d"
	if err := os.MkdirAll(filepath.Join(h.Dir, conf), 0o755); err != nil {
		return nil, err
	}
	if err := os.WriteFile(filepath.Join(h.Dir, conf, "readers"), []byte(h.Conf), 0o644); err != nil {
		return nil, err
	}
	for _, left := range []string{"pcscd.comm", "pcscd.pid"} { // by one that was killed
		_ = os.Remove(filepath.Join(h.Dir, left)) // mostly there is none
	}
	cmd := exec.Command("/usr/sbin/pcscd", append([]string{"--foreground", "--config", filepath.Join(ipcDir, conf)}, h.Args...)...)
	if h.UID != 0 {
		if err := os.Chown(h.Dir, h.UID, h.UID); err != nil {
			return nil, err
		}
		cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: uint32(h.UID), Gid: uint32(h.UID)}}
		cmd.Env = []string{"HOME=/nonexistent"}
	}
	p, err := h.launch(cmd)
	if err != nil {
		return nil, err
	}
	go func() { // pcscd logs to standard output
		for line := range p.Lines {
			fmt.Fprintln(&p.log, line)
		}
	}()
	if err := h.await(p); err != nil {
		p.Kill()
		return nil, fmt.Errorf("pcscd: %w; it says: %s", err, strings.TrimSpace(p.Log()))
	}
	return p, nil
}

// launch starts cmd on a thread that has become what cmd shall be, and that ends then.
func (h *Host) launch(cmd *exec.Cmd) (p *Proc, err error) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked
		if err = unix.Unshare(unix.CLONE_NEWNS); err != nil {
			err = fmt.Errorf("make a mount namespace: %w", err)
			return
		}
		if err = unix.Mount(h.Dir, ipcDir, "", unix.MS_BIND, ""); err != nil {
			err = fmt.Errorf("bind %s to %s: %w", h.Dir, ipcDir, err)
			return
		}
		if h.Sealed {
			if err = seal(); err != nil {
				err = fmt.Errorf("deny executable memory: %w", err)
				return
			}
		}
		p, err = start("pcscd", cmd)
	}()
	<-done
	return p, err
}

func (h *Host) await(p *Proc) error {
	for end := time.Now().Add(20 * time.Second); ; {
		c, err := net.Dial("unix", h.Socket())
		if err == nil {
			return c.Close()
		}
		if time.Now().After(end) {
			return err
		}
		select {
		case <-p.Done():
			return fmt.Errorf("has ended")
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// seal has the kernel refuse to the present thread, and to all that it starts, what makes memory executable
// that is or was writable.
func seal() error {
	const (
		number = 0  // of the call, in what a filter sees
		third  = 32 // its third argument, the low half
	)
	load := func(at uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_LD | unix.BPF_W | unix.BPF_ABS, K: at}
	}
	jump := func(test uint16, k uint32, yes, no uint8) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_JMP | test | unix.BPF_K, K: k, Jt: yes, Jf: no}
	}
	mask := func(k uint32) unix.SockFilter {
		return unix.SockFilter{Code: unix.BPF_ALU | unix.BPF_AND | unix.BPF_K, K: k}
	}
	answer := func(k uint32) unix.SockFilter { return unix.SockFilter{Code: unix.BPF_RET | unix.BPF_K, K: k} }
	filter := []unix.SockFilter{
		load(number),
		jump(unix.BPF_JEQ, unix.SYS_MMAP, 4, 0),
		jump(unix.BPF_JEQ, unix.SYS_MPROTECT, 1, 0),
		jump(unix.BPF_JEQ, unix.SYS_PKEY_MPROTECT, 0, 5),
		load(third),
		jump(unix.BPF_JSET, unix.PROT_EXEC, 4, 3),
		load(third),
		mask(unix.PROT_WRITE | unix.PROT_EXEC),
		jump(unix.BPF_JEQ, unix.PROT_WRITE|unix.PROT_EXEC, 1, 0),
		answer(unix.SECCOMP_RET_ALLOW),
		answer(unix.SECCOMP_RET_ERRNO | uint32(unix.EPERM)),
	}
	if err := unix.Prctl(unix.PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0); err != nil {
		return err
	}
	program := unix.SockFprog{Len: uint16(len(filter)), Filter: &filter[0]}
	_, _, errno := unix.Syscall(unix.SYS_SECCOMP, unix.SECCOMP_SET_MODE_FILTER, 0, uintptr(unsafe.Pointer(&program)))
	if errno != 0 {
		return errno
	}
	return nil
}
