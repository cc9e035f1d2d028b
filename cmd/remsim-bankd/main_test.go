// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"os"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/daemon"
)

// run is the program.
func run(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, err bytes.Buffer
	status = daemon.Execute(context.Background(), command(), args, &out, &err)
	return status, out.String(), err.String()
}

func TestBadOptions(t *testing.T) {
	for _, tt := range []struct {
		args string
		want []string
	}{
		{"", []string{"-i --server-host"}},
		{"-i", []string{"-i --server-host"}},
		{"-i h:9998", []string{"-i --server-host", `"h:9998"`, "without a port"}},
		{"-i [::1]:9998", []string{"-i --server-host", `"[::1]:9998"`, "without a port"}},
		{"--server-host=", []string{"-i --server-host", `""`, "host name"}},
		{"-i h -p 0", []string{"-p --server-port", `"0"`, "1..65535"}},
		{"-i h --bank-id=1024", []string{"-b --bank-id", `"1024"`, "0..1023"}},
		{"-i h -n 0", []string{"-n --num-slots", `"0"`, "1..1023"}},
		{"-i h -n x", []string{"-n --num-slots", `"x"`, "1..1023"}},
		{"-i h -N " + strings.Repeat("x", 33), []string{"-N --component-name", "32"}},
		{"-i h -N bänk", []string{"-N --component-name", "bänk"}},
		{"-i h -I host", []string{"-I --bind-ip", `"host"`, "address"}},
		{"-i h -P 65536", []string{"-P --bind-port", `"65536"`, "0..65535"}},
		{"-i h -g host", []string{"-g --gsmtap-ip", `"host"`, "address"}},
		{"-i h -G -1", []string{"-G --gsmtap-slot", `"-1"`, "0..1023"}},
		{"-i h --advertise 192.0.2.1", []string{"--advertise", `"192.0.2.1"`, "ADDR:PORT"}},
		{"-i h --advertise 192.0.2.1:0", []string{"--advertise", "ADDR:PORT"}},
		{"-i h --advertise 0.0.0.0:1", []string{"--advertise", "ADDR:PORT"}},
		{"-i h --max-connections 0", []string{"--max-connections", `"0"`, "1..65535"}},
		{"-i h --card-timeout 0s", []string{"--card-timeout", `"0s"`, "1s..10m"}},
		{"-i h -e 2", []string{"-e --log-level", `"2"`}},
		{"-i h --no-such", []string{"--no-such"}},
		{"-i h extra", []string{`"extra"`}},
	} {
		t.Run(tt.args, func(t *testing.T) {
			status, stdout, stderr := run(t, strings.Fields(tt.args)...)
			if status != 2 || stdout != "" || strings.Count(stderr, "\n") != 1 {
				t.Errorf("status %d, standard output %q, standard error %q", status, stdout, stderr)
			}
			for _, w := range tt.want {
				if !strings.Contains(stderr, w) {
					t.Errorf("%q lacks %q", stderr, w)
				}
			}
		})
	}
}

func TestFails(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	_, taken, _ := net.SplitHostPort(ln.Addr().String())
	for _, tt := range []struct {
		name, args, slots, want string
	}{
		{"no slots file", "", "-", "bankd_pcsc_slots.csv"},
		{"other slots file", "--slots-file other.csv", "", "other.csv"},
		{"bad line", "", "\n1,2\n", "bankd_pcsc_slots.csv:2: "},
		{"slot twice", "", "1,2,softsim:\n1,2,b\n", "bankd_pcsc_slots.csv:1 already"},
		{"bad software card", "", "1,0,softsim:iccid=x\n", "bankd_pcsc_slots.csv:1: "},
		{"bad trace file", "--pcap /dev/full", "", "pcap file: write /dev/full: no space left"},
		{"port in use", "-I 127.0.0.1 -P " + taken, "", "in use"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tt.slots != "-" {
				if err := os.WriteFile("bankd_pcsc_slots.csv", []byte(tt.slots), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			args := append([]string{"-i", "127.0.0.1", "-e", "fatal"}, strings.Fields(tt.args)...)
			status, stdout, stderr := run(t, args...)
			if status != 1 || stdout != "" || strings.Count(stderr, "\n") != 1 || !strings.Contains(stderr, tt.want) {
				t.Errorf("status %d, standard output %q, standard error %q, want %q", status, stdout, stderr, tt.want)
			}
		})
	}
}

// With all options of the C program it starts, and ends in order when asked.
func TestRuns(t *testing.T) {
	t.Chdir(t.TempDir())
	if err := os.WriteFile("bankd_pcsc_slots.csv", []byte("1,0,softsim:iccid=89490000000000000011,imsi=262010000000001\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	logs := &waiter{want: "listening for RSPRO", found: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		select {
		case <-logs.found:
		case <-t.Context().Done():
		}
		cancel()
	}()
	var out bytes.Buffer
	args := strings.Fields("-i [::1] -p 1 -b 1 -n 1023 -N name -I 127.0.0.1 -P 0 -s -g 127.0.0.1 -G 3 --pcap trace.pcap -d DMAIN,1:DRSPRO:DGSMTAP -L -T -e 1")
	if status := daemon.Execute(ctx, command(), args, &out, logs); status != 0 || out.Len() > 0 {
		t.Errorf("status %d, standard output %q", status, out.String())
	}
	for _, w := range []string{"receiver=\"127.0.0.1:4729\"", "file=trace.pcap", "all cards are powered off"} {
		if !strings.Contains(logs.all.String(), w) {
			t.Errorf("no %q in the log:\n%s", w, logs.all.String())
		}
	}
}

// SIGHUP has it read the slots file again, and a bad one doesn't end it.
func TestSIGHUP(t *testing.T) {
	t.Chdir(t.TempDir())
	const (
		file = "bankd_pcsc_slots.csv"
		card = "1,0,softsim:iccid=89490000000000000011,imsi=262010000000001\n"
	)
	write := func(content string) {
		if err := os.WriteFile(file, []byte(content), 0o600); err != nil {
			t.Error(err)
		}
	}
	write(card)
	ready := &waiter{want: "listening for RSPRO", found: make(chan struct{})}
	bad := &waiter{want: file + ":2: ", found: make(chan struct{})}
	good := &waiter{want: "lines=2", found: make(chan struct{})}
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	go func() {
		defer cancel()
		for _, step := range []struct {
			w    *waiter
			next string
		}{{ready, card + "1,0\n"}, {bad, card + "2,0,softsim:imsi=262010000000002\n"}, {good, ""}} {
			select {
			case <-step.w.found:
			case <-time.After(30 * time.Second):
				t.Errorf("no %q in the log", step.w.want)
				return
			}
			if step.next != "" {
				write(step.next)
				if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
					t.Error(err)
				}
			}
		}
	}()
	args := strings.Fields("-i 127.0.0.1 -p 1 -I 127.0.0.1 -P 0")
	if status := daemon.Execute(ctx, command(), args, io.Discard, io.MultiWriter(ready, bad, good)); status != 0 {
		t.Errorf("status %d", status)
	}
}

// A waiter is a log that tells when a text has come. logrus serialises writes.
type waiter struct {
	all   bytes.Buffer
	want  string
	found chan struct{}
	done  bool
}

func (w *waiter) Write(b []byte) (int, error) {
	w.all.Write(b)
	if !w.done && strings.Contains(w.all.String(), w.want) {
		w.done = true
		close(w.found)
	}
	return len(b), nil
}
