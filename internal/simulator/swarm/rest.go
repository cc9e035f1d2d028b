// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"

	"remsim/internal/slot"
)

// An api is the part of a server's REST API that a swarm needs.
type api struct {
	base string
	http *http.Client
}

func newAPI(base string) api {
	const timeout = 30 * time.Second
	return api{strings.TrimSuffix(base, "/"), &http.Client{
		Transport: &http.Transport{MaxIdleConnsPerHost: 2 * backends}, Timeout: timeout,
	}}
}

// A refusedError is an answer that isn't success.
type refusedError struct {
	status int
	text   string
}

func (e *refusedError) Error() string {
	return fmt.Sprintf("the server says %d %s: %s", e.status, http.StatusText(e.status), e.text)
}

// The bodies, as version 2 has them.
type (
	bankBody   struct{ BankID, SlotNr uint16 }
	clientBody struct {
		ClientID uint16 `json:"clientId"`
		SlotNr   uint16 `json:"slotNr"`
	}
)

// An operation is a part of a bulk: create or delete.
type operation struct {
	Op string
	slot.Map
}

// bulk does many things to maps; in parts, each of which is done as a whole or not at all.
func (a api) bulk(ctx context.Context, ops []operation) error {
	const part = 1000
	for len(ops) > 0 {
		n := min(part, len(ops))
		body := []byte(`{"operations":[`)
		for i, op := range ops[:n] {
			if i > 0 {
				body = append(body, ',')
			}
			body = fmt.Appendf(body, `{"op":%q,"bank":{"bankId":%d,"slotNr":%d}`, op.Op, op.Bank.ID, op.Bank.Slot)
			if op.Op != "delete" {
				body = fmt.Appendf(body, `,"client":{"clientId":%d,"slotNr":%d}`, op.Client.ID, op.Client.Slot)
			}
			body = append(body, '}')
		}
		if err := a.do(ctx, http.MethodPost, "/api/v2/slotmaps/bulk", append(body, "]}"...), nil); err != nil {
			return err
		}
		ops = ops[n:]
	}
	return nil
}

// put has a bank slot have a map of a client, in place of those that both are in.
func (a api) put(ctx context.Context, m slot.Map) error {
	body := fmt.Appendf(nil, `{"client":{"clientId":%d,"slotNr":%d}}`, m.Client.ID, m.Client.Slot)
	return a.do(ctx, http.MethodPut, "/api/v2/slotmaps/"+m.Bank.String(), body, nil)
}

// maps returns all maps that aren't leaving, with their states.
func (a api) maps(ctx context.Context) (map[slot.Map]string, error) {
	var list struct {
		SlotMaps []struct {
			Bank   bankBody
			Client clientBody
			State  string
		}
	}
	if err := a.do(ctx, http.MethodGet, "/api/backend/v1/slotmaps", nil, &list); err != nil {
		return nil, err
	}
	all := make(map[slot.Map]string, len(list.SlotMaps))
	for _, m := range list.SlotMaps {
		all[slot.Map{
			Bank: slot.Bank{ID: m.Bank.BankID, Slot: m.Bank.SlotNr}, Client: slot.Client{ID: m.Client.ClientID, Slot: m.Client.SlotNr},
		}] = m.State
	}
	return all, nil
}

// do makes a request, and decodes the answer into v unless that is nil.
func (a api) do(ctx context.Context, method, path string, body []byte, v any) error {
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return fmt.Errorf("swarm: %w", err)
	}
	if body != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	res, err := a.http.Do(req)
	if err != nil {
		return fmt.Errorf("swarm: %w", err)
	}
	defer res.Body.Close()
	text, err := io.ReadAll(res.Body)
	switch {
	case err != nil:
		return fmt.Errorf("swarm: %s %s: %w", method, path, err)
	case res.StatusCode/100 != 2:
		return &refusedError{res.StatusCode, strings.TrimSpace(string(text))}
	case v == nil:
		return nil
	}
	if err := json.Unmarshal(text, v); err != nil {
		return fmt.Errorf("swarm: %s %s: %w", method, path, err)
	}
	return nil
}
