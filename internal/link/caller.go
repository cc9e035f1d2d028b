// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
)

// A State is what users see of a Caller.
type State int

// States of a Caller.
//
//	          ┌──────────── wait ◂── ReestablishDelay ◂──┐
//	          ▾                                          │
//	Init ─▸ Reestablish ─▸ Established ─▸ Connected ─────┤
//	          │                 │                        │
//	          └── no connection ┴─ refused, wrong peer ──┘
//
// ReestablishDelay is left out when the next attempt is due at once.
const (
	Init             State = iota // no attempt yet
	Reestablish                   // an attempt is being made
	Established                   // TCP is up, not accepted yet
	Connected                     // accepted
	ReestablishDelay              // waiting for the next attempt
)

// String returns the name as the C suite shows it: INIT, ESTABLISHED, CONNECTED,
// REESTABLISH_DELAY, REESTABLISH.
func (s State) String() string {
	switch s {
	case Init:
		return "INIT"
	case Reestablish:
		return "REESTABLISH"
	case Established:
		return "ESTABLISHED"
	case Connected:
		return "CONNECTED"
	case ReestablishDelay:
		return "REESTABLISH_DELAY"
	}
	return fmt.Sprintf("State(%d)", int(s))
}

const (
	attemptTimeout = 10 * time.Second // for a connection, with looking up the name
	acceptTimeout  = 10 * time.Second // for the connect response

	// briefly is how long a connection is at least that isn't a failed attempt to those who
	// read the log.
	briefly = 5 * time.Second
)

// A Caller keeps one RSPRO connection to a server or a bankd: it connects,
// presents itself, and comes back by the Schedule. The name is looked up anew and all
// its addresses are tried at each attempt.
//
// Its callbacks are called one at a time, and never after Run has returned.
type Caller struct {
	Net       Network
	Addr      string               // HOST:PORT
	Want      rspro.ComponentType  // what the other end must say it is
	Hello     func() rspro.Message // the connect request
	KeepAlive KeepAlive
	// Identity goes into responses to a peer of another protocol version; see Options.
	Identity rspro.ComponentIdentity
	// Accept sees the connect response of a right peer, in the read loop and before any
	// later message; an error ends the connection. Nil: the result must be ok.
	Accept func(*Conn, rspro.Response) error
	// Handle takes all later PDUs; see Options.Handle. May be nil.
	Handle func(*Conn, rspro.PDU)
	// Down is told when a connection that was accepted has ended. May be nil.
	Down func(error)
	// OnState is told of each change of state. May be nil.
	OnState func(State)
	Log     *logrus.Entry // nil: no log
}

// A WrongPeerError says that something else is at the other end.
type WrongPeerError struct {
	Addr      string
	Got, Want rspro.ComponentType
}

func (e *WrongPeerError) Error() string {
	return fmt.Sprintf("%s is a %s, expected %s", e.Addr, Program(e.Got), Program(e.Want))
}

// Program names the program that is a component: "remsim-server".
func Program(t rspro.ComponentType) string {
	switch t {
	case rspro.Client:
		return "remsim-client"
	case rspro.Server:
		return "remsim-server"
	case rspro.Bankd:
		return "remsim-bankd"
	}
	return "component of type " + t.String()
}

// A RefusedError is a connect response that isn't ok.
type RefusedError struct {
	Result rspro.ResultCode
}

func (e *RefusedError) Error() string { return "refused with " + e.Result.String() }

