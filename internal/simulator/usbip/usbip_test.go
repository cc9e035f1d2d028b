// SPDX-License-Identifier: GPL-2.0-or-later

package usbip

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A fake is a device with one IN and one OUT endpoint, both of number 1.
type fake struct {
	changed chan struct{}

	mu       sync.Mutex
	in       [][]byte // packets
	shake    Handshake
	deaf     bool
	out      []string
	zero     []bool
	attached bool
}

func newFake() *fake { return &fake{changed: make(chan struct{}, 1)} }

func (f *fake) do(change func()) {
	f.mu.Lock()
	defer f.mu.Unlock()
	change()
	select {
	case f.changed <- struct{}{}:
	default:
	}
}

func (f *fake) Control(q Setup, data []byte) ([]byte, error) {
	if q.Request == 99 {
		return nil, errors.New("no such request")
	}
	return []byte("descriptor"), nil
}

func (f *fake) Out(ep uint8, b []byte, zero bool) Handshake {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.deaf {
		return NAK
	}
	f.out = append(f.out, string(b))
	f.zero = append(f.zero, zero)
	return ACK
}

func (f *fake) In(ep uint8) ([]byte, Handshake) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.shake != ACK {
		return nil, f.shake
	}
	if len(f.in) == 0 {
		return nil, NAK
	}
	b := f.in[0]
	f.in = f.in[1:]
	return b, ACK
}

func (f *fake) Changed() <-chan struct{} { return f.changed }

func (f *fake) Attached(on bool) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if on && f.attached {
		return errors.New("busy")
	}
	f.attached = on
	return nil
}

// A host is the kernel's end of a connection.
type host struct {
	t    *testing.T
	conn net.Conn
	seq  uint32
}

func attach(t *testing.T, dev Device) *host {
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Attach(context.Background(), theirs, dev) }()
	t.Cleanup(func() {
		ours.Close()
		if err := <-ended; err != nil && !errors.Is(err, io.ErrClosedPipe) {
			t.Errorf("attachment: %v", err)
		}
	})
	if err := ours.SetDeadline(time.Now().Add(time.Minute)); err != nil {
		t.Fatal(err)
	}
	return &host{t: t, conn: ours}
}

// submit sends USBIP_CMD_SUBMIT and returns its number.
func (h *host) submit(in bool, ep uint32, flags uint32, length int, setup []byte, data string) uint32 {
	h.t.Helper()
	h.seq++
	b := make([]byte, headerLen, headerLen+len(data))
	binary.BigEndian.PutUint32(b, cmdSubmit)
	binary.BigEndian.PutUint32(b[4:], h.seq)
	if in {
		b[15] = dirIn
	}
	binary.BigEndian.PutUint32(b[16:], ep)
	binary.BigEndian.PutUint32(b[20:], flags)
	binary.BigEndian.PutUint32(b[24:], uint32(length))
	copy(b[40:], setup)
	if _, err := h.conn.Write(append(b, data...)); err != nil {
		h.t.Fatal(err)
	}
	return h.seq
}

func (h *host) unlink(which uint32) uint32 {
	h.t.Helper()
	h.seq++
	b := make([]byte, headerLen)
	binary.BigEndian.PutUint32(b, cmdUnlink)
	binary.BigEndian.PutUint32(b[4:], h.seq)
	binary.BigEndian.PutUint32(b[20:], which)
	if _, err := h.conn.Write(b); err != nil {
		h.t.Fatal(err)
	}
	return h.seq
}

// expect reads an answer and compares it.
func (h *host) expect(command, seq uint32, status int32, n int, in bool, data string) {
	h.t.Helper()
	b := make([]byte, headerLen)
	if _, err := io.ReadFull(h.conn, b); err != nil {
		h.t.Fatal(err)
	}
	be := binary.BigEndian
	got := make([]byte, 0)
	if in {
		got = make([]byte, be.Uint32(b[24:]))
		if _, err := io.ReadFull(h.conn, got); err != nil {
			h.t.Fatal(err)
		}
	}
	if be.Uint32(b) != command || be.Uint32(b[4:]) != seq || int32(be.Uint32(b[20:])) != status ||
		int(be.Uint32(b[24:])) != n || string(got) != data {
		h.t.Fatalf("answer %x %q; want command %d, number %d, status %d, length %d, %q", b, got, command, seq, status, n, data)
	}
}

