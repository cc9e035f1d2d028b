// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"testing"
	"time"

	"remsim/internal/daemon"
)

// helperVariable makes TestHelperProcess the program.
const helperVariable = "REMSIM_TEST_SERVER"

// TestHelperProcess isn't a test: others run it as a process of its own.
func TestHelperProcess(t *testing.T) {
	args, ok := os.LookupEnv(helperVariable)
	if !ok {
		return
	}
	os.Args = append(os.Args[:1], strings.Fields(args)...)
	daemon.Main(command())
}

// A process is a server under strace.
type process struct {
	t   *testing.T
	cmd *exec.Cmd
	out *output
	url string
}

// start runs a server with a store, under strace with the options given, until it listens.
func start(t *testing.T, path string, strace ...string) *process {
	t.Helper()
	args := append([]string{"-D", "-f", "--quiet=attach"}, strace...)
	args = append(args, os.Args[0], "-test.run=^TestHelperProcess$")
	p := &process{t: t, cmd: exec.CommandContext(t.Context(), "strace", args...), out: &output{}}
	// A call that is interrupted, as by the signals of Go's scheduler, would be in the trace twice.
	p.cmd.Env = append(os.Environ(), "GODEBUG=asyncpreemptoff=1", helperVariable+"=--rspro-listen 127.0.0.1:0 --rest-listen 127.0.0.1:0 --store file:"+path)
	p.cmd.Stderr = p.out
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	listening := regexp.MustCompile(`listening for REST"? addr="?(127\S+[0-9])`)
	for end := time.Now().Add(30 * time.Second); p.url == ""; time.Sleep(10 * time.Millisecond) {
		if m := listening.FindStringSubmatch(p.out.String()); m != nil {
			p.url = "http://" + m[1] + "/api/backend/v1"
		} else if time.Now().After(end) {
			p.kill()
			t.Fatalf("not ready: %s", p.out.String())
		}
	}
	return p
}

// kill ends the server as a crash does.
func (p *process) kill() {
	http.DefaultClient.CloseIdleConnections()
	p.cmd.Process.Kill()
	p.cmd.Wait() //nolint:errcheck // it was killed
}

// post asks for the i-th map and returns the status.
func (p *process) post(i int) int {
	body := fmt.Sprintf(`{"bank":{"bankId":%d,"slotNr":0},"client":{"clientId":%d,"slotNr":0}}`, i, i)
	res, err := http.Post(p.url+"/slotmaps", "application/json", strings.NewReader(body))
	if err != nil {
		p.t.Error(err)
		return 0
	}
	io.Copy(io.Discard, res.Body) //nolint:errcheck // it is empty
	res.Body.Close()
	return res.StatusCode
}

// maps returns the ids of the banks that are in maps.
func (p *process) maps() map[string]bool {
	p.t.Helper()
	res, err := http.Get(p.url + "/slotmaps")
	if err != nil {
		p.t.Fatal(err)
	}
	defer res.Body.Close()
	body, err := io.ReadAll(res.Body)
	if err != nil {
		p.t.Fatal(err)
	}
	ids := map[string]bool{}
	for _, m := range regexp.MustCompile(`"bankId":([0-9]+)`).FindAllStringSubmatch(string(body), -1) {
		ids[m[1]] = true
	}
	return ids
}

// TestSyncBeforeAnswer watches the system calls of the program: each map is synced to the disk, data and then what makes it count, before it is
// confirmed, and maps that are asked for at once share that.
func TestSyncBeforeAnswer(t *testing.T) {
	dir := t.TempDir()
	trace := filepath.Join(dir, "trace")
	p := start(t, filepath.Join(dir, "state.db"), "-o", trace, "-s", "16", "-e", "trace=fdatasync,write")
	defer p.kill()
	const n, atOnce = 5, 100
	for i := range n {
		if s := p.post(i); s != http.StatusCreated {
			t.Fatalf("POST: %d", s)
		}
	}
	var all sync.WaitGroup
	for i := range atOnce {
		all.Go(func() {
			if s := p.post(n + i); s != http.StatusCreated {
				t.Errorf("POST: %d", s)
			}
		})
	}
	all.Wait()
	p.kill()
	var data []byte
	for end := time.Now().Add(30 * time.Second); !bytes.Contains(data, []byte("+++ killed by SIGKILL")); time.Sleep(10 * time.Millisecond) {
		var err error
		if data, err = os.ReadFile(trace); err != nil || time.Now().After(end) {
			t.Fatalf("the trace doesn't end: %v, %d bytes", err, len(data))
		}
	}
	syncs, answers := 0, 0
	before := -1 // the first answer
	for line := range strings.Lines(string(data)) {
		switch {
		case strings.Contains(line, "fdatasync") && strings.HasSuffix(line, "= 0\n"): // it has returned
			syncs++
		case strings.Contains(line, `"HTTP/1.1 201`):
			if answers++; answers <= n {
				if before >= 0 && syncs < before+2 {
					t.Errorf("map %d was confirmed after %d syncs more than the one before, want 2", answers, syncs-before)
				}
				before = syncs
			}
		}
	}
	if answers != n+atOnce || syncs-before < 2 {
		t.Fatalf("%d answers and %d syncs are in the trace", answers, syncs)
	}
	t.Logf("%d maps at once took %d syncs", atOnce, syncs-before)
	if syncs-before >= 2*atOnce {
		t.Errorf("%d maps at once took %d syncs: as many as one after the other", atOnce, syncs-before)
	}
}

