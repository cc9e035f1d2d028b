// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"bytes"
	"context"
	"io"
	"os"
	"os/signal"
	"runtime/pprof"
	"syscall"
)

// OnReport has write called with standard error each time SIGUSR1 arrives, until ctx ends;
// goroutine stacks follow what it writes. OnReport itself returns at once.
func OnReport(ctx context.Context, write func(io.Writer)) {
	c := make(chan os.Signal, 1)
	signal.Notify(c, syscall.SIGUSR1)
	go func() {
		defer signal.Stop(c)
		for {
			select {
			case <-c:
				report(os.Stderr, write)
			case <-ctx.Done():
				return
			}
		}
	}()
}

// report writes in one piece, so that log lines don't come between.
func report(w io.Writer, write func(io.Writer)) {
	var b bytes.Buffer
	write(&b)
	pprof.Lookup("goroutine").WriteTo(&b, 1)
	w.Write(b.Bytes())
}
