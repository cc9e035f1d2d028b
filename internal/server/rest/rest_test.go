// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"
	"go.uber.org/goleak"

	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// site is a running server with its REST API.
type site struct {
	t            *testing.T
	net          *testnet.Net
	state        *server.State
	log          *logtest.Hook
	http.Handler              // that checks its answers
	raw          http.Handler // that doesn't
	doc          *contract
	stop         func()
}

// inSite runs a test with a server in virtual time. Its clock begins at 2000-01-01T00:00:00Z.
func inSite(t *testing.T, test func(t *testing.T, s *site)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		s := &site{t: t, net: testnet.New()}
		log, hook := logtest.NewNullLogger()
		log.SetLevel(logrus.DebugLevel)
		s.log = hook
		ctx, cancel := context.WithCancel(context.Background())
		state := make(chan *server.State, 1)
		ended := make(chan error, 1)
		go func() {
			cfg := server.Config{RSPROListen: ":9998", RESTListen: ":9997", Name: "srv", Version: "1",
				ClientIDPool: &server.IDPool{First: 1023, Last: 1023}}
			ended <- server.Run(ctx, cfg, server.Env{
				Net: s.net.Host("10.0.0.1"), Log: log,
				REST: func(ctx context.Context, ln net.Listener, st *server.State, l *logrus.Entry) error {
					state <- st
					return Serve(ctx, ln, st, l)
				},
			})
		}()
		s.state = <-state
		s.raw = Handler(s.state, log.WithField("cat", "DREST"))
		s.doc = readContract(t, s.raw)
		s.Handler = s.doc.checked(t, s.raw)
		s.stop = func() {
			cancel()
			if err := <-ended; err != nil {
				t.Errorf("Run: %v", err)
			}
			ended <- nil
		}
		t.Cleanup(s.stop)
		test(t, s)
	})
}

// do makes a request; a body goes as JSON.
func do(h http.Handler, method, path, body string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

func (s *site) expect(method, path, body string, status int, want string) {
	s.t.Helper()
	synctest.Wait()
	w := do(s, method, path, body)
	if got := w.Body.String(); w.Code != status || got != want {
		s.t.Errorf("%s %s: %d\n%s\nwant %d\n%s", method, path, w.Code, got, status, want)
	}
}

func (s *site) dial() *testnet.Peer {
	return testnet.DialPeer(s.t, s.net.Host("10.0.0.7"), "10.0.0.1:9998")
}

func (s *site) bank(id uint16, more func(*rspro.ConnectBankReq)) *testnet.Peer {
	p := s.dial()
	req := &rspro.ConnectBankReq{Identity: testnet.Identity(rspro.Bankd), BankID: id, NumSlots: 8}
	if more != nil {
		more(req)
	}
	p.Send(req)
	testnet.Expect[*rspro.ConnectBankRes](p)
	return p
}

func (s *site) client(id, nr uint16, more func(*rspro.ConnectClientReq)) *testnet.Peer {
	p := s.dial()
	req := &rspro.ConnectClientReq{Identity: testnet.Identity(rspro.Client), Slot: &slot.Client{ID: id, Slot: nr}}
	if more != nil {
		more(req)
	}
	p.Send(req)
	testnet.Expect[*rspro.ConnectClientRes](p)
	return p
}

const (
	v1Path = "/api/backend/v1"
	v2Path = "/api/v2"

	clientComponent = `"component_id":{"type_":"remsimClient","name":"testnet","software":"remsim-client","swVersion":"1.1.3.14-4b36"}`
	bankComponent   = `"component_id":{"type_":"remsimBankd","name":"testnet","software":"remsim-bankd","swVersion":"1.1.3.14-4b36"}`
)

func slotmapBody(b, bs, c, cs int) string {
	return fmt.Sprintf(`{"bank":{"bankId":%d,"slotNr":%d},"client":{"clientId":%d,"slotNr":%d}}`, b, bs, c, cs)
}

// TestV1 checks all answers of version 1 to the byte: members, their order, nothing more.
func TestV1(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		get := func(path, want string) {
			t.Helper()
			s.expect("GET", v1Path+path, "", 200, want)
		}
		get("/clients", `{"clients":[]}`)
		get("/banks", `{"banks":[]}`)
		get("/slotmaps", `{"slotmaps":[]}`)
		get("/slotmaps/", `{"slotmaps":[]}`)
		get("/restart-counter", "1")

		s.client(23, 1, nil)
		s.client(23, 0, func(r *rspro.ConnectClientReq) {
			r.Identity.HWManufacturer, r.Identity.HWModel, r.Identity.HWSerialNr = "sysmocom", "<x>&\"y\"", "17"
			r.Identity.HWVersion, r.Identity.FWVersion = "2", "0.8"
			r.Features = rspro.AtrAfterReset
		})
		s.client(5, 1023, nil)
		bankd := s.bank(1, func(r *rspro.ConnectBankReq) {
			r.Endpoint = netip.MustParseAddrPort("192.0.2.9:1")
			r.Features = rspro.LateAtr | rspro.BankState
		})
		bankd.Send(&rspro.BankSlotmapsInd{Last: true})
		auto := s.client(0, 0, func(r *rspro.ConnectClientReq) { r.Slot = nil }) // isn't accepted before it agrees
		testnet.Expect[*rspro.ConfigClientIDReq](auto)

		c5 := `{"peer":"C5:1023","state":"CONNECTED_CLIENT",` + clientComponent + `}`
		c23 := `{"peer":"C23:0","state":"CONNECTED_CLIENT","component_id":{"type_":"remsimClient","name":"testnet","software":"remsim-client",` +
			`"swVersion":"1.1.3.14-4b36","hwManufacturer":"sysmocom","hwModel":"<x>&\"y\"","hwSerialNr":"17","hwVersion":"2","fwVersion":"0.8"}}`
		c231 := `{"peer":"C23:1","state":"CONNECTED_CLIENT",` + clientComponent + `}`
		b1 := `{"peer":"B1","state":"CONNECTED_BANKD",` + bankComponent + `,"bankId":1,"numberOfSlots":8}`
		get("/clients", `{"clients":[`+c5+`,`+c23+`,`+c231+`]}`)
		get("/clients/23", c23)
		get("/clients/5", c5)
		get("/clients/23:1", c231)
		get("/clients/C23:1", c231)
		get("/clients/C23%3A1", c231)
		get("/banks", `{"banks":[`+b1+`]}`)
		get("/banks/1", b1)
		for _, path := range []string{"/clients/24", "/clients/1023", "/clients/1024", "/clients/65535", "/clients/23:2", "/clients/C24:0",
			"/banks/2", "/banks/1024", "/banks/65535"} {
			if w := do(s, "GET", v1Path+path, ""); w.Code != 404 {
				t.Errorf("GET %s: %d, want 404", path, w.Code)
			}
		}
		for _, path := range []string{"/clients/65536", "/clients/-1", "/clients/x", "/clients/23:x", "/clients/23:65536", "/clients/:",
			"/banks/65536", "/banks/99999999999999999999", "/banks/x"} {
			if w := do(s, "GET", v1Path+path, ""); w.Code != 400 {
				t.Errorf("GET %s: %d, want 400", path, w.Code)
			}
		}

		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		s.expect("POST", v1Path+"/slotmaps/", slotmapBody(1023, 1023, 1023, 1023), 201, "")
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(0, 0, 0, 0), 201, "")
		m1 := slotmapBody(1, 1, 23, 0)[:len(slotmapBody(1, 1, 23, 0))-1] + `,"state":`
		rest := strings.ReplaceAll(`,{"bank":{"bankId":1023,"slotNr":1023},"client":{"clientId":1023,"slotNr":1023},"state":"NEW"}`+
			`,{"bank":{"bankId":0,"slotNr":0},"client":{"clientId":0,"slotNr":0},"state":"NEW"}]}`, " ", "")
		get("/slotmaps", `{"slotmaps":[`+m1+`"UNACKNOWLEDGED"}`+rest)
		testnet.Expect[*rspro.CreateMappingReq](bankd)
		bankd.Send(&rspro.CreateMappingRes{})
		get("/slotmaps", `{"slotmaps":[`+m1+`"ACTIVE"}`+rest)

		// A deleted map is out at once; its slots are free.
		s.expect("DELETE", v1Path+"/slotmaps/65537", "", 200, "")
		get("/slotmaps", `{"slotmaps":[`+rest[1:])
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		get("/slotmaps", `{"slotmaps":[`+rest[1:len(rest)-2]+`,`+m1+`"NEW"}]}`)
		s.expect("POST", v1Path+"/global-reset", "", 200, "")
		get("/slotmaps", `{"slotmaps":[]}`)
		s.expect("POST", v1Path+"/global-reset", "", 200, "")
	})
}

