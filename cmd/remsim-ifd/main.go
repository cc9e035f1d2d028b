// SPDX-License-Identifier: GPL-2.0-or-later

// Command remsim-ifd is a PC/SC reader driver, a library that pcscd loads:
//
//	go build -buildmode=c-shared -o libifd_remsim_client.so ./cmd/remsim-ifd
//
// Built as a program it only writes its manual page.
package main

import (
	"errors"

	"github.com/spf13/cobra"

	"remsim/internal/daemon"
)

func main() { daemon.Main(command()) }

func command() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "remsim-ifd",
		Short: "Reader driver by which PC/SC applications use remote SIMs",
		Long: `libifd_remsim_client.so is a driver for pcscd, the PC/SC daemon. It shows a reader whose card is remote, so that
every PC/SC application can use a card in a bank as if it were in a reader of its own computer: pcsc_scan,
opensc-tool, pySim. The reader is a client of a remsim-server, which says what card is in it.`,
		RunE: func(*cobra.Command, []string) error {
			return errors.New("this is a library for pcscd, which takes cgo: go build -buildmode=c-shared")
		},
	}
	daemon.LibraryManual(cmd, 8, manual)
	return cmd
}
