// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"bytes"
	"context"
	"fmt"
	"maps"
	"net"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/simtrace"
	"remsim/internal/testnet"
)

// A section is a part of simtrace-usb.txt, which package simtrace tests with, too, the recorded conversation of a C client with its device,
// its server and its bankd. The head of the file says what its lines are.
type section struct {
	title string
	lines []string
}

func sections(t *testing.T) []section {
	t.Helper()
	b, err := os.ReadFile("../../simtrace/testdata/simtrace-usb.txt")
	if err != nil {
		t.Fatal(err)
	}
	var all []section
	for line := range strings.Lines(string(b)) {
		line = strings.TrimSpace(line)
		if title, ok := strings.CutPrefix(line, "## "); ok {
			all = append(all, section{title: title})
		} else if len(all) > 0 && line != "" {
			s := &all[len(all)-1]
			s.lines = append(s.lines, line)
		}
	}
	return all
}

// starts reports whether a new client begins with s.
func (s section) starts() bool {
	for _, p := range []string{"start", "interface 1 (", "event script", "negative starts"} {
		if strings.HasPrefix(s.title, p) {
			return true
		}
	}
	return false
}

// has reports whether a line of s begins with prefix.
func (s section) has(prefix string) bool {
	return slices.ContainsFunc(s.lines, func(l string) bool { return strings.HasPrefix(l, prefix) })
}

// streams is what a client did, by where: device, server, bankd, script; in order.
type streams map[string][]string

func (s streams) add(where, what string) { s[where] = append(s[where], what) }

// diff returns what recorded has and ours lacks (-), and the other way round (+).
func diff(recorded, ours streams) []string {
	var out []string
	for _, where := range []string{"device", "server", "bankd", "script"} {
		a, b := recorded[where], ours[where]
		// common[i][j] is the length of the longest common sequence of a[i:] and b[j:].
		common := make([][]int, len(a)+1)
		for i := range common {
			common[i] = make([]int, len(b)+1)
		}
		for i := len(a) - 1; i >= 0; i-- {
			for j := len(b) - 1; j >= 0; j-- {
				if common[i][j] = max(common[i+1][j], common[i][j+1]); a[i] == b[j] {
					common[i][j] = common[i+1][j+1] + 1
				}
			}
		}
		i, j := 0, 0
		for i < len(a) || j < len(b) {
			switch {
			case i < len(a) && j < len(b) && a[i] == b[j]:
				i, j = i+1, j+1
			case j == len(b) || i < len(a) && common[i+1][j] >= common[i][j+1]:
				out = append(out, "-"+where+" "+a[i])
				i++
			default:
				out = append(out, "+"+where+" "+b[j])
				j++
			}
		}
	}
	return out
}

// sayPDU tells a message of the client in words, without its tag, names and features: they are each program's own.
func sayPDU(p rspro.PDU) string {
	switch m := p.Msg.(type) {
	case *rspro.ConnectClientReq:
		return fmt.Sprintf("connectClientReq %v", m.Slot)
	case *rspro.TpduModemToCard:
		return fmt.Sprintf("tpdu %x", m.Data)
	case *rspro.ClientSlotStatusInd:
		return fmt.Sprintf("status %v", m.Phys)
	case rspro.Response:
		return fmt.Sprintf("%v %v", m.Choice(), m.ResultCode())
	}
	return p.Msg.Choice().String()
}

// A replay has our client converse as the C client did.
type replay struct {
	journal // of the device and of scripts
	t       *testing.T
	dev     *fakeDevice
	atr     []byte // of the options
	stop    context.CancelFunc
	ended   chan error
	comes   map[string]chan net.Conn // connections, by server and bankd
	peers   map[string]*testnet.Peer // the present one
	conns   map[string]*watched      // what it goes over
	stays   map[string]bool          // the client has not come again where the C client did
	expects map[string]int           // connections that are still to come in this section
	unasked map[string]bool          // the present connection is no part of the recording
	open    int                      // commands the bankd has not answered
	ahead   int                      // how many more commands the bankd has got in this section than recorded
	scripts bool                     // event scripts are called
	told    int                      // answers to setAtrReq that are no part of the recording
	ours    streams                  // of this section
}

