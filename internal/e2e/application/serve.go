// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package application

import (
	"encoding/json"
	"errors"
	"io"
	"time"

	"github.com/ebfe/scard"
)

// featureRequest is CM_IOCTL_GET_FEATURE_REQUEST.
var featureRequest = scard.CtlCode(3400)

// A server is the application's side: its context, and its card.
type server struct {
	ctx  *scard.Context
	card *scard.Card
}

// serve answers requests until their end.
func serve(in *json.Decoder, out *json.Encoder) error {
	var s server
	for {
		var r Request
		if err := in.Decode(&r); err != nil {
			if errors.Is(err, io.EOF) {
				return nil
			}
			return err
		}
		var reply Reply
		if err := s.answer(r, &reply); err != nil {
			var code scard.Error
			if !errors.As(err, &code) {
				return err
			}
			reply.Code, reply.Text = Code(code), code.Error()
		}
		if err := out.Encode(reply); err != nil {
			return err
		}
	}
}

// answer makes one call. An error that isn't a scard.Error is a fault of the test.
func (s *server) answer(r Request, reply *Reply) (err error) {
	if s.ctx == nil {
		if s.ctx, err = scard.EstablishContext(); err != nil {
			s.ctx = nil
			return err
		}
	}
	switch r.Call {
	case Readers:
		if reply.Names, err = s.ctx.ListReaders(); err == scard.ErrNoReadersAvailable {
			err = nil
		}
	case Await:
		err = s.await(r, reply)
	case Connect:
		if s.card != nil {
			_ = s.card.Disconnect(scard.LeaveCard) // it may have gone
		}
		if s.card, err = s.ctx.Connect(r.Reader, scard.ShareShared, scard.ProtocolT0); err == nil {
			err = s.readATR(reply)
		}
	default:
		if s.card == nil {
			return errors.New("no card is connected")
		}
		err = s.use(r, reply)
	}
	if errors.Is(err, scard.ErrNoService) || errors.Is(err, scard.ErrServiceStopped) || errors.Is(err, scard.ErrInvalidHandle) {
		_ = s.ctx.Release() // it is of a pcscd that has gone
		s.ctx, s.card = nil, nil
	}
	return err
}

func (s *server) await(r Request, reply *Reply) error {
	states := []scard.ReaderState{{Reader: r.Reader, CurrentState: scard.StateFlag(r.State)}}
	err := s.ctx.GetStatusChange(states, r.Timeout)
	if err == nil {
		reply.State, reply.ATR = uint32(states[0].EventState&^scard.StateChanged), states[0].Atr
	}
	return err
}

// use does what is done with a card.
func (s *server) use(r Request, reply *Reply) (err error) {
	switch r.Call {
	case Reconnect:
		if err = s.card.Reconnect(scard.ShareShared, scard.ProtocolT0, scard.Disposition(r.How)); err == nil {
			err = s.readATR(reply)
		}
	case Transmit:
		for range max(r.Count, 1) {
			begin := time.Now()
			reply.Data, err = s.card.Transmit(r.Data)
			reply.Times = append(reply.Times, time.Since(begin))
		}
	case Features:
		reply.Data, err = s.card.Control(featureRequest, nil)
	default:
		err = errors.New("unknown call " + r.Call)
	}
	return err
}

func (s *server) readATR(reply *Reply) error {
	st, err := s.card.Status()
	if err == nil {
		reply.ATR = st.Atr
	}
	return err
}
