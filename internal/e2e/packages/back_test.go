// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"strings"
	"testing"
)

// TestBack goes from the C suite to these packages, back, and here again: each time everything runs on.
func TestBack(t *testing.T) {
	t.Parallel()
	h := fromC(t)
	h.put("/etc/default/osmo-remsim-client-modem7", "REMSIM_I=0\nREMSIM_H=2-1.1\nREMSIM_c=0\nREMSIM_n=0\n")
	h.sh("systemctl enable --now osmo-remsim-client@modem7")
	units := map[string]string{"osmo-remsim-server": "remsim-server", "osmo-remsim-bankd": "remsim-bankd",
		"osmo-remsim-client@modem7": "remsim-client-st2"}
	for range 2 {
		h.apt("install", "/srv/packages/*.deb")
		for unit, program := range units {
			h.unit(unit, program)
			h.unit(strings.TrimPrefix(unit, "osmo-"), program)
		}
		h.apt("install", "/srv/before/*.deb")
		if got := h.sh("pgrep -l ^remsim- || :"); got != "" {
			t.Errorf("processes run that have no package: %s", got)
		}
		h.sh("systemctl start multi-user.target")
		for unit := range units {
			if !strings.Contains(unit, "@") {
				h.unit(unit, "sleep")
			}
		}
	}
}

// TestOwnUnits installs the packages on a host whose operator has units of the C suite's names: those go on to run the
// programs, and no other does beside them.
func TestOwnUnits(t *testing.T) {
	t.Parallel()
	h := fromC(t)
	for unit, content := range map[string]string{
		"server":  oldUnit("osmo-remsim-server", ""),
		"bankd":   oldUnit("osmo-remsim-bankd -i 127.0.0.1 -b 1 -n 2", "WorkingDirectory=/etc/osmocom\n"),
		"client@": oldUnit("osmo-remsim-client-st2 -k -i 127.0.0.1 -c 3 -n %i", ""),
	} {
		h.put("/etc/systemd/system/osmo-remsim-"+unit+".service", content)
	}
	h.sh("systemctl daemon-reload; systemctl restart osmo-remsim-server osmo-remsim-bankd; systemctl enable --now osmo-remsim-client@7")
	h.apt("install", "/srv/packages/*.deb")
	units := map[string]string{"osmo-remsim-server": "remsim-server", "osmo-remsim-bankd": "remsim-bankd", "osmo-remsim-client@7": "remsim-client-st2"}
	pids := map[string]string{}
	check := func(when string) {
		t.Helper()
		for unit, program := range units {
			pid := h.unit(unit, program)
			if pid == pids[unit] {
				t.Errorf("%s: %s runs the program that was there before", when, unit)
			}
			pids[unit] = pid
		}
		if got := h.sh("systemctl is-enabled remsim-server remsim-bankd || :; systemctl --plain --no-legend list-units --state active,failed 'remsim-*'"); got != "disabled\ndisabled\n" {
			t.Errorf("%s the packages' own units are %q", when, got)
		}
	}
	check("after the installation")
	h.apt("install", "--reinstall", "/srv/packages/*.deb")
	check("after an upgrade")
	h.sh("systemctl stop 'osmo-remsim-*'; systemctl start multi-user.target")
	check("after a restart")
	h.sh("osmo-remsim-apitool -m 1 1 5 0")
	h.ask("5", "0")

	h.apt(append([]string{"purge"}, names...)...)
	if got := h.sh("pgrep -l remsim || :; ls /etc/systemd/system/osmo-remsim-*"); got != "/etc/systemd/system/osmo-remsim-bankd.service\n"+
		"/etc/systemd/system/osmo-remsim-client@.service\n/etc/systemd/system/osmo-remsim-server.service\n" {
		t.Errorf("after a purge there are %q, want the operator's units", got)
	}
}
