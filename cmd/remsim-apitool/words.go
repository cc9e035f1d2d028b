// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"strconv"
	"strings"

	"github.com/spf13/pflag"

	"remsim/internal/slot"
)

// words is the value of an option that takes n arguments, "-m 1 0 23 0", or one or none,
// "-c 5" and "-c". pflag knows neither; joinWords makes one argument of them.
type words struct {
	n     int    // 0: one or none
	typ   string // placeholders in the help
	want  string // what is allowed
	parse func(string) (text string, nrs []uint16, err error)

	text string   // as it goes into a path of the API
	nrs  []uint16 // the numbers, where it takes several
}

// none is the value of an option that came without arguments; "" is what a script's empty
// variable gives.
const none = " "

// Set takes all arguments of the option, with blanks between them.
func (w *words) Set(s string) error {
	if w.n == 0 && s == none {
		w.text, w.nrs = "", nil
		return nil
	}
	text, nrs, err := w.parse(s)
	if err != nil {
		return errors.New("want " + w.want)
	}
	w.text, w.nrs = text, nrs
	return nil
}

// bank returns the bank slot that the first two numbers name.
func (w *words) bank() slot.Bank { return slot.Bank{ID: w.nrs[0], Slot: w.nrs[1]} }

func (w *words) String() string { return w.text }
func (w *words) Type() string   { return w.typ }

var errWord = errors.New("not such words") // Set says what is wanted

// numbers returns the parser for n numbers within 0..slot.Max.
func numbers(n int) func(string) (string, []uint16, error) {
	return func(s string) (string, []uint16, error) {
		fields := strings.Fields(s)
		if len(fields) != n {
			return "", nil, errWord
		}
		nrs := make([]uint16, n)
		for i, f := range fields {
			v, err := strconv.ParseUint(f, 10, 16)
			if err != nil || v > slot.Max {
				return "", nil, errWord
			}
			nrs[i] = uint16(v)
		}
		return strings.Join(fields, " "), nrs, nil
	}
}

// bankName reads "1" or "B1".
func bankName(s string) (string, []uint16, error) {
	return numbers(1)(strings.TrimPrefix(s, "B"))
}

// clientName reads "23", "C23", "23:0" or "C23:0".
func clientName(s string) (string, []uint16, error) {
	if c, err := slot.ParseClient(s); err == nil {
		return c.Pair(), nil, nil
	}
	return numbers(1)(strings.TrimPrefix(s, "C"))
}

// mapName reads the bank slot of a map, "1:0" or "B1:0", or its id.
func mapName(s string) (string, []uint16, error) {
	if b, err := slot.ParseBank(s); err == nil {
		return mapID(b), nil, nil
	}
	id, err := strconv.ParseUint(s, 10, 32)
	if b := (slot.Bank{ID: uint16(id >> 16), Slot: uint16(id)}); err != nil || !b.Valid() {
		return "", nil, errWord
	}
	return strconv.FormatUint(id, 10), nil, nil
}

// mapID returns what the API calls a map.
func mapID(b slot.Bank) string {
	return strconv.FormatUint(uint64(b.ID)<<16|uint64(b.Slot), 10)
}

// joinWords returns args with the arguments of each option of type words made one, in the
// form --name=a b c. Everything else stays as it is.
func joinWords(fs *pflag.FlagSet, args []string) []string {
	var out []string
	for len(args) > 0 {
		arg := args[0]
		args = args[1:]
		if arg == "--" {
			out = append(out, arg)
			break
		}
		before, f, attached := lastOption(fs, arg)
		switch w, isWords := wordsOf(f); {
		case f == nil: // an argument, flags without value, or what pflag will refuse
			out = append(out, arg)
		case !isWords: // its value may look like an option
			out = append(out, arg)
			if attached == nil && f.NoOptDefVal == "" && len(args) > 0 {
				out = append(out, args[0])
				args = args[1:]
			}
		default:
			var values []string
			if attached != nil {
				values = append(values, *attached)
			}
			for len(args) > 0 && len(values) < max(w.n, 1) && isWord(args[0]) {
				values = append(values, args[0])
				args = args[1:]
			}
			if before != "" {
				out = append(out, before)
			}
			if w.n == 0 && len(values) == 0 {
				values = []string{none}
			}
			out = append(out, "--"+f.Name+"="+strings.Join(values, " "))
		}
	}
	return append(out, args...)
}

// lastOption finds the option in arg that takes a value: --name, --name=value, or the one in a
// group such as -vm or -p9997, whose other letters it returns as before. attached is
// the value within arg, if any.
func lastOption(fs *pflag.FlagSet, arg string) (before string, f *pflag.Flag, attached *string) {
	if long, ok := strings.CutPrefix(arg, "--"); ok {
		name, value, hasValue := strings.Cut(long, "=")
		if hasValue {
			attached = &value
		}
		return "", fs.Lookup(name), attached
	}
	if len(arg) < 2 || arg[0] != '-' {
		return "", nil, nil
	}
	for i := 1; i < len(arg); i++ {
		f := fs.ShorthandLookup(arg[i : i+1])
		if f == nil {
			break
		}
		if f.NoOptDefVal != "" {
			continue
		}
		if i > 1 {
			before = arg[:i]
		}
		if rest := arg[i+1:]; rest != "" {
			rest = strings.TrimPrefix(rest, "=")
			attached = &rest
		}
		return before, f, attached
	}
	return "", nil, nil
}

func wordsOf(f *pflag.Flag) (*words, bool) {
	if f == nil {
		return nil, false
	}
	w, ok := f.Value.(*words)
	return w, ok
}

// isWord tells a value from an option; a negative number is a (wrong) value.
func isWord(s string) bool {
	return !strings.HasPrefix(s, "-") || len(s) > 1 && s[1] >= '0' && s[1] <= '9'
}
