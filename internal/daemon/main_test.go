// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// settings are what testCommand's options fill in.
type settings struct {
	host   string
	port   uint16
	bank   uint16
	shared bool
	atr    []byte
	wait   time.Duration
	listen string
	log    LogOptions
}

// testCommand is a program with an option of each kind; run is its work.
func testCommand(s *settings, run func(context.Context) error) *cobra.Command {
	cmd := &cobra.Command{Use: "remsim-test", Short: "A program of this test", RunE: func(cmd *cobra.Command, _ []string) error {
		return run(cmd.Context())
	}}
	fs := cmd.Flags()
	fs.StringVarP(&s.host, "server-host", "i", "", "`host` of the server")
	cmd.MarkFlagRequired("server-host")
	Uint16Var(fs, &s.port, "server-port", "p", 9998, 1, 65535, "port of the server")
	Uint16Var(fs, &s.bank, "bank-id", "b", 1, 0, 1023, "number of this bank")
	fs.BoolVarP(&s.shared, "permit-shared-pcsc", "s", false, "share readers")
	HexVar(fs, &s.atr, "atr", "a", []byte{0x3b, 0x00}, 2, 55, "ATR")
	DurationVar(fs, &s.wait, "card-timeout", "", 30*time.Second, time.Second, time.Hour, "time for a card")
	AddrVar(fs, &s.listen, "rspro-listen", "", ":9998", "address for RSPRO")
	s.log.Flags(fs, true)
	return cmd
}

func execute(t *testing.T, run func(context.Context) error, args ...string) (s *settings, status int, stdout, stderr string) {
	t.Helper()
	s = new(settings)
	var out, errOut bytes.Buffer
	status = Execute(t.Context(), testCommand(s, run), args, &out, &errOut)
	return s, status, out.String(), errOut.String()
}

func TestOptions(t *testing.T) {
	for _, tt := range []struct {
		name string
		args string
		want func(*settings) bool
	}{
		{"defaults", "-i h", func(s *settings) bool {
			return s.port == 9998 && s.bank == 1 && !s.shared && len(s.atr) == 2 && s.wait == 30*time.Second && s.listen == ":9998"
		}},
		{"short, value apart", "-i h -p 1", func(s *settings) bool { return s.host == "h" && s.port == 1 }},
		{"short, value attached", "-ih -p65535", func(s *settings) bool { return s.host == "h" && s.port == 65535 }},
		{"clustered", "-sLTi h", func(s *settings) bool { return s.shared && s.log.noColor && s.host == "h" }},
		{"clustered with value", "-i h -sp99", func(s *settings) bool { return s.shared && s.port == 99 }},
		{"long, value apart", "--server-host h --bank-id 0", func(s *settings) bool { return s.host == "h" && s.bank == 0 }},
		{"long, value attached", "--server-host=h --bank-id=1023", func(s *settings) bool { return s.host == "h" && s.bank == 1023 }},
		{"the last one counts", "-i h -i k -b 1 -b 2", func(s *settings) bool { return s.host == "k" && s.bank == 2 }},
		{"hex", "-i h -a 0x3B9F96", func(s *settings) bool { return bytes.Equal(s.atr, []byte{0x3b, 0x9f, 0x96}) }},
		{"duration", "-i h --card-timeout 1m", func(s *settings) bool { return s.wait == time.Minute }},
		{"duration without a unit", "-i h --card-timeout 5", func(s *settings) bool { return s.wait == 5*time.Second }},
		{"address of IPv6", "-i h --rspro-listen [::1]:0", func(s *settings) bool { return s.listen == "[::1]:0" }},
	} {
		t.Run(tt.name, func(t *testing.T) {
			ran := false
			s, status, out, errOut := execute(t, func(context.Context) error { ran = true; return nil }, strings.Fields(tt.args)...)
			if status != 0 || !ran || out != "" || errOut != "" {
				t.Fatalf("%s: status %d, ran %v, output %q, error %q", tt.args, status, ran, out, errOut)
			}
			if !tt.want(s) {
				t.Errorf("%s: %+v", tt.args, s)
			}
		})
	}
	if s, status, _, _ := execute(t, func(context.Context) error { return nil }, "-i", "h", "-a", " 3b 00 11 "); status != 0 || len(s.atr) != 3 {
		t.Errorf("hex with blanks: status %d, %x", status, s.atr)
	}
}

