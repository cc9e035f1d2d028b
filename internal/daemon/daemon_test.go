// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/exec"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/spf13/cobra"
)

func TestIA5(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"bank1", "bank1"},
		{"bank1.example.org", "bank1.example.org"},
		{"", "localhost"},
		{" \x00é", "localhost"},
		{"bänk 1\n", "bnk1"},
		{strings.Repeat("x", 32), strings.Repeat("x", 32)},
		{strings.Repeat("x", 33), strings.Repeat("x", 32)},
	} {
		if got := ia5(tt.in); got != tt.want {
			t.Errorf("ia5(%q) = %q, want %q", tt.in, got, tt.want)
		}
	}
	if n := len(HostName()); n < 1 || n > maxName {
		t.Errorf("HostName() = %q", HostName())
	}
	if n := len(Version()); n < 1 || n > maxName {
		t.Errorf("Version() = %q", Version())
	}
}

func TestReport(t *testing.T) {
	var b bytes.Buffer
	report(&b, func(w io.Writer) { io.WriteString(w, "3 connections\n") })
	if s := b.String(); !strings.HasPrefix(s, "3 connections\n") || !strings.Contains(s, "daemon.TestReport") {
		t.Errorf("report: %s", s)
	}
}

// helperVariable makes TestHelperProcess a program that Main runs.
const helperVariable = "REMSIM_TEST_DAEMON"

// TestHelperProcess isn't a test: TestSignals runs it as a process of its own.
func TestHelperProcess(t *testing.T) {
	if os.Getenv(helperVariable) == "" {
		return
	}
	os.Args = os.Args[:1]
	Main(&cobra.Command{Use: "helper", RunE: func(cmd *cobra.Command, _ []string) error {
		OnReport(cmd.Context(), func(w io.Writer) { io.WriteString(w, "the report\n") })
		io.WriteString(cmd.OutOrStdout(), "ready\n")
		<-cmd.Context().Done()
		return context.Cause(cmd.Context())
	}})
}

// SIGPIPE and SIGUSR1 don't end a program, the latter makes it report; SIGTERM and SIGINT end it with status 0.
func TestSignals(t *testing.T) {
	for _, end := range []os.Signal{syscall.SIGTERM, os.Interrupt} {
		t.Run(end.String(), func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
			defer cancel()
			cmd := exec.CommandContext(ctx, os.Args[0], "-test.run=^TestHelperProcess$")
			cmd.Env = append(os.Environ(), helperVariable+"=1")
			stdout, err := cmd.StdoutPipe()
			if err != nil {
				t.Fatal(err)
			}
			stderr, err := cmd.StderrPipe()
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Start(); err != nil {
				t.Fatal(err)
			}
			readUntil(t, stdout, "ready\n")
			cmd.Process.Signal(syscall.SIGPIPE)
			cmd.Process.Signal(syscall.SIGUSR1)
			readUntil(t, stderr, "the report\n")
			readUntil(t, stderr, "goroutine profile:")
			cmd.Process.Signal(end)
			rest, err := io.ReadAll(stderr)
			if err != nil {
				t.Fatal(err)
			}
			if err := cmd.Wait(); err != nil {
				t.Fatalf("%v; standard error %s", err, rest)
			}
		})
	}
}

// readUntil reads from r until want has come.
func readUntil(t *testing.T, r io.Reader, want string) {
	t.Helper()
	var got []byte
	for b := make([]byte, 1); !bytes.HasSuffix(got, []byte(want)); {
		if _, err := io.ReadFull(r, b); err != nil {
			t.Fatalf("%q, then %v; want %q", got, err, want)
		}
		got = append(got, b...)
	}
}
