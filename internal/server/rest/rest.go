// SPDX-License-Identifier: GPL-2.0-or-later

// Package rest shows a server's state over HTTP and takes slot maps from there.
//
// /api/backend/v1 is the interface of the C suite's server. It is frozen: its answers
// have exactly the members they always had, its status codes stay.
//
// /api/v2 shows all that the server knows; see the types ClientV2, BankV2 and
// SlotmapV2. It grows: its users skip members they don't know.
package rest

import (
	"context"
	"errors"
	"io"
	"log"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-chi/chi/v5"
	"github.com/go-chi/chi/v5/middleware"
	"github.com/sirupsen/logrus"

	"remsim/internal/server"
)

// Limits of a request.
const (
	maxBody       = 64 << 10
	maxHeader     = 64 << 10
	headerTimeout = 10 * time.Second
	readTimeout   = 30 * time.Second
	writeTimeout  = 60 * time.Second // 100,000 maps over a slow line
	idleTimeout   = 2 * time.Minute
	endTimeout    = 3 * time.Second // for requests under way at the end
)

// Handler returns the REST API of a server's state.
func Handler(state *server.State, log *logrus.Entry) http.Handler {
	return handler(state, log, nil, Watch{})
}

// A Watch is what a REST port has for those who watch the server. The zero value is nothing.
type Watch struct {
	// Paths are served beside the API, for GET.
	Paths map[string]http.Handler
	// Observe is told of each request when it is answered, by its route ("/api/v2/slotmaps/{slot}") and not by
	// its path, of which there are as many as clients care to make up; method and route are empty when there is no such route. Streams of events, which last, aren't told. May be nil.
	Observe func(method, route string, status int, took time.Duration)
}

// handler is Handler with event streams that end when ended is closed.
func handler(state *server.State, log *logrus.Entry, ended <-chan struct{}, watch Watch) http.Handler {
	r := chi.NewRouter()
	r.Use(decoded, middleware.StripSlashes, logged(log, watch.Observe), sameSite())
	r.NotFound(noSuchPath)
	r.MethodNotAllowed(noSuchPath)
	for path, h := range watch.Paths {
		r.Method(http.MethodGet, path, h)
	}
	r.Route("/api/backend/v1", (&v1{state: state, log: log}).routes)
	r.Route(v2Base, (&v2{state: state, log: log, ended: ended}).mount)
	return r
}

// noSuchPath answers what isn't there, and methods a path hasn't: C's server makes no difference.
func noSuchPath(w http.ResponseWriter, r *http.Request) {
	http.Error(w, "404 not found: "+r.Method+" is for no such path", http.StatusNotFound)
}

// decoded has paths matched as they are meant, not as they are escaped, so that a variable
// part of one needn't be unescaped.
func decoded(next http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		r.URL.RawPath = ""
		next.ServeHTTP(w, r)
	})
}

// sameSite refuses requests that change something and that a browser makes for the page of
// another site. Its user can reach us and that site can't.
func sameSite() func(http.Handler) http.Handler {
	p := http.NewCrossOriginProtection()
	p.SetDenyHandler(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		refuse(w, problem{Status: http.StatusForbidden, Detail: "a page of another site mayn't ask this of a browser"})
	}))
	return p.Handler
}

// A loggedWriter is what an answer is written to, which knows why a request is refused.
type loggedWriter struct {
	middleware.WrapResponseWriter
	reason string // empty: it isn't refused, or there is no such path
}

// logged logs each request, refused ones at level info and with the reason, and tells of it.
func logged(log *logrus.Entry, observe func(string, string, int, time.Duration)) func(http.Handler) http.Handler {
	return func(next http.Handler) http.Handler {
		return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			ww := &loggedWriter{WrapResponseWriter: middleware.NewWrapResponseWriter(w, r.ProtoMajor)}
			began := time.Now()
			next.ServeHTTP(ww, r)
			if observe != nil && ww.Header().Get("Content-Type") != streamType {
				method, route := meant(r)
				observe(method, route, ww.Status(), time.Since(began))
			}
			level := logrus.DebugLevel
			if ww.Status() >= 400 {
				level = logrus.InfoLevel
			}
			if !log.Logger.IsLevelEnabled(level) {
				return
			}
			fields := logrus.Fields{"peer": r.RemoteAddr, "method": r.Method, "path": r.URL.Path, "status": ww.Status()}
			if ww.reason != "" {
				fields["err"] = ww.reason
			}
			log.WithFields(fields).Log(level, "request")
		})
	}
}

// meant returns the route that a request was for, with its method; both are empty when there is none.
func meant(r *http.Request) (method, route string) {
	if s := chi.RouteContext(r.Context()).RoutePattern(); !strings.HasSuffix(s, "*") && s != "" {
		return r.Method, s
	}
	return "", ""
}

// Serve serves the REST API on ln until ctx ends; requests under way then have 3 s to end. It
// closes ln.
func Serve(ctx context.Context, ln net.Listener, state *server.State, log *logrus.Entry) error {
	return Watch{}.Serve(ctx, ln, state, log)
}

// Serve is the function Serve, for a server that is watched.
func (w Watch) Serve(ctx context.Context, ln net.Listener, state *server.State, log *logrus.Entry) error {
	ended := make(chan struct{})
	srv := newServer(handler(state, log, ended, w), faults{log})
	srv.RegisterOnShutdown(func() { close(ended) })
	served := make(chan error, 1)
	go func() { served <- srv.Serve(&listener{ln, log}) }()
	select {
	case err := <-served:
		return err
	case <-ctx.Done():
	}
	end, cancel := context.WithTimeout(context.WithoutCancel(ctx), endTimeout)
	defer cancel()
	if err := srv.Shutdown(end); err != nil {
		log.WithError(err).Warn("requests cut off at the end")
		srv.Close()
	}
	if err := <-served; !errors.Is(err, http.ErrServerClosed) {
		return err
	}
	return nil
}

func newServer(h http.Handler, faults io.Writer) *http.Server {
	return &http.Server{
		Handler:           h,
		ReadHeaderTimeout: headerTimeout,
		ReadTimeout:       readTimeout,
		WriteTimeout:      writeTimeout,
		IdleTimeout:       idleTimeout,
		MaxHeaderBytes:    maxHeader,
		ErrorLog:          log.New(faults, "", 0),
	}
}

// faults logs what package http complains of.
type faults struct{ log *logrus.Entry }

// Write implements io.Writer.
func (f faults) Write(b []byte) (int, error) {
	f.log.Warn(strings.TrimSpace(string(b)))
	return len(b), nil
}

// A listener looks at how connections begin, to tell an RSPRO program that came to the
// wrong port.
type listener struct {
	net.Listener
	log *logrus.Entry
}

// Accept implements net.Listener.
func (l *listener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return &conn{Conn: c, log: l.log}, nil
}

type conn struct {
	net.Conn
	log  *logrus.Entry
	once sync.Once
}

// Read implements net.Conn.
func (c *conn) Read(b []byte) (int, error) {
	n, err := c.Conn.Read(b)
	if n > 0 {
		c.once.Do(func() { c.look(b[:n]) })
	}
	return n, err
}

// look logs when b begins with an IPA frame: length, stream id 0xFE or 0xEE.
func (c *conn) look(b []byte) {
	if len(b) >= 3 && b[0] < ' ' && (b[2] == 0xfe || b[2] == 0xee) {
		c.log.WithField("peer", c.RemoteAddr().String()).Warn("an RSPRO program is connected to the REST port")
	}
}
