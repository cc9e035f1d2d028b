// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/daemon"
	"remsim/internal/simulator"
)

// programEnv makes the test binary be the program.
const programEnv = "REMSIM_SIMULATOR_TEST"

func TestMain(m *testing.M) {
	if os.Getenv(programEnv) != "" {
		main()
	}
	os.Exit(m.Run())
}

func TestUsage(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string // in the one line on standard error
	}{
		{"", nil},
		{"nest", []string{"nest"}},
		{"cards --count 0", []string{"--count", "0", "1..16"}},
		{"cards --count 17", []string{"--count", "17", "1..16"}},
		{"cards --count x", []string{"--count", "x"}},
		{"cards --vpcd nowhere", []string{"--vpcd", "nowhere"}},
		{"cards --vpcd 127.0.0.1:65530 --count 8", []string{"--vpcd", "127.0.0.1:65530", "65535"}},
		{"cards surplus", []string{"surplus"}},
		{"cards --nonsense", []string{"--nonsense"}},
		{"pcscd --count 8 --readers 4", []string{"--readers 4", "--count 8"}},
		{"modem --boards 0", []string{"--boards", "0", "1..8"}},
		{"modem --device toaster", []string{"--device", "toaster", "sysmoQMOD"}},
		{"modem --usbip-listen nowhere", []string{"--usbip-listen", "nowhere"}},
		{"swarm --banks 1025", []string{"--banks", "1025", "0..1024"}},
		{"swarm --banks 2 --first-bank 1023", []string{"--first-bank 1023", "--banks 2", "1023"}},
		{"swarm --clients -1", []string{"--clients", "-1", "0..1048576"}},
		{"swarm --clients 2 --first-client 1048575", []string{"--first-client 1048575", "--clients 2", "1048575"}},
		{"swarm --churn NaN", []string{"--churn", "NaN", "0..1000"}},
		{"swarm --tpdus -1", []string{"--tpdus", "-1", "0..1000000"}},
		{"swarm --faults x", []string{"--faults", "x", "0..1000"}},
		{"swarm --bankd 5", []string{"--bankd", `"5"`, "ID:SLOTS"}},
		{"swarm --bankd 5:0", []string{"--bankd", `"5:0"`, "1..1023"}},
		{"swarm --bankd 1:8", []string{"--bankd", "bank 1"}},
		{"swarm --bankd 5:8 --bankd 5:9", []string{"--bankd", "bank 5"}},
		{"swarm --listen 0.0.0.0", []string{"--listen", "0.0.0.0"}},
		{"swarm --rest 127.0.0.1:9997", []string{"--rest", "127.0.0.1:9997", "http://"}},
		{"swarm --server nowhere", []string{"--server", "nowhere"}},
		{"pcscd --readers 17", []string{"--readers", "17"}},
	} {
		var out, errOut bytes.Buffer
		status := daemon.Execute(context.Background(), command(), strings.Fields(tt.args), &out, &errOut)
		if status != 2 || strings.Count(errOut.String(), "\n") != 1 {
			t.Errorf("%q: status %d, %q; want 2 and one line", tt.args, status, errOut.String())
		}
		for _, s := range tt.want {
			if !strings.Contains(errOut.String(), s) {
				t.Errorf("%q: %q lacks %q", tt.args, errOut.String(), s)
			}
		}
	}
}

// A name that isn't known is no matter of the command line.
func TestUnknownHost(t *testing.T) {
	var out, errOut bytes.Buffer
	args := []string{"cards", "--vpcd", "no-such-host.invalid:1"}
	if status := daemon.Execute(context.Background(), command(), args, &out, &errOut); status != 1 {
		t.Errorf("status %d, %q", status, errOut.String())
	}
}

// start starts the program and returns it with its output's lines.
func start(t *testing.T, args ...string) (*exec.Cmd, *bufio.Scanner) {
	t.Helper()
	cmd := program(args...)
	return cmd, run(t, cmd)
}

// program is the program with these arguments.
func program(args ...string) *exec.Cmd {
	cmd := exec.Command(os.Args[0], args...)
	cmd.Env = append(os.Environ(), programEnv+"=1")
	cmd.Stderr = os.Stderr
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	return cmd
}

