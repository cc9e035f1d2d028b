// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"strconv"
	"strings"
	"text/tabwriter"
	"unicode"

	"remsim/internal/slot"
)

// A kind is one of the three things the server has, as the API names it and as it is shown.
type kind struct {
	name, one string
	path      string // of the list; empty: /name
	heading   string // of the table, columns separated by tabs
	row       func(json.RawMessage) (string, error)
	id        func(json.RawMessage) (string, error) // nil: the API has a path for a single one
}

var (
	clients = kind{name: "clients", one: "client", heading: "CLIENT\tSTATE\tNAME\tSOFTWARE", row: func(item json.RawMessage) (string, error) {
		p, err := decode[peer](item)
		return strings.Join([]string{p.Peer, p.State, p.Component.Name, p.Component.version()}, "\t"), err
	}}
	banks = kind{name: "banks", one: "bank", heading: "BANK\tSLOTS\tSTATE\tNAME\tSOFTWARE", row: func(item json.RawMessage) (string, error) {
		p, err := decode[peer](item)
		return strings.Join([]string{p.Peer, strconv.Itoa(p.Slots), p.State, p.Component.Name, p.Component.version()}, "\t"), err
	}}
	slotMaps = kind{name: "slotmaps", one: "slot map", heading: "BANK\tCLIENT\tSTATE\tID", row: func(item json.RawMessage) (string, error) {
		m, err := decode[slotMap](item)
		return strings.Join([]string{m.Bank.slot().String(), m.Client.slot().String(), m.State, mapID(m.Bank.slot())}, "\t"), err
	}, id: func(item json.RawMessage) (string, error) {
		m, err := decode[slotMap](item)
		return mapID(m.Bank.slot()), err
	}}
)

// The server's answers; members that aren't shown are left out.
type (
	component struct {
		Name     string `json:"name"`
		Software string `json:"software"`
		Version  string `json:"swVersion"`
	}
	peer struct {
		Peer      string    `json:"peer"`
		State     string    `json:"state"`
		Component component `json:"component_id"`
		Slots     int       `json:"numberOfSlots"`
	}
	bankSlot struct {
		ID   uint16 `json:"bankId"`
		Slot uint16 `json:"slotNr"`
	}
	clientSlot struct {
		ID   uint16 `json:"clientId"`
		Slot uint16 `json:"slotNr"`
	}
	slotMap struct {
		Bank   bankSlot   `json:"bank"`
		Client clientSlot `json:"client"`
		State  string     `json:"state,omitempty"`
	}
)

func (c component) version() string    { return strings.TrimSpace(c.Software + " " + c.Version) }
func (b bankSlot) slot() slot.Bank     { return slot.Bank(b) }
func (c clientSlot) slot() slot.Client { return slot.Client(c) }

func decode[T any](item json.RawMessage) (v T, err error) {
	err = json.Unmarshal(item, &v)
	return v, err
}

// printTables writes each list as a table, for people.
func printTables(w io.Writer, found []list) error {
	var b bytes.Buffer
	for i, l := range found {
		if i > 0 {
			b.WriteByte('\n')
		}
		if len(l.items) == 0 {
			fmt.Fprintf(&b, "no %ss\n", l.kind.one)
			continue
		}
		t := tabwriter.NewWriter(&b, 0, 0, 2, ' ', 0)
		fmt.Fprintln(t, l.kind.heading)
		for _, item := range l.items {
			row, err := l.kind.row(item)
			if err != nil {
				return fmt.Errorf("%s in the server's answer: %w", l.kind.one, err)
			}
			fmt.Fprintln(t, printable(row))
		}
		if err := t.Flush(); err != nil {
			return err
		}
	}
	_, err := w.Write(b.Bytes())
	return err
}

// printJSON writes what the server sent, for programs: the object that was asked for by id, or
// an object with a member for each list.
func printJSON(w io.Writer, found []list) error {
	var v any
	if len(found) == 1 && found[0].id != "" {
		v = found[0].items[0]
	} else {
		members := make(map[string][]json.RawMessage)
		for _, l := range found {
			members[l.kind.name] = l.items
		}
		v = members
	}
	e := json.NewEncoder(w)
	e.SetIndent("", "  ")
	return e.Encode(v)
}

// printable replaces what a peer may have put into its name to play with a terminal.
func printable(s string) string {
	return strings.Map(func(r rune) rune {
		if r == '\t' || unicode.IsPrint(r) {
			return r
		}
		return '?'
	}, s)
}
