// SPDX-License-Identifier: GPL-2.0-or-later

// Command bench measures remsim-client-st2 on a real USB stack, in a virtual computer, and writes what it finds as Markdown.
package main

import (
	"context"
	_ "embed"
	"errors"
	"flag"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/e2e/guest"
	"remsim/internal/e2e/rig"
	"remsim/internal/ipa"
	"remsim/internal/rspro"
	"remsim/internal/simulator"
	"remsim/internal/simulator/board"
	"remsim/internal/simulator/modem"
	"remsim/internal/simulator/usbip"
	"remsim/internal/slot"
)

var samples = flag.Int("n", 1000, "`COUNT` of commands of each way")

//go:embed echo/echo.c
var echoSource []byte

func main() {
	flag.Parse()
	os.Exit(guest.Run(func(bin string) int {
		b := &bench{bin: bin}
		err := b.run()
		b.stop()
		if err != nil {
			fmt.Println("bench:", err)
			return 1
		}
		return 0
	}, []string{"remsim-server", "remsim-bankd", "remsim-client-st2"}))
}

// soon is for what takes a second or two.
const soon = time.Minute

// Bank slots, and the client slots that they are mapped to.
const (
	clientSlot = iota // remsim-client-st2
	rawSlot           // RSPRO alone
	firstOf8          // one process with eight slots
	cards      = firstOf8 + 8
)

// A bench holds what was started, in order.
type bench struct {
	bin     string
	started []func()
}

func (b *bench) stop() {
	for _, f := range slices.Backward(b.started) {
		f()
	}
	b.started = nil
}

func (b *bench) run() error {
	dir, err := os.MkdirTemp("", "bench-")
	if err != nil {
		return err
	}
	var slots strings.Builder
	for i := range cards {
		fmt.Fprintf(&slots, "1,%d,%s\n", i, simulator.Profile(i))
	}
	file := filepath.Join(dir, "slots.csv")
	if err := os.WriteFile(file, []byte(slots.String()), 0o644); err != nil {
		return err
	}
	if _, err := b.start("listening for RSPRO", "remsim-server"); err != nil {
		return err
	}
	if _, err := b.start("msg=connected", "remsim-bankd", "-i", "127.0.0.1", "-n", strconv.Itoa(cards), "--slots-file", file); err != nil {
		return err
	}
	api := rig.API{Base: "http://127.0.0.1:9997", HTTP: &http.Client{Timeout: soon}}
	for i := range cards {
		m := slot.Map{Bank: slot.Bank{ID: 1, Slot: uint16(i)}, Client: slot.Client{ID: 1, Slot: uint16(i)}}
		if i >= firstOf8 {
			m.Client = slot.Client{ID: 2, Slot: uint16(i - firstOf8)}
		}
		if err := api.Create(m); err != nil {
			return err
		}
	}
	fmt.Print("## SIMtrace2\n\n")
	if err := b.latency(dir); err != nil {
		return err
	}
	return b.eight(dir)
}

// start starts a program and waits for a line of its log.
func (b *bench) start(line, program string, args ...string) (*rig.Proc, error) {
	p, err := rig.Start(program, filepath.Join(b.bin, program), args...)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, p.Kill)
	if _, err := p.Await(soon, line); err != nil {
		return nil, fmt.Errorf("%w; it says: %s", err, p.Log())
	}
	return p, nil
}

// plug plugs a board with modems in, until stop.
func (b *bench) plug(port int) ([]*modem.Modem, error) {
	dev := board.New(board.Config{Serial: fmt.Sprintf("%032x", port+1)})
	var run func(context.Context) error
	// The kernel takes a moment to forget what was in the port.
	if err := eventually(func() (err error) { run, err = usbip.Plug(port, dev); return err }); err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	var running sync.WaitGroup
	running.Go(func() { _ = run(ctx) }) // it ends with ctx
	log := logrus.New()
	log.SetOutput(io.Discard)
	var modems []*modem.Modem
	for _, s := range dev.Slots() {
		m := modem.New(s, modem.Config{Log: logrus.NewEntry(log)})
		modems = append(modems, m)
		running.Go(func() { m.Run(ctx) })
	}
	b.started = append(b.started, func() { cancel(); running.Wait() })
	node := fmt.Sprintf("/sys/bus/usb/devices/1-%d/1-%d:1.1", port+1, port+1)
	return modems, eventually(func() error { _, err := os.Stat(node); return err })
}

func eventually(ask func() error) error {
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		if err := ask(); err == nil || time.Now().After(end) {
			return err
		}
	}
}

// remote waits until a modem uses the remote SIM.
func remote(m *modem.Modem) error {
	return eventually(func() error {
		if s := m.State(); s.ATR == nil || s.Local || !s.Idle {
			return fmt.Errorf("modem without remote SIM: %+v", s)
		}
		return nil
	})
}

