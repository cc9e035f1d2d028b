// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/simulator/board"
	"remsim/internal/simulator/modem"
	"remsim/internal/simulator/usbip"
	"remsim/internal/slot"
)

// soon is for what takes a second or two in a guest when nothing is wrong, and this computer has nothing else to do; ten times that when it has.
const soon = 2 * time.Minute

// A world is a server with a bankd of softsims, and devices. All ends with the test, and when that fails the
// programs' logs are shown.
type world struct {
	t      *testing.T
	dir    string
	api    rig.API
	server *rig.Proc
	bankd  *rig.Proc
	cards  int
}

// newWorld starts a server and bank 1 with so many cards: card I is simulator.Profile(I).
func newWorld(t *testing.T, cards int) *world {
	w := &world{t: t, dir: t.TempDir(), cards: cards, api: api()}
	w.server = w.start("server", "remsim-server")
	w.await(w.server, "listening for RSPRO")
	w.startBankd()
	return w
}

func api() rig.API {
	return rig.API{
		Base: "http://127.0.0.1:9997",
		HTTP: &http.Client{Transport: &http.Transport{DisableKeepAlives: true}, Timeout: soon},
	}
}

// startBankd starts the bankd of softsims, the first one or after the end of the last one.
func (w *world) startBankd() {
	w.t.Helper()
	var specs []string
	for i := range w.cards {
		specs = append(specs, simulator.Profile(i).String())
	}
	w.startBank(specs)
}

// startBank starts bank 1 with cards or readers as a slots file names them.
func (w *world) startBank(specs []string) {
	w.t.Helper()
	var slots strings.Builder
	for i, s := range specs {
		fmt.Fprintf(&slots, "1,%d,%s\n", i, s)
	}
	file := filepath.Join(w.dir, "slots.csv")
	if err := os.WriteFile(file, []byte(slots.String()), 0o644); err != nil {
		w.t.Fatal(err)
	}
	w.bankd = w.start("bankd", "remsim-bankd", "-i", "127.0.0.1", "-b", "1", "-n", fmt.Sprint(len(specs)), "--slots-file", file)
	w.await(w.bankd, "msg=connected")
}

// start runs a program until the end of the test.
func (w *world) start(name, program string, args ...string) *rig.Proc {
	w.t.Helper()
	p, err := rig.Start(name, filepath.Join(bin, program), args...)
	if err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		p.Kill()
		if w.t.Failed() {
			w.t.Logf("--- %s\n%s", name, tail(p.Log(), 8000))
		}
	})
	return p
}

// stop ends a program in order.
func stop(t *testing.T, p *rig.Proc) {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(soon); err != nil || status != 0 {
		t.Errorf("%s: status %d, %v", p.Name, status, err)
	}
}

func tail(s string, n int) string {
	if len(s) > n {
		return "…" + s[len(s)-n:]
	}
	return s
}

// client starts client ID:SLOT for an interface of a device; id is 1.
func (w *world) client(n int, d *device, iface int, args ...string) *rig.Proc {
	w.t.Helper()
	args = append([]string{
		"-i", "127.0.0.1", "-c", "1", "-n", fmt.Sprint(n), "-H", d.path, "-I", fmt.Sprint(iface),
	}, args...)
	return w.start(fmt.Sprintf("client1:%d", n), "remsim-client-st2", args...)
}

func (w *world) await(p *rig.Proc, parts ...string) string {
	w.t.Helper()
	return w.awaitFrom(0, p, parts...)
}

func (w *world) awaitFrom(mark int, p *rig.Proc, parts ...string) string {
	w.t.Helper()
	line, err := p.AwaitFrom(mark, soon, parts...)
	if err != nil {
		w.t.Fatalf("%v; it says: %s", err, tail(p.Log(), 4000))
	}
	return line
}

// eventually asks until there is no error.
func eventually(t *testing.T, what string, ask func() error) {
	t.Helper()
	for end := time.Now().Add(soon); ; time.Sleep(10 * time.Millisecond) {
		err := ask()
		if err == nil {
			return
		}
		if time.Now().After(end) {
			t.Fatalf("%s: not within %v: %v", what, soon, err)
		}
	}
}

