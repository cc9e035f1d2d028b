// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"fmt"
	"os"
	"runtime"
	"runtime/debug"
	"strconv"
	"strings"
	"time"
)

const version = "0.2.0"

// source is what the program was built from, "COMMIT SECONDS" or "COMMIT-modified SECONDS", with the time of the commit. The
// Makefile has the linker put it here, and git archive writes it here (.gitattributes); without either, the go command may know.
var source = "$Format:%H %ct$"

// maxName is the longest string of an RSPRO identity (RSPRO ComponentName, ComponentVersion:
// IA5String (SIZE (1..32))).
const maxName = 32

// Version returns the program's version, such as "0.2.0" (at most 32 characters: it
// goes into RSPRO identities as swVersion).
func Version() string { return version }

// versionText is what --version says: a line with name and version, and below it what the program was built from, and by what.
func versionText(name, source string, info *debug.BuildInfo) string {
	commit, date := buildSource(source, info)
	return fmt.Sprintf("%s %s\ncommit: %s\nsource date: %s\nbuilt with: %s %s/%s\n",
		name, Version(), commit, date, runtime.Version(), runtime.GOOS, runtime.GOARCH)
}

// buildSource returns what is known of commit and date, by source or else by the go command; info may be nil.
func buildSource(source string, info *debug.BuildInfo) (commit, date string) {
	commit, date = "unknown", "unknown"
	modified := false
	hash, seconds, ok := strings.Cut(source, " ")
	if n, err := strconv.ParseInt(seconds, 10, 64); ok && err == nil {
		commit, modified = strings.CutSuffix(hash, "-modified")
		date = time.Unix(n, 0).UTC().Format(time.RFC3339)
	} else if info != nil {
		for _, s := range info.Settings {
			switch s.Key {
			case "vcs.revision":
				commit = s.Value
			case "vcs.time":
				date = s.Value
			case "vcs.modified":
				modified = s.Value == "true"
			}
		}
	}
	if modified {
		commit += ", modified"
	}
	return commit, date
}

// HostName returns the host's name for RSPRO identities: IA5, 1..32 characters.
func HostName() string {
	name, err := os.Hostname()
	if err != nil {
		name = ""
	}
	return ia5(name)
}

// ia5 fits a host name into an RSPRO identity: what isn't a printable character of IA5 is
// left out, what is too long cut.
func ia5(name string) string {
	name = strings.Map(func(r rune) rune {
		if r <= ' ' || r >= 0x7f {
			return -1
		}
		return r
	}, name)
	if name == "" {
		return "localhost"
	}
	return name[:min(len(name), maxName)]
}
