// SPDX-License-Identifier: GPL-2.0-or-later

package ipa_test

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"remsim/internal/ipa"
)

func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// Recorded from C programs: PING, createMappingRes, PONG, createMappingReq.
const stream = "0001fe00" +
	"0010ee07 300d800102810100a205a5030a0100" +
	"0001fe01" +
	"001dee07 301a800102810100a212a41030060201070201033006020101020100"

// drain lists the frames of r in words and its last error.
func drain(r io.Reader) ([]string, error) {
	var got []string
	for rd := ipa.NewReader(r); ; {
		s, b, err := rd.Next()
		if err != nil {
			return got, err
		}
		got = append(got, fmt.Sprintf("%x %x", byte(s), b))
	}
}

// parts reads the parts of a stream one after the other.
func parts(ps ...[]byte) io.Reader {
	rs := make([]io.Reader, len(ps))
	for i, p := range ps {
		rs[i] = bytes.NewReader(p)
	}
	return io.MultiReader(rs...)
}

func TestReaderAnySplit(t *testing.T) {
	b := unhex(t, stream)
	want := []string{
		"fe 00",
		"ee 300d800102810100a205a5030a0100",
		"fe 01",
		"ee 301a800102810100a212a41030060201070201033006020101020100",
	}
	check := func(name string, r io.Reader) {
		t.Helper()
		got, err := drain(r)
		if err != io.EOF {
			t.Fatalf("%s: %v, want EOF", name, err)
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Fatalf("%s: got %q, want %q", name, got, want)
		}
	}
	check("in one", bytes.NewReader(b))
	check("byte by byte", iotest.OneByteReader(bytes.NewReader(b)))
	check("data with EOF", iotest.DataErrReader(bytes.NewReader(b)))
	for i := range b {
		check(fmt.Sprintf("split at %d", i), parts(b[:i], b[i:]))
		for j := i; j < len(b); j++ {
			check(fmt.Sprintf("split at %d and %d", i, j), parts(b[:i], b[i:j], b[j:]))
		}
	}
}

// Many frames, longer together than the reader's buffer, and frames of the
// greatest length among them.
func TestReaderLongStream(t *testing.T) {
	var b []byte
	var want []int
	for n := 1; n <= ipa.MaxFrame-ipa.Overhead; n += 97 {
		want = append(want, n)
	}
	want = append(want, ipa.MaxFrame-ipa.Overhead, 1, ipa.MaxFrame-ipa.Overhead)
	for _, n := range want {
		start := len(b)
		b = append(ipa.Begin(b), bytes.Repeat([]byte{byte(n)}, n)...)
		ipa.End(b[start:])
	}
	for _, r := range []io.Reader{bytes.NewReader(b), iotest.HalfReader(bytes.NewReader(b))} {
		rd := ipa.NewReader(r)
		for i, n := range want {
			s, p, err := rd.Next()
			if err != nil || s != ipa.RSPRO || !bytes.Equal(p, bytes.Repeat([]byte{byte(n)}, n)) {
				t.Fatalf("frame %d: stream %x, %d bytes, %v; want %d bytes", i, s, len(p), err, n)
			}
		}
		if _, _, err := rd.Next(); err != io.EOF {
			t.Errorf("after the last frame: %v, want EOF", err)
		}
	}
}

func TestReaderBadInput(t *testing.T) {
	boom := errors.New("boom")
	tests := []struct {
		name, in string
		want     error
		frames   int // before it
	}{
		{"nothing", "", io.EOF, 0},
		{"one byte of a length", "00", io.ErrUnexpectedEOF, 0},
		{"length only", "0001", io.ErrUnexpectedEOF, 0},
		{"header only", "0001fe", io.ErrUnexpectedEOF, 0},
		{"body cut", "0001fe00 0005ee0730", io.ErrUnexpectedEOF, 1},
		{"empty CCM", "0000fe", ipa.ErrEmpty, 0},
		{"empty OSMO", "0001fe00 0000ee", ipa.ErrEmpty, 1},
		{"empty, stream unknown yet", "0000", ipa.ErrEmpty, 0},
		{"RSPRO without PDU", "0001ee07", ipa.ErrEmpty, 0},
		{"stream 00", "0003006162 63", ipa.ErrStream, 0},
		{"stream 55", "000355616263", ipa.ErrStream, 0},
		{"stream before body", "00ff00", ipa.ErrStream, 0},
		{"extension 00", "0002ee0030", ipa.ErrExtension, 0},
		{"extension before body", "00ffee06", ipa.ErrExtension, 0},
		{"4097 bytes", "0ffe", ipa.ErrTooLong, 0},
		{"longest", "ffffee07", ipa.ErrTooLong, 0},
		{"HTTP", hex.EncodeToString([]byte("GET / HTTP/1.1\r\n")), ipa.ErrTooLong, 0},
	}
	for _, tt := range tests {
		for _, split := range []func(io.Reader) io.Reader{func(r io.Reader) io.Reader { return r }, iotest.OneByteReader} {
			got, err := drain(split(bytes.NewReader(unhex(t, tt.in))))
			if !errors.Is(err, tt.want) || len(got) != tt.frames {
				t.Errorf("%s: %d frames, %v; want %d, %v", tt.name, len(got), err, tt.frames, tt.want)
			}
		}
	}

	_, err := drain(io.MultiReader(strings.NewReader("\x00\x01"), iotest.ErrReader(boom)))
	if !errors.Is(err, boom) {
		t.Errorf("error of the stream: got %v", err)
	}
	if _, err := drain(stuck{}); err != io.ErrNoProgress {
		t.Errorf("reader that gives nothing: %v, want %v", err, io.ErrNoProgress)
	}
}

