// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// A unit is started but for the one reason that there is nothing to serve: all else the bankd says itself.
func TestCondition(t *testing.T) {
	for _, tt := range []struct{ name, slots, args, why string }{
		{"no file", "", "-i h", "nothing to serve: there is no slots file, such as /etc/remsim/bankd_pcsc_slots.csv"},
		{"no line", "# \"1\",\"0\",\"x\"\n", "-i h", "bankd_pcsc_slots.csv has no line"},
		{"a line of another bank", "1,0,x\n", "-i h -b 2", ""},
		{"a line", "1,4,x\n", "-i h -n 5", ""},
		{"another file", "", "-i h --slots-file other.csv", ""},
		{"bad line", "1,x\n", "-i h", ""},
		{"bad option", "", "-i h -b 1024", ""},
		{"unknown option", "", "--no-such", ""},
		{"no server", "1,0,x\n", "", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			t.Chdir(t.TempDir())
			if tt.slots != "" {
				if err := os.WriteFile(slotsName, []byte(tt.slots), 0o600); err != nil {
					t.Fatal(err)
				}
			}
			status, stdout, stderr := run(t, append([]string{"condition"}, strings.Fields(tt.args)...)...)
			want := 0
			if tt.why != "" {
				want = 1
			}
			if status != want || stdout != "" || strings.Count(stderr, "\n") != want || !strings.Contains(stderr, tt.why) {
				t.Errorf("status %d, standard output %q, standard error %q; want %d, %q", status, stdout, stderr, want, tt.why)
			}
		})
	}
}

func TestFindSlots(t *testing.T) {
	first, second, none := t.TempDir(), t.TempDir(), t.TempDir()
	for _, dir := range []string{first, second} {
		if err := os.WriteFile(filepath.Join(dir, slotsName), nil, 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct {
		dirs []string
		want string
	}{
		{[]string{none}, slotsName},
		{[]string{none, second, first}, filepath.Join(second, slotsName)},
		{[]string{first, second}, filepath.Join(first, slotsName)},
	} {
		if got := findSlots(tt.dirs); got != tt.want {
			t.Errorf("of %q it is %q, want %q", tt.dirs, got, tt.want)
		}
	}
	t.Chdir(first)
	if got, want := findSlots([]string{"."}), filepath.Join(first, slotsName); got != want {
		t.Errorf("%q, want %q", got, want)
	}
}
