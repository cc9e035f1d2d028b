// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

var (
	c23 = slot.Client{ID: 23}
	c42 = slot.Client{ID: 42, Slot: 1}
	cmd = []byte{0xa0, 0xa4, 0, 0, 2, 0x3f, 0}
)

func TestControlConnection(t *testing.T) {
	simulate(t, func(r *rig) {
		r.server.Close()
		m := r.accept()
		if m.BankID != 1 || m.NumSlots != slots || m.Identity.Type != rspro.Bankd || m.Identity.Software != "remsim-bankd" ||
			m.Identity.Name != "testbank" || m.Features != rspro.LateAtr|rspro.BankState || m.Endpoint != netip.MustParseAddrPort("192.0.2.7:1234") {
			t.Errorf("connectBankReq: %+v", m)
		}
	}, func(cfg *setup) { cfg.Advertise = netip.MustParseAddrPort("192.0.2.7:1234") })
}

func TestRefusedByServer(t *testing.T) {
	simulate(t, func(r *rig) {
		r.server.Close()
		p := testnet.AcceptPeer(r.t, r.listener)
		_, pdu := testnet.ExpectPDU[*rspro.ConnectBankReq](p)
		p.Reply(pdu, &rspro.ConnectBankRes{Identity: testnet.Identity(rspro.Server), Result: rspro.IdentityInUse})
		p.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "identityInUse")
		r.accept() // it comes back
	})
}

func TestMapThenClient(t *testing.T) {
	simulate(t, func(r *rig) {
		r.create(c23, 5)
		r.wantSlot(5, "MAPPED, client C23:0")
		r.wantCounts(5, 0, 0)
		m := r.connect(c23, 5)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		r.wantSlot(5, "CARD, client C23:0")
		for range 3 {
			m.exchange(cmd...)
		}
		if _, _, resets, cmds := r.cards[5].count(); resets != 0 || cmds != 3 {
			t.Errorf("the card saw %d resets and %d commands", resets, cmds)
		}
		m.Close()
		r.wantCounts(5, 1, 1)
		r.wantSlot(5, "MAPPED, client C23:0")
		again := r.connect(c23, 5)
		again.wantResult(rspro.OK)
		again.wantATR(testATR)
	})
}

// A client that waits on its connection gets the ATR when its map comes.
func TestClientThenMap(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.connect(c23, 5)
		m.wantResult(rspro.CardNotPresent)
		m.Quiet(time.Hour)
		r.create(c23, 5)
		m.wantATR(testATR)
		m.exchange(cmd...)
	})
}

// A card that comes later is found by a look each 10 s, as long as a client waits for it.
func TestCardLater(t *testing.T) {
	for _, tt := range []struct {
		err   error
		code  rspro.ResultCode
		state SlotState
	}{
		{fmt.Errorf("x: %w", ErrNoReader), rspro.CardNotPresent, Mapped},
		{fmt.Errorf("x: %w", ErrNoCard), rspro.CardNotPresent, Mapped},
		{fmt.Errorf("x: %w", ErrMute), rspro.CardUnresponsive, Failed},
		{errors.New("reader is on fire"), rspro.CardNotPresent, Failed},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			simulate(t, func(r *rig) {
				card := r.cards[2]
				card.set(func(c *reader) { c.openErr = tt.err })
				r.create(c23, 2)
				m := r.connect(c23, 2)
				m.wantResult(tt.code)
				r.wantSlot(2, fmt.Sprintf("%v, client C23:0, %v", tt.state, tt.err))
				r.wantLog(logrus.WarnLevel, "slot=\"B1:2\"", tt.err.Error())
				m.Quiet(25 * time.Second)
				r.wantCounts(2, 3, 0) // at 0, 10 and 20 s
				card.set(func(c *reader) { c.openErr = nil })
				start := time.Now()
				m.Patience = time.Minute
				m.wantATR(testATR)
				if d := time.Since(start); d != 5*time.Second {
					t.Errorf("the card was found after %v, want 5s", d)
				}
				m.exchange(cmd...)
				r.wantSlot(2, "CARD, client C23:0")

				// Nobody waits: nobody looks.
				card.set(func(c *reader) { c.openErr = tt.err })
				m.Close()
				time.Sleep(time.Minute)
				r.wantCounts(2, 4, 1)
				r.wantWarnings("no card", 1)
			})
		})
	}
}

