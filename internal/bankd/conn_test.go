// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"net/netip"
	"os"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func writeFile(t testing.TB, name, content string) {
	t.Helper()
	if err := os.WriteFile(name, []byte(content), 0o600); err != nil {
		t.Fatal(err)
	}
}

func TestIdentifyWithin10s(t *testing.T) {
	simulate(t, func(r *rig) {
		start := time.Now()
		m := r.dial(c23, 0)
		m.ExpectEnd(time.Minute)
		if d := time.Since(start); d != 10*time.Second {
			t.Errorf("closed after %v, want 10s", d)
		}
		r.wantLog(logrus.WarnLevel, "it didn't say who it is", "10.0.0.3")
	})
}

// Connections cost no slot before they are mapped.
func TestConnectionsCostNoSlot(t *testing.T) {
	simulate(t, func(r *rig) {
		for i := range 3 * slots {
			r.dial(slot.Client{}, 0) // silent
			r.connect(slot.Client{ID: uint16(100 + i)}, 0).wantResult(rspro.CardNotPresent)
		}
		for i := range uint16(slots) {
			r.session(slot.Client{ID: i}, i).exchange(cmd...)
		}
	})
}

// Where there are too many connections, those with maps stay.
func TestMaxConnections(t *testing.T) {
	simulate(t, func(r *rig) {
		one := r.session(c23, 0)
		silent := r.dial(c42, 1)
		synctest.Wait()
		unmapped := r.connect(slot.Client{ID: 7}, 1)
		unmapped.wantResult(rspro.CardNotPresent)
		silent.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "there are too many connections", "10.0.0.3")
		two := r.session(c42, 1)
		unmapped.ExpectEnd(time.Second)
		r.dial(c42, 1).ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "refused", "there are 2 connections already, all with maps", "10.0.0.3")
		one.exchange(cmd...)
		two.Close()
		synctest.Wait()
		r.connect(c42, 1).wantResult(rspro.OK)
	}, func(cfg *setup) { cfg.MaxConnections = 2 })
}

// Strangers that hold all connections there may be keep nobody out who has a map.
func TestStrangersMakeRoom(t *testing.T) {
	simulate(t, func(r *rig) {
		const limit = 2*slots + 64
		r.create(c23, 0)
		other := r.patient(c42, 1)
		r.pcscd.pull(1) // it waits for its card, and has a map
		other.wantCard(slot.Off)
		r.wantError(1, "it was pulled")
		var strangers []*modem
		for i := range limit {
			m := r.connect(slot.Client{ID: uint16(100 + i)}, 0)
			m.wantResult(rspro.CardNotPresent)
			strangers = append(strangers, m)
		}
		m := r.connect(c23, 0)
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		m.exchange(cmd...)
		for i, s := range strangers {
			if i < 2 {
				s.ExpectEnd(time.Second)
			} else {
				s.Quiet(0)
			}
		}
		r.pcscd.insert(1, testATR)
		other.wantCardBack(testATR)
		other.exchange(cmd...)
		// One that has left its place may be mapped when it comes back.
		r.create(strangers[0].slot, 2)
		again := r.connect(strangers[0].slot, 2)
		again.wantResult(rspro.OK)
	})
}

// A second connection of a client is refused while the first is alive.
func TestIdentityInUse(t *testing.T) {
	simulate(t, func(r *rig) {
		old := r.session(c23, 0)
		m := r.connect(c23, 0)
		m.wantResult(rspro.IdentityInUse)
		start := time.Now()
		m.ExpectEnd(time.Minute)
		if d := time.Since(start); d != time.Second {
			t.Errorf("closed after %v, want 1s", d)
		}
		old.exchange(cmd...)
	})
}