// TestDiskFails has system calls of the program fail, the nth of each of its threads: maps are refused then, the server goes on, and what was
// confirmed is there after a crash, and nothing else.
func TestDiskFails(t *testing.T) {
	for _, tt := range []struct {
		call, errno string
		first, last int // which call fails; what a start takes doesn't
		status      int
	}{
		{"fdatasync", "EIO", 3, 6, http.StatusServiceUnavailable},
		{"pwrite64", "ENOSPC", 6, 11, http.StatusInsufficientStorage},
	} {
		for nr := tt.first; nr <= tt.last; nr++ {
			t.Run(fmt.Sprintf("%s %d %s", tt.call, nr, tt.errno), func(t *testing.T) {
				t.Parallel()
				dir := t.TempDir()
				path := filepath.Join(dir, "state.db")
				p := start(t, path, "-o", filepath.Join(dir, "trace"), "-e", "trace=none")
				p.kill()
				p = start(t, path, "-o", filepath.Join(dir, "trace"), "-e", "trace="+tt.call,
					"-e", fmt.Sprintf("inject=%s:error=%s:when=%d", tt.call, tt.errno, nr))
				defer func() { p.kill() }()
				want := map[string]bool{}
				refused := 0
				for i := 0; refused == 0 || !want[fmt.Sprint(i-1)]; i++ {
					if i > 100 {
						t.Fatalf("%d of %d maps were refused: %s", refused, i, p.out.String())
					}
					switch s := p.post(i); s {
					case http.StatusCreated:
						want[fmt.Sprint(i)] = true
					case tt.status:
						refused++
					default:
						t.Errorf("POST: %d", s)
					}
					if got := p.maps(); fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("maps of banks %v, want %v", got, want)
					}
				}
				p.kill()
				p = start(t, path, "-o", filepath.Join(dir, "trace"), "-e", "trace=none")
				if got := p.maps(); fmt.Sprint(got) != fmt.Sprint(want) {
					t.Errorf("after a crash: maps of banks %v, want %v", got, want)
				}
			})
		}
	}
}

// run runs the program in this process, with an input.
func run(t *testing.T, input string, args ...string) (status int, stdout, stderr string) {
	t.Helper()
	var out, errOut bytes.Buffer
	cmd := command()
	cmd.SetIn(strings.NewReader(input))
	status = daemon.Execute(t.Context(), cmd, args, &out, &errOut)
	return status, out.String(), errOut.String()
}

// TestStoreCommands writes a store as JSON and reads it, with all that can go wrong.
func TestStoreCommands(t *testing.T) {
	t.Setenv("STATE_DIRECTORY", "")
	dir := t.TempDir()
	path, text := filepath.Join(dir, "state.db"), filepath.Join(dir, "copy.json")
	const one = `{"format":"remsim-server store","version":1,"starts":3,"slotmaps":[
{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":3,"slotNr":4},"createdAt":"2026-01-01T00:00:00Z","changedAt":"2026-01-01T00:00:00Z"}
],"removals":[],"untold":[],"clientIds":[]}`
	for _, tt := range []struct {
		input  string
		args   string
		status int
		out    string   // in standard output
		want   []string // in the line on standard error
	}{
		{"", "store", 2, "", []string{"command missing", "export", "import"}},
		{"", "store list", 2, "", []string{`"list"`, "export"}},
		{"", "store export", 2, "", []string{"--store", "file:PATH"}},
		{"", "store export --store memory", 2, "", []string{"--store", "file:PATH"}},
		{"", "store export --store " + path, 2, "", []string{"--store", path, "file:PATH"}},
		{"", "store export --store file:" + path, 1, "", []string{path, "no such file"}},
		{"{", "store import --store file:" + path, 1, "", []string{"standard input", "line 1", "ends too early"}},
		{one, "store import --store file:" + path, 0, "", nil},
		{one, "store import --store file:" + path, 1, "", []string{path, "something in it", "--replace"}},
		{strings.Replace(one, "1024", "x", 1), "store import --replace --store file:" + path, 0, "", nil},
		{strings.Replace(one, `"slotNr":4`, `"slotNr":1024`, 1), "store import --replace --store file:" + path, 1, "", []string{"line 2", "slotmaps[0]", "client.slotNr", "1024"}},
		{"", "store export --store file:" + path, 0, `{"bank":{"bankId":1,"slotNr":2},"client":{"clientId":3,"slotNr":4}`, nil},
		{"", "store export --store file:" + path + " " + text, 0, "", nil},
		{"", "store export --store file:" + path + " " + text, 1, "", []string{text, "file exists"}},
		{"", "store import --replace --store file:" + path + " " + text, 0, "", nil},
		{"", "store import --store file:" + filepath.Join(dir, "new.db") + " " + text, 0, "", nil},
		{"", "store import --store file:" + path + " " + text + " " + text, 2, "", []string{"at most 1"}},
		{"", "store import --store file:" + text + " " + text, 1, "", []string{text, "none of this program"}},
	} {
		status, out, errOut := run(t, tt.input, strings.Fields(tt.args)...)
		if status != tt.status || !strings.Contains(out, tt.out) || tt.out == "" && out != "" || strings.Count(errOut, "\n") != min(len(tt.want), 1) {
			t.Errorf("%s: status %d, standard output %q, standard error %q", tt.args, status, out, errOut)
		}
		for _, want := range tt.want {
			if !strings.Contains(errOut, want) {
				t.Errorf("%s: %q is not in %q", tt.args, want, errOut)
			}
		}
	}
}

