// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !cgo

package pcsc

import (
	"context"
	"errors"

	"remsim/internal/bankd"
)

var errNotBuilt = errors.New("PC/SC readers need a program that was built with cgo and libpcsclite-dev; this one knows software cards only")

// Check returns an error.
func (Bank) Check(bankd.Slot) error { return errNotBuilt }

// Open returns an error.
func (Bank) Open(context.Context, bankd.Slot) (bankd.Card, error) { return nil, errNotBuilt }

// Look returns an error.
func (Bank) Look(context.Context) ([]bankd.Reader, error) { return nil, errNotBuilt }

// Watch returns an error.
func (Bank) Watch(context.Context, func([]bankd.Reader)) error { return errNotBuilt }
