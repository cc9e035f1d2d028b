// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"

	"remsim/internal/daemon"
)

// execute runs the tool with args, split at blanks.
func execute(t *testing.T, args string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := command()
	status = daemon.Execute(t.Context(), cmd, arguments(cmd, strings.Fields(args)), &out, &errOut)
	return status, out.String(), errOut.String()
}

func TestJoinWords(t *testing.T) {
	for _, tt := range []struct{ in, want string }{
		{"", ""},
		{"-m|1|0|23|0", "--create-slotmap=1 0 23 0"},
		{"--create-slotmap|1|0|23|0", "--create-slotmap=1 0 23 0"},
		{"-m|1|0|23|0|-H|host", "--create-slotmap=1 0 23 0|-H|host"},
		{"-m|1|0", "--create-slotmap=1 0"},
		{"-m|1|0|-v", "--create-slotmap=1 0|-v"},
		{"-m|1|0|23|0|5", "--create-slotmap=1 0 23 0|5"},
		{"-m|-1|0|23|0", "--create-slotmap=-1 0 23 0"},
		{"-m", "--create-slotmap="},
		{"-m1|0|23|0", "--create-slotmap=1 0 23 0"},
		{"-d|1|0", "--delete-slotmap=1 0"},
		{"-c", "--show-clients= "},
		{"-c|5", "--show-clients=5"},
		{"-c5", "--show-clients=5"},
		{"-c=5", "--show-clients=5"},
		{"--show-clients|5", "--show-clients=5"},
		{"--show-clients=5", "--show-clients=5"},
		{"--show-clients=", "--show-clients="},
		{"-c|", "--show-clients="}, // an empty argument
		{"-c|-v", "--show-clients= |-v"},
		{"-c|5|6", "--show-clients=5|6"},
		{"-vc|5", "-v|--show-clients=5"},
		{"-vs", "-v|--show-slotmaps= "},
		{"-H|-c", "-H|-c"}, // the value of -H
		{"-p|9997|-b", "-p|9997|--show-banks= "},
		{"-p9997|-b|1", "-p9997|--show-banks=1"},
		{"--host|-b|-r", "--host|-b|-r"},
		{"--host=h|-b", "--host=h|--show-banks= "},
		{"-vH|-c|-c", "-vH|-c|--show-clients= "},
		{"-H", "-H"},
		{"-|--|-c|5", "-|--|-c|5"},
		{"-x|-c", "-x|--show-clients= "},
		{"--unknown|-c", "--unknown|--show-clients= "},
		{"word|-r", "word|-r"},
	} {
		var args []string
		if tt.in != "" {
			args = strings.Split(tt.in, "|")
		}
		got := strings.Join(joinWords(command().Flags(), args), "|")
		if got != tt.want {
			t.Errorf("%s: %s, want %s", tt.in, got, tt.want)
		}
	}
}

func FuzzJoinWords(f *testing.F) {
	for _, s := range []string{"-m|1|0|23|0", "-c", "-vc|5|-p9997", "--|-c", "-H|-c|--show-banks=1", "-", "--=|-m", "-\xff"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, s string) {
		args := strings.Split(s, "|")
		out := joinWords(command().Flags(), slices.Clone(args))
		// Nothing that was said is lost.
		all := strings.Join(out, " ")
		for _, a := range args {
			if a = strings.TrimLeft(a, "-"); isNumber(a) && !strings.Contains(all, a) {
				t.Fatalf("%q is missing in %q, made of %q", a, out, args)
			}
		}
	})
}

func isNumber(s string) bool { return s != "" && strings.Trim(s, "0123456789") == "" }

