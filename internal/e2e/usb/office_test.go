// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"fmt"
	"net"
	"net/netip"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// An office is a server and a bankd that a test plays itself, byte by byte, with one client on a device.
type office struct {
	t       *testing.T
	device  *device
	client  *rig.Proc
	server  *testnet.Peer
	bankd   *testnet.Peer
	listen  net.Listener // of the bankd
	at      netip.AddrPort
	servers net.Listener
}

var (
	officeClient = slot.Client{ID: 1}
	officeBank   = slot.Bank{ID: 1}
)

// newOffice starts a client for interface 0 of the device, and serves it until its modem uses the remote SIM.
func newOffice(t *testing.T, d *device, args ...string) *office {
	t.Helper()
	listen := func() (net.Listener, netip.AddrPort) {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { ln.Close() })
		return ln, netip.MustParseAddrPort(ln.Addr().String())
	}
	o := &office{t: t, device: d}
	var at netip.AddrPort
	o.servers, at = listen()
	o.listen, o.at = listen()
	w := &world{t: t}
	o.client = w.client(0, d, 0, append([]string{"-p", fmt.Sprint(at.Port())}, args...)...)
	o.again()
	return o
}

// again takes a client that has no connection yet, or none any more.
func (o *office) again() {
	o.t.Helper()
	{
		o.server = testnet.AcceptPeer(o.t, o.servers)
		o.server.Patience = soon
		_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](o.server)
		o.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
		o.server.Send(&rspro.ConfigClientBankReq{Bank: officeBank, Bankd: o.at})
		testnet.Expect[*rspro.ConfigClientBankRes](o.server)
	}
	o.serve()
}

// serve takes the client's data connection and has the modem use the remote SIM.
func (o *office) serve() {
	o.t.Helper()
	o.bankd = testnet.AcceptPeer(o.t, o.listen)
	o.bankd.Patience = soon
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](o.bankd)
	o.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	o.bankd.Send(&rspro.SetAtrReq{Slot: officeClient, ATR: softATR()})
	o.device.operational(0)
}

// command waits for the modem's next command; what comes of its contacts before that is dropped.
func (o *office) command() []byte {
	o.t.Helper()
	for end := time.Now().Add(soon); time.Now().Before(end); {
		if m, ok := o.bankd.Next().Msg.(*rspro.TpduModemToCard); ok {
			return m.Data
		}
	}
	o.t.Fatalf("no command within %v", soon)
	return nil
}

// reset waits until the client has told that RST is released again.
func (o *office) reset() {
	o.t.Helper()
	active := false
	for end := time.Now().Add(soon); time.Now().Before(end); {
		m, ok := o.bankd.Next().Msg.(*rspro.ClientSlotStatusInd)
		switch {
		case !ok:
		case m.Phys.Reset:
			active = true
		case active && m.Phys.VCC == slot.On:
			return
		}
	}
	o.t.Fatalf("no reset within %v", soon)
}

// answer sends what the card answers.
func (o *office) answer(b []byte) {
	o.bankd.Send(&rspro.TpduCardToModem{From: officeBank, To: officeClient, Flags: rspro.TpduFlags{HeaderPresent: true, FinalPart: true}, Data: b})
}
