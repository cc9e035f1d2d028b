// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"
)

// Where pcscd and the vpcd driver are, built into them by Debian, and what says so when they aren't there.
const (
	ipcDir     = "/run/pcscd"
	program    = "/usr/sbin/pcscd"
	driverGlob = "/usr/lib/pcsc/drivers/serial/libifdvpcd.so*"
	install    = "install the packages pcscd and vsmartcard-vpcd"
)

// SocketEnv is the environment variable by which PC/SC clients find a pcscd whose socket isn't in its usual place.
// Its library looks at it once, at the first call.
const SocketEnv = "PCSCLITE_CSOCK_NAME"

// Socket returns the path of pcscd's socket when its directory is run.
func Socket(run string) string { return filepath.Join(run, "pcscd.comm") }

// maxSocket is the longest path of a socket: sun_path of unix(7) without its 0.
const maxSocket = 107

// ReaderName returns the name that virtual reader i, from 0, begins with; pcscd adds two
// numbers: 00, and 00 or 01 for the first and the second of a pair.
func ReaderName(i int) string { return fmt.Sprintf("Virtual SIM reader %c", 'A'+i/2) }

// A PCSCD is a running pcscd with virtual readers.
type PCSCD struct {
	cmd  *exec.Cmd
	out  output
	done chan struct{} // closed when it has ended
}

// StartPCSCD starts a pcscd with so many virtual readers, 1..MaxCards, at ports from VPCDPort (an odd number is
// rounded up: they come in pairs), named by name(i) for even i, ReaderName if that is nil. It returns
// when pcscd takes connections. It must be called in the first process of a PID
// namespace, as Isolate makes it: there pcscd's socket and ports disturb nobody, and it ends with that process.
func StartPCSCD(ctx context.Context, readers int, name func(i int) string) (*PCSCD, error) {
	if os.Getpid() != 1 {
		return nil, errors.New("simulator: pcscd is started in namespaces of its own only")
	}
	if readers < 1 || readers > MaxCards {
		return nil, fmt.Errorf("simulator: %d readers: want 1..%d", readers, MaxCards)
	}
	if name == nil {
		name = ReaderName
	}
	conf, err := configure(readers, name)
	if err != nil {
		return nil, fmt.Errorf("simulator: %w", err)
	}
	// What a killed one has left; it would be taken for alive where its number is in use again.
	for _, f := range []string{"pcscd.comm", "pcscd.pid"} {
		if err := os.Remove(filepath.Join(ipcDir, f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			return nil, fmt.Errorf("simulator: %w", err)
		}
	}
	p := &PCSCD{cmd: exec.Command(program, "-f", "-e", "-c", conf), done: make(chan struct{})}
	p.cmd.Stdout, p.cmd.Stderr = &p.out, &p.out
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("simulator: start pcscd: %w; %s", err, install)
	}
	go func() {
		_ = p.cmd.Wait() // it is told to end, or its output says why it did
		close(p.done)
	}()
	if err := p.await(ctx); err != nil {
		p.Kill()
		return nil, fmt.Errorf("simulator: pcscd: %w; it says: %s", err, strings.TrimSpace(p.Output()))
	}
	return p, nil
}

// Driver returns the file of the virtual readers' driver.
func Driver() (file string, err error) {
	found, _ := filepath.Glob(driverGlob)
	if len(found) == 0 {
		return "", fmt.Errorf("no vpcd driver at %s: %s", driverGlob, install)
	}
	return found[0], nil
}

// configure writes pcscd's configuration, beside its socket, and returns its directory.
func configure(readers int, name func(i int) string) (string, error) {
	file, err := Driver()
	if err != nil {
		return "", err
	}
	driver, err := os.ReadFile(file)
	if err != nil {
		return "", err
	}
	conf := filepath.Join(ipcDir, "reader.conf.d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return "", err
	}
	var text bytes.Buffer
	for i := 0; i < readers; i += 2 {
		// A driver serves two readers, and is loaded once a file.
		lib := filepath.Join(ipcDir, fmt.Sprintf("vpcd%d.so", i))
		if err := os.WriteFile(lib, driver, 0o755); err != nil {
			return "", err
		}
		port := VPCDPort + i
		fmt.Fprintf(&text, "FRIENDLYNAME \"%s\"\nDEVICENAME /dev/null:%#X\nLIBPATH %s\nCHANNELID %#X\n\n", name(i), port, lib, port)
	}
	return conf, os.WriteFile(filepath.Join(conf, "vpcd"), text.Bytes(), 0o644)
}

// await returns when pcscd takes connections, which is after it has found its readers.
func (p *PCSCD) await(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, 30*time.Second)
	defer cancel()
	for {
		var d net.Dialer
		c, err := d.DialContext(ctx, "unix", Socket(ipcDir))
		if err == nil {
			return c.Close()
		}
		select {
		case <-p.done:
			return errors.New("has ended")
		case <-ctx.Done():
			return err
		case <-time.After(5 * time.Millisecond):
		}
	}
}

// Done is closed when pcscd has ended.
func (p *PCSCD) Done() <-chan struct{} { return p.done }

// Output returns what pcscd has written, at most the last 64 KiB or so.
func (p *PCSCD) Output() string { return p.out.String() }

// Signal sends pcscd a signal.
func (p *PCSCD) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Stop ends pcscd in order, or after 5 s by force, and returns when it has ended.
func (p *PCSCD) Stop() {
	_ = p.Signal(syscall.SIGTERM) // fails when it has ended
	_ = p.Signal(syscall.SIGCONT) // it may have been stopped
	select {
	case <-p.done:
	case <-time.After(5 * time.Second):
		p.Kill()
	}
}

// Kill ends pcscd by force and returns when it has ended.
func (p *PCSCD) Kill() {
	_ = p.cmd.Process.Kill() // fails when it has ended
	<-p.done
}

// An output keeps the end of what a program writes.
type output struct {
	mu  sync.Mutex
	buf []byte
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.buf = append(o.buf, b...)
	if n := len(o.buf) - 64<<10; n > 0 {
		o.buf = append(o.buf[:0], o.buf[n:]...)
	}
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return string(o.buf)
}