// A client that comes back while a card is missing needn't wait for the next look.
func TestCardMissingClientReturns(t *testing.T) {
	simulate(t, func(r *rig) {
		r.cards[2].set(func(c *reader) { c.openErr = ErrNoCard })
		r.create(c23, 2)
		for i := range 5 {
			m := r.connect(c23, 2)
			m.wantResult(rspro.CardNotPresent)
			r.wantCounts(2, i+1, 0)
			m.Close()
		}
		r.cards[2].set(func(c *reader) { c.openErr = nil })
		m := r.connect(c23, 2)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
	})
}

func TestSlotWithoutLine(t *testing.T) {
	simulate(t, func(r *rig) {
		r.create(c23, 8)
		m := r.connect(c23, 8)
		m.wantResult(rspro.CardNotPresent)
		r.wantLog(logrus.WarnLevel, "slot=\"B1:8\"", "slots file doesn't name this slot")
	}, func(cfg *setup) { cfg.NumSlots = slots + 1 })
}

// A map moved to another client in the middle of a transmit: the old client goes
// without a word, the new one gets a card that was opened anew, and only when the old
// exchange has ended; its answer reaches nobody.
func TestMapMovedWhileTransmitting(t *testing.T) {
	simulate(t, func(r *rig) {
		old := r.session(c23, 5)
		next := r.connect(c42, 5)
		next.wantResult(rspro.CardNotPresent)
		release := r.cards[5].hold()
		old.command(cmd...)
		synctest.Wait()
		r.create(c42, 5)
		old.ExpectEnd(time.Second)
		next.Quiet(5 * time.Second)
		r.wantCounts(5, 1, 0)
		release()
		next.wantATR(testATR)
		r.wantCounts(5, 2, 1)
		next.exchange(cmd...)
		next.Quiet(time.Minute)
		// The old client may come back and is told that it has no map.
		again := r.connect(c23, 5)
		again.wantResult(rspro.CardNotPresent)
	})
}

func TestMapRemovedWhileTransmitting(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 5)
		other := r.session(c42, 6)
		release := r.cards[5].hold()
		m.command(cmd...)
		synctest.Wait()
		if code := r.remove(c23, 5); code != rspro.OK {
			t.Errorf("removeMapping: %v", code)
		}
		m.ExpectEnd(time.Second)
		r.wantSlot(5, "FREE")
		other.exchange(cmd...)
		release()
		r.wantCounts(5, 1, 1)
		if code := r.remove(c23, 5); code != rspro.UnknownSlotmap {
			t.Errorf("removeMapping again: %v", code)
		}
	})
}

// A client that is mapped elsewhere leaves its old slot.
func TestClientMovedToOtherSlot(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 5)
		r.create(c23, 6)
		m.ExpectEnd(time.Second)
		r.wantCounts(5, 1, 1)
		r.wantSlot(5, "FREE")
		again := r.connect(c23, 6)
		again.wantResult(rspro.OK)
		again.wantATR(testATR)
		r.wantSlot(6, "CARD, client C23:0")
	})
}

func TestResetState(t *testing.T) {
	simulate(t, func(r *rig) {
		m, other := r.session(c23, 5), r.session(c42, 6)
		waiting := r.connect(slot.Client{ID: 7}, 0)
		waiting.wantResult(rspro.CardNotPresent)
		r.server.Send(&rspro.ResetStateReq{})
		if res := testnet.Expect[*rspro.ResetStateRes](r.server); res.Result != rspro.OK {
			t.Errorf("resetStateRes: %v", res.Result)
		}
		m.ExpectEnd(time.Second)
		other.ExpectEnd(time.Second)
		r.wantCounts(5, 1, 1)
		r.wantCounts(6, 1, 1)
		r.wantSlot(5, "FREE")
		waiting.Quiet(time.Second)
	})
}

