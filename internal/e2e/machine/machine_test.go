// SPDX-License-Identifier: GPL-2.0-or-later

package machine

import (
	"context"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"
)

// cache is where all tests have the machine's files.
const cache = "../../../.cache/machine"

// TestMachine boots a machine, has a unit run in it that is hardened as ours are, and sees to it that nothing is left.
func TestMachine(t *testing.T) {
	syscall.Umask(0o022) // what is put into a machine is for its users
	shared := t.TempDir()
	if err := os.WriteFile(filepath.Join(shared, "file"), []byte("from outside\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	m, err := Start(cache, Bind{shared, "/srv/shared"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Minute)
	defer cancel()
	ended := false
	defer func() {
		if !ended {
			_ = m.Close()
		}
	}()

	unit := "[Service]\nType=oneshot\nRemainAfterExit=yes\nExecStart=sh -c 'id -nu; cat /srv/shared/file; touch /etc/x || :'\n" +
		"User=daemon\nProtectSystem=strict\nPrivateTmp=yes\nPrivateDevices=yes\nProtectKernelTunables=yes\nProtectProc=invisible\n" +
		"RestrictNamespaces=yes\nMemoryDenyWriteExecute=yes\nSystemCallFilter=@system-service\nStateDirectory=remsim\n"
	if err := os.WriteFile(m.Path("/etc/systemd/system/try.service"), []byte(unit), 0o644); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Run(ctx, "systemctl", "start", "try.service"); err != nil {
		t.Error(err)
	}
	log, err := m.Run(ctx, "sh", "-c", "journalctl --sync && journalctl --no-pager -o cat -u try.service")
	if err != nil {
		t.Error(err)
	}
	for _, want := range []string{"daemon\n", "from outside\n", "Read-only file system", "Finished"} {
		if !strings.Contains(log, want) {
			t.Errorf("the unit's journal lacks %q:\n%s", want, log)
		}
	}
	if _, err := m.Run(ctx, "sh", "-c", "echo why >&2; exit 3"); err == nil || !strings.Contains(err.Error(), "exit status 3") ||
		!strings.Contains(err.Error(), "why") {
		t.Errorf("a program that fails: %v", err)
	}
	if out, err := m.Run(ctx, "sh", "-c", "ls /sys/class/net; hostname; cat /srv/shared/file"); err != nil || out != "lo\nmachine\nfrom outside\n" {
		t.Errorf("%q %v", out, err)
	}

	ended = true
	if err := m.Close(); err != nil {
		t.Error(err)
	}
	for _, left := range []string{m.dir, m.cgroup} {
		if _, err := os.Stat(left); err == nil {
			t.Errorf("%s is still there", left)
		}
	}
	mounts, err := os.ReadFile("/proc/self/mountinfo")
	if err != nil {
		t.Fatal(err)
	}
	if strings.Contains(string(mounts), m.dir) {
		t.Error("it is still mounted")
	}
}
