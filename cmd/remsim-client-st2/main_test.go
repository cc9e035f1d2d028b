// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"

	"github.com/spf13/pflag"

	"remsim/internal/client/cardem"
	"remsim/internal/daemon"
	"remsim/internal/simtrace"
	"remsim/internal/usb"
)

func execute(t *testing.T, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errs bytes.Buffer
	status = daemon.Execute(t.Context(), command(), args, &out, &errs)
	return status, out.String(), errs.String()
}

func TestBadOptions(t *testing.T) {
	for _, tc := range []struct {
		args string
		want string // beside the option's name, which the line must have
	}{
		{"-c 1024", "0..1023 or auto"},
		{"-n 1024", "0..1023"},
		{"-p 0", "1..65535"},
		{"-i host:9998", "without a port"},
		{"-a 3b", "2..55 bytes"},
		{"-a 3b0", "2..55 bytes"},
		{"--atr=zz00", "2..55 bytes"},
		{"-a " + strings.Repeat("3b", 34), "2..33 bytes"},
		{"-V 1d5000", "1 to 4 hex digits"},
		{"-V 0x", "1 to 4 hex digits"},
		{"--usb-product=x", "1 to 4 hex digits"},
		{"-P -1", "1 to 4 hex digits"},
		{"-C 0", "1..255"},
		{"-I 256", "0..255"},
		{"-I x", "0..255"},
		{"-S 256", "0..255"},
		{"-A 128", "1..127"},
		{"-H 2", "such as 2-1.4"},
		{"--usb-path=", "such as 2-1.4"},
		{"-Z 2", "0 or 1"},
		{"--set-sim-presence=yes", "0 or 1"},
		{"--all-slots -n 1", "single slot"},
		{"--all-slots -H 2-1", "single slot"},
		{"--all-slots -c auto", "want a number"},
		{"--slots-file=x --all-slots", "want one of them"},
		{"--slots-file=x -I 1", "single slot"},
		{"--gsmtap-ip=host", "IPv4 or IPv6 address"},
		{"extra", "unexpected argument"},
		{"--usb", "unknown option"}, // getopt's abbreviations are gone
	} {
		t.Run(tc.args, func(t *testing.T) {
			args := strings.Fields(tc.args)
			status, out, errs := execute(t, args...)
			name, _, _ := strings.Cut(args[0], "=")
			if status != 2 || out != "" || strings.Count(errs, "\n") != 1 ||
				!strings.Contains(errs, name) || !strings.Contains(errs, tc.want) {
				t.Errorf("status %d, stdout %q, stderr %q, want 2 and one line with %q and %q", status, out, errs, name, tc.want)
			}
		})
	}
}

