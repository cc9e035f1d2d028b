// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"cmp"
	"encoding/json"
	"fmt"
	"net/http"
	"strconv"
	"unicode/utf16"
	"unicode/utf8"
)

// A problem is why a request is refused (RFC 9457 problem details).
type problem struct {
	Type   string `json:"type" doc:"always about:blank"`
	Title  string `json:"title" doc:"what the status is called"`
	Status int    `json:"status" doc:"the status"`
	Detail string `json:"detail" doc:"what is wrong, for people"`
	// Extension members: what of the request is wrong, its value there, and what is allowed.
	Index   *int            `json:"index,omitempty" doc:"of a bulk: which of the operations is to blame, from 0"`
	Member  string          `json:"member,omitempty" doc:"what of the request is to blame, such as bank.slotNr"`
	Value   json.RawMessage `json:"value,omitempty" doc:"what it was; a string when it is cut or was none of JSON"`
	Allowed string          `json:"allowed,omitempty" doc:"what could stand there"`
}

const problemType = "application/problem+json"

// maxValue is how much of a wrong value is sent back, in bytes.
const maxValue = 64

// refuse answers with a problem; the caller sets what it knows but type and title. Without a status it is 400.
func refuse(w http.ResponseWriter, p problem) {
	p.Status = cmp.Or(p.Status, http.StatusBadRequest)
	p.Type = "about:blank"
	p.Title = http.StatusText(p.Status)
	if len(p.Value) > maxValue {
		p.Value, _ = json.Marshal(string(p.Value[:maxValue]) + "…")
	}
	if l, ok := w.(*loggedWriter); ok {
		l.reason = p.Detail
	}
	send(w, p.Status, problemType, p)
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
	write(w, status, contentType, encode(v))
}

// write answers with a body.
func write(w http.ResponseWriter, status int, contentType string, body []byte) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("Content-Length", strconv.Itoa(len(body)))
	w.WriteHeader(status)
	w.Write(body) //nolint:errcheck // the client has gone
}

// encode returns v as JSON in ASCII.
func encode(v any) []byte {
	var buf bytes.Buffer
	enc := json.NewEncoder(&buf)
	enc.SetEscapeHTML(false)
	if err := enc.Encode(v); err != nil {
		panic(err) // our own types can't fail
	}
	return ascii(bytes.TrimSuffix(buf.Bytes(), []byte("\n")))
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
