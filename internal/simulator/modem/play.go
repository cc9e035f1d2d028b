// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"context"
	"encoding/hex"
	"fmt"
	"strings"
	"time"
)

// A Card is what commands are sent to: a Terminal, or a card that is asked directly.
type Card interface {
	Transmit(ctx context.Context, command []byte) (Exchange, error)
}

// insGetResponse and others are what modems send by themselves (TS 102 221 7.3.1, 7.4.2; TS 51.011 9).
const (
	insGetResponse      = 0xc0
	insFetch            = 0x12
	insTerminalResponse = 0x14
	claGSM              = 0xa0
	claETSI             = 0x80
)

// Follow sends a command and what a modem sends after it: the command with the length the card names after 6Cxx, GET
// RESPONSE after 61xx and 9Fxx, FETCH and TERMINAL RESPONSE after 91xx. It returns all exchanges, and the
// response of the whole: all data, and the status word that ended it before toolkit commands.
func Follow(ctx context.Context, card Card, command []byte) (all []Exchange, response []byte, err error) {
	gsm := command[0] == claGSM
	send := func(c []byte) (Exchange, error) {
		x, err := card.Transmit(ctx, c)
		if err == nil {
			all = append(all, x)
		}
		return x, err
	}
	x, err := send(command)
	for n := 0; err == nil && n < maxFollow; n++ {
		data, sw1, sw2 := x.Response[:len(x.Response)-2], byte(x.SW()>>8), byte(x.SW())
		switch {
		case sw1 == 0x6c && len(command) == 5:
			again := append([]byte(nil), command...)
			again[4] = sw2
			x, err = send(again)
			continue
		case sw1 == 0x61 || gsm && sw1 == 0x9f:
			response = append(response, data...)
			class := command[0] & 0x03 // the logical channel
			if gsm {
				class = claGSM
			}
			x, err = send([]byte{class, insGetResponse, 0, 0, sw2})
			continue
		}
		response = append(response, x.Response...)
		if sw1 == 0x91 {
			err = fetch(send, gsm, sw2)
		}
		return all, response, err
	}
	if err == nil {
		err = &Fault{command, fmt.Sprintf("no end after %d commands", len(all))}
	}
	return all, nil, err
}

// maxFollow bounds what one command leads to: 64 KiB, the longest answer there is, in GET RESPONSEs of 255 bytes would
// be more, but no modem asks so much.
const maxFollow = 64

// fetch takes a proactive command, and says that it was done, or that it can't be, until there is no further one.
func fetch(send func([]byte) (Exchange, error), gsm bool, n byte) error {
	class := byte(claETSI)
	if gsm {
		class = claGSM
	}
	for range 8 { // in case the card has one after the other
		x, err := send([]byte{class, insFetch, 0, 0, n})
		if err != nil || x.SW() != 0x9000 {
			return err
		}
		details := []byte{1, 0x25, 0} // number, type and qualifier (TS 102 223 8.6)
		if d := x.Response; len(d) >= 7 && d[2]&0x7f == 0x01 && d[3] == 3 {
			details = d[4:7]
		}
		const devices, result = "82028281", "830100" // from the terminal to the card; done (TS 102 223 8.7, 8.12)
		tail, err := hex.DecodeString(devices + result)
		if err != nil {
			return err
		}
		answer := append(append([]byte{0x81, 0x03}, details...), tail...)
		x, err = send(append([]byte{class, insTerminalResponse, 0, 0, byte(len(answer))}, answer...))
		if err != nil || byte(x.SW()>>8) != 0x91 {
			return err
		}
		n = byte(x.SW())
	}
	return nil
}

// A Result is a line of a script that was played.
type Result struct {
	Line      int
	Step      Step
	Exchanges []Exchange
	Response  []byte // of the whole; an ATR for a reset
	Err       error  // a Fault, or an answer that the script doesn't expect
}

// An Unexpected is the error of an answer that a script doesn't expect.
type Unexpected struct {
	Line      int
	Command   []byte
	Want, Got string // a pattern; hexadecimal
}

func (e *Unexpected) Error() string {
	return fmt.Sprintf("line %d: %x answered %s, want %s", e.Line, e.Command, e.Got, e.Want)
}

// Play plays a script from its beginning, and tells each step's result to report, which may be nil, before the next. After a fault the card is reset
// as by a modem, and the script goes on. It returns when the script or ctx ends, with the number of steps that had an error.
func (t *Terminal) Play(ctx context.Context, s Script, report func(Result)) (failed int, err error) {
	for _, step := range s.Steps {
		r := t.step(ctx, step)
		if ctx.Err() != nil {
			return failed, ctx.Err()
		}
		if report != nil {
			report(r)
		}
		if r.Err == nil {
			continue
		}
		failed++
		if t.dead {
			if _, err := t.WarmReset(ctx); err != nil && ctx.Err() != nil {
				return failed, ctx.Err()
			}
		}
	}
	return failed, nil
}

func (t *Terminal) step(ctx context.Context, step Step) (r Result) {
	r = Result{Line: step.Line, Step: step}
	switch step.Kind {
	case Cold:
		r.Response, r.Err = t.PowerUp(ctx)
	case Warm:
		r.Response, r.Err = t.WarmReset(ctx)
	case PTS:
		ta1 := step.TA1
		if step.Auto {
			var ok bool
			if ta1, ok = offered(t.atr); !ok {
				return r
			}
		}
		r.Err = t.PTS(ctx, ta1)
	case Sleep:
		select {
		case <-time.After(step.Pause):
		case <-ctx.Done():
		}
	case Command:
		r.Exchanges, r.Response, r.Err = Follow(ctx, t, step.Command)
	}
	if got := hex.EncodeToString(r.Response); r.Err == nil && !match(step.Want, got) {
		r.Err = &Unexpected{step.Line, step.Command, step.Want, got}
	}
	return r
}

// offered returns TA1 of an ATR that lets the terminal choose, and is not the default (ISO 7816-3 8.3).
func offered(atr []byte) (ta1 byte, ok bool) {
	const ta, td, defaults = 0x10, 0x80, 0x11
	if len(atr) < 3 || atr[1]&ta == 0 || atr[2] == defaults {
		return 0, false
	}
	if y := atr[1]; y&td != 0 {
		at := 2 + popcount(y>>4&7) // TD1
		if at < len(atr) && atr[at]&ta != 0 {
			return 0, false // TA2: specific mode
		}
	}
	return atr[2], true
}

// match reports whether hexadecimal text fits a pattern: "." is any digit, "*" at the end any rest. An empty
// pattern fits all.
func match(pattern, text string) bool {
	if pattern == "" {
		return true
	}
	rest := false
	pattern, rest = strings.CutSuffix(pattern, "*")
	if len(text) < len(pattern) || !rest && len(text) != len(pattern) {
		return false
	}
	for i := range pattern {
		if pattern[i] != '.' && pattern[i] != text[i] {
			return false
		}
	}
	return true
}
