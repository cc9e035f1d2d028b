// SPDX-License-Identifier: GPL-2.0-or-later

package units

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall installs beside the C suite's server: it stays, as do files of /etc/default, and units name the programs' place.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	for name, content := range map[string]string{
		"lib/systemd/system/osmo-remsim-server.service": "theirs",
		"etc/default/remsim-bankd":                      "changed",
	} {
		if err := os.MkdirAll(filepath.Join(dir, filepath.Dir(name)), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("make", "-C", root, "--no-print-directory", "install-units", "DESTDIR="+dir, "PREFIX=/usr/local").CombinedOutput()
	if err != nil || !strings.Contains(string(out), "the C suite's osmo-remsim-server.service stays") {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"lib/systemd/system/osmo-remsim-server.service":                "theirs",
		"etc/default/remsim-bankd":                                     "changed",
		"etc/default/remsim-client-0":                                  "'/usr/local/share/doc/remsim/event-scripts/at-cfun ",
		"usr/local/lib/systemd/system/remsim-server.service":           "ExecStart=/usr/local/bin/remsim-server ",
		"usr/local/lib/systemd/system/remsim-client@.service":          "exec /usr/local/bin/remsim-client-st2 ",
		"usr/local/lib/systemd/system/osmo-remsim-bankd.service":       "ExecCondition=/usr/local/bin/remsim-bankd ",
		"usr/local/lib/systemd/system/osmo-remsim-client@.service":     "[Service]",
		"usr/local/lib/sysusers.d/remsim-client.conf":                  "m remsim-client plugdev",
		"usr/share/polkit-1/rules.d/remsim-bankd.rules":                "remsim-bankd",
		"usr/local/share/remsim-client-st2/event-scripts-as-root.conf": "User=root",
	} {
		got, err := os.ReadFile(filepath.Join(dir, name))
		if err != nil || !strings.Contains(string(got), want) {
			t.Errorf("%s lacks %q: %v", name, want, err)
		}
	}
	for _, name := range []string{"usr/local/lib/systemd/system/osmo-remsim-server.service", "usr/local/lib/systemd/system/osmo-remsim-clients.service"} {
		if _, err := os.Lstat(filepath.Join(dir, name)); err == nil {
			t.Errorf("%s is there", name)
		}
	}
}

// TestUsers has the packages make the same users as make install.
func TestUsers(t *testing.T) {
	for ours, theirs := range map[string]string{
		"remsim-server": "remsim-server", "remsim-bankd": "remsim-bankd", "remsim-client": "remsim-client-st2",
	} {
		a, err := os.ReadFile(filepath.Join(root, "contrib/systemd", ours+".sysusers"))
		if err != nil {
			t.Fatal(err)
		}
		b, err := os.ReadFile(filepath.Join(root, "debian", theirs+".sysusers"))
		if err != nil {
			t.Fatal(err)
		}
		if string(a) != string(b) {
			t.Errorf("contrib/systemd/%s.sysusers and debian/%s.sysusers differ", ours, theirs)
		}
	}
}