// A first connection that is half-dead makes room after 2 s.
func TestIdentityOfDeadConnection(t *testing.T) {
	simulate(t, func(r *rig) {
		old := r.session(c23, 0)
		synctest.Wait() // the PONG for its first PING has come
		old.Mute(true)
		start := time.Now()
		m := r.connect(c23, 0)
		m.wantResult(rspro.OK)
		if d := time.Since(start); d != 2*time.Second {
			t.Errorf("accepted after %v, want 2s", d)
		}
		m.wantATR(testATR)
		old.ExpectEnd(time.Second)
		r.wantCounts(0, 2, 1)
		m.exchange(cmd...)
	})
}

// Who has said in time who it is may have to wait longer than that for its name.
func TestIdentifyLateAndContest(t *testing.T) {
	simulate(t, func(r *rig) {
		old := r.session(c23, 0)
		synctest.Wait() // the PONG for its first PING has come
		old.Mute(true)
		m := r.dial(c23, 0)
		time.Sleep(9 * time.Second)
		m.hello()
		m.wantResult(rspro.OK)
		m.wantATR(testATR)
		m.exchange(cmd...)
	})
}

// Both may vanish while the first one is asked whether it is alive.
func TestIdentityContestAbandoned(t *testing.T) {
	simulate(t, func(r *rig) {
		old := r.session(c23, 0)
		synctest.Wait() // the PONG for its first PING has come
		old.Mute(true)
		m := r.connect(c23, 0)
		synctest.Wait()
		m.Close()
		old.Close()
		time.Sleep(5 * time.Second)
		m = r.connect(c23, 0)
		m.wantResult(rspro.OK)
	})
}

// A client that vanishes without a word gives its card back.
func TestDeadClient(t *testing.T) {
	simulate(t, func(r *rig) {
		r.session(c23, 0)
		r.clients.Down()
		time.Sleep(41 * time.Second) // a PING after 30 s, 10 s for its PONG
		r.wantCounts(0, 1, 1)
		r.wantLog(logrus.WarnLevel, "client=\"C23:0\"", "no PONG")
	})
}

// A client that leaves while its card works does no harm, whatever is in flight.
func TestClientCutWhileTransmitting(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		release := r.cards[0].hold()
		m.command(cmd...)
		synctest.Wait()
		r.clients.Cut()
		again := r.connect(c23, 0)
		again.Quiet(time.Second)
		release()
		again.wantResult(rspro.OK)
		again.wantATR(testATR)
		r.wantCounts(0, 2, 1)
		again.exchange(cmd...)
	})
}

func TestRefusedClients(t *testing.T) {
	for _, tt := range []struct {
		name string
		req  rspro.ConnectClientReq
		log  string
	}{
		{"no slot", rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client)}, "connectClientReq without client slot"},
		{"not a client", rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Bankd), Slot: &c23}, "remsimBankd testnet is connected to the data port of a bankd"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(r *rig) {
				m := r.dial(c23, 0)
				m.Send(&tt.req)
				m.wantResult(rspro.IllegalClientID)
				m.ExpectEnd(10 * time.Second)
				r.wantLog(logrus.WarnLevel, tt.log)
			})
		})
	}
}

func TestSecondConnectClientReq(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.session(c23, 0)
		m.hello()
		m.wantResult(rspro.IllegalClientID)
		m.ExpectEnd(time.Second)
		r.wantCounts(0, 1, 1)
	})
}

// Another bankd that takes us for a server learns who we are.
func TestBankdOnDataPort(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.dial(c23, 0)
		m.Send(&rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Bankd), BankID: 1, NumSlots: 8})
		if res := testnet.Expect[*rspro.ConnectBankRes](m.Peer); res.Identity.Type != rspro.Bankd || res.Result == rspro.OK {
			t.Errorf("connectBankRes: %+v", res)
		}
		m.ExpectEnd(time.Second)
		r.wantLog(logrus.WarnLevel, "remsim-bankd testnet is connected to the data port of a bankd")
	})
}

