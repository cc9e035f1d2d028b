// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/client"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var (
	me       = slot.Client{ID: 23}
	here     = slot.Bank{ID: 1, Slot: 5}
	bankAddr = netip.MustParseAddrPort("10.0.0.2:9999")
)

// text is a Writer that can be read meanwhile.
type text struct {
	mu sync.Mutex
	b  strings.Builder
}

func (w *text) Write(b []byte) (int, error) {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.Write(b)
}

func (w *text) String() string {
	synctest.Wait()
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.b.String()
}

// A world is a shell on a testnet, with a server and a bankd that tests play.
type world struct {
	t             *testing.T
	in            *io.PipeWriter
	out, err, log text
	stop          context.CancelFunc
	ended         chan error
	serverLn      net.Listener
	bankLn        net.Listener
	server, bankd *testnet.Peer
}

func newWorld(t *testing.T, change func(*Config, *Env)) *world {
	t.Helper()
	n := testnet.New()
	w := &world{t: t, ended: make(chan error, 1)}
	w.serverLn, w.bankLn = listen(t, n.Host("10.0.0.1"), ":9998"), listen(t, n.Host("10.0.0.2"), ":9999")
	cfg := Config{Config: client.Config{ServerHost: "10.0.0.1", ServerPort: 9998, Slot: me, ATR: []byte{0x3b, 0x00}}}
	r, in := io.Pipe()
	w.in = in
	log := logrus.New()
	log.SetOutput(&w.log)
	env := Env{Env: client.Env{Net: n.Host("10.0.0.3"), Log: log}, In: r, Out: &w.out, Err: &w.err}
	if change != nil {
		change(&cfg, &env)
	}
	ctx, stop := context.WithCancel(t.Context())
	w.stop = stop
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		w.ended <- Run(ctx, cfg, env)
	}()
	t.Cleanup(func() {
		stop()
		in.Close()
		<-ended
		w.serverLn.Close()
		w.bankLn.Close()
		if t.Failed() {
			t.Log(w.log.String())
		}
	})
	return w
}

func listen(t *testing.T, h *testnet.Host, addr string) net.Listener {
	t.Helper()
	ln, err := h.Listen(t.Context(), addr)
	if err != nil {
		t.Fatal(err)
	}
	return ln
}

// meet brings the client to the bankd, which has no card yet.
func (w *world) meet() {
	w.t.Helper()
	w.server = testnet.AcceptPeer(w.t, w.serverLn)
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.server)
	w.server.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	w.server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: bankAddr})
	testnet.Expect[*rspro.ConfigClientBankRes](w.server)
	w.meetBankd()
}

func (w *world) meetBankd() {
	w.t.Helper()
	w.bankd = testnet.AcceptPeer(w.t, w.bankLn)
	_, req := testnet.ExpectPDU[*rspro.ConnectClientReq](w.bankd)
	w.bankd.Reply(req, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd)})
	synctest.Wait()
}

// card inserts a card.
func (w *world) card(atr ...byte) {
	w.t.Helper()
	w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: atr})
	testnet.Expect[*rspro.SetAtrRes](w.bankd)
	synctest.Wait()
}

// answer is what a command gets.
func (w *world) answer(command string, response ...byte) {
	w.t.Helper()
	m := testnet.Expect[*rspro.TpduModemToCard](w.bankd)
	if got := fmt.Sprintf("%x", m.Data); got != command {
		w.t.Fatalf("command %s, want %s", got, command)
	}
	w.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: response})
	synctest.Wait()
}

// phys expects a status of the slot.
func (w *world) phys(want slot.Phys) {
	w.t.Helper()
	if m := testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd); m.Phys != want || m.From != me || m.To != here {
		w.t.Errorf("status %+v, want %v", m, want)
	}
}

func (w *world) typed(s string) {
	w.t.Helper()
	if _, err := w.in.Write([]byte(s)); err != nil {
		w.t.Fatal(err)
	}
	synctest.Wait()
}

// end expects the end of the program.
func (w *world) end() {
	w.t.Helper()
	select {
	case err := <-w.ended:
		if err != nil {
			w.t.Errorf("Run: %v", err)
		}
	case <-time.After(time.Minute):
		w.t.Error("the program goes on")
	}
}

var atr3g = []byte{0x3b, 0x7d, 0x94, 0x00, 0x00, 0x55, 0x55, 0x53, 0x0a, 0x74, 0x86, 0x93, 0x0b, 0x24, 0x7c, 0x4d, 0x54, 0x68}

