// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "testing"

func TestSelect(t *testing.T) {
	const (
		name = "07a0000000871002"
		toDF = "00a4010c027f20"
	)
	for _, tt := range []struct {
		name  string
		steps []string
	}{
		{"by path from the MF: TS 102 221 8.4.2, 11.1.1", []string{
			"00a40804047f206f07", "6141", // EF.IMSI of DF.GSM, which has no short identifier
			"00c0000041", fcpIMSIofGSM + "9000", "00b0000009", imsi1 + "9000",
			"00a4080c022fe2", "9000", "00b000000a", iccid1 + "9000", "00a4080c027f10", "9000", "00b0000001", "6986",
			"00a40804047f206fff", "6a82", "00a40804066f077f206f07", "6a82", "00a40804043f007f20", "6a82", // the MF isn't part of it
			"00a40804062fe27f206f07", "6a82", // an EF holds nothing
			"00a40804037f206f", "6700", "00a4080400", "6700", "80f2000024", "6c1f", // still in DF.TELECOM
		}},
		{"by path of the current application: TS 102 221 8.4.2", []string{
			"00a4080c047fff6f07", "6a82", "00a4040c" + name, "9000", "00a4080c023f00", "6a82", "00a4000c027f20", "9000",
			"00a4080c047fff6f07", "9000", "00b0000009", imsi1 + "9000", "00a4080c067fff5f3b4f20", "9000", "00b0000009", "ffffffffffffffff079000",
			"00a4080c027fff", "9000", "80f2000031", fcpUSIM + "9000", "00a4080c047f207fff", "6a82",
		}},
		{"by path from the current DF: TS 102 221 8.4.2, 11.1.1", []string{
			"00a4090c047f206f07", "9000", "00b0000009", imsi1 + "9000", "00a4090c026fad", "9000", "00b0000004", "000000029000",
			"00a4090c047f206f07", "6a82", "00a4090c027f10", "6a82", "00a4040c" + name, "9000", "00a4090c045f3b4f20", "9000", "00b0000001", "ff9000",
			"00a4090c00", "6700", "00a4090c014f", "6700",
		}},
		{"a child DF, the parent: TS 102 221 11.1.1.2", []string{
			toDF, "9000", "00a4010c027f20", "6a82", "00a4010c026f07", "6a82", "00a4030c00", "9000", "00a4010c022fe2", "6a82", "00a4010c013f", "6700",
			"00a4040c" + name, "9000", "00a4010c025f3b", "9000", "00a4030c00", "9000", "80f2000031", fcpUSIM + "9000", "00a4030c0100", "6700",
		}},
		{"the end of an application's session: TS 102 221 11.1.1.2", []string{
			"00a4044c" + name, "6985", "00a4040c" + name, "9000", "00a4000c026f07", "9000", "00a4044c" + name, "9000",
			"80f2000024", fcpMF + "9000", "00a40004027fff", "6a82", "00b0000001", "6986", "00a4004c023f00", "6a86", "00a4042c" + name, "6a86", "00a4046c" + name, "6a86",
			"00a4040c" + name, "9000", toDF, "6a82", "00a4000c023f00", "9000", toDF, "9000", "00a40444" + name, "9000", "80f2000c00", "9000",
			"80f200001f", fcpGSM + "9000", // which is not in the application
		}},
		{"P2: TS 102 221 11.1.1.2", []string{
			"00a40000023f00", "6124", "00a40004023f00", "6124", "00a4000c023f00", "9000", "00a40008023f00", "6a86", "00a40010023f00", "6a86",
			"00a40080023f00", "6a86", "00a40504023f00", "6a86", "00a40204023f00", "6a86",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { exchange(t, newCard(t), tt.steps...) })
	}
}

// EF.IMSI of DF.GSM: as in the USIM, without the short identifier.
const fcpIMSIofGSM = "623f" + "82024121" + "83026f07" + "8a0105" +
	"ab2c" + "800101" + userPIN + "800102" + adm1 + "800108" + adm1 + "800110" + userPIN + "80020009" + "8800"

// Which application of several that fit is selected: TS 102 221 8.5.1, 11.1.1.2.
func TestSelectOccurrence(t *testing.T) {
	c := newCard(t)
	mf := c.memory.mf
	var adfs []*file
	for _, aid := range []string{"a000000087100401", "b000", "a0000000871005"} {
		adfs = append(adfs, &file{kind: application, id: idADF, name: unhex(t, aid), parent: mf})
	}
	mf.children = append(mf.children, adfs...)
	const (
		usim = "8410a0000000871002ffffffff8907090000" + "9000"
		isim = "8408a000000087100401" + "9000"
		last = "8407a0000000871005" + "9000"
	)
	which := func() string {
		t.Helper()
		r := send(t, c, "80f2000100")
		return send(t, c, "80f20001"+r[2:])
	}
	for i, tt := range []struct{ cmd, sw, want string }{
		{"00a4040e05a000000087", "9000", usim}, // next while there is none: the first
		{"00a4040e05a000000087", "9000", isim},
		{"00a4040e05a000000087", "9000", last},
		{"00a4040e05a000000087", "6a82", last},
		{"00a4040f05a000000087", "9000", isim},
		{"00a4040f05a000000087", "9000", usim},
		{"00a4040f05a000000087", "6a82", usim},
		{"00a4040d05a000000087", "9000", last},
		{"00a4040c05a000000087", "9000", usim},
		{"00a4040c06a00000008710", "9000", usim},
		{"00a4040c07a0000000871004", "9000", isim},
		{"00a4040e07a0000000871004", "6a82", isim},
		{"00a4040e07a0000000871005", "9000", last},
		{"00a4040f07a0000000871002", "9000", usim},
		{"00a4040d02b000", "9000", "8402b000" + "9000"},
		{"00a4040f05a000000087", "9000", isim}, // before another application
		{"00a4040c08a000000087100402", "6a82", isim},
	} {
		if got := send(t, c, tt.cmd); got != tt.sw {
			t.Errorf("%d: %s: %s, want %s", i, tt.cmd, got, tt.sw)
		}
		if got := which(); got != tt.want {
			t.Errorf("%d: %s: application %s, want %s", i, tt.cmd, got, tt.want)
		}
	}
	if err := c.Reset(true); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "00a4040f05a000000087", "9000") // previous while there is none: the last
	if got := which(); got != last {
		t.Errorf("application %s", got)
	}
}

