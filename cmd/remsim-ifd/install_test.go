// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// TestInstall builds the bundle and installs it, as make build and make install do.
func TestInstall(t *testing.T) {
	dir := t.TempDir()
	make := func(args ...string) {
		t.Helper()
		run(t, "make", append([]string{"-s", "-C", "../..", "BUNDLE=" + filepath.Join(dir, "bundle"), "DESTDIR=" + dir}, args...)...)
	}
	make("driver")
	make("install-driver")

	const (
		bundle  = "usr/lib/pcsc/drivers/ifd-remsim-client.bundle/Contents"
		library = "usr/lib/pcsc/drivers/serial/libifd_remsim_client.so"
		readers = "etc/reader.conf.d/remsim-client"
		// Where reader files for the C suite's driver look for it.
		libraryOfC = "usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so"
	)
	want := []string{bundle + "/Info.plist", bundle + "/PkgInfo", bundle + "/Linux/libifd_remsim_client.so", library, libraryOfC, readers}
	real, err := os.Stat(filepath.Join(dir, bundle, "Linux/libifd_remsim_client.so"))
	if err != nil {
		t.Fatal(err)
	}
	for _, name := range want {
		s, err := os.Stat(filepath.Join(dir, name))
		if err != nil || s.Mode().Perm() != 0o644 {
			t.Errorf("%v, %v", s, err)
		} else if strings.HasSuffix(name, ".so") && !os.SameFile(s, real) {
			t.Errorf("%s is another file", name)
		}
	}
	if list, err := os.ReadDir(filepath.Join(dir, bundle, "Linux")); err != nil || len(list) != 1 {
		t.Errorf("beside the library there is something else: %v, %v", list, err)
	}

	conf := filepath.Join(dir, readers)
	text, err := os.ReadFile(conf)
	if err != nil || !strings.Contains(string(text), "\n#LIBPATH      /"+library+"\n") {
		t.Errorf("%v, no LIBPATH /%s in\n%s", err, library, text)
	}
	for line := range strings.Lines(string(text)) {
		if !strings.HasPrefix(line, "#") && strings.TrimSpace(line) != "" {
			t.Errorf("%q isn't commented out", line)
		}
	}

	// What is there and isn't ours, or was changed, stays.
	if err := os.WriteFile(conf, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	theirs := filepath.Join(dir, "usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle")
	if err := os.Remove(theirs); err != nil {
		t.Fatal(err)
	}
	if err := os.Mkdir(theirs, 0o755); err != nil {
		t.Fatal(err)
	}
	loaded, err := os.Open(filepath.Join(dir, library))
	if err != nil {
		t.Fatal(err)
	}
	defer loaded.Close()
	before, err := loaded.Stat()
	if err != nil {
		t.Fatal(err)
	}
	make("install-driver")
	if text, err := os.ReadFile(conf); err != nil || string(text) != "mine" {
		t.Errorf("%s is now %q, %v", conf, text, err)
	}
	if list, err := os.ReadDir(theirs); err != nil || len(list) != 0 {
		t.Errorf("%s is now %v, %v", theirs, list, err)
	}
	// A pcscd that runs has the old file.
	if after, err := os.Stat(filepath.Join(dir, library)); err != nil || os.SameFile(before, after) {
		t.Errorf("the library was written to, not replaced: %v", err)
	}

	// A prefix of one's own is all that is written to.
	make("install-driver", "PREFIX=/home/me")
	for _, name := range []string{"home/me/lib/pcsc/drivers/serial/libifd_remsim_client.so", "home/me/etc/reader.conf.d/remsim-client"} {
		if _, err := os.Stat(filepath.Join(dir, name)); err != nil {
			t.Error(err)
		}
	}
	text, err = os.ReadFile(filepath.Join(dir, "home/me/etc/reader.conf.d/remsim-client"))
	if err != nil || !strings.Contains(string(text), "/home/me/lib/pcsc/drivers/serial/libifd_remsim_client.so") {
		t.Errorf("%v, %s", err, text)
	}
}
