// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/bankd"
	"remsim/internal/e2e/rig"
)

// A shell is a running remsim-client-shell.
type shell struct {
	*rig.Proc
	id int
}

// atr waits for a SET_ATR line with this ATR (the default one of the client before it is
// passed over).
func (sh *shell) atr(want []byte) error {
	for end := time.Now().Add(soon); ; {
		line, err := sh.Line(time.Until(end))
		if err != nil {
			return fmt.Errorf("waiting for the ATR %x: %w", want, err)
		}
		if line == output("SET_ATR", want) {
			return nil
		}
		if line != output("SET_ATR", []byte{0x3b, 0x00}) {
			return fmt.Errorf("%s printed %q, waiting for the ATR %x", sh.Name, line, want)
		}
	}
}

// send writes a command line.
func (sh *shell) send(cmd []byte) error {
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
	if line != output("R-APDU", want) {
		return fmt.Errorf("%s: command %x: got %q, want %x", sh.Name, cmd, line, want)
	}
	return nil
}

// output is a line of the shell: lower case, a blank after each byte.
func output(word string, b []byte) string {
	var s strings.Builder
	s.WriteString(word + ": ")
	for _, x := range b {
		fmt.Fprintf(&s, "%02x ", x)
	}
	return s.String()
}

// A twin is a card of its own that is like the one behind a client, and says what that one
// has to answer.
type twin struct {
	bankd.Card
	buf [258]byte
}

func (c *twin) answer(cmd []byte) ([]byte, error) { return c.Transmit(cmd, c.buf[:]) }

// command returns the n-th command of the traffic of a client: authentications with RANDs that
// are used once in the whole test, so that an answer to another command, or of another card, can't
// look right.
func command(client, n int) []byte {
	switch n % 4 {
	case 0:
		return unhex("a0a40000027f20") // SELECT DF.GSM
	case 1: // RUN GSM ALGORITHM
		rand := sha256.Sum256(fmt.Appendf(nil, "%d %d", client, n))
		return append(unhex("a088000010"), rand[:16]...)
	case 2:
		return unhex("a0c000000c") // GET RESPONSE: SRES, Kc
	default:
		return unhex("a0a40000026f07") // SELECT EF.IMSI
	}
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

// traffic starts sending; limit 0 means until end is called.
func (sh *shell) traffic(like bankd.Card, limit int64) *traffic {
	tr := &traffic{sh: sh, done: make(chan error, 1)}
	card := twin{Card: like}
	go func() {
		for !tr.stop.Load() && (limit == 0 || tr.n.Load() < limit) {
			cmd := command(sh.id, int(tr.n.Load()))
			want, err := card.answer(cmd)
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

// end waits for the limit, or ends traffic without one after its present command.
func (tr *traffic) end(t *testing.T) {
	t.Helper()
	if err := <-tr.done; err != nil {
		t.Error(err)
	}
}
