// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"os/signal"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/sirupsen/logrus"
	"golang.org/x/sys/unix"
)

// A Manager is the service manager that has started the program, told by sd_notify(3) how it is. Methods of a nil
// one do nothing.
type Manager struct {
	addr     *net.UnixAddr
	watchdog time.Duration // within which a sign of life must come; 0: none is wanted
	log      *logrus.Entry

	mu     sync.Mutex
	socket *net.UnixConn // connected to addr; nil: it has to be
}

// statusEvery is how often the manager is told how the program stands, if that is news.
const statusEvery = 5 * time.Second

// Managed returns the service manager that the environment names: NOTIFY_SOCKET, a path or an abstract name that begins with @, and
// WATCHDOG_USEC with WATCHDOG_PID. It takes the variables out, so that event scripts don't speak in the program's name.
// Nil: there is none.
func Managed(log *logrus.Logger) *Manager {
	addr, usec, pid := os.Getenv("NOTIFY_SOCKET"), os.Getenv("WATCHDOG_USEC"), os.Getenv("WATCHDOG_PID")
	for _, name := range []string{"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"} {
		os.Unsetenv(name)
	}
	if addr == "" {
		return nil
	}
	m := &Manager{log: log.WithField("cat", "DMAIN"), addr: &net.UnixAddr{Name: addr, Net: "unixgram"}}
	if err := m.connect(); err != nil {
		m.log.WithError(err).Warn("the service manager isn't told anything")
		return nil
	}
	if pid != "" && pid != strconv.Itoa(os.Getpid()) {
		return m // the watchdog is another process's
	}
	if n, err := strconv.ParseInt(usec, 10, 64); err == nil && n > 0 {
		m.watchdog = time.Duration(n) * time.Microsecond
	} else if usec != "" {
		m.log.WithField("WATCHDOG_USEC", usec).Warn("no watchdog: want a number of microseconds")
	}
	return m
}

// tellTimeout is how long the manager has to take a message. One that hangs with a full queue mustn't keep the program from ending.
const tellTimeout = time.Second

// tell sends assignments.
func (m *Manager) tell(lines ...string) {
	if m == nil {
		return
	}
	if err := m.send([]byte(strings.Join(lines, "\n"))); err != nil {
		m.log.WithError(err).Warn("the service manager wasn't told")
	}
}

// send sends a message over the socket there is, as a program that has no descriptors left had better not be taken for dead; over a
// new one when the manager has made its own anew.
func (m *Manager) send(message []byte) error {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.socket != nil {
		err := m.write(message)
		if err == nil || errors.Is(err, os.ErrDeadlineExceeded) {
			return err
		}
		m.socket.Close()
		m.socket = nil
	}
	if err := m.connect(); err != nil {
		return err
	}
	return m.write(message)
}

func (m *Manager) connect() (err error) {
	m.socket, err = net.DialUnix("unixgram", nil, m.addr)
	return err
}

func (m *Manager) write(message []byte) error {
	_ = m.socket.SetWriteDeadline(time.Now().Add(tellTimeout)) // of a closed one Write says so
	_, err := m.socket.Write(message)
	return err
}

// Follow tells the manager that the program is started, and how it is until ctx ends; that it is stopping then is the
// last thing. All loops of h are asked every 5 s, or half of the watchdog's time if that is less, and it isn't told of life
// when one of them doesn't answer within that: when that lasts for the watchdog's time, the manager ends the program.
func (m *Manager) Follow(ctx context.Context, h Health) {
	if m == nil {
		return
	}
	m.tell("READY=1")
	every := statusEvery
	if m.watchdog > 0 {
		every = min(every, m.watchdog/2)
	}
	tick := time.NewTicker(every)
	defer tick.Stop()
	said, stuck := "", false
	// Who asks for the status may come to need what is stuck.
	answer, asking := make(chan string, 1), false
	for {
		if stuck = m.feed(ctx, h, every, stuck); !stuck && !asking {
			asking = true
			go func() { answer <- "STATUS=" + strings.ReplaceAll(h.Status(), "\n", "; ") }()
		}
		for waits := true; waits; {
			select {
			case now := <-answer:
				asking = false
				if now != said {
					said = now
					m.tell(said)
				}
			case <-tick.C:
				waits = false
			case <-ctx.Done():
				m.tell("STOPPING=1", "STATUS=stopping")
				return
			}
		}
	}
}

var errSilent = errors.New("no sign of life")

// feed tells the watchdog, if there is one, that the program lives if its loops do, and returns whether one doesn't, as was stuck
// at the last time.
func (m *Manager) feed(ctx context.Context, h Health, within time.Duration, stuck bool) bool {
	asking, cancel := context.WithTimeoutCause(ctx, within, errSilent)
	defer cancel()
	err := h.Alive(asking)
	switch {
	case err == nil:
		if m.watchdog > 0 {
			m.tell("WATCHDOG=1")
		}
		if stuck {
			m.log.Info("all loops answer again")
		}
	case ctx.Err() != nil:
		return stuck
	case !stuck:
		m.log.WithError(err).WithField("watchdog", m.watchdog).Error("a loop is stuck: the service manager isn't told of life")
	}
	return err != nil
}

// Reloads returns a channel that has an element for each SIGHUP until ctx ends. The manager is told that the
// program reads its files again; when that is done, Reloaded is to be called.
func (m *Manager) Reloads(ctx context.Context) <-chan os.Signal {
	hup, out := make(chan os.Signal, 1), make(chan os.Signal)
	signal.Notify(hup, syscall.SIGHUP)
	go func() {
		defer signal.Stop(hup)
		for {
			select {
			case s := <-hup:
				m.reloading()
				select {
				case out <- s:
				case <-ctx.Done():
					return
				}
			case <-ctx.Done():
				return
			}
		}
	}()
	return out
}

// reloading tells that SIGHUP has come, with the time as Type=notify-reload wants it.
func (m *Manager) reloading() {
	if usec, err := monotonicUsec(); err == nil {
		m.tell("RELOADING=1", fmt.Sprintf("MONOTONIC_USEC=%d", usec))
	}
}

// monotonicUsec returns the time of CLOCK_MONOTONIC in microseconds.
func monotonicUsec() (int64, error) {
	var now unix.Timespec
	err := unix.ClockGettime(unix.CLOCK_MONOTONIC, &now)
	return now.Nano() / 1000, err
}

// Reloaded tells the manager that the program has read its files again, whether they were right or not.
func (m *Manager) Reloaded() { m.tell("READY=1") }
