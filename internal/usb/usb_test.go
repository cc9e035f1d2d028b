// SPDX-License-Identifier: GPL-2.0-or-later

package usb

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"
	"strings"
	"testing"
	"testing/fstest"

	"go.uber.org/goleak"

	"remsim/internal/simtrace"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// Descriptors as devices have them, byte for byte what sysfs shows.
var (
	deviceDesc = []byte{18, 1, 0, 2, 0, 0, 0, 64, 0x50, 0x1d, 0xe3, 0x60, 0, 0, 1, 2, 3, 2}
	cardem0    = iface(0, 0, 0xff, 2, endpoint(0x04, 2), endpoint(0x85, 2), endpoint(0x86, 3))
	cardem1    = iface(1, 0, 0xff, 2, endpoint(0x01, 2), endpoint(0x82, 2), endpoint(0x83, 3))
	sniffer    = iface(0, 0, 0xff, 1, endpoint(0x82, 2), endpoint(0x81, 3))
	dfu        = iface(2, 0, 0xfe, 1, []byte{9, 0x21, 0x0b, 0xe8, 0x03, 0, 8, 0, 1})
	version    = slices.Concat(config(2), iface(0, 0, 0xff, 0xff))
)

func config(number uint8) []byte { return []byte{9, 2, 0, 0, 0, number, 0, 0x80, 50} }

func iface(number, alt, class, subclass uint8, more ...[]byte) []byte {
	return slices.Concat(append([][]byte{{9, 4, number, alt, uint8(len(more)), class, subclass, 0, 0}}, more...)...)
}

func endpoint(address, kind uint8) []byte { return []byte{7, 5, address, kind, 64, 0, 1} }

func firmware(interfaces ...[]byte) []byte {
	return slices.Concat(deviceDesc, config(1), slices.Concat(interfaces...), version)
}

// plug returns the files of a device in sysfs.
func plug(path, ids, serial string, descriptors []byte) fstest.MapFS {
	vendor, product, _ := strings.Cut(ids, ":")
	bus, port, _ := strings.Cut(path, "-")
	address := fmt.Sprint(10 + len(port)*10 + int(port[len(port)-1]-'0'))
	files := fstest.MapFS{}
	for name, text := range map[string]string{
		"busnum": bus + "\n", "devnum": address + "\n", "idVendor": vendor + "\n", "idProduct": product + "\n",
		"serial": serial + "\n", "product": "Product\n", "manufacturer": "Maker\n", "bConfigurationValue": "1\n",
		"descriptors": string(descriptors),
	} {
		files[sysDevices+"/"+path+"/"+name] = &fstest.MapFile{Data: []byte(text)}
	}
	return files
}

// attached are the devices of a host with these in sysfs.
func attached(t *testing.T, trees ...fstest.MapFS) []Device {
	t.Helper()
	sys := fstest.MapFS{
		sysDevices + "/usb1/busnum":            {Data: []byte("1\n")},
		sysDevices + "/1-0:1.0/bInterfaceClas": {Data: []byte("09\n")},
	}
	for _, tree := range trees {
		maps.Copy(sys, tree)
	}
	devices, err := Host{Sys: sys}.Devices()
	if err != nil {
		t.Fatal(err)
	}
	return devices
}

