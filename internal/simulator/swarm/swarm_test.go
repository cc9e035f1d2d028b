// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"encoding/json"
	"io"
	"net"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/link"
	"remsim/internal/server"
	"remsim/internal/server/rest"
	"remsim/internal/slot"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// TestRun runs a swarm with moves, commands and faults on a server of this process, with places for most clients, until there were
// enough of each.
func TestRun(t *testing.T) {
	c := onServer(t)
	c.Banks, c.Slots, c.Clients, c.Churn, c.TPDUs, c.Faults = 3, 5, 18, 40, 500, 5
	c.Interval = 100 * time.Millisecond
	c.Seed = uint64(time.Now().UnixNano())
	tpdus, moves, faults := 0, 0, uint64(0)
	enough := func() bool { return tpdus >= 500 && moves >= 15+20 && faults >= 10 }
	out := &reports{t: t}
	ctx := out.until(func(r Report) bool {
		tpdus, moves, faults = tpdus+r.TPDUs.N, moves+r.Moves.N, faults+r.Cuts+r.Hangs+r.Kills
		return enough()
	})
	c.Out = out
	if err := Run(ctx, c); err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	last := out.all[len(out.all)-1]
	tpdus, moves, faults = last.TPDUs.N, last.Moves.N, last.Cuts+last.Hangs+last.Kills
	if last.Phase != Done || !enough() || last.Wrong != 0 {
		t.Errorf("seed %d: the last of %d reports is %+v", c.Seed, len(out.all), last)
	}
	all, err := newAPI(c.REST).maps(t.Context())
	if err != nil || len(all) > 0 {
		t.Errorf("%d maps are left, %v", len(all), err)
	}
}

// reports takes what a swarm reports.
type reports struct {
	t    *testing.T
	all  []Report
	told func(Report)
}

// until returns a context that ends when a report makes something true, or when none has done so for long.
func (r *reports) until(is func(Report) bool) context.Context {
	ctx, cancel := context.WithTimeout(r.t.Context(), 3*time.Minute)
	r.t.Cleanup(cancel)
	r.told = func(v Report) {
		if is(v) {
			cancel()
		}
	}
	return ctx
}

// Write takes a line.
func (r *reports) Write(line []byte) (int, error) {
	var v Report
	if err := json.Unmarshal(line, &v); err != nil {
		r.t.Errorf("report %q: %v", line, err)
	}
	r.all = append(r.all, v)
	r.told(v)
	return len(line), nil
}

// TestRunDuration has a swarm end by itself.
func TestRunDuration(t *testing.T) {
	c := onServer(t)
	c.Banks, c.Slots, c.Clients, c.Duration = 1, 2, 2, 500*time.Millisecond
	out := &reports{t: t, told: func(Report) {}}
	c.Out = out
	if err := Run(t.Context(), c); err != nil {
		t.Error(err)
	}
	if last := out.all[len(out.all)-1]; last.Phase != Done || last.Seconds < c.Duration.Seconds() {
		t.Errorf("the last report is %+v", last)
	}
}

// TestRunEnds has the context end a swarm without a limit, and while it waits for a server that isn't there.
func TestRunEnds(t *testing.T) {
	c := onServer(t)
	c.Banks, c.Slots, c.Clients, c.Interval = 1, 2, 2, 50*time.Millisecond
	for _, absent := range []bool{false, true} {
		end := Working
		if absent {
			c.Server, end = "127.0.0.1:1", Connecting
		}
		out := &reports{t: t}
		ctx := out.until(func(r Report) bool { return r.Phase == end })
		c.Out = out
		if err := Run(ctx, c); (err != nil) != absent {
			t.Errorf("absent %v: %v", absent, err)
		}
	}
}

// onServer starts a server, and returns what a swarm has to know of it.
func onServer(t *testing.T) Config {
	t.Helper()
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	var done sync.WaitGroup
	t.Cleanup(func() { cancel(); done.Wait() })
	// Listeners that are there already: nobody else takes their ports meanwhile.
	nw := &ready{Network: link.TCP(), lns: map[string]net.Listener{}}
	rspro, web := nw.add(t), nw.add(t)
	started := make(chan struct{})
	done.Go(func() {
		err := server.Run(ctx, server.Config{RSPROListen: rspro, RESTListen: web, Name: "server", Version: "1"}, server.Env{
			Net: nw, Log: log, REST: rest.Serve, OnStart: func(context.Context, server.Running) { close(started) },
		})
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	select {
	case <-started:
	case <-time.After(time.Minute):
		t.Fatal("no server")
	}
	return Config{
		Server: rspro, REST: "http://" + web, Listen: netip.MustParseAddr("127.0.0.1"),
		Start: time.Minute, Settle: time.Minute, Interval: time.Second,
		KeepAlive: link.KeepAlive{Interval: 2 * time.Second, Timeout: 5 * time.Second},
		Log:       log, Peers: log, Out: io.Discard,
	}
}

// A ready is a network whose listeners were made before.
type ready struct {
	link.Network
	lns map[string]net.Listener // by their addresses
}

// add makes a listener, and returns its address.
func (n *ready) add(t *testing.T) string {
	t.Helper()
	ln, err := n.Network.Listen(t.Context(), "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.lns[ln.Addr().String()] = ln
	return ln.Addr().String()
}

func (n *ready) Listen(_ context.Context, addr string) (net.Listener, error) { return n.lns[addr], nil }

// TestSource: clients come from valid addresses on loopback, not too many from one.
func TestSource(t *testing.T) {
	users := map[netip.Addr]int{}
	for i := range (slot.Max + 1) * (slot.Max + 1) {
		a := source(i)
		if a.IsValid() && (!a.IsLoopback() || a.As4()[3] == 0 || a.As4()[3] == 255) {
			t.Fatalf("client %d comes from %v", i, a)
		}
		if users[a]++; users[a] > clientsPerAddr {
			t.Fatalf("more than %d clients come from %v", clientsPerAddr, a)
		}
	}
}

// TestSources has clients connect that have addresses of their own.
func TestSources(t *testing.T) {
	c := onServer(t)
	c.Client, c.Banks, c.Slots, c.Clients, c.TPDUs, c.Duration = 3*clientsPerAddr-2, 1, 4, 4, 50, time.Second
	if err := Run(t.Context(), c); err != nil {
		t.Error(err)
	}
}

// TestDescriptors: what is there is left alone, and what can't be had is said.
func TestDescriptors(t *testing.T) {
	if err := needDescriptors(10); err != nil {
		t.Error(err)
	}
	if err := needDescriptors(1 << 40); err == nil || !strings.Contains(err.Error(), "1099511627776 descriptors") || !strings.Contains(err.Error(), "ulimit") {
		t.Errorf("%v", err)
	}
}