// What isn't RSPRO ends its connection with a line in the log, and nobody else's.
func TestGarbage(t *testing.T) {
	for _, tt := range []struct{ name, bytes string }{
		{"HTTP", "GET / HTTP/1.1\r\n\r\n"},
		{"TLS", "\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03"},
		{"empty RSPRO frame", "\x00\x00\xee"},
		{"empty CCM frame", "\x00\x00\xfe"},
		{"other stream", "\x00\x01\x00\x00"},
		{"other extension", "\x00\x02\xee\x05\x00"},
		{"no BER", "\x00\x04\xee\x07\xff\xff\xff"},
		{"long frame", "\xff\xff\xee\x07"},
	} {
		t.Run(tt.name, func(t *testing.T) {
			simulate(t, func(r *rig) {
				other := r.session(c23, 0)
				m := r.dial(c42, 0)
				m.Write([]byte(tt.bytes))
				m.ExpectEnd(time.Second)
				r.wantLog(logrus.WarnLevel, "connection ended", "10.0.0.3")
				other.exchange(cmd...)
			})
		})
	}
}

func TestProtocolVersion(t *testing.T) {
	simulate(t, func(r *rig) {
		m := r.dial(c23, 0)
		m.SendPDU(rspro.PDU{Version: 3, Msg: &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c23}})
		m.wantResult(rspro.UnsupportedProtocolVersion)
		m.ExpectEnd(time.Second)
		r.server.SendPDU(rspro.PDU{Version: 1, Msg: &rspro.CreateMappingReq{Client: c23, Bank: slot.Bank{ID: 1}}})
		if res := testnet.Expect[*rspro.CreateMappingRes](r.server); res.Result != rspro.UnsupportedProtocolVersion {
			t.Errorf("createMappingRes: %v", res.Result)
		}
		r.server.ExpectEnd(time.Second)
		r.accept()
	})
}

// messages returns one of each, as far as they are not a bankd's business in any
// state of either connection.
func messages() []rspro.Message {
	id := testnet.Identity(rspro.Client)
	bank, phys := slot.Bank{ID: 1}, slot.Phys{VCC: slot.On}
	return []rspro.Message{
		&rspro.ConnectBankRes{Identity: id},
		&rspro.ConnectClientRes{Identity: id},
		&rspro.CreateMappingRes{},
		&rspro.RemoveMappingRes{},
		&rspro.ConfigClientIDReq{Slot: c42},
		&rspro.ConfigClientIDRes{},
		&rspro.ConfigClientBankReq{Bank: bank, Bankd: netip.MustParseAddrPort("10.0.0.9:9")},
		&rspro.ConfigClientBankRes{},
		&rspro.SetAtrReq{Slot: c42, ATR: testATR},
		&rspro.SetAtrRes{},
		&rspro.TpduCardToModem{From: bank, To: c42, Data: []byte{0x90, 0}},
		&rspro.ClientSlotStatusInd{From: c42, To: bank, Phys: phys},
		&rspro.BankSlotStatusInd{From: bank, To: c42, Phys: phys},
		&rspro.ErrorInd{Sender: rspro.Client, Severity: rspro.Fatal, Code: 99, Text: "x"},
		&rspro.ResetStateRes{},
		&rspro.BankSlotmapsInd{Last: true},
		&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1}}},
		&rspro.Unknown{Number: 77, Body: []byte{1}},
	}
}

