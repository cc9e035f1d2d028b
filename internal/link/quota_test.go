// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

// Nobody can fill the log with messages out of place.
func TestStrays(t *testing.T) {
	for name, m := range map[string]rspro.Message{
		"reported by the Conn": &rspro.ResetStateRes{},
		"reported by Handle":   &rspro.ResetStateReq{},
	} {
		in(t, name, func(t *testing.T) {
			b := newBench(t, link.Options{Listener: true, Handle: func(c *link.Conn, p rspro.PDU) { c.Stray(p, "unexpected") }})
			send := func(n int) {
				pdus := make([]rspro.PDU, n)
				for i := range pdus {
					pdus[i] = rspro.PDU{Version: rspro.Version, Msg: m}
				}
				b.peer.Write(testnet.Frames(t, pdus...))
				synctest.Wait()
			}
			send(99)
			time.Sleep(time.Minute)
			send(99) // another minute
			select {
			case err := <-b.ended:
				t.Fatalf("Run returned %v after 99 a minute", err)
			default:
			}
			if !b.logged(logrus.WarnLevel, m.Choice().String()) {
				t.Error("no log line names the message")
			}
			send(500)
			b.wantEnd(link.ErrStrays, time.Minute)
			if n := len(b.log.AllEntries()); n != 199 {
				t.Errorf("%d log lines, want 199", n)
			}
		})
	}
}

// What a peer may tell as often as it likes has some lines a minute, and a count of the others.
func TestQuota(t *testing.T) {
	in(t, "", func(t *testing.T) {
		b := newBench(t, link.Options{Listener: true, Handle: func(c *link.Conn, p rspro.PDU) {
			c.Quota(c.Log().WithField("slot", "B1:2")).Warn("trouble")
		}})
		lines := func() (trouble, unknown int, leftOut []any) {
			synctest.Wait()
			for _, e := range b.log.AllEntries() {
				switch {
				case e.Message == "trouble" && e.Data["slot"] == "B1:2":
					trouble++
				case e.Data["lines"] != nil:
					leftOut = append(leftOut, e.Data["lines"])
				default:
					unknown++
				}
			}
			b.log.Reset()
			return trouble, unknown, leftOut
		}
		want := func(trouble, unknown int, leftOut ...any) {
			t.Helper()
			gt, gu, gl := lines()
			if gt != trouble || gu != unknown || len(gl) != len(leftOut) || len(gl) > 0 && gl[0] != leftOut[0] {
				t.Errorf("%d troubles, %d unknown messages, left out %v; want %d, %d, %v", gt, gu, gl, trouble, unknown, leftOut)
			}
		}
		send := func(n int, m rspro.Message) {
			for range n {
				b.peer.Send(m)
			}
		}
		strange := &rspro.Unknown{Number: 99, Body: []byte{5, 0}, Constructed: true}
		send(300, strange)
		send(1000, &rspro.ErrorInd{})
		want(900, 300)
		time.Sleep(time.Minute)
		send(1, &rspro.ErrorInd{})
		want(1, 0, 100)
		send(1209, strange)
		b.peer.Send(&rspro.ErrorInd{})
		b.peer.Close()
		want(0, 1199, 11)
	})
}
