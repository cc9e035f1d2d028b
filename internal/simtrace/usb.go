// SPDX-License-Identifier: GPL-2.0-or-later

package simtrace

// A Model is a kind of device, by its USB ids.
type Model struct {
	Vendor, Product uint16
	Name            string
}

// Models returns the devices that are known to have card emulators. A device has the same ids in DFU
// mode; the class of its interfaces tells which it is.
func Models() []Model {
	return []Model{
		{0x1d50, 0x4001, "OWHW"},
		{0x1d50, 0x4004, "sysmoQMOD"},
		{0x1d50, 0x60e3, "SIMtrace2"},
		{0x1d50, 0x616d, "OCTSIMtest"},
		{0x1d50, 0x616e, "ngff-cardem"},
	}
}

// OldDFU returns the ids by which older boot loaders are known while they wait for firmware.
func OldDFU() []Model {
	return []Model{
		{0x1d50, 0x4000, "OWHW"},
		{0x1d50, 0x4003, "sysmoQMOD"},
		{0x1d50, 0x60e2, "SIMtrace2"},
	}
}

// What interface descriptors say. A card emulator has one interface for each card it plays, with a
// bulk OUT, a bulk IN and an interrupt IN endpoint.
const (
	InterfaceClass    = 0xff // vendor specific
	InterfaceSniffer  = 1    // subclass
	InterfaceCardem   = 2    // subclass
	InterfaceProtocol = 0

	DFUClass    = 0xfe // application specific
	DFUSubclass = 1
)
