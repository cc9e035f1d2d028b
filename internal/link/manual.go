// SPDX-License-Identifier: GPL-2.0-or-later

package link

import _ "embed"

// Manual is the section about the Schedule in the manuals of programs that call others.
//
//go:embed manual.md
var Manual string