type stuck struct{}

func (stuck) Read([]byte) (int, error) { return 0, nil }

// A peer of another protocol is named by what it says first.
func TestReaderNamesStrangers(t *testing.T) {
	for in, want := range map[string]string{
		"GET / HTTP/1.1\r\n":                 "HTTP",
		"OPTIONS * HTTP/1.1\r\n":             "HTTP",
		"POST /api/v2/slotmaps HTTP/1.1\r\n": "HTTP",
		"HTTP/1.1 400 Bad Request\r\n":       "HTTP",
		"\x16\x03\x01\x02\x00\x01":           "TLS",
		"\x15\x03\x01\x00\x02\x02\x28":       "TLS",
		"SSH-2.0-OpenSSH_9.2\r\n":            "SSH",
		"220 mail.example ESMTP\r\n":         "text",
		"hello\n":                            "text",
		"~\n":                                "text",
		"\x00\x00":                           "",
		"\x16\x04":                           "",
		"\xff\xff":                           "",
	} {
		if _, err := drain(iotest.OneByteReader(strings.NewReader(in))); want == "" && strings.Contains(err.Error(), "looks like") ||
			want != "" && !strings.HasSuffix(err.Error(), ": that looks like "+want) {
			t.Errorf("%q: %v, want a guess at %q", in, err, want)
		}
	}
	// Later than at the beginning it is a broken frame.
	if _, err := drain(bytes.NewReader(append(unhex(t, stream), "GET "...))); err.Error() != "ipa: frame too long: 18248 bytes, at most 4096" {
		t.Errorf("got %v", err)
	}
}

// What is known to be wrong is said before more is read.
func TestReaderSaysWhatWasWrong(t *testing.T) {
	for in, want := range map[string]string{
		"0000ee":     "ipa: empty frame",
		"ffffee07":   "ipa: frame too long: 65538 bytes, at most 4096",
		"0003006162": "ipa: unknown stream id 0x00",
		"0003ee0162": "ipa: unknown extension id 0x01",
		"0010ee0730": "ipa: within a frame, after 5 bytes: unexpected EOF",
	} {
		if _, err := drain(bytes.NewReader(unhex(t, in))); err.Error() != want {
			t.Errorf("%s: %q, want %q", in, err, want)
		}
	}
}

func TestReaderAllocatesNothing(t *testing.T) {
	b := unhex(t, stream)
	src := bytes.NewReader(b)
	r := ipa.NewReader(src)
	if n := testing.AllocsPerRun(100, func() {
		src.Reset(b)
		for range 4 {
			if _, _, err := r.Next(); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations, want none", n)
	}
}

func TestAppendFrame(t *testing.T) {
	b := []byte("before")
	b = append(ipa.Begin(b), 0x30, 0x00)
	ipa.End(b[6:])
	if want := append([]byte("before"), unhex(t, "0003ee073000")...); !bytes.Equal(b, want) {
		t.Errorf("got %x, want %x", b, want)
	}
}

func FuzzReader(f *testing.F) {
	f.Add(unhex(f, stream), uint64(0))
	f.Add(unhex(f, stream), uint64(0x123456789abcdef))
	for _, s := range []string{"0000ee", "0001ee07", "000355616263", "0005ee0730038001", "0fff", "0002ee01aa"} {
		f.Add(unhex(f, stream+s), uint64(7))
	}
	f.Fuzz(func(t *testing.T, b []byte, split uint64) {
		want, wantErr := drain(bytes.NewReader(b))
		got, err := drain(&splitReader{b, split})
		if fmt.Sprint(got) != fmt.Sprint(want) {
			t.Errorf("split: %q, want %q", got, want)
		}
		if err.Error() != wantErr.Error() {
			t.Errorf("split: %v, want %v", err, wantErr)
		}
	})
}

// A splitReader gives 1 to 16 bytes a time, by the digits of split.
type splitReader struct {
	b     []byte
	split uint64
}

func (r *splitReader) Read(b []byte) (int, error) {
	if len(r.b) == 0 {
		return 0, io.EOF
	}
	r.split = r.split>>4 | r.split<<60
	n := copy(b, r.b[:min(len(r.b), 1+int(r.split&15))])
	r.b = r.b[n:]
	return n, nil
}
