// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
)

// A manager is the other end of a Manager: what it is told, one message each.
type manager struct {
	t    *testing.T
	conn *net.UnixConn
}

// listen returns a manager at a new socket, whose name is that of a file or, with @ before it, an abstract one.
func listen(t *testing.T, abstract bool) (m *manager, addr string) {
	t.Helper()
	addr = filepath.Join(t.TempDir(), "notify")
	if abstract {
		addr = "@" + addr
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	return &manager{t, conn}, addr
}

// next returns the next message, or nothing when none comes in time.
func (m *manager) next(within time.Duration) string {
	m.t.Helper()
	m.conn.SetReadDeadline(time.Now().Add(within))
	b := make([]byte, 1024)
	n, err := m.conn.Read(b)
	if err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
		m.t.Fatal(err)
	}
	return string(b[:n])
}

// want checks what comes next.
func (m *manager) want(messages ...string) {
	m.t.Helper()
	for _, want := range messages {
		if got := m.next(30 * time.Second); got != want {
			m.t.Fatalf("told %q, want %q", got, want)
		}
	}
}

func managed(t *testing.T, addr, watchdog, pid string) *Manager {
	t.Helper()
	t.Setenv("NOTIFY_SOCKET", addr)
	t.Setenv("WATCHDOG_USEC", watchdog)
	t.Setenv("WATCHDOG_PID", pid)
	log := logrus.New()
	log.SetOutput(io.Discard)
	m := Managed(log)
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		if v, ok := os.LookupEnv(name); ok {
			t.Errorf("%s=%s is left to event scripts", name, v)
		}
	}
	return m
}

// A program's life as its manager is told of it, in order, by a socket that is a file or has an abstract name.
func TestFollow(t *testing.T) {
	for _, abstract := range []bool{false, true} {
		t.Run(fmt.Sprint("abstract=", abstract), func(t *testing.T) {
			to, addr := listen(t, abstract)
			m := managed(t, addr, "", "")
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			reloads := m.Reloads(ctx)
			var all sync.WaitGroup
			all.Go(func() {
				m.Follow(ctx, Health{Status: func() string { return "7 peers\nand more" }})
			})
			to.want("READY=1", "STATUS=7 peers; and more")

			before := monotonic(t)
			syscall.Kill(os.Getpid(), syscall.SIGHUP)
			if s := <-reloads; s != syscall.SIGHUP {
				t.Errorf("reload by %v", s)
			}
			first, usec, _ := strings.Cut(to.next(30*time.Second), "\nMONOTONIC_USEC=")
			at, err := strconv.ParseInt(usec, 10, 64)
			if after := monotonic(t); err != nil || first != "RELOADING=1" || at < before || at > after {
				t.Errorf("told %q at %s, %v; it was between %d and %d", first, usec, err, before, after)
			}
			m.Reloaded()
			to.want("READY=1")

			cancel()
			all.Wait()
			to.want("STOPPING=1\nSTATUS=stopping")
		})
	}
}

// A manager that takes nothing any more doesn't keep the program from ending.
func TestManagerHangs(t *testing.T) {
	_, addr := listen(t, false)
	m := managed(t, addr, "", "")
	c, err := net.DialUnix("unixgram", nil, m.addr)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	for err == nil {
		c.SetWriteDeadline(time.Now().Add(50 * time.Millisecond))
		if _, err = c.Write([]byte("STATUS=more")); err != nil && !errors.Is(err, os.ErrDeadlineExceeded) {
			t.Fatal(err)
		}
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		m.Follow(ctx, Health{Status: func() string { return "" }})
	}()
	select {
	case <-ended:
	case <-time.After(30 * time.Second):
		t.Error("it waits for its manager")
	}
}

// A manager that has begun anew, at a socket of the same name, is told what comes.
func TestManagerAnew(t *testing.T) {
	first, addr := listen(t, false)
	m := managed(t, addr, "", "")
	m.tell("STATUS=first")
	first.want("STATUS=first")
	first.conn.Close()
	m.tell("STATUS=nobody") // is logged
	if err := os.Remove(addr); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	m.tell("STATUS=second")
	(&manager{t, conn}).want("STATUS=second")
}

// A program that has no descriptors left, such as a server with too many peers, tells that it lives.
func TestManagerNoDescriptors(t *testing.T) {
	to, addr := listen(t, false)
	m := managed(t, addr, "", "")
	var limit syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	none := limit
	none.Cur = 0
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &none); err != nil {
		t.Fatal(err)
	}
	m.tell("WATCHDOG=1")
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &limit); err != nil {
		t.Fatal(err)
	}
	to.want("WATCHDOG=1")
}

