// SPDX-License-Identifier: GPL-2.0-or-later

package gsmtap

import _ "embed"

// Manual is the section about traces in the manuals of programs that have Flags.
//
//go:embed manual.md
var Manual string
