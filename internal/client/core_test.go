// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"bytes"
	"context"
	"errors"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// A bench is a Core between fake peers; its modem's side stands still until seen is called.
type bench struct {
	*Core
	server, bankd *fakePeer
	modem         journal
}

func newBench(t *testing.T, cfg Config) *bench {
	b := &bench{server: &fakePeer{}, bankd: &fakePeer{pong: make(chan bool)}}
	if cfg.ATR == nil {
		cfg.ATR = ownATR
	}
	cfg.Script = "script"
	b.Core = New(cfg, Env{Log: quiet()}, recorder{&b.modem})
	t.Cleanup(func() { b.configure(nil) }) // stops the timers of a session
	return b
}

// seen returns what the modem's side sees, scripts by their causes.
func (b *bench) seen() string {
	for _, s := range b.Core.modem.waiting {
		if s.cause != noScript {
			b.modem.add("%s", s.cause)
		}
		if s.do != nil {
			s.do(context.Background())
		}
	}
	b.Core.modem.waiting = nil
	return b.modem.take()
}

// all returns state, what was sent to server and bankd, and what the modem's side saw.
func (b *bench) all() [4]string {
	return [4]string{b.State().String(), b.server.take(), b.bankd.take(), b.seen()}
}

var (
	addr1 = netip.MustParseAddrPort("192.0.2.1:9999")
	addr2 = netip.MustParseAddrPort("192.0.2.2:9999")
	none  = netip.MustParseAddrPort("0.0.0.0:0")
)

func pdu(m rspro.Message) rspro.PDU { return rspro.PDU{Version: rspro.Version, Tag: 7, Msg: m} }

func (b *bench) told(bank slot.Bank, a netip.AddrPort) {
	b.fromServer(b.server, pdu(&rspro.ConfigClientBankReq{Bank: bank, Bankd: a}))
}

func (b *bench) accepted(t *testing.T) {
	t.Helper()
	if err := b.bankdUp(b.bankd, b.target, &rspro.ConnectClientRes{}); err != nil {
		t.Fatal(err)
	}
}

// staying is a client that a bankd without a card for it has stay.
func staying(t *testing.T) *bench {
	t.Helper()
	b := reach(t, WaitBankd)
	res := &rspro.ConnectClientRes{Result: rspro.CardNotPresent, Features: rspro.LateAtr}
	if err := b.bankdUp(b.bankd, b.target, res); err != nil {
		t.Fatal(err)
	}
	return b
}

func (b *bench) atr() {
	b.fromBankd(b.bankd, pdu(&rspro.SetAtrReq{Slot: me, ATR: cardATR}))
}

// reach brings a new client to a state.
func reach(t *testing.T, to State) *bench {
	b := newBench(t, Config{Slot: me})
	if to >= Unconfigured {
		b.serverUp()
	}
	if to >= WaitBankd {
		b.told(here, addr1)
	}
	if to >= Operational {
		b.accepted(t)
		b.atr()
	}
	if b.State() != to {
		t.Fatalf("state %v, want %v", b.State(), to)
	}
	b.all()
	return b
}

const (
	entering = "ATR(3b00,false) request-sim-remote Remote(true) request-card-insert Insert request-modem-reset ResetModem event-bankd-connect"
	leaving  = "request-card-remove Remove request-sim-local Remote(false) request-modem-reset ResetModem"
)

