// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"errors"
	"fmt"
	"os"
	"regexp"
	"regexp/syntax"
	"strconv"
	"strings"

	"remsim/internal/slot"
)

// softwarePrefix begins the third field of a line that names a card in software.
const softwarePrefix = "softsim:"

// A Slot is one line of the slots file: which card a bank slot has.
type Slot struct {
	Bank    slot.Bank
	Spec    string         // the third field as written: a pattern, or "softsim:…"
	Pattern *regexp.Regexp // searched in the names of PC/SC readers; nil for a software card
	Line    int            // line of the file, from 1
	// Reader is the name of the reader that was found by the pattern, for Bank.Open. It
	// isn't part of the line.
	Reader string
}

// Software reports whether s names a card in software.
func (s Slot) Software() bool { return s.Pattern == nil }

// Match returns the first of readers that s's pattern is found in.
func (s Slot) Match(readers []string) (reader string, ok bool) {
	if s.Pattern == nil {
		return "", false
	}
	for _, r := range readers {
		if s.Pattern.MatchString(r) {
			return r, true
		}
	}
	return "", false
}

// ReadSlots reads a slots file; see ParseSlots.
func ReadSlots(file string) ([]Slot, error) {
	data, err := os.ReadFile(file)
	if err != nil {
		return nil, fmt.Errorf("slots file: %w", err)
	}
	return ParseSlots(file, string(data))
}

// ParseSlots reads the content of a slots file: lines of three fields, bank id,
// slot number, and what to search in the names of PC/SC readers (a POSIX
// extended regular expression) or a "softsim:…". Fields may be quoted, with ""
// for a quote inside; blanks around them don't count, and a third field
// without quotes may contain commas. Empty lines and lines that begin with # are
// passed over. No slot may be named twice. Errors begin with file:line.
func ParseSlots(file, data string) ([]Slot, error) {
	var slots []Slot
	lineOf := make(map[slot.Bank]int)
	n := 0
	for line := range strings.Lines(data) {
		n++
		line = strings.Trim(line, blanks+"\r\n")
		if line == "" || line[0] == '#' {
			continue
		}
		s, err := parseSlot(line)
		if err != nil {
			return nil, fmt.Errorf("%s:%d: %w", file, n, err)
		}
		if first, ok := lineOf[s.Bank]; ok {
			return nil, fmt.Errorf("%s:%d: bank %d slot %d stands in %s:%d already", file, n, s.Bank.ID, s.Bank.Slot, file, first)
		}
		lineOf[s.Bank] = n
		s.Line = n
		slots = append(slots, s)
	}
	return slots, nil
}

const blanks = " \t"

func parseSlot(line string) (s Slot, err error) {
	id, rest, err := field(line, false)
	if err != nil {
		return s, fmt.Errorf("bank id: %w", err)
	}
	if s.Bank.ID, err = number(id); err != nil {
		return s, fmt.Errorf("bank id %q: %w", id, err)
	}
	nr, rest, err := field(rest, false)
	if err != nil {
		return s, fmt.Errorf("slot number: %w", err)
	}
	if s.Bank.Slot, err = number(nr); err != nil {
		return s, fmt.Errorf("slot number %q: %w", nr, err)
	}
	if s.Spec, _, err = field(rest, true); err != nil {
		return s, fmt.Errorf("reader pattern: %w", err)
	}
	if strings.HasPrefix(s.Spec, softwarePrefix) {
		return s, nil
	}
	if meansSoftware(s.Spec) {
		return s, fmt.Errorf("third field: a card in software begins with %q, written just so", softwarePrefix)
	}
	if s.Pattern, err = compile(s.Spec); err != nil {
		return s, fmt.Errorf("reader pattern %q: %w", s.Spec, err)
	}
	return s, nil
}

// meansSoftware reports whether a third field is a misspelt card in software rather than a
// pattern. It may hold keys, which patterns don't: they are shown in logs, and to the server.
func meansSoftware(spec string) bool {
	return strings.Contains(strings.ToLower(strings.Join(strings.Fields(spec), "")), softwarePrefix)
}