func TestHostVar(t *testing.T) {
	const want = "invalid argument %q for \"-H, --host\" flag: want a host name or an address, without a port"
	for _, tt := range []struct{ value, host string }{ // no host: refused
		{"localhost", "localhost"},
		{"Bank-1.Example_x.org.", "Bank-1.Example_x.org."},
		{"192.0.2.1", "192.0.2.1"},
		{"::1", "::1"},
		{"[::1]", "::1"},
		{"fe80::1%eth0", "fe80::1%eth0"},
		{"[fe80::1%eth0]", "fe80::1%eth0"},
		{"", ""},
		{" ", ""},
		{"a b", ""},
		{"a/b", ""},
		{"host:9998", ""},
		{"192.0.2.1:9998", ""},
		{"[::1]:9998", ""},
		{"[::1", ""},
		{"::1]", ""},
		{"[]", ""},
		{"[192.0.2.1]", ""},
		{"[localhost]", ""},
		{"http://host", ""},
	} {
		fs := pflag.NewFlagSet("test", pflag.ContinueOnError)
		var host string
		HostVar(fs, &host, "host", "H", "default", "host of the server")
		err := fs.Parse([]string{"--host", tt.value})
		switch {
		case tt.host == "":
			if w := fmt.Sprintf(want, tt.value); err == nil || err.Error() != w || host != "default" {
				t.Errorf("%q: %q, %v; want %s", tt.value, host, err, w)
			}
		case err != nil || host != tt.host:
			t.Errorf("%q: %q, %v; want %q", tt.value, host, err, tt.host)
		}
	}
}

// Each wrong command line ends with status 2 and one line that names option, value and what is allowed.
func TestUsageErrors(t *testing.T) {
	for _, tt := range []struct {
		args string
		want string // of the line, behind "remsim-test: "
	}{
		{"", "option -i --server-host is missing: want host (host of the server)"},
		{"-i", "option -i --server-host: value missing: want host (host of the server)"},
		{"-i h -p", "option -p --server-port: value missing: want a number 1..65535"},
		{"-i h -p 0", `option -p --server-port: value "0": want a number 1..65535`},
		{"-i h -p65536", `option -p --server-port: value "65536": want a number 1..65535`},
		{"-i h -p -5", `option -p --server-port: value "-5": want a number 1..65535`},
		{"-i h -p +5", `option -p --server-port: value "+5": want a number 1..65535`},
		{"-i h -p 0x10", `option -p --server-port: value "0x10": want a number 1..65535`},
		{"-i h -p 5x", `option -p --server-port: value "5x": want a number 1..65535`},
		{"-i h --bank-id=1024", `option -b --bank-id: value "1024": want a number 0..1023`},
		{"-i h --bank-id=", `option -b --bank-id: value "": want a number 0..1023`},
		{"-i h -sb99999999999", `option -b --bank-id: value "99999999999": want a number 0..1023`},
		{"-i h -a 3", `option -a --atr: value "3": want 2..55 bytes in hex`},
		{"-i h -a 3b", `option -a --atr: value "3b": want 2..55 bytes in hex`},
		{"-i h -a 3bxx", `option -a --atr: value "3bxx": want 2..55 bytes in hex`},
		{"-i h -a " + strings.Repeat("00", 56), `option -a --atr: value "` + strings.Repeat("00", 56) + `": want 2..55 bytes in hex`},
		{"-i h --card-timeout 0s", `option --card-timeout: value "0s": want a duration 1s..1h`},
		{"-i h --card-timeout 2h", `option --card-timeout: value "2h": want a duration 1s..1h`},
		{"-i h --card-timeout soon", `option --card-timeout: value "soon": want a duration 1s..1h`},
		{"-i h --rspro-listen 9998", `option --rspro-listen: value "9998": want HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535`},
		{"-i h --rspro-listen ::1:9998", `option --rspro-listen: value "::1:9998": want HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535`},
		{"-i h --rspro-listen a,b:9998", `option --rspro-listen: value "a,b:9998": want HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535`},
		{"-i h --rspro-listen :65536", `option --rspro-listen: value ":65536": want HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535`},
		{"-i h --rspro-listen :http", `option --rspro-listen: value ":http": want HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535`},
		{"-i h --permit-shared-pcsc=maybe", `option -s --permit-shared-pcsc: value "maybe": want true or false`},
		{"-i h -d DMAIN,2", `option -d --debug: value "DMAIN,2": want ` + wantDebug},
		{"-i h -e 99", `option -e --log-level: value "99": want ` + wantLevel},
		{"-i h --log-level loud", `option -e --log-level: value "loud": want ` + wantLevel},
		{"-i h --log-format xml", `option --log-format: value "xml": want text or json`},
		{"-i h extra", `unexpected argument "extra": remsim-test takes options only`},
		{"-i h -- -p", `unexpected argument "-p": remsim-test takes options only`},
		{"-i h --disable-color false", `unexpected argument "false": remsim-test takes options only`},
		{"-i h --server-por 5", "unknown option --server-por: want one of " + allOptions},
		{"-i h --server-por=5", "unknown option --server-por: want one of " + allOptions},
		{"-i h -x", "unknown option -x: want one of " + allOptions},
		{"-i h -sx5", "unknown option -x (in -x5): want one of " + allOptions},
		{"-i h --=5", "bad flag syntax: --=5"},
	} {
		_, status, out, errOut := execute(t, func(context.Context) error { t.Errorf("%q ran", tt.args); return nil }, strings.Fields(tt.args)...)
		if want := "remsim-test: " + tt.want + "\n"; status != 2 || out != "" || errOut != want {
			t.Errorf("%q: status %d, output %q, error\n%swant 2 and\n%s", tt.args, status, out, errOut, want)
		}
	}
}

