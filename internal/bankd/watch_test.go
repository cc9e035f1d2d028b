// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"context"
	"errors"
	"os"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/slot"
)

// What a bankd counts is what happens to its cards and clients, and how it stands follows that.
func TestStats(t *testing.T) {
	simulate(t, func(r *rig) {
		h := r.running.Health()
		status := func(want string) {
			t.Helper()
			synctest.Wait()
			if got := h.Status(); got != want {
				t.Errorf("status %q, want %q", got, want)
			}
		}
		status("connected to the server; 0 of 8 slots mapped, 0 with a card in use")
		m := r.session(c23, 0)
		r.cards[0].set(func(c *reader) { c.delay = 3 * time.Millisecond })
		for range 5 {
			m.exchange(cmd...)
		}
		r.cards[0].set(func(c *reader) { c.delay = 0 })
		m.phys(true, slot.On)
		m.phys(false, slot.On)
		synctest.Wait()
		m.phys(false, slot.Off)
		m.phys(false, slot.On)
		synctest.Wait()
		status("connected to the server; 1 of 8 slots mapped, 1 with a card in use")
		v := r.running.Stats()
		if v.Commands.Count != 5 || v.Commands.Sum != 15*time.Millisecond || v.Commands.UpTo[2*time.Millisecond] != 0 || v.Commands.UpTo[5*time.Millisecond] != 5 {
			t.Errorf("commands: %+v", v.Commands)
		}
		if v.WarmResets != 1 || v.ColdResets != 1 || v.Opened != 1 || v.Connected != 1 || v.Welcomes != 1 || v.Readers != slots ||
			v.Slots[Carded] != 1 || v.Slots[Free] != slots-1 || v.Connections[Served] != 1 {
			t.Errorf("%+v", v)
		}

		r.cards[0].set(func(c *reader) { c.failWith = errors.New("broken") })
		m.command(cmd...)
		m.wantCardGone()
		r.wantError(0, "broken")
		status("connected to the server; 1 of 8 slots mapped, 0 with a card in use, 1 failed")
		m.Close()
		m = r.session(c42, 1)
		r.cards[1].set(func(c *reader) { c.failWith = errors.New("broken") })
		m.phys(false, slot.Off)
		m.wantCardGone()
		r.wantError(1, "broken")
		m.Close()
		r.cards[2].set(func(c *reader) { c.openErr = ErrMute })
		r.create(slot.Client{ID: 2}, 2)
		r.connect(slot.Client{ID: 2}, 2)
		synctest.Wait()
		r.pcscd.pull(3)
		r.create(slot.Client{ID: 3}, 3)
		r.connect(slot.Client{ID: 3}, 3) // no card is no error
		synctest.Wait()
		v = r.running.Stats()
		if v.TransmitErrors != 1 || v.ResetErrors != 1 || v.OpenErrors != 1 || v.Commands.Count != 5 || v.ColdResets != 1 || v.Abandoned != 0 {
			t.Errorf("%+v", v)
		}
	})
}

// A card that hangs is counted, and shows in nothing that would have the bankd restarted; a mutex that nobody gives back does.
func TestHealth(t *testing.T) {
	simulate(t, func(r *rig) {
		h := r.running.Health()
		h.Loops = h.Loops[1:] // a listener of testnet can't be asked
		alive := func() error {
			ctx, cancel := context.WithTimeoutCause(r.t.Context(), time.Second, errors.New("too late"))
			defer cancel()
			return h.Alive(ctx)
		}
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		synctest.Wait()
		if err := errors.Join(alive(), h.Ready()); err != nil {
			t.Errorf("while a card hangs: %v", err)
		}
		m.Patience = time.Minute
		m.wantCardGone()
		v := r.running.Stats()
		if v.Abandoned != 1 || v.Hanging != 1 || v.TransmitErrors != 0 {
			t.Errorf("%+v", v)
		}
		if err := errors.Join(alive(), h.Ready()); err != nil {
			t.Errorf("with a call that was abandoned: %v", err)
		}
		if got, want := h.Status(), "connected to the server; 1 of 8 slots mapped, 0 with a card in use, 1 failed; 1 calls to cards hang"; got != want {
			t.Errorf("status %q, want %q", got, want)
		}
		r.cards[0].set(func(c *reader) { c.failWith = errors.New("too late") })
		release()
		synctest.Wait()
		if v := r.running.Stats(); v.Abandoned != 1 || v.Hanging != 0 || v.TransmitErrors != 0 {
			t.Errorf("%+v", v)
		}

		r.server.Close()
		synctest.Wait()
		if err := h.Ready(); err != errNoServer {
			t.Errorf("without a server: %v", err)
		}
		r.accept()
		if err := h.Ready(); err != nil || r.running.Stats().Welcomes != 2 {
			t.Errorf("with a server: %v, %+v", err, r.running.Stats())
		}
	})
}

// Each reload is confirmed, whether the file was right or not.
func TestReloaded(t *testing.T) {
	simulate(t, func(r *rig) {
		r.hup <- syscall.SIGHUP
		synctest.Wait()
		if err := os.WriteFile(r.file, []byte("nonsense\n"), 0o600); err != nil {
			t.Fatal(err)
		}
		r.hup <- syscall.SIGHUP
		synctest.Wait()
		if r.reloads != 2 {
			t.Errorf("%d reloads were confirmed, want 2", r.reloads)
		}
	})
}
