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

// PeerV2 is what ClientV2 and BankV2 have in common.
type PeerV2 struct {
	Peer        string      `json:"peer" doc:"its name, such as C23:0 or B1"`
	State       string      `json:"state" enum:"CONNECTED_CLIENT,WAIT_CONFIG_RES,CONNECTED_BANKD" doc:"WAIT_CONFIG_RES: was assigned a client slot and hasn't agreed yet"`
	Component   ComponentV2 `json:"component" doc:"what it says of itself"`
	Address     string      `json:"address" doc:"its end of the control connection, IP:PORT"`
	ConnectedAt Time        `json:"connectedAt" doc:"when it was accepted"`
	Features    []string    `json:"features" doc:"protocol extensions it announced, such as lateAtr"`
	LastError   *string     `json:"lastError" doc:"what it complained of or refused last"`
}

// ComponentV2 is an RSPRO ComponentIdentity; what the peer left out is null.
type ComponentV2 struct {
	Type           string  `json:"type" doc:"remsimClient or remsimBankd"`
	Name           string  `json:"name" doc:"usually that of its host"`
	Software       string  `json:"software" doc:"its program"`
	SWVersion      string  `json:"swVersion" doc:"the program's version"`
	HWManufacturer *string `json:"hwManufacturer" doc:"who made its hardware"`
	HWModel        *string `json:"hwModel" doc:"what it is"`
	HWSerialNr     *string `json:"hwSerialNr" doc:"its serial number"`
	HWVersion      *string `json:"hwVersion" doc:"its version"`
	FWVersion      *string `json:"fwVersion" doc:"that of its firmware"`
}

// ClientV2 is a connected client.
type ClientV2 struct {
	Client clientSlot `json:"client" doc:"its slot"`
	PeerV2
	Assigned *ClientKeyV2 `json:"assigned" doc:"whose slot it is, if the server has given it; null: the client chose it"`
	Told     *ToldV2      `json:"told" doc:"what it was last told to use on this connection; null: nothing"`
}

// ClientKeyV2 is what the server tells clients by that it gives slots to: who says the same again gets the same.
type ClientKeyV2 struct {
	Name      string `json:"name" doc:"component.name"`
	Serial    string `json:"serialNr" doc:"component.hwSerialNr; empty: none"`
	Interface string `json:"interface" doc:"component.hwVersion; empty: none"`
	Instance  uint16 `json:"instance" doc:"counts those that say the same at the same time, from 0"`
}

// ClientIDV2 is a client slot that the server has given.
type ClientIDV2 struct {
	Client    clientSlot  `json:"client" doc:"the slot"`
	Assigned  ClientKeyV2 `json:"assigned" doc:"whose it is"`
	Connected bool        `json:"connected" doc:"somebody has it now"`
}

// ServerV2 is the server.
type ServerV2 struct {
	Name         string   `json:"name" doc:"what it tells its peers, usually that of its host"`
	Version      string   `json:"version" doc:"of its program"`
	StartedAt    Time     `json:"startedAt" doc:"this time"`
	Starts       int      `json:"starts" minimum:"1" doc:"how often it was started with its store"`
	Durable      bool     `json:"durable" doc:"its store outlives it: maps, owed removals and client ids are there after a restart"`
	ClientIDPool *string  `json:"clientIdPool" doc:"the client ids it gives, such as 900-1023; null: none"`
	Limits       limitsV2 `json:"limits" doc:"of requests"`
}

// limitsV2 are the limits of requests.
type limitsV2 struct {
	Body           int `json:"bodyBytes" doc:"of a body"`
	BulkBody       int `json:"bulkBytes" doc:"of the body of a bulk"`
	BulkOperations int `json:"bulkOperations" doc:"in a bulk"`
	EventStreams   int `json:"eventStreams" doc:"open at a time"`
}