// TestV1Strict decodes v1's answers with decoders that fail on any additional member.
func TestV1Strict(t *testing.T) {
	type component struct {
		Type           *string `json:"type_"`
		Name           *string `json:"name"`
		Software       *string `json:"software"`
		SWVersion      *string `json:"swVersion"`
		HWManufacturer string  `json:"hwManufacturer"`
		HWModel        string  `json:"hwModel"`
		HWSerialNr     string  `json:"hwSerialNr"`
		HWVersion      string  `json:"hwVersion"`
		FWVersion      string  `json:"fwVersion"`
	}
	inSite(t, func(t *testing.T, s *site) {
		s.client(23, 0, nil)
		s.bank(1, nil)
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		for path, v := range map[string]any{
			"/clients": &struct {
				Clients []struct {
					Peer, State string
					Component   component `json:"component_id"`
				} `json:"clients"`
			}{},
			"/banks": &struct {
				Banks []struct {
					Peer, State   string
					Component     component `json:"component_id"`
					BankID        *int      `json:"bankId"`
					NumberOfSlots *int      `json:"numberOfSlots"`
				} `json:"banks"`
			}{},
			"/slotmaps": &struct {
				Slotmaps []struct {
					Bank   struct{ BankID, SlotNr *int }
					Client struct{ ClientID, SlotNr *int }
					State  string
				} `json:"slotmaps"`
			}{},
		} {
			w := do(s, "GET", v1Path+path, "")
			d := json.NewDecoder(w.Body)
			d.DisallowUnknownFields()
			if err := d.Decode(v); err != nil {
				t.Errorf("%s: %v", path, err)
			}
			if ct := w.Header().Get("Content-Type"); ct != "application/json" {
				t.Errorf("%s: content type %q", path, ct)
			}
			if l := w.Header().Get("Content-Length"); l == "" {
				t.Errorf("%s: no Content-Length", path)
			}
		}
	})
}