// Clients go on without the server, and nothing is lost when it comes back.
func TestServerGone(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 5)
		r.server.Close()
		m.exchange(cmd...)
		r.accept()
		r.create(c23, 5) // it is there already
		m.exchange(cmd...)
		r.wantCounts(5, 1, 0)
		m.Quiet(time.Second)
	})
}

// Only edges reset the card, and each edge does it once.
func TestResetEdges(t *testing.T) {
	type phys struct {
		rst bool
		vcc slot.Signal
	}
	on, off, unknown := slot.On, slot.Off, slot.Unknown
	for _, tt := range []struct {
		name string
		in   []phys
		want []reset
	}{
		{"nothing new", []phys{{false, on}, {false, unknown}, {false, on}}, nil},
		{"VCC off", []phys{{false, off}}, []reset{coldReset}},
		{"VCC stays off", []phys{{false, off}, {false, off}, {true, off}, {false, unknown}}, []reset{coldReset}},
		{"VCC off and on", []phys{{false, off}, {false, on}, {false, off}, {false, on}}, []reset{coldReset, coldReset}},
		{"RST", []phys{{true, on}}, []reset{warmReset}},
		{"RST, VCC not told", []phys{{true, unknown}, {false, unknown}}, []reset{warmReset}},
		{"RST stays active", []phys{{true, on}, {true, on}, {true, unknown}}, []reset{warmReset}},
		{"RST twice", []phys{{true, on}, {false, on}, {true, on}}, []reset{warmReset, warmReset}},
		{"both at once", []phys{{true, off}}, []reset{coldReset}},
		{"RST without VCC is recorded", []phys{{false, off}, {true, off}, {true, on}}, []reset{coldReset}},
		{"modem start", []phys{{true, off}, {true, on}, {false, on}}, []reset{coldReset}},
		{"PC/SC driver: down, up, reset", []phys{{true, off}, {false, on}, {true, on}, {false, on}}, []reset{coldReset, warmReset}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(r *rig) {
				m := r.session(c23, 0)
				for _, p := range tt.in {
					m.phys(p.rst, p.vcc)
					synctest.Wait()
				}
				m.exchange(cmd...)
				if got := r.cards[0].resets; !slices.Equal(got, tt.want) {
					t.Errorf("got %v, want %v", got, tt.want)
				}
				m.Quiet(time.Second) // the ATR is the same
			})
		})
	}
}

// The contacts are remembered per session, not beyond.
func TestResetEdgesPerSession(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		m.phys(true, slot.Off)
		synctest.Wait()
		m.Close()
		m = r.connect(c23, 0)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		m.phys(false, slot.Off)
		synctest.Wait()
		if got, want := r.cards[0].resets, []reset{coldReset, coldReset}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
	})
}

func TestATRAfterReset(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		other := []byte{0x3b, 0x00}
		r.cards[0].set(func(c *reader) { c.nextATR = other })
		m.phys(true, slot.On)
		m.wantATR(other)
		m.phys(false, slot.On)
		m.phys(true, slot.On)
		m.exchange(cmd...) // no ATR before: it is the same
		r.cards[0].set(func(c *reader) { c.nextATR = testATR })
		m.phys(false, slot.Off)
		m.wantATR(testATR)
	})
}

func TestResetFails(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 3)
		r.cards[3].set(func(c *reader) { c.failWith = fmt.Errorf("reset: %w", ErrMute) })
		m.phys(true, slot.On)
		m.wantCardGone()
		r.wantError(3, "card doesn't answer")
		r.wantSlot(3, "FAILED, client C23:0, reset: card doesn't answer")
		r.wantCounts(3, 1, 1)
	})
}

// What was asked before a reset isn't answered after it; what is asked while the reset
// is made waits for it.
func TestResetWhileTransmitting(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(1, 1, 1, 1, 1)
		synctest.Wait()
		m.phys(true, slot.On)
		m.command(2, 2, 2, 2, 2)
		m.Quiet(time.Second)
		release()
		m.wantResponse(2, 2, 2, 2, 2, 0x90, 0)
		m.Quiet(time.Second)
		_, _, resets, cmds := r.cards[0].count()
		if resets != 1 || cmds != 2 {
			t.Errorf("%d resets, %d commands", resets, cmds)
		}
	})
}

