// SPDX-License-Identifier: GPL-2.0-or-later

package store

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"slices"
	"time"

	bolt "go.etcd.io/bbolt"

	"remsim/internal/server"
	"remsim/internal/slot"
)

// The JSON of a store is one object:
//
//	format     "remsim-server store"
//	version    1
//	starts     how often a server was started with it
//	slotmaps   the maps that are wanted, in the order in which they were made: bank, client, createdAt, changedAt
//	removals   maps that were deleted and that their bankd may still have: bank, client, createdAt, deletedAt
//	untold     clients that may believe to be in a map that has ended: client, bank
//	clientIds  client slots that were given (-c auto): name, serial, interface, instance, client, givenAt
//
// A bank is {"bankId": 1, "slotNr": 2}, a client {"clientId": 3, "slotNr": 4}; times are RFC 3339 in UTC. Lists have one entry a line
// and are in the order of bank slots, client slots or names, but for slotmaps. All members are there, and no others.
const (
	jsonFormat  = "remsim-server store"
	jsonVersion = 1
)

type jsonBank struct {
	ID   *uint16 `json:"bankId"`
	Slot *uint16 `json:"slotNr"`
}

type jsonClient struct {
	ID   *uint16 `json:"clientId"`
	Slot *uint16 `json:"slotNr"`
}

type jsonMap struct {
	Bank    *jsonBank   `json:"bank"`
	Client  *jsonClient `json:"client"`
	Created *time.Time  `json:"createdAt"`
	Changed *time.Time  `json:"changedAt"`
}

type jsonRemoval struct {
	Bank    *jsonBank   `json:"bank"`
	Client  *jsonClient `json:"client"`
	Created *time.Time  `json:"createdAt"`
	Deleted *time.Time  `json:"deletedAt"`
}

type jsonBelief struct {
	Client *jsonClient `json:"client"`
	Bank   *jsonBank   `json:"bank"`
}

type jsonID struct {
	Name      *string     `json:"name"`
	Serial    *string     `json:"serial"`
	Interface *string     `json:"interface"`
	Instance  *uint16     `json:"instance"`
	Client    *jsonClient `json:"client"`
	Given     *time.Time  `json:"givenAt"`
}

func jsonBankOf(b slot.Bank) *jsonBank       { return &jsonBank{&b.ID, &b.Slot} }
func jsonClientOf(c slot.Client) *jsonClient { return &jsonClient{&c.ID, &c.Slot} }
func jsonTimeOf(t time.Time) *time.Time      { t = t.UTC(); return &t }

// Export writes all that is in a store as JSON.
func Export(w io.Writer, s server.Snapshot) error {
	slices.SortFunc(s.Maps, func(a, b server.StoredMap) int { return cmp.Compare(a.Seq, b.Seq) })
	slices.SortFunc(s.Removals, func(a, b server.Removal) int { return bytes.Compare(removalKey(a.Map), removalKey(b.Map)) })
	slices.SortFunc(s.Beliefs, func(a, b server.Belief) int {
		return bytes.Compare(appendClient(nil, a.Client), appendClient(nil, b.Client))
	})
	slices.SortFunc(s.IDs, func(a, b server.Assignment) int { return bytes.Compare(idKey(a.Key), idKey(b.Key)) })
	e := encoder{w: bufio.NewWriter(w)}
	fmt.Fprintf(e.w, "{\n%q: %q,\n%q: %d,\n%q: %d", "format", jsonFormat, "version", jsonVersion, "starts", s.Starts)
	list(&e, "slotmaps", s.Maps, func(m server.StoredMap) any {
		return jsonMap{jsonBankOf(m.Bank), jsonClientOf(m.Client), jsonTimeOf(m.Created), jsonTimeOf(m.Changed)}
	})
	list(&e, "removals", s.Removals, func(r server.Removal) any {
		return jsonRemoval{jsonBankOf(r.Bank), jsonClientOf(r.Client), jsonTimeOf(r.Created), jsonTimeOf(r.Deleted)}
	})
	list(&e, "untold", s.Beliefs, func(b server.Belief) any { return jsonBelief{jsonClientOf(b.Client), jsonBankOf(b.Bank)} })
	list(&e, "clientIds", s.IDs, func(a server.Assignment) any {
		return jsonID{&a.Key.Name, &a.Key.Serial, &a.Key.Interface, &a.Key.Instance, jsonClientOf(a.Client), jsonTimeOf(a.Given)}
	})
	e.w.WriteString("\n}\n")
	return errors.Join(e.err, e.w.Flush())
}

