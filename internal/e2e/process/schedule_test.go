// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
	"remsim/internal/slot"
)

const (
	scheduler = "../../../contrib/backend/remsim-schedule" // the sample back-end
	schedule  = "../../../contrib/backend/schedule.toml"
)

// write writes a schedule file.
func write(t *testing.T, file, format string, a ...any) {
	t.Helper()
	if err := os.WriteFile(file, fmt.Appendf(nil, format, a...), 0o644); err != nil {
		t.Fatal(err)
	}
}

// softCards returns lines of a slots file for cards like those of the simulator, without readers.
func softCards(n int) (specs []string) {
	for i := range n {
		p := simulator.Profile(i)
		specs = append(specs, fmt.Sprintf("softsim:iccid=%s,imsi=%s", p.ICCID, p.IMSI))
	}
	return specs
}

// maps returns the wanted maps of bank 1 as text, such as "C23:0=B1:0 C24:0=B1:1", in the order of cards.
func (s *site) maps(cards int) (string, error) {
	states, err := s.api.SlotMaps()
	if err != nil {
		return "", err
	}
	client := map[slot.Bank]slot.Client{}
	for m := range states {
		client[m.Bank] = m.Client
	}
	var text []string
	for i := range cards {
		b := slot.Bank{ID: 1, Slot: uint16(i)}
		if c, ok := client[b]; ok {
			text = append(text, slot.Map{Bank: b, Client: c}.String())
		}
	}
	return strings.Join(text, " "), nil
}

// mapped waits until the maps of bank 1 are these.
func (s *site) mapped(cards int, want string) {
	s.t.Helper()
	s.eventually("the maps are "+want, func() error {
		got, err := s.maps(cards)
		if err == nil && got != want {
			err = fmt.Errorf("they are %s", got)
		}
		return err
	})
}

// TestSchedule has the sample back-end hand out cards to clients that use them all the time, while the schedule changes, others
// change maps, and the server is killed.
func TestSchedule(t *testing.T) {
	for _, store := range []string{"memory", "file"} {
		t.Run(store, func(t *testing.T) {
			s := newSiteWithout(t)
			var args []string
			if store == "file" {
				args = []string{"--store", "file:" + filepath.Join(s.dir, "state")}
			}
			s.startServer(args...)
			s.startBankd(softCards(4))
			file := filepath.Join(s.dir, "schedule.toml")

			// Turns of a year: clients 23 and 24 have the cards of their places. Card 3 and client 9 are somebody else's.
			turn := func(n int) {
				t.Helper()
				start := time.Now().UTC().Add(-time.Duration(n*365*24+1) * time.Hour).Format("2006-01-02T15:04:05")
				write(t, file, "timezone = 'UTC'\n[[pool]]\ncards = ['B1:0', 'B1:1', 'B1:2']\nclients = ['C23:0', 'C24:0']\nevery = '365d'\nstart = %s\n", start)
			}
			turn(0)
			s.create(3, 9)
			backend := s.run("schedule", scheduler, file)
			s.mapped(4, "C23:0=B1:0 C24:0=B1:1 C9:0=B1:3")
			users := []*user{s.client(23).use(t, 0, 0), s.client(24).use(t, 1, 0)}
			works := func(cards ...int) {
				t.Helper()
				for i, u := range users {
					before := u.Counts()
					if cards != nil {
						before = rig.Counts{ATRs: cards[i] - 1} // that many since it was started
					}
					if _, err := u.Await(before, rig.Counts{ATRs: min(1, len(cards))}, soon); err != nil {
						t.Fatal(err)
					}
					u.works(t, 5)
				}
			}
			works(1, 1)

			// Every client gets the next card, in one transaction.
			users[0].becomes(1)
			users[1].becomes(2)
			turn(1)
			if err := backend.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			s.mapped(4, "C23:0=B1:1 C24:0=B1:2 C9:0=B1:3")
			works(2, 2)

			// A schedule that is wrong is not taken.
			mark := backend.Mark()
			write(t, file, "[[pool]]\ncards = ['B1:0']\n")
			if err := backend.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			s.awaitFrom(mark, backend, "ERROR", "pool[0].clients is None", "the one before")

			// What somebody undoes is done again.
			users[0].becomes(1)
			s.remove(1)
			s.mapped(4, "C23:0=B1:1 C24:0=B1:2 C9:0=B1:3")
			works(3, 2)

			// The server is killed, and nobody notices; what is due meanwhile is done afterwards.
			mark = backend.Mark()
			s.server.Kill()
			works()
			turn(2)
			if err := backend.Signal(syscall.SIGHUP); err != nil {
				t.Fatal(err)
			}
			s.awaitFrom(mark, backend, "WARNING", "no answer from http://127.0.0.1:9997", "tries again")
			works()
			users[0].becomes(2)
			users[1].becomes(0)
			s.startServer(args...)
			s.awaitFrom(mark, backend, "the server is there again")
			s.mapped(4, "C24:0=B1:0 C23:0=B1:2 C9:0=B1:3")
			works(4, 3)

			// A second one finds nothing to do, nor does one that is started again.
			for range 2 {
				again := s.run("schedule again", scheduler, file)
				s.await(again, "all is as it should be")
				stop(t, again)
				if strings.Contains(again.Log(), "changed") {
					t.Error("a second one has changed something")
				}
			}
			if strings.Count(backend.Log(), "changed") != 4 {
				t.Errorf("it has changed maps other than 4 times")
			}
			stop(t, backend)
			works()
			for _, u := range users {
				u.end(t)
			}
			s.mapped(4, "C24:0=B1:0 C23:0=B1:2 C9:0=B1:3")
		})
	}
}

