// SPDX-License-Identifier: GPL-2.0-or-later

package process

import (
	"bytes"
	"encoding/hex"
	"errors"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"remsim/internal/e2e/rig"
	"remsim/internal/gsmtap/tshark"
)

// A receiver takes GSMTAP packets as Wireshark's host does.
type receiver struct {
	*net.UDPConn
	t *testing.T
}

func listenGSMTAP(t *testing.T) receiver {
	t.Helper()
	c, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { c.Close() })
	return receiver{c, t}
}

// expect wants these packets, in hex, next.
func (r receiver) expect(packets []string) {
	r.t.Helper()
	var b [2000]byte
	for _, want := range packets {
		r.SetReadDeadline(time.Now().Add(soon))
		n, err := r.Read(b[:])
		if got := hex.EncodeToString(b[:n]); err != nil || got != want {
			r.t.Fatalf("received %s, %v, want %s", got, err, want)
		}
	}
}

// quiet wants no packet for a moment.
func (r receiver) quiet() {
	r.t.Helper()
	var b [2000]byte
	r.SetReadDeadline(time.Now().Add(100 * time.Millisecond))
	if n, err := r.Read(b[:]); err == nil {
		r.t.Errorf("received %x, too", b[:n])
	}
}

// TestTraces has what passes two cards traced: by the bankd first for one of them, then for both,
// and by a client. What is in a file survives kill -9.
func TestTraces(t *testing.T) {
	s := newSite(t)
	s.create(0, 1)
	s.create(1, 2)
	atBankd, atClient := listenGSMTAP(t), listenGSMTAP(t)
	file, clientFile := filepath.Join(t.TempDir(), "bankd.pcap"), filepath.Join(t.TempDir(), "client.pcap")
	trace := []string{"-g", atBankd.LocalAddr().String(), "--pcap", file}

	// packets is what is traced of a client from its ATR on.
	packets := func(i, commands int) []string {
		const apdu = "02040400000000000000000000000000"
		twin := twinOf(i)
		list := []string{"02040400000000000000000001000000" + hex.EncodeToString(twin.ATR()), apdu + "ff00000000" + "6e00"}
		for n := range commands {
			cmd := rig.Command(i+1, n)
			answer, err := twin.Transmit(cmd, make([]byte, 258))
			if err != nil {
				t.Fatal(err)
			}
			list = append(list, apdu+hex.EncodeToString(cmd)+hex.EncodeToString(answer))
		}
		return list
	}

	s.startBankd(readerSpecs(2), append(trace, "-G", "1")...)
	one := s.client(1)
	two := s.client(2, "--gsmtap-ip", atClient.LocalAddr().String(), "--pcap", clientFile)
	s.operational(one, two)
	first, second := one.traffic(twinOf(0), 10), two.traffic(twinOf(1), 10)
	first.complete(t)
	second.complete(t)
	want := packets(1, 10)
	atBankd.expect(want)
	atBankd.quiet() // of slot 0
	atClient.expect(want)

	s.bankd.Kill()
	s.startBankd(readerSpecs(2), trace...)
	s.operational(one)
	first = one.traffic(twinOf(0), 5)
	first.complete(t)
	// The last packet may be on its way to the file, for a moment.
	wantFirst := packets(0, 5)
	s.eventually("the last command is in the file", func() error {
		b, err := os.ReadFile(file)
		if err == nil && !bytes.Contains(b, unhex(wantFirst[len(wantFirst)-1])) {
			err = errors.New("it isn't")
		}
		return err
	})
	s.bankd.Kill()

	fields := []string{"udp.payload", "udp.srcport", "frame.protocols", tshark.Info}
	captured, err := tshark.Fields(file, fields...)
	if err != nil {
		t.Fatal(err)
	}
	payloads := func(port string) (list []string) {
		for _, p := range captured {
			if p[1] == port {
				list = append(list, p[0])
			}
			if p[2] != "ip:udp:gsmtap:gsm_sim" {
				t.Errorf("protocols %s", p[2])
			}
		}
		return list
	}
	if got := payloads("10000"); !slices.Equal(got, wantFirst) {
		t.Errorf("of slot 0 the bankd's file has %q, want %q", got, wantFirst)
	}
	if got := payloads("10001"); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("of slot 1 the bankd's file has %q, want %q first", got, want)
	}
	for i, want := range []string{
		"SELECT File DF.GSM", "RUN GSM ALGORITHM", "GET RESPONSE", "SELECT File EF.IMSI", "READ BINARY", "SELECT File DF.GSM",
	} {
		if got := captured[2+i][3]; !strings.Contains(got, want) {
			t.Errorf("packet %d is described as %q, want %q", 2+i, got, want)
		}
	}
	captured, err = tshark.Fields(clientFile, fields...)
	if err != nil {
		t.Fatal(err)
	}
	if got := payloads("10000"); len(got) < len(want) || !slices.Equal(got[:len(want)], want) {
		t.Errorf("the client's file has %q, want %q first", got, want)
	}
}
