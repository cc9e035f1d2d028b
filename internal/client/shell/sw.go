// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"fmt"
	"strings"
)

// A meaning is what the status words with these bits mean. A %d in the text stands for the number
// in the bits that the mask leaves out.
type meaning struct {
	sw, mask uint16
	text     string
}

// meanings of status words; the first that matches counts. SIMs of TS 51.011 and UICCs of TS 102 221
// contradict each other nowhere but at 92XX.
var meanings = [...]meaning{
	// TS 102 221 10.2.1.1, TS 51.011 9.4.1 (normal), TS 102 221 7.3.1.1.4 (61XX, 6CXX: T=0).
	{0x9000, 0xffff, "done"},
	{0x9100, 0xff00, "done; a proactive command of %d bytes waits for FETCH"},
	{0x9e00, 0xff00, "data download failed; %d bytes wait for GET RESPONSE"},
	{0x9f00, 0xff00, "done; %d bytes wait for GET RESPONSE"},
	{0x6100, 0xffff, "done; 256 bytes wait for GET RESPONSE"},
	{0x6100, 0xff00, "done; %d bytes wait for GET RESPONSE"},
	{0x6c00, 0xffff, "wrong length; right is 256 (as 00)"},
	{0x6c00, 0xff00, "wrong length; right is %d"},
	// TS 51.011 9.4.3 (memory), then TS 102 221 10.2.1.1.
	{0x9240, 0xffff, "memory problem"},
	{0x9200, 0xffff, "done"},
	{0x9200, 0xfff0, "done after %d internal retries"},
	{0x9200, 0xff00, "done; a data transfer session goes on"},
	// TS 102 221 10.2.1.2, TS 51.011 9.4.2 (postponed).
	{0x9300, 0xffff, "toolkit is busy, try again later"},
	// TS 102 221 10.2.1.3 (warnings).
	{0x6200, 0xffff, "warning; nothing was changed"},
	{0x6281, 0xffff, "part of the data may be corrupted"},
	{0x6282, 0xffff, "end of file or record came early, or nothing was found"},
	{0x6283, 0xffff, "file is deactivated"},
	{0x6285, 0xffff, "file is terminated"},
	{0x62f1, 0xffff, "more data available"},
	{0x62f2, 0xffff, "more data available; a proactive command waits, too"},
	{0x62f3, 0xffff, "response data available"},
	{0x63f1, 0xffff, "more data expected"},
	{0x63f2, 0xffff, "more data expected; a proactive command waits, too"},
	{0x63c0, 0xffff, "wrong PIN, no try left"},
	{0x63c0, 0xfff0, "wrong PIN with %d tries left, or done after as many internal retries"},
	// TS 102 221 10.2.1.4 (execution).
	{0x6400, 0xffff, "failed; nothing was changed"},
	{0x6500, 0xffff, "failed; something was changed"},
	{0x6581, 0xffff, "memory problem"},
	// TS 102 221 10.2.1.5, TS 51.011 9.4.6 (checking).
	{0x6700, 0xffff, "wrong length"},
	{0x6700, 0xff00, "wrong length; right is %d"},
	{0x6b00, 0xff00, "wrong P1 or P2"},
	{0x6d00, 0xff00, "instruction not supported"},
	{0x6e00, 0xff00, "class not supported"},
	{0x6f00, 0xff00, "technical problem"},
	// TS 102 221 10.2.1.5.1 (functions of the class byte).
	{0x6800, 0xffff, "function of the class byte not supported"},
	{0x6881, 0xffff, "logical channel not supported"},
	{0x6882, 0xffff, "secure messaging not supported"},
	// TS 102 221 10.2.1.5.2 (not allowed).
	{0x6900, 0xffff, "not allowed"},
	{0x6981, 0xffff, "command doesn't fit the file's structure"},
	{0x6982, 0xffff, "access condition not fulfilled"},
	{0x6983, 0xffff, "PIN or authentication is blocked"},
	{0x6984, 0xffff, "referenced data is deactivated"},
	{0x6985, 0xffff, "conditions of use not fulfilled"},
	{0x6986, 0xffff, "no EF is selected"},
	{0x6989, 0xffff, "a secure channel is needed"},
	// TS 102 221 10.2.1.5.3 (parameters).
	{0x6a80, 0xffff, "wrong command data"},
	{0x6a81, 0xffff, "function not supported"},
	{0x6a82, 0xffff, "file not found"},
	{0x6a83, 0xffff, "record not found"},
	{0x6a84, 0xffff, "not enough memory"},
	{0x6a86, 0xffff, "wrong P1 or P2"},
	{0x6a87, 0xffff, "P3 doesn't fit P1 and P2"},
	{0x6a88, 0xffff, "referenced data not found"},
	// TS 51.011 9.4.4 (referencing).
	{0x9400, 0xffff, "no EF is selected"},
	{0x9402, 0xffff, "out of range"},
	{0x9404, 0xffff, "file or pattern not found"},
	{0x9408, 0xffff, "command doesn't fit the file's type"},
	// TS 51.011 9.4.5, TS 102 221 10.2.1.6, TS 31.102 7.3.1 (security, application).
	{0x9802, 0xffff, "there is no CHV"},
	{0x9804, 0xffff, "access condition not fulfilled, wrong CHV with tries left, or authentication failed"},
	{0x9808, 0xffff, "CHV's state doesn't allow that"},
	{0x9810, 0xffff, "file's invalidation doesn't allow that"},
	{0x9840, 0xffff, "CHV is blocked"},
	{0x9850, 0xffff, "largest value is reached"},
	{0x9862, 0xffff, "authentication failed: wrong MAC"},
	{0x9863, 0xffff, "security session has expired"},
	{0x9864, 0xffff, "authentication failed: security context not supported"},
	{0x9865, 0xffff, "authentication failed: key is not fresh"},
	{0x9866, 0xffff, "authentication failed: no memory"},
	{0x9867, 0xffff, "authentication failed: no memory in EF.MUK"},
}

// explainSW says in words what a status word means.
func explainSW(sw uint16) string {
	for _, m := range meanings {
		if sw&m.mask != m.sw {
			continue
		}
		if strings.Contains(m.text, "%d") {
			return fmt.Sprintf(m.text, sw&^m.mask)
		}
		return m.text
	}
	return "unknown status"
}

// An swError is a status that ends what was to be done.
type swError uint16

func (e swError) Error() string {
	return fmt.Sprintf("card answers %04x: %s", uint16(e), explainSW(uint16(e)))
}
