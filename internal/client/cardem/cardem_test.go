// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/gsmtap"
	"remsim/internal/rspro"
	"remsim/internal/simtrace"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

const (
	starting = "CONFIG 1 0 0 + STATUS?, remove, SIM local"
	entering = "request-sim-remote, SIM remote, SET_ATR 3b00, request-card-insert, insert, request-modem-reset, RESET 2 300ms, event-bankd-connect"
	leaving  = "request-card-remove, remove, request-sim-local, SIM local, request-modem-reset, RESET 2 300ms"
)

// TestSequences has each sequence, in the order of the scripts.
func TestSequences(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.want(starting)
		w.meetServer()
		w.want("event-server-connect")
		w.tell(bankAddr)
		w.want("event-config-bankd")
		w.meetBankd()
		w.want(entering)
		w.told("RST=1 VCC=0 CLK=0 CARD=?") // the last that is known
		w.card(cardATR)
		w.want("SET_ATR 3b021450")
		w.card(cardATR) // after a reset
		w.want("")

		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		w.want("request-card-remove, remove")
		w.card([]byte{0x3b, 0x01, 0x07})
		w.want("SET_ATR 3b0107, request-card-insert, insert")

		w.bankd.Close()
		w.want(leaving)
		w.meetBankd()
		w.want(entering)
		w.told("RST=1 VCC=0 CLK=0 CARD=?")
		w.tell(noBankd)
		w.want(leaving + ", event-config-bankd")
		w.tell(bankAddr)
		w.meetBankd()
		w.want("event-config-bankd, " + entering)
		w.told("RST=1 VCC=0 CLK=0 CARD=?")
		w.card(cardATR)
		w.want("SET_ATR 3b021450")

		w.stop()
		w.want(leaving)
		if err := <-w.ended; err != nil || !w.dev.closed() {
			t.Errorf("end: %v, device closed: %v", err, w.dev.closed())
		}
		w.ended <- nil
		for _, want := range []string{"REMSIM_USB_PATH=2-1.1", "REMSIM_USB_INTERFACE=1", "REMSIM_CAUSE=request-sim-local"} {
			if !slices.Contains(w.vars["request-sim-local"], want) {
				t.Errorf("%q lacks %s", w.vars["request-sim-local"], want)
			}
		}
	})
}

// TestStart has devices in several states when the client starts.
func TestStart(t *testing.T) {
	for _, c := range []struct {
		name     string
		status   *simtrace.Status // nil: the firmware tells none
		presence simtrace.Presence
		want     string
		within   time.Duration
	}{
		{"no SIM but the local one", contacts(simtrace.ResetActive), 0, starting, 0},
		{"status isn't told", nil, 0, starting, statusWithin},
		{"remote SIM of a client that was killed", contacts(up), 0, "CONFIG 1 0 0 + STATUS?, " + leaving, 0},
		{"the same in reset", contacts(up | simtrace.ResetActive), 0, "CONFIG 1 0 0 + STATUS?, " + leaving, 0},
		{"presence is low", contacts(0), simtrace.PresenceValid, "CONFIG 1 0 2 + STATUS?, remove, SIM local", 0},
		{"presence is high", contacts(0), simtrace.PresenceValid | simtrace.PresentHigh, "CONFIG 1 0 3 + STATUS?, remove, SIM local", 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				begin := time.Now()
				w := startWorld(t, func(w *world) {
					w.status, w.cfg.Presence = nil, c.presence
					if c.status != nil {
						w.status = encode(t, c.status)
					}
				})
				w.meetServer()
				if d := time.Since(begin); d != c.within {
					t.Errorf("at the server after %v, want %v", d, c.within)
				}
				if got := strings.Replace(w.take(), ", event-server-connect", "", 1); got != c.want {
					t.Errorf("got %s, want %s", got, c.want)
				}
			})
		})
	}
}

