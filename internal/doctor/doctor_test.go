// SPDX-License-Identifier: GPL-2.0-or-later

package doctor_test

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"regexp"
	"strings"
	"testing"
	"testing/synctest"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/doctor"
	"remsim/internal/ipa"
	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func TestReport(t *testing.T) {
	var out bytes.Buffer
	r := doctor.New(&out, "program")
	r.Good("%d devices", 3)
	if err := r.Err(); err != nil {
		t.Error(err)
	}
	r.Bad(errors.New("broken"), "mend it")
	r.Bad(errors.New("lost"), "")
	if err := r.Err(); err == nil || err.Error() != "2 of 4 checks failed" {
		t.Error(err)
	}
	want := regexp.MustCompile(`^ok    program \S+, go1\S+\nok    3 devices\nFAIL  broken\n      → mend it\nFAIL  lost\n$`)
	if !want.MatchString(out.String()) {
		t.Errorf("report:\n%s", &out)
	}
}

func TestPeer(t *testing.T) {
	log := logrus.New()
	log.Out = io.Discard
	ours := func(is rspro.ComponentType) func(context.Context, net.Conn) {
		return func(ctx context.Context, nc net.Conn) {
			id := rspro.ComponentIdentity{Type: is, Name: "host", SWVersion: "1.2"}
			link.New(nc, link.Options{Listener: true, Identity: id, Log: logrus.NewEntry(log)}).Run(ctx)
		}
	}
	for _, tc := range []struct {
		name  string
		serve func(context.Context, net.Conn)
		want  []string
	}{
		{"right", ours(rspro.Server), []string{"ok    server 10.0.0.2:9998: remsim-server 1.2 on host host\n"}},
		{"wrong port", ours(rspro.Bankd), []string{"FAIL  server 10.0.0.2:9998: that is a remsim-bankd\n", "→ servers have port 9998"}},
		{"of the C suite", func(_ context.Context, nc net.Conn) {
			nc.Write(ipa.AppendCCM(nil, ipa.Pong))
			io.Copy(io.Discard, nc)
		}, []string{"ok    server 10.0.0.2:9998 answers as RSPRO programs do"}},
		{"hangs", func(_ context.Context, nc net.Conn) { io.Copy(io.Discard, nc) },
			[]string{"FAIL  server 10.0.0.2:9998: no answer within 5s\n", "→ is remsim-server running there"}},
		{"nobody", nil, []string{"FAIL  server 10.0.0.2:9998: ", "refused", "→ is remsim-server running there"}},
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
					go link.Serve(ctx, ln, logrus.NewEntry(log), tc.serve)
				}
				var out bytes.Buffer
				r := doctor.New(&out, "program")
				r.Peer(t.Context(), near, rspro.Server, "10.0.0.2:9998")
				bad := strings.HasPrefix(tc.want[0], "FAIL")
				if (r.Err() != nil) != bad {
					t.Errorf("error %v", r.Err())
				}
				for _, want := range tc.want {
					if !strings.Contains(out.String(), want) {
						t.Errorf("report lacks %q:\n%s", want, &out)
					}
				}
			})
		})
	}
}
