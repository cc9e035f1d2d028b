// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

// ask makes a request with header fields, name and value in turn.
func ask(h http.Handler, method, path, body string, header ...string) *httptest.ResponseRecorder {
	r := httptest.NewRequest(method, v2Path+path, strings.NewReader(body))
	if body != "" {
		r.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		r.Header.Set(header[i], header[i+1])
	}
	w := httptest.NewRecorder()
	h.ServeHTTP(w, r)
	return w
}

// mapsOf returns the wanted maps, as "C23:0=B1:1 …", by bank slot.
func mapsOf(s *server.State) string {
	var l []string
	for _, m := range s.Slotmaps() {
		if !m.Leaving() {
			l = append(l, m.Map.String())
		}
	}
	slices.Sort(l)
	return strings.Join(l, " ")
}

// clientBody is the body of a PUT.
func clientBody(c, cs int) string {
	return fmt.Sprintf(`{"client":{"clientId":%d,"slotNr":%d}}`, c, cs)
}

// op is an operation of a bulk.
func op(kind string, numbers ...int) string {
	s := fmt.Sprintf(`{"op":%q,"bank":{"bankId":%d,"slotNr":%d}`, kind, numbers[0], numbers[1])
	if len(numbers) == 4 {
		s += fmt.Sprintf(`,"client":{"clientId":%d,"slotNr":%d}`, numbers[2], numbers[3])
	}
	return s + "}"
}

func bulk(ops ...string) string { return `{"operations":[` + strings.Join(ops, ",") + `]}` }

