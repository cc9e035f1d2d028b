// SPDX-License-Identifier: GPL-2.0-or-later

package gsmtap

import (
	"bytes"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"go.uber.org/goleak"

	"remsim/internal/gsmtap/tshark"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// An exchange is a command and its response; an ATR has no response.
type exchange struct{ command, response string }

// apduHeader and atrHeader are GSMTAP's, with the bytes the C suite sends.
const (
	apduHeader = "02040400" + "00000000" + "00000000" + "00000000"
	atrHeader  = "02040400" + "00000000" + "00000000" + "01000000"
)

// exchanges is what a phone does at its start, in parts.
var exchanges = []struct {
	exchange
	want []string // of fields
}{
	{exchange{"3b9f95801fc78031e073fe211b63e208a8830f900089", ""}, nil},
	{exchange{"a0a40000023f00", "9f17"}, []string{"SELECT File MF", "0xa4", "0x3f00", "0x9f17", "", "", ""}},
	{exchange{"a0c0000002", "01029000"}, []string{"GET RESPONSE", "0xc0", "", "0x9000", "0102", "", ""}},
	{exchange{"00a40004027f20", "6121"}, []string{"SELECT File DF.GSM", "0xa4", "0x7f20", "0x6121", "", "", ""}},
	{exchange{"a0b0000009", "0829260100000000109000"}, []string{"READ BINARY Offset=0", "0xb0", "", "0x9000", "082926010000000010", "", ""}},
	{exchange{"00b2010402", "80029000"}, []string{"READ RECORD RecordNr=1", "0xb2", "", "0x9000", "8002", "1", ""}},
	{exchange{"002000010831323334ffffffff", "63c2"}, []string{"VERIFY CHV CHV=1", "0x20", "", "0x63c2", "", "", ""}},
	{exchange{"a08800001000112233445566778899aabbccddeeff", "9f0c"}, []string{"RUN GSM ALGORITHM", "0x88", "", "", "", "", "00112233445566778899aabbccddeeff"}},
	{exchange{"a0d6000002cafe", "9804"}, []string{"UPDATE BINARY Offset=0", "0xd6", "", "0x9804", "cafe", "", ""}},
	{exchange{"a0f2000002", "6d00"}, []string{"STATUS", "0xf2", "", "0x6d00", "", "", ""}},
}

var fields = []string{
	tshark.Info, "gsm_sim.apdu.ins", "gsm_sim.file_id", "gsm_sim.apdu.sw", "gsm_sim.apdu.data", "gsm_sim.record_nr", "gsm_sim.auth_rand",
}

// trace traces x.
func trace(s *Source, x exchange) {
	if x.response == "" {
		s.ATR(unhex(x.command))
	} else {
		s.APDU(unhex(x.command), unhex(x.response))
	}
}

func unhex(s string) []byte {
	b, err := hex.DecodeString(s)
	if err != nil {
		panic(err) // a constant of this file
	}
	return b
}

// A journal is a log.
type journal struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (j *journal) Write(b []byte) (int, error) {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.Write(b)
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return j.buf.String()
}

// count returns how many lines have text.
func (j *journal) count(text string) int { return strings.Count(j.String(), text) }

func (j *journal) logger() *logrus.Logger {
	log := logrus.New()
	log.SetOutput(j)
	return log
}

func open(t *testing.T, cfg Config) (*Tracer, *journal) {
	t.Helper()
	log := new(journal)
	tr, err := Open(cfg, log.logger())
	if err != nil {
		t.Fatal(err)
	}
	return tr, log
}

// listen returns a receiver on a loopback address.
func listen(t *testing.T, host string) *net.UDPConn {
	t.Helper()
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(netip.AddrPortFrom(netip.MustParseAddr(host), 0)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return c
}

func addr(c *net.UDPConn) netip.AddrPort { return c.LocalAddr().(*net.UDPAddr).AddrPort() }

// receive returns the next datagram in hex, and the port it comes from.
func receive(t *testing.T, c *net.UDPConn) (string, uint16) {
	t.Helper()
	var b [2048]byte
	c.SetReadDeadline(time.Now().Add(30 * time.Second))
	n, from, err := c.ReadFromUDPAddrPort(b[:])
	if err != nil {
		t.Fatal(err)
	}
	return hex.EncodeToString(b[:n]), from.Port()
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("%s: not within 30s", what)
		}
	}
}

