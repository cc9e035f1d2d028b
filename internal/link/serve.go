// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"net"
)

// Serve accepts connections from ln until ctx ends, closes ln, and calls serve in a
// goroutine of its own for each; it returns when all of them have returned. A failed accept
// is tried again after 5 ms to 1 s.
func Serve(ctx context.Context, ln net.Listener, serve func(context.Context, net.Conn)) error {
	return nil
}
