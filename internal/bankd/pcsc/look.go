// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"context"

	"remsim/internal/bankd"
)

// Look returns the readers there are, without a word to their cards. A pcscd that hangs is waited for until ctx ends;
// the call to it is abandoned then.
func (Bank) Look(ctx context.Context) ([]bankd.Reader, error) {
	type seen struct {
		readers []bankd.Reader
		err     error
	}
	done := make(chan seen, 1)
	go func() {
		l, err := openStatus()
		if err != nil {
			done <- seen{nil, fault("connect to pcscd", err)}
			return
		}
		defer l.release()
		readers, err := new(view).look(l)
		if err != nil {
			err = fault("look at the readers", err)
		}
		done <- seen{readers, err}
	}()
	select {
	case s := <-done:
		return s.readers, s.err
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}