// Receivers get what the C suite sends, to the bit.
func TestReceiver(t *testing.T) {
	for _, host := range []string{"127.0.0.1", "::1"} {
		t.Run(host, func(t *testing.T) {
			c := listen(t, host)
			tr, log := open(t, Config{Receiver: addr(c)})
			first, second := tr.Source(0), tr.Source(1023)
			trace(second, exchanges[1].exchange)
			_, secondPort := receive(t, c)
			for _, x := range exchanges {
				trace(first, x.exchange)
				header := apduHeader
				if x.response == "" {
					header = atrHeader
				}
				got, port := receive(t, c)
				if want := header + x.command + x.response; got != want {
					t.Errorf("received %s, want %s", got, want)
				}
				if port == secondPort {
					t.Errorf("slots share the source port %d", port)
				}
			}
			tr.Close()
			if log.count("level=warning") > 0 {
				t.Error(log)
			}
		})
	}
}

// Wireshark makes of a file what it should, also when it is appended to.
func TestTshark(t *testing.T) {
	file := filepath.Join(t.TempDir(), "trace.pcap")
	start := time.Now()
	for i, x := range exchanges {
		tr, _ := open(t, Config{File: file})
		trace(tr.Source(uint16(100*i)), x.exchange)
		tr.Close()
	}
	if info, err := os.Stat(file); err != nil || info.Mode() != 0o600 {
		t.Errorf("mode %v, %v; it holds PINs", info.Mode(), err)
	}
	packets, err := tshark.Fields(file, append(slices.Clone(fields),
		"udp.payload", "frame.protocols", "udp.srcport", "udp.dstport", "frame.time_epoch", "udp.length")...)
	if err != nil {
		t.Fatal(err)
	}
	if len(packets) != len(exchanges) {
		t.Fatalf("%d packets, want %d", len(packets), len(exchanges))
	}
	for i, x := range exchanges {
		p := packets[i]
		if x.want != nil {
			if !strings.Contains(p[0], x.want[0]) {
				t.Errorf("%s: described as %q, want %q", x.command, p[0], x.want[0])
			}
			if !slices.Equal(p[1:len(fields)], x.want[1:]) {
				t.Errorf("%s: fields %q, want %q", x.command, p[1:len(fields)], x.want[1:])
			}
		}
		// Versions of Wireshark differ in what they make of an ATR; that it is one, the header says.
		header := apduHeader
		if x.response == "" {
			header = atrHeader
		}
		whole := header + x.command + x.response
		want := []string{whole, "ip:udp:gsmtap:gsm_sim", fmt.Sprint(10000 + 100*i), "4729"}
		if got := p[len(fields):]; !slices.Equal(got[:len(want)], want) {
			t.Errorf("%s: %q, want %q", x.command, got, want)
		}
		var s float64
		if fmt.Sscan(p[len(fields)+4], &s); s < float64(start.Unix()) || s > float64(time.Now().Unix()+1) {
			t.Errorf("%s: time %s", x.command, p[len(fields)+4])
		}
		if length := p[len(fields)+5]; length != fmt.Sprint(8+len(whole)/2) {
			t.Errorf("%s: UDP length %s", x.command, length)
		}
	}
}

// The headers of a file's record, by hand.
func TestEncode(t *testing.T) {
	p := packet{at: time.Unix(0x01020304, 999_999_999), slot: 5, kind: kindATR, n: 2, data: [maxPayload]byte{0x3b, 0x00}}
	var buf [headerLen + maxPayload]byte
	for i := range buf {
		buf[i] = 0xee // of the packet before
	}
	want := "04030201" + "3f420f00" + "2e000000" + "2e000000" +
		"4500002e" + "00004000" + "40113cbd" + "7f000001" + "7f000001" +
		"27151279" + "001a0000" + atrHeader + "3b00"
	if got := hex.EncodeToString(encode(&buf, &p)); got != want {
		t.Errorf("got  %s\nwant %s", got, want)
	}
}

