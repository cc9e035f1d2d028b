// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"bytes"
	"encoding/binary"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"runtime"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
	"unicode/utf8"

	"github.com/sirupsen/logrus"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

var otherATR = []byte{0x3b, 0x9f, 0x96, 0x80}

// A client that knows of late ATRs keeps its connection when its card goes.
func TestCardPulledAndPutBack(t *testing.T) {
	simulate(t, func(r *rig) {
		m, other := r.patient(c23, 5), r.session(c42, 1)
		for i := range 100 {
			r.pcscd.pull(5)
			m.wantCard(slot.Off)
			r.wantError(5, "no card in the reader: it was pulled")
			r.wantSlot(5, "MAPPED, client C23:0, no card in the reader: it was pulled")
			r.wantCounts(5, i+1, i+1)
			m.command(cmd...) // said before it knew
			other.exchange(cmd...)

			atr := [][]byte{otherATR, testATR}[i%2]
			r.pcscd.insert(5, atr)
			m.wantCardBack(atr)
			r.wantSlot(5, "CARD, client C23:0")
			m.exchange(cmd...)
		}
		if _, _, resets, cmds := r.cards[5].count(); resets != 0 || cmds != 100 {
			t.Errorf("the card saw %d resets and %d commands, want 0 and 100", resets, cmds)
		}
		if got := r.report(); !strings.Contains(got, `; reader "Fake Reader 05", card present: true, ATR 3b7d`) {
			t.Errorf("report:\n%s", got)
		}
	})
}

// Until it has confirmed the ATR of the card that came, a client may not know that the one
// before has gone: what it says is for that one.
func TestStaleWordsAfterPull(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 5)
		r.pcscd.pull(5)
		r.pcscd.insert(5, otherATR)
		r.pcscd.pull(5)
		r.pcscd.insert(5, otherATR)
		var acks []rspro.PDU
		for range 2 {
			m.wantCard(slot.Off)
			_, pdu := testnet.ExpectPDU[*rspro.SetAtrReq](m.Peer)
			m.wantCard(slot.On)
			acks = append(acks, pdu)
		}
		m.command(cmd...)
		m.phys(true, slot.On)
		m.Quiet(time.Second)
		m.Reply(acks[0], &rspro.SetAtrRes{})
		m.command(cmd...) // for the card that was there in between
		m.Quiet(time.Second)
		if _, _, resets, cmds := r.cards[5].count(); resets != 0 || cmds != 0 {
			t.Errorf("the card saw %d resets and %d commands", resets, cmds)
		}
		m.Reply(acks[1], &rspro.SetAtrRes{})
		m.exchange(cmd...)
		// Reset was active all the time: no edge now, but later.
		m.phys(true, slot.On)
		m.phys(false, slot.On)
		m.phys(true, slot.On)
		m.wantATR(otherATR)
		if got := r.cards[5].resets; !slices.Equal(got, []reset{warmReset}) {
			t.Errorf("resets: %v", got)
		}
	})
}

// Towards other clients a card that goes is one that fails.
func TestCardPulledFromPlainClient(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 5)
		r.pcscd.pull(5)
		m.wantCardGone()
		r.wantError(5, "no card in the reader: it was pulled")
		r.wantCounts(5, 1, 1)
		m = r.connect(c23, 5)
		m.wantResult(rspro.CardNotPresent)
		m.Quiet(time.Hour)
		r.wantCounts(5, 1, 1) // an empty reader isn't opened
		r.wantSlot(5, `MAPPED, client C23:0, reader "Fake Reader 05": no card in the reader`)
		start := time.Now()
		r.pcscd.insert(5, otherATR)
		m.wantATR(otherATR)
		if d := time.Since(start); d != 0 {
			t.Errorf("the card was found after %v, want at once", d)
		}
		m.exchange(cmd...)
		m.Quiet(time.Second) // it had no card that could have come back
	})
}

func TestCardSwapped(t *testing.T) {
	simulate(t, func(r *rig) {
		m, plain := r.patient(c23, 5), r.session(c42, 1)
		for nr, m := range map[int]*modem{5: m, 1: plain} {
			r.pcscd.change(func(rs []Reader) []Reader {
				rs[nr].Changes += 2
				return rs
			})
			m.wantCard(slot.Off)
			r.wantError(uint16(nr), "it was swapped")
		}
		m.wantCardBack(testATR)
		m.exchange(cmd...)
		plain.ExpectEnd(time.Second)

		r.pcscd.change(func(rs []Reader) []Reader { // each time is news
			rs[5].Changes += 2
			return rs
		})
		m.wantCard(slot.Off)
		r.wantError(5, "it was swapped")
		m.wantCardBack(testATR)
	})
}