// A watched connection knows when it has ended.
type watched struct {
	net.Conn
	ended atomic.Bool
}

func (w *watched) Read(b []byte) (int, error) {
	n, err := w.Conn.Read(b)
	if err != nil {
		w.ended.Store(true)
	}
	return n, err
}

// TestReplay plays the device's, the server's and the bankd's part of each section to our client, which
// has to say what the C client said: the same messages in the same order, but for what improvements lists.
// Compared are messages, not transfers: ours has the card's data and status word in one, which TestCommands shows.
// After connectClientRes the bankd tells an ATR, as all do but the one of the recording; it is the one that the modem has.
func TestReplay(t *testing.T) {
	all := sections(t)
	if len(all) != 108 {
		t.Fatalf("%d sections, want 108", len(all))
	}
	known := maps.Clone(improvements)
	for len(all) > 0 {
		n := 1
		for n < len(all) && !all[n].starts() {
			n++
		}
		process := all[:n]
		all = all[n:]
		synctest.Test(t, func(t *testing.T) {
			r := startReplay(t, process[0].title)
			for _, s := range process {
				want := known[s.title]
				got := r.play(s, want.up)
				delete(known, s.title)
				if !want.same(got) {
					t.Errorf("%q: %s,\nwant %s", s.title, list(got), list(want.diff))
				}
				if (len(want.diff) == 0) != (want.why == "") {
					t.Errorf("%q: why is %q", s.title, want.why)
				}
			}
			r.stop()
			<-r.ended
		})
	}
	for title := range known {
		t.Errorf("no section %q", title)
	}
}

func list(lines []string) string { return "\n\t" + strings.Join(lines, "\n\t") }

// startReplay starts a client with the options that the title of its first section tells.
func startReplay(t *testing.T, title string) *replay {
	r := &replay{
		t: t, atr: ownATR, ended: make(chan error, 1), peers: make(map[string]*testnet.Peer), conns: make(map[string]*watched), stays: make(map[string]bool), unasked: make(map[string]bool),
		comes: map[string]chan net.Conn{"server": make(chan net.Conn), "bankd": make(chan net.Conn)},
	}
	host := testnet.New().Host("127.0.0.1")
	cfg := Config{Config: client.Config{ServerHost: "127.0.0.1", ServerPort: 9998, Slot: me, ScriptTimeout: 30 * time.Second}}
	words := strings.Fields(title)
	for i, w := range words {
		switch w {
		case "-Z":
			cfg.Presence = simtrace.PresenceValid
			if words[i+1] == "1" {
				cfg.Presence |= simtrace.PresentHigh
			}
		case "-a":
			r.atr = unhex(t, words[i+1])
		case "-r":
			cfg.KeepATR = true
		case "(-e":
			cfg.Script, r.scripts = "script", true
		}
	}
	cfg.ATR = r.atr
	for where, port := range map[string]string{"server": ":9998", "bankd": ":9999"} {
		ln := listen(t, host, port)
		t.Cleanup(func() { ln.Close() })
		go func() {
			defer close(r.comes[where])
			for {
				nc, err := ln.Accept()
				if err != nil {
					return
				}
				r.comes[where] <- nc
			}
		}()
	}
	log := logrus.New()
	log.SetOutput(t.Output())
	log.SetLevel(logrus.DebugLevel)
	env := Env{
		Env: client.Env{Net: host, Log: log, StartScript: r.script},
		Open: func(context.Context) (Device, error) {
			r.dev = newDevice(func(b []byte) error {
				text, _ := say(b)
				for m := range strings.SplitSeq(text, " + ") {
					r.add("device %s", m)
				}
				return nil
			})
			r.dev.info = Info{Path: "1-1"}
			return r.dev, nil
		},
	}
	ctx, stop := context.WithCancel(t.Context())
	r.stop = stop
	go func() { r.ended <- Run(ctx, cfg, env) }()
	return r
}

