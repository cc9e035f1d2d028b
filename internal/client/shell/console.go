// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"context"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"strings"
	"time"

	"remsim/internal/client"
	"remsim/internal/slot"
)

// A console executes the user's commands.
type console struct {
	core    *client.Core
	modem   *modem
	msg     io.Writer // standard error
	explain bool      // say what status words mean

	reset resetting // the last RESET, unless a command was answered after it

	// What is known of the card, for the words that make TPDUs; see console.with.
	card    chan struct{} // modem.ready of that card
	cla     byte          // class of its commands
	claSure bool          // the card has taken it
	file    file          // the selected file; unknown without one
}

// A resetting is a RESET whose ATR may still come.
type resetting struct {
	done  <-chan struct{} // nil: there is none
	limit <-chan time.Time
}

const (
	uicc = 0x00 // class of TS 102 221 10.1.1
	sim  = 0xa0 // class of TS 51.011 9.2

	maxOffset = 0x7fff // of READ BINARY (TS 102 221 11.1.3)
	maxRecord = 254    // (TS 102 221 11.1.5)
	maxRead   = 255    // bytes asked for at a time: with 256 some equipment fails
)

// say writes a line, or several, to standard error.
func (c *console) say(format string, args ...any) { fmt.Fprintf(c.msg, format+"\n", args...) }

// execute executes the lines that next returns, one after the other. where begins the messages
// about line n.
func (c *console) execute(ctx context.Context, next func() (string, error), where func(n int) string) error {
	for n := 1; ; n++ {
		line, err := next()
		switch {
		case err == io.EOF:
			c.settle(ctx)
			return nil
		case err != nil && err != errLong:
			return fmt.Errorf("read standard input: %w", err)
		}
		var cmd command
		if err == nil {
			cmd, err = parse(line)
		}
		if err == nil && cmd != nil {
			c.with(c.modem.next())
			err = cmd.run(ctx, c)
		}
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			c.say("%s%v", where(n), err)
		}
	}
}

// settle waits for the ATR of a last RESET: what isn't sent yet when the client ends is lost.
func (c *console) settle(ctx context.Context) {
	if c.reset.done == nil {
		return
	}
	select {
	case <-c.reset.done:
	case <-c.reset.limit:
	case <-ctx.Done():
	}
}

// with says which card is there, or will be: what is known of another one is void.
func (c *console) with(card chan struct{}) {
	if c.card != card {
		c.card, c.claSure, c.file = card, false, file{}
	}
}

// wait waits for a card, until the limit or until ctx ends.
func (c *console) wait(ctx context.Context, limit time.Time) (chan struct{}, error) {
	if ready := c.modem.next(); closed(ready) {
		return ready, nil // a timer would be set for nothing
	}
	if c.explain && !c.modem.present() {
		c.say("  no card yet: waiting for one up to %v", cardWait)
	}
	ctx, cancel := context.WithDeadlineCause(ctx, limit, errNoCard)
	defer cancel()
	return c.modem.wait(ctx)
}

func closed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// transmit sends a TPDU when there is a card and prints what the card says.
func (c *console) transmit(ctx context.Context, cmd []byte) (data []byte, sw uint16, err error) {
	limit := time.Now().Add(cardWait)
	for {
		card, err := c.wait(ctx, limit)
		if err != nil {
			return nil, 0, err
		}
		c.with(card)
		name, ok := c.modem.cardOf(card)
		if !ok {
			continue
		}
		response, err := c.core.TransmitTo(ctx, name, cmd)
		switch {
		case errors.Is(err, client.ErrNoCard):
			c.modem.gone(card) // Remove is on its way, and the next ATR perhaps; nothing was sent
			continue
		case err != nil:
			return nil, 0, err
		}
		c.reset = resetting{}
		if err := c.modem.print("R-APDU: ", response); err != nil {
			c.modem.fail(err)
		}
		n := len(response) - client.MinResponse
		return response[:n], uint16(response[n])<<8 | uint16(response[n+1]), nil
	}
}

func (reset) run(ctx context.Context, c *console) error {
	if _, err := c.wait(ctx, time.Now().Add(cardWait)); err != nil {
		return err
	}
	c.file = file{}
	c.reset = resetting{c.modem.willReset(), time.After(resetWait)}
	c.core.Status(slot.Phys{Reset: true, VCC: slot.Off, CLK: slot.Off, Card: slot.On})
	c.core.Status(slot.Phys{VCC: slot.On, CLK: slot.On, Card: slot.On})
	return nil
}

func (t tpdu) run(ctx context.Context, c *console) error {
	if t[1] == 0xa4 { // SELECT
		c.file = file{}
	}
	_, sw, err := c.transmit(ctx, t)
	if err == nil && c.explain {
		c.say("  %04x: %s", sw, explainSW(sw))
	}
	return err
}

