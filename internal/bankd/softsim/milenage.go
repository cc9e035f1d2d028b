// SPDX-License-Identifier: GPL-2.0-or-later

package softsim

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/subtle"
)

// milenage is the algorithm set of 3GPP TS 35.206 for one subscriber. It works in
// scratch of its own, so that nothing is allocated for a command; one goroutine
// uses it at a time.
type milenage struct {
	block cipher.Block // AES-128 with K
	opc   [16]byte
	temp  [16]byte // TEMP of TS 35.206 4.1 for the last RAND
	x     [16]byte
}

// newMilenage makes the algorithm set for a key K and an operator variant OPc.
func newMilenage(k, opc [16]byte) *milenage {
	block, err := aes.NewCipher(k[:])
	if err != nil {
		panic(err) // 16 bytes are always a key
	}
	return &milenage{block: block, opc: opc}
}

// start computes TEMP = E[RAND xor OPc], from which all functions of a challenge start.
func (m *milenage) start(rand []byte) {
	subtle.XORBytes(m.x[:], rand[:16], m.opc[:])
	m.block.Encrypt(m.temp[:], m.x[:])
}

// f1 computes MAC-A (f1) and MAC-S (f1*), which are OUT1, r1 = 64, c1 = 0.
func (m *milenage) f1(sqn, amf []byte, out *[16]byte) {
	for i := range 8 {
		b := byte(0)
		if i < 6 {
			b = sqn[i]
		} else {
			b = amf[i-6]
		}
		// IN1 holds SQN and AMF twice: its rotation by 64 bits is itself.
		m.x[i], m.x[i+8] = b^m.opc[i+8]^m.temp[i], b^m.opc[i]^m.temp[i+8]
	}
	m.block.Encrypt(out[:], m.x[:])
	subtle.XORBytes(out[:], out[:], m.opc[:])
}

// out computes OUTn = E[rot(TEMP xor OPc, r) xor c] xor OPc with r given in bytes:
// OUT2 (0, 1) is f5 in bytes 0..5 and f2 in bytes 8..15, OUT3 (4, 2) is f3,
// OUT4 (8, 4) is f4, OUT5 (12, 8) is f5* in bytes 0..5 (TS 35.206 4.1).
func (m *milenage) out(r int, c byte, out *[16]byte) {
	for i := range 16 {
		j := (i + r) % 16
		m.x[i] = m.temp[j] ^ m.opc[j]
	}
	m.x[15] ^= c
	m.block.Encrypt(out[:], m.x[:])
	subtle.XORBytes(out[:], out[:], m.opc[:])
}

// A vector is what a card answers to a challenge.
type vector struct {
	ak      [6]byte  // f5
	res     [8]byte  // f2
	ck, ik  [16]byte // f3, f4
	scratch [16]byte
}

// answer computes f2, f3, f4 and f5 for a challenge of 16 bytes.
func (m *milenage) answer(rand []byte, v *vector) {
	m.start(rand)
	m.out(0, 1, &v.scratch)
	copy(v.ak[:], v.scratch[:6])
	copy(v.res[:], v.scratch[8:])
	m.out(4, 2, &v.ck)
	m.out(8, 4, &v.ik)
}

// sres is RES folded to 4 bytes: conversion function c2 of TS 33.102 6.8.1.2,
// SRES #1 of TS 55.205.
func (v *vector) sres() (s [4]byte) {
	subtle.XORBytes(s[:], v.res[:4], v.res[4:])
	return s
}

// kc is CK and IK folded to 8 bytes: conversion function c3 of TS 33.102 6.8.1.2.
func (v *vector) kc() (kc [8]byte) {
	for i := range kc {
		kc[i] = v.ck[i] ^ v.ck[i+8] ^ v.ik[i] ^ v.ik[i+8]
	}
	return kc
}
