// SPDX-License-Identifier: GPL-2.0-or-later

// Package units tests the systemd units, the files of /etc/default that they read, and the rules of udev and polkit, in
// a Debian system of their own.
package units

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
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

// programs are those that units run, and those that tests of them talk to them by.
var programs = []string{"remsim-server", "remsim-bankd", "remsim-client-st2", "remsim-client-shell", "remsim-apitool", "remsim-simulator"}

var host *machine.Machine // has the programs and units as make install installs them

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // what is put into a machine is for its users
	os.Exit(run(m))
}

func run(m *testing.M) (status int) {
	var err error
	if host, err = start(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer func() {
		if err := host.Close(); err != nil {
			fmt.Fprintln(os.Stderr, err)
			status = 1
		}
	}()
	return m.Run()
}

// start boots a machine and installs the programs and units in it.
func start() (m *machine.Machine, err error) {
	m, err = machine.Start(cache)
	if err != nil {
		return nil, err
	}
	if err := install(m); err != nil {
		return nil, errors.Join(err, m.Close())
	}
	return m, nil
}

func install(m *machine.Machine) error {
	to := m.Path("/usr/bin") + string(filepath.Separator)
	args := []string{"build", "-o", to}
	for _, p := range programs {
		args = append(args, "remsim/cmd/"+p)
	}
	for _, cmd := range []*exec.Cmd{
		exec.Command("go", args...),
		exec.Command("make", "-C", root, "--no-print-directory", "install-units", "DESTDIR="+m.Path("/"), "PREFIX=/usr"),
		exec.Command("install", "-D", "-m", "644", root+"/contrib/udev/60-remsim.rules", m.Path("/usr/lib/udev/rules.d/60-remsim.rules")),
		m.Command(context.Background(), "systemd-sysusers"),
		m.Command(context.Background(), "systemctl", "daemon-reload"),
	} {
		if out, err := cmd.CombinedOutput(); err != nil {
			return fmt.Errorf("%q: %w\n%s", cmd.Args, err, out)
		}
	}
	return nil
}

// TestSources has all sources among what go test looks at before it takes a cached result.
func TestSources(t *testing.T) {
	if err := rig.Sources(root); err != nil {
		t.Error(err)
	}
}
