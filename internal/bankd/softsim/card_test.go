// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	"remsim/internal/bankd"
	"remsim/internal/slot"
)

func newCard(t testing.TB) *Card {
	t.Helper()
	return New(Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc})
}

// send transmits a command given in hex and returns the response in hex.
func send(t testing.TB, c *Card, cmd string) string {
	t.Helper()
	r, err := c.Transmit(unhex(t, cmd), make([]byte, 0, 258))
	if err != nil {
		t.Fatalf("%s: %v", cmd, err)
	}
	return hex.EncodeToString(r)
}

// iccid reads the ICCID as a terminal does.
func iccid(t testing.TB, c *Card) string {
	t.Helper()
	send(t, c, "a0a40000023f00")
	send(t, c, "a0a40000022fe2")
	r := send(t, c, "a0b000000a")
	if len(r) != 24 || !strings.HasSuffix(r, "9000") {
		t.Fatalf("READ BINARY of EF.ICCID: %s", r)
	}
	var b strings.Builder
	for i := 0; i < 20; i += 2 {
		b.WriteByte(r[i+1])
		b.WriteByte(r[i])
	}
	return strings.TrimRight(b.String(), "f")
}

func TestATR(t *testing.T) {
	c := newCard(t)
	a := c.ATR()
	// ISO 7816-3 8.2: TS, T0 with the interface bytes that follow and the number of historical bytes.
	if a[0] != 0x3b {
		t.Fatalf("TS = %02x", a[0])
	}
	i, history := 2, int(a[1]&0x0f)
	protocols := []byte{}
	for y := a[1] >> 4; ; {
		var td byte
		for bit := byte(1); bit < 16; bit <<= 1 {
			if y&bit != 0 {
				td = a[i]
				i++
			}
		}
		if y&8 == 0 {
			break
		}
		protocols = append(protocols, td&0x0f)
		y = td >> 4
	}
	if !bytes.Equal(protocols, []byte{0, 15}) {
		t.Errorf("protocols %v, want T=0 and the global bytes", protocols)
	}
	if len(a) != i+history+1 || len(a) > 33 {
		t.Errorf("%d bytes, want %d", len(a), i+history+1)
	}
	sum := byte(0)
	for _, b := range a[1:] {
		sum ^= b
	}
	if sum != 0 {
		t.Errorf("check byte is off by %02x", sum)
	}
	a[0] = 0
	if c.ATR()[0] != 0x3b {
		t.Error("ATR shares the card's memory")
	}
}

// FCP of the files, put together by hand from TS 102 221 11.1.1.3.
const (
	pinStatus = "c609" + "900140" + "830101" + "830181" // PIN 1 is disabled, PIN 2 is not
	fcpMF     = "6222" + "82027821" + "83023f00" + "a503800171" + "8a0105" + "ab058001479700" + pinStatus
	fcpUSIM   = "622f" + "82027821" + "83027fff" + "8410a0000000871002ffffffff8907090000" + "8a0105" + "ab058001479700" + pinStatus
	fcpGSM    = "621d" + "82027821" + "83027f20" + "8a0105" + "ab058001479700" + pinStatus
	userPIN   = "a406830101950108" // key reference 01: PIN 1
	adm1      = "a40683010a950108" // key reference 0a: ADM 1
	fcpICCID  = "6234" + "82024121" + "83022fe2" + "8a0105" +
		"ab20" + "8001019000" + "8001029700" + "800108" + adm1 + "800110" + adm1 + "8002000a" + "880110"
	fcpIMSI = "6240" + "82024121" + "83026f07" + "8a0105" +
		"ab2c" + "800101" + userPIN + "800102" + adm1 + "800108" + adm1 + "800110" + userPIN + "80020009" + "880138"
	fcpAD = "623a" + "82024121" + "83026fad" + "8a0105" +
		"ab26" + "8001019000" + "800102" + adm1 + "800108" + adm1 + "800110" + adm1 + "80020004" + "880118"
)

