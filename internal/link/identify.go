// SPDX-License-Identifier: GPL-2.0-or-later

package link

import (
	"context"
	"fmt"
	"net/netip"
	"time"

	"remsim/internal/ipa"
	"remsim/internal/rspro"
)

// A Sighting is what Identify has found.
type Sighting struct {
	Addr netip.AddrPort // that answered
	// Known says that it is one of our programs; C programs don't tell.
	Known bool
	// Type is the component, Name and Version its own, as in its RSPRO identity. Only if Known.
	Type          rspro.ComponentType
	Name, Version string
}

// tellWithin is how long a peer has to say who it is; C bankds pass over the question.
const tellWithin = time.Second

// listening is what a listener says of itself. The type is that of the component.
func listening(id rspro.ComponentIdentity) ipa.Identity {
	return ipa.Identity{ipa.UnitName: id.Name, ipa.UnitType: id.Type.String(), ipa.SoftwareVersion: id.SWVersion}
}

// Identify finds out what listens at addr, HOST:PORT, without being anybody there: it sends no RSPRO message. The error
// says why nothing that can speak RSPRO was found.
func Identify(ctx context.Context, n Network, addr string) (s Sighting, err error) {
	nc, err := dial(ctx, n, addr)
	if err != nil {
		return s, err
	}
	defer nc.Close()
	defer context.AfterFunc(ctx, func() { nc.Close() })()
	if a, err := netip.ParseAddrPort(nc.RemoteAddr().String()); err == nil {
		s.Addr = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
	}
	r := ipa.NewReader(nc)
	// await reads until a message of that type comes.
	await := func(want ipa.Type) ([]byte, error) {
		for {
			stream, b, err := r.Next()
			if err != nil {
				if ctx.Err() != nil {
					err = context.Cause(ctx)
				}
				return nil, err
			}
			if stream == ipa.CCM && ipa.Type(b[0]) == want {
				return b, nil
			}
		}
	}
	_, err = nc.Write(ipa.AppendCCM(nil, ipa.Ping))
	if err == nil {
		_, err = await(ipa.Pong)
	}
	if err != nil {
		return s, fmt.Errorf("it doesn't answer as RSPRO programs do: %w", streamError(err))
	}
	// Who closes the connection at this question is a C server.
	if err := nc.SetReadDeadline(time.Now().Add(tellWithin)); err != nil {
		return s, err
	}
	if _, err := nc.Write(ipa.AppendIDGet(nil, ipa.UnitName, ipa.UnitType, ipa.SoftwareVersion)); err != nil {
		return s, nil
	}
	b, err := await(ipa.IDResp)
	switch {
	case err != nil && ctx.Err() == nil:
		return s, nil
	case err != nil:
		return s, err
	}
	who, err := ipa.ParseIDResp(b)
	if err != nil {
		return s, err
	}
	s.Name, s.Version = who[ipa.UnitName], who[ipa.SoftwareVersion]
	for _, t := range []rspro.ComponentType{rspro.Client, rspro.Server, rspro.Bankd} {
		if who[ipa.UnitType] == t.String() {
			s.Type, s.Known = t, true
		}
	}
	return s, nil
}
