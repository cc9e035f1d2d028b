// SPDX-License-Identifier: GPL-2.0-or-later

package server

import (
	"context"
	"errors"

	"remsim/internal/slot"
)

// Create, Delete and DeleteAll commit one Op without a store.

func (s *State) Create(m slot.Map) error {
	_, err := s.Commit(context.Background(), CreateMap(m))
	if e := new(OpError); errors.As(err, &e) {
		return e.Err
	}
	return err
}

func (s *State) Delete(b slot.Bank) (slot.Map, bool) {
	r, err := s.Commit(context.Background(), DeleteMap(b))
	if err != nil {
		return slot.Map{}, false
	}
	return r[0].Map, true
}

func (s *State) DeleteAll() int {
	r, err := s.Commit(context.Background(), DeleteAllMaps())
	if err != nil {
		panic(err)
	}
	return len(r[0].Ended)
}
