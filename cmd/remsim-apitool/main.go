// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-apitool drives a remsim-server from a terminal: its options by version 1 of the REST API, its commands by
// version 2.
package main

import (
	"cmp"
	"context"
	"io"
	"net"
	"net/url"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/slot"
)

func main() {
	cmd := command()
	if len(os.Args) > 1 && !strings.HasPrefix(os.Args[1], "__complete") { // what a shell asks
		os.Args = append(os.Args[:1], arguments(cmd, os.Args[1:])...)
	}
	daemon.Main(cmd)
}

// arguments returns args as cobra takes them. Options of several words are only the tool's own, not its commands'.
func arguments(cmd *cobra.Command, args []string) []string {
	if sub, _, err := cmd.Find(args); err == nil && sub != cmd {
		return args
	}
	return joinWords(cmd.Flags(), args)
}

// options are what the command line says.
type options struct {
	host    string
	port    uint16
	verbose bool
	output  string

	clients, banks, maps words
	create, remove       words
	reset, all           bool
}

func command() *cobra.Command {
	var o options
	cmd := &cobra.Command{
		Use:   "remsim-apitool",
		Short: "Show and change what a remsim-server knows",
		Long: `Shows the clients and banks that are connected to a remsim-server and the slot maps
between them, makes such maps and deletes them.`,
		Example: `  remsim-apitool                      everything
  remsim-apitool -m 1 0 23 0          client 23 slot 0 uses the card in bank 1 slot 0
  remsim-apitool -d 1 0               no longer
  remsim-apitool -c 23 -o json        client 23, for programs
  remsim-apitool map move 1:5 23:0    client 23 slot 0 uses the card in bank 1 slot 5 instead
  remsim-apitool map import maps.csv  make many maps at once
  remsim-apitool events               what happens, as it happens`,
	}
	fs := cmd.Flags()
	daemon.HostVar(fs, &o.host, "host", "H", "127.0.0.1", "the server's name or address")
	daemon.Uint16Var(fs, &o.port, "port", "p", 9997, 1, 65535, "port of its REST API")
	daemon.Uint16Var(fs, &o.port, "rest-port", "P", 9997, 1, 65535, "the same as --port")
	fs.BoolVarP(&o.verbose, "verbose", "v", false, "show requests and answers on standard error")
	daemon.ChoiceVar(fs, &o.output, "output", "o", "table", []string{"table", "json"}, "tables for people, or JSON")

	o.clients = words{typ: "[ID]", want: "CLIENT or CLIENT:SLOT, numbers 0..1023", parse: clientName}
	fs.VarP(&o.clients, "show-clients", "c", "all clients, or client 23, or exactly 23:0")
	o.banks = words{typ: "[ID]", want: "a BANK 0..1023", parse: bankName}
	fs.VarP(&o.banks, "show-banks", "b", "all banks, or bank 1")
	o.maps = words{typ: "[ID]", want: "BANK:SLOT, numbers 0..1023, or a map's id, BANK x 65536 + SLOT", parse: mapName}
	fs.VarP(&o.maps, "show-slotmaps", "s", "all slot maps, or that of bank slot 1:0, or the one with the id 65536, which is bank id x 65536 + slot")
	o.create = words{n: 4, typ: "BANK SLOT CLIENT SLOT", want: "BANK SLOT CLIENT SLOT, numbers 0..1023", parse: numbers(4)}
	fs.VarP(&o.create, "create-slotmap", "m", "map a bank's slot to a client's")
	o.remove = words{n: 2, typ: "BANK SLOT", want: "BANK SLOT, numbers 0..1023", parse: numbers(2)}
	fs.VarP(&o.remove, "delete-slotmap", "d", "delete the map of a bank's slot")
	fs.BoolVarP(&o.reset, "reset", "r", false, "delete all maps")
	fs.BoolVarP(&o.all, "show-all", "a", false, "clients, banks and slot maps (the default)")

	// The commands have these, too.
	for _, name := range []string{"host", "port", "rest-port", "verbose", "output"} {
		cmd.PersistentFlags().AddFlag(fs.Lookup(name))
	}
	cmd.AddCommand(commands(&o)...)
	daemon.Manual(cmd, 1, manual)
	cmd.RunE = func(cmd *cobra.Command, _ []string) error {
		action, err := o.action(fs)
		if err != nil {
			return err
		}
		return o.run(cmd.Context(), action, o.api(cmd, "/api/backend/v1"), cmd.OutOrStdout())
	}
	return cmd
}

// api returns the API of the server at a path.
func (o *options) api(cmd *cobra.Command, path string) *api {
	// What a URL must escape of an address, its zone, package url knows.
	base := url.URL{Scheme: "http", Host: net.JoinHostPort(o.host, strconv.Itoa(int(o.port))), Path: path}
	a := &api{base: base.String()}
	if o.verbose {
		a.trace = cmd.ErrOrStderr()
	}
	return a
}

// action returns the long name of the option that says what to do.
func (o *options) action(fs *pflag.FlagSet) (string, error) {
	action := ""
	for _, name := range []string{"show-clients", "show-banks", "show-slotmaps", "create-slotmap", "delete-slotmap", "reset", "show-all"} {
		f := fs.Lookup(name)
		if !f.Changed || f.Value.String() == "false" {
			continue
		}
		if action != "" {
			return "", daemon.Usagef("options --%s and --%s: want only one of -c, -b, -s, -m, -d, -r and -a", action, name)
		}
		action = name
	}
	return cmp.Or(action, "show-all"), nil
}

// run does what action says. What is shown goes to w.
func (o *options) run(ctx context.Context, action string, a *api, w io.Writer) error {
	var found []list
	var err error
	switch action {
	case "create-slotmap":
		return a.create(ctx, o.create.bank(), slot.Client{ID: o.create.nrs[2], Slot: o.create.nrs[3]})
	case "delete-slotmap":
		return a.delete(ctx, o.remove.bank())
	case "reset":
		return a.reset(ctx)
	case "show-clients":
		found, err = a.lists(ctx, o.clients.text, clients)
	case "show-banks":
		found, err = a.lists(ctx, o.banks.text, banks)
	case "show-slotmaps":
		found, err = a.lists(ctx, o.maps.text, slotMaps)
	default:
		found, err = a.lists(ctx, "", clients, banks, slotMaps)
	}
	if err != nil {
		return err
	}
	return o.print(w, found)
}
