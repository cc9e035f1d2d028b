// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strings"

	"remsim/internal/slot"
)

// An API is the REST API of a server, seen as a back-end sees it.
type API struct {
	Base string // "http://HOST:PORT"
	HTTP *http.Client
}

// A SlotMap is a map as version 1 shows it.
type SlotMap struct {
	Bank struct {
		BankID uint16 `json:"bankId"`
		SlotNr uint16 `json:"slotNr"`
	} `json:"bank"`
	Client struct {
		ClientID uint16 `json:"clientId"`
		SlotNr   uint16 `json:"slotNr"`
	} `json:"client"`
	State string `json:"state"`
}

// Map returns the pair of slots.
func (m SlotMap) Map() slot.Map {
	return slot.Map{
		Bank:   slot.Bank{ID: m.Bank.BankID, Slot: m.Bank.SlotNr},
		Client: slot.Client{ID: m.Client.ClientID, Slot: m.Client.SlotNr},
	}
}

// Create makes a map.
func (a API) Create(m slot.Map) error {
	body := fmt.Appendf(nil, `{"bank":{"bankId":%d,"slotNr":%d},"client":{"clientId":%d,"slotNr":%d}}`,
		m.Bank.ID, m.Bank.Slot, m.Client.ID, m.Client.Slot)
	return a.do(http.MethodPost, "/slotmaps", body, http.StatusCreated, nil)
}

// Delete removes the map of a bank slot.
func (a API) Delete(b slot.Bank) error {
	return a.do(http.MethodDelete, fmt.Sprintf("/slotmaps/%d", uint32(b.ID)<<16|uint32(b.Slot)), nil, http.StatusOK, nil)
}

// Put has a bank slot have a map of a client slot, in place of the maps that they are in (version 2).
func (a API) Put(m slot.Map) error {
	body := fmt.Appendf(nil, `{"client":{"clientId":%d,"slotNr":%d}}`, m.Client.ID, m.Client.Slot)
	return a.request(http.MethodPut, "/api/v2/slotmaps/"+m.Bank.String(), body, http.StatusOK, nil)
}

// An Op is a part of a bulk: create, put or delete.
type Op struct {
	Op string
	slot.Map
}

// Bulk does many things to maps, or none of them (version 2).
func (a API) Bulk(ops []Op) error {
	body := []byte(`{"operations":[`)
	for i, op := range ops {
		if i > 0 {
			body = append(body, ',')
		}
		body = fmt.Appendf(body, `{"op":%q,"bank":{"bankId":%d,"slotNr":%d}`, op.Op, op.Bank.ID, op.Bank.Slot)
		if op.Op != "delete" {
			body = fmt.Appendf(body, `,"client":{"clientId":%d,"slotNr":%d}`, op.Client.ID, op.Client.Slot)
		}
		body = append(body, '}')
	}
	return a.request(http.MethodPost, "/api/v2/slotmaps/bulk", append(body, "]}"...), http.StatusOK, nil)
}

// Starts returns how often the server was started with what it has stored.
func (a API) Starts() (n int, err error) {
	return n, a.do(http.MethodGet, "/restart-counter", nil, http.StatusOK, &n)
}

// Reset deletes all maps.
func (a API) Reset() error { return a.do(http.MethodPost, "/global-reset", nil, http.StatusOK, nil) }

// SlotMaps returns the states of all maps.
func (a API) SlotMaps() (map[slot.Map]string, error) {
	var list struct {
		SlotMaps []SlotMap `json:"slotmaps"`
	}
	if err := a.do(http.MethodGet, "/slotmaps", nil, http.StatusOK, &list); err != nil {
		return nil, err
	}
	states := make(map[slot.Map]string, len(list.SlotMaps))
	for _, m := range list.SlotMaps {
		states[m.Map()] = m.State
	}
	return states, nil
}

// Leaving returns how many maps were deleted and may still be known to a bankd.
func (a API) Leaving() (n int, err error) {
	var list struct {
		SlotMaps []struct {
			State string `json:"state"`
		} `json:"slotmaps"`
	}
	if err := a.request(http.MethodGet, "/api/v2/slotmaps", nil, http.StatusOK, &list); err != nil {
		return 0, err
	}
	for _, m := range list.SlotMaps {
		if m.State == "DELETE_REQ" || m.State == "DELETING" {
			n++
		}
	}
	return n, nil
}

// A Slot is a slot of a bank as version 2 shows it; what is null there is empty.
type Slot struct {
	SlotNr  uint16
	Reader  string
	Present *bool
	ATR     string
	Client  *struct{ ClientID, SlotNr uint16 }

	MapState, State, LastError string
}

// Slots returns the slots of a connected bank.
func (a API) Slots(bank uint16) ([]Slot, error) {
	var b struct{ Slots []Slot }
	err := a.request(http.MethodGet, fmt.Sprintf("/api/v2/banks/%d", bank), nil, http.StatusOK, &b)
	return b.Slots, err
}

// Adopted returns how many maps the server has learned from bankds.
func (a API) Adopted() (n int, err error) {
	var list struct {
		SlotMaps []struct{ Adopted bool } `json:"slotmaps"`
	}
	if err := a.request(http.MethodGet, "/api/v2/slotmaps", nil, http.StatusOK, &list); err != nil {
		return 0, err
	}
	for _, m := range list.SlotMaps {
		if m.Adopted {
			n++
		}
	}
	return n, nil
}

// Peers returns the names of the connected clients and banks, such as C1:0 and B1.
func (a API) Peers() (map[string]bool, error) {
	var list struct {
		Clients, Banks []struct {
			Peer string `json:"peer"`
		}
	}
	for _, path := range []string{"/clients", "/banks"} {
		if err := a.do(http.MethodGet, path, nil, http.StatusOK, &list); err != nil {
			return nil, err
		}
	}
	peers := map[string]bool{}
	for _, p := range append(list.Clients, list.Banks...) {
		peers[p.Peer] = true
	}
	return peers, nil
}

// Get decodes the answer to a GET of a path into v.
func (a API) Get(path string, v any) error {
	return a.request(http.MethodGet, path, nil, http.StatusOK, v)
}

// do makes a request of version 1.
func (a API) do(method, path string, body []byte, want int, v any) error {
	return a.request(method, "/api/backend/v1"+path, body, want, v)
}

// request makes one request and decodes the answer into v unless that is nil.
func (a API) request(method, path string, body []byte, want int, v any) error {
	req, err := http.NewRequest(method, a.Base+path, bytes.NewReader(body))
	if err != nil {
		return err
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.HTTP.Do(req)
	if err != nil {
		return err
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	if err != nil { // it was lost in the middle of the answer
		return &url.Error{Op: method, URL: a.Base + path, Err: err}
	}
	if res.StatusCode != want && (method != http.MethodPut || res.StatusCode != http.StatusCreated) {
		return fmt.Errorf("%s %s: %s %s", method, path, res.Status, strings.TrimSpace(string(text)))
	}
	if v == nil {
		return nil
	}
	return json.Unmarshal(text, v)
}
