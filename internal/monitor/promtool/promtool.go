// SPDX-License-Identifier: GPL-2.0-or-later

// Package promtool has figures and rules judged by Prometheus' own tool, in tests.
package promtool

import (
	"bytes"
	"os/exec"
	"path/filepath"
	"testing"
)

// Run runs promtool in a directory with an input, and fails the test when it finds something wrong. root is the root of the
// sources, where contrib/install-deps puts it if it isn't installed.
func Run(t *testing.T, root, dir string, input []byte, args ...string) {
	t.Helper()
	path, err := exec.LookPath("promtool")
	if err != nil {
		if path, err = filepath.Abs(filepath.Join(root, ".cache/promtool")); err != nil {
			t.Fatal(err)
		}
	}
	cmd := exec.CommandContext(t.Context(), path, args...)
	cmd.Dir, cmd.Stdin = dir, bytes.NewReader(input)
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Errorf("promtool %q (contrib/install-deps test gets it): %v\n%s", args, err, out)
	}
}

// CheckMetrics has promtool look at what a program shows.
func CheckMetrics(t *testing.T, root string, figures []byte) {
	t.Helper()
	Run(t, root, "", figures, "check", "metrics")
}
