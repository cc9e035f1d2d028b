// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"bytes"
	"debug/elf"
	"encoding/json"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"remsim/internal/daemon"
)

// unpack returns a directory with the files of a package.
func unpack(t *testing.T, name string) string {
	t.Helper()
	dir := t.TempDir()
	if out, err := exec.Command("dpkg-deb", "-x", deb(t, built, name), dir).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", name, err, out)
	}
	return dir
}

// TestContent looks for what each package has to have, and for what the C suite has under other names.
func TestContent(t *testing.T) {
	t.Parallel()
	content := map[string][]string{
		"remsim-server": {"etc/default/remsim-server", "lib/systemd/system/remsim-server.service",
			"lib/systemd/system/osmo-remsim-server.service>remsim-server.service", "usr/lib/sysusers.d/remsim-server.conf"},
		"remsim-bankd": {"etc/default/remsim-bankd", "etc/remsim/", "lib/systemd/system/remsim-bankd.service",
			"lib/systemd/system/osmo-remsim-bankd.service>remsim-bankd.service", "usr/lib/sysusers.d/remsim-bankd.conf"},
		"remsim-client-st2": {"etc/default/remsim-client", "etc/default/remsim-client-0", "etc/default/remsim-clients",
			"lib/systemd/system/remsim-client@.service", "lib/systemd/system/remsim-clients.service",
			"lib/systemd/system/osmo-remsim-client@.service>remsim-client@.service", "lib/udev/rules.d/60-remsim.rules",
			"usr/lib/sysusers.d/remsim-client-st2.conf", "usr/share/doc/remsim-client-st2/examples/at-cfun"},
		"remsim-client-shell": {}, "remsim-apitool": {}, "remsim-simulator": {},
		"libifd-remsim-client": {"etc/reader.conf.d/remsim-client", "usr/share/man/man8/remsim-ifd.8.gz",
			"usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents/Info.plist",
			"usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents/PkgInfo",
			"usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so",
			"usr/lib/pcsc/drivers/serial/libifd_remsim_client.so>../ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so",
			"usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so>" +
				"../../../ifd-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so"},
		"remsim-doc": {"usr/share/doc/remsim-doc/remsim.html", "usr/share/doc/remsim-doc/remsim.pdf",
			"usr/share/doc/remsim-doc/README.md", "usr/share/doc/remsim-doc/doc/programs.md"},
	}
	for _, name := range names {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			dir := unpack(t, name)
			want := append(content[name], "usr/share/doc/"+name+"/copyright", "usr/share/doc/"+name+"/changelog.gz")
			if section, ok := map[string]string{"remsim-server": "8", "remsim-bankd": "8", "remsim-client-st2": "1",
				"remsim-client-shell": "1", "remsim-apitool": "1", "remsim-simulator": "1"}[name]; ok {
				page := name + "." + section + ".gz"
				want = append(want, "usr/bin/"+name, "usr/share/man/man"+section+"/"+page,
					"usr/share/bash-completion/completions/"+name, "usr/share/zsh/vendor-completions/_"+name,
					"usr/share/fish/vendor_completions.d/"+name+".fish")
				if name != "remsim-simulator" {
					want = append(want, "usr/bin/osmo-"+name+">"+name, "usr/share/man/man"+section+"/osmo-"+page+">"+page)
				}
			}
			for _, w := range want {
				path, target, isLink := strings.Cut(w, ">")
				at, err := os.Lstat(filepath.Join(dir, path))
				if err != nil {
					t.Errorf("%s lacks %s: %v", name, path, err)
					continue
				}
				if got, _ := os.Readlink(filepath.Join(dir, path)); isLink && got != target {
					t.Errorf("%s: %s is a link to %q, want %q", name, path, got, target)
				}
				if strings.HasSuffix(path, "/") != at.IsDir() {
					t.Errorf("%s: %s is %v", name, path, at.Mode())
				}
			}
			harden(t, dir)
		})
	}
}