// TestTransitions has every event in every state.
func TestTransitions(t *testing.T) {
	type outcome = [4]string // state, to the server, to the bankd, on the modem's side
	const init, unconf, wait, oper = "INIT", "UNCONFIGURED", "WAIT_BANKD", "OPERATIONAL"
	server := func(m rspro.Message) func(*bench) {
		return func(b *bench) { b.fromServer(b.server, pdu(m)) }
	}
	bankd := func(m rspro.Message) func(*bench) {
		return func(b *bench) { b.fromBankd(b.bankd, pdu(m)) }
	}
	// same says that an event changes nothing, and what becomes of the connections.
	same := func(conns ...string) [4]outcome {
		o := [4]outcome{{init}, {unconf}, {wait}, {oper}}
		for i := range o {
			copy(o[i][1:], conns)
		}
		return o
	}
	const (
		bankOK = "7:configClientBankRes(ok)"
		idOK   = "7:configClientIdRes(ok)"
		atrOK  = "7:setAtrRes(ok)"
		reset  = "7:resetStateRes(ok)"
		noID   = "7:configClientBankRes(illegalClientId) stray(configClientBankReq: we have no identity yet)"
	)
	for _, tc := range []struct {
		name  string
		event func(*bench)
		want  [4]outcome // in INIT, UNCONFIGURED, WAIT_BANKD, OPERATIONAL
	}{
		{"server up", func(b *bench) { b.serverUp() }, [4]outcome{
			{unconf, "", "", "event-server-connect"},
			{unconf, "", "", "event-server-connect"},
			{wait, "", "", "event-server-connect"},
			{oper, "", "", "event-server-connect"}}},
		{"server lost", func(b *bench) { b.serverState(link.ReestablishDelay) }, same("")},
		{"bankd told again", func(b *bench) { b.told(here, addr1) }, [4]outcome{
			{init, noID},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", "event-config-bankd"},
			{oper, bankOK, "", ""}}},
		{"same address, mapped into IPv6", func(b *bench) {
			b.told(here, netip.MustParseAddrPort("[::ffff:192.0.2.1]:9999"))
		}, [4]outcome{
			{init, noID},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", "event-config-bankd"},
			{oper, bankOK, "", ""}}},
		{"other bank slot told", func(b *bench) { b.told(there, addr1) }, [4]outcome{
			{init, noID},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", leaving + " event-config-bankd"}}},
		{"other bankd told", func(b *bench) { b.told(here, addr2) }, [4]outcome{
			{init, noID},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", "event-config-bankd"},
			{wait, bankOK, "", leaving + " event-config-bankd"}}},
		{"no bankd", func(b *bench) { b.told(slot.Bank{}, none) }, [4]outcome{
			{init, noID},
			{unconf, bankOK, "", "event-config-bankd"},
			{unconf, bankOK, "", "event-config-bankd"},
			{unconf, bankOK, "", leaving + " event-config-bankd"}}},
		{"reset", server(&rspro.ResetStateReq{}), [4]outcome{
			{init, reset, "", ""}, {unconf, reset, "", ""}, {unconf, reset, "", ""}, {unconf, reset, "", leaving}}},
		{"id, the same", server(&rspro.ConfigClientIDReq{Slot: me}), same(idOK)},
		{"id, another", server(&rspro.ConfigClientIDReq{Slot: slot.Client{ID: 24}}), [4]outcome{
			{init, idOK, "", ""}, {unconf, idOK, "", ""}, {unconf, idOK, "", ""}, {unconf, idOK, "", leaving}}},
		{"server reports an error", server(&rspro.ErrorInd{Text: "x"}), same("")},
		{"a bankd's message from the server", server(&rspro.SetAtrReq{Slot: me, ATR: cardATR}),
			same("stray(setAtrReq: not of a server)")},
		{"a TPDU from the server", server(&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x90, 0}}),
			same("stray(tpduCardToModem: not of a server)")},
		{"a client's message from the server", server(&rspro.ConnectClientReq{}),
			same("stray(connectClientReq: not of a server)")},

		{"bankd lost", func(b *bench) { b.bankdDown(b.target) }, [4]outcome{
			{init}, {unconf}, {wait}, {wait, "", "", leaving}}},
		{"ATR", bankd(&rspro.SetAtrReq{Slot: me, ATR: cardATR}), [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", atrOK, "ATR(3b021450,true)"}}},
		{"ATR for another slot", bankd(&rspro.SetAtrReq{Slot: slot.Client{ID: 9}, ATR: cardATR}), [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", "7:setAtrRes(illegalSlotId) stray(setAtrReq: ATR for C9:0)"}}},
		{"answer to nothing", bankd(&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x90, 0}}), [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", "stray(tpduCardToModem: answer without a command)"}}},
		{"card gone", bankd(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}}), [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", "", "request-card-remove Remove"}}},
		{"another's card gone", bankd(&rspro.BankSlotStatusInd{From: there, To: me, Phys: slot.Phys{Card: slot.Off}}), [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", "stray(bankSlotStatusInd: status of B1:6 for C23:1)"}}},
		{"card's slot reset", bankd(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Reset: true}}), same("")},
		{"bankd reports an error", bankd(&rspro.ErrorInd{}), same("")},
		{"a server's message from the bankd", bankd(&rspro.ResetStateReq{}),
			same("", "stray(resetStateReq: not of a bankd)")},

		{"modem's status", func(b *bench) { b.Status(slot.Phys{VCC: slot.On, CLK: slot.On}) }, [4]outcome{
			{init}, {unconf}, {wait}, {oper, "", "status(RST=0 VCC=1 CLK=1 CARD=?)", "event-modem-status"}}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			for state := Init; state <= Operational; state++ {
				b := reach(t, state)
				tc.event(b)
				if got := b.all(); got != tc.want[state] {
					t.Errorf("in %v:\n got %q\nwant %q", state, got, tc.want[state])
				}
			}
		})
	}
}

func TestEnter(t *testing.T) {
	b := reach(t, WaitBankd)
	b.accepted(t)
	if got, want := b.all(), [4]string{"OPERATIONAL", "", "", entering}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	// After the loss the modem gets its own ATR again, then the bankd's.
	b.atr()
	b.bankdDown(b.target)
	b.seen()
	b.accepted(t)
	b.atr()
	if got, want := b.seen(), strings.TrimSuffix(entering, " event-bankd-connect")+" ATR(3b021450,true) event-bankd-connect"; got != want {
		t.Errorf("second time: got %q, want %q", got, want)
	}
}

// TestRefused: whatever isn't ok ends the connection, but for cardNotPresent of a bankd that
// serves those who stay.
func TestRefused(t *testing.T) {
	for _, tc := range []struct {
		result   rspro.ResultCode
		features rspro.Features
		stays    bool
	}{
		{rspro.CardNotPresent, rspro.LateAtr, true},
		{rspro.CardNotPresent, ^rspro.Features(0), true},
		{rspro.CardNotPresent, 0, false},
		{rspro.CardNotPresent, ^rspro.LateAtr, false},
		{rspro.CardUnresponsive, rspro.LateAtr, false},
		{rspro.IdentityInUse, rspro.LateAtr, false},
		{200, rspro.LateAtr, false},
	} {
		b := reach(t, WaitBankd)
		err := b.bankdUp(b.bankd, b.target, &rspro.ConnectClientRes{Result: tc.result, Features: tc.features})
		if refused, _ := errors.AsType[*link.RefusedError](err); tc.stays != (err == nil) || !tc.stays && refused == nil {
			t.Errorf("%v with features %b: error %v, want to stay: %v", tc.result, tc.features, err, tc.stays)
		}
		if got, want := b.all(), [4]string{"WAIT_BANKD", "", "", ""}; got != want {
			t.Errorf("%v with features %b: got %q, want %q", tc.result, tc.features, got, want)
		}
	}
}

// TestStaying has the events of a client that stays with a bankd which has no card for it.
func TestStaying(t *testing.T) {
	const bankOK = "7:configClientBankRes(ok)"
	bankd := func(m rspro.Message) func(*bench) {
		return func(b *bench) { b.fromBankd(b.bankd, pdu(m)) }
	}
	for _, tc := range []struct {
		name  string
		event func(*bench)
		want  [4]string // state, to the server, to the bankd, on the modem's side
	}{
		{"ATR", (*bench).atr, [4]string{"OPERATIONAL", "", "7:setAtrRes(ok)",
			strings.TrimSuffix(entering, " event-bankd-connect") + " ATR(3b021450,true) event-bankd-connect"}},
		{"ATR after the modem's status", func(b *bench) {
			b.Status(slot.Phys{VCC: slot.On, CLK: slot.On})
			if got := b.bankd.take(); got != "" {
				t.Errorf("told the bankd %q", got)
			}
			b.atr()
		}, [4]string{"OPERATIONAL", "", "status(RST=0 VCC=1 CLK=1 CARD=?) 7:setAtrRes(ok)",
			strings.TrimSuffix(entering, " event-bankd-connect") + " ATR(3b021450,true) event-bankd-connect"}},
		{"ATR for another slot", bankd(&rspro.SetAtrReq{Slot: slot.Client{ID: 9}, ATR: cardATR}),
			[4]string{"WAIT_BANKD", "", "7:setAtrRes(illegalSlotId) stray(setAtrReq: ATR for C9:0)", ""}},
		{"modem's status", func(b *bench) { b.Status(slot.Phys{VCC: slot.Off}) }, [4]string{"WAIT_BANKD", "", "", ""}},
		{"card gone", bankd(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}}),
			[4]string{"WAIT_BANKD", "", "", ""}},
		{"answer to nothing", bankd(&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x90, 0}}),
			[4]string{"WAIT_BANKD", "", "stray(tpduCardToModem: answer without a command)", ""}},
		{"bankd told again", func(b *bench) { b.told(here, addr1) }, [4]string{"WAIT_BANKD", bankOK, "", ""}},
		{"other bank slot told", func(b *bench) { b.told(there, addr1) },
			[4]string{"WAIT_BANKD", bankOK, "", "event-config-bankd"}},
		{"no bankd", func(b *bench) { b.told(slot.Bank{}, none) },
			[4]string{"UNCONFIGURED", bankOK, "", "event-config-bankd"}},
		{"reset", func(b *bench) { b.fromServer(b.server, pdu(&rspro.ResetStateReq{})) },
			[4]string{"UNCONFIGURED", "7:resetStateRes(ok)", "", ""}},
		{"bankd lost", func(b *bench) { b.bankdDown(b.target) }, [4]string{"WAIT_BANKD", "", "", ""}},
		{"bankd lost, and accepts us when it is back", func(b *bench) {
			b.bankdDown(b.target)
			b.accepted(t)
		}, [4]string{"OPERATIONAL", "", "", entering}},
		{"ATR of a bankd that is left", func(b *bench) {
			b.told(there, addr1)
			b.all()
			b.atr()
		}, [4]string{"WAIT_BANKD", "", "", ""}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := staying(t)
			tc.event(b)
			if got := b.all(); got != tc.want {
				t.Errorf("\n got %q\nwant %q", got, tc.want)
			}
			if b.State() == Operational {
				return
			}
			if _, err := b.Transmit(t.Context(), selectC); !errors.Is(err, ErrNoCard) {
				t.Errorf("Transmit: %v, want %v", err, ErrNoCard)
			}
		})
	}
}