const allOptions = "-i --server-host, -p --server-port, -b --bank-id, -s --permit-shared-pcsc, -a --atr, --card-timeout, --rspro-listen, " +
	"-d --debug, -e --log-level, --log-format, -L --disable-color, -T --timestamp, -h --help, -V --version"

func TestStatus(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	for _, tt := range []struct {
		name   string
		ctx    context.Context
		err    error
		status int
		line   string
	}{
		{"success", t.Context(), nil, 0, ""},
		{"failure", t.Context(), errors.New("port in use"), 1, "remsim-test: port in use\n"},
		{"failure of several lines", t.Context(), errors.Join(errors.New("one"), errors.New("two")), 1, "remsim-test: one; two\n"},
		{"usage", t.Context(), fmt.Errorf("options: %w", Usagef("option %s", "-x")), 2, "remsim-test: options: option -x\n"},
		{"asked to stop", ctx, fmt.Errorf("serve: %w", context.Canceled), 0, ""},
		{"failed while asked to stop", ctx, errors.New("disk full"), 1, "remsim-test: disk full\n"},
		{"canceled, but not asked to stop", t.Context(), context.Canceled, 1, "remsim-test: context canceled\n"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			var out, errOut bytes.Buffer
			cmd := testCommand(new(settings), func(context.Context) error { return tt.err })
			status := Execute(tt.ctx, cmd, []string{"-i", "h"}, &out, &errOut)
			if status != tt.status || errOut.String() != tt.line || out.Len() != 0 {
				t.Errorf("status %d, output %q, error %q; want %d, %q", status, &out, &errOut, tt.status, tt.line)
			}
		})
	}
}

func TestHelpAndVersion(t *testing.T) {
	run := func(context.Context) error { t.Error("ran"); return nil }
	for _, arg := range []string{"-h", "--help"} {
		_, status, out, errOut := execute(t, run, arg)
		for _, want := range []string{"A program of this test", "-i, --server-host host", "-p, --server-port 1..65535", "(default 9998)", "--card-timeout 1s..1h"} {
			if !strings.Contains(out, want) {
				t.Errorf("%s: %q is missing in\n%s", arg, want, out)
			}
		}
		if status != 0 || errOut != "" {
			t.Errorf("%s: status %d, error %q", arg, status, errOut)
		}
	}
	for _, arg := range []string{"-V", "--version"} {
		_, status, out, errOut := execute(t, run, arg)
		if status != 0 || !strings.HasPrefix(out, "remsim-test "+Version()+"\ncommit: ") || errOut != "" {
			t.Errorf("%s: status %d, output %q, error %q", arg, status, out, errOut)
		}
	}
}