// TestGolden compares a whole session with what the C suite's shell prints.
func TestGolden(t *testing.T) {
	want, err := os.ReadFile(filepath.Join("testdata", "session.txt"))
	if err != nil {
		t.Fatal(err)
	}
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(atr3g...)
		w.typed("a0a40000023f00\n")
		w.answer("a0a40000023f00", 0x9f, 0x17)
		w.typed("A0 B0 00 00 0A\r\n")
		w.answer("a0b000000a", 0x98, 0x94, 0x44, 0, 0, 0, 0, 0, 0, 0xf0, 0x90, 0x00)
		w.typed("reSET\r")
		w.phys(slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off, Card: slot.On})
		w.phys(slot.Phys{VCC: slot.On, CLK: slot.On, Card: slot.On})
		w.card(0x3b, 0x02, 0x14, 0x50) // another ATR after the reset
		w.typed("RESET\n")             // and a second one is as good as the first
		w.phys(slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off, Card: slot.On})
		w.phys(slot.Phys{VCC: slot.On, CLK: slot.On, Card: slot.On})
		w.typed("0084000000\n")
		w.answer("0084000000", append(make([]byte, 256), 0x90, 0x00)...)
		w.in.Close()
		w.end()
		if got := w.out.String(); got != string(want) {
			t.Errorf("standard output:\n%s\nwant:\n%s", got, want)
		}
		if got := w.err.String(); got != "" {
			t.Errorf("messages: %s", got)
		}
	})
}

// Everything may come at once, the end of the input, too: each line waits for the
// answer to the one before.
func TestPipe(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(_ *Config, env *Env) {
			env.In = strings.NewReader("a0a40000023f00\n\n  \nRESET\ra0a40000022fe2\r\na0b000000a")
		})
		time.Sleep(5 * time.Second)
		w.meet()
		time.Sleep(20 * time.Second)
		w.card(0x3b, 0x00)
		w.answer("a0a40000023f00", 0x9f, 0x17)
		w.bankd.Expect(rspro.ChoiceClientSlotStatusInd)
		w.bankd.Expect(rspro.ChoiceClientSlotStatusInd)
		time.Sleep(5 * time.Second) // the next one waits for its answer
		w.answer("a0a40000022fe2", 0x9f, 0x0f)
		w.answer("a0b000000a", 0x90, 0x00)
		w.end()
		if got, want := w.out.String(), "SET_ATR: 3b 00 \nSET_ATR: 3b 00 \nR-APDU: 9f 17 \nR-APDU: 9f 0f \nR-APDU: 90 00 \n"; got != want {
			t.Errorf("standard output %q, want %q", got, want)
		}
	})
}

// A RESET at the end of the input is not cut off: it is sent, and what comes of it is shown.
func TestResetAtTheEnd(t *testing.T) {
	for _, tc := range []struct {
		name  string
		in    string
		then  func(*world) // 1 s after the RESET
		takes time.Duration
		out   string // beside the first ATRs
	}{
		// The program may end before its setAtrRes is sent.
		{"other ATR", "RESET", func(w *world) {
			w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x01}})
		}, time.Second, "SET_ATR: 3b 01 \n"},
		{"same ATR", "RESET\n", func(w *world) {
			w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: []byte{0x3b, 0x02}})
		}, time.Second, ""},
		{"card gone", "RESET", func(w *world) {
			w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		}, time.Second, ""},
		{"bankd gone", "RESET", func(w *world) { w.bankd.Close() }, time.Second, ""},
		{"signal", "RESET", func(w *world) { w.stop() }, time.Second, ""},
		{"bankd that tells no ATR", "RESET", func(w *world) {}, resetWait, ""},
		{"lines after it, and a bankd that tells no ATR", "RESET\n\na0b000000a\nhelp", func(w *world) {
			w.answer("a0b000000a", 0x90, 0x00)
		}, time.Second, "R-APDU: 90 00 \n"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.meet()
				w.card(0x3b, 0x02)
				before := w.out.String()
				w.typed(tc.in)
				w.in.Close()
				start := time.Now()
				w.phys(slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off, Card: slot.On})
				w.phys(slot.Phys{VCC: slot.On, CLK: slot.On, Card: slot.On})
				time.Sleep(time.Second)
				tc.then(w)
				w.end()
				if d := time.Since(start); d != tc.takes {
					t.Errorf("ends after %v, want %v", d, tc.takes)
				}
				if got := strings.TrimPrefix(w.out.String(), before); got != tc.out {
					t.Errorf("standard output %q, want %q", got, tc.out)
				}
			})
		})
	}
}

func TestTwoLinesInOneRead(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(0x3b, 0x00)
		w.typed("a0a40000023f00\na0b000000a\n")
		w.answer("a0a40000023f00", 0x9f, 0x17)
		w.answer("a0b000000a", 0x90, 0x00)
	})
}

