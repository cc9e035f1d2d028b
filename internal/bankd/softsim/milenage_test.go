// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"crypto/aes"
	"crypto/subtle"
	"encoding/hex"
	"testing"
)

// unhex decodes a literal of a test.
func unhex(t testing.TB, s string) []byte {
	t.Helper()
	b, err := hex.DecodeString(s)
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func block16(t testing.TB, s string) [16]byte { return [16]byte(unhex(t, s)) }

// milenageSets are published test data of the algorithm: sets 1 to 6 of 3GPP TS 35.207 clauses
// 4 to 6, which TS 35.208 repeats, and one more of the latter.
var milenageSets = []struct {
	k, rand, sqn, amf, op, opc         string
	f1, f1star, f2, f5, f3, f4, f5star string
	sres, kc                           string // 3GPP TS 55.205, where it has the set
}{
	{
		k: "465b5ce8b199b49faa5f0a2ee238a6bc", rand: "23553cbe9637a89d218ae64dae47bf35", sqn: "ff9bb4d0b607", amf: "b9b9",
		op: "cdc202d5123e20f62b6d676ac72cb318", opc: "cd63cb71954a9f4e48a5994e37a02baf",
		f1: "4a9ffac354dfafb3", f1star: "01cfaf9ec4e871e9", f2: "a54211d5e3ba50bf", f5: "aa689c648370",
		f3: "b40ba9a3c58b2a05bbf0d987b21bf8cb", f4: "f769bcd751044604127672711c6d3441", f5star: "451e8beca43b",
		sres: "46f8416a", kc: "eae4be823af9a08b",
	},
	{
		k: "0396eb317b6d1c36f19c1c84cd6ffd16", rand: "c00d603103dcee52c4478119494202e8", sqn: "fd8eef40df7d", amf: "af17",
		op: "ff53bade17df5d4e793073ce9d7579fa", opc: "53c15671c60a4b731c55b4a441c0bde2",
		f1: "5df5b31807e258b0", f1star: "a8c016e51ef4a343", f2: "d3a628ed988620f0", f5: "c47783995f72",
		f3: "58c433ff7a7082acd424220f2b67c556", f4: "21a8c1f929702adb3e738488b9f5c5da", f5star: "30f1197061c1",
	},
	{
		k: "fec86ba6eb707ed08905757b1bb44b8f", rand: "9f7c8d021accf4db213ccff0c7f71a6a", sqn: "9d0277595ffc", amf: "725c",
		op: "dbc59adcb6f9a0ef735477b7fadf8374", opc: "1006020f0a478bf6b699f15c062e42b3",
		f1: "9cabc3e99baf7281", f1star: "95814ba2b3044324", f2: "8011c48c0c214ed2", f5: "33484dc2136b",
		f3: "5dbdbb2954e8f3cde665b046179a5098", f4: "59a92d3b476a0443487055cf88b2307b", f5star: "deacdd848cc6",
		sres: "8c308a5e", kc: "aa01739b8caa976d",
	},
	{
		k: "9e5944aea94b81165c82fbf9f32db751", rand: "ce83dbc54ac0274a157c17f80d017bd6", sqn: "0b604a81eca8", amf: "9e09",
		op: "223014c5806694c007ca1eeef57f004f", opc: "a64a507ae1a2a98bb88eb4210135dc87",
		f1: "74a58220cba84c49", f1star: "ac2cc74a96871837", f2: "f365cd683cd92e96", f5: "f0b9c08ad02e",
		f3: "e203edb3971574f5a94b0d61b816345d", f4: "0c4524adeac041c4dd830d20854fc46b", f5star: "6085a86c6f63",
		sres: "cfbce3fe", kc: "9a8ec95f408cc507",
	},
	{
		k: "4ab1deb05ca6ceb051fc98e77d026a84", rand: "74b0cd6031a1c8339b2b6ce2b8c4a186", sqn: "e880a1b580b6", amf: "9f07",
		op: "2d16c5cd1fdf6b22383584e3bef2a8d8", opc: "dcf07cbd51855290b92a07a9891e523e",
		f1: "49e785dd12626ef2", f1star: "9e85790336bb3fa2", f2: "5860fc1bce351e7e", f5: "31e11a609118",
		f3: "7657766b373d1c2138f307e3de9242f9", f4: "1c42e960d89b8fa99f2744e0708ccb53", f5star: "fe2555e54aa9",
		sres: "9655e265", kc: "cdc1dc0841b81a22",
	},
	{
		k: "6c38a116ac280c454f59332ee35c8c4f", rand: "ee6466bc96202c5a557abbeff8babf63", sqn: "414b98222181", amf: "4464",
		op: "1ba00a1a7c6700ac8c3ff3e96ad08725", opc: "3803ef5363b947c6aaa225e58fae3934",
		f1: "078adfb488241a57", f1star: "80246b8d0186bcf1", f2: "16c8233f05a0ac28", f5: "45b0f69ab06c",
		f3: "3f8c7587fe8e4b233af676aede30ba3b", f4: "a7466cc1e6b2a1337d49d3b66e95d7b4", f5star: "1f53cd2b1113",
		sres: "13688f17", kc: "df75bc5ea899879f",
	},
	{
		k: "2d609d4db0ac5bf0d2c0de267014de0d", rand: "194aa756013896b74b4a2a3b0af4539e", sqn: "6bf69438c2e4", amf: "5f67",
		op: "460a48385427aa39264aac8efc9e73e8", opc: "c35a0ab0bcbfc9252caff15f24efbde0",
		f1: "bd07d3003b9e5cc3", f1star: "bcb6c2fcad152250", f2: "8c25a16cd918a1df", f5: "7e6455f34cf3",
		f3: "4cd0846020f8fa0731dd47cbdc6be411", f4: "88ab80a415f15c73711254a1d388f696", f5star: "dc6dd01e8f15",
		sres: "553d00b3", kc: "84b417ae3aeab4f3",
	},
}

func TestMilenage(t *testing.T) {
	for _, s := range milenageSets {
		t.Run(s.k, func(t *testing.T) {
			check := func(name string, got []byte, want string) {
				t.Helper()
				if h := hex.EncodeToString(got); h != want {
					t.Errorf("%s = %s, want %s", name, h, want)
				}
			}
			// OPc = E[OP] xor OP: the data is of one piece.
			k, op := block16(t, s.k), unhex(t, s.op)
			block, err := aes.NewCipher(k[:])
			if err != nil {
				t.Fatal(err)
			}
			var opc [16]byte
			block.Encrypt(opc[:], op)
			subtle.XORBytes(opc[:], opc[:], op)
			check("OPc", opc[:], s.opc)

			m := newMilenage(k, opc)
			var v vector
			var out [16]byte
			m.answer(unhex(t, s.rand), &v)
			check("f2", v.res[:], s.f2)
			check("f3", v.ck[:], s.f3)
			check("f4", v.ik[:], s.f4)
			check("f5", v.ak[:], s.f5)
			m.f1(unhex(t, s.sqn), unhex(t, s.amf), &out)
			check("f1", out[:8], s.f1)
			check("f1*", out[8:], s.f1star)
			m.out(12, 8, &out)
			check("f5*", out[:6], s.f5star)
			if s.sres != "" {
				sres, kc := v.sres(), v.kc()
				check("SRES", sres[:], s.sres)
				check("Kc", kc[:], s.kc)
			}
		})
	}
}
