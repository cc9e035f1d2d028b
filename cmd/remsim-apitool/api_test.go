// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"encoding/json"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
)

// indent returns JSON as the tool prints it.
func indent(s string) string {
	var b bytes.Buffer
	if err := json.Indent(&b, []byte(s), "", "  "); err != nil {
		panic(err)
	}
	return b.String() + "\n"
}

func TestNoServer(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	ln.Close()
	status, out, errOut := execute(t, "-p "+port)
	if status != 1 || out != "" || !strings.Contains(errOut, "connection refused") || strings.Count(errOut, "\n") != 1 {
		t.Errorf("status %d, output %q, error %q", status, out, errOut)
	}
}

// Whatever else listens at the port, the tool says what is wrong and ends with status 1.
func TestStrangeServers(t *testing.T) {
	for _, tt := range []struct{ body, want string }{
		{"<html>", "invalid character '<'"},
		{"", "the server knows none"},
		{"{}", `no "slotmaps" in the answer`},
		{"[]", "cannot unmarshal array"},
		{`{"slotmaps":[7]}`, "slot map in the server's answer: json: cannot unmarshal number"},
		{`{"slotmaps":[{"bank":{"bankId":-1}}]}`, "slot map in the server's answer: json: cannot unmarshal number -1"},
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) { io.WriteString(w, tt.body) }))
		host, port, err := net.SplitHostPort(s.Listener.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		status, out, errOut := execute(t, "-s -H "+host+" -P "+port)
		if status != 1 || out != "" || !strings.Contains(errOut, tt.want) || strings.Count(errOut, "\n") != 1 {
			t.Errorf("%q: status %d, output %q, error %q, want %q", tt.body, status, out, errOut, tt.want)
		}
		s.Close()
	}
}

// Empty lists say so; in JSON they stay lists.
func TestEmpty(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		io.WriteString(w, `{"clients":[],"banks":[],"slotmaps":[]}`)
	}))
	defer s.Close()
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	at := " -H " + host + " -p " + port
	if status, out, _ := execute(t, at); status != 0 || out != "no clients\n\nno banks\n\nno slot maps\n" {
		t.Errorf("status %d, output %q", status, out)
	}
	if status, out, _ := execute(t, "-s -o json"+at); status != 0 || out != indent(`{"slotmaps":[]}`) {
		t.Errorf("status %d, output %q", status, out)
	}
}
