// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"regexp"

	"remsim/internal/slot"
)

// A Slot is one line of the slots file: which card a bank slot has.
type Slot struct {
	Bank    slot.Bank
	Spec    string         // the third field as written: a pattern, or "softsim:…"
	Pattern *regexp.Regexp // searched in the names of PC/SC readers; nil for a software card
	Line    int            // line of the file, from 1
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
