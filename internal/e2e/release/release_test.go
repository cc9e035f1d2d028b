// SPDX-License-Identifier: GPL-2.0-or-later

// Package release tests what is released: that programs for other architectures work, by qemu-user, that two builds give
// the same bytes, and that programs say what they were built from.
package release

import (
	"bytes"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"runtime"
	"slices"
	"strings"
	"testing"

	"remsim/internal/e2e/rig"
)

// artifactsEnv names a directory that contrib/release has made, with all that is in it.
const artifactsEnv = "REMSIM_RELEASE"

// root is the directory of the sources.
const root = "../../.."

func TestMain(m *testing.M) {
	if err := rig.Sources(root); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
	os.Exit(m.Run())
}

// run runs a command in a directory and returns what it prints on standard output.
func run(t *testing.T, dir string, env []string, args ...string) string {
	t.Helper()
	cmd := exec.Command(args[0], args[1:]...)
	var out, errs bytes.Buffer
	cmd.Dir, cmd.Env, cmd.Stdout, cmd.Stderr = dir, append(os.Environ(), env...), &out, &errs
	if err := cmd.Run(); err != nil {
		t.Fatalf("%s %q: %v\n%s%s", env, args, err, &out, &errs)
	}
	return out.String()
}

// When the sources of repository were committed.
const committed, committedSeconds = "2026-01-02T03:04:05Z", "1767323045 +0000"

// repository returns a copy of the sources as they are, in a git repository with one commit.
func repository(t *testing.T) (dir, commit string) {
	t.Helper()
	dir = t.TempDir()
	run(t, root, nil, "sh", "-c", `tar -c --exclude=./.git --exclude=./bin --exclude=./.cache . | tar -x -C "$1"`, "sh", dir)
	run(t, dir, nil, "git", "init", "-q")
	run(t, dir, nil, "git", "add", "-A")
	run(t, dir, []string{"GIT_COMMITTER_DATE=" + committedSeconds}, "git",
		"-c", "user.name=test", "-c", "user.email=test@example.org", "commit", "-q", "-m", "All")
	return dir, strings.TrimSpace(run(t, dir, nil, "git", "rev-parse", "HEAD"))
}

// unpacked unpacks a tar ball and returns the directory that is in it.
func unpacked(t *testing.T, tarBall string) string {
	t.Helper()
	dir := t.TempDir()
	run(t, dir, nil, "tar", "-xf", tarBall)
	return filepath.Join(dir, strings.TrimSuffix(filepath.Base(tarBall), ".tar.gz"))
}

// TestVersion: programs say what they were built from, whichever way they were.
func TestVersion(t *testing.T) {
	tree, commit := repository(t)
	version := regexp.MustCompile(`(?m)^const version = "(.*)"$`).FindStringSubmatch(string(read(t, filepath.Join(root, "internal/daemon/version.go"))))[1]
	program := filepath.Join("bin", "remsim-apitool")
	build := []string{"make", "-s", "programs", "PROGRAMS=remsim-apitool"}
	plain := []string{"go", "build", "-buildvcs=auto", "-o", program, "./cmd/remsim-apitool"}
	says := func(t *testing.T, dir, commit string) {
		t.Helper()
		want := fmt.Sprintf("remsim-apitool %s\ncommit: %s\nsource date: %s\nbuilt with: %s linux/%s\n", version, commit, committed, runtime.Version(), runtime.GOARCH)
		if got := run(t, dir, nil, program, "--version"); got != want {
			t.Errorf("it says\n%swant\n%s", got, want)
		}
	}

	run(t, tree, nil, build...)
	says(t, tree, commit)
	run(t, tree, nil, plain...)
	says(t, tree, commit)

	t.Run("tar ball", func(t *testing.T) {
		run(t, tree, nil, "contrib/release", "source")
		dir := unpacked(t, filepath.Join(tree, "bin/release", "remsim-"+version+".tar.gz"))
		run(t, dir, nil, plain...)
		says(t, dir, commit)
		run(t, dir, nil, build...)
		says(t, dir, commit)
	})

	// git refuses to work in it, and so does go build.
	t.Run("repository of somebody else", func(t *testing.T) {
		run(t, tree, []string{"GIT_TEST_ASSUME_DIFFERENT_OWNER=1"}, build...)
		says(t, tree, commit)
	})

	t.Run("modified", func(t *testing.T) {
		change := filepath.Join(tree, "README.md")
		if err := os.WriteFile(change, append(read(t, change), "\nChanged.\n"...), 0o644); err != nil {
			t.Fatal(err)
		}
		run(t, tree, nil, build...)
		says(t, tree, commit+", modified")
	})

	t.Run("nothing known", func(t *testing.T) {
		if err := os.RemoveAll(filepath.Join(tree, ".git")); err != nil {
			t.Fatal(err)
		}
		seconds, _, _ := strings.Cut(committedSeconds, " ")
		run(t, tree, []string{"SOURCE_DATE_EPOCH=" + seconds}, build...)
		says(t, tree, "unknown")
	})
}

// TestArtifacts: what is released works on its architecture. Without $REMSIM_RELEASE that is made here, as far as there's time: programs for machines
// without our libraries, and one with cgo; each has to be the same when it's made again from the tar ball of the sources.
func TestArtifacts(t *testing.T) {
	host := hostPrograms(t)
	if dir := os.Getenv(artifactsEnv); dir != "" {
		tryArtifacts(t, dir, host)
		return
	}
	tree, _ := repository(t)
	run(t, tree, nil, "contrib/release", "source", "static-mips", "static-riscv64")
	made := filepath.Join(tree, "bin/release")
	list := strings.Fields(string(read(t, filepath.Join(made, sums))))
	i := slices.IndexFunc(list, func(s string) bool { return regexp.MustCompile(`^remsim-[0-9.]*\.tar\.gz$`).MatchString(s) })
	if i < 0 {
		t.Fatalf("no sources in %q", list)
	}
	again := unpacked(t, filepath.Join(made, list[i]))

	t.Run("static", func(t *testing.T) {
		tryArtifacts(t, made, host)
		run(t, again, nil, "contrib/release", "source", "static-mips")
		for line := range strings.Lines(string(read(t, filepath.Join(again, "bin/release", sums)))) {
			if all := read(t, filepath.Join(made, sums)); !bytes.Contains(all, []byte(line)) {
				t.Errorf("a second build has made\n%swhere the first has\n%s", line, all)
			}
		}
	})
	t.Run("arm64", func(t *testing.T) {
		var programs [][]byte
		for _, dir := range []string{again, unpacked(t, filepath.Join(made, list[i]))} {
			run(t, dir, nil, filepath.Join(tree, "contrib/cross"), "arm64", "make", "-s", "programs", "PROGRAMS=remsim-bankd", "STRIP=1")
			programs = append(programs, read(t, filepath.Join(dir, "bin/remsim-bankd")))
		}
		if !bytes.Equal(programs[0], programs[1]) {
			t.Error("two builds of remsim-bankd for arm64 have other bytes")
		}
		try(t, debianPlatform(t, tree, "arm64"), filepath.Join(again, "bin"), host)
	})
}

func read(t *testing.T, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(name)
	if err != nil {
		t.Fatal(err)
	}
	return b
}
