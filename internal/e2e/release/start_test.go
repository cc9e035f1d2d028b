// SPDX-License-Identifier: GPL-2.0-or-later

package release

import (
	"crypto/sha256"
	"debug/elf"
	"fmt"
	"io"
	"net/http"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/bankd/softsim"
	"remsim/internal/e2e/rig"
	"remsim/internal/simulator"
)

// sums is the name of the file with the checksums of all others.
const sums = "SHA256SUMS"

// soon is when a program has done what it does at once, under qemu-user and on a busy computer.
const soon = 60 * time.Second

// A platform is what programs are built for, and how they are run here.
type platform struct {
	name    string
	command []string // a program's path follows
	cc      string   // C compiler
	static  bool     // its programs need no library
}

// hostPlatform is this computer.
var hostPlatform = platform{name: "host", cc: "gcc"}

// debianPlatform returns one of Debian's architectures, with the libraries that contrib/cross finds from tree.
func debianPlatform(t *testing.T, tree, arch string) platform {
	t.Helper()
	if arch == strings.TrimSpace(run(t, tree, nil, "dpkg", "--print-architecture")) {
		return hostPlatform
	}
	env := strings.Fields(run(t, tree, nil, "contrib/cross", arch, "sh", "-c", `echo "$SYSROOT ${CC%% *}"`))
	qemu := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "armhf": "arm"}[arch]
	return platform{name: arch, command: []string{"qemu-" + qemu + "-static", "-L", env[0]}, cc: env[1]}
}

// staticPlatform returns one of Go's architectures, for programs without libraries.
func staticPlatform(arch string) platform {
	qemu := map[string]string{"amd64": "x86_64", "arm64": "aarch64", "mipsle": "mipsel"}[arch]
	if qemu == "" {
		qemu = arch
	}
	return platform{name: "static-" + arch, command: []string{"qemu-" + qemu + "-static"}, static: true}
}

// hostPrograms builds those programs for this computer that stand in for ones that a platform hasn't.
func hostPrograms(t *testing.T) (dir string) {
	t.Helper()
	dir = t.TempDir()
	run(t, root, []string{"CGO_ENABLED=0"}, "go", "build", "-buildvcs=false", "-o", dir+"/",
		"./cmd/remsim-server", "./cmd/remsim-bankd", "./cmd/remsim-client-shell", "./cmd/remsim-apitool")
	return dir
}

// tryArtifacts tries each file of a directory that contrib/release has made, after its checksum.
func tryArtifacts(t *testing.T, dir, host string) {
	t.Helper()
	summed := map[string]bool{sums: true}
	for line := range strings.Lines(string(read(t, filepath.Join(dir, sums)))) {
		sum, name, ok := strings.Cut(strings.TrimSuffix(line, "\n"), "  ")
		if !ok || fmt.Sprintf("%x", sha256.Sum256(read(t, filepath.Join(dir, name)))) != sum {
			t.Errorf("%s: %q isn't so", sums, line)
		}
		summed[name] = true
	}
	entries, err := os.ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	packages := map[string]string{} // directories of what is in them, by architecture
	for _, e := range entries {
		if !summed[e.Name()] {
			t.Errorf("%s isn't in %s", e.Name(), sums)
		}
		path := filepath.Join(dir, e.Name())
		tarBall := regexp.MustCompile(`^remsim-[0-9.]+(?:-(static-)?([a-z0-9]+))?\.tar\.gz$`).FindStringSubmatch(e.Name())
		deb := regexp.MustCompile(`^.*_([a-z0-9]+)\.deb$`).FindStringSubmatch(e.Name())
		switch {
		case e.Name() == sums, tarBall != nil && tarBall[2] == "":
		case tarBall != nil && tarBall[1] != "":
			t.Run(e.Name(), func(t *testing.T) { try(t, staticPlatform(tarBall[2]), unpacked(t, path), host) })
		case tarBall != nil:
			t.Run(e.Name(), func(t *testing.T) {
				// What make install installs of it, where no Go is.
				installed := t.TempDir()
				run(t, unpacked(t, path), []string{"PATH=/usr/bin:/bin"}, "make", "-s", "install", "DESTDIR="+installed, "PREFIX=/usr")
				tryInstalled(t, tarBall[2], installed, host)
			})
		case deb != nil && deb[1] == "all":
		case deb != nil:
			if packages[deb[1]] == "" {
				packages[deb[1]] = t.TempDir()
			}
			run(t, dir, nil, "dpkg-deb", "-x", path, packages[deb[1]])
		default:
			t.Errorf("%s is none of what is released", e.Name())
		}
	}
	for arch, dir := range packages {
		t.Run("packages_"+arch, func(t *testing.T) { tryInstalled(t, arch, dir, host) })
	}
}