func TestTransfers(t *testing.T) {
	packet := strings.Repeat("p", packetSize)
	f := newFake()
	h := attach(t, f)
	push := func(packets ...string) {
		f.do(func() {
			for _, p := range packets {
				f.in = append(f.in, []byte(p))
			}
		})
	}

	// Control requests; the answer is cut to what was asked for.
	get := []byte{0x80, 6, 0, 1, 0, 0, 4, 0}
	h.expect(retSubmit, h.submit(true, 0, 0, 64, get, ""), 0, 4, true, "desc")
	h.expect(retSubmit, h.submit(true, 0, 0, 64, []byte{0x80, 99, 0, 0, 0, 0, 4, 0}, ""), ePipe, 0, true, "")
	h.expect(retSubmit, h.submit(false, 0, 0, 2, []byte{0, 9, 1, 0, 0, 0, 2, 0}, "ab"), 0, 2, false, "")

	// IN transfers end by a packet that isn't full, by an empty one, or when they are full, each in its turn.
	a, b, c := h.submit(true, 1, 0, 4096, nil, ""), h.submit(true, 1, 0, 64, nil, ""), h.submit(true, 1, 0, 4096, nil, "")
	push(packet, "end")
	h.expect(retSubmit, a, 0, packetSize+3, true, packet+"end")
	push(packet)
	h.expect(retSubmit, b, 0, packetSize, true, packet)
	push(packet, "")
	h.expect(retSubmit, c, 0, packetSize, true, packet)
	// More than there is room for.
	a = h.submit(true, 1, 0, 10, nil, "")
	push("eleven bytes")
	h.expect(retSubmit, a, eOverflow, 10, true, "eleven byt")

	// One that waits is taken back, one that was answered can't be.
	a, b = h.submit(true, 1, 0, 64, nil, ""), h.submit(true, 1, 0, 64, nil, "")
	h.expect(retUnlink, h.unlink(a), eConnReset, 0, false, "")
	push("for the second")
	h.expect(retSubmit, b, 0, 14, true, "for the second")
	h.expect(retUnlink, h.unlink(b), 0, 0, false, "")

	// Errors of the device.
	f.do(func() { f.shake = Fault })
	h.expect(retSubmit, h.submit(true, 1, 0, 64, nil, ""), eProto, 0, true, "")
	f.do(func() { f.shake = Stall })
	h.expect(retSubmit, h.submit(true, 1, 0, 64, nil, ""), ePipe, 0, true, "")

	// OUT transfers wait while the device takes nothing.
	f.do(func() { f.deaf = true })
	a = h.submit(false, 1, 0, 3, nil, "one")
	b = h.submit(false, 1, urbZeroPacket, 3, nil, "two")
	c = h.submit(false, 1, 0, 5, nil, "three")
	h.expect(retUnlink, h.unlink(c), eConnReset, 0, false, "")
	f.do(func() { f.deaf = false })
	h.expect(retSubmit, a, 0, 3, false, "")
	h.expect(retSubmit, b, 0, 3, false, "")
	f.mu.Lock()
	defer f.mu.Unlock()
	if strings.Join(f.out, " ") != "one two" || f.zero[0] || !f.zero[1] {
		t.Errorf("the device got %q, %v", f.out, f.zero)
	}
}

// What isn't USB/IP ends the attachment with an error, and the end of its context without one.
func TestAttachEnds(t *testing.T) {
	ours, theirs := net.Pipe()
	ended := make(chan error, 1)
	go func() { ended <- Attach(context.Background(), theirs, newFake()) }()
	if _, err := ours.Write(bytes.Repeat([]byte{0xff}, headerLen)); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errProtocol) {
		t.Errorf("ended with %v", err)
	}
	ours.Close()

	ctx, cancel := context.WithCancel(context.Background())
	f := newFake()
	ours, theirs = net.Pipe()
	go func() { ended <- Attach(ctx, theirs, f) }()
	h := &host{t: t, conn: ours}
	h.submit(true, 1, 0, 64, nil, "")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
	if f.attached {
		t.Error("the device is still attached")
	}
	ours.Close()
}

