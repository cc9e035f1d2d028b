// SPDX-License-Identifier: GPL-2.0-or-later

// Package tshark has traces judged by the terminal version of Wireshark, in tests.
package tshark

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os/exec"
	"strings"
	"time"
)

// Info is a field beside those of Wireshark's dissectors: its description of a packet.
const Info = "_ws.col.Info"

// Fields returns the values of fields for each packet of a pcap file, "" where a packet hasn't any.
func Fields(file string, fields ...string) ([][]string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	args := []string{"-n", "-r", file, "-T", "fields"}
	for _, f := range fields {
		args = append(args, "-e", f)
	}
	var stderr bytes.Buffer
	cmd := exec.CommandContext(ctx, "tshark", args...)
	cmd.Stderr = &stderr
	out, err := cmd.Output()
	if errors.Is(err, exec.ErrNotFound) {
		return nil, fmt.Errorf("tshark is missing, please install it (apt-get install tshark): %w", err)
	}
	if err != nil {
		return nil, fmt.Errorf("tshark: %w: %s", err, stderr.Bytes())
	}
	var packets [][]string
	for line := range strings.Lines(string(out)) {
		packets = append(packets, strings.Split(strings.TrimSuffix(line, "\n"), "\t"))
	}
	return packets, nil
}