type encoder struct {
	w   *bufio.Writer
	err error
}

func list[T any](e *encoder, name string, l []T, of func(T) any) {
	fmt.Fprintf(e.w, ",\n%q: [", name)
	for i, v := range l {
		b, err := json.Marshal(of(v))
		e.err = cmp.Or(e.err, err)
		if i > 0 {
			e.w.WriteByte(',')
		}
		e.w.WriteByte('\n')
		e.w.Write(b)
	}
	if len(l) > 0 {
		e.w.WriteByte('\n')
	}
	e.w.WriteByte(']')
}

// Parse reads what Export has written. Its errors name the line and the member.
func Parse(r io.Reader) (server.Snapshot, error) {
	data, err := io.ReadAll(r)
	if err != nil {
		return server.Snapshot{}, err
	}
	p := &parser{
		dec: json.NewDecoder(bytes.NewReader(data)), banks: map[slot.Bank]bool{}, clients: map[slot.Client]bool{}, owed: map[slot.Map]bool{},
		untold: map[slot.Client]bool{}, keys: map[server.ClientKey]bool{}, given: map[slot.Client]bool{},
	}
	p.dec.DisallowUnknownFields()
	if err := p.object(); err != nil {
		// What it is about begins after what separates it from what was read before.
		before := data[:len(data)-len(bytes.TrimLeft(data[p.from:], " \t\r\n,:"))]
		return server.Snapshot{}, fmt.Errorf("line %d: %w", 1+bytes.Count(before, []byte("\n")), err)
	}
	return p.s, nil
}

type parser struct {
	dec  *json.Decoder
	from int64 // where that begins which is read
	s    server.Snapshot
	// what was seen
	banks   map[slot.Bank]bool
	clients map[slot.Client]bool
	owed    map[slot.Map]bool
	untold  map[slot.Client]bool
	keys    map[server.ClientKey]bool
	given   map[slot.Client]bool
}

func (p *parser) token() (json.Token, error) {
	p.from = p.dec.InputOffset()
	t, err := p.dec.Token()
	return t, ended(err)
}

// expect reads a token that is to be there.
func (p *parser) expect(want json.Token, what string) error {
	t, err := p.token()
	if err == nil && t != want {
		err = fmt.Errorf("want %s", what)
	}
	return err
}

// ended words that the input ends too early.
func ended(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return errors.New("the JSON ends too early")
	}
	return err
}

func (p *parser) object() error {
	if err := p.expect(json.Delim('{'), "an object"); err != nil {
		return err
	}
	members := []struct {
		name string
		read func(name string) error
	}{
		{"format", p.format}, {"version", p.version}, {"starts", func(string) error { return decode(p, "starts", &p.s.Starts) }},
		{"slotmaps", func(n string) error { return entries(p, n, p.slotmap) }},
		{"removals", func(n string) error { return entries(p, n, p.removal) }},
		{"untold", func(n string) error { return entries(p, n, p.belief) }},
		{"clientIds", func(n string) error { return entries(p, n, p.id) }},
	}
	seen := map[string]bool{}
	for p.dec.More() {
		t, err := p.token()
		if err != nil {
			return err
		}
		i := slices.IndexFunc(members, func(m struct {
			name string
			read func(name string) error
		}) bool {
			return m.name == t
		})
		switch {
		case i < 0:
			return fmt.Errorf("unknown member %q", t)
		case seen[members[i].name]:
			return fmt.Errorf("%s is there twice", t)
		}
		seen[members[i].name] = true
		if err := members[i].read(members[i].name); err != nil {
			return err
		}
	}
	if err := p.expect(json.Delim('}'), "the object's end"); err != nil {
		return err
	}
	for _, m := range members {
		if !seen[m.name] {
			return fmt.Errorf("%s is missing", m.name)
		}
	}
	p.from = p.dec.InputOffset()
	if _, err := p.dec.Token(); !errors.Is(err, io.EOF) {
		return errors.New("there is more after the object")
	}
	return nil
}

