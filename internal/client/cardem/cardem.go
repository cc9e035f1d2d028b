// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"context"
	"errors"
	"fmt"
	"io"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/gsmtap"
	"remsim/internal/simtrace"
)

// Config says who the client is and what it does.
type Config struct {
	client.Config // Hardware is what the device says, and ScriptVars get its path and interface

	// Presence has the device tell the modem of a card by this polarity; 0: by its default.
	Presence simtrace.Presence
	// Rows are tried before the tables of APDU cases.
	Rows []simtrace.Row
	// KeepRunning has the client wait for its device when that isn't there, or goes.
	KeepRunning bool
}

// Env is the world the client lives in.
type Env struct {
	client.Env // Trace may be open already; else Run opens it

	// Open opens the client's device, which Run closes. With Config.KeepRunning it is called
	// every second while there is none.
	Open func(context.Context) (Device, error)
	// OnReport arranges for what it is given to be called when the user wants to know the
	// client's state, until the context ends (daemon.OnReport). May be nil.
	OnReport func(context.Context, func(io.Writer))
}

// CheckATR says why devices can't have an ATR that Config has.
func CheckATR(atr []byte) error {
	if len(atr) > simtrace.MaxATR {
		return fmt.Errorf("ATR of %d bytes: card emulators take at most %d", len(atr), simtrace.MaxATR)
	}
	return nil
}

const (
	// openEvery is how often a device is looked for.
	openEvery = time.Second
	// statusWithin is how long a device has to tell its status. Not all firmware does.
	statusWithin = 250 * time.Millisecond
	// modemReset is how long the modem is held in reset.
	modemReset = 300 * time.Millisecond
	// maxIdentity is how many characters the members of an identity have at most (RSPRO ComponentName).
	maxIdentity = 32
)

// errGone says that the device is no longer to be used.
var errGone = errors.New("card emulator lost")

// Run serves the modem behind a device until ctx ends or, without Config.KeepRunning, the device goes. By then
// the modem has its local SIM back.
func Run(ctx context.Context, cfg Config, env Env) error {
	if err := CheckATR(cfg.ATR); err != nil {
		return err
	}
	if env.Trace == nil {
		trace, err := gsmtap.Open(cfg.Trace, env.Log)
		if err != nil {
			return err
		}
		defer trace.Close()
		env.Trace = trace
	}
	log := env.Log.WithField("cat", "DST2")
	told := "" // the last error that was logged
	for {
		served, err := serve(ctx, &cfg, env, log)
		switch {
		case ctx.Err() != nil:
			return nil
		case !cfg.KeepRunning:
			return err
		}
		if text := err.Error(); served || text != told {
			log.WithError(err).Error("no card emulator: trying again each second")
			told = text
		}
		select {
		case <-time.After(openEvery):
		case <-ctx.Done():
			return nil
		}
	}
}

// serve serves the modem behind a device, once. served says that there was one. cfg keeps the slot that the
// server assigns.
func serve(ctx context.Context, cfg *Config, env Env, log *logrus.Entry) (served bool, err error) {
	dev, err := env.Open(ctx)
	if err != nil {
		return false, err
	}
	info := dev.Info()
	cfg2 := cfg.Config
	cfg2.Hardware = hardware(info)
	cfg2.ScriptVars = append([]string{
		"REMSIM_USB_PATH=" + info.Path, fmt.Sprintf("REMSIM_USB_INTERFACE=%d", info.Interface),
	}, cfg.ScriptVars...)
	log = log.WithFields(logrus.Fields{"usb": info.Path, "interface": info.Interface})
	if !cfg.Auto {
		log = log.WithField("slot", cfg.Slot)
	}

	life, end := context.WithCancelCause(ctx)
	defer end(nil)
	e := newEmulator(dev, cfg.Rows, log, end)
	e.core = client.New(cfg2, env.Env, e)
	var all sync.WaitGroup
	all.Go(e.read)
	all.Go(e.work)
	defer func() {
		e.close()
		if err := dev.Close(); err != nil {
			log.WithError(err).Warn("card emulator not closed as it should be")
		}
		all.Wait()
	}()

	if err := e.start(cfg.Presence); err != nil {
		return false, err
	}
	log.WithFields(logrus.Fields{"model": info.Model, "serial": info.Serial, "firmware": info.Firmware}).Info("card emulator is set up")
	if env.OnReport != nil {
		env.OnReport(life, e.core.Report)
	}
	e.core.Run(life)
	if i := e.core.Info(); cfg.Auto && i.Assigned {
		cfg.Slot, cfg.Assigned = i.Slot, true
	}
	return true, context.Cause(life)
}

// hardware is what server and bankd are told of a device. Its interface is in what RSPRO calls the hardware's version: a server that
// gives client ids tells the clients of one device apart by it.
func hardware(i Info) client.Hardware {
	return client.Hardware{
		Manufacturer: identity(i.Manufacturer), Model: identity(i.Model), Serial: identity(i.Serial), Firmware: identity(i.Firmware),
		Version: fmt.Sprintf("interface %d", i.Interface),
	}
}

// identity makes s a member of an identity: of printable IA5 characters, and not too many of them.
func identity(s string) string {
	s = strings.TrimSpace(strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return -1
		}
		return r
	}, s))
	return s[:min(len(s), maxIdentity)]
}