func TestDevices(t *testing.T) {
	devices := attached(t,
		plug("1-10", "1d50:60e3", "", firmware(cardem0, dfu)),
		plug("1-2.1", "1d50:4004", "ab12", firmware(cardem0, cardem1, dfu)),
		plug("1-2", "1d50:4002", "", slices.Concat(deviceDesc, config(1), iface(0, 0, 9, 0, endpoint(0x81, 3)))),
	)
	var got []string
	for _, d := range devices {
		got = append(got, d.String())
	}
	want := []string{"1-2 (1d50:4002 Product)", "1-2.1 (1d50:4004 sysmoQMOD, serial number ab12)", "1-10 (1d50:60e3 SIMtrace2)"}
	if !slices.Equal(got, want) {
		t.Errorf("devices %q, want %q", got, want)
	}
	q := devices[1]
	if q.Bus != 1 || q.Address != 41 || q.Active != 1 || q.Manufacturer != "Maker" || q.Model != "Product" || q.Node() != "/dev/bus/usb/001/041" {
		t.Errorf("device %+v, node %s", q, q.Node())
	}
	got = nil
	for _, i := range q.Interfaces {
		got = append(got, fmt.Sprint(i, i.Endpoints))
	}
	want = []string{
		"interface 0 (card emulation) [bulk OUT 0x04 bulk IN 0x85 interrupt IN 0x86]",
		"interface 1 (card emulation) [bulk OUT 0x01 bulk IN 0x82 interrupt IN 0x83]",
		"interface 2 (DFU) []",
		"interface 0 (class ff subclass ff, configuration 2) []",
	}
	if !slices.Equal(got, want) {
		t.Errorf("interfaces %q, want %q", got, want)
	}
}

// A device that goes while it is looked at is left out, and one that the kernel hasn't configured yet isn't.
func TestDevicesUnready(t *testing.T) {
	gone := plug("1-1", "1d50:60e3", "", firmware(cardem0))
	delete(gone, sysDevices+"/1-1/idProduct")
	bare := plug("1-3", "1d50:60e3", "", firmware(cardem0))
	delete(bare, sysDevices+"/1-3/descriptors")
	fresh := plug("1-2", "1d50:60e3", "", firmware(cardem0))
	fresh[sysDevices+"/1-2/bConfigurationValue"] = &fstest.MapFile{Data: []byte("\n")}
	devices := attached(t, gone, fresh, bare)
	if len(devices) != 1 || devices[0].Path != "1-2" || devices[0].Active != 0 {
		t.Errorf("devices %v", devices)
	}
	if _, err := (Host{Sys: fstest.MapFS{}}).Devices(); !errors.Is(err, ErrNoUSB) {
		t.Errorf("without USB: %v", err)
	}
}

// A Watch sees what changes, and reads again what is plugged anew.
func TestWatch(t *testing.T) {
	sys := plug("1-1", "1d50:60e3", "aa", firmware(cardem0))
	w := &Watch{Host: Host{Sys: sys}}
	serials := func() (s string) {
		t.Helper()
		devices, err := w.Devices()
		if err != nil {
			t.Fatal(err)
		}
		for _, d := range devices {
			s += fmt.Sprintf("%s=%s,%d ", d.Path, d.Serial, d.Active)
		}
		return s
	}
	set := func(attribute, text string) {
		sys[sysDevices+"/"+attribute] = &fstest.MapFile{Data: []byte(text + "\n")}
	}
	step := func(what, want string) {
		t.Helper()
		if got := serials(); got != want {
			t.Errorf("%s: %q, want %q", what, got, want)
		}
	}
	step("first look", "1-1=aa,1 ")
	set("1-1/serial", "bb")
	step("the same device", "1-1=aa,1 ")
	set("1-1/devnum", "99")
	set("1-1/bConfigurationValue", "")
	step("plugged anew", "1-1=bb,0 ")
	set("1-1/bConfigurationValue", "1")
	step("configured", "1-1=bb,1 ")
	maps.Copy(sys, plug("1-2", "1d50:4004", "cc", firmware(cardem0)))
	step("another one", "1-1=bb,1 1-2=cc,1 ")
	delete(sys, sysDevices+"/1-1/devnum")
	step("on its way out", "1-2=cc,1 ")
	for name := range sys {
		if strings.HasPrefix(name, sysDevices+"/1-2/") {
			delete(sys, name)
		}
	}
	step("gone", "")
}

