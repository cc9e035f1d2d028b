// SPDX-License-Identifier: GPL-2.0-or-later

// Package client is the modem's side of a remote SIM: the state machine between
// server, bankd and modem, and the event scripts. A Frontend is what the
// modem sees: a terminal, a SIMtrace2 device, a PC/SC reader.
package client

import (
	"context"
	"errors"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/slot"
)

// Config says who the client is and what it does.
type Config struct {
	ServerHost string // name or address
	ServerPort uint16
	Slot       slot.Client
	Auto       bool // the server assigns the slot; Slot is not used
	Assigned   bool // with Auto: Slot is what the server has assigned an earlier Core of this client

	KeepAlive link.KeepAlive // towards server and bankd

	ATR     []byte // shown to the modem until the bankd tells one, 2..55 bytes
	KeepATR bool   // show ATR whatever the bankd tells

	Script        string        // command of event scripts; empty: none
	ScriptTimeout time.Duration // a script that takes longer is killed
	ScriptVars    []string      // more variables for event scripts, "NAME=value"

	Trace gsmtap.Config // where APDUs and ATRs are traced to

	Hardware Hardware // the modem's side, told to server and bankd
}

// Hardware is what a client tells of its device, in the members of that name of RSPRO
// ComponentIdentity. What is empty is left out. A server that gives client ids (-c auto) knows a client by the host's
// name, Serial and Version: those of several interfaces of one device have another Version each.
type Hardware struct {
	Manufacturer, Model, Serial, Version, Firmware string
}

// Env is the world a client lives in.
type Env struct {
	Net link.Network
	Log *logrus.Logger
	// StartScript starts event scripts; nil: StartShell.
	StartScript StartFunc
	// Watch counts what the client does, and others with it. May be nil.
	Watch *Watch
	// Trace gets APDUs and ATRs. Who calls New opens it, from Config.Trace. May be nil.
	Trace *gsmtap.Tracer
	// Fault takes the value of a panic in one of the client's goroutines, on that goroutine; the client is of no use
	// any more, and has to be ended. Nil: the program dies of it.
	Fault func(fault any)
}

// A Frontend is the modem's side. A Core calls its methods one after another
// from one goroutine, each right after the start of the event script it belongs to:
//
//	becoming operational   ATR(of the configuration, 0)
//	                       request-sim-remote, Remote(true)
//	                       request-card-insert, Insert
//	                       request-modem-reset, ResetModem
//	setAtrReq              ATR(of the bankd, its card), Insert again if there was a Remove
//	card gone              request-card-remove, Remove
//	no longer operational  request-card-remove, Remove
//	                       request-sim-local, Remote(false)
//	                       request-modem-reset, ResetModem
//
// A frontend deals with its own failures. A method that has to wait heeds ctx: at the
// client's end the leave sequence has a limited time.
type Frontend interface {
	// Remote switches the modem to the remote SIM, or back to its local one.
	Remote(ctx context.Context, on bool)
	// ATR sets the ATR the modem shall get at its next reset; card is the one that
	// is there and answers commands, or 0. A bankd that knows AtrAfterReset tells it after each reset of
	// the card, so that card and ATR are often the same as before. The slice is the frontend's to keep.
	ATR(ctx context.Context, atr []byte, card Card)
	// Insert shows the modem that a card is in its slot.
	Insert(ctx context.Context)
	// Remove shows the modem that its slot is empty.
	Remove(ctx context.Context)
	// ResetModem restarts the modem, so that it takes note of another SIM.
	ResetModem(ctx context.Context)
}

// A Card is the number of a card, which tells it from those that were there before and those that come after it; 0: none.
type Card uint64

// A State is what a client is doing.
type State int

// States of a client.
const (
	Init         State = iota // the server has not accepted us yet
	Unconfigured              // no bankd to go to
	WaitBankd                 // going to the bankd we were told, or staying with it until it has a card
	Operational               // the bankd has accepted us
)

// String returns the name as logs show it: INIT, UNCONFIGURED, WAIT_BANKD, OPERATIONAL.
func (s State) String() string {
	switch s {
	case Init:
		return "INIT"
	case Unconfigured:
		return "UNCONFIGURED"
	case WaitBankd:
		return "WAIT_BANKD"
	case Operational:
		return "OPERATIONAL"
	}
	return "?"
}

// Lengths of a command TPDU towards the card: the header of 5 bytes (ISO 7816-3 10.3.2)
// and up to 255 bytes of data. Anything else has been seen to crash readers.
const (
	MinTPDU = 5
	MaxTPDU = 260
)

// Lengths of a response: SW1 SW2 and up to 256 bytes of data before them (ISO 7816-3 10.3.2).
const (
	MinResponse = 2
	MaxResponse = 258
)

// Errors of Core.Transmit.
var (
	// ErrNoCard says that there is no card; nothing was sent.
	ErrNoCard = errors.New("no card")
	// ErrBusy says that an earlier command is not answered yet; nothing was sent.
	ErrBusy = errors.New("another command is in progress")
	// ErrReset says that the card was reset before it answered.
	ErrReset = errors.New("card was reset before it answered")
	// ErrGone says that card or bankd went away before the answer.
	ErrGone = errors.New("card went away before it answered")
)
