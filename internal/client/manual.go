// SPDX-License-Identifier: GPL-2.0-or-later

package client

import _ "embed"

// Manual are the sections about event scripts and assigned client ids in the manuals of programs
// that have Config.Flags.
//
//go:embed manual.md
var Manual string
