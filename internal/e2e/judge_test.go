// SPDX-License-Identifier: GPL-2.0-or-later

package e2e

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"maps"
	"regexp"
	"slices"
	"strings"
	"testing/synctest"
	"time"

	"remsim/internal/client"
	"remsim/internal/slot"
)

// A judge knows what was asked of the server, and says whether all agree with that. These are its rules; what must
// never happen to a card, whoever is at fault, is judged by bank, and answers to commands by exchange.
//
// When all faults have ended, then within settleWithin:
//
//   - the server has the maps that were asked for, all of them ACTIVE, and no others, in both versions of its API
//   - each bankd has those of its bank, and each client was told its own
//   - each client that has a map uses that card, and its modem has been shown the card's ATR; others have no card
//   - the cards that are powered are those
//
// and from then on nothing moves by itself.
//
// A client nobody meddled with, neither with it nor with its bankd, its map or its card, notices nothing of whatever happens to
// server and network elsewhere: its modem is told nothing, no command fails, the card isn't reset or powered off.
//
// A server with a store that outlives it has all its maps when it is back, before any bankd is, and they are as old as
// they were.
type judge struct {
	w      *world
	wanted map[slot.Bank]slot.Client // as the server has confirmed
	calm   map[slot.Client]trail     // of clients that had a map when all agreed last, or had none, and nobody meddled with
	born   map[slot.Map]string       // when maps were created, as v2 tells
	left   map[slot.Client]bool      // whose map ended since the server's start, so that they may have to be told
}

const (
	// settleWithin: a dead peer is noticed after 40 s, and callers come back after up to 20 s, perhaps to
	// find that their id is still in use.
	settleWithin = 4 * time.Minute
	// holdFor is longer than any interval at which anybody tries something again.
	holdFor = 90 * time.Second
)

// A user is a client with its modem.
type user interface {
	// transmit sends a command; its answer comes from the card that is returned.
	transmit(context.Context) (slot.Bank, error)
	card() []byte // the ATR of the card that is there; nil: none
	// trail returns what the modem has seen so far.
	trail() trail
}

// A trail grows with whatever happens to a client's session.
type trail struct {
	events int       // that the modem was told
	failed int       // commands
	bank   slot.Bank // whose card it has
	offs   int       // how often that was powered off
	resets int       // and reset
}

func newJudge(w *world) *judge {
	return &judge{w: w, wanted: map[slot.Bank]slot.Client{}, calm: map[slot.Client]trail{}, born: map[slot.Map]string{}, left: map[slot.Client]bool{}}
}

// bankOf returns where a client's card is.
func (j *judge) bankOf(c slot.Client) (slot.Bank, bool) {
	for b, of := range j.wanted {
		if of == c {
			return b, true
		}
	}
	return slot.Bank{}, false
}

// meddle says that something is done to a client that may disturb it.
func (j *judge) meddle(c slot.Client) { delete(j.calm, c) }

// meddleBank is meddle for all that concerns a bankd.
func (j *judge) meddleBank(id uint16) {
	for b, c := range j.wanted {
		if b.ID == id {
			j.meddle(c)
		}
	}
}

// created and removed say what the server has confirmed.
func (j *judge) created(m slot.Map) {
	j.meddle(m.Client)
	j.wanted[m.Bank] = m.Client
	delete(j.born, m)
}

func (j *judge) removed(b slot.Bank) {
	j.meddle(j.wanted[b])
	j.left[j.wanted[b]] = true
	delete(j.wanted, b)
}

// quiet is called when all faults have ended. It returns an error when not all come to agree, or don't stay so.
func (j *judge) quiet() error {
	if err := within(settleWithin, j.agree); err != nil {
		return fmt.Errorf("no agreement: %w", err)
	}
	if err := j.undisturbed(); err != nil {
		return err
	}
	before := j.movements()
	time.Sleep(holdFor)
	if err := j.agree(); err != nil {
		return fmt.Errorf("all had agreed, and %v later not any more: %w", holdFor, err)
	}
	if after := j.movements(); after != before {
		return fmt.Errorf("all had agreed, and yet something moves:\n%s\n%s", before, after)
	}
	j.calm = map[slot.Client]trail{}
	for c, u := range j.w.users() {
		j.calm[c] = j.trail(c, u)
	}
	return nil
}

// trail is what has happened to a client's session so far.
func (j *judge) trail(c slot.Client, u user) trail {
	t := u.trail()
	if b, ok := j.bankOf(c); ok {
		t.bank, t.offs, t.resets = b, j.w.bank.offs(b), j.w.bank.resetsOf(b)
	} else {
		t.failed = 0 // all of them do
	}
	return t
}

// undisturbed fails when a client has noticed anything that nobody meddled with.
func (j *judge) undisturbed() error {
	for c, u := range j.w.users() {
		before, calm := j.calm[c]
		if now := j.trail(c, u); calm && now != before {
			return fmt.Errorf("nobody meddled with %v, and its session was disturbed: %+v, now %+v", c, before, now)
		}
	}
	return nil
}

