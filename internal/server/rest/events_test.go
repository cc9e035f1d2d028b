// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// A listening is a reader of the event stream.
type listening struct {
	t     *testing.T
	c     net.Conn
	r     *bufio.Reader
	doc   *contract
	loose bool   // data isn't checked against the document, which takes its time
	last  string // id
}

// listen opens the event stream, after the event last unless that is empty.
func (s *site) listen(last string) *listening {
	s.t.Helper()
	l := &listening{t: s.t, c: s.connect("GET", "/events", last), doc: s.doc}
	res, err := http.ReadResponse(bufio.NewReader(l.c), nil)
	if err != nil {
		s.t.Fatal(err)
	}
	if ct := res.Header.Get("Content-Type"); res.StatusCode != 200 || ct != "text/event-stream" || res.Header.Get("Cache-Control") != "no-store" {
		s.t.Fatalf("%s %v", res.Status, res.Header)
	}
	l.r = bufio.NewReader(res.Body)
	l.expectLine("retry: 1000")
	l.expectLine("")
	return l
}

// connect sends a request over the network.
func (s *site) connect(method, path, last string) net.Conn {
	c, err := s.net.Host("10.0.0.7").Dial(s.t.Context(), netip.MustParseAddrPort("10.0.0.1:9997"))
	if err != nil {
		s.t.Fatal(err)
	}
	s.t.Cleanup(func() { c.Close() })
	head := fmt.Sprintf("%s %s%s HTTP/1.1\r\nHost: x\r\n", method, v2Path, path)
	if last != "" {
		head += "Last-Event-ID: " + last + "\r\n"
	}
	if _, err := io.WriteString(c, head+"\r\n"); err != nil {
		s.t.Fatal(err)
	}
	return c
}

func (l *listening) line() (string, error) {
	s, err := l.r.ReadString('\n')
	return strings.TrimSuffix(s, "\n"), err
}

func (l *listening) expectLine(want string) {
	l.t.Helper()
	if got, err := l.line(); err != nil || got != want {
		l.t.Fatalf("line %q, %v; want %q", got, err, want)
	}
}

// next reads an event.
func (l *listening) next() EventV2 {
	l.t.Helper()
	var e struct {
		EventV2
		At string `json:"at"`
	}
	for _, field := range []string{"id: ", "event: ", "data: "} {
		got, err := l.line()
		v, ok := strings.CutPrefix(got, field)
		if err != nil || !ok {
			l.t.Fatalf("line %q, %v; want %s", got, err, field)
		}
		switch field {
		case "id: ":
			l.last = v
		case "event: ":
			e.Type = v
		default:
			var v any
			data := got[len(field):]
			if err := json.Unmarshal([]byte(data), &v); err != nil {
				l.t.Fatalf("%s: %v", data, err)
			}
			if !l.loose {
				if err := l.doc.conforms("Event", v); err != nil {
					l.t.Fatalf("%s: %v", data, err)
				}
			}
			m := v.(map[string]any)
			if m["id"] != l.last || m["type"] != e.Type {
				l.t.Errorf("id %s, event %s, data %s", l.last, e.Type, data)
			}
			// Times are of no matter here, and Time isn't read.
			e.text(m)
		}
	}
	l.expectLine("")
	return e.EventV2
}

// text notes what a test wants to know of an event's data.
func (e *EventV2) text(m map[string]any) {
	e.ID = m["id"].(string)
	if r, ok := m["reset"].(map[string]any); ok {
		e.Reset = &ResetV2{r["reason"].(string)}
	}
	if s, ok := m["slotmap"].(map[string]any); ok {
		e.Slotmap = &SlotmapV2{State: s["state"].(string)}
		e.Slotmap.Bank.Slot = uint16(s["bank"].(map[string]any)["slotNr"].(float64))
	}
	if c, ok := m["client"].(map[string]any); ok {
		e.Client = &ClientV2{PeerV2: PeerV2{Peer: c["peer"].(string), State: c["state"].(string)}}
		if told, ok := c["told"].(map[string]any); ok {
			e.Client.Told = &ToldV2{}
			if bankd, ok := told["bankd"].(string); ok {
				e.Client.Told.Bankd = &bankd
			}
			if a, ok := told["answer"].(string); ok {
				e.Client.Told.Answer = &a
			}
		}
	}
	if b, ok := m["bank"].(map[string]any); ok {
		e.Bank = &BankInfoV2{PeerV2: PeerV2{Peer: b["peer"].(string)}}
	}
	if v, ok := m["slot"].(map[string]any); ok {
		e.Slot = &SlotEventV2{Bank: uint16(v["bankId"].(float64)), SlotV2: SlotV2{Slot: uint16(v["slotNr"].(float64))}}
		if state, ok := v["state"].(string); ok {
			e.Slot.State = &state
		}
	}
	if f, ok := m["fault"].(map[string]any); ok {
		e.Fault = &FaultV2{Peer: f["peer"].(string), Text: f["text"].(string)}
	}
}

