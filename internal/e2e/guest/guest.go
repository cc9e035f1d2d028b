// SPDX-License-Identifier: GPL-2.0-or-later

// Package guest runs the present program a second time inside a virtual computer: a kernel of Debian's in QEMU
// that has USB without hardware, with the files of this computer. Tests of the USB stack need no more of
// this computer than the package qemu-system-x86, and no rights.
package guest

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"os/signal"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// binEnv names the directory of the built programs, for the process inside.
const binEnv = "REMSIM_GUEST_BIN"

// Share is where the directory that host and guest both write to is in the guest.
const Share = "/share"

// Files in the shared directory.
const (
	CommandFile = "command.json"
	StatusFile  = "status"
	consoleFile = "console"
)

// limit is how long a guest may run: several times what its tests take on a computer that is busy with others. Whatever is slow in a
// test has its own, shorter one.
const limit = 18 * time.Minute

// A Command is what the guest's first process runs.
type Command struct {
	Path string
	Args []string // without the path
	Env  []string
	Dir  string
	Tree string // this project's, which the guest has where the host has it, even in /tmp
}

// Run builds the programs (such as "remsim-bankd") with flags of go build, boots a guest, runs the present
// process with its arguments a second time there, and calls inside with the directory of the programs. It returns the exit status of
// that. What is written to standard output and standard error in the guest goes to standard output here.
func Run(inside func(bin string) (status int), programs []string, buildFlags ...string) (status int) {
	if bin := os.Getenv(binEnv); bin != "" {
		return inside(bin)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	status, err := boot(ctx, programs, buildFlags)
	if err != nil {
		fmt.Fprintln(os.Stderr, "guest:", err)
		return 1
	}
	return status
}

func boot(ctx context.Context, programs, buildFlags []string) (status int, err error) {
	root, err := moduleRoot()
	if err != nil {
		return 0, err
	}
	dir, err := os.MkdirTemp("", "remsim-guest-")
	if err != nil {
		return 0, err
	}
	defer os.RemoveAll(dir)
	if err := os.Chmod(dir, 0o755); err != nil { // for programs of other users in the guest
		return 0, err
	}
	bin := filepath.Join(dir, "bin")
	if err := os.Mkdir(bin, 0o755); err != nil {
		return 0, err
	}
	initProgram := filepath.Join(dir, "init")
	build := append([]string{"build", "-o", bin + string(filepath.Separator)}, buildFlags...)
	for _, p := range programs {
		build = append(build, "remsim/cmd/"+p)
	}
	if err := goTool(ctx, os.Environ(), build...); err != nil {
		return 0, err
	}
	static := append(os.Environ(), "CGO_ENABLED=0")
	if err := goTool(ctx, static, "build", "-o", initProgram, "remsim/internal/e2e/guest/init"); err != nil {
		return 0, err
	}
	if err := copySelf(ctx, filepath.Join(bin, "self")); err != nil {
		return 0, err
	}
	k, err := getKernel(filepath.Join(root, ".cache", "guest"))
	if err != nil {
		return 0, err
	}
	initrd := filepath.Join(dir, "initrd")
	if err := writeInitrd(initrd, initProgram, k.modules); err != nil {
		return 0, err
	}
	command, err := json.Marshal(Command{
		Path: Share + "/bin/self", Args: guestArgs(os.Args[1:]), Dir: Share, Tree: root,
		Env: append(os.Environ(), binEnv+"="+Share+"/bin", "GORACE=atexit_sleep_ms=0", "HOME=/root", "TMPDIR=/tmp"),
	})
	if err != nil {
		return 0, err
	}
	if err := os.WriteFile(filepath.Join(dir, CommandFile), command, 0o644); err != nil {
		return 0, err
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("the guest still runs after %v", limit))
	defer cancel()
	if err := qemu(ctx, k.image, initrd, dir); err != nil {
		if ctx.Err() != nil {
			err = context.Cause(ctx)
		}
		return 0, err
	}
	text, err := os.ReadFile(filepath.Join(dir, StatusFile))
	if err != nil {
		console, _ := os.ReadFile(filepath.Join(dir, consoleFile))
		return 0, fmt.Errorf("the guest ended without a status; its console says: %s", bytes.TrimSpace(console))
	}
	return strconv.Atoi(string(text))
}

// guestArgs leaves out the options by which go test has its test binary write files: they would be on a
// file system that is read-only there. Without a log of what the test has read its result isn't cached.
func guestArgs(args []string) (kept []string) {
	for _, a := range args {
		if !strings.HasPrefix(a, "-test.testlogfile=") && !strings.HasPrefix(a, "-test.gocoverdir=") && !strings.HasPrefix(a, "-test.coverprofile=") {
			kept = append(kept, a)
		}
	}
	return kept
}

// moduleRoot returns the directory of go.mod, which is above the working directory of tests.
func moduleRoot() (string, error) {
	dir, err := os.Getwd()
	if err != nil {
		return "", err
	}
	for ; ; dir = filepath.Dir(dir) {
		if _, err := os.Stat(filepath.Join(dir, "go.mod")); err == nil {
			return dir, nil
		}
		if dir == filepath.Dir(dir) {
			return "", errors.New("no go.mod above the working directory")
		}
	}
}

func goTool(ctx context.Context, env []string, args ...string) error {
	cmd := exec.CommandContext(ctx, "go", args...)
	cmd.Env = env
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("go %s: %w: %s", strings.Join(args, " "), err, bytes.TrimSpace(out))
	}
	return nil
}

// copySelf puts the present program into a file. Tests are built once more: with the race detector, which they have
// here, they would take twice the time in a guest.
func copySelf(ctx context.Context, to string) error {
	if testing.Testing() {
		return goTool(ctx, os.Environ(), "test", "-c", "-o", to, ".")
	}
	self, err := os.Executable()
	if err != nil {
		return err
	}
	in, err := os.Open(self)
	if err != nil {
		return err
	}
	defer in.Close()
	out, err := os.OpenFile(to, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o755)
	if err != nil {
		return err
	}
	_, err = io.Copy(out, in)
	return errors.Join(err, out.Close())
}

// qemu boots the guest and waits for its end. There is no acceleration: /dev/kvm may be there and hang. The first serial
// line is the console, the second one what is written.
func qemu(ctx context.Context, image, initrd, dir string) error {
	cmd := exec.CommandContext(ctx, "qemu-system-x86_64",
		"-accel", "tcg,thread=multi", "-M", "pc", "-cpu", "max", "-m", "1024", "-smp", "2",
		"-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-net", "none",
		"-kernel", image, "-initrd", initrd,
		"-append", "console=ttyS0 panic=-1 quiet loglevel=3 mitigations=off tsc=reliable no_timer_check random.trust_cpu=on"+clockOption(),
		"-serial", "file:"+filepath.Join(dir, consoleFile),
		"-serial", "stdio",
		"-virtfs", "local,path=/,mount_tag=host,security_model=none,readonly=on,multidevs=remap",
		"-virtfs", "local,path="+strings.ReplaceAll(dir, ",", ",,")+",mount_tag=share,security_model=none,multidevs=remap",
	)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = os.Stdout, &said
	cmd.WaitDelay = 5 * time.Second
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("qemu-system-x86_64: %w: %s", err, bytes.TrimSpace(said.Bytes()))
	}
	return nil
}
