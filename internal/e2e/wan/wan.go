// SPDX-License-Identifier: GPL-2.0-or-later

// Package wan is a few computers far from each other, on this one: network namespaces, joined by a relay that delays
// packets, loses them or passes none, as it is told. The kernel needs no traffic control for that, only veth devices and packet
// sockets, which users have in user namespaces, too; a TUN device would be a file that others mayn't open everywhere.
package wan

import (
	"bytes"
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"runtime"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"
)

// A Quality is how packets from one host to another fare. The zero value is a perfect line.
type Quality struct {
	Cut   bool          // none arrives
	Delay time.Duration // until they arrive, in their order
	Loss  float64       // the part of them that doesn't, 0..1
}

// A Net is some hosts and what joins them, of which each has an address in 10.0.0.0/24. Nets are strangers to each other.
type Net struct {
	hosts   []*Host
	lines   [][]*line // from, to
	running sync.WaitGroup
	done    chan struct{}
	once    sync.Once
}

// A Host is a computer: a network namespace.
type Host struct {
	Addr string // such as 10.0.0.1

	ns   *os.File
	wire *os.File // a packet socket at the relay's end of its line
	name string   // of that device
}

// nets counts them, for the names of devices.
var nets atomic.Int32

// New makes so many hosts, at most 200. Whether a packet is lost follows from the seed. It takes namespaces of one's own, such as those of
// simulator.Isolate, with a /proc of theirs, and ip(8).
func New(seed uint64, hosts int) (n *Net, err error) {
	n = &Net{done: make(chan struct{})}
	number := nets.Add(1)
	for i := range hosts {
		h := &Host{Addr: fmt.Sprintf("10.0.0.%d", i+1), name: fmt.Sprintf("wan%d-%d", number, i)}
		n.hosts = append(n.hosts, h)
		if err = h.build(hosts); err != nil {
			n.Close()
			return nil, fmt.Errorf("wan: %w", err)
		}
	}
	for i := range hosts {
		n.lines = append(n.lines, nil)
		for j, to := range n.hosts {
			l := newLine(seed+uint64(i*hosts+j), to.wire)
			n.lines[i] = append(n.lines[i], l)
			n.running.Go(func() { l.run(n.done) })
		}
	}
	for i, h := range n.hosts {
		n.running.Go(func() { n.relay(h, n.lines[i]) })
	}
	return n, nil
}

// Host returns host i, from 0.
func (n *Net) Host(i int) *Host { return n.hosts[i] }

// Set makes the line between two hosts what q says, both ways.
func (n *Net) Set(a, b *Host, q Quality) {
	n.SetOneWay(a, b, q)
	n.SetOneWay(b, a, q)
}

// SetOneWay makes the line from one host to another what q says.
func (n *Net) SetOneWay(from, to *Host, q Quality) {
	n.lines[slices.Index(n.hosts, from)][slices.Index(n.hosts, to)].set(q)
}

// SetAll makes all lines what q says.
func (n *Net) SetAll(q Quality) {
	for _, lines := range n.lines {
		for _, l := range lines {
			l.set(q)
		}
	}
}

// Close ends all traffic. The hosts are there until all processes on them have ended.
func (n *Net) Close() {
	n.once.Do(func() {
		close(n.done)
		for _, h := range n.hosts {
			for _, f := range []*os.File{h.wire, h.ns} {
				if f != nil {
					f.Close()
				}
			}
		}
		n.running.Wait()
	})
}

// mac is the hardware address of host i. The first byte is that of addresses nobody has given.
func mac(i int) net.HardwareAddr { return net.HardwareAddr{2, 0, 0, 0, 0, byte(i)} }

// build makes the namespace and its line to the relay. Hosts know each other's hardware addresses: who is far away isn't asked for it.
func (h *Host) build(hosts int) (err error) {
	var script strings.Builder
	i := int(net.ParseIP(h.Addr).To4()[3]) - 1
	fmt.Fprintf(&script, "link set lo up\nlink add eth0 address %s type veth peer name %s netns %d\n", mac(i), h.name, os.Getpid())
	fmt.Fprintf(&script, "address add %s/24 dev eth0\nlink set eth0 up\n", h.Addr)
	for j := range hosts {
		if j != i {
			fmt.Fprintf(&script, "neighbour add 10.0.0.%d lladdr %s nud permanent dev eth0\n", j+1, mac(j))
		}
	}
	err = apart(func() (err error) {
		if err = unix.Unshare(unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("make a network namespace: %w", err)
		}
		if h.ns, err = os.Open("/proc/thread-self/ns/net"); err != nil {
			return err
		}
		return ip(script.String())
	})
	if err == nil {
		err = ip(fmt.Sprintf("link set %s up\n", h.name))
	}
	if err == nil {
		h.wire, err = wire(h.name)
	}
	return err
}

// ip has ip(8) do what the lines of a script say, in the network of the present thread.
func ip(script string) error {
	path, err := exec.LookPath("ip")
	if err != nil {
		path = "/usr/sbin/ip" // not in the PATH of users
	}
	cmd := exec.Command(path, "-batch", "-")
	cmd.Stdin = strings.NewReader(script)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s -batch: %w: %s (it is in the package iproute2)", path, err, bytes.TrimSpace(out))
	}
	return nil
}

// wire opens a packet socket on a device. What is read and written is a packet with what is still to be done to it before it, by
// a virtual computer's network card: checksum, segmentation.
func wire(device string) (f *os.File, err error) {
	dev, err := net.InterfaceByName(device)
	if err != nil {
		return nil, err
	}
	fd, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW|unix.SOCK_NONBLOCK|unix.SOCK_CLOEXEC, 0)
	if err != nil {
		return nil, os.NewSyscallError("socket", err)
	}
	f = os.NewFile(uintptr(fd), device)
	for _, option := range []int{unix.PACKET_VNET_HDR, unix.PACKET_IGNORE_OUTGOING} {
		if err := unix.SetsockoptInt(fd, unix.SOL_PACKET, option, 1); err != nil {
			f.Close()
			return nil, os.NewSyscallError("setsockopt", err)
		}
	}
	all := uint16(unix.ETH_P_ALL<<8 | unix.ETH_P_ALL>>8) // in the network's order
	if err := unix.Bind(fd, &unix.SockaddrLinklayer{Protocol: all, Ifindex: dev.Index}); err != nil {
		f.Close()
		return nil, os.NewSyscallError("bind", err)
	}
	return f, nil
}

// Do calls f on a thread that is on the host: what f starts runs there, and what it opens is of there.
func (h *Host) Do(f func() error) error {
	return apart(func() error {
		if err := unix.Setns(int(h.ns.Fd()), unix.CLONE_NEWNET); err != nil {
			return fmt.Errorf("wan: enter %s: %w", h.Addr, err)
		}
		return f()
	})
}

// apart calls f on a thread that ends with that. It isn't the first one, whose namespaces are those of the process to others.
func apart(f func() error) error {
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread()
		if unix.Gettid() == os.Getpid() {
			defer runtime.UnlockOSThread()
			done <- apart(f) // elsewhere, as this one is taken
			return
		}
		done <- f() // and it stays locked
	}()
	return <-done
}

// DialContext connects from the host to an address.
func (h *Host) DialContext(ctx context.Context, network, addr string) (c net.Conn, err error) {
	err = h.Do(func() (err error) {
		c, err = new(net.Dialer).DialContext(ctx, network, addr)
		return err
	})
	return c, err
}
