// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/server"
	"remsim/internal/slot"
)

// Limits of a bulk. It is one transaction, and the server does nothing else while it checks and applies that, some
// 50 ms for as many operations as this.
const (
	maxOperations = 20_000
	maxBulk       = 4 << 20 // bytes
)

// newMapV2 is the body of POST.
type newMapV2 struct {
	Bank   bankSlot   `json:"bank" doc:"the bank slot"`
	Client clientSlot `json:"client" doc:"the client slot"`
	shownV2
}

// setMapV2 is the body of PUT.
type setMapV2 struct {
	Bank   *bankSlot  `json:"bank,omitempty" doc:"the bank slot, if it is said, is that of the path"`
	Client clientSlot `json:"client" doc:"the client slot"`
	shownV2
}

// shownV2 is what a map that was read has besides its ends. It can be sent back so.
type shownV2 struct {
	State     any `json:"state,omitempty" doc:"ignored"`
	CreatedAt any `json:"createdAt,omitempty" doc:"ignored"`
	ChangedAt any `json:"changedAt,omitempty" doc:"ignored"`
	DeletedAt any `json:"deletedAt,omitempty" doc:"ignored"`
	Adopted   any `json:"adopted,omitempty" doc:"ignored"`
	Owed      any `json:"owed,omitempty" doc:"ignored"`
	LastError any `json:"lastError,omitempty" doc:"ignored"`
}

// bulkV2 is the body of a bulk.
type bulkV2 struct {
	Operations []operationV2 `json:"operations" doc:"20000 at most; each finds what those before it have done"`
}

// operationV2 is an operation of a bulk.
type operationV2 struct {
	Op     string      `json:"op" enum:"create,put,delete" doc:"create: as POST; put: as PUT; delete: there must be a map"`
	Bank   bankSlot    `json:"bank" doc:"the bank slot"`
	Client *clientSlot `json:"client,omitempty" doc:"the client slot; a delete may have it, and then is on condition that the map is its"`
}

// bulkDoneV2 is the answer to a bulk.
type bulkDoneV2 struct {
	Operations int `json:"operations" doc:"how many were done: all"`
	Created    int `json:"created" doc:"maps that weren't there before"`
	Deleted    int `json:"deleted" doc:"maps that are wanted no longer"`
}

func (bankSlot) closed()    {}
func (clientSlot) closed()  {}
func (newMapV2) closed()    {}
func (setMapV2) closed()    {}
func (bulkV2) closed()      {}
func (operationV2) closed() {}

// readJSON reads a body of at most limit bytes that says that it is JSON. For one that doesn't the status is wrongType.
func readJSON(w http.ResponseWriter, r *http.Request, limit int64, wrongType int) ([]byte, *problem) {
	const want = "application/json"
	if t, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || t != want {
		v, _ := json.Marshal(r.Header.Get("Content-Type"))
		return nil, &problem{Status: wrongType, Detail: "the body must be JSON and say so",
			Member: "Content-Type", Value: v, Allowed: want}
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, limit))
	switch {
	case errors.As(err, new(*http.MaxBytesError)):
		return nil, &problem{Status: http.StatusRequestEntityTooLarge, Detail: "the body is too long",
			Allowed: fmt.Sprintf("%d bytes", limit)}
	case err != nil:
		return nil, &problem{Status: http.StatusBadRequest, Detail: "reading the body: " + err.Error()}
	}
	return body, nil
}

// topObject reads a body that is a JSON object.
func topObject(body []byte) (map[string]json.RawMessage, *problem) {
	if len(bytes.TrimSpace(body)) == 0 {
		return nil, &problem{Detail: "there is no body", Allowed: "a JSON object"}
	}
	return object("", body)
}

// create adds a map.
func (a *v2) create(w http.ResponseWriter, r *http.Request) {
	o, bad := a.body(w, r, maxBody, memberNames[newMapV2]())
	var m slot.Map
	if bad == nil {
		m, bad = parseEnds(o, true)
	}
	if bad != nil {
		refuse(w, *bad)
		return
	}
	if _, err := a.state.Commit(r.Context(), server.CreateMap(m)); err != nil {
		refuse(w, *refusal(err))
		return
	}
	logMap(a.log, m).Info("map asked for")
	w.Header().Set("Location", v2Base+"/slotmaps/"+m.Bank.String())
	a.replyMap(w, http.StatusCreated, m)
}

