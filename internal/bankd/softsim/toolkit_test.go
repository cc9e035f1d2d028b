// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "testing"

const (
	profileAll  = "08000120" // menu selection; DISPLAY TEXT; SET UP MENU
	profileMenu = "08000020"
	setUpMenu   = "d025" + "8103012500" + "82028182" + "850672656d73696d" + "8f05" + "01" + "43617264" + "8f0b" + "02" + "53756273637269626572"
	// ICCID 8988211000000000001, as 8 bit data, until the user clears it.
	displayICCID = "d025" + "8103012180" + "82028102" + "8d1a" + "04" + "49434349442038393838323131303030303030303030303031"
	menuDone     = "8103012500" + "02028281" + "030100"
	textDone     = "8103012180" + "82028281" + "830100"
	choose1      = "d307" + "82020181" + "900101"
	choose2      = "d307" + "02020181" + "100102"
)

func TestToolkit(t *testing.T) {
	for _, tt := range []struct {
		name  string
		steps []string
	}{
		{"nothing without a profile: TS 102 223 5.1", []string{
			"8012000001", "6985", "80f2000c00", "9000", "8014000003030100", "6985", "80c2000009" + choose1, "9000", "80f2000c00", "9000",
			"a012000001", "6f00",
		}},
		{"a terminal without menus: TS 102 223 5.2", []string{
			"801000000400000120", "9000", "801000000408000100", "9000", "8010000001ff", "9000", "80f2000c00", "9000", "8012000001", "6985",
		}},
		{"SET UP MENU: TS 102 221 7.4.2, 11.2; TS 102 223 6.4.7, 6.6.7, 6.8", []string{
			"8010000004" + profileAll, "9127", "80f2000c00", "9127", // told until it is fetched
			"00a4000c023f00", "9127", selMF, "6124", "00c0000024", fcpMF + "9127", "00a40004026fff", "6a82",
			"8012000000", "6c27", "8012000026", "6c27", "8012000027", setUpMenu + "9000", "80f2000c00", "9000", "8012000027", "6985",
			"801400000c" + menuDone, "9000", "801400000c" + menuDone, "6985",
		}},
		{"menu selection and DISPLAY TEXT: TS 102 223 7.2, 6.4.1, 6.6.1", []string{
			"8010000004" + profileAll, "9127", "80c2000009" + choose1, "9300", "8012000027", setUpMenu + "9000", "80c2000009" + choose1, "9300",
			"801400000c" + menuDone, "9000", "80c2000009" + choose1, "9127", "8012000027", displayICCID + "9000", "801400000c" + textDone, "9000",
			"80c2000009" + choose2, "9122", "8012000022", "d020" + "8103012180" + "82028102" + "8d15" + "04" + "494d534920303031303130303030303030303031" + "9000",
			"801400000c" + textDone, "9000",
		}},
		{"a terminal that can't display: TS 102 223 5.2", []string{
			"8010000004" + profileMenu, "9127", "8012000027", setUpMenu + "9000", "801400000c" + menuDone, "9000", "80c2000009" + choose1, "9000",
		}},
		{"class A0: TS 51.011 9.2.19 to 9.2.22, 9.4.1", []string{
			"a010000004" + profileAll, "9127", "a0a40000023f00", "9f17", "a0c0000017", headerMF + "9127", "a012000000", "6727",
			"a012000027", setUpMenu + "9000", "a01400000c" + menuDone, "9000", "a0c2000009" + choose1, "9127",
		}},
		{"bad ones: TS 102 221 11.2, TS 102 223 9", []string{
			"8010010001ff", "6a86", "8010000000", "6700", "8012010001", "6a86", "8014000100", "6a86", "80c2010000", "6a86", "80c2000000", "6a80",
			"80c2000002d307", "6a80", "80c200000ad3078202018190010100", "6a80", "80c2000009d307820201819001" + "03", "6a80", "80c2000009d307820201819001" + "00", "6a80",
			"80c2000006d30482020181", "6a80", "80c200000ad38107" + choose1[4:], "9000", "80c2000003d38200", "6a80", "80c2000002d381", "6a80",
			"80c2000006" + "d60499019a00", "9000", "80c2000002" + "d100", "9000", // other events are taken
			"8010000004" + profileAll, "9127", "8012000027", setUpMenu + "9000",
			"801400000c" + "8103022500" + "02028281" + "030100", "6a80", "801400000c" + "8103012100" + "02028281" + "030100", "6a80",
			"8014000009" + menuDone[:18], "6a80", "8014000000", "6a80", "8014000002" + "8103", "6a80", "801400000b" + "81020125" + "02028281" + "030100", "6a80",
			"801400000c" + menuDone, "9000",
		}},
	} {
		t.Run(tt.name, func(t *testing.T) { exchange(t, newCard(t), tt.steps...) })
	}
}

// A reset ends what the toolkit began, and a new profile begins anew.
func TestToolkitReset(t *testing.T) {
	c := newCard(t)
	exchange(t, c, "8010000004"+profileAll, "9127")
	if err := c.Reset(false); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, "80f2000c00", "9000", "8010000004"+profileAll, "9127", "8012000027", setUpMenu+"9000", "8010000004"+profileAll, "9127")
}
