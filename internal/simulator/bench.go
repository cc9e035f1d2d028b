// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"context"
	"fmt"
	"io"
	"net/netip"
	"strings"
)

// Loopback is where the readers of a PCSCD listen.
func Loopback() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), VPCDPort)
}

// Bench runs a pcscd with virtual readers, and cards in the first of them, until ctx ends. When all cards are seen
// it writes to w how clients find that pcscd, one line that a shell can read: PCSCLITE_CSOCK_NAME=PATH. It must be called
// inside Isolate, with the directory that was told there. c.Addr is of no account.
func Bench(ctx context.Context, run string, readers int, c Config, w io.Writer) error {
	p, err := StartPCSCD(ctx, readers, nil)
	if err != nil {
		return err
	}
	defer p.Stop()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	go func() {
		select {
		case <-p.Done():
			cancel(fmt.Errorf("simulator: pcscd has ended; it says: %s", strings.TrimSpace(p.Output())))
		case <-ctx.Done():
		}
	}()
	c.Addr = Loopback()
	c.Ready = func() {
		if _, err := fmt.Fprintf(w, "%s=%s\n", SocketEnv, Socket(run)); err != nil {
			cancel(fmt.Errorf("simulator: %w", err))
		}
	}
	return Cards(ctx, c)
}
