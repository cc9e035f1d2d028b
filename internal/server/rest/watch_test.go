// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"context"
	"io"
	"net/http"
	"net/http/httptest"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/server"
)

// Requests are told by their routes, whatever paths clients make up, and event streams aren't; what is served for those who watch stands beside the
// API, for GET only.
func TestWatch(t *testing.T) {
	type request struct {
		method, route string
		status        int
	}
	var told []request
	log := logrus.New()
	log.SetOutput(io.Discard)
	h := handler(server.NewState(), logrus.NewEntry(log), nil, Watch{
		Paths: map[string]http.Handler{"/metrics": http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { io.WriteString(w, "all is well") })},
		Observe: func(method, route string, status int, took time.Duration) {
			if took < 0 || took > time.Minute {
				t.Errorf("%s %s took %v", method, route, took)
			}
			told = append(told, request{method, route, status})
		},
	})
	for _, tt := range []struct {
		method, path, body string
		status             int
		route              string
		untold             bool
	}{
		{"GET", "/metrics", "", 200, "/metrics", false},
		{"POST", "/metrics", "", 404, "", false},
		{"GET", "/api/v2/slotmaps", "", 200, "/api/v2/slotmaps", false},
		{"GET", "/api/v2/slotmaps/", "", 200, "/api/v2/slotmaps", false},
		{"GET", "/api/v2/slotmaps/B1:5", "", 404, "/api/v2/slotmaps/{slot}", false},
		{"GET", "/api/v2/slotmaps/nonsense", "", 400, "/api/v2/slotmaps/{slot}", false},
		{"GET", "/api/backend/v1/slotmaps", "", 200, "/api/backend/v1/slotmaps", false},
		{"DELETE", "/api/backend/v1/slotmaps/65541", "", 404, "/api/backend/v1/slotmaps/{slotmap}", false},
		{"GET", "/api/v2/made-up", "", 404, "", false},
		{"GET", "/api/v2/made/up", "", 404, "", false},
		{"GET", "/made-up", "", 404, "", false},
		{"MAKEUP", "/api/v2/slotmaps", "", 404, "", false},
		{"GET", "/api/v2/events", "", 200, "", true},
	} {
		ctx, cancel := context.WithCancel(t.Context())
		if tt.untold {
			cancel()
		}
		r := httptest.NewRequestWithContext(ctx, tt.method, tt.path, strings.NewReader(tt.body))
		w := httptest.NewRecorder()
		told = nil
		h.ServeHTTP(w, r)
		cancel()
		if w.Code != tt.status {
			t.Errorf("%s %s: status %d, want %d", tt.method, tt.path, w.Code, tt.status)
		}
		var want []request
		switch {
		case tt.untold:
		case tt.route == "":
			want = []request{{"", "", tt.status}}
		default:
			want = []request{{tt.method, tt.route, tt.status}}
		}
		if !slices.Equal(told, want) {
			t.Errorf("%s %s: told %v, want %v", tt.method, tt.path, told, want)
		}
	}
}
