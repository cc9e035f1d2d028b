// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !cgo

package pcsc

import (
	"context"
	"strings"
	"testing"

	"remsim/internal/bankd"
)

// A program without PC/SC says so, whatever is asked.
func TestNotBuilt(t *testing.T) {
	_, open := Bank{}.Open(context.Background(), bankd.Slot{})
	watch := Bank{}.Watch(context.Background(), nil)
	_, look := Bank{}.Look(context.Background())
	for what, err := range map[string]error{"Check": Bank{}.Check(bankd.Slot{}), "Open": open, "Watch": watch, "Look": look} {
		if err == nil || !strings.Contains(err.Error(), "built with cgo") {
			t.Errorf("%s: %v", what, err)
		}
	}
}
