// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !linux

package link

import (
	"net"
	"time"
)

// setUserTimeout does nothing: only Linux has the option.
func setUserTimeout(*net.TCPConn, time.Duration) error { return nil }
