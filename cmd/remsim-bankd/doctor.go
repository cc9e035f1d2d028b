// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"slices"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/bankd/softsim"
	"remsim/internal/daemon"
	"remsim/internal/doctor"
	"remsim/internal/doctor/readers"
	"remsim/internal/link"
	"remsim/internal/rspro"
)

// doctorCommand is the command that looks what keeps a bankd from its work.
func doctorCommand() *cobra.Command {
	var (
		cfg bankd.Config
		o   options
		log daemon.LogOptions
	)
	cmd := &cobra.Command{
		Use:   "doctor",
		Short: "Check readers, cards, slots file and server, and say what to do",
		Long: `Checks pcscd, readers, cards, slots file and server, says for each what is wrong and what to do about it, and ends with
exit status 0 only when all is well. It disturbs neither cards nor a bankd that runs. All options of remsim-bankd may be given; those
that don't matter here are passed over.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.fill(&cfg); err != nil {
				return err
			}
			r := doctor.New(cmd.OutOrStdout(), "remsim-bankd")
			readers.Check(cmd.Context(), r, pcsc.Bank{}, &softsim.Bank{}, cfg.SlotsFile, cfg.BankID, cfg.NumSlots)
			r.Peer(cmd.Context(), link.TCP(), rspro.Server, cfg.Server)
			return r.Err()
		},
	}
	o.flags(cmd, &cfg)
	log.Flags(cmd.Flags(), true)
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		f.Hidden = !slices.Contains([]string{"server-host", "server-port", "bank-id", "num-slots", "slots-file"}, f.Name)
	})
	return cmd
}
