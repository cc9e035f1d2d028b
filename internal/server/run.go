// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"

	"github.com/sirupsen/logrus"

	"remsim/internal/daemon"
	"remsim/internal/link"
	"remsim/internal/rspro"
)

// Config says how a server runs.
type Config struct {
	RSPROListen string // HOST:PORT for bankds and clients; HOST empty: all addresses
	RESTListen  string // HOST:PORT for Env.REST

	KeepAlive link.KeepAlive // towards bankds and clients

	ClientIDPool *IDPool // for clients that ask for a client id; nil: they are refused

	// Name and Version are what the server tells its peers of itself: IA5, 1..32 characters.
	Name, Version string
}

// Env is what a server finds around it.
type Env struct {
	Net link.Network
	Log *logrus.Logger
	// Store keeps what the server must not forget, and stays open. Nil: that is gone when Run ends.
	Store Store
	// REST serves state on ln until ctx ends; it closes ln. Nil: Config.RESTListen isn't
	// listened on.
	REST func(ctx context.Context, ln net.Listener, state *State, log *logrus.Entry) error
	// OnStart is told when the server listens, with the context of Run. May be nil.
	OnStart func(context.Context, Running)
	// OnReport has a report written on demand until ctx ends. May be nil.
	OnReport func(ctx context.Context, write func(io.Writer))
}

// Run runs a server until ctx ends; that is no error. It fails at once when it can't listen.
func Run(ctx context.Context, cfg Config, env Env) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	ln, err := env.Net.Listen(ctx, cfg.RSPROListen)
	if err != nil {
		return fmt.Errorf("server: listen for RSPRO on %s: %w", cfg.RSPROListen, err)
	}
	defer ln.Close()
	rsproLn := link.Watch(ln)
	var restLn *link.Watched
	if env.REST != nil {
		ln, err := env.Net.Listen(ctx, cfg.RESTListen)
		if err != nil {
			return fmt.Errorf("server: listen for REST on %s: %w", cfg.RESTListen, err)
		}
		defer ln.Close()
		restLn = link.Watch(ln)
	}
	state := NewState() // after what may fail, as a start is counted
	if env.Store != nil {
		if state, err = LoadState(ctx, &loggedStore{Store: env.Store, log: env.Log.WithField("cat", "DSLOTMAP")}); err != nil {
			return fmt.Errorf("server: load the state: %w", err)
		}
	}
	state.pool, state.name, state.version = cfg.ClientIDPool, cfg.Name, cfg.Version
	ss := &sessions{
		state: state,
		identity: rspro.ComponentIdentity{
			Type: rspro.Server, Name: cfg.Name, Software: "remsim-server", SWVersion: cfg.Version,
		},
		alive: cfg.KeepAlive,
		log:   env.Log,
	}
	rsproLog := env.Log.WithField("cat", "DRSPRO")
	running := Running{ss, []daemon.Loop{{Name: "accepting peers", Ask: rsproLn.Ask}}}
	services := []func() error{func() error {
		return link.Serve(ctx, rsproLn, rsproLog, ss.serve)
	}}
	if restLn != nil {
		running.loops = append(running.loops, daemon.Loop{Name: "accepting REST clients", Ask: restLn.Ask})
		restLog := env.Log.WithField("cat", "DREST")
		services = append(services, func() error { return env.REST(ctx, restLn, state, restLog) })
		restLog.WithField("addr", restLn.Addr().String()).Info("listening for REST")
	}
	rsproLog.WithField("addr", rsproLn.Addr().String()).Info("listening for RSPRO")
	services = append(services, func() error { return state.settle(ctx) })
	if env.OnReport != nil {
		env.OnReport(ctx, state.Report)
	}
	if env.OnStart != nil {
		env.OnStart(ctx, running)
	}

	// A service ends with ctx, or takes the others along.
	results := make(chan error, len(services))
	for _, serve := range services {
		go func() {
			err := serve()
			cancel(err)
			results <- err
		}()
	}
	var errs []error
	for range services {
		if err := <-results; err != nil {
			errs = append(errs, fmt.Errorf("server: %w", err))
		}
	}
	env.Log.WithField("cat", "DMAIN").Info("ended")
	return errors.Join(errs...)
}

// A loggedStore says when it begins to fail and when it doesn't any more.
type loggedStore struct {
	Store
	log     *logrus.Entry
	failing bool // State commits one transaction at a time
}

// Commit implements Store.
func (s *loggedStore) Commit(ctx context.Context, base uint64, changes []Change) (uint64, error) {
	revision, err := s.Store.Commit(ctx, base, changes)
	switch {
	case err != nil && !s.failing:
		s.log.WithError(err).Error("changes can't be stored: they are refused")
	case err == nil && s.failing:
		s.log.Info("changes are stored again")
	}
	s.failing = err != nil
	return revision, err
}
