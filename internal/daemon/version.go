// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"os"
	"strings"
)

const version = "0.2.0"

// maxName is the longest string of an RSPRO identity (RSPRO ComponentName, ComponentVersion:
// IA5String (SIZE (1..32))).
const maxName = 32

// Version returns the program's version, such as "0.2.0" (at most 32 characters: it
// goes into RSPRO identities as swVersion).
func Version() string { return version }

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