// TestPostRefused checks that a body that is wrong is refused with what is wrong about it.
func TestPostRefused(t *testing.T) {
	state := server.NewState()
	log, _ := logtest.NewNullLogger()
	h := Handler(state, log.WithField("cat", "DREST"))
	if w := do(h, "POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0)); w.Code != 201 {
		t.Fatal(w.Code)
	}
	const ids = "an integer 0..1023"
	good := slotmapBody(1, 2, 23, 1)
	for _, tt := range []struct {
		body            string
		member, allowed string
		value           string // JSON; empty: not told
	}{
		{" ", "", "a JSON object", ""},
		{"x", "", "a JSON object", ""},
		{good[:len(good)-1], "", "a JSON object", ""},
		{good + "}", "", "a JSON object", ""},
		{"[]", "", "a JSON object", "[]"},
		{"null", "", "a JSON object", "null"},
		{"17", "", "a JSON object", "17"},
		{"{}", "bank", "a JSON object", ""},
		{`{"bank":{"bankId":1,"slotNr":2}}`, "client", "a JSON object", ""},
		{`{"bank":7,"client":{}}`, "bank", "a JSON object", "7"},
		{`{"bank":null,"client":{}}`, "bank", "a JSON object", "null"},
		{`{"bank":{"slotNr":2},"client":{"clientId":23,"slotNr":1}}`, "bank.bankId", ids, ""},
		{`{"bank":{"BANKID":1,"slotNr":2},"client":{"clientId":23,"slotNr":1}}`, "bank.bankId", ids, ""},
		{`{"bank":{"bankId":1},"client":{"clientId":23,"slotNr":1}}`, "bank.slotNr", ids, ""},
		{`{"bank":{"bankId":1,"slotNr":2},"client":{"slotNr":1}}`, "client.clientId", ids, ""},
		{`{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":23}}`, "client.slotNr", ids, ""},
		{strings.Replace(good, `"bankId":1`, `"bankId":"1"`, 1), "bank.bankId", ids, `"1"`},
		{strings.Replace(good, `"bankId":1`, `"bankId":1.0`, 1), "bank.bankId", ids, `1.0`},
		{strings.Replace(good, `"bankId":1`, `"bankId":1e2`, 1), "bank.bankId", ids, `1e2`},
		{strings.Replace(good, `"bankId":1`, `"bankId":null`, 1), "bank.bankId", ids, `null`},
		{strings.Replace(good, `"bankId":1`, `"bankId":true`, 1), "bank.bankId", ids, `true`},
		{strings.Replace(good, `"bankId":1`, `"bankId":{"a":1}`, 1), "bank.bankId", ids, `{"a":1}`},
		{strings.Replace(good, `"bankId":1`, `"bankId":-1`, 1), "bank.bankId", ids, `-1`},
		{strings.Replace(good, `"bankId":1`, `"bankId":18446744073709551617`, 1), "bank.bankId", ids, `18446744073709551617`},
		{strings.Replace(good, `"bankId":1`, `"bankId":"`+strings.Repeat("ü", 99)+`"`, 1), "bank.bankId", ids,
			`"\"` + strings.Repeat(`\u00fc`, 31) + `\ufffd\u2026"`},
		{slotmapBody(1024, 2, 23, 1), "bank.bankId", ids, "1024"},
		{slotmapBody(1, 1024, 23, 1), "bank.slotNr", ids, "1024"},
		{slotmapBody(1, 2, 1024, 1), "client.clientId", ids, "1024"},
		{slotmapBody(1, 2, 23, 1024), "client.slotNr", ids, "1024"},
		{slotmapBody(1, 1, 24, 0), "bank", "a slot that is in no map", `{"bankId":1,"slotNr":1}`},
		{slotmapBody(1, 2, 23, 0), "client", "a slot that is in no map", `{"clientId":23,"slotNr":0}`},
		{slotmapBody(1, 1, 23, 0), "bank", "a slot that is in no map", `{"bankId":1,"slotNr":1}`},
	} {
		w := do(h, "POST", v1Path+"/slotmaps", tt.body)
		var p problem
		body := w.Body.Bytes()
		if err := json.Unmarshal(body, &p); err != nil || w.Code != 400 || p.Status != 400 ||
			w.Header().Get("Content-Type") != "application/problem+json" {
			t.Errorf("%s: %d %s", tt.body, w.Code, body)
			continue
		}
		if p.Member != tt.member || p.Allowed != tt.allowed || string(p.Value) != tt.value ||
			p.Detail == "" || p.Type != "about:blank" || p.Title != "Bad Request" {
			t.Errorf("%s: %s", tt.body, body)
		}
		if bytes.ContainsFunc(body, func(r rune) bool { return r > 126 }) {
			t.Errorf("%s: not ASCII: %s", tt.body, body)
		}
	}
	if n := len(state.Slotmaps()); n != 1 {
		t.Errorf("%d maps, want 1", n)
	}
	// More members may be there, and the state.
	body := `{"x":[1],"bank":{"y":null,"bankId":1,"slotNr":2},"client":{"clientId":23,"slotNr":1},"state":"ACTIVE"}`
	if w := do(h, "POST", v1Path+"/slotmaps", body); w.Code != 201 {
		t.Errorf("%s: %d %s", body, w.Code, w.Body)
	}
}

// TestContentType checks that a body must say that it is JSON.
func TestContentType(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	h := Handler(server.NewState(), log.WithField("cat", "DREST"))
	for i, tt := range []struct {
		contentType string
		status      int
	}{
		{"application/json", 201},
		{"application/json; charset=utf-8", 201},
		{"Application/JSON", 201},
		{"", 400},
		{"text/plain", 400},
		{"application/x-www-form-urlencoded", 400},
		{"application/json;", 201},
		{";;", 400},
	} {
		r := httptest.NewRequest("POST", v1Path+"/slotmaps", strings.NewReader(slotmapBody(i, 0, i, 0)))
		if tt.contentType != "" {
			r.Header.Set("Content-Type", tt.contentType)
		}
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != tt.status {
			t.Errorf("%q: %d, want %d", tt.contentType, w.Code, tt.status)
		}
	}
}

