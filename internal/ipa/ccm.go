// SPDX-License-Identifier: GPL-2.0-or-later

package ipa

import (
	"encoding/binary"
	"fmt"
	"strings"
)

// A Type is that of a CCM message, the first byte of its payload.
type Type byte

// The CCM messages that matter here. Others are to be ignored.
const (
	Ping   Type = 0x00 // to be answered with Pong at once
	Pong   Type = 0x01
	IDGet  Type = 0x04 // asks who somebody is; a TCP client answers with IDResp and IDAck, our listeners with IDResp
	IDResp Type = 0x05
	IDAck  Type = 0x06 // a listener answers it with IDAck
)

// String returns the message's name.
func (t Type) String() string {
	switch t {
	case Ping:
		return "PING"
	case Pong:
		return "PONG"
	case IDGet:
		return "ID_GET"
	case IDResp:
		return "ID_RESP"
	case IDAck:
		return "ID_ACK"
	}
	return fmt.Sprintf("CCM type %#02x", byte(t))
}

// A Tag names one item of an identity.
type Tag byte

// The items of an identity.
const (
	SerialNumber Tag = iota
	UnitName
	Location
	UnitType
	EquipmentVersion
	SoftwareVersion
	IPAddress
	MACAddress
	UnitID
)

// An Identity is what somebody says of itself, by Tag.
type Identity [UnitID + 1]string

// Unit returns what a client says of itself: that it is a unit without an address of its
// own, as C programs do. RSPRO identifies a peer by its connect request.
func Unit() Identity {
	return Identity{UnitName: "00-00-00-00-00-00", MACAddress: "00:00:00:00:00:00", UnitID: "0/0/0"}
}

// AppendCCM appends the frame of a CCM message without items.
func AppendCCM(dst []byte, t Type) []byte { return append(dst, 0, 1, byte(CCM), byte(t)) }

// AppendIDGet appends the frame of an ID_GET that asks for these items.
func AppendIDGet(dst []byte, tags ...Tag) []byte {
	dst = append(dst, 0, byte(1+2*len(tags)), byte(CCM), byte(IDGet))
	for _, t := range tags {
		dst = append(dst, 1, byte(t))
	}
	return dst
}

// AppendIDResp appends the ID_RESP frame that answers idGet, the payload of an
// ID_GET: the items of who that were asked for, in that order; tags that don't exist are left
// out. The error names what is wrong with idGet; dst is then returned as it was.
//
// An item of the question is a length byte that counts what follows, and the
// tag; one of the answer a length of 2 bytes that counts what follows, the tag,
// and a string with a NUL at its end.
func AppendIDResp(dst, idGet []byte, who Identity) ([]byte, error) {
	if len(idGet) == 0 || Type(idGet[0]) != IDGet {
		return dst, fmt.Errorf("ipa: not an ID_GET")
	}
	out := append(dst, 0, 0, byte(CCM), byte(IDResp))
	for items := idGet[1:]; len(items) > 0; {
		n := int(items[0])
		if n == 0 || n >= len(items) {
			return dst, fmt.Errorf("ipa: ID_GET: item of length %d with %d bytes left", n, len(items)-1)
		}
		if tag := items[1]; int(tag) < len(who) {
			s := who[tag]
			out = binary.BigEndian.AppendUint16(out, uint16(len(s)+2))
			out = append(out, tag)
			out = append(out, s...)
			out = append(out, 0)
		}
		items = items[1+n:]
	}
	if n := len(out) - len(dst); n > maxCCM {
		return dst, fmt.Errorf("ipa: ID_GET: the answer would take %d bytes, at most %d", n, maxCCM)
	}
	End(out[len(dst):])
	return out, nil
}

// ParseIDResp takes an ID_RESP's payload apart. Tags that don't exist are passed over.
func ParseIDResp(idResp []byte) (who Identity, err error) {
	if len(idResp) == 0 || Type(idResp[0]) != IDResp {
		return who, fmt.Errorf("ipa: not an ID_RESP")
	}
	for items := idResp[1:]; len(items) > 0; {
		if len(items) < 3 {
			return who, fmt.Errorf("ipa: ID_RESP: %d bytes are no item", len(items))
		}
		n := int(binary.BigEndian.Uint16(items))
		if n == 0 || n > len(items)-2 {
			return who, fmt.Errorf("ipa: ID_RESP: item of length %d with %d bytes left", n, len(items)-2)
		}
		if tag := items[2]; int(tag) < len(who) {
			who[tag] = strings.TrimRight(string(items[3:2+n]), "\x00")
		}
		items = items[2+n:]
	}
	return who, nil
}

// maxCCM is the longest CCM frame to be sent, since C programs close the connection on a
// longer one.
const maxCCM = 1024
