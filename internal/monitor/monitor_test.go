// SPDX-License-Identifier: GPL-2.0-or-later

package monitor

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/bankd"
	"remsim/internal/client"
	"remsim/internal/count"
	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/monitor/promtool"
	"remsim/internal/server"
)

func testMonitor(t *testing.T) *Monitor {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", "")
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := New("remsim-test", log)
	t.Cleanup(m.Close)
	return m
}

// get asks for a path as the REST port would.
func get(m *Monitor, path string) (status int, body string) {
	w := httptest.NewRecorder()
	m.paths()[path].ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	return w.Code, w.Body.String()
}

// Health follows a program's life: what is asked before it has begun, while it can't do its work, while a loop is stuck, and at
// its end.
func TestHealth(t *testing.T) {
	m := testMonitor(t)
	check := func(path string, want int, text string) {
		t.Helper()
		if status, body := get(m, path); status != want || body != text+"\n" {
			t.Errorf("%s: status %d, %q; want %d, %q", path, status, body, want, text)
		}
	}
	check("/healthz", 200, "ok")
	check("/readyz", 503, "starting")

	var busy error
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	m.Start(ctx, daemon.Health{
		Ready:  func() error { return busy },
		Status: func() string { return "well" },
	})
	check("/healthz", 200, "ok")
	check("/readyz", 200, "ok")
	busy = io.ErrNoProgress
	check("/healthz", 200, "ok")
	check("/readyz", 503, busy.Error())
	busy = nil

	cancel()
	m.running.Wait()
	check("/readyz", 503, "stopping")
}

// A loop that is stuck is named after 5 s, and what might need it isn't asked.
func TestStuck(t *testing.T) {
	t.Setenv("NOTIFY_SOCKET", "")
	synctest.Test(t, func(t *testing.T) {
		log := logrus.New()
		log.SetOutput(io.Discard)
		m := New("remsim-test", log)
		defer m.Close()
		idle := make(chan struct{})
		m.Start(t.Context(), daemon.Health{
			Loops:  []daemon.Loop{daemon.Receiver("store", idle), {Name: "slots", Ask: func(context.Context) error { return nil }}},
			Ready:  func() error { t.Error("asked"); return nil },
			Status: func() string { return "" },
		})
		for _, path := range []string{"/healthz", "/readyz"} {
			began := time.Now()
			status, body := get(m, path)
			if want := "store doesn't answer: no sign of life within 5s\n"; status != 503 || body != want || time.Since(began) != askTimeout {
				t.Errorf("%s: status %d, %q after %v; want %q", path, status, body, time.Since(began), want)
			}
		}
	})
}

// All metrics of all programs stand side by side, with values that aren't their zeros, as Prometheus wants them.
func TestMetrics(t *testing.T) {
	m := testMonitor(t)
	var h count.Histogram
	h.Observe(3 * time.Millisecond)
	h.Observe(time.Hour)
	m.Server(func() server.Stats {
		return server.Stats{Clients: 3, Maps: map[server.MapState]int{server.MapActive: 2, server.MapDeleteReq: 1}, Stored: h.View(), NotStored: 1}
	})
	m.Bankd(func() bankd.Stats {
		return bankd.Stats{Server: true, Slots: map[bankd.SlotState]int{bankd.Carded: 5}, Connections: map[bankd.ConnState]int{bankd.Served: 5}, Commands: h.View(), WarmResets: 7}
	})
	m.Client(func() client.Stats {
		return client.Stats{States: map[client.State]int{client.Operational: 1}, Failed: map[client.Failure]uint64{client.NoCard: 9}}
	})
	rest := m.REST()
	rest.Observe("GET", "/api/v2/slotmaps/{slot}", 404, time.Millisecond)
	rest.Observe("", "", 404, time.Millisecond)
	status, figures := get(m, "/metrics")
	if status != 200 {
		t.Fatalf("status %d: %s", status, figures)
	}
	promtool.CheckMetrics(t, "../..", []byte(figures))
	for _, want := range []string{
		`remsim_server_peers{type="client"} 3`,
		`remsim_server_slotmaps{state="DELETE_REQ"} 1`,
		`remsim_server_store_commit_duration_seconds_bucket{le="0.002"} 0`,
		`remsim_server_store_commit_duration_seconds_bucket{le="0.005"} 1`,
		`remsim_server_store_commit_duration_seconds_bucket{le="30"} 1`,
		`remsim_server_store_commit_duration_seconds_bucket{le="+Inf"} 2`,
		`remsim_server_store_commit_duration_seconds_sum 3600.003`,
		`remsim_server_http_request_duration_seconds_count{method="GET",route="/api/v2/slotmaps/{slot}",status="404"} 1`,
		`remsim_server_http_request_duration_seconds_count{method="",route="",status="404"} 1`,
		`remsim_bankd_server_connected 1`,
		`remsim_bankd_slots{state="CARD"} 5`,
		`remsim_bankd_card_resets_total{kind="warm"} 7`,
		`remsim_client_slots{state="OPERATIONAL"} 1`,
		`remsim_client_tpdu_errors_total{reason="no_card"} 9`,
		`remsim_build_info{goversion="`,
	} {
		if !strings.Contains(figures, "\n"+want) {
			t.Errorf("no %s", want)
		}
	}
	_, names := reference()
	for _, name := range names {
		if !strings.Contains(figures, "# TYPE "+name+" ") {
			t.Errorf("no %s", name)
		}
	}
}

// A listener of its own serves the same, and nothing else; a port that is taken is an error.
func TestListen(t *testing.T) {
	m := testMonitor(t)
	if err := m.Listen(t.Context(), link.TCP(), Config{}); err != nil || m.srv != nil {
		t.Errorf("no address: %v", err)
	}
	var lines text
	m.log.Logger.SetOutput(&lines)
	if err := m.Listen(t.Context(), link.TCP(), Config{Listen: "127.0.0.1:0"}); err != nil {
		t.Fatal(err)
	}
	_, addr, _ := strings.Cut(lines.String(), `addr="`)
	addr, _, _ = strings.Cut(addr, `"`)
	c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
	for path, want := range map[string]int{"/metrics": 200, "/healthz": 200, "/readyz": 503, "/": 404, "/metrics/x": 404} {
		res, err := c.Get("http://" + addr + path)
		if err != nil {
			t.Fatal(err)
		}
		res.Body.Close()
		if res.StatusCode != want {
			t.Errorf("%s: status %d, want %d", path, res.StatusCode, want)
		}
	}
	err := testMonitor(t).Listen(t.Context(), link.TCP(), Config{Listen: addr})
	if err == nil || !strings.Contains(err.Error(), addr) {
		t.Errorf("a port that is taken: %v", err)
	}
}

// text is a log.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (t *text) Write(b []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.Write(b)
}

func (t *text) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.b.String()
}