// TestWrite makes the changes of v2 one after another, each to what those before it have left.
func TestWrite(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		for _, tt := range []struct {
			method, path, body string
			header             []string
			status             int
			maps               string // that there are then
		}{
			{"POST", "/slotmaps", slotmapBody(1, 1, 23, 0), nil, 201, "C23:0=B1:1"},
			{"POST", "/slotmaps", slotmapBody(1, 1, 23, 0), nil, 409, "C23:0=B1:1"},
			{"POST", "/slotmaps", slotmapBody(1, 1, 24, 0), nil, 409, "C23:0=B1:1"},
			{"POST", "/slotmaps", slotmapBody(1, 2, 23, 0), nil, 409, "C23:0=B1:1"},
			{"POST", "/slotmaps/", slotmapBody(1, 2, 24, 0), nil, 201, "C23:0=B1:1 C24:0=B1:2"},

			{"PUT", "/slotmaps/B1:1", clientBody(23, 0), nil, 200, "C23:0=B1:1 C24:0=B1:2"},
			{"PUT", "/slotmaps/1:1", slotmapBody(1, 1, 23, 0), nil, 200, "C23:0=B1:1 C24:0=B1:2"},
			{"PUT", "/slotmaps/B1%3A1", slotmapBody(1, 2, 23, 0), nil, 400, "C23:0=B1:1 C24:0=B1:2"},
			{"PUT", "/slotmaps/B1:1", clientBody(24, 0), nil, 201, "C24:0=B1:1"}, // both maps end
			{"PUT", "/slotmaps/B1:1", clientBody(24, 0), nil, 200, "C24:0=B1:1"},
			{"PUT", "/slotmaps/B1:3", clientBody(24, 0), nil, 201, "C24:0=B1:3"}, // moves
			{"PUT", "/slotmaps/B1:3", clientBody(25, 0), nil, 201, "C25:0=B1:3"}, // gives to another

			{"PUT", "/slotmaps/B1:3", clientBody(26, 0), []string{"If-Match", `"C24:0"`}, 412, "C25:0=B1:3"},
			{"PUT", "/slotmaps/B1:3", clientBody(26, 0), []string{"If-None-Match", "*"}, 412, "C25:0=B1:3"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-Match", "*"}, 412, "C25:0=B1:3"},
			{"PUT", "/slotmaps/B1:3", clientBody(26, 0), []string{"If-Match", `"C25:0"`}, 201, "C26:0=B1:3"},
			{"PUT", "/slotmaps/B1:3", clientBody(25, 0), []string{"If-Match", "*"}, 201, "C25:0=B1:3"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-None-Match", "*"}, 201, "C25:0=B1:3 C26:0=B1:4"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-Match", `C26:0`}, 400, "C25:0=B1:3 C26:0=B1:4"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-Match", `"26:0"`}, 400, "C25:0=B1:3 C26:0=B1:4"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-Match", `W/"C26:0"`}, 400, "C25:0=B1:3 C26:0=B1:4"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-None-Match", `"C26:0"`}, 400, "C25:0=B1:3 C26:0=B1:4"},
			{"PUT", "/slotmaps/B1:4", clientBody(26, 0), []string{"If-None-Match", `*`, "If-Match", "*"}, 400, "C25:0=B1:3 C26:0=B1:4"},

			{"DELETE", "/slotmaps/B1:4", "", []string{"If-Match", `"C25:0"`}, 412, "C25:0=B1:3 C26:0=B1:4"},
			{"DELETE", "/slotmaps/B1:4", "", []string{"If-Match", `"C26:0"`}, 204, "C25:0=B1:3"},
			{"DELETE", "/slotmaps/B1:4", "", []string{"If-Match", `"C26:0"`}, 412, "C25:0=B1:3"},
			{"DELETE", "/slotmaps/B1:4", "", []string{"If-Match", "*"}, 412, "C25:0=B1:3"},
			{"DELETE", "/slotmaps/B1:4", "", nil, 204, "C25:0=B1:3"}, // there is none to delete
			{"DELETE", "/slotmaps/1:3/", "", nil, 204, ""},
			{"DELETE", "/slotmaps/65537", "", nil, 400, ""},
			{"DELETE", "/slotmaps/B1:1024", "", nil, 400, ""},

			{"POST", "/slotmaps/bulk", bulk(op("create", 1, 1, 1, 0), op("create", 1, 2, 2, 0), op("put", 1, 3, 3, 0)), nil, 200, "C1:0=B1:1 C2:0=B1:2 C3:0=B1:3"},
			{"POST", "/slotmaps/bulk", bulk(op("put", 1, 1, 2, 0), op("put", 1, 2, 1, 0)), nil, 200, "C1:0=B1:2 C2:0=B1:1 C3:0=B1:3"}, // swap
			{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 3), op("create", 1, 3, 4, 0), op("create", 1, 2, 5, 0)), nil, 409, "C1:0=B1:2 C2:0=B1:1 C3:0=B1:3"},
			{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 3), op("create", 1, 3, 4, 0), op("delete", 1, 4)), nil, 409, "C1:0=B1:2 C2:0=B1:1 C3:0=B1:3"},
			{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 3, 4, 0)), nil, 409, "C1:0=B1:2 C2:0=B1:1 C3:0=B1:3"},
			{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 3, 3, 0), op("create", 1, 3, 4, 0)), nil, 200, "C1:0=B1:2 C2:0=B1:1 C4:0=B1:3"},
			{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 1), op("delete", 1, 2), op("delete", 1, 3)), nil, 200, ""},
		} {
			w := ask(s, tt.method, tt.path, tt.body, tt.header...)
			if got := mapsOf(s.state); w.Code != tt.status || got != tt.maps {
				t.Errorf("%s %s %s %q: %d %s, maps %s; want %d, %s", tt.method, tt.path, tt.body, tt.header, w.Code, w.Body, got, tt.status, tt.maps)
			}
			if w.Code == 201 && tt.method == "POST" {
				if at := w.Header().Get("Location"); do(s, "GET", at, "").Body.String() != w.Body.String() {
					t.Errorf("%s: %s isn't what is at %s", tt.body, w.Body, at)
				}
			}
			if tt.method == "PUT" && w.Code < 300 || w.Code == 201 {
				if get := ask(s, "GET", "/slotmaps/"+w.Header().Get("ETag"), ""); get.Code != 400 || w.Header().Get("ETag") == "" {
					t.Errorf("%s: ETag %q", tt.body, w.Header().Get("ETag"))
				}
			}
		}
	})
}

