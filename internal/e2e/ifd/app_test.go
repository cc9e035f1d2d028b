// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"bytes"
	"encoding/hex"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// An app is an application of one reader. Its methods fail the test where they don't return an error.
type app struct {
	application.App
	t      *testing.T
	reader string
}

// app starts an application for reader nr of h.
func (h *host) app(nr int) *app {
	h.s.t.Helper()
	return h.s.app(h.Socket(), readerName(nr))
}

// localApp starts an application for reader i of the first pcscd.
func (s *site) localApp(i int) *app {
	s.t.Helper()
	return s.app(simulator.Socket("/run/pcscd"), fmt.Sprintf("%s 00 %02d", simulator.ReaderName(i), i%2))
}

func (s *site) app(socket, reader string) *app {
	s.t.Helper()
	a, err := application.Start("application of "+reader, socket)
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(a.Kill)
	return &app{App: a, t: s.t, reader: reader}
}

// ask makes a call that the application must come back from within d.
func (a *app) ask(d time.Duration, r application.Request) application.Reply {
	a.t.Helper()
	reply, err := a.Ask(d, r)
	if err != nil {
		a.t.Fatal(err)
	}
	return reply
}

// call makes a call that must go well.
func (a *app) call(r application.Request) application.Reply {
	a.t.Helper()
	reply := a.ask(soon, r)
	if err := reply.Err(); err != nil {
		a.t.Fatalf("%s: %s: %v", a.Name, r.Call, err)
	}
	return reply
}

// awaits waits until the reader's state has the flag, and returns its ATR.
func (a *app) awaits(flag uint32) (atr []byte) {
	a.t.Helper()
	atr, err := a.state(flag, soon)
	if err != nil {
		a.t.Fatal(err)
	}
	return atr
}

// state waits until the reader's state has the flag.
func (a *app) state(flag uint32, d time.Duration) (atr []byte, err error) {
	known := uint32(0)
	for end := time.Now().Add(d); ; {
		reply, err := a.Ask(d+soon, application.Request{Call: application.Await, Reader: a.reader, State: known, Timeout: time.Until(end)})
		if err == nil {
			err = reply.Err()
		}
		switch {
		case err != nil:
			return nil, fmt.Errorf("%s: waiting for state %#x: %w", a.Name, flag, err)
		case reply.State&flag == flag:
			return reply.ATR, nil
		case time.Now().After(end):
			return nil, fmt.Errorf("%s: state is %#x after %v, want %#x", a.Name, reply.State, d, flag)
		}
		known = reply.State
	}
}

// connect connects to the card and returns its ATR.
func (a *app) connect() (atr []byte) {
	a.t.Helper()
	return a.call(application.Request{Call: application.Connect, Reader: a.reader}).ATR
}

// opens waits for a card like twin, connects to it, and powers the twin up.
func (a *app) opens(twin bankd.Card) {
	a.t.Helper()
	a.awaits(application.Present)
	if atr := a.connect(); !bytes.Equal(atr, twin.ATR()) {
		a.t.Fatalf("%s: ATR % x, want % x", a.Name, atr, twin.ATR())
	}
	a.reconnects(application.Unpower, twin)
}

// reconnects resets card and twin.
func (a *app) reconnects(how uint32, twin bankd.Card) {
	a.t.Helper()
	atr := a.call(application.Request{Call: application.Reconnect, How: how}).ATR
	if !bytes.Equal(atr, twin.ATR()) {
		a.t.Fatalf("%s: ATR % x, want % x", a.Name, atr, twin.ATR())
	}
	if err := twin.Reset(how == application.Unpower); err != nil {
		a.t.Fatal(err)
	}
}

// transmit sends a command and returns what PC/SC says.
func (a *app) transmit(d time.Duration, cmd []byte) application.Reply {
	a.t.Helper()
	return a.ask(d, application.Request{Call: application.Transmit, Data: cmd})
}

// exchange sends a command, and compares the answer.
func (a *app) exchange(cmd, want string) {
	a.t.Helper()
	got := a.call(application.Request{Call: application.Transmit, Data: unhex(cmd)}).Data
	if hex.EncodeToString(got) != want {
		a.t.Errorf("%s: %s is answered with %x, want %s", a.Name, cmd, got, want)
	}
}

// likeTwin sends commands, and compares with what twin says.
func (a *app) likeTwin(twin bankd.Card, n int) {
	a.t.Helper()
	var buf [258]byte
	for i := range n {
		cmd := command(i)
		want, err := twin.Transmit(cmd, buf[:])
		if err != nil {
			a.t.Fatal(err)
		}
		a.exchange(hex.EncodeToString(cmd), hex.EncodeToString(want))
	}
}

// readIMSI are the commands that read EF.IMSI of a card, wherever it is; by that cards differ.
var readIMSI = []string{"a0a40000023f00", "a0a40000027f20", "a0a40000026f07", "a0b0000009"}

// imsi reads the card's IMSI, whose file stays selected.
func (a *app) imsi() (answer []byte) {
	a.t.Helper()
	for _, cmd := range readIMSI {
		answer = a.call(application.Request{Call: application.Transmit, Data: unhex(cmd)}).Data
	}
	return answer
}