func TestAcceptedTooLate(t *testing.T) {
	b := reach(t, WaitBankd)
	old := b.target
	b.told(there, addr2)
	if err := b.bankdUp(b.bankd, old, &rspro.ConnectClientRes{}); err == nil {
		t.Error("accepted by a bankd that is no longer ours")
	}
	if b.State() != WaitBankd {
		t.Errorf("state %v", b.State())
	}
	// Its end means nothing either.
	b.accepted(t)
	b.all()
	b.bankdDown(old)
	if got, want := b.all(), [4]string{"OPERATIONAL", "", "", ""}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestOldSessionIsVoid(t *testing.T) {
	b := reach(t, Operational)
	old := b.bankd
	b.told(there, addr2)
	b.bankd = &fakePeer{}
	b.accepted(t)
	b.all()
	b.fromBankd(old, pdu(&rspro.SetAtrReq{Slot: me, ATR: cardATR}))
	b.fromBankd(old, pdu(&rspro.BankSlotStatusInd{From: there, To: me, Phys: slot.Phys{Card: slot.Off}}))
	if got := old.take(); got != "" {
		t.Errorf("answered the old bankd: %s", got)
	}
	if got, want := b.all(), [4]string{"OPERATIONAL", "", "", ""}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if _, err := b.Transmit(t.Context(), selectC); !errors.Is(err, ErrNoCard) {
		t.Errorf("Transmit: %v, want %v", err, ErrNoCard)
	}
}

func TestKeepATR(t *testing.T) {
	b := newBench(t, Config{Slot: me, ATR: []byte{0x3b, 0x9f, 0x01}, KeepATR: true})
	b.serverUp()
	b.told(here, addr1)
	b.accepted(t)
	b.all()
	b.atr()
	if got, want := b.all(), [4]string{"OPERATIONAL", "", "7:setAtrRes(ok)", "ATR(3b9f01,true)"}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestCardComesBack(t *testing.T) {
	b := reach(t, Operational)
	gone := &rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}}
	b.fromBankd(b.bankd, pdu(gone))
	b.fromBankd(b.bankd, pdu(gone))
	if _, err := b.Transmit(t.Context(), selectC); !errors.Is(err, ErrNoCard) {
		t.Errorf("without a card: %v, want %v", err, ErrNoCard)
	}
	b.atr()
	if got, want := b.seen(), "request-card-remove Remove ATR(3b021450,true) request-card-insert Insert"; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
}

