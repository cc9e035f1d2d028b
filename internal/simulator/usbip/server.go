// SPDX-License-Identifier: GPL-2.0-or-later

package usbip

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"time"

	"github.com/sirupsen/logrus"
)

// A Hub has the devices that may be imported.
type Hub interface {
	// Devices returns what is plugged in, in the order of a list.
	Devices() []Summary
	// Import returns a device that is plugged in by its BusID, and a context that ends when it is unplugged.
	Import(ctx context.Context, busID string) (Device, context.Context, error)
}

// operationTimeout is how long a host may take to say what it wants.
const operationTimeout = 10 * time.Second

// Serve serves the devices of hub to every host that connects (usbip list -r, usbip attach -r) until ctx ends, and
// closes the listener.
func Serve(ctx context.Context, l net.Listener, hub Hub, log *logrus.Entry) error {
	var conns sync.WaitGroup
	defer conns.Wait()
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	stop := context.AfterFunc(ctx, func() { l.Close() })
	defer stop()
	for {
		conn, err := l.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			l.Close()
			return fmt.Errorf("usbip: %w", err)
		}
		conns.Go(func() {
			log := log.WithField("peer", conn.RemoteAddr().String())
			if err := serve(ctx, conn, hub); err != nil {
				log.WithError(err).Warn("USB/IP connection ended")
			}
		})
	}
}

// serve answers one connection: a list, or an import and all that follows.
func serve(ctx context.Context, conn net.Conn, hub Hub) error {
	stop := context.AfterFunc(ctx, func() { conn.Close() })
	defer stop()
	defer conn.Close()
	if err := conn.SetDeadline(time.Now().Add(operationTimeout)); err != nil {
		return err
	}
	code, busID, err := readOperation(conn)
	if err != nil {
		if errors.Is(err, io.EOF) {
			return nil
		}
		return err
	}
	devices := hub.Devices()
	if code == opReqList {
		_, err := conn.Write(appendList(nil, devices))
		return err
	}
	dev, plugged, err := hub.Import(ctx, busID)
	if err != nil {
		_, _ = conn.Write(appendOperation(nil, opRepImport, 1))
		return fmt.Errorf("import %q: %w", busID, err)
	}
	answer := appendOperation(nil, opRepImport, 0)
	for i := range devices {
		if devices[i].BusID == busID {
			answer = devices[i].appendDevice(answer)
			break
		}
	}
	if _, err := conn.Write(answer); err != nil {
		return err
	}
	if err := conn.SetDeadline(time.Time{}); err != nil {
		return err
	}
	return Attach(plugged, conn, dev)
}

// readOperation reads OP_REQ_DEVLIST, or OP_REQ_IMPORT with what is to be imported.
func readOperation(r io.Reader) (code uint16, busID string, err error) {
	var h [opHeaderLen]byte
	if _, err := io.ReadFull(r, h[:]); err != nil {
		return 0, "", err
	}
	if v := binary.BigEndian.Uint16(h[:]); v != version {
		return 0, "", fmt.Errorf("%w: version %#x, want %#x", errProtocol, v, version)
	}
	switch code = binary.BigEndian.Uint16(h[2:]); code {
	case opReqList:
		return code, "", nil
	case opReqImport:
		var id [busIDLen]byte
		if _, err := io.ReadFull(r, id[:]); err != nil {
			return code, "", err
		}
		busID, _, _ = strings.Cut(string(id[:]), "\x00")
		return code, busID, nil
	}
	return code, "", fmt.Errorf("%w: operation %#x", errProtocol, code)
}

func appendOperation(b []byte, code uint16, status uint32) []byte {
	be := binary.BigEndian
	return be.AppendUint32(be.AppendUint16(be.AppendUint16(b, version), code), status)
}

func appendList(b []byte, devices []Summary) []byte {
	b = binary.BigEndian.AppendUint32(appendOperation(b, opRepList, 0), uint32(len(devices)))
	for i := range devices {
		b = devices[i].appendDevice(b)
		for _, f := range devices[i].Interfaces {
			b = append(b, f[0], f[1], f[2], 0)
		}
	}
	return b
}
