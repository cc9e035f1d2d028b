// SPDX-License-Identifier: GPL-2.0-or-later

// Package packages tests the Debian packages: how they are built, what is in them, and that they do in a Debian system what
// an operator wants of them, from the first installation, or in the C suite's place, until nothing of them is left.
//
// With REMSIM_PACKAGES=DIR packages that contrib/package has put into DIR are tested; with REMSIM_FRESH=1 the second
// build, which is compared with the first, compiles all anew.
package packages

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/machine"
	"remsim/internal/e2e/rig"
)

const (
	root  = "../../.."               // of the tree
	cache = root + "/.cache/machine" // the machine's files
	soon  = 90 * time.Second         // for what takes a few seconds when nothing is wrong
)

// names are all packages.
var names = []string{"remsim-server", "remsim-bankd", "remsim-client-st2", "remsim-client-shell", "remsim-apitool",
	"libifd-remsim-client", "remsim-simulator", "remsim-doc"}

var built string // the directory of the packages

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // what is put into a machine is for its users
	os.Exit(run(m))
}

func run(m *testing.M) int {
	built = os.Getenv("REMSIM_PACKAGES")
	if built == "" {
		dir, err := os.MkdirTemp("", "remsim-packages-")
		if err == nil {
			defer os.RemoveAll(dir)
			built, err = dir, rig.Packages(root, dir, nil)
		}
		if err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
	}
	return m.Run()
}

// deb returns the file of a package.
func deb(t *testing.T, dir, name string) string {
	t.Helper()
	files, err := filepath.Glob(filepath.Join(dir, name+"_*.deb"))
	if err != nil || len(files) != 1 {
		t.Fatalf("packages %s in %s: %q %v, want one", name, dir, files, err)
	}
	return files[0]
}

// A host is a machine to install packages on.
type host struct {
	*machine.Machine
	t *testing.T
}

// start boots a machine that has the packages in /srv/packages, and more as it is told.
func start(t *testing.T, more ...machine.Bind) host {
	t.Helper()
	dir, err := filepath.Abs(built)
	if err != nil {
		t.Fatal(err)
	}
	m, err := machine.Start(cache, append(more, machine.Bind{From: dir, To: "/srv/packages"})...)
	if err != nil {
		t.Fatal(err)
	}
	h := host{m, t}
	t.Cleanup(func() {
		if t.Failed() {
			log, err := m.Run(context.Background(), "journalctl", "--no-pager", "-n", "200")
			t.Logf("%s %v", log, err)
		}
		if err := m.Close(); err != nil {
			t.Error(err)
		}
	})
	return h
}

// sh runs a script in the machine, and returns what it writes.
func (h host) sh(script string) string {
	h.t.Helper()
	out, err := h.Run(h.t.Context(), "sh", "-euc", script)
	if err != nil {
		h.t.Fatal(err)
	}
	return out
}

// apt installs or removes packages as an operator does; nobody is there to answer questions.
func (h host) apt(args ...string) {
	h.t.Helper()
	h.sh("apt-get -qq -y -o Dpkg::Use-Pty=0 " + strings.Join(args, " ") + " </dev/null")
}

// put writes a file of the machine.
func (h host) put(path, content string) {
	h.t.Helper()
	path = h.Path(path)
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		h.t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte(content), 0o644); err != nil {
		h.t.Fatal(err)
	}
}

// eventually waits until a script succeeds and writes want.
func (h host) eventually(script, want string) {
	h.t.Helper()
	err := rig.Eventually(soon, script, func() error {
		out, err := h.Run(h.t.Context(), "sh", "-euc", script)
		if err == nil && !strings.Contains(out, want) {
			err = fmt.Errorf("%q, want %q", out, want)
		}
		return err
	})
	if err != nil {
		h.t.Fatal(err)
	}
}

// unit wants a unit to be active with that program, and returns its process. A unit of Type=simple is active before its process
// has become the program.
func (h host) unit(name, program string) (pid string) {
	h.t.Helper()
	err := rig.Eventually(soon, name, func() error {
		pid = strings.TrimSpace(h.sh("systemctl show --value -p MainPID " + name))
		exe, err := os.Readlink(h.Path("/proc/" + pid + "/exe"))
		if err != nil || filepath.Base(exe) != program {
			return fmt.Errorf("process %s runs %s (%v), want %s", pid, exe, err, program)
		}
		if state := strings.TrimSpace(h.sh("systemctl is-active " + name + " || :")); state != "active" {
			return fmt.Errorf("it is %s, want active", state)
		}
		return nil
	})
	if err != nil {
		h.t.Error(err)
	}
	return pid
}

// ask has a client read something of its card.
func (h host) ask(client, slot string) {
	h.t.Helper()
	out := h.sh("echo a0a40000023f00 | remsim-client-shell -i 127.0.0.1 -c " + client + " -n " + slot)
	if !strings.Contains(out, "R-APDU: 9f") {
		h.t.Errorf("the card's answer to client %s slot %s: %q", client, slot, out)
	}
}

// files lists the machine's files that packages have to do with: of each, what it is, and for configuration its content.
func (h host) files() map[string]string {
	h.t.Helper()
	const list = `find / -xdev \( -path /proc -o -path /sys -o -path /dev -o -path /run -o -path /srv -o -path /tmp -o -path /var/tmp -o \
			-path /var/log -o -path /var/cache -o -path /var/lib/apt -o -path /var/lib/dpkg \) -prune -o \
		! -name '*-' ! -path '/var/lib/systemd/catalog/*' ! -path /etc/.pwd.lock -printf '%p|%y %M %u %g %l\n'
		find /etc -xdev -type f ! -name '*-' -exec sha256sum {} + | sed 's/^\([0-9a-f]*\)  \(.*\)/\2 (content)|\1/'`
	all := map[string]string{}
	for line := range strings.Lines(h.sh(list)) {
		path, what, _ := strings.Cut(strings.TrimSpace(line), "|")
		all[path] = what
	}
	return all
}

// left compares files with those before, and returns what is new or another, and what is gone.
func left(before, after map[string]string) (changed, gone []string) {
	for path, what := range after {
		if before[path] != what {
			changed = append(changed, path)
		}
	}
	for path := range before {
		if _, ok := after[path]; !ok {
			gone = append(gone, path)
		}
	}
	return changed, gone
}

// TestSources has all that packages are made of among what go test looks at before it takes a cached result.
func TestSources(t *testing.T) {
	err := rig.Sources(root)
	for _, dir := range []string{"asn1", "contrib", "debian", "doc"} {
		err = errors.Join(err, filepath.WalkDir(filepath.Join(root, dir), func(path string, d fs.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_, err = os.ReadDir(path)
			}
			return err
		}))
	}
	for _, file := range []string{"Makefile", "README.md", "CHANGELOG.md", "go.sum"} {
		_, statErr := os.Stat(filepath.Join(root, file))
		err = errors.Join(err, statErr)
	}
	if err != nil {
		t.Error(err)
	}
}
