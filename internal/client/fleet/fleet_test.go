// SPDX-License-Identifier: GPL-2.0-or-later

package fleet

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/simtrace"
	"remsim/internal/usb"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A world is a host with devices that come and go, and the clients of a Run there.
type world struct {
	t       *testing.T
	cfg     Config
	log     bytes.Buffer
	reload  chan os.Signal
	write   func(io.Writer) // the report
	end     context.CancelFunc
	ended   chan error
	began   time.Time
	leaving time.Duration // how long a client takes for its end

	mu      sync.Mutex
	devices []usb.Device
	err     error // of looking for devices
	address uint8
	refuse  error             // what clients fail with at once
	gone    map[uint16]func() // has a client see its device go
	served  map[uint16]string // what slots are served, where, and since when
	started map[uint16]int
}

func newWorld(t *testing.T, cfg Config) *world {
	return &world{
		t: t, cfg: cfg, reload: make(chan os.Signal, 1), ended: make(chan error, 1),
		gone: map[uint16]func(){}, served: map[uint16]string{}, started: map[uint16]int{},
	}
}

// run starts Run.
func (w *world) run() {
	ctx, cancel := context.WithCancel(w.t.Context())
	w.end, w.began = cancel, time.Now()
	log := logrus.New()
	log.Out, log.Level = &w.log, logrus.InfoLevel
	log.Formatter = &logrus.TextFormatter{DisableTimestamp: true}
	env := Env{
		Log: log, Reload: w.reload,
		Devices: func() ([]usb.Device, error) {
			w.mu.Lock()
			defer w.mu.Unlock()
			return slices.Clone(w.devices), w.err
		},
		Serve:    w.serve,
		OnReport: func(_ context.Context, write func(io.Writer)) { w.write = write },
	}
	go func() { w.ended <- Run(ctx, w.cfg, env) }()
	synctest.Wait()
}

// serve is a client.
func (w *world) serve(ctx context.Context, s Seat) error {
	lost, lose := context.WithCancel(context.Background())
	defer lose()
	w.mu.Lock()
	w.started[s.Slot]++
	if w.refuse != nil {
		defer w.mu.Unlock()
		return w.refuse
	}
	if other, twice := w.served[s.Slot]; twice {
		w.t.Errorf("slot %d is served twice: %s", s.Slot, other)
	}
	where := fmt.Sprintf("%s/%d@%d", s.Target.Device.Path, s.Target.Interface.Number, s.Target.Device.Address)
	for n, other := range w.served {
		if where == other {
			defer w.mu.Unlock()
			return fmt.Errorf("slot %d has %s", n, where)
		}
	}
	w.served[s.Slot] = where
	w.gone[s.Slot] = lose
	w.mu.Unlock()
	s.OnReport(ctx, func(out io.Writer) { fmt.Fprintln(out, "client", s.Slot) })
	var err error
	select {
	case <-ctx.Done():
		time.Sleep(w.leaving)
		err = context.Cause(ctx)
	case <-lost.Done():
		err = fmt.Errorf("lost: %w", usb.ErrGone)
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	delete(w.served, s.Slot)
	return err
}

// plug plugs a device in that has cardem interfaces of these numbers.
func (w *world) plug(path, serial string, interfaces ...uint8) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.address++
	d := usb.Device{Path: path, Bus: 1, Address: w.address, Vendor: 0x1d50, Product: 0x4004, Serial: serial, Active: 1}
	for _, n := range interfaces {
		d.Interfaces = append(d.Interfaces, usb.Interface{
			Config: 1, Number: n, Class: simtrace.InterfaceClass, Subclass: simtrace.InterfaceCardem,
			Endpoints: []usb.Endpoint{{Address: 4, Transfer: 2, MaxPacket: 64}, {Address: 0x85, Transfer: 2, MaxPacket: 64}, {Address: 0x86, Transfer: 3, MaxPacket: 64}},
		})
	}
	w.devices = append(w.devices, d)
}

// unplug pulls a device out; its clients notice.
func (w *world) unplug(path string, slots ...uint16) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.devices = slices.DeleteFunc(w.devices, func(d usb.Device) bool { return d.Path == path })
	for _, n := range slots {
		w.gone[n]()
	}
}

// set changes the world.
func (w *world) set(change func()) {
	w.mu.Lock()
	defer w.mu.Unlock()
	change()
}

// starts returns how often the client of a slot was started.
func (w *world) starts(slot uint16) int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.started[slot]
}

// serves checks what is served now: "slot path/interface@address".
func (w *world) serves(want ...string) {
	w.t.Helper()
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	var got []string
	for n, where := range w.served {
		got = append(got, fmt.Sprint(n, " ", where))
	}
	slices.Sort(got)
	if !slices.Equal(got, want) {
		w.t.Errorf("%v after the start: served %q, want %q; log:\n%s", time.Since(w.began), got, want, &w.log)
	}
}

