// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"context"
	"time"

	"github.com/ebfe/scard"

	"remsim/internal/bankd"
)

// Watch reports the readers twice a second.
func (Bank) Watch(ctx context.Context, changed func([]bankd.Reader)) error {
	for t := time.NewTicker(500 * time.Millisecond); ; {
		changed(look())
		select {
		case <-ctx.Done():
			t.Stop()
			return nil
		case <-t.C:
		}
	}
}

// look returns the readers that are there, nil when there is no pcscd.
func look() []bankd.Reader {
	sc, err := scard.EstablishContext()
	if err != nil {
		return nil
	}
	defer release(sc)
	names, err := list(sc)
	if err != nil {
		return nil
	}
	states := make([]scard.ReaderState, len(names))
	for i, n := range names {
		states[i].Reader = n
	}
	if len(states) > 0 && sc.GetStatusChange(states, 0) != nil {
		return nil
	}
	readers := make([]bankd.Reader, 0, len(states))
	for _, s := range states {
		readers = append(readers, bankd.Reader{
			Name: s.Reader, Present: s.EventState&scard.StatePresent != 0,
			ATR: s.Atr, Changes: uint64(s.EventState >> 16),
		})
	}
	return readers
}