// The longest APDU there is fits; what is longer is cut.
func TestLength(t *testing.T) {
	c := listen(t, "127.0.0.1")
	tr, _ := open(t, Config{Receiver: addr(c)})
	defer tr.Close()
	long := strings.Repeat("00", 300)
	for _, tt := range []struct{ command, response, want string }{
		{long[:520], long[:512] + "9000", long[:520] + long[:512] + "9000"},
		{long, long, long + long[:436]},
		{"", "", ""},
	} {
		tr.Source(0).APDU(unhex(tt.command), unhex(tt.response))
		if got, _ := receive(t, c); got != apduHeader+tt.want {
			t.Errorf("%d and %d bytes: received %s", len(tt.command)/2, len(tt.response)/2, got)
		}
	}
}

// Where nobody listens packets are lost, which is said once; one who comes later gets his.
func TestNoReceiver(t *testing.T) {
	c := listen(t, "127.0.0.97") // nobody else takes its port meanwhile
	at := addr(c)
	c.Close()
	tr, log := open(t, Config{Receiver: at})
	s := tr.Source(0)
	for range 50 {
		trace(s, exchanges[1].exchange)
		eventually(t, "packet is sent", func() bool { return len(tr.queue) == 0 })
	}
	c, err := net.ListenUDP("udp", net.UDPAddrFromAddrPort(at))
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	eventually(t, "the packets before are gone", func() bool { return log.count("connection refused") > 0 })
	trace(s, exchanges[2].exchange)
	for {
		got, _ := receive(t, c)
		if got == apduHeader+exchanges[2].command+exchanges[2].response {
			break
		}
	}
	if n := log.count("level=warning"); n != 1 || log.count("traces don't get to their receiver") != 1 {
		t.Errorf("%d warnings:\n%s", n, log)
	}
	tr.Close()
	if n := log.count("level=warning"); n > 2 {
		t.Errorf("%d warnings:\n%s", n, log)
	}
}

// An address that no datagram can be sent to is said once.
func TestNoRoute(t *testing.T) {
	tr, log := open(t, Config{Receiver: netip.MustParseAddrPort("[fe80::1]:4729")}) // no zone
	for range 20 {
		trace(tr.Source(0), exchanges[1].exchange)
	}
	eventually(t, "warning", func() bool { return log.count("traces don't get to their receiver") == 1 })
	eventually(t, "all are tried", func() bool { return len(tr.queue) == 0 })
	if n := log.count("level=warning"); n != 1 {
		t.Errorf("%d warnings:\n%s", n, log)
	}
	tr.Close()
	if log.count("lost=1\n") != 1 || log.count("lost=19\n") != 1 {
		t.Errorf("the log doesn't tell 20 lost packets:\n%s", log)
	}
}

