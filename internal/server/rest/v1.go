// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"

	"github.com/go-chi/chi/v5"
	"github.com/sirupsen/logrus"

	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
)

// v1 is the API of C's server. The types below are its answers: frozen.
type v1 struct {
	state *server.State
	log   *logrus.Entry
	maps  lastList
}

func (a *v1) routes(r chi.Router) {
	r.Get("/clients", a.clients)
	r.Get("/clients/{client}", a.client)
	r.Get("/banks", a.banks)
	r.Get("/banks/{bank}", a.bank)
	r.Get("/slotmaps", a.slotmaps)
	r.Post("/slotmaps", a.create)
	r.Delete("/slotmaps/{slotmap}", a.delete)
	r.Post("/global-reset", a.reset)
	r.Get("/restart-counter", a.starts)
}

type clientV1 struct {
	Peer      string      `json:"peer"`
	State     string      `json:"state"`
	Component componentV1 `json:"component_id"`
}

type bankV1 struct {
	Peer      string      `json:"peer"`
	State     string      `json:"state"`
	Component componentV1 `json:"component_id"`
	ID        uint16      `json:"bankId"`
	NumSlots  uint16      `json:"numberOfSlots"`
}

type componentV1 struct {
	Type           string `json:"type_"`
	Name           string `json:"name"`
	Software       string `json:"software"`
	SWVersion      string `json:"swVersion"`
	HWManufacturer string `json:"hwManufacturer,omitempty"`
	HWModel        string `json:"hwModel,omitempty"`
	HWSerialNr     string `json:"hwSerialNr,omitempty"`
	HWVersion      string `json:"hwVersion,omitempty"`
	FWVersion      string `json:"fwVersion,omitempty"`
}

// bankSlot and clientSlot are the ends of a map, in all versions.
type bankSlot struct {
	ID   uint16 `json:"bankId" maximum:"1023" doc:"id of the bank"`
	Slot uint16 `json:"slotNr" maximum:"1023" doc:"number of its slot"`
}

type clientSlot struct {
	ID   uint16 `json:"clientId" maximum:"1023" doc:"id of the client"`
	Slot uint16 `json:"slotNr" maximum:"1023" doc:"number of its slot"`
}

func componentOf(id rspro.ComponentIdentity) componentV1 {
	return componentV1{
		id.Type.String(), id.Name, id.Software, id.SWVersion,
		id.HWManufacturer, id.HWModel, id.HWSerialNr, id.HWVersion, id.FWVersion,
	}
}

func bankName(id uint16) string { return "B" + strconv.Itoa(int(id)) }

func clientV1Of(c server.Client) clientV1 {
	return clientV1{c.Slot.String(), c.State(), componentOf(c.Identity)}
}

func bankV1Of(b server.Bank) bankV1 {
	return bankV1{bankName(b.ID), b.State(), componentOf(b.Identity), b.ID, b.NumSlots}
}

func (a *v1) clients(w http.ResponseWriter, r *http.Request) {
	l := []clientV1{}
	for _, c := range a.state.Clients() {
		if !c.Waiting {
			l = append(l, clientV1Of(c))
		}
	}
	reply(w, struct {
		Clients []clientV1 `json:"clients"`
	}{l})
}

// client answers {id} with the client that has the lowest slot of that id, and
// {id}:{slot} or C{id}:{slot} with exactly that one.
func (a *v1) client(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "client")
	id, nr, exact := strings.Cut(strings.TrimPrefix(name, "C"), ":")
	c, ok := number16(w, "clientId", id)
	if !ok {
		return
	}
	first, last := uint16(0), uint16(slot.Max)
	if exact {
		if first, ok = number16(w, "slotNr", nr); !ok {
			return
		}
		last = first
	}
	for nr := first; nr <= last; nr++ {
		if c, ok := a.state.Client(slot.Client{ID: c, Slot: nr}); ok && !c.Waiting {
			reply(w, clientV1Of(c))
			return
		}
	}
	notFound(w, "no client %s is connected", name)
}

