// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"time"

	"remsim/internal/bankd"
)

// A bank is one bankd of the swarm, which may be killed and started again.
type bank struct {
	s       *swarm
	id      uint16
	file    string // its slots
	net     network
	addr    netip.AddrPort // stays when it is started again
	cards   witnesses
	running atomic.Pointer[bankd.Running]
	kill    chan time.Duration // how long it is to be away
}

func newBank(s *swarm, id uint16, dir string) *bank {
	b := &bank{s: s, id: id, kill: make(chan time.Duration), file: filepath.Join(dir, fmt.Sprint(id))}
	b.net.meter = &s.meter
	return b
}

// listen takes a port, and writes the slots file.
func (b *bank) listen(ctx context.Context) error {
	var slots strings.Builder
	for nr := range b.s.Slots {
		fmt.Fprintf(&slots, "%d,%d,softsim:witness\n", b.id, nr)
	}
	if err := os.WriteFile(b.file, []byte(slots.String()), 0o600); err != nil {
		return err
	}
	ln, err := b.net.listen(ctx, netip.AddrPortFrom(b.s.Listen, b.addr.Port()).String())
	if err != nil {
		return err
	}
	b.addr = ln.Addr().(*net.TCPAddr).AddrPort()
	b.addr = netip.AddrPortFrom(b.addr.Addr().Unmap(), b.addr.Port())
	return nil
}

// up reports whether the server has accepted it.
func (b *bank) up() bool {
	r := b.running.Load()
	return r != nil && r.Stats().Server
}

// run keeps the bankd running until ctx ends.
func (b *bank) run(ctx context.Context) {
	defer b.net.close()
	for ctx.Err() == nil {
		life, cancel := context.WithCancel(ctx)
		ended := make(chan error, 1)
		go func() {
			ended <- bankd.Run(life, bankd.Config{
				Server: b.s.Server, BankID: b.id, NumSlots: uint16(b.s.Slots), Name: "swarm",
				Listen: b.addr.String(), Advertise: b.addr, SlotsFile: b.file, KeepAlive: b.s.KeepAlive,
			}, bankd.Env{
				Net: &b.net, Log: b.s.Peers, Readers: noReaders{}, Softsim: &b.cards,
				OnStart: func(_ context.Context, r bankd.Running) { b.running.Store(&r) },
			})
		}()
		var away time.Duration
		select {
		case away = <-b.kill:
			b.net.cutAll()
			cancel()
			<-ended
		case err := <-ended:
			if ctx.Err() == nil && !errors.Is(err, context.Canceled) {
				b.s.Log.WithError(err).WithField("bank", b.id).Error("bankd ended")
				away = time.Second
			}
		}
		cancel()
		b.running.Store(nil)
		select {
		case <-ctx.Done():
		case <-time.After(away):
		}
	}
}
