// SPDX-License-Identifier: GPL-2.0-or-later

package link

import _ "embed"

// Manual are the sections about the Schedule and about what peers may do in the manuals of
// programs that speak RSPRO.
//
//go:embed manual.md
var Manual string
