// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-client-shell is a client of a remote SIM with standard input in place of
// the modem: each line is a command to the card, standard output shows the responses.
package main

import (
	"github.com/spf13/cobra"

	"remsim/internal/client"
	"remsim/internal/client/shell"
	"remsim/internal/daemon"
	"remsim/internal/link"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var (
		cfg shell.Config
		log daemon.LogOptions
	)
	cmd := &cobra.Command{
		Use:   "remsim-client-shell",
		Short: "Use a remote SIM from a terminal",
		Long: `Use a remote SIM from a terminal: each line of standard input is a command TPDU in hex
(blanks allowed), or a word: RESET, info, select, read, auth; help lists them. Standard output
shows "SET_ATR: ..." and "R-APDU: ...", also for the commands that a word sends; standard error
shows everything else. The end of the input ends the program.

A line waits for the answer to the one before, and up to 30 s for a card. On a terminal there is
a prompt with history, and what ATRs and status words mean is said in words.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return shell.Run(cmd.Context(), cfg, shell.Env{
				Env:      client.Env{Net: link.TCP(), Log: log.Logger(cmd.ErrOrStderr())},
				In:       cmd.InOrStdin(),
				Out:      cmd.OutOrStdout(),
				Err:      cmd.ErrOrStderr(),
				OnReport: daemon.OnReport,
			})
		},
	}
	cfg.Flags(cmd.Flags())
	cmd.Flags().BoolVar(&cfg.Explain, "explain", false, "say what ATRs and status words mean, as on a terminal")
	log.Flags(cmd.Flags(), false)
	daemon.VersionFlag(cmd.Flags(), "v")
	return cmd
}