// TestDelete checks which ids name a map.
func TestDelete(t *testing.T) {
	state := server.NewState()
	log, _ := logtest.NewNullLogger()
	h := Handler(state, log.WithField("cat", "DREST"))
	if _, err := state.Commit(t.Context(), server.CreateMap(slot.Map{Bank: slot.Bank{ID: 2, Slot: 3}, Client: slot.Client{}})); err != nil {
		t.Fatal(err)
	}
	for _, id := range []string{"0", "131074", "4294967296", "99999999999999999999", "-1", "x", "2:3", "0x20003"} {
		if w := do(h, "DELETE", v1Path+"/slotmaps/"+id, ""); w.Code != 404 {
			t.Errorf("DELETE %s: %d, want 404", id, w.Code)
		}
	}
	for _, want := range []int{200, 404} {
		if w := do(h, "DELETE", v1Path+"/slotmaps/131075", ""); w.Code != want {
			t.Errorf("DELETE: %d, want %d", w.Code, want)
		}
	}
}

// TestReason looks at the log lines of requests: one that is refused says why.
func TestReason(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	h := Handler(server.NewState(), log.WithField("cat", "DREST"))
	for _, tt := range []struct {
		method, path, body string
		status             int
		why                any
	}{
		{"POST", v1Path + "/slotmaps", slotmapBody(1, 1024, 1, 0), 400, "bank.slotNr is not an integer 0..1023"},
		{"POST", v1Path + "/slotmaps", "{", 400, "the body is not JSON: unexpected end of JSON input"},
		{"DELETE", v1Path + "/slotmaps/65541", "", 404, "bank slot B1:5 is in no map"},
		{"GET", v2Path + "/slotmaps/B1:5", "", 404, "bank slot B1:5 is in no map"},
		{"GET", "/nowhere", "", 404, nil},
	} {
		hook.Reset()
		do(h, tt.method, tt.path, tt.body)
		if l := hook.AllEntries(); len(l) != 1 || l[0].Level != logrus.InfoLevel || l[0].Data["status"] != tt.status || l[0].Data["err"] != tt.why {
			t.Errorf("%s %s: logged %v, want status %d because %v", tt.method, tt.path, l, tt.status, tt.why)
		}
	}
	hook.Reset()
	if do(h, "GET", v1Path+"/slotmaps", ""); len(hook.AllEntries()) != 0 {
		t.Error("an answer is logged at level info")
	}
}

// TestListsAreKept asks for the lists of maps again and again: nobody is told what was true before.
func TestListsAreKept(t *testing.T) {
	state := server.NewState()
	log, _ := logtest.NewNullLogger()
	h := Handler(state, log.WithField("cat", "DREST"))
	get := func(path string) string {
		r := do(h, "GET", path, "")
		if r.Code != http.StatusOK {
			t.Fatalf("%s: %d", path, r.Code)
		}
		return r.Body.String()
	}
	const maps = 5
	for i := range 3 * maps {
		b := i % maps
		if i < maps {
			do(h, "POST", v1Path+"/slotmaps", slotmapBody(1, b, 1, b))
		} else {
			do(h, "DELETE", fmt.Sprintf("%s/slotmaps/%d", v1Path, 1<<16+b), "")
		}
		want := max(0, min(i+1, 2*maps-i-1))
		for range 2 {
			for _, path := range []string{v1Path, v2Path} {
				if n := strings.Count(get(path+"/slotmaps"), `"NEW"`); n != want {
					t.Fatalf("%s lists %d maps after change %d, want %d", path, n, i, want)
				}
			}
		}
	}
	for length, want := range map[int]int{maxKept: 1, maxKept + 1: 3} {
		var list lastList
		made := 0
		for range 3 {
			list.of(state, func() []byte { made++; return make([]byte, length) })
		}
		if made != want {
			t.Errorf("a list of %d bytes was made %d times for 3 requests, want %d", length, made, want)
		}
	}
}

// TestNoSuchPath checks other paths and methods: text, 404 for both.
func TestNoSuchPath(t *testing.T) {
	log, hook := logtest.NewNullLogger()
	h := Handler(server.NewState(), log.WithField("cat", "DREST"))
	for _, tt := range []struct{ method, path string }{
		{"GET", "/"}, {"GET", "/api"}, {"GET", "/api/backend/v1"}, {"GET", "/api/backend/v3/clients"}, {"GET", "/slotmaps"},
		{"GET", v1Path + "/foo"}, {"GET", v1Path + "/clients/1/2"}, {"GET", v1Path + "/slotmaps/65537"}, {"GET", v1Path + "/global-reset"},
		{"PUT", v1Path + "/slotmaps"}, {"POST", v1Path + "/clients"}, {"DELETE", v1Path + "/slotmaps"}, {"POST", v1Path + "/restart-counter"},
		{"OPTIONS", v1Path + "/slotmaps"}, {"GET", "/api/v3"},
	} {
		w := do(h, tt.method, tt.path, "")
		if ct := w.Header().Get("Content-Type"); w.Code != 404 || !strings.HasPrefix(ct, "text/plain") {
			t.Errorf("%s %s: %d %s", tt.method, tt.path, w.Code, ct)
		}
	}
	if len(hook.AllEntries()) == 0 {
		t.Error("refused requests aren't logged")
	}
	for _, tt := range []struct {
		method, path string
		status       int
		allow        string
	}{
		{"GET", "", 404, ""},
		{"GET", "/", 404, ""},
		{"POST", "/foo", 404, ""},
		{"GET", "/clients/1/2", 404, ""},
		{"POST", "/clients", 405, "GET, HEAD"},
		{"PUT", "/slotmaps", 405, "GET, HEAD, POST"},
		{"DELETE", "/slotmaps/", 405, "GET, HEAD, POST"},
		{"POST", "/slotmaps/1:1", 405, "GET, HEAD, PUT, DELETE"},
		{"OPTIONS", "/slotmaps/bulk", 405, "GET, HEAD, POST, PUT, DELETE"},
		{"DELETE", "/events", 405, "GET"},
	} {
		w := do(h, tt.method, v2Path+tt.path, "")
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != tt.status || p.Status != tt.status || p.Detail == "" ||
			w.Header().Get("Allow") != tt.allow || w.Header().Get("Content-Type") != problemType {
			t.Errorf("%s %s: %d, Allow %q: %s", tt.method, tt.path, w.Code, w.Header().Get("Allow"), w.Body)
		}
	}
}

