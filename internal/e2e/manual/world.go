// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// A Place says where a page is run.
type Place struct {
	Tree  string // a checkout of this project
	Stage string // what make install has installed, for / to have it, too
}

// bash is the shell of all terminals. Ctrl-C ends what runs in it, also where that is ignored because a shell has started
// this process in the background.
var bash = []string{"env", "--default-signal=INT,QUIT", "bash", "--norc", "--noprofile"}

// environment is what the programs of a page have in theirs, with the words given.
func environment(words ...string) []string {
	return append(words, "TERM=dumb", "LANG=C.UTF-8", "LC_ALL=C.UTF-8", "PAGER=cat", "GIT_PAGER=cat", "SYSTEMD_PAGER=cat", "DEBIAN_FRONTEND=noninteractive")
}

// CloneFlags are of the namespaces that Enter takes.
const CloneFlags = syscall.CLONE_NEWNET | syscall.CLONE_NEWNS | syscall.CLONE_NEWPID | syscall.CLONE_NEWUTS | syscall.CLONE_NEWIPC

// Enter makes a world of its own of the present process's namespaces: the computer's files with what Place names, in which everything may be
// changed, for as long as the process lives; hosts and addresses are this computer.
func Enter(p Place, hosts, addresses []string) error {
	if err := unix.Mount("", "/", "", unix.MS_PRIVATE|unix.MS_REC, ""); err != nil {
		return fmt.Errorf("make mounts private: %w", err)
	}
	const base = "/mnt"
	if err := unix.Mount("tmpfs", base, "tmpfs", 0, ""); err != nil {
		return fmt.Errorf("mount %s: %w", base, err)
	}
	root := filepath.Join(base, "root")
	if err := overlay(base, root, "/"); err != nil {
		return err
	}
	if err := link(p.Stage, root); err != nil {
		return err
	}
	for _, m := range []struct {
		from, kind string
		flags      uintptr
		options    string
	}{
		{"/dev", "", unix.MS_BIND | unix.MS_REC, ""},
		{"/sys", "", unix.MS_BIND | unix.MS_REC, ""},
		{"/proc", "proc", 0, ""},
		{"/run", "tmpfs", 0, "mode=755"},
		{"/tmp", "tmpfs", 0, "mode=1777"},
	} {
		if err := unix.Mount(m.from, filepath.Join(root, m.from), m.kind, m.flags, m.options); err != nil {
			return fmt.Errorf("mount %s: %w", m.from, err)
		}
	}
	// What isn't on the file system of / isn't in the overlay either, and what is in /tmp isn't in the new one.
	for _, dir := range []string{p.Tree, goEnv("GOROOT"), goEnv("GOMODCACHE"), goEnv("GOCACHE")} {
		if there(filepath.Join(root, dir), dir) {
			continue
		}
		if err := overlay(base, filepath.Join(root, dir), dir); err != nil {
			return err
		}
	}
	if err := errors.Join(unix.Chroot(root), unix.Chdir("/")); err != nil {
		return fmt.Errorf("change the root directory: %w", err)
	}
	if err := unix.Sethostname([]byte("host")); err != nil {
		return err
	}
	return Network(hosts, addresses)
}

// link has root have all files of stage, as links to where it shows that.
func link(stage, root string) error {
	const at = "/opt/stage"
	if err := os.MkdirAll(root+at, 0o755); err != nil {
		return err
	}
	if err := unix.Mount(stage, root+at, "", unix.MS_BIND, ""); err != nil {
		return fmt.Errorf("bind %s: %w", stage, err)
	}
	return filepath.WalkDir(stage, func(path string, d fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		to := filepath.Join(root, strings.TrimPrefix(path, stage))
		if d.IsDir() {
			return os.MkdirAll(to, 0o755)
		}
		if err := os.Remove(to); err != nil && !errors.Is(err, fs.ErrNotExist) {
			return err
		}
		return os.Symlink(at+strings.TrimPrefix(path, stage), to)
	})
}

// Network has this computer be all hosts and addresses.
func Network(hosts, addresses []string) error {
	if err := os.WriteFile("/etc/hosts", []byte(hostsFile(hosts)), 0o644); err != nil {
		return err
	}
	commands := [][]string{{"link", "set", "lo", "up"}}
	for _, a := range addresses {
		commands = append(commands, []string{"address", "replace", a, "dev", "lo"})
	}
	for _, args := range commands {
		if out, err := exec.Command("ip", args...).CombinedOutput(); err != nil {
			return fmt.Errorf("ip %s: %w: %s", strings.Join(args, " "), err, out)
		}
	}
	return nil
}

func hostsFile(hosts []string) string {
	return "127.0.0.1 localhost host " + strings.Join(hosts, " ") + "\n::1 localhost\n"
}

// overlay mounts at target what lower has, which stays as it is; base has room for the changes.
func overlay(base, target, lower string) error {
	dir, err := os.MkdirTemp(base, "changes-")
	if err != nil {
		return err
	}
	upper, work := filepath.Join(dir, "upper"), filepath.Join(dir, "work")
	if err := errors.Join(os.Mkdir(upper, 0o755), os.Mkdir(work, 0o755), os.MkdirAll(target, 0o755)); err != nil {
		return err
	}
	if err := unix.Mount("overlay", target, "overlay", 0, "lowerdir="+lower+",upperdir="+upper+",workdir="+work); err != nil {
		return fmt.Errorf("mount an overlay of %s at %s: %w", lower, target, err)
	}
	return nil
}

// there tells whether copy has what is in dir.
func there(copy, dir string) bool {
	want, err := os.ReadDir(dir)
	if err != nil {
		return true // neither here
	}
	got, err := os.ReadDir(copy)
	return err == nil && len(got) == len(want)
}

func goEnv(name string) string {
	out, err := exec.Command("go", "env", name).Output()
	if err != nil {
		return "/nonexistent"
	}
	return strings.TrimSpace(string(out))
}