// TestStopAtStart ends the client while it asks a device for its status: the modem is on its local SIM all the same.
func TestStopAtStart(t *testing.T) {
	for _, left := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, func(w *world) { w.status = nil })
			w.want("CONFIG 1 0 0 + STATUS?")
			w.stop()
			want := "remove, SIM local"
			if left {
				w.dev.bulk <- encode(t, contacts(up))
				want = leaving
			}
			if err := <-w.ended; err != nil {
				t.Error(err)
			}
			w.ended <- nil
			w.want(want)
		})
	}
}

// TestIdentity tells of the device in RSPRO's terms.
func TestIdentity(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		server := w.meetServer().Identity
		w.tell(bankAddr)
		bankd := w.meetBankd().Identity
		for _, i := range []rspro.ComponentIdentity{server, bankd} {
			if i.HWManufacturer != "sysmocom - s.f.m.c. GmbH and oth" || i.HWModel != "sysmoQMOD" ||
				i.HWSerialNr != "0123456789abcdef0123456789abcdef" || i.HWVersion != "interface 1" || i.FWVersion != "" {
				t.Errorf("%+v", i)
			}
		}
	})
}

// TestCommands carries commands to the card and its answers to the modem.
func TestCommands(t *testing.T) {
	bytesOf := func(n int) string {
		b := make([]byte, n)
		for i := range b {
			b[i] = byte(i)
		}
		return hex.EncodeToString(b)
	}
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		for _, c := range []struct{ name, header, asked, data, tpdu, answer, want string }{
			{"case 1", "a004000000", "", "", "a004000000", "9000", "tx 6 9000"},
			{"case 2", "a0b0000003", "", "", "a0b0000003", "1122339000", "tx 4 b0112233 + tx 6 9000"},
			{"case 2, status word alone", "a0b0000003", "", "", "a0b0000003", "9404", "tx 6 9404"},
			{"case 3", "a0d6000002", "tx 8 d6", "aabb", "a0d6000002aabb", "9000", "tx 6 9000"},
			{"case 3 of 255 bytes", "a0dc0104ff", "tx 8 dc", bytesOf(255), "a0dc0104ff" + bytesOf(255), "9000", "tx 6 9000"},
			{"case 3 in 64 bytes", "a0dc010432", "tx 8 dc", bytesOf(50), "a0dc010432" + bytesOf(50), "9000", "tx 6 9000"},
			{"case 3 in 128 bytes", "a0dc010472", "tx 8 dc", bytesOf(114), "a0dc010472" + bytesOf(114), "9000", "tx 6 9000"},
			{"case 3 in 192 bytes", "a0dc0104b2", "tx 8 dc", bytesOf(178), "a0dc0104b2" + bytesOf(178), "9000", "tx 6 9000"},
			{"case 3 in 256 bytes", "a0dc0104f2", "tx 8 dc", bytesOf(242), "a0dc0104f2" + bytesOf(242), "9000", "tx 6 9000"},
			{"case 4", "a0a4000002", "tx 8 a4", "3f00", "a0a40000023f00", "9f17", "tx 6 9f17"},
			{"case 4 with data", "80c2000003", "tx 8 c2", "d60101", "80c2000003d60101", "aa9000", "tx 4 c2aa + tx 6 9000"},
			{"249 bytes", "00b00000f9", "", "", "00b00000f9", bytesOf(249) + "9000", "tx 4 b0" + bytesOf(249) + " + tx 6 9000"},
			{"250 bytes", "00b00000fa", "", "", "00b00000fa", bytesOf(250) + "9000", "tx 4 b0" + bytesOf(250) + ", tx 6 9000"},
			{"256 bytes", "00b0000000", "", "", "00b0000000", bytesOf(256) + "9000", "tx 4 b0" + bytesOf(256) + ", tx 6 9000"},
			{"6Cxx", "80ca006600", "", "", "80ca006600", "6c05", "tx 6 6c05"},
			{"after 6Cxx", "80ca006605", "", "", "80ca006605", "01020304059000", "tx 4 ca0102030405 + tx 6 9000"},
			{"unknown with data", "b0ee000002", "tx 8 ee", "1122", "b0ee0000021122", "6e00", "tx 6 6e00"},
			{"unknown without data", "b0ee000000", "", "", "b0ee000000", "6e00", "tx 6 6e00"},
		} {
			w.header(c.header)
			w.want(c.asked)
			if c.asked != "" {
				w.data(c.data)
			}
			w.command(c.tpdu)
			w.answer(c.answer)
			if got := w.take(); got != c.want {
				t.Errorf("%s: got %s, want %s", c.name, got, c.want)
			}
		}
		if n := strings.Count(w.log.String(), "unknown command"); n != 1 {
			t.Errorf("%d lines about an unknown command, want 1", n)
		}
	})
}