// mapping maps bank slot 1:b to client slot 1:c.
func mapping(b, c int) slot.Map {
	return slot.Map{Bank: slot.Bank{ID: 1, Slot: uint16(b)}, Client: slot.Client{ID: 1, Slot: uint16(c)}}
}

func (w *world) create(b, c int) {
	w.t.Helper()
	if err := w.api.Create(mapping(b, c)); err != nil {
		w.t.Fatal(err)
	}
}

func (w *world) remove(b int) {
	w.t.Helper()
	if err := w.api.Delete(slot.Bank{ID: 1, Slot: uint16(b)}); err != nil {
		w.t.Fatal(err)
	}
}

// A device is a board with modems, plugged into a port of the guest's.
type device struct {
	t      *testing.T
	board  *board.Board
	modems []*modem.Modem
	port   int
	path   string // as in sysfs

	mu     sync.Mutex
	unplug func() // nil: it isn't plugged
	log    bytes.Buffer
}

// settle is how far apart, on a computer that is busy with many other tests, a client may see what happens at the two endpoints of
// a device.
const settle = 200 * time.Millisecond

// localATR is that of the SIMs that the modems have themselves.
var localATR = []byte{0x3b, 0x82, 'l', 'o'}

// newDevice makes a device that isn't plugged yet, with its modems. Modems play no script by themselves.
func newDevice(t *testing.T, port int, c board.Config) *device {
	if c.Serial == "" {
		c.Serial = fmt.Sprintf("%032x", 0x5151+port)
	}
	d := &device{t: t, board: board.New(c), port: port, path: fmt.Sprintf("1-%d", port+1)}
	log := logrus.New()
	log.SetOutput(&lockedWriter{&d.mu, &d.log})
	log.SetLevel(logrus.DebugLevel)
	ctx, stop := context.WithCancel(context.Background())
	var running sync.WaitGroup
	for i, s := range d.board.Slots() {
		m := modem.New(s, modem.Config{LocalATR: localATR, Settle: settle, Log: log.WithField("slot", i)})
		d.modems = append(d.modems, m)
		running.Go(func() { m.Run(ctx) })
	}
	t.Cleanup(func() {
		d.Unplug()
		stop()
		running.Wait()
		if t.Failed() {
			d.mu.Lock()
			defer d.mu.Unlock()
			t.Logf("--- modems of %s\n%s", d.path, tail(d.log.String(), 4000))
			for i, s := range d.board.Slots() {
				t.Logf("slot %d: %s %+v", i, s.State(), s.Stats())
			}
		}
	})
	return d
}

type lockedWriter struct {
	mu *sync.Mutex
	w  *bytes.Buffer
}

func (l *lockedWriter) Write(b []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.w.Write(b)
}

// plugged makes a device and plugs it.
func plugged(t *testing.T, port int, c board.Config) *device {
	t.Helper()
	d := newDevice(t, port, c)
	d.Plug()
	return d
}

// Plug plugs the device in and waits until the kernel knows it.
func (d *device) Plug() {
	d.t.Helper()
	run, err := usbip.Plug(d.port, d.board)
	if err != nil {
		d.t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- run(ctx) }()
	d.unplug = func() {
		stop()
		if err := <-ended; err != nil {
			d.t.Errorf("device %s: %v", d.path, err)
		}
	}
	eventually(d.t, "device is configured", func() error {
		_, err := os.Stat(filepath.Join(d.sysfs(), d.path+":1.0"))
		return err
	})
}

func (d *device) sysfs() string { return "/sys/bus/usb/devices/" + d.path }

// Unplug unplugs the device, if it is plugged, and waits until the kernel has noticed.
func (d *device) Unplug() {
	d.t.Helper()
	if d.unplug == nil {
		return
	}
	d.unplug()
	d.unplug = nil
	eventually(d.t, "device has gone", func() error {
		if _, err := os.Stat(d.sysfs()); !errors.Is(err, os.ErrNotExist) {
			return fmt.Errorf("%s is there: %v", d.sysfs(), err)
		}
		return nil
	})
}

