// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

var (
	c1 = slot.Client{ID: 1}
	c2 = slot.Client{ID: 2}
	b0 = slot.Bank{ID: 1, Slot: 0}
	b1 = slot.Bank{ID: 1, Slot: 1}
	b2 = slot.Bank{ID: 2, Slot: 0} // of another bankd
)

func entered(b slot.Bank) []string {
	return []string{"remote true", "insert", "reset", fmt.Sprintf("atr %x", cardATR(b))}
}

var left = []string{"remove", "remote false", "reset"}

// happened checks what the modem was told since its first n events.
func (m *modem) happened(n int, want ...string) {
	m.w.t.Helper()
	if got := m.history(n); !slices.Equal(got, want) {
		m.w.t.Errorf("%v: the modem was told %q, want %q", m.slot, got, want)
	}
}

// TestOrder has map, bankd and client appear in each order: the client gets its card at once, and
// its modem is told of it once.
func TestOrder(t *testing.T) {
	for _, order := range []string{"map bankd client", "map client bankd", "bankd map client", "bankd client map", "client map bankd", "client bankd map"} {
		t.Run(order, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				for what := range strings.SplitSeq(order, " ") {
					switch what {
					case "map":
						w.create(slot.Map{Bank: b1, Client: c1})
					case "bankd":
						w.startBankd(1)
					case "client":
						w.startClient(c1)
					}
					time.Sleep(time.Minute)
				}
				m := w.clients[c1]
				if err := m.works(b1); err != nil {
					t.Error(err)
				}
				m.happened(0, entered(b1)...)
				states, err := w.api.SlotMaps()
				if err != nil || states[slot.Map{Bank: b1, Client: c1}] != "ACTIVE" {
					t.Errorf("maps: %v, %v", states, err)
				}
			})
		})
	}
}

// TestMove has a map go from one client to another, and a client from one card to another and
// to another bankd, all in the middle of commands.
func TestMove(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		w.startBankd(2)
		first, second := w.startClient(c1), w.startClient(c2)
		w.create(slot.Map{Bank: b0, Client: c1})
		first.uses(b0)

		lost := first.untilLost(b0)
		w.remove(b0)
		w.create(slot.Map{Bank: b0, Client: c2})
		lost()
		second.uses(b0)
		first.idle()
		first.happened(0, append(entered(b0), left...)...)

		for _, to := range []slot.Bank{b1, b2} { // at the same bankd, at another one
			n := len(first.history(0))
			w.create(slot.Map{Bank: to, Client: c1})
			first.uses(to)
			lost := first.untilLost(to)
			w.remove(to)
			lost()
			first.idle()
			first.happened(n, append(entered(to), left...)...)
		}
		if err := second.works(b0); err != nil {
			t.Error(err)
		}
		second.happened(0, entered(b0)...)
	})
}

// untilLost sends commands to the card at b until one fails, which has to be because the card
// went; the function it returns waits for that.
func (m *modem) untilLost(b slot.Bank) (wait func()) {
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			from, err := m.transmit(m.w.t.Context())
			switch {
			case slices.ContainsFunc(losses, func(loss error) bool { return errors.Is(err, loss) }):
				return
			case err != nil || from != b:
				m.w.t.Errorf("%v: card %v, %v", m.slot, from, err)
				return
			}
		}
	}()
	time.Sleep(time.Second)
	return func() { <-done }
}

// TestRemove has a map go while its card works on a command: the card is powered off, the modem
// gets its local SIM back, and nobody else notices.
func TestRemove(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m, other := w.startClient(c1), w.startClient(c2)
		w.create(slot.Map{Bank: b0, Client: c1})
		w.create(slot.Map{Bank: b1, Client: c2})
		m.uses(b0)
		other.uses(b1)
		steady := other.steady(b1)

		lost := m.untilLost(b0)
		w.remove(b0)
		if states, err := w.api.SlotMaps(); err != nil || len(states) != 1 {
			t.Errorf("after DELETE: %v, %v", states, err)
		}
		lost()
		m.idle()
		m.happened(0, append(entered(b0), left...)...)
		w.onlyOpen(b1)
		if n := steady(); n == 0 {
			t.Error("the other client had no answers")
		}
		other.happened(0, entered(b1)...)
	})
}

// TestRemoveDeaf removes the map of a client that the server can't tell: the bankd ends its session, and
// doesn't let it back.
func TestRemoveDeaf(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		accepted, lost := make(chan bool, 1), make(chan bool, 1)
		deaf := w.start("deaf client", "10.0.3.1", func(ctx context.Context, h *testnet.Host) error {
			c := link.Caller{
				Net: h, Addr: bankdAddr(1) + ":9999", Want: rspro.Bankd,
				Hello: func() rspro.Message {
					return &rspro.ConnectClientReq{Slot: &c1, Identity: rspro.ComponentIdentity{
						Type: rspro.Client, Name: "deaf", Software: "remsim-client", SWVersion: "1",
					}}
				},
				Accept: func(_ *link.Conn, r rspro.Response) error {
					if r.ResultCode() != rspro.OK {
						return &link.RefusedError{Result: r.ResultCode()}
					}
					accepted <- true
					return nil
				},
				Down: func(error) { lost <- true },
			}
			return c.Run(ctx)
		})
		defer deaf.stop()
		w.create(slot.Map{Bank: b0, Client: c1})
		happens := func(c <-chan bool) bool {
			select {
			case <-c:
				return true
			case <-time.After(time.Minute):
				return false
			}
		}
		if !happens(accepted) {
			t.Fatal("the client isn't accepted")
		}
		w.onlyOpen(b0)
		w.remove(b0)
		if !happens(lost) {
			t.Error("the client still has its session")
		}
		w.onlyOpen()
		if happens(accepted) {
			t.Error("the client is back without a map")
		}
	})
}

