// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"bufio"
	"fmt"
	"io"
)

// maxLine is the longest line taken: the longest command with plenty of blanks.
const maxLine = 4096

var errLong = fmt.Errorf("line is longer than %d characters", maxLine)

// A lineReader reads lines that end with CR, LF, both, or the end of the input.
type lineReader struct {
	r  *bufio.Reader
	cr bool // the last line ended with CR: an LF that follows belongs to it
}

// next returns the next line without its end. Of a line that is too long it keeps nothing
// and returns errLong.
func (l *lineReader) next() (string, error) {
	var line []byte
	long := false
	for {
		b, err := l.r.ReadByte()
		after := l.cr
		l.cr = err == nil && b == '\r'
		switch {
		case err == io.EOF && (len(line) > 0 || long):
			// The end of the input ends this line; the next call meets it again.
		case err != nil:
			return "", err
		case b == '\n' && after:
			continue
		case b != '\r' && b != '\n':
			if len(line) == maxLine {
				long, line = true, nil
			}
			if !long {
				line = append(line, b)
			}
			continue
		}
		if long {
			return "", errLong
		}
		return string(line), nil
	}
}