// decode reads a value.
func decode(p *parser, name string, to any) error {
	p.from = p.dec.InputOffset()
	err := ended(p.dec.Decode(to))
	var wrong *json.UnmarshalTypeError
	if errors.As(err, &wrong) {
		if wrong.Field != "" {
			name += "." + wrong.Field
		}
		return fmt.Errorf("%s: %s isn't %s", name, wrong.Value, article(wrong))
	}
	if err != nil && !errors.As(err, new(*json.SyntaxError)) {
		return fmt.Errorf("%s: %w", name, err)
	}
	return err
}

// article returns what is wanted in the place of a value of a wrong type.
func article(e *json.UnmarshalTypeError) string {
	switch e.Type.String() {
	case "uint16":
		return fmt.Sprintf("an integer 0..%d", slot.Max)
	case "uint64":
		return "a number of starts"
	case "string":
		return "a string"
	case "time.Time":
		return "a time"
	}
	return "an object"
}

func (p *parser) format(name string) error {
	var s string
	if err := decode(p, name, &s); err != nil {
		return err
	}
	if s != jsonFormat {
		return fmt.Errorf("%s is %q, want %q", name, s, jsonFormat)
	}
	return nil
}

func (p *parser) version(name string) error {
	var v uint64
	if err := decode(p, name, &v); err != nil {
		return err
	}
	if v != jsonVersion {
		return fmt.Errorf("%s is %d, and %d is known", name, v, jsonVersion)
	}
	return nil
}

// entries reads a list.
func entries[T any](p *parser, name string, take func(T) error) error {
	if err := p.expect(json.Delim('['), name+" to be a list"); err != nil {
		return err
	}
	for i := 0; p.dec.More(); i++ {
		var v T
		entry := fmt.Sprintf("%s[%d]", name, i)
		if err := decode(p, entry, &v); err != nil {
			return err
		}
		if err := take(v); err != nil {
			return fmt.Errorf("%s: %w", entry, err)
		}
	}
	return p.expect(json.Delim(']'), "the end of "+name)
}

// present fails when a member, which is nil then, is missing.
func present[T any](name string, v *T) error {
	if v == nil {
		return fmt.Errorf("%s is missing", name)
	}
	return nil
}

func number(name string, v *uint16) (uint16, error) {
	if err := present(name, v); err != nil {
		return 0, err
	}
	if *v > slot.Max {
		return 0, fmt.Errorf("%s is %d, want an integer 0..%d", name, *v, slot.Max)
	}
	return *v, nil
}

func (b *jsonBank) slot() (s slot.Bank, err error) {
	if err := present("bank", b); err != nil {
		return s, err
	}
	id, err1 := number("bank.bankId", b.ID)
	nr, err2 := number("bank.slotNr", b.Slot)
	return slot.Bank{ID: id, Slot: nr}, cmp.Or(err1, err2)
}

func (c *jsonClient) slot() (s slot.Client, err error) {
	if err := present("client", c); err != nil {
		return s, err
	}
	id, err1 := number("client.clientId", c.ID)
	nr, err2 := number("client.slotNr", c.Slot)
	return slot.Client{ID: id, Slot: nr}, cmp.Or(err1, err2)
}

// stored returns a time of those that can be stored.
func stored(name string, t *time.Time) (time.Time, error) {
	if err := present(name, t); err != nil {
		return time.Time{}, err
	}
	if y := t.Year(); y < 1970 || y > 2261 {
		return time.Time{}, fmt.Errorf("%s is in the year %d, want 1970..2261", name, y)
	}
	return time.Unix(0, t.UnixNano()), nil
}

// once notes that v was seen, which it mustn't have been.
func once[K comparable](seen map[K]bool, v K, format string) error {
	if seen[v] {
		return fmt.Errorf(format, v)
	}
	seen[v] = true
	return nil
}

func (p *parser) slotmap(j jsonMap) error {
	b, err1 := j.Bank.slot()
	c, err2 := j.Client.slot()
	created, err3 := stored("createdAt", j.Created)
	changed, err4 := stored("changedAt", j.Changed)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return err
	}
	if err := cmp.Or(once(p.banks, b, "bank slot %s is in two maps"), once(p.clients, c, "client slot %s is in two maps")); err != nil {
		return err
	}
	p.s.Maps = append(p.s.Maps, server.StoredMap{
		Map: slot.Map{Bank: b, Client: c}, Seq: uint64(len(p.s.Maps)) + 1, Created: created, Changed: changed,
	})
	return nil
}

