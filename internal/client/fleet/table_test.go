// SPDX-License-Identifier: GPL-2.0-or-later

package fleet

import (
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"remsim/internal/slot"
)

func TestParseTable(t *testing.T) {
	const good = `
# client slot, USB path, interface
0,2-1.1,0
 "1" , "2-1.1" , "1"
	1023 ,	10-1.2.3	, 255
2, serial:6a2f, 0` + "\r\n"
	lines, err := ParseTable("f", strings.ReplaceAll(good, `" ,`, `",`))
	want := []Line{
		{0, Place{"2-1.1", 0}, 3},
		{1, Place{"2-1.1", 1}, 4},
		{1023, Place{"10-1.2.3", 255}, 5},
		{2, Place{"serial:6a2f", 0}, 6},
	}
	if err != nil || !slices.Equal(lines, want) {
		t.Errorf("%v, %v, want %v", lines, err, want)
	}
	for _, tc := range []struct{ data, want string }{
		{"0", "f:1: 1 fields, want three"},
		{"0,2-1.1", "f:1: 2 fields, want three"},
		{"\n#\n0,2-1.1,0,0", "f:3: 4 fields, want three"},
		{"x,2-1.1,0", `f:1: slot "x": want 0..1023`},
		{"1024,2-1.1,0", `f:1: slot "1024": want 0..1023`},
		{"-1,2-1.1,0", `f:1: slot "-1": want 0..1023`},
		{",2-1.1,0", `f:1: slot "": want 0..1023`},
		{"0,2,0", `f:1: USB path "2": want one such as 2-1.1, or serial:NUMBER`},
		{"0,serial:,0", `f:1: USB path "serial:"`},
		{"0,/dev/bus/usb/001/002,0", `f:1: USB path "/dev/bus/usb/001/002"`},
		{"0,2-1.1,x", `f:1: interface "x": want 0..255`},
		{"0,2-1.1,256", `f:1: interface "256": want 0..255`},
		{`0,"2-1.1,0`, "f:1: character "},
		{`0,2-"1.1",0`, "f:1: character "},
		{"0,2-1.1,0\n0,2-1.1,1", "f:2: slot 0 stands in f:1 already"},
		{"0,2-1.1,0\n\n1,2-1.1,0", "f:3: interface 0 of 2-1.1 stands in f:1 already"},
	} {
		if lines, err := ParseTable("f", tc.data); err == nil || !strings.HasPrefix(err.Error(), tc.want) || lines != nil {
			t.Errorf("%q: %v, %v, want %q", tc.data, lines, err, tc.want)
		}
	}
	if _, err := ReadTable(filepath.Join(t.TempDir(), "none.csv")); !errors.Is(err, fs.ErrNotExist) || !strings.Contains(err.Error(), "none.csv") {
		t.Errorf("no file: %v", err)
	}
}

func FuzzParseTable(f *testing.F) {
	f.Add("0,2-1.1,0\n1,serial:x,1\n")
	f.Add("# c\n\"0\",\"1-1\",\"0\"")
	f.Add("0,\"1-1")
	f.Fuzz(func(t *testing.T, data string) {
		lines, err := ParseTable("f", data)
		if err != nil && !strings.HasPrefix(err.Error(), "f:") {
			t.Errorf("error %v without its place", err)
		}
		// What was read can be kept and is the same again, as for a Register.
		r := Register{file: filepath.Join(t.TempDir(), "f")}
		if err := r.save(lines); err != nil {
			t.Fatal(err)
		}
		again, err := ReadTable(r.file)
		same := func(a, b Line) bool { return a.Slot == b.Slot && a.Place == b.Place }
		if err != nil || !slices.EqualFunc(lines, again, same) {
			t.Errorf("%v, %v after %v", again, err, lines)
		}
	})
}

// A place has the same slot for ever, others get the lowest that is free.
func TestRegister(t *testing.T) {
	dir := t.TempDir()
	open := func() *Register {
		t.Helper()
		r, err := OpenRegister(dir)
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	give := func(r *Register, device string, iface uint8, want uint16) {
		t.Helper()
		if n, err := r.Slot(Place{device, iface}); n != want || err != nil {
			t.Errorf("interface %d of %s has slot %d, %v, want %d", iface, device, n, err, want)
		}
	}
	r := open()
	give(r, "serial:a", 0, 0)
	give(r, "serial:a", 1, 1)
	give(r, "2-1.4", 0, 2)
	r = open()
	give(r, "serial:b", 0, 3)
	give(r, "2-1.4", 0, 2)
	give(r, "serial:a", 0, 0)

	// A user takes a device out.
	file := filepath.Join(dir, stateFile)
	data, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(file, []byte(strings.Replace(string(data), "1,serial:a,1\n", "", 1)), 0o644); err != nil {
		t.Fatal(err)
	}
	r = open()
	give(r, "serial:c", 0, 1)
	give(r, "serial:a", 1, 4)

	for i := range uint16(slot.Max - 4) {
		if _, err := r.Slot(Place{"serial:d", uint8(i)}); err != nil && i < 256 {
			t.Fatal(err)
		}
	}
	files, err := os.ReadDir(dir)
	if err != nil || len(files) != 1 {
		t.Errorf("files left: %v, %v", files, err)
	}
}

func TestRegisterFull(t *testing.T) {
	r, err := OpenRegister(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for n := range slot.Max + 1 {
		r.lines = append(r.lines, Line{Slot: uint16(n), Place: Place{"serial:x" + strings.Repeat("x", n), 0}})
	}
	if n, err := r.Slot(Place{"1-1", 0}); err == nil || !strings.Contains(err.Error(), "all slots 0..1023 are given away") {
		t.Errorf("slot %d, %v", n, err)
	}
}

// A register that can't be kept is said at once, and a number that can't be kept isn't given.
func TestRegisterUnkept(t *testing.T) {
	dir := t.TempDir()
	if _, err := OpenRegister(filepath.Join(dir, "none")); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("no directory: %v", err)
	}
	if err := os.WriteFile(filepath.Join(dir, stateFile), []byte("0,1-1\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := OpenRegister(dir); err == nil || !strings.Contains(err.Error(), stateFile+":1: 2 fields") {
		t.Errorf("bad file: %v", err)
	}
	gone := t.TempDir()
	r, err := OpenRegister(gone)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(gone); err != nil {
		t.Fatal(err)
	}
	if n, err := r.Slot(Place{"1-1", 0}); err == nil {
		t.Errorf("slot %d was given and isn't kept", n)
	}
	if len(r.lines) > 0 {
		t.Errorf("lines %v", r.lines)
	}
}
