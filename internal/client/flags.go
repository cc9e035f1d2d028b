// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"errors"
	"strconv"
	"time"

	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/slot"
)

// Flags adds the options that clients with a command line share. Long
// options that only older manuals name have no letter of their own but -s.
func (c *Config) Flags(fs *pflag.FlagSet) {
	const local = "127.0.0.1"
	daemon.HostVar(fs, &c.ServerHost, "server-ip", "i", local, "the server's name or address")
	daemon.HostVar(fs, &c.ServerHost, "server-host", "s", local, "the same as --server-ip")
	daemon.Uint16Var(fs, &c.ServerPort, "server-port", "p", 9998, 1, 65535, "the server's port")
	fs.VarP((*clientID)(c), "client-id", "c", "client id to present, or auto: the server assigns id and slot")
	daemon.Uint16Var(fs, &c.Slot.Slot, "client-slot", "n", 0, 0, slot.Max, "slot number to present")
	daemon.HexVar(fs, &c.ATR, "atr", "a", []byte{0x3b, 0x00}, 2, 55, "ATR shown until the bankd tells one")
	fs.BoolVarP(&c.KeepATR, "atr-ignore-rspro", "r", false, "keep that ATR whatever the bankd tells")
	fs.StringVarP(&c.Script, "event-script", "e", "", "`COMMAND` to run at events, with the cause as its argument")
	daemon.DurationVar(fs, &c.ScriptTimeout, "event-script-timeout", "", 30*time.Second, 100*time.Millisecond, time.Hour,
		"kill an event script that takes longer")
	c.KeepAlive.Flags(fs)
	c.Trace.Flags(fs, "")
}

// clientID is the value of --client-id: Slot.ID or Auto.
type clientID Config

func (c *clientID) Set(s string) error {
	if s == "auto" {
		c.Auto, c.Slot.ID = true, 0
		return nil
	}
	id, err := strconv.ParseUint(s, 10, 16)
	if err != nil || id > slot.Max {
		return errors.New("want a number 0..1023 or auto")
	}
	c.Auto, c.Slot.ID = false, uint16(id)
	return nil
}

func (c *clientID) String() string {
	if c.Auto {
		return "auto"
	}
	return strconv.Itoa(int(c.Slot.ID))
}

func (*clientID) Type() string { return "0..1023|auto" }
