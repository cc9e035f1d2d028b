// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
)

const module = "remsim/"

// A pkg is what go list tells of a package.
type pkg struct {
	ImportPath string
	Imports    []string
	Deps       []string
	CgoFiles   []string
	Standard   bool
}

// list returns all packages of the tree and what they need, by import path, with cgo.
func list(t *testing.T) map[string]pkg {
	t.Helper()
	cmd := exec.Command("go", "list", "-deps", "-json=ImportPath,Imports,Deps,CgoFiles,Standard", "./...")
	cmd.Dir = "../.."
	cmd.Env = append(os.Environ(), "CGO_ENABLED=1")
	cmd.Stderr = os.Stderr
	out, err := cmd.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	all := map[string]pkg{}
	for dec := json.NewDecoder(out); ; {
		var p pkg
		if err := dec.Decode(&p); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		all[p.ImportPath] = p
	}
	if err := cmd.Wait(); err != nil {
		t.Fatal(err)
	}
	return all
}

// floors reads the tree of packages in doc/architecture.md: the line of each by its path below the module.
func floors(t *testing.T) map[string]int {
	t.Helper()
	text, err := os.ReadFile("../../doc/architecture.md")
	if err != nil {
		t.Fatal(err)
	}
	_, tree, _ := strings.Cut(string(text), "\n## The parts\n\n```\n")
	tree, _, ok := strings.Cut(tree, "\n```\n")
	if !ok {
		t.Fatal("doc/architecture.md has no tree of its parts")
	}
	line := map[string]int{}
	var path []string
	for i, s := range strings.Split(tree, "\n") {
		name := strings.Fields(s)[0]
		depth := (len(s) - len(strings.TrimLeft(s, " "))) / 2
		if !strings.HasSuffix(name, "/") || depth > len(path) {
			continue // a file, or more of what is said of the one before
		}
		path = append(path[:depth], strings.TrimSuffix(name, "/"))
		p := strings.Join(path, "/")
		if line[p] != 0 {
			t.Errorf("doc/architecture.md has %s twice", p)
		}
		line[p] = i + 1
	}
	return line
}

// TestFloors checks that doc/architecture.md has every package, and none that there isn't, and that each
// imports only such as stand above it.
func TestFloors(t *testing.T) {
	all, line := list(t), floors(t)
	there := map[string]bool{}
	for name, p := range all {
		path, ours := strings.CutPrefix(name, module)
		if !ours {
			continue
		}
		for dir := path; dir != ""; dir = dir[:max(0, strings.LastIndex(dir, "/"))] {
			there[dir] = true
		}
		program := strings.HasPrefix(path, "cmd/")
		if !program && line[path] == 0 {
			t.Errorf("doc/architecture.md has no %s", path)
		}
		for _, i := range p.Imports {
			needs, ours := strings.CutPrefix(i, module)
			if ours && !program && line[needs] >= line[path] {
				t.Errorf("%s imports %s, which stands below it in doc/architecture.md", path, needs)
			}
			if ours && strings.HasPrefix(needs, "cmd/") {
				t.Errorf("%s imports %s, a program", path, needs)
			}
		}
	}
	for path := range line {
		if !there[path] {
			t.Errorf("doc/architecture.md has %s, which there isn't", path)
		}
	}
}

// TestRooms checks that cgo is where it belongs, and that what is there for tests stays out of what is
// installed.
func TestRooms(t *testing.T) {
	all := list(t)
	cgo := func(name string) bool { return !all[name].Standard && len(all[name].CgoFiles) > 0 }
	rooms := []string{"cmd/remsim-ifd", "internal/bankd/pcsc", "internal/e2e/application", "internal/usb"}
	var found []string
	for name, p := range all {
		path, ours := strings.CutPrefix(name, module)
		if !ours {
			continue
		}
		needs := cgo(name)
		for _, i := range p.Imports {
			if !strings.HasPrefix(i, module) {
				needs = needs || cgo(i) || slices.ContainsFunc(all[i].Deps, cgo)
			}
		}
		if needs {
			found = append(found, path)
		}
	}
	slices.Sort(found)
	if !slices.Equal(found, rooms) {
		t.Errorf("cgo is in %q, want it in %q", found, rooms)
	}

	for _, tt := range []struct{ who, never, but string }{
		{"cmd/", "internal/testnet", ""},
		{"cmd/", "internal/e2e", ""},
		{"cmd/", "internal/simulator", "cmd/remsim-simulator"},
		{"internal/server", "net/http", "internal/server/rest"},
		{"internal/client", "internal/bankd", ""},
		{"internal/client", "internal/server", ""},
		{"internal/bankd", "internal/server", ""},
		{"internal/bankd", "internal/client", ""},
	} {
		seen := false
		for name, p := range all {
			path, ours := strings.CutPrefix(name, module)
			if !ours || !strings.HasPrefix(path, tt.who) || path == tt.but {
				continue
			}
			seen = true
			for _, d := range p.Deps {
				if d = strings.TrimPrefix(d, module); d == tt.never || strings.HasPrefix(d, tt.never+"/") {
					t.Errorf("%s needs %s", path, d)
				}
			}
		}
		if !seen {
			t.Errorf("there is nothing at %s", tt.who)
		}
	}
}
