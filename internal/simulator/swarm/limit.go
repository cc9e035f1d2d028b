// SPDX-License-Identifier: GPL-2.0-or-later

package swarm

import (
	"fmt"
	"syscall"
)

// needDescriptors has the process have so many descriptors at least. Beyond the hard limit only who may (CAP_SYS_RESOURCE) gets them.
func needDescriptors(n int) error {
	var l syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &l); err != nil {
		return fmt.Errorf("swarm: descriptor limit: %w", err)
	}
	if l.Cur >= uint64(n) {
		return nil
	}
	want := syscall.Rlimit{Cur: uint64(n), Max: max(l.Max, uint64(n))}
	if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &want); err != nil {
		return fmt.Errorf("swarm: that many peers take %d descriptors, of which this process may have %d: raise it with \"ulimit -Hn %d\" as root (%w)", n, l.Max, n, err)
	}
	return nil
}
