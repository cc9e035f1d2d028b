// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"remsim/internal/e2e/guest"
	"remsim/internal/e2e/machine"
	"remsim/internal/e2e/rig"
)

const (
	root = "../../.."       // the tree, as seen from this package
	soon = 60 * time.Second // for what takes a few seconds when nothing is wrong
)

// In the environment of a process that runs a page in a world of its own.
const (
	pageEnv  = "REMSIM_MANUAL_PAGE" // as page.String has it
	treeEnv  = "REMSIM_MANUAL_TREE"
	stageEnv = "REMSIM_MANUAL_STAGE"
)

func TestMain(m *testing.M) {
	syscall.Umask(0o022) // what is put into a machine is for its users
	name := os.Getenv(pageEnv)
	if name == "" {
		flag.Parse()
		if err := flag.Set("test.parallel", "6"); err != nil { // most pages wait most of the time
			panic(err)
		}
		os.Exit(m.Run())
	}
	p, err := find(name)
	if err != nil {
		fmt.Println(err)
		os.Exit(1)
	}
	if p.World == USB {
		os.Exit(guest.Run(func(bin string) int {
			os.Setenv("PATH", bin+":"+os.Getenv("PATH"))
			return report(inGuest(p))
		}, []string{"remsim-server", "remsim-bankd", "remsim-client-st2", "remsim-client-shell", "remsim-apitool", "remsim-simulator"}))
	}
	os.Exit(report(inNamespaces(p, Place{Tree: os.Getenv(treeEnv), Stage: os.Getenv(stageEnv)})))
}

func report(err error) (status int) {
	if err != nil {
		fmt.Println(err)
		return 1
	}
	return 0
}

// load reads the pages of a chapter of the tree.
func load(name string) ([]*Page, error) {
	dir := root
	if tree := os.Getenv(treeEnv); tree != "" {
		dir = tree
	}
	text, err := os.ReadFile(filepath.Join(dir, name))
	if err != nil {
		return nil, err
	}
	if name == programs {
		return examples(string(text)), nil
	}
	return Parse(name, string(text))
}

// find returns the page "NUMBER FILE" of the tree, its chapter's first one being 0.
func find(s string) (*Page, error) {
	var number int
	var name string
	if _, err := fmt.Sscan(s, &number, &name); err != nil {
		return nil, fmt.Errorf("page %q: %w", s, err)
	}
	pages, err := load(name)
	if err != nil {
		return nil, err
	}
	if number >= len(pages) {
		return nil, fmt.Errorf("%s has %d pages and not number %d", name, len(pages), number)
	}
	return pages[number], nil
}

// inNamespaces runs a page in namespaces that were made for the present process.
func inNamespaces(p *Page, place Place) error {
	if err := Enter(place, p.Hosts(), p.Addresses()); err != nil {
		return err
	}
	return p.Run(shellAt("TREE="+place.Tree), soon)
}

// inGuest runs a page in a virtual computer, whose files are read-only.
func inGuest(p *Page) error {
	const hosts = "/tmp/hosts"
	if err := os.WriteFile(hosts, nil, 0o644); err != nil {
		return err
	}
	if err := syscall.Mount(hosts, "/etc/hosts", "", syscall.MS_BIND, ""); err != nil {
		return err
	}
	if err := Network(p.Hosts(), p.Addresses()); err != nil {
		return err
	}
	return p.Run(shellAt("TREE="+os.Getenv(treeEnv)), 2*soon)
}

// shellAt makes shells of the present world, in an empty directory.
func shellAt(words ...string) func() *exec.Cmd {
	const dir = "/tmp/reader"
	return func() *exec.Cmd {
		cmd := exec.Command(bash[0], bash[1:]...)
		cmd.Dir = dir
		cmd.Env = environment(append(slices.DeleteFunc(os.Environ(), ofTest), words...)...)
		_ = os.Mkdir(dir, 0o755) // it's there from the second one on
		return cmd
	}
}

// ofTest tells whether a variable is there because of what runs this test: make says so to one that it runs.
func ofTest(variable string) bool {
	name, _, _ := strings.Cut(variable, "=")
	return strings.HasPrefix(name, "MAKE") || strings.HasPrefix(name, "REMSIM_") || name == "MFLAGS" || name == "GORACE"
}

