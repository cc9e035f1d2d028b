// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"testing"
)

const (
	testICCID = "8988211000000000001"
	testIMSI  = "001010000000001"
)

func TestParse(t *testing.T) {
	const set2 = "0396EB317B6D1C36F19C1C84CD6FFD16"
	for _, tt := range []struct {
		in   string
		want Profile
	}{
		{"softsim:iccid=8988211000000000001,imsi=001010000000001",
			Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc}},
		{"softsim: imsi = 001011, iccid = 898821100000000000 ,ki=" + set2,
			Profile{ICCID: "898821100000000000", IMSI: "001011", Ki: block16(t, set2), OPc: testOPc}},
		{"softsim:opc=" + set2 + ",iccid=89882110000000000012,imsi=001010000000001",
			Profile{ICCID: "89882110000000000012", IMSI: testIMSI, Ki: testKi, OPc: block16(t, set2)}},
	} {
		p, err := Parse(tt.in)
		if err != nil || !reflect.DeepEqual(p, tt.want) {
			t.Errorf("Parse(%q) = %+v, %v", tt.in, p, err)
		}
		if again, err := Parse(p.String()); err != nil || again.ICCID != p.ICCID || again.IMSI != p.IMSI {
			t.Errorf("Parse(%q) = %+v, %v", p.String(), again, err)
		}
	}
}

func TestParseErrors(t *testing.T) {
	const ok = "softsim:iccid=8988211000000000001,imsi=001010000000001"
	for _, tt := range []struct{ in, want string }{
		{"", `profile "": want softsim:iccid=…,imsi=… or softsim:file=…`},
		{"Reader 1", `profile "Reader 1": want softsim:`},
		{"softsim:", "option 1: 0 characters without a =: want NAME=VALUE"},
		{"softsim:iccid=8988211000000000001", "imsi: missing; want 6..15 digits"},
		{"softsim:imsi=001010000000001", "iccid: missing; want 18..20 digits"},
		{"softsim:iccid=89882110000000001,imsi=001010000000001", `iccid: "89882110000000001": want 18..20 digits`},
		{"softsim:iccid=898821100000000000123,imsi=001010000000001", `want 18..20 digits`},
		{"softsim:iccid=89882110000000000a1,imsi=001010000000001", `iccid: "89882110000000000a1": want 18..20 digits`},
		{"softsim:iccid=8988211000000000001,imsi=0010100000000012", `imsi: "0010100000000012": want 6..15 digits`},
		{"softsim:iccid=8988211000000000001,imsi=-00101000", `imsi: "-00101000": want`},
		{"softsim:iccid=8988211000000000001,imsi=١٢٣٤٥٦٧", `want 6..15 digits`},
		{ok + ",ki=465b5c", "option ki: value of 6 characters: want 32 hex digits"},
		{ok + ",opc=cd63cb71954a9f4e48a5994e37a02baz", "option opc: value of 32 characters: want 32 hex digits"},
		{ok + ",pin=1234", "option pin: unknown; want file, iccid, imsi, mncdigits, ki, opc, sqn, msisdn, spn, pin1, puk1, pin2, puk2, adm1"},
		{ok + ",mncdigits=4", `option mncdigits: "4": want 2 or 3`},
		{ok + ",pin1=12", "option pin1: value of 2 characters: want 4..8 digits"},
		{ok + ",imsi=001010000000002", "option imsi is given twice"},
		{ok + ",", "option 3: 0 characters without a =: want NAME=VALUE"},
	} {
		if _, err := Parse(tt.in); err == nil || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("Parse(%q): %v, want …%s…", tt.in, err, tt.want)
		}
	}
}

// An error must not show a key.
func TestParseKeepsKeys(t *testing.T) {
	const secret = "0396eb317b6d1c36f19c1c84cd6ffd"
	for _, option := range []string{"ki=" + secret, "ki:" + secret, secret} {
		_, err := Parse("softsim:iccid=8988211000000000001,imsi=001010000000001," + option)
		if err == nil || strings.Contains(err.Error(), secret) {
			t.Errorf("%s: error %v", option, err)
		}
	}
}