// Logical channels have their own selection and records: TS 102 221 8.7, 11.1.17.
func TestChannels(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []string
	}{
		{"open and close", []string{
			"0070000000", "6c01", "0070000002", "6c01", "0070000001", "019000", "0070000001", "029000", "0070000001", "039000", "0070000001", "6a81", "0070000000", "6a81",
			"0070800200", "9000", "0070800200", "6881", "0070000001", "029000",
			"0270800200", "9000", "02a4000c023f00", "6881", // it closed itself
			"0070800000", "6a86", "0070800400", "6a86", "0070800101", "6700", "0070010001", "6a86", "0070000101", "6a86", "0070400101", "6a86",
			"01a4000c023f00", "9000", "0170800300", "9000", "0070800100", "9000", "01a4000c023f00", "6881", "0170000001", "6881",
		}},
		{"own selection", []string{
			"00a4000c027f20", "9000", "0070000001", "019000", "81f2000024", fcpMF + "9000", // begins in the MF
			"01a40404" + "07a0000000871002", "6131", "01c0000031", fcpUSIM + "9000", "01a4000c026f07", "9000",
			"80f200001f", fcpGSM + "9000", "00b0000001", "6986", "01b0000009", imsi1 + "9000", "80f2000100", "6985",
			"00a4040c07a0000000871002", "9000", "00a4000c026fb7", "9000", "00b2000204", "11f2ff00" + "9000", "01a4000c026fb7", "9000", "01b2000204", "11f2ff00" + "9000",
			"00b2000204", "19f1ff00" + "9000", "01b2000204", "19f1ff00" + "9000",
		}},
		{"opened where another one is", []string{
			"0070000001", "019000", "01a4040c07a0000000871002", "9000", "01a4000c026f07", "9000", "0170000001", "029000",
			"82f2000031", fcpUSIM + "9000", "02b0000001", "6986", "02a4000c026f07", "9000", "0070000001", "039000", "83f2000024", fcpMF + "9000",
		}},
		{"closed and opened again it is new", []string{
			"0070000001", "019000", "01a4040c07a0000000871002", "9000", "0070800100", "9000", "0070000001", "019000", "81f2000024", fcpMF + "9000", "81f2000112", "6985",
		}},
		{"a response is fetched on its channel", []string{
			"0070000001", "019000", "01a40004023f00", "6124", "00c0000024", "6985", "01c0000024", "6985",
			"01a40004023f00", "6124", "01c0000010", fcpMF[:32] + "6114", "01c0000014", fcpMF[32:] + "9000",
		}},
		{"not open", []string{"01a40004023f00", "6881", "0370000001", "6881", "83f2000024", "6881", "01ff000000", "6881"}},
		{"class A0 has channel 0", []string{"0070000001", "019000", "01a4000c027f20", "9000", "a0f2000017", headerMF + "9000"}},
	} {
		t.Run(tt.name, func(t *testing.T) { exchange(t, newCard(t), tt.steps...) })
	}
	c := newCard(t)
	exchange(t, c, "0070000001", "019000")
	if err := c.Reset(false); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "01a4000c023f00", "6881")
}
