// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/ebfe/scard"

	"remsim/internal/bankd"
)

// Check reports a slot that names a software card.
func (Bank) Check(s bankd.Slot) error {
	if s.Software() {
		return fmt.Errorf("%q is no pattern for PC/SC readers", s.Spec)
	}
	return nil
}

// Open connects to the reader that s names, or to the first one whose name its pattern is found in. No other
// is tried when that fails.
func (b Bank) Open(ctx context.Context, s bankd.Slot) (bankd.Card, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	if s.Reader != "" {
		return b.connect(s.Reader)
	}
	reader, err := find(s)
	if err != nil {
		return nil, err
	}
	return b.connect(reader)
}

func find(s bankd.Slot) (reader string, err error) {
	l, err := openStatus()
	if err != nil {
		return "", fault("connect to pcscd", err)
	}
	defer l.release()
	readers, err := l.list()
	if err != nil {
		return "", fault("list readers", err)
	}
	reader, ok := s.Match(readers)
	if !ok {
		return "", fmt.Errorf("pattern %q: %w; there are %s", s.Spec, bankd.ErrNoReader, quoted(readers))
	}
	return reader, nil
}

// connect powers up the card in a reader.
func (b Bank) connect(reader string) (bankd.Card, error) {
	sc, err := scard.EstablishContext()
	if err != nil {
		return nil, fault("connect to pcscd", err)
	}
	c := &card{ctx: sc, reader: reader, mode: scard.ShareExclusive}
	if b.Shared {
		c.mode = scard.ShareShared
	}
	if c.card, err = sc.Connect(reader, c.mode, scard.ProtocolT0); err != nil {
		release(sc)
		if errors.Is(err, scard.ErrProtoMismatch) {
			err = fmt.Errorf("the card's ATR doesn't offer T=0 (%w)", err)
		}
		return nil, c.fail("connect", err)
	}
	if err := c.readATR(); err != nil {
		_ = c.Close() // the first error counts
		return nil, err
	}
	return c, nil
}

// A card is a connected card, bankd.Card.
type card struct {
	ctx    *scard.Context
	card   *scard.Card
	reader string
	mode   scard.ShareMode
	atr    []byte
}

func (c *card) ATR() []byte { return c.atr }

// readATR asks for the ATR: after a reset it can be another one.
func (c *card) readATR() error {
	st, err := c.card.Status()
	if err != nil {
		return c.fail("read the ATR", err)
	}
	if len(st.Atr) < 2 {
		return fmt.Errorf("reader %q: ATR of %d bytes: %w", c.reader, len(st.Atr), bankd.ErrMute)
	}
	if c.card.ActiveProtocol() != scard.ProtocolT0 {
		return fmt.Errorf("reader %q: the card doesn't speak T=0 (ATR % x)", c.reader, st.Atr)
	}
	c.atr = st.Atr
	return nil
}

func (c *card) Transmit(cmd, buf []byte) ([]byte, error) {
	resp, err := c.card.Transmit(cmd)
	switch {
	case err != nil:
		return nil, c.fail("transmit", err)
	case len(resp) < 2 || len(resp) > 258: // the status, and 256 bytes of data (ISO 7816-3 10.3)
		return nil, c.fail("transmit", lengthError(len(resp)))
	}
	return append(buf[:0], resp...), nil
}

func (c *card) Reset(cold bool) error {
	how, what := scard.ResetCard, "warm reset"
	if cold {
		how, what = scard.UnpowerCard, "cold reset"
	}
	if err := c.card.Reconnect(c.mode, scard.ProtocolT0, how); err != nil {
		return c.fail(what, err)
	}
	return c.readATR()
}

func (c *card) Close() error {
	err := c.card.Disconnect(scard.UnpowerCard)
	release(c.ctx)
	// The reader, the card or pcscd may be gone, and with them there is no power to switch off.
	switch kind(err) {
	case bankd.ErrNoReader, bankd.ErrNoCard, bankd.ErrNoService:
		return nil
	}
	if err != nil {
		return c.fail("power off", err)
	}
	return nil
}

// A lengthError is an exchange that pcscd takes for a good one, with a response of so many bytes.
type lengthError int

func (e lengthError) Error() string { return fmt.Sprintf("response of length %d, want 2..258", int(e)) }

// fail makes the error of an operation on c. A card that was pulled a moment ago looks like one
// that doesn't answer.
func (c *card) fail(what string, err error) error {
	if kind(err) == bankd.ErrMute && c.pulled() {
		return fmt.Errorf("reader %q: %s: %w (%w)", c.reader, what, bankd.ErrNoCard, err)
	}
	return fmt.Errorf("reader %q: %w", c.reader, fault(what, err))
}

// pulled reports whether the reader is empty. pcscd looks each 0.2 to 0.4 s, so that it isn't
// known at once.
func (c *card) pulled() bool {
	l, err := openStatus()
	if err != nil {
		return false
	}
	defer l.release()
	states := []state{{name: c.reader}}
	for end := time.Now().Add(time.Second); ; {
		left := time.Until(end)
		if left <= 0 || l.await(states, left) != nil {
			return false
		}
		if states[0].flags&scard.StatePresent == 0 {
			return true
		}
		states[0].flags &^= scard.StateChanged
	}
}

// fault makes the error of an operation, with its kind where it has one.
func fault(what string, err error) error {
	if k := kind(err); k != nil {
		return fmt.Errorf("%s: %w (%w)", what, k, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kind returns what an error of PC/SC means to a bank, nil for a fault of another kind.
func kind(err error) error {
	if e, ok := err.(lengthError); ok && e < 2 {
		return bankd.ErrMute
	}
	var code scard.Error
	if !errors.As(err, &code) {
		return nil
	}
	switch code {
	case scard.ErrNoSmartcard, scard.ErrRemovedCard:
		return bankd.ErrNoCard
	case scard.ErrUnresponsiveCard, scard.ErrUnpoweredCard, scard.ErrNotTransacted:
		return bankd.ErrMute
	case scard.ErrUnknownReader, scard.ErrReaderUnavailable, scard.ErrNoReadersAvailable:
		return bankd.ErrNoReader
	case scard.ErrNoService, scard.ErrServiceStopped, scard.ErrCommError: // the last: it has just gone
		return bankd.ErrNoService
	}
	return nil
}

// release gives a context back. It fails when pcscd has gone, and with it the context.
func release(ctx *scard.Context) { _ = ctx.Release() }

// quoted returns names as a list for messages.
func quoted(names []string) string {
	if len(names) == 0 {
		return "none"
	}
	q := make([]string, len(names))
	for i, n := range names {
		q[i] = fmt.Sprintf("%q", n)
	}
	return strings.Join(q, ", ")
}