// TestWriteShown checks what is shown of a map that is made, moved and deleted: its times, and what peers are told.
func TestWriteShown(t *testing.T) {
	inSite(t, func(t *testing.T, s *site) {
		b := s.bank(1, nil)
		c := s.client(23, 0, nil)
		shown := func(w *httptest.ResponseRecorder, bank, state, created, changed string) {
			t.Helper()
			want := `{"bank":{"bankId":1,"slotNr":` + bank + `},"client":{"clientId":23,"slotNr":0},"state":"` + state +
				`","createdAt":"2000-01-01T00:00:0` + created + `.000Z","changedAt":"2000-01-01T00:00:0` + changed +
				`.000Z","deletedAt":null,"adopted":false,"owed":false,"lastError":null}`
			if w.Body.String() != want {
				t.Errorf("%d %s\nwant %s", w.Code, w.Body, want)
			}
		}
		time.Sleep(time.Second)
		// Sent back as it was shown by another server.
		body := `{"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"ACTIVE","createdAt":"x","changedAt":null,"deletedAt":null,"adopted":true,"owed":7,"lastError":{}}`
		w := ask(s, "POST", "/slotmaps", body)
		if w.Code != 201 || w.Header().Get("Location") != v2Path+"/slotmaps/B1:1" || w.Header().Get("ETag") != `"C23:0"` {
			t.Errorf("%d %v", w.Code, w.Header())
		}
		testnet.Expect[*rspro.CreateMappingReq](b)
		time.Sleep(time.Second)
		b.Send(&rspro.CreateMappingRes{})
		if m := testnet.Expect[*rspro.ConfigClientBankReq](c); m.Bank != (slot.Bank{ID: 1, Slot: 1}) {
			t.Errorf("client is told of %v", m.Bank)
		}
		c.Send(&rspro.ConfigClientBankRes{})
		synctest.Wait()
		shown(ask(s, "PUT", "/slotmaps/1:1", clientBody(23, 0)), "1", "ACTIVE", "1", "2")
		b.Quiet(time.Second)
		if w = ask(s, "PUT", "/slotmaps/1:2", clientBody(23, 0)); w.Code != 201 {
			t.Errorf("move: %d", w.Code)
		}
		if m := testnet.Expect[*rspro.CreateMappingReq](b); m.Bank.Slot != 2 {
			t.Errorf("bankd is asked for %v", m.Bank)
		}
		b.Send(&rspro.CreateMappingRes{})
		if m := testnet.Expect[*rspro.RemoveMappingReq](b); m.Bank.Slot != 1 {
			t.Errorf("bankd is asked to remove %v", m.Bank)
		}
		b.Send(&rspro.RemoveMappingRes{})
		if m := testnet.Expect[*rspro.ConfigClientBankReq](c); m.Bank != (slot.Bank{ID: 1, Slot: 2}) {
			t.Errorf("client is told of %v", m.Bank)
		}
		synctest.Wait()
		shown(ask(s, "GET", "/slotmaps/1:2", ""), "2", "ACTIVE", "1", "3")
	})
}