func (p *parser) removal(j jsonRemoval) error {
	b, err1 := j.Bank.slot()
	c, err2 := j.Client.slot()
	created, err3 := stored("createdAt", j.Created)
	deleted, err4 := stored("deletedAt", j.Deleted)
	if err := cmp.Or(err1, err2, err3, err4); err != nil {
		return err
	}
	m := slot.Map{Bank: b, Client: c}
	p.s.Removals = append(p.s.Removals, server.Removal{Map: m, Created: created, Deleted: deleted})
	return once(p.owed, m, "%s is there twice")
}

func (p *parser) belief(j jsonBelief) error {
	c, err1 := j.Client.slot()
	b, err2 := j.Bank.slot()
	if err := cmp.Or(err1, err2); err != nil {
		return err
	}
	p.s.Beliefs = append(p.s.Beliefs, server.Belief{Client: c, Bank: b})
	return once(p.untold, c, "client slot %s is there twice")
}

func (p *parser) id(j jsonID) error {
	for _, m := range []struct {
		name string
		v    *string
		min  int
	}{{"name", j.Name, 1}, {"serial", j.Serial, 0}, {"interface", j.Interface, 0}} {
		if err := present(m.name, m.v); err != nil {
			return err
		}
		if n := len(*m.v); n < m.min || n > 32 || !ia5(*m.v) {
			return fmt.Errorf("%s is %q, want %d..32 characters of IA5", m.name, *m.v, m.min)
		}
	}
	if err := present("instance", j.Instance); err != nil {
		return err
	}
	c, err1 := j.Client.slot()
	given, err2 := stored("givenAt", j.Given)
	if err := cmp.Or(err1, err2); err != nil {
		return err
	}
	k := server.ClientKey{Name: *j.Name, Serial: *j.Serial, Interface: *j.Interface, Instance: *j.Instance}
	p.s.IDs = append(p.s.IDs, server.Assignment{Key: k, Client: c, Given: given})
	return cmp.Or(once(p.keys, k, "%s is there twice"), once(p.given, c, "client slot %s is given twice"))
}

func ia5(s string) bool {
	for _, c := range []byte(s) {
		if c >= 0x80 {
			return false
		}
	}
	return true
}

// Read returns all that is in the store of a file.
func Read(path string) (s server.Snapshot, err error) {
	if err := inspect(path); err != nil {
		return s, err
	}
	db, err := open(path, true)
	if err != nil {
		return s, err
	}
	defer db.Close()
	f := &file{path: path, db: db}
	return f.Load(context.Background())
}

// Replace puts what s has into the store of a file, in the place of all that is there. Unless it is to replace that, it fails when
// there is anything. The file is made if there is none.
func Replace(path string, s server.Snapshot, replace bool) error {
	opened, err := Open(path)
	if err != nil {
		return err
	}
	f := opened.(*file)
	err = guard(func() error { return f.db.Update(func(tx *bolt.Tx) error { return fill(tx, s, replace) }) })
	if err != nil {
		err = fmt.Errorf("store %s: %w", path, err)
	}
	return errors.Join(err, f.Close())
}

// ErrNotEmpty is why Replace fails without being told to replace.
var ErrNotEmpty = errors.New("there is something in it, which would be lost")

func fill(tx *bolt.Tx, s server.Snapshot, replace bool) error {
	h, err := readHead(tx)
	if err != nil {
		return err
	}
	if h.records > 0 && !replace {
		return ErrNotEmpty
	}
	w := writer{head: head{revision: h.revision + 1, starts: s.Starts}}
	for t, name := range buckets {
		if err := tx.DeleteBucket(name); err != nil {
			return err
		}
		if w.buckets[t], err = tx.CreateBucket(name); err != nil {
			return err
		}
	}
	for _, m := range s.Maps {
		k, v := mapRecord(m)
		w.put(tableMaps, k, v)
	}
	for _, r := range s.Removals {
		w.put(tableRemovals, removalKey(r.Map), removalValue(r))
	}
	for _, b := range s.Beliefs {
		w.put(tableBeliefs, appendClient(nil, b.Client), appendBank(nil, b.Bank))
	}
	for _, a := range s.IDs {
		w.put(tableIDs, idKey(a.Key), idValue(a))
	}
	if err := w.flush(); err != nil {
		return err
	}
	return tx.Bucket(bucketHead).Put(keyHead, w.head.encode())
}
