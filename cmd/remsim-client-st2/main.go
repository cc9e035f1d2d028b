// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-client-st2 gives a modem behind a SIMtrace2-compatible card emulator a SIM from afar.
package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"

	"remsim/internal/client"
	"remsim/internal/client/cardem"
	"remsim/internal/client/fleet"
	"remsim/internal/daemon"
	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/monitor"
	"remsim/internal/usb"
)

func main() { daemon.Main(command()) }

// stateVariable names the directory where --all-slots keeps which slot is whose.
const stateVariable = "STATE_DIRECTORY"

func command() *cobra.Command {
	var (
		cfg cardem.Config
		o   options
		log daemon.LogOptions
	)
	cmd := &cobra.Command{
		Use:   "remsim-client-st2",
		Short: "Give a modem a remote SIM by a card emulator",
		Long: `A client whose modem is behind a SIMtrace2-compatible card emulator on USB. It has the device play the remote SIM as
long as a bankd serves it, and gives the modem its local SIM back at the end.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			if err := o.fill(&cfg, cmd.Flags()); err != nil {
				return err
			}
			l := log.Logger(cmd.ErrOrStderr())
			m := monitor.New(cmd.Name(), l)
			defer m.Close()
			if err := m.Listen(cmd.Context(), link.TCP(), o.monitor); err != nil {
				return err
			}
			watch := new(client.Watch)
			m.Client(watch.Stats)
			env := cardem.Env{
				Env:      client.Env{Net: link.TCP(), Log: l, Watch: watch},
				OnReport: daemon.OnReport,
			}
			if o.many() {
				return serveMany(cmd.Context(), cfg, &o, env, m)
			}
			m.Start(cmd.Context(), watch.Health())
			env.Open = func(context.Context) (cardem.Device, error) { return openOne(o.filter, l) }
			return cardem.Run(cmd.Context(), cfg, env)
		},
	}
	fs := cmd.Flags()
	o.flags(fs)
	cfg.Flags(fs)
	log.Flags(fs, false)
	daemon.VersionFlag(fs, "v")
	cmd.AddCommand(doctorCommand())
	daemon.Manual(cmd, 1, manual, client.Manual, gsmtap.Manual, link.Manual, monitor.Manual)
	return cmd
}

// openOne opens the one interface that f means.
func openOne(f usb.Filter, log *logrus.Logger) (cardem.Device, error) {
	host := usb.Local()
	devices, err := host.Devices()
	if err != nil {
		return nil, err
	}
	t, err := f.Choose(devices)
	if err != nil {
		return nil, err
	}
	return open(host, t, log)
}

func open(host usb.Host, t usb.Target, log *logrus.Logger) (cardem.Device, error) {
	c, err := host.Open(t, log.WithFields(logrus.Fields{"cat": "DST2", "usb": t.Device.Path, "interface": t.Interface.Number}))
	if err != nil {
		return nil, err
	}
	return device{c}, nil
}

// A device is a usb.Conn as cardem knows it; neither package knows the other.
type device struct{ *usb.Conn }

func (d device) Info() cardem.Info { return cardem.Info(d.Conn.Info()) }

// serveMany serves many slots.
func serveMany(ctx context.Context, cfg cardem.Config, o *options, env cardem.Env, m *monitor.Monitor) error {
	fleetConfig := fleet.Config{SlotsFile: o.slotsFile}
	if o.allSlots {
		dirs := filepath.SplitList(os.Getenv(stateVariable)) // systemd puts several there if so told
		if len(dirs) == 0 {
			return fmt.Errorf("--all-slots keeps in a directory which slot is whose, and the environment variable %s names none: "+
				"have systemd set it by StateDirectory=remsim-client, or set it", stateVariable)
		}
		fleetConfig.StateDir = dirs[0]
	}
	trace, err := gsmtap.Open(cfg.Trace, env.Log)
	if err != nil {
		return err
	}
	defer trace.Close()
	env.Trace = trace
	cfg.KeepRunning = false // a device that comes back is seen here
	host := usb.Local()
	asked := make(chan struct{})
	err = fleet.Run(ctx, fleetConfig, fleet.Env{
		Log:     env.Log,
		Devices: (&usb.Watch{Host: host}).Devices,
		Serve: func(ctx context.Context, s fleet.Seat) error {
			cfg, env := cfg, env
			cfg.Slot.Slot = s.Slot
			env.OnReport = s.OnReport
			env.Open = func(context.Context) (cardem.Device, error) { return open(host, s.Target, env.Log) }
			return cardem.Run(ctx, cfg, env)
		},
		OnReport: daemon.OnReport,
		Reload:   m.Manager().Reloads(ctx),
		Reloaded: m.Manager().Reloaded,
		Asked:    asked,
		OnStart: func(ctx context.Context) {
			m.Start(ctx, env.Watch.Health(daemon.Receiver("devices", asked)))
		},
	})
	if errors.Is(err, context.Canceled) {
		return nil
	}
	return err
}