// untilRemoved reads the selected file until PC/SC says that the card was removed, which may be after other errors, and with a
// virtual reader after answers without a byte, when its card is pulled under a command. Until
// then nobody may answer but the card whose file it is.
func (a *app) untilRemoved(content []byte, virtual bool) {
	a.t.Helper()
	for end := time.Now().Add(soon); ; {
		reply := a.transmit(soon, unhex(readIMSI[3]))
		switch {
		case reply.Code == application.WarnRemoved:
			return
		case reply.Code == application.OK && !(virtual && len(reply.Data) == 0) && !bytes.Equal(reply.Data, content):
			a.t.Fatalf("%s: %x from another card than %x", a.Name, reply.Data, content)
		case time.Now().After(end):
			a.t.Fatalf("%s: its card isn't removed after %v: %v", a.Name, soon, reply.Err())
		}
		time.Sleep(time.Millisecond)
	}
}

// command returns the n-th command of traffic: it reads the IMSI, by which cards differ, and authenticates.
func command(n int) []byte {
	switch n % 5 {
	case 0:
		return unhex("a0a40000027f20") // SELECT DF.GSM
	case 1:
		return unhex(fmt.Sprintf("a088000010%032x", n)) // RUN GSM ALGORITHM
	case 2:
		return unhex("a0c000000c") // GET RESPONSE: SRES, Kc
	case 3:
		return unhex("a0a40000026f07") // SELECT EF.IMSI
	default:
		return unhex("a0b0000009") // READ BINARY
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(strings.ReplaceAll(s, " ", ""))
	if err != nil {
		panic(err) // a constant of these files
	}
	return b
}

// do has the first pcscd's cards obey a command.
func do(t *testing.T, format string, a ...any) {
	t.Helper()
	if _, err := bench.Do(fmt.Sprintf(format, a...)); err != nil {
		t.Fatal(err)
	}
}

// A user is an application that sends command after command, all of which must be answered rightly.
type user struct {
	*app
	stop chan struct{}
	done chan error
	n    atomic.Int64 // answers
}

// use has a use the card that is like twin, until the end of the test or of the user.
func (a *app) use(twin bankd.Card) *user {
	a.t.Helper()
	a.opens(twin)
	u := &user{app: a, stop: make(chan struct{}), done: make(chan error, 1)}
	go func() { u.done <- u.run(twin) }()
	return u
}

func (u *user) run(twin bankd.Card) error {
	var buf [258]byte
	for n := 0; ; n++ {
		select {
		case <-u.stop:
			return nil
		case <-time.After(time.Millisecond):
		}
		cmd := command(n)
		want, err := twin.Transmit(cmd, buf[:])
		if err != nil {
			return err
		}
		reply, err := u.Ask(soon, application.Request{Call: application.Transmit, Data: cmd})
		if err == nil {
			err = reply.Err()
		}
		if err == nil && !bytes.Equal(reply.Data, want) {
			err = fmt.Errorf("%x is answered with %x, want %x", cmd, reply.Data, want)
		}
		if err != nil {
			return fmt.Errorf("%s: after %d commands: %w", u.Name, n, err)
		}
		u.n.Add(1)
	}
}

// end ends the user after some more commands; all must have gone well.
func (u *user) end() {
	u.t.Helper()
	u.more(10)
	close(u.stop)
	if err := <-u.done; err != nil {
		u.t.Error(err)
	}
}

// lost waits until a command has failed, and returns the error.
func (u *user) lost(d time.Duration) error {
	u.t.Helper()
	select {
	case err := <-u.done:
		return err
	case <-time.After(d):
		u.t.Fatalf("%s: all goes well after %v", u.Name, d)
		return nil
	}
}

// usage returns what pcscd takes of the computer.
func (h *host) usage() rig.Usage {
	h.s.t.Helper()
	u, err := rig.UsageOf(h.Proc)
	if err != nil {
		h.s.t.Fatal(err)
	}
	return u
}

// more waits for n more answers.
func (u *user) more(n int64) {
	u.t.Helper()
	from := u.n.Load()
	for end := time.Now().Add(soon); u.n.Load() < from+n; time.Sleep(time.Millisecond) {
		select {
		case err := <-u.done:
			u.t.Fatal(err)
		default:
		}
		if time.Now().After(end) {
			u.t.Fatalf("%s: %d answers more, want %d", u.Name, u.n.Load()-from, n)
		}
	}
}

// names returns the names of all readers.
func (a *app) names() []string {
	a.t.Helper()
	return a.call(application.Request{Call: application.Readers}).Names
}

// restore has a card of the first pcscd be a good one at the end of the test.
func restore(t *testing.T, card int) {
	t.Cleanup(func() {
		do(t, "release %d", card)
		do(t, "insert %d", card)
	})
}

// oneUser reports whether this is a user namespace with one user, of which no other can be made.
func oneUser(t *testing.T) bool {
	t.Helper()
	text, err := os.ReadFile("/proc/self/uid_map")
	if err != nil {
		t.Fatal(err)
	}
	var inside, outside, n uint32
	if _, err := fmt.Sscan(string(text), &inside, &outside, &n); err != nil {
		t.Fatalf("uid_map %q: %v", text, err)
	}
	return n == 1
}