// A storm of status changes while the card is busy makes one reset, the strongest.
func TestResetStorm(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		r.await()
		for range 100 {
			m.phys(true, slot.On)
			m.phys(false, slot.Off)
			m.phys(false, slot.On)
		}
		synctest.Wait()
		release()
		synctest.Wait()
		if got, want := r.cards[0].resets, []reset{coldReset}; !slices.Equal(got, want) {
			t.Errorf("got %v, want %v", got, want)
		}
		m.exchange(cmd...)
	})
}

func TestStatusOfOthersIgnored(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		off := slot.Phys{VCC: slot.Off}
		m.Send(&rspro.ClientSlotStatusInd{From: c42, To: m.bank, Phys: off})
		m.Send(&rspro.ClientSlotStatusInd{From: c23, To: slot.Bank{ID: 1, Slot: 1}, Phys: off})
		m.exchange(cmd...)
		if _, _, resets, _ := r.cards[0].count(); resets != 0 {
			t.Errorf("%d resets", resets)
		}
		r.wantLog(logrus.WarnLevel, "message passed over: from C42:1 to B1:0 in state SERVED", "clientSlotStatusInd", `client="C23:0"`)
	})
}

// A command that can't be is the end of its client, and of nobody else.
func TestBadCommand(t *testing.T) {
	b1 := slot.Bank{ID: 1}
	for _, tt := range []struct {
		name string
		m    rspro.TpduModemToCard
		log  string
	}{
		{"no byte", rspro.TpduModemToCard{From: c23, To: b1}, "tpduModemToCard of 0 bytes, want 5..260"},
		{"4 bytes", rspro.TpduModemToCard{From: c23, To: b1, Data: make([]byte, 4)}, "tpduModemToCard of 4 bytes, want 5..260"},
		{"261 bytes", rspro.TpduModemToCard{From: c23, To: b1, Data: make([]byte, 261)}, "tpduModemToCard of 261 bytes, want 5..260"},
		{"from another client", rspro.TpduModemToCard{From: c42, To: b1, Data: cmd}, "tpduModemToCard from C42:1 to B1:0, mapped are C23:0 and B1:0"},
		{"to another slot", rspro.TpduModemToCard{From: c23, To: slot.Bank{ID: 1, Slot: 1}, Data: cmd}, "to B1:1"},
		{"to another bank", rspro.TpduModemToCard{From: c23, To: slot.Bank{ID: 2}, Data: cmd}, "to B2:0"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(r *rig) {
				m, other := r.session(c23, 0), r.session(c42, 1)
				m.Send(&tt.m)
				m.ExpectEnd(time.Second)
				r.wantLog(logrus.WarnLevel, "client=\"C23:0\"", tt.log)
				r.wantCounts(0, 1, 1)
				if _, _, _, cmds := r.cards[0].count(); cmds != 0 {
					t.Error("the card saw it")
				}
				other.exchange(cmd...)
			})
		})
	}
}

func TestCommandLengths(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		long := make([]byte, 258)
		long[0], long[256] = 0xff, 0x90
		r.cards[0].set(func(c *reader) { c.response = long })
		m.command(make([]byte, 260)...)
		m.wantResponse(long...) // 256 bytes and SW
		r.cards[0].set(func(c *reader) { c.response = []byte{0x6e, 0} })
		m.command(make([]byte, 5)...)
		m.wantResponse(0x6e, 0)
	})
}

func TestBadResponse(t *testing.T) {
	for _, n := range []int{0, 1, 259, 300} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			simulate(t, func(r *rig) {
				m := r.session(c23, 0)
				r.cards[0].set(func(c *reader) { c.response = make([]byte, n) })
				m.command(cmd...)
				m.wantCardGone()
				want := fmt.Sprintf("response of %d bytes, want 2..258", n)
				r.wantError(0, want)
				r.wantSlot(0, "FAILED, client C23:0, "+want)
				r.wantLog(logrus.WarnLevel, `slot="B1:0"`, want)
			})
		})
	}
}