// do has a modem do something with its SIM.
func do(m *modem.Modem, f func(context.Context, *modem.Terminal) error) (err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 5*soon)
	defer cancel()
	return errors.Join(m.Do(ctx, func(ctx context.Context, t *modem.Terminal) { err = f(ctx, t) }), err)
}

// status is what is sent all the time: STATUS, with four bytes from the card.
var status = []byte{0xa0, 0xf2, 0x00, 0x00, 0x04}

// latency measures how long commands take by the client, by an echo at the USB level and at the bankd alone, in alternating rounds.
func (b *bench) latency(dir string) error {
	modems, err := b.plug(0)
	if err != nil {
		return err
	}
	if _, err := b.start("card is there", "remsim-client-st2", "-i", "127.0.0.1", "-c", "1", "-n", strconv.Itoa(clientSlot), "-I", "0"); err != nil {
		return err
	}
	if err := b.echo(dir); err != nil {
		return err
	}
	for _, m := range modems {
		if err := remote(m); err != nil {
			return err
		}
	}
	raw, err := b.raw()
	if err != nil {
		return err
	}
	byModem := func(m *modem.Modem) func(int) (series, error) {
		return func(n int) (took series, err error) {
			err = do(m, func(ctx context.Context, t *modem.Terminal) error {
				for range n {
					x, err := t.Transmit(ctx, status)
					if err != nil {
						return err
					}
					took = append(took, x.Took)
				}
				return nil
			})
			return took, err
		}
	}
	ways := []struct {
		name, c string
		measure func(n int) (series, error)
		took    series
	}{
		{name: "remsim-client-st2, bankd, softsim", c: "1.8-2.5, 3.3-5.3 ms", measure: byModem(modems[0])},
		{name: "echo by a bare libusb program", c: "0.6-0.8 ms", measure: byModem(modems[1])},
		{name: "raw RSPRO → bankd → softsim", c: "–", measure: raw},
	}
	const round = 100
	for n := -1; n < *samples/round; n++ { // the first round warms up
		for i := range ways {
			took, err := ways[i].measure(round)
			if err != nil {
				return fmt.Errorf("%s: %w", ways[i].name, err)
			}
			if n >= 0 {
				ways[i].took = append(ways[i].took, took...)
			}
		}
	}
	fmt.Print("| way of a command, from its header to its status word | median | p99 | C suite | n |\n| --- | --- | --- | --- | --- |\n")
	for _, w := range ways {
		fmt.Printf("| %s | %s | %s | %s | %d |\n", w.name, ms(w.took.quantile(0.5)), ms(w.took.quantile(0.99)), w.c, len(w.took))
	}
	adds := ways[0].took.quantile(0.5) - ways[1].took.quantile(0.5) - ways[2].took.quantile(0.5)
	fmt.Printf("\nThe client adds %s to a command, beyond USB and bankd; over the echo it takes %s, the C client 1.0-1.7 ms. ",
		ms(adds), ms(adds+ways[2].took.quantile(0.5)))
	return b.initialisation(modems[0])
}

// initialisation measures the commands of a modem's start.
func (b *bench) initialisation(m *modem.Modem) error {
	script, err := modem.Builtin("init")
	if err != nil {
		return err
	}
	var took series
	err = do(m, func(ctx context.Context, t *modem.Terminal) error {
		for len(took) < 300 {
			failed, err := t.Play(ctx, script, func(r modem.Result) {
				for _, x := range r.Exchanges {
					took = append(took, x.Took)
				}
			})
			if err != nil || failed > 0 {
				return fmt.Errorf("%d steps failed: %w", failed, err)
			}
		}
		return nil
	})
	if err != nil {
		return err
	}
	var total time.Duration
	for _, d := range took {
		total += d
	}
	fmt.Printf("A SIM initialisation of %d commands took %s in all: median %s, p99 %s, the longest %s.\n\n", len(took),
		total.Round(time.Millisecond), ms(took.quantile(0.5)), ms(took.quantile(0.99)), ms(took.quantile(1)))
	return nil
}

// echo builds and starts the echo for interface 1.
func (b *bench) echo(dir string) error {
	source, program := filepath.Join(dir, "echo.c"), filepath.Join(dir, "echo")
	if err := os.WriteFile(source, echoSource, 0o644); err != nil {
		return err
	}
	out, err := exec.Command("gcc", "-O2", "-Wall", "-I/usr/include/libusb-1.0", "-o", program, source, "-lusb-1.0").CombinedOutput()
	if err != nil {
		return fmt.Errorf("gcc: %w: %s", err, out)
	}
	p, err := rig.Start("echo", program, "1", "01", "82")
	if err != nil {
		return err
	}
	b.started = append(b.started, p.Kill)
	if line, err := p.Line(soon); err != nil || line != "ready" {
		return fmt.Errorf("echo: %q, %w; it says: %s", line, err, p.Log())
	}
	return nil
}

