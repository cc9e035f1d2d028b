// SPDX-License-Identifier: GPL-2.0-or-later

//go:build race

package server

// slowness is what tests that go through seeds in one goroutine, where there is no race, divide their number by.
const slowness = 4