// tryInstalled tries what is below /usr in a directory, which has to be all programs and the driver.
func tryInstalled(t *testing.T, arch, dir, host string) {
	t.Helper()
	p := debianPlatform(t, root, arch)
	for _, name := range []string{"server", "bankd", "client-shell", "client-st2", "apitool", "simulator"} {
		if path := filepath.Join(dir, "usr/bin/remsim-"+name); !exists(path) {
			t.Errorf("no %s", path)
		}
	}
	s := try(t, p, filepath.Join(dir, "usr/bin"), host)
	driver := filepath.Join(dir, "usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so")
	checkELF(t, driver, false)
	s.driver(t, p, driver)
}

func exists(path string) bool {
	_, err := os.Stat(path)
	return err == nil
}

// A suite is a server, and the programs beside it.
type suite struct {
	server, rest string // HOST:PORT
	api          rig.API
}

// try has the programs in bin use a card together: each has to be a program of the platform, and to end when it is asked to. For
// server, bankd, shell and apitool those in host stand in.
func try(t *testing.T, p platform, bin, host string) *suite {
	t.Helper()
	entries, err := os.ReadDir(bin)
	if err != nil {
		t.Fatal(err)
	}
	for _, e := range entries {
		if !strings.HasPrefix(e.Name(), "remsim-") || e.IsDir() {
			continue
		}
		out := p.run(t, filepath.Join(bin, e.Name()), "--version")
		checkELF(t, filepath.Join(bin, e.Name()), p.static)
		if !regexp.MustCompile(`^` + e.Name() + ` [0-9.]+\ncommit: [0-9a-f]{40}(, modified)?\nsource date: .*Z\nbuilt with: go.*\n$`).MatchString(out) {
			t.Errorf("%s --version: %q", e.Name(), out)
		}
	}
	// start starts the platform's program, or that of this computer; its end is looked at when the test ends.
	start := func(name string, args ...string) *rig.Proc {
		t.Helper()
		path := filepath.Join(bin, name)
		if !exists(path) {
			return hostPlatform.start(t, filepath.Join(host, name), args...)
		}
		return p.start(t, path, args...)
	}

	s := new(suite)
	server := start("remsim-server", "--rspro-listen", "127.0.0.1:0", "--rest-listen", "127.0.0.1:0", "--store", "file:"+filepath.Join(t.TempDir(), "state.db"))
	s.server, s.rest = address(t, server, "listening for RSPRO"), address(t, server, "listening for REST")
	s.api = rig.API{Base: "http://" + s.rest, HTTP: &http.Client{Timeout: soon}}
	healthy(t, s.rest)

	_, port, _ := strings.Cut(s.server, ":")
	slots := filepath.Join(t.TempDir(), "slots.csv")
	profile := simulator.Profile(0)
	if err := os.WriteFile(slots, fmt.Appendf(nil, "\"1\",\"0\",\"softsim:iccid=%s,imsi=%s\"\n", profile.ICCID, profile.IMSI), 0o600); err != nil {
		t.Fatal(err)
	}
	// Clients have to be told a port, on an address that is no other process's.
	ip := fmt.Sprintf("127.88.%d.%d", os.Getpid()>>8&0xff, os.Getpid()&0xff)
	bankd := start("remsim-bankd", "-i", "127.0.0.1", "-p", port, "-n", "1", "--slots-file", slots, "--metrics-listen", "127.0.0.1:0",
		"--bind-ip", ip, "--bind-port", "9999", "--advertise", ip+":9999")
	healthy(t, address(t, bankd, "listening for Prometheus"))
	shell := start("remsim-client-shell", "-i", "127.0.0.1", "-p", port, "-c", "23")
	user := rig.Use(shell, 23, softsim.New(profile), 0, soon)
	s.connected(t, "C23:0", "B1")

	_, restPort, _ := strings.Cut(s.rest, ":")
	apitool := start("remsim-apitool", "-p", restPort, "-m", "1", "0", "23", "0")
	if status, err := apitool.Wait(soon); err != nil || status != 0 {
		t.Fatalf("remsim-apitool: status %d, %v; it says: %s", status, err, apitool.Log())
	}
	if _, err := user.Await(rig.Counts{}, rig.Counts{Answers: 3}, soon); err != nil {
		t.Fatalf("no answers of the card: %v\nserver: %s\nbankd: %s\nshell: %s", err, server.Log(), bankd.Log(), shell.Log())
	}
	if err := user.End(); err != nil {
		t.Error(err)
	}

	if path := filepath.Join(bin, "remsim-client-st2"); exists(path) {
		client := p.start(t, path, "-i", "127.0.0.1", "-p", port, "-c", "24", "--keep-running", "--metrics-listen", "127.0.0.1:0")
		healthy(t, address(t, client, "listening for Prometheus"))
	}
	if path := filepath.Join(bin, "remsim-simulator"); exists(path) {
		out := p.run(t, path, "swarm", "--server", s.server, "--rest", s.api.Base, "--first-bank", "2", "--first-client", "100", "--slots", "2", "--clients", "2",
			"--tpdus", "5", "--duration", "1s")
		if !strings.Contains(out, `"phase":"done"`) {
			t.Errorf("swarm: %s", out)
		}
	}
	return s
}

