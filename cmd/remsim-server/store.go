// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"

	"remsim/internal/daemon"
	"remsim/internal/server"
	"remsim/internal/server/store"
)

// A location is the value of --store: where the server keeps its state.
type location struct {
	path string // of a file; empty: in memory
	set  bool   // the option was given
}

const memory = "memory"

// Set implements pflag.Value.
func (l *location) Set(s string) error {
	path, isFile := strings.CutPrefix(s, "file:")
	switch {
	case s == memory:
		path = ""
	case !isFile || path == "":
		return errors.New("want file:PATH or " + memory)
	}
	l.path, l.set = path, true
	return nil
}

// String implements pflag.Value.
func (l *location) String() string {
	switch {
	case !l.set:
		return ""
	case l.path == "":
		return memory
	}
	return "file:" + l.path
}

// Type implements pflag.Value.
func (*location) Type() string { return "file:PATH|" + memory }

func (l *location) flag(fs *pflag.FlagSet, usage string) { fs.Var(l, "store", usage) }

// settle decides where that is when the option wasn't given: systemd says it of a unit with StateDirectory.
func (l *location) settle() {
	if dir, _, _ := strings.Cut(os.Getenv("STATE_DIRECTORY"), ":"); !l.set && dir != "" {
		l.path = filepath.Join(dir, "state.db")
	}
}

// open opens the store; nil: there is none but the server itself.
func (l *location) open(log *logrus.Entry) (server.Store, error) {
	l.settle()
	if l.path == "" {
		log.Info("slot maps are kept in memory only: they are gone when the server ends (see --store)")
		return nil, nil
	}
	s, err := store.Open(l.path)
	if err != nil {
		return nil, err
	}
	log.WithField("file", l.path).Info("slot maps are kept in a file")
	return s, nil
}

// file returns the file that a store command is about.
func (l *location) file() (string, error) {
	l.settle()
	if l.path == "" {
		return "", daemon.Usagef("option --store: want file:PATH, as there is nothing in memory of a server that doesn't run")
	}
	return l.path, nil
}

// storeCommand is the command store, with those below it.
func storeCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "store",
		Short: "Write what a server keeps as JSON, or read it",
		Long: `Writes what a server keeps in its file as JSON, or reads that into one, while no server uses the file. The JSON is described in the
section Files.`,
	}
	var from location
	export := &cobra.Command{
		Use:   "export [FILE]",
		Short: "Write what is in a server's file as JSON",
		Long:  `Writes what is in a server's file as JSON to FILE, which mustn't be there yet, or to standard output. Nothing is changed.`,
		Args:  cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := from.file()
			if err != nil {
				return err
			}
			s, err := store.Read(path)
			if err != nil {
				return err
			}
			if len(args) == 0 {
				return store.Export(cmd.OutOrStdout(), s)
			}
			w, err := os.OpenFile(args[0], os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
			if err != nil {
				return err
			}
			err = errors.Join(store.Export(w, s), w.Sync(), w.Close())
			if err != nil {
				err = errors.Join(err, os.Remove(args[0])) // half of it is worse than none
			}
			return err
		},
	}
	from.flag(export.Flags(), "file to read, `file:PATH` (default state.db in $STATE_DIRECTORY, if set)")
	var to location
	var replace bool
	imp := &cobra.Command{
		Use:   "import [FILE]",
		Short: "Read what a server keeps from JSON",
		Long: `Reads what "store export" has written from FILE or standard input, and puts it into a server's file, which is made if there is
none. All of it is checked first: when anything is wrong, the file stays as it is.`,
		Args: cobra.MaximumNArgs(1),
		RunE: func(cmd *cobra.Command, args []string) error {
			path, err := to.file()
			if err != nil {
				return err
			}
			var r io.Reader = cmd.InOrStdin()
			name := "standard input"
			if len(args) > 0 {
				f, err := os.Open(args[0])
				if err != nil {
					return err
				}
				defer f.Close()
				r, name = f, args[0]
			}
			s, err := store.Parse(r)
			if err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
			err = store.Replace(path, s, replace)
			if errors.Is(err, store.ErrNotEmpty) {
				return fmt.Errorf("%w; --replace has that done", err)
			}
			return err
		},
	}
	to.flag(imp.Flags(), "file to write, `file:PATH` (default state.db in $STATE_DIRECTORY, if set)")
	imp.Flags().BoolVar(&replace, "replace", false, "put it in the place of all that is in the file")
	cmd.AddCommand(export, imp)
	return cmd
}

// poolFlag is the value of --client-id-pool.
type poolFlag struct{ pool **server.IDPool }

// Set implements pflag.Value.
func (f poolFlag) Set(s string) error {
	p, err := server.ParseIDPool(s)
	if err != nil {
		return errors.New("want N-M or N with N <= M and both 0..1023")
	}
	*f.pool = &p
	return nil
}

// String implements pflag.Value.
func (f poolFlag) String() string {
	if f.pool == nil || *f.pool == nil {
		return ""
	}
	return (*f.pool).String()
}

// Type implements pflag.Value.
func (poolFlag) Type() string { return "N-M" }
