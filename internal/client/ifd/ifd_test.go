// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"bytes"
	"context"
	"encoding/hex"
	"fmt"
	"net"
	"net/netip"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"github.com/sirupsen/logrus"
	"go.uber.org/goleak"

	"remsim/internal/link"
	"remsim/internal/rspro"
	"remsim/internal/slot"
	"remsim/internal/testnet"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

const lun = 2 << 16

var (
	me       = slot.Client{ID: 23, Slot: 1}
	here     = slot.Bank{ID: 1, Slot: 5}
	bankAddr = netip.MustParseAddrPort("10.0.0.2:9999")
	atr1     = []byte{0x3b, 0x02, 0x14, 0x50}
	atr2     = []byte{0x3b, 0x00}
	selectMF = []byte{0xa0, 0xa4, 0x00, 0x00, 0x02, 0x3f, 0x00}
)

// A journal keeps log lines.
type journal struct {
	mu    sync.Mutex
	lines []string
	held  chan struct{} // who writes of an ATR that is too long waits until it is closed; nil: nobody does
}

func (j *journal) write(p Priority, line string) {
	if j.held != nil && strings.Contains(line, "too long") {
		<-j.held
	}
	j.mu.Lock()
	defer j.mu.Unlock()
	j.lines = append(j.lines, fmt.Sprintf("%d %s", p, line))
}

func (j *journal) String() string {
	j.mu.Lock()
	defer j.mu.Unlock()
	return strings.Join(j.lines, "\n")
}

// A world is a driver on a testnet, with a server and a bankd that tests play.
type world struct {
	*Driver
	t             *testing.T
	log           journal
	bankHost      *testnet.Host
	serverHost    *testnet.Host
	serverLn      net.Listener
	bankLn        net.Listener
	server, bankd *testnet.Peer
}

// inWorld runs a test with a reader whose client nobody has talked to yet.
func inWorld(t *testing.T, test func(*world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		n := testnet.New()
		w := &world{t: t, serverHost: n.Host("10.0.0.1"), bankHost: n.Host("10.0.0.2")}
		w.Driver = New(n.Host("10.0.0.3"), w.log.write)
		w.serverLn, w.bankLn = w.listen(w.serverHost, ":9998"), w.listen(w.bankHost, ":9999")
		w.code("CreateChannelByName", w.CreateChannelByName(lun, "23:1:10.0.0.1:9998"), Success)
		t.Cleanup(func() {
			w.CloseChannel(lun)
			w.serverLn.Close()
			w.bankLn.Close()
			if t.Failed() {
				t.Log(w.log.String())
			}
		})
		test(w)
	})
}

func (w *world) listen(h *testnet.Host, addr string) net.Listener {
	w.t.Helper()
	ln, err := h.Listen(w.t.Context(), addr)
	if err != nil {
		w.t.Fatal(err)
	}
	return ln
}

// toServer plays the server up to the answer that tells the bankd.
func (w *world) toServer() {
	w.t.Helper()
	w.server = testnet.AcceptPeer(w.t, w.serverLn)
	req, pdu := testnet.ExpectPDU[*rspro.ConnectClientReq](w.server)
	if req.Identity.Software != "remsim-client" || req.Slot == nil || *req.Slot != me {
		w.t.Errorf("the driver presents itself as %+v, %v", req.Identity, req.Slot)
	}
	w.server.Reply(pdu, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Server)})
	w.server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: bankAddr})
	testnet.Expect[*rspro.ConfigClientBankRes](w.server)
}

// toBankd plays a bankd that knows these extensions, up to its acceptance.
func (w *world) toBankd(f rspro.Features) {
	w.t.Helper()
	w.bankd = testnet.AcceptPeer(w.t, w.bankLn)
	req, pdu := testnet.ExpectPDU[*rspro.ConnectClientReq](w.bankd)
	if !req.Features.Has(rspro.AtrAfterReset) {
		w.t.Errorf("the driver tells features %b", req.Features)
	}
	w.bankd.Reply(pdu, &rspro.ConnectClientRes{Identity: testnet.Identity(rspro.Bankd), Features: f})
}

