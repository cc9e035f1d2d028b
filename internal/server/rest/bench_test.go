// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"path/filepath"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/server"
	"remsim/internal/server/store"
)

// serving serves a state on loopback and returns the URL of v2.
func serving(b *testing.B, state *server.State) string {
	log, _ := logtest.NewNullLogger()
	log.SetLevel(logrus.WarnLevel)
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		b.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, state, log.WithField("cat", "DREST")) }()
	b.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			b.Error(err)
		}
	})
	return "http://" + ln.Addr().String() + v2Path
}

// inStores runs a benchmark with each kind of store.
func inStores(b *testing.B, bench func(b *testing.B, state *server.State)) {
	b.Run("memory", func(b *testing.B) { bench(b, server.NewState()) })
	b.Run("file", func(b *testing.B) {
		st, err := store.Open(filepath.Join(b.TempDir(), "db"))
		if err != nil {
			b.Fatal(err)
		}
		b.Cleanup(func() { st.Close() })
		state, err := server.LoadState(b.Context(), st)
		if err != nil {
			b.Fatal(err)
		}
		bench(b, state)
	})
}

func post(c *http.Client, url string, body []byte) error {
	res, err := c.Post(url, "application/json", bytes.NewReader(body))
	if err != nil {
		return err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(res.Body)
	if err == nil && res.StatusCode/100 != 2 {
		err = fmt.Errorf("%s: %.200s", res.Status, answer)
	}
	return err
}

// BenchmarkPostV2 makes maps by single POSTs over TCP, from 1 and from 64 connections; it is done when they are answered.
func BenchmarkPostV2(b *testing.B) {
	for _, conns := range []int{1, 64} {
		b.Run(fmt.Sprintf("connections=%d", conns), func(b *testing.B) {
			inStores(b, func(b *testing.B, state *server.State) {
				url := serving(b, state) + "/slotmaps"
				client := &http.Client{Transport: &http.Transport{MaxIdleConnsPerHost: conns}}
				defer client.CloseIdleConnections()
				var next atomic.Int64
				took := make([]time.Duration, b.N)
				var wg sync.WaitGroup
				b.ResetTimer()
				for range conns {
					wg.Go(func() {
						for {
							i := int(next.Add(1)) - 1
							if i >= b.N {
								return
							}
							start := time.Now()
							if err := post(client, url, []byte(slotmapBody(i>>10, i&1023, i>>10, i&1023))); err != nil {
								b.Error(err)
								return
							}
							took[i] = time.Since(start)
						}
					})
				}
				wg.Wait()
				b.StopTimer()
				report(b, took, 1)
			})
		})
	}
}

// BenchmarkBulk makes maps by bulks of 10,000 over TCP.
func BenchmarkBulk(b *testing.B) {
	inStores(b, func(b *testing.B, state *server.State) {
		const chunk = 10_000
		url := serving(b, state) + "/slotmaps/bulk"
		client := &http.Client{Transport: &http.Transport{}}
		defer client.CloseIdleConnections()
		var took []time.Duration
		for i := 0; b.Loop(); i++ {
			b.StopTimer()
			ops := make([]string, chunk)
			for j := range ops {
				n := (i*chunk + j) & (1<<20 - 1)
				ops[j] = op("put", n>>10, n&1023, n>>10, n&1023)
			}
			body := []byte(bulk(ops...))
			b.StartTimer()
			start := time.Now()
			if err := post(client, url, body); err != nil {
				b.Fatal(err)
			}
			took = append(took, time.Since(start))
		}
		report(b, took, chunk)
	})
}

// report adds the median and the 99th percentile, and how many a second.
func report(b *testing.B, took []time.Duration, each int) {
	slices.Sort(took)
	b.ReportMetric(float64(took[len(took)/2].Microseconds())/1000, "ms-median")
	b.ReportMetric(float64(took[len(took)*99/100].Microseconds())/1000, "ms-p99")
	b.ReportMetric(float64(len(took)*each)/b.Elapsed().Seconds(), "maps/s")
}
