// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"context"
	"io"
	"net"
	"testing"

	"github.com/sirupsen/logrus"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// BenchmarkTransmit is a command from a client's socket to a card that costs nothing, and back.
func BenchmarkTransmit(b *testing.B) {
	file := b.TempDir() + "/slots.csv"
	writeFile(b, file, "1,0,softsim:\n")
	log := logrus.New()
	log.SetOutput(io.Discard)
	d := newBankd(Config{BankID: 1, NumSlots: 1, SlotsFile: file}, Env{Log: log, Softsim: newReaders(1)})
	specs, err := d.readSlots()
	if err != nil {
		b.Fatal(err)
	}
	d.apply(b.Context(), specs)
	d.createMap(slot.Map{Client: c23, Bank: slot.Bank{ID: 1}})
	ln, err := link.TCP().Listen(b.Context(), "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	d.life = ctx
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		link.Serve(ctx, ln, log.WithField("cat", "DMAIN"), func(_ context.Context, nc net.Conn) { d.serve(nc) })
	}()
	defer func() {
		cancel()
		<-ended
	}()

	nc, err := net.Dial("tcp", ln.Addr().String())
	if err != nil {
		b.Fatal(err)
	}
	defer nc.Close()
	frames := ipa.NewReader(nc)
	next := func(want rspro.Choice) {
		for {
			s, p, err := frames.Next()
			if err != nil {
				b.Fatal(err)
			}
			if s == ipa.CCM {
				continue
			}
			if pdu, err := rspro.Decode(p); err != nil || pdu.Msg.Choice() != want {
				b.Fatalf("got %v, %v, want %v", pdu, err, want)
			}
			return
		}
	}
	write := func(frame []byte) {
		if _, err := nc.Write(frame); err != nil {
			b.Fatal(err)
		}
	}
	write(testnet.Frames(b, rspro.PDU{Version: rspro.Version, Msg: &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &c23}}))
	next(rspro.ChoiceConnectClientRes)
	next(rspro.ChoiceSetAtrReq)
	frame := testnet.Frames(b, rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduModemToCard{From: c23, To: slot.Bank{ID: 1}, Data: cmd}})
	b.ReportAllocs()
	for b.Loop() {
		write(frame)
		next(rspro.ChoiceTpduCardToModem)
	}
}
