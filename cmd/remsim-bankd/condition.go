// SPDX-License-Identifier: GPL-2.0-or-later

package main

import (
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	"github.com/spf13/cobra"

	"remsim/internal/bankd"
	"remsim/internal/daemon"
)

// slotsName is the name of the slots file, unless an option names one.
const slotsName = "bankd_pcsc_slots.csv"

// slotsDirs are where it is searched: the first that has it is meant.
func slotsDirs() []string { return []string{".", "/etc/remsim", "/etc/osmocom"} }

// findSlots returns the slots file of one of dirs, or else the name it should have.
func findSlots(dirs []string) string {
	for _, dir := range dirs {
		file, err := filepath.Abs(filepath.Join(dir, slotsName))
		if err != nil {
			continue
		}
		if _, err := os.Stat(file); !errors.Is(err, fs.ErrNotExist) {
			return file // also one that we may not read
		}
	}
	return slotsName
}

// conditionCommand is the command that says whether a bankd has something to serve.
func conditionCommand() *cobra.Command {
	return &cobra.Command{
		Use:   "condition",
		Short: "Say whether there is something to serve, for a unit's ExecCondition=",
		Long: `Ends with exit status 1 and says why when there is nothing to serve: no option names a slots file and there is none, or it has no
line. All options of remsim-bankd may be given. What is wrong with them or with the file is left to the bankd to
say: exit status 0.`,
		Args:               cobra.ArbitraryArgs,
		DisableFlagParsing: true,
		RunE: func(cmd *cobra.Command, args []string) error {
			var (
				cfg bankd.Config
				o   options
				log daemon.LogOptions
			)
			bankd := &cobra.Command{}
			o.flags(bankd, &cfg)
			log.Flags(bankd.Flags(), true)
			bankd.Flags().BoolP("help", "h", false, "")
			if err := bankd.ParseFlags(args); err != nil || bankd.Flags().NArg() > 0 || o.fill(&cfg) != nil {
				return nil
			}
			if help, _ := bankd.Flags().GetBool("help"); help {
				return cmd.Help()
			}
			return idle(cfg.SlotsFile)
		},
	}
}

// idle says why a bankd has nothing to serve; nil: it has, or there is more wrong than that.
func idle(file string) error {
	slots, err := bankd.ReadSlots(file)
	switch {
	case errors.Is(err, fs.ErrNotExist) && file == slotsName:
		return fmt.Errorf("nothing to serve: there is no slots file, such as %s", filepath.Join(slotsDirs()[1], slotsName))
	case err == nil && len(slots) == 0:
		return fmt.Errorf("nothing to serve: the slots file %s has no line", file)
	}
	return nil
}
