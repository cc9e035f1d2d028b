// SPDX-License-Identifier: GPL-2.0-or-later

package packages

import (
	"bytes"
	"os"
	"os/exec"
	"path/filepath"
	"testing"

	"remsim/internal/e2e/rig"
)

// TestSameBytes builds all packages once more, elsewhere, from files that are as old as they became when they were copied,
// in another time zone and language, with other permissions, by somebody else than the repository is of: the packages are the same bytes.
func TestSameBytes(t *testing.T) {
	t.Parallel()
	tree := filepath.Join(t.TempDir(), "elsewhere")
	copying := exec.Command("sh", "-euc", `
		umask 077
		mkdir "$1"
		git ls-files -z --cached --others --exclude-standard --deduplicate |
			tar -c --null --files-from=- --ignore-failed-read --warning=no-failed-read | tar -C "$1" -x -m --no-same-permissions
		ln -s "$(git rev-parse --absolute-git-dir)" "$1/.git"`, "copy", tree)
	copying.Dir = root
	if out, err := copying.CombinedOutput(); err != nil {
		t.Fatalf("copy the tree: %v\n%s", err, out)
	}
	env := []string{"TZ=Pacific/Chatham", "LC_ALL=C", "HOME=/dev/null/home", "GIT_TEST_ASSUME_DIFFERENT_OWNER=1"}
	for name, value := range map[string]string{"GOCACHE": "", "GOMODCACHE": "", "GOENV": "", "GOPROXY": "", "GOSUMDB": ""} {
		out, err := exec.Command("go", "env", name).Output()
		if err != nil {
			t.Fatal(err)
		}
		value = string(bytes.TrimSpace(out))
		if name == "GOCACHE" && os.Getenv("REMSIM_FRESH") != "" {
			value = t.TempDir()
		}
		env = append(env, name+"="+value)
	}
	second := t.TempDir()
	if err := rig.Packages(tree, second, env); err != nil {
		t.Fatal(err)
	}
	for _, name := range names {
		one, err := os.ReadFile(deb(t, built, name))
		if err != nil {
			t.Fatal(err)
		}
		other, err := os.ReadFile(deb(t, second, name))
		if err != nil {
			t.Fatal(err)
		}
		if !bytes.Equal(one, other) {
			t.Errorf("%s: the second build has made another package", name)
		}
	}
}
