// SPDX-License-Identifier: GPL-2.0-or-later

package fleet

import (
	"encoding/csv"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"

	"remsim/internal/slot"
	"remsim/internal/usb"
)

// A Place is where a client slot's interface is: a device, by its path or by its serial number, and one of its
// interfaces.
type Place struct {
	Device    string // "2-1.1", or "serial:" and the serial number
	Interface uint8
}

// serialPrefix begins a Place.Device that is a serial number.
const serialPrefix = "serial:"

// A Line says which slot of the client a place has.
type Line struct {
	Slot  uint16 // 0..1023
	Place Place
	Line  int // of the file, from 1
}

// ReadTable reads a slots file; see ParseTable.
func ReadTable(file string) ([]Line, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("slots file: %w", err)
	}
	return ParseTable(file, string(data))
}

// ParseTable reads the content of a slots file: lines of three fields, slot number, USB path or "serial:" and the
// device's serial number, and number of the interface. Fields may be quoted; blanks around them don't count. Empty lines
// and lines that begin with # are passed over. No slot and no place may stand there twice. Errors begin with file:line.
func ParseTable(file, data string) ([]Line, error) {
	var lines []Line
	n := 0
	for text := range strings.Lines(data) {
		n++
		text = strings.TrimSpace(text)
		if text == "" || text[0] == '#' {
			continue
		}
		l, err := parseLine(text)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		l.Line = n
		for _, first := range lines {
			switch {
			case first.Slot == l.Slot:
				return nil, fmt.Errorf("%s:%d: slot %d stands in %s:%d already", file, n, l.Slot, file, first.Line)
			case first.Place == l.Place:
				return nil, fmt.Errorf("%s:%d: interface %d of %s stands in %s:%d already", file, n, l.Place.Interface, l.Place.Device, file, first.Line)
			}
		}
		lines = append(lines, l)
	}
	return lines, nil
}

func parseLine(text string) (l Line, err error) {
	r := csv.NewReader(strings.NewReader(text))
	r.TrimLeadingSpace = true
	fields, err := r.Read()
	if pe := (*csv.ParseError)(nil); errors.As(err, &pe) {
		return l, fmt.Errorf("character %d: %w", pe.Column, pe.Err)
	}
	if err != nil {
		return l, err
	}
	if len(fields) != 3 {
		return l, fmt.Errorf("%d fields, want three: slot, USB path, interface", len(fields))
	}
	for i := range fields {
		fields[i] = strings.TrimSpace(fields[i])
	}
	n, err := strconv.ParseUint(fields[0], 10, 16)
	if err != nil || n > slot.Max {
		return l, fmt.Errorf("slot %q: want 0..%d", fields[0], slot.Max)
	}
	if s, ok := strings.CutPrefix(fields[1], serialPrefix); !usb.ValidPath(fields[1]) && (!ok || s == "") {
		return l, fmt.Errorf("USB path %q: want one such as 2-1.1, or %sNUMBER", fields[1], serialPrefix)
	}
	i, err := strconv.ParseUint(fields[2], 10, 8)
	if err != nil {
		return l, fmt.Errorf("interface %q: want 0..255", fields[2])
	}
	return Line{Slot: uint16(n), Place: Place{fields[1], uint8(i)}}, nil
}

// stateFile is the file of a Register, which is a slots file.
const stateFile = "client-slots.csv"

// stateHead is how it begins.
const stateHead = "# Slots that remsim-client-st2 --all-slots has given to card emulators: slot, device, interface.\n" +
	"# While it doesn't run, lines may be changed, and those of devices that won't come back be taken out.\n"

// A Register gives a slot to each place at first sight and keeps that in a file, so that a place has the same slot
// for ever, whatever else is plugged. It isn't for use by several goroutines.
type Register struct {
	file  string
	lines []Line
}

// OpenRegister reads the register in a directory, and writes it, to be sure that it can be written.
func OpenRegister(dir string) (*Register, error) {
	r := &Register{file: filepath.Join(dir, stateFile)}
	data, err := os.ReadFile(r.file)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("state: %w", err)
	}
	if r.lines, err = ParseTable(r.file, string(data)); err != nil {
		return nil, err
	}
	if err := r.save(r.lines); err != nil {
		return nil, err
	}
	return r, nil
}

// Slot returns the slot of a place. It gives a new place the lowest number that is free, and fails when
// that can't be kept or when there is none.
func (r *Register) Slot(p Place) (uint16, error) {
	taken := make(map[uint16]bool, len(r.lines))
	for _, l := range r.lines {
		if l.Place == p {
			return l.Slot, nil
		}
		taken[l.Slot] = true
	}
	n := uint16(0)
	for taken[n] {
		n++
	}
	if n > slot.Max {
		return 0, fmt.Errorf("all slots 0..%d are given away: take lines that are no longer needed out of %s", slot.Max, r.file)
	}
	lines := append(slices.Clip(r.lines), Line{Slot: n, Place: p})
	if err := r.save(lines); err != nil {
		return 0, err
	}
	r.lines = lines
	return n, nil
}

// save replaces the file as a whole, so that it is never half written.
func (r *Register) save(lines []Line) error {
	var b strings.Builder
	b.WriteString(stateHead)
	w := csv.NewWriter(&b)
	for _, l := range lines {
		w.Write([]string{strconv.Itoa(int(l.Slot)), l.Place.Device, strconv.Itoa(int(l.Place.Interface))})
	}
	w.Flush()
	if err := replace(r.file, b.String()); err != nil {
		return fmt.Errorf("state: %w", err)
	}
	return nil
}

// replace puts a file with that content in the place of another one, if there is one.
func replace(file, content string) (err error) {
	f, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+"-*")
	if err != nil {
		return err
	}
	defer func() {
		if err != nil {
			os.Remove(f.Name())
		}
	}()
	_, err = f.WriteString(content)
	if err == nil {
		err = f.Sync()
	}
	err = errors.Join(err, f.Close())
	if err == nil {
		err = os.Rename(f.Name(), file)
	}
	return err
}
