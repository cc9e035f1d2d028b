// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"cmp"
	"context"
	"net/http"
	"slices"
	"strings"
	"sync"
	"sync/atomic"

	"github.com/go-chi/chi/v5"
	"github.com/sirupsen/logrus"

	"remsim/internal/server"
)

const v2Base = "/api/v2"

// streamType is the type of server-sent events.
const streamType = "text/event-stream"

// v2 is the API that shows all. What isn't known, or isn't yet, is null.
type v2 struct {
	state   *server.State
	log     *logrus.Entry
	ended   <-chan struct{} // closed when event streams shall end
	streams atomic.Int32
	maps    lastList
}

// A route is a method of a path: how it is served and what is said of it in the OpenAPI document.
type route struct {
	method, path string // below v2Base; parameters are in braces
	id           string // operationId
	summary      string
	serve        http.HandlerFunc
	params       []param
	body         any // a value of the body's type; nil: there is none
	answers      []answer
	// refuses are the statuses of problems besides those that all requests, or all that change something, can get.
	refuses []int
}

// A param is a parameter of a path or a header.
type param struct {
	name, in, doc, example string
}

// An answer is one of success.
type answer struct {
	status      int
	doc         string
	body        any    // a value of its type; nil: there is none
	contentType string // empty: application/json
	headers     map[string]string
}

// headed reports whether HEAD is served where r is (RFC 9110, 9.3.2): with GET, but for what doesn't end.
func (r route) headed() bool {
	return r.method == http.MethodGet && !slices.ContainsFunc(r.answers, func(a answer) bool { return a.contentType == streamType })
}

// refusals returns the statuses of the problems that a request can get.
func (r route) refusals() []int {
	l := slices.Clone(r.refuses)
	if r.method != http.MethodGet {
		l = append(l, http.StatusForbidden, http.StatusServiceUnavailable, http.StatusInsufficientStorage)
	}
	if r.body != nil {
		l = append(l, http.StatusBadRequest, http.StatusRequestEntityTooLarge, http.StatusUnsupportedMediaType)
	}
	slices.Sort(l)
	return slices.Compact(l)
}

var (
	clientParam = param{"client", "path", "a client slot, C{clientId}:{slotNr}; the C may be left out", "C23:0"}
	bankParam   = param{"bank", "path", "a bank id; it may begin with B", "B1"}
	ifMatch     = param{"If-Match", "header", "only if the bank slot's map is that client's (see ETag); *: if it is any's", `"C23:0"`}
	ifNoneMatch = param{"If-None-Match", "header", "*: only if the bank slot is in no map", "*"}
	slotParam   = param{"slot", "path", "a bank slot, B{bankId}:{slotNr}; the B may be left out", "B1:5"}
)

const etagDoc = "the client slot in double quotes: for If-Match"