// TestWriteRefused checks what is said of requests that are wrong.
func TestWriteRefused(t *testing.T) {
	state := server.NewState()
	h := checked(t, newHandler(state))
	if w := ask(h, "POST", "/slotmaps", slotmapBody(1, 1, 23, 0)); w.Code != 201 {
		t.Fatal(w.Code)
	}
	const ids = "an integer 0..1023"
	const one = "an array of 1..20000 operations"
	const mapNames = "adopted, bank, changedAt, client, createdAt, deletedAt, lastError, owed, state"
	good := slotmapBody(1, 2, 24, 0)
	for _, tt := range []struct {
		method, path, body string
		status             int
		index              int // -1: not told
		member             string
		value              string // JSON; empty: not told
		allowed            string
	}{
		{"POST", "/slotmaps", " ", 400, -1, "", "", "a JSON object"},
		{"POST", "/slotmaps", "{", 400, -1, "", "", "a JSON object"},
		{"POST", "/slotmaps", "[]", 400, -1, "", "[]", "a JSON object"},
		{"POST", "/slotmaps", `{}`, 400, -1, "bank", "", "a JSON object"},
		{"POST", "/slotmaps", good[:len(good)-1] + `,"clinet":{"x":1}}`, 400, -1, "clinet", `{"x":1}`, mapNames},
		{"POST", "/slotmaps", strings.Replace(good, `"slotNr":2`, `"slotNr":2,"slot":3`, 1), 400, -1, "bank.slot", "3", "bankId, slotNr"},
		{"POST", "/slotmaps", strings.Replace(good, `"slotNr":2`, `"slotNr":4711`, 1), 400, -1, "bank.slotNr", "4711", ids},
		{"POST", "/slotmaps", strings.Replace(good, `"clientId":24`, `"clientId":"24"`, 1), 400, -1, "client.clientId", `"24"`, ids},
		{"POST", "/slotmaps", slotmapBody(1, 1, 24, 0), 409, -1, "bank", `{"bankId":1,"slotNr":1}`, "a slot that is in no map"},
		{"POST", "/slotmaps", slotmapBody(1, 2, 23, 0), 409, -1, "client", `{"clientId":23,"slotNr":0}`, "a slot that is in no map"},
		{"PUT", "/slotmaps/x", clientBody(1, 0), 400, -1, "bank", `"x"`, "B{bankId}:{slotNr}"},
		{"PUT", "/slotmaps/1:1024", clientBody(1, 0), 400, -1, "bank", `"1:1024"`, "B{bankId}:{slotNr}"},
		{"PUT", "/slotmaps/1:2", `{}`, 400, -1, "client", "", "a JSON object"},
		{"PUT", "/slotmaps/1:2", clientBody(1024, 0), 400, -1, "client.clientId", "1024", ids},
		{"PUT", "/slotmaps/1:2", slotmapBody(1, 3, 1, 0), 400, -1, "bank", `{"bankId":1,"slotNr":3}`, `{"bankId":1,"slotNr":2}`},
		{"DELETE", "/slotmaps/bulk", "", 400, -1, "bank", `"bulk"`, "B{bankId}:{slotNr}"},
		{"POST", "/slotmaps/bulk", `{}`, 400, -1, "operations", "", one},
		{"POST", "/slotmaps/bulk", `{"operations":7}`, 400, -1, "operations", "7", one},
		{"POST", "/slotmaps/bulk", `{"operations":null}`, 400, -1, "operations", "null", one},
		{"POST", "/slotmaps/bulk", `{"operations":[]}`, 400, -1, "operations", "[]", one},
		{"POST", "/slotmaps/bulk", `{"operations":[],"x":1}`, 400, -1, "x", "1", "operations"},
		{"POST", "/slotmaps/bulk", `{"operations":[` + strings.Repeat("0,", 20000) + `0]}`, 413, -1, "operations", `"20001 operations"`, one},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), "7"), 400, 1, "operation", "7", "a JSON object"},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), "{}"), 400, 1, "op", "", "create, put or delete"},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), op("move", 1, 2, 3, 4)), 400, 1, "op", `"move"`, "create, put or delete"},
		{"POST", "/slotmaps/bulk", bulk(`{"op":{}}`), 400, 0, "op", `{}`, "create, put or delete"},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), op("create", 2, 1)), 400, 1, "client", "", "a JSON object"},
		{"POST", "/slotmaps/bulk", bulk(op("put", 2, 0, 2, 1024)), 400, 0, "client.slotNr", "1024", ids},
		{"POST", "/slotmaps/bulk", bulk(op("delete", 1024, 0)), 400, 0, "bank.bankId", "1024", ids},
		{"POST", "/slotmaps/bulk", bulk(`{"op":"delete","bank":{"bankId":1,"slotNr":1},"clinet":{}}`), 400, 0, "clinet", "{}", "bank, client, op"},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), op("create", 1, 1, 3, 0)), 409, 1, "bank", `{"bankId":1,"slotNr":1}`, "a slot that is in no map"},
		{"POST", "/slotmaps/bulk", bulk(op("create", 2, 0, 2, 0), op("create", 2, 1, 2, 0)), 409, 1, "client", `{"clientId":2,"slotNr":0}`, "a slot that is in no map"},
		{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 1), op("delete", 1, 1)), 409, 1, "bank", `{"bankId":1,"slotNr":1}`, "a slot that is in a map"},
		{"POST", "/slotmaps/bulk", bulk(op("delete", 1, 1, 24, 0)), 409, 0, "bank", `{"bankId":1,"slotNr":1}`, ""},
	} {
		w := ask(h, tt.method, tt.path, tt.body)
		var p problem
		if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil {
			t.Errorf("%s: %v", tt.body, err)
			continue
		}
		index := -1
		if p.Index != nil {
			index = *p.Index
		}
		if w.Code != tt.status || index != tt.index || p.Member != tt.member || p.Allowed != tt.allowed || string(p.Value) != tt.value ||
			p.Detail == "" || w.Header().Get("Content-Type") != problemType {
			t.Errorf("%s %s %.200s: %d %s", tt.method, tt.path, tt.body, w.Code, w.Body)
		}
	}
	if got := mapsOf(state); got != "C23:0=B1:1" {
		t.Errorf("maps %s", got)
	}
	for _, ct := range []string{"", "text/plain", "application/x-www-form-urlencoded"} {
		if w := ask(h, "POST", "/slotmaps", good, "Content-Type", ct); w.Code != 415 {
			t.Errorf("%q: %d", ct, w.Code)
		}
	}
	for _, tt := range []struct {
		path string
		size int
	}{{"/slotmaps", maxBody}, {"/slotmaps/bulk", maxBulk}} {
		if w := ask(h, "POST", tt.path, strings.Repeat(" ", tt.size+1)); w.Code != 413 {
			t.Errorf("%s: %d", tt.path, w.Code)
		}
		if w := ask(h, "POST", tt.path, strings.Repeat(" ", tt.size)); w.Code != 400 {
			t.Errorf("%s: %d", tt.path, w.Code)
		}
	}
}