// Headers of the files in class A0, by hand from TS 51.011 9.2.1 and 9.3.
const (
	headerMF    = "00000000" + "3f00" + "01" + "0000000000" + "0a" + "b1" + "0203" + "0400" + "838a838a00"
	headerGSM   = "00000000" + "7f20" + "02" + "0000000000" + "0a" + "b1" + "0010" + "0400" + "838a838a00"
	headerICCID = "0000" + "000a" + "2fe2" + "0400" + "0ff044" + "01" + "02" + "0000"
	headerIMSI  = "0000" + "0009" + "6f07" + "0400" + "14f014" + "01" + "02" + "0000"
	headerAD    = "0000" + "0004" + "6fad" + "0400" + "04f044" + "01" + "02" + "0000"
)

const (
	rand1 = "23553cbe9637a89d218ae64dae47bf35"
	// AUTN of test set 1: SQN xor AK, AMF, MAC-A.
	autn1  = "55f328b43577" + "b9b9" + "4a9ffac354dfafb3"
	selMF  = "00a40004023f00"
	selAID = "00a4040410a0000000871002ffffffff8907090000"
	iccid1 = "988812010000000000f1" // 8988211000000000001, two digits a byte, swapped
	imsi1  = "080910100000000010"   // 001010000000001
)

func TestCommands(t *testing.T) {
	type step struct{ cmd, want string }
	for _, tt := range []struct {
		name  string // what is shown, and where it is written
		steps []step
	}{
		{"SELECT and GET RESPONSE, class A0: TS 51.011 9.2.1, 9.2.18", []step{
			{"a0a40000023f00", "9f17"}, {"a0c0000017", headerMF + "9000"},
			{"a0a40000022fe2", "9f0f"}, {"a0c000000f", headerICCID + "9000"},
			{"a0a40000027f20", "9f17"}, {"a0c0000017", headerGSM + "9000"},
			{"a0a40000026f07", "9f0f"}, {"a0c000000f", headerIMSI + "9000"},
			{"a0a40000026fad", "9f0f"}, {"a0c000000f", headerAD + "9000"},
		}},
		{"READ BINARY, class A0: TS 51.011 9.2.3", []step{
			{"a0a40000022fe2", "9f0f"}, {"a0b000000a", iccid1 + "9000"},
			{"a0b0000004", "98881201" + "9000"}, {"a0b0000802", "00f1" + "9000"},
			{"a0b000000b", "670a"}, {"a0b0000803", "6702"}, {"a0b0000000", "670a"},
			{"a0b0000a01", "6b00"}, {"a0b0ffff01", "6b00"},
			{"a0a40000027f20", "9f17"}, {"a0b0000001", "9400"},
			{"a0a40000026f07", "9f0f"}, {"a0b0000009", imsi1 + "9000"},
			{"a0a40000026fad", "9f0f"}, {"a0b0000004", "00000002" + "9000"},
		}},
		{"reach of SELECT by identifier: TS 51.011 6.5", []step{
			{"a0a40000026f07", "9404"},                             // not in the MF
			{"a0a40000027f20", "9f17"}, {"a0a40000022fe2", "9404"}, // in the MF, not here
			{"a0a40000027f20", "9f17"}, {"a0a40000026f07", "9f0f"}, // the directory itself, a child
			{"a0a40000027f10", "9f17"}, {"a0a40000027f20", "9f17"}, // a DF beside it
			{"a0a40000023f00", "9f17"}, {"a0a40000027f11", "9404"},
			{"a0a40000027fff", "9404"}, // ADFs are not of class A0
		}},
		{"a failed SELECT changes nothing: TS 51.011 9.4, TS 102 221 8.4", []step{
			{"a0a40000022fe2", "9f0f"}, {"a0a40000026f07", "9404"}, {"a0b0000001", "989000"},
			{"00a40004026f07", "6a82"}, {"00b0000001", "989000"},
		}},
		{"STATUS, class A0: TS 51.011 9.2.2", []step{
			{"a0f2000017", headerMF + "9000"}, {"a0f2000016", headerMF[:44] + "9000"}, {"a0f2000018", "6717"},
			{"a0a40000027f20", "9f17"}, {"a0a40000026f07", "9f0f"}, {"a0f2000017", headerGSM + "9000"},
		}},
		{"wrong P1, P2 and lengths, class A0: TS 51.011 9.4.6", []step{
			{"a0a40100023f00", "6b00"}, {"a0a40004023f00", "6b00"}, {"a0a40000013f", "6700"}, {"a0a40000033f0000", "6700"},
			{"a0a4000000", "6700"}, {"a0a400000a3f00", "6700"}, {"a0a40000013f00", "6700"},
			{"a0f2000117", "6b00"}, {"a0c0010017", "6b00"}, {"a0880100" + "10" + rand1, "6b00"}, {"a0b000000a00", "6700"},
		}},
		{"unknown INS and CLA: TS 51.011 9.4.6, TS 102 221 10.2.1.5", []step{
			{"a016000010", "6d00"}, {"0012000010", "6d00"}, {"80a4000000", "6d00"}, {"00f2000000", "6d00"},
			{"b0a4000000", "6e00"}, {"a1a4000000", "6e00"}, {"ffa4000000", "6e00"}, {"10a4000000", "6e00"}, {"90f2000000", "6e00"},
			{"01a40004023f00", "6881"}, {"83f2000000", "6881"}, {"40a40004023f00", "6881"}, {"c0f2000000", "6881"},
			{"04a40004023f00", "6882"}, {"8cf2000000", "6882"},
		}},
		{"GET RESPONSE without a response: TS 51.011 9.2.18, TS 102 221 12.1", []step{
			{"a0c0000001", "6f00"}, {"00c0000001", "6985"},
			// Another command between, even one that fails, and the response is gone.
			{selMF, "6124"}, {"00b0000001", "6986"}, {"00c0000024", "6985"},
			{selMF, "6124"}, {"5555000000", "6881"}, {"00c0000024", "6985"},
			{selMF, "6124"}, {"00c0000024", fcpMF + "9000"}, {"00c0000024", "6985"},
			{"a0a40000023f00", "9f17"}, {"a0c0000004", "00000000" + "9000"}, {"a0c0000004", "6f00"},
		}},
		{"SELECT by identifier, class 00: TS 102 221 11.1.1", []step{
			{selMF, "6124"}, {"00c0000024", fcpMF + "9000"},
			{"00a40004022fe2", "6136"}, {"00c0000036", fcpICCID + "9000"}, {"00b000000a", iccid1 + "9000"},
			{"00a40004027f20", "611f"}, {"00c000001f", fcpGSM + "9000"},
			{"00a4000c023f00", "9000"}, {"00a40000023f00", "6124"}, // nothing; FCI
			{"00a40004023fff", "6a82"}, {"00a40004027fff", "6a82"}, // no application yet
			{"00a40204023f00", "6a86"}, {"00a40008023f00", "6a86"}, {"00a40014023f00", "6a86"}, {"00a40084023f00", "6a86"},
			{"00a40004013f", "6700"}, {"00a4000400", "6700"},
		}},
		{"SELECT by AID, full and partial: TS 102 221 8.5.1, 11.1.1", []step{
			{selAID, "6131"}, {"00c0000031", fcpUSIM + "9000"},
			{"00a40004026f07", "6142"}, {"00c0000042", fcpIMSI + "9000"}, {"00b0000009", imsi1 + "9000"},
			{"00a40004026fad", "613c"}, {"00c000003c", fcpAD + "9000"}, {"00b0000004", "000000029000"},
			{"00a4030400", "6124"}, {"00a4030400", "6a82"}, // parent; the MF has none
			{"00a40004027fff", "6131"}, // the current application
			{"00a4000c027f20", "9000"}, {"00a40004027fff", "6131"},
			{"00a4000c023f00", "9000"}, {"00a404040aa0000000871002ffffff", "6131"},
			{"00a404040da0000000871002", "6700"},
			{"00a4040c07a0000000871002", "9000"}, {"80f2000112", "8410a0000000871002ffffffff8907090000" + "9000"},
			{"00a4040407a0000000871004", "6a82"}, // an ISIM there is not
			{"00a4040410a0000000871002ffffffff8907090001", "6a82"},
			{"00a4040411a0000000871002ffffffff890709000000", "6700"},
			{"00a4040607a0000000871002", "6a82"}, // no next one
			{"00a4040507a0000000871002", "6131"}, // the last is the first
		}},
		{"next application while none is current: TS 102 221 8.5.1", []step{{"00a4040607a0000000871002", "6131"}}},
		{"STATUS, class 80: TS 102 221 11.1.2", []step{
			{"80f2000024", fcpMF + "9000"}, {"80f2000000", "6c24"}, {"80f20000ff", "6c24"}, {"80f2000c00", "9000"}, {"80f2010c00", "9000"},
			{"80f2000112", "6985"}, {"80f2030000", "6a86"}, {"80f2000200", "6a86"},
			{selAID, "6131"}, {"80f2000031", fcpUSIM + "9000"},
		}},
		{"READ BINARY, class 00: TS 102 221 11.1.3", []step{
			{"00b000000a", "6986"}, // no EF
			{"00b082000a", iccid1 + "9000"}, {"00b0000802", "00f19000"}, {"00b0820901", "f19000"},
			{"00b0000000", "6c0a"}, {"00b00000ff", "6c0a"}, {"00b0000900", "6c01"}, {"00b0000a01", "6b00"}, {"00b07fff01", "6b00"},
			{"00b0820a01", "6b00"}, {"00b0830001", "6a82"}, {"00b0a20001", "6a86"}, {"00b0800001", "6a82"},
			{selAID, "6131"}, {"00b0870009", imsi1 + "9000"}, {"00b0830004", "000000029000"}, {"00b08a0004", "6a82"},
		}},
		{"GET RESPONSE by pieces, 61xx and 6Cxx: ISO 7816-3 10.3.4, TS 102 221 7.3.1.1", []step{
			{selMF, "6124"}, {"00c0000025", "6c24"}, {"00c0000000", "6c24"},
			{"00c0000010", fcpMF[:32] + "6114"}, {"00c0000010", fcpMF[32:64] + "6104"}, {"00c0000004", fcpMF[64:] + "9000"},
			{"00c0000001", "6985"},
			{"a0a40000023f00", "9f17"}, {"a0c0000018", "6717"}, {"a0c0000017", headerMF + "9000"},
		}},
		{"RUN GSM ALGORITHM: TS 51.011 9.2.16, TS 55.205", []step{
			{"a088000010" + rand1, "9804"}, // not in the MF
			{"a0a40000027f20", "9f17"}, {"a088000010" + rand1, "9f0c"}, {"a0c000000c", "46f8416aeae4be823af9a08b" + "9000"},
			{"a0a40000026f07", "9f0f"}, {"a088000010" + rand1, "9f0c"}, // an EF of DF.GSM may be selected
			{"a08800000f" + rand1[2:], "6700"}, {"a088000011" + rand1 + "00", "6700"},
		}},
		{"AUTHENTICATE: TS 31.102 7.1", []step{
			{"0088008122" + "10" + rand1 + "10" + autn1, "6985"}, // no application
			{selAID, "6131"},
			{"0088008122" + "10" + rand1 + "10" + autn1, "6135"},
			{"00c0000035", "db" + "08a54211d5e3ba50bf" + "10b40ba9a3c58b2a05bbf0d987b21bf8cb" +
				"10f769bcd751044604127672711c6d3441" + "08eae4be823af9a08b" + "9000"},
			{"0088008011" + "10" + rand1, "610e"}, {"00c000000e", "0446f8416a" + "08eae4be823af9a08b" + "9000"},
			// 7.1.2: MAC, SQN, AMF or RAND off by a bit, and the network isn't believed.
			{"0088008122" + "10" + rand1 + "10" + autn1[:31] + "2", "9862"},
			{"0088008122" + "10" + rand1 + "10" + "54" + autn1[2:], "9862"},
			{"0088008122" + "10" + rand1 + "10" + autn1[:12] + "b8" + autn1[14:], "9862"},
			{"0088008122" + "10" + "33" + rand1[2:] + "10" + autn1, "9862"},
			{"00c0000001", "6985"},
			{"0088018122" + "10" + rand1 + "10" + autn1, "6a86"}, {"0088008222" + "10" + rand1 + "10" + autn1, "6a86"},
			{"0088008111" + "10" + rand1, "6700"}, {"0088008022" + "10" + rand1 + "10" + autn1, "6700"},
			{"0088008122" + "0f" + rand1 + "10" + autn1, "6a80"}, {"0088008122" + "10" + rand1 + "11" + autn1, "6a80"},
			{"0088008011" + "11" + rand1, "6a80"}, {"0088008100", "6700"},
			{selMF, "6124"}, {"0088008011" + "10" + rand1, "6985"},
		}},
	} {
		t.Run(tt.name, func(t *testing.T) {
			c := newCard(t)
			for i, s := range tt.steps {
				if got := send(t, c, s.cmd); got != s.want {
					t.Fatalf("step %d: %s: got %s, want %s", i, s.cmd, got, s.want)
				}
			}
		})
	}
}

