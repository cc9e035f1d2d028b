// SPDX-License-Identifier: GPL-2.0-or-later

package client_test

import (
	"errors"
	"testing"
	"testing/synctest"

	"remsim/internal/client"
	"remsim/internal/daemon"
	"remsim/internal/slot"
)

// What a Watch tells follows a client's life: its states, what it was ready for, commands and why they failed.
func TestWatch(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		asked := make(chan struct{})
		go func() { <-asked }()
		h := w.watch.Health(daemon.Receiver("other", asked))
		stands := func(status, ready string) {
			t.Helper()
			synctest.Wait()
			if got := h.Status(); got != status {
				t.Errorf("status %q, want %q", got, status)
			}
			if err := h.Ready(); err == nil && ready != "" || err != nil && err.Error() != ready {
				t.Errorf("ready: %v, want %q", err, ready)
			}
		}
		stands("INIT, server connected: false", "1 of 1 slots are not connected to the server")
		if _, err := w.core.Transmit(t.Context(), selectMF); !errors.Is(err, client.ErrNoCard) {
			t.Errorf("without a card: %v", err)
		}
		w.serve()
		stands("OPERATIONAL, server connected: true", "")
		w.exchange()
		w.exchange()
		w.core.Status(slot.Phys{VCC: slot.Off})
		w.core.Status(slot.Phys{VCC: slot.On})
		if _, err := w.core.Transmit(t.Context(), nil); err == nil {
			t.Error("no command was sent")
		}
		if err := h.Alive(t.Context()); err != nil {
			t.Error(err)
		}
		v := w.watch.Stats()
		if v.Commands.Count != 2 || v.Failed[client.NoCard] != 1 || v.Failed[client.Otherwise] != 1 || v.Resets != 1 ||
			v.ServerWelcomes != 1 || v.BankdWelcomes != 1 || v.Servers != 1 || v.States[client.Operational] != 1 || v.States[client.Init] != 0 {
			t.Errorf("%+v", v)
		}

		w.server.Close()
		stands("OPERATIONAL, server connected: false", "1 of 1 slots are not connected to the server")
		w.meetServer()
		stands("OPERATIONAL, server connected: true", "")
		if v := w.watch.Stats(); v.ServerWelcomes != 2 || v.BankdWelcomes != 1 {
			t.Errorf("%+v", v)
		}
		w.stop()
		<-w.ended
		stands("0 slots, 0 of them connected to the server, 0 use a card", "no slot is served")
		if v := w.watch.Stats(); v.Commands.Count != 2 || v.States[client.Operational] != 0 {
			t.Errorf("%+v", v)
		}
	})
}