// short is an event for tables.
func short(e EventV2) string {
	s := e.Type
	deref := func(p *string) string {
		if p == nil {
			return "-"
		}
		return *p
	}
	switch {
	case e.Reset != nil:
		s += " " + e.Reset.Reason
	case e.Slotmap != nil:
		s += fmt.Sprintf(" %d %s", e.Slotmap.Bank.Slot, e.Slotmap.State)
	case e.Client != nil:
		s += " " + e.Client.Peer + " " + e.Client.State
		if t := e.Client.Told; t != nil {
			s += " " + deref(t.Bankd) + " " + deref(t.Answer)
		}
	case e.Bank != nil:
		s += " " + e.Bank.Peer
	case e.Slot != nil:
		s += fmt.Sprintf(" %d:%d %s", e.Slot.Bank, e.Slot.Slot, deref(e.Slot.State))
	case e.Fault != nil:
		s += " " + e.Fault.Peer + " " + e.Fault.Text
	}
	return s
}

func (l *listening) expect(want ...string) {
	l.t.Helper()
	var got []string
	for range want {
		got = append(got, short(l.next()))
	}
	if !slices.Equal(got, want) {
		l.t.Errorf("events\n%s\nwant\n%s", strings.Join(got, "\n"), strings.Join(want, "\n"))
	}
}

// TestEvents checks what is told, in which order, of all that can happen.
func TestEvents(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		l := s.listen("")
		l.expect("reset it begins here")
		b := s.bank(1, func(r *rspro.ConnectBankReq) { r.Features, r.NumSlots = rspro.BankState, 2 })
		l.expect("bank.connected B1")
		b.Send(&rspro.BankSlotmapsInd{Last: true})
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Reader: "R", Present: true}}})
		l.expect("slot.changed 1:1 FREE")
		c := s.client(23, 0, nil)
		l.expect("client.connected C23:0 CONNECTED_CLIENT")
		ask(s, "POST", "/slotmaps", slotmapBody(1, 1, 23, 0))
		l.expect("slotmap.changed 1 NEW", "slotmap.changed 1 UNACKNOWLEDGED")
		testnet.Expect[*rspro.CreateMappingReq](b)
		b.Send(&rspro.CreateMappingRes{})
		l.expect("slotmap.changed 1 ACTIVE", "slot.changed 1:1 MAPPED")
		testnet.Expect[*rspro.ConfigClientBankReq](c)
		l.expect("slot.changed 1:1 CARD", "client.changed C23:0 CONNECTED_CLIENT 10.0.0.7:9999 -")
		c.Send(&rspro.ConfigClientBankRes{})
		l.expect("client.changed C23:0 CONNECTED_CLIENT 10.0.0.7:9999 ok")
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Reader: "R", Present: true, Error: "mute"}}})
		l.expect("slot.changed 1:1 FAILED")
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Reader: "R", Present: true}}})
		l.expect("slot.changed 1:1 CARD")
		c.Send(&rspro.ErrorInd{Sender: rspro.Client, Code: 7, Text: "no modem"})
		l.expect("fault C23:0 errorInd: code 7, severity 0: no modem")
		c.Close()
		l.expect("client.gone C23:0 CONNECTED_CLIENT 10.0.0.7:9999 ok", "slot.changed 1:1 MAPPED")
		auto := s.client(0, 0, func(r *rspro.ConnectClientReq) { r.Slot = nil })
		l.expect("client.connected C1023:0 WAIT_CONFIG_RES", "client.assigned C1023:0 WAIT_CONFIG_RES")
		testnet.Expect[*rspro.ConfigClientIDReq](auto)
		auto.Send(&rspro.ConfigClientIDRes{})
		l.expect("client.changed C1023:0 CONNECTED_CLIENT")
		ask(s, "DELETE", "/slotmaps/1:1", "")
		l.expect("slotmap.changed 1 DELETE_REQ", "slotmap.changed 1 DELETING")
		testnet.Expect[*rspro.RemoveMappingReq](b)
		b.Send(&rspro.RemoveMappingRes{})
		l.expect("slotmap.gone 1 DELETING", "slot.changed 1:1 FREE")
		b.Close()
		l.expect("bank.gone B1")
		ask(s, "POST", "/slotmaps", slotmapBody(1, 0, 23, 0))
		ask(s, "PUT", "/slotmaps/1:1", clientBody(23, 0))
		// One that no bankd has known is gone at once.
		l.expect("slotmap.changed 0 NEW", "slotmap.gone 0 DELETE_REQ", "slotmap.changed 1 NEW")
		// A bulk is told when all of it is done.
		ask(s, "POST", "/slotmaps/bulk", bulk(op("delete", 1, 1), op("create", 1, 1, 1, 0), op("create", 1, 0, 2, 0)))
		l.expect("slotmap.gone 1 DELETE_REQ", "slotmap.changed 1 NEW", "slotmap.changed 0 NEW")
	})
}

