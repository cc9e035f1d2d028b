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

// Readers returns the names of the readers that are there.
func (Bank) Readers() ([]string, error) {
	ctx, err := scard.EstablishContext()
	if err != nil {
		return nil, fault("list readers", err)
	}
	defer release(ctx)
	readers, err := list(ctx)
	if err != nil {
		return nil, fault("list readers", err)
	}
	return readers, nil
}

// Open connects to the first reader whose name the slot's pattern is found in. No other is
// tried when that fails.
func (b Bank) Open(ctx context.Context, s bankd.Slot) (bankd.Card, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	sc, err := scard.EstablishContext()
	if err != nil {
		return nil, fault("connect to pcscd", err)
	}
	c, err := b.open(sc, s)
	if err != nil {
		release(sc)
		return nil, err
	}
	return c, nil
}

func (b Bank) open(sc *scard.Context, s bankd.Slot) (*card, error) {
	readers, err := list(sc)
	if err != nil {
		return nil, fault("list readers", err)
	}
	reader, ok := s.Match(readers)
	if !ok {
		return nil, fmt.Errorf("pattern %q: %w; there are %s", s.Spec, bankd.ErrNoReader, quoted(readers))
	}
	c := &card{ctx: sc, reader: reader, mode: scard.ShareExclusive}
	if b.Shared {
		c.mode = scard.ShareShared
	}
	if c.card, err = sc.Connect(reader, c.mode, scard.ProtocolT0); err != nil {
		return nil, c.fail("connect", err)
	}
	if err := c.readATR(); err != nil {
		_ = c.card.Disconnect(scard.UnpowerCard) // the first error counts
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
	case len(resp) < 2:
		return nil, c.fail("transmit", errNoAnswer)
	case len(resp) > 258: // 256 bytes of data and the status (ISO 7816-3 10.3)
		return nil, fmt.Errorf("reader %q: transmit: response of %d bytes, want 2..258", c.reader, len(resp))
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
	case bankd.ErrNoReader, bankd.ErrNoCard, errNoService:
		return nil
	}
	if err != nil {
		return c.fail("power off", err)
	}
	return nil
}

// errNoAnswer is an exchange that pcscd takes for a good one, with less than a status.
var errNoAnswer = errors.New("no answer")

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
	state := []scard.ReaderState{{Reader: c.reader}} // unknown: the first call returns what it is
	for end := time.Now().Add(time.Second); ; {
		left := time.Until(end)
		if left <= 0 || c.ctx.GetStatusChange(state, left) != nil {
			return false
		}
		if state[0].EventState&scard.StatePresent == 0 {
			return true
		}
		state[0].CurrentState = state[0].EventState &^ scard.StateChanged
	}
}

// errNoService is the kind of an error that says that there is no pcscd.
var errNoService = errors.New("pcscd isn't running")

// fault makes the error of an operation, with its kind where it has one.
func fault(what string, err error) error {
	if k := kind(err); k != nil {
		return fmt.Errorf("%s: %w (%w)", what, k, err)
	}
	return fmt.Errorf("%s: %w", what, err)
}

// kind returns what an error of PC/SC means to a bank, nil for a fault of another kind.
func kind(err error) error {
	if err == errNoAnswer {
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
		return errNoService
	}
	return nil
}

// list returns the names of all readers. No reader at all is no error.
func list(ctx *scard.Context) ([]string, error) {
	for try := 0; ; try++ {
		readers, err := ctx.ListReaders()
		switch {
		case errors.Is(err, scard.ErrNoReadersAvailable):
			return nil, nil
		case errors.Is(err, scard.ErrInsufficientBuffer) && try < 3:
			continue // one more has come between the question for their number and that for their names
		}
		return readers, err
	}
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