func TestChoose(t *testing.T) {
	one := plug("1-1", "1d50:60e3", "aa", firmware(cardem0, dfu))
	two := plug("2-1.4", "1d50:4004", "bb", firmware(cardem0, cardem1, dfu))
	only1 := plug("1-1", "1d50:4004", "", firmware(cardem1, dfu))
	inDFU := plug("1-2", "1d50:60e3", "", slices.Concat(deviceDesc, config(1), iface(0, 0, 0xfe, 1), iface(0, 1, 0xfe, 1)))
	oldDFU := plug("1-2", "1d50:60e2", "", slices.Concat(deviceDesc, config(1)))
	trace := plug("1-2", "1d50:60e3", "", firmware(sniffer, dfu))
	other := plug("1-3", "1234:5678", "", firmware(cardem0))
	noIRQ := plug("1-1", "1d50:60e3", "", firmware(iface(0, 0, 0xff, 2, endpoint(0x04, 2), endpoint(0x85, 2))))
	none := plug("1-1", "1d50:60e3", "", firmware(iface(0, 0, 0xff, 2)))
	alts := plug("1-1", "1d50:60e3", "", firmware(cardem0, iface(0, 1, 0xff, 2, endpoint(0x04, 2), endpoint(0x85, 2), endpoint(0x86, 3))))
	config3 := plug("1-1", "1d50:60e3", "", slices.Concat(firmware(cardem0), config(3), cardem0))

	id := func(n uint16) *uint16 { return &n }
	nr := func(n uint8) *uint8 { return &n }
	for _, tc := range []struct {
		name     string
		attached []fstest.MapFS
		filter   Filter
		want     []string // of the target, or of the error
	}{
		{"the only one", []fstest.MapFS{one}, Filter{}, []string{"-H 1-1 -I 0 (1d50:60e3 SIMtrace2, serial number aa)"}},
		{"the only known one", []fstest.MapFS{one, other}, Filter{}, []string{"-H 1-1 -I 0 "}},
		{"the one that isn't in DFU mode", []fstest.MapFS{one, inDFU}, Filter{}, []string{"-H 1-1 -I 0 "}},
		{"interface 1 only", []fstest.MapFS{only1}, Filter{}, []string{"-H 1-1 -I 1 "}},
		{"by vendor and product", []fstest.MapFS{one, other}, Filter{Vendor: id(0x1234), Product: id(0x5678)}, []string{"-H 1-3 -I 0 "}},
		{"by product", []fstest.MapFS{one, other}, Filter{Product: id(0x5678)}, []string{"-H 1-3 -I 0 "}},
		{"by path and interface", []fstest.MapFS{one, two}, Filter{Path: "2-1.4", Interface: nr(1)}, []string{"-H 2-1.4 -I 1 "}},
		{"by address", []fstest.MapFS{one, two}, Filter{Address: nr(21)}, []string{"-H 1-1 -I 0 "}},
		{"by interface", []fstest.MapFS{one, two}, Filter{Interface: nr(1)}, []string{"-H 2-1.4 -I 1 "}},
		{"as in the C unit file", []fstest.MapFS{one, two}, Filter{Vendor: id(0x1d50), Product: id(0x4004), Config: nr(1), Interface: nr(0), Path: "2-1.4"}, []string{"-H 2-1.4 -I 0 "}},
		{"by alternate setting", []fstest.MapFS{alts}, Filter{Alt: nr(1)}, []string{"-H 1-1 -I 0 "}},
		{"alternate setting 0", []fstest.MapFS{alts}, Filter{}, []string{"-H 1-1 -I 0 "}},
		{"by configuration", []fstest.MapFS{config3}, Filter{Config: nr(3)}, []string{"-H 1-1 -I 0 "}},

		{"several", []fstest.MapFS{one, two}, Filter{}, []string{"3 card emulators", "-H 1-1 -I 0 (", "; -H 2-1.4 -I 0 (", "; -H 2-1.4 -I 1 (", "aa", "bb"}},
		{"several interfaces", []fstest.MapFS{two}, Filter{Path: "2-1.4"}, []string{"2 card emulators", "-I 0", "-I 1"}},
		{"nothing", nil, Filter{}, []string{"no USB device is attached"}},
		{"nothing known", []fstest.MapFS{other}, Filter{}, []string{"of a kind that is known", "attached are 1-3 (1234:5678 Product)"}},
		{"another path", []fstest.MapFS{one}, Filter{Path: "1-2"}, []string{"at path 1-2", "attached are 1-1"}},
		{"another address", []fstest.MapFS{one}, Filter{Address: nr(9)}, []string{"with address 9", "attached are 1-1"}},
		{"another vendor", []fstest.MapFS{one}, Filter{Vendor: id(0xabc)}, []string{"USB device 0abc:*", "attached are 1-1"}},
		{"wrong interface", []fstest.MapFS{one}, Filter{Interface: nr(2)}, []string{"no card emulation interface 2", "interface 0 (card emulation), interface 2 (DFU)"}},
		{"wrong alternate setting", []fstest.MapFS{one}, Filter{Alt: nr(1)}, []string{"no card emulation interface with alternate setting 1"}},
		{"wrong configuration", []fstest.MapFS{one}, Filter{Config: nr(2)}, []string{"no card emulation interface in configuration 2"}},
		{"DFU mode", []fstest.MapFS{inDFU}, Filter{}, []string{"1-2 (1d50:60e3 SIMtrace2) is in DFU mode", "dfu-util"}},
		{"older boot loader", []fstest.MapFS{oldDFU}, Filter{}, []string{"1-2 (1d50:60e2 SIMtrace2) is in DFU mode"}},
		{"sniffer", []fstest.MapFS{trace}, Filter{}, []string{"but interface 0 (sniffer), interface 2 (DFU)", "flash the cardem firmware"}},
		{"no interrupt endpoint", []fstest.MapFS{noIRQ}, Filter{}, []string{"no interrupt IN endpoint", "its endpoints are: bulk OUT 0x04, bulk IN 0x85;"}},
		{"no endpoint", []fstest.MapFS{none}, Filter{}, []string{"no bulk OUT and no bulk IN and no interrupt IN endpoint, its endpoints are: none"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			target, err := tc.filter.Choose(attached(t, tc.attached...))
			got := target.String()
			if wantError := !strings.HasPrefix(tc.want[0], "-H"); wantError != (err != nil) {
				t.Fatalf("%s, error %v", target, err)
			} else if wantError {
				got = err.Error()
			}
			for _, w := range tc.want {
				if !strings.Contains(got, w) {
					t.Errorf("%s\nlacks %q", got, w)
				}
			}
		})
	}
}

