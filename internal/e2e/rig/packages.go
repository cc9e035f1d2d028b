// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
)

// Packages has contrib/package build the Debian packages of a tree into dir, compressed as it takes the least time. The
// environment is the present process's with env added; options are dpkg-buildpackage's, such as "-B".
func Packages(tree, dir string, env []string, options ...string) error {
	cmd := exec.Command(filepath.Join(tree, "contrib/package"), append([]string{dir}, options...)...)
	cmd.Env = append(append(os.Environ(), "QUICK=1"), env...)
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w\n%s", cmd, err, out)
	}
	return nil
}