// A command to a card never reaches the next one, also while the modem's side hasn't seen that it has gone.
func TestTransmitTo(t *testing.T) {
	off := pdu(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
	for name, next := range map[string]func(*testing.T, *bench){
		"another card": func(_ *testing.T, b *bench) {
			b.fromBankd(b.bankd, off)
			b.atr()
		},
		"another connection": func(t *testing.T, b *bench) {
			b.bankdDown(b.target)
			b.accepted(t)
			b.atr()
		},
		"another map": func(t *testing.T, b *bench) {
			b.told(there, addr1)
			b.accepted(t)
			b.atr()
		},
		"while it waits for an answer": func(t *testing.T, b *bench) {
			ctx, cancel := context.WithCancel(t.Context())
			abandoned := b.transmit(ctx, selectC)
			cancel()
			(<-abandoned).check(t, nil, context.Canceled)
			waiting := b.transmitTo(t.Context(), b.modem.card, selectC)
			b.bankd.take()
			b.mu.Lock() // so that all is over when it wakes up
			b.session.drop()
			b.cards++
			b.mu.Unlock()
			(<-waiting).check(t, nil, ErrNoCard)
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := newBench(t, Config{Slot: me})
				b.serverUp()
				b.told(here, addr1)
				b.accepted(t)
				b.atr()
				b.atr() // after a reset: the same card
				b.all()
				first := b.modem.card
				done := b.transmitTo(t.Context(), first, selectC)
				b.answer(0x9f, 0x17)
				(<-done).check(t, []byte{0x9f, 0x17}, nil)

				next(t, b)
				b.bankd.take()
				if _, err := b.TransmitTo(t.Context(), first, selectC); !errors.Is(err, ErrNoCard) {
					t.Errorf("to the card before: %v, want %v", err, ErrNoCard)
				}
				if got := b.bankd.take(); got != "" {
					t.Errorf("sent %q", got)
				}
			})
		})
	}
}

