// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"strings"
	"testing"

	"remsim/internal/slot"
)

// names are DEVICENAMEs with what they say.
var names = []struct {
	name   string
	client slot.Client
	auto   bool
	server string
	port   uint16
}{
	{"", slot.Client{}, false, "127.0.0.1", 9998},
	{":", slot.Client{}, false, "127.0.0.1", 9998},
	{":::::", slot.Client{}, false, "127.0.0.1", 9998},
	{"5", slot.Client{ID: 5}, false, "127.0.0.1", 9998},
	{"5:", slot.Client{ID: 5}, false, "127.0.0.1", 9998},
	{"5:1", slot.Client{ID: 5, Slot: 1}, false, "127.0.0.1", 9998},
	{"5:1:host", slot.Client{ID: 5, Slot: 1}, false, "host", 9998},
	{"5:1:host:", slot.Client{ID: 5, Slot: 1}, false, "host", 9998},
	{"5:1:host:1", slot.Client{ID: 5, Slot: 1}, false, "host", 1},
	{":5::1:::host::65535:", slot.Client{ID: 5, Slot: 1}, false, "host", 65535},
	{"1023:1023:192.168.11.10:9998", slot.Client{ID: 1023, Slot: 1023}, false, "192.168.11.10", 9998},
	{"0:0:[2001:db8::1]", slot.Client{}, false, "2001:db8::1", 9998},
	{"0:0:[2001:db8::1]:99", slot.Client{}, false, "2001:db8::1", 99},
	{`"0:0:[2001:db8::1]:99"`, slot.Client{}, false, "2001:db8::1", 99},
	{"auto:0:host", slot.Client{}, true, "host", 9998},
	{"client=5", slot.Client{ID: 5}, false, "127.0.0.1", 9998},
	{"port=99;server=host;slot=1;client=5", slot.Client{ID: 5, Slot: 1}, false, "host", 99},
	{` client = 5 ; slot = 1 ; `, slot.Client{ID: 5, Slot: 1}, false, "127.0.0.1", 9998},
	{`"client=5;server=host:99"`, slot.Client{ID: 5}, false, "host", 99},
	{"server=[2001:db8::1];port=99", slot.Client{}, false, "2001:db8::1", 99},
	{"server=[2001:db8::1]:99", slot.Client{}, false, "2001:db8::1", 99},
	{"server=2001:db8::1", slot.Client{}, false, "2001:db8::1", 9998},
	{"client=auto;server=host", slot.Client{}, true, "host", 9998},
}

func TestDeviceName(t *testing.T) {
	for _, tc := range names {
		cfg, err := parseDeviceName(tc.name)
		if err != nil || cfg.Slot != tc.client || cfg.Auto != tc.auto || cfg.ServerHost != tc.server || cfg.ServerPort != tc.port {
			t.Errorf("%q: %v auto %v %s port %d, %v", tc.name, cfg.Slot, cfg.Auto, cfg.ServerHost, cfg.ServerPort, err)
		}
		if len(cfg.ATR) == 0 {
			t.Errorf("%q: no ATR, which clients have", tc.name)
		}
	}
}

// badNames are wrong DEVICENAMEs with what is said about them.
var badNames = []struct{ name, want string }{
	{"x", `client "x": want a number 0..1023 or auto`},
	{"1024", `client "1024": want a number 0..1023`},
	{"-1", `client "-1": want a number 0..1023`},
	{"99999999999999999999", `client "99999999999999999999": want`},
	{"0:1024", `slot "1024": want a number 0..1023`},
	{"0:x", `slot "x": want a number 0..1023`},
	{"0:0:a/b", `server "a/b": want a host name or an address`},
	{"0:0:[]", `server "[]": want a host name or an address`},
	{"0:0:[host]", `server "[host]": want a host name or an address`},
	{"0:0:[::1", `"[::1": the bracket isn't closed`},
	{"0:0:[::1]9998", `"9998": want a colon after the bracket`},
	{"0:0:host:0", `port "0": want a number 1..65535`},
	{"0:0:host:65536", `port "65536": want a number 1..65535`},
	{"0:0:host:port", `port "port": want a number 1..65535`},
	{"0:0:2001:db8::1", `"1" is too much: want at most CLIENT:SLOT:SERVER:PORT, with an IPv6 address in brackets`},
	{"0:0:fe80:1:2:3", `"2:3" is too much: want at most CLIENT:SLOT:SERVER:PORT`},
	{"\x00", `client "\x00": want`},
	{`"5:1`, `client "\"5": want`},
	{"client=", `client "": want a number 0..1023`},
	{"client=1;client=2", `client is there twice`},
	{"client=1;id=2", `unknown name "id": want one of client, slot, server, port`},
	{"Client=1", `unknown name "Client": want one of client`},
	{"client=1;slot", `"slot": want NAME=VALUE`},
	{"client=1,slot=2", `client "1,slot=2": want a number`},
	{"slot=1024", `slot "1024": want a number 0..1023`},
	{"server=host:1;port=2", `port is there twice`},
	{"server=host:x", `port "x": want a number 1..65535`},
	{"server=:1", `server "": want a host name`},
	{"=", `unknown name "": want one of`},
}

func TestBadDeviceName(t *testing.T) {
	for _, tc := range badNames {
		if cfg, err := parseDeviceName(tc.name); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%q: %v, %v, want %s", tc.name, cfg.Slot, err, tc.want)
		}
	}
}

func FuzzDeviceName(f *testing.F) {
	for _, tc := range names {
		f.Add(tc.name)
	}
	for _, tc := range badNames {
		f.Add(tc.name)
	}
	f.Fuzz(func(t *testing.T, name string) {
		cfg, err := parseDeviceName(name)
		if err != nil {
			return
		}
		if cfg.Slot.ID > slot.Max || cfg.Slot.Slot > slot.Max || cfg.ServerPort == 0 || cfg.ServerHost == "" ||
			strings.ContainsAny(cfg.ServerHost, "[] ;=\"\x00") {
			t.Errorf("%q: %v %q port %d", name, cfg.Slot, cfg.ServerHost, cfg.ServerPort)
		}
	})
}