// TestRows has a table of the user.
func TestRows(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.Rows = []simtrace.Row{{CLA: 0xb0, Mask: 0xff, INS: 0xee, Case: simtrace.Case2}} })
		w.serve()
		w.header("b0ee000002")
		w.command("b0ee000002")
		w.answer("11229000")
		w.want("tx 4 ee1122 + tx 6 9000")
	})
}

// TestNoCard answers the modem at once while there is no card.
func TestNoCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.take()
		w.irq(up)
		begin := time.Now()
		w.header("a0b000000a")
		w.want("tx 6 6f00")
		w.header("a0d6000002")
		w.want("tx 6 6f00")
		if d := time.Since(begin); d != 0 {
			t.Errorf("after %v", d)
		}
		w.data("1122") // which nobody has asked for
		w.want("")

		w.meetServer()
		w.tell(bankAddr)
		w.meetBankd()
		w.take()
		w.told("RST=0 VCC=1 CLK=1 CARD=?")
		w.header("a0a4000002")
		w.want("tx 6 6f00") // no ATR yet
		w.irq(up | simtrace.ResetActive)
		time.Sleep(crossing)
		w.header("a0a4000002") // whose status is late
		w.irq(up)
		if !slices.Contains(w.all(), "tx 6 6f00") {
			t.Error("a command whose status is late isn't answered while there is no card")
		}
		w.told("RST=1 VCC=1 CLK=1 CARD=?")
		w.told("RST=0 VCC=1 CLK=1 CARD=?")
		w.card(cardATR)
		w.take()
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		w.take()
		w.header("a0a4000002")
		w.want("tx 6 6f00") // no card any more
		w.bankd.Quiet(time.Second)
	})
}

// TestCardGoes ends the modem's wait when card or bankd go.
func TestCardGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.header("a0b000000a")
		w.command("a0b000000a")
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		got := strings.Split(w.take(), ", ")
		slices.Sort(got) // the answer and the sequence have an order each
		if want := []string{"remove", "request-card-remove", "tx 6 6f00"}; !slices.Equal(got, want) {
			t.Errorf("got %s, want %s", got, want)
		}

		w.card(cardATR)
		w.take()
		w.header("a0d6000002")
		w.want("tx 8 d6")
		w.bankd.Close()
		w.want(leaving)
		w.data("1122") // of a command that has ended
		w.want("")
	})
}

// TestCardSwapped gives a card no command that the modem has meant for the one before: it isn't told of both yet.
func TestCardSwapped(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.takes = time.Second
		for range 2 { // the second swap waits for the scripts of the first
			w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
			w.card(cardATR)
		}
		w.want("request-card-remove, remove")
		w.header("a0b000000a")
		w.want("tx 6 6f00")
		time.Sleep(time.Minute)
		w.want("request-card-insert, insert, request-card-remove, remove, request-card-insert, insert")
		w.header("a0b000000a")
		w.command("a0b000000a")
	})
}

// TestCardAfterReconnect gives the modem the card of each session as soon as it can be had, though scripts run still.
func TestCardAfterReconnect(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.bankd.Close()
		w.want(leaving)
		w.takes = time.Second
		w.meetBankd()
		w.told("RST=0 VCC=1 CLK=1 CARD=?")
		w.card(cardATR)
		w.header("a0b0000003")
		w.command("a0b0000003")
	})
}

