// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"math/bits"
	"net/http"
	"strings"
	"time"

	"github.com/go-chi/chi/v5"

	"remsim/internal/rspro"
	"remsim/internal/server"
	"remsim/internal/slot"
)

// v2 is the API that shows all. What isn't known, or isn't yet, is null.
type v2 struct {
	state *server.State
}

func (a v2) routes(r chi.Router) {
	r.MethodNotAllowed(func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Allow", http.MethodGet)
		refuse(w, problem{Status: http.StatusMethodNotAllowed, Detail: r.Method + " isn't for this path", Allowed: http.MethodGet})
	})
	r.Get("/clients", a.clients)
	r.Get("/clients/{client}", a.client)
	r.Get("/banks", a.banks)
	r.Get("/banks/{bank}", a.bank)
	r.Get("/slotmaps", a.slotmaps)
	r.Get("/slotmaps/{slot}", a.slotmap)
}

// PeerV2 is what ClientV2 and BankV2 have in common.
type PeerV2 struct {
	Peer        string      `json:"peer"`        // "C23:0", "B1"
	State       string      `json:"state"`       // WAIT_CONFIG_RES, CONNECTED_CLIENT, CONNECTED_BANKD
	Component   ComponentV2 `json:"component"`   // what it says of itself
	Address     string      `json:"address"`     // its end of the control connection, IP:PORT
	ConnectedAt Time        `json:"connectedAt"` // when it was accepted
	Features    []string    `json:"features"`    // extensions it announced, such as "lateAtr"
	LastError   *string     `json:"lastError"`   // what it complained of or refused last
}

// ComponentV2 is an RSPRO ComponentIdentity; what the peer left out is null.
type ComponentV2 struct {
	Type           string  `json:"type"`
	Name           string  `json:"name"`
	Software       string  `json:"software"`
	SWVersion      string  `json:"swVersion"`
	HWManufacturer *string `json:"hwManufacturer"`
	HWModel        *string `json:"hwModel"`
	HWSerialNr     *string `json:"hwSerialNr"`
	HWVersion      *string `json:"hwVersion"`
	FWVersion      *string `json:"fwVersion"`
}

// ClientV2 is a connected client.
type ClientV2 struct {
	Client clientSlot `json:"client"`
	PeerV2
	// Told is what the client was last told to use on this connection; null: nothing.
	Told *ToldV2 `json:"told"`
}

// ToldV2 is what a client was told to use.
type ToldV2 struct {
	Bank   bankSlot `json:"bank"`
	Bankd  *string  `json:"bankd"`  // IP:PORT; null: no bankd, the map has ended
	At     Time     `json:"at"`     // when
	Answer *string  `json:"answer"` // the client's result, "ok"; null: not answered yet
}

// BankV2 is a connected bankd.
type BankV2 struct {
	ID uint16 `json:"bankId"`
	PeerV2
	NumSlots uint16   `json:"numberOfSlots"`
	Endpoint string   `json:"endpoint"` // where clients are sent, IP:PORT
	Slots    []SlotV2 `json:"slots"`    // all of them, by number
}

// SlotV2 is a slot of a connected bankd. What a bankd tells of its slots is null when
// it has told nothing, as bankds without the feature bankState do.
type SlotV2 struct {
	Slot    uint16  `json:"slotNr"`
	Reader  *string `json:"reader"`  // its name, as told; null, too: there is none
	Present *bool   `json:"present"` // there is a card, as told
	ATR     *string `json:"atr"`     // the card's, as told, in hex; null, too: none or not known
	// Client and MapState are those of the newest map, which may be leaving; null: there is none.
	Client    *clientSlot `json:"client"`
	MapState  *string     `json:"mapState"`
	State     *string     `json:"state"`     // FREE, MAPPED, CARD, FAILED, from what was told: see server.Slot
	LastError *string     `json:"lastError"` // what the bankd told last of the slot
}

// SlotmapV2 is a slot map; maps that were deleted are shown until their bankd can't
// have them any more.
type SlotmapV2 struct {
	Bank      bankSlot   `json:"bank"`
	Client    clientSlot `json:"client"`
	State     string     `json:"state"`     // NEW, UNACKNOWLEDGED, ACTIVE, DELETE_REQ, DELETING
	CreatedAt Time       `json:"createdAt"` // when it was asked for
	ChangedAt Time       `json:"changedAt"` // when it entered its state
	DeletedAt *Time      `json:"deletedAt"` // when its end was asked for; null: it is wanted
	// Adopted: nobody has asked for it since the server's start; it was found at its bankd. It
	// gives way to maps that are asked for.
	Adopted bool `json:"adopted"`
	// Owed: its end waits for the bankd to connect.
	Owed      bool    `json:"owed"`
	LastError *string `json:"lastError"` // why the bankd refused it, or what it reported
}

// A Time is sent as RFC 3339 with milliseconds, in UTC.
type Time time.Time

// MarshalText implements encoding.TextMarshaler.
func (t Time) MarshalText() ([]byte, error) {
	return time.Time(t).UTC().AppendFormat(nil, "2006-01-02T15:04:05.000Z07:00"), nil
}

// known returns nil for an empty string.
func known(s string) *string {
	if s == "" {
		return nil
	}
	return &s
}

