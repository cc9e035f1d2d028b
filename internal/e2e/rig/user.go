// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"crypto/sha256"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"remsim/internal/bankd/softsim"
)

// A User is a remsim-client-shell that sends command after command, whatever becomes of its card. Each command gets its
// answer, or the shell says that there is none. An answer is compared with that of a twin of the card, which
// begins anew with each ATR: no answer can be that of another card, to another command, or from before the ATR.
type User struct {
	sh       *Proc
	pause    time.Duration
	patience time.Duration
	id       int
	sent     int // commands
	stop     chan struct{}
	done     chan struct{} // closed at its end, then err tells why
	end      sync.Once

	mu      sync.Mutex
	twin    *softsim.Card // of the next ATR's card
	err     error
	counts  Counts
	times   []time.Duration // of the commands answered since Lap
	changed chan struct{}   // closed when one of these is another
}

// Counts are what has happened to a User.
type Counts struct{ Answers, Lost, ATRs int }

// Use has a shell that was just started use a card like twin, pausing after each answer, until End. The id, 0..255, makes its commands others than
// those of any other User. It takes a command that gets neither an answer nor an error within its patience for lost without a word.
func Use(sh *Proc, id int, twin *softsim.Card, pause, patience time.Duration) *User {
	u := &User{
		sh: sh, id: id, pause: pause, patience: patience, twin: twin,
		stop: make(chan struct{}), done: make(chan struct{}), changed: make(chan struct{}),
	}
	go func() {
		defer close(u.done)
		err := u.run(twin)
		u.change(func() { u.err = err })
	}()
	return u
}

func (u *User) run(twin *softsim.Card) error {
	for {
		began := time.Now()
		answered, err := u.command(&twin)
		if err != nil {
			return fmt.Errorf("%s: command %d: %w", u.sh.Name, u.sent, err)
		}
		u.change(func() {
			if answered {
				u.counts.Answers++
				u.times = append(u.times, time.Since(began))
			} else {
				u.counts.Lost++
			}
		})
		select {
		case <-u.stop:
			return nil
		case <-time.After(u.pause):
		}
	}
}

// command sends one command to a card like twin, and reports whether it was answered.
func (u *User) command(twin **softsim.Card) (answered bool, err error) {
	cmd := Command(u.id, u.sent)
	var buf [258]byte
	want, err := (*twin).Transmit(cmd, buf[:])
	if err != nil {
		return false, err
	}
	mark := u.sh.Mark()
	u.sent++
	if _, err := fmt.Fprintf(u.sh.Stdin, "%x\n", cmd); err != nil {
		return false, err
	}
	none := fmt.Sprintf("line %d: ", u.sent)
	for late := time.After(u.patience); ; {
		log, more := u.sh.LogFrom(mark)
		if strings.HasPrefix(log, none) || strings.Contains(log, "\n"+none) {
			return false, nil
		}
		select {
		case line, ok := <-u.sh.Lines:
			switch line {
			case Output("R-APDU", want):
				return true, nil
			case Output("SET_ATR", []byte{0x3b, 0x00}): // there is none yet
			case Output("SET_ATR", (*twin).ATR()): // those of all cards are the same
				u.change(func() { *twin, u.counts.ATRs = u.twin, u.counts.ATRs+1 })
				if err := (*twin).Reset(true); err != nil {
					return false, err
				}
				if want, err = (*twin).Transmit(cmd, buf[:]); err != nil {
					return false, err
				}
			default:
				return false, fmt.Errorf("%x: got %q (%t), want %x", cmd, line, ok, want)
			}
		case <-more:
		case <-late:
			return false, fmt.Errorf("%x: neither answer nor error for %v", cmd, u.patience)
		}
	}
}

// Command returns the n-th command of the traffic of a client: it reads the card's IMSI and authenticates
// with RANDs that are used once by clients of different ids, so that the answer of another card, or to another
// command, can't look right.
func Command(id, n int) []byte {
	switch n % 5 {
	case 0: // SELECT DF.GSM
		return []byte{0xa0, 0xa4, 0, 0, 2, 0x7f, 0x20}
	case 1: // RUN GSM ALGORITHM
		rand := sha256.Sum256(fmt.Appendf(nil, "%d %d", id, n))
		return append([]byte{0xa0, 0x88, 0, 0, 16}, rand[:16]...)
	case 2: // GET RESPONSE: SRES, Kc
		return []byte{0xa0, 0xc0, 0, 0, 12}
	case 3: // SELECT EF.IMSI
		return []byte{0xa0, 0xa4, 0, 0, 2, 0x6f, 0x07}
	default: // READ BINARY
		return []byte{0xa0, 0xb0, 0, 0, 9}
	}
}

// Output is a line of the shell: lower case, a blank after each byte.
func Output(word string, b []byte) string {
	var s strings.Builder
	s.WriteString(word + ": ")
	for _, x := range b {
		fmt.Fprintf(&s, "%02x ", x)
	}
	return s.String()
}

func (u *User) change(f func()) {
	u.mu.Lock()
	defer u.mu.Unlock()
	f()
	close(u.changed)
	u.changed = make(chan struct{})
}

// Becomes says that the card of the next ATR will be like another twin.
func (u *User) Becomes(twin *softsim.Card) { u.change(func() { u.twin = twin }) }

// Counts returns what has happened so far.
func (u *User) Counts() Counts {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.counts
}

// Lap returns how long the commands took that were answered since the last Lap, in order of length.
func (u *User) Lap() []time.Duration {
	u.mu.Lock()
	defer u.mu.Unlock()
	times := u.times
	u.times = nil
	slices.Sort(times)
	return times
}

// Await waits until so much more has happened than at from, and returns how things are then.
func (u *User) Await(from, more Counts, d time.Duration) (Counts, error) {
	for end := time.After(d); ; {
		u.mu.Lock()
		now, err, changed := u.counts, u.err, u.changed
		u.mu.Unlock()
		switch {
		case err != nil:
			return now, err
		case now.Answers >= from.Answers+more.Answers && now.Lost >= from.Lost+more.Lost && now.ATRs >= from.ATRs+more.ATRs:
			return now, nil
		}
		select {
		case <-changed:
		case <-end:
			return now, fmt.Errorf("%s has %+v, %v after %+v, want %+v more", u.sh.Name, now, d, from, more)
		}
	}
}

// End has it end after its present command, and returns what was wrong with any of them.
func (u *User) End() error {
	u.end.Do(func() { close(u.stop) })
	<-u.done
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}