// raw returns how commands are sent to the bankd without a client.
func (b *bench) raw() (func(int) (series, error), error) {
	conn, err := net.Dial("tcp", "127.0.0.1:9999")
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, func() { conn.Close() })
	who := slot.Client{ID: 1, Slot: rawSlot}
	send := func(m rspro.Message) error {
		frame, err := rspro.PDU{Version: rspro.Version, Msg: m}.Append(ipa.Begin(nil))
		if err != nil {
			return err
		}
		ipa.End(frame)
		_, err = conn.Write(frame)
		return err
	}
	hello := &rspro.ConnectClientReq{Slot: &who, Identity: rspro.ComponentIdentity{
		Type: rspro.Client, Name: "bench", Software: "remsim-client", SWVersion: "1",
	}}
	if err := send(hello); err != nil {
		return nil, err
	}
	// PINGs come at any time, also while the other ways are measured.
	answers, ended := make(chan time.Time), make(chan error, 1)
	go func() { ended <- receive(conn, answers) }()
	await := func() (time.Time, error) {
		select {
		case at := <-answers:
			return at, nil
		case err := <-ended:
			return time.Time{}, err
		}
	}
	if _, err := await(); err != nil { // the ATR
		return nil, err
	}
	return func(n int) (took series, err error) {
		for range n {
			begin := time.Now()
			if err := send(&rspro.TpduModemToCard{From: who, To: slot.Bank{ID: 1, Slot: rawSlot}, Data: status}); err != nil {
				return nil, err
			}
			at, err := await()
			if err != nil {
				return nil, err
			}
			took = append(took, at.Sub(begin))
		}
		return took, nil
	}, nil
}

// receive answers a bankd's PINGs and tells when each of its answers came, until the connection ends.
func receive(conn net.Conn, answers chan<- time.Time) error {
	for r := ipa.NewReader(conn); ; {
		s, payload, err := r.Next()
		if err != nil {
			return err
		}
		at := time.Now()
		if s == ipa.CCM {
			if ipa.Type(payload[0]) == ipa.Ping {
				if _, err := conn.Write(ipa.AppendCCM(nil, ipa.Pong)); err != nil {
					return err
				}
			}
			continue
		}
		pdu, err := rspro.Decode(payload)
		if err != nil {
			return err
		}
		switch pdu.Msg.(type) {
		case *rspro.SetAtrReq, *rspro.TpduCardToModem:
			answers <- at
		}
	}
}

// eight measures the memory of one process that serves eight slots.
func (b *bench) eight(dir string) error {
	b.stopLast(4) // the client, the echo, the connection, and the board they use; server and bankd stay
	var modems []*modem.Modem
	for port := range 4 {
		m, err := b.plug(port)
		if err != nil {
			return err
		}
		modems = append(modems, m...)
	}
	os.Setenv("STATE_DIRECTORY", dir)
	client, err := b.start("card emulator is set up", "remsim-client-st2", "-i", "127.0.0.1", "-c", "2", "--all-slots")
	if err != nil {
		return err
	}
	script, err := modem.Builtin("init")
	if err != nil {
		return err
	}
	for _, m := range modems {
		if err := remote(m); err != nil {
			return fmt.Errorf("%w; the client says: %s", err, client.Log())
		}
		err := do(m, func(ctx context.Context, t *modem.Terminal) error { _, err := t.Play(ctx, script, nil); return err })
		if err != nil {
			return err
		}
	}
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", client.PID()))
	if err != nil {
		return err
	}
	m := regexp.MustCompile(`VmRSS:\s+(\d+) kB`).FindSubmatch(text)
	if m == nil {
		return errors.New("no VmRSS")
	}
	kb, err := strconv.Atoi(string(m[1]))
	if err != nil {
		return err
	}
	fmt.Printf("One process that serves %d slots, after such an initialisation of each: %.1f MB.\n\n", len(modems), float64(kb)/1000)
	return nil
}

func (b *bench) stopLast(n int) {
	last := b.started[len(b.started)-n:]
	b.started = b.started[:len(b.started)-n]
	for _, f := range slices.Backward(last) {
		f()
	}
}

// A series is the durations of one way of doing a thing.
type series []time.Duration

// quantile returns the duration that the share q of all isn't over; q is 0..1.
func (s series) quantile(q float64) time.Duration {
	sorted := slices.Sorted(slices.Values(s))
	return sorted[min(int(q*float64(len(sorted))), len(sorted)-1)]
}

func ms(d time.Duration) string { return fmt.Sprintf("%.2f ms", d.Seconds()*1e3) }