// TestLinks follows the links of the documents in remsim-doc to other files: the package has them, and an HTML page the place in it.
func TestLinks(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(unpack(t, "remsim-doc"), "usr/share/doc/remsim-doc")
	links := 0
	for _, pattern := range []string{"*.md", "doc/*.md"} {
		pages, err := filepath.Glob(filepath.Join(dir, pattern))
		if err != nil || len(pages) == 0 {
			t.Fatalf("%s: %q %v", pattern, pages, err)
		}
		for _, page := range pages {
			text, err := os.ReadFile(page)
			if err != nil {
				t.Fatal(err)
			}
			for _, m := range regexp.MustCompile(`\]\(([^)\s#]+)(#[^)\s]*)?\)`).FindAllStringSubmatch(string(text), -1) {
				if strings.Contains(m[1], "://") {
					continue
				}
				links++
				target, err := os.ReadFile(filepath.Join(filepath.Dir(page), m[1]))
				if err == nil && strings.HasSuffix(m[1], ".html") && m[2] != "" && !bytes.Contains(target, []byte(`id="`+m[2][1:]+`"`)) {
					err = errors.New("no such place in it")
				}
				if err != nil {
					t.Errorf("%s links to %s%s: %v", filepath.Base(page), m[1], m[2], err)
				}
			}
		}
	}
	if links < 10 {
		t.Errorf("%d links: they aren't found", links)
	}
}

// harden wants every program and library below dir to be position independent, with nothing to be written once it
// is loaded, and nothing that is both written and run.
func harden(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil || !d.Type().IsRegular() {
			return err
		}
		f, err := elf.Open(path)
		if err != nil {
			return nil // not a program
		}
		defer f.Close()
		var relro, stack bool
		for _, p := range f.Progs {
			relro = relro || p.Type == elf.PT_GNU_RELRO
			stack = stack || p.Type == elf.PT_GNU_STACK && p.Flags&elf.PF_X != 0
		}
		flags, err := f.DynValue(elf.DT_FLAGS)
		if err != nil {
			return err
		}
		now := len(flags) > 0 && elf.DynFlag(flags[0])&elf.DF_BIND_NOW != 0
		if f.Type != elf.ET_DYN || !relro || !now || stack {
			t.Errorf("%s: type %v, relro %t, bind now %t, executable stack %t", path, f.Type, relro, now, stack)
		}
		return nil
	})
	if err != nil {
		t.Error(err)
	}
}

// TestLintian has Debian's own tool judge the packages. They are not for Debian's archive, so no bug is closed by
// them, and no software centre looks for what has to do with a device.
func TestLintian(t *testing.T) {
	t.Parallel()
	changes, err := filepath.Glob(filepath.Join(built, "*.changes"))
	if err != nil || len(changes) != 1 {
		t.Fatalf("%q %v, want one file", changes, err)
	}
	lintian := exec.Command("lintian", "--allow-root", "--fail-on=error,warning", "--tag-display-limit=0",
		"--suppress-tags=initial-upload-closes-no-bugs,appstream-metadata-missing-modalias-provide", changes[0])
	lintian.Env = append(os.Environ(), "TMPDIR="+t.TempDir()) // it leaves some files there
	out, err := lintian.CombinedOutput()
	if err != nil || len(bytes.TrimSpace(out)) > 0 {
		t.Errorf("lintian: %v\n%s", err, out)
	}
}

// TestReaders has pcscd bring the driver of common readers, as it does where no package says that it is a driver in its
// place, and a bankd's host have both.
func TestReaders(t *testing.T) {
	t.Parallel()
	for name, want := range map[string]string{"libifd-remsim-client": "Provides: libifd-osmo-remsim-client0\n",
		"remsim-bankd": "Recommends: libccid, pcscd\n"} {
		out, err := exec.Command("dpkg-deb", "-f", deb(t, built, name), "Provides", "Recommends").Output()
		if err != nil || !strings.Contains(string(out), want) {
			t.Errorf("%s has %q (%v), want %q", name, out, err, want)
		}
	}
}

// TestVersion compares the packages' version with the programs'.
func TestVersion(t *testing.T) {
	t.Parallel()
	for _, name := range names {
		out, err := exec.Command("dpkg-deb", "-f", deb(t, built, name), "Version").Output()
		if version := strings.TrimSpace(string(out)); err != nil || !strings.HasPrefix(version, daemon.Version()+"-") {
			t.Errorf("%s is %q (%v), its programs %s", name, version, err, daemon.Version())
		}
	}
}