// after checks the same within the time that may pass until something that came is served.
func (w *world) after(want ...string) {
	w.t.Helper()
	time.Sleep(lookEvery)
	w.serves(want...)
}

func (w *world) stop() {
	w.t.Helper()
	w.end()
	if err := <-w.ended; !errors.Is(err, context.Canceled) {
		w.t.Errorf("Run returned %v", err)
	}
	w.serves()
}

func (w *world) says(want string, times int) {
	w.t.Helper()
	synctest.Wait()
	if got := strings.Count(w.log.String(), want); got != times {
		w.t.Errorf("%q stands %d times in the log, want %d:\n%s", want, got, times, &w.log)
	}
}

func TestAllSlots(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.plug("2-1.4", "bb", 0, 1)
		w.plug("1-2", "", 0)
		w.run()
		w.serves("0 1-2/0@2", "1 2-1.4/0@1", "2 2-1.4/1@1")

		// A device with a lower path comes: nobody is renumbered.
		w.plug("1-1", "aa", 0)
		w.after("0 1-2/0@2", "1 2-1.4/0@1", "2 2-1.4/1@1", "3 1-1/0@3")
		// One goes, and no other client ends.
		w.unplug("2-1.4", 1, 2)
		w.after("0 1-2/0@2", "3 1-1/0@3")
		// It comes back elsewhere, and has its slots.
		w.plug("1-7", "bb", 0, 1)
		w.after("0 1-2/0@2", "1 1-7/0@4", "2 1-7/1@4", "3 1-1/0@3")
		if w.starts(0) != 1 || w.starts(3) != 1 {
			t.Errorf("started %v", w.started)
		}
		// Without a serial number the path is what counts.
		w.unplug("1-2", 0)
		w.plug("1-3", "", 0)
		w.after("1 1-7/0@4", "2 1-7/1@4", "3 1-1/0@3", "4 1-3/0@5")

		w.reload <- syscall.SIGHUP
		w.says("no slots file to be read again", 1)
		var report bytes.Buffer
		w.write(&report)
		const want = `4 slots are served
slot 1: -H 1-7 -I 0 (1d50:4004 sysmoQMOD, serial number bb)
client 1
slot 2: -H 1-7 -I 1 (1d50:4004 sysmoQMOD, serial number bb)
client 2
slot 3: -H 1-1 -I 0 (1d50:4004 sysmoQMOD, serial number aa)
client 3
slot 4: -H 1-3 -I 0 (1d50:4004 sysmoQMOD)
client 4
`
		if report.String() != want {
			t.Errorf("report:\n%s", &report)
		}
		w.stop()

		// The next start knows it all.
		w2 := newWorld(t, Config{StateDir: dir})
		w2.plug("9-1", "bb", 1)
		w2.plug("1-2", "", 0)
		w2.plug("1-9", "cc", 0)
		w2.run()
		w2.serves("0 1-2/0@2", "2 9-1/1@1", "5 1-9/0@3")
		w2.stop()
	})
}

// A device that was plugged anew between two looks is another one, and waits for the end of its slot's client.
func TestReplugged(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.leaving = 1500 * time.Millisecond
		w.plug("1-1", "aa", 0)
		w.plug("1-2", "bb", 0)
		w.run()
		time.Sleep(lookEvery / 2)
		w.unplug("1-1")
		w.plug("1-1", "aa", 0)
		time.Sleep(lookEvery/2 + w.leaving - time.Millisecond)
		w.serves("0 1-1/0@1", "1 1-2/0@2")
		time.Sleep(time.Millisecond)
		w.serves("0 1-1/0@3", "1 1-2/0@2")
		w.stop()
	})
}

// A device that is there and can't be served is tried again, ever less often, and said once.
func TestRetries(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.refuse = errors.New("busy")
		w.plug("1-1", "aa", 0)
		w.run()
		want := map[time.Duration]int{0: 1, 1: 2, 3: 3, 7: 4, 15: 5, 31: 6, 47: 7}
		n := 0
		for second := range time.Duration(50) {
			synctest.Wait()
			if m, ok := want[second]; ok {
				n = m
			}
			if got := w.starts(0); got != n {
				t.Errorf("second %d: %d attempts, want %d", second, got, n)
			}
			time.Sleep(time.Second)
		}
		w.says("slot isn't served: trying again", 1)
		w.set(func() { w.refuse = nil })
		time.Sleep(retryMax)
		w.serves("0 1-1/0@1")
		w.says("card emulator found", 1)

		// After it has held out it begins anew.
		time.Sleep(steady)
		w.unplug("1-1", 0)
		w.plug("1-1", "aa", 0)
		w.after("0 1-1/0@2")
		w.stop()
	})
}

