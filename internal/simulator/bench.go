// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"bufio"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net/netip"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// Loopback is where the readers of a PCSCD listen.
func Loopback() netip.AddrPort {
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), VPCDPort)
}

// Bench runs a pcscd with virtual readers, and cards in the first of them, until ctx ends. When all cards are seen
// it writes to w how clients find that pcscd, one line that a shell can read: PCSCLITE_CSOCK_NAME=PATH. It must be called
// inside Isolate, with the directory that was told there. c.Addr is of no account.
func Bench(ctx context.Context, run string, readers int, c Config, w io.Writer) error {
	p := &service{readers: readers}
	if err := p.start(ctx); err != nil {
		return err
	}
	defer func() { p.pcscd.Stop() }()

	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	c.Addr = Loopback()
	c.Ready = func() {
		if _, err := fmt.Fprintf(w, "%s=%s\n", SocketEnv, Socket(run)); err != nil {
			cancel(fmt.Errorf("simulator: %w", err))
		}
	}
	return cards(ctx, c, p)
}

// A service is the pcscd of a Bench: there may be none for a while.
type service struct {
	readers int
	pcscd   *PCSCD          // the last one
	lost    <-chan struct{} // closed when it has ended, nil when that was wanted
}

func (s *service) start(ctx context.Context) error {
	p, err := StartPCSCD(ctx, s.readers, nil)
	if err != nil {
		return err
	}
	s.pcscd, s.lost = p, p.Done()
	return nil
}

// Commands says what can be done to the cards of a simulator, and to its pcscd.
const Commands = `    pull N           take card N, from 0, out of its reader
    insert N         put it back
    swap N           put another card in its place after 1 s, with ICCID and IMSI + 100
    hang N           give no answer to commands until "release N", which answers the one that waits
    mute N           give no answer to commands
    short N          answer commands with one byte
    long N           answer commands with 300 bytes
    atr N HEX        have this ATR, of 1 to 64 bytes, from the next reset on
    release N        be a good card again, with its own ATR
    pcscd kill       end pcscd at once
    pcscd start [R]  start it again, with R readers
    pcscd stop       have it hang
    pcscd continue   have it go on
`

// swapPause is how long a reader is empty when its card is swapped: pcscd looks each 0.4 s.
const swapPause = time.Second

// A bench is what the commands of Config.Control are for.
type bench struct {
	config  Config
	seats   []*Seat
	swaps   []int    // of each card
	service *service // nil: pcscd isn't ours
}

// run obeys until ctx ends. It returns an error when pcscd ends by itself, or nobody takes the answers.
func (b *bench) run(ctx context.Context) error {
	var lines chan string
	if b.config.Control != nil {
		lines = make(chan string)
		go b.read(ctx, lines) // until the end of its line, or of the input
	}
	for {
		var lost <-chan struct{}
		if b.service != nil {
			lost = b.service.lost
		}
		select {
		case <-ctx.Done():
			return nil
		case <-lost:
			return fmt.Errorf("simulator: pcscd has ended; it says: %s", strings.TrimSpace(b.service.pcscd.Output()))
		case line := <-lines:
			if _, err := fmt.Fprintln(b.config.Answers, b.answer(ctx, line)); err != nil {
				return fmt.Errorf("simulator: answer a command: %w", err)
			}
		}
	}
}

// read sends the lines of control, but for empty ones and comments.
func (b *bench) read(ctx context.Context, lines chan<- string) {
	sc := bufio.NewScanner(b.config.Control)
	for sc.Scan() {
		line := strings.TrimSpace(sc.Text())
		if line == "" || line[0] == '#' {
			continue
		}
		select {
		case lines <- line:
		case <-ctx.Done():
			return
		}
	}
	if err := sc.Err(); err != nil && ctx.Err() == nil {
		b.config.Log.WithField("cat", "DMAIN").WithError(err).Error("no more commands")
	}
}