// tell has the bankd tell an ATR.
func (w *world) tell(atr []byte) {
	w.t.Helper()
	w.bankd.Send(&rspro.SetAtrReq{Slot: me, ATR: atr})
	testnet.Expect[*rspro.SetAtrRes](w.bankd)
	synctest.Wait()
}

// pull has the bankd tell that there is no card.
func (w *world) pull() {
	w.t.Helper()
	w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
	w.settle()
}

// settle lets everything arrive.
func (w *world) settle() {
	time.Sleep(time.Millisecond)
	synctest.Wait()
}

// insert brings a card into the reader, switched on.
func (w *world) insert(f rspro.Features) {
	w.t.Helper()
	w.toServer()
	w.toBankd(f)
	w.tell(atr1)
	w.code("Presence", w.Presence(lun), Success)
	w.on()
}

func (w *world) on() {
	w.t.Helper()
	atr, code := w.Power(lun, PowerUp)
	w.code("PowerUp", code, Success)
	if !bytes.Equal(atr, atr1) {
		w.t.Errorf("PowerUp: ATR %x", atr)
	}
	if w.bankd != nil {
		w.status(running)
	}
}

func (w *world) code(what string, got, want Code) {
	w.t.Helper()
	if got != want {
		w.t.Errorf("%s: %v, want %v", what, got, want)
	}
}

// status expects that the bankd is told of the contacts.
func (w *world) status(want slot.Phys) {
	w.t.Helper()
	if m := testnet.Expect[*rspro.ClientSlotStatusInd](w.bankd); m.From != me || m.To != here || m.Phys != want {
		w.t.Errorf("bankd told %v>%v %v, want %v", m.From, m.To, m.Phys, want)
	}
}

// later runs a call on a thread of its own; await returns what it has returned, and after which time.
func later[T any](call func() T) (await func() (T, time.Duration)) {
	type result struct {
		v    T
		took time.Duration
	}
	done := make(chan result, 1)
	start := time.Now()
	go func() {
		v := call()
		done <- result{v, time.Since(start)}
	}()
	return func() (T, time.Duration) {
		r := <-done
		return r.v, r.took
	}
}

// absent checks what every call says when there is no card.
func (w *world) absent(when string) {
	w.t.Helper()
	start := time.Now()
	w.code(when+": Presence", w.Presence(lun), ICCNotPresent)
	for _, a := range []Action{PowerUp, Reset} {
		_, code := w.Power(lun, a)
		w.code(when+": Power", code, ICCNotPresent)
	}
	_, code := w.Power(lun, PowerDown)
	w.code(when+": PowerDown", code, Success)
	_, code = w.Transmit(lun, 0, selectMF)
	w.code(when+": Transmit", code, ICCNotPresent)
	_, code = w.GetCapabilities(lun, TagATR)
	w.code(when+": ATR", code, ICCNotPresent)
	if d := time.Since(start); d != 0 {
		w.t.Errorf("%s: the calls took %v", when, d)
	}
}

// There is a card when its ATR is there, and until then every call says so at once.
func TestNoCardBeforeATR(t *testing.T) {
	inWorld(t, func(w *world) {
		w.absent("at the start")
		w.toServer()
		w.absent("told the bankd")
		w.toBankd(0)
		w.settle()
		w.absent("accepted by the bankd")
		w.tell(atr1)
		w.code("Presence", w.Presence(lun), Success)
		for _, tag := range []Tag{TagATR, TagATRString} {
			atr, code := w.GetCapabilities(lun, tag)
			if code != Success || !bytes.Equal(atr, atr1) {
				t.Errorf("tag %#x: %x, %v", tag, atr, code)
			}
		}
		w.on()
		w.pull()
		w.absent("card gone")
		w.tell(atr1)
		w.code("Presence", w.Presence(lun), Success)
		w.bankd.Close()
		w.settle()
		w.absent("bankd lost")
	})
}

