// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"errors"
	"fmt"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

type usageError struct{ err error }

func (e *usageError) Error() string { return e.err.Error() }
func (e *usageError) Unwrap() error { return e.err }

// Usagef makes an error that Main turns into exit status 2. The text should name the option
// or argument, its value and what is allowed.
func Usagef(format string, a ...any) error { return &usageError{fmt.Errorf(format, a...)} }

// optionError says why an option doesn't take a value.
func optionError(f *pflag.Flag, value string, cause error) error {
	return Usagef("option %s: value %q: %w", optionName(f), value, cause)
}

// flagError words what pflag found wrong.
func flagError(cmd *cobra.Command, err error) error {
	var (
		unknown   *pflag.NotExistError
		valueless *pflag.ValueRequiredError
		invalid   *pflag.InvalidValueError
	)
	switch {
	case errors.As(err, &unknown):
		name := "--" + unknown.GetSpecifiedName()
		if group := unknown.GetSpecifiedShortnames(); group != "" {
			name = "-" + unknown.GetSpecifiedName()
			if group != unknown.GetSpecifiedName() {
				name += " (in -" + group + ")"
			}
		}
		return Usagef("unknown option %s: want one of %s", name, options(cmd))
	case errors.As(err, &valueless):
		f := valueless.GetFlag()
		return Usagef("option %s: value missing: want %s", optionName(f), wanted(f))
	case errors.As(err, &invalid):
		f, cause := invalid.GetFlag(), invalid.Unwrap()
		if f.Value.Type() == "bool" {
			cause = errors.New("want true or false")
		}
		return optionError(f, invalid.GetValue(), cause)
	}
	return Usagef("%w", err)
}

// noArguments is the check of a command whose Args is nil.
func noArguments(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return Usagef("unexpected argument %q: %s takes options only", args[0], cmd.CommandPath())
	}
	return nil
}

// wantCommand is the check of a command that only has others below it.
func wantCommand(cmd *cobra.Command, args []string) error {
	if len(args) > 0 {
		return unknownCommand(cmd, args[0])
	}
	return Usagef("command missing: want one of %s", commands(cmd))
}

func unknownCommand(cmd *cobra.Command, name string) error {
	return Usagef("unknown command %q: want one of %s", name, commands(cmd))
}

// commands lists the commands below cmd.
func commands(cmd *cobra.Command) string {
	var names []string
	for _, sub := range cmd.Commands() {
		if sub.IsAvailableCommand() {
			names = append(names, sub.Name())
		}
	}
	return strings.Join(names, ", ")
}

// missing reports an option that is mandatory (cobra.MarkFlagRequired) and isn't there.
func missing(cmd *cobra.Command) error {
	var err error
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		_, required := f.Annotations[cobra.BashCompOneRequiredFlag]
		if err == nil && required && !f.Changed {
			err = Usagef("option %s is missing: want %s", optionName(f), wanted(f))
		}
	})
	return err
}

// optionName returns a form such as "-p --server-port".
func optionName(f *pflag.Flag) string {
	if f.Shorthand != "" {
		return "-" + f.Shorthand + " --" + f.Name
	}
	return "--" + f.Name
}

// options lists the options of cmd.
func options(cmd *cobra.Command) string {
	var names []string
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if !f.Hidden {
			names = append(names, optionName(f))
		}
	})
	return strings.Join(names, ", ")
}

// wanted says what values an option takes.
func wanted(f *pflag.Flag) string {
	if v, ok := f.Value.(ranged); ok {
		return v.wanted()
	}
	name, usage := pflag.UnquoteUsage(f)
	return name + " (" + usage + ")"
}
