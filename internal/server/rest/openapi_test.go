// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"bytes"
	"encoding/json"
	"errors"
	"io"
	"net/http"
	"net/http/httptest"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"

	"github.com/getkin/kin-openapi/openapi3"
	"github.com/getkin/kin-openapi/openapi3filter"
	"github.com/getkin/kin-openapi/routers"
	"github.com/getkin/kin-openapi/routers/legacy"
	"github.com/go-chi/chi/v5"
	logtest "github.com/sirupsen/logrus/hooks/test"

	"remsim/internal/server"
)

// A contract is the OpenAPI document that a handler serves, as others read it.
type contract struct {
	doc    *openapi3.T
	router routers.Router
}

func readContract(t testing.TB, h http.Handler) *contract {
	t.Helper()
	w := do(h, "GET", v2Path+"/openapi.json", "")
	if w.Code != 200 || w.Header().Get("Content-Type") != "application/json" {
		t.Fatalf("openapi.json: %d %s", w.Code, w.Header())
	}
	doc, err := openapi3.NewLoader().LoadFromData(w.Body.Bytes())
	if err != nil {
		t.Fatal(err)
	}
	if err := doc.Validate(t.Context()); err != nil {
		t.Fatal(err)
	}
	r, err := legacy.NewRouter(doc)
	if err != nil {
		t.Fatal(err)
	}
	return &contract{doc, r}
}

// checked returns h with each answer of v2 checked against the OpenAPI document.
func checked(t testing.TB, h http.Handler) http.Handler {
	return readContract(t, h).checked(t, h)
}

func (c *contract) checked(t testing.TB, h http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if !strings.HasPrefix(r.URL.Path, v2Path+"/") {
			h.ServeHTTP(w, r)
			return
		}
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Fatal(err)
		}
		r.Body = io.NopCloser(bytes.NewReader(body))
		rec := httptest.NewRecorder()
		h.ServeHTTP(rec, r)
		c.check(t, r, body, rec)
		for k, v := range rec.Header() {
			w.Header()[k] = v
		}
		w.WriteHeader(rec.Code)
		w.Write(rec.Body.Bytes()) //nolint:errcheck // it is a recorder
	})
}

// check fails the test when an answer isn't as the document has it, and when one that isn't 400 is to a request that the document forbids.
func (c *contract) check(t testing.TB, r *http.Request, body []byte, w *httptest.ResponseRecorder) {
	t.Helper()
	r = r.Clone(r.Context())
	r.URL.Path = strings.TrimSuffix(r.URL.Path, "/")
	r.Body = io.NopCloser(bytes.NewReader(body))
	route, params, err := c.router.FindRoute(r)
	var unknown *routers.RouteError
	switch {
	case errors.As(err, &unknown):
		if w.Code != 404 && w.Code != 405 {
			t.Errorf("%s %s isn't in the document: %d", r.Method, r.URL.Path, w.Code)
		}
		var v any
		if err := json.Unmarshal(w.Body.Bytes(), &v); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		if err := c.conforms("Problem", v); err != nil {
			t.Errorf("%s %s: %v", r.Method, r.URL.Path, err)
		}
		return
	case err != nil:
		t.Fatal(err)
	}
	in := &openapi3filter.RequestValidationInput{Request: r, PathParams: params, Route: route}
	if err := openapi3filter.ValidateRequest(r.Context(), in); err != nil && w.Code < 300 {
		t.Errorf("%s %s %s: the document forbids it, the answer is %d: %v", r.Method, r.URL.Path, body, w.Code, err)
	}
	err = openapi3filter.ValidateResponse(r.Context(), &openapi3filter.ResponseValidationInput{
		RequestValidationInput: in, Status: w.Code, Header: w.Header(), Body: io.NopCloser(bytes.NewReader(w.Body.Bytes())),
		Options: &openapi3filter.Options{IncludeResponseStatus: true},
	})
	if err != nil {
		t.Errorf("%s %s: %d %s: %v", r.Method, r.URL.Path, w.Code, w.Body, err)
	}
}

// conforms checks a value against one of the document's schemas.
func (c *contract) conforms(schema string, v any) error {
	return c.doc.Components.Schemas[schema].Value.VisitJSON(v, openapi3.EnableJSONSchema2020())
}

func newHandler(state *server.State) http.Handler {
	log, _ := logtest.NewNullLogger()
	return Handler(state, log.WithField("cat", "DREST"))
}

