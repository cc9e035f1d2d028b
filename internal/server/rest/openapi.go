// SPDX-License-Identifier: GPL-2.0-or-later

package rest

import (
	"encoding/json"
	"maps"
	"net/http"
	"reflect"
	"slices"
	"strconv"
	"strings"
)

// openAPI returns the OpenAPI 3.1 document of v2, made from its routes and the types of its bodies. In those a
// member's tags say the rest: doc is its description, enum the words it can be, minimum and maximum bound a number, pattern a
// string. A member that may be left out has omitempty; any other pointer may be null.
func openAPI(version string, routes []route) []byte {
	s := schemas{}
	paths := map[string]node{}
	for _, r := range routes {
		if paths[r.path] == nil {
			paths[r.path] = node{}
		}
		op := r.operation(s)
		paths[r.path][strings.ToLower(r.method)] = op
		if r.headed() {
			paths[r.path]["head"] = headOf(op)
		}
	}
	b, err := json.MarshalIndent(node{
		"openapi": "3.1.0",
		"info": node{
			"title":       "remsim-server",
			"version":     version,
			"description": "Shows which clients and bankds are connected, and takes the slot maps between them.",
			"license":     node{"name": "GPL-2.0-or-later", "identifier": "GPL-2.0-or-later"},
		},
		"servers":    []node{{"url": v2Base}},
		"paths":      paths,
		"components": node{"schemas": s},
	}, "", " ")
	if err != nil {
		panic(err) // our own types can't fail
	}
	return b
}

// A node is a JSON object.
type node = map[string]any

// operation describes a route.
func (r route) operation(s schemas) node {
	op := node{"operationId": r.id, "summary": r.summary}
	var params []node
	for _, p := range r.params {
		params = append(params, node{
			"name": p.name, "in": p.in, "description": p.doc, "required": p.in == "path",
			"schema": node{"type": "string"}, "example": p.example,
		})
	}
	if params != nil {
		op["parameters"] = params
	}
	if r.body != nil {
		op["requestBody"] = node{
			"required": true,
			"content":  node{"application/json": node{"schema": s.of(reflect.TypeOf(r.body))}},
		}
	}
	answers := node{}
	for _, a := range r.answers {
		answer := node{"description": a.doc}
		switch {
		case a.body == nil:
		case a.contentType == "":
			answer["content"] = node{"application/json": node{"schema": s.of(reflect.TypeOf(a.body))}}
		default: // what it is made of is said in words
			s.of(reflect.TypeOf(a.body))
			answer["content"] = node{a.contentType: node{"schema": node{"type": "string"}}}
		}
		if a.headers != nil {
			headers := node{}
			for name, doc := range a.headers {
				headers[name] = node{"description": doc, "required": true, "schema": node{"type": "string"}}
			}
			answer["headers"] = headers
		}
		answers[strconv.Itoa(a.status)] = answer
	}
	for _, status := range r.refusals() {
		answers[strconv.Itoa(status)] = node{
			"description": http.StatusText(status),
			"content":     node{problemType: node{"schema": s.of(reflect.TypeFor[problem]())}},
		}
	}
	op["responses"] = answers
	return op
}

// headOf describes HEAD where op is GET: the same without a body.
func headOf(op node) node {
	head := maps.Clone(op)
	head["operationId"] = op["operationId"].(string) + "Head"
	head["summary"] = op["summary"].(string) + "; the header alone"
	answers := node{}
	for status, a := range op["responses"].(node) {
		a := maps.Clone(a.(node))
		delete(a, "content")
		answers[status] = a
	}
	head["responses"] = answers
	return head
}

// schemas are the JSON schemas of the structures, by name.
type schemas map[string]node

// of returns the schema of a type.
func (s schemas) of(t reflect.Type) node {
	switch {
	case t == reflect.TypeFor[Time]():
		return node{"type": "string", "format": "date-time"}
	case t == reflect.TypeFor[json.RawMessage](), t.Kind() == reflect.Interface:
		return node{"type": []string{"array", "boolean", "null", "number", "object", "string"}} // not all readers take an empty schema for that
	}
	switch t.Kind() {
	case reflect.String:
		return node{"type": "string"}
	case reflect.Bool:
		return node{"type": "boolean"}
	case reflect.Int, reflect.Uint16, reflect.Uint64:
		return node{"type": "integer"}
	case reflect.Map:
		return node{"type": "object"}
	case reflect.Slice:
		return node{"type": "array", "items": s.of(t.Elem())}
	case reflect.Pointer:
		v := s.of(t.Elem())
		if kind, ok := v["type"]; ok {
			v["type"] = []any{kind, "null"}
			return v
		}
		return node{"anyOf": []node{v, {"type": "null"}}}
	case reflect.Struct:
		name := schemaName(t)
		if s[name] == nil {
			v := node{"type": "object"}
			s[name] = v // before its members, which may lead back to it
			props, required := node{}, []string{}
			s.members(t, props, &required)
			v["properties"] = props
			if len(required) > 0 {
				v["required"] = required
			}
			if _, ok := reflect.Zero(t).Interface().(interface{ closed() }); ok {
				v["additionalProperties"] = false
			}
		}
		return node{"$ref": "#/components/schemas/" + name}
	}
	panic("no schema for " + t.String())
}

// schemaName makes "Slotmap" of SlotmapV2 and "BankSlot" of bankSlot.
func schemaName(t reflect.Type) string {
	name := strings.TrimSuffix(t.Name(), "V2")
	return strings.ToUpper(name[:1]) + name[1:]
}

// members adds the members of a structure, those it embeds included.
func (s schemas) members(t reflect.Type, props node, required *[]string) {
	for f := range t.Fields() {
		if f.Anonymous {
			s.members(f.Type, props, required)
			continue
		}
		name, options, _ := strings.Cut(f.Tag.Get("json"), ",")
		optional := options == "omitempty"
		ft := f.Type
		if optional && ft.Kind() == reflect.Pointer {
			ft = ft.Elem()
		}
		v := s.of(ft)
		for _, key := range []string{"minimum", "maximum"} {
			if n, err := strconv.Atoi(f.Tag.Get(key)); err == nil {
				v[key] = n
			}
		}
		if p := f.Tag.Get("pattern"); p != "" {
			v["pattern"] = p
		}
		if ft.Kind() == reflect.Uint16 {
			v["minimum"] = 0
		}
		if words := f.Tag.Get("enum"); words != "" {
			enum := []any{}
			for _, w := range strings.Split(words, ",") {
				enum = append(enum, w)
			}
			if ft.Kind() == reflect.Pointer {
				enum = append(enum, nil)
			}
			v["enum"] = enum
		}
		v["description"] = f.Tag.Get("doc")
		props[name] = v
		if !optional {
			*required = append(*required, name)
		}
	}
}

// memberNames returns the names of the members of T as JSON.
func memberNames[T any]() []string {
	props := node{}
	schemas{}.members(reflect.TypeFor[T](), props, new([]string))
	return slices.Sorted(maps.Keys(props))
}
