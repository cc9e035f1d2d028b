// SPDX-License-Identifier: GPL-2.0-or-later

//go:build !cgo

package application

import (
	"encoding/json"
	"errors"
)

func serve(*json.Decoder, *json.Encoder) error {
	return errors.New("PC/SC needs a program that was built with cgo and libpcsclite-dev")
}
