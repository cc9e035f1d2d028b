// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"fmt"
	"os"
	"strings"
)

// A Usage is what a process takes of the computer.
type Usage struct {
	RSS         int // memory that is in RAM, KiB
	Threads     int
	Descriptors int
}

// UsageOf returns what a running process takes. Only inside Run, whose /proc it reads.
func UsageOf(p *Proc) (u Usage, err error) {
	text, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", p.PID()))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(text)) {
		for format, value := range map[string]*int{"VmRSS: %d kB": &u.RSS, "Threads: %d": &u.Threads} {
			_, _ = fmt.Sscanf(line, format, value) // most lines are others
		}
	}
	if u.RSS == 0 || u.Threads == 0 {
		return u, fmt.Errorf("%s has ended", p.Name)
	}
	files, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", p.PID()))
	u.Descriptors = len(files)
	return u, err
}

func (u Usage) String() string {
	return fmt.Sprintf("%.1f MB, %d threads, %d descriptors", float64(u.RSS)/1024, u.Threads, u.Descriptors)
}
