// SPDX-License-Identifier: GPL-2.0-or-later

package monitor

import (
	"flag"
	"fmt"
	"os"
	"regexp"
	"slices"
	"strings"
	"testing"

	"remsim/internal/monitor/promtool"
)

var write = flag.Bool("write", false, "write the tables of doc/metrics.md")

// rows returns the lines of doc/metrics.md about metrics, and their names.
func rows[S any](metrics []metric[S]) (lines, names []string) {
	for _, m := range metrics {
		labels := "–"
		if len(m.labels) > 0 {
			labels = "`" + strings.Join(m.labels, "`, `") + "`"
		}
		lines = append(lines, fmt.Sprintf("| `%s` | %v | %s | %s |", m.name, m.kind, labels, m.help))
		names = append(names, m.name)
	}
	return lines, names
}

// reference returns the tables of doc/metrics.md, and the names that are in it.
func reference() (text string, names []string) {
	var b strings.Builder
	add := func(title string, lines, of []string) {
		fmt.Fprintf(&b, "\n## %s\n\n| name | type | labels | what it is |\n| --- | --- | --- | --- |\n%s\n", title, strings.Join(lines, "\n"))
		names = append(names, of...)
	}
	lines, of := rows(buildMetrics(""))
	add("All programs", lines, of)
	lines, of = rows(serverMetrics())
	requests, _ := rows([]metric[struct{}]{{name: requestName, help: requestHelp, labels: requestLabels(), kind: histogram}})
	add("Server", append(lines, requests...), append(of, requestName))
	lines, of = rows(bankdMetrics())
	add("Bankd", lines, of)
	lines, of = rows(clientMetrics())
	add("Clients", lines, of)
	return b.String(), names
}

const (
	document = "../../doc/metrics.md"
	marker   = "<!-- go test ./internal/monitor -write -->\n"
)

// doc/metrics.md has each metric with what it is.
func TestDocument(t *testing.T) {
	file, err := os.ReadFile(document)
	if err != nil {
		t.Fatal(err)
	}
	head, _, ok := strings.Cut(string(file), marker)
	if !ok {
		t.Fatalf("%s has no line %s", document, marker)
	}
	tables, _ := reference()
	want := head + marker + tables
	switch {
	case want == string(file):
	case *write:
		if err := os.WriteFile(document, []byte(want), 0o644); err != nil {
			t.Error(err)
		}
	default:
		t.Errorf("%s isn't up to date: run go test ./internal/monitor -write", document)
	}
}

// Names are as Prometheus wants them: a prefix, base units, _total for counters and for nothing else.
func TestNames(t *testing.T) {
	_, names := reference()
	slices.Sort(names)
	if n := len(slices.Compact(slices.Clone(names))); n != len(names) {
		t.Errorf("a name is there twice in %q", names)
	}
	check := func(name string, k kind, help string) {
		if !regexp.MustCompile(`^remsim_[a-z][a-z_]*$`).MatchString(name) {
			t.Errorf("name %s", name)
		}
		if strings.HasSuffix(name, "_total") != (k == counter) || strings.HasSuffix(name, "_seconds") != (k == histogram) {
			t.Errorf("%s is a %v", name, k)
		}
		if !strings.HasSuffix(help, ".") || len(help) < 20 {
			t.Errorf("%s: %q says too little", name, help)
		}
	}
	for _, m := range serverMetrics() {
		check(m.name, m.kind, m.help)
	}
	for _, m := range bankdMetrics() {
		check(m.name, m.kind, m.help)
	}
	for _, m := range clientMetrics() {
		check(m.name, m.kind, m.help)
	}
}

// Whatever board and alerts name is there, and the board shows all there is.
func TestContrib(t *testing.T) {
	_, names := reference()
	shown := map[string]bool{}
	for _, path := range []string{"../../contrib/grafana/remsim.json", "../../contrib/prometheus/remsim.rules.yml", "../../contrib/prometheus/remsim.rules.test.yml"} {
		file, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		found := regexp.MustCompile(`\bremsim_[a-z_]+`).FindAllString(string(file), -1)
		if len(found) == 0 {
			t.Errorf("%s names no metric", path)
		}
		for _, name := range found {
			base := regexp.MustCompile(`_seconds_(bucket|sum|count)$`).ReplaceAllString(name, "_seconds")
			if !slices.Contains(names, base) {
				t.Errorf("%s: there is no %s", path, name)
			}
			if strings.HasSuffix(path, ".json") {
				shown[base] = true
			}
		}
	}
	for _, name := range names {
		if !shown[name] {
			t.Errorf("the board doesn't show %s", name)
		}
	}
}

// The alerts are right in form, fire when they should, and only then.
func TestRules(t *testing.T) {
	for _, args := range [][]string{{"check", "rules", "remsim.rules.yml"}, {"test", "rules", "remsim.rules.test.yml"}} {
		promtool.Run(t, "../..", "../../contrib/prometheus", nil, args...)
	}
	rules, err := os.ReadFile("../../contrib/prometheus/remsim.rules.yml")
	if err != nil {
		t.Fatal(err)
	}
	tests, err := os.ReadFile("../../contrib/prometheus/remsim.rules.test.yml")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range regexp.MustCompile(`alert: (\w+)`).FindAllStringSubmatch(string(rules), -1) {
		fires := regexp.MustCompile(`alertname: ` + m[1] + `\n\s+exp_alerts:`)
		if !fires.Match(tests) || !strings.Contains(string(tests), "alertname: "+m[1]+"}") {
			t.Errorf("alert %s isn't tested to fire and not to", m[1])
		}
	}
}
