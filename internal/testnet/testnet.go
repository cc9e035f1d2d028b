// SPDX-License-Identifier: GPL-2.0-or-later

// Package testnet is a network in memory for tests: hosts with addresses and
// names, buffered streams with deadlines, and faults (cut, stall, delay, half-open).
// It works inside testing/synctest bubbles.
package testnet

import (
	"context"
	"net"
	"net/netip"
	"time"
)

// A Net joins hosts.
type Net struct{}

// New returns an empty network.
func New() *Net { return nil }

// Host returns the host with these addresses (the first one is its source address for
// that family), making it when new. It implements link.Network.
func (n *Net) Host(addrs ...string) *Host { return nil }

// Name makes a host name known, for Lookup; no address removes it.
func (n *Net) Name(name string, addrs ...string) {}

// A Host is one machine of a Net.
type Host struct{}

// Dial implements link.Network.
func (h *Host) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) { return nil, nil }

// Lookup implements link.Network.
func (h *Host) Lookup(ctx context.Context, host string) ([]netip.Addr, error) { return nil, nil }

// Listen implements link.Network.
func (h *Host) Listen(ctx context.Context, addr string) (net.Listener, error) { return nil, nil }

// Cut resets all connections of h, as when its process is killed.
func (h *Host) Cut() {}

// Down drops all that h sends and receives, silently, until Up: connections stay
// half-open, dials hang.
func (h *Host) Down() {}

// Up ends Down and Stall; what was stalled arrives.
func (h *Host) Up() {}

// Stall holds what h's peers send (h stops reading): their buffers fill.
func (h *Host) Stall() {}

// Delay holds each byte to and from h for d.
func (h *Host) Delay(d time.Duration) {}
