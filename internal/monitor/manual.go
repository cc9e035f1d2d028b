// SPDX-License-Identifier: GPL-2.0-or-later

package monitor

import _ "embed"

// Manual is what the manuals of programs tell of being watched.
//
//go:embed manual.md
var Manual string