// A poll ends in the moment in which a card comes or goes, at its time-out, and when it is to.
func TestPoll(t *testing.T) {
	inWorld(t, func(w *world) {
		poll := func(timeout time.Duration) func() (Code, time.Duration) {
			await := later(func() Code { return w.Poll(lun, timeout) })
			synctest.Wait()
			return await
		}
		ends := func(what string, await func() (Code, time.Duration), want time.Duration) {
			t.Helper()
			if code, took := await(); code != Success || took != want {
				t.Errorf("%s: %v after %v, want %v", what, code, took, want)
			}
		}
		w.toServer()
		w.toBankd(rspro.LateAtr)
		ends("time-out", poll(10*time.Minute), 10*time.Minute)
		ends("no time at all", poll(0), 0)
		ends("less than that", poll(-time.Millisecond), 0)

		await := poll(10 * time.Minute)
		time.Sleep(time.Second)
		w.tell(atr1)
		ends("card comes", await, time.Second)
		w.code("Presence", w.Presence(lun), Success)

		await = poll(10 * time.Minute)
		time.Sleep(time.Second)
		w.tell(atr1) // nothing new
		time.Sleep(time.Second)
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		ends("card goes", await, 2*time.Second)
		w.code("Presence", w.Presence(lun), ICCNotPresent)

		await = poll(10 * time.Minute)
		time.Sleep(time.Second)
		w.code("StopPoll", w.StopPoll(lun), Success)
		ends("stop", await, time.Second)
		w.code("StopPoll", w.StopPoll(lun), Success)
		ends("stopped before it began", poll(10*time.Minute), 0)
		ends("stopped once", poll(time.Minute), time.Minute)

		await = poll(10 * time.Minute)
		time.Sleep(time.Second)
		w.code("CloseChannel", w.CloseChannel(lun), Success)
		ends("close", await, time.Second)
		w.code("Poll", w.Poll(lun, time.Minute), CommunicationError)
	})
}

// Whatever has happened between two looks of pcscd's thread, it sees that the card it knows has gone, and no
// command of who used that one reaches another.
func TestSwapIsSeen(t *testing.T) {
	pull := func(w *world) { w.pull() }
	same := func(w *world) { w.tell(atr1) }
	other := func(w *world) { w.tell(atr2) }
	for _, tc := range []struct {
		name   string
		events []func(*world)
		looks  string // what the thread sees from then on: + a card, - none
		atr    []byte
	}{
		{"nothing", nil, "+++", atr1},
		{"ATR told again", []func(*world){same}, "+++", atr1},
		{"gone", []func(*world){pull}, "---", nil},
		{"gone and back", []func(*world){pull, same}, "--++", atr1},
		{"another card", []func(*world){pull, other}, "--++", atr2},
		{"another card in one step", []func(*world){other}, "--++", atr2},
		{"twice", []func(*world){pull, other, pull, same}, "--++", atr1},
		{"and gone", []func(*world){pull, other, pull}, "---", nil},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.insert(0)
				w.code("Poll", w.Poll(lun, 0), Success) // there is a thread
				for _, e := range tc.events {
					e(w)
				}
				var looks strings.Builder
				for range len(tc.looks) {
					code := w.Presence(lun)
					looks.WriteByte(map[Code]byte{Success: '+', ICCNotPresent: '-'}[code])
					if !strings.HasPrefix(tc.looks, "+") {
						_, code = w.Transmit(lun, 0, selectMF)
						w.code("Transmit", code, map[bool]Code{true: CommunicationError, false: ICCNotPresent}[code != ICCNotPresent])
					}
					w.code("Poll", w.Poll(lun, 0), Success)
				}
				if looks.String() != tc.looks {
					t.Errorf("the thread sees %s, want %s", &looks, tc.looks)
				}
				atr, _ := w.GetCapabilities(lun, TagATR)
				if !bytes.Equal(atr, tc.atr) {
					t.Errorf("ATR %x, want %x", atr, tc.atr)
				}
				if m, ok := w.bankd.Poll(0); ok {
					t.Errorf("the bankd gets %v", m.Msg.Choice())
				}
			})
		})
	}
}

// A command for the card that has gone doesn't reach the next one either while the reader still has to be told of both.
func TestSwapBeforeItIsTold(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		w.log.held = make(chan struct{})
		w.tell(make([]byte, 34)) // what follows waits for its log line
		w.pull()
		w.tell(atr2)
		w.code("Presence", w.Presence(lun), Success) // it knows nothing yet
		w.powered("a command", w.transmit(selectMF), nil, ICCNotPresent, 0)
		if m, ok := w.bankd.Poll(0); ok {
			t.Errorf("the bankd gets %v", m.Msg.Choice())
		}
		close(w.log.held)
		synctest.Wait()
		w.look()
		w.powered("up", w.power(PowerUp), atr2, Success, 0)
		await := w.transmit(selectMF)
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("a command to the next card", await, []byte{0x90, 0x00}, Success, 0)
	})
}

