// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"io"
	"net"
	"testing"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// TestStrangers has all kinds of strangers call server and bankd. Each is closed, with a log line that
// names it; sessions go on.
func TestStrangers(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(1))
	sh := s.client(1)
	s.operational(sh)
	tr := sh.traffic(twinOf(0), 0)

	hello := func(version uint8, who rspro.ComponentType, c *slot.Client) []byte {
		t.Helper()
		b, err := rspro.PDU{Version: version, Msg: &rspro.ConnectClientReq{Slot: c, Identity: rspro.ComponentIdentity{
			Type: who, Name: "stranger", Software: "stranger", SWVersion: "1",
		}}}.Append(unhex("0000ee07"))
		if err != nil {
			t.Fatal(err)
		}
		b[1] = byte(len(b) - 3)
		return b
	}
	c := &slot.Client{ID: 99}
	for _, at := range []string{"127.0.0.1:9998", "127.0.0.1:9999"} {
		program := s.server
		if at == "127.0.0.1:9999" {
			program = s.bankd
		}
		for _, tc := range []struct {
			name string
			send []byte
		}{
			{"empty RSPRO frame", unhex("0000ee")},
			{"empty CCM frame", unhex("0000fe")},
			{"frame without a PDU", unhex("0001ee07")},
			{"wrong stream", unhex("000255aabb")},
			{"wrong extension", unhex("0002ee0830")},
			{"frame too long", unhex("ffffee07")},
			{"no BER", unhex("0005ee07deadbeef")},
			{"another version", hello(3, rspro.Client, c)},
			{"not a client", hello(rspro.Version, rspro.Server, c)},
			{"a browser", []byte("GET / HTTP/1.1\r\nHost: x\r\n\r\n")},
		} {
			mark := program.Mark()
			addr := call(t, tc.name+" at "+at, at, tc.send)
			if _, err := program.AwaitFrom(mark, soon, "level=warning", addr); err != nil {
				t.Errorf("%s at %s: %v", tc.name, at, err)
			}
		}
	}
	// Without its slot a client is refused by the bankd; the server would assign one.
	call(t, "no slot", "127.0.0.1:9999", hello(rspro.Version, rspro.Client, nil))
	tr.more(t, 50)
	tr.end(t)
	s.connected("B1", "C1:0")
}

// call sends something, waits for the other end to close, and returns the address of this end.
func call(t *testing.T, name, addr string, send []byte) (local string) {
	t.Helper()
	nc, err := net.Dial("tcp", addr)
	if err != nil {
		t.Fatal(err)
	}
	defer nc.Close()
	if _, err := nc.Write(send); err != nil {
		t.Fatal(err)
	}
	if err := nc.SetReadDeadline(time.Now().Add(soon)); err != nil {
		t.Fatal(err)
	}
	_, err = io.Copy(io.Discard, nc)
	if ne, ok := err.(net.Error); ok && ne.Timeout() {
		t.Errorf("%s: still connected after %v", name, soon)
	}
	return nc.LocalAddr().String()
}
