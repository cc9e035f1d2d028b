// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"encoding/hex"
	"path/filepath"
	"slices"
	"testing"
	"testing/synctest"

	"remsim/internal/gsmtap/tshark"
	"remsim/internal/slot"
)

// Traced is what passes cards, in order: ATRs, also those that no client is told, and commands
// with their responses; of all slots or one.
func TestTrace(t *testing.T) {
	five := uint16(5)
	for name, only := range map[string]*uint16{"all": nil, "one": &five} {
		t.Run(name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "trace.pcap")
			simulate(t, func(r *rig) {
				m, other := r.session(c23, 5), r.session(c42, 6)
				m.exchange(cmd...)
				other.exchange(cmd...)
				r.cards[5].set(func(c *reader) { c.nextATR = []byte{0x3b, 0x01, 0x02} })
				m.phys(true, slot.On)
				m.wantATR([]byte{0x3b, 0x01, 0x02})
				m.phys(false, slot.On)
				m.phys(false, slot.Off) // the ATR is the same
				synctest.Wait()
				m.exchange(0, 1, 2, 3, 4)
			}, func(s *setup) { s.Trace.File, s.TraceSlot = file, only })

			packets, err := tshark.Fields(file, "udp.srcport", "udp.payload")
			if err != nil {
				t.Fatal(err)
			}
			traced := map[string][]string{}
			for _, p := range packets {
				traced[p[0]] = append(traced[p[0]], p[1])
			}
			const (
				apdu = "02040400000000000000000000000000"
				atr  = "02040400000000000000000001000000"
			)
			begin := []string{atr + hex.EncodeToString(testATR), apdu + hex.EncodeToString(slices.Concat(cmd, cmd)) + "9000"}
			want := append(slices.Clone(begin), atr+"3b0102", atr+"3b0102", apdu+"0001020304"+"0001020304"+"9000")
			if got := traced["10005"]; !slices.Equal(got, want) {
				t.Errorf("slot 5: %q, want %q", got, want)
			}
			if only != nil {
				begin = nil
			}
			if got := traced["10006"]; !slices.Equal(got, begin) {
				t.Errorf("slot 6: %q, want %q", got, begin)
			}
		})
	}
}