func TestAuto(t *testing.T) {
	b := newBench(t, Config{Auto: true})
	hello := func() *slot.Client { return b.serverCaller().Hello().(*rspro.ConnectClientReq).Slot }
	if s := hello(); s != nil {
		t.Errorf("presents itself as %v", s)
	}
	b.serverUp()
	b.told(here, addr1)
	if got, want := b.all(), [4]string{"UNCONFIGURED", "7:configClientBankRes(illegalClientId) stray(configClientBankReq: we have no identity yet)",
		"", "event-server-connect"}; got != want {
		t.Errorf("bankd before id: got %q, want %q", got, want)
	}
	b.fromServer(b.server, pdu(&rspro.ConfigClientIDReq{Slot: me}))
	b.told(here, addr1)
	if got, want := b.all(), [4]string{"WAIT_BANKD", "7:configClientIdRes(ok) 7:configClientBankRes(ok)", "", "event-config-bankd"}; got != want {
		t.Errorf("got %q, want %q", got, want)
	}
	if s := hello(); s == nil || *s != me {
		t.Errorf("presents itself as %v when it comes back, want %v", s, me)
	}
	if s := b.bankdCaller(b.target).Hello().(*rspro.ConnectClientReq).Slot; *s != me {
		t.Errorf("presents itself to the bankd as %v, want %v", s, me)
	}
}

// TestAssignedToOthers: an assigned slot that others have is given up at the second refusal in a row.
func TestAssignedToOthers(t *testing.T) {
	const inUse, other = rspro.IdentityInUse, rspro.IllegalClientID
	for _, tc := range []struct {
		name    string
		auto    bool
		results []rspro.ResultCode
		keeps   bool
	}{
		{"once", true, []rspro.ResultCode{inUse}, true},
		{"twice", true, []rspro.ResultCode{inUse, inUse}, false},
		{"not in a row", true, []rspro.ResultCode{inUse, rspro.OK, inUse}, true},
		{"for other reasons", true, []rspro.ResultCode{other, other, other}, true},
		{"the user's", false, []rspro.ResultCode{inUse, inUse, inUse}, true},
	} {
		t.Run(tc.name, func(t *testing.T) {
			b := newBench(t, Config{Auto: tc.auto, Slot: me})
			server := b.serverCaller()
			b.serverUp()
			b.fromServer(b.server, pdu(&rspro.ConfigClientIDReq{Slot: me}))
			b.told(here, addr1)
			b.accepted(t)
			for _, r := range tc.results {
				err := server.Accept(nil, &rspro.ConnectClientRes{Result: r})
				if refused, _ := errors.AsType[*link.RefusedError](err); (r != rspro.OK) != (refused != nil) {
					t.Errorf("%v: %v", r, err)
				}
			}
			if s := server.Hello().(*rspro.ConnectClientReq).Slot; tc.keeps != (s != nil) || tc.keeps != b.Info().Assigned {
				t.Errorf("presents itself as %v, want to: %v", s, tc.keeps)
			}
			// With the bankd it is who it was, until it is another.
			b.all()
			b.atr()
			if got, want := b.all(), [4]string{"OPERATIONAL", "", "7:setAtrRes(ok)", "ATR(3b021450,true)"}; got != want {
				t.Errorf("session: got %q, want %q", got, want)
			}
			b.fromServer(b.server, pdu(&rspro.ConfigClientIDReq{Slot: me}))
			if got, want := b.all(), [4]string{"OPERATIONAL", "7:configClientIdRes(ok)", "", ""}; got != want {
				t.Errorf("the same id: got %q, want %q", got, want)
			}
			b.fromServer(b.server, pdu(&rspro.ConfigClientIDReq{Slot: slot.Client{ID: 1022}}))
			if got, want := b.all(), [4]string{"UNCONFIGURED", "7:configClientIdRes(ok)", "", leaving}; got != want {
				t.Errorf("another id: got %q, want %q", got, want)
			}
		})
	}
}

func TestStatus(t *testing.T) {
	on := slot.Phys{VCC: slot.On, CLK: slot.On}
	b := reach(t, WaitBankd)
	b.Status(slot.Phys{VCC: slot.Off, CLK: slot.Off})
	b.Status(on)
	b.accepted(t)
	if got, want := b.bankd.take(), "status(RST=0 VCC=1 CLK=1 CARD=?)"; got != want {
		t.Errorf("on entry: %q, want the last status, %q", got, want)
	}
	b.seen()
	for _, tc := range []struct {
		name      string
		p         slot.Phys
		told, ran string
	}{
		{"the same", on, "", ""},
		{"unknown is unchanged", slot.Phys{}, "", ""},
		{"CLK", slot.Phys{VCC: slot.On, CLK: slot.Off}, "status(RST=0 VCC=1 CLK=0 CARD=?)", "event-modem-status"},
		{"RST", slot.Phys{Reset: true, VCC: slot.On}, "status(RST=1 VCC=1 CLK=0 CARD=?)", "event-modem-status"},
		{"card only", slot.Phys{Reset: true, Card: slot.On}, "status(RST=1 VCC=1 CLK=0 CARD=1)", ""},
		{"VCC", slot.Phys{Reset: true, VCC: slot.Off}, "status(RST=1 VCC=0 CLK=0 CARD=1)", "event-modem-status"},
	} {
		b.Status(tc.p)
		if told, ran := b.bankd.take(), b.seen(); told != tc.told || ran != tc.ran {
			t.Errorf("%s: told %q, want %q; ran %q, want %q", tc.name, told, tc.told, ran, tc.ran)
		}
	}
}

