// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

// Times of event streams.
const (
	silence     = 45 * time.Second // after which a stream is given up; the server breaks it every 15 s
	firstRetry  = 1 * time.Second
	latestRetry = 30 * time.Second
	maxEvent    = 1 << 20 // bytes
)

// events is the command that shows what happens.
func events(o *options) *cobra.Command {
	var since string
	cmd := &cobra.Command{
		Use: "events", Short: "Show what happens, as it happens",
		Long: `Shows what happens at the server, a line each: when, what, and of whom; by "-o json" the server's object, which has an id. It ends with
SIGINT (Ctrl-C). When the connection is lost it comes back and goes on where it was; a line "reset" says
where something may be missing: at the beginning, and where the server doesn't know any more what happened in between.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			f := &follower{api: o.v2(cmd), last: since, show: func(e event) error {
				text := e.data
				if o.output != "json" {
					var err error
					if text, err = e.line(); err != nil {
						return fmt.Errorf("event in the server's answer: %w", err)
					}
				}
				_, err := fmt.Fprintf(cmd.OutOrStdout(), "%s\n", text)
				return err
			}, warn: func(err error) { fmt.Fprintf(cmd.ErrOrStderr(), "%s: %s\n", cmd.Root().Name(), printable(err.Error())) }}
			return f.follow(cmd.Context())
		},
	}
	cmd.Flags().StringVar(&since, "since", "", "`ID` of an event: begin with what followed it")
	return cmd
}

// A follower reads the event stream, and comes back to it.
type follower struct {
	api  *api
	last string // id of what was shown last
	show func(event) error
	warn func(error)

	opened bool // has been, this time
}

// An event is one of the stream.
type event struct {
	id   string
	data []byte
}

// errShow wraps what show says, which is no fault of the connection.
type errShow struct{ error }

// follow shows events until ctx ends. It fails when there is no server at first, or it refuses.
func (f *follower) follow(ctx context.Context) error {
	retry, ever := firstRetry, false
	for {
		f.opened = false
		err := f.once(ctx)
		var shown errShow
		var refusal *refusal
		switch {
		case ctx.Err() != nil:
			return context.Cause(ctx)
		case errors.As(err, &shown):
			return shown.error
		case !f.opened && !ever, errors.As(err, &refusal) && !strings.HasPrefix(refusal.status, "503"):
			return err
		}
		if f.opened {
			ever, retry = true, firstRetry
		}
		f.warn(fmt.Errorf("%w; coming back in %s", err, retry))
		select {
		case <-time.After(retry):
		case <-ctx.Done():
		}
		retry = min(2*retry, latestRetry)
	}
}

// once reads the stream until it ends.
func (f *follower) once(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, f.api.base+"/events", nil)
	if err != nil {
		return err
	}
	if f.last != "" {
		req.Header.Set("Last-Event-ID", f.last)
	}
	f.api.tracef("GET %s %s\n", req.URL, f.last)
	quiet := time.AfterFunc(silence, func() { cancel(fmt.Errorf("nothing was heard of the server for %s", silence)) })
	defer quiet.Stop()
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return cause(ctx, err)
	}
	defer res.Body.Close()
	f.api.tracef("%s\n", res.Status)
	if res.StatusCode != http.StatusOK {
		body, _ := io.ReadAll(io.LimitReader(res.Body, maxEvent))
		return refused(res, body)
	}
	if ct := res.Header.Get("Content-Type"); !strings.HasPrefix(ct, "text/event-stream") {
		return fmt.Errorf("GET %s: the answer is %q: want text/event-stream", req.URL, ct)
	}
	f.opened = true
	s := bufio.NewScanner(res.Body)
	s.Buffer(nil, maxEvent)
	var e event
	for s.Scan() {
		quiet.Reset(silence)
		name, value, _ := bytes.Cut(s.Bytes(), []byte(":"))
		value = bytes.TrimPrefix(value, []byte(" "))
		switch string(name) {
		case "id":
			e.id = string(value)
		case "data":
			e.data = bytes.Clone(value)
		case "": // the end of an event, or a comment
			if len(s.Bytes()) > 0 || e.data == nil {
				continue
			}
			if err := f.show(e); err != nil {
				return errShow{err}
			}
			f.last, e = e.id, event{}
		}
	}
	err = s.Err()
	if err == nil {
		err = errors.New("the server has ended the stream")
	}
	return cause(ctx, err)
}

// cause returns why ctx has ended, or err when it hasn't.
func cause(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}

// line returns an event as a line for people.
func (e event) line() ([]byte, error) {
	var v struct {
		Type    string
		At      string
		Reset   *struct{ Reason string }
		Client  *json.RawMessage
		Bank    *json.RawMessage
		Slot    *json.RawMessage
		Slotmap *json.RawMessage
		Fault   *struct {
			Peer string
			Bank *bankSlot
			Text string
		}
	}
	if err := json.Unmarshal(e.data, &v); err != nil {
		return nil, err
	}
	cells := []string{v.At, v.Type}
	row := func(k kind, item json.RawMessage) error {
		text, err := k.row(item)
		cells = append(cells, strings.Split(text, "\t")...)
		return err
	}
	var err error
	switch {
	case v.Reset != nil:
		cells = append(cells, v.Reset.Reason)
	case v.Client != nil:
		err = row(clientsV2, *v.Client)
	case v.Bank != nil:
		err = row(banksV2, *v.Bank)
	case v.Slotmap != nil:
		err = row(mapsV2, *v.Slotmap)
	case v.Slot != nil:
		var b struct{ BankID int }
		if err = json.Unmarshal(*v.Slot, &b); err == nil {
			cells = append(cells, fmt.Sprintf("B%d", b.BankID))
			err = row(slotsV2, *v.Slot)
		}
	case v.Fault != nil:
		cells = append(cells, v.Fault.Peer)
		if v.Fault.Bank != nil {
			cells = append(cells, v.Fault.Bank.slot().String())
		}
		cells = append(cells, v.Fault.Text)
	}
	return []byte(printable(strings.Join(cells, " "))), err
}
