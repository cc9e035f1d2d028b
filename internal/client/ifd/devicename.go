// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"errors"
	"fmt"
	"net/netip"
	"slices"
	"strings"

	"github.com/spf13/pflag"

	"remsim/internal/client"
)

// The parts of a DEVICENAME, in their order, and the options of clients that they are.
var (
	partNames   = []string{"client", "slot", "server", "port"}
	partOptions = []string{"client-id", "client-slot", "server-ip", "server-port"}
)

// parseDeviceName reads what a reader.conf file says of a reader, in one of two forms:
//
//	[CLIENT:[SLOT:[SERVER:[PORT]]]]
//	client=CLIENT;slot=SLOT;server=SERVER;port=PORT
//
// What is left out has the default of clients: 0, 0, 127.0.0.1, 9998. The first form is split as by
// strtok(3): colons in a row are one. IPv6 addresses are in brackets there. In the second one the parts have
// any order, and SERVER may have the port, as HOST:PORT. A name in quotes is given with them by
// pcscd, which takes brackets and semicolons in quotes only.
func parseDeviceName(name string) (client.Config, error) {
	var cfg client.Config
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	cfg.Flags(fs)
	if n := len(name); n >= 2 && name[0] == '"' && name[n-1] == '"' {
		name = name[1 : n-1]
	}
	parts, err := splitDeviceName(name)
	if err != nil {
		return client.Config{}, err
	}
	for i, part := range parts {
		if part == nil {
			continue
		}
		if err := fs.Lookup(partOptions[i]).Value.Set(*part); err != nil {
			return client.Config{}, fmt.Errorf("%s %q: %w", partNames[i], *part, err)
		}
	}
	return cfg, nil
}

// splitDeviceName returns the parts by the order of partNames; nil: it is not there.
func splitDeviceName(name string) (parts [4]*string, err error) {
	if strings.Contains(name, "=") {
		return splitPairs(name)
	}
	n := 0
	for rest := strings.TrimLeft(name, ":"); rest != ""; rest = strings.TrimLeft(rest, ":") {
		end := strings.IndexByte(rest, ':')
		if rest[0] == '[' {
			end = strings.IndexByte(rest, ']') + 1
			if end == 0 {
				return parts, fmt.Errorf("%q: the bracket isn't closed", rest)
			}
		}
		if end < 0 {
			end = len(rest)
		}
		if n == len(parts) {
			return parts, fmt.Errorf("%q is too much: want at most CLIENT:SLOT:SERVER:PORT, with an IPv6 address in brackets", rest)
		}
		part := strings.TrimSpace(rest[:end])
		parts[n], rest = &part, rest[end:]
		if rest != "" && rest[0] != ':' {
			return parts, fmt.Errorf("%q: want a colon after the bracket", rest)
		}
		n++
	}
	return parts, nil
}

// splitPairs is splitDeviceName for the form NAME=VALUE;NAME=VALUE.
func splitPairs(name string) (parts [4]*string, err error) {
	for pair := range strings.SplitSeq(name, ";") {
		pair = strings.TrimSpace(pair)
		if pair == "" {
			continue
		}
		key, value, ok := strings.Cut(pair, "=")
		if !ok {
			return parts, fmt.Errorf("%q: want NAME=VALUE", pair)
		}
		key, value = strings.TrimSpace(key), strings.TrimSpace(value)
		i := slices.Index(partNames, key)
		if i < 0 {
			return parts, fmt.Errorf("unknown name %q: want one of %s", key, strings.Join(partNames, ", "))
		}
		if parts[i] != nil {
			return parts, fmt.Errorf("%s is there twice", key)
		}
		parts[i] = &value
	}
	const server, port = 2, 3
	if parts[server] == nil {
		return parts, nil
	}
	host, number, ok := cutPort(*parts[server])
	if !ok {
		return parts, nil
	}
	if parts[port] != nil {
		return parts, errors.New("port is there twice: with server, too")
	}
	parts[server], parts[port] = &host, &number
	return parts, nil
}

// cutPort takes the port off HOST:PORT. A bare IPv6 address has none.
func cutPort(s string) (host, port string, ok bool) {
	i := strings.LastIndexByte(s, ':')
	if _, err := netip.ParseAddr(s); err == nil || i < 0 || strings.Contains(s[i:], "]") {
		return s, "", false
	}
	return s[:i], s[i+1:], true
}