// Status says whether an ATR follows: from a bankd that knows AtrAfterReset, after an edge that resets.
func TestStatusTellsATR(t *testing.T) {
	for _, tc := range []struct {
		name string
		to   func(*testing.T) *bench
		want []bool // after each of the steps
	}{
		{"no bankd", func(t *testing.T) *bench { return reach(t, Unconfigured) }, []bool{false, false, false, false, false}},
		{"C bankd", func(t *testing.T) *bench { return reach(t, Operational) }, []bool{false, false, false, false, false}},
		{"bankd without a card yet", staying, []bool{false, false, false, false, false}},
		{"bankd", func(t *testing.T) *bench {
			b := staying(t)
			b.atr()
			return b
		}, []bool{true, false, true, false, false}},
	} {
		b := tc.to(t)
		for i, p := range []slot.Phys{
			{Reset: true, VCC: slot.Off, CLK: slot.Off},
			{VCC: slot.On, CLK: slot.On},
			{Reset: true, VCC: slot.On, CLK: slot.On},
			{VCC: slot.On, CLK: slot.On},
			{VCC: slot.On, CLK: slot.Off},
		} {
			if got := b.Status(p); got != tc.want[i] {
				t.Errorf("%s: %v: %v", tc.name, p, got)
			}
		}
	}
}

func TestModemStatusCoalesced(t *testing.T) {
	b := reach(t, Operational)
	for range 1000 {
		b.Status(slot.Phys{VCC: slot.Off})
		b.Status(slot.Phys{VCC: slot.On, CLK: slot.On})
	}
	waiting := b.Core.modem.waiting
	if len(waiting) != 1 {
		t.Fatalf("%d scripts wait, want 1", len(waiting))
	}
	if vars := strings.Join(waiting[0].vars, " "); !strings.Contains(vars, "REMSIM_SIM_VCC=1") {
		t.Errorf("not the last status: %s", vars)
	}
}

// transmit runs Transmit in a goroutine and waits until the command is sent or waits.
func (b *bench) transmit(ctx context.Context, tpdu []byte) <-chan answer {
	return b.transmitTo(ctx, 0, tpdu)
}

func (b *bench) transmitTo(ctx context.Context, card Card, tpdu []byte) <-chan answer {
	done := make(chan answer, 1)
	go func() {
		data, err := b.TransmitTo(ctx, card, tpdu)
		done <- answer{data, err}
	}()
	synctest.Wait()
	return done
}

func (b *bench) answer(data ...byte) {
	b.fromBankd(b.bankd, pdu(&rspro.TpduCardToModem{From: here, To: me, Data: data}))
	synctest.Wait()
}

func (a answer) check(t *testing.T, data []byte, err error) {
	t.Helper()
	if !bytes.Equal(a.data, data) || !errors.Is(a.err, err) {
		t.Errorf("got %x, %v, want %x, %v", a.data, a.err, data, err)
	}
}

func TestTransmit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := reach(t, Operational)
		done := b.transmit(t.Context(), selectC)
		if got, want := b.bankd.take(), "tpdu(C23:1>B1:5,a0a40000023f00)"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
		if _, err := b.Transmit(t.Context(), selectC); !errors.Is(err, ErrBusy) {
			t.Errorf("second command: %v, want %v", err, ErrBusy)
		}
		// Answers between other slots are none.
		const strays = "stray(tpduCardToModem: answer of B1:6 for C23:1) stray(tpduCardToModem: answer of B1:5 for C0:0)"
		b.fromBankd(b.bankd, pdu(&rspro.TpduCardToModem{From: there, To: me, Data: []byte{0x6f, 0}}))
		b.fromBankd(b.bankd, pdu(&rspro.TpduCardToModem{From: here, To: slot.Client{}, Data: []byte{0x6f, 0}}))
		if got := b.bankd.take(); got != strays {
			t.Errorf("got %q, want %q", got, strays)
		}
		data := []byte{0x9f, 0x17}
		b.answer(data...)
		data[0] = 0 // the message's bytes are not ours
		(<-done).check(t, []byte{0x9f, 0x17}, nil)
	})
}

func TestTransmitLength(t *testing.T) {
	b := reach(t, Operational)
	for _, n := range []int{0, 4, 261} {
		if _, err := b.Transmit(t.Context(), make([]byte, n)); err == nil {
			t.Errorf("%d bytes: no error", n)
		}
	}
	if got := b.bankd.take(); got != "" {
		t.Errorf("sent %q", got)
	}
}

