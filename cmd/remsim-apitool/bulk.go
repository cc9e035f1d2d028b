// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"bytes"
	"context"
	"encoding/csv"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"slices"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"remsim/internal/daemon"
	"remsim/internal/slot"
)

// csvHeading names the columns of maps as CSV.
const csvHeading = "bankId,bankSlot,clientId,clientSlot"

// maxChunk is how many operations a server takes in one transaction.
const maxChunk = 20_000

// An operation is one of a bulk.
type operation struct {
	Op     string     `json:"op"`
	Bank   bankSlot   `json:"bank"`
	Client clientSlot `json:"client"`
}

// A line is a map that a file has, and where.
type line struct {
	nr int
	slot.Map
}

// mapImport is the command that makes the maps of a file.
func mapImport(o *options) *cobra.Command {
	var replace, remove bool
	var chunk uint16
	cmd := &cobra.Command{
		Use: "import FILE", Short: "Make the maps of a file",
		Long: `Makes the maps of FILE, or by "-" of standard input: lines of CSV, "BANK,SLOT,CLIENT,SLOT" in numbers, of which the first
may be the heading "` + csvHeading + `", or lines that are JSON objects as "map export -o json" writes them.

They are sent in transactions of --chunk maps. The whole file is read first: when it has an error nothing is done. When the server
refuses a map, nothing of its transaction is done; those before it stay, and it is said how many maps that was.`,
		Args: func(_ *cobra.Command, args []string) error {
			if len(args) == 0 {
				return daemon.Usagef(`argument missing: want a FILE, or "-" for standard input`)
			}
			return atMost(1, args)
		},
		RunE: func(cmd *cobra.Command, args []string) error {
			if replace && remove {
				return daemon.Usagef("options --replace and --remove: want only one of them")
			}
			lines, err := readFile(args[0], cmd.InOrStdin())
			if err != nil {
				return err
			}
			op := "create"
			switch {
			case replace:
				op = "put"
			case remove:
				op = "delete"
			}
			return o.v2(cmd).bulk(cmd.Context(), args[0], op, lines, int(chunk))
		},
		ValidArgsFunction: func(*cobra.Command, []string, string) ([]string, cobra.ShellCompDirective) {
			return nil, cobra.ShellCompDirectiveDefault // files
		},
	}
	fs := cmd.Flags()
	fs.BoolVar(&replace, "replace", false, "whatever their slots are mapped to, as map move does")
	fs.BoolVar(&remove, "remove", false, "delete these maps instead; each must be there as it is in the file")
	daemon.Uint16Var(fs, &chunk, "chunk", "", 10_000, 1, maxChunk, "maps in a transaction")
	return cmd
}

// readFile reads the maps of a file, or of stdin by the name "-".
func readFile(name string, stdin io.Reader) ([]line, error) {
	if name == "-" {
		return readMaps("standard input", stdin)
	}
	f, err := os.Open(name)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return readMaps(name, f)
}

// readMaps reads maps as CSV, or as JSON when they begin with a brace.
func readMaps(name string, r io.Reader) ([]line, error) {
	b := bufio.NewReader(r)
	for {
		switch c, err := b.Peek(1); {
		case errors.Is(err, io.EOF):
			return nil, nil
		case err != nil:
			return nil, fmt.Errorf("%s: %w", name, err)
		case c[0] == '{':
			return readJSONMaps(name, b)
		default:
			return readCSV(name, b)
		}
	}
}

func readJSONMaps(name string, r io.Reader) ([]line, error) {
	var lines []line
	s := bufio.NewScanner(r)
	nr := 1
	for ; s.Scan(); nr++ {
		text := bytes.TrimSpace(s.Bytes())
		if len(text) == 0 {
			continue
		}
		var v struct {
			Bank   struct{ BankID, SlotNr *uint16 }
			Client struct{ ClientID, SlotNr *uint16 }
		}
		err := json.Unmarshal(text, &v)
		numbers := []*uint16{v.Bank.BankID, v.Bank.SlotNr, v.Client.ClientID, v.Client.SlotNr}
		if err != nil || slices.ContainsFunc(numbers, func(n *uint16) bool { return n == nil || *n > slot.Max }) {
			return nil, fmt.Errorf(`%s, line %d: %.60q: want {"bank":{"bankId":N,"slotNr":N},"client":{"clientId":N,"slotNr":N}}, numbers 0..%d`, name, nr, text, slot.Max)
		}
		lines = append(lines, line{nr, slot.Map{Bank: slot.Bank{ID: *numbers[0], Slot: *numbers[1]}, Client: slot.Client{ID: *numbers[2], Slot: *numbers[3]}}})
	}
	if err := s.Err(); err != nil {
		return nil, fmt.Errorf("%s, line %d: %w", name, nr, err)
	}
	return lines, nil
}

