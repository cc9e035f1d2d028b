// SPDX-License-Identifier: GPL-2.0-or-later

package link_test

import (
	"context"
	"io"
	"net"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

func TestIdentify(t *testing.T) {
	// answers serves as a C program does: PONG, and what becomes of an ID_GET.
	answers := func(idGet func(net.Conn)) func(context.Context, net.Conn) {
		return func(_ context.Context, nc net.Conn) {
			for r := ipa.NewReader(nc); ; {
				_, b, err := r.Next()
				switch {
				case err != nil:
					return
				case ipa.Type(b[0]) == ipa.Ping:
					nc.Write(ipa.AppendCCM(ipa.AppendCCM(nil, ipa.Ping), ipa.Pong))
				case ipa.Type(b[0]) == ipa.IDGet:
					idGet(nc)
				default:
					t.Errorf("got %v", ipa.Type(b[0]))
				}
			}
		}
	}
	writes := func(s string) func(context.Context, net.Conn) {
		return func(_ context.Context, nc net.Conn) {
			io.WriteString(nc, s)
			io.Copy(io.Discard, nc)
		}
	}
	at := netip.MustParseAddrPort("10.0.0.2:9998")
	for _, tc := range []struct {
		name  string
		serve func(context.Context, net.Conn)
		want  link.Sighting
		err   string
		took  time.Duration
	}{
		{"one of ours", func(ctx context.Context, nc net.Conn) {
			logger := logrus.New()
			logger.Out = io.Discard
			id := rspro.ComponentIdentity{Type: rspro.Bankd, Name: "host", SWVersion: "1.2"}
			handle := func(_ *link.Conn, p rspro.PDU) { t.Errorf("got %v", p.Msg.Choice()) }
			link.New(nc, link.Options{Listener: true, Identity: id, Handle: handle, Log: logrus.NewEntry(logger)}).Run(ctx)
		}, link.Sighting{Addr: at, Known: true, Type: rspro.Bankd, Name: "host", Version: "1.2"}, "", 0},
		{"C server", answers(func(nc net.Conn) { nc.Close() }), link.Sighting{Addr: at}, "", 0},
		{"C bankd", answers(func(net.Conn) {}), link.Sighting{Addr: at}, "", time.Second},
		{"bad answer", answers(func(nc net.Conn) { nc.Write([]byte{0, 2, 0xfe, 5, 0}) }), link.Sighting{}, "ID_RESP", 0},
		{"HTTP", writes("HTTP/1.1 400 Bad Request\r\n"), link.Sighting{}, "that looks like HTTP", 0},
		{"closes", func(context.Context, net.Conn) {}, link.Sighting{}, "it doesn't answer as RSPRO programs do: ", 0},
		{"mute", writes(""), link.Sighting{}, "it doesn't answer as RSPRO programs do: context deadline exceeded", 5 * time.Second},
		{"nobody", nil, link.Sighting{}, "refused", 0},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				n := testnet.New()
				near, far := n.Host("10.0.0.1"), n.Host("10.0.0.2")
				if tc.serve != nil {
					ctx, cancel := context.WithCancel(t.Context())
					defer cancel()
					ln, err := far.Listen(ctx, ":9998")
					if err != nil {
						t.Fatal(err)
					}
					go link.Serve(ctx, ln, logrus.NewEntry(logrus.New()), tc.serve)
				}
				start := time.Now()
				ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
				defer cancel()
				got, err := link.Identify(ctx, near, at.String())
				if took := time.Since(start); took != tc.took {
					t.Errorf("took %v, want %v", took, tc.took)
				}
				if tc.err != "" {
					if err == nil || !strings.Contains(err.Error(), tc.err) {
						t.Errorf("%+v, %v, want an error with %q", got, err, tc.err)
					}
					return
				}
				if err != nil || got != tc.want {
					t.Errorf("%+v, %v, want %+v", got, err, tc.want)
				}
			})
		})
	}
}
