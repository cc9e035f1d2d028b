// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A problem is why a request is refused (RFC 9457 problem details).
type problem struct {
	Type   string `json:"type"`
	Title  string `json:"title"`
	Status int    `json:"status"`
	Detail string `json:"detail"`
	// Extension members: what of the request is wrong, its value there, and what is allowed.
	Member  string          `json:"member,omitempty"`
	Value   json.RawMessage `json:"value,omitempty"`
	Allowed string          `json:"allowed,omitempty"`
}

// maxValue is how much of a wrong value is sent back, in bytes.
const maxValue = 64

// refuse answers with a problem; the caller sets what it knows but type and title.
func refuse(w http.ResponseWriter, p problem) {
	p.Type = "about:blank"
	p.Title = http.StatusText(p.Status)
	if len(p.Value) > maxValue {
		p.Value, _ = json.Marshal(string(p.Value[:maxValue]) + "…")
	}
	send(w, p.Status, "application/problem+json", p)
}

// notFound answers that there is no such thing.
func notFound(w http.ResponseWriter, format string, a ...any) {
	refuse(w, problem{Status: http.StatusNotFound, Detail: fmt.Sprintf(format, a...)})
}

// reply answers with v.
func reply(w http.ResponseWriter, v any) {
	send(w, http.StatusOK, "application/json", v)
}

// send answers with v as JSON in ASCII.
func send(w http.ResponseWriter, status int, contentType string, v any) {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // our own types can't fail
	}
	b := ascii(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(b)))
	w.WriteHeader(status)
	w.Write(b) //nolint:errcheck // the client has gone
}

// ascii escapes what isn't ASCII in valid JSON, where it can only be in strings.
func ascii(b []byte) []byte {
	i := bytes.IndexFunc(b, func(r rune) bool { return r >= utf8.RuneSelf })
	if i < 0 {
		return b
	}
	out := append(make([]byte, 0, len(b)+64), b[:i]...)
	for _, r := range string(b[i:]) {
		switch {
		case r < utf8.RuneSelf:
			out = append(out, byte(r))
		case r > 0xffff:
			hi, lo := utf16.EncodeRune(r)
			out = fmt.Appendf(out, `\u%04x\u%04x`, hi, lo)
		default:
			out = fmt.Appendf(out, `\u%04x`, r)
		}
	}
	return out
}
