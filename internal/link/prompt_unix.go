// SPDX-License-Identifier: GPL-2.0-or-later

//go:build unix

package link

import (
	"net"
	"os"
	"syscall"
)

// A prompt writes to a socket what that takes without waiting. Nil is that of a stream that can only be waited
// for. There must be no deadline for writes.
type prompt struct {
	socket syscall.RawConn
	once   func(fd uintptr) bool // made once, so that no write need allocate it
	b      []byte
	n      int
	err    error
}

// newPrompt returns what writes to nc; nil if that is no socket.
func newPrompt(nc net.Conn) *prompt {
	tcp, ok := nc.(*net.TCPConn)
	if !ok {
		return nil
	}
	socket, err := tcp.SyscallConn()
	if err != nil {
		return nil
	}
	p := &prompt{socket: socket}
	p.once = func(fd uintptr) bool {
		p.n, p.err = syscall.Write(int(fd), p.b) // sockets of package net are non-blocking
		return true                              // or else it would be waited for
	}
	return p
}

// write returns how many bytes of b were taken. That there is no room for more is no error.
func (p *prompt) write(b []byte) (int, error) {
	if p == nil {
		return 0, nil
	}
	p.b = b
	err := p.socket.Write(p.once)
	p.b = nil
	switch {
	case err != nil:
		return 0, err
	case p.err == nil:
		return p.n, nil
	case p.err == syscall.EAGAIN, p.err == syscall.EINTR:
		return 0, nil
	}
	return 0, &net.OpError{Op: "write", Net: "tcp", Err: os.NewSyscallError("write", p.err)}
}
