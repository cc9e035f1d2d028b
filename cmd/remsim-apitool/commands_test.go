// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/daemon"
	remsim "remsim/internal/server"
	"remsim/internal/server/rest"
	"remsim/internal/slot"
)

// realServer runs the REST API of a state and returns the options that lead to it.
func realServer(t *testing.T, state *remsim.State) string {
	log, _ := logtest.NewNullLogger()
	s := httptest.NewServer(rest.Handler(state, logrus.NewEntry(log)))
	t.Cleanup(func() {
		s.CloseClientConnections()
		s.Close()
	})
	return at(t, s.Listener.Addr())
}

func at(t *testing.T, addr net.Addr) string {
	host, port, err := net.SplitHostPort(addr.String())
	if err != nil {
		t.Fatal(err)
	}
	return " -H " + host + " -p " + port
}

// maps returns the wanted maps.
func maps(s *remsim.State) string {
	var l []string
	for _, m := range s.Slotmaps() {
		if !m.Leaving() {
			l = append(l, m.Map.String())
		}
	}
	slices.Sort(l)
	return strings.Join(l, " ")
}

// TestMapCommands drives a server from the command line, each command on what those before it have left.
func TestMapCommands(t *testing.T) {
	state := remsim.NewState()
	opts := realServer(t, state)
	times := regexp.MustCompile(`\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d{3}Z`)
	const head = "BANK  CLIENT  STATE  CREATED  CHANGED  ERROR\n"
	for _, tt := range []struct {
		args   string
		status int
		maps   string
		out    string // with T for times; without runs of blanks
		err    string
	}{
		{"map list", 0, "", "no slot maps\n", ""},
		{"map add 1:1 23:0", 0, "C23:0=B1:1", "", ""},
		{"map add B1:1 C24:0", 1, "C23:0=B1:1", "", "map B1:1 to C24:0: 409 Conflict: bank slot B1:1 is in use by map C23:0=B1:1"},
		{"map list", 0, "C23:0=B1:1", head + "B1:1 C23:0 NEW T T -\n", ""},
		{"map list 1:1", 0, "C23:0=B1:1", head + "B1:1 C23:0 NEW T T -\n", ""},
		{"map list 1:2", 1, "C23:0=B1:1", "", "slot map B1:2: 404 Not Found: bank slot B1:2 is in no map"},
		{"map move 1:2 23:0", 0, "C23:0=B1:2", "", ""},
		{"map move 1:2 23:0", 0, "C23:0=B1:2", "", ""},
		{"map move --if 24:0 1:2 25:0", 1, "C23:0=B1:2", "", "map of B1:2: 412 Precondition Failed: bank slot B1:2 is in map C23:0=B1:2"},
		{"map move --if C23:0 1:2 25:0", 0, "C25:0=B1:2", "", ""},
		{"map rm 1:1", 1, "C25:0=B1:2", "", "map of B1:1: 412 Precondition Failed: bank slot B1:1 is in no map"},
		{"map rm 1:2 --if 24:0", 1, "C25:0=B1:2", "", "map of B1:2: 412 Precondition Failed: bank slot B1:2 is in map C25:0=B1:2"},
		{"map export", 0, "C25:0=B1:2", csvHeading + "\n1,2,25,0\n", ""},
		{"map export -o json", 0, "C25:0=B1:2", `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":25,"slotNr":0}}` + "\n", ""},
		{"map rm 1:2", 0, "", "", ""},
		{"bank list", 0, "", "no banks\n", ""},
		{"bank list 1", 1, "", "", "bank 1: 404 Not Found: no bankd with bank id 1 is connected"},
		{"bank slots B1", 1, "", "", "bank 1: 404 Not Found: no bankd with bank id 1 is connected"},
		{"client list", 0, "", "no clients\n", ""},
		{"client list -o json", 0, "", "{\n \"clients\": []\n}\n", ""},
		{"client list 23:0", 1, "", "", "client C23:0: 404 Not Found: no client C23:0 is connected"},
		{"client ids", 0, "", "no client ids\n", ""},
		{"client forget 900:0", 1, "", "", "client id C900:0: 404 Not Found: client slot C900:0 was given to nobody"},
	} {
		status, out, errOut := execute(t, tt.args+opts)
		out = regexp.MustCompile(` +`).ReplaceAllString(times.ReplaceAllString(out, "T"), " ")
		want := strings.ReplaceAll(tt.out, "  ", " ")
		if tt.err != "" {
			tt.err = "remsim-apitool: " + tt.err + "\n"
		}
		if got := maps(state); status != tt.status || out != want || errOut != tt.err || got != tt.maps {
			t.Errorf("%s: status %d, maps %s, output\n%s\nerror %q\nwant %d, maps %s,\n%s\n%q", tt.args, status, got, out, errOut, tt.status, tt.maps, want, tt.err)
		}
	}
}