// A reset selects the MF, ends the application and drops a response (TS 102 221 6.4, 8.4).
func TestReset(t *testing.T) {
	for _, cold := range []bool{true, false} {
		c := newCard(t)
		send(t, c, selAID)
		send(t, c, "00a40004026f07")
		if err := c.Reset(cold); err != nil {
			t.Fatal(err)
		}
		for _, s := range [][2]string{
			{"00c0000001", "6985"}, {"00b0000001", "6986"}, {"00a40004027fff", "6a82"}, {"80f2000024", fcpMF + "9000"},
		} {
			if got := send(t, c, s[0]); got != s[1] {
				t.Errorf("cold %v: after reset %s: %s, want %s", cold, s[0], got, s[1])
			}
		}
	}
}

func TestClose(t *testing.T) {
	c := newCard(t)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := c.Transmit(make([]byte, 5), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Transmit: %v", err)
	}
	if err := c.Reset(true); !errors.Is(err, ErrClosed) {
		t.Errorf("Reset: %v", err)
	}
}

func TestTransmitLength(t *testing.T) {
	c := newCard(t)
	for _, n := range []int{0, 4, 261} {
		if _, err := c.Transmit(make([]byte, n), nil); err == nil {
			t.Errorf("a command of %d bytes is taken", n)
		}
	}
	// The longest command there is, and its answer.
	cmd := append([]byte{0x00, 0xa4, 0x04, 0x04, 0xff}, make([]byte, 255)...)
	if r, err := c.Transmit(cmd, nil); err != nil || hex.EncodeToString(r) != "6700" {
		t.Errorf("% x, %v", r, err)
	}
}