// A shell gets the words that an option takes, and files only where there may be one.
func TestCompletion(t *testing.T) {
	const noFiles, files = ":4\n", ":0\n"
	for args, want := range map[string]string{
		"--log-fo":      "--log-format\tlog lines as name=value, or as JSON objects\n" + noFiles,
		"--log-format ": "text\njson\n" + noFiles,
		"-e ":           "trace\ndebug\ninfo\nwarning\nerror\nfatal\n" + noFiles,
		"-p ":           noFiles,
		"-i ":           files,
		"":              "--server-host\t`host` of the server\n-i\t`host` of the server\n" + noFiles,
		"-i h ":         noFiles,
	} {
		_, status, out, _ := execute(t, func(context.Context) error { t.Errorf("%q ran", args); return nil },
			append([]string{"__complete"}, strings.Split(args, " ")...)...)
		if status != 0 || out != want {
			t.Errorf("%q: status %d, output %q, want %q", args, status, out, want)
		}
	}
}

func TestVersionFlag(t *testing.T) {
	for _, tt := range []struct {
		name  string
		flags func(*cobra.Command)
		args  string
		want  int
	}{
		{"a letter of its own", func(c *cobra.Command) { VersionFlag(c.Flags(), "v") }, "-v", 0},
		{"instead of -V", func(c *cobra.Command) { VersionFlag(c.Flags(), "v") }, "-V", 2},
		{"V is taken", func(c *cobra.Command) { c.Flags().StringP("usb-vendor", "V", "", "") }, "--version", 0},
		{"V is taken, with value", func(c *cobra.Command) { c.Flags().StringP("usb-vendor", "V", "", "") }, "-V 1d50", 0},
	} {
		t.Run(tt.name, func(t *testing.T) {
			cmd := &cobra.Command{Use: "remsim-test", RunE: func(*cobra.Command, []string) error { return nil }}
			tt.flags(cmd)
			var out bytes.Buffer
			if status := Execute(t.Context(), cmd, strings.Fields(tt.args), &out, &out); status != tt.want {
				t.Errorf("status %d, want %d: %s", status, tt.want, &out)
			}
		})
	}
}

func TestHelpCommand(t *testing.T) {
	for args, want := range map[string]string{"help": "Available Commands:", "help cards": "--count 1..64", "cards -h": "--count 1..64"} {
		root := &cobra.Command{Use: "remsim-test"}
		var count uint16
		cards := &cobra.Command{Use: "cards", RunE: func(*cobra.Command, []string) error { return nil }}
		Uint16Var(cards.Flags(), &count, "count", "", 1, 1, 64, "how many")
		root.AddCommand(cards)
		var out, errOut bytes.Buffer
		status := Execute(t.Context(), root, strings.Fields(args), &out, &errOut)
		if status != 0 || errOut.Len() > 0 || !strings.Contains(out.String(), want) {
			t.Errorf("%s: status %d, error %q, output without %q: %s", args, status, &errOut, want, &out)
		}
	}
}

// The options of a command below another are checked as those of a program.
func TestSubcommands(t *testing.T) {
	for _, tt := range []struct {
		args   string
		status int
		stderr string
	}{
		{"cards", 0, ""},
		{"cards --count 3", 0, ""},
		{"", 2, "remsim-test: command missing: want one of cards, modem\n"},
		{"crads", 2, "remsim-test: unknown command \"crads\": want one of cards, modem\n"},
		{"cards --count 0", 2, "remsim-test: option --count: value \"0\": want a number 1..64\n"},
		{"help crads", 2, "remsim-test: unknown command \"crads\": want one of cards, modem\n"},
		{"cards extra", 2, "remsim-test: unexpected argument \"extra\": remsim-test cards takes options only\n"},
		{"modem", 1, "remsim-test: no modem\n"},
	} {
		root := &cobra.Command{Use: "remsim-test"}
		var count uint16
		cards := &cobra.Command{Use: "cards", RunE: func(*cobra.Command, []string) error { return nil }}
		Uint16Var(cards.Flags(), &count, "count", "", 1, 1, 64, "how many")
		root.AddCommand(cards, &cobra.Command{Use: "modem", RunE: func(*cobra.Command, []string) error { return errors.New("no modem") }})
		var out, errOut bytes.Buffer
		status := Execute(t.Context(), root, strings.Fields(tt.args), &out, &errOut)
		if status != tt.status || errOut.String() != tt.stderr || out.Len() != 0 {
			t.Errorf("%q: status %d, output %q, error %q; want %d, %q", tt.args, status, &out, &errOut, tt.status, tt.stderr)
		}
	}
}
