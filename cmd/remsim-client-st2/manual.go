// SPDX-License-Identifier: GPL-2.0-or-later

package main

import _ "embed"

// manual is what the manual page tells besides help and options.
//
//go:embed manual.md
var manual string