// put has a bank slot have a map of a client slot. The maps that they are in end in the same transaction.
func (a *v2) put(w http.ResponseWriter, r *http.Request) {
	b, ok := bankOfPath(w, r)
	if !ok {
		return
	}
	o, bad := a.body(w, r, maxBody, memberNames[setMapV2]())
	if raw := o["bank"]; bad == nil && raw != nil {
		var said slot.Bank
		if said.ID, said.Slot, bad = pair("bank", "bankId", raw, true); bad == nil && said != b {
			bad = &problem{Detail: fmt.Sprintf("the path is of bank slot %s", b), Member: "bank", Value: raw,
				Allowed: string(encode(bankSlot(b)))}
		}
	}
	m := slot.Map{Bank: b}
	if bad == nil {
		m.Client.ID, m.Client.Slot, bad = pair("client", "clientId", o["client"], true)
	}
	if bad != nil {
		refuse(w, *bad)
		return
	}
	done, bad := a.commit(r, server.PutMap(m))
	if bad != nil {
		refuse(w, *bad)
		return
	}
	status := http.StatusOK
	if done.Created {
		status = http.StatusCreated
		log := logMap(a.log, m)
		if len(done.Ended) > 0 {
			log = log.WithField("ended", fmt.Sprint(done.Ended))
		}
		log.Info("map asked for")
	}
	a.replyMap(w, status, m)
}

// delete ends the map of a bank slot. Where there is none there is nothing to do, unless a condition says
// that there is one.
func (a *v2) delete(w http.ResponseWriter, r *http.Request) {
	b, ok := bankOfPath(w, r)
	if !ok {
		return
	}
	done, bad := a.commit(r, server.DeleteMap(b))
	switch {
	case bad == nil:
		logMap(a.log, done.Map).Info("map deleted")
	case bad.Status != http.StatusNotFound:
		refuse(w, *bad)
		return
	}
	w.WriteHeader(http.StatusNoContent)
}

// forget has a client slot that was given be nobody's.
func (a *v2) forget(w http.ResponseWriter, r *http.Request) {
	c, ok := clientOfPath(w, r)
	if !ok {
		return
	}
	if _, err := a.state.Commit(r.Context(), server.ForgetClient(c)); err != nil {
		refuse(w, *refusal(err))
		return
	}
	a.log.WithFields(logrus.Fields{"cat": "DREST", "client": c.String()}).Info("client id forgotten")
	w.WriteHeader(http.StatusNoContent)
}

// bulk does many operations, or none of them.
func (a *v2) bulk(w http.ResponseWriter, r *http.Request) {
	o, bad := a.body(w, r, maxBulk, memberNames[bulkV2]())
	var ops []server.Op
	if bad == nil {
		ops, bad = parseOperations(o["operations"])
	}
	if bad != nil {
		refuse(w, *bad)
		return
	}
	results, err := a.state.Commit(r.Context(), ops...)
	if err != nil {
		p := refusal(err)
		if e := new(server.OpError); errors.As(err, &e) {
			// What a single request would be told by another status is a conflict here.
			p.Index, p.Status = &e.Index, http.StatusConflict
		}
		refuse(w, *p)
		return
	}
	done := bulkDoneV2{Operations: len(ops)}
	for _, r := range results {
		if r.Created {
			done.Created++
		}
		done.Deleted += len(r.Ended)
	}
	a.log.WithFields(logrus.Fields{"cat": "DSLOTMAP", "operations": done.Operations, "created": done.Created, "deleted": done.Deleted}).
		Info("maps changed")
	reply(w, done)
}

// parseOperations reads the operations of a bulk.
func parseOperations(raw json.RawMessage) ([]server.Op, *problem) {
	want := fmt.Sprintf("an array of 1..%d operations", maxOperations)
	if raw == nil {
		return nil, &problem{Detail: "operations is missing", Member: "operations", Allowed: want}
	}
	var items []json.RawMessage
	if err := json.Unmarshal(raw, &items); err != nil || len(items) == 0 {
		return nil, &problem{Detail: "operations is not " + want, Member: "operations", Value: raw, Allowed: want}
	}
	if len(items) > maxOperations {
		return nil, &problem{Status: http.StatusRequestEntityTooLarge, Detail: "there are too many operations",
			Member: "operations", Value: json.RawMessage(fmt.Sprintf(`"%d operations"`, len(items))), Allowed: want}
	}
	names := memberNames[operationV2]()
	ops := make([]server.Op, len(items))
	for i, item := range items {
		op, bad := parseOperation(item, names)
		if bad != nil {
			bad.Index = &i
			bad.Detail = fmt.Sprintf("operation %d: %s", i, bad.Detail)
			return nil, bad
		}
		ops[i] = op
	}
	return ops, nil
}

func parseOperation(raw json.RawMessage, names []string) (op server.Op, bad *problem) {
	o, bad := object("operation", raw)
	if bad == nil {
		bad = onlyMembers("", o, names...)
	}
	if bad != nil {
		return op, bad
	}
	const kinds = "create, put or delete"
	var kind string
	if o["op"] == nil {
		return op, &problem{Detail: "op is missing", Member: "op", Allowed: kinds}
	}
	json.Unmarshal(o["op"], &kind) //nolint:errcheck // then it is none of them
	var m slot.Map
	switch kind {
	case "create", "put":
		if m, bad = parseEnds(o, true); bad != nil {
			return op, bad
		}
		if kind == "create" {
			return server.CreateMap(m), nil
		}
		return server.PutMap(m), nil
	case "delete":
		if m.Bank.ID, m.Bank.Slot, bad = pair("bank", "bankId", o["bank"], true); bad != nil {
			return op, bad
		}
		op = server.DeleteMap(m.Bank)
		if raw := o["client"]; raw != nil {
			if m.Client.ID, m.Client.Slot, bad = pair("client", "clientId", raw, true); bad != nil {
				return op, bad
			}
			op = op.OnlyOf(m.Client)
		}
		return op, nil
	}
	return op, &problem{Detail: "op is none of " + kinds, Member: "op", Value: o["op"], Allowed: kinds}
}