// run starts cmd and returns its output's lines.
func run(t *testing.T, cmd *exec.Cmd) *bufio.Scanner {
	t.Helper()
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = cmd.Process.Kill(); _, _ = io.Copy(io.Discard, out); _ = cmd.Wait() })
	return bufio.NewScanner(out)
}

// socket reads where the pcscd of the program is.
func socket(t *testing.T, lines *bufio.Scanner) string {
	t.Helper()
	if !lines.Scan() {
		t.Fatalf("no output: %v", lines.Err())
	}
	path, ok := strings.CutPrefix(lines.Text(), simulator.SocketEnv+"=")
	if !ok {
		t.Fatalf("output %q", lines.Text())
	}
	return path
}

// alive reports whether a pcscd takes connections.
func alive(path string) bool {
	c, err := net.Dial("unix", path)
	if err == nil {
		c.Close()
	}
	return err == nil
}

// A private pcscd is reached from outside its namespaces, and ends with the program: when that is told to,
// and when it is killed.
func TestPCSCD(t *testing.T) {
	for _, how := range []syscall.Signal{syscall.SIGTERM, syscall.SIGKILL} {
		t.Run(how.String(), func(t *testing.T) {
			dir := t.TempDir()
			if how == syscall.SIGTERM {
				dir = "" // of its own
			}
			cmd, lines := start(t, "pcscd", "--count", "3", "--readers", "4", "--dir", dir)
			path := socket(t, lines)
			if dir != "" && path != filepath.Join(dir, "pcscd.comm") {
				t.Errorf("socket %s", path)
			}
			if !alive(path) {
				t.Fatal("pcscd doesn't take connections")
			}
			visit(t, path, 3)
			if err := cmd.Process.Signal(how); err != nil {
				t.Fatal(err)
			}
			err := cmd.Wait()
			if how == syscall.SIGTERM {
				if err != nil {
					t.Errorf("ended with %v", err)
				}
				if _, err := os.Stat(filepath.Dir(path)); !errors.Is(err, os.ErrNotExist) {
					t.Errorf("its directory is still there: %v", err)
				}
			}
			for end := time.Now().Add(time.Minute); alive(path); time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatal("pcscd outlives the program")
				}
			}
		})
	}
}

func TestPCSCDLongPath(t *testing.T) {
	dir := filepath.Join(t.TempDir(), strings.Repeat("x", 120))
	cmd, _ := start(t, "pcscd", "--dir", dir)
	var exit *exec.ExitError
	if err := cmd.Wait(); !errors.As(err, &exit) || exit.ExitCode() != 1 {
		t.Errorf("%v, want status 1", err)
	}
}

// Cards and pcscd do what standard input says.
func TestControl(t *testing.T) {
	cmd := program("pcscd", "--count", "3", "--control")
	in, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	lines := run(t, cmd)
	path := socket(t, lines)
	obey := func(line, want string) {
		t.Helper()
		if _, err := io.WriteString(in, line+"\n"); err != nil {
			t.Fatal(err)
		}
		if !lines.Scan() || lines.Text() != want {
			t.Errorf("%q: %q, want %q", line, lines.Text(), want)
		}
	}
	for _, how := range []string{"kill", "stop"} {
		obey("pcscd continue", "ok pcscd continue")
		obey("pcscd start", "error pcscd is running")
		if how == "stop" {
			obey("pcscd stop", "ok pcscd stop")
		}
		obey("pcscd kill", "ok pcscd kill")
		if alive(path) {
			t.Error("pcscd is alive")
		}
		obey("pcscd stop", "error pcscd isn't running")
		obey("pcscd start 4", "ok pcscd start 4")
		if !alive(path) {
			t.Error("pcscd doesn't take connections")
		}
	}
	obey("pull 2", "ok pull 2")
	obey("insert 2", "ok insert 2")
	obey("swap 0", "ok swap 0 iccid=8988211000000000100 imsi=001010000000100")
	obey("pull 3", `error pull: card "3": want 0..2`)
	obey("pcscd stop", "ok pcscd stop")
	// It ends in order also when pcscd hangs, and when there are no more commands.
	in.Close()
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if err := cmd.Wait(); err != nil {
		t.Errorf("ended with %v", err)
	}
}