func TestNoCard(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.typed("a0a40000023f00\n")
		time.Sleep(cardWait - 1)
		if got := w.err.String(); got != "" {
			t.Errorf("before the time: %q", got)
		}
		time.Sleep(time.Nanosecond)
		if got, want := w.err.String(), "line 1: no card within 30s\n"; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		// And it goes on.
		w.card(0x3b, 0x00)
		w.typed("a0b000000a\n")
		w.answer("a0b000000a", 0x90, 0x00)
	})
}

func TestBankdDies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(0x3b, 0x00)
		w.typed("a0a40000023f00\na0b000000a\n")
		w.bankd.Expect(rspro.ChoiceTpduModemToCard)
		w.bankd.Close()
		if got, want := w.err.String(), "line 1: card went away before it answered\n"; got != want {
			t.Errorf("message %q, want %q", got, want)
		}
		// The second line waits for the next card.
		w.meetBankd()
		w.card(0x3b, 0x00)
		w.answer("a0b000000a", 0x90, 0x00)
		if got := w.out.String(); !strings.HasSuffix(got, "R-APDU: 90 00 \n") {
			t.Errorf("standard output %q", got)
		}
	})
}

func TestCardGoneAndBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.card(0x3b, 0x00)
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		synctest.Wait()
		w.typed("a0a40000023f00\n")
		w.bankd.Quiet(10 * time.Second)
		w.card(0x3b, 0x01)
		w.answer("a0a40000023f00", 0x9f, 0x17)
	})
}

// A held Writer has who writes the ATR 3b01 wait.
type held struct {
	io.Writer
	until chan struct{}
}

func (h held) Write(b []byte) (int, error) {
	if string(b) == "SET_ATR: 3b 01 \n" {
		<-h.until
	}
	return h.Writer.Write(b)
}

// A line isn't for a card whose ATR wasn't shown yet: it gets its answer after that.
func TestAnswerAfterATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		until := make(chan struct{})
		w := newWorld(t, func(_ *Config, env *Env) { env.Out = held{env.Out, until} })
		w.meet()
		w.card(0x3b, 0x02, 0x14, 0x50)
		w.card(0x3b, 0x01) // what follows isn't shown yet
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		w.card(atr3g...)
		w.typed("a0a40000023f00\n")
		if m, ok := w.bankd.Poll(0); ok {
			t.Errorf("the bankd gets %v", m.Msg.Choice())
		}
		close(until)
		synctest.Wait()
		w.answer("a0a40000023f00", 0x9f, 0x17)
		lines := strings.Split(w.out.String(), "\n")
		want := []string{"SET_ATR: 3b 00 ", "SET_ATR: 3b 02 14 50 ", "SET_ATR: 3b 01 ", fmt.Sprintf("SET_ATR: % x ", atr3g), "R-APDU: 9f 17 ", ""}
		if !reflect.DeepEqual(lines, want) {
			t.Errorf("got %q, want %q", lines, want)
		}
	})
}

func TestKeepATR(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, func(cfg *Config, _ *Env) { cfg.ATR, cfg.KeepATR = []byte{0x3b, 0x9f, 0x01}, true })
		w.meet()
		w.card(0x3b, 0x7d)
		w.typed("a0a40000023f00\n")
		w.answer("a0a40000023f00", 0x9f, 0x17)
		if got, want := w.out.String(), "SET_ATR: 3b 9f 01 \nR-APDU: 9f 17 \n"; got != want {
			t.Errorf("standard output %q, want %q", got, want)
		}
	})
}

func TestSignal(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newWorld(t, nil)
		w.meet()
		w.typed("a0a40000023f00\n")
		w.stop()
		w.end()
		if got := w.err.String(); got != "" {
			t.Errorf("message %q", got)
		}
	})
}

type badWriter struct{}

func (badWriter) Write([]byte) (int, error) { return 0, errors.New("broken pipe") }

func TestBadStreams(t *testing.T) {
	for name, change := range map[string]func(*Config, *Env){
		"standard output": func(_ *Config, env *Env) { env.Out = badWriter{} },
		"standard input":  func(_ *Config, env *Env) { env.In = io.MultiReader(strings.NewReader("\n"), badReader{}) },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, change)
				if name == "standard output" {
					w.meet()
				}
				if err := <-w.ended; err == nil || !strings.Contains(err.Error(), name) {
					t.Errorf("Run: %v, want one about %s", err, name)
				}
			})
		})
	}
}

type badReader struct{}

func (badReader) Read([]byte) (int, error) { return 0, errors.New("input/output error") }

