// SPDX-License-Identifier: GPL-2.0-or-later

// Package daemon is what every program has: exit status, signals, version, manual, flag
// values with ranges, logging.
package daemon

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"os/signal"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"

	"github.com/sirupsen/logrus"
	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Exit statuses of all programs.
const (
	statusOK     = 0
	statusFailed = 1 // the program's work failed
	statusUsage  = 2 // the command line is wrong
)

// Main runs a program's command with the process's arguments and ends the process: status 0,
// 1 when RunE failed (one line on standard error), 2 for a wrong command line (one line that
// names option, value and what is allowed). The command's context ends at SIGTERM or SIGINT; a
// second one ends the process at once. SIGPIPE is ignored, and SIGUSR1 but for OnReport.
func Main(cmd *cobra.Command) {
	// Caught and dropped rather than ignored: an ignored signal would stay ignored in event scripts.
	signal.Notify(make(chan os.Signal, 1), syscall.SIGPIPE, syscall.SIGUSR1)
	ctx, stop := signal.NotifyContext(context.Background(), syscall.SIGTERM, syscall.SIGINT)
	context.AfterFunc(ctx, stop)
	os.Exit(Execute(ctx, cmd, os.Args[1:], os.Stdout, os.Stderr))
}

// Execute is Main without the process: it runs cmd with args and returns the exit status.
// Help and version go to stdout, what went wrong to stderr, which RunE reaches as
// cmd.OutOrStdout and cmd.ErrOrStderr. A RunE that fails because ctx has ended was
// asked to stop: status 0.
func Execute(ctx context.Context, cmd *cobra.Command, args []string, stdout, stderr io.Writer) int {
	running := false
	prepare(cmd, &running)
	if writeManual(stdout, cmd, args) {
		return statusOK
	}
	// cobra takes the process's arguments for nil ones.
	cmd.SetArgs(append([]string{}, args...))
	cmd.SetOut(stdout)
	cmd.SetErr(stderr)

	ran, err := cmd.ExecuteContextC(ctx)
	var usage *usageError
	switch {
	case err == nil:
		return statusOK
	case running && ctx.Err() != nil && errors.Is(err, context.Canceled):
		return statusOK
	}
	complain(ran, stderr, cmd.Name()+": "+oneLine(err))
	if !running || errors.As(err, &usage) {
		return statusUsage
	}
	return statusFailed
}

// prepare makes cmd and the commands below it report a wrong command line our way, and sets
// *running when one of them begins its work: an error before that is one of usage.
func prepare(cmd *cobra.Command, running *bool) {
	cmd.SilenceErrors = true
	cmd.SilenceUsage = true
	cmd.DisableSuggestions = true
	cmd.CompletionOptions.HiddenDefaultCmd = true
	cmd.Flags().SortFlags = false
	cmd.SetFlagErrorFunc(flagError)
	if cmd.Flags().Lookup("help") == nil {
		cmd.Flags().BoolP("help", "h", false, "show the options")
		markCommon(cmd.Flags(), "help")
	}
	complete(cmd)
	if !cmd.HasParent() {
		cmd.Version = Version()
		info, _ := debug.ReadBuildInfo()
		cmd.SetVersionTemplate(versionText(cmd.Name(), source, info))
		VersionFlag(cmd.Flags(), "V")
		if cmd.HasSubCommands() {
			cmd.SetHelpCommand(helpCommand())
			cmd.InitDefaultHelpCmd()
		}
	}

	run, check := cmd.RunE, cmd.Args
	switch {
	case run == nil:
		cmd.RunE = func(*cobra.Command, []string) error { return nil }
		check = wantCommand
		if cmd.Annotations == nil {
			cmd.Annotations = map[string]string{}
		}
		cmd.Annotations[noWork] = ""
	default:
		cmd.RunE = func(c *cobra.Command, args []string) error {
			*running = true
			return run(c, args)
		}
		if check == nil {
			check = noArguments
		}
	}
	cmd.Args = func(c *cobra.Command, args []string) error {
		if err := check(c, args); err != nil {
			return err
		}
		return missing(c)
	}
	for _, sub := range cmd.Commands() {
		prepare(sub, running)
	}
}

// complete says what a shell completes: no arguments, unless cmd says which, and after options the words they take; any string
// may be a file's name, which is left to the shell.
func complete(cmd *cobra.Command) {
	if cmd.ValidArgsFunction == nil {
		cmd.ValidArgsFunction = cobra.NoFileCompletions
	}
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Value.Type() == "string" {
			return
		}
		var words []string
		if v, ok := f.Value.(ranged); ok {
			words = v.choices()
		}
		cmd.RegisterFlagCompletionFunc(f.Name, cobra.FixedCompletions(words, cobra.ShellCompDirectiveNoFileComp))
	})
}

// helpCommand returns the command help, which cobra's own does, too, but for unknown commands.
func helpCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "help [command]",
		Short: "What a command does, and its options",
		Args:  cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			of := cmd.Root()
			for _, name := range args {
				i := slices.IndexFunc(of.Commands(), func(c *cobra.Command) bool { return c.Name() == name })
				if i < 0 {
					return unknownCommand(of, name)
				}
				of = of.Commands()[i]
			}
			of.InitDefaultHelpFlag()
			return of.Help()
		},
	}
}

// complain writes the line that says why cmd has failed, in the form of its log.
func complain(cmd *cobra.Command, w io.Writer, line string) {
	if f := cmd.Flags().Lookup("log-format"); f != nil && f.Value.String() == formatJSON {
		log := LogOptions{format: formatJSON, timestamp: true, level: logrus.InfoLevel}
		log.Logger(w).Error(line)
		return
	}
	if isJournal(w) {
		line = priority(logrus.ErrorLevel) + line
	}
	fmt.Fprintln(w, line)
}

// oneLine returns the text of err as one line that is safe to show on a terminal.
func oneLine(err error) string {
	return printable(strings.ReplaceAll(strings.TrimSpace(err.Error()), "\n", "; "))
}
