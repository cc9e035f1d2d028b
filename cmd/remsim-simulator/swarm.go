// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"io"
	"math"
	"net/netip"
	"net/url"
	"strconv"
	"strings"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/simulator/swarm"
	"remsim/internal/slot"
)

// swarms is the command that puts many banks and clients on a server.
func swarms() *cobra.Command {
	var (
		log          daemon.LogOptions
		c            swarm.Config
		listen       string
		banks, slots uint16
		logPeers     bool
	)
	cmd := &cobra.Command{
		Use:   "swarm",
		Short: "Many bankds and clients on a server, with commands, moves and faults",
		Long: `Connects bankds and clients, as many as asked, to a server, gives each client a card while there are any, has modems send commands
and back-ends move clients from card to card, and makes faults, until SIGTERM or for --duration. Then it waits until server, bankds and
clients agree, and takes its maps away. Client number N, from 0, is client N%1024 with slot N/1024; all maps of these, and of the
banks, are the swarm's. A client takes two descriptors, a used slot one: where a process can't have that many, several swarms share a server.

Bankds and clients are those of the suite, but for their cards and modems, which are made for judging: each answer has to be that of the
client's card to that very command. A wrong one, or peers that don't agree at the end, is an error: status 1.

Reports are lines of JSON on standard output; the last one, with "phase":"done", is of all the work.`,
		RunE: func(cmd *cobra.Command, args []string) error {
			c.Banks, c.Slots = int(banks), int(slots)
			if err := check(&c, listen); err != nil {
				return err
			}
			c.Log, c.Out = log.Logger(cmd.ErrOrStderr()), cmd.OutOrStdout()
			c.Peers = c.Log
			if !logPeers {
				c.Peers = logrus.New()
				c.Peers.SetOutput(io.Discard)
				c.Peers.SetLevel(logrus.PanicLevel)
			}
			return swarm.Run(cmd.Context(), c)
		},
	}
	fs := cmd.Flags()
	daemon.AddrVar(fs, &c.Server, "server", "", "127.0.0.1:9998", "where the server takes banks and clients")
	fs.StringVar(&c.REST, "rest", "http://127.0.0.1:9997", "`URL` of its REST API")
	daemon.Uint16Var(fs, &banks, "banks", "", 1, 0, slot.Max+1, "number of bankds")
	daemon.Uint16Var(fs, &slots, "slots", "", 8, 1, slot.Max, "number of slots of each, all with cards")
	daemon.Uint16Var(fs, &c.Bank, "first-bank", "", 1, 0, slot.Max, "id of the first bank; the others' follow")
	fs.Var(&guests{&c.Guests}, "bankd", "bank of another bankd to use, too, given once for each: its id and number of slots; "+
		"slot N of bank B has the card softsim:iccid=I,imsi=M with 8988211000000000000 + 1024·B + N and 001010000000000 + 1024·B + N")
	c.Clients = 8
	fs.Var(&number{&c.Clients, 0, (slot.Max + 1) * (slot.Max + 1)}, "clients", "number of clients")
	fs.Var(&number{&c.Client, 0, (slot.Max+1)*(slot.Max+1) - 1}, "first-client", "number of the first client")
	fs.StringVar(&listen, "listen", "127.0.0.1", "`ADDRESS` where the bankds listen, each on a port of its own, and where clients are sent")
	fs.BoolVar(&c.Idle, "idle", false, "only connect bankds and clients, and leave maps to others; nothing is judged")
	fs.Var(&rate{&c.Churn, 1000}, "churn", "maps that are moved per second")
	fs.Var(&rate{&c.TPDUs, 1e6}, "tpdus", "commands of all clients per second")
	fs.Var(&rate{&c.Faults, 1000}, "faults", "faults per second: connections are cut, or hang, and bankds are killed and come back")
	fs.Uint64Var(&c.Seed, "seed", 1, "`NUMBER` that says which clients, cards, commands and faults are chosen")
	daemon.DurationVar(fs, &c.Duration, "duration", "", 0, 0, 1000*time.Hour, "how long, from when all cards are in use; 0: until SIGTERM")
	daemon.DurationVar(fs, &c.Start, "start", "", 2*time.Minute, time.Second, time.Hour, "within which all peers have to be connected, and then all cards in use")
	daemon.DurationVar(fs, &c.Settle, "settle", "", time.Minute, time.Second, time.Hour, "within which all have to agree at the end")
	daemon.DurationVar(fs, &c.Interval, "interval", "", 10*time.Second, 10*time.Millisecond, time.Hour, "from one report to the next")
	c.KeepAlive.Flags(fs)
	fs.BoolVar(&logPeers, "log-peers", false, "log what bankds and clients have to say, too")
	log.Flags(fs, false)
	return cmd
}

