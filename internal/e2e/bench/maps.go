// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bufio"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
)

func newAPI() rig.API {
	return rig.API{Base: restBase, HTTP: &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 64}, Timeout: time.Minute,
	}}
}

// codec measures the two messages of each exchange with the most data there can be.
func (b *bench) codec() error {
	data := make([]byte, 260)
	pdu := rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduModemToCard{Data: data}}
	encoded, err := pdu.Append(nil)
	if err != nil {
		return err
	}
	buf := make([]byte, 0, 1024)
	rows := [][]string{{"tpduModemToCard with 260 bytes", "time", "allocations"}}
	for _, f := range []struct {
		name string
		do   func() error
	}{
		{"encode", func() error { _, err := pdu.Append(buf); return err }},
		{"decode", func() error { _, err := rspro.Decode(encoded); return err }},
	} {
		r := testing.Benchmark(func(tb *testing.B) {
			tb.ReportAllocs()
			for tb.Loop() {
				if err := f.do(); err != nil {
					tb.Fatal(err)
				}
			}
		})
		rows = append(rows, []string{f.name, fmt.Sprintf("%d ns", r.NsPerOp()), fmt.Sprint(r.AllocsPerOp())})
	}
	table(b.out, rows...)
	return nil
}

// mapAt returns the i-th of many maps: ids are at most 1023.
func mapAt(i int) slot.Map {
	id, nr := uint16(i/(slot.Max+1)), uint16(i%(slot.Max+1))
	return slot.Map{Bank: slot.Bank{ID: id, Slot: nr}, Client: slot.Client{ID: id, Slot: nr}}
}

// maps measures what a map costs when there are few and when there are many, over REST and in the
// server's state alone, and how fast they are listed.
func (b *bench) maps() error {
	lists, err := b.lists()
	if err != nil {
		return err
	}
	b.stop()
	p, err := b.startServer()
	if err != nil {
		return err
	}
	api := newAPI()
	state := server.NewState()
	counts := []int{100, 1000, 10_000, 100_000}
	rows := [][]string{{"maps", "POST: median", "p99", "POST/s", "state alone", "server's memory"}}
	made := 0
	for _, count := range counts {
		var post, bare series
		begin := time.Now()
		first := made
		for ; made < count; made++ {
			if err := post.measure(func() error { return api.Create(mapAt(made)) }); err != nil {
				return err
			}
		}
		took := time.Since(begin)
		begin = time.Now()
		for i := first; i < count; i++ {
			if _, err := state.Commit(context.Background(), server.CreateMap(mapAt(i))); err != nil {
				return err
			}
		}
		bare = series{time.Since(begin) / time.Duration(count-first)}
		last := post[max(0, len(post)-1000):] // near that number of maps
		rows = append(rows, []string{fmt.Sprint(count), micros(last.quantile(0.5)), micros(last.quantile(0.99)),
			fmt.Sprintf("%.0f", float64(count-first)/took.Seconds()), fmt.Sprintf("%d ns", bare[0].Nanoseconds()), resident(p)})
	}
	table(b.out, rows...)
	fmt.Fprint(b.out, "One connection that is kept, one request after the other; the last 1,000 before each number of maps. C suite:\n"+
		"3,500-7,400 POST/s up to 1,000 maps, and n² for n maps.\n\n")
	table(b.out, lists...)
	return nil
}

// lists measures GET /slotmaps over eight connections.
func (b *bench) lists() ([][]string, error) {
	if _, err := b.startServer(); err != nil {
		return nil, err
	}
	api := newAPI()
	rows := [][]string{{"GET /slotmaps, 8 connections", "per second", "C suite"}}
	made := 0
	for _, want := range []struct {
		maps int
		c    string
	}{{0, "34,000/s"}, {100, "1,319/s"}, {1000, "203/s"}, {10_000, "–"}} {
		for ; made < want.maps; made++ {
			if err := api.Create(mapAt(made)); err != nil {
				return nil, err
			}
		}
		rate, err := getRate(restBase + "/api/backend/v1/slotmaps")
		if err != nil {
			return nil, err
		}
		rows = append(rows, []string{fmt.Sprintf("%d maps", want.maps), fmt.Sprintf("%.0f", rate), want.c})
	}
	return rows, nil
}

// getRate asks for url over eight connections for two seconds.
func getRate(url string) (perSecond float64, err error) {
	const length = 2 * time.Second
	var (
		all    sync.WaitGroup
		count  atomic.Int64
		failed atomic.Pointer[error]
	)
	begin := time.Now()
	for range 8 {
		all.Go(func() {
			if err := getUntil(begin.Add(length), url, &count); err != nil {
				failed.Store(&err)
			}
		})
	}
	all.Wait()
	if e := failed.Load(); e != nil {
		return 0, *e
	}
	return float64(count.Load()) / time.Since(begin).Seconds(), nil
}

// getUntil asks for an address over one connection until a time and adds to count. It does
// as little as it can: it runs beside the server on the same processors.
func getUntil(end time.Time, address string, count *atomic.Int64) error {
	u, err := url.Parse(address)
	if err != nil {
		return err
	}
	nc, err := net.Dial("tcp", u.Host)
	if err != nil {
		return err
	}
	defer nc.Close()
	request := fmt.Appendf(nil, "GET %s HTTP/1.1\r\nHost: %s\r\n\r\n", u.Path, u.Host)
	r := bufio.NewReaderSize(nc, 1<<16)
	for time.Now().Before(end) {
		if _, err := nc.Write(request); err != nil {
			return err
		}
		res, err := http.ReadResponse(r, nil)
		if err != nil {
			return err
		}
		if _, err := io.Copy(io.Discard, res.Body); err != nil {
			return err
		}
		if res.StatusCode != http.StatusOK {
			return fmt.Errorf("GET %s: %s", address, res.Status)
		}
		count.Add(1)
	}
	return nil
}

// resident returns the memory of a process that is in RAM.
func resident(p *rig.Proc) string {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return "?"
	}
	for line := range strings.Lines(string(text)) {
		var kib int
		if n, _ := fmt.Sscanf(line, "VmRSS: %d kB", &kib); n == 1 {
			return fmt.Sprintf("%.1f MB", float64(kib)/1024)
		}
	}
	return "?"
}
