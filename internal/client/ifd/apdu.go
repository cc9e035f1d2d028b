// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import "fmt"

// Lengths of a command APDU in short form (ISO 7816-3 12.1.3): the header alone, and one with 255 bytes
// of data and Le.
const (
	MinAPDU = 4
	MaxAPDU = 261
)

// maxATR is the length of the longest ATR (ISO 7816-3 8.2.1), and that of pcscd's buffers.
const maxATR = 33

// toTPDU returns the T=0 command TPDU of a command APDU (ISO 7816-3 12.2): in case 1 P3 is 00, and in case 4
// Le isn't sent, as the card says by 61xx or 9Fxx what it has. Applications of a T=0 reader ask for that
// themselves, so that status words are theirs to judge. An APDU of extended length has no TPDU here.
func toTPDU(apdu []byte) ([]byte, error) {
	n := len(apdu)
	switch {
	case n < MinAPDU || n > MaxAPDU:
		return nil, fmt.Errorf("command of %d bytes: want %d..%d", n, MinAPDU, MaxAPDU)
	case n == MinAPDU: // case 1
		return append(apdu[:n:n], 0), nil
	case n == MinAPDU+1: // case 2
		return apdu, nil
	}
	lc := int(apdu[4])
	switch {
	case lc == 0:
		return nil, fmt.Errorf("command of %d bytes with Lc 00: want one of short length", n)
	case n == MinAPDU+1+lc: // case 3
		return apdu, nil
	case n == MinAPDU+2+lc: // case 4
		return apdu[:n-1], nil
	}
	return nil, fmt.Errorf("command of %d bytes with Lc %02x: want %d, or %d with Le", n, lc, MinAPDU+1+lc, MinAPDU+2+lc)
}
