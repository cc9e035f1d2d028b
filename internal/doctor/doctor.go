// SPDX-License-Identifier: GPL-2.0-or-later

// Package doctor tells users in plain words what works and what doesn't, and what to do about it. Its
// checks change nothing and disturb nobody. What is particular to USB and to PC/SC is in packages below.
package doctor

import (
	"context"
	"fmt"
	"io"
	"runtime"
	"strings"
	"time"

	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/rspro"
)

// A Report is what checks have found, written while they are made: a line each, and more below those that are bad.
type Report struct {
	w            io.Writer
	good, failed int
}

// New begins a report to w, with the version of a program.
func New(w io.Writer, program string) *Report {
	r := &Report{w: w}
	r.Good("%s %s, %s", program, daemon.Version(), runtime.Version())
	return r
}

// Good reports something that works.
func (r *Report) Good(format string, a ...any) {
	r.good++
	fmt.Fprintf(r.w, "ok    %s\n", fmt.Sprintf(format, a...))
}

// Bad reports something that doesn't, and what to do about it.
func (r *Report) Bad(what error, remedy string) {
	r.failed++
	fmt.Fprintf(r.w, "FAIL  %v\n", what)
	if remedy != "" {
		fmt.Fprintf(r.w, "      → %s\n", remedy)
	}
}

// Err returns nil when all was well.
func (r *Report) Err() error {
	if r.failed == 0 {
		return nil
	}
	return fmt.Errorf("%d of %d checks failed", r.failed, r.good+r.failed)
}

// within is how long a peer has.
const within = 5 * time.Second

// Peer checks whether a component is reached at addr, HOST:PORT.
func (r *Report) Peer(ctx context.Context, n link.Network, want rspro.ComponentType, addr string) {
	program := link.Program(want)
	name := strings.TrimPrefix(program, "remsim-")
	limit, cancel := context.WithTimeoutCause(ctx, within, fmt.Errorf("no answer within %v", within))
	defer cancel()
	s, err := link.Identify(limit, n, addr)
	switch {
	case err != nil:
		if limit.Err() != nil {
			err = context.Cause(limit)
		}
		r.Bad(fmt.Errorf("%s %s: %w", name, addr, err),
			fmt.Sprintf("is %s running there, are name and port right, does a firewall let them through?", program))
	case !s.Known:
		r.Good("%s %s answers as RSPRO programs do; it doesn't say which it is, so it may be one of osmo-remsim's", name, addr)
	case s.Type != want:
		r.Bad(fmt.Errorf("%s %s: that is a %s", name, addr, link.Program(s.Type)),
			"servers have port 9998 unless told otherwise, bankds 9999")
	default:
		r.Good("%s %s: %s %s on host %s", name, addr, program, s.Version, s.Name)
	}
}