func TestUsageErrors(t *testing.T) {
	const wantMap = "want BANK SLOT CLIENT SLOT, numbers 0..1023"
	for _, tt := range []struct{ args, want string }{
		{"-m 1 0 23", `option -m --create-slotmap: value "1 0 23": ` + wantMap},
		{"-m 1 0 23 1024", `option -m --create-slotmap: value "1 0 23 1024": ` + wantMap},
		{"-m -1 0 23 0", `option -m --create-slotmap: value "-1 0 23 0": ` + wantMap},
		{"-m", `option -m --create-slotmap: value "": ` + wantMap},
		{"-m 1 0 23 0 7", `unexpected argument "7": remsim-apitool takes options only`},
		{"-d 1", `option -d --delete-slotmap: value "1": want BANK SLOT, numbers 0..1023`},
		{"-c x", `option -c --show-clients: value "x": want CLIENT or CLIENT:SLOT, numbers 0..1023`},
		{"-c 1024", `option -c --show-clients: value "1024": want CLIENT or CLIENT:SLOT, numbers 0..1023`},
		{"--show-clients=", `option -c --show-clients: value "": want CLIENT or CLIENT:SLOT, numbers 0..1023`},
		{"-b 1:0", `option -b --show-banks: value "1:0": want a BANK 0..1023`},
		{"-s 1024", `option -s --show-slotmaps: value "1024": want BANK:SLOT, numbers 0..1023, or a map's id, BANK x 65536 + SLOT`},
		{"-c -b", "options --show-clients and --show-banks: want only one of -c, -b, -s, -m, -d, -r and -a"},
		{"-m 1 0 23 0 -r", "options --create-slotmap and --reset: want only one of -c, -b, -s, -m, -d, -r and -a"},
		{"-o yaml", `option -o --output: value "yaml": want table or json`},
		{"-p 0", `option -p --port: value "0": want a number 1..65535`},
		{"-H foo:1", `option -H --host: value "foo:1": want a host name or an address, without a port`},
		{"--host=", `option -H --host: value "": want a host name or an address, without a port`},
		{"-P 65536", `option -P --rest-port: value "65536": want a number 1..65535`},
	} {
		status, out, errOut := execute(t, tt.args)
		if want := "remsim-apitool: " + tt.want + "\n"; status != 2 || out != "" || errOut != want {
			t.Errorf("%q: status %d, output %q, error\n%swant 2 and\n%s", tt.args, status, out, errOut, want)
		}
	}
}

const (
	client23 = `{"peer":"C23:0","state":"CONNECTED_CLIENT","component_id":{"type_":"remsimClient","name":"modem-host","software":"remsim-client","swVersion":"1.1.3"}}`
	bank1    = `{"peer":"B1","state":"CONNECTED_BANKD","component_id":{"type_":"remsimBankd","name":"bank\u001b[31m","software":"remsim-bankd","swVersion":"0.1.0"},"bankId":1,"numberOfSlots":8}`
	map11    = `{"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"ACTIVE"}`
	map20    = `{"bank":{"bankId":2,"slotNr":0},"client":{"clientId":23,"slotNr":1},"state":"NEW"}`
)

// answers are what the server in the tests says, and how.
var answers = map[string]struct {
	status int
	body   string
}{
	"GET /clients":           {200, `{"clients":[` + client23 + `]}`},
	"GET /clients/23":        {200, client23},
	"GET /clients/23:1":      {200, client23},
	"GET /clients/5":         {200, ""}, // as the C server says of an unknown one
	"GET /clients/6":         {404, `{"type":"about:blank","title":"Not Found","status":404,"detail":"no client 6"}`},
	"GET /banks":             {200, `{"banks":[` + bank1 + `]}`},
	"GET /banks/1":           {200, bank1},
	"GET /slotmaps":          {200, `{"slotmaps":[` + map11 + `,` + map20 + `]}`},
	"DELETE /slotmaps/65537": {200, ""},
	"DELETE /slotmaps/65538": {404, ""},
	"POST /global-reset":     {200, ""},
	`POST /slotmaps {"bank":{"bankId":1,"slotNr":0},"client":{"clientId":23,"slotNr":0}}`: {201, ""},
	`POST /slotmaps {"bank":{"bankId":1,"slotNr":1},"client":{"clientId":24,"slotNr":0}}`: {400,
		`{"title":"Bad Request","status":400,"detail":"bank slot B1:1 is in a map already"}`},
	`POST /slotmaps {"bank":{"bankId":3,"slotNr":0},"client":{"clientId":1,"slotNr":0}}`: {400, "Bad Request\nmore of it"},
	`POST /slotmaps {"bank":{"bankId":4,"slotNr":0},"client":{"clientId":1,"slotNr":0}}`: {500, `{"title":"Internal Server Error"}`},
}

// server answers as answers say and returns the options that lead to it.
func server(t *testing.T) string {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		path, ok := strings.CutPrefix(r.URL.Path, "/api/backend/v1")
		body, _ := io.ReadAll(r.Body)
		a, known := answers[strings.TrimSpace(r.Method+" "+path+" "+string(body))]
		if !ok || !known || len(body) > 0 && r.Header.Get("Content-Type") != "application/json" {
			t.Errorf("unexpected %s %s %q %s", r.Method, r.URL, r.Header, body)
		}
		if strings.HasPrefix(a.body, "{") {
			w.Header().Set("Content-Type", "application/problem+json; charset=utf-8")
		}
		w.WriteHeader(a.status)
		io.WriteString(w, a.body)
	}))
	t.Cleanup(s.Close)
	host, port, err := net.SplitHostPort(s.Listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	return " -H " + host + " -p " + port
}

