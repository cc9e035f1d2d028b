// SPDX-License-Identifier: GPL-2.0-or-later

package guest

import (
	"fmt"
	"time"
)

// clockOption tells the guest's kernel how fast its time stamp counter runs, which is this computer's. It would measure that
// when it boots, and be wrong by any factor when this computer is busy: its clock would run that much too fast or too slow.
func clockOption() string {
	const measure = 50 * time.Millisecond
	ticks, begin := tsc(), time.Now()
	time.Sleep(measure)
	ticks, took := tsc()-ticks, time.Since(begin)
	if ticks == 0 {
		return ""
	}
	return fmt.Sprintf(" tsc_early_khz=%.0f", float64(ticks)/took.Seconds()/1e3)
}
