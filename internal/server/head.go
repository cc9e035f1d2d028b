// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"bytes"
	"net"
	"regexp"
)

// A head is a stream that remembers how it began, to tell what is at its other end.
type head struct {
	net.Conn
	seen [8]byte
	n    int
}

// Read implements net.Conn.
func (h *head) Read(b []byte) (int, error) {
	n, err := h.Conn.Read(b)
	if h.n < len(h.seen) {
		h.n += copy(h.seen[h.n:], b[:n])
	}
	return n, err
}

func (h *head) empty() bool { return h.n == 0 }

var httpMethod = regexp.MustCompile(`^[A-Z]{3,7} `)

// guess says what the peer seems to be when it isn't an RSPRO program; it is for the end of
// a log line.
func (h *head) guess() string {
	b := h.seen[:h.n]
	switch {
	case bytes.HasPrefix(b, []byte{0x16, 3}):
		return ": a TLS client on the RSPRO port"
	case bytes.HasPrefix(b, []byte("SSH-")):
		return ": an SSH client on the RSPRO port"
	case httpMethod.Match(b):
		return ": an HTTP client on the RSPRO port"
	}
	return ""
}
