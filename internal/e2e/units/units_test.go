// SPDX-License-Identifier: GPL-2.0-or-later

package units

import (
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"

	"remsim/internal/e2e/rig"
)

// all are the units, and the programs in their journal.
func all() map[string]string {
	return map[string]string{
		"remsim-server.service":   "remsim-server",
		"remsim-bankd.service":    "remsim-bankd",
		"remsim-client@0.service": "remsim-client-st2",
		"remsim-clients.service":  "remsim-client-st2",
	}
}

const softwareCard = `"1","0","softsim:iccid=8988211000000000018,imsi=001010000000001"` + "\n"

// serve starts a server and a bankd with a card in software, and maps that to client 23.
func serve(t *testing.T) {
	t.Helper()
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
	sh(t, "systemctl start remsim-server remsim-bankd; remsim-apitool -m 1 0 23 0")
}

// ask has client 23 read something of its card.
func ask(t *testing.T) {
	t.Helper()
	out, err := host.Run(t.Context(), "sh", "-c", "echo a0a40000023f00 | remsim-client-shell -i 127.0.0.1 -c 23")
	if err != nil || !strings.Contains(out, "R-APDU: 9f") {
		t.Errorf("the card's answer: %q %v", out, err)
	}
}

func TestVerify(t *testing.T) {
	fresh(t)
	for unit := range all() {
		out, err := host.Run(t.Context(), "systemd-analyze", "verify", "--man=no", unit)
		if err != nil || out != "" {
			t.Errorf("%s: %q %v", unit, out, err)
		}
	}
}

// TestExposure has systemd judge how much of the system a unit could do harm to: in tenths, 100 is all.
func TestExposure(t *testing.T) {
	fresh(t)
	for unit, most := range map[string]string{
		"remsim-server.service": "20", "remsim-bankd.service": "30", "remsim-client@0.service": "30", "remsim-clients.service": "30",
	} {
		out, err := host.Run(t.Context(), "systemd-analyze", "security", "--no-pager", "--offline=true", "--threshold="+most, unit)
		if err != nil {
			t.Error(err)
		}
		t.Log(out[strings.LastIndex(out, "→"):])
	}
}

// TestNothingToServe starts the units as they were installed: only the server has something to do.
func TestNothingToServe(t *testing.T) {
	fresh(t)
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", "# none yet\n")
	for unit, why := range map[string]string{
		"remsim-bankd.service":    "nothing to serve: the slots file /etc/remsim/bankd_pcsc_slots.csv has no line",
		"remsim-client@0.service": "nothing to serve: neither /etc/default/remsim-client nor /etc/default/remsim-client-0 sets a variable",
		"remsim-clients.service":  "nothing to serve: /etc/default/remsim-clients doesn't set CLIENTS_OPTS",
	} {
		sh(t, "systemctl start "+unit)
		want(t, unit, "ActiveState=inactive")
		if got := status(t, unit); !strings.Contains(got, ": "+why+"\n") {
			t.Errorf("systemctl status %s lacks %q:\n%s", unit, why, got)
		}
	}
	sh(t, "rm /etc/remsim/bankd_pcsc_slots.csv; systemctl start remsim-bankd")
	want(t, "remsim-bankd.service", "ActiveState=inactive")
	if got, why := status(t, "remsim-bankd"), "there is no slots file, such as /etc/remsim/bankd_pcsc_slots.csv"; !strings.Contains(got, why) {
		t.Errorf("systemctl status lacks %q:\n%s", why, got)
	}
	sh(t, "systemctl start remsim-server")
	want(t, "remsim-server.service", "ActiveState=active", "User=remsim-server")
}

