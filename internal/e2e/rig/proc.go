// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"bufio"
	"bytes"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Proc is a program that was started. Its standard error is kept as text to look
// for messages in, its standard output comes as lines.
type Proc struct {
	Name  string
	Stdin io.WriteCloser // of the process; Close ends its input
	Lines chan string    // of its standard output, closed at its end

	cmd  *exec.Cmd
	log  text
	done chan struct{} // closed when it has ended and all its output was read
}

// Start runs a program (a name for messages, a path, arguments).
func Start(name, path string, args ...string) (*Proc, error) {
	return start(name, exec.Command(path, args...))
}

// start runs a command whose standard streams are the Proc's.
func start(name string, cmd *exec.Cmd) (*Proc, error) {
	p := &Proc{Name: name, cmd: cmd, Lines: make(chan string, 256), done: make(chan struct{})}
	p.log.changed = make(chan struct{})
	p.cmd.Stderr = &p.log
	if p.cmd.SysProcAttr == nil {
		p.cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	p.cmd.SysProcAttr.Setpgid = true
	var err error
	if p.Stdin, err = p.cmd.StdinPipe(); err != nil {
		return nil, err
	}
	stdout, err := p.cmd.StdoutPipe()
	if err != nil {
		return nil, err
	}
	if err := p.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", name, err)
	}
	go func() {
		defer close(p.done)
		s := bufio.NewScanner(stdout)
		for s.Scan() {
			p.Lines <- s.Text()
		}
		close(p.Lines)
		_ = p.cmd.Wait() // the status is in ProcessState
	}()
	return p, nil
}

// Done is closed when the process has ended.
func (p *Proc) Done() <-chan struct{} { return p.done }

// PID returns the process's number.
func (p *Proc) PID() int { return p.cmd.Process.Pid }

// Log returns what the process has written to standard error.
func (p *Proc) Log() string { log, _ := p.log.from(0); return log }

// Signal sends a signal to the process.
func (p *Proc) Signal(s syscall.Signal) error { return p.cmd.Process.Signal(s) }

// Freeze has the process hang until SIGCONT, and returns when all of it does.
func (p *Proc) Freeze() error {
	if err := p.Signal(syscall.SIGSTOP); err != nil {
		return err
	}
	return unix.Waitid(unix.P_PID, p.PID(), nil, unix.WSTOPPED|unix.WNOWAIT, nil)
}

// Limit lets the process have so many descriptors.
func (p *Proc) Limit(descriptors uint64) error {
	return unix.Prlimit(p.PID(), unix.RLIMIT_NOFILE, &unix.Rlimit{Cur: descriptors, Max: descriptors}, nil)
}

// Kill ends the process at once, with those it started, and waits for its end.
func (p *Proc) Kill() {
	select {
	case <-p.done: // its number may be another's by now
	default:
		_ = syscall.Kill(-p.PID(), syscall.SIGKILL)
		p.drain()
		<-p.done
	}
}

// Stop asks the process to end and returns its exit status; one that hasn't ended after 20 s, several times what a
// bankd takes whose cards hang, is killed, which is an error.
func (p *Proc) Stop() (int, error) {
	_ = p.Signal(syscall.SIGTERM) // it may have gone already
	status, err := p.Wait(20 * time.Second)
	if err != nil {
		p.Kill()
	}
	return status, err
}

// Wait waits for the process's end and returns its exit status.
func (p *Proc) Wait(d time.Duration) (int, error) {
	p.drain()
	return p.Exit(d)
}

// Exit is Wait for a process whose Lines somebody reads.
func (p *Proc) Exit(d time.Duration) (int, error) {
	select {
	case <-p.done:
		return p.cmd.ProcessState.ExitCode(), nil
	case <-time.After(d):
		return 0, fmt.Errorf("%s is still running after %v", p.Name, d)
	}
}

// drain drops what nobody read of standard output, so that it can't keep the process.
func (p *Proc) drain() {
	go func() {
		for range p.Lines {
		}
	}()
}

// Line returns the next line of standard output.
func (p *Proc) Line(d time.Duration) (string, error) {
	select {
	case l, ok := <-p.Lines:
		if !ok {
			return "", fmt.Errorf("%s: end of output", p.Name)
		}
		return l, nil
	case <-time.After(d):
		return "", fmt.Errorf("%s: no output for %v", p.Name, d)
	}
}

// Await waits until a line of the log has all of parts and returns it.
func (p *Proc) Await(d time.Duration, parts ...string) (string, error) {
	return p.AwaitFrom(0, d, parts...)
}

// Mark returns how much log there is, for AwaitFrom and LogFrom.
func (p *Proc) Mark() int {
	p.log.mu.Lock()
	defer p.log.mu.Unlock()
	return p.log.buf.Len()
}

// LogFrom returns what was logged after a Mark, and what is closed when there is more.
func (p *Proc) LogFrom(mark int) (log string, more <-chan struct{}) { return p.log.from(mark) }

// AwaitFrom is Await for what is logged after a Mark.
func (p *Proc) AwaitFrom(mark int, d time.Duration, parts ...string) (string, error) {
	end := time.After(d)
	for {
		log, changed := p.log.from(mark)
		for line := range strings.Lines(log) {
			if hasAll(line, parts) {
				return strings.TrimSuffix(line, "\n"), nil
			}
		}
		select {
		case <-changed:
		case <-p.done:
			if again, _ := p.log.from(mark); again == log {
				return "", fmt.Errorf("%s ended without logging %q", p.Name, parts)
			}
		case <-end:
			return "", fmt.Errorf("%s didn't log %q within %v", p.Name, parts, d)
		}
	}
}

func hasAll(s string, parts []string) bool {
	for _, p := range parts {
		if !strings.Contains(s, p) {
			return false
		}
	}
	return true
}

// text collects output and tells of changes.
type text struct {
	mu      sync.Mutex
	buf     bytes.Buffer
	changed chan struct{} // closed at the next write
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	close(t.changed)
	t.changed = make(chan struct{})
	return t.buf.Write(b)
}

func (t *text) from(mark int) (string, <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf.Bytes()[mark:]), t.changed
}

// Execute runs a program to its end and returns its output and its exit status.
func Execute(d time.Duration, path string, args ...string) (stdout, stderr string, status int, err error) {
	var out, errs bytes.Buffer
	cmd := exec.Command(path, args...)
	cmd.Stdout, cmd.Stderr = &out, &errs
	cmd.WaitDelay = time.Second
	if err := cmd.Start(); err != nil {
		return "", "", 0, err
	}
	late := time.AfterFunc(d, func() { _ = cmd.Process.Kill() })
	err = cmd.Wait()
	var exit *exec.ExitError
	switch {
	case !late.Stop():
		err = fmt.Errorf("%s %q is still running after %v", path, args, d)
	case errors.As(err, &exit):
		err = nil
	}
	return out.String(), errs.String(), cmd.ProcessState.ExitCode(), err
}