// stop ends a back-end by SIGTERM.
func stop(t *testing.T, p *rig.Proc) {
	t.Helper()
	if err := p.Signal(syscall.SIGTERM); err != nil {
		t.Fatal(err)
	}
	if status, err := p.Wait(soon); err != nil || status != 0 {
		t.Errorf("after SIGTERM: status %d, %v", status, err)
	}
}

// TestScheduleTurns has a pool turn every second, and the clients' maps follow.
func TestScheduleTurns(t *testing.T) {
	s := newSite(t)
	s.startBankd(softCards(3))
	file := filepath.Join(s.dir, "schedule.toml")
	write(t, file, "timezone = 'UTC'\n[[pool]]\ncards = ['B1:0', 'B1:1', 'B1:2']\nclients = ['C23:0', 'C24:0']\nevery = '1s'\n")
	backend := s.run("schedule", scheduler, file)
	seen := map[string]bool{}
	turns := []string{"C23:0=B1:0 C24:0=B1:1", "C23:0=B1:1 C24:0=B1:2", "C24:0=B1:0 C23:0=B1:2"}
	s.eventually("all turns are seen", func() error {
		got, err := s.maps(3)
		if err != nil {
			return err
		}
		if got != "" && got != turns[0] && got != turns[1] && got != turns[2] {
			t.Fatalf("the maps are %s, want one of %q", got, turns)
		}
		if got != "" {
			seen[got] = true
		}
		if len(seen) < len(turns) {
			return fmt.Errorf("only %v", seen)
		}
		return nil
	})
	stop(t, backend)
}