// Who waits for the ATR after a reset isn't given that of a card that has come meanwhile, however late it looks.
func TestSwapDuringReset(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		await := w.power(Reset)
		w.status(inReset)
		w.status(running)
		r := w.reader(lun)
		r.mu.Lock() // so that all is over when it wakes up
		r.setCardLocked(0)
		r.show()
		r.cards++
		r.setCardLocked(r.cards)
		r.show()
		r.mu.Unlock()
		w.powered("reset", await, nil, ICCNotPresent, 0)
		w.powered("a command", w.transmit(selectMF), nil, CommunicationError, 0)
	})
}

// Where nobody polls, a look at presence is enough.
func TestSwapWithoutPolling(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(0)
		w.pull()
		w.tell(atr2)
		w.look()
	})
}

// look is how pcscd sees that another card is there.
func (w *world) look() {
	w.t.Helper()
	w.code("Presence of the old card", w.Presence(lun), ICCNotPresent)
	w.code("Presence of another one", w.Presence(lun), Success)
}

type outcome struct {
	atr  []byte
	code Code
}

func (w *world) power(a Action) func() (outcome, time.Duration) {
	await := later(func() outcome {
		atr, code := w.Power(lun, a)
		return outcome{atr, code}
	})
	synctest.Wait()
	return await
}

func (w *world) powered(what string, await func() (outcome, time.Duration), atr []byte, code Code, after time.Duration) {
	w.t.Helper()
	if o, took := await(); !bytes.Equal(o.atr, atr) || o.code != code || took != after {
		w.t.Errorf("%s: %x, %v after %v, want %x, %v after %v", what, o.atr, o.code, took, atr, code, after)
	}
}

// TestPower has a bankd that tells the ATR after each reset: it is waited for, 5 s at most.
func TestPower(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		w.powered("up again", w.power(PowerUp), atr1, Success, 0)

		await := w.power(Reset)
		w.status(inReset)
		w.status(running)
		time.Sleep(time.Second)
		w.tell(atr2)
		w.powered("reset", await, atr2, Success, time.Second)
		w.code("Presence: the ATR after a reset is no other card's", w.Presence(lun), Success)

		w.powered("down", w.power(PowerDown), nil, Success, 0)
		w.status(powerOff)
		_, code := w.Transmit(lun, 0, selectMF)
		w.code("Transmit without power", code, CommunicationError)
		await = w.power(PowerUp)
		w.status(running)
		w.tell(atr1)
		w.powered("up", await, atr1, Success, 0)

		w.powered("down", w.power(PowerDown), nil, Success, 0)
		w.status(powerOff)
		w.tell(atr1)
		w.powered("up when the ATR is there", w.power(PowerUp), atr1, Success, 0)
		w.status(running)

		await = w.power(Reset)
		w.status(inReset)
		w.status(running)
		w.powered("no ATR", await, nil, ErrorPowerAction, 5*time.Second)
		_, code = w.Transmit(lun, 0, selectMF)
		w.code("Transmit without an ATR", code, CommunicationError)
		w.tell(atr2)
		w.powered("up after a late ATR", w.power(PowerUp), atr2, Success, 0)

		await = w.power(Reset)
		w.status(inReset)
		w.status(running)
		time.Sleep(time.Second)
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		w.powered("card goes", await, nil, ICCNotPresent, time.Second)
		w.tell(atr1)
		w.look()
		w.powered("another card", w.power(PowerUp), atr1, Success, 0)

		await = w.power(Reset)
		time.Sleep(time.Second)
		w.code("CloseChannel", w.CloseChannel(lun), Success)
		w.powered("close", await, nil, CommunicationError, time.Second)
	})
}

