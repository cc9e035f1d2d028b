// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"bufio"
	"embed"
	"encoding/hex"
	"fmt"
	"io"
	"strings"
	"time"
)

// Scripts says how scripts are written.
const Scripts = `    HEX [PATTERN]      a command, and the response to it and what follows it: "." is any digit, "*" at the end any rest
    reset cold|warm [PATTERN]    power off and on, or reset; the ATR
    pts [HEX]          ask for F and D, one byte; without it for those of the ATR, if it offers any
    sleep DURATION     such as 100ms
    repeat N           what follows up to "end", N times
    end
    # comment
`

// A Kind is what a step of a script does.
type Kind uint8

// Kinds of steps.
const (
	Command Kind = iota
	Cold
	Warm
	PTS
	Sleep
)

// A Step is one thing that a modem does.
type Step struct {
	Line    int // of the script
	Kind    Kind
	Command []byte
	Want    string // pattern of the response or ATR in hexadecimal; empty: any
	TA1     byte   // of PTS
	Auto    bool   // PTS: as the ATR offers
	Pause   time.Duration
}

// A Script is what a modem does, in order.
type Script struct{ Steps []Step }

// maxSteps bounds a script, with what it repeats.
const maxSteps = 1_000_000

// ParseScript reads a script; name is for errors, NAME:LINE.
func ParseScript(name string, r io.Reader) (Script, error) {
	var s Script
	var loops []loop
	sc := bufio.NewScanner(r)
	line := 0
	fail := func(format string, args ...any) (Script, error) {
		return Script{}, fmt.Errorf("%s:%d: %w", name, line, fmt.Errorf(format, args...))
	}
	for sc.Scan() {
		line++
		text, _, _ := strings.Cut(sc.Text(), "#")
		f := strings.Fields(text)
		if len(f) == 0 {
			continue
		}
		switch f[0] {
		case "repeat":
			n := 0
			if len(f) != 2 || parseInt(f[1], &n) != nil || n < 1 || n > maxSteps {
				return fail("%q: want repeat and 1..%d", strings.TrimSpace(text), maxSteps)
			}
			loops = append(loops, loop{len(s.Steps), n})
			continue
		case "end":
			if len(loops) == 0 || len(f) != 1 {
				return fail("end without repeat")
			}
			l := loops[len(loops)-1]
			loops = loops[:len(loops)-1]
			body := s.Steps[l.start:]
			if len(body)*l.times+l.start > maxSteps {
				return fail("more than %d steps", maxSteps)
			}
			for range l.times - 1 {
				s.Steps = append(s.Steps, body...)
			}
			continue
		}
		step, err := parseStep(f)
		if err != nil {
			return fail("%w", err)
		}
		step.Line = line
		if len(s.Steps) == maxSteps {
			return fail("more than %d steps", maxSteps)
		}
		s.Steps = append(s.Steps, step)
	}
	line++
	if err := sc.Err(); err != nil {
		return fail("%w", err)
	}
	if len(loops) > 0 {
		return fail("repeat without end")
	}
	return s, nil
}

type loop struct{ start, times int }

func parseInt(s string, n *int) error {
	_, err := fmt.Sscanf(s+" ", "%d ", n)
	return err
}

func parseStep(f []string) (step Step, err error) {
	least, most := 1, 2
	switch f[0] {
	case "reset":
		least, most = 2, 3
	case "sleep":
		least = 2
	}
	if len(f) < least || len(f) > most {
		return step, fmt.Errorf("%s: %d words, want %d..%d", f[0], len(f), least, most)
	}
	switch f[0] {
	case "reset":
		switch f[1] {
		case "cold":
			step.Kind = Cold
		case "warm":
			step.Kind = Warm
		default:
			return step, fmt.Errorf("reset %q: want cold or warm", f[1])
		}
		f = f[1:]
	case "pts":
		step.Kind, step.Auto = PTS, len(f) == 1
		if !step.Auto {
			b, err := hex.DecodeString(f[1])
			if err != nil || len(b) != 1 {
				return step, fmt.Errorf("pts %q: want one byte in hexadecimal", f[1])
			}
			step.TA1 = b[0]
		}
		return step, nil
	case "sleep":
		step.Kind = Sleep
		if step.Pause, err = time.ParseDuration(f[1]); err != nil || step.Pause < 0 || step.Pause > time.Hour {
			return step, fmt.Errorf("sleep %q: want a time of 0s..1h", f[1])
		}
		return step, nil
	default:
		if step.Command, err = ParseCommand(f[0]); err != nil {
			return step, err
		}
	}
	if len(f) == 2 {
		step.Want = strings.ToLower(f[1])
		if strings.Trim(strings.TrimSuffix(step.Want, "*"), ".0123456789abcdef") != "" {
			return step, fmt.Errorf("pattern %q: want hexadecimal digits, \".\", and \"*\" at the end", f[1])
		}
	}
	return step, nil
}

// ParseCommand reads a command TPDU in hexadecimal.
func ParseCommand(s string) ([]byte, error) {
	b, err := hex.DecodeString(s)
	if err != nil || len(b) < 5 || len(b) > 5 && len(b) != 5+int(b[4]) {
		return nil, fmt.Errorf("command %q: want five bytes in hexadecimal, or P3 bytes after them", s)
	}
	return b, nil
}

//go:embed scripts
var builtin embed.FS

// Builtin returns a script that comes with the program: "init" is what a modem does with a SIM that was switched on.
func Builtin(name string) (Script, error) {
	f, err := builtin.Open("scripts/" + name + ".txt")
	if err != nil {
		return Script{}, fmt.Errorf("no script %q", name)
	}
	defer f.Close()
	return ParseScript(name, f)
}