// A profile file gives the card everything that can be given.
func TestLoad(t *testing.T) {
	p, err := Parse("softsim:file=testdata/card.json")
	if err != nil {
		t.Fatal(err)
	}
	want := Profile{
		ICCID: testICCID, IMSI: testIMSI, MNCDigits: 3,
		Ki: block16(t, "0396eb317b6d1c36f19c1c84cd6ffd16"), OPc: block16(t, "53c15671c60a4b731c55b4a441c0bde2"), SQN: 0xfd8eef40df00,
		MSISDN: "+491701234567", SPN: "Test Net", PIN1: "4321", PUK1: "11111111", PIN2: "87654321", PUK2: "22222222", ADM1: "00112233445566ff",
		Files: map[string][][]byte{
			"7F20/6F30": {unhex(t, "62f21062f220ffffffffffff")}, "7F10/6F3A": {[]byte("Bob\xff"), []byte("Eve ")},
			"7fff/6f3c": {{0, 0xff, 0xff}}, "2F05": {[]byte("de")},
		},
	}
	if !reflect.DeepEqual(p, want) {
		t.Errorf("%+v, want %+v", p, want)
	}
	exchange(t, New(p),
		"0020000108"+"34333231ffffffff", "9000", "00a4080c022f05", "9000", "00b0000002", "64659000",
		"00a4080c047f106f3a", "9000", "00b2020404", "45766520"+"9000", "00b2030404", "6a83",
		"00a4080c047f106f3c", "9000", "00b2010403", "00ffff"+"9000", // is EF.SMS of the USIM, too
		"00a4080c047f206f30", "9000", "00b000000c", "62f21062f220ffffffffffff"+"9000",
		"00a4080c047f206fad", "9000", "00b0000004", "00000003"+"9000")
	// What stands beside the file goes before it.
	p, err = Parse("softsim:imsi=001010000000002,file=testdata/card.json,pin1=1234")
	if err != nil || p.IMSI != "001010000000002" || p.PIN1 != "1234" || p.SPN != "Test Net" {
		t.Errorf("%+v, %v", p, err)
	}
}

