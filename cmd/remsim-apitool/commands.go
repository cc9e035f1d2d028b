// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"remsim/internal/daemon"
	"remsim/internal/slot"
)

// What the commands show of version 2: its lists have the same names as those of version 1.
var (
	clientsV2 = kind{name: "clients", one: "client", heading: "CLIENT\tSTATE\tNAME\tSOFTWARE\tBANK\tANSWER\tSINCE\tERROR", row: func(item json.RawMessage) (string, error) {
		c, err := decode[clientV2](item)
		bank, answer := "-", "-"
		if t := c.Told; t != nil && t.Bankd != nil {
			bank, answer = t.Bank.slot().String(), word(t.Answer)
		}
		return columns(c.Peer, c.State, c.Component.Name, c.Component.version(), bank, answer, c.ConnectedAt, word(c.LastError)), err
	}}
	banksV2 = kind{name: "banks", one: "bank", heading: "BANK\tSLOTS\tSTATE\tNAME\tSOFTWARE\tENDPOINT\tSINCE\tERROR", row: func(item json.RawMessage) (string, error) {
		b, err := decode[bankV2](item)
		return columns(b.Peer, strconv.Itoa(b.NumSlots), b.State, b.Component.Name, b.Component.version(), b.Endpoint, b.ConnectedAt, word(b.LastError)), err
	}}
	mapsV2 = kind{name: "slotmaps", one: "slot map", heading: "BANK\tCLIENT\tSTATE\tCREATED\tCHANGED\tERROR", row: func(item json.RawMessage) (string, error) {
		m, err := decode[mapV2](item)
		return columns(m.Bank.slot().String(), m.Client.slot().String(), m.State, m.CreatedAt, m.ChangedAt, word(m.LastError)), err
	}}
	idsV2 = kind{name: "clientIds", path: "/client-ids", one: "client id", heading: "CLIENT\tCONNECTED\tNAME\tSERIAL\tINTERFACE\tINSTANCE", row: func(item json.RawMessage) (string, error) {
		i, err := decode[clientID](item)
		return columns(i.Client.slot().String(), strconv.FormatBool(i.Connected), i.Assigned.Name, i.Assigned.Serial, i.Assigned.Interface, strconv.Itoa(i.Assigned.Instance)), err
	}}
	slotsV2 = kind{name: "slots", one: "slot", heading: "SLOT\tSTATE\tREADER\tCARD\tCLIENT\tMAP\tERROR", row: func(item json.RawMessage) (string, error) {
		s, err := decode[slotV2](item)
		card, client := "-", "-"
		switch {
		case s.Present == nil:
		case !*s.Present:
			card = "no"
		case s.ATR != nil:
			card = *s.ATR
		default:
			card = "yes"
		}
		if s.Client != nil {
			client = s.Client.slot().String()
		}
		return columns(strconv.Itoa(s.Slot), word(s.State), word(s.Reader), card, client, word(s.MapState), word(s.LastError)), err
	}}
)

// The answers of version 2; members that aren't shown are left out.
type (
	peerV2 struct {
		Peer        string    `json:"peer"`
		State       string    `json:"state"`
		Component   component `json:"component"`
		ConnectedAt string    `json:"connectedAt"`
		LastError   *string   `json:"lastError"`
	}
	clientV2 struct {
		peerV2
		Told *struct {
			Bank   bankSlot `json:"bank"`
			Bankd  *string  `json:"bankd"`
			Answer *string  `json:"answer"`
		} `json:"told"`
	}
	bankV2 struct {
		peerV2
		NumSlots int               `json:"numberOfSlots"`
		Endpoint string            `json:"endpoint"`
		Slots    []json.RawMessage `json:"slots"`
	}
	slotV2 struct {
		Slot      int         `json:"slotNr"`
		Reader    *string     `json:"reader"`
		Present   *bool       `json:"present"`
		ATR       *string     `json:"atr"`
		Client    *clientSlot `json:"client"`
		MapState  *string     `json:"mapState"`
		State     *string     `json:"state"`
		LastError *string     `json:"lastError"`
	}
	mapV2 struct {
		Bank      bankSlot   `json:"bank"`
		Client    clientSlot `json:"client"`
		State     string     `json:"state"`
		CreatedAt string     `json:"createdAt"`
		ChangedAt string     `json:"changedAt"`
		DeletedAt *string    `json:"deletedAt"`
		LastError *string    `json:"lastError"`
	}
	clientID struct {
		Client    clientSlot `json:"client"`
		Connected bool       `json:"connected"`
		Assigned  struct {
			Name      string `json:"name"`
			Serial    string `json:"serialNr"`
			Interface string `json:"interface"`
			Instance  int    `json:"instance"`
		} `json:"assigned"`
	}
)