// do has modem i do something with its SIM, in the test's goroutine.
func (d *device) do(i int, f func(ctx context.Context, t *modem.Terminal)) {
	d.t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*soon) // f may be hundreds of commands
	defer cancel()
	if err := d.modems[i].Do(ctx, f); err != nil {
		d.t.Fatalf("modem %d of %s: %v", i, d.path, err)
	}
}

// begin has modem i do something with its SIM meanwhile, and returns what waits for its end.
func (d *device) begin(i int, f func(ctx context.Context, t *modem.Terminal) error) (wait func() error) {
	done := make(chan error, 1)
	go func() {
		ctx, cancel := context.WithTimeout(context.Background(), soon)
		defer cancel()
		var err error
		if e := d.modems[i].Do(ctx, func(ctx context.Context, t *modem.Terminal) { err = f(ctx, t) }); e != nil && err == nil {
			err = e
		}
		done <- err
	}()
	return func() error { return <-done }
}

// ask has modem i send a command and compares the response. After a fault the modem resets the card.
func (d *device) ask(i int, command, want []byte) (wait func() error) {
	return d.begin(i, func(ctx context.Context, t *modem.Terminal) error {
		x, err := t.Transmit(ctx, command)
		if err == nil && !bytes.Equal(x.Response, want) {
			return fmt.Errorf("command %x is answered %x, want %x", command, x.Response, want)
		}
		if err != nil {
			_, _ = t.WarmReset(ctx)
		}
		return err
	})
}

// operational waits until modem i uses the SIM of a bankd.
func (d *device) operational(i int) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("modem %d of %s has the remote SIM", i, d.path), func() error {
		if s := d.modems[i].State(); !bytes.Equal(s.ATR, softATR()) || !s.Idle {
			return fmt.Errorf("%+v, slot %s", s, d.board.Slots()[i].State())
		}
		return nil
	})
}

// local waits until modem i uses its own SIM.
func (d *device) local(i int) {
	d.t.Helper()
	eventually(d.t, fmt.Sprintf("modem %d of %s has its local SIM", i, d.path), func() error {
		s := d.modems[i].State()
		if slot := d.board.Slots()[i]; !s.Local || !s.Idle || slot.Remote() || slot.Present() {
			return fmt.Errorf("%+v, remote %v, present %v", s, slot.Remote(), slot.Present())
		}
		return nil
	})
}

func softATR() []byte { return softsim.New(simulator.Profile(0)).ATR() }

// A twin is a card as one of the bankd's, which is asked directly.
type twin struct{ card *softsim.Card }

func newTwin(i int) twin { return twin{softsim.New(simulator.Profile(i))} }

func (w twin) Transmit(_ context.Context, command []byte) (modem.Exchange, error) {
	b, err := w.card.Transmit(command, make([]byte, 0, 258))
	return modem.Exchange{Command: command, Response: append([]byte(nil), b...)}, err
}

// expected returns the script with what card i, new and just switched on, answers to each of its commands, repeated until they and what
// follows them are n; and how many they are.
func expected(t *testing.T, i int, s modem.Script, n int) (modem.Script, int) {
	t.Helper()
	card := newTwin(i)
	var full modem.Script
	count := 0
	for count < n {
		for _, step := range s.Steps {
			all, response, err := modem.Follow(t.Context(), card, step.Command)
			if err != nil {
				t.Fatal(err)
			}
			step.Want = fmt.Sprintf("%x", response)
			full.Steps = append(full.Steps, step)
			count += len(all)
		}
	}
	return full, count
}

// play plays a script on modem i and returns what the commands took.
func (d *device) play(i int, s modem.Script) (took []time.Duration) {
	d.t.Helper()
	d.do(i, func(ctx context.Context, t *modem.Terminal) {
		failed, err := t.Play(ctx, s, func(r modem.Result) {
			if r.Err != nil {
				d.t.Errorf("modem %d of %s: %v", i, d.path, r.Err)
			}
			for _, x := range r.Exchanges {
				took = append(took, x.Took)
			}
		})
		if err != nil || failed > 0 {
			d.t.Errorf("modem %d of %s: %d steps of %d failed: %v", i, d.path, failed, len(s.Steps), err)
		}
	})
	return took
}