// A bankd of the C suite tells no ATR after a reset, unless it is another one.
func TestPowerWithCBankd(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(0)
		for range 2 {
			w.powered("reset", w.power(Reset), atr1, Success, 0)
			w.status(inReset)
			w.status(running)
			w.powered("down", w.power(PowerDown), nil, Success, 0)
			w.status(powerOff)
			w.powered("up", w.power(PowerUp), atr1, Success, 0)
			w.status(running)
		}
		_, code := w.Power(lun, 503)
		w.code("no such action", code, NotSupported)
	})
}

func (w *world) transmit(apdu []byte) func() (outcome, time.Duration) {
	await := later(func() outcome {
		r, code := w.Transmit(lun, 0, apdu)
		return outcome{r, code}
	})
	synctest.Wait()
	return await
}

// answer has the bankd expect a command and send an answer.
func (w *world) answer(command, response []byte) {
	w.t.Helper()
	if m := testnet.Expect[*rspro.TpduModemToCard](w.bankd); m.From != me || m.To != here || !bytes.Equal(m.Data, command) {
		w.t.Errorf("bankd gets %v>%v %x, want %x", m.From, m.To, m.Data, command)
	}
	if response != nil {
		w.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: response})
	}
}

// What applications of a T=0 reader expect: the card's status words as they are, none of them acted upon.
func TestTransmit(t *testing.T) {
	long := append(bytes.Repeat([]byte{0xaa}, 256), 0x90, 0x00)
	for _, tc := range []struct {
		name, apdu, tpdu string
		response         []byte
	}{
		{"case 1", "00a40000", "00a4000000", []byte{0x6d, 0x00}},
		{"case 2", "00c0000002", "00c0000002", []byte{1, 2, 0x90, 0x00}},
		{"case 2, 256 bytes", "00b0000000", "00b0000000", long},
		{"case 3", "a0a40000023f00", "a0a40000023f00", []byte{0x9f, 0x17}},
		{"case 4", "00a40004023f0000", "00a40004023f00", []byte{0x61, 0x1e}},
		{"wrong length", "00c00000ff", "00c00000ff", []byte{0x6c, 0x1e}},
		{"proactive command", "00b0000001", "00b0000001", []byte{1, 0x91, 0x10}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				w.insert(0)
				apdu, _ := hex.DecodeString(tc.apdu)
				tpdu, _ := hex.DecodeString(tc.tpdu)
				await := w.transmit(apdu)
				w.answer(tpdu, tc.response)
				w.powered("response", await, tc.response, Success, 0)
				if log := w.log.String(); strings.Contains(log, tc.tpdu) {
					t.Errorf("the command is in the log: %s", log)
				}
			})
		})
	}
}

// What can't be sent is refused, and no command takes longer than 60 s.
func TestTransmitFails(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		for _, apdu := range [][]byte{nil, {}, selectMF[:3], make([]byte, 262), make([]byte, 65544), {0, 0xb0, 0, 0, 0, 1, 0}} {
			w.powered(fmt.Sprintf("%d bytes", len(apdu)), w.transmit(apdu), nil, NotSupported, 0)
		}
		_, code := w.Transmit(lun, 1, selectMF)
		w.code("T=1", code, ProtocolNotSupported)

		await := w.transmit(selectMF)
		w.powered("a second one", w.transmit(selectMF), nil, CommunicationError, 0)
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("the first one", await, []byte{0x90, 0x00}, Success, 0)

		await = w.transmit(selectMF)
		w.answer(selectMF, nil)
		time.Sleep(time.Second)
		w.bankd.Send(&rspro.BankSlotStatusInd{From: here, To: me, Phys: slot.Phys{Card: slot.Off}})
		w.powered("card goes", await, nil, ICCNotPresent, time.Second)
		w.tell(atr1)
		w.look()
		w.powered("no power yet", w.transmit(selectMF), nil, CommunicationError, 0)
		w.powered("up", w.power(PowerUp), atr1, Success, 0)

		await = w.transmit(selectMF)
		w.answer(selectMF, nil)
		time.Sleep(time.Second)
		reset := w.power(Reset)
		w.powered("reset", await, nil, CommunicationError, time.Second)
		w.status(inReset)
		w.status(running)
		w.tell(atr1)
		w.powered("reset", reset, atr1, Success, 0)
		await = w.transmit(selectMF) // goes when the bankd has seen the reset
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("after a reset", await, []byte{0x90, 0x00}, Success, 0)

		await = w.transmit(selectMF)
		w.answer(selectMF, nil)
		time.Sleep(time.Second)
		w.bankd.Close()
		w.powered("bankd lost", await, nil, ICCNotPresent, time.Second)
	})
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		await := w.transmit(selectMF)
		w.answer(selectMF, nil)
		w.powered("no answer", await, nil, ResponseTimeout, time.Minute)
		w.bankd.Send(&rspro.TpduCardToModem{From: here, To: me, Data: []byte{0x6f, 0x00}})
		await = w.transmit(selectMF)
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("after a late answer", await, []byte{0x90, 0x00}, Success, 0)

		await = w.transmit(selectMF)
		time.Sleep(time.Second)
		w.code("CloseChannel", w.CloseChannel(lun), Success)
		w.powered("close", await, nil, CommunicationError, time.Second)
	})
}

