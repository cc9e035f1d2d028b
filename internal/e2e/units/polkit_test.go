// SPDX-License-Identifier: GPL-2.0-or-later

package units

import (
	"strings"
	"testing"
)

// policy is what pcscd asks polkit, where it does: for who is logged in at the console only.
const policy = `<?xml version="1.0" encoding="UTF-8"?>
<!DOCTYPE policyconfig PUBLIC "-//freedesktop//DTD PolicyKit Policy Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/PolicyKit/1.0/policyconfig.dtd">
<policyconfig>
  <action id="NAME">
    <message>Use a card</message>
    <defaults><allow_any>no</allow_any><allow_inactive>no</allow_inactive><allow_active>yes</allow_active></defaults>
  </action>
</policyconfig>
`

// TestPolkit has polkit judge whether the bankd may use readers and cards, and others not.
func TestPolkit(t *testing.T) {
	fresh(t)
	serve(t)
	for _, action := range []string{"org.debian.pcsc-lite.access_pcsc", "org.debian.pcsc-lite.access_card", "org.example.other"} {
		put(t, "/usr/share/polkit-1/actions/"+action+".policy", strings.ReplaceAll(policy, "NAME", action))
	}
	sh(t, "systemctl restart polkit")
	for _, tt := range []struct {
		unit, action string
		may          bool
	}{
		{"remsim-bankd.service", "org.debian.pcsc-lite.access_pcsc", true},
		{"remsim-bankd.service", "org.debian.pcsc-lite.access_card", true},
		{"remsim-bankd.service", "org.example.other", false},
		{"remsim-server.service", "org.debian.pcsc-lite.access_card", false},
	} {
		out, err := host.Run(t.Context(), "pkcheck", "--action-id", tt.action, "--process", show(t, tt.unit, "MainPID"))
		if tt.may && err != nil || !tt.may && (err == nil || !strings.Contains(out, "Not authorized")) {
			t.Errorf("%s for %s: %q %v", tt.action, tt.unit, out, err)
		}
	}
}