// TestReset drops an answer that comes after a reset, and tells the reset while the card works.
func TestReset(t *testing.T) {
	for _, late := range []string{"before", "after"} {
		t.Run("answer "+late+" the next command", func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, nil)
				w.serve()
				w.bankd.Mute(true) // its PONG would say that no answer comes any more
				w.header("a0b0000003")
				w.command("a0b0000003")
				w.irq(up | simtrace.ResetActive)
				w.told("RST=1 VCC=1 CLK=1 CARD=?")
				w.irq(up)
				w.told("RST=0 VCC=1 CLK=1 CARD=?")
				w.want("event-modem-status, event-modem-status")
				if late == "before" {
					w.answer("3132339000")
				}
				w.header("a0b0000004")
				if late == "after" {
					w.answer("3132339000")
				}
				w.want("")
				w.command("a0b0000004")
				w.answer("414243449000")
				w.want("tx 4 b041424344 + tx 6 9000")
			})
		})
	}
}

// TestResetInData has resets in each step of a command with data.
func TestResetInData(t *testing.T) {
	for _, down := range []simtrace.StatusFlags{up | simtrace.ResetActive, simtrace.CLK, 0} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.serve()
			reset := func() {
				t.Helper()
				w.irq(down)
				testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
				w.irq(up)
				testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
				w.want("event-modem-status, event-modem-status")
			}
			w.header("a0d6000004")
			w.want("tx 8 d6")
			reset()
			w.data("11223344")
			w.header("a0d6000004")
			w.want("tx 8 d6")
			w.data("1122")
			reset()
			w.data("3344")
			w.want("")
			w.header("a0d6000002")
			w.want("tx 8 d6")
			w.data("5566")
			w.command("a0d60000025566")
			w.answer("9000")
			w.want("tx 6 9000")

			w.irq(down)
			testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
			w.take()
			w.header("a0b0000001") // from before it
			w.want("")
			w.bankd.Quiet(time.Second)
		})
	}
}

// TestOrder has a reset and a header wait to be read: the reset ends no command that follows it.
func TestOrder(t *testing.T) {
	for range 50 {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.serve()
			w.dev.irq <- encode(t, contacts(up|simtrace.ResetActive))
			w.dev.irq <- encode(t, contacts(up))
			w.dev.bulk <- encode(t, &simtrace.RxData{Flags: simtrace.Header, Data: unhex(t, "a0b0000001")})
			w.told("RST=1 VCC=1 CLK=1 CARD=?")
			w.told("RST=0 VCC=1 CLK=1 CARD=?")
			w.command("a0b0000001")
		})
	}
}

// TestLateStatus has a command come before the status that ends the reset before it: it is the other endpoint's.
func TestLateStatus(t *testing.T) {
	for _, c := range []struct {
		name    string
		before  time.Duration // from the begin of the reset to the command
		after   time.Duration // from there to its end
		another bool          // the modem sends another command
		within  time.Duration // of the reset's end, the first command goes to the card; negative: never
	}{
		{"status is late", crossing, time.Millisecond, false, 0},
		{"status is very late", 300 * time.Millisecond, lateStatus - time.Nanosecond, false, 0},
		{"nothing is that late", 300 * time.Millisecond, lateStatus, false, -1},
		{"from before the reset, or not: another comes", crossing - 1, 300 * time.Millisecond, true, -1},
		{"from before the reset, or not: none comes", crossing - 1, 300 * time.Millisecond, false, nextCommand},
	} {
		t.Run(c.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := startWorld(t, nil)
				w.serve()
				w.irq(up | simtrace.ResetActive)
				w.told("RST=1 VCC=1 CLK=1 CARD=?")
				time.Sleep(c.before)
				w.header("a0b0000001")
				time.Sleep(c.after)
				w.irq(up)
				w.told("RST=0 VCC=1 CLK=1 CARD=?")
				begin := time.Now()
				if c.another {
					time.Sleep(nextCommand - 1)
					w.header("a0b0000002")
					w.command("a0b0000002")
				}
				if c.within >= 0 {
					w.command("a0b0000001")
				}
				if c.within > 0 && time.Since(begin) != c.within {
					t.Errorf("after %v, want %v", time.Since(begin), c.within)
				}
				w.bankd.Quiet(time.Second)
			})
		})
	}
}