// A card pulled in the middle of a transmit: the client is told at once, and the answer of the
// old card, or its end, reaches nobody.
func TestCardPulledWhileTransmitting(t *testing.T) {
	for _, fail := range []error{nil, ErrNoCard} {
		t.Run(fmt.Sprint(fail), func(t *testing.T) {
			simulate(t, func(r *rig) {
				m := r.patient(c23, 5)
				release := r.cards[5].hold()
				m.command(1, 1, 1, 1, 1)
				synctest.Wait()
				r.pcscd.pull(5)
				m.wantCard(slot.Off)
				r.pcscd.insert(5, testATR)
				m.Quiet(time.Second) // the old call holds the reader
				r.cards[5].set(func(c *reader) { c.failWith = fail })
				release()
				m.wantCardBack(testATR)
				r.cards[5].set(func(c *reader) { c.failWith = nil })
				r.wantCounts(5, 2, 1)
				m.exchange(cmd...)
				m.Quiet(time.Minute)
			})
		})
	}
}

// What a card fails with before the reader is known to be empty doesn't matter.
func TestCardFailsThenIsPulled(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 5)
		time.Sleep(time.Minute)
		r.cards[5].set(func(c *reader) { c.failWith, c.openErr = ErrNoCard, ErrNoCard })
		m.command(cmd...)
		m.wantCard(slot.Off)
		r.wantCounts(5, 2, 1) // tried at once, as it was opened long ago
		r.pcscd.pull(5)
		m.Quiet(time.Second)
		r.cards[5].set(func(c *reader) { c.failWith, c.openErr = nil, nil })
		r.pcscd.insert(5, otherATR)
		m.wantCardBack(otherATR)
		m.exchange(cmd...)
	})
}

// A card that keeps failing is tried each 10 s, and its client waits.
func TestCardKeepsFailing(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 5)
		r.cards[5].set(func(c *reader) { c.failWith = ErrMute })
		m.command(cmd...)
		for i := range 5 {
			start := time.Now()
			m.wantCard(slot.Off)
			r.wantSlot(5, "FAILED, client C23:0, card doesn't answer")
			m.Patience = time.Minute
			m.wantCardBack(testATR)
			if d := time.Since(start); d != 10*time.Second {
				t.Errorf("%d: tried after %v, want 10s", i, d)
			}
			m.command(cmd...)
		}
		m.wantCard(slot.Off)
		m.wantCardBack(testATR)
		r.wantWarnings("card error", 1)
		r.wantError(5, "card doesn't answer")
		r.server.Quiet(0)

		// After it has worked, or as another card, its fault is news.
		time.Sleep(time.Minute)
		m.command(cmd...)
		m.wantCard(slot.Off)
		r.wantError(5, "card doesn't answer")
		m.wantCardBack(testATR)
		r.pcscd.pull(5)
		m.wantCard(slot.Off)
		r.wantError(5, "it was pulled")
		r.pcscd.insert(5, testATR)
		m.wantCardBack(testATR)
		m.command(cmd...)
		m.wantCard(slot.Off)
		r.wantError(5, "card doesn't answer")
		r.wantWarnings("card error", 3)
		r.server.Quiet(0)
	})
}

// A client that comes back again and again to a card that fails makes no more of it.
func TestCardKeepsFailingPlainClient(t *testing.T) {
	simulate(t, func(r *rig) {
		r.cards[5].set(func(c *reader) { c.failWith = ErrMute })
		r.create(c23, 5)
		for range 5 {
			m := r.connect(c23, 5)
			m.wantResult(rspro.OK)
			m.wantATR(testATR)
			m.command(cmd...)
			m.wantCardGone()
			synctest.Wait()
		}
		r.wantError(5, "card doesn't answer")
		r.server.Quiet(0)
		r.wantWarnings("card error", 1)
		r.remove(c23, 5)
		r.create(c42, 5)
		m := r.connect(c42, 5)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		m.command(cmd...)
		m.wantCardGone()
		r.wantError(5, "card doesn't answer")
	})
}

// A time-out is told a client that can wait, too, and it gets the card when that works again.
func TestCardHangsPatientClient(t *testing.T) {
	simulate(t, func(r *rig) {
		m, other := r.patient(c23, 0), r.session(c42, 1)
		release := r.cards[0].hold()
		m.command(cmd...)
		m.Patience = time.Minute
		start := time.Now()
		m.wantCard(slot.Off)
		if d := time.Since(start); d != 30*time.Second {
			t.Errorf("told after %v, want 30s", d)
		}
		r.wantError(0, "card call timed out")
		r.wantSlot(0, "FAILED, client C23:0, 1 hanging card calls, card call timed out")
		other.exchange(cmd...)
		r.cards[0].set(func(c *reader) { c.gate = nil })
		start = time.Now()
		m.wantCardBack(testATR)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("tried after %v, want 10s", d)
		}
		m.exchange(cmd...)
		release()
		m.Quiet(time.Second) // the late answer reaches nobody
		m.exchange(cmd...)
	})
}

