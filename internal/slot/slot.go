// SPDX-License-Identifier: GPL-2.0-or-later

// Package slot is everybody's vocabulary: the two ends of a remote SIM (a slot
// of a client, where a modem is, and a slot of a bank, where a card is), the
// map between them, and the electrical state of a slot.
package slot

import (
	"fmt"
	"strconv"
	"strings"
)

// Max is the largest bank id, client id and slot number (RSPRO BankId,
// ClientId, SlotNumber: INTEGER 0..1023).
const Max = 1023

// A Client names one slot of a client (RSPRO ClientSlot).
type Client struct {
	ID   uint16 // client id, 0..Max
	Slot uint16 // slot number, 0..Max
}

// String returns the form used in logs and by the REST API, such as "C23:0".
func (c Client) String() string { return "C" + c.Pair() }

// Pair returns the form used in the environment of event scripts, "23:0".
func (c Client) Pair() string { return pair(c.ID, c.Slot) }

// Valid reports whether both numbers are within 0..Max.
func (c Client) Valid() bool { return c.ID <= Max && c.Slot <= Max }

// ParseClient reads "C23:0" or "23:0".
func ParseClient(s string) (Client, error) {
	id, nr, err := parse(s, "C")
	if err != nil {
		return Client{}, fmt.Errorf("client slot %q: %w", s, err)
	}
	return Client{ID: id, Slot: nr}, nil
}

// A Bank names one slot of a bank (RSPRO BankSlot).
type Bank struct {
	ID   uint16 // bank id, 0..Max
	Slot uint16 // slot number, 0..Max
}

// String returns the form used in logs, such as "B1:5".
func (b Bank) String() string { return "B" + b.Pair() }

// Pair returns the form used in the environment of event scripts, "1:5".
func (b Bank) Pair() string { return pair(b.ID, b.Slot) }

// Valid reports whether both numbers are within 0..Max.
func (b Bank) Valid() bool { return b.ID <= Max && b.Slot <= Max }

// ParseBank reads "B1:5" or "1:5".
func ParseBank(s string) (Bank, error) {
	id, nr, err := parse(s, "B")
	if err != nil {
		return Bank{}, fmt.Errorf("bank slot %q: %w", s, err)
	}
	return Bank{ID: id, Slot: nr}, nil
}

// A Map says that the modem at Client uses the card at Bank. A bank slot and a
// client slot are in one map at most.
type Map struct {
	Bank   Bank
	Client Client
}

// String returns the form used in logs, such as "C23:0=B1:5".
func (m Map) String() string { return m.Client.String() + "=" + m.Bank.String() }

func pair(id, nr uint16) string {
	return strconv.Itoa(int(id)) + ":" + strconv.Itoa(int(nr))
}

func parse(s, prefix string) (id, nr uint16, err error) {
	a, b, ok := strings.Cut(strings.TrimPrefix(s, prefix), ":")
	if !ok {
		return 0, 0, fmt.Errorf("want %sID:SLOT", prefix)
	}
	if id, err = number(a); err != nil {
		return 0, 0, err
	}
	nr, err = number(b)
	return id, nr, err
}

func number(s string) (uint16, error) {
	n, err := strconv.ParseUint(s, 10, 16)
	if err != nil || n > Max {
		return 0, fmt.Errorf("number %q: want 0..%d", s, Max)
	}
	return uint16(n), nil
}
