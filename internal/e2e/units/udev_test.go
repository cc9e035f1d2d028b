// SPDX-License-Identifier: GPL-2.0-or-later

package units

import (
	"fmt"
	"strings"
	"testing"
)

// device has udev say, in a namespace with a /sys that has a USB device with this vendor and product, what it would do.
const device = `
vendor=$1 product=$2 type=$3
mount -t tmpfs tmpfs /sys
d=/sys/devices/pci0000:00/0000:00:14.0/usb1/1-1
mkdir -p $d /sys/bus/usb/devices
ln -s /sys/bus/usb $d/subsystem
ln -s $d /sys/bus/usb/devices/1-1
echo $vendor >$d/idVendor
echo $product >$d/idProduct
printf 'MAJOR=189\nMINOR=1\nDEVNAME=bus/usb/001/002\nDEVTYPE=%s\n' $type >$d/uevent
SYSTEMD_DEVICE_VERIFY_SYSFS=0 udevadm test --action=add $d 2>&1
`

// TestRules has udev give card emulators, also those in older boot loaders, to the group that the client is in.
func TestRules(t *testing.T) {
	group, _, _ := strings.Cut(strings.TrimPrefix(sh(t, "getent group plugdev"), "plugdev:x:"), ":")
	if members := sh(t, "id -nG remsim-client"); !strings.Contains(members, "plugdev") {
		t.Errorf("remsim-client is in the groups %q", members)
	}
	for _, tt := range []struct {
		name, id, kind string
		ours           bool
	}{
		{"OWHW", "1d50 4001", "usb_device", true},
		{"sysmoQMOD", "1d50 4004", "usb_device", true},
		{"SIMtrace2", "1d50 60e3", "usb_device", true},
		{"OCTSIMtest", "1d50 616d", "usb_device", true},
		{"ngff-cardem", "1d50 616e", "usb_device", true},
		{"older boot loader of OWHW", "1d50 4000", "usb_device", true},
		{"older boot loader of sysmoQMOD", "1d50 4003", "usb_device", true},
		{"older boot loader of SIMtrace2", "1d50 60e2", "usb_device", true},
		{"sysmoQMOD's hub", "1d50 4002", "usb_device", false},
		{"of another vendor", "1d51 4001", "usb_device", false},
		{"an interface", "1d50 4001", "usb_interface", false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			out, err := host.Run(t.Context(), "unshare", "--mount", "sh", "-ec", device+"\n", "device", tt.id[:4], tt.id[5:], tt.kind)
			if err != nil {
				t.Fatal(err)
			}
			var did []string
			for line := range strings.Lines(out) {
				if _, what, ok := strings.Cut(line, "/60-remsim.rules:"); ok {
					_, what, _ = strings.Cut(strings.TrimSpace(what), " ")
					did = append(did, what)
				}
			}
			want := "[]"
			if tt.ours {
				want = fmt.Sprintf("[GROUP %s MODE 0660]", group)
			}
			if got := fmt.Sprint(did); got != want {
				t.Errorf("the rules do %s, want %s", got, want)
			}
		})
	}
}