// TestSchedulePlan looks at what the sample says of schedules without doing it: shifts over midnight and on weekdays,
// a pool in which clients are more than cards, and summer time.
func TestSchedulePlan(t *testing.T) {
	s := newSite(t)
	file := filepath.Join(s.dir, "schedule.toml")
	write(t, file, `
		timezone = "UTC"
		[[pool]]
		cards = ["B1:0"]
		clients = ["C1:0", "C2:0"]
		every = "1d"
		start = 2026-03-02T06:00:00
		[[shift]]
		client = "C2:0"
		card = "B2:0"
		days = "mon,fri-sun"
		from = "22:00"
		to = "02:00"
		[[shift]]
		client = "C3:0"
		card = "B2:0"
		from = "02:00"
		to = "22:00"`)
	if err := s.api.Create(slot.Map{Bank: slot.Bank{ID: 1}, Client: slot.Client{ID: 9}}); err != nil {
		t.Fatal(err)
	}
	for _, tt := range []struct {
		args []string
		want string // begins the output
	}{
		{[]string{"--at", "2026-03-02T08:00", file}, // a Monday
			"Mon 08:00:00  B1:0: C9:0 -> C1:0, B2:0: nobody -> C3:0\n" +
				"Mon 22:00:00  B2:0: C3:0 -> C2:0\n" +
				"Tue 02:00:00  B2:0: C2:0 -> C3:0\n" +
				"Tue 06:00:00  B1:0: C1:0 -> C2:0\n" +
				"Tue 22:00:00  B2:0: C3:0 -> nobody\n" +
				"Wed 02:00:00  B2:0: nobody -> C3:0\n" +
				"Wed 06:00:00  B1:0: C2:0 -> C1:0\n"},
		{[]string{"--at", "2026-03-07T21:59:59", file}, // a client leaves its pool for its shift
			"Sat 21:59:59  B1:0: C9:0 -> C2:0, B2:0: nobody -> C3:0\n" +
				"Sat 22:00:00  B1:0: C2:0 -> nobody, B2:0: C3:0 -> C2:0\n" +
				"Sun 02:00:00  B1:0: nobody -> C2:0, B2:0: C2:0 -> C3:0\n"},
		{[]string{"--at", "2026-03-02T01:59:59", file}, // Sunday's
			"Mon 01:59:59  B1:0: C9:0 -> nobody, B2:0: nobody -> C2:0\nMon 02:00:00  B1:0"},
		{[]string{"--at", "2026-03-02T08:00", schedule},
			"Mon 08:00:00  B1:0: C9:0 -> C23:0, B1:1: nobody -> C24:0, B1:2: nobody -> C25:0, B1:7: nobody -> C30:0\n" +
				"Mon 12:00:00  B1:0: C23:0 -> C25:0, B1:1: C24:0 -> C23:0, B1:2: C25:0 -> C24:0\n" +
				"Mon 18:00:00  B1:0: C25:0 -> C24:0, B1:1: C23:0 -> C25:0, B1:2: C24:0 -> C23:0, B1:7: C30:0 -> nobody\n"},
	} {
		stdout, stderr, status, err := rig.Execute(soon, scheduler, append([]string{"--dry-run"}, tt.args...)...)
		if err != nil || status != 0 || !strings.HasPrefix(stdout, tt.want) {
			t.Errorf("%q: status %d, %v, %s\n%swant\n%s", tt.args, status, err, stderr, stdout, tt.want)
		}
	}
	if got, err := s.maps(1); err != nil || got != "C9:0=B1:0" {
		t.Errorf("the maps are %s, %v: something was done", got, err)
	}
	s.server.Kill()
	_, stderr, status, err := rig.Execute(soon, scheduler, "--dry-run", schedule)
	if want := "remsim-schedule: http://127.0.0.1:9997/api/v2: [Errno 111] Connection refused\n"; err != nil || status != 1 || stderr != want {
		t.Errorf("without a server: status %d, %v, %q", status, err, stderr)
	}
}

