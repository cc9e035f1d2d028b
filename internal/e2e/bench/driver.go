// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"fmt"
	"time"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
)

// host starts a pcscd with the driver and with readers for so many clients, from number first up.
func (b *bench) host(first, n int) (*rig.Host, *rig.Proc, error) {
	dir, err := b.dir()
	if err != nil {
		return nil, nil, err
	}
	h := &rig.Host{Dir: dir}
	for i := range n {
		h.Reader(b.bin, "Remote", fmt.Sprintf("%d:0:127.0.0.1:9998", first+i))
	}
	p, err := h.Start()
	if err == nil {
		b.started = append(b.started, p)
	}
	return h, p, err
}

// An applicant is an application of a card in a remote reader.
type applicant struct{ application.App }

// applicant starts an application that is connected to the i-th reader of h.
func (b *bench) applicant(h *rig.Host, i int) (a applicant, err error) {
	if a.App, err = application.Start("application", h.Socket()); err != nil {
		return a, err
	}
	b.started = append(b.started, a)
	reader := fmt.Sprintf("Remote %02X 00", i)
	for known, end := uint32(0), time.Now().Add(ready); known&application.Present == 0; {
		reply, err := a.ask(application.Request{Call: application.Await, Reader: reader, State: known, Timeout: time.Until(end)})
		if err != nil {
			return a, err
		}
		known = reply.State
	}
	_, err = a.ask(application.Request{Call: application.Connect, Reader: reader})
	return a, err
}

func (a applicant) ask(r application.Request) (application.Reply, error) {
	reply, err := a.Ask(2*ready, r)
	if err == nil {
		err = reply.Err()
	}
	return reply, err
}

// refused sends n commands that are none, which the driver sends to nobody.
func (a applicant) refused(n int) (series, error) {
	reply, err := a.Ask(2*ready, application.Request{Call: application.Transmit, Data: selectMF[:3], Count: n})
	if err == nil && reply.Code != application.ErrNotTransacted {
		err = fmt.Errorf("a command of 3 bytes: code %#x", uint32(reply.Code))
	}
	return reply.Times, err
}

// exchange sends n commands, and returns how long each took the application.
func (a applicant) exchange(n int) (series, error) {
	reply, err := a.ask(application.Request{Call: application.Transmit, Data: selectMF, Count: n})
	if err == nil {
		err = check(reply.Data)
	}
	return reply.Times, err
}

// driver starts a pcscd with a reader for client i, and an application of it.
func (b *bench) driver(i int) (a applicant, err error) {
	h, _, err := b.host(i, 1)
	if err != nil {
		return a, err
	}
	return b.applicant(h, 0)
}

// hosts measures what pcscd takes with the driver, of memory and threads.
func (b *bench) hosts() error {
	if _, err := b.startServer(); err != nil {
		return err
	}
	if err := b.startBankd(newAPI()); err != nil {
		return err
	}
	rows := [][]string{{"pcscd", "memory", "threads", "descriptors"}}
	row := func(what string, p *rig.Proc) error {
		u, err := rig.UsageOf(p)
		rows = append(rows, []string{what, fmt.Sprintf("%.1f MB", float64(u.RSS)/1024), fmt.Sprint(u.Threads), fmt.Sprint(u.Descriptors)})
		return err
	}
	for n := range 3 {
		h, p, err := b.host(softSlot, n)
		if err != nil {
			return err
		}
		var users []applicant
		for i := range n {
			a, err := b.applicant(h, i)
			if err != nil {
				return err
			}
			users = append(users, a)
		}
		what := map[int]string{0: "without a reader", 1: "with a remote card", 2: "with two remote cards"}[n]
		if err := row(what, p); err != nil {
			return err
		}
		for _, a := range users {
			if _, err := a.exchange(*samples); err != nil {
				return err
			}
		}
		if n > 0 {
			if err := row(fmt.Sprintf("%s, after %d commands", what, *samples), p); err != nil {
				return err
			}
		}
		p.Kill()
	}
	table(b.out, rows...)
	fmt.Fprint(b.out, "Each card has an application that is connected to it, for which pcscd has a thread and a descriptor.\n\n")
	return nil
}