// A file that takes nothing (here a FIFO that nobody reads) costs traces and no time.
func TestFull(t *testing.T) {
	file := filepath.Join(t.TempDir(), "fifo")
	if err := syscall.Mkfifo(file, 0o600); err != nil {
		t.Fatal(err)
	}
	tr, log := open(t, Config{File: file})
	s := tr.Source(0)
	const n = 5000 // well over what FIFO and queue hold
	for range n {
		trace(s, exchanges[0].exchange)
	}
	eventually(t, "warnings", func() bool {
		return log.count("more traces than can be written") == 1 && log.count("traces can't be written to the pcap file") == 1
	})
	// What is in it is whole.
	reader, err := os.OpenFile(file, os.O_RDONLY|syscall.O_NONBLOCK, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	tr.Close()
	<-tr.done
	reader.SetReadDeadline(time.Now().Add(30 * time.Second))
	text, err := io.ReadAll(reader)
	if err != nil {
		t.Fatal(err)
	}
	record := headerLen + len(exchanges[0].command)/2
	if len(text) < 10*record || (len(text)-len(fileHeader))%record != 0 {
		t.Errorf("read %d bytes, which are no records of %d", len(text), record)
	}
	written, lost := (len(text)-len(fileHeader))/record, 0
	for line := range strings.Lines(log.String()) {
		var k int
		if _, after, ok := strings.Cut(line, "lost="); ok {
			fmt.Sscan(after, &k)
			lost += k
		}
	}
	if written+lost != n {
		t.Errorf("%d packets, %d are written and %d told to be lost:\n%s", n, written, lost, log)
	}
	// On a busy machine Close may leave it behind.
	if c := log.count("level=warning") - log.count("left behind"); c > 4 {
		t.Errorf("%d warnings:\n%s", c, log)
	}
}

// A file that can't be written is an error at the start, and nothing of it is touched.
func TestBadFile(t *testing.T) {
	dir := t.TempDir()
	foreign := filepath.Join(dir, "foreign")
	for name, content := range map[string]string{"foreign": strings.Repeat("x", 100), "short": "x"} {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	for _, tt := range []struct{ file, want string }{
		{dir, "is a directory"},
		{filepath.Join(dir, "no", "file"), "no such file or directory"},
		{foreign, "is no pcap file of this program"},
		{filepath.Join(dir, "short"), "is no pcap file of this program"},
		{"/dev/full", "no space left on device"},
	} {
		tr, err := Open(Config{File: tt.file}, new(journal).logger())
		if err == nil {
			tr.Close()
		}
		if err == nil || !strings.Contains(err.Error(), tt.want) || !strings.Contains(err.Error(), tt.file) {
			t.Errorf("%s: error %v, want %q", tt.file, err, tt.want)
		}
	}
	if b, err := os.ReadFile(foreign); err != nil || string(b) != strings.Repeat("x", 100) {
		t.Errorf("foreign file has become %q, %v", b, err)
	}
}

// A fullDisk is a file whose disk has room for so many bytes.
type fullDisk struct {
	*os.File
	mu   sync.Mutex
	room int
}

func (f *fullDisk) Write(b []byte) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if len(b) <= f.room {
		f.room -= len(b)
		return f.File.Write(b)
	}
	n, _ := f.File.Write(b[:f.room])
	f.room = 0
	return n, syscall.ENOSPC
}

func (f *fullDisk) Truncate(size int64) error {
	end, _ := f.File.Seek(0, io.SeekEnd)
	f.mu.Lock()
	defer f.mu.Unlock()
	f.room += int(end - size)
	return f.File.Truncate(size)
}

// A disk that fills up is told once; when there is room again the trace goes on, and is whole.
func TestDiskFull(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace.pcap")
	f, err := openFile(name)
	if err != nil {
		t.Fatal(err)
	}
	disk := &fullDisk{File: f.(*os.File), room: 250} // three records and a bit
	log := new(journal)
	tr := newTracer(netip.AddrPort{}, disk, log.logger())
	for range 20 {
		trace(tr.Source(7), exchanges[1].exchange)
	}
	eventually(t, "all are tried", func() bool { return len(tr.queue) == 0 })
	eventually(t, "warning", func() bool { return log.count("traces can't be written to the pcap file") == 1 })
	disk.mu.Lock()
	disk.room = 1 << 20
	disk.mu.Unlock()
	trace(tr.Source(7), exchanges[2].exchange)
	tr.Close()
	<-tr.done
	if log.count("no space left on device") == 0 || log.count("level=warning") > 2 {
		t.Error(log)
	}
	packets, err := tshark.Fields(name, "gsm_sim.apdu.ins")
	if err != nil {
		t.Fatal(err)
	}
	if n := len(packets); n < 4 || packets[0][0] != "0xa4" || packets[n-1][0] != "0xc0" {
		t.Errorf("packets %q", packets)
	}
}

// What was traced can be read at once, not only after Close.
func TestUnbuffered(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace.pcap")
	tr, _ := open(t, Config{File: name})
	defer tr.Close()
	for i := range 3 {
		trace(tr.Source(0), exchanges[0].exchange)
		want := int64(len(fileHeader) + (i+1)*(headerLen+len(exchanges[0].command)/2))
		eventually(t, "file has grown", func() bool { info, err := os.Stat(name); return err == nil && info.Size() == want })
	}
}

// Tracing costs its callers no allocation, switched on or off.
func TestAllocations(t *testing.T) {
	c := listen(t, "127.0.0.1")
	on, _ := open(t, Config{Receiver: addr(c), File: filepath.Join(t.TempDir(), "trace.pcap")})
	defer on.Close()
	off, _ := open(t, Config{})
	if off != nil {
		t.Error("there is a Tracer for nothing")
	}
	command, response, atr := unhex(exchanges[1].command), unhex(exchanges[1].response), unhex(exchanges[0].command)
	for name, tr := range map[string]*Tracer{"on": on, "off": off} {
		s := tr.Source(5)
		trace(s, exchanges[1].exchange) // the first one opens a socket
		eventually(t, "first packet is written", func() bool { return tr == nil || len(tr.queue) == 0 })
		if n := testing.AllocsPerRun(200, func() {
			s.APDU(command, response)
			s.ATR(atr)
		}); n != 0 {
			t.Errorf("%s: %v allocations", name, n)
		}
	}
	off.Close()
}

// Many use a Tracer at once, one of them after its end.
func TestConcurrent(t *testing.T) {
	name := filepath.Join(t.TempDir(), "trace.pcap")
	tr, log := open(t, Config{File: name})
	var all sync.WaitGroup
	const workers, each = 8, 100
	for i := range workers {
		all.Go(func() {
			s := tr.Source(uint16(i))
			for range each {
				trace(s, exchanges[1].exchange)
			}
		})
	}
	all.Wait()
	eventually(t, "all are written", func() bool { return len(tr.queue) == 0 })
	tr.Close()
	<-tr.done
	trace(tr.Source(0), exchanges[1].exchange)
	info, err := os.Stat(name)
	if want := int64(len(fileHeader) + workers*each*(headerLen+9)); err != nil || info.Size() != want {
		t.Errorf("file of %d bytes, want %d, %v:\n%s", info.Size(), want, err, log)
	}
}

// Losses are told at once, and then every ten minutes with their number.
func TestLoss(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		log := new(journal)
		entry := logrus.NewEntry(log.logger())
		l := loss{why: "gone"}
		for range 40 * 60 { // one a second
			l.add(entry, 1, errors.New("why"))
			time.Sleep(time.Second)
		}
		if n := log.count("msg=gone"); n != 4 {
			t.Errorf("%d lines:\n%s", n, log)
		}
		if log.count("lost=1\n") != 1 || log.count("lost=600") != 3 {
			t.Error(log)
		}
	})
}

