// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"slices"
	"strings"
	"testing"
)

// users are the system users that the packages make.
var users = []string{"remsim-server", "remsim-bankd", "remsim-client"}

// TestInstall has a new host from the first installation to a purge: a card in software is mapped and used, all goes on
// when packages are installed anew, and nothing of them is left at the end.
func TestInstall(t *testing.T) {
	t.Parallel()
	h := start(t)
	before := h.files()
	h.apt("install", "/srv/packages/*.deb")

	// There is nothing to serve but the server.
	h.unit("remsim-server", "remsim-server")
	for _, unit := range []string{"remsim-bankd", "remsim-clients"} {
		if got := h.sh("systemctl show --value -p ActiveState -p UnitFileState -p Result " + unit); got != "exec-condition\ninactive\nenabled\n" {
			t.Errorf("%s is %q", unit, got)
		}
		if got := h.sh("journalctl --sync; systemctl status --no-pager --full " + unit + " || :"); !strings.Contains(got, "nothing to serve: ") {
			t.Errorf("the status of %s doesn't say why it isn't running:\n%s", unit, got)
		}
	}
	for _, user := range users {
		got := strings.Fields(h.sh("id -nG " + user + "; getent passwd " + user + " | cut -d: -f7"))
		want := []string{user, "/usr/sbin/nologin"}
		if user == "remsim-client" {
			want = []string{user, "dialout", "plugdev", "/usr/sbin/nologin"}
		}
		slices.Sort(got[:len(got)-1])
		slices.Sort(want[:len(want)-1])
		if !slices.Equal(got, want) {
			t.Errorf("user %s has groups and shell %q, want %q", user, got, want)
		}
	}

	// What README says.
	h.put("/etc/remsim/bankd_pcsc_slots.csv", `"1","0","softsim:iccid=8988211000000000018,imsi=001010000000001"`+"\n")
	h.put("/etc/default/remsim-client-7", "REMSIM_c=7\n")
	h.put("/etc/default/remsim-clients", "CLIENTS_OPTS=\"-i 127.0.0.1 -c 8 --all-slots\"\n")
	h.sh("systemctl start remsim-bankd remsim-clients; systemctl enable --now remsim-client@7; remsim-apitool -m 1 0 23 0")
	h.ask("23", "0")
	const clients = "remsim-client-st2"
	running := map[string]string{"remsim-server": "remsim-server", "remsim-bankd": "remsim-bankd", "remsim-clients": clients, "remsim-client@7": clients}
	pids := map[string]string{}
	for unit, program := range running {
		pids[unit] = h.unit(unit, program)
		if owner := h.sh("stat -c %U /proc/" + pids[unit]); owner != strings.ReplaceAll(program, "-st2", "")+"\n" {
			t.Errorf("%s runs as %s", unit, owner)
		}
	}

	// An upgrade to packages of the same content.
	h.apt("install", "--reinstall", "/srv/packages/*.deb")
	for unit, program := range running {
		if pid := h.unit(unit, program); pid == pids[unit] {
			t.Errorf("%s runs the program that was there before", unit)
		}
	}
	h.eventually("remsim-apitool -s", "ACTIVE")
	h.ask("23", "0")

	// What is removed has stopped, and comes back as it was.
	h.apt("remove", "remsim-server", "remsim-bankd", "remsim-client-st2")
	if got := h.sh("pgrep -l remsim- || :"); got != "" {
		t.Errorf("processes run that have no package: %s", got)
	}
	h.apt("install", "/srv/packages/*.deb")
	for unit, program := range running {
		h.unit(unit, program)
	}
	h.eventually("remsim-apitool -s", "ACTIVE")
	h.ask("23", "0")

	h.apt(append([]string{"purge"}, names...)...)
	if got := h.sh("pgrep -l remsim- || :; systemctl list-units --all --type=service --plain --no-legend '*remsim*'; systemctl --failed --plain --no-legend"); got != "" {
		t.Errorf("there still is %s", got)
	}
	if changed, gone := left(before, h.files()); len(changed)+len(gone) > 0 {
		t.Errorf("after a purge there are other files than before: %q, and gone are %q", changed, gone)
	}
}