// TestScheduleErrors checks that a schedule that is wrong ends the sample with one line that says what.
func TestScheduleErrors(t *testing.T) {
	file := filepath.Join(t.TempDir(), "s.toml")
	const pool = "[[pool]]\ncards = ['B1:0']\nclients = ['C1:0']\nevery = '1h'\n"
	type invalid struct{ Text, Want string } // a Want in brackets is a part of it
	cases := []invalid{
		{"", "it has neither a [[pool]] nor a [[shift]]"},
		{"[[pool]\n", "(at line 1"},
		{"pools = 1\n" + pool, "pools isn't known here"},
		{"pool = 1", "pool is 1, want tables that begin with [[pool]]"},
		{pool + "evry = '1h'", "pool[0].evry isn't known here"},
		{"timezone = 'Europe/Atlantis'\n" + pool, `timezone is 'Europe/Atlantis', want a name such as "Europe/Berlin" that tzdata of this computer has`},
		{"timezone = 1\n" + pool, `timezone is 1, want a name such as "Europe/Berlin" that tzdata of this computer has`},
		{"[[pool]]\nclients = ['C1:0']", `pool[0].cards is None, want a list of slots such as ["B1:5", "B1:6"]`},
		{"[[pool]]\ncards = ['C1:0']", `pool[0].cards[0] is 'C1:0', want BID:SLOT with numbers 0..1023, such as "B1:5"`},
		{"[[pool]]\ncards = ['B1:1024']", `pool[0].cards[0] is 'B1:1024', want BID:SLOT with numbers 0..1023, such as "B1:5"`},
		{"[[pool]]\ncards = ['B1:0', 'B1:0']", "pool[0].cards[1] is B1:0 once more"},
		{strings.Replace(pool, "1h", "0h", 1), `pool[0].every is '0h', want a number with s, m, h or d, such as "6h"`},
		{pool + "start = 2026-01-01", "pool[0].start is 2026-01-01, want a time without zone, such as 2026-01-01T06:00:00"},
		{pool + "start = 2026-01-01T00:00:00Z", "pool[0].start is 2026-01-01 00:00:00+00:00, want a time without zone, such as 2026-01-01T06:00:00"},
		{pool + strings.Replace(pool, "B1:0", "B1:1", 1), "pool[1] has C1:0, which pool[0] has already"},
		{pool + "[[shift]]\ncard = 'B1:0'\nclient = 'C2:0'", "shift[0].card is B1:0, which pool[0] has already"},
		{"[[shift]]\ncard = 'B1:0'", `shift[0].client is None, want CID:SLOT with numbers 0..1023, such as "C1:5"`},
		{"[[shift]]\ncard = 'B1:0'\nclient = 'C1:0'\nfrom = '24:01'", `shift[0].from is '24:01', want a time of the day 00:00 to 24:00, such as "18:00"`},
		{"[[shift]]\ncard = 'B1:0'\nclient = 'C1:0'\nfrom = '8:00'", `shift[0].from is '8:00', want a time of the day 00:00 to 24:00, such as "18:00"`},
		{"[[shift]]\ncard = 'B1:0'\nclient = 'C1:0'\nfrom = '08:00'\nto = '08:00'", "shift[0].to is that of from, want another time"},
		{"[[shift]]\ncard = 'B1:0'\nclient = 'C1:0'\ndays = 'mo'", `shift[0].days is 'mo', want days mon tue wed thu fri sat sun, such as "mon-fri" or "sat,sun"`},
		{"[[shift]]\ncard = 'B1:0'\nclient = 'C1:0'\ndays = 'sun'\nfrom = '23:00'\nto = '01:00'\n" +
			"[[shift]]\ncard = 'B1:0'\nclient = 'C2:0'\ndays = 'mon'\nto = '00:30'", "shift[1] has B1:0 at times at which shift[0] has it, too"},
	}
	texts, err := json.Marshal(cases)
	if err != nil {
		t.Fatal(err)
	}
	// All at once: a Python takes its time to start.
	const program = `
import json, runpy, sys
sample = runpy.run_path(sys.argv[1], run_name="sample")
said = []
for case in json.loads(sys.argv[2]):
    try:
        sample["Schedule"](case["Text"])
        said.append("nothing")
    except sample["ScheduleError"] as e:
        said.append(str(e))
json.dump(said, sys.stdout)`
	stdout, stderr, status, err := rig.Execute(soon, "python3", "-c", program, scheduler, string(texts))
	var said []string
	if err == nil {
		err = json.Unmarshal([]byte(stdout), &said)
	}
	if err != nil || status != 0 || len(said) != len(cases) {
		t.Fatalf("status %d, %v: %s", status, err, stderr)
	}
	for i, c := range cases {
		if said[i] != c.Want && !(strings.HasPrefix(c.Want, "(") && strings.Contains(said[i], c.Want)) {
			t.Errorf("%q: says\n%s\nwant\n%s", c.Text, said[i], c.Want)
		}
	}
	write(t, file, "timezone = 1\n"+pool)
	_, stderr, status, err = rig.Execute(soon, scheduler, file)
	if want := "remsim-schedule: " + file + `: timezone is 1, want a name such as "Europe/Berlin" that tzdata of this computer has` + "\n"; err != nil || status != 2 || stderr != want {
		t.Errorf("status %d, %v, says %swant %s", status, err, stderr, want)
	}
	for _, args := range [][]string{
		{"/nonexistent"}, {}, {"--server", "127.0.0.1:9997", schedule}, {"--at", "2026-03-02T08:00", schedule}, {"--dry-run", "--at", "noon", schedule},
	} {
		stdout, stderr, status, err := rig.Execute(soon, scheduler, args...)
		if err != nil || status != 2 || stdout != "" || strings.Contains(stderr, "Traceback") || !strings.Contains(stderr, "remsim-schedule: ") {
			t.Errorf("%q: status %d, %v, %s%s", args, status, err, stdout, stderr)
		}
	}
}