// The client's device fails though it isn't unplugged.
func TestFails(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.plug("1-1", "aa", 0)
		w.run()
		w.set(w.gone[0])
		w.serves()
		w.after("0 1-1/0@1")
		w.stop()
	})
}

func TestSlotsFile(t *testing.T) {
	file := filepath.Join(t.TempDir(), "slots.csv")
	write := func(data string) {
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write("7,1-1,0\n8,serial:bb,1\n9,1-3,0\n")
		w := newWorld(t, Config{SlotsFile: file})
		w.plug("1-1", "aa", 0, 1)
		w.plug("1-2", "bb", 0, 1)
		w.run()
		w.serves("7 1-1/0@1", "8 1-2/1@2")
		w.says("isn't in the slots file", 2)
		w.after("7 1-1/0@1", "8 1-2/1@2")
		w.says("isn't in the slots file", 2)
		w.plug("1-3", "", 0)
		w.after("7 1-1/0@1", "8 1-2/1@2", "9 1-3/0@3")

		// A bad file changes nothing, a good one what has changed in it.
		write("7,1-1\n")
		w.reload <- syscall.SIGHUP
		w.after("7 1-1/0@1", "8 1-2/1@2", "9 1-3/0@3")
		w.says("slots.csv:1: 2 fields", 1)
		write("7,1-1,0\n8,1-1,1\n")
		w.reload <- syscall.SIGHUP
		w.after("7 1-1/0@1", "8 1-1/1@1")
		if n := w.starts(7); n != 1 {
			t.Errorf("slot 7 was started %d times", n)
		}
		// Two lines that mean one interface, by path and by serial number: the first counts.
		write("7,1-1,0\n8,serial:aa,0\n")
		w.reload <- syscall.SIGHUP
		w.after("7 1-1/0@1")
		w.stop()
	})
}

// An interface that has another slot now is served there as soon as the client of its old one has ended, and not tried before.
func TestMoved(t *testing.T) {
	file := filepath.Join(t.TempDir(), "slots.csv")
	write := func(data string) {
		if err := os.WriteFile(file, []byte(data), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	synctest.Test(t, func(t *testing.T) {
		write("7,1-1,0\n8,1-1,1\n")
		w := newWorld(t, Config{SlotsFile: file})
		w.leaving = 3500 * time.Millisecond
		w.plug("1-1", "aa", 0, 1)
		w.run()
		w.serves("7 1-1/0@1", "8 1-1/1@1")
		write("7,1-1,1\n9,1-1,0\n")
		w.reload <- syscall.SIGHUP
		time.Sleep(w.leaving - time.Millisecond)
		w.serves("7 1-1/0@1", "8 1-1/1@1")
		time.Sleep(time.Millisecond)
		w.serves("7 1-1/1@1", "9 1-1/0@1")
		w.says("slot isn't served", 0)
		w.stop()
	})
}

// Devices that are the same by their serial numbers are told apart by their paths.
func TestTwins(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.plug("1-2", "00", 0)
		w.plug("1-1", "00", 0)
		w.run()
		w.serves("0 1-1/0@2", "1 1-2/0@1")
		w.says("has the serial number of the device at 1-1", 1)
		w.after("0 1-1/0@2", "1 1-2/0@1")
		w.says("has the serial number of the device at 1-1", 1)
		w.stop()
	})
}

// What can't be used is said, once until it changes; no USB and devices that can't be listed are no end.
func TestUnfit(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, Config{StateDir: dir})
		w.err = usb.ErrNoUSB
		w.run()
		w.says("no USB here", 1)
		w.set(func() { w.err = nil })
		w.plug("1-1", "aa")
		w.plug("1-2", "bb", 0)
		w.set(func() { w.devices[1].Active = 0 }) // not ready yet
		w.after()
		w.says("no card emulation interface", 1)
		w.set(func() { w.devices[1].Active = 1 })
		w.after("0 1-2/0@2")
		w.set(func() { w.err = errors.New("look failed") })
		w.after("0 1-2/0@2")
		w.says("look failed", 1)
		w.stop()
	})
}

func TestStart(t *testing.T) {
	dir := t.TempDir()
	bad := filepath.Join(dir, "bad.csv")
	if err := os.WriteFile(bad, []byte("\n0,x,0\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for _, tc := range []struct {
		cfg  Config
		want string
	}{
		{Config{SlotsFile: filepath.Join(dir, "none.csv")}, "slots file: open "},
		{Config{SlotsFile: bad}, "bad.csv:2: USB path"},
		{Config{StateDir: filepath.Join(dir, "none")}, "state: open "},
	} {
		if err := Run(t.Context(), tc.cfg, Env{Log: logrus.New()}); err == nil || !strings.Contains(err.Error(), tc.want) {
			t.Errorf("%+v: %v, want %q", tc.cfg, err, tc.want)
		}
	}
}