// TestEventsResume checks that a reader that comes back with its last id misses nothing and hears nothing twice, and one whose id
// says nothing to this server begins anew.
func TestEventsResume(t *testing.T) {
	var old string
	inSite(t, func(t *testing.T, s *site) {
		l := s.listen("")
		l.expect("reset it begins here")
		begin := l.last
		for i := range 3 {
			ask(s, "POST", "/slotmaps", slotmapBody(1, i, i, 0))
		}
		l.expect("slotmap.changed 0 NEW")
		after := l.last
		l.c.Close()
		ask(s, "POST", "/slotmaps", slotmapBody(1, 3, 3, 0))
		s.listen(after).expect("slotmap.changed 1 NEW", "slotmap.changed 2 NEW", "slotmap.changed 3 NEW")
		l = s.listen(begin)
		l.expect("slotmap.changed 0 NEW", "slotmap.changed 1 NEW", "slotmap.changed 2 NEW", "slotmap.changed 3 NEW")
		end := l.last
		l = s.listen(end) // nothing is left; then comes more
		ask(s, "POST", "/slotmaps", slotmapBody(1, 4, 4, 0))
		l.expect("slotmap.changed 4 NEW")
		old = l.last

		epoch, _, _ := strings.Cut(old, "-")
		for _, id := range []string{"x", "-", "-3", epoch, epoch + "-", epoch + "-x", epoch + "--1", epoch + "-18446744073709551616", "5"} {
			l := s.listen(id)
			l.expect(fmt.Sprintf("reset position %q: want EPOCH-NUMBER, as the server told it", id))
			if l.last != old {
				t.Errorf("%q: reset to %s, want %s", id, l.last, old)
			}
		}
		for _, id := range []string{"OTHER-3", epoch + "-6", epoch + "-18446744073709551615"} {
			s.listen(id).expect("reset the position is of another run of the server")
		}
	})
	inSite(t, func(t *testing.T, s *site) { // it was started anew, and has told as much
		for i := range 6 {
			ask(s, "POST", "/slotmaps", slotmapBody(1, i, i, 0))
		}
		l := s.listen(old)
		l.expect("reset the position is of another run of the server")
		ask(s, "POST", "/slotmaps", slotmapBody(1, 6, 6, 0))
		l.expect("slotmap.changed 6 NEW")
	})
}

// TestEventsHeartbeat checks that silence is broken every 15 s, to the millisecond, for longer than any of the server's timeouts.
func TestEventsHeartbeat(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		l := s.listen("")
		l.expect("reset it begins here")
		for range 20 {
			start := time.Now()
			l.expectLine(":")
			l.expectLine("")
			if d := time.Since(start); d != heartbeat {
				t.Fatalf("comment after %v, want %v", d, heartbeat)
			}
		}
		time.Sleep(7 * time.Second)
		ask(s, "POST", "/slotmaps", slotmapBody(1, 1, 1, 0))
		l.expect("slotmap.changed 1 NEW")
		start := time.Now()
		l.expectLine(":")
		if d := time.Since(start); d != heartbeat {
			t.Errorf("comment %v after an event, want %v", d, heartbeat)
		}
	})
}

// TestEventsSlow checks that a reader that doesn't read is dropped 10 s after what can be written to it has been, that nothing waits for it,
// and that another one misses nothing.
func TestEventsSlow(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.connect("GET", "/events", "") // never reads
		l := s.listen("")
		l.expect("reset it begins here")
		l.loose = true
		read := make(chan string, 1)
		const n = 3000
		go func() {
			for i := range n {
				if e := l.next(); e.Slotmap == nil || e.Slotmap.Bank.Slot != uint16(i&1023) {
					read <- fmt.Sprintf("event %d is %s", i, short(e))
					return
				}
			}
			read <- ""
		}()
		start := time.Now()
		for i := 0; i < n; i += 1000 {
			var ops []string
			for j := i; j < i+1000; j++ {
				ops = append(ops, op("create", j>>10, j&1023, j>>10, j&1023))
			}
			if w := do(s.raw, "POST", v2Path+"/slotmaps/bulk", bulk(ops...)); w.Code != 200 {
				t.Fatal(w.Code)
			}
		}
		if d := time.Since(start); d != 0 {
			t.Errorf("the changes took %v", d)
		}
		if wrong := <-read; wrong != "" {
			t.Error(wrong)
		}
		dropped := func() bool {
			return slices.Contains(messages(s.log), "reader of events dropped: it has read nothing for 10s")
		}
		time.Sleep(slowTimeout - time.Millisecond)
		synctest.Wait()
		if dropped() {
			t.Error("dropped too early")
		}
		time.Sleep(time.Millisecond)
		synctest.Wait()
		if !dropped() {
			t.Errorf("not dropped after %v", slowTimeout)
		}
	})
}