// TestBulkFull does the largest bulk there is.
func TestBulkFull(t *testing.T) {
	state := server.NewState()
	h := newHandler(state)
	var ops []string
	for i := range maxOperations {
		ops = append(ops, op("create", 1000+i>>10, i&1023, 1000+i>>10, i&1023))
	}
	body := bulk(ops...)
	if len(body) > maxBulk {
		t.Fatalf("%d operations take %d bytes", maxOperations, len(body))
	}
	w := ask(h, "POST", "/slotmaps/bulk", body)
	if n := len(state.Slotmaps()); w.Code != 200 || n != maxOperations || w.Body.String() != `{"operations":20000,"created":20000,"deleted":0}` {
		t.Errorf("%d %s: %d maps", w.Code, w.Body, n)
	}
}

// TestSwap has two back-ends move two clients' cards to and fro at the same time, by single PUTs and by bulks. At
// any time no client has two cards and no card two clients, and after each bulk both have one.
func TestSwap(t *testing.T) {
	state := server.NewState()
	h := newHandler(state)
	if w := ask(h, "POST", "/slotmaps/bulk", bulk(op("create", 1, 1, 1, 0), op("create", 1, 2, 2, 0))); w.Code != 200 {
		t.Fatal(w.Code)
	}
	var wg sync.WaitGroup
	for who := range 4 {
		wg.Go(func() {
			for i := range 200 {
				a, b := 1+(i+who)&1, 2-(i+who)&1
				w := ask(h, "POST", "/slotmaps/bulk", bulk(op("put", 1, 1, a, 0), op("put", 1, 2, b, 0)))
				if who == 3 {
					w = ask(h, "PUT", fmt.Sprintf("/slotmaps/1:%d", a), clientBody(b, 0))
				}
				if w.Code != 200 && w.Code != 201 {
					t.Errorf("%d %s", w.Code, w.Body)
				}
				banks, clients := map[slot.Bank]bool{}, map[slot.Client]bool{}
				for _, m := range state.Slotmaps() {
					if !m.Leaving() && (banks[m.Bank] || clients[m.Client]) {
						t.Errorf("two maps of %s", m.Map)
					}
					banks[m.Bank], clients[m.Client] = true, true
				}
			}
		})
	}
	wg.Wait()
	ask(h, "POST", "/slotmaps/bulk", bulk(op("put", 1, 1, 2, 0), op("put", 1, 2, 1, 0)))
	if got := mapsOf(state); got != "C1:0=B1:2 C2:0=B1:1" {
		t.Errorf("maps %s", got)
	}
}

// badStore is a store that fails.
type badStore struct{ err error }

func (s *badStore) Load(context.Context) (server.Snapshot, error) {
	return server.Snapshot{Durable: true}, nil
}

func (s *badStore) Commit(_ context.Context, base uint64, _ []server.Change) (uint64, error) {
	return base + 1, s.err
}

func (s *badStore) Watch(context.Context, uint64) iter.Seq2[server.Transaction, error] {
	return func(func(server.Transaction, error) bool) {}
}

func (s *badStore) Close() error { return nil }

