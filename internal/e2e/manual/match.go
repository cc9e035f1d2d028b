// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"bytes"
	"os/exec"
	"regexp"
	"strings"
)

// incomplete tells whether a shell waits for more of a command.
func incomplete(command string) bool {
	cmd := exec.Command("bash", "-n")
	cmd.Stdin = strings.NewReader(command + "\n")
	var errs bytes.Buffer
	cmd.Stderr = &errs
	err := cmd.Run()
	return strings.HasSuffix(command, "\\") ||
		(err != nil || errs.Len() > 0) && regexp.MustCompile(`unexpected (end of file|EOF)|delimited by end-of-file`).MatchString(errs.String())
}

// Matches tells whether lines are what pattern shows: "…" in a line stands for any text, a line of "…" alone for any number of lines; blanks in a
// row are one, and empty lines at the end don't count.
func Matches(pattern, lines []string) bool {
	return matches(squeeze(pattern), squeeze(lines))
}

func matches(pattern, lines []string) bool {
	if len(pattern) == 0 {
		return len(lines) == 0
	}
	if pattern[0] == "…" {
		for i := 0; i <= len(lines); i++ {
			if matches(pattern[1:], lines[i:]) {
				return true
			}
		}
		return false
	}
	return len(lines) > 0 && matchLine(pattern[0], lines[0]) && matches(pattern[1:], lines[1:])
}

func matchLine(pattern, line string) bool {
	parts := strings.Split(pattern, "…")
	if len(parts) == 1 {
		return pattern == line
	}
	for i, part := range parts {
		switch {
		case i == 0:
			if !strings.HasPrefix(line, part) {
				return false
			}
			line = line[len(part):]
		case i == len(parts)-1:
			return strings.HasSuffix(line, part)
		default:
			_, after, ok := strings.Cut(line, part)
			if !ok {
				return false
			}
			line = after
		}
	}
	return true
}

func squeeze(lines []string) []string {
	var s []string
	for _, l := range lines {
		s = append(s, strings.Join(strings.Fields(l), " "))
	}
	for len(s) > 0 && s[len(s)-1] == "" {
		s = s[:len(s)-1]
	}
	return s
}

// escapes are what programs send to terminals besides text: ECMA-48 control sequences, and those that set a title.
var escapes = regexp.MustCompile("\x1b\\[[0-?]*[ -/]*[@-~]|\x1b\\][^\a\x1b]*(\a|\x1b\\\\)|\x1b[@-Z\\\\-_]|\x1b[=>]")

// Screen returns the lines that a terminal shows of what was written to it.
func Screen(text string) []string {
	text = escapes.ReplaceAllString(text, "")
	lines := strings.Split(strings.ReplaceAll(text, "\r\n", "\n"), "\n")
	for i, l := range lines {
		l = strings.TrimRight(l, "\r")
		lines[i] = l[strings.LastIndexByte(l, '\r')+1:]
	}
	if n := len(lines) - 1; lines[n] == "" {
		lines = lines[:n]
	}
	return lines
}
