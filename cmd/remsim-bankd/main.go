// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-bankd is a SIM bank: it gives clients the use of cards in PC/SC readers, as a
// remsim-server maps them.
package main

import (
	"context"
	"net"
	"net/netip"
	"strconv"
	"time"

	"github.com/spf13/cobra"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/bankd/softsim"
	"remsim/internal/daemon"
	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/monitor"
	"remsim/internal/slot"
)

func main() { daemon.Main(command()) }

// options are what of the command line needs a second look.
type options struct {
	serverHost     string
	serverPort     uint16
	bindIP         string
	bindPort       uint16
	advertise      string
	maxConnections uint16
	shared         bool
	traceSlot      uint16
	monitor        monitor.Config
}

func command() *cobra.Command {
	var (
		cfg bankd.Config
		o   options
		log daemon.LogOptions
	)
	cmd := &cobra.Command{
		Use:   "remsim-bankd",
		Short: "Give remote clients the use of SIM cards",
		Long: `Serves the cards in the PC/SC readers of its host, or cards in software, to the clients that
a remsim-server names. A slots file says which reader a slot of the bank is.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.fill(&cfg); err != nil {
				return err
			}
			l := log.Logger(cmd.ErrOrStderr())
			if cmd.Flags().Changed("gsmtap-slot") {
				cfg.TraceSlot = &o.traceSlot
			}
			m := monitor.New(cmd.Name(), l)
			defer m.Close()
			if err := m.Listen(cmd.Context(), link.TCP(), o.monitor); err != nil {
				return err
			}
			return bankd.Run(cmd.Context(), cfg, bankd.Env{
				Net:      link.TCP(),
				Log:      l,
				Readers:  pcsc.Bank{Shared: o.shared},
				Softsim:  &softsim.Bank{},
				OnReport: daemon.OnReport,
				Reload:   m.Manager().Reloads(cmd.Context()),
				Reloaded: m.Manager().Reloaded,
				OnStart: func(ctx context.Context, r bankd.Running) {
					m.Bankd(r.Stats)
					m.Start(ctx, r.Health())
				},
			})
		},
	}
	o.flags(cmd, &cfg)
	log.Flags(cmd.Flags(), true)
	cmd.AddCommand(doctorCommand(), conditionCommand())
	daemon.Manual(cmd, 8, manual, gsmtap.Manual, link.Manual, monitor.Manual)
	return cmd
}

// flags adds the options of a bankd to cmd.
func (o *options) flags(cmd *cobra.Command, cfg *bankd.Config) {
	fs := cmd.Flags()
	daemon.HostVar(fs, &o.serverHost, "server-host", "i", "", "the server's name or address")
	cmd.MarkFlagRequired("server-host")
	daemon.Uint16Var(fs, &o.serverPort, "server-port", "p", 9998, 1, 65535, "port of the server")
	daemon.Uint16Var(fs, &cfg.BankID, "bank-id", "b", 1, 0, slot.Max, "id of this bank")
	daemon.Uint16Var(fs, &cfg.NumSlots, "num-slots", "n", 8, 1, slot.Max, "number of its slots, which count from 0")
	fs.StringVarP(&cfg.Name, "component-name", "N", daemon.HostName(), "`NAME` told to the server, 1 to 32 characters (default the host's)")
	fs.Lookup("component-name").DefValue = "" // manuals are for all hosts
	fs.StringVarP(&o.bindIP, "bind-ip", "I", "", "`ADDRESS` to listen on for clients (default all)")
	daemon.Uint16Var(fs, &o.bindPort, "bind-port", "P", 9999, 0, 65535, "port to listen on for clients; 0: any")
	fs.StringVar(&o.advertise, "advertise", "", "`ADDR:PORT` where clients are told to connect (default where the server sees this bankd, port 9999)")
	daemon.Uint16Var(fs, &o.maxConnections, "max-connections", "", 0, 1, 65535, "connections of clients at a time; one without a map makes room for a new one (default twice the slots, and 64)")
	fs.StringVar(&cfg.SlotsFile, "slots-file", "", "`FILE` that says which reader a slot is (default bankd_pcsc_slots.csv in the working directory, /etc/remsim or /etc/osmocom)")
	daemon.DurationVar(fs, &cfg.CardTimeout, "card-timeout", "", 30*time.Second, time.Second, 10*time.Minute, "how long one call to a card may take; clients wait 35s at most")
	fs.BoolVarP(&o.shared, "permit-shared-pcsc", "s", false, "let other programs use the cards, too, not exclusively")
	cfg.KeepAlive.Flags(fs)
	o.monitor.Flags(fs)
	cfg.Trace.Flags(fs, "g")
	daemon.Uint16Var(fs, &o.traceSlot, "gsmtap-slot", "G", 0, 0, slot.Max, "trace this slot only, by --gsmtap-ip and --pcap (default all)")
}

// fill puts the options into cfg.
func (o *options) fill(cfg *bankd.Config) error {
	const wantIP = "an IPv4 or IPv6 address"
	switch n := len(cfg.Name); {
	case n < 1 || n > 32 || !printable(cfg.Name):
		return daemon.Usagef("option -N --component-name: value %q: want 1 to 32 ASCII characters", cfg.Name)
	case o.bindIP != "" && !isIP(o.bindIP):
		return daemon.Usagef("option -I --bind-ip: value %q: want %s", o.bindIP, wantIP)
	}
	if o.advertise != "" {
		a, err := netip.ParseAddrPort(o.advertise)
		if err != nil || a.Port() == 0 || a.Addr().Zone() != "" || a.Addr().IsUnspecified() {
			return daemon.Usagef("option --advertise: value %q: want ADDR:PORT with %s, such as 192.0.2.1:9999 or [2001:db8::1]:9999", o.advertise, wantIP)
		}
		cfg.Advertise = a
	}
	cfg.Server = net.JoinHostPort(o.serverHost, strconv.Itoa(int(o.serverPort)))
	cfg.Listen = net.JoinHostPort(o.bindIP, strconv.Itoa(int(o.bindPort)))
	cfg.MaxConnections = int(o.maxConnections)
	if cfg.SlotsFile == "" {
		cfg.SlotsFile = findSlots(slotsDirs())
	}
	return nil
}

func isIP(s string) bool {
	_, err := netip.ParseAddr(s)
	return err == nil
}

func printable(s string) bool {
	for _, c := range []byte(s) {
		if c < ' ' || c > '~' {
			return false
		}
	}
	return true
}
