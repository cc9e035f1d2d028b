// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"sync/atomic"

	"remsim/internal/server"
)

// A lastList keeps the list of maps that was encoded last, as back-ends and boards ask for the same one again and again.
type lastList struct {
	last atomic.Pointer[encoded]
}

type encoded struct {
	version uint64 // State.MapsVersion from before it was made
	body    []byte
}

// maxKept is the longest list that is kept, in bytes: one of 40,000 maps in v2.
const maxKept = 8 << 20

// of returns the list that encode makes of what there is in state, or the last one if that is the same. Who asks while
// maps change waits for nobody else who does.
func (l *lastList) of(state *server.State, encode func() []byte) []byte {
	version := state.MapsVersion()
	last := l.last.Load()
	if last != nil && last.version == version {
		return last.body
	}
	body := encode()
	if len(body) <= maxKept {
		l.last.Store(&encoded{version, body})
	} else if last != nil {
		l.last.Store(nil)
	}
	return body
}