// TestV2 checks what version 2 shows.
func TestV2(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		get := func(path string, status int, want string) {
			t.Helper()
			synctest.Wait()
			w := do(s, "GET", v2Path+path, "")
			var got bytes.Buffer
			if err := json.Indent(&got, w.Body.Bytes(), "", " "); err != nil {
				t.Fatalf("%s: %v", path, err)
			}
			var indented bytes.Buffer
			if err := json.Indent(&indented, []byte(want), "", " "); err != nil {
				t.Fatal(err)
			}
			if w.Code != status || got.String() != indented.String() {
				t.Errorf("GET %s: %d\n%s\nwant %d\n%s", path, w.Code, &got, status, &indented)
			}
		}
		get("/clients", 200, `{"clients":[]}`)
		get("/banks", 200, `{"banks":[]}`)
		get("/slotmaps", 200, `{"slotmaps":[]}`)

		b := s.bank(1, func(r *rspro.ConnectBankReq) {
			r.Endpoint = netip.MustParseAddrPort("[2001:db8::9]:10000")
			r.Features = rspro.LateAtr | rspro.BankState | 1<<7
		})
		c := s.client(23, 0, func(r *rspro.ConnectClientReq) {
			r.Identity.HWModel = "simtrace2"
			r.Features = rspro.AtrAfterReset
		})
		auto := s.client(0, 0, func(r *rspro.ConnectClientReq) { r.Slot = nil })
		testnet.Expect[*rspro.ConfigClientIDReq](auto)
		b.Send(&rspro.BankSlotmapsInd{Last: true})
		time.Sleep(1500 * time.Millisecond)
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		testnet.Expect[*rspro.CreateMappingReq](b)
		time.Sleep(1500 * time.Millisecond)

		component := func(kind, software, model string) string {
			return `{"type":"` + kind + `","name":"testnet","software":"` + software + `","swVersion":"1.1.3.14-4b36",
				"hwManufacturer":null,"hwModel":` + model + `,"hwSerialNr":null,"hwVersion":null,"fwVersion":null}`
		}
		client := func(told, lastError string) string {
			return `{"client":{"clientId":23,"slotNr":0},"peer":"C23:0","state":"CONNECTED_CLIENT",
				"component":` + component("remsimClient", "remsim-client", `"simtrace2"`) + `,"address":"10.0.0.7:32769",
				"connectedAt":"2000-01-01T00:00:00.000Z","features":["atrAfterReset"],"lastError":` + lastError + `,"assigned":null,"told":` + told + `}`
		}
		const assigned = `{"name":"testnet","serialNr":"","interface":"","instance":0}`
		waiting := `{"client":{"clientId":1023,"slotNr":0},"peer":"C1023:0","state":"WAIT_CONFIG_RES",
				"component":` + component("remsimClient", "remsim-client", `null`) + `,"address":"10.0.0.7:32770",
				"connectedAt":"2000-01-01T00:00:00.000Z","features":[],"lastError":null,"assigned":` + assigned + `,"told":null}`
		// slots are 8, all unknown but one.
		slots := func(one string) string {
			l := make([]string, 8)
			for i := range l {
				l[i] = fmt.Sprintf(`{"slotNr":%d,"reader":null,"present":null,"atr":null,"client":null,"mapState":null,"state":null,"lastError":null}`, i)
			}
			if one != "" {
				l[1] = one
			}
			return "[" + strings.Join(l, ",") + "]"
		}
		bank := func(lastError, slot string) string {
			return `{"bankId":1,"peer":"B1","state":"CONNECTED_BANKD",
				"component":` + component("remsimBankd", "remsim-bankd", `null`) + `,"address":"10.0.0.7:32768",
				"connectedAt":"2000-01-01T00:00:00.000Z","features":["lateAtr","bankState","bit7"],"lastError":` + lastError + `,
				"numberOfSlots":8,"endpoint":"[2001:db8::9]:10000","slots":` + slots(slot) + `}`
		}
		slotmap := func(state, changed, deleted, owed, lastError string) string {
			return `{"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"` + state + `",
				"createdAt":"2000-01-01T00:00:01.500Z","changedAt":` + changed + `,"deletedAt":` + deleted + `,
				"adopted":false,"owed":` + owed + `,"lastError":` + lastError + `}`
		}
		get("/clients", 200, `{"clients":[`+client("null", "null")+`,`+waiting+`]}`)
		const map1 = `"client":{"clientId":23,"slotNr":0},"mapState":`
		slot1 := `{"slotNr":1,"reader":null,"present":null,"atr":null,` + map1 + `"UNACKNOWLEDGED","state":null,"lastError":null}`
		get("/banks", 200, `{"banks":[`+bank("null", slot1)+`]}`)
		get("/banks/1", 200, bank("null", slot1))
		get("/client-ids", 200, `{"clientIds":[{"client":{"clientId":1023,"slotNr":0},"assigned":`+assigned+`,"connected":true}]}`)
		get("/server", 200, `{"name":"srv","version":"1","startedAt":"2000-01-01T00:00:00.000Z","starts":1,"durable":false,"clientIdPool":"1023",
			"limits":{"bodyBytes":65536,"bulkBytes":4194304,"bulkOperations":20000,"eventStreams":256}}`)
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1}}})
		slot1 = `{"slotNr":1,"reader":null,"present":false,"atr":null,` + map1 + `"UNACKNOWLEDGED","state":"FREE","lastError":null}`
		get("/banks/B1", 200, bank("null", slot1))
		get("/clients/C1023:0", 200, waiting)
		get("/slotmaps", 200, `{"slotmaps":[`+slotmap("UNACKNOWLEDGED", `"2000-01-01T00:00:01.500Z"`, "null", "false", "null")+`]}`)

		b.Send(&rspro.CreateMappingRes{})
		testnet.Expect[*rspro.ConfigClientBankReq](c)
		told := `{"bank":{"bankId":1,"slotNr":1},"bankd":"[2001:db8::9]:10000","at":"2000-01-01T00:00:03.000Z","answer":`
		get("/clients/23:0", 200, client(told+`null}`, "null"))
		c.Send(&rspro.ConfigClientBankRes{})
		get("/clients/C23:0", 200, client(told+`"ok"}`, "null"))
		b.Send(&rspro.ErrorInd{Sender: rspro.Bankd, Severity: rspro.Major, Code: 2, Bank: &slot.Bank{ID: 1, Slot: 1}, Text: "mute"})
		const mute = `"errorInd: code 2, severity 2: mute"`
		slot1 = `{"slotNr":1,"reader":null,"present":false,"atr":null,` + map1 + `"ACTIVE","state":"MAPPED","lastError":` + mute + `}`
		get("/banks/1", 200, bank(mute, slot1))
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Present: true, Reader: "Reader \"ü\" 00 01", ATR: []byte{0x3b, 0x9f, 0}}}})
		slot1 = `{"slotNr":1,"reader":"Reader \"\u00fc\" 00 01","present":true,"atr":"3b9f00",` + map1 + `"ACTIVE","state":"CARD","lastError":null}`
		get("/banks/1", 200, bank(mute, slot1))
		b.Send(&rspro.BankSlotInfoInd{Slots: []rspro.SlotInfo{{Slot: 1, Present: true, Error: "no answer"}}})
		slot1 = `{"slotNr":1,"reader":null,"present":true,"atr":null,` + map1 + `"ACTIVE","state":"FAILED","lastError":"no answer"}`
		get("/banks/1", 200, bank(mute, slot1))
		get("/slotmaps/1:1", 200, slotmap("ACTIVE", `"2000-01-01T00:00:03.000Z"`, "null", "false", `"errorInd: code 2, severity 2: mute"`))

		time.Sleep(time.Second)
		s.expect("DELETE", v1Path+"/slotmaps/65537", "", 200, "")
		s.expect("GET", v1Path+"/slotmaps", "", 200, `{"slotmaps":[]}`)
		at := `"2000-01-01T00:00:04.000Z"`
		get("/slotmaps/B1:1", 200, slotmap("DELETING", at, at, "false", `"errorInd: code 2, severity 2: mute"`))
		b.Close()
		get("/slotmaps/B1:1", 200, slotmap("DELETE_REQ", at, at, "true", `"errorInd: code 2, severity 2: mute"`))
		testnet.Expect[*rspro.ConfigClientBankReq](c)
		c.Send(&rspro.ConfigClientBankRes{Result: rspro.IllegalBankID})
		get("/clients/23:0", 200, client(`{"bank":{"bankId":1,"slotNr":1},"bankd":null,"at":`+at+`,"answer":"illegalBankId"}`,
			`"configClientBank: illegalBankId"`))

		for path, status := range map[string]int{
			"/clients/7:0": 404, "/clients/23": 400, "/clients/1024:0": 400, "/banks/1": 404, "/banks/x": 400, "/banks/65536": 400,
			"/slotmaps/1:2": 404, "/slotmaps/x": 400, "/slotmaps/65537": 400,
		} {
			if w := do(s, "GET", v2Path+path, ""); w.Code != status || w.Header().Get("Content-Type") != "application/problem+json" {
				t.Errorf("GET %s: %d %s, want %d", path, w.Code, w.Body, status)
			}
		}
	})
}

