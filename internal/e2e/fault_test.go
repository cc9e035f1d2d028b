// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"strings"
	"testing"
	"time"

	"remsim/internal/link"
	"remsim/internal/slot"
)

// noticed is how long a dead peer may go unnoticed: 30 s to the next PING, 10 s for its PONG.
const noticed = 40 * time.Second

// TestClientVanishes takes a client's host off the network: within 40 s its card is free and
// the server doesn't list it, and both ends agree again when it is back.
func TestClientVanishes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		m.program.host.Down()
		time.Sleep(noticed + time.Second)
		w.onlyOpen()
		if peers, err := w.api.Peers(); err != nil || peers["C1:0"] {
			t.Errorf("peers: %v, %v", peers, err)
		}
		if m.card() != nil {
			t.Error("the client's modem still sees the card")
		}
		m.program.host.Up()
		m.uses(b0)
	})
}

// TestBankdVanishes takes a bankd's host off the network: within 40 s server and client know, and
// a map made meanwhile is served when it is back.
func TestBankdVanishes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m, other := w.startClient(c1), w.startClient(c2)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		w.bankds[1].host.Down()
		time.Sleep(noticed + time.Second)
		if peers, err := w.api.Peers(); err != nil || peers["B1"] || !peers["C1:0"] {
			t.Errorf("peers: %v, %v", peers, err)
		}
		if m.card() != nil {
			t.Error("the client's modem still sees the card")
		}
		w.create(slot.Map{Bank: b1, Client: c2})
		states, err := w.api.SlotMaps()
		if err != nil || states[slot.Map{Bank: b0, Client: c1}] != "NEW" || states[slot.Map{Bank: b1, Client: c2}] != "NEW" {
			t.Errorf("maps without their bankd: %v, %v", states, err)
		}
		w.bankds[1].host.Up()
		m.uses(b0)
		other.uses(b1)
	})
}

// TestServerVanishes takes the server off the network for a time: nobody's session notices.
func TestServerVanishes(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		stop := m.steady(b0)
		w.server.host.Down()
		time.Sleep(5 * time.Minute)
		w.server.host.Up()
		time.Sleep(2 * time.Minute)
		stop()
		m.happened(0, entered(b0)...)
		states, err := w.api.SlotMaps()
		if err != nil || states[slot.Map{Bank: b0, Client: c1}] != "ACTIVE" {
			t.Errorf("maps: %v, %v", states, err)
		}
		peers, err := w.api.Peers()
		if err != nil || !peers["B1"] || !peers["C1:0"] {
			t.Errorf("peers: %v, %v", peers, err)
		}
	})
}

// TestKeepAliveOptions takes programs off the network one by one that ask for a sign of life after 5 s
// and wait 2 s for it: whoever is left has noticed within 7 s.
func TestKeepAliveOptions(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.server.kill()
		w.keepAlive = link.KeepAlive{Interval: 5 * time.Second, Timeout: 2 * time.Second}
		w.startServer()
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		noticed := w.keepAlive.Interval + w.keepAlive.Timeout + time.Second // which is for what follows from it
		w.onlyOpenWithin(time.Minute, b0)

		m.program.host.Down()
		time.Sleep(noticed)
		w.onlyOpen()
		if peers, err := w.api.Peers(); err != nil || peers["C1:0"] {
			t.Errorf("peers without the client: %v, %v", peers, err)
		}
		m.program.host.Up()
		m.uses(b0)

		w.bankds[1].host.Down()
		time.Sleep(noticed)
		if peers, err := w.api.Peers(); err != nil || peers["B1"] {
			t.Errorf("peers without the bankd: %v, %v", peers, err)
		}
		if m.card() != nil {
			t.Error("the modem still sees a card")
		}
		w.bankds[1].host.Up()
		m.uses(b0)

		n := strings.Count(w.journal.String(), link.ErrNoPong.Error())
		w.server.host.Down()
		time.Sleep(noticed)
		if now := strings.Count(w.journal.String(), link.ErrNoPong.Error()); now < n+2 {
			t.Errorf("%d of bankd and client have noticed that the server is gone", now-n)
		}
		w.server.host.Up()
	})
}

// TestStalledBankd has a bankd's host stop reading: maps of another one are made, used and removed
// without delay, and the bankd has its maps when it reads again.
func TestStalledBankd(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		w.startBankd(2)
		m, other := w.startClient(c1), w.startClient(c2)
		time.Sleep(time.Second)
		w.bankds[1].host.Stall()
		w.create(slot.Map{Bank: b0, Client: c1})
		there := slot.Bank{ID: 2, Slot: 1}
		for range 100 {
			start := time.Now()
			w.create(slot.Map{Bank: there, Client: c2})
			other.uses(there)
			w.remove(there)
			other.idle()
			if d := time.Since(start); d > time.Second {
				t.Fatalf("a map took %v beside a bankd that doesn't read", d)
			}
			time.Sleep(noticed / 50)
		}
		w.bankds[1].host.Up()
		m.uses(b0)
	})
}

// TestTakeover has a client come back on another host while the old one is half-dead: it needn't
// wait for a keep-alive to fail. While the old one lives, it keeps its card.
func TestTakeover(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		old := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		old.uses(b0)

		stop := old.steady(b0)
		rival := w.startClientOn("10.0.3.1", c1)
		time.Sleep(time.Minute)
		if rival.card() != nil {
			t.Error("a second client with the same id got the card")
		}
		stop()
		old.happened(0, entered(b0)...)
		rival.program.kill()

		old.program.host.Down()
		again := w.startClientOn("10.0.3.2", c1)
		if err := within(10*time.Second, func() error { return again.works(b0) }); err != nil {
			t.Error(err)
		}
		old.program.kill()
	})
}

// TestSlowLine runs a session over lines that take 200 ms and deliver single bytes.
func TestSlowLine(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		for _, p := range []*program{w.server, w.bankds[1], m.program} {
			p.host.Delay(100 * time.Millisecond)
			p.host.Fragment(1)
		}
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		stop := m.steady(b0)
		time.Sleep(3 * time.Minute)
		if n := stop(); n < 100 {
			t.Errorf("only %d commands were answered", n)
		}
		m.happened(0, entered(b0)...)
	})
}

// TestStalledClient has a client's host stop reading while its card answers: the bankd gives it
// up, and serves the other clients as before.
func TestStalledClient(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m, other := w.startClient(c1), w.startClient(c2)
		w.create(slot.Map{Bank: b0, Client: c1})
		w.create(slot.Map{Bank: b1, Client: c2})
		m.uses(b0)
		other.uses(b1)
		stop := other.steady(b1)
		m.program.host.Stall()
		time.Sleep(noticed + time.Second)
		if n := w.bank.offs(b0); n != 1 {
			t.Errorf("the card of the stalled client was powered off %d times, want once", n)
		}
		m.program.host.Up()
		m.uses(b0)
		stop()
		other.happened(0, entered(b1)...)
	})
}