// TestCommandUsage checks what is said of wrong arguments.
func TestCommandUsage(t *testing.T) {
	for _, tt := range []struct{ args, want string }{
		{"map", "command missing: want one of add, export, import, list, move, rm"},
		{"map remove", `unknown command "remove": want one of add, export, import, list, move, rm`},
		{"map add", "argument missing: want BANK:SLOT, numbers 0..1023"},
		{"map add 1:1", "argument missing: want CLIENT:SLOT, numbers 0..1023"},
		{"map add 1:1 23", `argument "23": want CLIENT:SLOT, numbers 0..1023`},
		{"map add 1:1024 23:0", `argument "1:1024": want BANK:SLOT, numbers 0..1023`},
		{"map add C1:1 23:0", `argument "C1:1": want BANK:SLOT, numbers 0..1023`},
		{"map add 1:1 23:0 5", `unexpected argument "5"`},
		{"map rm", "argument missing: want BANK:SLOT, numbers 0..1023"},
		{"map rm x", `argument "x": want BANK:SLOT, numbers 0..1023`},
		{"map rm 1:1 --if 23", `option --if: value "23": want CLIENT:SLOT, numbers 0..1023`},
		{"map import", `argument missing: want a FILE, or "-" for standard input`},
		{"map import x y", `unexpected argument "y"`},
		{"map import x --chunk 0", `option --chunk: value "0": want a number 1..20000`},
		{"map import x --replace --remove", "options --replace and --remove: want only one of them"},
		{"map export 1:1", `unexpected argument "1:1": remsim-apitool map export takes options only`},
		{"map list 1", `argument "1": want BANK:SLOT, numbers 0..1023`},
		{"bank list 1024", `argument "1024": want a BANK 0..1023`},
		{"bank slots", "argument missing: want a BANK 0..1023"},
		{"client forget", "argument missing: want CLIENT:SLOT, numbers 0..1023"},
		{"client forget 23", `argument "23": want CLIENT:SLOT, numbers 0..1023`},
		{"client forget 23:0 x", `unexpected argument "x"`},
		{"client list 23", `argument "23": want CLIENT:SLOT, numbers 0..1023`},
		{"client ids 23", `unexpected argument "23": remsim-apitool client ids takes options only`},
		{"events x", `unexpected argument "x": remsim-apitool events takes options only`},
		{"map list -o yaml", `option -o --output: value "yaml": want table or json`},
		{"nothing", `unexpected argument "nothing": remsim-apitool takes options only`},
	} {
		status, out, errOut := execute(t, tt.args)
		if want := "remsim-apitool: " + tt.want + "\n"; status != 2 || out != "" || errOut != want {
			t.Errorf("%q: status %d, output %q, error\n%swant 2 and\n%s", tt.args, status, out, errOut, want)
		}
	}
}

// TestOptionsFirst checks that common options may stand before a command.
func TestOptionsFirst(t *testing.T) {
	state := remsim.NewState()
	opts := realServer(t, state)
	if status, _, errOut := execute(t, opts+" map add 1:1 23:0"); status != 0 || maps(state) != "C23:0=B1:1" {
		t.Errorf("status %d %s, maps %s", status, errOut, maps(state))
	}
}

