// SPDX-License-Identifier: GPL-2.0-or-later

// Remsim-simulator is a test bench that needs no hardware.
package main

import (
	"net"
	"net/netip"
	"os"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/simtrace"
	"remsim/internal/simulator"
	"remsim/internal/simulator/modem"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remsim-simulator",
		Short: "Put SIM cards in software into PC/SC readers, and card emulators on USB",
		Long: `A test bench that needs no hardware: cards in software for a real pcscd, and card emulators with modems for a real USB stack.

Card I, from 0, has the ICCID
8988211000000000000 + I, the IMSI 001010000000000 + I, and the keys of 3GPP TS 35.208, test set 1.

With --control, cards and pcscd obey commands, one a line, on standard input:

` + simulator.Commands + `
Each is answered by one line on standard output: "ok" and the command, or "error" and what is wrong. Empty lines and those
that begin with # are not. The cards stay when the input ends.`,
	}
	cmd.AddCommand(cards(), pcscd(), modems(), swarms())
	daemon.Manual(cmd, 1, manual)
	return cmd
}

// cards is the command that puts cards into the readers of a pcscd that runs.
func cards() *cobra.Command {
	var (
		log   daemon.LogOptions
		addr  string
		count uint16
		ctl   bool
	)
	cmd := &cobra.Command{
		Use:   "cards",
		Short: "SIMs in software in the virtual readers of a pcscd",
		Long: `Puts cards into the virtual readers (vpcd) of a pcscd, card 0 into the reader at the address given, the
next ones into those at the ports that follow. Cards come back when pcscd does.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			first, err := resolve(addr)
			if err != nil {
				return err
			}
			if int(first.Port())+int(count)-1 > 65535 {
				return daemon.Usagef("--vpcd %s with --count %d: want ports up to 65535", addr, count)
			}
			return simulator.Cards(cmd.Context(), control(cmd, ctl, simulator.Config{
				Addr: first, Count: int(count), Log: log.Logger(cmd.ErrOrStderr()),
			}))
		},
	}
	fs := cmd.Flags()
	daemon.AddrVar(fs, &addr, "vpcd", "", simulator.Loopback().String(), "the first virtual reader")
	daemon.Uint16Var(fs, &count, "count", "", 8, 1, simulator.MaxCards, "number of cards")
	controlVar(fs, &ctl)
	log.Flags(fs, false)
	return cmd
}

// pcscd is the command that runs a private pcscd with cards in it.
func pcscd() *cobra.Command {
	var (
		log            daemon.LogOptions
		dir            string
		count, readers uint16
		ctl            bool
	)
	cmd := &cobra.Command{
		Use:   "pcscd",
		Short: "A private pcscd with SIMs in software, for tests",
		Long: `Runs a pcscd of its own with virtual readers and cards in the first of them, in network,
mount and PID namespaces of its own (which takes root, or user namespaces), until SIGTERM. When all cards are
seen it writes one line to standard output:

    PCSCLITE_CSOCK_NAME=PATH

With that in their environment, PC/SC programs use this pcscd. Readers are named "Virtual SIM
reader A 00 00", "A 00 01", "B 00 00", "B 00 01" and so on.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			if readers == 0 {
				readers = count
			}
			if readers < count {
				return daemon.Usagef("--readers %d with --count %d: want a reader for each card", readers, count)
			}
			var failed error
			status, err := simulator.Isolate(cmd.Context(), dir, func(run string) int {
				failed = simulator.Bench(cmd.Context(), run, int(readers), control(cmd, ctl, simulator.Config{
					Count: int(count), Log: log.Logger(cmd.ErrOrStderr()),
				}), cmd.OutOrStdout())
				return 0
			})
			if err != nil {
				return err
			}
			if status != 0 {
				os.Exit(status) // the process inside has said why
			}
			return failed
		},
	}
	fs := cmd.Flags()
	daemon.Uint16Var(fs, &count, "count", "", 8, 1, simulator.MaxCards, "number of cards")
	daemon.Uint16Var(fs, &readers, "readers", "", 0, 0, simulator.MaxCards, "number of readers; those beyond the cards are empty (default one a card)")
	fs.StringVar(&dir, "dir", "", "existing `DIR` for pcscd's files and socket (default a temporary one)")
	controlVar(fs, &ctl)
	log.Flags(fs, false)
	return cmd
}