// TestLateStatuses has a command come before several statuses: what is told of a card's way up keeps it, another reset doesn't.
func TestLateStatuses(t *testing.T) {
	for _, again := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.serve()
			w.irq(0)
			time.Sleep(crossing)
			w.header("a0b0000001")
			w.irq(simtrace.VCC | simtrace.ResetActive)
			w.irq(up | simtrace.ResetActive)
			for range 3 {
				testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
			}
			if !again {
				w.irq(up)
				w.told("RST=0 VCC=1 CLK=1 CARD=?")
				w.command("a0b0000001")
				return
			}
			w.header("a0b0000002") // in place of it
			w.irq(up)
			w.told("RST=0 VCC=1 CLK=1 CARD=?")
			w.command("a0b0000002")

			w.irq(up | simtrace.ResetActive)
			w.header("a0b0000003") // from before this reset, or not
			w.irq(up)
			w.irq(up | simtrace.ResetActive) // and surely from before this one
			w.irq(up)
			for range 4 {
				testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd)
			}
			w.bankd.Quiet(time.Second)
		})
	}
}

// TestLostStatus has the status that ends a reset get lost on a disturbed bus: the device is asked for it, so that the command after the
// reset goes to the card.
func TestLostStatus(t *testing.T) {
	for _, before := range []bool{false, true} { // the command comes before the failure is seen
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, func(w *world) { w.cfg.Script = "" })
			w.serve()
			w.mu.Lock()
			w.status = encode(t, contacts(up))
			w.mu.Unlock()
			w.irq(up | simtrace.ResetActive)
			w.told("RST=1 VCC=1 CLK=1 CARD=?")
			time.Sleep(crossing)
			if before {
				w.header("a0b0000001")
			}
			synctest.Wait()
			w.dev.irq <- nil
			w.want("STATUS?")
			w.told("RST=0 VCC=1 CLK=1 CARD=?")
			if !before {
				w.header("a0b0000001")
			}
			w.command("a0b0000001")
			w.answer("9000")
			w.want("tx 6 9000")
		})
	}
}

// TestLateAnswer has the device's answer to the question for its contacts come after a newer status, from the other endpoint.
func TestLateAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.Script = "" })
		w.serve()
		w.mu.Lock()
		w.status = nil
		w.mu.Unlock()
		w.irq(up | simtrace.ResetActive)
		w.told("RST=1 VCC=1 CLK=1 CARD=?")
		w.dev.irq <- nil
		w.want("STATUS?")
		w.irq(up)
		w.told("RST=0 VCC=1 CLK=1 CARD=?")
		w.sends(contacts(up | simtrace.ResetActive))
		w.header("a0b0000001")
		w.command("a0b0000001")
	})
}

// TestNewHeader has the modem begin another command before it is answered.
func TestNewHeader(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.header("a0b0000001")
		w.command("a0b0000001")
		w.header("a0b2010402")
		w.bankd.Quiet(time.Second) // answers have no mark of their command
		w.answer("119000")
		w.want("")
		w.command("a0b2010402")
		w.answer("21229000")
		w.want("tx 4 b22122 + tx 6 9000")
	})
}

// TestNextAtOnce has the modem's next command come before the device's acknowledgement of the last answer.
func TestNextAtOnce(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		plain := w.dev.written
		w.dev.written = func(b []byte) error {
			if text, _ := say(b); text == "tx 6 9001" {
				w.dev.bulk <- encode(t, &simtrace.RxData{Flags: simtrace.Header, Data: unhex(t, "a0b0000002")})
				time.Sleep(time.Millisecond)
			}
			return plain(b)
		}
		w.header("a0b0000001")
		w.command("a0b0000001")
		w.answer("9001")
		w.command("a0b0000002")
		w.take()
		w.answer("9002")
		w.want("tx 6 9002")
	})
}

