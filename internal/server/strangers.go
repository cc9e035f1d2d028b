// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"slices"
	"sync"

	"remsim/internal/link"
)

// strangers are connections that haven't been accepted. They are bounded in number: one more
// costs the oldest its place, so that whoever holds them all keeps nobody out who says at
// once who it is.
type strangers struct {
	mu    sync.Mutex
	conns []*link.Conn // oldest first
}

// add adds c; it returns the one that is to be closed for it, if any.
func (s *strangers) add(c *link.Conn) (oldest *link.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.conns) >= maxUnidentified {
		oldest = s.conns[0]
		s.conns = slices.Delete(s.conns, 0, 1)
	}
	s.conns = append(s.conns, c)
	return oldest
}

func (s *strangers) len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.conns)
}

// remove removes c, which was accepted or has ended. It may be gone already.
func (s *strangers) remove(c *link.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if i := slices.Index(s.conns, c); i >= 0 {
		s.conns = slices.Delete(s.conns, i, i+1)
	}
}
