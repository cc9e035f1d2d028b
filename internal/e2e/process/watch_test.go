// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/monitor/promtool"
)

// get returns what is at an address, whatever the status is.
func (s *site) get(addr, path string) (status int, body string) {
	s.t.Helper()
	res, err := s.api.HTTP.Get("http://" + addr + path)
	if err != nil {
		s.t.Fatal(err)
	}
	defer res.Body.Close()
	b, err := io.ReadAll(res.Body)
	if err != nil {
		s.t.Fatal(err)
	}
	return res.StatusCode, string(b)
}

const (
	serverAddr = "127.0.0.1:9997"
	bankdAddr  = "127.0.0.1:9101"
	clientAddr = "127.0.0.1:9102"
)

// figure returns the value of a metric with its labels, as it is shown.
func figure(figures, name string) string {
	m := regexp.MustCompile(`(?m)^` + regexp.QuoteMeta(name) + ` (\S+)$`).FindStringSubmatch(figures)
	if m == nil {
		return "none"
	}
	return m[1]
}

// TestFigures looks at the figures of server, bankd and client that are used: promtool finds nothing wrong, they are what has
// happened, and board and alerts name none that isn't there.
func TestFigures(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.startBankd(readerSpecs(2), "--metrics-listen", bankdAddr)
	sh := s.client(1, "--metrics-listen", clientAddr)
	s.operational(sh)
	const n = 100
	tr := sh.traffic(twinOf(0), n)
	tr.complete(t)

	all := ""
	for addr, want := range map[string]map[string]string{
		serverAddr: {
			`remsim_server_peers{type="bankd"}`: "1", `remsim_server_peers{type="client"}`: "1",
			`remsim_server_slotmaps{state="ACTIVE"}`: "1", `remsim_server_slotmaps{state="NEW"}`: "0",
			`remsim_server_http_request_duration_seconds_count{method="POST",route="/api/backend/v1/slotmaps",status="201"}`: "1",
		},
		bankdAddr: {
			`remsim_bankd_server_connected`: "1", `remsim_bankd_slots{state="CARD"}`: "1", `remsim_bankd_slots{state="FREE"}`: "1",
			`remsim_bankd_connections{state="SERVED"}`: "1", `remsim_bankd_cards_opened_total`: "1", `remsim_bankd_readers`: fmt.Sprint(readers + others),
		},
		clientAddr: {
			`remsim_client_slots{state="OPERATIONAL"}`: "1", `remsim_client_slots_with_server`: "1", `remsim_client_bankd_connections_total`: "1",
		},
	} {
		status, figures := s.get(addr, "/metrics")
		if status != http.StatusOK {
			t.Fatalf("%s: status %d: %s", addr, status, figures)
		}
		promtool.CheckMetrics(t, "../../..", []byte(figures))
		for name, value := range want {
			if got := figure(figures, name); got != value {
				t.Errorf("%s: %s is %s, want %s", addr, name, got, value)
			}
		}
		for _, name := range []string{"go_goroutines", "process_resident_memory_bytes"} {
			if figure(figures, name) == "none" {
				t.Errorf("%s: no %s", addr, name)
			}
		}
		all += figures
	}
	for _, who := range []string{"bankd", "client"} {
		if got := figure(all, "remsim_"+who+"_tpdu_duration_seconds_count"); got == "none" || len(got) < len(fmt.Sprint(n)) {
			t.Errorf("%s: %s commands, want at least %d", who, got, n)
		}
	}
	for _, path := range []string{"grafana/remsim.json", "prometheus/remsim.rules.yml"} {
		file, err := os.ReadFile(filepath.Join("../../../contrib", path))
		if err != nil {
			t.Fatal(err)
		}
		for _, name := range regexp.MustCompile(`\b(remsim|go|process)_[a-z_]+`).FindAllString(string(file), -1) {
			if !regexp.MustCompile(`(?m)^(# TYPE )?` + name + `[ {]`).MatchString(all) {
				t.Errorf("%s: no program shows %s", path, name)
			}
		}
	}

	// Who is ready depends on the server, who is alive doesn't.
	check := func(addr, path string, want int, text string) {
		t.Helper()
		s.eventually(addr+path, func() error {
			if status, body := s.get(addr, path); status != want || !strings.Contains(body, text) {
				return fmt.Errorf("status %d, %q; want %d, %q", status, body, want, text)
			}
			return nil
		})
	}
	for _, addr := range []string{serverAddr, bankdAddr, clientAddr} {
		check(addr, "/healthz", http.StatusOK, "ok")
		check(addr, "/readyz", http.StatusOK, "ok")
	}
	s.server.Kill()
	check(bankdAddr, "/readyz", http.StatusServiceUnavailable, "not connected to the server")
	check(clientAddr, "/readyz", http.StatusServiceUnavailable, "1 of 1 slots are not connected")
	for _, addr := range []string{bankdAddr, clientAddr} {
		check(addr, "/healthz", http.StatusOK, "ok")
	}
	s.startServer()
	check(bankdAddr, "/readyz", http.StatusOK, "ok")
	check(clientAddr, "/readyz", http.StatusOK, "ok")
	if _, figures := s.get(bankdAddr, "/metrics"); figure(figures, "remsim_bankd_server_connections_total") != "2" {
		t.Errorf("connected %s times, want 2", figure(figures, "remsim_bankd_server_connections_total"))
	}
}

