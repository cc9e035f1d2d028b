// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"strconv"
	"strings"

	"remsim/internal/client"
)

// A command is what a line says.
type command interface {
	run(context.Context, *console) error
}

// The commands.
type (
	reset     struct{}
	tpdu      []byte
	help      struct{}
	info      struct{}
	selection struct {
		path []uint16 // file identifiers
		aid  []byte   // instead of a path
	}
	// read is the content of the current EF.
	read       struct{}
	readBinary struct{ offset, length int } // length 0: up to the end
	readRecord struct{ nr byte }
	auth       struct{ rand, autn []byte } // autn nil: GSM
)

// words are the commands that have a name.
var words = [...]struct {
	name, args, help string
	parse            func(args []string) (command, error)
}{
	{"reset", "", "reset the card, cold", alone(reset{})},
	{"info", "", "show server, bankd, slot and ATR", alone(info{})},
	{"select", "PATH|FID|AID", "select by 3f00/7f20/6f07 (also 7fff/... and relative), 6f07 or a0000000871002", parseSelect},
	{"read", "[binary [OFFSET [LENGTH]] | record N]", "read the selected EF, or a part of it", parseRead},
	{"auth", "RAND [AUTN]", "authenticate: GSM in DF.GSM or the USIM, with AUTN 3G in the USIM", parseAuth},
	{"help", "", "show this", alone(help{})},
}

// parse reads a line: a word in any case with its arguments, or a TPDU in hex with blanks
// anywhere; nil when it is empty.
func parse(line string) (command, error) {
	fields := strings.Fields(line)
	if len(fields) == 0 {
		return nil, nil
	}
	for _, w := range words {
		if strings.EqualFold(w.name, fields[0]) {
			cmd, err := w.parse(fields[1:])
			if err == errArgs {
				err = fmt.Errorf("want %s", strings.TrimSpace(w.name+" "+w.args))
			}
			return cmd, err
		}
	}
	for _, f := range fields {
		if strings.Trim(f, "0123456789abcdefABCDEF") != "" {
			return nil, fmt.Errorf("%.32q: want a command in hex, RESET or help", f)
		}
	}
	b, err := hex.DecodeString(strings.Join(fields, ""))
	switch {
	case err != nil:
		return nil, errors.New("odd number of hex digits")
	case len(b) < client.MinTPDU || len(b) > client.MaxTPDU:
		return nil, fmt.Errorf("command of %d bytes: want %d..%d", len(b), client.MinTPDU, client.MaxTPDU)
	}
	return tpdu(b), nil
}

// errArgs says that the arguments of a word are wrong.
var errArgs = errors.New("wrong arguments")

// alone parses a word without arguments.
func alone(cmd command) func([]string) (command, error) {
	return func(args []string) (command, error) {
		if len(args) > 0 {
			return nil, errArgs
		}
		return cmd, nil
	}
}

// parseSelect takes a path with slashes, or hex digits alone: a path up to 4 bytes and
// where they begin with the MF or the current application, else an AID of 5..16 bytes
// (TS 102 221 13.1).
func parseSelect(args []string) (command, error) {
	if len(args) != 1 {
		return nil, errArgs
	}
	digits := strings.ReplaceAll(args[0], "/", "")
	b, err := hex.DecodeString(digits)
	if err != nil || len(b) == 0 {
		return nil, errArgs
	}
	isPath := len(b) <= 4 || b[0] == 0x3f && b[1] == 0 || b[0] == 0x7f && b[1] == 0xff
	if strings.Contains(args[0], "/") {
		isPath = true
		for id := range strings.SplitSeq(args[0], "/") {
			if len(id) != 4 {
				return nil, errArgs
			}
		}
	}
	switch {
	case !isPath && len(b) <= 16:
		return selection{aid: b}, nil
	case !isPath || len(b)%2 != 0 || len(b) > 16:
		return nil, errArgs
	}
	var s selection
	for i := 0; i < len(b); i += 2 {
		s.path = append(s.path, uint16(b[i])<<8|uint16(b[i+1]))
	}
	return s, nil
}

func parseRead(args []string) (command, error) {
	if len(args) == 0 {
		return read{}, nil
	}
	var n [2]int
	limits := [2]int{maxOffset, maxOffset + 1}
	kind := strings.ToLower(args[0])
	switch {
	case kind == "record" && len(args) == 2:
		limits[0] = maxRecord
	case kind == "binary" && len(args) <= 3:
	default:
		return nil, errArgs
	}
	for i, a := range args[1:] {
		v, err := strconv.ParseUint(a, 10, 16)
		if err != nil || int(v) > limits[i] {
			return nil, fmt.Errorf("%.32q: want a number 0..%d", a, limits[i])
		}
		n[i] = int(v)
	}
	if kind == "record" {
		return readRecord{byte(n[0])}, nil
	}
	return readBinary{n[0], n[1]}, nil
}

func parseAuth(args []string) (command, error) {
	if len(args) < 1 || len(args) > 2 {
		return nil, errArgs
	}
	var v [2][]byte
	for i, a := range args {
		b, err := hex.DecodeString(a)
		if err != nil || len(b) != 16 {
			return nil, fmt.Errorf("%.64q: want 16 bytes in hex", a)
		}
		v[i] = b
	}
	return auth{v[0], v[1]}, nil
}
