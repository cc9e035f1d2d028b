// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"strings"
	"testing"
)

func TestBuiltin(t *testing.T) {
	s, err := Builtin("init")
	if err != nil {
		t.Fatal(err)
	}
	if len(s.Steps) < 80 {
		t.Errorf("%d steps", len(s.Steps))
	}
	if _, err := Builtin("nonsense"); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
}
