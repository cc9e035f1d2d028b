// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

// A user sits at the other side of a pseudo-terminal.
type user struct {
	t      *testing.T
	master *os.File
	tty    *os.File

	mu     sync.Mutex
	screen bytes.Buffer // all that was written
	seen   int          // that expect has passed
}

func newUser(t *testing.T) *user {
	t.Helper()
	u := &user{t: t}
	var err error
	if u.master, err = os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err != nil {
		t.Fatal(err)
	}
	n := 0
	raw, err := u.master.SyscallConn()
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
	if u.tty, err = os.OpenFile(fmt.Sprintf("/dev/pts/%d", n), os.O_RDWR|unix.O_NOCTTY, 0); err != nil {
		t.Fatal(err)
	}
	read := make(chan struct{})
	go func() {
		defer close(read)
		b := make([]byte, 4096)
		for {
			n, err := u.master.Read(b)
			if err != nil {
				return
			}
			u.mu.Lock()
			u.screen.Write(b[:n])
			u.mu.Unlock()
		}
	}()
	t.Cleanup(func() {
		u.tty.Close()
		u.master.Close()
		<-read
		if t.Failed() {
			t.Logf("screen: %q", u.screen.String())
		}
	})
	return u
}

// types presses keys.
func (u *user) types(keys string) {
	u.t.Helper()
	if _, err := io.WriteString(u.master, keys); err != nil {
		u.t.Fatal(err)
	}
}

// patience is how long the program has for anything, however busy the machine is.
const patience = time.Minute

// expect waits for a text that comes after all that was expected before.
func (u *user) expect(text string) {
	u.t.Helper()
	for end := time.Now().Add(patience); ; time.Sleep(time.Millisecond) {
		u.mu.Lock()
		// The terminal makes CR CR LF of the program's CR LF.
		rest := strings.ReplaceAll(u.screen.String(), "\r\r", "\r")[u.seen:]
		if i := strings.Index(rest, text); i >= 0 {
			u.seen += i + len(text)
			u.mu.Unlock()
			return
		}
		u.mu.Unlock()
		if time.Now().After(end) {
			u.t.Fatalf("no %q in %q", text, rest)
		}
	}
}

// mode is how the terminal is set.
func (u *user) mode() unix.Termios {
	u.t.Helper()
	m, err := unix.IoctlGetTermios(int(u.tty.Fd()), unix.TCGETS)
	if err != nil {
		u.t.Fatal(err)
	}
	return *m
}

// A sitting is a shell at a terminal, in real time.
type sitting struct {
	*user
	world
	stop context.CancelFunc
	done chan error
}

// sit starts a shell at u. change may redirect its streams, for one.
func sit(t *testing.T, u *user, change func(*Config, *Env)) *sitting {
	t.Helper()
	n := testnet.New()
	s := &sitting{user: u, done: make(chan error, 1)}
	s.world.t = t
	s.serverLn, s.bankLn = listen(t, n.Host("10.0.0.1"), ":9998"), listen(t, n.Host("10.0.0.2"), ":9999")
	log := logrus.New()
	log.SetOutput(u.tty)
	log.SetFormatter(&logrus.TextFormatter{DisableColors: true, DisableTimestamp: true})
	env := Env{Env: client.Env{Net: n.Host("10.0.0.3"), Log: log}, In: u.tty, Out: u.tty, Err: u.tty}
	cfg := Config{Config: client.Config{ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: []byte{0x3b, 0x00}}}
	if change != nil {
		change(&cfg, &env)
	}
	var ctx context.Context
	ctx, s.stop = context.WithCancel(t.Context())
	go func() { s.done <- Run(ctx, cfg, env) }()
	t.Cleanup(func() {
		s.stop()
		if s.done != nil {
			s.ends()
		}
		s.serverLn.Close()
		s.bankLn.Close()
	})
	return s
}

// ends expects the end of the program.
func (s *sitting) ends() {
	s.user.t.Helper()
	select {
	case err := <-s.done:
		if err != nil {
			s.user.t.Errorf("Run: %v", err)
		}
	case <-time.After(patience):
		s.user.t.Error("the program goes on")
	}
	s.done = nil
}

