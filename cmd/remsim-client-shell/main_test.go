// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/daemon"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// asProgram in the environment makes the test binary the program.
const asProgram = "REMSIM_TEST_AS_PROGRAM"

func TestMain(m *testing.M) {
	if os.Getenv(asProgram) != "" {
		main()
	}
	os.Exit(m.Run())
}

func execute(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	cmd := command()
	cmd.SetIn(strings.NewReader(""))
	status = daemon.Execute(t.Context(), cmd, args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestBadOptions(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // beside the option's name, which the line must have
	}{
		{"-c 1024", "0..1023 or auto"},
		{"-c -1", "0..1023 or auto"},
		{"-c x", "0..1023 or auto"},
		{"--client-id=AUTO", "0..1023 or auto"},
		{"-n 1024", "0..1023"},
		{"-p 0", "1..65535"},
		{"-p 65536", "1..65535"},
		{"-a 3b", "2..55 bytes"},
		{"-a 3b0", "2..55 bytes"},
		{"-a " + strings.Repeat("3b", 56), "2..55 bytes"},
		{"-i host:9998", "without a port"},
		{"-i =", "host name"},
		{"--server-ip=", "host name"},
		{"--server-host=a/b", "host name"},
		{"--event-script-timeout=1ms", "100ms..1h"},
		{"--event-script-timeout=2h", "100ms..1h"},
		{"--log-level=loud", "want"},
		{"--gsmtap-ip=host", "IPv4 or IPv6 address"},
		{"--gsmtap-ip 127.0.0.1:0", "IPv4 or IPv6 address"},
		{"--server", "unknown option"}, // getopt's abbreviations are gone
		{"-V 1d50", "unknown option"},
		{"extra", "unexpected argument"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.SplitN(tc.args, " ", 2)
			status, out, errs := execute(t, args...)
			name, _, _ := strings.Cut(args[0], "=")
			if status != 2 || out != "" || strings.Count(errs, "\n") != 1 ||
				!strings.Contains(errs, name) || !strings.Contains(errs, tc.want) {
				t.Errorf("status %d, stdout %q, stderr %q, want 2 and one line with %q and %q", status, out, errs, name, tc.want)
			}
		})
	}
}

func TestGoodOptions(t *testing.T) {
	for _, args := range []string{
		"", "-i ::1 -p 1 -c 1023 -n 1023", "-s host -c auto", "-i [2001:db8::1]",
		"--server-ip=192.0.2.1 --server-port=9998 --client-id=0 --client-slot=0 --atr=3b00 --atr-ignore-rspro --event-script=true",
		"-a 3b00 -r -e true --event-script-timeout=30s -d DMAIN,1:DRSPRO -L --log-level=7",
	} {
		// The end of standard input ends it at once, server or not.
		if status, out, errs := execute(t, append(strings.Fields(args), "-L")...); status != 0 || out != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", args, status, out, errs)
		}
	}
	for _, arg := range []string{"-v", "--version", "-h", "--help"} {
		if status, out, errs := execute(t, arg); status != 0 || out == "" || errs != "" {
			t.Errorf("%s: status %d, stdout %q, stderr %q", arg, status, out, errs)
		}
	}
}

// A file for traces that can't be written ends the program at its start.
func TestBadTrace(t *testing.T) {
	status, out, errs := execute(t, "--pcap", t.TempDir(), "--log-level", "fatal")
	if status != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, "pcap file") || !strings.Contains(errs, "is a directory") {
		t.Errorf("status %d, stdout %q, stderr %q", status, out, errs)
	}
}

