// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/simulator/swarm"
	"remsim/internal/slot"
)

// All slots of a bankd in use at the same time; and a server with as many peers as a process may have descriptors, up to some number, which
// are swarms of remsim-simulator.

const (
	busySlots  = 16
	busyLength = 5 * time.Second
)

// sixteen measures how many commands a bankd with cards in software answers when all its slots are in use, and what each takes of
// the processors.
func (b *bench) sixteen() error {
	dir, err := b.dir()
	if err != nil {
		return err
	}
	var slots strings.Builder
	for i := range busySlots {
		fmt.Fprintf(&slots, "1,%d,%s\n", i, simulator.Profile(i))
	}
	file := filepath.Join(dir, "slots.csv")
	if err := os.WriteFile(file, []byte(slots.String()), 0o644); err != nil {
		return err
	}
	if _, err := b.startServer(); err != nil {
		return err
	}
	p, err := b.start("listening for RSPRO", "remsim-bankd", "-i", "127.0.0.1", "-n", fmt.Sprint(busySlots), "--slots-file", file)
	if err != nil {
		return err
	}
	api := newAPI()
	for i := range uint16(busySlots) {
		if err := api.Create(slot.Map{Bank: bankSlot(i), Client: clientSlot(i)}); err != nil {
			return err
		}
	}
	rows := [][]string{{"16 slots, a SELECT each after the other", "commands a second", "CPU of the bankd, a command", "median", "p99", "C suite", "n"}}
	for _, way := range []struct {
		name string
		c    string
		open func(uint16) (func() error, error)
	}{
		{"raw RSPRO → bankd → softsim", "12,000/s, 63 µs", b.raw},
		{"client core → bankd → softsim", "–", b.core},
	} {
		mark := len(b.started)
		var ways []func() error
		for i := range uint16(busySlots) {
			exchange, err := way.open(i)
			if err != nil {
				return err
			}
			ways = append(ways, exchange)
		}
		took, cpu, err := together(p, ways)
		if err != nil {
			return err
		}
		rows = append(rows, []string{
			way.name, fmt.Sprintf("%.0f", float64(len(took))/busyLength.Seconds()), micros(cpu / time.Duration(len(took))),
			micros(took.quantile(0.5)), micros(took.quantile(0.99)), way.c, fmt.Sprint(len(took)),
		})
		for _, s := range b.started[mark:] {
			s.Kill()
		}
		b.started = b.started[:mark]
	}
	table(b.out, rows...)
	fmt.Fprintf(b.out, "Clients and bankd share the processors; the figure of the C suite is of 16 slots, too, its generator and its cards were others.\n\n")
	return nil
}

// together has all exchanges be made at the same time, one after the other each, and returns how long they took and what p took of the processors.
func together(p *rig.Proc, all []func() error) (took series, cpu time.Duration, err error) {
	begun, err := cpuOf(p)
	if err != nil {
		return nil, 0, err
	}
	end := time.Now().Add(busyLength)
	each := make([]series, len(all))
	errs := make([]error, len(all))
	var done sync.WaitGroup
	for i, exchange := range all {
		done.Go(func() {
			for time.Now().Before(end) && errs[i] == nil {
				errs[i] = each[i].measure(exchange)
			}
		})
	}
	done.Wait()
	for _, s := range each {
		took = append(took, s...)
	}
	ended, err := cpuOf(p)
	return took, ended - begun, errors.Join(append(errs, err)...)
}

// cpuOf returns what a process has taken of the processors.
func cpuOf(p *rig.Proc) (time.Duration, error) {
	const tick = 10 * time.Millisecond // USER_HZ is 100 wherever Go runs
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", p.PID()))
	if err != nil {
		return 0, err
	}
	_, rest, _ := strings.Cut(string(text), ") ") // its name may have blanks
	f := strings.Fields(rest)
	var user, system int64
	if len(f) < 13 {
		return 0, fmt.Errorf("%s has ended", p.Name)
	}
	if _, err := fmt.Sscan(f[11]+" "+f[12], &user, &system); err != nil {
		return 0, err
	}
	return time.Duration(user+system) * tick, nil
}

const (
	crowdClients = 20_000
	crowdBanks   = 200
	crowdSlots   = 100
	crowdSlack   = 200 // descriptors of the server that aren't peers
)

// crowdSize returns how many clients there are, and in how many processes, as no process may have more descriptors than its limit.
func crowdSize() (clients, processes int, err error) {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return 0, 0, err
	}
	limit := int(min(l.Max, 1<<20))
	clients = min(crowdClients, limit-crowdBanks-crowdSlack)
	for processes = 1; 2*clients+crowdBanks*(crowdSlots+3)+processes*crowdSlack > processes*limit; processes++ {
	}
	for crowdBanks%processes > 0 {
		processes++
	}
	return clients / processes * processes, processes, nil
}

