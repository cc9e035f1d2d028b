// SPDX-License-Identifier: GPL-2.0-or-later

package cardem

import (
	"context"
	"encoding/binary"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/simtrace"
	"remsim/internal/testnet"
)

// A station is a device with firmware and modem in one, for tests with many commands: it judges what comes by
// the state it is in, as the firmware doesn't.
type station struct {
	*fakeDevice
	mu      sync.Mutex
	join    simtrace.Joiner
	header  []byte // of the command that is not answered yet
	down    bool   // in reset: what comes is dropped
	data    []byte // answered, before the status word
	faults  []string
	answers chan []byte // whole answers
}

func newStation() *station {
	s := &station{answers: make(chan []byte, 1)}
	s.fakeDevice = newDevice(s.take)
	return s
}

// take is the firmware's part.
func (s *station) take(transfer []byte) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	for m, err := range s.join.Join(transfer) {
		tx, ok := m.(*simtrace.TxData)
		switch {
		case err != nil:
			s.faults = append(s.faults, err.Error())
		case !ok || s.down:
		case s.header == nil:
			s.faults = append(s.faults, fmt.Sprintf("nobody waits for %d %x", tx.Flags, tx.Data))
		case tx.Flags == simtrace.ContinueRx:
			if len(tx.Data) != 1 || tx.Data[0] != s.header[1] {
				s.faults = append(s.faults, fmt.Sprintf("procedure byte %x to %x", tx.Data, s.header))
			}
			s.bulk <- s.message(&simtrace.RxData{Flags: simtrace.Final, Data: make([]byte, s.header[4])})
		case tx.Flags == simtrace.ContinueTx:
			if tx.Data[0] != s.header[1] {
				s.faults = append(s.faults, fmt.Sprintf("procedure byte %x to %x", tx.Data[0], s.header))
			}
			s.data = slices.Clone(tx.Data[1:])
		case tx.Flags == simtrace.ContinueTx|simtrace.Final:
			s.answers <- append(s.data, tx.Data...)
			s.header, s.data = nil, nil
		default:
			s.faults = append(s.faults, fmt.Sprintf("TX_DATA %d %x", tx.Flags, tx.Data))
		}
	}
	return nil
}

func (s *station) message(m simtrace.Message) []byte {
	b, err := simtrace.Append(nil, m)
	if err != nil {
		panic(err)
	}
	return b
}

// send is the modem's part: a command.
func (s *station) send(header []byte) {
	s.mu.Lock()
	s.header = header
	s.mu.Unlock()
	s.bulk <- s.message(&simtrace.RxData{Flags: simtrace.Header, Data: header})
}

// reset has the modem give up its command and hold the card in reset.
func (s *station) reset() {
	s.mu.Lock()
	s.header, s.data, s.down = nil, nil, true
	s.mu.Unlock()
	s.irq <- s.message(contacts(up | simtrace.ResetActive))
}

// release ends that.
func (s *station) release() {
	s.mu.Lock()
	s.down = false
	s.mu.Unlock()
	select {
	case <-s.answers: // of the instant in which the reset began
	default:
	}
	s.irq <- s.message(contacts(up))
}

// TestResets has a modem send commands and reset the card at random moments, before the card's answer and after it. No answer
// goes to another command than its own, and every command that no reset ends has one.
func TestResets(t *testing.T) {
	for seed := range uint64(20) {
		t.Run(fmt.Sprint(seed), func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				random, works := rand.New(rand.NewPCG(seed, 0)), rand.New(rand.NewPCG(seed, 1))
				nw := testnet.New()
				serverLn, bankdLn := listen(t, nw.Host("10.0.0.1"), ":9998"), listen(t, nw.Host("10.0.0.2"), ":9999")
				defer serverLn.Close()
				defer bankdLn.Close()
				dev := newStation()
				ended := run(t, nw.Host("10.0.0.3"), dev)
				card := serveCard(t, serverLn, bankdLn, func(command []byte) []byte {
					time.Sleep(time.Duration(works.IntN(20)) * time.Millisecond)
					return append(slices.Clone(command[2:4]), 0x90, 0x00)
				})
				defer card.close()
				time.Sleep(time.Second)
				answered := 0
				for i := range 200 {
					header := []byte{0xa0, []byte{0xb0, 0xd6}[random.IntN(2)], 0, 0, 2}
					binary.BigEndian.PutUint16(header[2:], uint16(i))
					dev.send(header)
					wait := time.Duration(random.IntN(30)) * time.Millisecond
					if random.IntN(2) == 0 {
						wait = time.Minute
					}
					select {
					case a := <-dev.answers:
						answered++
						if !slices.Equal(a, append(slices.Clone(header[2:4]), 0x90, 0x00)) {
							t.Fatalf("%x to %x", a, header)
						}
					case <-time.After(wait):
						if wait == time.Minute {
							t.Fatalf("%d: no answer to %x", i, header)
						}
						dev.reset()
						time.Sleep(time.Duration(1+random.IntN(300)) * time.Millisecond)
						dev.release()
						time.Sleep(time.Duration(5+random.IntN(50)) * time.Millisecond)
					}
				}
				if answered < 80 || answered > 195 {
					t.Errorf("%d of 200 commands answered: the test tests little", answered)
				}
				dev.unplug(errUnplugged)
				<-ended
				for _, f := range dev.faults {
					t.Error(f)
				}
			})
		})
	}
}

