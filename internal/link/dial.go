// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"time"
)

// dialStagger is how long an address has before the next one is tried beside it
// (RFC 8305, 5: Connection Attempt Delay).
const dialStagger = 250 * time.Millisecond

// dial connects to addr, HOST:PORT: it looks the name up and tries all its addresses, in
// their order, the next one when the one before has failed or takes long. The error tells
// what became of each.
func dial(ctx context.Context, n Network, addr string) (net.Conn, error) {
	host, service, err := net.SplitHostPort(addr)
	if err != nil {
		return nil, err
	}
	port, err := net.DefaultResolver.LookupPort(ctx, "tcp", service)
	if err != nil {
		return nil, err
	}
	ips, err := n.Lookup(ctx, host)
	if err != nil {
		return nil, err
	}
	if len(ips) == 0 {
		return nil, fmt.Errorf("%s has no address", host)
	}

	type result struct {
		nc  net.Conn
		err error
	}
	results := make(chan result)
	ctx, cancel := context.WithCancel(ctx)
	started, ended := 0, 0
	start := func() {
		to := netip.AddrPortFrom(ips[started], uint16(port))
		started++
		go func() {
			nc, err := n.Dial(ctx, to)
			results <- result{nc, err}
		}()
	}
	// Whoever is still dialling has lost.
	defer func() {
		cancel()
		for ; ended < started; ended++ {
			if r := <-results; r.nc != nil {
				r.nc.Close()
			}
		}
	}()

	next := time.NewTimer(dialStagger)
	defer next.Stop()
	start()
	var errs dialErrors
	for {
		select {
		case r := <-results:
			ended++
			if r.err == nil {
				return r.nc, nil
			}
			errs = append(errs, r.err)
		case <-next.C:
		}
		switch {
		case started < len(ips) && ctx.Err() == nil:
			start()
			next.Reset(dialStagger)
		case ended == started:
			return nil, errs
		}
	}
}

// dialErrors is what became of each address, in one line.
type dialErrors []error

func (e dialErrors) Error() string {
	s := make([]string, len(e))
	for i, err := range e {
		s[i] = err.Error()
	}
	return strings.Join(s, "; ")
}

func (e dialErrors) Unwrap() []error { return e }
