// SPDX-License-Identifier: GPL-2.0-or-later

// Package application is a PC/SC application that does what it is told, in a process of its own: libpcsclite knows
// one pcscd a process, and tests need several. The program that uses it is run a second time for that, so it
// calls Main first of all.
package application

import (
	"encoding/json"
	"fmt"
	"os"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// roleEnv is set in the environment of an application.
const roleEnv = "REMSIM_APPLICATION"

// Main is the life of an application when the process was started as one; it doesn't return then.
func Main() {
	if os.Getenv(roleEnv) == "" {
		return
	}
	if err := serve(json.NewDecoder(os.Stdin), json.NewEncoder(os.Stdout)); err != nil {
		fmt.Fprintln(os.Stderr, "application:", err)
		os.Exit(1)
	}
	os.Exit(0)
}

// What an application can be asked to do. It has at most one card.
const (
	Readers   = "readers"   // Reply.Names are the readers
	Await     = "await"     // until Reader's state isn't State (0: at once), up to Timeout; Reply.State and ATR
	Connect   = "connect"   // to the card in Reader and no other any more, powering it up where needed; Reply.ATR
	Reconnect = "reconnect" // after How was done to the card; Reply.ATR
	Transmit  = "transmit"  // Data, Count times (0: once); Reply.Data is the last answer, or the reply says how the last one failed; Reply.Times is how long each took
	Features  = "features"  // Reply.Data is the answer to CM_IOCTL_GET_FEATURE_REQUEST (PC/SC part 10 2.2)
)

// What Reconnect does to the card: dwInitialization of PC/SC.
const (
	Leave   = 0
	Warm    = 1
	Unpower = 2 // and up again
)

// A Request is a call of an application.
type Request struct {
	Call    string
	Reader  string
	How     uint32
	Data    []byte
	Count   int
	State   uint32
	Timeout time.Duration
}

// A Reply is what came of it.
type Reply struct {
	Code  Code   // of the call that failed
	Text  string // what libpcsclite says of it
	Names []string
	State uint32 // dwEventState without Changed, with pcscd's counter of events in its upper half
	ATR   []byte
	Data  []byte
	Times []time.Duration
}

// A Code is what a call of PC/SC returns.
type Code uint32

// Codes of pcsclite.h.
const (
	OK               Code = 0
	ErrNoCard        Code = 0x8010000c // SCARD_E_NO_SMARTCARD
	ErrNotTransacted Code = 0x80100016
	WarnRemoved      Code = 0x80100069 // SCARD_W_REMOVED_CARD
)

// Flags of Reply.State (dwEventState).
const (
	Empty   = 0x0010
	Present = 0x0020
)

// An App is a running application. One call at a time.
type App struct{ *rig.Proc }

// Start starts an application of the pcscd that has this socket.
func Start(name, socket string) (App, error) {
	self, err := os.Executable()
	if err != nil {
		return App{}, err
	}
	p, err := rig.Start(name, "/usr/bin/env", roleEnv+"=1", simulator.SocketEnv+"="+socket, self)
	return App{p}, err
}

// Ask has the application make a call. An error means that it didn't answer within d; what PC/SC has
// answered is in the reply.
func (a App) Ask(d time.Duration, r Request) (reply Reply, err error) {
	if err := a.Tell(r); err != nil {
		return reply, err
	}
	if reply, err = a.Reply(d); err != nil {
		err = fmt.Errorf("%s: %w", r.Call, err)
	}
	return reply, err
}

// Tell is the first half of Ask: the application makes the call.
func (a App) Tell(r Request) error {
	if err := json.NewEncoder(a.Stdin).Encode(r); err != nil {
		return fmt.Errorf("%s: %w", a.Name, err)
	}
	return nil
}

// Reply is the second half of Ask.
func (a App) Reply(d time.Duration) (reply Reply, err error) {
	line, err := a.Line(d)
	if err != nil {
		return reply, fmt.Errorf("%w; it says: %s", err, a.Log())
	}
	return reply, json.Unmarshal([]byte(line), &reply)
}

// Err is what a reply says of its call; nil: it went well.
func (r Reply) Err() error {
	if r.Code == OK {
		return nil
	}
	return fmt.Errorf("%s (%#x)", r.Text, uint32(r.Code))
}