// Any message in any state is ignored with a log line, or ends the connection it came
// on; nothing else happens.
func TestUnexpectedMessages(t *testing.T) {
	bank := slot.Bank{ID: 1, Slot: 3}
	commands := []rspro.Message{
		&rspro.CreateMappingReq{Client: c42, Bank: bank},
		&rspro.RemoveMappingReq{Client: c23, Bank: slot.Bank{ID: 1}},
		&rspro.ResetStateReq{},
	}
	for _, m := range append(messages(), commands...) {
		t.Run("data port, "+m.Choice().String(), func(t *testing.T) {
			simulate(t, func(r *rig) {
				served := r.session(c23, 0)
				waiting := r.connect(slot.Client{ID: 7}, 0)
				waiting.wantResult(rspro.CardNotPresent)
				fresh := r.dial(slot.Client{ID: 8}, 0)
				for _, to := range []*modem{served, waiting, fresh} {
					to.Send(m)
					to.Quiet(time.Second)
				}
				r.wantSlot(0, "CARD, client C23:0")
				r.wantSlot(3, "FREE")
				served.exchange(cmd...)
				fresh.hello()
				fresh.wantResult(rspro.CardNotPresent)
			})
		})
	}
	requests := []rspro.Message{
		&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c42},
		&rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Bankd)},
		&rspro.TpduModemToCard{From: c23, To: slot.Bank{ID: 1}, Data: cmd},
	}
	for _, m := range append(messages(), requests...) {
		t.Run("control connection, "+m.Choice().String(), func(t *testing.T) {
			simulate(t, func(r *rig) {
				served := r.session(c23, 0)
				r.server.Send(m)
				r.server.Quiet(time.Second)
				served.exchange(cmd...)
				if _, _, _, cmds := r.cards[0].count(); cmds != 1 {
					t.Errorf("the card saw %d commands, want 1", cmds)
				}
			})
		})
	}
}

// Nobody fills the log with what has no place: 100 such messages within a minute end a
// connection, in whatever state.
func TestStrays(t *testing.T) {
	for _, m := range []rspro.Message{
		&rspro.ErrorInd{Sender: rspro.Client, Severity: rspro.Minor},
		&rspro.ClientSlotStatusInd{From: c42, To: slot.Bank{ID: 1}},
		&rspro.ResetStateReq{},
	} {
		t.Run(m.Choice().String(), func(t *testing.T) {
			simulate(t, func(r *rig) {
				other := r.session(c42, 1)
				served, fresh := r.session(c23, 0), r.dial(slot.Client{ID: 8}, 0)
				waiting := r.connect(slot.Client{ID: 7}, 0)
				waiting.wantResult(rspro.CardNotPresent)
				for _, from := range []*modem{served, waiting, fresh} {
					r.log.Reset()
					for range 99 {
						from.Send(m)
					}
					from.Quiet(0)
					from.Send(m)
					from.ExpectEnd(time.Second)
					synctest.Wait()
					if n := len(r.log.AllEntries()); n < 100 || n > 120 {
						t.Errorf("%d lines in the log", n)
					}
					r.wantLog(logrus.WarnLevel, "connection ended", link.ErrStrays.Error())
				}
				other.exchange(cmd...)
			})
		})
	}
	t.Run("server", func(t *testing.T) {
		simulate(t, func(r *rig) {
			served := r.session(c23, 0)
			for range 100 {
				r.server.Send(&rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Server)})
			}
			r.server.ExpectEnd(time.Second)
			r.accept()
			r.log.Reset()
			for range 2000 {
				r.server.Send(&rspro.ErrorInd{Sender: rspro.Server, Severity: rspro.Minor})
			}
			synctest.Wait()
			if n := len(r.log.AllEntries()); n < 1000 || n > 1210 {
				t.Errorf("%d lines in the log", n)
			}
			served.exchange(cmd...)
		})
	})
}

// Frames may be split anywhere, and come together.
func TestSplitFrames(t *testing.T) {
	simulate(t, func(r *rig) {
		r.clients.Fragment(1)
		m := r.session(c23, 0)
		m.exchange(cmd...)
		b := testnet.Frames(t,
			rspro.PDU{Version: rspro.Version, Msg: &rspro.ClientSlotStatusInd{From: m.slot, To: m.bank, Phys: slot.Phys{Reset: true, VCC: slot.On}}},
			rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduModemToCard{From: m.slot, To: m.bank, Data: cmd}})
		for _, x := range b {
			m.Write([]byte{x})
			synctest.Wait()
		}
		m.wantResponse(append(append([]byte{}, cmd...), 0x90, 0)...)
		if _, _, resets, _ := r.cards[0].count(); resets != 1 {
			t.Errorf("%d resets", resets)
		}
	})
}