// commit does an operation under the conditions of a request's header: If-Match with an entity tag (see etag), or
// with an asterisk for a map of any client, and If-None-Match with an asterisk for none that was asked for.
func (a *v2) commit(r *http.Request, op server.Op) (server.Result, *problem) {
	op, bad := conditional(op, r.Header)
	if bad != nil {
		return server.Result{}, bad
	}
	done, err := a.state.Commit(r.Context(), op)
	if err != nil {
		return server.Result{}, refusal(err)
	}
	return done[0], nil
}

// conditional puts the conditions of a request's header on an operation.
func conditional(op server.Op, h http.Header) (server.Op, *problem) {
	wrong := func(name, value, allowed string) (server.Op, *problem) {
		v, _ := json.Marshal(value)
		return op, &problem{Detail: name + " is not " + allowed, Member: name, Value: v, Allowed: allowed}
	}
	match, noMatch := strings.Join(h.Values("If-Match"), ", "), strings.Join(h.Values("If-None-Match"), ", ")
	switch {
	case match == "" && noMatch == "":
		return op, nil
	case match == "" && noMatch == "*":
		return op.OnlyNew(), nil
	case noMatch != "":
		return wrong("If-None-Match", noMatch, "* without If-Match")
	case match == "*":
		return op.OnlyOfAny(), nil
	}
	c, err := slot.ParseClient(strings.Trim(match, `"`))
	if err != nil || etag(c) != match {
		return wrong("If-Match", match, `* or one client slot in double quotes, as in "C23:0"`)
	}
	return op.OnlyOf(c), nil
}

// body reads a body that is an object with these members at most.
func (a *v2) body(w http.ResponseWriter, r *http.Request, limit int64, names []string) (map[string]json.RawMessage, *problem) {
	body, bad := readJSON(w, r, limit, http.StatusUnsupportedMediaType)
	if bad != nil {
		return nil, bad
	}
	o, bad := topObject(body)
	if bad == nil {
		bad = onlyMembers("", o, names...)
	}
	return o, bad
}

// replyMap answers with a map that was just asked for. One that somebody has deleted since is shown as leaving.
func (a *v2) replyMap(w http.ResponseWriter, status int, m slot.Map) {
	v, ok := a.state.Slotmap(m.Bank)
	if !ok || v.Map != m {
		now := time.Now()
		v = server.Slotmap{Map: m, State: server.MapDeleteReq, Created: now, Changed: now, Deleted: now}
	}
	w.Header().Set("ETag", etag(m.Client))
	send(w, status, "application/json", slotmapV2Of(v))
}

// logMap returns log with the fields of a map.
func logMap(log *logrus.Entry, m slot.Map) *logrus.Entry {
	return log.WithFields(logrus.Fields{"cat": "DSLOTMAP", "slot": m.Bank.String(), "client": m.Client.String()})
}

// refusal makes a problem of what State.Commit says.
func refusal(err error) *problem {
	p := &problem{Status: http.StatusServiceUnavailable, Detail: err.Error()}
	var taken *server.TakenError
	var missing *server.MissingError
	var condition *server.ConditionError
	var store *server.StoreError
	var unassigned *server.UnassignedError
	var busy *server.BusyError
	switch {
	case errors.As(err, &taken):
		p.Status, p.Member, p.Allowed = http.StatusConflict, taken.Member, "a slot that is in no map"
		if taken.Member == "bank" {
			p.Value = encode(bankSlot(taken.By.Bank))
		} else {
			p.Value = encode(clientSlot(taken.By.Client))
		}
	case errors.As(err, &missing):
		p.Status, p.Member, p.Allowed = http.StatusNotFound, "bank", "a slot that is in a map"
		p.Value = encode(bankSlot(missing.Bank))
	case errors.As(err, &condition):
		p.Status, p.Member, p.Value = http.StatusPreconditionFailed, "bank", encode(bankSlot(condition.Bank))
	case errors.As(err, &unassigned):
		p.Status, p.Member, p.Value = http.StatusNotFound, "client", encode(clientSlot(unassigned.Client))
	case errors.As(err, &busy):
		p.Status, p.Member, p.Value = http.StatusConflict, "client", encode(clientSlot(busy.Client))
		p.Allowed = "a slot whose client isn't connected and that is in no map"
	case errors.As(err, &store) && store.Full():
		p.Status = http.StatusInsufficientStorage
	}
	return p
}
