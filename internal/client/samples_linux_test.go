// SPDX-License-Identifier: GPL-2.0-or-later

package client_test

import (
	"bufio"
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"remsim/internal/client"
)

const samples = "../../contrib/event-scripts"

// TestSamples has the shell check the sample scripts, and the form of their beginning.
func TestSamples(t *testing.T) {
	files, err := os.ReadDir(samples)
	if err != nil || len(files) != 3 {
		t.Fatalf("%v, %v", files, err)
	}
	for _, f := range files {
		name := filepath.Join(samples, f.Name())
		b, err := os.ReadFile(name)
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.HasPrefix(b, []byte("#!/bin/sh\n# SPDX-License-Identifier: GPL-2.0-or-later\n")) || !bytes.Contains(b, []byte("\nset -eu\n")) {
			t.Errorf("%s: its beginning isn't that of our scripts", name)
		}
		if i, err := f.Info(); err != nil || i.Mode()&0o111 != 0o111 {
			t.Errorf("%s can't be executed (%v)", name, err)
		}
		if out, err := exec.Command("sh", "-n", name).CombinedOutput(); err != nil {
			t.Errorf("%s: %v: %s", name, err, out)
		}
	}
}

// A sample is a call of a sample script with fakes of the programs that it calls.
type sample struct {
	calls  string // of the fakes, one a line, with their arguments
	stderr string
	status int
}

// call runs line as an event script is run, with programs that note their calls; fakes are their names and bodies.
func call(t *testing.T, line string, fakes map[string]string, vars ...string) sample {
	t.Helper()
	dir, err := filepath.Abs(samples)
	if err != nil {
		t.Fatal(err)
	}
	bin := t.TempDir()
	calls := filepath.Join(bin, "calls")
	for name, body := range fakes {
		script := fmt.Sprintf("#!/bin/sh\n%s\nfor a in %s \"$@\"; do printf '%%s ' \"$a\"; done >>%s\necho >>%s\n", body, name, calls, calls)
		if err := os.WriteFile(filepath.Join(bin, name), []byte(script), 0o755); err != nil {
			t.Fatal(err)
		}
	}
	stderr, err := os.Create(filepath.Join(bin, "stderr"))
	if err != nil {
		t.Fatal(err)
	}
	defer stderr.Close()
	old := os.Stderr
	os.Stderr = stderr // which scripts get
	wait, err := client.StartShell(t.Context(), dir+"/"+line, append(vars, "PATH="+bin+":"+os.Getenv("PATH")))
	os.Stderr = old
	if err != nil {
		t.Fatal(err)
	}
	var s sample
	if err := wait(); err != nil {
		exit, ok := err.(*exec.ExitError)
		if !ok {
			t.Fatal(err)
		}
		s.status = exit.ExitCode()
	}
	for _, f := range []struct {
		name string
		text *string
	}{{calls, &s.calls}, {stderr.Name(), &s.stderr}} {
		b, err := os.ReadFile(f.name)
		if err != nil && !os.IsNotExist(err) {
			t.Fatal(err)
		}
		*f.text = string(b)
	}
	return s
}

func (s sample) want(t *testing.T, calls, stderr string, status int) {
	t.Helper()
	if s.calls != calls || s.stderr != stderr || s.status != status {
		t.Errorf("calls %q, stderr %q, status %d; want %q, %q, %d", s.calls, s.stderr, s.status, calls, stderr, status)
	}
}

// version has gpioset tell its version, which is no call to note.
func version(v string) map[string]string {
	return map[string]string{"gpioset": fmt.Sprintf("[ \"$1\" != --version ] || { echo 'gpioset (libgpiod) v%s'; exit; }", v)}
}

func TestSampleGPIO(t *testing.T) {
	old, current := version("1.6.3"), version("2.2")
	call(t, "gpio-reset gpiochip0 17 request-modem-reset", old).want(t,
		"gpioset --mode=time --sec=0 --usec=300000 gpiochip0 17=1 \ngpioset gpiochip0 17=0 \n", "", 0)
	call(t, "gpio-reset gpiochip0 17=0 request-modem-reset", old, "RESET_MS=1500").want(t,
		"gpioset --mode=time --sec=1 --usec=500000 gpiochip0 17=0 \ngpioset gpiochip0 17=1 \n", "", 0)
	call(t, "gpio-reset gpiochip0 17 request-modem-reset", current).want(t, "gpioset --chip gpiochip0 --toggle 300ms,0 17=1 \n", "", 0)
	call(t, "gpio-reset gpiochip0 17=0 request-modem-reset", current).want(t, "gpioset --chip gpiochip0 --toggle 300ms,0 17=0 \n", "", 0)
	call(t, "gpio-reset gpiochip0 17 request-card-insert", current).want(t, "", "", 0)
	call(t, "gpio-reset gpiochip0 request-card-insert", current).want(t, "", "usage: gpio-reset CHIP LINE[=0] CAUSE\n", 2)
}

