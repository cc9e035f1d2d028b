// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func quiet() *logrus.Entry {
	l := logrus.New()
	l.Out = io.Discard
	return logrus.NewEntry(l)
}

var bankID = rspro.ComponentIdentity{Type: rspro.Bankd, Name: "b", Software: "remsim-bankd", SWVersion: "1"}
var clientID = rspro.ComponentIdentity{Type: rspro.Client, Name: "c", Software: "remsim-client", SWVersion: "1"}

func TestCallerAndServe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New()
		ctx, cancel := context.WithCancel(t.Context())
		b, c := n.Host("10.0.0.1"), n.Host("10.0.0.2")
		ln, err := b.Listen(ctx, ":9999")
		if err != nil {
			t.Fatal(err)
		}
		served := make(chan error, 1)
		go func() {
			served <- link.Serve(ctx, ln, quiet(), func(ctx context.Context, nc net.Conn) {
				conn := link.New(nc, link.Options{Listener: true, Log: quiet(), Handle: func(conn *link.Conn, p rspro.PDU) {
					switch m := p.Msg.(type) {
					case *rspro.ConnectClientReq:
						conn.Reply(p, &rspro.ConnectClientRes{Identity: bankID})
					case *rspro.TpduModemToCard:
						conn.Send(&rspro.TpduCardToModem{From: m.To, To: m.From, Data: []byte{0x90, 0}})
					}
				}})
				conn.Run(ctx)
			})
		}()
		got := make(chan rspro.PDU, 10)
		var states []link.State
		cl := &link.Caller{
			Net: c, Addr: "10.0.0.1:9999", Want: rspro.Bankd, Log: quiet(),
			Hello: func() rspro.Message {
				return &rspro.ConnectClientReq{Identity: clientID, Slot: &slot.Client{}}
			},
			Accept: func(conn *link.Conn, m rspro.Response) error {
				if conn.RemoteAddr() != netip.MustParseAddrPort("10.0.0.1:9999") {
					t.Error(conn.RemoteAddr())
				}
				return conn.Send(&rspro.TpduModemToCard{Data: []byte{0xa0, 0xa4, 0, 0, 2}})
			},
			Handle:  func(_ *link.Conn, p rspro.PDU) { got <- p },
			OnState: func(s link.State) { states = append(states, s) },
		}
		ran := make(chan error, 1)
		go func() { ran <- cl.Run(ctx) }()
		p := <-got
		if m, ok := p.Msg.(*rspro.TpduCardToModem); !ok || len(m.Data) != 2 {
			t.Fatalf("%+v", p)
		}
		time.Sleep(time.Hour)
		cancel()
		if err := <-ran; !errors.Is(err, context.Canceled) {
			t.Error(err)
		}
		if err := <-served; err != nil {
			t.Error(err)
		}
		t.Log(states)
	})
}