// ToldV2 is what a client was told to use.
type ToldV2 struct {
	Bank   bankSlot `json:"bank" doc:"the bank slot"`
	Bankd  *string  `json:"bankd" doc:"where its bankd is, IP:PORT; null: no bankd, the map has ended"`
	At     Time     `json:"at" doc:"when"`
	Answer *string  `json:"answer" doc:"the client's result, such as ok; null: not answered yet"`
}

// BankInfoV2 is a connected bankd without its slots.
type BankInfoV2 struct {
	ID uint16 `json:"bankId" maximum:"1023" doc:"as it says"`
	PeerV2
	NumSlots uint16 `json:"numberOfSlots" maximum:"1024" doc:"as it says"`
	Endpoint string `json:"endpoint" doc:"where clients are sent, IP:PORT"`
}

// BankV2 is a connected bankd.
type BankV2 struct {
	BankInfoV2
	Slots []SlotV2 `json:"slots" doc:"all of them, by number"`
}

// SlotV2 is a slot of a connected bankd. What a bankd tells of its slots is null when
// it has told nothing, as bankds without the feature bankState do.
type SlotV2 struct {
	Slot      uint16      `json:"slotNr" maximum:"1023" doc:"its number"`
	Reader    *string     `json:"reader" doc:"name of its reader as the bankd tells it; null: there is none, or it isn't told"`
	Present   *bool       `json:"present" doc:"there is a card, as told"`
	ATR       *string     `json:"atr" pattern:"^([0-9a-f]{2})*$" doc:"the card's, as told, in hex; null: there is none, or it isn't known"`
	Client    *clientSlot `json:"client" doc:"that of the newest map, which may be leaving; null: there is no map"`
	MapState  *string     `json:"mapState" enum:"NEW,UNACKNOWLEDGED,ACTIVE,DELETE_REQ,DELETING" doc:"state of that map"`
	State     *string     `json:"state" enum:"FREE,MAPPED,CARD,FAILED" doc:"what follows from what bankd and client were told and tell"`
	LastError *string     `json:"lastError" doc:"what the bankd told last of the slot"`
}

// SlotmapV2 is a slot map; maps that were deleted are shown until their bankd can't
// have them any more.
type SlotmapV2 struct {
	Bank      bankSlot   `json:"bank" doc:"the bank slot"`
	Client    clientSlot `json:"client" doc:"the client slot"`
	State     string     `json:"state" enum:"NEW,UNACKNOWLEDGED,ACTIVE,DELETE_REQ,DELETING" doc:"where it is in its life"`
	CreatedAt Time       `json:"createdAt" doc:"when it was asked for, or found at its bankd"`
	ChangedAt Time       `json:"changedAt" doc:"when it entered its state"`
	DeletedAt *Time      `json:"deletedAt" doc:"when its end was asked for; null: it is wanted"`
	Adopted   bool       `json:"adopted" doc:"nobody has asked for it: it was found at its bankd, and gives way to maps that are asked for"`
	Owed      bool       `json:"owed" doc:"its end waits for the bankd to connect"`
	LastError *string    `json:"lastError" doc:"why the bankd refused it, or what it reported"`
}

// The bodies of lists.
type (
	clientsV2 struct {
		Clients []ClientV2 `json:"clients" doc:"by client id and slot"`
	}
	banksV2 struct {
		Banks []BankV2 `json:"banks" doc:"by bank id"`
	}
	clientIDsV2 struct {
		ClientIDs []ClientIDV2 `json:"clientIds" doc:"by client id and slot"`
	}
	slotmapsV2 struct {
		Slotmaps []SlotmapV2 `json:"slotmaps" doc:"in the order of creation"`
	}
)

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
	if c.Assigned {
		k := ClientKeyV2(c.Key)
		v.Assigned = &k
	}
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

func bankInfoV2Of(b server.Bank) BankInfoV2 {
	return BankInfoV2{b.ID, peerV2Of(bankName(b.ID), b.State(), b.Peer), b.NumSlots, b.Endpoint.String()}
}