// A manager takes what programs tell the service manager.
type manager struct {
	t    *testing.T
	addr string
	told chan string // all of it, so that no program ever waits for the test
	env  []string    // for the program
}

// newManager returns a manager; its socket has an abstract name.
func newManager(t *testing.T, name string, watchdog time.Duration) *manager {
	t.Helper()
	addr := "@remsim-test-" + name
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: addr, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	m := &manager{t, addr, make(chan string, 1<<12), []string{"NOTIFY_SOCKET=" + addr, fmt.Sprintf("WATCHDOG_USEC=%d", watchdog.Microseconds())}}
	read := make(chan struct{})
	go func() {
		defer close(read)
		for b := make([]byte, 1024); ; {
			n, err := conn.Read(b)
			if err != nil {
				return // the test has ended
			}
			m.told <- string(b[:n])
		}
	}()
	t.Cleanup(func() { conn.Close(); <-read })
	return m
}

// start starts a program of the site that has m as its manager.
func (m *manager) start(s *site, name, program string, args ...string) *rig.Proc {
	m.t.Helper()
	env, err := exec.LookPath("env")
	if err != nil {
		m.t.Fatal(err)
	}
	return s.run(name, env, append(append(m.env, filepath.Join(bin, program)), args...)...)
}

// until reads what is told until it begins with want, and returns that and what came before.
func (m *manager) until(within time.Duration, want string) (told string, before []string) {
	m.t.Helper()
	for late := time.After(within); ; {
		select {
		case told = <-m.told:
		case <-late:
			m.t.Fatalf("%q isn't told within %v, but %q", want, within, before)
		}
		if strings.HasPrefix(told, want) {
			return told, before
		}
		before = append(before, told)
	}
}

// rest returns what was told up to now and not read yet.
func (m *manager) rest() (told []string) {
	m.t.Helper()
	conn, err := net.Dial("unixgram", m.addr)
	if err != nil {
		m.t.Fatal(err)
	}
	defer conn.Close()
	const end = "the test's own"
	if _, err := conn.Write([]byte(end)); err != nil {
		m.t.Fatal(err)
	}
	_, told = m.until(soon, end)
	return told
}

// TestManaged has a service manager watch server and bankd: they tell of their lives in order, and a card that hangs
// makes the bankd not less alive.
func TestManaged(t *testing.T) {
	s := newSiteWithout(t)
	const watchdog = 2 * time.Second
	server, bankd := newManager(t, "server", watchdog), newManager(t, "bankd", watchdog)
	s.server = server.start(s, "server", "remsim-server")
	if _, before := server.until(soon, "READY=1"); len(before) > 0 {
		t.Errorf("before it was ready, the server told %q", before)
	}
	server.until(soon, "WATCHDOG=1")
	server.until(soon, "STATUS=0 bankds, 0 clients; 0 maps, 0 of them active")
	s.create(0, 1)

	slots := s.writeSlots(1, []string{rig.Reader(readers)})
	s.bankd = bankd.start(s, "bankd", "remsim-bankd", "-i", "127.0.0.1", "-b", "1", "-n", "1", "--slots-file", slots, "--card-timeout", "2s")
	if _, before := bankd.until(soon, "READY=1"); len(before) > 0 {
		t.Errorf("before it was ready, the bankd told %q", before)
	}
	sh := s.client(1)
	s.operational(sh)
	bankd.until(soon, "STATUS=connected to the server; 1 of 1 slots mapped, 1 with a card in use")
	server.until(soon, "STATUS=1 bankds, 1 clients; 1 maps, 1 of them active")

	if err := s.bankd.Signal(syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if told, _ := bankd.until(soon, "RELOADING=1"); !regexp.MustCompile(`^RELOADING=1\nMONOTONIC_USEC=[1-9][0-9]*$`).MatchString(told) {
		t.Errorf("told %q", told)
	}
	bankd.until(soon, "READY=1")

	do(t, "hang %d", readers)
	defer do(t, "release %d", readers)
	fmt.Fprintln(sh.Stdin, "A0A40000023F00")
	bankd.until(soon, "STATUS=connected to the server; 1 of 1 slots mapped, 0 with a card in use, 1 failed; 1 calls to cards hang")
	for range 4 {
		bankd.until(soon, "WATCHDOG=1")
	}

	for name, p := range map[string]struct {
		m *manager
		p *rig.Proc
	}{"server": {server, s.server}, "bankd": {bankd, s.bankd}} {
		if status, err := p.p.Stop(); status != 0 || err != nil {
			t.Errorf("%s: status %d, %v", name, status, err)
		}
		p.m.until(soon, "STOPPING=1")
		if told := p.m.rest(); len(told) > 0 {
			t.Errorf("%s has told %q after its end", name, told)
		}
	}
}
