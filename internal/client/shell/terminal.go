// SPDX-License-Identifier: GPL-2.0-or-later

package shell

import (
	"context"
	"errors"
	"io"
	"os"
	"sync"
	"syscall"

	"golang.org/x/term"
)

// A terminal is where the user types lines after a prompt. They can be edited, earlier ones are
// remembered (not on disk: there are PINs in them), and what is printed meanwhile goes above.
type terminal struct {
	*term.Terminal
	in, out *os.File
	restore func()
}

// openTerminal returns the terminal that both in and out are, which is then in raw mode; nil if
// there is none.
func openTerminal(in io.Reader, out io.Writer) *terminal {
	i, ok1 := in.(*os.File)
	o, ok2 := out.(*os.File)
	if !ok1 || !ok2 || !term.IsTerminal(int(i.Fd())) || !sameFile(i, o) {
		return nil
	}
	restore, err := raw(int(i.Fd()))
	if err != nil {
		return nil // lines can be typed even so
	}
	var once sync.Once
	t := &terminal{in: i, out: o}
	t.Terminal = term.NewTerminal(t.stream(), "> ")
	t.restore = func() {
		once.Do(func() {
			t.SetPrompt("")
			_, _ = io.WriteString(o, "\r\n")
			restore()
		})
	}
	return t
}

// stream returns what the user types and sees.
func (t *terminal) stream() io.ReadWriter {
	return struct {
		io.Reader
		io.Writer
	}{t.in, t.out}
}

func sameFile(a, b *os.File) bool {
	x, err1 := a.Stat()
	y, err2 := b.Stat()
	return err1 == nil && err2 == nil && os.SameFile(x, y)
}

// follow has all that env prints on the terminal go by way of it, until ctx ends, when the
// terminal gets back its mode. The function it returns is to be called at the end.
func (t *terminal) follow(ctx context.Context, env *Env) (end func()) {
	if out, ok := env.Out.(*os.File); ok && sameFile(out, t.out) {
		env.Out = t
	}
	env.Err = t
	log := env.Log.Out
	env.Log.SetOutput(t)
	// At once, so that a second Ctrl-C finds it done.
	stop := context.AfterFunc(ctx, t.restore)
	return func() {
		stop()
		t.restore()
		env.Log.SetOutput(log)
	}
}

// Write writes what isn't part of the line that is typed.
func (t *terminal) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil // nothing to draw the line anew for
	}
	return t.Terminal.Write(b)
}

// next returns the next line.
func (t *terminal) next() (string, error) {
	if width, height, err := term.GetSize(int(t.in.Fd())); err == nil && width > 0 {
		_ = t.SetSize(width, height) // its errors are those of writing
	}
	line, err := t.ReadLine()
	if errors.Is(err, syscall.EIO) { // the user has hung up
		err = io.EOF
	}
	return line, err
}
