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

// TestInstallAll installs all there is from a tree to a directory, both of which have a space in their name, by somebody whose files are
// nobody else's: everybody can read what is installed, and run programs.
func TestInstallAll(t *testing.T) {
	tree, dest := filepath.Join(t.TempDir(), "the tree"), filepath.Join(t.TempDir(), "the destination")
	for name, mode := range map[string]os.FileMode{
		"bin/remsim-program":               0o700,
		"bin/share/man/man8/remsim-page.8": 0o600,
		"bin/ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so": 0o600,
		"bin/ifd-remsim-client.bundle/Contents/Info.plist":                    0o600,
		"bin/ifd-remsim-client.bundle/Contents/PkgInfo":                       0o600,
	} {
		if err := os.MkdirAll(filepath.Join(tree, filepath.Dir(name)), 0o700); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(tree, name), nil, mode); err != nil {
			t.Fatal(err)
		}
	}
	for _, name := range []string{"Makefile", "contrib", "doc", "README.md", "COPYING", "CHANGELOG.md"} {
		from, err := filepath.Abs(filepath.Join(root, name))
		if err != nil {
			t.Fatal(err)
		}
		if err := os.Symlink(from, filepath.Join(tree, name)); err != nil {
			t.Fatal(err)
		}
	}
	out, err := exec.Command("sh", "-c", `umask 077 && make -C "$1" --no-print-directory install DESTDIR="$2" PREFIX=/usr`, "sh", tree, dest).CombinedOutput()
	if err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"usr/bin/remsim-program":                      "-rwxr-xr-x",
		"usr/share/man/man8/remsim-page.8":            "-rw-r--r--",
		"usr/lib/systemd/system/remsim-bankd.service": "-rw-r--r--",
		"usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so": "-rw-r--r--",
		"etc/default/remsim-bankd":                   "-rw-r--r--",
		"etc/remsim":                                 "drwxr-xr-x",
		"etc/reader.conf.d/remsim-client":            "-rw-r--r--",
		"usr/share/doc/remsim/event-scripts/at-cfun": "-rwxr-xr-x",
	} {
		if info, err := os.Stat(filepath.Join(dest, name)); err != nil || info.Mode().String() != want {
			t.Errorf("%s: %v, want it with %s (%v)", name, info, want, err)
		}
	}
	err = filepath.WalkDir(dest, func(path string, d os.DirEntry, err error) error {
		if err != nil || d.Type()&os.ModeSymlink != 0 {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Mode().Perm() != 0o755 && (d.IsDir() || info.Mode().Perm() != 0o644) {
			t.Errorf("%s is %v", path, info.Mode())
		}
		return err
	})
	if err != nil {
		t.Error(err)
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