// Of many devices all that can be used are found, and of the others is said why they can't.
func TestCardems(t *testing.T) {
	targets, unfit := Cardems(attached(t,
		plug("2-1", "1d50:4004", "", firmware(cardem0, cardem1)),
		plug("1-1", "1d50:60e3", "", firmware(sniffer)),
		plug("1-2", "1234:5678", "", firmware(cardem0)),
		plug("1-3", "1d50:616d", "", firmware(iface(0, 0, 0xff, 2), cardem1)),
	))
	var got []string
	for _, target := range targets {
		s, _, _ := strings.Cut(target.String(), " (")
		got = append(got, s)
	}
	if want := []string{"-H 1-3 -I 1", "-H 2-1 -I 0", "-H 2-1 -I 1"}; !slices.Equal(got, want) {
		t.Errorf("targets %q, want %q", got, want)
	}
	if len(unfit) != 2 || !strings.HasPrefix(unfit[0].Error(), "1-1 ") || !strings.Contains(unfit[1].Error(), "interface 0 of 1-3") {
		t.Errorf("unfit: %v", unfit)
	}
}

func TestPaths(t *testing.T) {
	for s, want := range map[string]bool{
		"1-1": true, "2-1.4": true, "10-1.2.3.4": true,
		"": false, "1": false, "1-": false, "-1": false, "1-0": false, "1-01": false, "1-1.": false, "1-1:1.0": false, "usb1": false, "1-x": false, "1-256": false, "../1-1": false,
	} {
		if got := ValidPath(s); got != want {
			t.Errorf("%q: %v", s, got)
		}
	}
	paths := []string{"10-1", "2-1.10", "2-1", "2-1.9", "1-2"}
	slices.SortFunc(paths, ComparePaths)
	if want := []string{"1-2", "2-1", "2-1.9", "2-1.10", "10-1"}; !slices.Equal(paths, want) {
		t.Errorf("order %q, want %q", paths, want)
	}
}

