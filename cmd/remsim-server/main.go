// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-server is the control centre of remote SIM: bankds and clients connect to
// it, and a REST API tells it which client slot uses which bank slot.
package main

import (
	"github.com/spf13/cobra"

	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/server"
	"remsim/internal/server/rest"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var cfg server.Config
	var log daemon.LogOptions
	cmd := &cobra.Command{
		Use:   "remsim-server",
		Short: "Control remote SIM banks and their clients",
		Long: `Bankds and clients connect to a remsim-server; slot maps, which say what client slot uses
the card in what bank slot, come in over its REST API.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			return server.Run(cmd.Context(), cfg, server.Env{
				Net:      link.TCP(),
				Log:      log.Logger(cmd.ErrOrStderr()),
				REST:     rest.Serve,
				OnReport: daemon.OnReport,
			})
		},
	}
	fs := cmd.Flags()
	daemon.AddrVar(fs, &cfg.RSPROListen, "rspro-listen", "", ":9998", "address for bankds and clients")
	daemon.AddrVar(fs, &cfg.RESTListen, "rest-listen", "", ":9997", "address of the REST API")
	cfg.KeepAlive.Flags(fs)
	log.Flags(fs, false)
	daemon.Manual(cmd, 8, manual, link.Manual)
	cfg.Name, cfg.Version = daemon.HostName(), daemon.Version()
	return cmd
}
