// SPDX-License-Identifier: GPL-2.0-or-later

// Package ifd is a client whose modem is pcscd: the functions of a reader driver (IFDHandler 3.0), by which
// a remote card is in a reader of this computer. It knows no C; cmd/remsim-ifd hands its functions to
// pcscd.
package ifd

import (
	"fmt"
	"runtime/debug"
	"sync"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/link"
)

// How long functions take at most.
const (
	transmitTimeout = 60 * time.Second // longer than bankds wait for a card
	powerTimeout    = 5 * time.Second
	closeTimeout    = 1500 * time.Millisecond // within the 2 s that all others have
)

// maxReaders is how many readers there may be: all that one byte can say.
const maxReaders = 255

// A Driver is what pcscd has loaded. Its methods are IFDHandler functions, of which they have the name and meaning; they
// may be called from any thread and in any order. A reader is named by its Lun: pcscd's number of
// it in the upper 16 bits, and the slot in it, which is 0, in the lower.
type Driver struct {
	net link.Network
	log *logrus.Logger

	mu      sync.Mutex
	readers map[uint64]*reader
}

// New returns a driver without readers. Log lines go to write, which may be called from any goroutine.
func New(net link.Network, write func(Priority, string)) *Driver {
	return &Driver{net: net, log: newLog(write), readers: map[uint64]*reader{}}
}

// Guard runs call, a function of pcscd's, and makes CommunicationError and a log line of a panic in it, that
// pcscd isn't to die of.
func (d *Driver) Guard(name string, call func() Code) (code Code) {
	defer func() {
		if fault := recover(); fault != nil {
			logFault(d.log.WithFields(logrus.Fields{"cat": "DMAIN", "call": name}), fault)
			code = CommunicationError
		}
	}()
	return call()
}

// logFault logs a panic, on the goroutine that has recovered from it.
func logFault(log *logrus.Entry, fault any) {
	log.WithField("fault", fault).Error("fault in the driver, please report it")
	log.Debug(string(debug.Stack()))
}

// reader returns the reader that lun names, nil: there is none.
func (d *Driver) reader(lun uint64) *reader {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.readers[lun]
}

// CreateChannelByName opens the reader lun, as deviceName says; its client lives until CloseChannel. A
// name that is wrong leaves a reader without a card, and a log line.
func (d *Driver) CreateChannelByName(lun uint64, deviceName string) Code {
	log := d.log.WithFields(logrus.Fields{"cat": "DMAIN", "lun": fmt.Sprintf("%#x", lun), "device": deviceName})
	d.mu.Lock()
	if lun&0xffff != 0 || d.readers[lun] != nil {
		d.mu.Unlock()
		// pcscd takes a library with two names for two drivers, and counts the readers of each from 0.
		log.Error("reader not opened: its Lun is in use, or names a slot that readers don't have; " +
			"the LIBPATH of all readers has to be the same, letter by letter")
		return CommunicationError
	}
	r := newReader(log)
	d.readers[lun] = r
	d.mu.Unlock()

	cfg, err := parseDeviceName(deviceName)
	if err != nil {
		log.WithError(err).Error("wrong DEVICENAME, so the reader will have no card")
		return Success
	}
	r.start(cfg, d.net, d.log)
	return Success
}

// CreateChannel is for readers without a DEVICENAME, which the driver doesn't have.
func (d *Driver) CreateChannel(lun uint64) Code {
	d.log.WithFields(logrus.Fields{"cat": "DMAIN", "lun": fmt.Sprintf("%#x", lun)}).
		Error("reader not opened: it has no DEVICENAME, want CLIENT:SLOT:SERVER:PORT")
	return CommunicationError
}

// CloseChannel ends the reader's client and all calls for it.
func (d *Driver) CloseChannel(lun uint64) Code {
	d.mu.Lock()
	r := d.readers[lun]
	delete(d.readers, lun)
	d.mu.Unlock()
	if r == nil {
		return CommunicationError
	}
	r.close(closeTimeout)
	return Success
}

// GetCapabilities returns the value of a tag.
func (d *Driver) GetCapabilities(lun uint64, tag Tag) ([]byte, Code) {
	switch tag {
	case TagSimultaneousAccess:
		return []byte{maxReaders}, Success
	case TagThreadSafe, TagSlotThreadSafe, TagSlotsNumber:
		return []byte{1}, Success
	case TagPollingKillable:
		return []byte{0}, Success
	case TagATR, TagATRString:
		r := d.reader(lun)
		if r == nil {
			return nil, CommunicationError
		}
		return r.answerToReset()
	}
	return nil, ErrorTag
}

// SetCapabilities has nothing to set.
func (d *Driver) SetCapabilities(lun uint64) Code {
	if d.reader(lun) == nil {
		return CommunicationError
	}
	return NotSupported
}

// SetProtocolParameters takes T=0, by the number that PC/SC has for it. How fast card and bankd talk to each other is
// the bankd's affair, so that all else is of no interest.
func (d *Driver) SetProtocolParameters(lun, protocol uint64) Code {
	switch {
	case d.reader(lun) == nil:
		return CommunicationError
	case protocol != ProtocolT0:
		return ProtocolNotSupported
	}
	return Success
}

// Power switches the card on or off, or resets it, and returns the ATR unless it is off. That is the ATR
// after this reset where the bankd tells it, otherwise the last one.
func (d *Driver) Power(lun uint64, action Action) ([]byte, Code) {
	r := d.reader(lun)
	if r == nil {
		return nil, CommunicationError
	}
	switch action {
	case PowerDown:
		return nil, r.powerDown()
	case PowerUp, Reset:
		return r.powerUp(action == Reset)
	}
	return nil, NotSupported
}

// Transmit sends a command APDU of short length, by T=0 of ISO 7816-3, and returns data and status words as the card
// has sent them. protocol is the number after "T=".
func (d *Driver) Transmit(lun, protocol uint64, apdu []byte) ([]byte, Code) {
	r := d.reader(lun)
	switch {
	case r == nil:
		return nil, CommunicationError
	case protocol != 0:
		return nil, ProtocolNotSupported
	}
	return r.transmit(apdu)
}

// Control knows GetFeatureRequest, which is answered by an empty list.
func (d *Driver) Control(lun, code uint64) ([]byte, Code) {
	switch {
	case d.reader(lun) == nil:
		return nil, CommunicationError
	case code == GetFeatureRequest:
		return nil, Success
	}
	return nil, ErrorNotSupported
}

// Presence returns Success when a card is in the reader, otherwise ICCNotPresent.
func (d *Driver) Presence(lun uint64) Code {
	r := d.reader(lun)
	if r == nil {
		return CommunicationError
	}
	return r.presence()
}

// Poll waits until what Presence returns has changed, for timeout, or until StopPoll. It is the function of
// TAG_IFD_POLLING_THREAD_WITH_TIMEOUT: one thread calls it and Presence in turn.
func (d *Driver) Poll(lun uint64, timeout time.Duration) Code {
	r := d.reader(lun)
	if r == nil {
		return CommunicationError
	}
	r.poll(timeout)
	return Success
}

// StopPoll ends the Poll that is under way, or else the next one.
func (d *Driver) StopPoll(lun uint64) Code {
	r := d.reader(lun)
	if r == nil {
		return CommunicationError
	}
	r.stopPoll()
	return Success
}
