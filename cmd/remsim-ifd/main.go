// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-ifd is a PC/SC reader driver, a library that pcscd loads:
//
//	go build -buildmode=c-shared -o libifd_remsim_client.so ./cmd/remsim-ifd
//
// Built as a program it does nothing but write its manual page.
package main

import (
	"errors"

	"github.com/spf13/cobra"

	"remsim/internal/daemon"
	"remsim/internal/link"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remsim-ifd",
		Short: "PC/SC reader driver for a remote SIM",
		Long:  "A driver by which pcscd shows a reader whose card is remote: PC/SC applications use it as if it were local.",
		RunE: func(*cobra.Command, []string) error {
			return errors.New("this is a library for pcscd, to be built by go build -buildmode=c-shared with cgo")
		},
	}
	daemon.Manual(cmd, 8, manual, link.Manual)
	return cmd
}
