// SPDX-License-Identifier: GPL-2.0-or-later

package guest

import (
	"fmt"
	"math"
	"time"
)

// clockOption tells the guest's kernel how fast its time stamp counter runs, which is this computer's. It would measure that
// when it boots, and be wrong by any factor when this computer is busy: its clock would run that much too fast or too slow.
func clockOption() string {
	const measure = 50 * time.Millisecond
	ticks, begin := moment()
	time.Sleep(measure)
	more, end := moment()
	ticks, took := more-ticks, end.Sub(begin)
	if ticks == 0 {
		return ""
	}
	return fmt.Sprintf(" tsc_early_khz=%.0f", float64(ticks)/took.Seconds()/1e3)
}

// moment returns what the counter and the clock say at one moment, as nearly as can be had: between looking at the one and at the
// other, others may take the processor away for long.
func moment() (ticks uint64, at time.Time) {
	least := time.Duration(math.MaxInt64)
	for range 100 {
		before := time.Now()
		n := tsc()
		if took := time.Since(before); took < least {
			least, ticks, at = took, n, before.Add(took/2)
		}
	}
	return ticks, at
}