// TestOddData has what no firmware sends.
func TestOddData(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.header("a0d600000411223344") // in one message
		w.command("a0d600000411223344")
		w.answer("9000")
		w.want("tx 6 9000")
		w.header("a0d60000041122")
		w.want("tx 8 d6")
		w.data("33")
		w.want("") // asked for once
		w.data("44")
		w.command("a0d600000411223344")
		w.answer("9000")
		w.want("tx 6 9000")

		w.data("1122")
		w.header("a0d600")
		w.header("")
		w.header("a0d6000002112233")
		w.dev.bulk <- nil
		w.dev.bulk <- []byte{1, 6, 0, 0, 0, 0, 3, 0, 1}
		w.dev.bulk <- []byte{1, 99, 0, 0, 0, 0, 9, 0, 1}
		w.dev.irq <- []byte{0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
		w.sends(&simtrace.ErrorReport{Severity: 1, Subsystem: 2, Code: 3, Text: "overrun"})
		w.want("")
		for _, s := range []string{
			"data without a command (2 bytes)", "header of 3 bytes: want 5", "header of 0 bytes: want 5", "command of 8 bytes: its header says 7",
			"bulk endpoint: passed over", "message of length 3", "message passed over: class 1 type 99",
			"interrupt endpoint: passed over", "message of class 255", "severity 1, subsystem 2, code 3",
		} {
			if !strings.Contains(w.log.String(), s) {
				t.Errorf("log lacks %s", s)
			}
		}
		w.header("a0b0000001")
		w.command("a0b0000001")
		for _, data := range []string{"", "a0b0000002"} { // commands come on the other endpoint
			w.dev.irq <- encode(t, &simtrace.RxData{Flags: simtrace.Header, Data: unhex(t, data)})
		}
		w.want("")
		w.answer("9000")
		w.want("tx 6 9000")
		if s := "interrupt endpoint: passed over"; strings.Count(w.log.String(), s) != 3 || !strings.Contains(w.log.String(), "message passed over: RX_DATA") {
			t.Errorf("log lacks %s", s)
		}
	})
}

// TestNoise bounds what is logged of a device that sends nonsense.
func TestNoise(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		for range 1000 {
			w.data("11")
		}
		if n := strings.Count(w.log.String(), "level=warning"); n != maxNoise {
			t.Errorf("%d lines, want %d", n, maxNoise)
		}
		time.Sleep(time.Minute)
		w.data("11")
		if n := strings.Count(w.log.String(), "level=warning"); n != maxNoise+1 {
			t.Errorf("%d lines a minute later, want %d", n, maxNoise+1)
		}
	})
}

// TestUnknownWithoutData has a modem that waits for data of the card when it is asked for its own.
func TestUnknownWithoutData(t *testing.T) {
	const waiting = 9600 * 372 * time.Second / fastestClock // 714 ms
	for _, c := range []struct {
		after time.Duration // of the modem's next try
		want  string
	}{
		{waiting - time.Nanosecond, "tx 8 ee"},
		{waiting, ""},
	} {
		synctest.Test(t, func(t *testing.T) {
			w := startWorld(t, nil)
			w.serve()
			w.header("b0ee000002")
			w.want("tx 8 ee")
			time.Sleep(c.after)
			synctest.Wait()
			w.irq(up | simtrace.ResetActive)
			w.irq(up)
			w.told("RST=1 VCC=1 CLK=1 CARD=?")
			w.told("RST=0 VCC=1 CLK=1 CARD=?")
			w.take()
			w.header("b0ee000002")
			w.want(c.want)
			if c.want != "" {
				return
			}
			w.command("b0ee000002")
			w.answer("11229000")
			w.want("tx 4 ee1122 + tx 6 9000")

			// With another SIM all begins anew.
			w.bankd.Close()
			w.take()
			w.meetBankd()
			w.told("RST=0 VCC=1 CLK=1 CARD=?")
			w.card(cardATR)
			w.take()
			w.header("b0ee000002")
			w.want("tx 8 ee")
			w.data("3344")
			w.command("b0ee0000023344")
			time.Sleep(2 * waiting) // the card takes its time
			w.answer("9000")
			w.want("tx 6 9000")
			w.header("b0ee000002")
			w.want("tx 8 ee")
		})
	}
}