func peerV2Of(name, state string, p server.Peer) PeerV2 {
	id := p.Identity
	return PeerV2{
		Peer:  name,
		State: state,
		Component: ComponentV2{
			id.Type.String(), id.Name, id.Software, id.SWVersion,
			known(id.HWManufacturer), known(id.HWModel), known(id.HWSerialNr), known(id.HWVersion), known(id.FWVersion),
		},
		Address:     p.Addr.String(),
		ConnectedAt: Time(p.Since),
		Features:    features(p.Features),
		LastError:   known(p.LastError),
	}
}

// features names the bits that are set.
func features(f rspro.Features) []string {
	names := []string{}
	for ; f != 0; f &= f - 1 {
		switch bit := f & -f; bit {
		case rspro.AtrAfterReset:
			names = append(names, "atrAfterReset")
		case rspro.LateAtr:
			names = append(names, "lateAtr")
		case rspro.BankState:
			names = append(names, "bankState")
		default:
			names = append(names, fmt.Sprintf("bit%d", bits.TrailingZeros64(uint64(bit))))
		}
	}
	return names
}

func clientV2Of(c server.Client) ClientV2 {
	v := ClientV2{Client: clientSlot(c.Slot), PeerV2: peerV2Of(c.Slot.String(), c.State(), c.Peer)}
	if !c.ToldAt.IsZero() {
		v.Told = &ToldV2{Bank: bankSlot(c.Told.Bank), At: Time(c.ToldAt)}
		if c.Told.Bankd.Port() != 0 {
			v.Told.Bankd = known(c.Told.Bankd.String())
		}
		if c.Answered {
			v.Told.Answer = known(c.Answer.String())
		}
	}
	return v
}

func bankV2Of(b server.Bank, slots []server.Slot) BankV2 {
	v := BankV2{b.ID, peerV2Of(bankName(b.ID), b.State(), b.Peer), b.NumSlots, b.Endpoint.String(), make([]SlotV2, len(slots))}
	for i, s := range slots {
		v.Slots[i] = slotV2Of(s)
	}
	return v
}

func slotV2Of(s server.Slot) SlotV2 {
	v := SlotV2{Slot: s.Nr, State: known(s.State()), LastError: known(s.LastError)}
	if s.Told {
		v.Reader, v.Present, v.ATR = known(s.Reader), &s.Present, known(hex.EncodeToString(s.ATR))
	}
	if s.Map != nil {
		c := clientSlot(s.Map.Client)
		v.Client, v.MapState = &c, known(s.Map.State.String())
	}
	return v
}

func slotmapV2Of(m server.Slotmap) SlotmapV2 {
	v := SlotmapV2{
		Bank: bankSlot(m.Bank), Client: clientSlot(m.Client), State: m.State.String(),
		CreatedAt: Time(m.Created), ChangedAt: Time(m.Changed), Adopted: m.Adopted, Owed: m.Owed, LastError: known(m.LastError),
	}
	if m.Leaving() {
		t := Time(m.Deleted)
		v.DeletedAt = &t
	}
	return v
}

func (a v2) clients(w http.ResponseWriter, r *http.Request) {
	l := []ClientV2{}
	for _, c := range a.state.Clients() {
		l = append(l, clientV2Of(c))
	}
	reply(w, map[string]any{"clients": l})
}

func (a v2) client(w http.ResponseWriter, r *http.Request) {
	c, err := slot.ParseClient(chi.URLParam(r, "client"))
	if err != nil {
		badName(w, "client", chi.URLParam(r, "client"), err, "C{clientId}:{slotNr}")
		return
	}
	v, ok := a.state.Client(c)
	if !ok {
		notFound(w, "no client %s is connected", c)
		return
	}
	reply(w, clientV2Of(v))
}

func (a v2) banks(w http.ResponseWriter, r *http.Request) {
	l := []BankV2{}
	for _, b := range a.state.Banks() {
		if b, slots, ok := a.state.Slots(b.ID); ok {
			l = append(l, bankV2Of(b, slots))
		}
	}
	reply(w, map[string]any{"banks": l})
}

func (a v2) bank(w http.ResponseWriter, r *http.Request) {
	id, ok := number16(w, "bankId", strings.TrimPrefix(chi.URLParam(r, "bank"), "B"))
	if !ok {
		return
	}
	b, slots, ok := a.state.Slots(id)
	if !ok {
		notFound(w, "no bankd with bank id %d is connected", id)
		return
	}
	reply(w, bankV2Of(b, slots))
}

func (a v2) slotmaps(w http.ResponseWriter, r *http.Request) {
	l := []SlotmapV2{}
	for _, m := range a.state.Slotmaps() {
		l = append(l, slotmapV2Of(m))
	}
	reply(w, map[string]any{"slotmaps": l})
}

// slotmap answers with the newest map of a bank slot.
func (a v2) slotmap(w http.ResponseWriter, r *http.Request) {
	b, err := slot.ParseBank(chi.URLParam(r, "slot"))
	if err != nil {
		badName(w, "bank", chi.URLParam(r, "slot"), err, "B{bankId}:{slotNr}")
		return
	}
	m, ok := a.state.Slotmap(b)
	if !ok {
		notFound(w, "bank slot %s is in no map", b)
		return
	}
	reply(w, slotmapV2Of(m))
}

// badName answers that a path names no slot.
func badName(w http.ResponseWriter, member, value string, err error, allowed string) {
	v, _ := json.Marshal(value)
	refuse(w, problem{Status: http.StatusBadRequest, Detail: err.Error(), Member: member, Value: v, Allowed: allowed})
}
