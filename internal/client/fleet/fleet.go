// SPDX-License-Identifier: GPL-2.0-or-later

// Package fleet has one process serve many card emulators: it watches what is plugged, knows which slot of the
// client an interface has, and runs one client for each that is there.
package fleet

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/usb"
)

const (
	// lookEvery is how often it is looked for devices. There is no telling of libusb's where no udevd
	// runs, and to look takes less than a millisecond.
	lookEvery = time.Second
	// A client that failed is started again after retryFirst, which doubles each time up to retryMax; one
	// that has held out for steady begins anew.
	retryFirst = time.Second
	retryMax   = 16 * time.Second
	steady     = time.Minute
)

// Config says which slots there are.
type Config struct {
	// SlotsFile says which slot an interface has; others aren't served.
	SlotsFile string
	// StateDir is used without a SlotsFile: every interface is served, and what slot it has is kept in a file there.
	StateDir string
}

// Env is the world a fleet lives in.
type Env struct {
	Log *logrus.Logger
	// Devices lists what is plugged.
	Devices func() ([]usb.Device, error)
	// Serve is a client of one slot. It opens the interface of the seat's target and ends when that has gone, with an
	// error, or when ctx ends.
	Serve func(ctx context.Context, s Seat) error
	// OnReport takes the function that writes the state of all slots; nil: nobody asks.
	OnReport func(ctx context.Context, write func(io.Writer))
	// Reload has the slots file read again by each element (SIGHUP); nil: nobody asks.
	Reload <-chan os.Signal
	// Reloaded is told when that was done, also when the file was wrong. May be nil.
	Reloaded func()
	// Asked is received from as a sign of life; nil: nobody asks.
	Asked <-chan struct{}
	// OnStart is told when the fleet begins, with the context of Run. May be nil.
	OnStart func(context.Context)
}

// A Seat is one slot with its interface.
type Seat struct {
	Slot   uint16 // 0..1023
	Target usb.Target
	// OnReport takes the function that writes the state of this slot.
	OnReport func(ctx context.Context, write func(io.Writer))
}

// A fleet is a Run.
type fleet struct {
	cfg      Config
	env      Env
	log      *logrus.Entry
	table    []Line    // with SlotsFile
	register *Register // else
	clients  map[uint16]*client
	ended    chan *client
	said     map[string]bool // what is wrong with devices, and was logged

	mu      sync.Mutex
	reports map[uint16]report // of the clients that run
}

// A client is what serves a slot, or has served it and may again.
type client struct {
	slot   uint16
	target usb.Target
	cancel context.CancelFunc // nil: it doesn't run
	since  time.Time          // it runs or ran
	wait   time.Duration      // after its end, before it is started anew
	err    error              // its last end
}

// A report is what is known of a client for users.
type report struct {
	target usb.Target
	write  func(io.Writer) // nil: nothing yet
}

// Run serves until ctx ends, and then until all modems have their local SIM back. It returns the cause of ctx, or an error
// when it can't start.
func Run(ctx context.Context, cfg Config, env Env) error {
	f := &fleet{
		cfg: cfg, env: env, log: env.Log.WithField("cat", "DMAIN"),
		clients: map[uint16]*client{}, ended: make(chan *client),
		said: map[string]bool{}, reports: map[uint16]report{},
	}
	var err error
	if cfg.SlotsFile != "" {
		f.table, err = ReadTable(cfg.SlotsFile)
	} else {
		f.register, err = OpenRegister(cfg.StateDir)
	}
	if err != nil {
		return err
	}
	if env.OnReport != nil {
		env.OnReport(ctx, f.report)
	}
	if env.OnStart != nil {
		env.OnStart(ctx)
	}
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	for ctx.Err() == nil {
		f.settle(ctx)
		select {
		case <-look.C:
		case c := <-f.ended:
			f.end(c)
		case <-env.Reload:
			f.reload()
			if env.Reloaded != nil {
				env.Reloaded()
			}
		case <-env.Asked:
		case <-ctx.Done():
		}
	}
	for f.running() { // their contexts have ended with ctx
		f.end(<-f.ended)
	}
	return context.Cause(ctx)
}

func (f *fleet) running() bool {
	for _, c := range f.clients {
		if c.cancel != nil {
			return true
		}
	}
	return false
}

// settle has all clients run that should, and no others.
func (f *fleet) settle(ctx context.Context) {
	seats, ok := f.seats()
	if !ok {
		return // rather serve what there was than leave all
	}
	for n, c := range f.clients {
		t, there := seats[n]
		same := there && t.Compare(c.target) == 0 && t.Device.Address == c.target.Device.Address
		switch {
		case same:
		case c.cancel != nil:
			c.cancel() // the slot is free for another one when it has ended
		default:
			delete(f.clients, n)
		}
	}
	for _, n := range slices.Sorted(maps.Keys(seats)) {
		c := f.clients[n]
		switch {
		case c != nil && (c.cancel != nil || time.Since(c.since) < c.wait):
		case f.held(n, seats[n]): // until that client has ended
		case c == nil:
			f.start(ctx, &client{slot: n, target: seats[n]})
		default:
			f.start(ctx, c)
		}
	}
}

