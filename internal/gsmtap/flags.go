// SPDX-License-Identifier: GPL-2.0-or-later

package gsmtap

import (
	"errors"
	"net/netip"

	"github.com/spf13/pflag"
)

// Flags adds the options --gsmtap-ip, with the short form short unless that is empty, and --pcap.
func (c *Config) Flags(fs *pflag.FlagSet, short string) {
	fs.VarP((*receiver)(&c.Receiver), "gsmtap-ip", short,
		"send traces of APDUs and ATRs there as GSMTAP, for Wireshark; the port is 4729 unless given")
	fs.StringVar(&c.File, "pcap", "", "append traces of APDUs and ATRs to this `FILE`, for Wireshark; it will hold PINs and keys")
}

// receiver is the value of --gsmtap-ip.
type receiver netip.AddrPort

func (r *receiver) Set(s string) error {
	if a, err := netip.ParseAddr(s); err == nil {
		*r = receiver(netip.AddrPortFrom(a, Port))
		return nil
	}
	a, err := netip.ParseAddrPort(s)
	if err != nil || a.Port() == 0 {
		return errors.New("want an IPv4 or IPv6 address, or ADDRESS:PORT")
	}
	*r = receiver(a)
	return nil
}

func (r *receiver) String() string {
	if a := netip.AddrPort(*r); a.IsValid() {
		return a.String()
	}
	return ""
}

func (*receiver) Type() string { return "ADDRESS" }