// TestScheduleRequests has the sample talk to a server that is a part of the test: it makes one change on condition, several in one transaction with
// what ends first, looks again when it was refused, and takes events up where they broke off.
func TestScheduleRequests(t *testing.T) {
	changes, streams := make(chan string, 64), make(chan string, 1024) // the sample asks for events in a thread of its own
	var mu sync.Mutex
	const leaving = `{"bank":{"bankId":1,"slotNr":3},"client":{"clientId":2,"slotNr":0},"state":"DELETING"}`
	maps := `{"bank":{"bankId":1,"slotNr":0},"client":{"clientId":9,"slotNr":0},"state":"ACTIVE"},`
	refuse, reset := true, false
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		body, _ := io.ReadAll(r.Body)
		switch {
		case r.URL.Path == "/api/v2/events":
			streams <- r.Header.Get("Last-Event-ID")
			w.Header().Set("Content-Type", "text/event-stream")
			id := "a-1"
			if r.Header.Get("Last-Event-ID") != "" {
				id = "a-2"
			}
			kind := "other"
			if reset {
				reset, kind = false, "reset"
			}
			fmt.Fprintf(w, ": a comment\nid: %s\nevent: %s\ndata: {\"id\":%q,\"type\":%q}\n\n", id, kind, id, kind) // and it ends
		case r.Method == http.MethodGet:
			fmt.Fprintf(w, `{"slotmaps":[%s]}`, maps+leaving)
		default:
			changes <- fmt.Sprintf("%s %s %s%s %s", r.Method, r.URL.Path, r.Header.Get("If-Match"), r.Header.Get("If-None-Match"), body)
			if refuse {
				refuse = false
				w.WriteHeader(http.StatusPreconditionFailed)
				fmt.Fprint(w, `{"detail":"it is another's"}`)
				return
			}
			maps = "" // other ones than it asks for
			for _, slot := range []string{`"bankId":1,"slotNr":0},"client":{"clientId":1`, `"bankId":1,"slotNr":2},"client":{"clientId":3`} {
				maps += `{"bank":{` + slot + `,"slotNr":0},"state":"NEW"},`
			}
		}
	}))
	defer server.Close()
	next := func(requests <-chan string, what string) {
		t.Helper()
		select {
		case got := <-requests:
			if got != what {
				t.Fatalf("it asks\n%s\nwant\n%s", got, what)
			}
		case <-time.After(soon):
			t.Fatalf("it doesn't ask %s", what)
		}
	}
	want := func(what string) { t.Helper(); next(changes, what) }

	s := newSiteWithout(t)
	file := filepath.Join(s.dir, "schedule.toml")
	another := fmt.Sprintf("to = '00:00:01'\ndays = '%s'", strings.ToLower(time.Now().AddDate(0, 0, 3).Format("Mon"))) // not now
	write(t, file, "[[shift]]\nclient = 'C1:0'\ncard = 'B1:0'\n")
	backend := s.run("schedule", scheduler, "--server", server.URL, file)
	for range 2 { // the second time it has looked again
		want(`PUT /api/v2/slotmaps/B1:0 "C9:0" {"client": {"clientId": 1, "slotNr": 0}}`)
	}
	s.await(backend, "looks again: 412: it is another's")
	for _, last := range []string{"", "a-1", "a-2"} {
		next(streams, last)
	}

	mark := backend.Mark()
	write(t, file, "[[shift]]\nclient = 'C3:0'\ncard = 'B1:0'\n[[shift]]\nclient = 'C4:0'\ncard = 'B1:1'\n[[shift]]\nclient = 'C5:0'\ncard = 'B1:2'\n%[1]s\n"+
		"[[shift]]\nclient = 'C6:0'\ncard = 'B1:3'\n%[1]s\n", another)
	if err := backend.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want(`POST /api/v2/slotmaps/bulk  {"operations": [{"op": "delete", "bank": {"bankId": 1, "slotNr": 2}, "client": {"clientId": 3, "slotNr": 0}}, ` +
		`{"op": "put", "bank": {"bankId": 1, "slotNr": 0}, "client": {"clientId": 3, "slotNr": 0}}, ` +
		`{"op": "put", "bank": {"bankId": 1, "slotNr": 1}, "client": {"clientId": 4, "slotNr": 0}}]}`)
	s.awaitFrom(mark, backend, "changed B1:0: C1:0 -> C3:0, B1:1: nobody -> C4:0, B1:2: C3:0 -> nobody")

	// One card that is free, and one that is nobody's any more.
	mu.Lock()
	maps = ""
	mu.Unlock()
	write(t, file, "[[shift]]\nclient = 'C3:0'\ncard = 'B1:0'\n")
	if err := backend.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want(`PUT /api/v2/slotmaps/B1:0 * {"client": {"clientId": 3, "slotNr": 0}}`)
	write(t, file, "[[shift]]\nclient = 'C5:0'\ncard = 'B1:2'\n%s\n", another)
	mu.Lock()
	maps = `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":3,"slotNr":0},"state":"ACTIVE"},`
	mu.Unlock()
	if err := backend.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	want(`DELETE /api/v2/slotmaps/B1:2 "C3:0" `)

	// There is no telling what has happened, so it looks.
	s.awaitFrom(mark, backend, "changed B1:2: C3:0 -> nobody")
	mu.Lock()
	maps = `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":4,"slotNr":0},"state":"ACTIVE"},`
	reset = true
	mu.Unlock()
	want(`DELETE /api/v2/slotmaps/B1:2 "C4:0" `)
	stop(t, backend)
}
