// SPDX-License-Identifier: GPL-2.0-or-later

package guest

import (
	"bufio"
	"errors"
	"fmt"
	"os"
	"path/filepath"
)

// writeInitrd writes what the kernel unpacks into its first file system: the program /init, which also finds the modules
// there, in the order of their names.
func writeInitrd(to, initProgram string, modules []string) error {
	f, err := os.Create(to)
	if err != nil {
		return err
	}
	w := &cpio{w: bufio.NewWriter(f)}
	w.entry("init", 0o100755, initProgram)
	w.entry("modules", 0o040755, "")
	for i, m := range modules {
		w.entry(fmt.Sprintf("modules/%02d-%s", i, filepath.Base(m)), 0o100644, m)
	}
	w.entry("TRAILER!!!", 0, "")
	return errors.Join(w.err, w.w.Flush(), f.Close())
}

// A cpio writes an archive in the format "newc" (Linux: driver-api/early-userspace/buffer-format).
type cpio struct {
	w   *bufio.Writer
	n   int // written
	ino int
	err error
}

// entry adds a file of that mode with the content of another, or none.
func (c *cpio) entry(name string, mode int, content string) {
	var data []byte
	if content != "" && c.err == nil {
		data, c.err = os.ReadFile(content)
	}
	c.ino++
	c.printf("070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%s\x00",
		c.ino, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name)+1, 0, name)
	c.pad()
	c.printf("%s", data)
	c.pad()
}

func (c *cpio) printf(format string, args ...any) {
	n, err := fmt.Fprintf(c.w, format, args...)
	c.n += n
	if c.err == nil {
		c.err = err
	}
}

// pad goes to the next multiple of four bytes.
func (c *cpio) pad() {
	for c.n%4 != 0 {
		c.printf("\x00")
	}
}