// What is wrong in a profile file is told with its name, line, member, value and what is allowed.
func TestLoadErrors(t *testing.T) {
	const who = `"iccid": "8988211000000000001", "imsi": "001010000000001"`
	name := filepath.Join(t.TempDir(), "card.json")
	for _, tt := range []struct{ in, want string }{
		{``, `:1: the file ends too soon`},
		{"{\n" + who, `:2: the file ends too soon`},
		{"{\n" + who + ",\n}", `:3: invalid character '}'`},
		{"{" + who + "}\n\n{}", `:3: more follows the profile`},
		{"{" + who + "} x", `:1: more follows the profile`},
		{`[]`, `:1: want an object: {`},
		{`"x"`, `:1: want an object: {`},
		{"{\n" + who + ",\n\"color\": \"red\"}", `:3: member color: unknown; want files, iccid, imsi, mncdigits, ki, opc, sqn, msisdn, spn, pin1, puk1, pin2, puk2, adm1`},
		{`{"file": "other.json"}`, `:1: member file: unknown; want files, iccid`},
		{"{" + who + ",\n\"imsi\": \"001010000000002\"}", `:2: member imsi is given twice`},
		{`{"imsi": true}`, `:1: member imsi: want a string or a number`},
		{`{"imsi": ["001010000000002"]}`, `:1: member imsi: want a string or a number`},
		{`{"imsi": "00101000000000x"}`, `:1: member imsi: "00101000000000x": want 6..15 digits`},
		{`{"mncdigits": 4}`, `:1: member mncdigits: "4": want 2 or 3`},
		{`{"mncdigits": 2e0}`, `:1: member mncdigits: "2e0": want 2 or 3`},
		{`{"msisdn": "+"}`, `:1: member msisdn: "+": want 1..20 digits, + before them or not`},
		{`{"msisdn": "++49"}`, `:1: member msisdn: "++49": want`},
		{`{"spn": "Müller"}`, `:1: member spn: "Müller": want 1..16 letters, digits, blanks and `},
		{`{"spn": "12345678901234567"}`, `:1: member spn: "12345678901234567": want`},
		{`{"pin1": "123"}`, `:1: member pin1: value of 3 characters: want 4..8 digits`},
		{`{"pin2": "123456789"}`, `:1: member pin2: value of 9 characters: want 4..8 digits`},
		{`{"puk1": "1234567"}`, `:1: member puk1: value of 7 characters: want 8 digits`},
		{`{"puk2": "1234567a"}`, `:1: member puk2: value of 8 characters: want 8 digits`},
		{`{"adm1": "001122334455667g"}`, `:1: member adm1: value of 16 characters: want 8 digits, or 16 hex digits`},
		{`{"sqn": "123"}`, `:1: member sqn: value of 3 characters: want 12 hex digits`},
		{`{"files": []}`, `:1: member files: want an object: {`},
		{"{\"files\": {\n\"7F20/6F99\": \"00\"}}", `:2: member files: member 7F20/6F99: no file 6F99: want 6F05, 6F07, 6F20`},
		{`{"files": {"7F21/6F07": "00"}}`, `member 7F21/6F07: no file 7F21: want 2F00, 2F05, 2FE2, 7F10, 7F20, 7FFF`},
		{`{"files": {"7F20": "00"}}`, `member 7F20: 7F20 is a directory, which has no content`},
		{`{"files": {"2FE2/6F07": "00"}}`, `member 2FE2/6F07: no file 6F07: 2FE2 isn't a directory`},
		{`{"files": {"": "00"}}`, `member : identifier "": want a path from the MF like 7F20/6F46`},
		{`{"files": {"EF.SPN": "00"}}`, `identifier "EF.SPN": want a path from the MF like 7F20/6F46`},
		{`{"files": {"7F20/6F46": 1}}`, `member 7F20/6F46: want a string of hex digits, or a list of them`},
		{`{"files": {"7F20/6F46": {}}}`, `member 7F20/6F46: want a string of hex digits, or a list of them`},
		{`{"files": {"7F20/6F46": [["00"]]}}`, `member 7F20/6F46: want a string of hex digits, or a list of them`},
		{`{"files": {"7F20/6F46": "0"}}`, "member 7F20/6F46: value of 1 characters: want an even number of hex digits"},
		{`{"files": {"7F20/6F46": ""}}`, `member 7F20/6F46: a content of 0 bytes: want 1..32767`},
		{`{"files": {"7F20/6F46": "` + strings.Repeat("00", 32768) + `"}}`, `member 7F20/6F46: a content of 32768 bytes: want 1..32767`},
		{`{"files": {"7F20/6F46": ["00", "01"]}}`, `member 7F20/6F46: 2 pieces: want one, since the file has no records`},
		{`{"files": {"7F10/6F3A": []}}`, `member 7F10/6F3A: 0 records: want 1..254`},
		{`{"files": {"7F10/6F3A": ["00"` + strings.Repeat(`, "00"`, 254) + `]}}`, `member 7F10/6F3A: 255 records: want 1..254`},
		{`{"files": {"7F10/6F3A": [""]}}`, `member 7F10/6F3A: record 1 of 0 bytes: want 1..255`},
		{`{"files": {"7F10/6F3A": ["` + strings.Repeat("00", 256) + `"]}}`, `member 7F10/6F3A: record 1 of 256 bytes: want 1..255`},
		{`{"files": {"7F10/6F3A": ["0000", "00"]}}`, `member 7F10/6F3A: record 2 of 1 bytes: want 2 as in record 1`},
		{"{" + who + `, "files": {"7F20/6F46": "00", "7FFF/6F46": "01"}}`, `softsim: files: 7F20/6F46 and 7FFF/6F46 are one content: name one of them`},
		{`{"iccid": "8988211000000000001"}`, `softsim: imsi: missing; want 6..15 digits`},
		{strings.Repeat(" ", 1<<20) + "{}", `: longer than 1048576 bytes`},
	} {
		if err := os.WriteFile(name, []byte(tt.in), 0o600); err != nil {
			t.Fatal(err)
		}
		prefix := "softsim: " + name
		if strings.HasPrefix(tt.want, "softsim: ") {
			prefix = ""
		}
		if _, err := Parse("softsim:file=" + name); err == nil || !strings.HasPrefix(err.Error(), prefix) || !strings.Contains(err.Error(), tt.want) {
			t.Errorf("%.60s: %v, want %s…%s", tt.in, err, prefix, tt.want)
		}
	}
	if _, err := Parse("softsim:file=" + name + "x"); !errors.Is(err, os.ErrNotExist) || !strings.Contains(err.Error(), name+"x") {
		t.Errorf("no file: %v", err)
	}
	if _, err := Parse("softsim:file="); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("no name: %v", err)
	}
}