// field takes one field and the comma behind it from s. The last one may contain
// commas when it isn't quoted, and nothing may follow it. Errors quote nothing, as there may
// be keys of a card.
func field(s string, last bool) (f, rest string, err error) {
	s = strings.TrimLeft(s, blanks)
	if strings.HasPrefix(s, `"`) {
		var b strings.Builder
		for s = s[1:]; ; {
			i := strings.IndexByte(s, '"')
			if i < 0 {
				return "", "", errors.New("no closing quote")
			}
			b.WriteString(s[:i])
			if s = s[i+1:]; !strings.HasPrefix(s, `"`) {
				break
			}
			b.WriteByte('"')
			s = s[1:]
		}
		f, s = b.String(), strings.TrimLeft(s, blanks)
		switch {
		case s == "" && !last:
			return "", "", errors.New("last field of the line, want three")
		case s != "" && last:
			return "", "", errors.New("more follows the third field")
		case s != "" && s[0] != ',':
			return "", "", errors.New("no comma follows the closing quote")
		}
		s = strings.TrimPrefix(s, ",")
	} else if last {
		f, s = strings.TrimRight(s, blanks), ""
	} else {
		var more bool
		if f, s, more = strings.Cut(s, ","); !more {
			return "", "", errors.New("last field of the line, want three")
		}
		f = strings.TrimRight(f, blanks)
	}
	if f == "" {
		return "", "", errors.New("empty")
	}
	return f, s, nil
}

func number(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > slot.Max {
		return 0, fmt.Errorf("want 0..%d", slot.Max)
	}
	return uint16(n), nil
}

// compile makes a Regexp of a POSIX extended regular expression as the C library
// reads it, where package regexp would read it otherwise: GNU's \w \W \s \S are
// translated, a backslash in brackets is an ordinary character, {,n} is {0,n}.
// What can't be had is refused with its position, from 1.
func compile(ere string) (*regexp.Regexp, error) {
	var b strings.Builder
	for i := 0; i < len(ere); i++ {
		switch rest := ere[i:]; {
		case rest[0] == '[':
			end, err := bracket(rest)
			if err != nil {
				return nil, fmt.Errorf("character %d: %w", i+1, err)
			}
			b.WriteString(strings.ReplaceAll(rest[:end], `\`, `\\`))
			i += end - 1
		case strings.HasPrefix(rest, "{,"):
			b.WriteString("{0")
		case rest[0] != '\\':
			b.WriteByte(rest[0])
		case len(rest) == 1:
			return nil, fmt.Errorf("character %d: nothing follows the backslash", i+1)
		default:
			i++
			switch c := rest[1]; c {
			case 'w':
				b.WriteString("[[:alnum:]_]")
			case 'W':
				b.WriteString("[^[:alnum:]_]")
			case 's':
				b.WriteString("[[:space:]]")
			case 'S':
				b.WriteString("[^[:space:]]")
			default:
				if !strings.ContainsRune(`^.[]$()|*+?{}\/"#,:;=!%&@~- `, rune(c)) {
					return nil, fmt.Errorf(`character %d: \%c isn't supported`, i, c)
				}
				b.WriteString(rest[:2])
			}
		}
	}
	re, err := regexp.CompilePOSIX(b.String())
	if se := (*syntax.Error)(nil); errors.As(err, &se) {
		return nil, fmt.Errorf("%s: %s", se.Code, se.Expr)
	}
	return re, err
}

// bracket returns the length of the bracket expression that s begins with.
func bracket(s string) (int, error) {
	i := 1
	if strings.HasPrefix(s[i:], "^") {
		i++
	}
	if strings.HasPrefix(s[i:], "]") { // the first one is an ordinary character
		i++
	}
	for ; i < len(s); i++ {
		switch rest := s[i:]; {
		case rest[0] == ']':
			return i + 1, nil
		case strings.HasPrefix(rest, "[:"):
			n := strings.Index(rest, ":]")
			if n < 0 {
				return 0, errors.New("[: without :]")
			}
			i += n + 1
		case strings.HasPrefix(rest, "[."), strings.HasPrefix(rest, "[="):
			return 0, fmt.Errorf("%s…] isn't supported", rest[:2])
		}
	}
	return 0, errors.New("[ without ]")
}
