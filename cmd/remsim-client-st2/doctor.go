// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"net"
	"slices"
	"strconv"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/client/cardem"
	"remsim/internal/daemon"
	"remsim/internal/doctor"
	"remsim/internal/doctor/emulators"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/usb"
)

// doctorCommand is the command that looks what keeps a client from its work.
func doctorCommand() *cobra.Command {
	var (
		cfg   cardem.Config
		o     options
		log   daemon.LogOptions
		bankd string
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check devices, permissions and server, and say what to do",
		Long: `Checks card emulators, permissions, firmware and server, says for each what is wrong and what to do about it, and ends with
exit status 0 only when all is well. It disturbs no client that runs. All options of remsim-client-st2 may be given; those that don't matter
here are passed over.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.fill(&cfg, cmd.Flags()); err != nil {
				return err
			}
			r := doctor.New(cmd.OutOrStdout(), "remsim-client-st2")
			var f *usb.Filter
			if o.filter != (usb.Filter{}) {
				f = &o.filter
			}
			emulators.Check(r, usb.Local(), f)
			r.Peer(cmd.Context(), link.TCP(), rspro.Server, net.JoinHostPort(cfg.ServerHost, strconv.Itoa(int(cfg.ServerPort))))
			if bankd != "" {
				r.Peer(cmd.Context(), link.TCP(), rspro.Bankd, bankd)
			}
			return r.Err()
		},
	}
	fs := cmd.Flags()
	o.flags(fs)
	cfg.Flags(fs)
	log.Flags(fs, false)
	fs.VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains([]string{
			"server-ip", "server-port", "usb-vendor", "usb-product", "usb-config", "usb-interface", "usb-altsetting", "usb-address", "usb-path",
		}, f.Name)
	})
	daemon.AddrVar(fs, &bankd, "bankd", "", "", "check this bankd, too, as a client that is told of it would reach it")
	return cmd
}