// serve brings a card.
func (s *sitting) serve() {
	s.user.t.Helper()
	s.server = testnet.AcceptPeer(s.user.t, s.serverLn)
	s.server.Patience = patience
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](s.server)
	s.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	s.server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: bankAddr})
	testnet.Expect[*rspro.ConfigClientBankRes](s.server)
	s.bankd = testnet.AcceptPeer(s.user.t, s.bankLn)
	s.bankd.Patience = patience
	_, req = testnet.ExpectPDU[*rspro.ConnectClientReq](s.bankd)
	s.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	s.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x02, 0x14, 0x50}})
	testnet.Expect[*rspro.SetAtrRes](s.bankd)
}

// command expects a command and answers it.
func (s *sitting) command(want string, response ...byte) {
	s.user.t.Helper()
	m := testnet.Expect[*rspro.TpduModemToCard](s.bankd)
	if got := fmt.Sprintf("%x", m.Data); got != want {
		s.user.t.Fatalf("command %s, want %s", got, want)
	}
	s.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: response})
}

const (
	keyUp    = "\x1b[A"
	keyDown  = "\x1b[B"
	keyLeft  = "\x1b[D"
	keyDel   = "\x7f"
	keyCtrlD = "\x04"
	keyCtrlA = "\x01"
)

// TestPrompt has a user type, edit, and fetch lines from history.
func TestPrompt(t *testing.T) {
	u := newUser(t)
	before := u.mode()
	s := sit(t, u, nil)
	u.expect("> ")
	s.serve()
	u.expect("SET_ATR: 3b 02 14 50 \r\n")
	u.expect("  direct convention, T=0\r\n")
	u.expect("> ")
	u.types("a0a40000023f00\r")
	s.command("a0a40000023f00", 0x9f, 0x17)
	u.expect("R-APDU: 9f 17 \r\n")
	u.expect("  9f17: done; 23 bytes wait for GET RESPONSE\r\n")
	u.expect("> ")

	// A line with a slip that is mended.
	u.types("a0c000001" + keyDel + "2\x7f17" + keyCtrlA + " " + keyLeft + "\r")
	s.command("a0c0000017", 0x90, 0x00)
	u.expect("R-APDU: 90 00 \r\n")
	u.expect("> ")

	// History: the line before the last one, and with a change the last one.
	u.types(keyUp + keyUp + "\r")
	s.command("a0a40000023f00", 0x9f, 0x16)
	u.expect("R-APDU: 9f 16 \r\n")
	u.types(keyUp + keyUp + keyUp + keyDown + keyDown + keyDel + keyDel + "02\r")
	s.command("a0a40000023f02", 0x94, 0x04)
	u.expect("R-APDU: 94 04 \r\n")

	// A bad line has no number: the user sees it.
	u.types("hello\r")
	u.expect("\r\n\"hello\": want a command in hex, RESET or help\r\n> ")

	// What comes while a line is being typed goes above it.
	u.types("a0b0")
	u.expect("a0b0")
	s.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x00}})
	testnet.Expect[*rspro.SetAtrRes](s.bankd)
	u.expect("SET_ATR: 3b 00 \r\n")
	u.expect("> a0b0")
	u.types("000001\r")
	s.command("a0b0000001", 0x00, 0x90, 0x00)
	u.expect("R-APDU: 00 90 00 \r\n")

	// Several lines pasted at once run in order.
	u.types("a0b0000001\ra0b0000002\r\na0b0000003\n")
	for i := byte(1); i <= 3; i++ {
		s.command(fmt.Sprintf("a0b00000%02x", i), 0x90, i)
		u.expect(fmt.Sprintf("R-APDU: 90 %02x \r\n", i))
	}

	u.expect("> ")
	u.types(keyCtrlD)
	s.ends()
	if after := u.mode(); after != before {
		t.Errorf("the terminal is left in mode %+v, was in %+v", after, before)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if strings.Contains(strings.ReplaceAll(u.screen.String(), "\r\n", ""), "\n") {
		t.Error("a line was ended without going back to the left")
	}
}