// script notes the call of a script.
func (r *replay) script(_ context.Context, _ string, vars []string) (func() error, error) {
	text, takes := sayScript(vars), time.Duration(0)
	r.add("script %s", text)
	if strings.HasPrefix(text, "request-card-insert ") {
		takes = 500 * time.Millisecond // as the title of the section tells
	}
	return func() error { time.Sleep(takes); return nil }, nil
}

// sayScript tells a script's variables in words. For signals that are on, the C client writes the bit of the
// device's message.
func sayScript(vars []string) string {
	m := make(map[string]string)
	for _, v := range vars {
		name, value, _ := strings.Cut(strings.TrimPrefix(v, "REMSIM_"), "=")
		if strings.HasPrefix(name, "SIM_") && value != "0" {
			value = "1"
		}
		m[name] = value
	}
	return fmt.Sprintf("%s of %s (USB %s %s), server %s %s, bankd %s %s %s, VCC=%s RST=%s CLK=%s", m["CAUSE"], m["CLIENT_SLOT"], m["USB_PATH"],
		m["USB_INTERFACE"], m["SERVER_ADDR"], m["SERVER_STATE"], m["BANKD_ADDR"], m["BANKD_SLOT"], m["BANKD_STATE"], m["SIM_VCC"], m["SIM_RST"], m["SIM_CLK"])
}

// play plays a section and returns how our client differs. up has the device tell that the card has power before.
// As our client is ahead of the recording or behind it in places, the bankd answers a command that the
// recording doesn't have yet before the modem goes on, all that are left at the end, and none that it hasn't got.
func (r *replay) play(s section, up bool) []string {
	r.ours, r.ahead, r.expects = make(streams), 0, make(map[string]int)
	recorded := make(streams)
	var answers [][]byte // frames of the recording that are still to be sent
	for _, line := range s.lines {
		if where, ok := noted(line, "connection"); ok {
			r.expects[where]++
		}
		if strings.HasPrefix(line, "bankd->client") && strings.Contains(line, "# tpduCardToModem") {
			answers = append(answers, unhex(r.t, strings.Fields(line)[1]))
		}
	}
	answer := func() {
		b := testnet.Frames(r.t, rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduCardToModem{From: here, To: me, Data: technicalProblem[:]}})
		if len(answers) > 0 {
			b, answers = answers[0], answers[1:]
		}
		r.open--
		r.peers["bankd"].Write(b)
		r.settle()
	}
	lost := strings.Contains(s.title, "connection lost") // the other end's doing
	if strings.HasPrefix(s.title, "device unplugged") {
		r.dev.unplug(errUnplugged)
	}
	if up {
		r.dev.irq <- encode(r.t, contacts(simtrace.VCC|simtrace.CLK))
	}
	for _, line := range s.lines {
		text, name, _ := strings.Cut(line, " # ")
		words := strings.Fields(text)
		from, to, _ := strings.Cut(words[0], "->")
		var b []byte
		if to != "" {
			b = unhex(r.t, words[len(words)-1])
		}
		if where, ok := noted(line, "connection"); ok {
			recorded.add(where, "connection")
			r.connect(where)
			continue
		}
		if where, ok := noted(line, "connection ended"); ok {
			r.settle()
			last := s.has("# SIGTERM") && r.expects[where] == 0
			if last {
				r.stop()
			}
			if !lost || last {
				recorded.add(where, "end")
			} else if p := r.peers[where]; p != nil {
				delete(r.conns, where) // it is no doing of our client
				p.Close()
			}
			continue
		}
		switch {
		case strings.HasPrefix(line, "# script call: "):
			recorded.add("script", sayScript(append(words[6:], "REMSIM_CAUSE="+words[3])))
		case to == "": // another note
		case to == "device":
			recorded.add(to, sayMessage(b))
		case b[2] == 0xfe && from != "device": // the keep-alive
		case from == "client":
			text := sayPDU(decodePDU(r.t, b))
			recorded.add(to, text)
			if strings.HasPrefix(text, "tpdu ") {
				r.ahead--
			}
		case from == "device":
			r.settle()
			for r.ahead > 0 && r.open > 0 {
				answer()
			}
			in := r.dev.bulk
			if words[1] == "irq" {
				in = r.dev.irq
			}
			for p := range slices.Chunk(b, simtrace.PacketSize) {
				in <- p
			}
		case strings.HasPrefix(name, "tpduCardToModem"):
			r.settle()
			if r.open > 0 && len(answers) > 0 && bytes.Equal(answers[0], b) {
				answer()
			}
		default: // of server or bankd
			r.settle()
			r.say(from, name, b)
		}
	}
	r.settle()
	for r.open > 0 {
		answer()
	}
	if r.scripts {
		time.Sleep(2 * time.Second) // one runs after the other
		r.settle()
	}
	return diff(recorded, r.ours)
}

