// SPDX-License-Identifier: GPL-2.0-or-later

package gsmtap

import (
	"errors"
	"fmt"
	"io"
	"os"
	"time"
)

// A file is an *os.File but in tests.
type file interface {
	io.WriteSeeker
	io.Closer
	Truncate(int64) error
	SetWriteDeadline(time.Time) error
}

// openFile opens a pcap file, or makes one that only the user can read. What is in it stays, so
// that a program that crashed and was restarted doesn't destroy what led there; what is no file of
// ours stays untouched. It may be a FIFO with or without a reader.
func openFile(name string) (file, error) {
	// Reading is for the check below, and has a FIFO open without a reader.
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|os.O_APPEND, 0o600)
	if err != nil {
		return nil, err
	}
	if err := begin(f); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// begin has f begin with fileHeader.
func begin(f *os.File) error {
	info, err := f.Stat()
	if err != nil {
		return err
	}
	if info.Size() == 0 {
		_, err := f.Write(fileHeader[:])
		return err
	}
	var b [len(fileHeader)]byte
	if _, err := f.ReadAt(b[:], 0); err != nil && err != io.EOF {
		return err
	}
	if b != fileHeader {
		return fmt.Errorf("%s is there already and is no pcap file of this program", f.Name())
	}
	return nil
}

// save appends a record to f, all of it or nothing.
func save(f file, record []byte) error {
	f.SetWriteDeadline(time.Now().Add(writeWithin)) // only FIFOs take and need it
	n, err := f.Write(record)
	if n > 0 && err != nil {
		// Readers would take what comes later for the rest of this record.
		end, seekErr := f.Seek(0, io.SeekEnd)
		if seekErr == nil {
			seekErr = f.Truncate(end - int64(n))
		}
		err = errors.Join(err, seekErr)
	}
	return err
}