// TestAdopted checks that a map that was found at its bankd is a map like others.
func TestAdopted(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		b := s.bank(1, func(r *rspro.ConnectBankReq) { r.Features = rspro.BankState })
		m := slot.Map{Bank: slot.Bank{ID: 1, Slot: 1}, Client: slot.Client{ID: 23}}
		b.Send(&rspro.BankSlotmapsInd{Maps: []slot.Map{m}, Last: true})
		time.Sleep(time.Second)
		shown := func(adopted bool) {
			t.Helper()
			const sm = `"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"ACTIVE"`
			s.expect("GET", v1Path+"/slotmaps", "", 200, `{"slotmaps":[{`+sm+`}]}`)
			const at = `"2000-01-01T00:00:00.000Z"`
			s.expect("GET", v2Path+"/slotmaps/1:1", "", 200, `{`+sm+`,"createdAt":`+at+`,"changedAt":`+at+`,"deletedAt":null,`+
				fmt.Sprintf(`"adopted":%t,"owed":false,"lastError":null}`, adopted))
		}
		shown(true)
		// A back-end that makes all its maps again after the server's restart may do that.
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		shown(false)
		b.Quiet(time.Second)
		for _, body := range []string{slotmapBody(1, 1, 23, 0), slotmapBody(1, 1, 24, 0), slotmapBody(1, 2, 23, 0)} {
			if w := do(s, "POST", v1Path+"/slotmaps", body); w.Code != 400 {
				t.Errorf("POST %s: %d", body, w.Code)
			}
		}
		s.expect("DELETE", v1Path+"/slotmaps/65537", "", 200, "")
		testnet.Expect[*rspro.RemoveMappingReq](b)
	})
}

