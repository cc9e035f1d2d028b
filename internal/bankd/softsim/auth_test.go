// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import "testing"

// Challenges of test set 1 with AMF 0000 and other sequence numbers, and an answer to one that is stale, made
// from TS 35.206 4.1 and TS 33.102 6.3.3 with another AES.
const (
	sqn608  = "55f328b435780000b91109640067d14b" // ff9bb4d0b608
	sqn627  = "55f328b435570000da167c2ab0a17667" // ff9bb4d0b627
	sqn020  = "aa689c64835000002bb2bf2f1faba139" // 000000000020
	auts607 = "ba853f3c123ccf44e93596e355c6"     // the highest was ff9bb4d0b607
	success = "6135"
	resync  = "6110"
)

func challenge(autn string) string { return "0088008122" + "10" + rand1 + "10" + autn }

// A challenge is taken once, then the card tells where it is: TS 33.102 6.3.3, annex C; TS 31.102 7.1.2.1.
func TestResynchronisation(t *testing.T) {
	c := newCard(t)
	exchange(t, c, selAID, "6131", challenge(autn1), success,
		challenge(autn1), resync, "00c0000010", "dc0e"+auts607+"9000",
		challenge(sqn608), success, // same SEQ, another IND
		challenge(sqn608), resync,
		challenge(sqn627), success, challenge(autn1), resync,
		challenge(sqn020), success, // far behind, but the first of its IND: there is no limit of age
		challenge(autn1[:31]+"2"), "9862") // a wrong MAC tells nothing
	// It survives a reset.
	if err := c.Reset(true); err != nil {
		t.Fatal(err)
	}
	exchange(t, c, selAID, "6131", challenge(sqn627), resync)
}

// A profile says where the card is, and thus what is too high: TS 33.102 annex C.2.1.
func TestStart(t *testing.T) {
	for _, tt := range []struct {
		sqn  uint64
		want string
	}{
		{0, success}, {0xff9bb4d0b5ff, success}, {0xff9bb4d0b600, resync}, {0xff9bb4d0b607, resync}, {0xffffffffffff, resync},
		{0xff9bb4d0b607 - maxJump<<5, success}, {0xff9bb4d0b607 - (maxJump+1)<<5, resync}, {1, resync},
	} {
		c := New(Profile{ICCID: testICCID, IMSI: testIMSI, Ki: testKi, OPc: testOPc, SQN: tt.sqn})
		exchange(t, c, selAID, "6131")
		if got := send(t, c, challenge(autn1)); got != tt.want {
			t.Errorf("after %012x: %s, want %s", tt.sqn, got, tt.want)
		}
	}
}

// Sequence numbers in and out of order: TS 33.102 annex C.2.2.
func TestSequence(t *testing.T) {
	sqn := func(seq, ind uint64) uint64 { return seq<<indBits | ind }
	s := newSequence(0)
	for i, tt := range []struct {
		sqn  uint64
		want bool
	}{
		{sqn(0, 3), false}, {sqn(1000, 3), true}, {sqn(1000, 3), false}, {sqn(999, 3), false}, {sqn(999, 4), true},
		{sqn(1000, 4), true}, {sqn(1, 31), true}, {sqn(1, 31), false}, {sqn(1000+maxJump, 3), true}, {sqn(1001+2*maxJump, 0), false},
		{sqn(1000+2*maxJump, 0), true}, {sqn(1001, 3), false}, {sqn(1001, 5), true},
	} {
		if got := s.accept(tt.sqn); got != tt.want {
			t.Errorf("%d: SEQ %d, IND %d: %t", i, tt.sqn>>indBits, tt.sqn%(1<<indBits), got)
		}
	}
	if want := sqn(1000+2*maxJump, 0); s.last != want {
		t.Errorf("highest %x, want %x", s.last, want)
	}
}

// The application and all below it can authenticate, nothing else: TS 31.102 7.1.1.1.
func TestAuthenticatePlace(t *testing.T) {
	exchange(t, newCard(t), challenge(autn1), "6985", selAID, "6131", "00a4000c025f3b", "9000", challenge(autn1), success,
		"00a4000c024f20", "9000", challenge(sqn608), success, "00a4000c023f00", "9000", challenge(sqn627), "6985",
		"00a40804047fff5f3b", "611f", challenge(sqn627), success)
}
