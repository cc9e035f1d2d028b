// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-client-shell is a client of a remote SIM with standard input in place of
// the modem: each line is a command to the card, standard output shows the responses.
package main

import (
	"github.com/spf13/cobra"

	"remsim/internal/client"
	"remsim/internal/client/shell"
	"remsim/internal/daemon"
	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/monitor"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var (
		cfg shell.Config
		log daemon.LogOptions
		mon monitor.Config
	)
	cmd := &cobra.Command{
		Use:   "remsim-client-shell",
		Short: "Use a remote SIM from a terminal",
		Long: `A client with a terminal in the modem's place: each line of standard input is a command TPDU
in hex, or a word: RESET, info, select, read, auth; help lists them. Standard output shows ATRs
and answers, standard error everything else.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			l := log.Logger(cmd.ErrOrStderr())
			m := monitor.New(cmd.Name(), l)
			defer m.Close()
			if err := m.Listen(cmd.Context(), link.TCP(), mon); err != nil {
				return err
			}
			watch := new(client.Watch)
			m.Client(watch.Stats)
			m.Start(cmd.Context(), watch.Health())
			return shell.Run(cmd.Context(), cfg, shell.Env{
				Env:      client.Env{Net: link.TCP(), Log: l, Watch: watch},
				In:       cmd.InOrStdin(),
				Out:      cmd.OutOrStdout(),
				Err:      cmd.ErrOrStderr(),
				OnReport: daemon.OnReport,
			})
		},
	}
	cfg.Flags(cmd.Flags())
	mon.Flags(cmd.Flags())
	cmd.Flags().BoolVar(&cfg.Explain, "explain", false, "say what ATRs and status words mean, as on a terminal")
	log.Flags(cmd.Flags(), false)
	daemon.VersionFlag(cmd.Flags(), "v")
	daemon.Manual(cmd, 1, manual, client.Manual, gsmtap.Manual, link.Manual, monitor.Manual)
	return cmd
}