// TestUnknownAnew has a modem begin another unknown command while the first one's time runs, which is by the modem's WI.
func TestUnknownAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		m := contacts(up)
		m.WI = 20
		w.dev.irq <- encode(t, m)
		waiting := m.Waiting(fastestClock)
		w.header("b0ee000002")
		w.want("tx 8 ee")
		time.Sleep(waiting - 1)
		w.header("b0ef000002")
		w.want("tx 8 ef")
		time.Sleep(waiting - 1)
		w.header("b0ef000002")
		w.want("tx 8 ef")
		w.header("b0ee000002")
		w.want("tx 8 ee")
		time.Sleep(waiting)
		synctest.Wait()
		w.header("b0ef000002")
		w.want("tx 8 ef")
		w.header("b0ee000002")
		w.command("b0ee000002")
	})
}

// TestLongATR keeps the ATR before one that devices don't take.
func TestLongATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.card(append([]byte{0x3b}, make([]byte, 33)...))
		w.want("")
		if log := w.log.String(); !strings.Contains(log, "ATR of 34 bytes: card emulators take at most 33") {
			t.Error("log lacks it")
		}
		w.card(append([]byte{0x3b}, make([]byte, 32)...))
		w.want("SET_ATR 3b" + strings.Repeat("00", 32))
	})
	err := Run(t.Context(), Config{Config: client.Config{ATR: make([]byte, 34)}}, Env{})
	if err == nil || err.Error() != "ATR of 34 bytes: card emulators take at most 33" {
		t.Errorf("Run: %v", err)
	}
}

// TestKeepATR has the ATR of the configuration stay.
func TestKeepATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.KeepATR = true })
		w.serve()
		w.card([]byte{0x3b, 0x01, 0x07})
		w.want("")
	})
}

// TestPPS logs and traces what the device has negotiated.
func TestPPS(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.pcap")
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.Trace = gsmtap.Config{File: file} })
		w.serve()
		w.sends(&simtrace.PTS{Req: unhex(t, "ff10947b"), Resp: unhex(t, "ff10946b")})
		w.header("a0b0000001") // at once
		w.command("a0b0000001")
		if !strings.Contains(w.log.String(), "request=ff10947b") {
			t.Error("not in the log")
		}
		w.stop()
		err := <-w.ended
		w.ended <- err
	})
	b, err := os.ReadFile(file)
	if err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{"02040400000000000000000002000000ff10947b", "02040400000000000000000003000000ff10946b"} {
		if !bytes.Contains(b, unhex(t, want)) {
			t.Errorf("%s isn't in the trace", want)
		}
	}
}

// TestUnplug ends the client with its device.
func TestUnplug(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.header("a0b0000001")
		w.command("a0b0000001")
		begin := time.Now()
		w.dev.unplug(errUnplugged)
		w.bankd.ExpectEnd(time.Second)
		w.server.ExpectEnd(time.Second)
		err := <-w.ended
		w.ended <- nil
		if !errors.Is(err, errUnplugged) || time.Since(begin) != 0 || !w.dev.closed() {
			t.Errorf("%v after %v, closed: %v", err, time.Since(begin), w.dev.closed())
		}
		w.want("request-card-remove, request-sim-local, request-modem-reset")
	})
}

// TestKeepRunning goes through many devices.
func TestKeepRunning(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.KeepRunning, w.open = true, errors.New("nothing there") })
		time.Sleep(10*time.Second + time.Millisecond)
		synctest.Wait()
		if w.opened != 11 {
			t.Errorf("%d attempts in 10 s, want 11", w.opened)
		}
		if n := strings.Count(w.log.String(), "nothing there"); n != 1 {
			t.Errorf("%d lines about it, want 1", n)
		}
		w.mu.Lock()
		w.open = nil
		w.mu.Unlock()
		for range 20 {
			time.Sleep(openEvery)
			w.want(starting)
			w.serve()
			w.header("a0b0000001")
			w.command("a0b0000001")
			w.dev.unplug(errUnplugged)
			w.bankd.ExpectEnd(time.Second)
			w.want("request-card-remove, request-sim-local, request-modem-reset")
		}
	})
}