func (a *v1) banks(w http.ResponseWriter, r *http.Request) {
	l := []bankV1{}
	for _, b := range a.state.Banks() {
		l = append(l, bankV1Of(b))
	}
	reply(w, struct {
		Banks []bankV1 `json:"banks"`
	}{l})
}

func (a *v1) bank(w http.ResponseWriter, r *http.Request) {
	id, ok := number16(w, "bankId", chi.URLParam(r, "bank"))
	if !ok {
		return
	}
	b, ok := a.state.Bank(id)
	if !ok {
		notFound(w, "no bankd with bank id %d is connected", id)
		return
	}
	reply(w, bankV1Of(b))
}

func (a *v1) slotmaps(w http.ResponseWriter, r *http.Request) {
	write(w, http.StatusOK, "application/json", a.maps.of(a.state, func() []byte { return slotmapsV1(a.state.Wanted()) }))
}

// slotmapsV1 returns a list of maps as JSON. It is the longest answer, which some ask for each second, and
// encoding/json takes ten times as long.
func slotmapsV1(l []server.WantedMap) []byte {
	const longest = len(`{"bank":{"bankId":1023,"slotNr":1023},"client":{"clientId":1023,"slotNr":1023},"state":"UNACKNOWLEDGED"},`)
	b := append(make([]byte, 0, 32+len(l)*longest), `{"slotmaps":[`...)
	for i, m := range l {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, `{"bank":{"bankId":`...)
		b = strconv.AppendUint(b, uint64(m.Bank.ID), 10)
		b = append(b, `,"slotNr":`...)
		b = strconv.AppendUint(b, uint64(m.Bank.Slot), 10)
		b = append(b, `},"client":{"clientId":`...)
		b = strconv.AppendUint(b, uint64(m.Client.ID), 10)
		b = append(b, `,"slotNr":`...)
		b = strconv.AppendUint(b, uint64(m.Client.Slot), 10)
		b = append(b, `},"state":"`...)
		b = append(b, m.State.String()...)
		b = append(b, `"}`...)
	}
	return append(b, `]}`...)
}

func (a *v1) create(w http.ResponseWriter, r *http.Request) {
	body, bad := readJSON(w, r, maxBody, http.StatusBadRequest)
	var m slot.Map
	if bad == nil {
		m, bad = parseSlotmap(body)
	}
	if bad == nil {
		if _, err := a.state.Commit(r.Context(), server.CreateMap(m)); err != nil {
			if bad = refusal(err); bad.Status == http.StatusConflict {
				bad.Status = http.StatusBadRequest // as in C's server
			}
		}
	}
	if bad != nil {
		refuse(w, *bad)
		return
	}
	logMap(a.log, m).Info("map asked for")
	w.WriteHeader(http.StatusCreated)
}

// parseSlotmap reads the body of a POST: {"bank":{"bankId":1,"slotNr":1},"client":
// {"clientId":23,"slotNr":0}} with each number an integer 0..1023. More members may
// be there.
func parseSlotmap(body []byte) (slot.Map, *problem) {
	top, bad := topObject(body)
	if bad != nil {
		return slot.Map{}, bad
	}
	return parseEnds(top, false)
}

// parseEnds reads the ends of a map from its members.
func parseEnds(o map[string]json.RawMessage, strict bool) (m slot.Map, bad *problem) {
	if m.Bank.ID, m.Bank.Slot, bad = pair("bank", "bankId", o["bank"], strict); bad == nil {
		m.Client.ID, m.Client.Slot, bad = pair("client", "clientId", o["client"], strict)
	}
	return m, bad
}

// pair reads the object that is the member of: an id by that name, and slotNr. When it is strict, it has no others.
func pair(of, id string, raw json.RawMessage, strict bool) (n, nr uint16, bad *problem) {
	o, bad := object(of, raw)
	if bad == nil && strict {
		bad = onlyMembers(of, o, id, "slotNr")
	}
	if bad == nil {
		n, bad = number(of+"."+id, o[id])
	}
	if bad == nil {
		nr, bad = number(of+".slotNr", o["slotNr"])
	}
	return n, nr, bad
}