// run runs a client for dev on host.
func run(t testing.TB, host *testnet.Host, dev Device) (ended chan error) {
	log := logrus.New()
	log.SetOutput(io.Discard)
	ended = make(chan error, 1)
	go func() {
		ended <- Run(context.WithoutCancel(t.Context()), Config{Config: client.Config{
			ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: ownATR,
		}}, Env{
			Env:  client.Env{Net: host, Log: log},
			Open: func(context.Context) (Device, error) { return dev, nil },
		})
	}()
	return ended
}

// A cardServer is a server that tells of a bankd, and that bankd with a card.
type cardServer struct {
	bankd *testnet.Peer
	stop  chan struct{}
	ended chan struct{}
}

// serveCard takes the client's calls. The card works as long as answer does; after a reset, what it has worked at is lost,
// as with every bankd: none answers to a command from before a reset once it has seen that.
func serveCard(t testing.TB, serverLn, bankdLn net.Listener, answer func([]byte) []byte) *cardServer {
	t.Helper()
	server := testnet.AcceptPeer(t, serverLn)
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](server)
	server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: bankAddr})
	s := &cardServer{bankd: testnet.AcceptPeer(t, bankdLn), stop: make(chan struct{}), ended: make(chan struct{})}
	_, req = testnet.ExpectPDU[*rspro.ConnectClientReq](s.bankd)
	s.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	s.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: cardATR})
	go s.serve(answer)
	return s
}

func (s *cardServer) serve(answer func([]byte) []byte) {
	defer close(s.ended)
	var waiting []rspro.PDU
	reset := func() bool {
		for {
			p, ok := s.bankd.Poll(time.Nanosecond)
			if !ok {
				break
			}
			waiting = append(waiting, p)
		}
		return slices.ContainsFunc(waiting, func(p rspro.PDU) bool {
			m, ok := p.Msg.(*rspro.ClientSlotStatusInd)
			return ok && m.Phys.Reset
		})
	}
	for {
		select {
		case <-s.stop:
			return
		default:
		}
		if len(waiting) == 0 {
			if p, ok := s.bankd.Poll(100 * time.Millisecond); ok {
				waiting = append(waiting, p)
			}
			continue
		}
		p := waiting[0]
		waiting = waiting[1:]
		if m, ok := p.Msg.(*rspro.TpduModemToCard); ok {
			if a := answer(m.Data); !reset() {
				_ = s.bankd.Post(rspro.PDU{Version: rspro.Version, Msg: &rspro.TpduCardToModem{From: here, To: me, Data: a}})
			}
		}
	}
}

func (s *cardServer) close() {
	close(s.stop)
	<-s.ended
}

// BenchmarkCommand is the time from a command's header to its status word without USB and network: client, bankd and
// device are in one process. Data for the card makes two rounds of it.
func BenchmarkCommand(b *testing.B) {
	for _, c := range []struct {
		name   string
		header []byte
	}{
		{"SELECT", []byte{0xa0, 0xa4, 0x00, 0x00, 0x02}},
		{"READ256", []byte{0x00, 0xb0, 0x00, 0x00, 0x00}},
	} {
		b.Run(c.name, func(b *testing.B) {
			nw := testnet.New()
			serverLn, bankdLn := listen(b, nw.Host("10.0.0.1"), ":9998"), listen(b, nw.Host("10.0.0.2"), ":9999")
			defer serverLn.Close()
			defer bankdLn.Close()
			dev := newStation()
			ended := run(b, nw.Host("10.0.0.3"), dev)
			answer := []byte{0x90, 0x00}
			if c.header[1] == 0xb0 {
				answer = append(make([]byte, 256), answer...)
			}
			card := serveCard(b, serverLn, bankdLn, func([]byte) []byte { return answer })
			time.Sleep(100 * time.Millisecond) // the ATR is on its way
			times := make([]time.Duration, 0, b.N)
			for b.Loop() {
				begin := time.Now()
				dev.send(c.header)
				<-dev.answers
				times = append(times, time.Since(begin))
			}
			slices.Sort(times)
			b.ReportMetric(float64(times[len(times)/2].Nanoseconds())/1000, "median-µs")
			b.ReportMetric(float64(times[len(times)*99/100].Nanoseconds())/1000, "p99-µs")
			dev.unplug(errUnplugged)
			<-ended
			card.close()
		})
	}
}