// held reports whether the client of another slot than n has an interface still.
func (f *fleet) held(n uint16, t usb.Target) bool {
	for _, c := range f.clients {
		d := c.target.Device
		if c.slot != n && c.cancel != nil && d.Path == t.Device.Path && d.Address == t.Device.Address && c.target.Interface.Number == t.Interface.Number {
			return true
		}
	}
	return false
}

// seats says which slots there are now, and which interfaces they have. !ok: it isn't known.
func (f *fleet) seats() (map[uint16]usb.Target, bool) {
	devices, err := f.env.Devices()
	problems := map[string]bool{}
	say := func(err error) {
		if problems[err.Error()] = true; !f.said[err.Error()] {
			f.log.WithError(err).Warn("not served")
		}
	}
	defer func() { f.said = problems }()
	if err != nil {
		say(err)
		return nil, errors.Is(err, usb.ErrNoUSB)
	}
	targets, unfit := usb.Cardems(devices)
	for _, err := range unfit {
		say(err)
	}
	slices.SortFunc(targets, usb.Target.Compare)
	seats := map[uint16]usb.Target{}
	serials := map[Place]string{} // paths of what was found by serial number
	for _, t := range targets {
		if t.Device.Active == 0 {
			continue // the kernel isn't ready with it
		}
		byPath := Place{t.Device.Path, t.Interface.Number}
		place := byPath
		if t.Device.Serial != "" {
			place = Place{serialPrefix + t.Device.Serial, t.Interface.Number}
			if other, twice := serials[place]; twice {
				say(fmt.Errorf("%s has the serial number of the device at %s: it counts as one without, by its path", t.Device, other))
				place = byPath
			}
			serials[place] = t.Device.Path
		}
		n, err := f.slot(place, byPath)
		if err != nil {
			say(fmt.Errorf("interface %d of %s: %w", t.Interface.Number, t.Device, err))
			continue
		}
		seats[n] = t
	}
	return seats, true
}

var errNotListed = errors.New("isn't in the slots file")

// slot returns the slot of an interface, by its serial number if it has one, or by its path.
func (f *fleet) slot(place, byPath Place) (uint16, error) {
	if f.register != nil {
		return f.register.Slot(place)
	}
	for _, l := range f.table {
		if l.Place == place || l.Place == byPath {
			return l.Slot, nil
		}
	}
	return 0, errNotListed
}

// start has a client run.
func (f *fleet) start(ctx context.Context, c *client) {
	ctx, c.cancel = context.WithCancel(ctx)
	c.since = time.Now()
	f.clients[c.slot] = c
	log := f.log.WithFields(logrus.Fields{"slot": c.slot, "device": c.target.String()})
	if c.err == nil {
		log.Info("card emulator found")
	}
	f.mu.Lock()
	f.reports[c.slot] = report{target: c.target}
	f.mu.Unlock()
	seat := Seat{Slot: c.slot, Target: c.target, OnReport: func(_ context.Context, write func(io.Writer)) {
		f.mu.Lock()
		defer f.mu.Unlock()
		f.reports[c.slot] = report{c.target, write}
	}}
	go func() {
		err := f.env.Serve(ctx, seat)
		if ctx.Err() == nil && err == nil {
			err = errors.New("client has ended")
		}
		f.mu.Lock()
		delete(f.reports, c.slot)
		f.mu.Unlock()
		switch {
		case ctx.Err() != nil || errors.Is(err, usb.ErrGone):
			log.Info("slot is served no longer")
		case c.err == nil || c.err.Error() != err.Error():
			log.WithError(err).Error("slot isn't served: trying again")
		default:
			log.WithError(err).Debug("slot isn't served: trying again")
		}
		c.err = err // nobody else looks at it until c has ended
		f.ended <- c
	}()
}

// end takes note of the end of a client.
func (f *fleet) end(c *client) {
	c.cancel()
	c.cancel = nil
	if time.Since(c.since) >= steady {
		c.wait = 0
	}
	c.since = time.Now()
	c.wait = cmp.Or(min(2*c.wait, retryMax), retryFirst)
}

// reload reads the slots file again.
func (f *fleet) reload() {
	if f.register != nil {
		f.log.Info("no slots file to be read again: all card emulators are served")
		return
	}
	table, err := ReadTable(f.cfg.SlotsFile)
	if err != nil {
		f.log.WithError(err).Error("slots file is not used: all goes on with what was read before")
		return
	}
	f.table = table
	f.log.WithField("lines", len(table)).Info("slots file was read again")
}

// report writes the state of all slots.
func (f *fleet) report(w io.Writer) {
	f.mu.Lock()
	reports := maps.Clone(f.reports)
	f.mu.Unlock()
	fmt.Fprintln(w, len(reports), "slots are served")
	for _, n := range slices.Sorted(maps.Keys(reports)) {
		r := reports[n]
		fmt.Fprintf(w, "slot %d: %s\n", n, r.target)
		if r.write != nil {
			r.write(w)
		}
	}
}
