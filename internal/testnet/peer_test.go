// SPDX-License-Identifier: GPL-2.0-or-later

package testnet_test

import (
	"io"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestPeers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New()
		server := n.Host("10.0.0.1", "fd00::1")
		ln, err := server.Listen(t.Context(), ":9998")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		c := testnet.DialPeer(t, n.Host("10.0.0.2"), "10.0.0.1:9998")
		s := testnet.AcceptPeer(t, ln)

		c.WriteHex("0001fe00")
		s.WriteHex("0001 fe00")
		c.ExpectCCM(ipa.Pong)
		s.ExpectCCM(ipa.Pong)
		if c.Pings() != 1 || s.Pings() != 1 {
			t.Errorf("PINGs: %d at the client, %d at the server, want 1 and 1", c.Pings(), s.Pings())
		}
		s.Mute(true)
		c.WriteHex("0001fe00")
		s.Quiet(time.Minute)
		c.Quiet(time.Minute)

		c.Send(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &slot.Client{ID: 5}})
		req, pdu := testnet.ExpectPDU[*rspro.ConnectClientReq](s)
		if req.Slot == nil || req.Slot.ID != 5 || pdu.Tag != 0 {
			t.Errorf("got %+v with tag %d", req, pdu.Tag)
		}
		s.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
		if p := c.Expect(rspro.ChoiceConnectClientRes); p.Tag != 2342 {
			t.Errorf("connectClientRes has tag %d, want that of C programs", p.Tag)
		}
		c.SendPDU(rspro.PDU{Version: 2, Tag: 7, Msg: &rspro.ResetStateReq{}})
		s.Reply(s.Next(), &rspro.ResetStateRes{})
		if p := c.Next(); p.Tag != 7 {
			t.Errorf("reply has tag %d, want 7", p.Tag)
		}
		s.Close()
		if err := c.ExpectEnd(time.Second); err != io.EOF {
			t.Error(err)
		}
	})
}