// pcscd has room for 33 bytes of an ATR.
func TestLongATR(t *testing.T) {
	inWorld(t, func(w *world) {
		w.toServer()
		w.toBankd(rspro.LateAtr)
		w.tell(make([]byte, 34))
		w.absent("34 bytes")
		if log := w.log.String(); !strings.Contains(log, "2 remsim:") || !strings.Contains(log, "at most 33 bytes") || !strings.Contains(log, "bytes=34") {
			t.Errorf("log: %s", log)
		}
		long := bytes.Repeat([]byte{0x3b}, 33)
		w.tell(long)
		w.code("33 bytes", w.Presence(lun), Success)
		w.powered("up", w.power(PowerUp), long, Success, 0)
		w.status(running)
		await := w.power(Reset)
		w.status(inReset)
		w.status(running)
		w.tell(append(long, 0))
		w.powered("34 bytes after a reset", await, nil, ICCNotPresent, 0)
	})
}

// A reader that is closed leaves nothing, however its client stands, and can be opened again.
func TestClose(t *testing.T) {
	for _, tc := range []struct {
		name string
		do   func(*world)
	}{
		{"at once", func(*world) {}},
		{"server away", func(w *world) {
			w.serverHost.Down()
			time.Sleep(20 * time.Second)
		}},
		{"server refuses connections", func(w *world) {
			w.serverLn.Close()
			time.Sleep(20 * time.Second)
		}},
		{"server says nothing", func(w *world) { time.Sleep(5 * time.Second) }},
		{"waiting for a card", func(w *world) {
			w.toServer()
			w.toBankd(rspro.LateAtr)
		}},
		{"card in use", func(w *world) { w.insert(rspro.LateAtr) }},
		{"bankd doesn't read", func(w *world) {
			w.insert(rspro.LateAtr)
			w.bankHost.Stall()
			w.transmit(selectMF)
		}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			inWorld(t, func(w *world) {
				tc.do(w)
				start := time.Now()
				w.code("CloseChannel", w.CloseChannel(lun), Success)
				if d := time.Since(start); d >= closeTimeout {
					t.Errorf("CloseChannel took %v", d)
				}
				w.code("CloseChannel", w.CloseChannel(lun), CommunicationError)
				w.code("CreateChannelByName", w.CreateChannelByName(lun, "23:1:10.0.0.1:9998"), Success)
				w.code("Presence", w.Presence(lun), ICCNotPresent)
			})
		})
	}
}

func TestBadReader(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(0)
		const bad = 3 << 16
		w.code("CreateChannelByName", w.CreateChannelByName(bad, "23:1024:10.0.0.1"), Success)
		w.code("Presence", w.Presence(bad), ICCNotPresent)
		_, code := w.Power(bad, PowerUp)
		w.code("PowerUp", code, ICCNotPresent)
		_, code = w.Power(bad, PowerDown)
		w.code("PowerDown", code, Success)
		_, code = w.Transmit(bad, 0, selectMF)
		w.code("Transmit", code, ICCNotPresent)
		w.code("Poll", w.Poll(bad, time.Minute), Success)
		if log := w.log.String(); !strings.Contains(log, `2 remsim:`) || !strings.Contains(log, `23:1024:10.0.0.1`) ||
			!strings.Contains(log, `slot \"1024\": want a number 0..1023`) {
			t.Errorf("log: %s", log)
		}
		w.code("CloseChannel", w.CloseChannel(bad), Success)

		w.code("a name nobody knows", w.CreateChannelByName(bad, "1:1:nowhere"), Success)
		time.Sleep(10 * time.Minute)
		w.code("Presence", w.Presence(bad), ICCNotPresent)
		if log := w.log.String(); !strings.Contains(log, "nowhere") {
			t.Errorf("log: %s", log)
		}
		w.code("CloseChannel", w.CloseChannel(bad), Success)
		w.code("no name", w.CreateChannel(bad), CommunicationError)

		// The reader beside it has a life of its own.
		await := w.transmit(selectMF)
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("the other reader", await, []byte{0x90, 0x00}, Success, 0)
	})
}