func TestBadATR(t *testing.T) {
	for _, n := range []int{0, 1, 34, 56} {
		t.Run(fmt.Sprint(n), func(t *testing.T) {
			simulate(t, func(r *rig) {
				r.cards[0].set(func(c *reader) { c.atr = make([]byte, n) })
				r.create(c23, 0)
				m := r.connect(c23, 0)
				m.wantResult(rspro.CardNotPresent)
				r.wantCounts(0, 1, 1)
				want := fmt.Sprintf("ATR of %d bytes, want 2..33", n)
				r.wantSlot(0, "FAILED, client C23:0, "+want)
				r.wantLog(logrus.WarnLevel, `slot="B1:0"`, want)
			})
		})
	}
}

func TestSecondCommandBeforeAnswer(t *testing.T) {
	simulate(t, func(r *rig) {
		m, other := r.session(c23, 0), r.session(c42, 1)
		release := r.cards[0].hold()
		m.command(cmd...)
		m.command(cmd...)
		m.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "before the answer to the last one")
		other.exchange(cmd...)
		release()
		r.wantCounts(0, 1, 1)
	})
}

func TestCommandBeforeCard(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.dial(c23, 0)
		m.command(cmd...)
		m.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "tpduModemToCard in state WAIT_ID")
		m = r.connect(c23, 0)
		m.wantResult(rspro.CardNotPresent)
		m.command(cmd...)
		m.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "tpduModemToCard in state WAIT_MAP")
	})
}

func TestCardError(t *testing.T) {
	for _, tt := range []struct {
		err  error
		slot string
	}{
		{ErrNoCard, "MAPPED, client C23:0, no card in the reader"},
		{errors.New("Übertragungsfehler"), "FAILED, client C23:0, Übertragungsfehler"},
	} {
		t.Run(tt.err.Error(), func(t *testing.T) {
			simulate(t, func(r *rig) {
				m, other := r.session(c23, 4), r.session(c42, 1)
				r.cards[4].set(func(c *reader) { c.failWith = tt.err })
				m.command(cmd...)
				m.wantCardGone()
				r.wantError(4, strings.ReplaceAll("slot B1:4: "+tt.err.Error(), "Ü", "?"))
				r.wantSlot(4, tt.slot)
				r.wantCounts(4, 1, 1)
				other.exchange(cmd...)
				r.cards[4].set(func(c *reader) { c.failWith = nil })
				m = r.connect(c23, 4)
				m.wantResult(rspro.OK)
				m.wantATR(testATR)
				m.exchange(cmd...)
			})
		})
	}
}

// A card call that hangs is abandoned after the card time-out; the others don't notice.
func TestCardHangs(t *testing.T) {
	simulate(t, func(r *rig) {
		m, other := r.session(c23, 0), r.session(c42, 1)
		release := r.cards[0].hold()
		m.command(cmd...)
		start := time.Now()
		synctest.Wait()
		other.exchange(cmd...)
		m.Patience = time.Minute
		m.wantCardGone()
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("given up after %v, want 30s", d)
		}
		r.wantError(0, "card call timed out")
		r.wantSlot(0, "FAILED, client C23:0, 1 hanging card calls, card call timed out")
		r.wantLog(logrus.ErrorLevel, "card call timed out after 30s, abandoned", "slot=\"B1:0\"")
		r.wantCounts(0, 1, 0)

		// The reader works again for a new context; the hung one stays away from it.
		r.cards[0].set(func(c *reader) { c.gate = nil })
		m = r.connect(c23, 0)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		release()
		r.wantCounts(0, 2, 1) // the card of the hung call is closed
		r.wantSlot(0, "CARD, client C23:0")
		m.exchange(cmd...)
		m.Quiet(time.Second) // the late answer reaches nobody
	})
}