// modems is the command that serves card emulators with modems behind them.
func modems() *cobra.Command {
	var (
		log    daemon.LogOptions
		listen string
		boards uint16
		kind   string
		script string
		ctl    bool
	)
	models := simtrace.Models()
	names := make([]string, len(models))
	for i, m := range models {
		names[i] = m.Name
	}
	cmd := &cobra.Command{
		Use:   "modem",
		Short: "Card emulators with modems, for a USB stack",
		Long: `Serves SIMtrace2-compatible card emulators in software to USB/IP hosts, until SIGTERM. Behind each of their
interfaces is a modem that starts when it is reset, switches its SIM on, selects its speed, and judges each byte that comes as
ISO 7816-3 says. A computer with the kernel module vhci-hcd attaches them:

    usbip attach -r 127.0.0.1 -b 1-1

Modems play scripts, with one thing to do a line:

` + modem.Scripts + `
With --control, boards and modems obey commands, one a line, on standard input, each of which is answered as those for cards are:

` + modem.Commands,
		RunE: func(cmd *cobra.Command, args []string) error {
			at, err := resolve(listen)
			if err != nil {
				return err
			}
			c := modem.BenchConfig{Boards: int(boards), Log: log.Logger(cmd.ErrOrStderr()).WithField("cat", "DMAIN")}
			c.Board.Model = models[slices.Index(names, kind)]
			if kind != "OWHW" && kind != "sysmoQMOD" {
				c.Board.Slots = 1
			}
			if script != "" {
				if c.Script, err = modem.LoadScript(script); err != nil {
					return err
				}
			}
			if ctl {
				c.Control, c.Answers = cmd.InOrStdin(), cmd.OutOrStdout()
			}
			if c.Listen, err = net.Listen("tcp", at.String()); err != nil {
				return err
			}
			c.Log.WithField("addr", c.Listen.Addr().String()).Info("listening for USB/IP")
			return modem.RunBench(cmd.Context(), c)
		},
	}
	fs := cmd.Flags()
	daemon.AddrVar(fs, &listen, "usbip-listen", "", "127.0.0.1:3240", "where USB/IP hosts connect; anybody who reaches it may attach them")
	daemon.Uint16Var(fs, &boards, "boards", "", 1, 1, modem.MaxBoards, "number of card emulators")
	daemon.ChoiceVar(fs, &kind, "device", "", "sysmoQMOD", names, "what they are; the first two have two interfaces")
	fs.StringVar(&script, "script", "", "`FILE` of what each modem does when it has started, or init for what modems do (default nothing)")
	controlVar(fs, &ctl)
	log.Flags(fs, false)
	return cmd
}

func controlVar(fs *pflag.FlagSet, on *bool) {
	fs.BoolVar(on, "control", false, "obey commands on standard input (see remsim-simulator --help)")
}

// control returns c, with the commands of standard input if they are wanted.
func control(cmd *cobra.Command, on bool, c simulator.Config) simulator.Config {
	if on {
		c.Control, c.Answers = cmd.InOrStdin(), cmd.OutOrStdout()
	}
	return c
}

// resolve looks up a HOST:PORT; without a host it means this one.
func resolve(addr string) (netip.AddrPort, error) {
	if strings.HasPrefix(addr, ":") {
		addr = "localhost" + addr
	}
	a, err := net.ResolveTCPAddr("tcp", addr)
	if err != nil {
		return netip.AddrPort{}, err
	}
	ap := a.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), nil
}