// All options of the C program and its manuals mean what they do there.
func TestOptions(t *testing.T) {
	id := func(n uint16) *uint16 { return &n }
	nr := func(n uint8) *uint8 { return &n }
	table := filepath.Join(t.TempDir(), "table")
	if err := os.WriteFile(table, []byte("01 ff 00 3\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args string
		want func(*cardem.Config, *usb.Filter)
	}{
		{"", func(*cardem.Config, *usb.Filter) {}},
		{"-V 1d50 -P 4004 -C 1 -I 0 -H 2-1.1 -c 0 -n 3", func(c *cardem.Config, f *usb.Filter) {
			*f = usb.Filter{Vendor: id(0x1d50), Product: id(0x4004), Config: nr(1), Interface: nr(0), Path: "2-1.1"}
			c.Slot.Slot = 3
		}},
		{"--usb-vendor 0x1D50 --usb-product=60e3 --usb-config=2 --usb-interface 1 --usb-altsetting 0 --usb-address 12 --usb-path 1-10.2", func(c *cardem.Config, f *usb.Filter) {
			*f = usb.Filter{Vendor: id(0x1d50), Product: id(0x60e3), Config: nr(2), Interface: nr(1), Alt: nr(0), Address: nr(12), Path: "1-10.2"}
		}},
		{"-S 1 -A 127", func(c *cardem.Config, f *usb.Filter) { *f = usb.Filter{Alt: nr(1), Address: nr(127)} }},
		{"-Z 0", func(c *cardem.Config, f *usb.Filter) { c.Presence = simtrace.PresenceValid }},
		{"--set-sim-presence=1", func(c *cardem.Config, f *usb.Filter) { c.Presence = simtrace.PresenceValid | simtrace.PresentHigh }},
		{"-k", func(c *cardem.Config, f *usb.Filter) { c.KeepRunning = true }},
		{"--keep-running", func(c *cardem.Config, f *usb.Filter) { c.KeepRunning = true }},
		{"--apdu-table " + table, func(c *cardem.Config, f *usb.Filter) {
			c.Rows = []simtrace.Row{{CLA: 1, Mask: 0xff, INS: 0, Case: simtrace.Case3}}
		}},
		{"-a 0x3b9f96801f --atr-ignore-rspro", func(c *cardem.Config, f *usb.Filter) {
			c.ATR, c.KeepATR = []byte{0x3b, 0x9f, 0x96, 0x80, 0x1f}, true
		}},
	} {
		t.Run(tc.args, func(t *testing.T) {
			parse := func(args string) (cfg cardem.Config, o options) {
				set := pflag.NewFlagSet("", pflag.ContinueOnError)
				o.flags(set)
				cfg.Flags(set)
				if err := set.Parse(strings.Fields(args)); err != nil {
					t.Fatal(err)
				}
				if err := o.fill(&cfg, set); err != nil {
					t.Fatal(err)
				}
				return cfg, o
			}
			want, base := parse("")
			tc.want(&want, &base.filter)
			got, o := parse(tc.args)
			if !reflect.DeepEqual(got, want) || !reflect.DeepEqual(o.filter, base.filter) {
				t.Errorf("got  %+v %v\nwant %+v %v", got, o.filter, want, base.filter)
			}
		})
	}
}

// What can't work ends the program at its start, with one line.
func TestFails(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.csv")
	if err := os.WriteFile(bad, []byte("0,2-1,0\n0,2-1,1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		args, state string
		want        string
	}{
		{"-H 250-1", "", "remsim-client-st2: no "}, // no USB, no device, or no such path
		{"--apdu-table " + filepath.Join(dir, "none"), "", "APDU table: open "},
		{"--apdu-table " + bad, "", "bad.csv:1"},
		{"--slots-file " + bad, "", "bad.csv:2: slot 0 stands in"},
		{"--slots-file " + filepath.Join(dir, "none"), "", "slots file: open "},
		{"--all-slots", "", "STATE_DIRECTORY"},
		{"--all-slots", filepath.Join(dir, "none"), "state: open "},
		{"--all-slots --pcap " + dir, dir, "is a directory"},
	} {
		t.Run(tc.args, func(t *testing.T) {
			t.Setenv(stateVariable, tc.state)
			status, out, errs := execute(t, append(strings.Fields(tc.args), "--log-level", "fatal")...)
			if status != 1 || out != "" || strings.Count(errs, "\n") != 1 || !strings.Contains(errs, tc.want) {
				t.Errorf("status %d, stdout %q, stderr %q, want %q", status, out, errs, tc.want)
			}
		})
	}
}

// The doctor takes all options of the program, and fails where there is nothing.
func TestDoctor(t *testing.T) {
	status, out, errs := execute(t, strings.Fields("doctor -i 127.0.0.1 -p 1 -c 23 -n 1 -a 3b00 -e true -H 250-1 -k -d DMAIN --bankd 127.0.0.1:1")...)
	if status != 1 || !strings.Contains(errs, "checks failed") || strings.Count(errs, "\n") != 1 {
		t.Errorf("status %d, stderr %q", status, errs)
	}
	for _, want := range []string{"ok    remsim-client-st2 ", "\nFAIL  server 127.0.0.1:1: ", "\nFAIL  bankd 127.0.0.1:1: ", "\n      → "} {
		if !strings.Contains(out, want) {
			t.Errorf("no %q in:\n%s", want, out)
		}
	}
	if status, _, errs := execute(t, "doctor", "-H", "x"); status != 2 || !strings.Contains(errs, "--usb-path") {
		t.Errorf("status %d, stderr %q", status, errs)
	}
}