// A hanging call that returns has its card tried at once.
func TestCardHangsForAWhile(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		m.Patience = time.Minute
		m.wantCard(slot.Off)
		m.Quiet(5 * time.Second)
		start := time.Now()
		release()
		m.wantCardBack(testATR)
		if d := time.Since(start); d != 0 {
			t.Errorf("tried after %v, want 0s", d)
		}
		m.exchange(cmd...)
		r.wantCounts(0, 2, 1)
	})
}

// What failed while there was another pcscd, or none, isn't what is wrong now.
func TestOldError(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 5)
		r.cards[5].set(func(c *reader) { c.failWith = fmt.Errorf("transmit: %w", ErrNoService) })
		m.command(cmd...)
		m.wantCard(slot.Off)
		r.wantSlot(5, "MAPPED, client C23:0, transmit: pcscd doesn't answer")
		var were []Reader
		r.pcscd.change(func(rs []Reader) []Reader { were = rs; return nil })
		r.wantSlot(5, "MAPPED, client C23:0, pcscd doesn't answer")
		r.pcscd.change(func([]Reader) []Reader { return were[:5] })
		r.wantSlot(5, `MAPPED, client C23:0, no reader matches "^Fake Reader 05$"`)
	})
}

// A slot that gave up on hanging calls works again with a new pcscd, though the calls hang on.
func TestNewPCSCDEndsHanging(t *testing.T) {
	simulate(t, func(r *rig) {
		release := r.cards[0].hold()
		r.create(c23, 0)
		m := r.connect(c23, 0)
		m.Patience = time.Minute
		m.wantResult(rspro.CardUnresponsive)
		m.Quiet(time.Hour)
		r.wantSlot(0, "FAILED, client C23:0, 3 hanging card calls, card call timed out")
		r.cards[0].set(func(c *reader) { c.gate = nil })
		m.Quiet(time.Hour)

		var were []Reader
		r.pcscd.change(func(rs []Reader) []Reader { were = rs; return nil })
		r.wantLog(logrus.WarnLevel, "pcscd doesn't answer")
		r.wantSlot(0, "MAPPED, client C23:0, pcscd doesn't answer")
		r.pcscd.change(func([]Reader) []Reader { return were })
		m.wantATR(testATR)
		m.exchange(cmd...)
		release()
		r.wantSlot(0, "CARD, client C23:0")
		r.wantCounts(0, 4, 3)
		m.exchange(cmd...)
	})
}

// Calls that hang in one reader say nothing of another one, nor of a card in software.
func TestReloadEndsHanging(t *testing.T) {
	for _, line := range []string{"1,0,Reader 01\n", "1,0,softsim:x\n"} {
		simulate(t, func(r *rig) {
			release := r.cards[0].hold()
			r.create(c23, 0)
			m := r.connect(c23, 0)
			m.Patience = time.Minute
			m.wantResult(rspro.CardUnresponsive)
			m.Quiet(time.Hour)
			r.wantSlot(0, "FAILED, client C23:0, 3 hanging card calls, card call timed out")

			r.cards[0].set(func(c *reader) { c.gate = nil }) // for the card in software
			r.reload(line)
			m.wantATR(testATR)
			m.exchange(cmd...)
			release()
			r.wantSlot(0, "CARD, client C23:0")
			m.exchange(cmd...)
		}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,Reader 00\n") })
	}
}

// A slot that waits for a reader gets it as soon as opening it for the slot before has failed, and
// what is wrong with the card in there isn't said of the one that slot has now.
func TestReloadGetsFailingReader(t *testing.T) {
	simulate(t, func(r *rig) {
		release := r.cards[0].hold()
		r.create(c23, 0)
		r.create(c42, 1)
		a := r.connect(c23, 0)
		synctest.Wait()
		r.reload("1,0,Reader 02\n1,1,Reader 00\n")
		b := r.connect(c42, 1)
		b.wantResult(rspro.CardNotPresent)
		r.cards[0].set(func(c *reader) {
			c.onOpen = func(c *reader) { c.openErr, c.onOpen = ErrMute, func(c *reader) { c.openErr = nil } }
		})
		release()
		synctest.Wait()
		r.wantSlot(0, "CARD, client C23:0")
		r.wantSlot(1, "CARD, client C42:1")
		a.wantResult(rspro.OK)
		a.wantATR(testATR)
		b.wantATR(testATR)
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,Reader 00\n1,1,Reader 01\n") })
}

// A call that hangs while its card is swapped says nothing of the new card.
func TestSwappedWhileHanging(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		time.Sleep(time.Second)
		r.cards[0].set(func(c *reader) { c.gate = nil })
		r.pcscd.change(func(rs []Reader) []Reader {
			rs[0].Changes += 2
			return rs
		})
		m.wantCard(slot.Off)
		time.Sleep(30 * time.Second)
		r.wantSlot(0, "CARD, client C23:0, 1 hanging card calls")
		m.wantCardBack(testATR)
		m.exchange(cmd...)
		release()
	})
}

func TestPCSCDRestarts(t *testing.T) {
	simulate(t, func(r *rig) {
		ms := []*modem{r.patient(c23, 5), r.patient(c42, 1)}
		for range 20 {
			var were []Reader
			r.pcscd.change(func(rs []Reader) []Reader { were = rs; return nil })
			for _, m := range ms {
				m.wantCard(slot.Off)
			}
			r.wantSlot(5, "MAPPED, client C23:0, pcscd doesn't answer")
			time.Sleep(time.Minute)
			for i := range were {
				were[i].Changes = 0
			}
			r.pcscd.change(func([]Reader) []Reader { return were })
			for _, m := range ms {
				m.wantCardBack(testATR)
				m.exchange(cmd...)
			}
		}
	})
}

// A reader that goes is one without a card; its slot gets the first that matches.
func TestReaderGoesAndComes(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 0)
		var were []Reader
		r.pcscd.change(func(rs []Reader) []Reader { were = slices.Clone(rs); return rs[:0] })
		m.wantCard(slot.Off)
		r.wantError(0, `no reader matches "^Fake Reader 0"`)
		r.wantSlot(0, `MAPPED, client C23:0, no reader matches "^Fake Reader 0"`)
		r.wantLog(logrus.WarnLevel, `slot="B1:0"`, "line=1", "no reader")
		for i := range 8 { // it comes under another number
			r.pcscd.change(func([]Reader) []Reader { return were[7-i:] })
			if i < 7 {
				m.wantCardBack(testATR)
				m.exchange(cmd...)
				r.pcscd.change(func([]Reader) []Reader { return []Reader{} })
				m.wantCard(slot.Off)
			}
		}
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,^Fake Reader 0\n") })
}