// TestBadResponse: answers that no card gives end the command and the connection.
func TestBadResponse(t *testing.T) {
	for _, tc := range []struct {
		length int
		want   string // of the bankd's connection
	}{
		{0, "Close(answer of 0 bytes: want 2..258)"},
		{1, "Close(answer of 1 bytes: want 2..258)"},
		{2, ""},
		{258, ""},
		{259, "Close(answer of 259 bytes: want 2..258)"},
		{3002, "Close(answer of 3002 bytes: want 2..258)"},
	} {
		synctest.Test(t, func(t *testing.T) {
			b := reach(t, Operational)
			done := b.transmit(t.Context(), selectC)
			b.bankd.take()
			b.answer(make([]byte, tc.length)...)
			a := <-done
			if good := tc.want == ""; good != (a.err == nil) || good != (len(a.data) == tc.length) && tc.length > 0 {
				t.Errorf("%d bytes: got %d, %v", tc.length, len(a.data), a.err)
			}
			if got := b.bankd.take(); got != tc.want {
				t.Errorf("%d bytes: %q, want %q", tc.length, got, tc.want)
			}
		})
	}
}

// TestBadATR: an ATR without T0 is none, whatever was there before.
func TestBadATR(t *testing.T) {
	for name, b := range map[string]*bench{"card": reach(t, Operational), "no card": staying(t)} {
		was := b.State().String()
		b.fromBankd(b.bankd, pdu(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b}}))
		want := [4]string{was, "", "7:setAtrRes(cardTransmissionError) stray(setAtrReq: ATR of 1 byte)", ""}
		if got := b.all(); got != want {
			t.Errorf("%s: got %q, want %q", name, got, want)
		}
	}
}

func TestTransmitEndsWithTheSession(t *testing.T) {
	for name, end := range map[string]func(*bench){
		"bankd lost": func(b *bench) { b.bankdDown(b.target) },
		"no bankd":   func(b *bench) { b.told(slot.Bank{}, none) },
		"other map":  func(b *bench) { b.told(there, addr1) },
		"reset":      func(b *bench) { b.fromServer(b.server, pdu(&rspro.ResetStateReq{})) },
		"card gone": func(b *bench) {
			b.fromBankd(b.bankd, pdu(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}}))
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := reach(t, Operational)
				done := b.transmit(t.Context(), selectC)
				start := time.Now()
				end(b)
				(<-done).check(t, nil, ErrGone)
				if d := time.Since(start); d != 0 {
					t.Errorf("after %v, want at once", d)
				}
				if _, err := b.Transmit(t.Context(), selectC); !errors.Is(err, ErrNoCard) {
					t.Errorf("afterwards: %v, want %v", err, ErrNoCard)
				}
			})
		})
	}
}

// TestTransmitAtTheEnd sends a command on a connection whose end isn't told yet.
func TestTransmitAtTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := reach(t, Operational)
		b.bankd.end = link.ErrClosed
		_, err := b.Transmit(t.Context(), selectC)
		if !errors.Is(err, ErrGone) || !errors.Is(err, link.ErrClosed) {
			t.Errorf("Transmit: %v, want %v and %v", err, ErrGone, link.ErrClosed)
		}
		// The next command waits until it is told, so that nobody tries again and again.
		next := b.transmit(t.Context(), selectC)
		if len(next) > 0 {
			t.Errorf("next command: %v", (<-next).err)
		}
		b.bankdDown(b.target)
		(<-next).check(t, nil, ErrNoCard)
	})
}

// A late answer never becomes that of the next command.
func TestAnswerAfterTimeout(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := reach(t, Operational)
		ctx, cancel := context.WithTimeout(t.Context(), 3*time.Second)
		defer cancel()
		first := b.transmit(ctx, selectC)
		start := time.Now()
		(<-first).check(t, nil, context.DeadlineExceeded)
		if d := time.Since(start); d != 3*time.Second {
			t.Errorf("after %v, want 3s", d)
		}
		b.bankd.take()
		second := b.transmit(t.Context(), selectC)
		if got := b.bankd.take(); got != "" {
			t.Errorf("sent %q before the late answer", got)
		}
		b.answer(0x6f, 0x00)
		if got, want := b.bankd.take(), "tpdu(C23:1>B1:5,a0a40000023f00)"; got != want {
			t.Errorf("sent %q, want %q", got, want)
		}
		b.answer(0x90, 0x00)
		(<-second).check(t, []byte{0x90, 0x00}, nil)

		// One whose own time ends while it waits was not sent.
		ctx, cancel = context.WithCancel(t.Context())
		third := b.transmit(ctx, selectC)
		cancel()
		(<-third).check(t, nil, context.Canceled)
		b.bankd.take()
		ctx, cancel = context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		fourth := b.transmit(ctx, selectC)
		(<-fourth).check(t, nil, context.DeadlineExceeded)
		if got := b.bankd.take(); got != "" {
			t.Errorf("sent %q", got)
		}
	})
}

