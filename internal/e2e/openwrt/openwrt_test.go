// SPDX-License-Identifier: GPL-2.0-or-later

// Package openwrt checks the packages for OpenWrt in contrib/openwrt as far as a computer without OpenWrt can: with stand-ins
// for its rules, its configuration and its service manager.
package openwrt

import (
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"remsim/internal/daemon"
	"remsim/internal/e2e/rig"
)

const (
	root  = "../../.."
	files = root + "/contrib/openwrt/remsim"
)

// TestSources has the sources of all programs among what go test looks at before it takes a cached result: they are
// built, not imported.
func TestSources(t *testing.T) {
	if err := rig.Sources(root); err != nil {
		t.Error(err)
	}
}

// run runs a program in a directory and returns its output.
func run(t *testing.T, dir, name string, args ...string) string {
	t.Helper()
	cmd := exec.Command(name, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s %q: %v\n%s", name, args, err, out)
	}
	return string(out)
}

// TestMakefile reads the Makefile with stand-ins for OpenWrt's rules: its packages have all their fields, its Go packages are
// programs, and each package installs its program and its service.
func TestMakefile(t *testing.T) {
	top := t.TempDir()
	for from, to := range map[string]string{
		"rules.mk": "rules.mk", "package.mk": "include/package.mk", "golang-package.mk": "feeds/packages/lang/golang/golang-package.mk",
	} {
		b, err := os.ReadFile(filepath.Join("testdata", from))
		if err != nil {
			t.Fatal(err)
		}
		to = filepath.Join(top, to)
		if err := os.MkdirAll(filepath.Dir(to), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(to, b, 0o644); err != nil {
			t.Fatal(err)
		}
	}
	make := func(args ...string) string {
		t.Helper()
		return run(t, files, "make", append([]string{"--no-print-directory", "TOPDIR=" + top}, args...)...)
	}

	version := daemon.Version()
	for config, st2 := range map[string]bool{"CONFIG_PACKAGE_remsim-client-st2=": false, "CONFIG_PACKAGE_remsim-client-st2=y": true} {
		first, programs, _ := strings.Cut(make("show", config), "\n")
		if want := fmt.Sprintf("remsim %s remsim-%s.tar.gz GPL-2.0-or-later", version, version); first != want {
			t.Errorf("it is %q, want %q", first, want)
		}
		names := strings.Fields(programs)
		if slices.Contains(names, "remsim/cmd/remsim-client-st2") != st2 || len(names) < 3 {
			t.Errorf("%s: programs are %q", config, names)
		}
		// As OpenWrt does it: in a directory below that of go.mod.
		for line := range strings.Lines(run(t, root+"/internal/e2e", "go", append([]string{"list", "-f", "{{.Name}}"}, names...)...)) {
			if line != "main\n" {
				t.Errorf("a package is %s", line)
			}
		}
	}

	for name, want := range map[string][]string{
		"remsim-server": {"/etc/config/remsim-server -rw-------", "/etc/init.d/remsim-server -rwxr-xr-x", "/usr/bin/remsim-server -rwxr-xr-x"},
		"remsim-client-st2": {"/etc/config/remsim-client -rw-------", "/etc/init.d/remsim-client -rwxr-xr-x", "/usr/bin/remsim-client-st2 -rwxr-xr-x",
			"/usr/share/remsim/at-cfun -rwxr-xr-x", "/usr/share/remsim/gpio-reset -rwxr-xr-x", "/usr/share/remsim/http-notify -rwxr-xr-x"},
		"remsim-client-shell": {"/usr/bin/remsim-client-shell -rwxr-xr-x"},
		"remsim-apitool":      {"/usr/bin/remsim-apitool -rwxr-xr-x"},
	} {
		shown := make("show-" + name)
		if strings.Contains(shown, "title: \n") {
			t.Errorf("%s has no title", name)
		}
		for _, field := range []string{"section: net/Network/Telephony\n", "depends: @(some architectures)", "description: yes\n"} {
			if !strings.Contains(shown, field) {
				t.Errorf("%s has no %q in\n%s", name, field, shown)
			}
		}
		if strings.Contains(shown, "libusb") != (name == "remsim-client-st2") {
			t.Errorf("%s: libusb: %s", name, shown)
		}
		if err := os.MkdirAll(filepath.Join(top, "bin"), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(filepath.Join(top, "bin", name), nil, 0o644); err != nil {
			t.Fatal(err)
		}
		dest := filepath.Join(top, "root", name)
		make("install-"+name, "DEST="+dest)
		var got []string
		err := filepath.WalkDir(dest, func(path string, d fs.DirEntry, err error) error {
			if err != nil || d.IsDir() {
				return err
			}
			info, err := d.Info()
			if err != nil {
				return err
			}
			file := strings.TrimPrefix(path, dest)
			got = append(got, fmt.Sprint(file, " ", info.Mode()))
			if strings.HasPrefix(file, "/etc/config/") && !strings.Contains(shown, "conffiles: "+file+" ") {
				t.Errorf("%s is no conffile of %s: %s", file, name, shown)
			}
			return nil
		})
		if err != nil {
			t.Fatal(err)
		}
		if !slices.Equal(got, want) {
			t.Errorf("%s installs %q, want %q", name, got, want)
		}
	}
}

// TestServices starts the services with stand-ins for rc.common, UCI and procd, and has the programs judge the options they
// would be started with.
func TestServices(t *testing.T) {
	bin := t.TempDir()
	run(t, root, "go", "build", "-o", bin, "./cmd/remsim-server", "./cmd/remsim-client-st2")
	sample := func(name string) string {
		t.Helper()
		b, err := os.ReadFile(filepath.Join(files, "files", name+".config"))
		if err != nil {
			t.Fatal(err)
		}
		return string(b)
	}
	// on has all that a sample says in comments, too.
	on := func(name string) string {
		text := strings.ReplaceAll(sample(name), "enabled '0'", "enabled '1'")
		text = strings.ReplaceAll(text, "# option", "option")
		return strings.ReplaceAll(text, "# list", "list")
	}
	for _, tt := range []struct{ name, program, config, want string }{
		{"remsim-client", "remsim-client-st2", sample("remsim-client"), "trigger remsim-client"},
		{"remsim-client", "remsim-client-st2", on("remsim-client"), "open modem|/usr/bin/remsim-client-st2 --keep-running --server-ip server.example.org --server-port 9998 " +
			"--client-id 23 --all-slots --event-script /usr/share/remsim/at-cfun_/dev/ttyUSB2 --metrics-listen=127.0.0.1:9102" +
			"|env STATE_DIRECTORY=/etc/remsim|stderr 1|respawn 60 5 10|term_timeout 15|trigger remsim-client"},
		{"remsim-client", "remsim-client-st2", "config client 'a'\n\toption enabled '1'\n\toption client_slot '0'\n\toption usb_path '1-1.2'\n\toption usb_interface '1'\n" +
			"config client 'off'\n\toption enabled '0'\nconfig other 'b'\n\toption enabled '1'\nconfig client 'c'\n\toption enabled 'yes'\n\tlist option '-c'\n\tlist option 'auto'\n",
			"open a|/usr/bin/remsim-client-st2 --keep-running --client-slot 0 --usb-path 1-1.2 --usb-interface 1|stderr 1|respawn 60 5 10|term_timeout 15" +
				"|open c|/usr/bin/remsim-client-st2 --keep-running -c auto|stderr 1|respawn 60 5 10|term_timeout 15|trigger remsim-client"},
		{"remsim-server", "remsim-server", sample("remsim-server"), "trigger remsim-server"},
		{"remsim-server", "remsim-server", on("remsim-server"), "open server|/usr/bin/remsim-server --rspro-listen :9998 --rest-listen 127.0.0.1:9997 --client-id-pool 900-1023 " +
			"--store file:/etc/remsim/state.db --log-level=warning|stderr 1|limits nofile=65536_65536|respawn 60 5 10|term_timeout 15|trigger remsim-server"},
	} {
		dir := t.TempDir()
		if err := os.WriteFile(filepath.Join(dir, tt.name), []byte(tt.config), 0o644); err != nil {
			t.Fatal(err)
		}
		script, err := filepath.Abs(filepath.Join(files, "files", tt.name+".init"))
		if err != nil {
			t.Fatal(err)
		}
		var got []string
		var command []string
		for line := range strings.Lines(run(t, ".", "sh", "testdata/rc.common", script, dir)) {
			words := strings.Split(strings.TrimSuffix(line, "\n"), "\t")
			call, what := words[0], words[min(1, len(words)-1)]
			switch {
			case what == "command":
				if call == "set" {
					command = nil
					got = append(got, "")
				}
				command = append(command, words[2:]...)
			case call == "close":
				// Options that the program doesn't know, or that miss their value, are told before help is.
				run(t, dir, filepath.Join(bin, tt.program), append(slices.Clone(command[1:]), "--help")...)
				for i, w := range command {
					command[i] = strings.ReplaceAll(w, " ", "_")
				}
				got[slices.Index(got, "")] = strings.Join(command, " ")
			case call == "set":
				for i, w := range words {
					words[i] = strings.ReplaceAll(w, " ", "_")
				}
				got = append(got, strings.Join(words[1:], " "))
			default:
				got = append(got, strings.Join(words, " "))
			}
		}
		if got := strings.Join(got, "|"); got != tt.want {
			t.Errorf("%s: tells procd\n%s\nwant\n%s", tt.name, got, tt.want)
		}
	}
}
