// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"remsim/internal/e2e/machine"
)

// An oldPackage stands in for one of the C suite's: the same files at the same places, of programs that only wait.
type oldPackage struct {
	name    string
	program bool              // of that name
	unit    string            // without .service
	files   map[string]string // their content, by path
}

func oldUnit(exec, extra string) string {
	return "[Unit]\nDescription=from before\nAfter=network-online.target\nWants=network-online.target\n" +
		"[Service]\nType=simple\nRestart=always\nRestartSec=2\n" + extra + "ExecStart=/usr/bin/" + exec + "\n[Install]\nWantedBy=multi-user.target\n"
}

func oldPackages() []oldPackage {
	client := map[string]string{
		"lib/systemd/system/osmo-remsim-client@.service": oldUnit("osmo-remsim-client-st2 $GLOBAL_CLIENT_OPTS -H ${REMSIM_H} -I ${REMSIM_I} -c ${REMSIM_c} -n ${REMSIM_n}",
			"EnvironmentFile=/etc/default/osmo-remsim-client\nEnvironmentFile=/etc/default/osmo-remsim-client-%i\n"),
		"etc/default/osmo-remsim-client": `GLOBAL_CLIENT_OPTS="-i 127.0.0.1 -V 1d50 -P 4004 -C 1"` + "\n",
	}
	for i, path := range []string{"2-1.1", "2-1.1", "2-1.4", "2-1.4"} {
		client[fmt.Sprintf("etc/default/osmo-remsim-client-%d", i)] = fmt.Sprintf("REMSIM_I=%d\nREMSIM_H=%s\nREMSIM_c=0\nREMSIM_n=%d\n", i%2, path, i)
	}
	const bundle = "usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle/Contents/"
	return []oldPackage{
		{"osmo-remsim-server", true, "osmo-remsim-server", map[string]string{
			"lib/systemd/system/osmo-remsim-server.service": oldUnit("osmo-remsim-server", ""),
		}},
		{"osmo-remsim-bankd", true, "osmo-remsim-bankd", map[string]string{
			"lib/systemd/system/osmo-remsim-bankd.service": oldUnit("osmo-remsim-bankd $BANKD_OPTS",
				"EnvironmentFile=/etc/default/osmo-remsim-bankd\nWorkingDirectory=/etc/osmocom\n"),
			"etc/default/osmo-remsim-bankd": `BANKD_OPTS="-i 127.0.0.1 -n 5"` + "\n",
		}},
		{"osmo-remsim-client-st2", true, "osmo-remsim-client@", client},
		{"osmo-remsim-client-shell", true, "", nil},
		{"osmo-remsim-apitool", true, "", nil},
		{"osmo-remsim-doc", false, "", map[string]string{"usr/share/doc/osmo-remsim-doc/manual.pdf": "manual\n"}},
		{"libifd-osmo-remsim-client0", false, "", map[string]string{
			bundle + "PkgInfo":                       "BNDL????",
			bundle + "Linux/libifd_remsim_client.so": "a driver\n",
			"etc/reader.conf.d/osmo-remsim-client-reader_conf": "#FRIENDLYNAME \"osmo-remsim-client\"\n#DEVICENAME   0:0:192.168.11.10:9998\n" +
				"#LIBPATH      /usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so\n",
		}},
	}
}

// build makes the package in a directory. Its scripts do with its unit what those do that debhelper makes, also the older ones.
func (p oldPackage) build(t *testing.T, dir string) {
	t.Helper()
	tree := t.TempDir()
	put := func(path, content string, mode os.FileMode) {
		t.Helper()
		path = filepath.Join(tree, path)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			t.Fatal(err)
		}
		if err := os.WriteFile(path, []byte(content), mode); err != nil {
			t.Fatal(err)
		}
	}
	put("DEBIAN/control", "Package: "+p.name+"\nVersion: 1.1.3\nArchitecture: all\nMaintainer: nobody <nobody@example.org>\nDescription: from before\n", 0o644)
	if p.program {
		put("usr/bin/"+p.name, "#!/bin/sh\nexec sleep infinity\n", 0o755)
	}
	var conffiles strings.Builder
	for path, content := range p.files {
		put(path, content, 0o644)
		if strings.HasPrefix(path, "etc/") {
			fmt.Fprintf(&conffiles, "/%s\n", path)
		}
	}
	put("DEBIAN/conffiles", conffiles.String(), 0o644)
	if unit := p.unit + ".service"; p.unit != "" {
		postinst, prerm := "", ""
		if !strings.HasSuffix(p.unit, "@") {
			postinst = "if deb-systemd-helper --quiet was-enabled " + unit + "; then deb-systemd-helper enable " + unit + " >/dev/null; fi\n" +
				"systemctl daemon-reload\ndeb-systemd-invoke start " + unit + " || :\n"
			prerm = `if [ "$1" = remove ]; then deb-systemd-invoke stop ` + unit + "; fi\n"
		}
		put("DEBIAN/postinst", "#!/bin/sh\nset -e\ndeb-systemd-helper unmask "+unit+" >/dev/null\n"+postinst+
			"deb-systemd-helper update-state "+unit+" >/dev/null || :\n", 0o755)
		put("DEBIAN/prerm", "#!/bin/sh\nset -e\n"+prerm, 0o755)
		put("DEBIAN/postrm", "#!/bin/sh\nset -e\nsystemctl daemon-reload\nif [ \"$1\" = remove ]; then deb-systemd-helper mask "+unit+" >/dev/null; fi\n"+
			"if [ \"$1\" = purge ]; then deb-systemd-helper purge "+unit+" >/dev/null; deb-systemd-helper unmask "+unit+" >/dev/null; fi\n", 0o755)
	}
	if out, err := exec.Command("dpkg-deb", "--root-owner-group", "--build", "-z1", tree, dir).CombinedOutput(); err != nil {
		t.Fatalf("%s: %v\n%s", p.name, err, out)
	}
}