func TestHolders(t *testing.T) {
	link := func(to string) *fstest.MapFile { return &fstest.MapFile{Data: []byte(to), Mode: fs.ModeSymlink} }
	d := Device{Path: "1-1", Bus: 1, Address: 7}
	host := Host{Proc: fstest.MapFS{
		"self/fd/1":  link("/dev/bus/usb/001/007"),
		"12/fd/0":    link("/dev/null"),
		"12/fd/9":    link("/dev/bus/usb/001/007"),
		"12/cmdline": {Data: []byte("remsim-client-st2\x00-I\x000\x00")},
		"9/fd/3":     link("/dev/bus/usb/001/007"),
		"9/cmdline":  {Data: []byte(strings.Repeat("x", 300))},
		"13/fd/3":    link("/dev/bus/usb/001/008"),
		"14/cmdline": {Data: []byte("kernel thread")},
	}}
	err := &BusyError{Interface: 0, Holders: host.Holders(d)}
	want := "it is in use by process 9 (" + strings.Repeat("x", maxCommand) + "…) or process 12 (remsim-client-st2 -I 0): stop that, or choose another interface"
	if err.Error() != want {
		t.Errorf("got  %s\nwant %s", err, want)
	}
	if err := (&BusyError{Holders: Host{Proc: fstest.MapFS{}}.Holders(d)}).Error(); !strings.Contains(err, "another program") {
		t.Error(err)
	}
}

// The rules for udev name every device there is.
func TestUdevRules(t *testing.T) {
	text, err := os.ReadFile("../../contrib/udev/60-remsim.rules")
	if err != nil {
		t.Fatal(err)
	}
	for _, m := range append(simtrace.Models(), simtrace.OldDFU()...) {
		found := false
		for line := range strings.Lines(string(text)) {
			_, product, _ := strings.Cut(line, `ATTR{idProduct}=="`)
			product, rest, _ := strings.Cut(product, `"`)
			found = found || strings.Contains(line, fmt.Sprintf(`ATTR{idVendor}=="%04x"`, m.Vendor)) &&
				slices.Contains(strings.Split(product, "|"), fmt.Sprintf("%04x", m.Product)) &&
				strings.TrimSpace(rest) == `, MODE="0660", GROUP="plugdev"`
		}
		if !found {
			t.Errorf("no rule for %s (%04x:%04x)", m.Name, m.Vendor, m.Product)
		}
	}
}

func TestDriver(t *testing.T) {
	host := Host{Sys: fstest.MapFS{
		sysDevices + "/1-1.2:1.1/driver": {Data: []byte("../../../../bus/usb/drivers/usbfs"), Mode: fs.ModeSymlink},
		sysDevices + "/1-1.2:1.2/driver": {Data: []byte("../../../../bus/usb/drivers/cdc_acm"), Mode: fs.ModeSymlink},
	}}
	for i, want := range []string{"", ProgramDriver, "cdc_acm"} {
		target := Target{Device: Device{Path: "1-1.2"}, Interface: Interface{Config: 1, Number: uint8(i)}}
		if got := host.Driver(target); got != want {
			t.Errorf("interface %d: driver %q, want %q", i, got, want)
		}
	}
}

func FuzzDescriptors(f *testing.F) {
	f.Add(firmware(cardem0, cardem1, dfu))
	f.Add(firmware(sniffer, dfu)[:40])
	f.Add([]byte{7, 5, 0x81, 3, 64, 0, 1})
	f.Add([]byte{9, 4, 0})
	f.Add([]byte{0, 0, 1})
	f.Fuzz(func(t *testing.T, b []byte) {
		for _, i := range parseDescriptors(b) {
			_ = i.String()
			for _, e := range i.Endpoints {
				_ = e.String()
			}
		}
		Cardems([]Device{{Path: "1-1", Vendor: 0x1d50, Product: 0x60e3, Interfaces: parseDescriptors(b)}})
	})
}