// movements tells what changes when anybody does anything.
func (j *judge) movements() string {
	var s strings.Builder
	for _, c := range slices.SortedFunc(maps.Keys(j.w.users()), func(a, b slot.Client) int { return int(a.ID) - int(b.ID) }) {
		fmt.Fprintf(&s, "%v %+v; ", c, j.trail(c, j.w.users()[c]))
	}
	var list mapsV2
	if err := j.w.api.Get("/api/v2/slotmaps", &list); err != nil {
		return err.Error()
	}
	for _, m := range list.SlotMaps {
		fmt.Fprintf(&s, "%v %s since %s; ", m.Map(), m.State, m.ChangedAt)
	}
	return s.String()
}

// What version 2 tells of maps and clients.
type (
	slotsV2 struct {
		Bank   struct{ BankID, SlotNr uint16 }
		Client struct{ ClientID, SlotNr uint16 }
	}
	mapsV2 struct {
		SlotMaps []struct {
			slotsV2
			State, CreatedAt, ChangedAt string
		}
	}
	clientsV2 struct {
		Clients []struct {
			Client struct{ ClientID, SlotNr uint16 }
			Told   *toldV2
		}
	}
	toldV2 struct {
		Bank   struct{ BankID, SlotNr uint16 }
		Bankd  *string
		Answer *string
	}
)

// Map returns the pair of slots.
func (m slotsV2) Map() slot.Map {
	return slot.Map{Bank: slot.Bank{ID: m.Bank.BankID, Slot: m.Bank.SlotNr}, Client: slot.Client{ID: m.Client.ClientID, Slot: m.Client.SlotNr}}
}

// agree fails when not all agree at this moment.
func (j *judge) agree() error {
	for _, ask := range []func() error{j.kept, j.active, j.bankdsAgree, j.clientsTold, j.cardsUsed} {
		if err := ask(); err != nil {
			return err
		}
	}
	return nil
}

// kept fails when the server's maps aren't those that it has confirmed.
func (j *judge) kept() error {
	states, err := j.w.api.SlotMaps()
	if err != nil {
		return err
	}
	for b, c := range j.wanted {
		if _, ok := states[slot.Map{Bank: b, Client: c}]; !ok {
			return fmt.Errorf("the server has lost the map %v=%v: %v", c, b, states)
		}
	}
	if len(states) != len(j.wanted) {
		return fmt.Errorf("the server has the maps %v, asked for were %v", states, j.wanted)
	}
	return nil
}

// active fails when a map isn't in use, or one is leaving, or is younger than it was.
func (j *judge) active() error {
	var list mapsV2
	if err := j.w.api.Get("/api/v2/slotmaps", &list); err != nil {
		return err
	}
	for _, m := range list.SlotMaps {
		m1 := m.Map()
		if m.State != "ACTIVE" || j.wanted[m1.Bank] != m1.Client {
			return fmt.Errorf("map %v is %s", m1, m.State)
		}
		if at, ok := j.born[m1]; ok && at != m.CreatedAt && j.w.disk != nil {
			return fmt.Errorf("map %v was created at %s, and now at %s", m1, at, m.CreatedAt)
		}
		j.born[m1] = m.CreatedAt
	}
	if len(list.SlotMaps) != len(j.wanted) {
		return fmt.Errorf("version 2 shows %d maps of %d", len(list.SlotMaps), len(j.wanted))
	}
	return nil
}

// reported is a slot in a bankd's report.
var reported = regexp.MustCompile(`(?m)^slot (B\d+:\d+): ([A-Z]+)(?:, client (C\d+:\d+))?(.*)$`)

// bankdsAgree fails when a bankd has other maps than the server, or another card than the map says, or the server
// thinks so.
func (j *judge) bankdsAgree() error {
	for id, b := range j.w.bankds {
		has := map[slot.Bank]slot.Client{}
		for _, l := range reported.FindAllStringSubmatch(b.says(), -1) {
			if l[2] == "FREE" {
				continue
			}
			b, err := slot.ParseBank(l[1])
			if err != nil {
				return err
			}
			if has[b], err = slot.ParseClient(l[3]); err != nil {
				return err
			}
			if l[2] != "CARD" {
				return fmt.Errorf("bankd %d: slot %v is %s%s", id, b, l[2], l[4])
			}
		}
		if err := j.sameMaps(id, has); err != nil {
			return err
		}
		seen, err := j.w.api.Slots(id)
		if err != nil {
			return err
		}
		for _, s := range seen {
			want := "FREE"
			if _, ok := j.wanted[slot.Bank{ID: id, Slot: s.SlotNr}]; ok {
				want = "CARD"
			}
			if s.State != want {
				return fmt.Errorf("the server shows slot %d of bank %d as %s, not %s", s.SlotNr, id, s.State, want)
			}
		}
	}
	if j.w.plainBankd != nil {
		return j.sameMaps(plainID, j.w.plainBankd.has())
	}
	return nil
}

