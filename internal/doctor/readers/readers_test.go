// SPDX-License-Identifier: GPL-2.0-or-later

package readers_test

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"testing"
	"testing/synctest"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
	"remsim/internal/doctor"
	"remsim/internal/doctor/readers"
)

// pcscd knows these readers; without any and without an error it hangs.
type pcscd struct {
	readers []bankd.Reader
	err     error
}

func (p pcscd) Look(ctx context.Context) ([]bankd.Reader, error) {
	if p.readers == nil && p.err == nil {
		<-ctx.Done()
		return nil, context.Cause(ctx)
	}
	return p.readers, p.err
}

func TestCheck(t *testing.T) {
	t.Chdir(t.TempDir())
	good := bankd.Reader{Name: "A 00", Present: true, ATR: []byte{0x3b, 0x02, 0x14, 0x50}}
	for _, tc := range []struct {
		name  string
		slots string // "-": there is no file
		pcscd pcscd
		want  string // without the first line
	}{
		{"all well", "1,0,A\n1,9,B\n2,0,C\n", pcscd{readers: []bankd.Reader{good, {Name: "B 00"}}}, `
ok    slots file slots.csv: 1 lines for bank 1
ok    pcscd runs and has readers: 2
ok    reader "A 00": card with ATR 3b 02 14 50
ok    reader "B 00": no card
ok    slot 0: reader "A 00"
`},
		{"software", "1,0,softsim:iccid=89490000000000000011,imsi=262010000000001\n", pcscd{err: errors.New("not asked")}, `
ok    slots file slots.csv: 1 lines for bank 1
ok    slot 0: a card in software
`},
		{"bad software", "1,0,softsim:imsi=x\n", pcscd{}, `
ok    slots file slots.csv: 1 lines for bank 1
FAIL  slot 0: *
      → see the manual about cards in software
`},
		{"cards", "1,0,A\n1,1,B\n1,2,C\n", pcscd{readers: []bankd.Reader{{Name: "A 00", Present: true}, {Name: "B 00"}}}, `
ok    slots file slots.csv: 3 lines for bank 1
ok    pcscd runs and has readers: 2
ok    reader "A 00": a card that doesn't answer
ok    reader "B 00": no card
FAIL  slot 0: the card in reader "A 00" doesn't answer
      → is it the right way round, are its contacts clean, is it a SIM?
FAIL  slot 1: reader "B 00" has no card
      → put one in
FAIL  slot 2: no reader's name matches "C" of line 3: there are ["A 00" "B 00"]
      → correct the line, or plug the reader in
`},
		{"no readers", "1,0,A\n", pcscd{readers: []bankd.Reader{}}, `
ok    slots file slots.csv: 1 lines for bank 1
FAIL  pcscd runs and has no reader
      → plug one in; does lsusb show it, and is a driver for it installed (libccid)?
FAIL  slot 0: no reader's name matches "A" of line 1: there is none
      → correct the line, or plug the reader in
`},
		{"no file", "-", pcscd{readers: []bankd.Reader{good}}, `
FAIL  slots file: open slots.csv: no such file or directory
      → a line has a bank id, *
ok    pcscd runs and has readers: 1
ok    reader "A 00": card with ATR 3b 02 14 50
`},
		{"other bank", "2,0,A\n", pcscd{readers: []bankd.Reader{good}}, `
FAIL  slots file slots.csv: none of its 1 lines is for a slot below 8 of bank 1
      → see --bank-id, --num-slots and the first field of the lines
ok    pcscd runs and has readers: 1
ok    reader "A 00": card with ATR 3b 02 14 50
`},
		{"no pcscd", "1,0,A\n", pcscd{err: fmt.Errorf("connect: %w", bankd.ErrNoService)}, `
ok    slots file slots.csv: 1 lines for bank 1
FAIL  connect: pcscd doesn't answer
      → start it: *
`},
		{"not allowed", "1,0,A\n", pcscd{err: errors.New("connect: access denied")}, `
ok    slots file slots.csv: 1 lines for bank 1
FAIL  connect: access denied
      → pcscd may ask polkit *
`},
		{"hangs", "1,0,A\n", pcscd{}, `
ok    slots file slots.csv: 1 lines for bank 1
FAIL  pcscd: no answer within 5s
      → a reader's driver may hang*
`},
	} {
		t.Run(tc.name, func(t *testing.T) {
			os.Remove("slots.csv")
			if tc.slots != "-" {
				if err := os.WriteFile("slots.csv", []byte(tc.slots), 0o644); err != nil {
					t.Fatal(err)
				}
			}
			synctest.Test(t, func(t *testing.T) {
				var out bytes.Buffer
				r := doctor.New(&out, "program")
				readers.Check(t.Context(), r, tc.pcscd, &softsim.Bank{}, "slots.csv", 1, 8)
				got := strings.Split(out.String(), "\n")[1:]
				want := strings.Split(tc.want[1:], "\n")
				same := len(got) == len(want)
				for i := range min(len(got), len(want)) {
					begin, open := strings.CutSuffix(want[i], "*")
					same = same && (got[i] == want[i] || open && strings.HasPrefix(got[i], begin))
				}
				if !same {
					t.Errorf("report:\n%s\nwant:%s", strings.Join(got, "\n"), tc.want)
				}
				if bad := strings.Contains(out.String(), "FAIL"); bad != (r.Err() != nil) {
					t.Errorf("error %v", r.Err())
				}
			})
		})
	}
}
