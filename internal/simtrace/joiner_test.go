// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

import (
	"bytes"
	"fmt"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// joined feeds transfers to a new Joiner and returns what comes out, errors in brackets.
func joined(transfers ...[]byte) string {
	var j Joiner
	var out []string
	for _, b := range transfers {
		for m, err := range j.Join(b) {
			if err != nil {
				out = append(out, "["+err.Error()+"]")
			} else {
				out = append(out, describe(m))
			}
		}
	}
	return strings.Join(out, ", ")
}

// rx returns an RxData of n bytes, its header included.
func rx(t testing.TB, n int) []byte {
	t.Helper()
	b, err := Append(nil, &RxData{Flags: Final, Data: bytes.Repeat([]byte{0xa5}, n-DataOverhead)})
	if err != nil || len(b) != n {
		t.Fatalf("%d bytes: %v", len(b), err)
	}
	return b
}

// packets cuts b as it goes over USB, without packets of length zero.
func packets(b []byte) [][]byte { return slices.Collect(slices.Chunk(b, PacketSize)) }

func TestJoin(t *testing.T) {
	with := func(b []byte, at int, v byte) []byte {
		b = slices.Clone(b)
		b[at] = v
		return b
	}
	short, packet, two, odd := rx(t, 19), rx(t, 64), rx(t, 128), rx(t, 150)
	const said19, said64, said128, said150 = "RX_DATA flags=FINAL data_len=5", "RX_DATA flags=FINAL data_len=50",
		"RX_DATA flags=FINAL data_len=114", "RX_DATA flags=FINAL data_len=136"
	for _, c := range []struct {
		name      string
		transfers [][]byte
		want      string
	}{
		{"one", [][]byte{short}, said19},
		{"two in a transfer", [][]byte{slices.Concat(short, short)}, said19 + ", " + said19},
		{"over packets", packets(odd), said150},
		{"over packets, then another", append(packets(odd), short), said150 + ", " + said19},
		{"whole packets, none of length zero", append(packets(two), short), said128 + ", " + said19},
		{"whole packets, one of length zero", append(packets(two), nil, short), said128 + ", " + said19},
		{"one whole packet", [][]byte{packet, nil, packet, short}, said64 + ", " + said64 + ", " + said19},
		{"lone packets of length zero", [][]byte{nil, short, nil, nil, short}, said19 + ", " + said19},
		{"two over packets", packets(slices.Concat(odd, two)), said150 + ", " + said128},
		{"in one long transfer", [][]byte{slices.Concat(two, odd, short)}, said128 + ", " + said150 + ", " + said19},
		{
			"length too short", [][]byte{with(short, 6, 7), short},
			"[message of length 7: want 8..280: 19 bytes skipped], " + said19,
		},
		{
			"length too long", [][]byte{with(with(short, 6, 0x19), 7, 1), short},
			"[message of length 281: want 8..280: 19 bytes skipped], " + said19,
		},
		{"no class", [][]byte{with(short, 0, 4), short}, "[message of class 4: want 0..3: 19 bytes skipped], " + said19},
		{
			"reserved bytes", [][]byte{with(short, 5, 1), short},
			"[message with reserved bytes 0001: want 0000: 19 bytes skipped], " + said19,
		},
		{
			"garbage after a message", [][]byte{slices.Concat(short, with(short, 0, 9)), short},
			said19 + ", [message of class 9: want 0..3: 19 bytes skipped], " + said19,
		},
		{
			"garbage over packets", append(packets(bytes.Repeat([]byte{0xee}, 150)), short),
			"[message of class 238: want 0..3: 64 bytes skipped], " + said19,
		},
		{"message that says more than it has", [][]byte{short[:12], short}, "[message ends after 12 bytes: skipped], " + said19},
		{"less than a header", [][]byte{short[:5], short}, "[message ends after 5 bytes: skipped], " + said19},
		{"last packet lost", [][]byte{odd[:64], odd[64:128], nil, short}, "[message ends after 128 bytes: skipped], " + said19},
		{"middle packet lost", [][]byte{odd[:64], odd[128:], short}, "[message ends after 86 bytes: skipped], " + said19},
		{
			"first packet lost", [][]byte{odd[64:128], odd[128:], short},
			"[message of class 165: want 0..3: 64 bytes skipped], " + said19,
		},
		{
			"wrong inside", [][]byte{with(short, 12, 9), short},
			"[decode RX_DATA: data_len is 9, 5 bytes are there], " + said19,
		},
		{"unknown", [][]byte{{1, 99, 0, 0, 0, 0, 9, 0, 1}, short}, "class 1 type 99, " + said19},
	} {
		if got := joined(c.transfers...); got != c.want {
			t.Errorf("%s:\n got %s\nwant %s", c.name, got, c.want)
		}
	}
}

// TestJoinEvery has messages of all lengths, in packets, each with the next.
func TestJoinEvery(t *testing.T) {
	var j Joiner
	n := 0
	for size := DataOverhead; size <= MaxMessage; size++ {
		for _, p := range packets(rx(t, size)) {
			for m, err := range j.Join(p) {
				if err != nil || len(m.(*RxData).Data) != size-DataOverhead {
					t.Fatalf("%d bytes: %v, %v", size, describe(m), err)
				}
				n++
			}
		}
	}
	if want := MaxMessage - DataOverhead + 1; n != want {
		t.Errorf("%d messages, want %d", n, want)
	}
}

// TestJoinRecorded has the two messages in one transfer that a C client takes for one.
func TestJoinRecorded(t *testing.T) {
	for _, r := range conversation(t) {
		if strings.Contains(r.name, "38 bytes") {
			const one = "RX_DATA flags=TPDU_HDR data_len=5"
			if got := joined(r.bytes); got != one+", "+one {
				t.Errorf("got %s", got)
			}
			return
		}
	}
	t.Fatal("not in the recording")
}

// TestJoinBreak leaves a transfer half taken.
func TestJoinBreak(t *testing.T) {
	var j Joiner
	short := rx(t, 19)
	for range j.Join(slices.Concat(short, short)) {
		break
	}
	n := 0
	for _, err := range j.Join(short) {
		if err != nil {
			t.Error(err)
		}
		n++
	}
	if n != 2 {
		t.Errorf("%d messages, want 2", n)
	}
}

// FuzzJoin cuts bytes into transfers: whatever comes, what is yielded can be encoded, and a message alone
// in its transfers comes out after anything.
func FuzzJoin(f *testing.F) {
	for _, r := range conversation(f) {
		f.Add(r.bytes, uint8(64))
	}
	f.Add([]byte{}, uint8(0))
	f.Fuzz(func(t *testing.T, b []byte, size uint8) {
		var j Joiner
		for p := range slices.Chunk(b, int(size)+1) {
			for m, err := range j.Join(p) {
				if (m == nil) == (err == nil) {
					t.Fatalf("%v, %v", m, err)
				}
			}
			if len(j.buf) > MaxMessage {
				t.Fatalf("%d bytes kept", len(j.buf))
			}
		}
		for range j.Join(nil) { // what has begun ends
		}
		want := &RxData{Flags: Header, Data: []byte{0xa0, 0xa4, 0, 0, 2}}
		last, _ := Append(nil, want)
		var got []string
		for m, err := range j.Join(last) {
			if err != nil || !reflect.DeepEqual(m, Message(want)) {
				t.Fatalf("%v, %v", m, err)
			}
			got = append(got, fmt.Sprint(m))
		}
		if len(got) != 1 {
			t.Fatalf("%d messages", len(got))
		}
	})
}
