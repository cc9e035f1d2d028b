// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"bytes"
	"crypto/sha256"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"
)

// suite is the Debian release of all machines.
const suite = "bookworm"

// Packages are what a machine has besides Debian's essential packages and apt. Each takes time in
// every fresh checkout.
var packages = []string{
	"systemd", "dbus", "udev", // the first process and those that its units expect
	"adduser", "init-system-helpers", // for maintainer scripts
	"libpcsclite1", "libusb-1.0-0", "pcscd", "vsmartcard-vpcd", // what remsim's packages depend on, and readers
	"polkitd",                    // judges who may use those, where pcscd asks it
	"procps", "iproute2", "curl", // to look with
}

// trim makes a tree smaller: what is left out is no test's concern.
var trim = []string{
	"--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/info/*",
	`--aptopt=Acquire::Languages "none"`,
	// Packages that a test installs come whole.
	`--customize-hook=rm "$1"/etc/dpkg/dpkg.cfg.d/99mmdebstrap "$1"/etc/apt/apt.conf.d/99mmdebstrap`,
}

// tree returns the directory of a Debian system, from the cache if it is there. Processes that want it at
// the same time wait for one another.
func tree(cache string) (dir string, err error) {
	args := []string{"--mode=root", "--variant=apt", "--format=directory", "--quiet", "--include=" + strings.Join(packages, ",")}
	args = append(args, trim...)
	key := sha256.Sum256([]byte(strings.Join(args, "\n")))
	if err := os.MkdirAll(cache, 0o755); err != nil {
		return "", err
	}
	lock, err := os.OpenFile(filepath.Join(cache, "lock"), os.O_CREATE|os.O_RDWR, 0o644)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if err := unix.Flock(int(lock.Fd()), unix.LOCK_EX); err != nil {
		return "", err
	}
	dir = filepath.Join(cache, fmt.Sprintf("%s-%x", suite, key[:6]))
	if _, err := os.Stat(dir); !errors.Is(err, fs.ErrNotExist) {
		return dir, err
	}
	return dir, makeTree(args, dir)
}

// makeTree has mmdebstrap make a tree from the mirror of the system it runs on.
func makeTree(args []string, dir string) error {
	from, err := mirror()
	if err != nil {
		return err
	}
	proxies, err := exec.Command("apt-config", "dump", "--format", "%f %v%n", "Acquire::http::Proxy", "Acquire::https::Proxy").Output()
	if err != nil {
		return fmt.Errorf("machine: ask apt for proxies: %w", err)
	}
	for option := range strings.Lines(string(proxies)) {
		if name, value, ok := strings.Cut(strings.TrimSpace(option), " "); ok {
			args = append(args, fmt.Sprintf("--aptopt=%s %q", name, value))
		}
	}
	part := dir + ".part"
	if err := os.RemoveAll(part); err != nil {
		return err
	}
	cmd := exec.Command("mmdebstrap", append(args, suite, part, "deb "+from+" "+suite+" main")...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return errors.Join(fmt.Errorf("machine: mmdebstrap %s: %w\n%s", suite, err, bytes.TrimSpace(out)), os.RemoveAll(part))
	}
	return os.Rename(part, dir)
}

// mirror returns the address from which the system's own apt takes Debian's packages.
func mirror() (string, error) {
	out, err := exec.Command("apt-get", "indextargets", "--format", "$(REPO_URI)", "Created-By: Packages", "Label: Debian", "Component: main").Output()
	if err != nil {
		return "", fmt.Errorf("machine: ask apt for its mirror: %w", err)
	}
	address, _, ok := strings.Cut(string(out), "\n")
	if !ok {
		return "", errors.New("machine: apt knows no mirror of Debian; is this Debian, and did apt-get update run?")
	}
	return address, nil
}