// TestImport takes good and bad files.
func TestImport(t *testing.T) {
	dir := t.TempDir()
	for i, tt := range []struct {
		text, args string
		maps       string
		err        string // what is said after the file's name; empty: nothing is wrong
	}{
		{"", "", "C9:0=B9:0", ""},
		{"1,1,23,0\n1,2,24,1\n", "", "C23:0=B1:1 C24:1=B1:2 C9:0=B9:0", ""},
		{csvHeading + "\r\n# ours\r\n1, 1, 23, 0\r\n\r\n", "", "C23:0=B1:1 C9:0=B9:0", ""},
		{`{"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"NEW"}` + "\n\n", "", "C23:0=B1:1 C9:0=B9:0", ""},
		{"9,1,9,0\n", "--replace", "C9:0=B9:1", ""},
		{"9,0,9,0\n", "--remove", "", ""},
		{"9,0,8,0\n", "--remove", "C9:0=B9:0", ", line 1: C8:0=B9:0: 409 Conflict: bank slot B9:0 is in map C9:0=B9:0 (0 of 1 maps done)"},
		{"1,1,23,0\n9,0,24,1\n", "", "C9:0=B9:0", ", line 2: C24:1=B9:0: 409 Conflict: bank slot B9:0 is in use by map C9:0=B9:0 (0 of 2 maps done)"},
		{"1,1,1,1\n1,2,1,2\n#\n1,3,1,3\n9,0,24,1\n1,4,1,4\n", "--chunk 2", "C1:1=B1:1 C1:2=B1:2 C9:0=B9:0",
			", line 5: C24:1=B9:0: 409 Conflict: bank slot B9:0 is in use by map C9:0=B9:0 (2 of 5 maps done)"},
		{"1,1,1,1\n1,2,1\n", "", "C9:0=B9:0", `, line 2: "1,2,1": want bankId,bankSlot,clientId,clientSlot, numbers 0..1023`},
		{"1,1,1,1024\n", "", "C9:0=B9:0", `, line 1: "1,1,1,1024": want bankId,bankSlot,clientId,clientSlot, numbers 0..1023`},
		{"1,1,1,-1\n", "", "C9:0=B9:0", `, line 1: "1,1,1,-1": want bankId,bankSlot,clientId,clientSlot, numbers 0..1023`},
		{"\"1,1\n", "", "C9:0=B9:0", `: parse error on line 1, column 6: extraneous or missing " in quoted-field`},
		{"{\"bank\":{}}\n", "", "C9:0=B9:0", `, line 1: "{\"bank\":{}}": want {"bank":{"bankId":N,"slotNr":N},"client":{"clientId":N,"slotNr":N}}, numbers 0..1023`},
		{"{", "", "C9:0=B9:0", `, line 1: "{": want {"bank":{"bankId":N,"slotNr":N},"client":{"clientId":N,"slotNr":N}}, numbers 0..1023`},
	} {
		state := remsim.NewState()
		opts := realServer(t, state)
		if _, err := state.Commit(t.Context(), remsim.CreateMap(slot.Map{Bank: slot.Bank{ID: 9}, Client: slot.Client{ID: 9}})); err != nil {
			t.Fatal(err)
		}
		file := filepath.Join(dir, fmt.Sprint(i))
		if err := os.WriteFile(file, []byte(tt.text), 0o600); err != nil {
			t.Fatal(err)
		}
		status, out, errOut := execute(t, "map import "+file+" "+tt.args+opts)
		wantStatus, want := 0, ""
		if tt.err != "" {
			wantStatus, want = 1, "remsim-apitool: "+file+tt.err+"\n"
		}
		if got := maps(state); status != wantStatus || out != "" || errOut != want || got != tt.maps {
			t.Errorf("%q %s: status %d, maps %s, error\n%swant %s,\n%s", tt.text, tt.args, status, got, errOut, tt.maps, want)
		}
	}
}

// TestExportImport has another server make the maps that one had, a few thousand, from standard input.
func TestExportImport(t *testing.T) {
	for _, form := range []string{"table", "json"} {
		from, to := remsim.NewState(), remsim.NewState()
		var ops []remsim.Op
		for i := range uint16(3000) {
			ops = append(ops, remsim.CreateMap(slot.Map{Bank: slot.Bank{ID: i >> 10, Slot: i & 1023}, Client: slot.Client{ID: i & 1023, Slot: i >> 10}}))
		}
		if _, err := from.Commit(t.Context(), ops...); err != nil {
			t.Fatal(err)
		}
		status, out, errOut := execute(t, "map export -o "+form+realServer(t, from))
		if status != 0 {
			t.Fatal(errOut)
		}
		cmd := command()
		cmd.SetIn(strings.NewReader(out))
		var said bytes.Buffer
		status = daemon.Execute(t.Context(), cmd, strings.Fields("map import - --chunk 999"+realServer(t, to)), &said, &said)
		if status != 0 || said.Len() > 0 || maps(to) != maps(from) {
			t.Errorf("%s: status %d, %s, %d maps", form, status, &said, len(to.Slotmaps()))
		}
	}
}

// FuzzImport reads any file: an error, or maps that are some.
func FuzzImport(f *testing.F) {
	for _, s := range []string{"", "1,2,3,4\n", csvHeading + "\n1,2,3,4", `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":3,"slotNr":4}}`, "\"", "{}\n{", "#\n\n,,,"} {
		f.Add(s)
	}
	f.Fuzz(func(t *testing.T, text string) {
		lines, err := readMaps("f", strings.NewReader(text))
		if err != nil && (len(lines) > 0 || !strings.HasPrefix(err.Error(), "f")) {
			t.Fatalf("%d lines, %v", len(lines), err)
		}
		for _, l := range lines {
			if !l.Bank.Valid() || !l.Client.Valid() || l.nr < 1 {
				t.Fatalf("%+v", l)
			}
		}
	})
}

