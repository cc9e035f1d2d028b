// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"errors"
	"net"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// Back-off of a listener whose Accept fails, such as for lack of descriptors.
const (
	minAcceptDelay = 5 * time.Millisecond
	maxAcceptDelay = time.Second
)

// Serve accepts connections from ln until ctx ends, closes ln, and calls serve in a
// goroutine of its own for each; serve's connection is closed when it returns. Serve returns
// when all of them have: nil when ctx has ended, or the error when ln was closed by others.
// A failed accept is logged and tried again after 5 ms to 1 s.
func Serve(ctx context.Context, ln net.Listener, log *logrus.Entry, serve func(context.Context, net.Conn)) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	defer ln.Close()
	defer context.AfterFunc(ctx, func() { ln.Close() })()
	for delay := time.Duration(0); ; {
		nc, err := ln.Accept()
		switch {
		case err == nil:
			delay = 0
			conns.Go(func() {
				defer nc.Close()
				serve(ctx, nc)
			})
			continue
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, net.ErrClosed):
			return err
		}
		delay = min(max(2*delay, minAcceptDelay), maxAcceptDelay)
		log.WithError(err).WithField("retry", delay).Warn("accepting a connection failed")
		select {
		case <-time.After(delay):
		case <-ctx.Done():
			return nil
		}
	}
}