func readCSV(name string, r io.Reader) ([]line, error) {
	c := csv.NewReader(r)
	c.FieldsPerRecord = -1
	c.TrimLeadingSpace = true
	c.ReuseRecord = true
	c.Comment = '#'
	var lines []line
	for first := true; ; first = false {
		record, err := c.Read()
		if errors.Is(err, io.EOF) {
			return lines, nil
		}
		if err != nil {
			return nil, fmt.Errorf("%s: %w", name, err)
		}
		text := strings.Join(record, ",")
		if first && text == csvHeading {
			continue
		}
		nr, _ := c.FieldPos(0)
		var n [4]uint16
		bad := len(record) != len(n)
		for i := 0; i < len(n) && !bad; i++ {
			v, err := strconv.ParseUint(strings.TrimSpace(record[i]), 10, 16)
			n[i], bad = uint16(v), err != nil || v > slot.Max
		}
		if bad {
			return nil, fmt.Errorf("%s, line %d: %.60q: want %s, numbers 0..%d", name, nr, text, csvHeading, slot.Max)
		}
		lines = append(lines, line{nr, slot.Map{Bank: slot.Bank{ID: n[0], Slot: n[1]}, Client: slot.Client{ID: n[2], Slot: n[3]}}})
	}
}

// bulk does an operation on the maps of lines, in transactions of chunk.
func (a *api) bulk(ctx context.Context, name, op string, lines []line, chunk int) error {
	done := 0
	for part := range slices.Chunk(lines, chunk) {
		ops := make([]operation, len(part))
		for i, l := range part {
			ops[i] = operation{op, bankSlot(l.Bank), clientSlot(l.Client)}
		}
		_, err := a.do(ctx, http.MethodPost, "/slotmaps/bulk", map[string]any{"operations": ops})
		var r *refusal
		switch {
		case err == nil:
			done += len(part)
			continue
		case errors.As(err, &r) && r.index != nil && *r.index >= 0 && *r.index < len(part):
			err = fmt.Errorf("%s, line %d: %s: %w", name, part[*r.index].nr, part[*r.index].Map, err)
		default:
			err = fmt.Errorf("%s, lines %d..%d: %w", name, part[0].nr, part[len(part)-1].nr, err)
		}
		return fmt.Errorf("%w (%d of %d maps done)", err, done, len(lines))
	}
	return nil
}

// mapExport is the command that writes all maps as import takes them.
func mapExport(o *options) *cobra.Command {
	return &cobra.Command{
		Use: "export", Short: "Write all maps, for import",
		Long: `Writes all slot maps that are wanted to standard output as "map import" takes them: as CSV, or by "-o json" as a JSON object a line.`,
		RunE: func(cmd *cobra.Command, _ []string) error {
			found, err := o.v2(cmd).lists(cmd.Context(), "", mapsV2)
			if err != nil {
				return err
			}
			var b bytes.Buffer
			if o.output != "json" {
				b.WriteString(csvHeading + "\n")
			}
			for _, item := range found[0].items {
				m, err := decode[mapV2](item)
				if err != nil {
					return fmt.Errorf("slot map in the server's answer: %w", err)
				}
				switch {
				case m.DeletedAt != nil:
				case o.output == "json":
					text, err := json.Marshal(newMap(slot.Map{Bank: m.Bank.slot(), Client: m.Client.slot()}))
					if err != nil {
						return err
					}
					b.Write(append(text, '\n'))
				default:
					fmt.Fprintf(&b, "%d,%d,%d,%d\n", m.Bank.ID, m.Bank.Slot, m.Client.ID, m.Client.Slot)
				}
			}
			_, err = b.WriteTo(cmd.OutOrStdout())
			return err
		},
	}
}