// A slot keeps its reader when others come that match, too.
func TestSlotKeepsItsReader(t *testing.T) {
	simulate(t, func(r *rig) {
		var were []Reader
		r.pcscd.change(func(rs []Reader) []Reader { were = slices.Clone(rs); return rs[3:] })
		m := r.patient(c23, 0)
		r.pcscd.change(func([]Reader) []Reader { return were })
		m.exchange(cmd...)
		if got := r.report(); !strings.Contains(got, "slot B1:0: CARD, client C23:0; reader \"Fake Reader 03\"") {
			t.Errorf("report:\n%s", got)
		}
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,Fake\n") })
}

func TestReaderVanishesDuringConnect(t *testing.T) {
	for _, first := range []string{"the call", "the watcher"} {
		t.Run(first+" tells first", func(t *testing.T) {
			simulate(t, func(r *rig) {
				var were []Reader
				gone := func() {
					r.pcscd.change(func(rs []Reader) []Reader { were = slices.Clone(rs); return slices.Delete(rs, 2, 3) })
				}
				release := r.cards[2].hold()
				r.cards[2].set(func(c *reader) { c.openErr = fmt.Errorf("connect: %w", ErrNoReader) })
				r.create(c23, 2)
				m := r.connect(c23, 2)
				synctest.Wait()
				if first == "the watcher" {
					gone()
				}
				release()
				m.wantResult(rspro.CardNotPresent)
				if first != "the watcher" {
					gone()
				}
				r.wantLog(logrus.WarnLevel, `slot="B1:2"`, "connect: no reader matches")
				r.wantLog(logrus.WarnLevel, `slot="B1:2"`, `no reader matches \"^Fake Reader 02$\"`)
				synctest.Wait()
				if got := r.report(); !strings.Contains(got, "slot B1:2: MAPPED, client C23:0, ") {
					t.Errorf("report:\n%s", got)
				}
				m.Quiet(time.Minute)
				r.cards[2].set(func(c *reader) { c.openErr = nil })
				r.pcscd.change(func([]Reader) []Reader { return were })
				m.wantATR(testATR)
				m.exchange(cmd...)
			})
		})
	}
}

// The reader goes while its card is opened, which works all the same: that card is nobody's.
func TestCardOpenedAndGone(t *testing.T) {
	simulate(t, func(r *rig) {
		release := r.cards[2].hold()
		r.create(c23, 2)
		m := r.connect(c23, 2)
		synctest.Wait()
		r.pcscd.pull(2)
		release()
		m.wantResult(rspro.CardNotPresent)
		r.wantCounts(2, 1, 1)
		r.pcscd.insert(2, otherATR)
		m.wantATR(otherATR)
		m.exchange(cmd...)
	})
}

func TestOddReaderNames(t *testing.T) {
	for _, name := range []string{
		"Ünïcode (SIM) [x] + 読取機 \\d {2}^$", "two\nlines \x1b[31m", "not \xff\xfe UTF-8", "\x00", strings.Repeat("ü", 300), `"quoted", 'too'`,
	} {
		t.Run(fmt.Sprintf("%.20q", name), func(t *testing.T) {
			simulate(t, func(r *rig) {
				r.pcscd.change(func(rs []Reader) []Reader { rs[3].Name = name; return rs })
				_, infos := r.withBankState()
				last := infos[0]
				r.session(c23, 0).exchange(cmd...)
				if !utf8.ValidString(last.Reader) || len(last.Reader) > maxReader || len(last.Reader) == 0 || !last.Present || last.Error != "" {
					t.Errorf("told: %+v", last)
				}
				r.wantLog(logrus.InfoLevel, `slot="B1:0"`, "a card is there")
			}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,^[^F]\n") })
		})
	}
}

// Of two lines that match one reader the first gets it, and the other says why not.
func TestTwoLinesOneReader(t *testing.T) {
	simulate(t, func(r *rig) {
		const why = `no reader matches "Reader 03" but "Fake Reader 03", which slot B1:2 has by line 2 of the slots file`
		r.wantLog(logrus.WarnLevel, `slot="B1:5"`, "line=1", "which slot B1:2 has by line 2")
		r.withBankState()
		m := r.session(c23, 2)
		m.exchange(cmd...)
		r.create(c42, 5)
		second := r.connect(c42, 5)
		second.wantResult(rspro.CardNotPresent)
		r.wantSlot(5, "MAPPED, client C42:1, "+why)
		r.wantCounts(5, 0, 0)
		second.Quiet(time.Minute)

		// Without the other line the reader is its own, when the other slot has let go of it.
		release := r.cards[2].hold()
		r.reload("1,5,Reader 03\n")
		m.wantCardGone()
		second.Quiet(time.Second)
		release()
		second.wantATR(testATR)
		second.exchange(cmd...)
		// It keeps it, though it is the second one again.
		r.reload("1,2,Fake Reader 03\n1,5,Reader 03\n")
		second.exchange(cmd...)
		r.wantLog(logrus.WarnLevel, `slot="B1:2"`, "line=1", "which slot B1:5 has by line 2")
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,5,Reader 03\n1,2,Fake Reader 03\n") })
}

func (r *rig) reload(file string) {
	r.t.Helper()
	writeFile(r.t, r.file, file)
	r.hup <- syscall.SIGHUP
	synctest.Wait()
}

// SIGHUP: only slots whose card is another one notice.
func TestReload(t *testing.T) {
	simulate(t, func(r *rig) {
		kept, moved, pattern := r.patient(c23, 0), r.patient(c42, 1), r.patient(slot.Client{ID: 2}, 2)
		gone, soft := r.patient(slot.Client{ID: 3}, 3), r.patient(slot.Client{ID: 4}, 4)
		release := r.cards[0].hold()
		kept.command(cmd...)
		synctest.Wait()
		r.reload("# moved\n1,0,^Fake Reader 00$\n1,1,Reader 06\n1,2,Reader .2\n1,4,softsim:imsi=2\n")
		moved.wantCard(slot.Off)
		moved.wantCardBack(testATR)
		gone.wantCard(slot.Off)
		soft.wantCard(slot.Off)
		soft.wantCardBack(testATR)
		release()
		kept.wantResponse(append(slices.Clone(cmd), 0x90, 0)...)
		for _, m := range []*modem{kept, moved, pattern, soft} {
			m.exchange(cmd...)
			m.Quiet(time.Second)
		}
		gone.Quiet(time.Minute)
		r.wantSlot(3, "MAPPED, client C3:0, no reader matches: the slots file doesn't name this slot")
		r.wantCounts(0, 1, 0)
		r.wantCounts(1, 2, 1)
		r.wantCounts(2, 1, 0)
		r.wantCounts(3, 1, 1)
		r.wantCounts(4, 2, 1)
		r.reload("1,0,^Fake Reader 00$\n1,3,Reader 03\n")
		gone.wantCardBack(testATR)
	}, func(cfg *setup) {
		writeFile(t, cfg.SlotsFile, "1,0,^Fake Reader 00$\n1,1,Reader 01\n1,2,Reader 02\n1,3,Reader 03\n1,4,softsim:imsi=1\n")
	})
}

// Two slots may swap their readers: each waits until the other has let go.
func TestReloadSwapsReaders(t *testing.T) {
	simulate(t, func(r *rig) {
		a, b := r.patient(c23, 0), r.patient(c42, 1)
		release := r.cards[1].hold()
		r.reload("1,0,Reader 01\n1,1,Reader 00\n")
		a.wantCard(slot.Off)
		b.wantCard(slot.Off)
		a.Quiet(time.Second)
		release()
		a.wantCardBack(testATR)
		b.wantCardBack(testATR)
		a.exchange(cmd...)
		b.exchange(cmd...)
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,Reader 00\n1,1,Reader 01\n") })
}

func TestReloadOfBadFile(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		for _, tt := range []struct{ file, want string }{
			{"1,0,x\n1,1\n", "slots.csv:2: slot number"},
			{"1,0,x\n1,0,y\n", "slots.csv:2: bank 1 slot 0 stands in"},
			{"1,3,Reader 07\n\n1,0,softsim:bad\n", "slots.csv:3: bad card"},
		} {
			before := r.report()
			r.reload(tt.file)
			r.wantLog(logrus.ErrorLevel, "the slots stay as they were", tt.want)
			if got := r.report(); got != before {
				t.Errorf("report:\n%swant\n%s", got, before)
			}
		}
		m.exchange(cmd...)
		m.Quiet(time.Minute)
		r.wantCounts(0, 1, 0)
	})
}

// A bank of cards in software alone asks nobody for readers.
func TestNoReaders(t *testing.T) {
	simulate(t, func(r *rig) {
		r.pcscd.mu.Lock()
		if r.pcscd.watches != 0 {
			t.Error("readers are watched")
		}
		r.pcscd.mu.Unlock()
		m := r.session(c23, 0)
		m.exchange(cmd...)
		r.reload("1,0,softsim:\n1,1,Reader 01\n")
		r.session(c42, 1).exchange(cmd...)
		m.exchange(cmd...)
	}, func(cfg *setup) { writeFile(t, cfg.SlotsFile, "1,0,softsim:\n") })
}

// Readers that nobody tells of hold up neither start nor stop.
func TestPCSCDHangsAtStart(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.connect(c23, 0)
		m.wantResult(rspro.CardNotPresent)
		r.create(c23, 0)
		r.wantSlot(0, "MAPPED, client C23:0, no reader matches: pcscd hasn't told what there is")
		m.Quiet(time.Minute)
		r.stop(5 * time.Second)
		close(r.pcscd.hung)
	}, func(cfg *setup) { cfg.pcscd.hung = make(chan struct{}) })
}

// withBankState has the server come back with the feature.
func (r *rig) withBankState() (maps []slot.Map, infos map[uint16]rspro.SlotInfo) {
	r.t.Helper()
	r.features = rspro.BankState
	r.server.Close()
	r.accept()
	for last := false; !last; {
		m := testnet.Expect[*rspro.BankSlotmapsInd](r.server)
		maps, last = append(maps, m.Maps...), m.Last
	}
	return maps, r.infos()
}

// infos takes what the server is told of slots now.
func (r *rig) infos() map[uint16]rspro.SlotInfo {
	r.t.Helper()
	infos := make(map[uint16]rspro.SlotInfo)
	synctest.Wait()
	for {
		pdu, ok := r.server.Poll(time.Millisecond)
		if !ok {
			return infos
		}
		m, ok := pdu.Msg.(*rspro.BankSlotInfoInd)
		if !ok {
			continue
		}
		if len(m.Slots) == 0 {
			r.t.Error("empty bankSlotInfoInd")
		}
		for _, i := range m.Slots {
			infos[i.Slot] = i
		}
	}
}

func TestBankState(t *testing.T) {
	simulate(t, func(r *rig) {
		r.create(c23, 5)
		r.create(c42, 1)
		maps, infos := r.withBankState()
		if want := []slot.Map{{Client: c42, Bank: slot.Bank{ID: 1, Slot: 1}}, {Client: c23, Bank: slot.Bank{ID: 1, Slot: 5}}}; !slices.Equal(maps, want) {
			t.Errorf("maps: %v, want %v", maps, want)
		}
		if len(infos) != slots {
			t.Errorf("%d slots: %v", len(infos), infos)
		}
		for nr, i := range infos {
			if want := (rspro.SlotInfo{Slot: nr, Present: true, Reader: readerName(int(nr)), ATR: testATR}); !sameInfo(i, want) {
				t.Errorf("told: %+v, want %+v", i, want)
			}
		}

		// Free and mapped slots are told as they change, once.
		want := func(what string, infos ...rspro.SlotInfo) {
			t.Helper()
			got := r.infos()
			if len(got) != len(infos) {
				t.Errorf("%s: told %+v, want %d slots", what, got, len(infos))
			}
			for _, i := range infos {
				if !sameInfo(got[i.Slot], i) {
					t.Errorf("%s: told %+v, want %+v", what, got[i.Slot], i)
				}
			}
		}
		r.pcscd.pull(7)
		want("free slot, pulled", rspro.SlotInfo{Slot: 7, Reader: readerName(7)})
		r.pcscd.insert(7, otherATR)
		want("inserted", rspro.SlotInfo{Slot: 7, Present: true, Reader: readerName(7), ATR: otherATR})
		r.pcscd.change(func(rs []Reader) []Reader { rs[7].Changes += 2; rs[7].ATR = make([]byte, 34); return rs })
		want("ATR of 34 bytes", rspro.SlotInfo{Slot: 7, Present: true, Reader: readerName(7)})
		m := r.connect(c23, 5)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		m.exchange(cmd...)
		want("served")
		r.cards[5].set(func(c *reader) { c.nextATR = otherATR })
		m.phys(true, slot.On)
		m.wantATR(otherATR)
		want("reset", rspro.SlotInfo{Slot: 5, Present: true, Reader: readerName(5), ATR: otherATR})
		r.cards[5].set(func(c *reader) { c.failWith = errors.New("reader is on fire") })
		m.command(cmd...)
		want("fault", rspro.SlotInfo{Slot: 5, Present: true, Reader: readerName(5), ATR: otherATR, Error: "reader is on fire"})
		r.cards[5].set(func(c *reader) { c.failWith = nil })
		r.connect(c23, 5).wantResult(rspro.OK)
		want("works again", rspro.SlotInfo{Slot: 5, Present: true, Reader: readerName(5), ATR: otherATR})
		r.pcscd.change(func([]Reader) []Reader { return nil })
		if got := r.infos(); len(got) != slots || got[0].Error != "pcscd doesn't answer" || got[0].Present {
			t.Errorf("no pcscd: told %+v", got)
		}

		// Whoever comes next is told all again.
		if _, infos := r.withBankState(); len(infos) != slots {
			t.Errorf("%d slots: %v", len(infos), infos)
		}
	})
}

// Many maps and slots with long texts go in several messages that each fit.
func TestBankStateOfManySlots(t *testing.T) {
	const many = 200
	simulate(t, func(r *rig) {
		for i := range uint16(many / 2) {
			r.create(slot.Client{ID: i}, i)
		}
		maps, infos := r.withBankState()
		if len(maps) != many/2 || len(infos) != many {
			t.Errorf("%d maps, %d slots", len(maps), len(infos))
		}
		for i := range uint16(many) {
			if got := infos[i]; got.Slot != i || len(got.Reader) < maxReader-2 || !utf8.ValidString(got.Reader) {
				t.Fatalf("slot %d: %+v", i, got)
			}
		}
	}, func(cfg *setup) {
		cfg.NumSlots = many
		var file strings.Builder
		cfg.pcscd.there = nil
		for i := range many {
			fmt.Fprintf(&file, "1,%d,^%d \n", i, i)
			name := fmt.Sprintf("%d %s", i, strings.Repeat("ü", 200))[:maxReader+i%2*20]
			cfg.pcscd.there = append(cfg.pcscd.there, Reader{Name: name, Present: true, ATR: make([]byte, maxATR)})
		}
		writeFile(t, cfg.SlotsFile, file.String())
	})
}

// No message of slots is larger than may be sent, whatever is in it.
func TestSlotInfosFit(t *testing.T) {
	long := rspro.SlotInfo{Slot: 1023, Present: true, Reader: strings.Repeat("r", maxReader), ATR: make([]byte, maxATR), Error: strings.Repeat("e", 255)}
	for _, i := range []rspro.SlotInfo{{}, {Slot: 1023}, {Reader: long.Reader}, {Error: long.Error}, {ATR: long.ATR}, long} {
		one := infoSize + len(i.Reader) + len(i.ATR) + len(i.Error)
		m := &rspro.BankSlotInfoInd{}
		for size := 0; len(m.Slots) < rspro.MaxSlots && size+one <= infosSize; size += one {
			m.Slots = append(m.Slots, i)
		}
		b, err := rspro.PDU{Version: rspro.Version, Msg: m}.Append(nil)
		if err != nil || len(b) > link.MaxPDU || len(m.Slots) == 0 {
			t.Errorf("%d slots in %d bytes, %v", len(m.Slots), len(b), err)
		}
	}
}

func TestNoBankState(t *testing.T) {
	simulate(t, func(r *rig) {
		r.pcscd.pull(0)
		r.create(c23, 0)
		r.server.Quiet(time.Minute)
	})
}

// A client that wants it gets an ATR after every reset it asked for, the same or not.
func TestATRAfterEveryReset(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.patient(c23, 0)
		for range 3 {
			m.phys(true, slot.On)
			m.wantATR(testATR)
			m.phys(false, slot.On)
			m.exchange(cmd...)
			m.phys(false, slot.Off)
			m.wantATR(testATR)
			m.phys(false, slot.On)
		}
		m.Quiet(time.Second)
	})
}

// What a card answers to a command from before a reset comes before the PONG to a PING
// from after it, or never.
func TestNoAnswerPassesReset(t *testing.T) {
	simulate(t, func(r *rig) {
		r.create(c23, 0)
		nc, err := r.clients.Dial(t.Context(), netip.MustParseAddrPort(bankdAddr))
		if err != nil {
			t.Fatal(err)
		}
		defer nc.Close()
		write := func(b []byte) {
			t.Helper()
			if _, err := nc.Write(b); err != nil {
				t.Fatal(err)
			}
		}
		pdu := func(m rspro.Message) rspro.PDU { return rspro.PDU{Version: rspro.Version, Msg: m} }
		write(testnet.Frames(t, pdu(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c23})))
		bank := slot.Bank{ID: 1}
		frames := ipa.NewReader(nc)
		answers, fenced, ready := 0, false, false
		for i := uint32(0); i < 500; {
			s, b, err := frames.Next()
			if err != nil {
				t.Fatal(err)
			}
			if s == ipa.CCM {
				if ipa.Type(b[0]) != ipa.Pong || !ready {
					continue
				}
				fenced = true
			} else if p, err := rspro.Decode(b); err != nil {
				t.Fatal(err)
			} else if m, ok := p.Msg.(*rspro.TpduCardToModem); ok {
				if n := binary.BigEndian.Uint32(m.Data); n != i {
					t.Fatalf("answer to command %d after the PONG", n)
				}
				answers++
			} else {
				ready = ready || p.Msg.Choice() == rspro.ChoiceSetAtrReq
				fenced = ready
			}
			if !fenced {
				continue
			}
			synctest.Wait() // a late answer would come now
			i++
			fenced = false
			command := append(binary.BigEndian.AppendUint32(nil, i), 0)
			write(testnet.Frames(t, pdu(&rspro.TpduModemToCard{From: c23, To: bank, Data: command})))
			for range i % 40 { // meets the answer sooner or later
				runtime.Gosched()
			}
			write(ipa.AppendCCM(testnet.Frames(t,
				pdu(&rspro.ClientSlotStatusInd{From: c23, To: bank, Phys: slot.Phys{Reset: true, VCC: slot.On}}),
				pdu(&rspro.ClientSlotStatusInd{From: c23, To: bank, Phys: slot.Phys{VCC: slot.On}}),
			), ipa.Ping))
		}
		t.Logf("%d of 500 commands were answered", answers)
	})
}

