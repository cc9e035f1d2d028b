// SPDX-License-Identifier: GPL-2.0-or-later

// Package clock shows how the programs fare when the computer's clock is set: in a virtual computer, as that of this one is no
// test's business.
package clock

import (
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/guest"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

const (
	soon     = 60 * time.Second // for what takes under a second, in a virtual computer that is slow
	patience = 2 * soon
)

// bin is the directory of the programs.
var bin string

func TestMain(m *testing.M) {
	os.Exit(guest.Run(func(dir string) int {
		bin = dir
		return m.Run()
	}, []string{"remsim-server", "remsim-bankd", "remsim-client-shell"}))
}

// TestJump sets the clock far ahead and far back while a card is used, and has the map moved and the server started again. No command is
// lost, nobody loses a connection, and what is stored of times past and to come is read again.
func TestJump(t *testing.T) {
	dir := t.TempDir()
	api := rig.API{Base: "http://127.0.0.1:9997", HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}}}
	slots := filepath.Join(dir, "slots.csv")
	text := fmt.Sprintf("1,0,%q\n1,1,%q\n", simulator.Profile(0), simulator.Profile(1))
	if err := os.WriteFile(slots, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
	alive := []string{"--keepalive-interval", "5s", "--keepalive-timeout", "30s"}
	start := func(program string, args ...string) *rig.Proc {
		t.Helper()
		p, err := rig.Start(program, filepath.Join(bin, program), append(args, alive...)...)
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			p.Kill()
			if t.Failed() {
				log := p.Log()
				t.Logf("--- %s\n%s", program, log[max(0, len(log)-4000):])
			}
		})
		return p
	}
	startServer := func() *rig.Proc {
		t.Helper()
		p := start("remsim-server", "--store", "file:"+filepath.Join(dir, "state"))
		if _, err := p.Await(soon, "listening for RSPRO"); err != nil {
			t.Fatal(err)
		}
		return p
	}
	server := startServer()
	m := slot.Map{Bank: slot.Bank{ID: 1}, Client: slot.Client{ID: 1}}
	if err := rig.Eventually(soon, "the map is made", func() error { return api.Create(m) }); err != nil {
		t.Fatal(err)
	}
	bankd := start("remsim-bankd", "-i", "127.0.0.1", "-b", "1", "-n", "2", "--slots-file", slots)
	shell := start("remsim-client-shell", "-i", "127.0.0.1", "-c", "1")
	twin := func(i int) *softsim.Card { return softsim.New(simulator.Profile(i)) }
	u := rig.Use(shell, 1, twin(0), 20*time.Millisecond, patience)
	await := func(from, more rig.Counts) rig.Counts {
		t.Helper()
		c, err := u.Await(from, more, soon)
		if err != nil {
			t.Fatal(err)
		}
		return c
	}
	counts := await(rig.Counts{}, rig.Counts{Answers: 20, ATRs: 1})
	now := time.Now()
	for i, to := range []time.Time{
		now.Add(2 * time.Hour), now.Add(-2 * time.Hour), now.AddDate(30, 0, 0), time.Unix(1000, 0), now,
	} {
		marks := map[*rig.Proc]int{server: server.Mark(), bankd: bankd.Mark(), shell: shell.Mark()}
		ts := unix.NsecToTimespec(to.UnixNano())
		if err := unix.ClockSettime(unix.CLOCK_REALTIME, &ts); err != nil {
			t.Fatal(err)
		}
		time.Sleep(6 * time.Second) // longer than keep-alive's interval
		counts = await(counts, rig.Counts{Answers: 20})
		for p, mark := range marks {
			if log, _ := p.LogFrom(mark); strings.Contains(log, "connection") || strings.Contains(log, "level=warning") {
				t.Errorf("set to %v: %s says %s", to, p.Name, log)
			}
		}
		// A new map, and a server that is started again.
		m.Bank.Slot = uint16(i+1) % 2
		u.Becomes(twin(int(m.Bank.Slot)))
		if err := api.Put(m); err != nil {
			t.Fatal(err)
		}
		counts = await(counts, rig.Counts{ATRs: 1})
		counts = await(counts, rig.Counts{Answers: 5})
		before := counts
		server.Kill()
		server = startServer()
		if err := rig.Eventually(soon, "all are back", func() error {
			states, err := api.SlotMaps()
			if err == nil && (len(states) != 1 || states[m] != "ACTIVE") {
				err = fmt.Errorf("the maps are %v", states)
			}
			return err
		}); err != nil {
			t.Fatal(err)
		}
		counts = await(counts, rig.Counts{Answers: 5})
		if counts.Lost > before.Lost || counts.ATRs > before.ATRs {
			t.Errorf("set to %v: the session has noticed the new server: %+v, before %+v", to, counts, before)
		}
		t.Logf("set to %v: %+v", to.UTC().Format(time.DateTime), counts)
	}
	if err := u.End(); err != nil {
		t.Error(err)
	}
}