// noted returns which connection a note on one tells of.
func noted(line, what string) (where string, ok bool) {
	where, ok = strings.CutPrefix(line, "# (client->")
	if !ok {
		return "", false
	}
	return strings.CutSuffix(where, ": TCP "+what+")")
}

// connect waits for the client's next connection.
func (r *replay) connect(where string) {
	select {
	case nc := <-r.comes[where]:
		r.meet(where, nc)
	case <-time.After(20 * time.Second):
		r.stays[where] = true
	}
	r.expects[where]--
	r.settle()
}

func (r *replay) meet(where string, nc net.Conn) {
	r.settle()
	r.ours.add(where, "connection")
	r.conns[where] = &watched{Conn: nc}
	r.peers[where] = testnet.NewPeer(r.t, r.conns[where])
	r.unasked[where] = false
}

// say has server or bankd send a frame.
func (r *replay) say(from, name string, frame []byte) {
	if name == "connectClientRes" && r.stays[from] {
		r.stays[from] = false // nobody has asked
		return
	}
	r.peers[from].Write(frame)
	if from == "bankd" && name == "connectClientRes" {
		r.tellATR()
	}
}

// tellATR has the bankd tell the ATR that the modem has already.
func (r *replay) tellATR() {
	r.told++
	r.peers["bankd"].Send(&rspro.SetAtrReq{Slot: me, ATR: r.atr})
}

// settle waits until our client has done all it has to do, and notes it.
func (r *replay) settle() {
	for again := true; again; {
		again = false
		for _, l := range r.all() {
			where, what, _ := strings.Cut(l, " ")
			r.ours.add(where, what)
		}
		for _, where := range []string{"server", "bankd"} {
			again = r.hear(where) || again
			if r.expects[where] > 0 {
				continue
			}
			select {
			case nc := <-r.comes[where]:
				r.meet(where, nc)
				r.unasked[where], again = true, true
			default:
			}
		}
	}
}

// hear notes what has come on a connection. again says that it was answered.
func (r *replay) hear(where string) (again bool) {
	p := r.peers[where]
	if p == nil {
		return false
	}
	for {
		pdu, ok := p.Poll(time.Nanosecond)
		if !ok {
			break
		}
		text := sayPDU(pdu)
		switch pdu.Msg.(type) {
		case *rspro.TpduModemToCard:
			r.open++
			r.ahead++
		case *rspro.ConnectClientReq:
			if r.unasked[where] {
				p.Send(&rspro.ConnectClientRes{Identity: testnet.Identity(map[string]rspro.ComponentType{"server": rspro.Server, "bankd": rspro.Bankd}[where])})
				r.tellATR()
				again = true
			}
		case *rspro.SetAtrRes:
			if r.told > 0 {
				r.told--
				continue
			}
		}
		r.ours.add(where, text)
	}
	if c := r.conns[where]; c != nil && c.ended.Load() {
		r.ours.add(where, "end")
		delete(r.conns, where)
		delete(r.peers, where)
		if where == "bankd" {
			r.open, r.told = 0, 0
		}
	}
	return again
}