// While readers, cards and pcscd come and go and cards fail, no command gets another's answer, and
// in the end all slots serve.
func TestReaderStorm(t *testing.T) {
	simulate(t, func(r *rig) {
		const clients = 4
		var all sync.WaitGroup
		stop := make(chan struct{})
		answers := make([]int, clients)
		for i := range uint16(clients) {
			r.cards[i].set(func(c *reader) { c.delay = time.Duration(2+i) * time.Millisecond })
			m := r.patient(slot.Client{ID: i}, i)
			all.Go(func() { answers[i] = m.chatter(stop) })
		}
		rnd := rand.New(rand.NewPCG(1, 2))
		for range 300 {
			time.Sleep(time.Duration(rnd.IntN(40)) * time.Millisecond)
			nr := rnd.IntN(clients)
			var were []Reader
			switch rnd.IntN(6) {
			case 0, 1:
				r.pcscd.pull(nr)
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				r.pcscd.insert(nr, testATR)
			case 2:
				r.pcscd.change(func(rs []Reader) []Reader { rs[nr].Changes += 2; return rs })
			case 3:
				r.pcscd.change(func(rs []Reader) []Reader { were = rs; return nil })
				r.pcscd.change(func([]Reader) []Reader { return were })
			case 4:
				r.pcscd.change(func(rs []Reader) []Reader { were = slices.Clone(rs); return slices.Delete(rs, nr, nr+1) })
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				r.pcscd.change(func([]Reader) []Reader { return were })
			case 5:
				r.cards[nr].set(func(c *reader) { c.failWith = ErrMute })
				time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
				r.cards[nr].set(func(c *reader) { c.failWith = nil })
			}
		}
		time.Sleep(retryAfter + time.Second)
		close(stop)
		all.Wait()
		for i, n := range answers {
			r.wantSlot(uint16(i), fmt.Sprintf("CARD, client C%d:0", i))
			if n < 500 {
				t.Errorf("client %d got %d answers", i, n)
			}
		}
	})
}

