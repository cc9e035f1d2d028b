// SPDX-License-Identifier: GPL-2.0-or-later

package modem

import (
	"bufio"
	"bytes"
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/simtrace"
	"remsim/internal/simulator/board"
	"remsim/internal/simulator/usbip"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// A host answers each command of the modem in a slot 0 with what card says: messages, each of flags and data.
type host struct {
	t     *testing.T
	board *board.Board
	card  func(header []byte) []simtrace.TxData
}

func newHost(t *testing.T, card func([]byte) []simtrace.TxData) *host {
	h := &host{t: t, board: board.New(board.Config{Slots: 1}), card: card}
	if err := h.board.Attached(true); err != nil {
		t.Fatal(err)
	}
	if _, err := h.board.Control(usbip.Setup{Request: 9, Value: 1}, nil); err != nil {
		t.Fatal(err)
	}
	return h
}

func (h *host) send(messages ...simtrace.Message) {
	for _, m := range messages {
		b, err := simtrace.Append(nil, m)
		if err != nil {
			h.t.Error(err)
		}
		h.board.Out(4, b, true)
	}
}

// run serves until ctx ends.
func (h *host) run(ctx context.Context) {
	var j simtrace.Joiner
	for {
		p, shake := h.board.In(5)
		if shake != usbip.ACK {
			select {
			case <-h.board.Changed():
				continue
			case <-ctx.Done():
				return
			}
		}
		for m, err := range j.Join(p) {
			if err != nil {
				h.t.Error(err)
				continue
			}
			if rx, ok := m.(*simtrace.RxData); ok && rx.Flags&simtrace.Header != 0 {
				for _, tx := range h.card(rx.Data) {
					h.send(&tx)
				}
			}
		}
	}
}

func tx(flags simtrace.DataFlags, data string) simtrace.TxData {
	b, err := hex.DecodeString(data)
	if err != nil {
		panic(err)
	}
	return simtrace.TxData{Flags: flags, Data: b}
}

const last = simtrace.ContinueTx | simtrace.Final

// A terminal takes what a card may say, and finds what it may not.
func TestJudgement(t *testing.T) {
	for _, tt := range []struct {
		name, command string
		answers       []simtrace.TxData
		want, fault   string
	}{
		{"status word", "00b0000002", []simtrace.TxData{tx(last, "6a82")}, "6a82", ""},
		{"data", "00b0000002", []simtrace.TxData{tx(simtrace.ContinueTx, "b01122"), tx(last, "9000")}, "11229000", ""},
		{"byte by byte", "00b0000002", []simtrace.TxData{tx(simtrace.ContinueTx, "4f114f22"), tx(last, "9000")}, "11229000", ""},
		{"NULL bytes", "00b0000002", []simtrace.TxData{tx(simtrace.ContinueTx, "6060b011226060"), tx(last, "9000")}, "11229000", ""},
		{"part of the data", "00b0000002", []simtrace.TxData{tx(simtrace.ContinueTx, "b011"), tx(last, "9000")}, "", "00 is no procedure byte"},
		{"too much data", "00b0000001", []simtrace.TxData{tx(simtrace.ContinueTx, "b01122"), tx(last, "9000")}, "", "22 is no procedure byte"},
		{"data to a command that has sent its own", "00d6000001ff", []simtrace.TxData{tx(simtrace.ContinueRx, "d6"), tx(simtrace.ContinueTx, "d6"), tx(last, "9000")}, "", "after all data"},
		{"another instruction", "00b0000002", []simtrace.TxData{tx(simtrace.ContinueTx, "c01122")}, "", "c0 is no procedure byte"},
		{"data to the card", "00d6000001ff", []simtrace.TxData{tx(simtrace.ContinueRx, "d6"), tx(last, "9000")}, "9000", ""},
		{"status word before the data", "00d6000001ff", []simtrace.TxData{tx(last, "6982")}, "6982", ""},
	} {
		t.Run(tt.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				h := newHost(t, func([]byte) []simtrace.TxData { return tt.answers })
				ctx, cancel := context.WithTimeout(t.Context(), time.Hour)
				defer cancel()
				var running sync.WaitGroup
				running.Go(func() { h.run(ctx) })
				h.send(&simtrace.SetATR{ATR: []byte{0x3b, 0}}, &simtrace.SimSelect{Remote: true})
				terminal := &Terminal{Slot: h.board.Slots()[0]}
				atr, err := terminal.PowerUp(ctx)
				if err != nil || !bytes.Equal(atr, []byte{0x3b, 0}) {
					t.Fatalf("ATR %x, %v", atr, err)
				}
				command, err := ParseCommand(tt.command)
				if err != nil {
					t.Fatal(err)
				}
				x, err := terminal.Transmit(ctx, command)
				var f *Fault
				if tt.fault != "" {
					if !errors.As(err, &f) || !strings.Contains(f.Error(), tt.fault) {
						t.Errorf("%x, %v, want %q", x.Response, err, tt.fault)
					}
					if _, err := terminal.Transmit(ctx, command); err == nil {
						t.Error("the next command goes on without a reset")
					}
				} else if err != nil || hex.EncodeToString(x.Response) != tt.want {
					t.Errorf("%x, %v, want %s", x.Response, err, tt.want)
				}
				terminal.PowerDown()
				cancel()
				running.Wait()
			})
		})
	}
}

