// SPDX-License-Identifier: GPL-2.0-or-later

// Package rspro holds the types and messages of RSPRO, the Remote SIM protocol
// (asn1/RSPRO.asn), and their BER encoding. It knows no network.
package rspro

import "errors"

// Append appends the DER encoding of p to dst and returns the longer slice. It
// allocates nothing when dst has room.
func (p PDU) Append(dst []byte) ([]byte, error) { return dst, errors.New("rspro: codec not built yet") }

// Decode reads one PDU that fills b. Byte slices of the message alias b.
func Decode(b []byte) (PDU, error) { return PDU{}, errors.New("rspro: codec not built yet") }

// Response returns the choice that answers the request c, and whether c is a
// request that has one.
func (c Choice) Response() (Choice, bool) { return 0, false }

// String returns the message's name as in the ASN.1 module, such as
// "connectBankReq", or "[N]" for an unknown one.
func (c Choice) String() string { return "" }
