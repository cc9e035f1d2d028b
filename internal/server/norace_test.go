// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !race

package server

const slowness = 1