// routes returns all of v2.
func (a *v2) routes() []route {
	document := sync.OnceValue(func() []byte { return openAPI(cmp.Or(a.state.Info().Version, "unknown"), a.routes()) })
	return []route{
		{
			method: http.MethodGet, path: "/clients", id: "listClients", serve: a.clients,
			summary: "Connected clients, also those that wait for a client id",
			answers: []answer{{status: 200, doc: "all of them", body: clientsV2{}}},
		},
		{
			method: http.MethodGet, path: "/clients/{client}", id: "getClient", serve: a.client,
			summary: "A connected client",
			params:  []param{clientParam},
			answers: []answer{{status: 200, doc: "the client", body: ClientV2{}}},
			refuses: []int{400, 404},
		},
		{
			method: http.MethodGet, path: "/banks", id: "listBanks", serve: a.banks,
			summary: "Connected bankds with their slots",
			answers: []answer{{status: 200, doc: "all of them", body: banksV2{}}},
		},
		{
			method: http.MethodGet, path: "/banks/{bank}", id: "getBank", serve: a.bank,
			summary: "A connected bankd with its slots",
			params:  []param{bankParam},
			answers: []answer{{status: 200, doc: "the bank", body: BankV2{}}},
			refuses: []int{400, 404},
		},
		{
			method: http.MethodGet, path: "/slotmaps", id: "listSlotmaps", serve: a.slotmaps,
			summary: "Slot maps, also those that are leaving",
			answers: []answer{{status: 200, doc: "all of them", body: slotmapsV2{}}},
		},
		{
			method: http.MethodPost, path: "/slotmaps", id: "createSlotmap", serve: a.create,
			summary: "Add a slot map; neither of its slots is in one",
			body:    newMapV2{},
			answers: []answer{{status: 201, doc: "the map", body: SlotmapV2{}, headers: map[string]string{
				"Location": "the map's path", "ETag": etagDoc,
			}}},
			refuses: []int{409},
		},
		{
			method: http.MethodPut, path: "/slotmaps/{slot}", id: "putSlotmap", serve: a.put,
			summary: "Have a bank slot be mapped to a client slot; maps that either is in end in the same moment",
			params:  []param{slotParam, ifMatch, ifNoneMatch},
			body:    setMapV2{},
			answers: []answer{
				{status: 200, doc: "the map, which was there before", body: SlotmapV2{}, headers: map[string]string{"ETag": etagDoc}},
				{status: 201, doc: "the map, which is new", body: SlotmapV2{}, headers: map[string]string{"ETag": etagDoc}},
			},
			refuses: []int{412},
		},
		{
			method: http.MethodDelete, path: "/slotmaps/{slot}", id: "deleteSlotmap", serve: a.delete,
			summary: "Have a bank slot be in no map",
			params:  []param{slotParam, ifMatch, ifNoneMatch},
			answers: []answer{{status: 204, doc: "it is in none, or was in none already"}},
			refuses: []int{400, 412},
		},
		{
			method: http.MethodPost, path: "/slotmaps/bulk", id: "bulkSlotmaps", serve: a.bulk,
			summary: "Do many operations on slot maps in one transaction: all of them, or none",
			body:    bulkV2{},
			answers: []answer{{status: 200, doc: "all were done", body: bulkDoneV2{}}},
			refuses: []int{409},
		},
		{
			method: http.MethodGet, path: "/slotmaps/{slot}", id: "getSlotmap", serve: a.slotmap,
			summary: "The newest slot map of a bank slot, which may be leaving",
			params:  []param{slotParam},
			answers: []answer{{status: 200, doc: "the map; with an ETag unless it is leaving", body: SlotmapV2{}}},
			refuses: []int{400, 404},
		},
		{
			method: http.MethodGet, path: "/client-ids", id: "listClientIds", serve: a.clientIDs,
			summary: "Client slots that the server has given to clients, connected or not",
			answers: []answer{{status: 200, doc: "all of them", body: clientIDsV2{}}},
		},
		{
			method: http.MethodDelete, path: "/client-ids/{client}", id: "forgetClientId", serve: a.forget,
			summary: "Have a client slot that was given be nobody's, so that it can be given to another client",
			params:  []param{clientParam},
			answers: []answer{{status: 204, doc: "it is nobody's"}},
			refuses: []int{400, 404, 409},
		},
		{
			method: http.MethodGet, path: "/server", id: "getServer", serve: a.server,
			summary: "What the server is",
			answers: []answer{{status: 200, doc: "the server", body: ServerV2{}}},
		},
		{
			method: http.MethodGet, path: "/events", id: "streamEvents", serve: a.events,
			summary: "What happens, as server-sent events",
			params: []param{{"Last-Event-ID", "header",
				"id of the last event that was read: the stream begins with what follows that", ""}},
			answers: []answer{{status: 200, doc: "a stream whose events have an Event as data", body: EventV2{}, contentType: streamType}},
			refuses: []int{503},
		},
		{
			method: http.MethodGet, path: "/openapi.json", id: "getOpenAPI",
			serve: func(w http.ResponseWriter, _ *http.Request) {
				write(w, http.StatusOK, "application/json", document())
			},
			summary: "This document",
			answers: []answer{{status: 200, doc: "an OpenAPI 3.1 document", body: map[string]any(nil)}},
		},
	}
}

// mount serves v2 below a router. What isn't there, and methods that a path hasn't, are problems.
func (a *v2) mount(r chi.Router) {
	for _, route := range a.routes() {
		r.Method(route.method, route.path, route.serve)
		if route.headed() {
			r.Method(http.MethodHead, route.path, route.serve) // package http leaves the body out
		}
	}
	r.NotFound(func(w http.ResponseWriter, r *http.Request) {
		notFound(w, "there is no path %s: see %s/openapi.json", r.URL.Path, v2Base)
	})
	r.MethodNotAllowed(func(w http.ResponseWriter, req *http.Request) {
		path := strings.TrimPrefix(strings.TrimSuffix(req.URL.Path, "/"), v2Base)
		var allow []string
		for _, m := range []string{http.MethodGet, http.MethodHead, http.MethodPost, http.MethodPut, http.MethodDelete} {
			if r.Match(chi.NewRouteContext(), m, path) {
				allow = append(allow, m)
			}
		}
		methods := strings.Join(allow, ", ")
		w.Header().Set("Allow", methods)
		refuse(w, problem{Status: http.StatusMethodNotAllowed, Detail: req.Method + " isn't for this path", Allowed: methods})
	})
}

// untilEnd returns a context that ends with ctx and when event streams shall.
func (a *v2) untilEnd(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	go func() {
		select {
		case <-a.ended:
			cancel()
		case <-ctx.Done():
		}
	}()
	return ctx, cancel
}