// chapters are those of the manual that have commands, and README.md.
func chapters(t *testing.T) []string {
	t.Helper()
	names, err := filepath.Glob(root + "/doc/manual/*.adoc")
	if err != nil {
		t.Fatal(err)
	}
	for i, n := range names {
		names[i], _ = filepath.Rel(root, n)
	}
	return append(names, "README.md", "doc/rest.md", "doc/metrics.md", programs)
}

// TestPages runs all pages, side by side.
func TestPages(t *testing.T) {
	tree, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if err := rig.Sources(root); err != nil { // what is built counts, not only what is imported
		t.Fatal(err)
	}
	packages, stage := t.TempDir(), t.TempDir()
	if given := os.Getenv("REMSIM_PACKAGES"); given != "" {
		packages = given
	} else if err := rig.Packages(root, packages, nil, "-B"); err != nil {
		t.Fatal(err)
	}
	if err := unpack(packages, stage); err != nil {
		t.Fatal(err)
	}
	for _, name := range chapters(t) {
		pages, err := load(name)
		if err != nil {
			t.Error(err)
			continue
		}
		for number, p := range pages {
			t.Run(fmt.Sprintf("%s/%d", strings.TrimSuffix(filepath.Base(name), filepath.Ext(name)), number), func(t *testing.T) {
				t.Parallel()
				if p.World == Machine {
					runInMachine(t, p, tree, packages)
				} else {
					runInProcess(t, p, number, stage)
				}
			})
		}
	}
}

// runInProcess has a second process run a page, in a world of its own.
func runInProcess(t *testing.T, p *Page, number int, stage string) {
	t.Helper()
	tree, err := filepath.Abs(root)
	if err != nil {
		t.Fatal(err)
	}
	if p.World == Namespaces && os.Geteuid() != 0 {
		t.Fatal("only root can make the namespaces of a page; these tests take root")
	}
	cmd := exec.Command("/proc/self/exe", os.Args[1:]...)
	cmd.Env = append(os.Environ(), fmt.Sprintf("%s=%d %s", pageEnv, number, p.Name), treeEnv+"="+tree, stageEnv+"="+stage)
	if p.World == Namespaces {
		cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: CloneFlags, Pdeathsig: syscall.SIGKILL}
	}
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("%v\n%s", err, out)
	}
}

// unpack puts the files of packages into a directory.
func unpack(packages, dir string) error {
	debs, err := filepath.Glob(filepath.Join(packages, "*.deb"))
	if err != nil || len(debs) == 0 {
		return fmt.Errorf("no packages in %s (%v)", packages, err)
	}
	for _, deb := range debs {
		if out, err := exec.Command("dpkg-deb", "-x", deb, dir).CombinedOutput(); err != nil {
			return fmt.Errorf("unpack %s: %w\n%s", deb, err, out)
		}
	}
	return nil
}

// runInMachine runs a page in a Debian system that has the packages, none of them installed.
func runInMachine(t *testing.T, p *Page, tree, packages string) {
	m, err := machine.Start(root+"/.cache/machine", machine.Bind{From: tree, To: "/srv/remsim"}, machine.Bind{From: packages, To: "/srv/packages"})
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Minute)
	defer cancel()
	shell := func() *exec.Cmd {
		env := append([]string{"--default-signal=INT", "-C", "/root"}, environment("TREE=/srv/remsim")...)
		cmd := m.Command(ctx, "env", append(env, bash...)...)
		// What enters the machine on behalf of the shell doesn't end by Ctrl-C either.
		cmd.Args = append([]string{"env", "--ignore-signal=INT", cmd.Path}, cmd.Args[1:]...)
		cmd.Path = "/usr/bin/env"
		return cmd
	}
	err = func() error {
		network := []string{"cp /srv/packages/*.deb /root", "echo " + Quote(hostsFile(p.Hosts())) + ">/etc/hosts"}
		for _, a := range p.Addresses() {
			network = append(network, "ip address replace "+a+" dev lo")
		}
		if _, err := m.Run(ctx, "sh", "-euc", strings.Join(network, "\n")); err != nil {
			return err
		}
		return p.Run(shell, soon)
	}()
	if err := errors.Join(err, m.Close()); err != nil {
		t.Error(err)
	}
}
