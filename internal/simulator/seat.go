// SPDX-License-Identifier: GPL-2.0-or-later

package simulator

import (
	"bufio"
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"remsim/internal/bankd"
)

// retry is the pause before a reader that isn't there is called again.
const retry = 100 * time.Millisecond

// A Fault is what a card does with commands in place of answering them. It goes on being reset as if nothing were wrong.
type Fault uint8

const (
	None  Fault = iota // it answers
	Hang               // it answers when the fault has ended, not before
	Mute               // it gives no answer, and the reader knows that none comes
	Short              // it answers with one byte
	Long               // it answers with 300 bytes, more than any card can
)

// A Seat is the place of one card in front of one virtual reader: the card can be put in and pulled,
// swapped for another one, and go wrong. It begins with the card put in. Its methods may be called by several goroutines.
type Seat struct {
	addr netip.AddrPort
	seen chan struct{} // closed when a reader has asked for the ATR

	mu    sync.Mutex
	card  bankd.Card // used by serve, which takes it when it begins
	log   *logrus.Entry
	fault Fault
	atr   []byte        // to be told in place of the card's; nil: the card's
	out   bool          // the card was pulled
	conn  net.Conn      // to the reader, nil without one
	held  bool          // conn has a command that waits for the end of Hang
	moved chan struct{} // closed and made anew when out changes

	once sync.Once // closes seen
	next net.Conn  // the reader's next connection, already made; of Run
}

// NewSeat makes the seat of a card at the reader that listens on addr.
func NewSeat(addr netip.AddrPort, card bankd.Card, log *logrus.Entry) *Seat {
	return &Seat{addr: addr, card: card, log: log.WithField("reader", addr), seen: make(chan struct{}), moved: make(chan struct{})}
}

// Seen is closed when a pcscd has asked the card for its ATR for the first time.
func (s *Seat) Seen() <-chan struct{} { return s.seen }

// Pull takes the card out of the reader, also in the middle of a command. When it returns the
// card answers no more.
func (s *Seat) Pull() { s.move(true) }

// Insert puts the card back.
func (s *Seat) Insert() { s.move(false) }

func (s *Seat) move(out bool) {
	s.mu.Lock()
	conn := s.conn
	if s.out != out {
		s.out = out
		close(s.moved)
		s.moved = make(chan struct{})
	}
	s.mu.Unlock()
	if out && conn != nil {
		conn.Close()
	}
}

// Swap puts another card in, one without faults, where the old one was. A pcscd that looks each 0.4 s sees an empty reader
// between for sure only if the old one was pulled 1 s before.
func (s *Seat) Swap(card bankd.Card, log *logrus.Entry) {
	s.Pull()
	s.mu.Lock()
	s.card, s.log = card, log.WithField("reader", s.addr)
	s.fault, s.atr = None, nil
	s.mu.Unlock()
	s.Insert()
}

// SetFault makes the card go wrong, or answer again.
func (s *Seat) SetFault(f Fault) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.fault = f
	if s.held {
		_ = s.conn.SetReadDeadline(time.Unix(0, 0)) // fails when it is closed
	}
}

// SetATR sets what the card says at each reset from now on; nil for its own ATR. An empty one means an
// empty reader to vpcd.
func (s *Seat) SetATR(atr []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.atr = atr
}

// state returns whether the card is pulled, and what is closed when that changes.
func (s *Seat) state() (out bool, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out, s.moved
}

// wrong returns what is wrong with the card.
func (s *Seat) wrong() (Fault, []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.fault, s.atr
}

// connected notes the connection to the reader, or that there is none, and returns the card that
// may use it, nil for none.
func (s *Seat) connected(conn net.Conn) (bankd.Card, *logrus.Entry) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn, s.held = conn, false
	if s.out {
		return nil, s.log
	}
	return s.card, s.log
}

// Run keeps the card in the reader, while it isn't pulled, until ctx ends.
func (s *Seat) Run(ctx context.Context) {
	missed := false // an attempt has failed since the last connection
	for ctx.Err() == nil {
		out, moved := s.state()
		if out {
			s.leave()
		}
		var pause <-chan time.Time // for ever: until the card moves
		if !out {
			found, log, err := s.connect(ctx)
			switch {
			case ctx.Err() != nil:
			case s.next != nil: // a mute card stays where it is
				continue
			case found:
				log.WithError(err).Info("card disconnected")
			case !missed:
				log.WithError(err).Info("no virtual reader there, waiting for one")
			}
			missed = !found
			pause = time.After(retry)
		}
		select {
		case <-ctx.Done():
		case <-moved:
		case <-pause:
		}
	}
	s.leave()
}

// leave gives up the next connection.
func (s *Seat) leave() {
	if s.next != nil {
		s.next.Close()
		s.next = nil
	}
}

