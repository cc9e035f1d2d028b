// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"io"
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

// TestRun runs a swarm with moves, commands and faults on a server of this process, with places for most clients.
func TestRun(t *testing.T) {
	c := onServer(t)
	c.Banks, c.Slots, c.Clients, c.Churn, c.TPDUs, c.Faults = 3, 5, 18, 40, 500, 5
	c.Duration = 3 * time.Second
	c.Interval = 500 * time.Millisecond
	c.Seed = uint64(time.Now().UnixNano())
	var out bytes.Buffer
	c.Out = &out
	if err := Run(t.Context(), c); err != nil {
		t.Fatalf("seed %d: %v", c.Seed, err)
	}
	lines := strings.Split(strings.TrimSpace(out.String()), "\n")
	var last Report
	for _, l := range lines {
		if err := json.Unmarshal([]byte(l), &last); err != nil {
			t.Fatalf("report %q: %v", l, err)
		}
	}
	if last.Phase != Done || last.TPDUs.N < 50 || last.Moves.N < 15+5 || last.Cuts+last.Hangs+last.Kills == 0 || last.Wrong != 0 {
		t.Errorf("seed %d: the last of %d reports is %s", c.Seed, len(lines), lines[len(lines)-1])
	}
	all, err := newAPI(c.REST).maps(t.Context())
	if err != nil || len(all) > 0 {
		t.Errorf("%d maps are left, %v", len(all), err)
	}
}

// TestRunEnds has the context end a swarm without a limit, and while it waits for a server that isn't there.
func TestRunEnds(t *testing.T) {
	c := onServer(t)
	c.Banks, c.Slots, c.Clients = 1, 2, 2
	for _, absent := range []bool{false, true} {
		if absent {
			c.Server = "127.0.0.1:1"
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		err := Run(ctx, c)
		cancel()
		if (err != nil) != absent {
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
	reserve := func() string {
		ln, err := link.TCP().Listen(ctx, "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		defer ln.Close()
		return ln.Addr().String()
	}
	rspro, web := reserve(), reserve()
	started := make(chan struct{})
	done.Go(func() {
		err := server.Run(ctx, server.Config{RSPROListen: rspro, RESTListen: web, Name: "server", Version: "1"}, server.Env{
			Net: link.TCP(), Log: log, REST: rest.Serve, OnStart: func(context.Context, server.Running) { close(started) },
		})
		if err != nil && ctx.Err() == nil {
			t.Error(err)
		}
	})
	select {
	case <-started:
	case <-time.After(20 * time.Second):
		t.Fatal("no server")
	}
	return Config{
		Server: rspro, REST: "http://" + web, Listen: netip.MustParseAddr("127.0.0.1"),
		Start: time.Minute, Settle: time.Minute, Interval: time.Second,
		KeepAlive: link.KeepAlive{Interval: 2 * time.Second, Timeout: 2 * time.Second},
		Log:       log, Peers: log, Out: io.Discard,
	}
}

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