// checkELF checks that a program needs no library, or is hardened.
func checkELF(t *testing.T, path string, static bool) {
	t.Helper()
	f, err := elf.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	has := func(typ elf.ProgType) bool {
		return slices.ContainsFunc(f.Progs, func(p *elf.Prog) bool { return p.Type == typ })
	}
	if static {
		if has(elf.PT_INTERP) || has(elf.PT_DYNAMIC) {
			t.Errorf("%s is linked dynamically", path)
		}
		return
	}
	flags, err := f.DynValue(elf.DT_FLAGS)
	if err != nil || len(flags) != 1 || elf.DynFlag(flags[0])&elf.DF_BIND_NOW == 0 {
		t.Errorf("%s: dynamic flags %v, %v, want BIND_NOW", path, flags, err)
	}
	if f.Type != elf.ET_DYN || !has(elf.PT_GNU_RELRO) {
		t.Errorf("%s: type %v, read-only relocations %v; want a position-independent program with them", path, f.Type, has(elf.PT_GNU_RELRO))
	}
}

// driver has the platform's C library load the PC/SC driver, which has to connect a client.
func (s *suite) driver(t *testing.T, p platform, path string) {
	t.Helper()
	program := filepath.Join(t.TempDir(), "load")
	run(t, ".", nil, p.cc, "-o", program, "testdata/load.c", "-ldl")
	host := p.start(t, program, path, "25:0:"+s.server)
	if line, err := host.Line(soon); err != nil || line != "open" {
		t.Fatalf("%s: %q, %v; it says: %s", path, line, err, host.Log())
	}
	s.connected(t, "C25:0")
	if err := host.Stdin.Close(); err != nil {
		t.Error(err)
	}
	if status, err := host.Wait(soon); err != nil || status != 0 {
		t.Errorf("%s: status %d, %v", path, status, err)
	}
}

// connected waits until the server has these peers.
func (s *suite) connected(t *testing.T, peers ...string) {
	t.Helper()
	err := rig.Eventually(soon, "connected", func() error {
		there, err := s.api.Peers()
		for _, p := range peers {
			if err == nil && !there[p] {
				err = fmt.Errorf("no %s in %v", p, there)
			}
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
}

// start starts a program; when the test ends it is asked to end, which it has to do with status 0 unless it has ended.
func (p platform) start(t *testing.T, path string, args ...string) *rig.Proc {
	t.Helper()
	args = append(append(append([]string{}, p.command...), path), args...)
	proc, err := rig.Start(p.name+" "+filepath.Base(path), args[0], args[1:]...)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = proc.Signal(syscall.SIGTERM) // it may have ended already
		status, err := proc.Wait(soon)
		if err != nil {
			proc.Kill()
		}
		if err != nil || status != 0 {
			t.Errorf("%s: status %d, %v; it says: %s", proc.Name, status, err, proc.Log())
		}
	})
	return proc
}

// run runs a program to its end and returns what it prints.
func (p platform) run(t *testing.T, path string, args ...string) string {
	t.Helper()
	args = append(append(append([]string{}, p.command...), path), args...)
	out, errs, status, err := rig.Execute(soon, args[0], args[1:]...)
	if err != nil || status != 0 {
		t.Fatalf("%q: status %d, %v; it says: %s", args, status, err, errs)
	}
	return out
}

// address waits for the log line with this message and returns its address.
func address(t *testing.T, p *rig.Proc, message string) string {
	t.Helper()
	line, err := p.Await(soon, message, "addr=")
	if err != nil {
		t.Fatalf("%v; it says: %s", err, p.Log())
	}
	return regexp.MustCompile(`addr="?([^" ]*)`).FindStringSubmatch(line)[1]
}

// healthy asks a program at HOST:PORT how it is.
func healthy(t *testing.T, at string) {
	t.Helper()
	res, err := (&http.Client{Timeout: soon}).Get("http://" + at + "/healthz")
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	if body, _ := io.ReadAll(res.Body); res.StatusCode != http.StatusOK {
		t.Errorf("/healthz: %s: %s", res.Status, body)
	}
}
