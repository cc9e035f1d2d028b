// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-server is the control centre of remote SIM: bankds and clients connect to
// it, and a REST API tells it which client slot uses which bank slot.
package main

import (
	"context"

	"github.com/spf13/cobra"

	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/monitor"
	"remsim/internal/server"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	var cfg server.Config
	var log daemon.LogOptions
	var keep location
	cmd := &cobra.Command{
		Use:   "remsim-server",
		Short: "Control remote SIM banks and their clients",
		Long: `Bankds and clients connect to a remsim-server; slot maps, which say what client slot uses
the card in what bank slot, come in over its REST API.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			logger := log.Logger(cmd.ErrOrStderr())
			s, err := keep.open(logger.WithField("cat", "DMAIN"))
			if err != nil {
				return err
			}
			if s != nil {
				defer s.Close()
			}
			m := monitor.New(cmd.Name(), logger)
			defer m.Close()
			return server.Run(cmd.Context(), cfg, server.Env{
				Net:      link.TCP(),
				Log:      logger,
				Store:    s,
				REST:     m.REST().Serve,
				OnReport: daemon.OnReport,
				OnStart: func(ctx context.Context, r server.Running) {
					m.Server(r.Stats)
					m.Start(ctx, r.Health())
				},
			})
		},
	}
	fs := cmd.Flags()
	daemon.AddrVar(fs, &cfg.RSPROListen, "rspro-listen", "", ":9998", "address for bankds and clients")
	daemon.AddrVar(fs, &cfg.RESTListen, "rest-listen", "", ":9997", "address of the REST API")
	keep.flag(fs, "where slot maps and client ids are kept (default state.db in $STATE_DIRECTORY, if set, else memory)")
	fs.Var(poolFlag{&cfg.ClientIDPool}, "client-id-pool", "client ids for clients that ask for one (-c auto) (default none: they are refused)")
	cfg.KeepAlive.Flags(fs)
	log.Flags(fs, false)
	cmd.AddCommand(storeCommand())
	daemon.Manual(cmd, 8, manual, link.Manual, monitor.Manual)
	cfg.Name, cfg.Version = daemon.HostName(), daemon.Version()
	return cmd
}