// columns joins the cells of a row; an empty one is a dash, and none has a tab.
func columns(cells ...string) string {
	for i, c := range cells {
		if cells[i] = strings.ReplaceAll(c, "\t", " "); c == "" {
			cells[i] = "-"
		}
	}
	return strings.Join(cells, "\t")
}

// word returns *s, or "" for null.
func word(s *string) string {
	if s == nil {
		return ""
	}
	return *s
}

// commands returns the commands below the tool's own; o are their common options.
func commands(o *options) []*cobra.Command {
	show := func(use, short, long string, k kind, name func(string) (string, error), want string) *cobra.Command {
		return &cobra.Command{
			Use: use, Short: short, Long: long,
			Args: func(_ *cobra.Command, args []string) error {
				if len(args) == 0 {
					return nil
				}
				if _, err := name(args[0]); err != nil {
					return daemon.Usagef("argument %q: want %s", args[0], want)
				}
				return atMost(1, args)
			},
			RunE: func(cmd *cobra.Command, args []string) error {
				id := ""
				if len(args) > 0 {
					id, _ = name(args[0]) // was checked
				}
				return o.show(cmd, k, id)
			},
		}
	}
	maps := group("map", "Slot maps", "Shows, makes and deletes the slot maps between clients and banks.")
	maps.AddCommand(
		show("list [BANK:SLOT]", "Show all slot maps, or that of a bank slot",
			"Shows all slot maps, those included that are leaving, or by BANK:SLOT the newest of that bank slot.", mapsV2, bankSlotName, wantBankSlot),
		mapAdd(o), mapMove(o), mapRemove(o), mapImport(o), mapExport(o))
	banks := group("bank", "Banks", "Shows the banks that are connected.")
	banks.AddCommand(
		show("list [BANK]", "Show all banks, or one", "Shows the banks that are connected, or by BANK that one.", banksV2, bankIDName, "a BANK 0..1023"),
		bankSlots(o))
	clients := group("client", "Clients", "Shows the clients that are connected, and the client ids that the server gives.")
	ids := show("ids", "Show the client slots that the server has given", "Shows the client slots that the server has given to clients that asked for one (-c auto), connected or not.", idsV2, nil, "")
	ids.Args = nil
	clients.AddCommand(
		show("list [CLIENT:SLOT]", "Show all clients, or one", "Shows the clients that are connected, or by CLIENT:SLOT that one.", clientsV2, clientSlotName, wantClientSlot),
		ids, clientForget(o))
	return []*cobra.Command{maps, banks, clients, events(o)}
}

// group returns a command that only has others below it.
func group(name, short, long string) *cobra.Command {
	return &cobra.Command{Use: name, Short: short, Long: long}
}

const (
	wantBankSlot   = "BANK:SLOT, numbers 0..1023"
	wantClientSlot = "CLIENT:SLOT, numbers 0..1023"
)

func bankSlotName(s string) (string, error) {
	b, err := slot.ParseBank(s)
	return b.String(), err
}

func clientSlotName(s string) (string, error) {
	c, err := slot.ParseClient(s)
	return c.String(), err
}

func bankIDName(s string) (string, error) {
	text, _, err := bankName(s)
	return text, err
}

// atMost checks that there are no more than n arguments.
func atMost(n int, args []string) error {
	if len(args) > n {
		return daemon.Usagef("unexpected argument %q", args[n])
	}
	return nil
}

// v2 returns version 2 of the server's API.
func (o *options) v2(cmd *cobra.Command) *api { return o.api(cmd, "/api/v2") }

// show shows what the server has of a kind, or the one with an id.
func (o *options) show(cmd *cobra.Command, k kind, id string) error {
	found, err := o.v2(cmd).lists(cmd.Context(), id, k)
	if err != nil {
		return err
	}
	return o.print(cmd.OutOrStdout(), found)
}

// print writes lists as the option --output says.
func (o *options) print(w io.Writer, found []list) error {
	if o.output == "json" {
		return printJSON(w, found)
	}
	return printTables(w, found)
}

// bankSlots is the command that shows the slots of a bank.
func bankSlots(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "slots BANK", Short: "Show the slots of a bank",
		Long: "Shows all slots of BANK, with their reader, card, client and what is wrong with them.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("argument missing: want a BANK 0..1023")
			}
			if _, err := bankIDName(args[0]); err != nil {
				return daemon.Usagef("argument %q: want a BANK 0..1023", args[0])
			}
			return atMost(1, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			id, _ := bankIDName(args[0]) // was checked
			found, err := o.v2(cmd).lists(cmd.Context(), id, banksV2)
			if err != nil {
				return err
			}
			b, err := decode[bankV2](found[0].items[0])
			if err != nil {
				return err
			}
			return o.print(cmd.OutOrStdout(), []list{{kind: slotsV2, items: b.Slots}})
		},
	}
}

