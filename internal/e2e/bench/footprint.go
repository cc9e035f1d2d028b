// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

// footprint measures memory and the time from start to ready of each program.
func (b *bench) footprint() error {
	dir, err := os.MkdirTemp("", "remsim-bench-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(dir)
	const cards = 16
	var slots strings.Builder
	for i := range cards {
		fmt.Fprintf(&slots, "1,%d,%s\n", i, simulator.Profile(i))
	}
	file := filepath.Join(dir, "slots.csv")
	if err := os.WriteFile(file, []byte(slots.String()), 0o644); err != nil {
		return err
	}
	server, err := b.startServer()
	if err != nil {
		return err
	}
	bankd := []string{"-i", "127.0.0.1", "-n", fmt.Sprint(cards), "--slots-file", file}
	rows := [][]string{{"program", "start to ready, median of 20", "memory", "C suite: ready, memory"}}
	for _, p := range []struct {
		name, ready, c string
		args           []string
	}{
		{"remsim-server", "listening for RSPRO", "7-24 ms, 10-13 MB", []string{"--rspro-listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0"}},
		{"remsim-bankd", "msg=connected", "7-24 ms, 6.5 MB", bankd},
		{"remsim-client-shell", "msg=connected", "7-24 ms, –", nil},
	} {
		var took series
		var memory string
		for range 20 {
			var proc *rig.Proc
			err := took.measure(func() (err error) { proc, err = b.start(p.ready, p.name, p.args...); return err })
			if err != nil {
				return err
			}
			time.Sleep(50 * time.Millisecond) // what it does after that
			memory = resident(proc)
			if _, err := proc.Stop(); err != nil {
				return err
			}
		}
		rows = append(rows, []string{p.name, fmt.Sprintf("%.1f ms", took.quantile(0.5).Seconds()*1e3), memory, p.c})
	}
	used, err := b.used(server, bankd, cards)
	if err != nil {
		return err
	}
	rows[0] = append(rows[0], "memory with 16 cards in use")
	for i := range used {
		rows[i+1] = append(rows[i+1], used[i])
	}
	table(b.out, rows...)
	fmt.Fprint(b.out, "The bankd has 16 slots; it and the client are ready when the server has accepted them. In use: 16 clients, one for each slot.\n\n")
	return nil
}

// used returns the memory of a server, a bankd and a client when all cards are in use.
func (b *bench) used(server *rig.Proc, args []string, cards int) ([]string, error) {
	bankd, err := b.start("msg=connected", "remsim-bankd", args...)
	if err != nil {
		return nil, err
	}
	api, client := newAPI(), (*rig.Proc)(nil)
	for i := range uint16(cards) {
		if err := api.Create(slot.Map{Bank: bankSlot(i), Client: clientSlot(i)}); err != nil {
			return nil, err
		}
		if client, err = b.start("card is there", "remsim-client-shell", "-c", fmt.Sprint(i)); err != nil {
			return nil, err
		}
	}
	return []string{resident(server), resident(bankd), resident(client)}, nil
}