func TestSampleHTTP(t *testing.T) {
	curl := map[string]string{"curl": ""}
	call(t, "http-notify http://192.0.2.1/x request-sim-local", curl,
		"REMSIM_CAUSE=request-sim-local", "REMSIM_CLIENT_SLOT=23:0", "REMSIM_BANKD_ADDR=[2001:db8::1]:9999", "REMSIM_SIM_VCC=0").want(t,
		"curl --silent --show-error --fail --max-time 5 --output /dev/null --data-urlencode REMSIM_CAUSE=request-sim-local "+
			"--data-urlencode REMSIM_CLIENT_SLOT=23:0 --data-urlencode REMSIM_BANKD_ADDR=[2001:db8::1]:9999 --data-urlencode REMSIM_SIM_VCC=0 "+
			"http://192.0.2.1/x \n", "", 0)
	call(t, "http-notify request-sim-local", curl).want(t, "", "usage: http-notify URL CAUSE\n", 2)
	call(t, "http-notify http://192.0.2.1/x request-sim-local", map[string]string{"curl": "echo 'curl: (22) 404' >&2; exit 22"}).want(t,
		"", "curl: (22) 404\n", 22)
}

// TestSampleAT has the script talk to a modem at the other end of a pseudo-terminal.
func TestSampleAT(t *testing.T) {
	// The script's limit of 5 s isn't what is tested, and a busy machine may take as long to start a program.
	patient := map[string]string{"timeout": "[ \"$1\" = 5 ] || exit 125; shift; PATH=${PATH#*:}; exec timeout 60 \"$@\""}
	for _, c := range []struct {
		answer, stderr string
		status         int
	}{
		{"\r\nOK\r\n", "", 0},
		{"AT+CFUN=1,1\r\r\n+QIND: 1\r\n\r\nOK\r\n", "", 0},
		{"\r\n+CME ERROR: 4\r\n", "at-cfun: the modem at TTY says +CME ERROR: 4\n", 1},
		{"", "", 0}, // it vanishes
	} {
		master, tty := terminal(t)
		heard := make(chan string, 1)
		go func() {
			line, _ := bufio.NewReader(master).ReadString('\r')
			if c.answer == "" {
				master.Close()
			} else {
				_, _ = master.WriteString(c.answer)
			}
			heard <- line
		}()
		s := call(t, "at-cfun "+tty+" request-modem-reset", patient)
		s.stderr = strings.ReplaceAll(s.stderr, tty, "TTY")
		s.want(t, "", c.stderr, c.status)
		if got := <-heard; got != "AT+CFUN=1,1\r" {
			t.Errorf("modem has heard %q", got)
		}
	}
	_, tty := terminal(t)
	s := call(t, "at-cfun "+tty+" request-modem-reset", map[string]string{"timeout": "exit 124"})
	s.stderr = strings.ReplaceAll(s.stderr, tty, "TTY")
	s.want(t, "", "at-cfun: no answer of the modem at TTY\n", 1)
	call(t, "at-cfun /dev/nonexistent request-modem-reset", nil).want(t, "", "at-cfun: /dev/nonexistent isn't there: is the modem starting?\n", 1)
	call(t, "at-cfun /dev/nonexistent request-sim-local", nil).want(t, "", "", 0)
	call(t, "at-cfun request-sim-local", nil).want(t, "", "usage: at-cfun TTY CAUSE\n", 2)
}

// terminal returns both ends of a pseudo-terminal; its line stays the test's, so that it is there all the time.
func terminal(t *testing.T) (master *os.File, tty string) {
	t.Helper()
	master, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { master.Close() })
	n := 0
	raw, err := master.SyscallConn()
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
	// raw as the modem's line is; the script sets it again
	tty = fmt.Sprintf("/dev/pts/%d", n)
	line, err := os.OpenFile(tty, os.O_RDWR|unix.O_NOCTTY, 0)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { line.Close() })
	return master, tty
}