// TestWrongValue has a unit fail once, with one line that says why.
func TestWrongValue(t *testing.T) {
	for _, tt := range []struct{ unit, file, line, why string }{
		{"remsim-server.service", "remsim-server", "SERVER_OPTS=--client-id-pool=2000", `remsim-server: option --client-id-pool: value "2000"`},
		{"remsim-bankd.service", "remsim-bankd", "BANKD_OPTS=-b 1", `remsim-bankd: option -i --server-host`},
		{"remsim-bankd.service", "osmo-remsim-bankd", `BANKD_OPTS="-i 127.0.0.1 -n 5000"`, `remsim-bankd: option -n --num-slots: value "5000": want a number 1..1023`},
		{"remsim-client@0.service", "remsim-client-0", "REMSIM_n=1024", `remsim-client-st2: option -n --client-slot: value "1024": want a number 0..1023`},
		{"remsim-client@0.service", "osmo-remsim-client-0", "REMSIM_H=1 2", `remsim-client-st2: option -H --usb-path: value "1 2"`},
		{"remsim-client@0.service", "remsim-client", "GLOBAL_CLIENT_OPTS=--no-such", `remsim-client-st2: unknown option --no-such`},
		{"remsim-clients.service", "remsim-clients", "CLIENTS_OPTS=--all-slots -n 1", `remsim-client-st2: option --client-slot with --all-slots`},
	} {
		t.Run(tt.file+" "+tt.line, func(t *testing.T) {
			fresh(t)
			put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
			put(t, "/etc/default/"+tt.file, tt.line+"\n")
			begin := now(t)
			if _, err := host.Run(t.Context(), "systemctl", "start", tt.unit); err == nil {
				t.Error("systemctl start doesn't say that it has failed")
			}
			// A restart would come after 2 s, and be in the journal before.
			want(t, tt.unit, "ActiveState=failed", "Result=exit-code", "ExecMainStatus=2", "NRestarts=0")
			if lines := begin.lines(t, all()[tt.unit]); len(lines) != 1 || !strings.HasPrefix(lines[0], tt.why) {
				t.Errorf("its journal: %q, want one line %q", lines, tt.why)
			}
		})
	}
}

// TestLimit has units fail again and again, until that ends.
func TestLimit(t *testing.T) {
	fresh(t)
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", "1,0\n")
	dropIn(t, "remsim-bankd.service", "[Service]\nRestartSec=50ms\n") // 2 s as it stands
	begin := now(t)
	_, _ = host.Run(t.Context(), "systemctl", "start", "remsim-bankd") // which fails the first time
	await(t, "remsim-bankd.service", "ActiveState", "failed")
	want(t, "remsim-bankd.service", "ExecMainStatus=1", "NRestarts=10")
	lines := begin.lines(t, "remsim-bankd")
	if why := "/etc/remsim/bankd_pcsc_slots.csv:1: "; len(lines) != 10 || !strings.Contains(lines[0], why) {
		t.Errorf("its journal: %q, want 10 lines with %q", lines, why)
	}
	for unit := range all() {
		want(t, unit, "StartLimitBurst=10", "StartLimitIntervalUSec=2min", "RestartPreventExitStatus=2", "Type=notify")
	}
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
	sh(t, "systemctl reset-failed remsim-bankd; systemctl start remsim-bankd")
}

// TestUnreadable has a slots file that was for root: that it isn't for the bankd is said.
func TestUnreadable(t *testing.T) {
	fresh(t)
	put(t, "/etc/osmocom/bankd_pcsc_slots.csv", softwareCard)
	sh(t, "chmod 700 /etc/osmocom")
	begin := now(t)
	if _, err := host.Run(t.Context(), "systemctl", "start", "remsim-bankd"); err == nil {
		t.Error("the unit is started")
	}
	if lines := begin.lines(t, "remsim-bankd"); len(lines) == 0 || !strings.Contains(lines[0], "open /etc/osmocom/bankd_pcsc_slots.csv: permission denied") {
		t.Errorf("its journal: %q", lines)
	}
}

// TestKill kills server and bankd: they come back, and the map is there.
func TestKill(t *testing.T) {
	fresh(t)
	serve(t)
	ask(t)
	for _, unit := range []string{"remsim-server.service", "remsim-bankd.service"} {
		pid := show(t, unit, "MainPID")
		sh(t, "kill -KILL "+pid)
		awaitNew(t, unit, pid)
		want(t, unit, "NRestarts=1")
		ask(t)
	}
	owner := sh(t, "stat -c '%U %a' /var/lib/remsim/server /var/lib/remsim/server/state.db /var/lib/remsim")
	if owner != "remsim-server 750\nremsim-server 600\nroot 755\n" {
		t.Errorf("owners and modes of the state: %q", owner)
	}
}

// TestCrash has faults that Go ends a program for with the status of a wrong option: then a restart helps.
func TestCrash(t *testing.T) {
	fresh(t)
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
	put(t, "/etc/default/remsim-client-0", "REMSIM_c=23\n")
	put(t, "/etc/default/remsim-clients", "CLIENTS_OPTS=-c 24 --all-slots\n")
	before := map[string]string{}
	for unit := range all() {
		sh(t, "systemctl start "+unit)
		before[unit] = show(t, unit, "MainPID")
	}
	for _, pid := range before {
		sh(t, "kill -ABRT "+pid)
	}
	for unit, pid := range before {
		awaitNew(t, unit, pid)
		want(t, unit, "NRestarts=1")
	}
}

