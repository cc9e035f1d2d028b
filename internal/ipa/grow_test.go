// SPDX-License-Identifier: GPL-2.0-or-later

package ipa

import (
	"bytes"
	"io"
	"testing"
	"testing/iotest"
)

// TestReaderGrows: a Reader is small until more comes at once than it holds.
func TestReaderGrows(t *testing.T) {
	small := AppendCCM(nil, Ping)
	long := append(Begin(nil), make([]byte, MaxFrame-Overhead)...)
	End(long)
	for _, tt := range []struct {
		name   string
		stream []byte
		most   int
	}{
		{"one by one", bytes.Repeat(small, 1000), firstBuffer},
		{"all at once", bytes.Repeat(small, 10_000), MaxFrame},
		{"the longest", long, MaxFrame},
	} {
		var from io.Reader = bytes.NewReader(tt.stream)
		if tt.most == firstBuffer {
			from = iotest.OneByteReader(from)
		}
		r := NewReader(from)
		n := 0
		for {
			_, b, err := r.Next()
			if err == io.EOF {
				break
			}
			if err != nil {
				t.Fatalf("%s: %v", tt.name, err)
			}
			n += len(b)
		}
		if n == 0 || len(r.buf) != tt.most {
			t.Errorf("%s: %d bytes in frames, a buffer of %d, want %d", tt.name, n, len(r.buf), tt.most)
		}
	}
}