// check looks at what the options say together.
func check(c *swarm.Config, listen string) (err error) {
	if c.Listen, err = netip.ParseAddr(listen); err != nil || c.Listen.Zone() != "" || c.Listen.IsUnspecified() {
		return daemon.Usagef("option --listen: value %q: want an IPv4 or IPv6 address of this computer", listen)
	}
	if u, err := url.Parse(c.REST); err != nil || u.Scheme != "http" && u.Scheme != "https" || u.Host == "" {
		return daemon.Usagef("option --rest: value %q: want http://HOST:PORT", c.REST)
	}
	if last := int(c.Bank) + c.Banks - 1; last > slot.Max {
		return daemon.Usagef("--first-bank %d with --banks %d: want ids up to %d", c.Bank, c.Banks, slot.Max)
	}
	if strings.HasPrefix(c.Server, ":") {
		c.Server = "localhost" + c.Server
	}
	if last := c.Client + c.Clients - 1; last >= (slot.Max+1)*(slot.Max+1) {
		return daemon.Usagef("--first-client %d with --clients %d: want numbers up to %d", c.Client, c.Clients, (slot.Max+1)*(slot.Max+1)-1)
	}
	seen := map[uint16]bool{}
	for _, g := range c.Guests {
		if seen[g.Bank] || int(g.Bank) >= int(c.Bank) && int(g.Bank) < int(c.Bank)+c.Banks {
			return daemon.Usagef("option --bankd: bank %d is named twice, or one of the swarm's", g.Bank)
		}
		seen[g.Bank] = true
	}
	return nil
}

// guests is the value of an option that names banks.
type guests struct{ all *[]swarm.Guest }

var _ pflag.Value = &guests{}

func (g *guests) Set(s string) error {
	guest, err := swarm.ParseGuest(s)
	if err == nil {
		*g.all = append(*g.all, guest)
	}
	return err
}

func (g *guests) String() string {
	if g.all == nil {
		return ""
	}
	var s []string
	for _, v := range *g.all {
		s = append(s, v.String())
	}
	return strings.Join(s, ",")
}

func (*guests) Type() string { return "ID:SLOTS" }

// A rate is the value of an option that says how often something happens per second.
type rate struct {
	v   *float64
	max float64
}

func (r *rate) Set(s string) error {
	f, err := strconv.ParseFloat(s, 64)
	if err != nil || math.IsNaN(f) || f < 0 || f > r.max {
		return fmt.Errorf("want a number 0..%.0f", r.max)
	}
	*r.v = f
	return nil
}

func (r *rate) String() string {
	if r.v == nil {
		return "0"
	}
	return strconv.FormatFloat(*r.v, 'g', -1, 64)
}

func (r *rate) Type() string { return "RATE" }

// A number is the value of an option that may be greater than 65535.
type number struct {
	v        *int
	min, max int
}

func (n *number) Set(s string) error {
	v, err := strconv.Atoi(s)
	if err != nil || v < n.min || v > n.max {
		return fmt.Errorf("want a number %d..%d", n.min, n.max)
	}
	*n.v = v
	return nil
}

func (n *number) String() string {
	if n.v == nil {
		return "0"
	}
	return strconv.Itoa(*n.v)
}

func (n *number) Type() string { return "NUMBER" }
