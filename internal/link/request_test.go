// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

// results notes what became of requests, in order.
type results struct {
	mu  sync.Mutex
	got []string
}

func (r *results) done(name string) func(rspro.Message, error) {
	return func(m rspro.Message, err error) {
		r.mu.Lock()
		defer r.mu.Unlock()
		if err != nil {
			r.got = append(r.got, name+": "+err.Error())
		} else {
			r.got = append(r.got, fmt.Sprintf("%s: %v", name, m.(rspro.Response).ResultCode()))
		}
	}
}

func (r *results) list() []string {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.got)
}

func (r *results) want(t *testing.T, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := r.list(); !slices.Equal(got, want) {
		t.Errorf("got %q, want %q", got, want)
	}
}

func TestRequest(t *testing.T) {
	create, remove := &rspro.CreateMappingReq{Client: client, Bank: bank}, &rspro.RemoveMappingReq{Client: client, Bank: bank}
	res := func(tag int32, m rspro.Message) rspro.PDU { return rspro.PDU{Version: 2, Tag: tag, Msg: m} }
	// three requests, with tags 1 to 3
	three := func(t *testing.T) (*bench, *results) {
		b, r := newBench(t, link.Options{Handle: func(_ *link.Conn, p rspro.PDU) { t.Errorf("handed out %v", p.Msg.Choice()) }}), new(results)
		b.conn.Request(create, 0, r.done("1"))
		b.conn.Request(remove, 0, r.done("2"))
		b.conn.Request(create, 0, r.done("3"))
		for k, c := range []rspro.Choice{create.Choice(), remove.Choice(), create.Choice()} {
			if p := b.peer.Expect(c); p.Tag != int32(k+1) {
				t.Errorf("request %d has tag %d", k+1, p.Tag)
			}
		}
		return b, r
	}
	in(t, "by tag", func(t *testing.T) {
		b, r := three(t)
		b.peer.SendPDU(
			res(3, &rspro.CreateMappingRes{Result: rspro.IllegalSlotID}),
			res(2, &rspro.RemoveMappingRes{Result: rspro.UnknownSlotmap}),
			res(1, &rspro.CreateMappingRes{}))
		r.want(t, "3: illegalSlotId", "2: unknownSlotmap", "1: ok")
	})
	in(t, "by order, as C programs answer", func(t *testing.T) {
		b, r := three(t)
		b.peer.Send(&rspro.RemoveMappingRes{Result: rspro.UnknownSlotmap})
		b.peer.Send(&rspro.CreateMappingRes{Result: rspro.IllegalSlotID})
		b.peer.Send(&rspro.CreateMappingRes{})
		r.want(t, "2: unknownSlotmap", "1: illegalSlotId", "3: ok")
	})
	in(t, "tag 2342 is nobody's", func(t *testing.T) {
		b, r := three(t)
		b.peer.SendPDU(res(2342, &rspro.CreateMappingRes{}))
		r.want(t, "1: ok")
	})
	in(t, "unsolicited", func(t *testing.T) {
		b, r := three(t)
		b.peer.SendPDU(
			res(2, &rspro.CreateMappingRes{}),  // tag of another type
			res(0, &rspro.SetAtrRes{}),         // type of no request
			res(1, &rspro.ConfigClientIDRes{}), // both
			res(2, &rspro.RemoveMappingRes{}),
			res(2, &rspro.RemoveMappingRes{}), // again
			res(0, &rspro.RemoveMappingRes{})) // and again
		r.want(t, "2: ok")
		if !b.logged(logrus.WarnLevel, "message=setAtrRes") || !b.logged(logrus.WarnLevel, "tag=2") {
			t.Error("no log line names message and tag")
		}
		// The connection goes on.
		b.peer.SendPDU(res(1, &rspro.CreateMappingRes{}))
		r.want(t, "2: ok", "1: ok")
	})
	in(t, "too late", func(t *testing.T) {
		b, r := newBench(t, link.Options{}), new(results)
		b.conn.Request(create, 5*time.Second, r.done("1"))
		time.Sleep(5*time.Second - 1)
		r.want(t)
		time.Sleep(time.Nanosecond)
		r.want(t, "1: link: no response in time: createMappingReq, 5s")
		b.conn.Request(create, 5*time.Second, r.done("2"))
		// The late response is not the second one's.
		b.peer.SendPDU(res(1, &rspro.CreateMappingRes{Result: rspro.IllegalSlotID}))
		b.peer.SendPDU(res(2, &rspro.CreateMappingRes{}))
		r.want(t, "1: link: no response in time: createMappingReq, 5s", "2: ok")
		time.Sleep(time.Minute)
		r.want(t, "1: link: no response in time: createMappingReq, 5s", "2: ok")
	})
	in(t, "time-out is ErrTimeout", func(t *testing.T) {
		b := newBench(t, link.Options{})
		got := make(chan error, 1)
		b.conn.Request(create, time.Second, func(_ rspro.Message, err error) { got <- err })
		if err := <-got; !errors.Is(err, link.ErrTimeout) || time.Since(b.start) != time.Second {
			t.Errorf("%v after %v", err, time.Since(b.start))
		}
	})
	in(t, "connection ends", func(t *testing.T) {
		b, r := three(t)
		b.conn.Request(create, time.Hour, r.done("4"))
		b.conn.Close(errBoom)
		<-b.ended
		if len(r.list()) != 4 {
			t.Error("Run returned before the callbacks")
		}
		r.want(t, "1: boom", "2: boom", "3: boom", "4: boom")
		time.Sleep(2 * time.Hour)
		b.conn.Request(create, 0, r.done("5"))
		r.want(t, "1: boom", "2: boom", "3: boom", "4: boom", "5: link: connection closed")
	})
	in(t, "connection ends without an error", func(t *testing.T) {
		b, r := three(t)
		b.conn.Close(nil)
		r.want(t, "1: link: connection closed", "2: link: connection closed", "3: link: connection closed")
	})
	in(t, "can't be sent", func(t *testing.T) {
		b, r := newBench(t, link.Options{}), new(results)
		// A callback within Request would wait for the lock for ever.
		var mu sync.Mutex
		check := func(name string) func(rspro.Message, error) {
			done := r.done(name)
			return func(m rspro.Message, err error) {
				mu.Lock()
				defer mu.Unlock()
				done(m, err)
			}
		}
		mu.Lock()
		b.conn.Request(&rspro.SetAtrRes{}, 0, check("response"))
		mu.Unlock()
		r.want(t, "response: link: setAtrRes has no response")
		mu.Lock()
		b.conn.Request(&rspro.SetAtrReq{}, time.Second, check("no ATR"))
		mu.Unlock()
		synctest.Wait()
		if got := r.list(); len(got) != 2 || !strings.HasPrefix(got[1], "no ATR: link: ") {
			t.Errorf("got %q", got)
		}
	})
	in(t, "in callbacks", func(t *testing.T) {
		b := newBench(t, link.Options{})
		r := new(results)
		b.conn.Request(create, 0, func(rspro.Message, error) {
			b.conn.Request(remove, 0, r.done("next"))
		})
		b.peer.Send(&rspro.CreateMappingRes{})
		b.peer.Expect(create.Choice())
		b.peer.Expect(remove.Choice())
		b.peer.Send(&rspro.RemoveMappingRes{})
		r.want(t, "next: ok")
	})
	in(t, "tags skip 2342", func(t *testing.T) {
		b := newBench(t, link.Options{})
		r := new(results)
		for want := int32(1); want <= 2345; want++ {
			if want == 2342 {
				want++
			}
			b.conn.Request(&rspro.ResetStateReq{}, 0, r.done(""))
			_, p := testnet.ExpectPDU[*rspro.ResetStateReq](b.peer)
			if p.Tag != want {
				t.Fatalf("tag %d, want %d", p.Tag, want)
			}
			b.peer.Reply(p, &rspro.ResetStateRes{})
			synctest.Wait()
		}
		if n := len(r.list()); n != 2344 {
			t.Errorf("%d responses, want 2344", n)
		}
	})
}

// A response and what follows it in the same segment keep their order.
func TestResponseComesFirst(t *testing.T) {
	in(t, "", func(t *testing.T) {
		var got []string
		b := newBench(t, link.Options{Handle: func(_ *link.Conn, p rspro.PDU) { got = append(got, p.Msg.Choice().String()) }})
		b.conn.Request(&rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client)}, time.Second, func(m rspro.Message, err error) {
			got = append(got, m.Choice().String())
		})
		b.peer.SendPDU(
			rspro.PDU{Version: 2, Tag: 2342, Msg: &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)}},
			rspro.PDU{Version: 2, Msg: &rspro.SetAtrReq{ATR: []byte{0x3b, 0}}})
		synctest.Wait()
		if fmt.Sprint(got) != "[connectClientRes setAtrReq]" {
			t.Errorf("got %v", got)
		}
	})
}