type hub struct{ dev *fake }

func (h hub) Devices() []Summary {
	return []Summary{{BusID: "1-1", Path: "/sys/x", Vendor: 0x1d50, Product: 0x4004, Bus: 1, Number: 2, Configurations: 2, Interfaces: [][3]byte{{255, 2, 0}}}}
}

func (h hub) Import(ctx context.Context, id string) (Device, context.Context, error) {
	if id != "1-1" {
		return nil, nil, errors.New("no such device")
	}
	return h.dev, ctx, nil
}

func TestServe(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, ln, hub{newFake()}, logrus.NewEntry(log)) }()
	dial := func(code uint16, rest []byte) net.Conn {
		t.Helper()
		c, err := net.Dial("tcp", ln.Addr().String())
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { c.Close() })
		if err := c.SetDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := c.Write(append(appendOperation(nil, code, 0), rest...)); err != nil {
			t.Fatal(err)
		}
		return c
	}
	list, err := io.ReadAll(dial(opReqList, nil))
	const device = pathLen + busIDLen + 3*4 + 3*2 + 6
	if err != nil || len(list) != opHeaderLen+4+device+4 || !bytes.Contains(list, []byte("1-1\x00")) {
		t.Errorf("list %x, %v", list, err)
	}
	busID := func(s string) []byte { return append([]byte(s), make([]byte, busIDLen-len(s))...) }
	if refusal, err := io.ReadAll(dial(opReqImport, busID("9-9"))); err != nil || len(refusal) != opHeaderLen || refusal[7] == 0 {
		t.Errorf("refusal %x, %v", refusal, err)
	}
	if b, err := io.ReadAll(dial(0x1234, nil)); err != nil || len(b) > 0 {
		t.Errorf("an unknown operation is answered %x, %v", b, err)
	}
	c := dial(opReqImport, busID("1-1"))
	answer := make([]byte, opHeaderLen+device)
	if _, err := io.ReadFull(c, answer); err != nil || answer[7] != 0 {
		t.Fatalf("import: %x, %v", answer, err)
	}
	h := &host{t: t, conn: c}
	h.expect(retSubmit, h.submit(true, 0, 0, 64, []byte{0x80, 6, 0, 1, 0, 0, 10, 0}, ""), 0, 10, true, "descriptor")
	cancel()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

func TestFreePort(t *testing.T) {
	const status = `hub port sta spd dev      sockfd local_busid
hs  0000 006 002 00010001 000003 1-1
hs  0001 004 000 00000000 000000 0-0
ss  0008 004 000 00000000 000000 0-0
`
	if port, ok := freePort(status); !ok || port != 1 {
		t.Errorf("port %d, %v", port, ok)
	}
	if port, ok := freePort("hub port\nss  0008 004\nhs x 004\nhs\n"); ok {
		t.Errorf("port %d of none", port)
	}
}

func FuzzRequest(f *testing.F) {
	f.Add(append(make([]byte, headerLen), "data"...))
	submit := make([]byte, headerLen)
	submit[3], submit[27] = cmdSubmit, 4
	f.Add(append(submit, "data"...))
	f.Add(append([]byte{0, 0, 0, cmdUnlink}, make([]byte, headerLen)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		q, err := readRequest(bytes.NewReader(b))
		if err == nil && q.command == cmdSubmit && !q.in && len(q.data) != q.length {
			t.Errorf("%d bytes of %d", len(q.data), q.length)
		}
	})
}

func FuzzOperation(f *testing.F) {
	f.Add(appendOperation(nil, opReqList, 0))
	f.Add(append(appendOperation(nil, opReqImport, 0), make([]byte, busIDLen)...))
	f.Fuzz(func(t *testing.T, b []byte) {
		code, id, err := readOperation(bytes.NewReader(b))
		if err == nil && code != opReqList && code != opReqImport || len(id) > busIDLen {
			t.Errorf("%#x %q", code, id)
		}
	})
}

func FuzzPorts(f *testing.F) {
	f.Add("hs  0001 004 000 00000000 000000 0-0\n")
	f.Fuzz(func(t *testing.T, s string) { freePort(s) })
}
