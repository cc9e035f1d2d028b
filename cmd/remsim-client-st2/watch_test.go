// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"context"
	"io"
	"net/http"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/daemon"
	"remsim/internal/monitor/promtool"
)

// output is what a program has written.
type output struct {
	mu sync.Mutex
	b  strings.Builder
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.Write(b)
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.b.String()
}

// A client that waits for devices is watched: for one slot and for many.
func TestWatched(t *testing.T) {
	for _, args := range []string{"-k -H 250-1", "--all-slots"} {
		t.Run(args, func(t *testing.T) {
			t.Setenv(stateVariable, t.TempDir())
			ctx, stop := context.WithCancel(t.Context())
			defer stop()
			var log output
			ended := make(chan int, 1)
			go func() {
				ended <- daemon.Execute(ctx, command(), append(strings.Fields(args), "--metrics-listen", "127.0.0.1:0"), io.Discard, &log)
			}()
			addr := ""
			for end := time.Now().Add(30 * time.Second); addr == ""; time.Sleep(10 * time.Millisecond) {
				if time.Now().After(end) {
					t.Fatalf("it doesn't listen: %s", log.String())
				}
				_, line, _ := strings.Cut(log.String(), "listening for Prometheus")
				if _, line, ok := strings.Cut(line, `addr="`); ok {
					addr, _, _ = strings.Cut(line, `"`)
				}
			}
			c := http.Client{Timeout: 30 * time.Second, Transport: &http.Transport{DisableKeepAlives: true}}
			get := func(path string) (int, string) {
				t.Helper()
				res, err := c.Get("http://" + addr + path)
				if err != nil {
					t.Fatal(err)
				}
				defer res.Body.Close()
				b, err := io.ReadAll(res.Body)
				if err != nil {
					t.Fatal(err)
				}
				return res.StatusCode, string(b)
			}
			status, figures := get("/metrics")
			if status != http.StatusOK || !strings.Contains(figures, "\nremsim_client_slots{state=\"OPERATIONAL\"} 0\n") ||
				!strings.Contains(figures, `program="remsim-client-st2"`) {
				t.Errorf("status %d: %s", status, figures)
			}
			promtool.CheckMetrics(t, "../..", []byte(figures))
			if status, body := get("/healthz"); status != http.StatusOK {
				t.Errorf("healthz: %d, %s", status, body)
			}
			for end := time.Now().Add(30 * time.Second); ; time.Sleep(10 * time.Millisecond) {
				status, body := get("/readyz")
				if status == http.StatusServiceUnavailable && body == "no slot is served\n" {
					break
				}
				if time.Now().After(end) {
					t.Fatalf("readyz: %d, %s", status, body)
				}
			}
			stop()
			if s := <-ended; s != 0 {
				t.Errorf("status %d: %s", s, log.String())
			}
		})
	}
}