// New panics where Parse would refuse.
func TestNewPanics(t *testing.T) {
	for _, p := range []Profile{
		{ICCID: testICCID}, {ICCID: testICCID, IMSI: testIMSI, MNCDigits: 1}, {ICCID: testICCID, IMSI: testIMSI, SQN: 1 << 48},
		{ICCID: testICCID, IMSI: testIMSI, Files: map[string][][]byte{"0000": {{0}}}},
	} {
		func() {
			defer func() {
				if recover() == nil {
					t.Errorf("New takes %+v", p)
				}
			}()
			New(p)
		}()
	}
}

// Whatever stands in a profile file that is taken makes a card whose files can all be selected.
func FuzzLoad(f *testing.F) {
	example, err := os.ReadFile("testdata/card.json")
	if err != nil {
		f.Fatal(err)
	}
	f.Add(example)
	f.Add([]byte(`{"iccid": "8988211000000000001", "imsi": "001010", "files": {"7F20/6F39": ["ff"], "2F00": "61"}}`))
	f.Add([]byte(`{"files": {"7FFF/5F3B/4F20": ["", {`))
	f.Fuzz(func(t *testing.T, data []byte) {
		p := Profile{ICCID: testICCID, IMSI: testIMSI}
		d := json.NewDecoder(bytes.NewReader(data))
		d.UseNumber()
		if p.read(d) != nil {
			return
		}
		m, err := newMemory(p)
		if err != nil {
			return
		}
		c := m.power()
		for _, l := range list {
			if _, sw := goTo(t, c, "00", l.path); sw != "9000" {
				t.Errorf("%v: %s", l, sw)
			}
		}
	})
}

func FuzzParse(f *testing.F) {
	f.Add("softsim:iccid=8988211000000000001,imsi=001010000000001")
	f.Add("softsim:iccid=8988211000000000001,imsi=001010000000001,ki=465b5ce8b199b49faa5f0a2ee238a6bc,opc=cd63cb71954a9f4e48a5994e37a02baf")
	f.Add("softsim:,=,,")
	f.Fuzz(func(t *testing.T, s string) {
		if strings.Contains(s, "file") {
			return // the fuzzer should read none
		}
		p, err := Parse(s)
		if err != nil {
			return
		}
		// What Parse takes makes a card that can be read.
		c := New(p)
		defer c.Close()
		if got := iccid(t, c); got != p.ICCID {
			t.Errorf("profile %+v gives ICCID %s", p, got)
		}
	})
}