func TestFlags(t *testing.T) {
	for _, tt := range []struct {
		args string
		want Config // zero: an error
	}{
		{"-g 192.0.2.1", Config{Receiver: netip.MustParseAddrPort("192.0.2.1:4729")}},
		{"--gsmtap-ip=192.0.2.1:1 --pcap=x", Config{Receiver: netip.MustParseAddrPort("192.0.2.1:1"), File: "x"}},
		{"-g 2001:db8::1", Config{Receiver: netip.MustParseAddrPort("[2001:db8::1]:4729")}},
		{"-g [2001:db8::1]:65535", Config{Receiver: netip.MustParseAddrPort("[2001:db8::1]:65535")}},
		{"-g fe80::1%lo", Config{Receiver: netip.MustParseAddrPort("[fe80::1%lo]:4729")}},
		{"-g 192.0.2.1:0", Config{}},
		{"-g 192.0.2.1:65536", Config{}},
		{"-g host", Config{}},
		{"-g host:4729", Config{}},
		{"-g=", Config{}},
	} {
		var c Config
		fs := pflag.NewFlagSet("", pflag.ContinueOnError)
		c.Flags(fs, "g")
		if err := fs.Parse(strings.Fields(tt.args)); c != tt.want || (err != nil) != (tt.want == Config{}) {
			t.Errorf("%s: %+v, %v", tt.args, c, err)
		}
	}
	fs := pflag.NewFlagSet("", pflag.ContinueOnError)
	new(Config).Flags(fs, "")
	if fs.Lookup("gsmtap-ip").Shorthand != "" || strings.Contains(fs.FlagUsages(), "default") {
		t.Error(fs.FlagUsages())
	}
}