// TestTwoReaders has one driver with two readers of one server.
func TestTwoReaders(t *testing.T) {
	inWorld(t, func(w *world) {
		w.insert(rspro.LateAtr)
		const second = 7 << 16
		w.code("CreateChannelByName", w.CreateChannelByName(second, "24"), Success)
		w.code("Presence of the second", w.Presence(second), ICCNotPresent)
		await := w.transmit(selectMF)
		w.code("CloseChannel of the second", w.CloseChannel(second), Success)
		w.answer(selectMF, []byte{0x90, 0x00})
		w.powered("the first", await, []byte{0x90, 0x00}, Success, 0)
	})
}

// TestUnknownLun has every function refuse a reader that there isn't.
func TestUnknownLun(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, lun := range []uint64{0, lun + 1, lun << 1, 1 << 63, ^uint64(0)} {
			second := func(_ []byte, code Code) Code { return code }
			for name, code := range map[string]Code{
				"CloseChannel":          w.CloseChannel(lun),
				"ATR":                   second(w.GetCapabilities(lun, TagATR)),
				"SetCapabilities":       w.SetCapabilities(lun),
				"SetProtocolParameters": w.SetProtocolParameters(lun, ProtocolT0),
				"Power":                 second(w.Power(lun, PowerUp)),
				"PowerDown":             second(w.Power(lun, PowerDown)),
				"Transmit":              second(w.Transmit(lun, 0, selectMF)),
				"Control":               second(w.Control(lun, GetFeatureRequest)),
				"Presence":              w.Presence(lun),
				"Poll":                  w.Poll(lun, time.Minute),
				"StopPoll":              w.StopPoll(lun),
			} {
				w.code(fmt.Sprintf("%s of %#x", name, lun), code, CommunicationError)
			}
		}
		w.code("a second slot", w.CreateChannelByName(lun+1, "1"), CommunicationError)
		w.code("a second time", w.CreateChannelByName(lun, "1"), CommunicationError)
		if log := w.log.String(); !strings.Contains(log, "2 remsim:") || !strings.Contains(log, "LIBPATH") {
			t.Errorf("log: %s", log)
		}
	})
}

func TestCapabilities(t *testing.T) {
	inWorld(t, func(w *world) {
		for _, tc := range []struct {
			tag   Tag
			value []byte
			code  Code
		}{
			{TagSimultaneousAccess, []byte{255}, Success},
			{TagThreadSafe, []byte{1}, Success},
			{TagSlotThreadSafe, []byte{1}, Success},
			{TagSlotsNumber, []byte{1}, Success},
			{TagPollingKillable, []byte{0}, Success},
			{0x0FB0, nil, ErrorTag}, // TAG_IFD_POLLING_THREAD, which isn't used any more
			{0, nil, ErrorTag},
			{^Tag(0), nil, ErrorTag},
		} {
			value, code := w.GetCapabilities(lun, tc.tag)
			if !bytes.Equal(value, tc.value) || code != tc.code {
				t.Errorf("tag %#x: %x, %v, want %x, %v", tc.tag, value, code, tc.value, tc.code)
			}
		}
		w.code("SetCapabilities", w.SetCapabilities(lun), NotSupported)
		w.code("T=0", w.SetProtocolParameters(lun, ProtocolT0), Success)
		w.code("T=1", w.SetProtocolParameters(lun, ProtocolT1), ProtocolNotSupported)
		w.code("raw", w.SetProtocolParameters(lun, 4), ProtocolNotSupported)
		list, code := w.Control(lun, GetFeatureRequest)
		w.code("features", code, Success)
		if len(list) != 0 {
			t.Errorf("features %x", list)
		}
		_, code = w.Control(lun, GetFeatureRequest+1)
		w.code("other control codes", code, ErrorNotSupported)
	})
}

