// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"mime"
	"net/http"
	"strings"
	"time"

	"remsim/internal/slot"
)

const (
	timeout = 10 * time.Second // for a request with its answer
	maxBody = 64 << 20         // bytes; 100,000 maps take 12 MB
)

var errNone = errors.New("the server knows none")

// An api is a version of a server's REST API.
type api struct {
	base  string    // URL without a slash at the end
	trace io.Writer // may be nil
}

// A list is what the server has of one kind.
type list struct {
	kind  kind
	id    string            // "": all there are
	items []json.RawMessage // objects as the server sent them
}

// lists returns what the server has of each of kinds, or the one with that id.
func (a *api) lists(ctx context.Context, id string, kinds ...kind) ([]list, error) {
	found := make([]list, len(kinds))
	for i, k := range kinds {
		items, err := a.items(ctx, k, id)
		if err != nil {
			return nil, err
		}
		found[i] = list{k, id, items}
	}
	return found, nil
}

func (a *api) items(ctx context.Context, k kind, id string) ([]json.RawMessage, error) {
	path := cmp.Or(k.path, "/"+k.name)
	if id != "" && k.id == nil {
		var item json.RawMessage
		if err := a.get(ctx, path+"/"+id, &item); err != nil {
			return nil, fmt.Errorf("%s %s: %w", k.one, id, err)
		}
		return []json.RawMessage{item}, nil
	}
	var members map[string][]json.RawMessage
	if err := a.get(ctx, path, &members); err != nil {
		return nil, err
	}
	items, ok := members[k.name]
	if !ok {
		return nil, fmt.Errorf("GET %s%s: no %q in the answer", a.base, path, k.name)
	}
	if id == "" {
		return items, nil
	}
	for _, item := range items {
		if have, err := k.id(item); err != nil {
			return nil, fmt.Errorf("GET %s%s: %w", a.base, path, err)
		} else if have == id {
			return []json.RawMessage{item}, nil
		}
	}
	return nil, fmt.Errorf("%s %s: %w", k.one, id, errNone)
}

// create makes a slot map.
func (a *api) create(ctx context.Context, b slot.Bank, c slot.Client) error {
	_, err := a.do(ctx, http.MethodPost, "/slotmaps", slotMap{
		Bank:   bankSlot{b.ID, b.Slot},
		Client: clientSlot{c.ID, c.Slot},
	})
	if err != nil {
		return fmt.Errorf("map %v to %v: %w", b, c, err)
	}
	return nil
}

// delete deletes the map of a bank's slot.
func (a *api) delete(ctx context.Context, b slot.Bank) error {
	_, err := a.do(ctx, http.MethodDelete, "/slotmaps/"+mapID(b), nil)
	if err != nil {
		return fmt.Errorf("delete the map of %v: %w", b, err)
	}
	return nil
}

// reset deletes all maps.
func (a *api) reset(ctx context.Context) error {
	if _, err := a.do(ctx, http.MethodPost, "/global-reset", nil); err != nil {
		return fmt.Errorf("delete all maps: %w", err)
	}
	return nil
}

// get decodes the JSON at path into v.
func (a *api) get(ctx context.Context, path string, v any) error {
	body, err := a.do(ctx, http.MethodGet, path, nil)
	if err != nil {
		return err
	}
	if len(body) == 0 { // what the C server says of an id that it doesn't know
		return errNone
	}
	if err := json.Unmarshal(body, v); err != nil {
		return fmt.Errorf("GET %s%s: %w", a.base, path, err)
	}
	return nil
}

// do makes a request, with more fields of its header by name and value, and returns the answer's body. An answer other than
// 2xx is a *refusal.
func (a *api) do(ctx context.Context, method, path string, v any, header ...string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	var body []byte
	if v != nil {
		var err error
		if body, err = json.Marshal(v); err != nil {
			return nil, err
		}
	}
	req, err := http.NewRequestWithContext(ctx, method, a.base+path, bytes.NewReader(body))
	if err != nil {
		return nil, err
	}
	if v != nil {
		req.Header.Set("Content-Type", "application/json")
	}
	for i := 0; i < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	a.tracef("%s %s %s\n", method, req.URL, body)
	res, err := http.DefaultClient.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	answer, err := io.ReadAll(io.LimitReader(res.Body, maxBody+1))
	if err == nil && len(answer) > maxBody {
		err = fmt.Errorf("the answer is longer than %d bytes", maxBody)
	}
	if err != nil {
		return nil, fmt.Errorf("%s %s: %w", method, req.URL, err)
	}
	a.tracef("%s %s\n", res.Status, answer)
	if res.StatusCode/100 != 2 {
		return nil, refused(res, answer)
	}
	return answer, nil
}

func (a *api) tracef(format string, args ...any) {
	if a.trace != nil {
		fmt.Fprintf(a.trace, format, args...)
	}
}

// A refusal is an answer of the server that isn't what was asked for.
type refusal struct {
	status string
	reason string // as the server says
	index  *int   // of a bulk: the operation that is to blame
}

func (r *refusal) Error() string { return r.status + ": " + r.reason }

// refused reads a refusal: problem details (RFC 9457) or a line of text.
func refused(res *http.Response, body []byte) *refusal {
	r := &refusal{status: res.Status}
	kind, _, _ := mime.ParseMediaType(res.Header.Get("Content-Type"))
	var problem struct {
		Title, Detail string
		Index         *int
	}
	if strings.HasSuffix(kind, "json") && json.Unmarshal(body, &problem) == nil {
		r.reason, r.index = printable(cmp.Or(problem.Detail, problem.Title)), problem.Index
	}
	if r.reason == "" {
		line, _, _ := strings.Cut(strings.TrimSpace(string(body)), "\n")
		r.reason = cmp.Or(printable(line), "the server gives no reason")
	}
	return r
}
