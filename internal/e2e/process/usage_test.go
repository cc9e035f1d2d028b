// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"net"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// TestExitStatus runs programs that can't start and looks at their exit status, at the one line
// they write and at what that has to name.
func TestExitStatus(t *testing.T) {
	busy := busyPort(t)
	_, busyNr, err := net.SplitHostPort(busy)
	if err != nil {
		t.Fatal(err)
	}
	file := func(name, text string) string {
		path := filepath.Join(t.TempDir(), name)
		if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
		return path
	}
	good := file("good.csv", "1,0,"+simulator.Profile(0).String()+"\n")
	bad := file("bad.csv", "# a comment\n\"1\",\"zero\",\"x\"\n")
	double := file("double.csv", "\"1\",\"0\",\"x\"\n\"1\",\"1\",\"y\"\n\"1\",\"0\",\"z\"\n")
	brackets := file("brackets.csv", "\"1\",\"0\",\"a(b\"\n")

	for _, tc := range []struct {
		name    string
		program string
		args    string // split at blanks
		status  int
		names   []string // what the line names
	}{
		{"server, unknown option", "remsim-server", "--nonsense", 2, []string{"--nonsense"}},
		{"server, unknown short option", "remsim-server", "-Q", 2, []string{"Q"}},
		{"server, extra argument", "remsim-server", "surplus", 2, []string{"surplus"}},
		{"server, bad address", "remsim-server", "--rspro-listen 127.0.0.1:99999", 2, []string{"--rspro-listen", "99999"}},
		{"server, RSPRO port in use", "remsim-server", "--rspro-listen " + busy, 1, []string{busy, "in use"}},
		{"server, REST port in use", "remsim-server", "--rspro-listen 127.0.0.1:0 --rest-listen " + busy, 1, []string{busy, "in use"}},
		{"server, foreign address", "remsim-server", "--rspro-listen 192.0.2.1:9998", 1, []string{"192.0.2.1:9998"}},

		{"bankd, unknown option", "remsim-bankd", "-i 127.0.0.1 --nonsense", 2, []string{"--nonsense"}},
		{"bankd, no server", "remsim-bankd", "-b 1", 2, []string{"--server-host"}},
		{"bankd, bank id", "remsim-bankd", "-i 127.0.0.1 -b 1024", 2, []string{"--bank-id", "1024", "1023"}},
		{"bankd, no slots", "remsim-bankd", "-i 127.0.0.1 -n 0", 2, []string{"--num-slots", "0", "1023"}},
		{"bankd, slots", "remsim-bankd", "-i 127.0.0.1 --num-slots=1024", 2, []string{"--num-slots", "1024", "1023"}},
		{"bankd, not a number", "remsim-bankd", "-i 127.0.0.1 -n eight", 2, []string{"--num-slots", "eight"}},
		{"bankd, port", "remsim-bankd", "-i 127.0.0.1 -p 65536", 2, []string{"--server-port", "65536", "65535"}},
		{"bankd, advertise", "remsim-bankd", "-i 127.0.0.1 --advertise host", 2, []string{"--advertise", "host"}},
		{"bankd, card time-out", "remsim-bankd", "-i 127.0.0.1 --card-timeout 0s", 2, []string{"--card-timeout", "0s"}},
		{"bankd, extra argument", "remsim-bankd", "-i 127.0.0.1 surplus", 2, []string{"surplus"}},
		{"bankd, port in use", "remsim-bankd", "-i 127.0.0.1 --slots-file " + good + " -I 127.0.0.1 -P " + busyNr, 1, []string{busy, "in use"}},
		{"bankd, no slots file", "remsim-bankd", "-i 127.0.0.1 --slots-file nowhere.csv", 1, []string{"nowhere.csv"}},
		{"bankd, bad line", "remsim-bankd", "-i 127.0.0.1 --slots-file " + bad, 1, []string{"bad.csv:2", "zero"}},
		{"bankd, slot twice", "remsim-bankd", "-i 127.0.0.1 --slots-file " + double, 1, []string{"double.csv:3", "bank 1 slot 0"}},
		{"bankd, bad pattern", "remsim-bankd", "-i 127.0.0.1 --slots-file " + brackets, 1, []string{"brackets.csv:1", "a(b"}},

		{"client, unknown option", "remsim-client-shell", "--nonsense", 2, []string{"--nonsense"}},
		{"client, id", "remsim-client-shell", "-c 1024", 2, []string{"--client-id", "1024", "1023"}},
		{"client, slot", "remsim-client-shell", "-n -1", 2, []string{"--client-slot", "-1", "1023"}},
		{"client, port", "remsim-client-shell", "-p 65536", 2, []string{"--server-port", "65536", "65535"}},
		{"client, short ATR", "remsim-client-shell", "-a 3b", 2, []string{"--atr", "3b", "55"}},
		{"client, odd ATR", "remsim-client-shell", "-a 3b0", 2, []string{"--atr", "3b0"}},
		{"client, extra argument", "remsim-client-shell", "surplus", 2, []string{"surplus"}},

		{"api tool, unknown option", "remsim-apitool", "--nonsense", 2, []string{"--nonsense"}},
		{"api tool, client slot", "remsim-apitool", "-m 1 0 23 1024", 2, []string{"1024", "1023"}},
		{"api tool, too few numbers", "remsim-apitool", "-m 1 0 23", 2, []string{"-m"}},
		{"api tool, no server", "remsim-apitool", "-H 127.0.0.1 -p 1 -c", 1, []string{"refused"}},

		{"simulator, unknown option", "remsim-simulator", "cards --nonsense", 2, []string{"--nonsense"}},
		{"simulator, no cards", "remsim-simulator", "cards --count 0", 2, []string{"--count", "0"}},
		{"simulator, extra argument", "remsim-simulator", "cards surplus", 2, []string{"surplus"}},
		{"simulator, unknown command", "remsim-simulator", "nonsense", 2, []string{"nonsense"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			stdout, stderr, status, err := rig.Execute(soon, filepath.Join(bin, tc.program), strings.Fields(tc.args)...)
			if err != nil {
				t.Fatal(err)
			}
			if status != tc.status {
				t.Errorf("exit status %d, want %d; it says %q", status, tc.status, stderr)
			}
			if stdout != "" {
				t.Errorf("standard output isn't empty: %q", stdout)
			}
			lines := strings.Split(strings.TrimSuffix(stderr, "\n"), "\n")
			last := lines[len(lines)-1]
			if tc.status == 2 && len(lines) != 1 {
				t.Errorf("not one line: %q", stderr)
			}
			for _, name := range tc.names {
				if !strings.Contains(last, name) {
					t.Errorf("the line doesn't name %q: %q", name, last)
				}
			}
		})
	}
}

// TestStop has every daemon end in order and in time when asked to.
func TestStop(t *testing.T) {
	s := newSite(t)
	s.startBankd(readerSpecs(1))
	s.create(0, 1)
	sh := s.client(1)
	s.operational(sh)
	for _, p := range []*rig.Proc{sh.Proc, s.bankd, s.server} {
		begin := time.Now()
		if status, err := p.Stop(); err != nil || status != 0 {
			t.Errorf("%s: exit status %d, %v", p.Name, status, err)
		}
		t.Logf("%s ended after %v", p.Name, time.Since(begin).Round(time.Millisecond))
	}
}