func messages(h *logtest.Hook) []string {
	var l []string
	for _, e := range h.AllEntries() {
		l = append(l, e.Message)
	}
	return l
}

// TestEventsBehind checks that a reader that was away for more events than are kept has to begin anew.
func TestEventsBehind(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		l := s.listen("")
		l.expect("reset it begins here")
		begin := l.last
		l.c.Close()
		ops := make([][]server.Op, 2)
		for i := range 1 << 14 {
			b := slot.Bank{ID: uint16(i >> 10), Slot: uint16(i & 1023)}
			m := slot.Map{Bank: b, Client: slot.Client(b)}
			ops[0] = append(ops[0], server.CreateMap(m))
			ops[1] = append(ops[1], server.DeleteMap(m.Bank))
		}
		for i := range 5 {
			if _, err := s.state.Commit(t.Context(), ops[i%2]...); err != nil {
				t.Fatal(err)
			}
		}
		l = s.listen(begin)
		l.expect("reset the events after the position aren't kept any more")
		ask(s, "POST", "/slotmaps", slotmapBody(1000, 6, 1000, 0))
		l.expect("slotmap.changed 6 NEW")
	})
}

// TestEventsEnd checks that streams end at once when the server does, and that one of its end is no loss of others' requests.
func TestEventsEnd(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		var ls []*listening
		for range 3 {
			l := s.listen("")
			l.expect("reset it begins here")
			ls = append(ls, l)
		}
		start := time.Now()
		s.stop()
		for _, l := range ls {
			if line, err := l.line(); !errors.Is(err, io.EOF) { // not ErrUnexpectedEOF: the answer was ended
				t.Errorf("%q, %v", line, err)
			}
		}
		// http.Server looks at intervals whether all is done.
		if d := time.Since(start); d > time.Second {
			t.Errorf("the end took %v", d)
		}
		if slices.Contains(messages(s.log), "requests cut off at the end") {
			t.Error("requests cut off")
		}
	})
}

// TestEventsMany checks that there are no more streams than 256, and that one that ends makes room.
func TestEventsMany(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		var conns []net.Conn
		for range maxStreams {
			conns = append(conns, s.connect("GET", "/events", ""))
		}
		synctest.Wait()
		status := func() int {
			c := s.connect("GET", "/events", "")
			defer c.Close()
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		if got := status(); got != 503 {
			t.Errorf("one more: %d", got)
		}
		conns[7].Close()
		synctest.Wait()
		if got := status(); got != 200 {
			t.Errorf("after one has gone: %d", got)
		}
	})
}

// FuzzLastEventID takes any id; the stream begins with a reset, unless the id is one that was told.
func FuzzLastEventID(f *testing.F) {
	for _, s := range []string{"", "-", "X-1", "X-0", "-1", "X--1", "X-18446744073709551616", "0", "\x00"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, id string) {
		state := server.NewState()
		for i := range uint16(3) {
			if _, err := state.Commit(t.Context(), server.CreateMap(slot.Map{Bank: slot.Bank{Slot: i}, Client: slot.Client{ID: i}})); err != nil {
				t.Fatal(err)
			}
		}
		first := func(id string) string {
			w := &cutOff{header: http.Header{}}
			ctx, cancel := context.WithCancel(t.Context())
			defer cancel()
			w.cut = cancel
			r, err := http.NewRequestWithContext(ctx, "GET", v2Path+"/events", nil)
			if err != nil {
				t.Fatal(err)
			}
			r.Header["Last-Event-Id"] = []string{id}
			newHandler(state).ServeHTTP(w, r)
			return w.text.String()
		}
		if got := first(id); !strings.Contains(got, "\nevent: reset\n") {
			t.Errorf("%q: %s", id, got)
		}
		at := state.Feed().Last()
		at.ID--
		if got := first(at.String()); strings.Contains(got, "reset") {
			t.Errorf("%s: %s", at, got)
		}
	})
}

// cutOff is the writer of a stream that is cut off after its first event.
type cutOff struct {
	header http.Header
	text   strings.Builder
	cut    func()
}

func (w *cutOff) Header() http.Header { return w.header }
func (w *cutOff) WriteHeader(int)     {}
func (w *cutOff) Flush()              {}
func (w *cutOff) Write(b []byte) (int, error) {
	if w.text.Len() > 0 || strings.Contains(string(b), "event: ") {
		w.cut()
	}
	return w.text.Write(b)
}