// sameMaps fails when a bankd has others than those that are wanted of its bank.
func (j *judge) sameMaps(id uint16, has map[slot.Bank]slot.Client) error {
	want := maps.Clone(j.wanted)
	maps.DeleteFunc(want, func(b slot.Bank, _ slot.Client) bool { return b.ID != id })
	if !maps.Equal(has, want) {
		return fmt.Errorf("bankd %d has the maps %v, the server %v", id, has, want)
	}
	return nil
}

// leftTold fails when a client whose map ended isn't connected, or hasn't answered to what it has to be told. A server that forgets and is
// killed before that leaves no trace of the map, neither at a bankd nor at a back-end: the client doesn't say what it was told
// by an earlier server (RSPRO has no message for that), so that the next one can't know that it has to be told anything.
func (j *judge) leftTold() error {
	synctest.Wait() // so that what is to be told to those who are here has been sent
	var list clientsV2
	if err := j.w.api.Get("/api/v2/clients", &list); err != nil {
		return err
	}
	told := map[slot.Client]*toldV2{}
	for _, c := range list.Clients {
		told[slot.Client{ID: c.Client.ClientID, Slot: c.Client.SlotNr}] = c.Told
	}
	for c := range j.left {
		t, here := told[c]
		if !here {
			return fmt.Errorf("the map of %v ended, and it isn't here", c)
		}
		if err := j.rightlyTold(c, t); err != nil {
			return err
		}
	}
	return nil
}

// clientsTold fails when a client isn't connected, or was told, or has understood, something else than its map.
func (j *judge) clientsTold() error {
	var list clientsV2
	if err := j.w.api.Get("/api/v2/clients", &list); err != nil {
		return err
	}
	if len(list.Clients) != len(j.w.users()) {
		return fmt.Errorf("%d clients are connected, not %d", len(list.Clients), len(j.w.users()))
	}
	for _, c := range list.Clients {
		who := slot.Client{ID: c.Client.ClientID, Slot: c.Client.SlotNr}
		if err := j.rightlyTold(who, c.Told); err != nil {
			return err
		}
	}
	for who, m := range j.w.clients {
		want := client.Unconfigured
		if _, ok := j.bankOf(who); ok {
			want = client.Operational
		}
		if core := m.core.Load(); core == nil || core.State() != want {
			return fmt.Errorf("%v isn't %v", who, want)
		}
	}
	return nil
}

// rightlyTold fails when a client was told, or has understood, something else than its map.
func (j *judge) rightlyTold(who slot.Client, told *toldV2) error {
	b, mapped := j.bankOf(who)
	switch {
	case told != nil && (told.Answer == nil || *told.Answer != "ok"):
		return fmt.Errorf("%v hasn't answered ok", who)
	case mapped && (told == nil || told.Bankd == nil || told.Bank.BankID != b.ID || told.Bank.SlotNr != b.Slot):
		return fmt.Errorf("%v has the card at %v and was told %+v", who, b, told)
	case mapped && *told.Bankd != bankdAddr(b.ID)+":9999":
		return fmt.Errorf("%v was told that bankd %d is at %s", who, b.ID, *told.Bankd)
	case !mapped && told != nil && told.Bankd != nil:
		return fmt.Errorf("%v has no card and was told %+v", who, told)
	}
	return nil
}

// cardsUsed fails when a client doesn't use its card and no other, or a card is powered that nobody should use.
func (j *judge) cardsUsed() error {
	// A command that isn't answered in a minute is so for ever.
	ctx, cancel := context.WithTimeout(j.w.t.Context(), time.Minute)
	defer cancel()
	for c, u := range j.w.users() {
		b, mapped := j.bankOf(c)
		if !mapped {
			if atr := u.card(); atr != nil {
				return fmt.Errorf("%v has the ATR %x without a map", c, atr)
			}
			if from, err := u.transmit(ctx); !errors.Is(err, client.ErrNoCard) {
				return fmt.Errorf("%v has no map, and a command of it ends with %v of %v", c, err, from)
			}
			continue
		}
		from, err := u.transmit(ctx)
		switch {
		case err != nil:
			return fmt.Errorf("%v: %w", c, err)
		case from != b:
			return fmt.Errorf("%v uses the card at %v, not at %v", c, from, b)
		case !bytes.Equal(u.card(), cardATR(b)):
			return fmt.Errorf("%v has the ATR %x with the card at %v", c, u.card(), b)
		}
		if by, ok := j.w.bank.user(b); !ok || by != c {
			return fmt.Errorf("the card at %v is used by %v, not %v", b, by, c)
		}
	}
	if open, want := j.w.bank.open(), slices.SortedFunc(maps.Keys(j.wanted), compareBank); !slices.Equal(open, want) {
		return fmt.Errorf("powered cards: %v, mapped: %v", open, want)
	}
	return nil
}