// chatter is a client that sends one command after the other until stop. It returns the
// number of answers.
func (m *modem) chatter(stop <-chan struct{}) (answers int) {
	var pending []byte
	card := true
	for n := uint32(0); ; {
		select {
		case <-stop:
			return answers
		default:
		}
		if card && pending == nil {
			n++
			pending = binary.BigEndian.AppendUint32([]byte{0}, n)
			if err := m.Post(rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduModemToCard{From: m.slot, To: m.bank, Data: pending}}); err != nil {
				m.t.Errorf("%v: %v", m.slot, err)
				return answers
			}
		}
		pdu, ok := m.Poll(time.Second)
		if !ok {
			continue
		}
		switch x := pdu.Msg.(type) {
		case *rspro.TpduCardToModem:
			if !bytes.Equal(x.Data, append(bytes.Clone(pending), 0x90, 0)) {
				m.t.Errorf("%v: answer %x to command %x", m.slot, x.Data, pending)
			}
			pending = nil
			answers++
		case *rspro.BankSlotStatusInd:
			if x.Phys.Card == slot.Off {
				card, pending = false, nil
			}
		case *rspro.SetAtrReq:
			card = true
			if err := m.Post(rspro.PDU{Version: rspro.Version, Tag: pdu.Tag, Msg: &rspro.SetAtrRes{}}); err != nil {
				m.t.Errorf("%v: %v", m.slot, err)
			}
		default:
			m.t.Errorf("%v: got %v", m.slot, pdu.Msg.Choice())
		}
	}
}