// A panic ends in the driver.
func TestGuard(t *testing.T) {
	var log journal
	d := New(testnet.New().Host("10.0.0.3"), log.write)
	code := d.Guard("IFDHPowerICC", func() Code {
		var none []byte
		_ = none[len(none)]
		return Success
	})
	if code != CommunicationError {
		t.Errorf("%v", code)
	}
	if s := log.String(); !strings.Contains(s, "2 remsim:") || !strings.Contains(s, "IFDHPowerICC") || !strings.Contains(s, "index out of range") {
		t.Errorf("log: %s", s)
	}
	if code := d.Guard("x", func() Code { return ErrorTag }); code != ErrorTag {
		t.Errorf("%v", code)
	}
}

// A faultyNetwork's connections panic when they have been read from often enough.
type faultyNetwork struct {
	link.Network
	reads *atomic.Int32 // that are left
}

func (n faultyNetwork) Dial(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	c, err := n.Network.Dial(ctx, addr)
	return faultyConn{c, n.reads}, err
}

type faultyConn struct {
	net.Conn
	reads *atomic.Int32
}

func (c faultyConn) Read(b []byte) (int, error) {
	if c.reads.Add(-1) < 0 {
		panic("too many reads")
	}
	return c.Conn.Read(b)
}

// A panic in a goroutine of a reader's client takes its card, and harms nobody else.
func TestFaultOfClient(t *testing.T) {
	inWorld(t, func(w *world) {
		var reads atomic.Int32
		reads.Store(1000)
		testnet.AcceptPeer(w.t, w.serverLn) // lest it be taken for one of the next client's
		w.Driver.net = faultyNetwork{w.Driver.net, &reads}
		w.code("CloseChannel", w.CloseChannel(lun), Success)
		w.code("CreateChannelByName", w.CreateChannelByName(lun, "23:1:10.0.0.1:9998"), Success)
		w.insert(rspro.LateAtr)
		w.code("Presence", w.Presence(lun), Success)
		await := w.transmit(selectMF)
		reads.Store(0)
		w.server.Send(&rspro.ConfigClientBankReq{Bank: here, Bankd: bankAddr})
		w.settle()
		if o, d := await(); o.code == Success || d > time.Second {
			t.Errorf("a command is answered with %v after %v", o.code, d)
		}
		if log := w.log.String(); !strings.Contains(log, "2 remsim: level=error") || !strings.Contains(log, "too many reads") {
			t.Errorf("log: %s", log)
		}
		w.absent("after a fault")
		start := time.Now()
		w.code("Poll", w.Poll(lun, time.Minute), Success)
		if d := time.Since(start); d != time.Minute {
			t.Errorf("Poll took %v", d)
		}
		reads.Store(1000)
		w.code("CloseChannel", w.CloseChannel(lun), Success)
		w.code("CreateChannelByName", w.CreateChannelByName(lun, "23:1:10.0.0.1:9998"), Success)
		w.insert(rspro.LateAtr)
		w.code("Presence", w.Presence(lun), Success)
	})
}

// Levels become pcscd's; commands, at trace level, aren't logged.
func TestLog(t *testing.T) {
	var lines journal
	log := newLog(lines.write)
	for _, l := range []logrus.Level{logrus.TraceLevel, logrus.DebugLevel, logrus.InfoLevel, logrus.WarnLevel, logrus.ErrorLevel} {
		log.WithField("peer", "a\nb").WithError(fmt.Errorf("why")).Log(l, "100%")
	}
	log.Fatal("the end") // it isn't
	want := `0 remsim: level=debug msg="100%" err=why peer="a\nb"
1 remsim: level=info msg="100%" err=why peer="a\nb"
2 remsim: level=warning msg="100%" err=why peer="a\nb"
2 remsim: level=error msg="100%" err=why peer="a\nb"
2 remsim: level=fatal msg="the end"`
	if got := lines.String(); got != want {
		t.Errorf("got\n%s\nwant\n%s", got, want)
	}
}