func TestAnswerNeverComes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := reach(t, Operational)
		ctx, cancel := context.WithCancel(t.Context())
		first := b.transmit(ctx, selectC)
		cancel()
		(<-first).check(t, nil, context.Canceled)
		b.bankd.take()
		time.Sleep(debtLimit - 1)
		synctest.Wait()
		if got := b.bankd.take(); got != "" {
			t.Errorf("before the time: %q", got)
		}
		time.Sleep(time.Nanosecond)
		synctest.Wait()
		if got, want := b.bankd.take(), "Close(no answer to a command)"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	})
}

// After a reset the bankd may answer the command before it or drop it; a
// PONG tells which.
func TestAnswerAfterReset(t *testing.T) {
	const off, on = "status(RST=0 VCC=0 CLK=? CARD=?)", "status(RST=0 VCC=1 CLK=? CARD=?)"
	for _, tc := range []struct {
		name string
		then func(*bench)
	}{
		{"answered", func(b *bench) {
			b.answer(0x6f, 0x00)
			b.bankd.pong <- true
			b.bankd.pong <- true
		}},
		{"dropped", func(b *bench) {
			b.bankd.pong <- true
			synctest.Wait()
			if b.session.owed == nil {
				t.Error("settled by the first PONG, which may be older than the reset")
			}
			b.bankd.pong <- true
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				b := reach(t, Operational)
				b.bankd.pong = make(chan bool)
				first := b.transmit(t.Context(), selectC)
				b.bankd.take()
				b.Status(slot.Phys{VCC: slot.Off})
				b.Status(slot.Phys{VCC: slot.On})
				(<-first).check(t, nil, ErrReset)
				second := b.transmit(t.Context(), selectC)
				got := b.bankd.take()
				if want := off + " " + on + " PING"; got != want && got != off+" PING "+on {
					t.Errorf("sent %q, want %q", got, want)
				}
				tc.then(b)
				synctest.Wait()
				if got := b.bankd.take(); !strings.Contains(got, "tpdu(C23:1>B1:5,a0a40000023f00)") {
					t.Errorf("sent %q, want the second command", got)
				}
				b.answer(0x90, 0x00)
				(<-second).check(t, []byte{0x90, 0x00}, nil)
			})
		})
	}
}

func TestWarmResetEdges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b := reach(t, Operational)
		b.Status(slot.Phys{Reset: true, VCC: slot.On, CLK: slot.On})
		done := b.transmit(t.Context(), selectC)
		// RST that stays and a clock that stops are no resets.
		b.Status(slot.Phys{Reset: true, VCC: slot.On, CLK: slot.Off})
		b.Status(slot.Phys{Reset: false, VCC: slot.On, CLK: slot.Off})
		synctest.Wait()
		select {
		case a := <-done:
			t.Fatalf("ended with %v", a.err)
		default:
		}
		b.Status(slot.Phys{Reset: true})
		(<-done).check(t, nil, ErrReset)
		b.bankd.pong <- false // no PONG: the connection is at its end
	})
}

// A bankd can't make us hoard steps for a modem that doesn't take them.
func TestFlood(t *testing.T) {
	b := reach(t, Operational)
	for range 10 * maxSteps {
		b.atr()
	}
	if n := len(b.Core.modem.waiting); n > maxSteps+1 {
		t.Errorf("%d steps wait, limit %d", n, maxSteps)
	}
	if got := b.bankd.take(); !strings.Contains(got, "Close(") {
		t.Error("the bankd stays")
	}
}

// Lines that a peer's messages cause are within its quota, others aren't.
func TestLogQuota(t *testing.T) {
	b := reach(t, Operational)
	b.server.lines, b.bankd.lines = 0, 0
	gone := pdu(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
	for _, tc := range []struct {
		name          string
		event         func()
		server, bankd int
	}{
		{"card gone", func() { b.fromBankd(b.bankd, gone) }, 0, 1},
		{"card back", b.atr, 0, 1},
		{"bankd's error", func() { b.fromBankd(b.bankd, pdu(&rspro.ErrorInd{})) }, 0, 1},
		{"server's error", func() { b.fromServer(b.server, pdu(&rspro.ErrorInd{})) }, 1, 0},
		{"other bankd, state changed", func() { b.told(there, addr2) }, 2, 0},
		{"no bankd, state changed", func() { b.told(slot.Bank{}, none) }, 2, 0},
		{"reset", func() { b.fromServer(b.server, pdu(&rspro.ResetStateReq{})) }, 1, 0},
		{"another id", func() { b.fromServer(b.server, pdu(&rspro.ConfigClientIDReq{Slot: slot.Client{ID: 24}})) }, 1, 0},
		{"nobody's message", func() { b.configure(&target{addr: addr1}) }, 0, 0},
	} {
		tc.event()
		if b.server.lines != tc.server || b.bankd.lines != tc.bankd {
			t.Errorf("%s: %d lines within the server's quota and %d within the bankd's, want %d and %d",
				tc.name, b.server.lines, b.bankd.lines, tc.server, tc.bankd)
		}
		b.server.lines, b.bankd.lines = 0, 0
	}
}
