// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// A shell is a running remsim-client-shell.
type shell struct {
	*rig.Proc
	id   int
	sent int  // lines
	late bool // an answer may come for which nobody waits any more
}

// twinOf returns a card that is like card i of the simulator, freshly powered.
func twinOf(i int) *softsim.Card { return softsim.New(simulator.Profile(i)) }

// atr waits for a SET_ATR line with this ATR (the default one of the client before it is
// passed over).
func (sh *shell) atr(want []byte) error {
	for end := time.Now().Add(soon); ; {
		line, err := sh.Line(time.Until(end))
		if err != nil {
			return fmt.Errorf("waiting for the ATR %x: %w", want, err)
		}
		if line == rig.Output("SET_ATR", want) {
			return nil
		}
		if sh.late && strings.HasPrefix(line, "R-APDU: ") {
			continue
		}
		if line != rig.Output("SET_ATR", []byte{0x3b, 0x00}) {
			return fmt.Errorf("%s printed %q, waiting for the ATR %x", sh.Name, line, want)
		}
	}
}

// send writes a command line.
func (sh *shell) send(cmd []byte) error {
	sh.sent++
	_, err := fmt.Fprintf(sh.Stdin, "%x\n", cmd)
	return err
}

// exchange sends a command and compares the answer.
func (sh *shell) exchange(cmd, want []byte) error {
	if err := sh.send(cmd); err != nil {
		return fmt.Errorf("%s: %w", sh.Name, err)
	}
	line, err := sh.Line(soon)
	if err != nil {
		return fmt.Errorf("answer to %x: %w", cmd, err)
	}
	if line != rig.Output("R-APDU", want) {
		return fmt.Errorf("%s: command %x: got %q, want %x", sh.Name, cmd, line, want)
	}
	return nil
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this file
	}
	return b
}

// A traffic is a client that sends command after command and compares all answers.
type traffic struct {
	sh   *shell
	n    atomic.Int64 // answers so far
	stop atomic.Bool
	done chan error
}

// traffic starts sending, to a card that was just powered and is like twin, which says what the
// answers have to be; limit 0 means until end is called.
func (sh *shell) traffic(twin bankd.Card, limit int64) *traffic {
	tr := &traffic{sh: sh, done: make(chan error, 1)}
	go func() {
		var buf [258]byte
		for !tr.stop.Load() && (limit == 0 || tr.n.Load() < limit) {
			cmd := rig.Command(sh.id, int(tr.n.Load()))
			want, err := twin.Transmit(cmd, buf[:])
			if err == nil {
				err = sh.exchange(cmd, want)
			}
			if err != nil {
				tr.done <- fmt.Errorf("after %d answers: %w", tr.n.Load(), err)
				return
			}
			tr.n.Add(1)
		}
		tr.done <- nil
	}()
	return tr
}

// more waits until there were n more right answers.
func (tr *traffic) more(t *testing.T, n int64) {
	t.Helper()
	from := tr.n.Load()
	for end := time.Now().Add(soon); tr.n.Load() < from+n; time.Sleep(time.Millisecond) {
		select {
		case err := <-tr.done:
			t.Fatalf("traffic of %s ended: %v", tr.sh.Name, err)
		default:
		}
		if time.Now().After(end) {
			t.Fatalf("%s has had %d answers, not %d more after %d", tr.sh.Name, tr.n.Load(), n, from)
		}
	}
}

// complete waits until the limit is reached.
func (tr *traffic) complete(t *testing.T) {
	t.Helper()
	if err := <-tr.done; err != nil {
		t.Error(err)
	}
}

// end has traffic end after its present command.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	tr.stop.Store(true)
	if err := <-tr.done; err != nil {
		t.Error(err)
	}
}

// untilLost sends commands to a card that is like twin until it goes away; the function it returns waits
// until the client knows that it has gone.
func (sh *shell) untilLost(t *testing.T, twin bankd.Card) (wait func()) {
	t.Helper()
	mark := sh.Mark()
	under := make(chan struct{})
	stop := make(chan struct{})
	done := make(chan error, 1)
	go func() {
		var buf [258]byte
		for n := 0; ; n++ {
			if n == 20 {
				close(under)
			}
			cmd := rig.Command(sh.id, n)
			want, err := twin.Transmit(cmd, buf[:])
			if err == nil {
				err = sh.send(cmd)
			}
			if err != nil {
				done <- err
				return
			}
			select {
			case line := <-sh.Lines:
				if line != rig.Output("R-APDU", want) {
					done <- fmt.Errorf("%s: command %x: got %q, want %x", sh.Name, cmd, line, want)
					return
				}
			case <-stop:
				done <- nil
				return
			}
		}
	}()
	select {
	case <-under:
	case err := <-done:
		t.Fatal(err)
	}
	return func() {
		t.Helper()
		if _, err := sh.AwaitFrom(mark, soon, "from=OPERATIONAL"); err != nil {
			t.Fatal(err)
		}
		close(stop)
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		sh.late = true
	}
}

// settle has the shell be done with all earlier lines: the last one of a session that was lost may
// still be waiting for a card.
func (sh *shell) settle() error {
	if err := sh.send(unhex("ff00000000")); err != nil {
		return err
	}
	for range 2 {
		line, err := sh.Line(soon)
		switch {
		case err != nil:
			return err
		case line == rig.Output("R-APDU", unhex("6e00")): // class not supported
			sh.late = false
			return nil
		case !strings.HasPrefix(line, "R-APDU: "):
			return fmt.Errorf("%s printed %q", sh.Name, line)
		}
	}
	return fmt.Errorf("%s answers more than it was asked", sh.Name)
}