func TestRun(t *testing.T) {
	const (
		clientTable = "CLIENT  STATE             NAME        SOFTWARE\nC23:0   CONNECTED_CLIENT  modem-host  remsim-client 1.1.3\n"
		bankTable   = "BANK  SLOTS  STATE            NAME       SOFTWARE\nB1    8      CONNECTED_BANKD  bank?[31m  remsim-bankd 0.1.0\n"
		mapHead     = "BANK  CLIENT  STATE   ID\n"
		mapRow11    = "B1:1  C23:0   ACTIVE  65537\n"
		mapRow20    = "B2:0  C23:1   NEW     131072\n"
	)
	at := server(t)
	for _, tt := range []struct {
		args   string
		status int
		stdout string
		stderr string
	}{
		{"", 0, clientTable + "\n" + bankTable + "\n" + mapHead + mapRow11 + mapRow20, ""},
		{"-a", 0, clientTable + "\n" + bankTable + "\n" + mapHead + mapRow11 + mapRow20, ""},
		{"-c", 0, clientTable, ""},
		{"-c 23", 0, clientTable, ""},
		{"-c C23:1", 0, clientTable, ""},
		{"-c 5", 1, "", "remsim-apitool: client 5: the server knows none\n"},
		{"-c 6", 1, "", "remsim-apitool: client 6: 404 Not Found: no client 6\n"},
		{"-b", 0, bankTable, ""},
		{"-b 1", 0, bankTable, ""},
		{"-s", 0, mapHead + mapRow11 + mapRow20, ""},
		{"-s 65537", 0, mapHead + mapRow11, ""},
		{"-s 2:0", 0, "BANK  CLIENT  STATE  ID\nB2:0  C23:1   NEW    131072\n", ""},
		{"-s 3:0", 1, "", "remsim-apitool: slot map 196608: the server knows none\n"},
		{"-m 1 0 23 0", 0, "", ""},
		{"-m 1 1 24 0", 1, "", "remsim-apitool: map B1:1 to C24:0: 400 Bad Request: bank slot B1:1 is in a map already\n"},
		{"-m 3 0 1 0", 1, "", "remsim-apitool: map B3:0 to C1:0: 400 Bad Request: Bad Request\n"},
		{"-m 4 0 1 0", 1, "", "remsim-apitool: map B4:0 to C1:0: 500 Internal Server Error: Internal Server Error\n"},
		{"-d 1 1", 0, "", ""},
		{"-d 1 2", 1, "", "remsim-apitool: delete the map of B1:2: 404 Not Found: the server gives no reason\n"},
		{"-r", 0, "", ""},
		{"-c 23 -o json", 0, indent(client23), ""},
		{"-s 65537 -o json", 0, indent(map11), ""},
		{"-s -o json", 0, indent(`{"slotmaps":[` + map11 + `,` + map20 + `]}`), ""},
		{"-r -v", 0, "", "POST http://HOST/api/backend/v1/global-reset \n200 OK \n"},
	} {
		t.Run(tt.args, func(t *testing.T) {
			status, out, errOut := execute(t, tt.args+at)
			host := strings.Join(strings.Fields(at)[1:], "")
			errOut = strings.ReplaceAll(errOut, strings.Replace(host, "-p", ":", 1), "HOST")
			if status != tt.status || out != tt.stdout || errOut != tt.stderr {
				t.Errorf("status %d, output\n%s\nerror %q\nwant %d\n%s\n%q", status, out, errOut, tt.status, tt.stdout, tt.stderr)
			}
		})
	}
	if status, out, errOut := execute(t, "-a -o json"+at); status != 0 || errOut != "" ||
		!strings.Contains(out, `"clients"`) || !strings.Contains(out, `"banks"`) || !strings.Contains(out, `"slotmaps"`) {
		t.Errorf("-a -o json: status %d, output %s, error %q", status, out, errOut)
	}
}

// TestHosts checks that addresses of IPv6 are taken as people write them.
func TestHosts(t *testing.T) {
	for host, want := range map[string]string{
		"::1":        "http://[::1]:1/api/backend/v1/global-reset",
		"[::1]":      "http://[::1]:1/api/backend/v1/global-reset",
		"fe80::1%lo": "http://[fe80::1%25lo]:1/api/backend/v1/global-reset",
	} {
		status, _, errOut := execute(t, "-r -p 1 -v -H "+host)
		if status != 1 || !strings.HasPrefix(errOut, "POST "+want+" \n") || !strings.Contains(errOut, ": dial tcp [") {
			t.Errorf("%s: status %d, error %q, want one that begins with POST %s", host, status, errOut, want)
		}
	}
}
