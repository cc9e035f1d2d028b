// SPDX-License-Identifier: GPL-2.0-or-later

package bankd

import (
	"context"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/daemon"
	"remsim/internal/gsmtap"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
)

const (
	// stopWithin is how long cards and connections have to end in order.
	stopWithin = 4 * time.Second
	// readersWithin is how long the start waits for a list of readers.
	readersWithin = time.Second
)

// Config says what a bankd does.
type Config struct {
	Server         string         // control connection: HOST:PORT
	BankID         uint16         // 0..1023
	NumSlots       uint16         // 1..1023
	Name           string         // IA5, 1..32 characters; empty: the host's
	Listen         string         // data listener: HOST:PORT
	Advertise      netip.AddrPort // where clients reach the data listener; zero: where the server sees us, port 9999
	MaxConnections int            // of the data listener; 0: twice the slots and 64
	CardTimeout    time.Duration  // for one call to a card; 0: 30 s
	SlotsFile      string
	KeepAlive      link.KeepAlive // towards server and clients
	Trace          gsmtap.Config  // where APDUs and ATRs are traced to
	TraceSlot      *uint16        // only those of this slot; nil: all
}

// Env is what a bankd lives on.
type Env struct {
	Net     link.Network
	Log     *logrus.Logger
	Readers ReaderBank // cards in PC/SC readers
	Softsim Bank       // cards in software
	// OnReport takes the function that writes the state of slots and connections; nil: nobody asks.
	OnReport func(ctx context.Context, write func(io.Writer))
	// Reload has the slots file read again by each element (SIGHUP); nil: nobody asks.
	Reload <-chan os.Signal
	// Reloaded is told when that was done, also when the file was wrong. May be nil.
	Reloaded func()
	// OnStart is told when the bankd listens and knows its readers, with the context of Run. May be nil.
	OnStart func(context.Context, Running)
}

type bankd struct {
	*state
	cfg       Config
	env       Env
	log       *logrus.Logger
	identity  rspro.ComponentIdentity
	tracer    *gsmtap.Tracer
	life      context.Context // of the connections: ends after that of Run
	contests  sync.WaitGroup
	seen      chan struct{} // closed when the readers are known
	unwatched chan struct{} // closed when they are followed no more
	counts    counts
}

// Run is a bankd. It returns an error when it can't start, and the cause of ctx when
// that has ended: then it finishes exchanges with cards, powers them off, and takes
// 5 s at most.
func Run(ctx context.Context, cfg Config, env Env) error {
	d := newBankd(cfg, env)
	specs, err := d.readSlots()
	if err != nil {
		return err
	}
	if d.tracer, err = gsmtap.Open(cfg.Trace, env.Log); err != nil {
		return err
	}
	defer d.tracer.Close()
	tcp, err := env.Net.Listen(ctx, cfg.Listen)
	if err != nil {
		return fmt.Errorf("data listener: %w", err)
	}
	ln := link.Watch(tcp)
	log := d.log.WithField("cat", "DMAIN")
	log.WithField("addr", ln.Addr().String()).Info("listening for RSPRO")
	if env.OnReport != nil {
		env.OnReport(ctx, d.writeReport)
	}
	life, end := context.WithCancelCause(context.WithoutCancel(ctx))
	defer end(nil)
	d.life = life
	d.apply(ctx, specs)
	d.awaitReaders(ctx)
	if env.OnStart != nil {
		env.OnStart(ctx, Running{d, ln})
	}
	var running sync.WaitGroup
	running.Go(func() { d.reload(ctx) })
	running.Go(func() { link.Serve(ctx, ln, log, func(_ context.Context, nc net.Conn) { d.serve(nc) }) })
	running.Go(func() { d.control().Run(ctx) })

	<-ctx.Done()
	log.Info("stopping")
	limit, cancel := context.WithTimeout(life, stopWithin)
	defer cancel()
	for _, c := range d.close() {
		c.drop(errStopping)
	}
	select {
	case <-d.idle:
		log.Info("all cards are powered off")
	case <-limit.Done():
		log.Warnf("left cards behind whose calls haven't returned in %v", stopWithin)
	}
	// What is written to the clients is bounded by the same time.
	context.AfterFunc(limit, func() { end(errStopping) })
	running.Wait()
	d.contests.Wait()
	if d.watched {
		select {
		case <-d.unwatched:
		case <-limit.Done(): // it hangs in pcscd
		}
	}
	return context.Cause(ctx)
}

// newBankd fills in what cfg leaves open.
func newBankd(cfg Config, env Env) *bankd {
	if cfg.Name == "" {
		cfg.Name = daemon.HostName()
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 2*int(cfg.NumSlots) + 64
	}
	if cfg.CardTimeout == 0 {
		cfg.CardTimeout = 30 * time.Second
	}
	d := &bankd{
		state:     newState(cfg.BankID, cfg.NumSlots),
		cfg:       cfg,
		seen:      make(chan struct{}),
		unwatched: make(chan struct{}),
		env:       env,
		log:       env.Log,
		identity: rspro.ComponentIdentity{
			Type:      rspro.Bankd,
			Name:      cfg.Name,
			Software:  "remsim-bankd",
			SWVersion: daemon.Version(),
		},
	}
	d.state.start = d.startLocked
	return d
}

