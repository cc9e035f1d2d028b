// SPDX-License-Identifier: GPL-2.0-or-later

package rspro

// An Error says why a PDU can't be encoded or decoded. Append and Decode return
// no other errors; take one apart with errors.As.
type Error struct {
	Op      string // "encode" or "decode"
	Message string // name as in the ASN.1 module; "RsproPDU" outside of any message
	Element string // path within Message, such as "slots[2].atr"; may be empty
	Rule    string // what is broken, such as "size is 56, want 1..55"
}

var _ error = (*Error)(nil)

// Error returns one line with all that is known.
func (e *Error) Error() string {
	s := "rspro: " + e.Op + " " + e.Message + ": "
	if e.Element != "" {
		s += e.Element + ": "
	}
	return s + e.Rule
}
