// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"testing"

	"remsim/internal/daemon/manualtest"
)

func TestManual(t *testing.T) { manualtest.CheckLibrary(t, command) }
