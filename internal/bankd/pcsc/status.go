// SPDX-License-Identifier: GPL-2.0-or-later

//go:build cgo

package pcsc

/*
#cgo pkg-config: libpcsclite
#include <stdlib.h>
#include <winscard.h>
*/
import "C"

import (
	"bytes"
	"time"
	"unsafe"

	"github.com/ebfe/scard"
)

// A status is a context of PC/SC that looks at readers, a looker. Package scard has the same
// calls, but its SCardGetStatusChange keeps a reader's name alive only until somebody else in the
// process waits for that reader, too.
type status C.SCARDCONTEXT

func openStatus() (looker, error) {
	var ctx C.SCARDCONTEXT
	if err := check(C.SCardEstablishContext(C.SCARD_SCOPE_SYSTEM, nil, nil, &ctx)); err != nil {
		return nil, err
	}
	return status(ctx), nil
}

func (s status) list() ([]string, error) {
	for buf := make([]byte, 4<<10); ; {
		n := C.DWORD(len(buf))
		err := check(C.SCardListReaders(C.SCARDCONTEXT(s), nil, (*C.char)(unsafe.Pointer(&buf[0])), &n))
		switch {
		case err == scard.ErrNoReadersAvailable:
			return nil, nil
		case err == scard.ErrInsufficientBuffer && int(n) > len(buf):
			buf = make([]byte, 2*n) // one more may come meanwhile
			continue
		case err != nil:
			return nil, err
		}
		var names []string
		for name := range bytes.SplitSeq(buf[:n], []byte{0}) {
			if len(name) > 0 { // the list ends with an empty one
				names = append(names, string(name))
			}
		}
		return names, nil
	}
}

func (s status) await(states []state, d time.Duration) error {
	// What a struct that C gets points to must be C's, too.
	cs := unsafe.Slice((*C.SCARD_READERSTATE)(C.calloc(C.size_t(len(states)), C.sizeof_SCARD_READERSTATE)), len(states))
	defer C.free(unsafe.Pointer(&cs[0]))
	for i, st := range states {
		name := C.CString(st.name)
		defer C.free(unsafe.Pointer(name))
		cs[i].szReader, cs[i].dwCurrentState = name, C.DWORD(st.flags)
	}
	if err := check(C.SCardGetStatusChange(C.SCARDCONTEXT(s), C.DWORD(d.Milliseconds()), &cs[0], C.DWORD(len(cs)))); err != nil {
		return err
	}
	for i, c := range cs {
		states[i].flags = scard.StateFlag(c.dwEventState)
		states[i].atr = C.GoBytes(unsafe.Pointer(&cs[i].rgbAtr[0]), C.int(min(c.cbAtr, C.DWORD(len(c.rgbAtr)))))
	}
	return nil
}

// cancel and release fail when pcscd has gone: then there is nothing left to end.
func (s status) cancel()  { C.SCardCancel(C.SCARDCONTEXT(s)) }
func (s status) release() { C.SCardReleaseContext(C.SCARDCONTEXT(s)) }

// revive switches the power on and off, in a context of its own, as s waits. SCARD_SHARE_DIRECT asks for no card.
func (status) revive(reader string) {
	sc, err := scard.EstablishContext()
	if err != nil {
		return // there will be a look that fails, too
	}
	defer release(sc)
	if c, err := sc.Connect(reader, scard.ShareDirect, scard.ProtocolUndefined); err == nil {
		_ = c.Disconnect(scard.UnpowerCard) // the next look shows what came of it
	}
}

func check(code C.LONG) error {
	if code == C.SCARD_S_SUCCESS {
		return nil
	}
	return scard.Error(code)
}