// TestKeepRunningAuto keeps the slot that the server has assigned.
func TestKeepRunningAuto(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.cfg.KeepRunning, w.cfg.Auto, w.cfg.Slot = true, true, slot.Client{} })
		if m := w.meetServer(); m.Slot != nil {
			t.Errorf("presents %v", m.Slot)
		}
		w.server.Send(&rspro.ConfigClientIDReq{Slot: me})
		testnet.Expect[*rspro.ConfigClientIDRes](w.server)
		w.dev.unplug(errUnplugged)
		w.server.ExpectEnd(time.Second)
		if m := w.meetServer(); m.Slot == nil || *m.Slot != me {
			t.Errorf("presents %v, want %v", m.Slot, me)
		}
	})
}

// TestDeviceFails gives up a device that takes nothing.
func TestDeviceFails(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, nil)
		w.serve()
		w.mu.Lock()
		w.fail = errHung
		w.mu.Unlock()
		for range maxFailures - 1 {
			w.header("a0d6000002")
			w.want("failed")
		}
		w.header("a0d6000002")
		err := <-w.ended
		w.ended <- nil
		if !errors.Is(err, errHung) || !errors.Is(err, errGone) {
			t.Errorf("%v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // from the beginning
		w := startWorld(t, func(w *world) { w.fail = errHung })
		err := <-w.ended
		w.ended <- nil
		if !errors.Is(err, errHung) || !strings.HasPrefix(err.Error(), "set up the card emulator: ") {
			t.Errorf("%v", err)
		}
	})
	synctest.Test(t, func(t *testing.T) { // some
		w := startWorld(t, nil)
		w.serve()
		for range 2 * maxFailures {
			w.mu.Lock()
			w.fail = errHung
			w.mu.Unlock()
			w.header("a0d6000002")
			w.want("failed")
			w.mu.Lock()
			w.fail = nil
			w.mu.Unlock()
			w.header("a0d6000002")
			w.want("tx 8 d6")
		}
	})
}

// TestSlowScripts has the steps wait for the start of their scripts, and the end of the client for the last one.
func TestSlowScripts(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := startWorld(t, func(w *world) { w.takes = 500 * time.Millisecond })
		w.meetServer()
		w.tell(bankAddr)
		w.meetBankd()
		time.Sleep(5 * time.Second)
		w.take()
		begin := time.Now()
		w.stop()
		w.want("request-card-remove, remove")
		time.Sleep(500 * time.Millisecond)
		w.want("request-sim-local, SIM local")
		time.Sleep(500 * time.Millisecond)
		w.want("request-modem-reset, RESET 2 300ms")
		if err := <-w.ended; err != nil || time.Since(begin) != 1500*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(begin))
		}
		w.ended <- nil
	})
}

// TestReport tells how the client stands, and no longer when it has no device.
func TestReport(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := newDevice(func([]byte) error { return nil })
		var report func(io.Writer)
		var until context.Context
		log := logrus.New()
		log.SetOutput(io.Discard)
		host := testnet.New().Host("10.0.0.3")
		ended := make(chan error, 1)
		go func() {
			ended <- Run(t.Context(), Config{Config: client.Config{ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: ownATR}}, Env{
				Env:      client.Env{Net: host, Log: log},
				Open:     func(context.Context) (Device, error) { return dev, nil },
				OnReport: func(ctx context.Context, f func(io.Writer)) { until, report = ctx, f },
			})
		}()
		time.Sleep(time.Second)
		synctest.Wait()
		var b strings.Builder
		report(&b)
		if !strings.HasPrefix(b.String(), "client INIT\n") || until.Err() != nil {
			t.Errorf("%q, %v", b.String(), until.Err())
		}
		dev.unplug(errUnplugged)
		<-ended
		if until.Err() == nil {
			t.Error("still reports")
		}
	})
}