// TestCopyright looks for the licence of each module that go.mod names, and of Go itself, in debian/copyright.
func TestCopyright(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(unpack(t, "remsim-server"), "usr/share/doc/remsim-server/copyright"))
	if err != nil {
		t.Fatal(err)
	}
	if !bytes.Contains(text, []byte("conveyed under version 3")) && !regexp.MustCompile(`conveyed\s+under\s+version\s+3`).Match(text) {
		t.Error("it doesn't say under which version of the GPL programs are conveyed")
	}
	of := map[string]string{} // licences by files
	var texts []string        // licences whose text is there
	for stanza := range strings.SplitSeq(string(text), "\n\n") {
		license := regexp.MustCompile(`(?m)^License: (.*)`).FindStringSubmatch(stanza)
		if license == nil {
			t.Errorf("no licence in\n%s", stanza)
			continue
		}
		files := regexp.MustCompile(`(?ms)^Files:(.*?)^Copyright: \S`).FindStringSubmatch(stanza)
		if files == nil {
			texts = append(texts, license[1])
			continue
		}
		for _, f := range strings.Fields(files[1]) {
			of[f] = license[1]
		}
	}
	out, err := exec.Command("go", "mod", "edit", "-json", filepath.Join(root, "go.mod")).Output()
	if err != nil {
		t.Fatal(err)
	}
	var mod struct{ Require []struct{ Path string } }
	if err := json.Unmarshal(out, &mod); err != nil || len(mod.Require) == 0 {
		t.Fatalf("go.mod: %v, %d modules", err, len(mod.Require))
	}
	named := map[string]bool{"*": true, "vendor/std/*": true, // and what a module has of others:
		"vendor/github.com/prometheus/client_golang/internal/github.com/golang/gddo/*":   true,
		"vendor/github.com/prometheus/client_golang/prometheus/internal/almost_equal.go": true}
	for _, m := range mod.Require {
		named["vendor/"+m.Path+"/*"] = true
	}
	for files := range named {
		if of[files] == "" {
			t.Errorf("debian/copyright has no licence of %s", files)
		}
	}
	for files, license := range of {
		if !named[files] {
			t.Errorf("debian/copyright has %s, which go.mod doesn't name", files)
		}
		for l := range strings.SplitSeq(license, " and ") {
			if !slices.Contains(texts, l) {
				t.Errorf("debian/copyright: %s: no text of licence %s", files, l)
			}
		}
	}
}

// TestHolders looks for everybody in debian/copyright whom a file of a module names that is compiled into a program.
func TestHolders(t *testing.T) {
	t.Parallel()
	text, err := os.ReadFile(filepath.Join(root, "debian/copyright"))
	if err != nil {
		t.Fatal(err)
	}
	holders := map[string]string{} // who is named by files, below a directory
	for stanza := range strings.SplitSeq(strings.ToLower(string(text)), "\n\n") {
		files, rest, _ := strings.Cut(stanza, "\ncopyright:")
		for _, f := range strings.Fields(strings.TrimPrefix(files, "files:")) {
			if dir, ok := strings.CutPrefix(f, "vendor/"); ok {
				holders[strings.TrimSuffix(dir, "*")], _, _ = strings.Cut(rest, "\nlicense:")
			}
		}
	}
	list := exec.Command("go", "list", "-deps", "-f",
		"{{with .Module}}{{if not .Main}}{{range $.GoFiles}}{{$.ImportPath}}/{{.}} {{$.Dir}}/{{.}}\n{{end}}{{end}}{{end}}"+
			"{{with .Module}}{{if not .Main}}{{range $.CgoFiles}}{{$.ImportPath}}/{{.}} {{$.Dir}}/{{.}}\n{{end}}{{end}}{{end}}", "./cmd/...")
	list.Dir = root
	out, err := list.Output()
	if err != nil {
		t.Fatal(err)
	}
	notice := regexp.MustCompile(`(?m)^[/*\s]*copyright (?:\(c\) )?[\d, -]+ (.*?)\.?\s*(?:all rights? reserved\.?)?$`)
	found := 0
	for line := range strings.Lines(string(out)) {
		name, file, ok := strings.Cut(strings.TrimSpace(line), " ")
		if !ok {
			continue
		}
		source, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		var by string // of the stanza that says most of where the file is
		var most int
		for dir, who := range holders {
			if strings.HasPrefix(strings.ToLower(name), dir) && len(dir) > most {
				by, most = who, len(dir)
			}
		}
		header, _, _ := bytes.Cut(bytes.ToLower(source), []byte("\nimport "))
		for _, m := range notice.FindAllSubmatch(header, -1) {
			found++
			if who := string(m[1]); !strings.Contains(by, who) {
				t.Errorf("debian/copyright doesn't name %q, who wrote %s", who, name)
			}
		}
	}
	if found < 100 {
		t.Errorf("only %d notices were found", found)
	}
}
