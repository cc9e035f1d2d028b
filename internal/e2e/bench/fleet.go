// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

// The cost of maps from the request until their bankds serve them, with a store in memory and in a file. Bankds are in
// this process, the server is one of its own.

const (
	singles  = 1000   // maps that are made one by one
	bulkMaps = 20_000 // in one request
	perBank  = 1000   // slots of each bankd
	allIDs   = (slot.Max + 1) * (slot.Max + 1)
)

// A storing is a kind of store of the server.
type storing struct {
	name string
	args []string
}

// storings returns the kinds there are, with a new file.
func (b *bench) storings() ([]storing, string, error) {
	dir, err := b.dir()
	if err != nil {
		return nil, "", err
	}
	file := filepath.Join(dir, "state.db")
	return []storing{{"memory", []string{"--store", "memory"}}, {"file", []string{"--store", "file:" + file}}}, file, nil
}

// active measures how many maps a second become ACTIVE, made singly and in a bulk.
func (b *bench) active() error {
	rows := [][]string{{"maps until ACTIVE, a second", "memory", "file", "C suite"}}
	for _, how := range []struct {
		name string
		c    string
		maps int
		make func() error
	}{
		{"POST, one connection", "3,500-7,400 POST/s up to 1,000 maps", singles, func() error { return post(singles, 1) }},
		{"POST, 16 connections", "–", singles, func() error { return post(singles, 16) }},
		{fmt.Sprintf("bulk of %d", bulkMaps), "–", bulkMaps, func() error { return newAPI().Bulk(bulkOf(0, bulkMaps)) }},
	} {
		row := []string{how.name}
		for i := range 2 {
			rate, err := b.rate(i, how.maps, how.make)
			b.stop()
			if err != nil {
				return err
			}
			row = append(row, fmt.Sprintf("%.0f", rate))
		}
		rows = append(rows, append(row, how.c))
	}
	table(b.out, rows...)
	fmt.Fprintf(b.out, "Bankds of %d slots are connected and say yes at once. A change is answered when it is stored: with a file, when it was synced.\n"+
		"A sync of 4 KiB by itself takes %s here (median).\n\n", perBank, micros(syncTime()))
	return nil
}

// rate starts a server with the i-th kind of store and bankds, and returns how many maps become ACTIVE a second.
func (b *bench) rate(i, maps int, make func() error) (float64, error) {
	kinds, _, err := b.storings()
	if err != nil {
		return 0, err
	}
	if _, err := b.start("listening for RSPRO", "remsim-server", kinds[i].args...); err != nil {
		return 0, err
	}
	for id := range max(1, maps/perBank) {
		if err := b.yesBankd(uint16(id)); err != nil {
			return 0, err
		}
	}
	begin := time.Now()
	if err := make(); err != nil {
		return 0, err
	}
	if err := awaitActive(maps); err != nil {
		return 0, err
	}
	return float64(maps) / time.Since(begin).Seconds(), nil
}

// place is where the i-th map of the fleet is.
func place(i int) slot.Map {
	id, nr := uint16(i/perBank), uint16(i%perBank)
	return slot.Map{Bank: slot.Bank{ID: id, Slot: nr}, Client: slot.Client{ID: id, Slot: nr}}
}

func bulkOf(first, n int) (ops []rig.Op) {
	for i := range n {
		ops = append(ops, rig.Op{Op: "create", Map: place(first + i)})
	}
	return ops
}

// post makes n maps over so many connections.
func post(n, conns int) error {
	api := newAPI()
	var next atomic.Int64
	errs := make(chan error, conns)
	for range conns {
		go func() {
			for {
				i := int(next.Add(1)) - 1
				if i >= n {
					errs <- nil
					return
				}
				if err := api.Create(place(i)); err != nil {
					errs <- err
					return
				}
			}
		}()
	}
	var err error
	for range conns {
		err = errors.Join(err, <-errs)
	}
	return err
}

// awaitActive waits until so many maps are ACTIVE.
func awaitActive(n int) error {
	pause := time.Duration(n) * time.Microsecond // a list takes that long to make
	for end := time.Now().Add(3 * time.Minute); ; time.Sleep(pause) {
		res, err := http.Get(restBase + "/api/backend/v1/slotmaps")
		if err != nil {
			return err
		}
		text, err := io.ReadAll(res.Body)
		res.Body.Close()
		if err != nil {
			return err
		}
		switch have := strings.Count(string(text), `"ACTIVE"`); {
		case have == n:
			return nil
		case time.Now().After(end):
			return fmt.Errorf("%d of %d maps are ACTIVE", have, n)
		}
	}
}