// crowd measures a server with 20,000 clients and 200 banks of 100 slots, or as many as there may be: what a peer takes of its memory, how soon all maps are
// ACTIVE, and how soon all is as it was when it was killed.
func (b *bench) crowd() error {
	clients, processes, err := crowdSize()
	if err != nil {
		return err
	}
	dir, err := b.dir()
	if err != nil {
		return err
	}
	kinds, _, err := b.storings()
	if err != nil {
		return err
	}
	start := func() (*rig.Proc, error) {
		return b.start("listening for RSPRO", "remsim-server", append(kinds[1].args, "-d", "DRSPRO,info")...)
	}
	begin := time.Now()
	server, err := start()
	if err != nil {
		return err
	}
	alone, err := rig.UsageOf(server)
	if err != nil {
		return err
	}
	var c crew
	for i := range processes {
		// It is killed in the end, and so doesn't take away its own files.
		p, err := rig.Start("swarm", "env", "TMPDIR="+dir, b.bin+"/remsim-simulator", "swarm", "--idle", "--interval", "200ms", "--start", "10m",
			"--banks", fmt.Sprint(crowdBanks/processes), "--slots", fmt.Sprint(crowdSlots), "--first-bank", fmt.Sprint(i*crowdBanks/processes),
			"--clients", fmt.Sprint(clients/processes), "--first-client", fmt.Sprint(i*clients/processes))
		if err != nil {
			return err
		}
		b.started = append(b.started, p)
		c.follow(p)
	}
	peers := clients + crowdBanks
	if err := c.await("all peers are connected", func(n swarm.Standing) bool { return n.Banks+n.Clients == peers }); err != nil {
		return err
	}
	connected := time.Since(begin)
	idle, err := rig.UsageOf(server)
	if err != nil {
		return err
	}

	var ops []rig.Op
	for i := range clients {
		ops = append(ops, rig.Op{Op: "create", Map: slot.Map{
			Bank:   slot.Bank{ID: uint16(i / crowdSlots), Slot: uint16(i % crowdSlots)},
			Client: slot.Client{ID: uint16(i % (slot.Max + 1)), Slot: uint16(i / (slot.Max + 1))},
		}})
	}
	begin = time.Now()
	if err := newAPI().Bulk(ops); err != nil {
		return err
	}
	if err := awaitActive(clients); err != nil {
		return err
	}
	active := time.Since(begin)
	if err := c.await("all clients have their cards", func(n swarm.Standing) bool { return n.Cards == clients }); err != nil {
		return err
	}
	carded := time.Since(begin)
	mapped, err := rig.UsageOf(server)
	if err != nil {
		return err
	}
	c.watchCards(clients)

	server.Kill()
	if err := c.await("no peer is connected", func(n swarm.Standing) bool { return n.Banks+n.Clients == 0 }); err != nil {
		return err
	}
	begin = time.Now()
	if server, err = start(); err != nil {
		return err
	}
	if err := c.await("all peers are back", func(n swarm.Standing) bool { return n.Banks+n.Clients == peers }); err != nil {
		return err
	}
	if err := awaitActive(clients); err != nil {
		return err
	}
	back := time.Since(begin)
	again, err := rig.UsageOf(server)
	if err != nil {
		return err
	}
	perPeer := func(u rig.Usage) string {
		return fmt.Sprintf("%.1f MB, %.1f KiB a peer", float64(u.RSS)/1024, float64(u.RSS-alone.RSS)/float64(peers))
	}
	table(b.out,
		[]string{fmt.Sprintf("%d clients, %d banks of %d slots", clients, crowdBanks, crowdSlots), "figure"},
		[]string{"all connected", seconds(connected)},
		[]string{"server's memory, nobody connected", fmt.Sprintf("%.1f MB", float64(alone.RSS)/1024)},
		[]string{"… all connected", perPeer(idle)},
		[]string{fmt.Sprintf("%d maps in a bulk: all ACTIVE", clients), fmt.Sprintf("%s, %.0f a second", seconds(active), float64(clients)/active.Seconds())},
		[]string{"… all clients have their cards", seconds(carded)},
		[]string{"server's memory then", perPeer(mapped)},
		[]string{"killed and started: all peers back, all maps ACTIVE", fmt.Sprintf("%s; %d clients without a card meanwhile", seconds(back), clients-c.fewest)},
		[]string{"server's memory then", perPeer(again)},
	)
	fmt.Fprintf(b.out, "The server has a file; the peers are remsim's own, in %d processes of `remsim-simulator swarm --idle` on the same processors.\n\n", processes)
	return nil
}

// A crew are swarms, by what they report.
type crew struct {
	mu     sync.Mutex
	last   []swarm.Report
	fewest int // clients with cards that there were since watchCards
}

func (c *crew) watchCards(now int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.fewest = now
}

// follow reads what a swarm reports.
func (c *crew) follow(p *rig.Proc) {
	c.mu.Lock()
	i := len(c.last)
	c.last = append(c.last, swarm.Report{})
	c.mu.Unlock()
	go func() {
		for line := range p.Lines {
			var r swarm.Report
			if json.Unmarshal([]byte(line), &r) == nil {
				c.mu.Lock()
				c.last[i] = r
				c.mu.Unlock()
			}
		}
	}()
}

// await waits until ok says that all stand as they should.
func (c *crew) await(what string, ok func(swarm.Standing) bool) error {
	for end := time.Now().Add(10 * time.Minute); ; time.Sleep(50 * time.Millisecond) {
		var n swarm.Standing
		c.mu.Lock()
		for _, r := range c.last {
			n.Banks, n.Clients, n.Cards = n.Banks+r.Banks, n.Clients+r.Clients, n.Cards+r.Cards
		}
		c.fewest = min(c.fewest, n.Cards)
		c.mu.Unlock()
		switch {
		case ok(n):
			return nil
		case time.Now().After(end):
			return fmt.Errorf("not true after 10 minutes: %s: %+v", what, n)
		}
	}
}