// TestReset has the modem reset its card: each edge counts once.
func TestReset(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		on := slot.Phys{VCC: slot.On, CLK: slot.On}
		warm := slot.Phys{Reset: true, VCC: slot.On, CLK: slot.On}
		off := slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off}
		clock := slot.Phys{VCC: slot.On, CLK: slot.Off}
		for i, step := range []struct {
			phys   slot.Phys
			resets int
		}{{on, 0}, {warm, 1}, {warm, 1}, {on, 1}, {clock, 1}, {on, 1}, {off, 2}, {on, 2}, {on, 2}} {
			m.core.Load().Status(step.phys)
			time.Sleep(time.Second)
			if n := w.bank.resetsOf(b0); n != step.resets {
				t.Errorf("step %d, %v: %d resets, want %d", i, step.phys, n, step.resets)
			}
		}
		m.uses(b0)
	})
}

// TestServerRestart kills the server, which forgets all maps, and starts it again. Sessions go on
// without an error, and the modems aren't told anything, whether the back-end makes
// the maps again before or after bankd and clients are back.
func TestServerRestart(t *testing.T) {
	for name, pause := range map[string]time.Duration{"maps first": 0, "peers first": time.Minute} {
		t.Run(name, func(t *testing.T) {
			inWorld(t, func(t *testing.T, w *world) {
				w.startBankd(1)
				m := w.startClient(c1)
				w.create(slot.Map{Bank: b0, Client: c1})
				m.uses(b0)
				stop := m.steady(b0)
				w.server.kill()
				time.Sleep(45 * time.Second)
				w.startServer()
				time.Sleep(pause)
				w.create(slot.Map{Bank: b0, Client: c1})
				time.Sleep(2 * time.Minute)
				if n := stop(); n < 1000 {
					t.Errorf("only %d commands were answered", n)
				}
				m.happened(0, entered(b0)...)
				states, err := w.api.SlotMaps()
				if err != nil || states[slot.Map{Bank: b0, Client: c1}] != "ACTIVE" {
					t.Errorf("maps: %v, %v", states, err)
				}
				// The new server is in charge.
				w.remove(b0)
				m.idle()
			})
		})
	}
}

// TestRemovedWhileAway deletes a map while its bankd is away, and another one while the client is.
func TestRemovedWhileAway(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m, other := w.startClient(c1), w.startClient(c2)
		w.create(slot.Map{Bank: b0, Client: c1})
		w.create(slot.Map{Bank: b1, Client: c2})
		m.uses(b0)
		other.uses(b1)

		// The bankd's control connection breaks; its cards go on being served.
		w.server.host.Down()
		time.Sleep(time.Minute)
		if err := m.works(b0); err != nil {
			t.Error(err)
		}
		w.server.host.Up()
		w.bankds[1].host.Cut() // all of its connections: the clients have to come back, too
		w.remove(b0)
		m.idle()
		other.uses(b1)

		other.program.kill()
		w.remove(b1)
		again := w.startClient(c2)
		time.Sleep(time.Minute)
		again.idle()
		w.onlyOpen()
	})
}

// TestRemovedAfterServerRestart deletes a map that a restarted server was given again, before its
// bankd is back: it goes there, too.
func TestRemovedAfterServerRestart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		w.bankds[1].host.Down()
		w.server.kill()
		w.startServer()
		w.create(slot.Map{Bank: b0, Client: c1})
		w.remove(b0)
		w.bankds[1].host.Up()
		time.Sleep(time.Minute)
		m.idle()
	})
}

// TestBankdRestart kills a bankd in the middle of a command: the modem gets its local SIM back at
// once, and the remote one when the bankd is there again.
func TestBankdRestart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		m := w.startClient(c1)
		w.create(slot.Map{Bank: b0, Client: c1})
		m.uses(b0)
		lost := m.untilLost(b0)
		w.bankds[1].kill()
		lost()
		m.idle()
		m.happened(0, append(entered(b0), left...)...)
		time.Sleep(30 * time.Second)
		w.startBankd(1)
		m.uses(b0)
		m.happened(0, slices.Concat(entered(b0), left, entered(b0))...)
	})
}

// TestClientRestart kills a client in the middle of a command and starts it again at once.
func TestClientRestart(t *testing.T) {
	inWorld(t, func(t *testing.T, w *world) {
		w.startBankd(1)
		w.create(slot.Map{Bank: b0, Client: c1})
		for range 5 {
			m := w.startClient(c1)
			m.uses(b0)
			lost := m.untilLost(b0)
			m.program.kill()
			lost()
		}
	})
}
