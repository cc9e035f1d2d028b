// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	"remsim/internal/daemon"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestCommandLine checks that a wrong command line ends with status 2 and one line that names
// what is wrong and what is allowed.
func TestCommandLine(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		want   []string // in the one line
	}{
		{"--rspro-listen foo", 2, []string{"--rspro-listen", `"foo"`, "HOST:PORT"}},
		{"--rspro-listen :65536", 2, []string{"--rspro-listen", `":65536"`, "0..65535"}},
		{"--rest-listen 127.0.0.1", 2, []string{"--rest-listen", `"127.0.0.1"`, "HOST:PORT"}},
		{"--rest-listen=[::1:9", 2, []string{"--rest-listen", `"[::1:9"`, "HOST:PORT"}},
		{"--log-level 4", 2, []string{"--log-level", `"4"`, "debug"}},
		{"-d DMAIN,4", 2, []string{"-d", `"DMAIN,4"`, "LEVEL"}},
		{"-L=maybe", 2, []string{"-L", `maybe`, "true or false"}},
		{"-x", 2, []string{"-x", "want one of"}},
		{"--rspro", 2, []string{"--rspro", "want one of"}},
		{"--rest-listen", 2, []string{"--rest-listen", "missing"}},
		{"now", 2, []string{`"now"`, "options only"}},
		{"--log-level error --rspro-listen 203.0.113.1:9998", 1, []string{"listen for RSPRO on 203.0.113.1:9998", "assign"}},
	} {
		var out, errOut bytes.Buffer
		status := daemon.Execute(t.Context(), command(), strings.Fields(tt.args), &out, &errOut)
		line := errOut.String()
		if status != tt.status || out.Len() > 0 || strings.Count(line, "\n") != 1 {
			t.Errorf("%s: status %d, standard output %q, standard error %q", tt.args, status, &out, line)
		}
		for _, want := range tt.want {
			if !strings.Contains(line, want) {
				t.Errorf("%s: %q is not in %q", tt.args, want, line)
			}
		}
	}
	for _, args := range []string{"-h", "--help", "-V", "--version"} {
		var out, errOut bytes.Buffer
		status := daemon.Execute(t.Context(), command(), []string{args}, &out, &errOut)
		if status != 0 || out.Len() == 0 || errOut.Len() > 0 {
			t.Errorf("%s: status %d, standard output %q, standard error %q", args, status, &out, &errOut)
		}
	}
}

// TestPortInUse checks that a port that is taken ends the program with status 1.
func TestPortInUse(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	for _, args := range [][]string{
		{"--rspro-listen", ln.Addr().String(), "--rest-listen", "127.0.0.1:0"},
		{"--rspro-listen", "127.0.0.1:0", "--rest-listen", ln.Addr().String()},
	} {
		var out, errOut bytes.Buffer
		status := daemon.Execute(t.Context(), command(), append(args, "--log-level", "error"), &out, &errOut)
		if line := errOut.String(); status != 1 || strings.Count(line, "\n") != 1 ||
			!strings.Contains(line, ln.Addr().String()) || !strings.Contains(line, "in use") {
			t.Errorf("%v: status %d, standard error %q", args, status, line)
		}
	}
}

// output is what a program writes while it runs.
type output struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.buf.String()
}

// TestRun runs the program on loopback, finds its ports in its log, asks it something and stops it.
func TestRun(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, errOut output
	status := make(chan int, 1)
	go func() {
		status <- daemon.Execute(ctx, command(), []string{
			"-L", "-d", "DRSPRO,1:DREST,1:DMAIN,1", "--rspro-listen", "127.0.0.1:0", "--rest-listen", "[::1]:0",
		}, &out, &errOut)
	}()
	listening := regexp.MustCompile(`msg="listening for (REST|RSPRO)" addr="(\S+)"`)
	addrs := map[string]string{}
	for end := time.Now().Add(30 * time.Second); len(addrs) < 2; time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not ready: %s", errOut.String())
		}
		for _, m := range listening.FindAllStringSubmatch(errOut.String(), -1) {
			addrs[m[1]] = m[2]
		}
	}
	res, err := http.Get("http://" + addrs["REST"] + "/api/backend/v1/clients")
	if err != nil {
		t.Fatal(err)
	}
	body, err := io.ReadAll(res.Body)
	res.Body.Close()
	if err != nil || string(body) != `{"clients":[]}` {
		t.Errorf("GET: %q, %v", body, err)
	}
	c, err := net.Dial("tcp", addrs["RSPRO"])
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	http.DefaultClient.CloseIdleConnections()
	stop()
	select {
	case s := <-status:
		if s != 0 || out.String() != "" {
			t.Errorf("status %d, standard output %q", s, out.String())
		}
	case <-time.After(30 * time.Second):
		t.Error("still running after 30 s")
	}
}
