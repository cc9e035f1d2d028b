// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"runtime"
	"runtime/debug"
	"testing"
)

// What a program was built from comes from the linker or git archive, from the go command, or isn't known.
func TestVersionText(t *testing.T) {
	vcs := func(modified string) *debug.BuildInfo {
		return &debug.BuildInfo{Settings: []debug.BuildSetting{
			{Key: "vcs", Value: "git"}, {Key: "vcs.revision", Value: "5eed"}, {Key: "vcs.time", Value: "2026-11-20T08:00:00Z"},
			{Key: "vcs.modified", Value: modified},
		}}
	}
	for _, tt := range []struct {
		source       string
		info         *debug.BuildInfo
		commit, date string
	}{
		{"0123abcd 1795321347", vcs("true"), "0123abcd", "2026-11-22T04:22:27Z"},
		{"0123abcd-modified 1795321347", nil, "0123abcd, modified", "2026-11-22T04:22:27Z"},
		{"unknown 1795321347", nil, "unknown", "2026-11-22T04:22:27Z"},
		{"$Format:%H %ct$", vcs("false"), "5eed", "2026-11-20T08:00:00Z"},
		{"$Format:%H %ct$", vcs("true"), "5eed, modified", "2026-11-20T08:00:00Z"},
		{"$Format:%H %ct$", &debug.BuildInfo{}, "unknown", "unknown"},
		{"$Format:%H %ct$", nil, "unknown", "unknown"},
	} {
		want := "remsim-test " + version + "\ncommit: " + tt.commit + "\nsource date: " + tt.date +
			"\nbuilt with: " + runtime.Version() + " " + runtime.GOOS + "/" + runtime.GOARCH + "\n"
		if got := versionText("remsim-test", tt.source, tt.info); got != want {
			t.Errorf("%q: %q, want %q", tt.source, got, want)
		}
	}
}