// An ATR has to be whole; a modem without the emulated SIM has its own.
func TestPowerUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHost(t, nil)
		terminal := &Terminal{Slot: h.board.Slots()[0], LocalATR: []byte{0x3b, 1}}
		atr, err := terminal.PowerUp(t.Context())
		if err != nil || !bytes.Equal(atr, []byte{0x3b, 1}) {
			t.Errorf("local SIM: %x, %v", atr, err)
		}
		if _, err := terminal.Transmit(t.Context(), make([]byte, 5)); !errors.Is(err, ErrLocal) {
			t.Errorf("command to the local SIM: %v", err)
		}
		for atr, want := range map[string]string{"3a00": "begins with 3a", "3b": "nothing for", "3b80017f": "check byte", "3b8001": "nothing for"} {
			b, err := hex.DecodeString(atr)
			if err != nil {
				t.Fatal(err)
			}
			h.send(&simtrace.SetATR{ATR: b}, &simtrace.SimSelect{Remote: true})
			if got, err := terminal.PowerUp(t.Context()); err == nil || !strings.Contains(err.Error(), want) {
				t.Errorf("ATR %s: %x, %v, want %q", atr, got, err, want)
			}
			terminal.PowerDown()
		}
	})
}

func TestOffered(t *testing.T) {
	for atr, want := range map[string]string{
		"3b00": "", "3b": "", "3b1011": "", "3b1094": "94", "3b9e94801fc7": "94", "3b909500": "95", "3b90951000": "",
	} {
		b, err := hex.DecodeString(atr)
		if err != nil {
			t.Fatal(err)
		}
		got := ""
		if ta1, ok := offered(b); ok {
			got = fmt.Sprintf("%02x", ta1)
		}
		if got != want {
			t.Errorf("ATR %s offers %q, want %q", atr, got, want)
		}
	}
}

func TestMatch(t *testing.T) {
	for _, tt := range []struct {
		pattern, text string
		want          bool
	}{
		{"", "9000", true}, {"9000", "9000", true}, {"9000", "900000", false}, {"9.0.", "9f0e", true}, {"90*", "9000", true},
		{"*", "", true}, {"9000*", "90", false}, {"9001", "9000", false},
	} {
		if got := match(tt.pattern, tt.text); got != tt.want {
			t.Errorf("%q, %q: %v", tt.pattern, tt.text, got)
		}
	}
}

// A cards is a Card that answers by a table, in order.
type cards []string

func (c *cards) Transmit(_ context.Context, command []byte) (Exchange, error) {
	want, answer, _ := strings.Cut((*c)[0], " ")
	if got := hex.EncodeToString(command); got != want {
		return Exchange{}, fmt.Errorf("command %s, want %s", got, want)
	}
	if len(*c) > 1 {
		*c = (*c)[1:]
	}
	b, err := hex.DecodeString(answer)
	return Exchange{Command: command, Response: b}, err
}