// lines collects what a command writes.
type output struct {
	mu   sync.Mutex
	text string
}

func (o *output) Write(b []byte) (int, error) {
	o.mu.Lock()
	defer o.mu.Unlock()
	o.text += string(b)
	return len(b), nil
}

func (o *output) String() string {
	o.mu.Lock()
	defer o.mu.Unlock()
	return o.text
}

// wait waits for text to be written.
func (o *output) wait(t *testing.T, text string) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(o.String(), text); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%q, want %q", o, text)
		}
	}
}

// TestEventsCommand follows a server's events over the loss of the connection and ends, with status 0, when it is asked to.
func TestEventsCommand(t *testing.T) {
	state := remsim.NewState()
	log, _ := logtest.NewNullLogger()
	h := rest.Handler(state, logrus.NewEntry(log))
	var requests atomic.Int32
	ids := make(chan string, 100)
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		ids <- r.Header.Get("Last-Event-ID")
		if requests.Add(1) == 2 { // it is about to be restarted
			w.Header().Set("Connection", "close")
			w.WriteHeader(http.StatusServiceUnavailable)
			return
		}
		h.ServeHTTP(w, r)
	}))
	t.Cleanup(s.Close)
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	var out, errOut output
	ended := make(chan int, 1)
	go func() {
		ended <- daemon.Execute(ctx, command(), strings.Fields("events"+at(t, s.Listener.Addr())), &out, &errOut)
	}()
	out.wait(t, " reset it begins here\n")
	create := func(nr uint16) {
		if _, err := state.Commit(t.Context(), remsim.CreateMap(slot.Map{Bank: slot.Bank{ID: 1, Slot: nr}, Client: slot.Client{ID: 23, Slot: nr}})); err != nil {
			t.Error(err)
		}
	}
	create(0)
	out.wait(t, " slotmap.changed B1:0 C23:0 NEW ")
	last := state.Feed().Last().String()
	s.CloseClientConnections()
	create(1) // while it is away
	out.wait(t, " slotmap.changed B1:1 C23:1 NEW ")
	if strings.Count(out.String(), "reset") != 1 || strings.Count(out.String(), "\n") != 3 {
		t.Errorf("output %s", out.String())
	}
	if !strings.Contains(errOut.String(), "coming back in 1s\n") || !strings.Contains(errOut.String(), "503 Service Unavailable") {
		t.Errorf("error %s", errOut.String())
	}
	for i, want := range []string{"", last, last} {
		if got := <-ids; got != want {
			t.Errorf("request %d has the id %q, want %q", i, got, want)
		}
	}
	cancel()
	if status := <-ended; status != 0 {
		t.Errorf("status %d: %s", status, errOut.String())
	}

	// From an id on, for programs.
	ctx, cancel = context.WithCancel(t.Context())
	defer cancel()
	var out2 output
	go func() {
		ended <- daemon.Execute(ctx, command(), strings.Fields("events -o json --since "+last+at(t, s.Listener.Addr())), &out2, io.Discard)
	}()
	out2.wait(t, `"client":{"clientId":23,"slotNr":1}`)
	if !strings.HasPrefix(out2.String(), `{"id":"`) || strings.Count(out2.String(), "\n") != 1 {
		t.Errorf("output %s", out2.String())
	}
	cancel()
	<-ended
}

// TestEventsNoServer checks that a server that isn't there, or isn't one, is said at once.
func TestEventsNoServer(t *testing.T) {
	for body, want := range map[string]string{
		"no":   "404 Not Found: no",
		"html": `the answer is "text/html": want text/event-stream`,
	} {
		s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
			w.Header().Set("Content-Type", "text/html")
			if body == "no" {
				w.WriteHeader(404)
			}
			io.WriteString(w, body)
		}))
		status, out, errOut := execute(t, "events"+at(t, s.Listener.Addr()))
		if status != 1 || out != "" || !strings.Contains(errOut, want) {
			t.Errorf("status %d, output %q, error %q, want %q", status, out, errOut, want)
		}
		s.Close()
		status, _, errOut = execute(t, "events"+at(t, s.Listener.Addr()))
		if status != 1 || !strings.Contains(errOut, "connection refused") {
			t.Errorf("status %d, error %q", status, errOut)
		}
	}
}