// fromC boots a machine that the C suite is installed on.
func fromC(t *testing.T) host {
	t.Helper()
	dir := t.TempDir()
	for _, p := range oldPackages() {
		p.build(t, dir)
	}
	h := start(t, machine.Bind{From: dir, To: "/srv/before"})
	h.put("/etc/osmocom/bankd_pcsc_slots.csv", `"1","0","^Virtual PCD 00 00$"`+"\n"+`"1","1","softsim:iccid=8988211000000000026,imsi=001010000000002"`+"\n")
	h.apt("install", "/srv/before/*.deb")
	return h
}

// TestUpgrade installs the packages over those of the C suite, on a host that has its cards, modems and readers set up:
// everything runs on by the same names, and no file of the host's configuration was changed.
func TestUpgrade(t *testing.T) {
	t.Parallel()
	h := fromC(t)
	h.put("/etc/default/osmo-remsim-bankd", `BANKD_OPTS="-i 127.0.0.1 -b 1 -n 2"`+"\n")
	h.put("/etc/reader.conf.d/osmo-remsim-client-reader_conf", "FRIENDLYNAME \"osmo-remsim-client\"\nDEVICENAME   5:0:127.0.0.1:9998\n"+
		"LIBPATH      /usr/lib/pcsc/drivers/libifd-osmo-remsim-client.bundle/Contents/Linux/libifd_remsim_client.so\n")
	h.sh("systemctl enable --now osmo-remsim-client@0 osmo-remsim-client@2; systemctl start pcscd.service")
	units := map[string]string{"osmo-remsim-server": "remsim-server", "osmo-remsim-bankd": "remsim-bankd",
		"osmo-remsim-client@0": "remsim-client-st2", "osmo-remsim-client@2": "remsim-client-st2"}
	for unit := range units {
		h.unit(unit, "sleep")
	}
	before := h.files()

	h.apt("install", "/srv/packages/*.deb")
	after := h.files()
	for path, what := range before {
		switch {
		case !strings.HasPrefix(path, "/etc/") || after[path] == what:
		case slices.Contains([]string{"/etc/passwd", "/etc/group", "/etc/shadow", "/etc/gshadow"}, strings.TrimSuffix(path, " (content)")):
		default:
			t.Errorf("%s was %q, and is %q", path, what, after[path])
		}
	}
	for unit, program := range units {
		h.unit(unit, program)
		h.unit(strings.TrimPrefix(unit, "osmo-"), program)
	}

	if got := h.sh("systemctl show --value -p User remsim-client@0"); got != "remsim-client\n" {
		t.Errorf("clients without event scripts run as user %q", got)
	}

	// A card in a reader, by the commands' names from before.
	cards := h.Command(t.Context(), "remsim-simulator", "cards", "--count", "1")
	cards.Stderr = t.Output()
	if err := cards.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cards.Process.Kill()
		_ = cards.Wait()
	}()
	h.sh("osmo-remsim-apitool -m 1 0 7 0; osmo-remsim-apitool -m 1 1 5 0")
	out := h.sh("echo a0a40000023f00 | osmo-remsim-client-shell -i 127.0.0.1 -c 7 -n 0")
	if !strings.Contains(out, "R-APDU: 9f") {
		t.Errorf("the card's answer: %q", out)
	}
	// And one for all programs of this host, by the reader file.
	h.put("/tmp/slots.csv", `"1","0","^osmo-remsim-client 0"`+"\n")
	h.eventually("remsim-bankd doctor -i 127.0.0.1 -b 1 -n 1 --slots-file /tmp/slots.csv", "3b")

	// A restart of the host begins where this one was.
	h.sh("systemctl stop 'remsim-*'; systemctl start multi-user.target")
	for unit, program := range units {
		h.unit(unit, program)
	}

	// What is left of the C suite goes without harm, and with the new packages all goes.
	h.apt("purge", "osmo-remsim-server", "osmo-remsim-bankd", "osmo-remsim-client-st2", "libifd-osmo-remsim-client0")
	if got := h.sh("systemctl is-enabled remsim-server remsim-bankd"); got != "enabled\nenabled\n" {
		t.Errorf("the units are %q when the C suite's packages have been purged", got)
	}
	h.unit("remsim-server", "remsim-server")
	h.apt(append([]string{"purge"}, names...)...)
	if got := h.sh("find /etc /lib/systemd /usr /var/lib -xdev -name '*remsim*' ! -path '/var/lib/apt/*'"); got != "" {
		t.Errorf("there still is %s", got)
	}
}

// TestUpgradeDisabled installs the packages on a host whose operator has disabled the C suite's units: they stay so. Event
// scripts of clients go on to be root's.
func TestUpgradeDisabled(t *testing.T) {
	t.Parallel()
	h := fromC(t)
	h.sh("systemctl disable --now osmo-remsim-server osmo-remsim-bankd")
	h.put("/etc/default/osmo-remsim-client", `GLOBAL_CLIENT_OPTS="-i 127.0.0.1 -e '/usr/local/bin/switch 1'"`+"\n")
	h.apt("install", "/srv/packages/*.deb")
	if got := h.sh("systemctl is-enabled remsim-server remsim-bankd || :; pgrep -l ^remsim- || :"); got != "disabled\ndisabled\n" {
		t.Errorf("%q", got)
	}
	if got := h.sh("systemctl show --value -p User remsim-client@0"); got != "root\n" {
		t.Errorf("clients with event scripts run as user %q", got)
	}
}