func (help) run(_ context.Context, c *console) error {
	var b strings.Builder
	b.WriteString("A line is a command TPDU in hex, or one of:\n")
	for _, w := range words {
		fmt.Fprintf(&b, "  %-45s %s\n", strings.TrimSpace(w.name+" "+w.args), w.help)
	}
	b.WriteString("The end of the input (Ctrl-D) ends the program.")
	c.say("%s", b.String())
	return nil
}

func (info) run(_ context.Context, c *console) error {
	i := c.core.Info()
	server, bankd, where := fmt.Sprintf("%s, %v", i.Server, i.ServerState), "none", "to be assigned"
	if i.Bankd.IsValid() {
		bankd = fmt.Sprintf("%s, %v", i.Bankd, i.BankdState)
	}
	if i.Assigned {
		where = i.Slot.String()
	}
	if i.Bankd.IsValid() {
		where += ", of bank " + i.Bank.String()
	}
	c.say("state   %v\nserver  %s\nbankd   %s\nslot    %s\nATR     %s", i.State, server, bankd, where,
		strings.Join(c.modem.facts(), "\n        "))
	return nil
}

// command sends the TPDU of a word, shown to those who watch, asks for the response if there is
// one (TS 102 221 7.3.1.1.4, TS 51.011 9.4.1), and again with the right length if the card tells that
// (TS 51.011 9.4.6 for 67XX). A status that isn't good is an error; data may be there even so.
func (c *console) command(ctx context.Context, cmd []byte) (data []byte, err error) {
	for range 256 {
		if c.explain {
			c.say("  %x", cmd)
		}
		part, sw, err := c.transmit(ctx, cmd)
		if err != nil {
			return nil, err
		}
		data = append(data, part...)
		switch {
		case sw>>8 == 0x61 || sw>>8 == 0x9f:
			cmd = []byte{cmd[0], 0xc0, 0, 0, byte(sw)}
		case len(cmd) == 5 && cmd[4] != byte(sw) && (sw>>8 == 0x6c || sw>>8 == 0x67 && cmd[0] == sim && byte(sw) != 0):
			cmd = append(cmd[:4:4], byte(sw))
		case sw == 0x9000 || sw>>8 == 0x91:
			return data, nil
		default:
			return data, swError(sw)
		}
	}
	return nil, errors.New("card has too much to say")
}

// inClass does what try does with the class of a UICC or of a SIM, whichever the card takes.
func (c *console) inClass(try func(cla byte) error) error {
	known := c.claSure
	if !known {
		c.cla = uicc
	}
	err := try(c.cla)
	if !known && errors.Is(err, swError(0x6e00)) {
		c.cla = sim
		err = try(c.cla)
	}
	var sw swError
	c.claSure = err == nil || errors.As(err, &sw) && sw != 0x6e00
	return err
}

func (s selection) run(ctx context.Context, c *console) error {
	c.file = file{}
	var f file
	err := c.inClass(func(cla byte) (err error) {
		if cla == sim {
			f, err = s.gsm(ctx, c)
		} else {
			f, err = s.uicc(ctx, c)
		}
		return err
	})
	if err == nil {
		c.file = f
		c.say("  %v", f)
	}
	return err
}

// uicc selects as TS 102 221 11.1.1 says, with the FCP in the answer.
func (s selection) uicc(ctx context.Context, c *console) (file, error) {
	p1, data := byte(0x04), s.aid // by DF name
	if s.aid == nil {
		path := s.path
		switch {
		case len(path) == 1:
			p1 = 0x00 // by file identifier
		case path[0] == 0x3f00:
			p1, path = 0x08, path[1:] // by path from the MF
		case path[0] == 0x7fff:
			p1 = 0x08 // which may begin with the current application, too
		default:
			p1 = 0x09 // by path from the current DF
		}
		data = identifiers(path)
	}
	b, err := c.command(ctx, append([]byte{uicc, 0xa4, p1, 0x04, byte(len(data))}, data...))
	if err != nil {
		return file{}, err
	}
	return parseFCP(b)
}

// gsm selects as TS 51.011 8.1 says, file by file.
func (s selection) gsm(ctx context.Context, c *console) (file, error) {
	if s.aid != nil {
		return file{}, errors.New("this card is a SIM: it has no applications")
	}
	var b []byte
	for i := range s.path {
		var err error
		b, err = c.command(ctx, append([]byte{sim, 0xa4, 0, 0, 2}, identifiers(s.path[i:i+1])...))
		if err != nil {
			return file{}, err
		}
	}
	return parseGSM(b)
}