// At most three calls of a slot hang; then it stays FAILED until one of them returns.
func TestCardHangsAtOpen(t *testing.T) {
	simulate(t, func(r *rig) {
		release := r.cards[0].hold()
		r.create(c23, 0)
		other := r.session(c42, 1)
		start := time.Now()
		m := r.connect(c23, 0)
		m.Patience = time.Minute
		m.wantResult(rspro.CardUnresponsive)
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("given up after %v, want 30s", d)
		}
		m.Quiet(3 * time.Minute) // tried again at 40 s and 80 s, given up at 70 s and 110 s
		r.wantCounts(0, 3, 0)
		r.wantError(0, "card call timed out")
		r.server.Quiet(0)
		r.wantSlot(0, "FAILED, client C23:0, 3 hanging card calls, card call timed out")
		m.Close()

		start = time.Now()
		m = r.connect(c23, 0)
		m.wantResult(rspro.CardUnresponsive)
		if d := time.Since(start); d != 0 {
			t.Errorf("answered after %v, want at once", d)
		}
		m.Quiet(time.Hour)
		other.exchange(cmd...)
		r.wantCounts(0, 3, 0)
		release() // pcscd is new
		m.wantATR(testATR)
		m.exchange(cmd...)
		r.wantCounts(0, 4, 3)
		r.wantSlot(0, "CARD, client C23:0")
	})
}

// A card that hangs when it is powered off counts, too.
func TestCardHangsAtClose(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.Close()
		time.Sleep(31 * time.Second)
		r.wantError(0, "card call timed out")
		r.wantSlot(0, "FAILED, client C23:0, 1 hanging card calls, card call timed out")
		release()
		r.wantSlot(0, "FAILED, client C23:0, card call timed out")
		m = r.connect(c23, 0)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
	})
}

// So does one that hangs when it is powered off since its ATR is none.
func TestBadATRAndCardHangsAtClose(t *testing.T) {
	simulate(t, func(r *rig) {
		gate := make(chan struct{})
		r.cards[0].set(func(c *reader) {
			c.atr = nil
			c.onOpen = func(c *reader) { c.gate = gate }
		})
		r.create(c23, 0)
		m := r.connect(c23, 0)
		m.Patience = time.Minute
		m.wantResult(rspro.CardUnresponsive)
		r.wantError(0, "card call timed out")
		m.Close()
		synctest.Wait() // else the card may be tried for it
		r.cards[0].set(func(c *reader) { c.atr, c.onOpen, c.gate = testATR, nil, nil })
		close(gate)
		r.wantSlot(0, "FAILED, client C23:0, card call timed out")
		m = r.connect(c23, 0)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
	})
}

func TestCardHangsAtReset(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.phys(true, slot.On)
		m.Patience = time.Minute
		m.wantCardGone()
		r.wantError(0, "card call timed out")
		release()
		r.wantCounts(0, 1, 1)
		r.wantSlot(0, "FAILED, client C23:0, card call timed out")
	}, func(cfg *setup) { cfg.CardTimeout = 20 * time.Second })
}

// A client that leaves before its card is open leaves no card powered up.
func TestClientLeavesWhileCardOpens(t *testing.T) {
	simulate(t, func(r *rig) {
		release := r.cards[0].hold()
		r.create(c23, 0)
		m := r.connect(c23, 0)
		synctest.Wait()
		m.Close()
		synctest.Wait()
		release()
		r.wantCounts(0, 1, 1)
		r.wantSlot(0, "MAPPED, client C23:0")
	})
}

// A card that fails for a client that has left fails for nobody.
func TestClientLeavesBeforeCardFails(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		r.cards[0].set(func(c *reader) { c.failWith = ErrMute })
		m.command(cmd...)
		r.await()
		m.Close()
		synctest.Wait()
		release()
		r.wantCounts(0, 1, 1)
		r.wantSlot(0, "MAPPED, client C23:0")
		r.wantLog(logrus.WarnLevel, "card error", "card doesn't answer")
		r.server.Quiet(time.Second)
	})
}

func TestStop(t *testing.T) {
	simulate(t, func(r *rig) {
		busy, idle := r.session(c23, 0), r.session(c42, 1)
		waiting := r.connect(slot.Client{ID: 7}, 0)
		waiting.wantResult(rspro.CardNotPresent)
		silent := r.dial(slot.Client{ID: 8}, 0)
		release := r.cards[0].hold()
		busy.command(cmd...)
		synctest.Wait()
		time.AfterFunc(3*time.Second, release)
		r.cancel()
		idle.ExpectEnd(time.Second)
		waiting.ExpectEnd(time.Second)
		silent.ExpectEnd(time.Second)
		busy.wantResponse(append(slices.Clone(cmd), 0x90, 0)...) // the exchange in progress is finished
		busy.ExpectEnd(time.Second)
		r.stop(time.Second)
		r.wantCounts(0, 1, 1)
		r.wantCounts(1, 1, 1)
		r.wantLog(logrus.InfoLevel, "all cards are powered off")
	})
}

