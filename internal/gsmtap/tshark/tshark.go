// SPDX-License-Identifier: GPL-2.0-or-later

// Package tshark has traces judged by the terminal version of Wireshark, in tests.
package tshark

import (
	"bytes"
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"io"
	"os/exec"
	"strings"
	"time"
)

// Info is a field beside those of Wireshark's dissectors: its description of a packet.
const Info = "_ws.col.Info"

// Fields returns the values of fields for each packet of a pcap file, "" where a packet hasn't any.
func Fields(file string, fields ...string) ([][]string, error) {
	args := []string{"-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	out, err := run(file, args)
	if err != nil {
		return nil, err
	}
	var packets [][]string
	for line := range strings.Lines(string(out)) {
		packets = append(packets, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return packets, nil
}

// A Field is a line of a packet's tree, by its name in filters and its value there. Where the two are the text of the line it
// has no name.
type Field struct {
	Name, Show string
}

// Tree returns all lines of each packet of a pcap file, with options for tshark such as "-X", "lua_script:FILE".
func Tree(file string, options ...string) (packets [][]Field, err error) {
	out, err := run(file, append(options, "-T", "pdml"))
	if err != nil {
		return nil, err
	}
	for dec := xml.NewDecoder(bytes.NewReader(out)); ; {
		token, err := dec.Token()
		if err == io.EOF {
			return packets, nil
		} else if err != nil {
			return nil, fmt.Errorf("tshark: %w", err)
		}
		start, ok := token.(xml.StartElement)
		if !ok {
			continue
		}
		switch start.Name.Local {
		case "packet":
			packets = append(packets, nil)
		case "field":
			var f Field
			for _, a := range start.Attr {
				switch a.Name.Local {
				case "name":
					f.Name = a.Value
				case "show":
					f.Show = a.Value
				}
			}
			last := len(packets) - 1
			packets[last] = append(packets[last], f)
		}
	}
}

func run(file string, args []string) (stdout []byte, err error) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	defer cancel()
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "tshark", append([]string{"-n", "-r", file}, args...)...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("tshark is missing, please install it (apt-get install tshark): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("tshark: %w: %s", err, stderr.Bytes())
	}
	return out, nil
}