// yesBankd connects a bankd that says yes to everything.
func (b *bench) yesBankd(id uint16) error {
	up := make(chan struct{}, 1)
	c := &link.Caller{
		Net: link.TCP(), Addr: "127.0.0.1:9998", Want: rspro.Server,
		Hello: func() rspro.Message {
			return &rspro.ConnectBankReq{BankID: id, NumSlots: perBank, Identity: rspro.ComponentIdentity{
				Type: rspro.Bankd, Name: "bench", Software: "remsim-bankd", SWVersion: "1",
			}}
		},
		Accept: func(*link.Conn, rspro.Response) error { up <- struct{}{}; return nil },
		Handle: func(c *link.Conn, p rspro.PDU) {
			switch p.Msg.(type) {
			case *rspro.CreateMappingReq:
				c.Reply(p, &rspro.CreateMappingRes{})
			case *rspro.RemoveMappingReq:
				c.Reply(p, &rspro.RemoveMappingRes{})
			}
		},
	}
	b.background(func(ctx context.Context) { _ = c.Run(ctx) })
	select {
	case <-up:
		return nil
	case <-time.After(ready):
		return fmt.Errorf("bankd %d isn't accepted within %v", id, ready)
	}
}

// background runs f until b stops.
func (b *bench) background(f func(ctx context.Context)) {
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan struct{})
	go func() { defer close(done); f(ctx) }()
	b.started = append(b.started, killer(func() { cancel(); <-done }))
}

// syncTime returns how long the disk of temporary files takes to sync a page.
func syncTime() time.Duration {
	f, err := os.CreateTemp("", "remsim-bench-")
	if err != nil {
		return 0
	}
	defer os.Remove(f.Name())
	defer f.Close()
	var s series
	page := make([]byte, 4096)
	for range 200 {
		if err := s.measure(func() error {
			_, err := f.WriteAt(page, 0)
			return errors.Join(err, f.Sync())
		}); err != nil {
			return 0
		}
	}
	return s.quantile(0.5)
}

// many measures what a change costs with few maps and with all that the protocol's ids allow.
func (b *bench) many() error {
	rows := [][]string{{"maps", "store", "PUT: median", "p99", "bulk, a map", "server's memory", "file"}}
	for i := range 2 {
		kinds, file, err := b.storings()
		if err != nil {
			return err
		}
		// Without a log of each map, which would fill this process's memory.
		p, err := b.start("listening for RSPRO", "remsim-server", append(kinds[i].args, "-d", "DRSPRO,info")...)
		if err != nil {
			return err
		}
		api := newAPI()
		made := 0
		for _, count := range []int{1000, 20_000, 100_000, allIDs} {
			begin, first := time.Now(), made
			for made < count {
				var ops []rig.Op
				for ; made < count && len(ops) < bulkMaps; made++ {
					ops = append(ops, rig.Op{Op: "create", Map: mapAt(made)})
				}
				if err := api.Bulk(ops); err != nil {
					return err
				}
			}
			each := time.Since(begin) / time.Duration(made-first)
			// Two maps change their places, and again.
			var put series
			for range 500 {
				x, y := mapAt(rand.IntN(made)), mapAt(rand.IntN(made))
				for _, m := range []slot.Map{{Bank: x.Bank, Client: y.Client}, y, x} {
					if err := put.measure(func() error { return api.Put(m) }); err != nil {
						return err
					}
				}
			}
			size := "–"
			if info, err := os.Stat(file); err == nil {
				size = fmt.Sprintf("%.1f MB", float64(info.Size())/(1<<20))
			}
			rows = append(rows, []string{fmt.Sprint(count), kinds[i].name, micros(put.quantile(0.5)), micros(put.quantile(0.99)), micros(each), resident(p), size})
		}
		b.stop()
	}
	table(b.out, rows...)
	fmt.Fprintf(b.out, "PUT moves a map to another bank slot, which ends the one that was there. The last row has all ids there are. No bankd is connected.\n\n")
	return nil
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