// TestStoreFails checks that what can't be stored is refused with the reason, and isn't done; with the store well again it is.
func TestStoreFails(t *testing.T) {
	store := &badStore{}
	state, err := server.LoadState(t.Context(), store)
	if err != nil {
		t.Fatal(err)
	}
	h := checked(t, newHandler(state))
	if w := ask(h, "POST", "/slotmaps", slotmapBody(1, 1, 1, 0)); w.Code != 201 {
		t.Fatal(w.Code)
	}
	for _, tt := range []struct {
		err    error
		status int
	}{{errors.New("disk on fire"), 503}, {fmt.Errorf("write: %w", syscall.ENOSPC), 507}} {
		store.err = tt.err
		for _, r := range []struct{ method, path, body string }{
			{"POST", v2Path + "/slotmaps", slotmapBody(1, 2, 2, 0)},
			{"PUT", v2Path + "/slotmaps/1:1", clientBody(2, 0)},
			{"DELETE", v2Path + "/slotmaps/1:1", ""},
			{"POST", v2Path + "/slotmaps/bulk", bulk(op("delete", 1, 1), op("create", 1, 2, 2, 0))},
			{"POST", v1Path + "/slotmaps", slotmapBody(1, 2, 2, 0)},
			{"DELETE", v1Path + "/slotmaps/65537", ""},
			{"POST", v1Path + "/global-reset", ""},
		} {
			w := do(h, r.method, r.path, r.body)
			var p problem
			if err := json.Unmarshal(w.Body.Bytes(), &p); err != nil || w.Code != tt.status || !strings.Contains(p.Detail, tt.err.Error()) {
				t.Errorf("%s %s: %d %s", r.method, r.path, w.Code, w.Body)
			}
			if got := mapsOf(state); got != "C1:0=B1:1" {
				t.Fatalf("%s %s: maps %s", r.method, r.path, got)
			}
		}
	}
	store.err = nil
	if w := ask(h, "PUT", "/slotmaps/1:1", clientBody(2, 0)); w.Code != 201 || mapsOf(state) != "C2:0=B1:1" {
		t.Errorf("%d, maps %s", w.Code, mapsOf(state))
	}
}

// FuzzWrite takes any body for each route that takes one, and any condition. What is answered is as documented, and refused is what
// leaves the maps as they were.
func FuzzWrite(f *testing.F) {
	f.Add(uint8(0), slotmapBody(1, 2, 3, 4), "", "")
	f.Add(uint8(1), clientBody(3, 4), `"C1:0"`, "")
	f.Add(uint8(1), slotmapBody(1, 1, 3, 4), "", "*")
	f.Add(uint8(2), bulk(op("create", 1, 2, 3, 4), op("put", 1, 1, 2, 0), op("delete", 1, 2, 3, 4)), "", "")
	f.Add(uint8(3), "", `"C1:0"`, "")
	f.Add(uint8(2), `{"operations":[{"op":"delete","bank":{"bankId":1,"slotNr":1},"client":null}]}`, "*", `W/"x"`)
	f.Add(uint8(0), `{"bank":{"bankId":1e0}}`, "", "")
	f.Fuzz(func(t *testing.T, route uint8, body, match, noMatch string) {
		state := server.NewState()
		h := newHandler(state)
		ask(h, "POST", "/slotmaps", slotmapBody(1, 1, 1, 0))
		before := mapsOf(state)
		r := []struct{ method, path string }{
			{"POST", "/slotmaps"}, {"PUT", "/slotmaps/1:1"}, {"POST", "/slotmaps/bulk"}, {"DELETE", "/slotmaps/1:1"},
		}[route%4]
		header := []string{"Content-Type", "application/json"}
		if match != "" {
			header = append(header, "If-Match", match)
		}
		if noMatch != "" {
			header = append(header, "If-None-Match", noMatch)
		}
		w := ask(h, r.method, r.path, body, header...)
		switch w.Code {
		case 200, 201, 204:
		case 400, 409, 412:
			var p problem
			if err := json.NewDecoder(io.TeeReader(w.Body, io.Discard)).Decode(&p); err != nil || p.Detail == "" {
				t.Fatalf("%q: %s", body, w.Body)
			}
			if got := mapsOf(state); got != before {
				t.Fatalf("%q: refused with %d, but there are maps %s", body, w.Code, got)
			}
		default:
			t.Fatalf("%q: %d", body, w.Code)
		}
	})
}
