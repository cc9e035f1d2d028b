// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
)

// A frame is a line of testdata/frames.txt.
type frame struct {
	line int
	pdu  []byte // what follows stream and extension
	note string
}

// frames reads testdata/frames.txt; connection control (CCM) is left out.
func frames(tb testing.TB) (all []frame) {
	tb.Helper()
	text, err := os.ReadFile("testdata/frames.txt")
	if err != nil {
		tb.Fatal(err)
	}
	for i, line := range strings.Split(string(text), "\n") {
		if line == "" || line[0] == '#' {
			continue
		}
		fields := strings.Fields(line)
		_, note, _ := strings.Cut(line, "# ")
		b, err := hex.DecodeString(fields[1])
		if err != nil || len(b) < 3 {
			tb.Fatalf("frames.txt:%d: frame is %q", i+1, fields[1])
		}
		b = b[2:] // the length
		if strings.Contains(note, "IPA-CCM") {
			continue
		}
		// Of frames that aren't RSPRO everything behind the stream is kept as bad input.
		b = bytes.TrimPrefix(b[1:], []byte{0x07})
		all = append(all, frame{i + 1, b, note})
	}
	return all
}

func TestFrames(t *testing.T) {
	var good, bad int
	for _, f := range frames(t) {
		p, err := Decode(f.pdu)
		_, refused, isRefused := strings.Cut(f.note, "refused: ")
		switch {
		case isRefused:
			bad++
			var e *Error
			if !errors.As(err, &e) {
				t.Errorf("frames.txt:%d: decoded to %+v", f.line, p)
			} else if got := e.Message + " " + e.Element + ": " + e.Rule; got != refused {
				t.Errorf("frames.txt:%d: %s, want %s", f.line, got, refused)
			}
		case strings.Contains(f.note, "malformed"), strings.Contains(f.note, "proto"), strings.Contains(f.note, "empty"):
			bad++
			if err == nil {
				t.Errorf("frames.txt:%d: decoded to %+v", f.line, p)
			}
		case err != nil:
			t.Errorf("frames.txt:%d: %v", f.line, err)
		default:
			good++
			if got := fmt.Sprintf("%v (version %d, tag %d)", p.Msg.Choice(), p.Version, p.Tag); !strings.HasSuffix(f.note, got) {
				t.Errorf("frames.txt:%d: decoded to %s, want %s", f.line, got, f.note)
			}
			if b, err := p.Append(nil); err != nil || !bytes.Equal(b, f.pdu) {
				t.Errorf("frames.txt:%d: encoded again to %x, %v, want %x", f.line, b, err, f.pdu)
			}
		}
	}
	// So that a file gone wrong is noticed.
	if good != 161 || bad != 9 {
		t.Errorf("%d good and %d bad frames, want 161 and 9", good, bad)
	}
}
