// SPDX-License-Identifier: GPL-2.0-or-later

package guest

// tsc reads the processor's time stamp counter.
func tsc() uint64
