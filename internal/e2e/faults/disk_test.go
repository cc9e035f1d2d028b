// SPDX-License-Identifier: GPL-2.0-or-later

package faults

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"remsim/internal/e2e/rig"
	"remsim/internal/slot"
)

// TestDiskFull keeps the store on a file system that is full: changes for which there is no room are refused, as a whole, and nothing else
// is disturbed. When there is room again they are taken, and a server that is started again knows them all.
func TestDiskFull(t *testing.T) {
	t.Parallel()
	s := newSite(t)
	dir := filepath.Dir(s.store())
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, "size=1m"); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, unix.MNT_DETACH); err != nil {
			t.Error(err)
		}
	})
	s.chain()
	before := s.user.Counts()
	fill := filepath.Join(dir, "fill")
	f, err := os.Create(fill)
	if err != nil {
		t.Fatal(err)
	}
	for err == nil {
		_, err = f.Write(make([]byte, 4096))
	}
	f.Close()

	taken, refused := 0, 0
	for bank := range uint16(20) {
		var ops []rig.Op
		for nr := range uint16(400) {
			ops = append(ops, rig.Op{Op: "create", Map: slot.Map{Bank: slot.Bank{ID: 100 + bank, Slot: nr}, Client: slot.Client{ID: 100 + bank, Slot: nr}}})
		}
		err := s.api.Bulk(ops)
		n := s.bank(100 + bank)
		switch {
		case err == nil && n == len(ops):
			taken++
		case err != nil && n == 0:
			refused++
			t.Logf("refused: %v", err)
		default:
			t.Errorf("%d of %d maps are there, and the answer was %v", n, len(ops), err)
		}
		if refused == 3 {
			break
		}
	}
	if refused == 0 {
		t.Error("the disk isn't full")
	}
	s.works(10, soon)
	s.unnoticed(before)
	if err := os.Remove(fill); err != nil {
		t.Fatal(err)
	}
	s.again(promised)
	m := slot.Map{Bank: slot.Bank{ID: 200}, Client: slot.Client{ID: 200}}
	if err := s.api.Create(m); err != nil {
		t.Error(err)
	}
	s.server.Kill()
	s.startServer()
	if n := s.bank(200); n != 1 {
		t.Errorf("%d maps of bank 200", n)
	}
	for bank := range uint16(taken) {
		if n := s.bank(100 + bank); n != 400 {
			t.Errorf("%d maps of bank %d", n, 100+bank)
		}
	}
	if err := s.api.Reset(); err != nil {
		t.Fatal(err)
	}
	s.create(0, 1)
	s.again(promised)
	s.check()
}

// bank returns how many maps there are of a bank.
func (s *site) bank(id uint16) (n int) {
	s.t.Helper()
	states, err := s.api.SlotMaps()
	if err != nil {
		s.t.Fatal(err)
	}
	for m := range states {
		if m.Bank.ID == id {
			n++
		}
	}
	return n
}