// TestOpenAPI checks that the document is one of OpenAPI 3.1 and has each route of the router and no other.
func TestOpenAPI(t *testing.T) {
	h := newHandler(server.NewState())
	c := readContract(t, h)
	if c.doc.OpenAPI != "3.1.0" {
		t.Errorf("version %s", c.doc.OpenAPI)
	}
	var documented, routed []string
	ids := map[string]bool{}
	for path, item := range c.doc.Paths.Map() {
		for method, op := range item.Operations() {
			documented = append(documented, method+" "+v2Path+path)
			if ids[op.OperationID] || op.Summary == "" {
				t.Errorf("%s %s: operation id %q, summary %q", method, path, op.OperationID, op.Summary)
			}
			ids[op.OperationID] = true
		}
	}
	if err := chi.Walk(h.(chi.Routes), func(method, path string, _ http.Handler, _ ...func(http.Handler) http.Handler) error {
		if strings.HasPrefix(path, v2Path+"/") {
			routed = append(routed, method+" "+path)
		}
		return nil
	}); err != nil {
		t.Fatal(err)
	}
	slices.Sort(documented)
	slices.Sort(routed)
	if !slices.Equal(documented, routed) || len(routed) < 12 {
		t.Errorf("in the document:\n%s\nrouted:\n%s", strings.Join(documented, "\n"), strings.Join(routed, "\n"))
	}
	for name, s := range c.doc.Components.Schemas {
		for member, m := range s.Value.Properties {
			if m.Value.Description == "" && m.Extensions["description"] == nil && m.Ref == "" {
				t.Errorf("%s.%s: no description", name, member)
			}
		}
	}
}

// TestContractFails checks that the check of answers notices what is wrong.
func TestContractFails(t *testing.T) {
	c := readContract(t, newHandler(server.NewState()))
	const at = `"2000-01-01T00:00:00.000Z"`
	good := `{"bank":{"bankId":1,"slotNr":1},"client":{"clientId":23,"slotNr":0},"state":"NEW","createdAt":` + at + `,"changedAt":` + at +
		`,"deletedAt":null,"adopted":false,"owed":false,"lastError":null}`
	for body, ok := range map[string]bool{
		good: true,
		strings.Replace(good, `"NEW"`, `"OLD"`, 1):                             false,
		strings.Replace(good, `"deletedAt":null`, `"deletedAt":7`, 1):          false,
		strings.Replace(good, `"deletedAt":null,`, ``, 1):                      false,
		strings.Replace(good, `"deletedAt":null`, `"deletedAt":`+at, 1):        true,
		strings.Replace(good, `"adopted":false`, `"adopted":null`, 1):          false,
		strings.Replace(good, `"bankId":1`, `"bankId":1024`, 1):                false,
		strings.Replace(good, `"bankId":1`, `"bankId":-1`, 1):                  false,
		strings.Replace(good, `"bankId":1`, `"bankId":1,"x":1`, 1):             false,
		strings.Replace(good, `"adopted":false`, `"adopted":false,"new":1`, 1): true, // it grows
	} {
		var v any
		if err := json.Unmarshal([]byte(body), &v); err != nil {
			t.Fatal(err)
		}
		if err := c.conforms("Slotmap", v); (err == nil) != ok {
			t.Errorf("%s: %v", body, err)
		}
	}
}

// TestDocumented checks that doc/rest.md has each path and member of v2, and each type of event.
func TestDocumented(t *testing.T) {
	b, err := os.ReadFile("../../../doc/rest.md")
	if err != nil {
		t.Fatal(err)
	}
	text := string(b)
	c := readContract(t, newHandler(server.NewState()))
	for path, item := range c.doc.Paths.Map() {
		for method := range item.Operations() {
			short, _, _ := strings.Cut(path, "{")
			if method == http.MethodHead {
				short = "" // one line says it of all
			}
			if !strings.Contains(text, "`"+strings.TrimSpace(method+" "+short)) {
				t.Errorf("%s %s isn't in doc/rest.md", method, path)
			}
		}
	}
	for name, s := range c.doc.Components.Schemas {
		for member := range s.Value.Properties {
			if !strings.Contains(text, member) {
				t.Errorf("%s.%s isn't in doc/rest.md", name, member)
			}
		}
	}
	f, _ := reflect.TypeFor[EventV2]().FieldByName("Type")
	for _, e := range strings.Split(f.Tag.Get("enum"), ",") {
		if !strings.Contains(text, e) {
			t.Errorf("event %s isn't in doc/rest.md", e)
		}
	}
}