// TestASCII checks the escapes.
func TestASCII(t *testing.T) {
	for _, s := range []string{"", "abc", "ä", "aä€𝄞z", "\u2028"} {
		in, _ := json.Marshal(s)
		out := ascii(in)
		var back string
		if err := json.Unmarshal(out, &back); err != nil || back != s {
			t.Errorf("%q becomes %s: %q, %v", s, out, back, err)
		}
		if bytes.ContainsFunc(out, func(r rune) bool { return r > 126 }) {
			t.Errorf("%q becomes %s", s, out)
		}
	}
}

// TestLongBody checks that a body over 64 KiB is refused, announced or not, and one of 64 KiB isn't.
func TestLongBody(t *testing.T) {
	log, _ := logtest.NewNullLogger()
	h := Handler(server.NewState(), log.WithField("cat", "DREST"))
	long := slotmapBody(1, 1, 23, 0) + strings.Repeat(" ", maxBody)
	for _, tt := range []struct {
		body   io.Reader
		status int
	}{
		{strings.NewReader(long), 413},
		{struct{ io.Reader }{strings.NewReader(long)}, 413}, // chunked
		{strings.NewReader(long[:maxBody]), 201},
	} {
		r := httptest.NewRequest("POST", v1Path+"/slotmaps", tt.body)
		r.Header.Set("Content-Type", "application/json")
		w := httptest.NewRecorder()
		if h.ServeHTTP(w, r); w.Code != tt.status {
			t.Errorf("%d bytes announced: %d %s, want %d", r.ContentLength, w.Code, w.Body, tt.status)
		}
	}
}

// TestServe talks HTTP to a server on the network: a request, one whose header never ends, one
// whose body never comes, an RSPRO program, and the end.
func TestServe(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		dial := func() net.Conn {
			c, err := s.net.Host("10.0.0.7").Dial(t.Context(), netip.MustParseAddrPort("10.0.0.1:9997"))
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
			return c
		}
		send := func(text string) net.Conn {
			c := dial()
			if _, err := io.WriteString(c, text); err != nil {
				t.Fatal(err)
			}
			return c
		}
		status := func(c net.Conn) int {
			res, err := http.ReadResponse(bufio.NewReader(c), nil)
			if err != nil {
				t.Fatal(err)
			}
			return res.StatusCode
		}
		const get = "GET /api/backend/v1/clients HTTP/1.1\r\nHost: x\r\n"
		if got := status(send(get + "\r\n")); got != 200 {
			t.Errorf("GET: %d", got)
		}

		start := time.Now()
		io.Copy(io.Discard, send(get)) //nolint:errcheck // ends somehow
		if d := time.Since(start); d != headerTimeout {
			t.Errorf("unfinished header: closed after %v, want %v", d, headerTimeout)
		}

		start = time.Now()
		c := send("POST /api/backend/v1/slotmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n")
		if got := status(c); got != 400 || time.Since(start) != readTimeout {
			t.Errorf("missing body: %d after %v, want 400 after %v", got, time.Since(start), readTimeout)
		}

		c = send("\x00\x01\xfe\x00")
		synctest.Wait()
		if e := s.log.LastEntry(); !strings.Contains(e.Message, "RSPRO program is connected to the REST port") {
			t.Errorf("log: %s", e.Message)
		}
		c.Close()

		idle, under := dial(), send("POST /api/backend/v1/slotmaps HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\nContent-Length: 99\r\n\r\n")
		synctest.Wait()
		start = time.Now()
		s.stop()
		if d := time.Since(start); d > 5*time.Second {
			t.Errorf("ended after %v, want 5s at most", d)
		}
		for _, c := range []net.Conn{idle, under} {
			io.Copy(io.Discard, c) //nolint:errcheck // ends somehow
		}
	})
}

// FuzzPost takes any body; what is accepted shows as a map of what the body says.
func FuzzPost(f *testing.F) {
	f.Add([]byte(slotmapBody(1, 2, 23, 1)))
	f.Add([]byte(`{"bank":{"bankId":1.0,"slotNr":-2},"client":{"clientId":null}}`))
	f.Add([]byte(`{"bank":{"bankId":1,"bankId":2,"slotNr":3},"client":{"clientId":4,"slotNr":5},"state":"ü"}`))
	f.Add([]byte(`[{"bank":7}`))
	f.Fuzz(func(t *testing.T, body []byte) {
		m, bad := parseSlotmap(body)
		if bad != nil {
			w := httptest.NewRecorder()
			bad.Status = 400
			refuse(w, *bad)
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Detail == "" {
				t.Fatalf("%s: %v", w.Body, err)
			}
			return
		}
		if !m.Bank.Valid() || !m.Client.Valid() {
			t.Fatalf("%s accepted as %v", body, m)
		}
		var loose struct {
			Bank   struct{ BankID, SlotNr json.Number }
			Client struct{ ClientID, SlotNr json.Number }
		}
		if err := json.Unmarshal(body, &loose); err != nil {
			t.Fatalf("%s accepted as %v: %v", body, m, err)
		}
	})
}