func TestFollow(t *testing.T) {
	for _, tt := range []struct {
		name string
		card cards
		want string
	}{
		{"nothing to follow", cards{"a0a40000023f00 9000"}, "9000"},
		{"GET RESPONSE", cards{"a0a40000023f00 9f02", "a0c0000002 aabb9000"}, "aabb9000"},
		{"GET RESPONSE on a channel", cards{"02a40004023f00 6101", "02c0000001 aa6101", "02c0000001 bb9000"}, "aabb9000"},
		{"9Fxx means nothing to a USIM", cards{"00a40004023f00 9f02"}, "9f02"},
		{"wrong length", cards{"80f2000000 6c02", "80f2000002 11229000"}, "11229000"},
		{"toolkit", cards{"80c2000001ff 910b", "801200000b d009810301210082028182" + "9000", "801400000c810301210082028281830100 9000"}, "910b"},
		{"endless", cards{"00b0000001 6101", "00c0000001 aa6101"}, ""},
	} {
		command, err := ParseCommand(strings.Fields(tt.card[0])[0])
		if err != nil {
			t.Fatal(err)
		}
		_, got, err := Follow(t.Context(), &tt.card, command)
		if hex.EncodeToString(got) != tt.want || (err != nil) != (tt.want == "") {
			t.Errorf("%s: %x, %v, want %s", tt.name, got, err, tt.want)
		}
	}
}

// Boards are attached, and everything that may be done to them is.
func TestBench(t *testing.T) {
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	log := logrus.New()
	log.SetOutput(io.Discard)
	in, commands := io.Pipe()
	answers, out := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() {
		ended <- RunBench(ctx, BenchConfig{Boards: 2, Listen: ln, Control: in, Answers: out, Log: logrus.NewEntry(log)})
	}()
	sc := bufio.NewScanner(answers)
	for _, tt := range []struct{ line, want string }{
		{"state 0", "ok state 0 wait-power sim=local present=false"},
		{"state 4", `error state: slot "4": want 0..3`},
		{"unplug 1", "ok unplug 1"},
		{"unplug 1", "error the board isn't plugged in"},
		{"plug 1", "ok plug 1"},
		{"plug 1", "error the board is plugged in"},
		{"dfu 0 on", "ok dfu 0 on"},
		{"plug 0", "ok plug 0"},
		{"deaf 0 on", "ok deaf 0 on"},
		{"inject 3 bulk 0102", "ok inject 3 bulk 0102"},
		{"fail 2 irq 3", "ok fail 2 irq 3"},
		{"reset 0 cold", "ok reset 0 cold 3b00"},
		{"send 0 a0a40000023f00", "error modem: the emulated SIM isn't connected"},
		{"run 0 nonsense", "error open nonsense"},
		{"jump 0", `error no command "jump"`},
	} {
		if _, err := fmt.Fprintf(commands, "# comment\n\n%s\n", tt.line); err != nil {
			t.Fatal(err)
		}
		if !sc.Scan() || !strings.HasPrefix(sc.Text(), tt.want) {
			t.Errorf("%s: %q, want %q", tt.line, sc.Text(), tt.want)
		}
	}
	cancel()
	commands.Close()
	answers.Close()
	if err := <-ended; err != nil {
		t.Errorf("ended with %v", err)
	}
}

// A board is out when its host has lost it: who plugs it in then and attaches it anew isn't refused.
func TestUnplug(t *testing.T) {
	for _, line := range []string{"unplug 0", "dfu 0 on"} {
		synctest.Test(t, func(t *testing.T) {
			s := &seat{board: board.New(board.Config{})}
			b := &Bench{boards: []*seat{s}}
			if err := errors.Join(s.plug(t.Context(), true), s.board.Attached(true)); err != nil {
				t.Fatal(err)
			}
			life, done := s.life, false
			go func() {
				if _, err := b.obey(t.Context(), line); err != nil {
					t.Errorf("%s: %v", line, err)
				}
				done = true
			}()
			time.Sleep(100 * time.Millisecond)
			synctest.Wait()
			if done || life.Err() == nil {
				t.Errorf("%s: done %v while a host is attached, which was told %v", line, done, life.Err())
			}
			if err := s.board.Attached(false); err != nil {
				t.Fatal(err)
			}
			time.Sleep(time.Second)
			synctest.Wait()
			if !done {
				t.Errorf("%s: not done", line)
			}
		})
	}
}