// TestProcess runs the program over TCP between a scripted server and a scripted bankd, with an
// event script.
func TestProcess(t *testing.T) {
	dir := t.TempDir()
	listen := func() net.Listener {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln
	}
	serverLn, bankLn := listen(), listen()
	script := filepath.Join(dir, "script")
	events := filepath.Join(dir, "events")
	text := "#!/bin/sh\necho \"$1 $REMSIM_CAUSE $REMSIM_CLIENT_SLOT $REMSIM_BANKD_SLOT $REMSIM_SERVER_STATE $SECRET\" >>" + events + "\n"
	if err := os.WriteFile(script, []byte(text), 0o755); err != nil {
		t.Fatal(err)
	}

	port := serverLn.Addr().(*net.TCPAddr).Port
	receiver, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	defer receiver.Close()
	trace := filepath.Join(dir, "trace.pcap")
	cmd := exec.Command(os.Args[0], "-i", "127.0.0.1", "-p", fmt.Sprint(port), "-c", "23", "-n", "1", "-e", script,
		"--gsmtap-ip", receiver.LocalAddr().String(), "--pcap", trace)
	cmd.Env = append(os.Environ(), asProgram+"=1", "SECRET=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	var out, errs bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &errs
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() {
		if t.Failed() {
			cmd.Process.Kill()
			<-ended
			t.Logf("stdout %s\nstderr %s", &out, &errs)
		}
	}()

	const patience = time.Minute // for what takes well under a second
	server := testnet.AcceptPeer(t, serverLn)
	server.Patience = patience
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](server)
	server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	bank := slot.Bank{ID: 1, Slot: 5}
	me := slot.Client{ID: 23, Slot: 1}
	server.Send(&rspro.ConfigClientBankReq{Bank: bank, Bankd: netip.MustParseAddrPort(bankLn.Addr().String())})
	testnet.Expect[*rspro.ConfigClientBankRes](server)
	bankd := testnet.AcceptPeer(t, bankLn)
	bankd.Patience = patience
	_, req = testnet.ExpectPDU[*rspro.ConnectClientReq](bankd)
	bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x02, 0x14, 0x50}})
	testnet.Expect[*rspro.SetAtrRes](bankd)
	// At the end there are 4 s for all scripts that wait: better only for the last ones.
	for end := time.Now().Add(patience); ; time.Sleep(10 * time.Millisecond) {
		if got, _ := os.ReadFile(events); bytes.Contains(got, []byte("event-bankd-connect")) {
			break
		} else if time.Now().After(end) {
			t.Fatalf("event scripts have seen %q", got)
		}
	}
	if _, err := io.WriteString(stdin, "a0a40000023f00\na0a4\na0b000000a"); err != nil {
		t.Fatal(err)
	}
	stdin.Close()
	for range 2 {
		testnet.Expect[*rspro.TpduModemToCard](bankd)
		bankd.Send(&rspro.TpduCardToModem{From: bank, To: me, Data: []byte{0x90, 0x00}})
	}
	bankd.ExpectEnd(patience)

	select {
	case err := <-ended:
		if err != nil {
			t.Errorf("status: %v", err)
		}
		ended <- nil
	case <-time.After(patience):
		t.Fatal("the program goes on")
	}
	if got, want := out.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 02 14 50 \nR-APDU: 90 00 \nR-APDU: 90 00 \n"; got != want {
		t.Errorf("standard output %q, want %q", got, want)
	}
	if got, want := errs.String(), "line 2: command of 2 bytes: want 5..260\n"; !strings.Contains(got, want) {
		t.Errorf("standard error %q, want %q in it", got, want)
	}
	var want strings.Builder
	for _, cause := range []string{
		"event-server-connect", "event-config-bankd",
		"request-sim-remote", "request-card-insert", "request-modem-reset", "event-bankd-connect",
		"request-card-remove", "request-sim-local", "request-modem-reset",
	} {
		slots := "23:1 1:5"
		if cause == "event-server-connect" {
			slots = "23:1 0:0"
		}
		fmt.Fprintf(&want, "%s %s %s CONNECTED \n", cause, cause, slots)
	}
	traced := []string{"\x3b\x02\x14\x50", "\xa0\xa4\x00\x00\x02\x3f\x00\x90\x00", "\xa0\xb0\x00\x00\x0a\x90\x00"}
	receiver.SetReadDeadline(time.Now().Add(10 * time.Second))
	for _, want := range traced {
		b := make([]byte, 1000)
		n, err := receiver.Read(b)
		if err != nil || n < 16 || string(b[16:n]) != want {
			t.Errorf("GSMTAP % x, %v, want % x", b[:n], err, want)
		}
	}
	file, err := os.ReadFile(trace)
	for _, want := range traced {
		if _, after, found := bytes.Cut(file, []byte(want)); !found {
			t.Errorf("no % x in what is left of the pcap file, %v: % x", want, err, file)
		} else {
			file = after
		}
	}
	if got, err := os.ReadFile(events); err != nil || string(got) != want.String() {
		t.Errorf("events, %v:\n%swant:\n%s", err, got, want.String())
	}
}

// TestTerminated ends the program while it waits for input and for a server.
func TestTerminated(t *testing.T) {
	cmd := exec.Command(os.Args[0], "-p", "1")
	cmd.Env = append(os.Environ(), asProgram+"=1")
	stdin, err := cmd.StdinPipe()
	if err != nil {
		t.Fatal(err)
	}
	defer stdin.Close()
	stderr, err := cmd.StderrPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	if _, err := stderr.Read(make([]byte, 1)); err != nil { // its log has begun
		t.Fatal(err)
	}
	if err := cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	go io.Copy(io.Discard, stderr)
	limit := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer limit.Stop()
	if err := cmd.Wait(); err != nil {
		t.Errorf("status: %v", err)
	}
}
