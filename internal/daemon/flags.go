// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"encoding/hex"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/spf13/pflag"
)

// A ranged value knows what it takes, such as "a number 0..1023", and if these are a few words, which.
type ranged interface {
	wanted() string
	choices() []string
}

// A value is a pflag.Value made of a parser and a formatter.
type value[T any] struct {
	p      *T
	parse  func(string) (T, error) // its errors only say why, the rest is added
	format func(T) string
	typ    string   // placeholder in the help
	want   string   // what is allowed
	words  []string // to complete
}

func (v *value[T]) Set(s string) error {
	x, err := v.parse(s)
	if err != nil {
		return errors.New("want " + v.want)
	}
	*v.p = x
	return nil
}

func (v *value[T]) String() string {
	if v.p == nil { // pflag makes zero values to compare with
		return ""
	}
	return v.format(*v.p)
}

func (v *value[T]) Type() string      { return v.typ }
func (v *value[T]) wanted() string    { return v.want }
func (v *value[T]) choices() []string { return v.words }

// errRange says that a value isn't allowed; what is, value.want tells.
var errRange = errors.New("out of range")

// Uint16Var adds an option whose value is a decimal number min..max.
func Uint16Var(fs *pflag.FlagSet, p *uint16, name, short string, def, min, max uint16, usage string) {
	*p = def
	allowed := fmt.Sprintf("%d..%d", min, max)
	fs.VarP(&value[uint16]{
		p: p,
		parse: func(s string) (uint16, error) {
			n, err := strconv.ParseUint(s, 10, 16)
			if err == nil && (uint16(n) < min || uint16(n) > max) {
				err = errRange
			}
			return uint16(n), err
		},
		format: func(n uint16) string { return strconv.Itoa(int(n)) },
		typ:    allowed,
		want:   "a number " + allowed,
	}, name, short, usage)
}

// DurationVar adds an option whose value is a duration min..max ("30s", "1m"); a number
// without a unit is seconds.
func DurationVar(fs *pflag.FlagSet, p *time.Duration, name, short string, def, min, max time.Duration, usage string) {
	*p = def
	allowed := duration(min) + ".." + duration(max)
	fs.VarP(&value[time.Duration]{
		p: p,
		parse: func(s string) (time.Duration, error) {
			if _, err := strconv.ParseUint(s, 10, 32); err == nil {
				s += "s"
			}
			d, err := time.ParseDuration(s)
			if err == nil && (d < min || d > max) {
				err = errRange
			}
			return d, err
		},
		format: duration,
		typ:    allowed,
		want:   "a duration " + allowed,
	}, name, short, usage)
}

// duration returns "1m" for what package time calls "1m0s".
func duration(d time.Duration) string {
	s := d.String()
	if strings.HasSuffix(s, "m0s") {
		s = strings.TrimSuffix(s, "0s")
	}
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}

// HexVar adds an option whose value is min..max bytes in hex, blanks and a 0x prefix allowed.
func HexVar(fs *pflag.FlagSet, p *[]byte, name, short string, def []byte, min, max int, usage string) {
	*p = def
	fs.VarP(&value[[]byte]{
		p: p,
		parse: func(s string) ([]byte, error) {
			s = strings.Join(strings.Fields(s), "")
			if len(s) > 1 && strings.EqualFold(s[:2], "0x") {
				s = s[2:]
			}
			b, err := hex.DecodeString(s)
			if err == nil && (len(b) < min || len(b) > max) {
				err = errRange
			}
			return b, err
		},
		format: hex.EncodeToString,
		typ:    "HEX",
		want:   fmt.Sprintf("%d..%d bytes in hex", min, max),
	}, name, short, usage)
}

// HostVar adds an option whose value is a host's name or address, an IPv6 one also in brackets,
// which *p is without.
func HostVar(fs *pflag.FlagSet, p *string, name, short, def, usage string) {
	*p = def
	fs.VarP(&value[string]{
		p:      p,
		parse:  parseHost,
		format: func(s string) string { return s },
		typ:    "HOST",
		want:   "a host name or an address, without a port",
	}, name, short, usage)
}

func parseHost(s string) (string, error) {
	literal := s
	if strings.HasPrefix(s, "[") && strings.HasSuffix(s, "]") {
		literal = s[1 : len(s)-1]
	}
	if a, err := netip.ParseAddr(literal); err == nil && (literal == s || a.Is6()) {
		return literal, nil
	}
	if s == "" || strings.Trim(strings.ToLower(s), "abcdefghijklmnopqrstuvwxyz0123456789-._") != "" {
		return "", errRange
	}
	return s, nil
}

// AddrVar adds an option whose value is "HOST:PORT", ":PORT" or "[V6]:PORT".
func AddrVar(fs *pflag.FlagSet, p *string, name, short, def, usage string) {
	*p = def
	fs.VarP(&value[string]{
		p: p,
		parse: func(s string) (string, error) {
			host, port, err := net.SplitHostPort(s)
			if err == nil && host != "" {
				_, err = parseHost(host)
			}
			if err == nil {
				_, err = strconv.ParseUint(port, 10, 16)
			}
			return s, err
		},
		format: func(s string) string { return s },
		typ:    "HOST:PORT",
		want:   "HOST:PORT, :PORT or [IPV6]:PORT with a port 0..65535",
	}, name, short, usage)
}

// ChoiceVar adds an option whose value is one of words.
func ChoiceVar(fs *pflag.FlagSet, p *string, name, short, def string, words []string, usage string) {
	*p = def
	fs.VarP(&value[string]{
		p: p,
		parse: func(s string) (string, error) {
			if !slices.Contains(words, s) {
				return "", errRange
			}
			return s, nil
		},
		format: func(s string) string { return s },
		typ:    strings.Join(words, "|"),
		want:   strings.Join(words, " or "),
		words:  words,
	}, name, short, usage)
}

// VersionFlag adds --version with the short form short, or without it where that letter is
// taken. Main adds it with -V to a command that hasn't any.
func VersionFlag(fs *pflag.FlagSet, short string) {
	if fs.Lookup("version") != nil {
		return
	}
	if fs.ShorthandLookup(short) != nil {
		short = ""
	}
	fs.BoolP("version", short, false, "say which version this is, and what it was built from")
	if short == "V" {
		markCommon(fs, "version")
	}
}