// At the end, a command that comes after a reset isn't done without it.
func TestStopBeforeReset(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		r.await()
		m.phys(true, slot.On)
		m.command(cmd...)
		synctest.Wait()
		r.cancel()
		synctest.Wait()
		release()
		m.ExpectEnd(time.Second)
		if _, _, resets, cmds := r.cards[0].count(); resets != 0 || cmds != 1 {
			t.Errorf("%d resets, %d commands, want 0 and 1", resets, cmds)
		}
	})
}

func TestStopWithHungCard(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		synctest.Wait()
		r.stop(5 * time.Second)
		r.wantLog(logrus.WarnLevel, "left cards behind")
		release()
		r.wantCounts(0, 1, 1)
	})
}

func TestRunErrors(t *testing.T) {
	dir := t.TempDir()
	for _, tt := range []struct {
		name, file, want string
	}{
		{"missing", "", "none.csv"},
		{"bad line", "1,0\n", "slots.csv:1: slot number"},
		{"bad software card", "2,0,softsim:bad\n\n1,0,softsim:bad", "slots.csv:3: bad card"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			name := dir + "/none.csv"
			if tt.file != "" {
				name = dir + "/slots.csv"
				writeFile(t, name, tt.file)
			}
			log := logrus.New()
			log.SetOutput(t.Output())
			err := Run(context.Background(), Config{BankID: 1, NumSlots: 8, SlotsFile: name}, Env{Log: log, Readers: newPCSCD(newReaders(1)), Softsim: newReaders(1)})
			if err == nil || !strings.Contains(err.Error(), tt.want) {
				t.Errorf("got %v, want %q", err, tt.want)
			}
		})
	}
}

func TestPortInUse(t *testing.T) {
	simulate(t, func(r *rig) {
		cfg := Config{BankID: 1, NumSlots: 1, Listen: ":9999", SlotsFile: t.TempDir() + "/s.csv"}
		writeFile(t, cfg.SlotsFile, "")
		err := Run(r.t.Context(), cfg, Env{Net: r.host, Log: r.log.LastEntry().Logger, Readers: r.pcscd, Softsim: r.cards})
		if err == nil || !strings.Contains(err.Error(), "data listener") {
			t.Errorf("got %v", err)
		}
	})
}

func TestReaderWarnings(t *testing.T) {
	simulate(t, func(r *rig) {
		r.wantLog(logrus.WarnLevel, "slot=\"B1:1\"", `no reader matches \"Reader 99\"`, `line=2`, "Fake Reader 00", "Fake Reader 07")
		r.wantLog(logrus.InfoLevel, "readers", "Fake Reader 00", "Fake Reader 07")
		r.wantLog(logrus.WarnLevel, "slot=\"B1:2\"", `no reader matches \"Fake\" but \"Fake Reader 00\", which slot B1:0 has by line 1 of the slots file`)
		r.wantLog(logrus.InfoLevel, "slots file", "lines=5", "used=4")
	}, func(cfg *setup) {
		writeFile(t, cfg.SlotsFile, "1,0,Reader 00\n1,1,Reader 99\n1,2,Fake\n1,3,softsim:x\n2,0,y\n")
	})
}

// The time that a call may take counts from its own begin, whenever there was one before.
func TestCardTimeoutOfEachCall(t *testing.T) {
	const limit = 10 * time.Second
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		m.exchange(cmd...)
		time.Sleep(limit - time.Second)
		release := r.cards[0].hold()
		m.command(cmd...)
		time.Sleep(limit - time.Millisecond)
		synctest.Wait()
		r.wantSlot(0, "CARD, client C23:0")
		time.Sleep(time.Millisecond)
		synctest.Wait()
		r.wantSlot(0, "FAILED, client C23:0, 1 hanging card calls, card call timed out")
		release()
		time.Sleep(time.Second)
	}, func(s *setup) { s.CardTimeout = limit })
}