// TestBadLines has each bad line answered by a message, and the line after it executed.
func TestBadLines(t *testing.T) {
	long := strings.Repeat("00 ", maxLine)
	for _, tc := range []struct{ name, line, want string }{
		{"odd", "a0a40", "odd number of hex digits"},
		{"word", "hello", `"hello": want a command in hex, RESET or help`},
		{"word and hex", "a0a4 x0", `"x0": want a command in hex, RESET or help`},
		{"reset with argument", "RESET 1", "want reset"},
		{"long word", strings.Repeat("z", 1000), `"` + strings.Repeat("z", 32) + `": want a command in hex, RESET or help`},
		{"control characters", "\x1b[31m", `"\x1b[31m": want a command in hex, RESET or help`},
		{"4 bytes", "a0a40000", "command of 4 bytes: want 5..260"},
		{"261 bytes", strings.Repeat("00", 261), "command of 261 bytes: want 5..260"},
		{"too long", long, "line is longer than 4096 characters"},
		{"far too long", strings.Repeat(long, 100), "line is longer than 4096 characters"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				w := newWorld(t, nil)
				w.meet()
				w.card(0x3b, 0x00)
				w.typed("\n" + tc.line + "\na0b000000a\n")
				w.answer("a0b000000a", 0x90, 0x00)
				if got, want := w.err.String(), "line 2: "+tc.want+"\n"; got != want {
					t.Errorf("message %q, want %q", got, want)
				}
				if strings.Contains(w.out.String(), "line") {
					t.Error("the message is on standard output")
				}
			})
		})
	}
}

func TestLines(t *testing.T) {
	for _, tc := range []struct {
		in   string
		want []string
	}{
		{"", nil},
		{"a", []string{"a"}},
		{"a\n", []string{"a"}},
		{"a\rb\nc\r\nd", []string{"a", "b", "c", "d"}},
		{"a\r\r\nb\n\nc", []string{"a", "", "b", "", "c"}},
		{"\n\r", []string{"", ""}},
	} {
		for name, r := range map[string]io.Reader{
			"whole": strings.NewReader(tc.in), "by bytes": oneByte{strings.NewReader(tc.in)},
		} {
			l := lineReader{r: bufio.NewReader(r)}
			var got []string
			for {
				line, err := l.next()
				if err != nil {
					break
				}
				got = append(got, line)
			}
			if fmt.Sprintf("%q", got) != fmt.Sprintf("%q", tc.want) {
				t.Errorf("%q, %s: %q, want %q", tc.in, name, got, tc.want)
			}
		}
	}
}

// oneByte returns one byte a read.
type oneByte struct{ r io.Reader }

func (o oneByte) Read(b []byte) (int, error) { return o.r.Read(b[:1]) }

// FuzzLines: whatever is typed, lines are bounded, commands have a legal length, and a
// command printed in hex is read as the same.
func FuzzLines(f *testing.F) {
	for _, s := range []string{
		"a0a40000023f00\n", "RESET\rreset\r\nReSeT", "a0 a4 00 00 02 3f 00", "a0a40", "00000000", "x\x00\xff\n",
		"help\ninfo\nHELP me\ninfo 1", "select 3f00/7f20/6f07\nselect a0000000871002\nSelect 7fff6f07\nselect /\nselect 3f00/",
		"read\nread binary\nread binary 5 10\nread record 3\nread record\nread binary -1", "auth 00\nauth " + strings.Repeat("5a", 16),
		strings.Repeat("0", 520), strings.Repeat("0", 522), strings.Repeat(" ", 5000) + "\nRESET\n",
	} {
		f.Add([]byte(s))
	}
	f.Fuzz(func(t *testing.T, in []byte) {
		l := lineReader{r: bufio.NewReaderSize(strings.NewReader(string(in)), 16)}
		for n := 0; ; n++ {
			line, err := l.next()
			if err == io.EOF {
				return
			}
			if n > len(in) {
				t.Fatal("more lines than bytes")
			}
			if err != nil && err != errLong || len(line) > maxLine || strings.ContainsAny(line, "\r\n") {
				t.Fatalf("line %q, %v", line, err)
			}
			cmd, err := parse(line)
			if err != nil {
				if strings.ContainsAny(err.Error(), "\r\n\x1b") {
					t.Fatalf("message %q", err)
				}
				continue
			}
			b, ok := cmd.(tpdu)
			if !ok {
				continue
			}
			again, err := parse(fmt.Sprintf("% X", []byte(b)))
			if n := len(b); n < 5 || n > 260 || err != nil || !reflect.DeepEqual(again, cmd) {
				t.Fatalf("%q: %+v, again %+v, %v", line, cmd, again, err)
			}
		}
	})
}