// TestWatchdog has a program that gives no sign of life.
func TestWatchdog(t *testing.T) {
	fresh(t)
	unit := "remsim-server.service"
	dropIn(t, unit, "[Service]\nWatchdogSec=1\nExecStart=\nExecStart=/usr/bin/env -u WATCHDOG_USEC /usr/bin/remsim-server\n")
	begin := now(t)
	sh(t, "systemctl start "+unit)
	if err := rig.Eventually(soon, "a restart by the watchdog", func() error {
		log := strings.Join(begin.lines(t, "systemd"), "\n")
		if show(t, unit, "NRestarts") == "0" || !strings.Contains(log, "Watchdog timeout") || !strings.Contains(log, "status=6/ABRT") {
			return fmt.Errorf("systemd's journal: %s", log)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	for unit := range all() {
		if !strings.Contains(sh(t, "systemctl cat "+unit), "\nWatchdogSec=2min\n") {
			t.Errorf("%s has no watchdog", unit)
		}
	}
	// Who gives them lives: three of them, which are five seconds apart, take longer than the watchdog waits.
	dropIn(t, unit, "[Service]\nWatchdogSec=12\n")
	sh(t, "systemctl stop "+unit+"; systemctl reset-failed; systemctl start "+unit)
	pid := show(t, unit, "MainPID")
	fed := show(t, unit, "WatchdogTimestampMonotonic")
	for range 3 {
		if err := rig.Eventually(soon, "a sign of life", func() error {
			at := show(t, unit, "WatchdogTimestampMonotonic")
			if at == fed {
				return fmt.Errorf("none since %s", fed)
			}
			fed = at
			return nil
		}); err != nil {
			t.Fatal(err)
		}
	}
	want(t, unit, "ActiveState=active", "MainPID="+pid, "NRestarts=0")
}

// TestStop stops all units while they work: they end in order, by themselves.
func TestStop(t *testing.T) {
	fresh(t)
	serve(t)
	put(t, "/etc/default/remsim-client-0", "REMSIM_c=24\n")
	sh(t, "systemctl start remsim-client@0")
	ask(t)
	units := []string{"remsim-server.service", "remsim-bankd.service", "remsim-client@0.service"}
	begin := now(t)
	sh(t, "systemctl stop "+strings.Join(units, " "))
	log := begin.lines(t, "systemd")
	for i, unit := range units {
		want(t, unit, "ActiveState=inactive")
		if !slices.Contains(log, unit+": Deactivated successfully.") {
			t.Errorf("%s hasn't ended in order: %q", unit, log)
		}
		after := strings.Fields(show(t, unit, "After"))
		for _, before := range append(units[:i:i], "network-online.target") {
			if !slices.Contains(after, before) {
				t.Errorf("%s doesn't end before, and start after, %s", unit, before)
			}
		}
	}
}

// TestLinkLocal has addresses that need the name of an interface.
func TestLinkLocal(t *testing.T) {
	fresh(t)
	sh(t, "ip address replace fe80::1/64 dev lo")
	put(t, "/etc/default/remsim-server", "SERVER_OPTS=--rspro-listen [fe80::1%lo]:9998\n")
	put(t, "/etc/default/remsim-bankd", "BANKD_OPTS=-i fe80::1%lo\n")
	serve(t)
	if err := rig.Eventually(soon, "the bankd at the server", func() error {
		if out := sh(t, "remsim-apitool bank list"); !strings.Contains(out, "B1") {
			return fmt.Errorf("there is %q", out)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
}

// TestReload changes the slots file.
func TestReload(t *testing.T) {
	fresh(t)
	serve(t)
	pid := show(t, "remsim-bankd.service", "MainPID")
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard+strings.Replace(softwareCard, `"0"`, `"1"`, 1))
	sh(t, "systemctl reload remsim-bankd; remsim-apitool -m 1 1 24 0")
	if err := rig.Eventually(soon, "the new slot's card", func() error {
		out, err := host.Run(t.Context(), "sh", "-c", "echo a0a40000023f00 | remsim-client-shell -i 127.0.0.1 -c 24")
		if err != nil || !strings.Contains(out, "R-APDU: 9f") {
			return fmt.Errorf("%q %w", out, err)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", "1,0\n")
	begin := now(t)
	sh(t, "systemctl reload remsim-bankd")
	if err := rig.Eventually(soon, "a word about the bad file", func() error {
		if log := strings.Join(begin.lines(t, "remsim-bankd"), "\n"); !strings.Contains(log, "bankd_pcsc_slots.csv:1: ") {
			return fmt.Errorf("the journal has %q", log)
		}
		return nil
	}); err != nil {
		t.Error(err)
	}
	ask(t)
	want(t, "remsim-bankd.service", "MainPID="+pid, "ActiveState=active")
}

// TestCards has the bankd in its confines use cards of a pcscd that systemd starts for it.
func TestCards(t *testing.T) {
	fresh(t)
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", `"1","0","^Virtual PCD 00 00$"`+"\n")
	sh(t, "systemctl start remsim-server remsim-bankd")
	want(t, "pcscd.socket", "ActiveState=active")
	cards := host.Command(t.Context(), "remsim-simulator", "cards", "--count", "1")
	cards.Stderr = t.Output()
	if err := cards.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() {
		_ = cards.Process.Kill()
		_ = cards.Wait()
	}()
	sh(t, "remsim-apitool -m 1 0 23 0")
	ask(t)
}

// TestAfterC has a host as the C suite leaves it: all goes on by the names and files that are there.
func TestAfterC(t *testing.T) {
	fresh(t)
	put(t, "/etc/osmocom/bankd_pcsc_slots.csv", strings.ReplaceAll(softwareCard, `"1","0"`, `"5","3"`))
	put(t, "/etc/default/osmo-remsim-bankd", "BANKD_OPTS=\"-i 127.0.0.1 -b 5 -n 5\"\n")
	put(t, "/etc/default/osmo-remsim-client", "GLOBAL_CLIENT_OPTS=\"-i 127.0.0.1 -V 1d50 -P 4004 -C 1\"\n")
	for i, path := range []string{"2-1.1", "2-1.1", "2-1.4", "2-1.4"} {
		put(t, fmt.Sprintf("/etc/default/osmo-remsim-client-%d", i),
			fmt.Sprintf("REMSIM_I=%d\nREMSIM_H=%s\nREMSIM_c=0\nREMSIM_n=%d\n", i%2, path, i))
	}
	put(t, "/etc/systemd/system/osmo-remsim-bankd.service.d/override.conf", "[Service]\nEnvironment=FROM_BANKD=1\n")
	put(t, "/etc/systemd/system/osmo-remsim-client@.service.d/override.conf", "[Service]\nEnvironment=FROM_CLIENTS=1\n")
	put(t, "/etc/systemd/system/osmo-remsim-client@2.service.d/more.conf", "[Service]\nEnvironment=FROM_CLIENT=1\n")
	sh(t, `mkdir -p /etc/systemd/system/multi-user.target.wants
		for unit in server.service bankd.service client@1.service client@2.service; do
			ln -s /lib/systemd/system/osmo-remsim-$(echo $unit | sed 's/@[0-9]*/@/') /etc/systemd/system/multi-user.target.wants/osmo-remsim-$unit
		done
		systemctl daemon-reload
		systemctl start multi-user.target`)
	for unit, command := range map[string]string{
		"remsim-server.service": "/usr/bin/remsim-server",
		"remsim-bankd.service":  "/usr/bin/remsim-bankd -i 127.0.0.1 -b 5 -n 5",
		"remsim-client@1.service": "/usr/bin/remsim-client-st2 --keep-running -i 127.0.0.1 -V 1d50 -P 4004 -C 1 " +
			"-H 2-1.1 -I 1 -c 0 -n 1",
		"remsim-client@2.service": "/usr/bin/remsim-client-st2 --keep-running -i 127.0.0.1 -V 1d50 -P 4004 -C 1 " +
			"-H 2-1.4 -I 0 -c 0 -n 2",
	} {
		await(t, unit, "ActiveState", "active")
		want(t, "osmo-"+unit, "Id="+unit, "ActiveState=active")
		if got := commandLine(t, unit); got != command {
			t.Errorf("%s runs %q, want %q", unit, got, command)
		}
	}
	for unit, from := range map[string]string{
		"remsim-bankd.service": "FROM_BANKD=1", "remsim-client@1.service": "FROM_CLIENTS=1", "remsim-client@2.service": "FROM_CLIENT=1",
	} {
		if env := strings.Fields(show(t, unit, "Environment")); !slices.Contains(env, from) {
			t.Errorf("%s: the drop-in of the name before isn't read: %q", unit, env)
		}
	}
	sh(t, "remsim-apitool -m 5 3 23 0")
	ask(t)

	// Our files go before those, by variable.
	put(t, "/etc/default/remsim-client-2", "REMSIM_c=7\n")
	put(t, "/etc/default/remsim-bankd", "BANKD_OPTS=\"-i 127.0.0.1 -b 1\"\n")
	put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
	sh(t, "systemctl restart osmo-remsim-bankd osmo-remsim-client@2; remsim-apitool -d 5 3; remsim-apitool -m 1 0 23 0")
	if got, want := commandLine(t, "remsim-client@2.service"), " -H 2-1.4 -I 0 -c 7 -n 2"; !strings.HasSuffix(got, want) {
		t.Errorf("client 2 runs %q, want %q", got, want)
	}
	ask(t)
}

// TestSamples takes the # off each variable of our files: all of it is right.
func TestSamples(t *testing.T) {
	samples, err := filepath.Glob(root + "/contrib/default/*")
	if err != nil || len(samples) == 0 {
		t.Fatal(err)
	}
	units := map[string]string{
		"remsim-server": "remsim-server.service", "remsim-bankd": "remsim-bankd.service", "remsim-client": "remsim-client@0.service",
		"remsim-client-0": "remsim-client@0.service", "remsim-clients": "remsim-clients.service",
	}
	for _, file := range samples {
		name := filepath.Base(file)
		content, err := os.ReadFile(file)
		if err != nil {
			t.Fatal(err)
		}
		if regexp.MustCompile(`(?m)^[^#\n]`).Match(content) {
			t.Errorf("%s sets something: it would count rather than the C suite's file", name)
		}
		variables := regexp.MustCompile(`(?m)^#([A-Z_]+[a-z]?=.*)$`).FindAllStringSubmatch(string(content), -1)
		if len(variables) == 0 {
			t.Errorf("%s has no variable", name)
		}
		for _, v := range variables {
			t.Run(name+" "+v[1], func(t *testing.T) {
				fresh(t)
				put(t, "/etc/remsim/bankd_pcsc_slots.csv", softwareCard)
				put(t, "/etc/remsim/client-slots.csv", "0, 2-1.1, 0\n")
				put(t, "/etc/default/"+name, v[1]+"\n")
				sh(t, "systemctl start "+units[name])
				want(t, units[name], "ActiveState=active")
			})
		}
	}
}

// TestScripts looks what an event script may do: little, and with the drop-in whatever root may.
func TestScripts(t *testing.T) {
	fresh(t)
	const unit = "remsim-client@0.service"
	put(t, "/etc/default/remsim-client-0", "REMSIM_c=23\n")
	put(t, "/usr/local/bin/look", `
id -nu; id -nG
grep -E '^(CapEff|NoNewPrivs|Seccomp):' /proc/self/status
(: >/etc/remsim/written) 2>/dev/null && echo written
systemctl start remsim-server 2>/dev/null && echo started
`)
	look := func() []string {
		dropIn(t, unit, "[Service]\nType=oneshot\nRestart=no\nSyslogIdentifier=look\nExecStart=\nExecStart=/bin/sh /usr/local/bin/look\n")
		begin := now(t)
		_, _ = host.Run(t.Context(), "systemctl", "start", unit) // ends with the status of what it may not do
		return begin.lines(t, "look")
	}
	confined := []string{"remsim-client", "remsim-client dialout plugdev", "CapEff:\t0000000000000000", "NoNewPrivs:\t1", "Seccomp:\t2"}
	if got := look(); !slices.Equal(got, confined) {
		t.Errorf("in the unit's confines: %q, want %q", got, confined)
	}
	free := []string{"root", "root", strings.TrimSpace(sh(t, "grep CapEff /proc/1/status")), "NoNewPrivs:\t0", "Seccomp:\t0", "written", "started"}
	conf, err := os.ReadFile(root + "/contrib/systemd/event-scripts-as-root.conf")
	if err != nil {
		t.Fatal(err)
	}
	put(t, "/etc/systemd/system/remsim-client@.service.d/event-scripts-as-root.conf", string(conf))
	if got := look(); !slices.Equal(got, free) {
		t.Errorf("with the drop-in: %q, want %q", got, free)
	}

	// Nothing of the confines is left over, and both units have the same.
	settings := func(file string) []string {
		text, err := os.ReadFile(root + "/contrib/systemd/" + file)
		if err != nil {
			t.Fatal(err)
		}
		_, confines, _ := strings.Cut(string(text), "\nCapabilityBoundingSet=")
		confines, _, _ = strings.Cut("CapabilityBoundingSet="+confines, "\n\n")
		return strings.Split(confines, "\n")
	}
	one, many := settings("remsim-client@.service"), settings("remsim-clients.service")
	if !slices.Equal(one, many) {
		t.Errorf("remsim-client@.service has %q, remsim-clients.service %q", one, many)
	}
	for _, s := range one {
		name, _, _ := strings.Cut(s, "=")
		if !strings.Contains(string(conf), "\n"+name+"=") && name != "KeyringMode" && name != "SystemCallErrorNumber" {
			t.Errorf("the drop-in doesn't say %s=", name)
		}
	}
}