// Run keeps the connection until ctx ends; it returns ctx's cause.
//
// A journal needs no line for each of the attempts that end alike: at each step of the
// schedule, of which the attempts without a delay are none of their own, and after a connection that held, the first is a warning.
func (c *Caller) Run(ctx context.Context) error {
	log := orSilent(c.Log)
	var sched Schedule
	step := -1
	said := map[string]string{} // how an attempt ended, to the last error that was a warning
	brief := false              // the last connection was one
	for {
		if wait := sched.Next(time.Now(), rand.Float64()); wait > 0 {
			c.state(ReestablishDelay)
			select {
			case <-time.After(wait):
			case <-ctx.Done():
			}
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		c.state(Reestablish)
		accepted, err := c.attempt(ctx, log, brief)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		end := "no connection"
		if !accepted.IsZero() {
			end = "connection lost"
			brief = time.Since(accepted) < briefly
		}
		if _, ok := errors.AsType[*WrongPeerError](err); ok {
			sched.Slowest()
		}
		if held, next := !accepted.IsZero() && !brief, max(1, sched.Step()); held || step != next {
			clear(said)
			step = next
		}
		level := logrus.DebugLevel
		if said[end] != err.Error() {
			said[end] = err.Error()
			level = logrus.WarnLevel
		}
		log.WithError(err).WithField("addr", c.Addr).Log(level, end)
	}
}

// attempt makes one connection and serves it until it ends. It returns why, and when
// the peer accepted us; zero: it didn't. That is logged at once, or after a brief connection
// when this one holds.
func (c *Caller) attempt(ctx context.Context, log *logrus.Entry, afterBrief bool) (accepted time.Time, err error) {
	dialCtx, cancel := context.WithTimeoutCause(ctx, attemptTimeout, fmt.Errorf("no connection within %v", attemptTimeout))
	defer cancel()
	nc, err := dial(dialCtx, c.Net, c.Addr)
	if err != nil {
		if dialCtx.Err() != nil {
			err = context.Cause(dialCtx)
		}
		return time.Time{}, err
	}
	c.state(Established)
	conn := New(nc, Options{
		KeepAlive: c.KeepAlive,
		Identity:  c.Identity,
		Handle: func(conn *Conn, p rspro.PDU) {
			if accepted.IsZero() {
				conn.Stray(p, "before the connect response")
				return
			}
			if c.Handle != nil {
				c.Handle(conn, p)
			}
		},
		Log: log,
	})
	var holds *time.Timer
	conn.Request(c.Hello(), acceptTimeout, func(m rspro.Message, err error) {
		if err == nil {
			err = c.accept(conn, m)
		}
		if err != nil {
			conn.Close(err)
			return
		}
		id := identity(m)
		log := log.WithFields(logrus.Fields{
			"addr": conn.RemoteAddr(), "name": id.Name, "software": id.Software, "version": id.SWVersion,
		})
		if afterBrief {
			holds = time.AfterFunc(briefly, func() { log.Info("connected") })
		} else {
			log.Info("connected")
		}
		accepted = time.Now()
		c.state(Connected)
	})
	err = conn.Run(ctx)
	if holds != nil {
		holds.Stop()
	}
	switch {
	case accepted.IsZero() && err == io.EOF:
		err = fmt.Errorf("%v closed the connection without a connect response", conn.RemoteAddr())
	case !accepted.IsZero() && c.Down != nil:
		c.Down(err)
	}
	return accepted, err
}

// identity returns who the peer says it is in its connect response.
func identity(m rspro.Message) (id rspro.ComponentIdentity) {
	switch m := m.(type) {
	case *rspro.ConnectBankRes:
		id = m.Identity
	case *rspro.ConnectClientRes:
		id = m.Identity
	}
	return id
}

// accept judges the connect response.
func (c *Caller) accept(conn *Conn, m rspro.Message) error {
	if got := identity(m).Type; got != c.Want {
		return &WrongPeerError{Addr: conn.RemoteAddr().String(), Got: got, Want: c.Want}
	}
	res := m.(rspro.Response)
	if c.Accept != nil {
		return c.Accept(conn, res)
	}
	if r := res.ResultCode(); r != rspro.OK {
		return &RefusedError{Result: r}
	}
	return nil
}

func (c *Caller) state(s State) {
	if c.OnState != nil {
		c.OnState(s)
	}
}
