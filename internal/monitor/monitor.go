// SPDX-License-Identifier: GPL-2.0-or-later

// Package monitor shows a running program to those who watch it: figures for Prometheus, health over HTTP, and the service
// manager. It asks the packages that do the work, which know nothing of it.
package monitor

import (
	"context"
	"errors"
	"fmt"
	"log"
	"net/http"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"

	"remsim/internal/bankd"
	"remsim/internal/client"
	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/server"
	"remsim/internal/server/rest"
)

const (
	askTimeout    = 5 * time.Second  // for the loops, when health is asked for
	scrapeTimeout = 10 * time.Second // as that of Prometheus
	maxScrapes    = 4                // at a time
	httpTimeout   = 30 * time.Second
)

// Config says where a program without a REST port is watched.
type Config struct {
	Listen string // HOST:PORT; empty: nowhere
}

// Flags adds --metrics-listen.
func (c *Config) Flags(fs *pflag.FlagSet) {
	daemon.AddrVar(fs, &c.Listen, "metrics-listen", "", "", "address for Prometheus, /healthz and /readyz (default none)")
}

// A Monitor is a program that is watched.
type Monitor struct {
	log      *logrus.Entry
	registry *prometheus.Registry
	manager  *daemon.Manager
	health   atomic.Pointer[daemon.Health] // nil: the program is starting
	stopping atomic.Bool
	srv      *http.Server // nil: none
	stop     func()
	running  sync.WaitGroup
}

// New returns the Monitor of a program, and takes note of its service manager. Close ends its use.
func New(program string, log *logrus.Logger) *Monitor {
	m := &Monitor{
		log: log.WithField("cat", "DMAIN"), registry: prometheus.NewRegistry(), manager: daemon.Managed(log), stop: func() {},
	}
	m.registry.MustRegister(collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	add(m, buildMetrics(program), func() struct{} { return struct{}{} })
	return m
}

// Manager returns the service manager that has started the program; nil: none.
func (m *Monitor) Manager() *daemon.Manager { return m.manager }

// Server adds the figures of a server, and Bankd and Client add theirs.
func (m *Monitor) Server(stats func() server.Stats) { add(m, serverMetrics(), stats) }

// Bankd: see Server.
func (m *Monitor) Bankd(stats func() bankd.Stats) { add(m, bankdMetrics(), stats) }

// Client: see Server.
func (m *Monitor) Client(stats func() client.Stats) { add(m, clientMetrics(), stats) }

// REST adds the figures of a REST port and returns how that is watched, and what it serves for those who watch.
func (m *Monitor) REST() rest.Watch {
	requests := requestMetrics()
	m.registry.MustRegister(requests)
	return rest.Watch{
		Paths: m.paths(),
		Observe: func(method, route string, status int, took time.Duration) {
			requests.WithLabelValues(method, route, strconv.Itoa(status)).Observe(took.Seconds())
		},
	}
}

// paths are what is served to those who watch.
func (m *Monitor) paths() map[string]http.Handler {
	return map[string]http.Handler{
		"/metrics": promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
			ErrorLog: complaints{m.log}, Timeout: scrapeTimeout, MaxRequestsInFlight: maxScrapes,
		}),
		"/healthz": m.answer(m.alive),
		"/readyz":  m.answer(m.ready),
	}
}

// complaints logs what promhttp and http complain of.
type complaints struct{ log *logrus.Entry }

// Println implements promhttp.Logger.
func (c complaints) Println(v ...any) { c.Write(fmt.Append(nil, v...)) }

// Write implements io.Writer.
func (c complaints) Write(b []byte) (int, error) {
	c.log.Warn("metrics: ", strings.TrimSpace(string(b)))
	return len(b), nil
}

// answer serves a question: 200 when there is no error, else 503 with it.
func (m *Monitor) answer(ask func(context.Context) error) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ctx, cancel := context.WithTimeoutCause(r.Context(), askTimeout, fmt.Errorf("no sign of life within %v", askTimeout))
		defer cancel()
		w.Header().Set("Cache-Control", "no-store")
		if err := ask(ctx); err != nil {
			http.Error(w, err.Error(), http.StatusServiceUnavailable)
			return
		}
		w.Header().Set("Content-Type", "text/plain; charset=utf-8")
		fmt.Fprintln(w, "ok")
	})
}

// alive asks whether all loops answer.
func (m *Monitor) alive(ctx context.Context) error {
	if h := m.health.Load(); h != nil {
		return h.Alive(ctx)
	}
	return nil
}

// ready asks whether the program can do its work.
func (m *Monitor) ready(ctx context.Context) error {
	h := m.health.Load()
	switch {
	case h == nil:
		return errors.New("starting")
	case m.stopping.Load():
		return errors.New("stopping")
	}
	if err := h.Alive(ctx); err != nil {
		return err // Ready may need what is stuck
	}
	return h.Ready()
}

// Listen serves those who watch at cfg's address, if any.
func (m *Monitor) Listen(ctx context.Context, network link.Network, cfg Config) error {
	if cfg.Listen == "" {
		return nil
	}
	ln, err := network.Listen(ctx, cfg.Listen)
	if err != nil {
		return fmt.Errorf("listen for Prometheus on %s: %w", cfg.Listen, err)
	}
	mux := http.NewServeMux()
	for path, h := range m.paths() {
		mux.Handle("GET "+path, h)
	}
	m.srv = &http.Server{
		Handler: mux, ReadTimeout: httpTimeout, WriteTimeout: httpTimeout, IdleTimeout: httpTimeout,
		ErrorLog: log.New(complaints{m.log}, "", 0),
	}
	m.log.WithField("addr", ln.Addr().String()).Info("listening for Prometheus")
	m.running.Go(func() {
		if err := m.srv.Serve(ln); !errors.Is(err, http.ErrServerClosed) {
			m.log.WithError(err).Error("no more figures for Prometheus")
		}
	})
	return nil
}

// Start says that the program has begun its work, and how to ask whether it goes on; until ctx ends, when it is stopping. It is
// called once.
func (m *Monitor) Start(ctx context.Context, h daemon.Health) {
	m.health.Store(&h)
	ctx, m.stop = context.WithCancel(ctx)
	m.running.Go(func() {
		defer m.stopping.Store(true)
		if m.manager != nil {
			m.manager.Follow(ctx, h)
		} else {
			<-ctx.Done()
		}
	})
}

// Close ends all that New, Listen and Start have begun. Start isn't called at the same time.
func (m *Monitor) Close() {
	m.stop()
	if m.srv != nil {
		m.srv.Close()
	}
	m.running.Wait()
}