// FuzzPath takes any path and method; the answer is one of those documented.
func FuzzPath(f *testing.F) {
	for _, p := range []string{"/clients/C23:0", "/clients/23%3A0", "/banks/65536", "/slotmaps/65537", "/slotmaps//", "/../v1/clients"} {
		f.Add("GET", v1Path+p)
		f.Add("DELETE", v2Path+p)
		f.Add("PUT", v2Path+p)
	}
	f.Add("POST", v2Path+"/slotmaps/bulk")
	f.Add("DELETE", v2Path+"/slotmaps/B1:5")
	log, _ := logtest.NewNullLogger()
	h := Handler(server.NewState(), log.WithField("cat", "DREST"))
	f.Fuzz(func(t *testing.T, method, path string) {
		r, err := http.NewRequest(method, "http://x"+path, nil)
		if err != nil || strings.Contains(r.URL.Path, "/events") { // a stream has no end
			return
		}
		w := httptest.NewRecorder()
		h.ServeHTTP(w, r)
		switch w.Code {
		case 200, 204, 400, 404, 405, 415:
		default:
			t.Fatalf("%s %s: %d", method, path, w.Code)
		}
	})
}

// BenchmarkPost makes and deletes a map over REST beside others.
func BenchmarkPost(b *testing.B) {
	for _, n := range []int{100, 100_000} {
		b.Run(fmt.Sprint(n), func(b *testing.B) {
			state := server.NewState()
			for i := range n {
				id, nr := uint16(i>>10), uint16(i&1023)
				if _, err := state.Commit(b.Context(), server.CreateMap(slot.Map{Bank: slot.Bank{ID: id, Slot: nr}, Client: slot.Client{ID: id, Slot: nr}})); err != nil {
					b.Fatal(err)
				}
			}
			log, _ := logtest.NewNullLogger()
			log.SetLevel(logrus.WarnLevel)
			h := Handler(state, log.WithField("cat", "DREST"))
			body := slotmapBody(1023, 1, 1023, 1)
			id := fmt.Sprint(1023<<16 + 1)
			for b.Loop() {
				if w := do(h, "POST", v1Path+"/slotmaps", body); w.Code != 201 {
					b.Fatal(w.Code)
				}
				if w := do(h, "DELETE", v1Path+"/slotmaps/"+id, ""); w.Code != 200 {
					b.Fatal(w.Code)
				}
			}
		})
	}
}

// TestPath checks that paths are decoded once.
func TestPath(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.client(1, 0, nil)
		for path, want := range map[string]int{
			"/clients/1":           200,
			"/clients/%31":         200,
			"/clients/C1%3A0":      200,
			"/clients/C1%3a0/":     200,
			"/clients/%2531":       400,
			"/clients/C1%253A0":    400,
			"/clients/C1%3A0%2531": 400,
			"/clients/%253A%3A0/":  400,
			"/clients/1%2F0":       404,
		} {
			if w := do(s, "GET", v1Path+path, ""); w.Code != want {
				t.Errorf("GET %s: %d, want %d", path, w.Code, want)
			}
		}
	})
}

// TestCrossSite checks that no page of another site can have its reader's browser change anything.
func TestCrossSite(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		s.expect("POST", v1Path+"/slotmaps", slotmapBody(1, 1, 23, 0), 201, "")
		ask := func(method, path string, header ...string) int {
			r := httptest.NewRequest(method, "http://sim.example:9997"+v1Path+path, nil)
			for i := 0; i < len(header); i += 2 {
				r.Header.Set(header[i], header[i+1])
			}
			w := httptest.NewRecorder()
			s.ServeHTTP(w, r)
			if w.Code == 403 {
				var p problem
				if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || p.Status != 403 ||
					w.Header().Get("Content-Type") != "application/problem+json" {
					t.Errorf("%s %s: %s", method, path, w.Body)
				}
			}
			return w.Code
		}
		for _, header := range [][]string{
			{"Sec-Fetch-Site", "cross-site"},
			{"Sec-Fetch-Site", "same-site", "Origin", "http://sim.example"},
			{"Origin", "http://evil.example"},
			{"Origin", "null"},
		} {
			for method, path := range map[string]string{"POST": "/global-reset", "DELETE": "/slotmaps/65537"} {
				if got := ask(method, path, header...); got != 403 {
					t.Errorf("%s %s with %q: %d, want 403", method, path, header, got)
				}
			}
			if got := ask("GET", "/slotmaps", header...); got != 200 {
				t.Errorf("GET with %q: %d, want 200", header, got)
			}
		}
		if n := len(s.state.Slotmaps()); n != 1 {
			t.Fatalf("%d maps left", n)
		}
		if got := ask("DELETE", "/slotmaps/65537", "Origin", "http://sim.example:9997"); got != 200 {
			t.Errorf("DELETE of a page of its own: %d", got)
		}
		if got := ask("POST", "/global-reset"); got != 200 {
			t.Errorf("POST of a program: %d", got)
		}
	})
}
