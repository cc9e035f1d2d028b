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
	"sync"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"

	"remsim/internal/bankd"
)

// retry is the pause before a reader that isn't there is called again.
const retry = 100 * time.Millisecond

// A Seat is the place of one card in front of one virtual reader: the card can be put in and pulled.
// It begins with the card put in.
type Seat struct {
	addr netip.AddrPort
	card bankd.Card
	log  *logrus.Entry
	seen chan struct{} // closed when a reader has asked for the ATR

	mu    sync.Mutex
	out   bool          // the card was pulled
	conn  net.Conn      // to the reader, nil without one
	moved chan struct{} // closed and made anew when out changes

	once sync.Once // closes seen
}

// NewSeat makes the seat of a card at the reader that listens on addr. The card is used by Run only.
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

// state returns whether the card is pulled, and what is closed when that changes.
func (s *Seat) state() (out bool, moved <-chan struct{}) {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.out, s.moved
}

// connected notes the connection to the reader, or that there is none, and reports whether the
// card may use it.
func (s *Seat) connected(conn net.Conn) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.conn = conn
	return !s.out
}

// Run keeps the card in the reader, while it isn't pulled, until ctx ends.
func (s *Seat) Run(ctx context.Context) {
	missed := false // an attempt has failed since the last connection
	for ctx.Err() == nil {
		out, moved := s.state()
		var pause <-chan time.Time // for ever: until the card moves
		if !out {
			found, err := s.connect(ctx)
			switch {
			case ctx.Err() != nil:
			case found:
				s.log.WithError(err).Info("card disconnected")
			case !missed:
				s.log.WithError(err).Info("no virtual reader there, waiting for one")
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
}

// connect calls the reader and serves it until ctx or the connection ends.
func (s *Seat) connect(ctx context.Context) (found bool, err error) {
	var d net.Dialer
	nc, err := d.DialContext(ctx, "tcp", s.addr.String())
	if err != nil {
		return false, err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	defer s.connected(nil)
	if !s.connected(nc) {
		return true, errors.New("pulled before it was there")
	}
	s.log.Info("card connected")
	return true, s.serve(nc.(*net.TCPConn))
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
func (s *Seat) serve(nc *net.TCPConn) error {
	raw, err := nc.SyscallConn()
	if err != nil {
		return err
	}
	r := bufio.NewReader(quickReader{nc, raw})
	var (
		head [2]byte
		msg  = make([]byte, 1<<16)
		out  = make([]byte, 2, 2+258)
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
			if out, err = s.transmit(msg, out); err != nil {
				return err
			}
		} else {
			switch msg[0] {
			case powerOn, warmReset:
				if err := s.card.Reset(msg[0] == powerOn); err != nil {
					return fmt.Errorf("reset: %w", err)
				}
				continue
			case atrWanted:
				out = append(out, s.card.ATR()...)
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
func (s *Seat) transmit(cmd, out []byte) ([]byte, error) {
	resp, err := s.card.Transmit(cmd, out[2:2])
	if err != nil {
		s.log.WithError(err).Warn("command refused")
		resp = []byte{0x67, 0x00} // wrong length: what else can be wrong with a command
	}
	return append(out, resp...), nil
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
