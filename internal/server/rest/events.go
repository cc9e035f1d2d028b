// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"context"
	"errors"
	"net/http"
	"os"
	"time"

	"remsim/internal/server"
)

// Limits of event streams.
const (
	heartbeat   = 15 * time.Second // of silence before a comment, by which both sides notice a dead connection
	slowTimeout = 10 * time.Second // for a reader to take what is written at once
	maxStreams  = 256              // at a time
	batchEvents = 256              // that are written at once
)

// EventV2 is the data of an event: besides id, type and time it has the member that its type says.
type EventV2 struct {
	ID       string       `json:"id" doc:"for Last-Event-ID; it says nothing to others than the server"`
	Type     string       `json:"type" enum:"reset,client.connected,client.changed,client.gone,client.assigned,client.forgotten,bank.connected,bank.gone,slot.changed,slotmap.changed,slotmap.gone,fault" doc:"what has happened"`
	At       Time         `json:"at" doc:"when"`
	Reset    *ResetV2     `json:"reset,omitempty" doc:"of reset: why there is no telling what has happened up to here"`
	Client   *ClientV2    `json:"client,omitempty" doc:"of client.connected, .changed, .assigned; of .gone: as it was last"`
	ClientID *ClientIDV2  `json:"clientId,omitempty" doc:"of client.forgotten: as it was last"`
	Bank     *BankInfoV2  `json:"bank,omitempty" doc:"of bank.connected; of .gone: as it was last"`
	Slot     *SlotEventV2 `json:"slot,omitempty" doc:"of slot.changed"`
	Slotmap  *SlotmapV2   `json:"slotmap,omitempty" doc:"of slotmap.changed; of .gone: as it was last"`
	Fault    *FaultV2     `json:"fault,omitempty" doc:"of fault: an error that a peer told"`
}

// ResetV2 says why a reader has to read the server's state anew.
type ResetV2 struct {
	Reason string `json:"reason" doc:"for people"`
}

// SlotEventV2 is a slot of a bank.
type SlotEventV2 struct {
	Bank uint16 `json:"bankId" maximum:"1023" doc:"the bank's id"`
	SlotV2
}

// FaultV2 is an error that a peer told.
type FaultV2 struct {
	Peer string    `json:"peer" doc:"who, such as B1"`
	Bank *bankSlot `json:"bank" doc:"of which slot; null: of itself"`
	Text string    `json:"text" doc:"what"`
}

func eventV2Of(id string, e server.Event) EventV2 {
	v := EventV2{ID: id, Type: string(e.Type), At: Time(e.At)}
	switch d := e.Data.(type) {
	case server.Client:
		c := clientV2Of(d)
		v.Client = &c
	case server.Assignment:
		v.ClientID = &ClientIDV2{clientSlot(d.Client), ClientKeyV2(d.Key), false}
	case server.Bank:
		b := bankInfoV2Of(d)
		v.Bank = &b
	case server.BankSlot:
		v.Slot = &SlotEventV2{d.Bank.ID, slotV2Of(d.Slot)}
	case server.Slotmap:
		m := slotmapV2Of(d)
		v.Slotmap = &m
	case server.Fault:
		v.Fault = &FaultV2{d.Peer, (*bankSlot)(d.Bank), d.Text}
	}
	return v
}

// events streams what happens until the reader goes or is too slow, or the server ends.
//
// It begins with what follows Last-Event-ID. Where that isn't known any more, or there is none, and when the reader has
// fallen behind so far, an event of type reset comes first. Who then asks for the server's state, while the stream
// is open, and applies the events that follow misses nothing.
func (a *v2) events(w http.ResponseWriter, r *http.Request) {
	if a.streams.Add(1) > maxStreams {
		a.streams.Add(-1)
		w.Header().Set("Retry-After", "10")
		refuse(w, problem{Status: http.StatusServiceUnavailable, Detail: "too many event streams are open"})
		return
	}
	defer a.streams.Add(-1)
	ctx, cancel := a.untilEnd(r.Context())
	defer cancel()
	s := stream{to: w, feed: a.state.Feed()}
	// The timeouts of requests aren't for streams.
	if err := http.NewResponseController(w).SetReadDeadline(time.Time{}); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return
	}
	h := w.Header()
	h.Set("Content-Type", streamType)
	h.Set("Cache-Control", "no-store")
	h.Set("X-Accel-Buffering", "no") // what nginx takes for: don't hold back
	s.buf.WriteString("retry: 1000\n\n")
	if err := s.run(ctx, r.Header.Get("Last-Event-ID")); errors.Is(err, os.ErrDeadlineExceeded) {
		a.log.WithField("peer", r.RemoteAddr).Warnf("reader of events dropped: it has read nothing for %s", slowTimeout)
	}
}

// A stream is what one reader of events gets.
type stream struct {
	to   http.ResponseWriter
	feed *server.Feed
	at   server.Position // of what is written
	buf  bytes.Buffer    // to be written
}

// run writes the events after last until ctx ends, or writing fails.
func (s *stream) run(ctx context.Context, last string) error {
	switch at, err := server.ParsePosition(last); {
	case last == "":
		s.reset("it begins here")
	case err != nil:
		s.reset(err.Error())
	default:
		s.at = at
	}
	for {
		if err := s.write(); err != nil {
			return err
		}
		wait, cancel := context.WithTimeout(ctx, heartbeat)
		events, err := s.feed.Next(wait, s.at, batchEvents)
		cancel()
		switch {
		case ctx.Err() != nil:
			return nil
		case errors.Is(err, context.DeadlineExceeded):
			s.buf.WriteString(":\n\n")
		case err != nil:
			s.reset(err.Error())
		}
		for _, e := range events {
			s.at = s.feed.At(e)
			s.event(eventV2Of(s.at.String(), e))
		}
	}
}

// reset tells that everything up to now has to be read anew.
func (s *stream) reset(reason string) {
	s.at = s.feed.Last()
	s.event(EventV2{ID: s.at.String(), Type: "reset", At: Time(time.Now()), Reset: &ResetV2{reason}})
}

func (s *stream) event(e EventV2) {
	s.buf.WriteString("id: " + e.ID + "\nevent: " + e.Type + "\ndata: ")
	s.buf.Write(encode(e))
	s.buf.WriteString("\n\n")
}

// write writes what there is to be written, within slowTimeout.
func (s *stream) write() error {
	if s.buf.Len() == 0 {
		return nil
	}
	c := http.NewResponseController(s.to)
	if err := c.SetWriteDeadline(time.Now().Add(slowTimeout)); err != nil && !errors.Is(err, http.ErrNotSupported) {
		return err
	}
	if _, err := s.buf.WriteTo(s.to); err != nil {
		return err
	}
	s.buf = bytes.Buffer{} // a batch may have been large
	return c.Flush()
}