// ends is the check of arguments that are a bank slot and a client slot, in this order.
func ends(_ *cobra.Command, args []string) error {
	for i, want := range []string{wantBankSlot, wantClientSlot} {
		if len(args) <= i {
			return daemon.Usagef("argument missing: want %s", want)
		}
		name := bankSlotName
		if i == 1 {
			name = clientSlotName
		}
		if _, err := name(args[i]); err != nil {
			return daemon.Usagef("argument %q: want %s", args[i], want)
		}
	}
	return atMost(2, args)
}

// endsOf returns what ends has checked.
func endsOf(args []string) slot.Map {
	b, _ := slot.ParseBank(args[0])
	c, _ := slot.ParseClient(args[1])
	return slot.Map{Bank: b, Client: c}
}

func newMap(m slot.Map) slotMap { return slotMap{Bank: bankSlot(m.Bank), Client: clientSlot(m.Client)} }

// mapAdd is the command that makes a map.
func mapAdd(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "add BANK:SLOT CLIENT:SLOT", Short: "Map a bank's slot to a client's",
		Long: "Maps BANK:SLOT to CLIENT:SLOT, neither of which may be in a map.",
		Args: ends,
		RunE: func(cmd *cobra.Command, args []string) error {
			m := endsOf(args)
			return o.v2(cmd).create(cmd.Context(), m.Bank, m.Client)
		},
	}
}

// mapMove is the command that moves a client to another card, or a card to another client.
func mapMove(o *options) *cobra.Command {
	return withCondition(o, &cobra.Command{
		Use: "move BANK:SLOT CLIENT:SLOT", Short: "Map a bank's slot to a client's, whatever they were mapped to",
		Long: "Has CLIENT:SLOT use the card in BANK:SLOT. The maps that they are in end in the same moment. It may be said again.",
		Args: ends,
	}, func(a *api, cmd *cobra.Command, args []string, header []string) error {
		m := endsOf(args)
		return a.change(cmd.Context(), http.MethodPut, m.Bank, newMap(m), header...)
	})
}

// mapRemove is the command that deletes a map.
func mapRemove(o *options) *cobra.Command {
	return withCondition(o, &cobra.Command{
		Use: "rm BANK:SLOT", Short: "Delete the map of a bank's slot",
		Long: "Deletes the map of BANK:SLOT, which must be in one.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("argument missing: want %s", wantBankSlot)
			}
			if _, err := slot.ParseBank(args[0]); err != nil {
				return daemon.Usagef("argument %q: want %s", args[0], wantBankSlot)
			}
			return atMost(1, args)
		},
	}, func(a *api, cmd *cobra.Command, args []string, header []string) error {
		if header == nil {
			header = []string{"If-Match", "*"}
		}
		b, _ := slot.ParseBank(args[0]) // was checked
		return a.change(cmd.Context(), http.MethodDelete, b, nil, header...)
	})
}

// clientForget is the command that frees a client slot that was given.
func clientForget(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "forget CLIENT:SLOT", Short: "Free a client slot that the server has given",
		Long: "Has CLIENT:SLOT, which the server has given to a client that won't be back, be nobody's, so that it can be given to another. " +
			"Its client mustn't be connected, and it mustn't be in a map.",
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef("argument missing: want %s", wantClientSlot)
			}
			if _, err := clientSlotName(args[0]); err != nil {
				return daemon.Usagef("argument %q: want %s", args[0], wantClientSlot)
			}
			return atMost(1, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			name, _ := clientSlotName(args[0]) // was checked
			if _, err := o.v2(cmd).do(cmd.Context(), http.MethodDelete, "/client-ids/"+name, nil); err != nil {
				return fmt.Errorf("client id %s: %w", name, err)
			}
			return nil
		},
	}
}

// withCondition gives a command that changes the map of a bank slot the option that says whose that is.
func withCondition(o *options, cmd *cobra.Command, run func(a *api, cmd *cobra.Command, args, header []string) error) *cobra.Command {
	of := words{typ: "CLIENT:SLOT", want: wantClientSlot, parse: func(s string) (string, []uint16, error) {
		name, err := clientSlotName(s)
		return name, nil, err
	}}
	cmd.Flags().Var(&of, "if", "only while the bank's slot is mapped to this client's")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		var header []string
		if of.text != "" {
			header = []string{"If-Match", `"` + of.text + `"`}
		}
		return run(o.v2(cmd), cmd, args, header)
	}
	return cmd
}

// change puts or deletes the map of a bank slot.
func (a *api) change(ctx context.Context, method string, b slot.Bank, body any, header ...string) error {
	if _, err := a.do(ctx, method, "/slotmaps/"+b.String(), body, header...); err != nil {
		return fmt.Errorf("map of %s: %w", b, err)
	}
	return nil
}
