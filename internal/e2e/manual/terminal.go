// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// A Terminal is a shell whose programs have a terminal, as they have with a reader.
type Terminal struct {
	cmd    *exec.Cmd
	script io.WriteCloser // commands for the shell; what programs read comes from the terminal
	master *os.File
	ended  chan struct{} // closed when the shell has
	busy   bool          // a command has been given whose end wasn't seen
	stays  bool          // it shall go on until Stop
	status int           // it may then end with, besides 0
	seen   int           // of text, by commands before

	mu      sync.Mutex
	text    strings.Builder
	changed chan struct{} // closed at the next output
}

// What the shell writes when a command has ended, around its status.
const (
	markBefore = "\x01"
	markAfter  = "\x02"
)

// OpenTerminal has a shell's command begin, in a new terminal.
func OpenTerminal(cmd *exec.Cmd) (*Terminal, error) {
	t := &Terminal{cmd: cmd, ended: make(chan struct{}), changed: make(chan struct{})}
	slave, err := t.open()
	if err != nil {
		return nil, fmt.Errorf("open a terminal: %w", err)
	}
	defer slave.Close()
	if t.script, err = cmd.StdinPipe(); err != nil {
		return nil, err
	}
	cmd.Stdout, cmd.Stderr = slave, slave
	if cmd.SysProcAttr == nil {
		cmd.SysProcAttr = new(syscall.SysProcAttr)
	}
	cmd.SysProcAttr.Setsid, cmd.SysProcAttr.Setctty, cmd.SysProcAttr.Ctty = true, true, 1
	if err := cmd.Start(); err != nil {
		t.master.Close()
		return nil, fmt.Errorf("start a shell: %w", err)
	}
	go t.read()
	go func() {
		_ = cmd.Wait() // it is told to end
		close(t.ended)
	}()
	// Ctrl-C is for what runs in the shell.
	return t, t.write("trap : INT\n")
}

func (t *Terminal) open() (slave *os.File, err error) {
	if t.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		return nil, err
	}
	defer func() {
		if err != nil {
			t.master.Close()
		}
	}()
	raw, err := t.master.SyscallConn()
	if err != nil {
		return nil, err
	}
	ctlErr := raw.Control(func(fd uintptr) {
		if err = unix.IoctlSetPointerInt(int(fd), unix.TIOCSPTLCK, 0); err != nil {
			return
		}
		// By name it may not be found, in a root directory of our own.
		n, _, errno := unix.Syscall(unix.SYS_IOCTL, fd, unix.TIOCGPTPEER, unix.O_RDWR|unix.O_NOCTTY|unix.O_CLOEXEC)
		if errno != 0 {
			err = errno
			return
		}
		slave = os.NewFile(n, "terminal")
		var mode *unix.Termios
		if mode, err = unix.IoctlGetTermios(int(n), unix.TCGETS); err != nil {
			return
		}
		mode.Lflag &^= unix.ECHO
		mode.Lflag |= unix.NOFLSH // or Ctrl-C could drop the mark of the end that it has brought about
		if err = unix.IoctlSetTermios(int(n), unix.TCSETS, mode); err != nil {
			return
		}
		err = unix.IoctlSetWinsize(int(n), unix.TIOCSWINSZ, &unix.Winsize{Row: 50, Col: 200})
	})
	return slave, errors.Join(err, ctlErr)
}

func (t *Terminal) read() {
	buf := make([]byte, 32<<10)
	for {
		n, err := t.master.Read(buf)
		if n > 0 {
			t.mu.Lock()
			t.text.Write(buf[:n])
			close(t.changed)
			t.changed = make(chan struct{})
			t.mu.Unlock()
		}
		if err != nil {
			return // EIO: the last program has closed it
		}
	}
}

func (t *Terminal) write(script string) error {
	_, err := io.WriteString(t.script, script)
	return err
}

// Begin has the shell run a command, which reads what is typed or finds that there is nothing to read.
func (t *Terminal) Begin(command string, typed bool) error {
	t.mu.Lock()
	t.seen = t.text.Len()
	t.mu.Unlock()
	t.busy = true
	input := "/dev/null"
	if typed {
		input = "/dev/tty"
	}
	return t.write("eval " + Quote(command) + " <" + input + "; printf '\\001%d\\002' $?\n")
}

// Type types a line into the program that runs.
func (t *Terminal) Type(line string) error {
	t.mu.Lock()
	t.seen = t.text.Len()
	t.mu.Unlock()
	_, err := io.WriteString(t.master, line+"\r")
	return err
}

// Interrupt is Ctrl-C.
func (t *Terminal) Interrupt() error {
	_, err := io.WriteString(t.master, "\x03")
	return err
}

// A Look is what a terminal shows since Begin or Type.
type Look struct {
	Lines  []string
	Ended  bool
	Status int // if Ended
}

// Look looks at the terminal, and says what is closed when there is more to see.
func (t *Terminal) Look() (l Look, more <-chan struct{}) {
	t.mu.Lock()
	defer t.mu.Unlock()
	text, mark, ended := strings.Cut(t.text.String()[t.seen:], markBefore)
	if ended {
		var status string
		if status, _, l.Ended = strings.Cut(mark, markAfter); l.Ended {
			l.Status, _ = strconv.Atoi(status) // printf's %d
			t.busy = false
		}
	}
	l.Lines = Screen(text)
	return l, t.changed
}

// Await looks until ok, for d at most; without an ok until the command has ended.
func (t *Terminal) Await(d time.Duration, ok func(Look) bool) (Look, error) {
	end := time.After(d)
	for {
		l, more := t.Look()
		if l.Ended || ok != nil && ok(l) {
			return l, nil
		}
		select {
		case <-more:
		case <-t.ended:
			return l, errors.New("the shell has ended")
		case <-end:
			return l, fmt.Errorf("not within %v", d)
		}
	}
}

// Stop ends the command that runs, if one does, by Ctrl-C. One that shall go on and hasn't is an error.
func (t *Terminal) Stop() error {
	stays := t.stays
	t.stays = false
	if l, _ := t.Look(); !t.busy {
		if stays {
			return fmt.Errorf("has ended by itself with status %d; the last that it wrote: %q", l.Status, tail(l.Lines))
		}
		return nil
	}
	if err := t.Interrupt(); err != nil {
		return err
	}
	l, err := t.Await(30*time.Second, nil)
	if err != nil {
		return fmt.Errorf("didn't end by Ctrl-C: %w; the last that it wrote: %q", err, tail(l.Lines))
	}
	if l.Status != 0 && l.Status != t.status && l.Status != 128+int(unix.SIGINT) {
		return fmt.Errorf("ended with status %d by Ctrl-C; the last that it wrote: %q", l.Status, tail(l.Lines))
	}
	return nil
}

// Close ends the terminal, and by that all that still runs in it.
func (t *Terminal) Close() {
	t.script.Close()
	t.master.Close() // SIGHUP
	select {
	case <-t.ended:
	case <-time.After(5 * time.Second):
		_ = t.cmd.Process.Kill()
		<-t.ended
	}
}

func tail(lines []string) []string { return lines[max(0, len(lines)-10):] }

// Quote returns s as a word of a shell.
func Quote(s string) string { return "'" + strings.ReplaceAll(s, "'", `'\''`) + "'" }
