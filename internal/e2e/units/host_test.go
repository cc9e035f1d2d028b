// SPDX-License-Identifier: GPL-2.0-or-later

package units

import (
	"context"
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"remsim/internal/e2e/rig"
)

// sh runs a script in the machine, and returns what it writes.
func sh(t *testing.T, script string) string {
	t.Helper()
	out, err := host.Run(t.Context(), "sh", "-ec", script)
	if err != nil {
		t.Fatal(err)
	}
	return out
}

// put writes a file of the machine.
func put(t *testing.T, path, content string) {
	t.Helper()
	path = host.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		t.Fatal(err)
	}
}

// dropIn adds lines to a unit, in the way an operator does.
func dropIn(t *testing.T, unit, lines string) {
	t.Helper()
	put(t, "/etc/systemd/system/"+unit+".d/test.conf", lines)
	sh(t, "systemctl daemon-reload")
}

// fresh has the machine be as one on which everything was installed and nothing has been done, now and after the test.
func fresh(t *testing.T) {
	t.Helper()
	const reset = `
		systemctl stop 'remsim-*' pcscd.socket pcscd.service
		rm -rf /etc/systemd/system/*remsim*.service* /etc/systemd/system/*.wants/*remsim* /etc/default/*remsim* \
			/etc/remsim/* /etc/osmocom /var/lib/remsim
		systemctl daemon-reload
		systemctl reset-failed`
	sh(t, reset)
	t.Cleanup(func() {
		if t.Failed() {
			log, err := host.Command(context.Background(), "journalctl", "--no-pager", "-n", "100").CombinedOutput()
			t.Logf("%s %v", log, err)
		}
	})
}

// A place is one in the journal.
type place string

// now is the journal's end.
func now(t *testing.T) place {
	t.Helper()
	_, cursor, _ := strings.Cut(sh(t, "journalctl --sync; journalctl -n 0 --show-cursor"), "-- cursor: ")
	return place(strings.TrimSpace(cursor))
}

// lines returns what a program has written to the journal since then.
func (p place) lines(t *testing.T, program string) (lines []string) {
	t.Helper()
	text := sh(t, fmt.Sprintf("journalctl --sync; journalctl --quiet --no-pager -o json --after-cursor %q", string(p)))
	for line := range strings.Lines(text) {
		var entry struct {
			Program string `json:"SYSLOG_IDENTIFIER"`
			Message string `json:"MESSAGE"`
		}
		if err := json.Unmarshal([]byte(line), &entry); err != nil {
			t.Fatalf("journal: %q: %v", line, err)
		}
		if entry.Program == program {
			lines = append(lines, entry.Message)
		}
	}
	return lines
}

// status returns what systemctl shows of a unit to an operator, with all that it has written to the journal by now.
func status(t *testing.T, unit string) string {
	t.Helper()
	return sh(t, "journalctl --sync; systemctl status --no-pager --full "+unit+" || [ $? -eq 3 ]") // 3: it isn't active
}

// show returns a property of a unit.
func show(t *testing.T, unit, property string) string {
	t.Helper()
	return strings.TrimSpace(sh(t, "systemctl show --value -p "+property+" "+unit))
}

// want compares properties of a unit, NAME=VALUE.
func want(t *testing.T, unit string, properties ...string) {
	t.Helper()
	for _, p := range properties {
		name, value, _ := strings.Cut(p, "=")
		if got := show(t, unit, name); got != value {
			t.Errorf("%s: %s is %q, want %q", unit, name, got, value)
		}
	}
}

// await waits until a property of a unit is what it should be.
func await(t *testing.T, unit, property, value string) {
	t.Helper()
	err := rig.Eventually(soon, unit, func() error {
		if got := show(t, unit, property); got != value {
			return fmt.Errorf("%s is %q, want %q", property, got, value)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// awaitNew waits until a unit is active with another process than that.
func awaitNew(t *testing.T, unit, pid string) {
	t.Helper()
	err := rig.Eventually(soon, unit, func() error {
		now := strings.Fields(sh(t, "systemctl show -p ActiveState -p MainPID "+unit))
		if !slices.Contains(now, "ActiveState=active") || slices.Contains(now, "MainPID="+pid) {
			return fmt.Errorf("%q", now)
		}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
}

// commandLine returns the arguments of a unit's process.
func commandLine(t *testing.T, unit string) string {
	t.Helper()
	return strings.TrimSpace(sh(t, "tr '\\0' ' ' </proc/"+show(t, unit, "MainPID")+"/cmdline"))
}
