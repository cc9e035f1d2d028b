// SPDX-License-Identifier: GPL-2.0-or-later

package rig

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"
)

// VPCDPort is the TCP port of the first virtual reader; the next ones follow.
const VPCDPort = 35963

const (
	pcscSocket = "/run/pcscd/pcscd.comm"
	install    = "install the packages pcscd, vsmartcard-vpcd and libpcsclite-dev"
)

// StartPCSC starts a pcscd with n virtual readers at VPCDPort and up. dir is a
// directory for its files. Only inside the namespaces of Enter.
func StartPCSC(dir string, n int) (*Proc, error) {
	found, _ := filepath.Glob("/usr/lib/pcsc/drivers/serial/libifdvpcd.so.*")
	if len(found) == 0 {
		return nil, fmt.Errorf("no vpcd driver found: %s", install)
	}
	driver, err := os.ReadFile(found[0])
	if err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "reader.conf.d")
	if err := os.MkdirAll(conf, 0o755); err != nil {
		return nil, err
	}
	var text []byte
	for i := 0; i < n; i += 2 {
		// A driver file serves two readers, and the same file can't be loaded twice.
		lib := filepath.Join(dir, fmt.Sprintf("vpcd%d.so", i))
		if err := os.WriteFile(lib, driver, 0o755); err != nil {
			return nil, err
		}
		text = fmt.Appendf(text, "FRIENDLYNAME \"%s\"\nDEVICENAME /dev/null:%#X\nLIBPATH %s\nCHANNELID %#X\n\n",
			ReaderName(i), VPCDPort+i, lib, VPCDPort+i)
	}
	if err := os.WriteFile(filepath.Join(conf, "vpcd"), text, 0o644); err != nil {
		return nil, err
	}
	p, err := Start("pcscd", "/usr/sbin/pcscd", "-f", "-e", "-c", conf)
	if err != nil {
		return nil, fmt.Errorf("%w: %s", err, install)
	}
	for end := time.Now().Add(10 * time.Second); ; time.Sleep(5 * time.Millisecond) {
		c, err := net.Dial("unix", pcscSocket)
		if err == nil {
			c.Close()
			return p, nil
		}
		if time.Now().After(end) {
			p.Kill()
			return nil, fmt.Errorf("pcscd doesn't listen: %w; it says: %s", err, p.Log())
		}
	}
}

// ReaderName returns how the pair of readers begins that reader i belongs to.
func ReaderName(i int) string { return fmt.Sprintf("Virtual SIM reader %c", 'A'+i/2) }