// sayMessage tells a message to the device in words, also one that is too long for it.
func sayMessage(b []byte) string {
	if m, err := simtrace.Decode(b); err == nil {
		if tx, ok := m.(*simtrace.TxData); ok {
			return fmt.Sprintf("tx %d %x", uint32(tx.Flags), tx.Data)
		}
	}
	text, _ := say(b)
	return text
}

func decodePDU(t *testing.T, frame []byte) rspro.PDU {
	t.Helper()
	p, err := rspro.Decode(frame[4:])
	if err != nil {
		t.Fatalf("%x: %v", frame, err)
	}
	return p
}

// An improvement is what our client does other than the C client, on purpose.
type improvement struct {
	why  string
	diff []string // - what the C client did, + what ours does instead
	or   []string // the same; which of both depends on what goroutine is faster
	free string   // a line that may be in diff or not, as its order among the others depends on that, too
	up   bool     // has the card powered before, or else all is lost as it is in the section's beginning
}

// same reports whether got is the difference.
func (i improvement) same(got []string) bool {
	if i.free != "" {
		got = slices.DeleteFunc(slices.Clone(got), func(l string) bool { return l == i.free })
	}
	return slices.Equal(got, i.diff) || i.or != nil && slices.Equal(got, i.or)
}

// Reasons that several sections share.
const (
	whyStart = "the device's state is asked for and made a defined one, so that a client that was killed leaves nothing behind"
	whyLast  = "the last known status is told to a bankd that begins to serve us"
	whyOnce  = "data is asked for once: the device collects all of it"
	whyGuess = "the data that the modem holds for an unknown command is fetched, not lost"
	whyStuck = "messages end where their length says, not with a short packet: the C client has lost the header that came next"
	whySame  = "a server that says again what we know disturbs nobody"

	whyEnd  = "at its end the client gives the modem back its local SIM"
	whyNews = "scripts are called at changes, with what has changed, and in order (REMSIM_BANKD_STATE of the cause, no address (null))"
)

// What several sections differ by.
var (
	atStart = []string{"+device STATUS?", "+device remove", "+device SIM local"}
	atEnd   = []string{"+device remove", "+device SIM local", "+device RESET 2 300ms"}
)

// calls are calls of scripts, as sayScript tells them, with a bankd in some state and the contacts of the card.
func calls(sign, bankd, contacts string, causes ...string) (lines []string) {
	for _, c := range causes {
		lines = append(lines, sign+"script "+c+" of 7:0 (USB 1-1 0), server 127.0.0.1:9998 CONNECTED, bankd "+bankd+", "+contacts)
	}
	return lines
}