// TestExportFails leaves no half of an export behind.
func TestExportFails(t *testing.T) {
	dir := t.TempDir()
	path, text := filepath.Join(dir, "state.db"), filepath.Join(dir, "copy.json")
	if status, _, line := run(t, emptyStore, "store", "import", "--store", "file:"+path); status != 0 {
		t.Fatal(line)
	}
	cmd := exec.CommandContext(t.Context(), "strace", "-f", "-o", filepath.Join(dir, "trace"), "-e", "trace=fsync", "-e", "inject=fsync:error=ENOSPC",
		os.Args[0], "-test.run=^TestHelperProcess$")
	cmd.Env = append(os.Environ(), helperVariable+"=store export --store file:"+path+" "+text)
	line, err := cmd.CombinedOutput()
	if cmd.ProcessState.ExitCode() != 1 || !bytes.Contains(line, []byte("no space left")) {
		t.Errorf("%v: %s", err, line)
	}
	if _, err := os.Stat(text); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("what was written is there: %v", err)
	}
}

// TestStoreHeld checks that a store is for one server at a time, and that store commands leave a server's alone.
func TestStoreHeld(t *testing.T) {
	dir := t.TempDir()
	t.Setenv("STATE_DIRECTORY", dir+":/nonexistent") // as systemd says it
	path := filepath.Join(dir, "state.db")
	server := []string{"--rspro-listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0"}
	ctx, stop := context.WithCancel(t.Context())
	defer stop()
	var out, errOut output
	ended := make(chan int, 1)
	go func() { ended <- daemon.Execute(ctx, command(), server, &out, &errOut) }()
	for end := time.Now().Add(30 * time.Second); !strings.Contains(errOut.String(), "listening for REST"); time.Sleep(10 * time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("not ready: %s", errOut.String())
		}
	}
	if !strings.Contains(errOut.String(), path) {
		t.Errorf("the log doesn't say where maps are kept: %s", errOut.String())
	}
	for _, args := range [][]string{append(server, "--log-level", "error"), {"store", "export"}, {"store", "import", "--replace"}} {
		begin := time.Now()
		status, _, line := run(t, emptyStore, args...)
		if took := time.Since(begin); status != 1 || !strings.Contains(line, path) || !strings.Contains(line, "another process has it") || took > 30*time.Second {
			t.Errorf("%v: status %d after %v: %s", args, status, took, line)
		}
	}
	stop()
	if s := <-ended; s != 0 {
		t.Errorf("status %d", s)
	}
	if status, out, line := run(t, "", "store", "export"); status != 0 || !strings.Contains(out, `"starts": 1`) {
		t.Errorf("export: status %d, %s, %s", status, out, line)
	}
	if err := os.Remove(path); err != nil {
		t.Error(err)
	}
	entries, err := os.ReadDir(dir)
	if err := errors.Join(err); err != nil || len(entries) > 0 {
		t.Errorf("left: %v, %v", entries, err)
	}
}

const emptyStore = `{"format":"remsim-server store","version":1,"starts":3,"slotmaps":[],"removals":[],"untold":[],"clientIds":[]}`

// TestMemoryLog checks that a server without a store says so, once.
func TestMemoryLog(t *testing.T) {
	for _, tt := range []struct {
		dir  string
		args []string
		want string
	}{
		{"", nil, "in memory only"},
		{t.TempDir(), []string{"--store", "memory"}, "in memory only"},
		{t.TempDir(), nil, "in a file"},
	} {
		t.Setenv("STATE_DIRECTORY", tt.dir)
		ctx, stop := context.WithCancel(t.Context())
		var out, errOut output
		ended := make(chan int, 1)
		go func() {
			ended <- daemon.Execute(ctx, command(), append(tt.args, "--rspro-listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0"), &out, &errOut)
		}()
		for end := time.Now().Add(30 * time.Second); !strings.Contains(errOut.String(), "listening for REST"); time.Sleep(10 * time.Millisecond) {
			if time.Now().After(end) {
				t.Fatalf("not ready: %s", errOut.String())
			}
		}
		stop()
		<-ended
		if n := strings.Count(errOut.String(), "slot maps are kept"); n != 1 || !strings.Contains(errOut.String(), tt.want) {
			t.Errorf("STATE_DIRECTORY %q, %v: %q isn't in %s", tt.dir, tt.args, tt.want, errOut.String())
		}
	}
}