func openCard(t *testing.T, b *Bank, s bankd.Slot) *Card {
	t.Helper()
	card, err := b.Open(context.Background(), s)
	if err != nil {
		t.Fatal(err)
	}
	return card.(*Card)
}

func TestBank(t *testing.T) {
	var b Bank
	s := bankd.Slot{Spec: "softsim:iccid=8988211000000000007,imsi=001010000000007"}
	if err := b.Check(s); err != nil {
		t.Fatal(err)
	}
	if got := iccid(t, openCard(t, &b, s)); got != "8988211000000000007" {
		t.Errorf("ICCID %s", got)
	}
	s.Spec = "softsim:imsi=1"
	if err := b.Check(s); err == nil {
		t.Error("Check takes a bad profile")
	}
	if _, err := b.Open(context.Background(), s); err == nil {
		t.Error("Open takes a bad profile")
	}
}

// What a real card keeps without power, a slot's card keeps from one Open to the next: files, tries,
// sequence numbers. What it forgets is forgotten (TS 102 221 6.4, 14.2).
func TestBankKeepsCards(t *testing.T) {
	var b Bank
	name := filepath.Join(t.TempDir(), "card.json")
	write := func(spn string) {
		if err := os.WriteFile(name, []byte(`{"iccid": "8988211000000000001", "imsi": "001010000000001", "pin1": "1234", "spn": "`+spn+`"}`), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("one")
	s := bankd.Slot{Bank: slot.Bank{ID: 1, Slot: 2}, Spec: "softsim:file=" + name}
	change := []string{
		"0020000108" + right, "9000", "0020008108" + wrong, "63c2", selAID, "6131", challenge(autn1), success, "00a4080c047f206f7b", "9000", "00d6000003123456", "9000",
		"0070000001", "019000",
	}
	changed := []string{
		"01a4000c023f00", "6881", "00a4080c047f206f7b", "9000", "00b0000003", "6982", "0020008100", "63c2",
		"0020000108" + right, "9000", "00b0000003", "1234569000", selAID, "6131", challenge(autn1), resync,
	}
	asNew := []string{"0020000108" + right, "9000", "0020008100", "63c3", "00a4080c047f206f7b", "9000", "00b0000003", "ffffff9000", selAID, "6131", challenge(autn1), success}
	c := openCard(t, &b, s)
	exchange(t, c, change...)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	again := openCard(t, &b, s)
	exchange(t, again, changed...)

	// A card is in one place: the one that was not closed has no power now, and its Close takes none away.
	third := openCard(t, &b, s)
	if _, err := again.Transmit(unhex(t, selMF), nil); !errors.Is(err, ErrClosed) {
		t.Errorf("Transmit to a card that is open elsewhere: %v", err)
	}
	if err := again.Reset(true); !errors.Is(err, ErrClosed) {
		t.Errorf("Reset of a card that is open elsewhere: %v", err)
	}
	if err := again.Close(); err != nil {
		t.Error(err)
	}
	exchange(t, third, selMF, "6124")

	// The same profile in another slot is another card; so is one after the profile changed.
	twin := s
	twin.Bank.Slot = 3
	exchange(t, openCard(t, &b, twin), asNew...)
	exchange(t, openCard(t, &b, s), changed...)
	write("two")
	exchange(t, openCard(t, &b, s), asNew...)
	other := s
	other.Spec += ",pin1=1234"
	exchange(t, openCard(t, &b, other), asNew...)
	exchange(t, openCard(t, &b, other), "0020000108"+right, "9000", selAID, "6131", challenge(autn1), resync)

	// Of a slot only its last card is kept: a bankd may be given many in its life.
	exchange(t, openCard(t, &b, s), asNew...)
}

// Cards are opened and closed by several slots at once, and one that is late is harmless.
func TestBankConcurrent(t *testing.T) {
	var b Bank
	var wg sync.WaitGroup
	for i := range 8 {
		wg.Go(func() {
			s := bankd.Slot{Bank: slot.Bank{Slot: uint16(i % 2)}, Spec: "softsim:iccid=8988211000000000001,imsi=001010000000001"}
			for range 50 {
				card, err := b.Open(context.Background(), s)
				if err != nil {
					t.Error(err)
					return
				}
				for _, cmd := range []string{selAID, "00a4000c026f7b", "00d6000003123456"} {
					if _, err := card.Transmit(unhex(t, cmd), nil); err != nil && !errors.Is(err, ErrClosed) {
						t.Error(err)
					}
				}
				card.Reset(true)
				card.Close()
			}
		})
	}
	wg.Wait()
}

// Each digit of ICCID and IMSI has its place, whatever their number (TS 102 221 13.2, TS 31.102 4.2.2).
func TestDigits(t *testing.T) {
	for _, tt := range []struct{ iccid, imsi, iccidData, imsiData string }{
		{"898821100000000012", "262011234567890", "988812010000000021ff", "082926102143658709"},
		{"89882110000000001234", "26201123456789", "98881201000000002143", "0821261021436587f9"},
		{"8988211000000000001", "001019", "988812010000000000f1", "04011010f9ffffffff"},
		{"8988211000000000001", "0010198", "988812010000000000f1", "0409101089ffffffff"},
	} {
		c := New(Profile{ICCID: tt.iccid, IMSI: tt.imsi})
		send(t, c, "a0a40000022fe2")
		if got := send(t, c, "a0b000000a"); got != tt.iccidData+"9000" {
			t.Errorf("ICCID %s: %s", tt.iccid, got)
		}
		send(t, c, "a0a40000027f20")
		send(t, c, "a0a40000026f07")
		if got := send(t, c, "a0b0000009"); got != tt.imsiData+"9000" {
			t.Errorf("IMSI %s: %s", tt.imsi, got)
		}
	}
}

// Transmit allocates nothing.
func TestAllocs(t *testing.T) {
	c := newCard(t)
	buf := make([]byte, 0, 258)
	var cmds [][]byte
	for _, s := range []string{
		selAID, "00c0000031", "00a40004026f07", "00b0000009", "80f2000000", "0088008122" + "10" + rand1 + "10" + autn1, "00c0000035",
		"a0a40000023f00", "a0c0000017", "a0a40000027f20", "a088000010" + rand1, "a0a40000026f08", "1234000000",
		"00a408040" + "47f106f3a", "00c0000044", "00b201041c", "00d69e0000", "a0a40000027f10", "a0a40000026f44", "a0b201041c", "0020000100",
		"0070000001", "01a4000c027f20", "0070800100",
	} {
		cmds = append(cmds, unhex(t, s))
	}
	if n := testing.AllocsPerRun(100, func() {
		for _, cmd := range cmds {
			if _, err := c.Transmit(cmd, buf); err != nil {
				t.Fatal(err)
			}
		}
	}); n != 0 {
		t.Errorf("%v allocations for %d commands", n, len(cmds))
	}
}

// checkAnswer reports what is wrong with the answer r to cmd.
func checkAnswer(t *testing.T, cmd, r []byte) {
	t.Helper()
	if len(r) < 2 || len(r) > 258 {
		t.Fatalf("% x: response of %d bytes", cmd, len(r))
	}
	// SW1 is 61..6F or 90..9F (ISO 7816-3 10.3.3), 60 means wait.
	if sw1 := r[len(r)-2]; sw1&0xf0 != 0x90 && (sw1&0xf0 != 0x60 || sw1 == 0x60) {
		t.Fatalf("% x: status % x", cmd, r[len(r)-2:])
	}
	le := int(cmd[4])
	if le == 0 {
		le = 256
	}
	if len(r) > 2 && (len(cmd) != 5 || len(r)-2 != le) {
		t.Fatalf("% x: %d bytes of data", cmd, len(r)-2)
	}
}

// checkState reports what a card must never be.
func checkState(t *testing.T, c *Card) {
	t.Helper()
	for i, ch := range c.channels {
		switch {
		case !ch.open && ch != (channel{}), i == 0 && !ch.open:
			t.Fatalf("channel %d: %+v", i, ch)
		case ch.open && (ch.dir == nil || !ch.dir.isDir() || !ch.dir.within(c.memory.mf)):
			t.Fatalf("channel %d is nowhere", i)
		case ch.ef != nil && (ch.ef.isDir() || ch.ef.parent != ch.dir), ch.ef == nil && ch.record != 0:
			t.Fatalf("channel %d: EF not in the directory", i)
		case ch.ef != nil && ch.record != 0 && (ch.ef.kind == transparent || ch.record > ch.ef.records()):
			t.Fatalf("channel %d: record %d", i, ch.record)
		}
	}
	for i, p := range c.memory.pins {
		if p.tries > pinTries || p.pukTries > pukTries {
			t.Fatalf("PIN %d: %d tries, %d to unblock", i, p.tries, p.pukTries)
		}
	}
}

// Whatever a terminal sends, in whatever state the card is, it gets a status and no more data than it
// can take.
func FuzzTransmit(f *testing.F) {
	for _, s := range []string{
		"00b0000001", selMF, selAID, "00c0000000", "a0a40000027f20", "a088000010" + rand1,
		challenge(autn1), "80f2000000", "00b0870000", "ffffffffff", "00a4040400",
	} {
		f.Add(unhex(f, s), unhex(f, "00c0000000"))
		f.Add(unhex(f, selAID), unhex(f, s))
	}
	f.Add(bytes.Repeat([]byte{0xa0}, 260), bytes.Repeat([]byte{0}, 260))
	f.Fuzz(func(t *testing.T, one, two []byte) {
		c := newCard(t)
		for _, cmd := range [][]byte{one, two, unhex(t, "00c0000000"), one} {
			if len(cmd) < 5 || len(cmd) > 260 {
				return
			}
			before := bytes.Clone(cmd)
			r, err := c.Transmit(cmd, make([]byte, 0, 258))
			if err != nil {
				t.Fatal(err)
			}
			if !bytes.Equal(cmd, before) {
				t.Fatal("the command was changed")
			}
			checkAnswer(t, cmd, r)
		}
	})
}

// A script of commands that exist, each a channel and number in the table of instructions, P1, P2, P3 and
// data, with the responses fetched, keeps the card in its senses.
func FuzzSession(f *testing.F) {
	number := func(cla, ins byte) byte {
		for i, in := range instructions {
			if in.cla == cla && in.ins == ins {
				return byte(i)
			}
		}
		f.Fatalf("no instruction %02x %02x", cla, ins)
		return 0
	}
	script := func(cmds ...string) (s []byte) {
		for _, cmd := range cmds {
			b := unhex(f, cmd)
			cla := b[0]
			if cla != claGSM {
				cla &= 0x80
			}
			s = append(append(s, number(cla, b[1])|b[0]&3<<6), b[2:]...)
		}
		return s
	}
	f.Add(script(selAID, challenge(autn1), challenge(autn1), "00a4000c026f07", "00b0000009"))
	f.Add(script(selTelecom, selADN, "a0b200021c", "a0a200100141", "a0a40000026f44", "a0dc00031c"+strings.Repeat("31", 28)))
	f.Add(script("0070000001", "01a4000c027f20", "0170000001", "02a4000c026f39", "8232000003000102", "0070800100"))
	f.Add(script("8010000004"+profileAll, "8012000027", "801400000c"+menuDone, "80c2000009"+choose1, "8012000027"))
	f.Add(script("0020000108"+wrong, "0020000108"+right, "0024000110"+right+other, "002c000110"+puk+right, "0026000108"+right, "0028000108"+right))
	f.Add(script("00a4080c047f106f3a", "00a201060304"+"0141", "0004000000", "0044000000", "00d6000001ff", "00a2010601ff"))
	f.Fuzz(func(t *testing.T, s []byte) {
		c := pinCard(t)
		var buf [258]byte
		for len(s) >= 4 {
			in := instructions[int(s[0]&0x3f)%len(instructions)]
			cla := in.cla
			if cla != claGSM {
				cla |= s[0] >> 6
			}
			cmd := append([]byte{cla, in.ins}, s[1:4]...)
			s = s[4:]
			if !in.out {
				n := min(len(s), int(cmd[4]))
				cmd[4] = byte(n)
				cmd, s = append(cmd, s[:n]...), s[n:]
			}
			r, err := c.Transmit(cmd, buf[:0])
			if err != nil {
				t.Fatal(err)
			}
			checkAnswer(t, cmd, r)
			checkState(t, c)
			switch sw1, sw2 := r[len(r)-2], r[len(r)-1]; sw1 {
			case 0x61, 0x9f:
				// What was promised is there.
				cmd = []byte{cla, insGetResponse, 0, 0, sw2}
				if r, err = c.Transmit(cmd, buf[:0]); err != nil || len(r) == 2 {
					t.Fatalf("% x: % x, %v", cmd, r, err)
				}
				checkAnswer(t, cmd, r)
			case 0x6c:
				cmd[4] = sw2
				if r, err = c.Transmit(cmd, buf[:0]); err != nil || len(r) == 2 {
					t.Fatalf("% x: % x, %v", cmd, r, err)
				}
				checkAnswer(t, cmd, r)
			}
		}
	})
}
