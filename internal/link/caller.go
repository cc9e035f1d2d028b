// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
)

// A State is what users see of a Caller.
type State int

// States of a Caller.
const (
	Init             State = iota // no attempt yet
	Reestablish                   // an attempt is being made
	Established                   // TCP is up, not accepted yet
	Connected                     // accepted
	ReestablishDelay              // waiting for the next attempt
)

// String returns the name as the C suite shows it: INIT, ESTABLISHED, CONNECTED,
// REESTABLISH_DELAY, REESTABLISH.
func (s State) String() string { return "" }

// A Caller keeps one RSPRO connection to a server or a bankd: it connects,
// presents itself, and comes back by the schedule of RSPRO.md
// section 3. The name is looked up anew and all its addresses are tried at each attempt.
type Caller struct {
	Net   Network
	Addr  string               // HOST:PORT
	Want  rspro.ComponentType  // what the other end must say it is
	Hello func() rspro.Message // the connect request
	// Accept sees the connect response of a right peer, in the read loop and before any
	// later message; an error ends the connection. Nil: the result must be ok.
	Accept func(*Conn, rspro.Response) error
	// Handle takes all later PDUs; see Options.Handle.
	Handle func(*Conn, rspro.PDU)
	// Down is told when a connection that was accepted has ended. May be nil.
	Down func(error)
	// OnState is told of each change of state. May be nil.
	OnState func(State)
	Log     *logrus.Entry
}

// Run keeps the connection until ctx ends; it returns ctx's cause.
func (c *Caller) Run(ctx context.Context) error { return nil }
