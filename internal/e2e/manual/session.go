// SPDX-License-Identifier: GPL-2.0-or-later

package manual

import (
	"errors"
	"fmt"
	"os/exec"
	"path"
	"slices"
	"strings"
	"time"
)

const (
	patience = 5 * time.Minute        // for a command to end
	pause    = 200 * time.Millisecond // until a command is run again
)

// A session runs a page in its terminals.
type session struct {
	page      *Page
	soon      time.Duration
	shell     func() *exec.Cmd // a bash in the world of the page
	terminals map[string]*Terminal
	order     []string // of terminals
}

// Run runs a page, of which it makes all terminals with shell, until a step doesn't come out as shown within the time
// that is soon: commands that show how things stand are run again until then. What goes on is ended in the end.
func (p *Page) Run(shell func() *exec.Cmd, soon time.Duration) (err error) {
	s := &session{page: p, soon: soon, shell: shell, terminals: map[string]*Terminal{}}
	defer func() {
		for _, name := range slices.Backward(s.order) {
			t := s.terminals[name]
			if stopErr := t.Stop(); stopErr != nil {
				err = errors.Join(err, fmt.Errorf("%s: terminal %q: %w", p.Name, name, stopErr))
			}
			t.Close()
		}
	}()
	for i := range p.Steps {
		step := &p.Steps[i]
		if err := s.do(step); err != nil {
			return fmt.Errorf("%s:%d: %s: %w%s", p.Name, step.Line, step.what(), err, s.others())
		}
	}
	return nil
}

// what says which step it is.
func (s *Step) what() string {
	switch s.Kind {
	case Script:
		return "script"
	case More:
		return "more of terminal " + s.Terminal
	case File:
		return "file " + s.Path
	}
	return s.Text
}

func (s *session) terminal(name string) (*Terminal, error) {
	if t := s.terminals[name]; t != nil {
		return t, nil
	}
	t, err := OpenTerminal(s.shell())
	if err != nil {
		return nil, err
	}
	s.terminals[name] = t
	s.order = append(s.order, name)
	return t, nil
}

// do does a step.
func (s *session) do(step *Step) error {
	t, err := s.terminal(step.Terminal)
	if err != nil {
		return err
	}
	if step.Kind == More {
		return s.converse(t, step)
	}
	if err := t.Stop(); err != nil {
		return fmt.Errorf("what is in its terminal: %w", err)
	}
	switch step.Kind {
	case Setup:
		// What goes on, by &, shall not write to the terminal.
		return s.hidden(t, "_log=$(mktemp); { "+step.Text+"\n} </dev/null >$_log 2>&1 || { s=$?; cat $_log; rm $_log; (exit $s); } && rm $_log")
	case File:
		if !clean(step.Path) {
			return errors.New("is outside of its directory")
		}
		command := fmt.Sprintf("mkdir -p %s && printf %%s %s >%s", Quote(path.Dir(step.Path)), Quote(step.Text), Quote(step.Path))
		if step.Exec {
			command += " && chmod +x " + Quote(step.Path)
		}
		return s.hidden(t, command)
	case Script:
		return s.hidden(t, "sh -euc "+Quote(step.Text))
	}
	if step.Stays || len(step.Shown) > 1 {
		return s.converse(t, step)
	}
	for end := time.Now().Add(s.soon); ; time.Sleep(pause) {
		err := once(t, step)
		if err == nil || time.Now().After(end) {
			return err
		}
	}
}

// hidden runs a command whose output isn't shown.
func (s *session) hidden(t *Terminal, command string) error {
	return once(t, &Step{Text: command, Shown: make([]Output, 1)})
}

// once runs a command to its end.
func once(t *Terminal, step *Step) error {
	if err := t.Begin(step.Text, len(step.Shown) > 1); err != nil {
		return err
	}
	l, err := t.Await(patience, nil)
	if err != nil {
		return fmt.Errorf("%w; it has written:\n%s", err, indent(l.Lines))
	}
	if l.Status != step.Status {
		return fmt.Errorf("status %d, want %d; it has written:\n%s", l.Status, step.Status, indent(l.Lines))
	}
	if !step.silent() && !Matches(step.Shown[0].Pattern, l.Lines) {
		return differs(step.Shown[0].Pattern, l.Lines)
	}
	return nil
}

// converse runs a command that goes on or that is typed to, or looks again at one that goes on.
func (s *session) converse(t *Terminal, step *Step) error {
	if step.Kind == Command {
		if err := t.Begin(step.Text, len(step.Shown) > 1); err != nil {
			return err
		}
	} else if !t.busy {
		return errors.New("nothing goes on there")
	}
	for i, o := range step.Shown {
		if i > 0 {
			if err := t.Type(o.Typed); err != nil {
				return err
			}
		}
		pattern := append(slices.Clone(o.Pattern), "…") // more may come
		if step.Kind == More || i > 0 {
			pattern = slices.Insert(pattern, 0, "…") // so may what belongs to what was before
		}
		l, err := t.Await(s.soon, func(l Look) bool { return Matches(pattern, l.printed()) })
		switch {
		case err != nil:
			return errors.Join(err, differs(o.Pattern, l.printed()))
		case l.Ended && (step.Stays || i < len(step.Shown)-1):
			return fmt.Errorf("has ended with status %d; it has written:\n%s", l.Status, indent(l.Lines))
		case l.Ended && !Matches(pattern, l.printed()):
			return differs(o.Pattern, l.printed())
		}
	}
	t.stays, t.status = step.Stays, step.Status
	return nil
}

// printed is without the lines that programs with a prompt repeat when they are typed.
func (l Look) printed() []string {
	return slices.DeleteFunc(slices.Clone(l.Lines), func(s string) bool { return strings.HasPrefix(s, ">") })
}

// others tells what terminals show in which something goes on.
func (s *session) others() string {
	var b strings.Builder
	for _, name := range s.order {
		if l, _ := s.terminals[name].Look(); name != "" && s.terminals[name].busy && !l.Ended {
			fmt.Fprintf(&b, "\nmeanwhile in terminal %s:\n%s", name, indent(tail(l.Lines)))
		}
	}
	return b.String()
}

func differs(pattern, lines []string) error {
	return fmt.Errorf("prints\n%s\nwhere this is shown:\n%s", indent(lines), indent(pattern))
}

func indent(lines []string) string { return "\t" + strings.Join(lines, "\n\t") }