// answer obeys one line.
func (b *bench) answer(ctx context.Context, line string) string {
	c, err := parse(line, len(b.seats))
	var more string
	if err == nil {
		more, err = b.obey(ctx, c)
	}
	if err != nil {
		return "error " + strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; ")
	}
	return strings.Join(append([]string{"ok"}, strings.Fields(line+" "+more)...), " ")
}

// obey does what c says, and returns what there is to say of it.
func (b *bench) obey(ctx context.Context, c command) (more string, err error) {
	if strings.HasPrefix(c.verb, "pcscd") {
		return "", b.service.obey(ctx, c)
	}
	s := b.seats[c.card]
	switch c.verb {
	case "pull":
		s.Pull()
	case "insert":
		s.Insert()
	case "swap":
		s.Pull()
		select {
		case <-time.After(swapPause):
		case <-ctx.Done():
		}
		b.swaps[c.card]++
		card, who, log := b.config.card(c.card, b.swaps[c.card])
		s.Swap(card, log)
		return who, nil
	case "hang":
		s.SetFault(Hang)
	case "mute":
		s.SetFault(Mute)
	case "short":
		s.SetFault(Short)
	case "long":
		s.SetFault(Long)
	case "atr":
		s.SetATR(c.atr)
	case "release":
		s.SetATR(nil)
		s.SetFault(None)
	}
	return "", nil
}

func (s *service) obey(ctx context.Context, c command) error {
	if s == nil {
		return errors.New("this program has no pcscd")
	}
	running := s.lost != nil
	switch {
	case running && c.verb == "pcscd start":
		return errors.New("pcscd is running")
	case !running && c.verb != "pcscd start":
		return errors.New("pcscd isn't running")
	}
	switch c.verb {
	case "pcscd kill":
		s.lost = nil
		s.pcscd.Kill()
	case "pcscd start":
		if c.readers > 0 {
			s.readers = c.readers
		}
		return s.start(ctx)
	case "pcscd stop":
		return s.pcscd.Signal(syscall.SIGSTOP)
	case "pcscd continue":
		return s.pcscd.Signal(syscall.SIGCONT)
	}
	return nil
}

// A command is one line of control.
type command struct {
	verb    string // the first word, of those for pcscd the first two
	card    int
	atr     []byte
	readers int // 0: as many as before
}

// parse reads a command for so many cards.
func parse(line string, cards int) (command, error) {
	f := strings.Fields(line)
	words := min(1, len(f))
	if words == 1 && f[0] == "pcscd" {
		words = min(2, len(f))
	}
	c := command{verb: strings.Join(f[:words], " ")}
	f = f[words:]
	least, most := 1, 1 // arguments
	switch c.verb {
	case "pull", "insert", "swap", "hang", "mute", "short", "long", "release":
	case "atr":
		least, most = 2, 2
	case "pcscd kill", "pcscd stop", "pcscd continue":
		least, most = 0, 0
	case "pcscd start":
		least, most = 0, 1
	default:
		return command{}, fmt.Errorf("no command %q", c.verb)
	}
	if len(f) < least || len(f) > most {
		return command{}, fmt.Errorf("%s: %d arguments, want %d", c.verb, len(f), most)
	}
	var err error
	switch {
	case len(f) == 0:
	case c.verb == "pcscd start":
		c.readers, err = number("readers", f[0], 1, MaxCards)
	default:
		c.card, err = number("card", f[0], 0, cards-1)
	}
	if err == nil && c.verb == "atr" {
		if c.atr, err = hex.DecodeString(f[1]); err != nil || len(c.atr) < 1 || len(c.atr) > 64 {
			err = fmt.Errorf("ATR %q: want 1..64 bytes in hexadecimal", f[1])
		}
	}
	if err != nil {
		return command{}, fmt.Errorf("%s: %w", c.verb, err)
	}
	return c, nil
}

func number(what, s string, least, most int) (int, error) {
	n, err := strconv.Atoi(s)
	if err != nil || n < least || n > most {
		return 0, fmt.Errorf("%s %q: want %d..%d", what, s, least, most)
	}
	return n, nil
}
