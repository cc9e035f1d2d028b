// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"fmt"
	"net"
	"time"

	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/ipa"
)

// KeepAlive says when a peer that says nothing is asked whether it lives, by IPA's PING, and
// when it is given up. A peer that vanishes without a word is noticed within the sum of both.
// Zero stands for the default, which is that of C programs.
type KeepAlive struct {
	Interval time.Duration // from a PONG to the next PING; default 30 s
	Timeout  time.Duration // for the PONG; default 10 s
}

// The defaults.
const (
	pingInterval = 30 * time.Second
	pongTimeout  = 10 * time.Second
)

// Flags adds the options --keepalive-interval and --keepalive-timeout.
func (k *KeepAlive) Flags(fs *pflag.FlagSet) {
	daemon.DurationVar(fs, &k.Interval, "keepalive-interval", "", pingInterval, time.Second, 10*time.Minute,
		"how long after a peer's last sign of life it is asked for one")
	daemon.DurationVar(fs, &k.Timeout, "keepalive-timeout", "", pongTimeout, time.Second, 10*time.Minute,
		"how long it then has to answer before its connection ends")
}

// orDefault puts the defaults in the place of zeros.
func (k KeepAlive) orDefault() KeepAlive {
	if k.Interval == 0 {
		k.Interval = pingInterval
	}
	if k.Timeout == 0 {
		k.Timeout = pongTimeout
	}
	return k
}

// allow has the kernel bear with a peer's silence for as long as k does.
func (k KeepAlive) allow(nc net.Conn) error {
	if c, ok := nc.(*net.TCPConn); ok && k.Timeout > tcpUserTimeout {
		return setUserTimeout(c, k.Timeout)
	}
	return nil
}

// pong notes a PONG, which shows that the peer is alive whatever PING it answers.
func (c *Conn) pong() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, p := range c.probes {
		c.disarm(p.timer)
		p.up <- true
	}
	c.probes = nil
	c.waiting = false
	c.alive.Reset(c.o.KeepAlive.Interval)
}

// keepAlive is called when a PING is due, or a PONG overdue.
func (c *Conn) keepAlive() {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.end != running:
	case c.waiting:
		c.endLocked(closing, fmt.Errorf("%w within %v", ErrNoPong, c.o.KeepAlive.Timeout))
	default:
		c.waiting = true
		c.queueCCMLocked(ipa.Ping)
		c.alive.Reset(c.o.KeepAlive.Timeout)
	}
}
