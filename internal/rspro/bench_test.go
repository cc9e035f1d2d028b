// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

import "testing"

func benchAppend(b *testing.B, p PDU) {
	buf := make([]byte, 0, MaxSize)
	der, err := p.Append(buf)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		p.Append(buf)
	}
}

func benchDecode(b *testing.B, p PDU) {
	der, err := p.Append(nil)
	if err != nil {
		b.Fatal(err)
	}
	b.SetBytes(int64(len(der)))
	b.ReportAllocs()
	for b.Loop() {
		Decode(der)
	}
}

func BenchmarkAppendTpdu(b *testing.B) { benchAppend(b, tpdu260()) }
func BenchmarkDecodeTpdu(b *testing.B) { benchDecode(b, tpdu260()) }

// BenchmarkAppend and BenchmarkDecode have all messages, one golden PDU each.
func BenchmarkAppend(b *testing.B) { benchMessages(b, benchAppend) }
func BenchmarkDecode(b *testing.B) { benchMessages(b, benchDecode) }

func benchMessages(b *testing.B, bench func(*testing.B, PDU)) {
	seen := map[Choice]bool{}
	for _, g := range goldens() {
		if c := g.pdu.Msg.Choice(); !seen[c] {
			seen[c] = true
			b.Run(c.String(), func(b *testing.B) { bench(b, g.pdu) })
		}
	}
}