// improvements lists them by sections.
var improvements = map[string]improvement{
	"start: client -c 7 -n 0 -V 1d50 -P 4004 -C 1 -I 0 -S 0 -H <path>, device present, no server configuration yet": {
		why: whyStart, diff: atStart,
	},
	"STATUS and RX_DATA before the client is operational: the C client does nothing (case 2) or asks for data (case 3)": {
		why:  "the modem holds the card in reset; where it doesn't it is answered 6F00 at once (TestNoCard)",
		diff: []string{"-device tx 8 d6"},
	},
	"server sends configClientBankReq: the client becomes operational": {
		why: whyLast, diff: []string{"+bankd status RST=1 VCC=0 CLK=0 CARD=?"},
	},
	"setAtrReq with 33 bytes, then with 34 and 55 bytes (the firmware ignores more than 33)": {
		why: "the user is warned of an ATR that the device would ignore",
		diff: []string{
			"-device SET_ATR 3b0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021",
			"-device SET_ATR 3b0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233343536",
		},
	},
	"power-up: RST asserted, VCC on, CLK on, RST released": {
		why: "a status that the bankd knows isn't told again", diff: []string{"-bankd status RST=1 VCC=0 CLK=0 CARD=?"},
	},
	"the same STATUS once more (no change)": {
		why: "a status that the bankd knows isn't told again", diff: []string{"-bankd status RST=0 VCC=1 CLK=1 CARD=?"},
	},
	"6Cxx: class 80 GET DATA P3=0 -> 6C05, repeated with P3=05: the C client takes the repetition as case 4 and asks for data": {
		why:  "a command that is repeated after 6Cxx keeps its case",
		diff: []string{"-device tx 8 ca", "+device tx 6 6f00", "+bankd tpdu 80ca006605"},
	},
	"data in two RX_DATA parts (the C client asks again after the first part)": {why: whyOnce, diff: []string{"-device tx 8 d6"}},
	"data in three parts, class 00 case 4":                                     {why: whyOnce, diff: []string{"-device tx 8 a4", "-device tx 8 a4"}},
	"255 bytes of data in two parts 200+55":                                    {why: whyOnce, diff: []string{"-device tx 8 dc"}},
	"reset while data is outstanding (2 of 4 bytes), then a new command":       {why: whyOnce, diff: []string{"-device tx 8 d6"}},
	"response longer than asked: 300 bytes + SW to P3=0 (not split although above the firmware's 280-byte buffer)": {
		why: "a bankd that breaks the protocol loses its connection; the device gets nothing that overflows its buffer",
		diff: []string{
			"-device tx 4 b0000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b2c2d2e2f30313233343536373839" +
				"3a3b3c3d3e3f404142434445464748494a4b4c4d4e4f505152535455565758595a5b5c5d5e5f606162636465666768696a6b6c6d6e6f70717273747576777879" +
				"7a7b7c7d7e7f808182838485868788898a8b8c8d8e8f909192939495969798999a9b9c9d9e9fa0a1a2a3a4a5a6a7a8a9aaabacadaeafb0b1b2b3b4b5b6b7b8b9" +
				"babbbcbdbebfc0c1c2c3c4c5c6c7c8c9cacbcccdcecfd0d1d2d3d4d5d6d7d8d9dadbdcdddedfe0e1e2e3e4e5e6e7e8e9eaebecedeeeff0f1f2f3f4f5f6f7f8f9" +
				"fafbfcfdfeff000102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f202122232425262728292a2b",
			"-device tx 6 9000",
			"+device remove", "+device SIM local", "+device RESET 2 300ms",
			"+device SIM remote", "+device SET_ATR 3b00", "+device insert", "+device RESET 2 300ms",
			"+bankd end", "+bankd connection", "+bankd connectClientReq C7:0", "+bankd status RST=0 VCC=1 CLK=1 CARD=?",
		},
		free: "+device tx 6 6f00",
	},
	"unknown class and instruction with P3=4 (the modem holds 4 data bytes): the bare header goes to the bankd": {
		why: whyGuess, diff: []string{"-device tx 6 6e00", "+device tx 8 ee", "-bankd tpdu b0ee000004"},
	},
	"known class, unknown instruction with P3=2": {
		why: whyGuess, diff: []string{"-device tx 6 6d00", "+device tx 8 ee", "-bankd tpdu a0ee000002"},
	},
	"data part after an unknown header (as if the modem had been asked)": {
		why: whyGuess, diff: []string{"-bankd tpdu a0ee000002", "+bankd tpdu a0ee0000021122"},
	},
	"data part after a case 2 header: the header is forwarded a second time": {
		why: "data that belongs to no command is passed over", diff: []string{"-device tx 6 9000", "-bankd tpdu a0b0000002"},
	},
	"header of 3 bytes only: case 2 by its first bytes": {
		why: "it is no header; the C client has sent the one before", diff: []string{"-device tx 6 9000", "-bankd tpdu a0b0000002"},
	},
	"unknown message type from the device (class 1 type 0x63), error report (class 0 type 0), lone zero-length packet": {
		why: "a packet of length zero is nothing; the C client has sent the last command again", diff: []string{"-device tx 6 9000", "-bankd tpdu a0b0000002"},
	},
	"two messages in one transfer: 2 case 2 headers; only the first is handled": {
		why:  "each message counts; the second header ends the first command, which may be on its way already",
		diff: []string{"-device tx 4 b000", "-device tx 6 9000", "+device tx 6 6f00", "+bankd tpdu a0b0000002"},
		or:   []string{"-bankd tpdu a0b0000001", "+bankd tpdu a0b0000002"},
	},
	"a new header while the card has not answered; then both answers come": {
		why: "the first answer is none to the second command", diff: []string{"-device tx 4 b211", "-device tx 6 9000"},
	},
	"warm reset while the card has not answered; the answer comes late": {
		why: "after the reset it would be taken as the answer to the next command", diff: []string{"-device tx 4 b0313233", "-device tx 6 9000"},
	},
	"RX_DATA of exactly 64 bytes, no zero-length packet (not firmware-like)": {
		why: whyStuck, diff: []string{"+device tx 6 6f00", "+bankd tpdu a0b0000001"},
	},
	"RX_DATA of exactly 128 bytes, no zero-length packet (as the firmware sends it)": {
		why: whyStuck, diff: []string{"+device tx 6 6f00", "+bankd tpdu a0b0000001"},
	},
	"RX_DATA of exactly 192 bytes, no zero-length packet (as the firmware sends it)": {
		why: whyStuck, diff: []string{"+device tx 6 6f00", "+bankd tpdu a0b0000001"},
	},
	"RX_DATA of exactly 256 bytes, no zero-length packet (as the firmware sends it)": {
		why: whyStuck, diff: []string{"+device tx 6 6f00", "+bankd tpdu a0b0000001"},
	},
	"bankd connection lost: leave sequence; reconnect: enter sequence": {
		why: whyLast, diff: []string{"+bankd status RST=0 VCC=0 CLK=0 CARD=?"},
	},
	"bankd connection lost again at once": {
		why: whyLast, diff: slices.Repeat([]string{"+bankd status RST=0 VCC=0 CLK=0 CARD=?"}, 5),
	},
	"same configClientBankReq again while operational": {
		why: whySame,
		diff: []string{
			"-device remove", "-device SIM local", "-device RESET 2 300ms",
			"-device SIM remote", "-device SET_ATR 3b00", "-device insert", "-device RESET 2 300ms",
			"-bankd end", "-bankd connection", "-bankd connectClientReq C7:0",
		},
	},
	"resetStateReq from the server": {
		why:  "the C client ignores it",
		diff: []string{"+device remove", "+device SIM local", "+device RESET 2 300ms", "+server resetStateRes ok", "+bankd end"},
	},
	"server sends port 0 while operational: leave sequence": {
		why:  "ours has left its bankd with the section before",
		diff: []string{"-device remove", "-device SIM local", "-device RESET 2 300ms", "-bankd end"},
	},
	"server sends a bankd again": {why: whyLast, diff: []string{"+bankd status RST=0 VCC=0 CLK=0 CARD=?"}},
	"card answers of 1 byte and of 0 bytes": {
		why: "a bankd that breaks the protocol loses its connection; the modem gets no bytes that aren't there",
		diff: []string{
			"-device tx 6 0090", "-device tx 6 0000",
			"+device remove", "+device SIM local", "+device RESET 2 300ms",
			"+device SIM remote", "+device SET_ATR 3b00", "+device insert", "+device RESET 2 300ms",
			"+bankd status RST=0 VCC=1 CLK=1 CARD=?",
			"+bankd end", "+bankd connection", "+bankd connectClientReq C7:0", "+bankd status RST=0 VCC=1 CLK=1 CARD=?",
		},
		free: "+device tx 6 6f00",
		up:   true,
	},
	"start with -Z 0":               {why: whyStart + "; " + whyEnd, diff: slices.Concat(atStart, atEnd)},
	"start with -Z 1":               {why: whyStart + "; " + whyEnd, diff: slices.Concat(atStart, atEnd)},
	"start with -a 3b9f96801fc7":    {why: whyStart + "; " + whyEnd, diff: slices.Concat(atStart, atEnd)},
	"start with -a 3b9f96801fc7 -r": {why: whyStart + "; " + whyEnd, diff: slices.Concat(atStart, atEnd)},
	"interface 1 (-I 1): endpoints 0x01, 0x82, 0x83; same bytes, slot number stays 0": {why: whyStart, diff: atStart},
	"interface 1: case 2 command": {why: whyEnd, diff: atEnd},
	"negative starts":             {why: whyStart, diff: atStart},
	"event script (-e SCRIPT): calls listed in the order in which the client forked them; request-card-insert sleeps 0.5 s to show that nothing waits for it": {
		why: whyStart + "; " + whyNews,
		diff: slices.Concat(atStart,
			calls("-", "(null):0 0:0 INIT", "VCC=0 RST=0 CLK=0", "event-server-connect"),
			calls("+", "0.0.0.0:0 0:0 INIT", "VCC=0 RST=0 CLK=0", "event-server-connect")),
	},
	"script: configClientBankReq": {
		why: whyNews,
		diff: slices.Concat(
			calls("-", "127.0.0.1:9999 1:5 REESTABLISH_DELAY", "VCC=0 RST=0 CLK=0", "event-config-bankd"),
			calls("+", "127.0.0.1:9999 1:5 INIT", "VCC=0 RST=0 CLK=0", "event-config-bankd")),
	},
	"script: STATUS VCC on (changed)": {
		why: whyNews, diff: calls("+", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=0 CLK=0", "event-modem-status"),
	},
	"script: the same STATUS again (unchanged)": {
		why: whyNews,
		diff: append([]string{"-bankd status RST=0 VCC=1 CLK=0 CARD=?"},
			calls("-", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=0 CLK=0", "event-modem-status")...),
	},
	"script: STATUS 03 (changed), only voltage differs afterwards": {
		why: whyNews, diff: []string{"-bankd status RST=0 VCC=1 CLK=1 CARD=?"},
	},
	"script: STATUS 13 (RST asserted) twice: the second one, unchanged, calls the script": {
		why: whyNews, diff: []string{"-bankd status RST=1 VCC=1 CLK=1 CARD=?"},
	},
	"script: bankd connection lost": {
		why: whyLast + "; " + whyNews,
		diff: slices.Concat([]string{"+bankd status RST=1 VCC=1 CLK=1 CARD=?"},
			calls("-", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=1 CLK=1", "request-card-remove", "request-sim-local", "request-modem-reset"),
			calls("+", "127.0.0.1:9999 1:5 REESTABLISH_DELAY", "VCC=1 RST=1 CLK=1", "request-card-remove", "request-sim-local", "request-modem-reset")),
	},
	"script: new configClientBankReq while operational": {
		why: whySame,
		diff: slices.Concat(
			[]string{
				"-device remove", "-device SIM local", "-device RESET 2 300ms",
				"-device SIM remote", "-device SET_ATR 3b00", "-device insert", "-device RESET 2 300ms",
				"-bankd end", "-bankd connection", "-bankd connectClientReq C7:0",
			},
			calls("-", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=1 CLK=1", "request-card-remove", "request-sim-local", "request-modem-reset"),
			calls("-", "127.0.0.1:9999 1:5 REESTABLISH_DELAY", "VCC=1 RST=1 CLK=1", "event-config-bankd"),
			calls("-", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=1 CLK=1",
				"request-sim-remote", "request-card-insert", "request-modem-reset", "event-bankd-connect")),
	},
	"script: port 0": {
		why: "scripts are told of the bankd that is left, and of none when there is none",
		diff: slices.Concat(
			calls("-", "0.0.0.0:0 1:5 CONNECTED", "VCC=1 RST=1 CLK=1", "request-card-remove", "request-sim-local", "request-modem-reset"),
			calls("-", "0.0.0.0:0 1:5 INIT", "VCC=1 RST=1 CLK=1", "event-config-bankd"),
			calls("+", "127.0.0.1:9999 1:5 CONNECTED", "VCC=1 RST=1 CLK=1", "request-card-remove", "request-sim-local", "request-modem-reset"),
			calls("+", "0.0.0.0:0 0:0 INIT", "VCC=1 RST=1 CLK=1", "event-config-bankd")),
	},
	"script: server connection lost": {
		why: whyNews, diff: calls("+", "0.0.0.0:0 0:0 INIT", "VCC=1 RST=1 CLK=1", "event-server-connect"),
	},
}