func identifiers(path []uint16) (b []byte) {
	for _, id := range path {
		b = append(b, byte(id>>8), byte(id))
	}
	return b
}

func (read) run(ctx context.Context, c *console) error {
	switch f := c.file; {
	case f.kind == transparent:
		return readBinary{}.run(ctx, c)
	case f.kind.hasRecords():
		for nr := range min(f.records, maxRecord) {
			if err := (readRecord{byte(nr + 1)}).run(ctx, c); err != nil {
				return err
			}
		}
		return nil
	}
	return errors.New("select a file to be read first, or use read binary or read record N")
}

// run reads as TS 102 221 11.1.3 and TS 51.011 9.2.3 say.
func (r readBinary) run(ctx context.Context, c *console) error {
	end := r.offset + r.length
	if r.length == 0 && c.file.kind == transparent {
		end = c.file.size
	}
	var content []byte
	var err error
	if end == r.offset { // as much as comes at once
		content, err = c.readPart(ctx, 0xb0, byte(r.offset>>8), byte(r.offset), 0)
	}
	for at := r.offset; at < end && err == nil; {
		if at > maxOffset {
			err = errors.New("what follows can't be addressed")
			break
		}
		var part []byte
		part, err = c.readPart(ctx, 0xb0, byte(at>>8), byte(at), byte(min(end-at, maxRead)))
		content = append(content, part...)
		if at += len(part); len(part) == 0 {
			break
		}
	}
	c.dump(content)
	return err
}

// run reads as TS 102 221 11.1.5 and TS 51.011 9.2.5 say, in mode absolute.
func (r readRecord) run(ctx context.Context, c *console) error {
	content, err := c.readPart(ctx, 0xb2, r.nr, 0x04, byte(c.file.record))
	if err == nil {
		c.say("  record %d", r.nr)
	}
	c.dump(content)
	return err
}

// readPart sends a reading command.
func (c *console) readPart(ctx context.Context, ins, p1, p2, length byte) (content []byte, err error) {
	err = c.inClass(func(cla byte) (err error) {
		content, err = c.command(ctx, []byte{cla, ins, p1, p2, length})
		return err
	})
	return content, err
}

// dump shows the content of a file.
func (c *console) dump(b []byte) {
	if len(b) > 0 {
		c.say("%s", strings.TrimSuffix(hex.Dump(b), "\n"))
	}
}

// run authenticates: in 3G context as TS 31.102 7.1.2 says, else in its GSM context or by RUN
// GSM ALGORITHM (TS 51.011 9.2.16).
func (a auth) run(ctx context.Context, c *console) error {
	var facts []string
	err := c.inClass(func(cla byte) error {
		cmd := append([]byte{cla, 0x88, 0, 0x80, 17, 16}, a.rand...)
		switch {
		case cla == sim && a.autn != nil:
			return errors.New("this card is a SIM: it knows no AUTN")
		case cla == sim:
			cmd = append([]byte{cla, 0x88, 0, 0, 16}, a.rand...)
		case a.autn != nil:
			cmd[3], cmd[4] = 0x81, 34
			cmd = append(append(cmd, 16), a.autn...)
		}
		b, err := c.command(ctx, cmd)
		if err == nil {
			facts, err = vector(cla == sim, a.autn != nil, b)
		}
		return err
	})
	for _, f := range facts {
		c.say("  %s", f)
	}
	return err
}

var errVector = errors.New("card's answer to the authentication makes no sense")

// vector names the parts of the answer to an authentication, each of which has a byte with its
// length before it, but those of a SIM.
func vector(gsm, withAUTN bool, b []byte) ([]string, error) {
	if gsm {
		if len(b) != 12 {
			return nil, errVector
		}
		return []string{fmt.Sprintf("SRES %x", b[:4]), fmt.Sprintf("Kc %x", b[4:])}, nil
	}
	names, optional := []string{"SRES", "Kc"}, 0
	if withAUTN {
		if len(b) == 0 {
			return nil, errVector
		}
		switch b[0] {
		case 0xdb:
			names, optional = []string{"RES", "CK", "IK", "Kc"}, 1
		case 0xdc:
			names = []string{"AUTS, the card is out of step:"}
		default:
			return nil, errVector
		}
		b = b[1:]
	}
	var facts []string
	for i, name := range names {
		if len(b) == 0 && i >= len(names)-optional {
			break
		}
		if len(b) == 0 {
			return nil, errVector
		}
		end := 1 + int(b[0])
		if len(b) < end {
			return nil, errVector
		}
		facts = append(facts, fmt.Sprintf("%s %x", name, b[1:end]))
		b = b[end:]
	}
	if len(b) > 0 {
		return nil, errVector
	}
	return facts, nil
}
