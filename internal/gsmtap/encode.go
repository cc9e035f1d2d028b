// SPDX-License-Identifier: GPL-2.0-or-later

package gsmtap

import "encoding/binary"

// A kind is the sub type of a GSMTAP packet of type SIM.
type kind uint8

const (
	kindAPDU    kind = 0
	kindATR     kind = 1
	kindPPSReq  kind = 2
	kindPPSResp kind = 3
)

// maxPayload is room for the longest T=0 command, 5 bytes and 255 of data, and the longest
// response, 256 bytes and SW1 SW2. What is longer is no APDU, and cut.
const maxPayload = 260 + 258

// Lengths of the headers, in the order they stand in a file.
const (
	recordLen = 16 // pcap
	ipLen     = 20 // IPv4 without options
	udpLen    = 8
	gsmtapLen = 16
	headerLen = recordLen + ipLen + udpLen + gsmtapLen
)

// firstPort is the UDP source port of slot 0 in files.
const firstPort = 10000

// fileHeader begins a pcap file: microseconds, little-endian, version 2.4, times in UTC, any
// length, link type RAW (228: IPv4).
var fileHeader = [24]byte{0xd4, 0xc3, 0xb2, 0xa1, 2, 0, 4, 0, 16: 0xff, 0xff, 0, 0, 228}

// encode writes p to buf as a record of a pcap file. Its last part, from the GSMTAP
// header on, is the datagram for a receiver.
func encode(buf *[headerLen + maxPayload]byte, p *packet) []byte {
	b := buf[:headerLen+p.n]
	clear(b[:headerLen])

	record, ip := b[:recordLen], b[recordLen:]
	binary.LittleEndian.PutUint32(record[0:], uint32(p.at.Unix()))
	binary.LittleEndian.PutUint32(record[4:], uint32(p.at.Nanosecond()/1000))
	binary.LittleEndian.PutUint32(record[8:], uint32(len(ip)))
	binary.LittleEndian.PutUint32(record[12:], uint32(len(ip)))

	// RFC 791: version 4, 5 words, length, don't fragment, time to live, UDP.
	udp := ip[ipLen:]
	ip[0] = 0x45
	binary.BigEndian.PutUint16(ip[2:], uint16(len(ip)))
	ip[6], ip[8], ip[9] = 0x40, 64, 17
	copy(ip[12:], []byte{127, 0, 0, 1, 127, 0, 0, 1})
	binary.BigEndian.PutUint16(ip[10:], checksum(ip[:ipLen]))

	// RFC 768: ports, length, no checksum.
	binary.BigEndian.PutUint16(udp[0:], firstPort+p.slot)
	binary.BigEndian.PutUint16(udp[2:], Port)
	binary.BigEndian.PutUint16(udp[4:], uint16(len(udp)))

	// GSMTAP: version 2, 4 words, type SIM, zeros but for the sub type.
	tap := udp[udpLen:]
	tap[0], tap[1], tap[2], tap[12] = 2, gsmtapLen/4, 4, byte(p.kind)
	copy(tap[gsmtapLen:], p.data[:p.n])
	return b
}

// checksum is that of RFC 1071 for an even number of bytes.
func checksum(b []byte) uint16 {
	var sum uint32
	for i := 0; i < len(b); i += 2 {
		sum += uint32(binary.BigEndian.Uint16(b[i:]))
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return ^uint16(sum)
}