// number reads an id or a slot number.
func number(member string, raw json.RawMessage) (uint16, *problem) {
	if raw == nil {
		return 0, &problem{Detail: member + " is missing", Member: member, Allowed: allowed}
	}
	var v int64
	if err := json.Unmarshal(raw, &v); err != nil || raw[0] == 'n' || v < 0 || v > slot.Max {
		return 0, &problem{Detail: member + " is not " + allowed, Member: member, Value: raw, Allowed: allowed}
	}
	return uint16(v), nil
}

// allowed are the values of an id or a slot number.
var allowed = fmt.Sprintf("an integer 0..%d", slot.Max)

// object reads a JSON object, whose names are matched to the letter.
func object(member string, raw json.RawMessage) (map[string]json.RawMessage, *problem) {
	if raw == nil {
		return nil, &problem{Detail: member + " is missing", Member: member, Allowed: "a JSON object"}
	}
	var o map[string]json.RawMessage
	err := json.Unmarshal(raw, &o)
	switch what := cmp.Or(member, "the body"); {
	case err == nil && o != nil:
		return o, nil
	case json.Valid(raw):
		return nil, &problem{Detail: what + " is not a JSON object", Member: member, Value: raw, Allowed: "a JSON object"}
	default:
		return nil, &problem{Detail: what + " is not JSON: " + err.Error(), Member: member, Allowed: "a JSON object"}
	}
}

// delete ends the map of the bank slot with the number bankId × 65536 + slotNr.
func (a *v1) delete(w http.ResponseWriter, r *http.Request) {
	name := chi.URLParam(r, "slotmap")
	n, err := strconv.ParseUint(name, 10, 32)
	if err != nil {
		notFound(w, "no slot map has the id %q: ids are bankId × 65536 + slotNr", name)
		return
	}
	b := slot.Bank{ID: uint16(n >> 16), Slot: uint16(n)}
	done, err := a.state.Commit(r.Context(), server.DeleteMap(b))
	switch {
	case errors.As(err, new(*server.MissingError)):
		notFound(w, "%v", err)
		return
	case err != nil:
		refuse(w, *refusal(err))
		return
	}
	logMap(a.log, done[0].Map).Info("map deleted")
	w.WriteHeader(http.StatusOK)
}

func (a *v1) reset(w http.ResponseWriter, r *http.Request) {
	done, err := a.state.Commit(r.Context(), server.DeleteAllMaps())
	if err != nil {
		refuse(w, *refusal(err))
		return
	}
	a.log.WithFields(logrus.Fields{"cat": "DSLOTMAP", "maps": len(done[0].Ended)}).Info("all maps deleted")
	w.WriteHeader(http.StatusOK)
}

func (a *v1) starts(w http.ResponseWriter, r *http.Request) {
	w.Header().Set("Content-Type", "text/plain")
	fmt.Fprint(w, a.state.Starts())
}

// number16 reads a number of a path; it answers itself when that is none or over 65535. Ids over
// 1023 are numbers that nobody has.
func number16(w http.ResponseWriter, member, s string) (uint16, bool) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil {
		v, _ := json.Marshal(s)
		refuse(w, problem{Status: http.StatusBadRequest, Detail: member + " is not a number 0..65535",
			Member: member, Value: v, Allowed: allowed})
		return 0, false
	}
	return uint16(n), true
}

// onlyMembers checks that an object has no other members.
func onlyMembers(of string, o map[string]json.RawMessage, names ...string) *problem {
	for name, raw := range o {
		if slices.Contains(names, name) {
			continue
		}
		if of != "" {
			name = of + "." + name
		}
		return &problem{Detail: name + " is an unknown member", Member: name, Value: raw, Allowed: strings.Join(names, ", ")}
	}
	return nil
}
