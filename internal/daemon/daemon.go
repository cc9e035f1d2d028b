// SPDX-License-Identifier: GPL-2.0-or-later

// Package daemon is what every program has: exit status, signals, version, flag
// values with ranges, logging.
package daemon

import (
	"context"
	"fmt"
	"io"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Main runs a program's command with the process's arguments and ends the process: status 0,
// 1 when RunE failed (one line on standard error), 2 for a wrong command line (one line that
// names option, value and what is allowed). The command's context ends at SIGTERM or SIGINT.
// SIGPIPE is ignored.
func Main(cmd *cobra.Command) {}

// Usagef makes an error that Main turns into exit status 2.
func Usagef(format string, a ...any) error { return fmt.Errorf(format, a...) }

// Version returns the program's version, such as "0.1.0" (at most 32 characters: it
// goes into RSPRO identities as swVersion).
func Version() string { return "" }

// HostName returns the host's name for RSPRO identities: IA5, 1..32 characters.
func HostName() string { return "" }

// OnReport has write called with standard error each time SIGUSR1 arrives, until ctx ends;
// goroutine stacks follow what it writes.
func OnReport(ctx context.Context, write func(io.Writer)) {}

// Uint16Var adds an option whose value is a decimal number min..max.
func Uint16Var(fs *pflag.FlagSet, p *uint16, name, short string, value, min, max uint16, usage string) {
}

// DurationVar adds an option whose value is a duration min..max ("30s", "1m").
func DurationVar(fs *pflag.FlagSet, p *time.Duration, name, short string, value, min, max time.Duration, usage string) {
}

// HexVar adds an option whose value is min..max bytes in hex, blanks and a 0x prefix allowed.
func HexVar(fs *pflag.FlagSet, p *[]byte, name, short string, value []byte, min, max int, usage string) {
}

// AddrVar adds an option whose value is "HOST:PORT", ":PORT" or "[V6]:PORT".
func AddrVar(fs *pflag.FlagSet, p *string, name, short, value, usage string) {}

// LogOptions are the logging options all programs have.
type LogOptions struct{}

// Flags adds -d --debug, -L --disable-color, --log-level, and with timestamp the bankd's -T and -e.
func (o *LogOptions) Flags(fs *pflag.FlagSet, bankd bool) {}

// Logger returns the log on w: one line an event. Categories are the C suite's names in the field "cat"
// (DMAIN DRSPRO DREST DSLOTMAP DBANKDW DLINP DST2 DGSMTAP).
func (o *LogOptions) Logger(w io.Writer) *logrus.Logger { return nil }