// While the shell has the terminal, Ctrl-C is a signal, as no other key is, and output of others is processed.
func TestTerminalMode(t *testing.T) {
	u := newUser(t)
	before := u.mode()
	runs, release := make(chan struct{}), make(chan struct{})
	started, free := sync.OnceFunc(func() { close(runs) }), sync.OnceFunc(func() { close(release) })
	s := sit(t, u, func(cfg *Config, env *Env) {
		cfg.Script, cfg.ScriptTimeout = "script", time.Minute
		env.StartScript = func(context.Context, string, []string) (func() error, error) {
			started()
			return func() error {
				<-release
				return nil
			}, nil
		}
	})
	t.Cleanup(free) // before sit's, which waits for the end
	u.expect("> ")
	m := u.mode()
	if m.Lflag&unix.ISIG == 0 || m.Oflag&unix.OPOST == 0 || m.Lflag&(unix.ECHO|unix.ICANON) != 0 ||
		m.Cc[unix.VINTR] == 0 || m.Cc[unix.VSUSP] != 0 || m.Cc[unix.VQUIT] != 0 {
		t.Errorf("mode %+v", m)
	}
	// The mode is back before the program has ended, which an event script holds up.
	s.server = testnet.AcceptPeer(t, s.serverLn)
	s.server.Patience = patience
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](s.server)
	s.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	<-runs
	s.stop()
	for end := time.Now().Add(patience); u.mode() != before; time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Errorf("the terminal is still in mode %+v, was in %+v", u.mode(), before)
			break
		}
	}
	select {
	case err := <-s.done:
		t.Fatalf("the program has ended without its script: %v", err)
	default:
	}
	free()
	s.ends()
	if after := u.mode(); after != before {
		t.Errorf("the terminal is left in mode %+v, was in %+v", after, before)
	}
	u.types("\r") // the goroutine that reads is still there
}

// The user hangs up.
func TestHangUp(t *testing.T) {
	u := newUser(t)
	s := sit(t, u, nil)
	u.expect("> ")
	u.master.Close()
	s.ends()
}

// Standard output that is no terminal gets what it gets in a script, while the prompt is there.
func TestOutputRedirected(t *testing.T) {
	u := newUser(t)
	var out text
	s := sit(t, u, func(_ *Config, env *Env) { env.Out = &out })
	s.serve()
	u.expect("direct convention")
	u.types("a0a40000023f00\r")
	s.command("a0a40000023f00", 0x9f, 0x17)
	u.expect("9f17: done")
	u.types(keyCtrlD)
	s.ends()
	if got, want := out.b.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 02 14 50 \nR-APDU: 9f 17 \n"; got != want {
		t.Errorf("standard output %q, want %q", got, want)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if strings.Contains(u.screen.String(), "R-APDU") {
		t.Error("an answer is on the terminal")
	}
}

// Without a terminal for standard error there is no prompt, and the terminal stays as it is.
func TestErrorsRedirected(t *testing.T) {
	u := newUser(t)
	before := u.mode()
	var errs text
	s := sit(t, u, func(_ *Config, env *Env) {
		env.Err = &errs
		env.Log.SetOutput(&errs)
	})
	s.serve()
	u.expect("SET_ATR: 3b 02 14 50 \r\n")
	if m := u.mode(); m != before {
		t.Errorf("mode %+v, was %+v", m, before)
	}
	u.types("a0a40000023f00\r")
	s.command("a0a40000023f00", 0x9f, 0x17)
	u.expect("a0a40000023f00\r\nR-APDU: 9f 17 \r\n")
	u.types(keyCtrlD)
	s.ends()
	if s := errs.b.String(); strings.Contains(s, "done") || strings.Contains(s, "convention") {
		t.Errorf("standard error: %s", s)
	}
	u.mu.Lock()
	defer u.mu.Unlock()
	if strings.Contains(u.screen.String(), "> ") {
		t.Error("there is a prompt")
	}
}