func monotonic(t *testing.T) int64 {
	t.Helper()
	n, err := monotonicUsec()
	if err != nil {
		t.Fatal(err)
	}
	return n
}

// The watchdog is fed as long as all loops answer, not while one is stuck, and again afterwards.
func TestWatchdog(t *testing.T) {
	const within = 200 * time.Millisecond
	to, addr := listen(t, false)
	m := managed(t, addr, strconv.Itoa(int(within.Microseconds())), strconv.Itoa(os.Getpid()))
	var mu sync.Mutex
	var asked atomic.Int32
	ctx, cancel := context.WithCancel(t.Context())
	var all sync.WaitGroup
	defer all.Wait()
	defer cancel()
	all.Go(func() {
		m.Follow(ctx, Health{
			Loops: []Loop{
				Mutex("held", &mu),
				{"counted", func(context.Context) error { asked.Add(1); return nil }},
			},
			Status: func() string { mu.Lock(); defer mu.Unlock(); return "well" },
		})
	})
	to.want("READY=1", "WATCHDOG=1")
	for told := map[string]int{}; told["STATUS=well"] == 0 || told["WATCHDOG=1"] < 3; {
		if told[to.next(30*time.Second)]++; told[""] > 0 {
			t.Fatalf("told %v and then nothing", told)
		}
	}

	mu.Lock()
	waitAsked := func(more int32) {
		t.Helper()
		end := time.Now().Add(time.Minute)
		for until := asked.Load() + more; asked.Load() < until; time.Sleep(within / 10) {
			if time.Now().After(end) {
				t.Fatal("the loops aren't asked any more")
			}
		}
	}
	waitAsked(2) // what was asked before the mutex was taken may still be told
	m.tell("MARK=1")
	for to.next(30*time.Second) != "MARK=1" {
	}
	waitAsked(5)
	m.tell("MARK=2")
	to.want("MARK=2")
	mu.Unlock()
	to.want("WATCHDOG=1", "WATCHDOG=1")
}

// A watchdog that isn't the process's, or no number, isn't fed; a manager that isn't there is no manager.
func TestManaged(t *testing.T) {
	_, addr := listen(t, false)
	for _, tt := range []struct {
		addr, usec, pid string
		watchdog        time.Duration
		none            bool
	}{
		{addr, "", "", 0, false},
		{addr, "2000000", "", 2 * time.Second, false},
		{addr, "2000000", strconv.Itoa(os.Getpid()), 2 * time.Second, false},
		{addr, "2000000", "1", 0, false},
		{addr, "0", "", 0, false},
		{addr, "-1", "", 0, false},
		{addr, "soon", "", 0, false},
		{"", "2000000", "", 0, true},
		{addr + ".none", "2000000", "", 0, true},
		{"@" + addr, "2000000", "", 0, true},
	} {
		m := managed(t, tt.addr, tt.usec, tt.pid)
		if tt.none != (m == nil) {
			t.Errorf("%q: manager %v", tt.addr, m)
		}
		if m != nil && m.watchdog != tt.watchdog {
			t.Errorf("WATCHDOG_USEC=%s WATCHDOG_PID=%s: %v, want %v", tt.usec, tt.pid, m.watchdog, tt.watchdog)
		}
	}
	var none *Manager
	none.Follow(t.Context(), Health{})
	none.Reloaded()
}

// All loops are asked at once, those that don't answer are named, and asking one again and again that is stuck leaves nothing behind.
func TestAlive(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		free, stuck := make(lock, 1), make(lock, 1)
		stuck.Lock()
		idle := make(chan struct{})
		h := Health{Loops: []Loop{Mutex("free", free), Mutex("stuck", stuck), Receiver("absent", idle), Mutex("free too", free)}}
		why := errors.New("too late")
		for range 10 {
			ctx, cancel := context.WithTimeoutCause(t.Context(), time.Second, why)
			err := h.Alive(ctx)
			cancel()
			if !errors.Is(err, why) {
				t.Fatal(err)
			}
			lines := strings.Split(err.Error(), "\n")
			if !slices.Equal(lines, []string{"stuck doesn't answer: too late", "absent doesn't answer: too late"}) {
				t.Fatalf("%q", lines)
			}
		}
		stuck.Unlock()
		go func() { <-idle }()
		if err := h.Alive(t.Context()); err != nil {
			t.Error(err)
		}
	})
}

// A lock is a mutex that virtual time goes on for.
type lock chan struct{}

func (l lock) Lock()   { l <- struct{}{} }
func (l lock) Unlock() { <-l }