// tap returns what traces the card of slot nr.
func (d *bankd) tap(nr uint16) *gsmtap.Source {
	if only := d.cfg.TraceSlot; only != nil && *only != nr {
		return nil
	}
	return d.tracer.Source(nr)
}

// control is the connection to the server.
func (d *bankd) control() *link.Caller {
	log := d.log.WithFields(logrus.Fields{"cat": "DRSPRO", "peer": d.cfg.Server})
	return &link.Caller{
		Net:       d.env.Net,
		Addr:      d.cfg.Server,
		Want:      rspro.Server,
		KeepAlive: d.cfg.KeepAlive,
		Identity:  d.identity,
		Hello: func() rspro.Message {
			return &rspro.ConnectBankReq{
				Identity: d.identity,
				BankID:   d.cfg.BankID,
				NumSlots: d.cfg.NumSlots,
				Endpoint: d.cfg.Advertise,
				Features: rspro.LateAtr | rspro.BankState,
			}
		},
		Accept: func(c *link.Conn, r rspro.Response) error {
			if r.ResultCode() != rspro.OK {
				return &link.RefusedError{Result: r.ResultCode()}
			}
			res, ok := r.(*rspro.ConnectBankRes)
			d.counts.welcomes.Add(1)
			d.setServer(c, ok && res.Features.Has(rspro.BankState))
			return nil
		},
		Handle: func(c *link.Conn, p rspro.PDU) { d.command(log, c, p) },
		Down:   func(error) { d.setServer(nil, false) },
		Log:    log,
	}
}

// command does what the server wants.
func (d *bankd) command(log *logrus.Entry, c *link.Conn, p rspro.PDU) {
	var code rspro.ResultCode
	var lost []*conn // connections that must go
	var res rspro.Message
	log = log.WithField("message", p.Msg.Choice().String())
	switch m := p.Msg.(type) {
	case *rspro.CreateMappingReq:
		log = log.WithField("map", slot.Map{Client: m.Client, Bank: m.Bank}.String())
		code, lost = d.createMap(slot.Map{Client: m.Client, Bank: m.Bank})
		res = &rspro.CreateMappingRes{Result: code}
	case *rspro.RemoveMappingReq:
		log = log.WithField("map", slot.Map{Client: m.Client, Bank: m.Bank}.String())
		code, lost = d.removeMap(slot.Map{Client: m.Client, Bank: m.Bank})
		res = &rspro.RemoveMappingRes{Result: code}
	case *rspro.ResetStateReq:
		lost = d.removeAll()
		res = &rspro.ResetStateRes{Result: code}
	case *rspro.ErrorInd:
		c.Quota(log).WithFields(logrus.Fields{"code": m.Code, "severity": m.Severity, "text": m.Text}).Warn("the server reports an error")
		return
	default:
		c.Stray(p, "not of a server")
		return
	}
	log.WithField("result", code).Info("from the server")
	for _, l := range lost {
		l.link.Close(errUnmapped)
	}
	c.Reply(p, res)
}

// ia5 makes an RSPRO ErrorString (IA5String, 1..255) of s.
func ia5(s string) string {
	s = strings.Map(func(r rune) rune {
		if r < ' ' || r > '~' {
			return '?'
		}
		return r
	}, s)
	return s[:min(len(s), 255)]
}

// writeReport writes slots and connections, for SIGUSR1.
func (d *bankd) writeReport(w io.Writer) {
	var b strings.Builder
	d.mu.Lock()
	fmt.Fprintf(&b, "bank %d: %d slots, %d connections, server connected: %t\n", d.bankID, len(d.bays), len(d.conns), d.server != nil)
	for _, r := range d.readers {
		fmt.Fprintf(&b, "reader %q: card present: %t\n", r.Name, r.Present)
	}
	for _, y := range d.bays {
		if y.state == Free && y.spec == nil && y.abandoned == 0 {
			continue
		}
		fmt.Fprintf(&b, "slot %v: %v", y.slot, y.state)
		if y.state != Free {
			fmt.Fprintf(&b, ", client %v", y.client)
		}
		if y.abandoned > 0 {
			fmt.Fprintf(&b, ", %d hanging card calls", y.abandoned)
		}
		if err := y.problem(); err != nil {
			fmt.Fprintf(&b, ", %v", err)
		}
		if i := y.info(); i.Reader != "" {
			fmt.Fprintf(&b, "; reader %q, card present: %t", i.Reader, i.Present)
			if i.ATR != nil {
				fmt.Fprintf(&b, ", ATR %x", i.ATR)
			}
		}
		b.WriteByte('\n')
	}
	for _, c := range d.conns {
		fmt.Fprintf(&b, "connection %v: %v", c.link.RemoteAddr(), c.state)
		if c.state != WaitID {
			fmt.Fprintf(&b, ", client %v", c.client)
		}
		b.WriteByte('\n')
	}
	d.mu.Unlock()
	io.WriteString(w, b.String())
}