// connect calls the reader and serves it until ctx or the connection ends.
func (s *Seat) connect(ctx context.Context) (found bool, log *logrus.Entry, err error) {
	nc := s.next
	if s.next = nil; nc == nil {
		if nc, err = s.dial(ctx); err != nil {
			_, log = s.connected(nil)
			return false, log, err
		}
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	card, log := s.connected(nc)
	defer s.connected(nil)
	if card == nil {
		return true, log, errors.New("pulled before it was there")
	}
	log.Info("card connected")
	err = s.serve(ctx, nc.(*net.TCPConn), card, log)
	return true, log, err
}

func (s *Seat) dial(ctx context.Context) (net.Conn, error) {
	var d net.Dialer
	return d.DialContext(ctx, "tcp", s.addr.String())
}

// Messages of one byte from vpcd; all others are commands. A message is preceded by its length in two
// bytes, big end first; only commands and atrWanted are answered.
const (
	powerOff  = 0
	powerOn   = 1
	warmReset = 2
	atrWanted = 4
)

// serve answers a reader until the connection ends.
func (s *Seat) serve(ctx context.Context, nc *net.TCPConn, card bankd.Card, log *logrus.Entry) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	r := bufio.NewReader(quickReader{nc, raw})
	var (
		head [2]byte
		msg  = make([]byte, 1<<16)
		out  = make([]byte, 2, 2+300)
	)
	for {
		if _, err := io.ReadFull(r, head[:]); err != nil {
			return err
		}
		msg := msg[:binary.BigEndian.Uint16(head[:])]
		if _, err := io.ReadFull(r, msg); err != nil {
			return err
		}
		out = out[:2]
		if len(msg) != 1 {
			if err := s.hold(nc, r); err != nil {
				return err
			}
			switch fault, _ := s.wrong(); fault {
			case Mute:
				return s.mute(ctx, nc)
			case Short:
				out = append(out, 0x90)
			case Long:
				out = append(out, make([]byte, 300)...)
			default:
				out = transmit(card, msg, out, log)
			}
		} else {
			switch msg[0] {
			case powerOn, warmReset:
				if err := card.Reset(msg[0] == powerOn); err != nil {
					return fmt.Errorf("reset: %w", err)
				}
				continue
			case atrWanted:
				_, atr := s.wrong()
				if atr == nil {
					atr = card.ATR()
				}
				out = append(out, atr...)
			default: // powerOff changes nothing, the rest isn't known
				continue
			}
		}
		binary.BigEndian.PutUint16(out, uint16(len(out)-2))
		if _, err := nc.Write(out); err != nil {
			return err
		}
		if len(msg) == 1 {
			s.once.Do(func() { close(s.seen) })
		}
	}
}

// transmit appends the card's answer to a command to out.
func transmit(card bankd.Card, cmd, out []byte, log *logrus.Entry) []byte {
	resp, err := card.Transmit(cmd, out[2:2])
	if err != nil {
		log.WithError(err).Warn("command refused")
		resp = []byte{0x67, 0x00} // wrong length: what else can be wrong with a command
	}
	return append(out, resp...)
}

// hold returns when the card doesn't hang, or the connection has ended. The reader sends nothing meanwhile.
func (s *Seat) hold(nc *net.TCPConn, r *bufio.Reader) error {
	for s.holding(nc) {
		switch _, err := r.Peek(1); {
		case err == nil:
			return errors.New("the reader doesn't wait for the answer")
		case !errors.Is(err, os.ErrDeadlineExceeded):
			return fmt.Errorf("in a command: %w", err)
		}
	}
	return nil
}

// holding reports whether the card hangs. Until it is called again, the end of that ends a read of nc.
func (s *Seat) holding(nc *net.TCPConn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.held = s.fault == Hang
	_ = nc.SetReadDeadline(time.Time{}) // fails when it is closed
	return s.held
}

var errMute = errors.New("the card is mute")

// mute tells the reader that there is no answer. vpcd takes the card for gone then; with a connection that waits already, it
// finds it there when it looks again.
func (s *Seat) mute(ctx context.Context, nc *net.TCPConn) error {
	next, err := s.dial(ctx)
	if err != nil {
		return err
	}
	s.next = next
	if _, err := nc.Write([]byte{0, 0}); err != nil {
		return err
	}
	return errMute
}

// A quickReader reads with acknowledgements sent at once. vpcd writes length and message with one
// call each, and with Nagle's algorithm: the second waits for the acknowledgement of the first, which
// the kernel would delay by 40 ms. It falls back to delaying by itself, so that this must be said each time.
type quickReader struct {
	*net.TCPConn
	raw syscallConn
}

type syscallConn interface {
	Control(func(fd uintptr)) error
}

func (q quickReader) Read(p []byte) (int, error) {
	var set error
	err := q.raw.Control(func(fd uintptr) {
		set = unix.SetsockoptInt(int(fd), unix.IPPROTO_TCP, unix.TCP_QUICKACK, 1)
	})
	if err == nil {
		err = set
	}
	if err != nil {
		return 0, err
	}
	return q.TCPConn.Read(p)
}