func bankV2Of(b server.Bank, slots []server.Slot) BankV2 {
	v := BankV2{bankInfoV2Of(b), make([]SlotV2, len(slots))}
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

func (a *v2) clients(w http.ResponseWriter, r *http.Request) {
	l := []ClientV2{}
	for _, c := range a.state.Clients() {
		l = append(l, clientV2Of(c))
	}
	reply(w, clientsV2{l})
}

// clientOfPath returns the client slot that the path names; it answers itself when that is none.
func clientOfPath(w http.ResponseWriter, r *http.Request) (slot.Client, bool) {
	name := chi.URLParam(r, "client")
	c, err := slot.ParseClient(name)
	if err != nil {
		badName(w, "client", name, err, "C{clientId}:{slotNr}")
	}
	return c, err == nil
}

func (a *v2) client(w http.ResponseWriter, r *http.Request) {
	c, ok := clientOfPath(w, r)
	if !ok {
		return
	}
	v, ok := a.state.Client(c)
	if !ok {
		notFound(w, "no client %s is connected", c)
		return
	}
	reply(w, clientV2Of(v))
}

func (a *v2) banks(w http.ResponseWriter, r *http.Request) {
	l := []BankV2{}
	for _, b := range a.state.Banks() {
		if b, slots, ok := a.state.Slots(b.ID); ok {
			l = append(l, bankV2Of(b, slots))
		}
	}
	reply(w, banksV2{l})
}

func (a *v2) bank(w http.ResponseWriter, r *http.Request) {
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

func (a *v2) slotmaps(w http.ResponseWriter, r *http.Request) {
	write(w, http.StatusOK, "application/json", a.maps.of(a.state, func() []byte {
		l := []SlotmapV2{}
		for _, m := range a.state.Slotmaps() {
			l = append(l, slotmapV2Of(m))
		}
		return encode(slotmapsV2{l})
	}))
}

// slotmap answers with the newest map of a bank slot.
func (a *v2) slotmap(w http.ResponseWriter, r *http.Request) {
	b, ok := bankOfPath(w, r)
	if !ok {
		return
	}
	m, ok := a.state.Slotmap(b)
	if !ok {
		notFound(w, "bank slot %s is in no map", b)
		return
	}
	if !m.Leaving() {
		w.Header().Set("ETag", etag(m.Client))
	}
	reply(w, slotmapV2Of(m))
}

// etag returns the entity tag of a bank slot's map: whose it is. So a change on condition is one that knows
// which client has the card.
func etag(c slot.Client) string { return `"` + c.String() + `"` }

// bankOfPath returns the bank slot that the path names; it answers itself when that is none.
func bankOfPath(w http.ResponseWriter, r *http.Request) (slot.Bank, bool) {
	name := chi.URLParam(r, "slot")
	b, err := slot.ParseBank(name)
	if err != nil {
		badName(w, "bank", name, err, "B{bankId}:{slotNr}")
	}
	return b, err == nil
}

func (a *v2) clientIDs(w http.ResponseWriter, r *http.Request) {
	l := []ClientIDV2{}
	for _, g := range a.state.Assignments() {
		_, connected := a.state.Client(g.Client)
		l = append(l, ClientIDV2{clientSlot(g.Client), ClientKeyV2(g.Key), connected})
	}
	reply(w, clientIDsV2{l})
}

func (a *v2) server(w http.ResponseWriter, r *http.Request) {
	i := a.state.Info()
	v := ServerV2{
		Name: i.Name, Version: i.Version, StartedAt: Time(i.Started), Starts: i.Starts, Durable: i.Durable,
		Limits: limitsV2{maxBody, maxBulk, maxOperations, maxStreams},
	}
	if i.Pool != nil {
		v.ClientIDPool = known(i.Pool.String())
	}
	reply(w, v)
}

// badName answers that a path names no slot.
func badName(w http.ResponseWriter, member, value string, err error, allowed string) {
	v, _ := json.Marshal(value)
	refuse(w, problem{Status: http.StatusBadRequest, Detail: err.Error(), Member: member, Value: v, Allowed: allowed})
}
