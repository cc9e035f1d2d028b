// SPDX-License-Identifier: GPL-2.0-or-later

// Package manual runs the commands of the manual and of README.md as they stand there, and compares what they print with
// what is shown. How a page says what is to be run stands at the head of doc/manual/index.adoc; pages in Markdown say the
// same by fences, such as "```console term=NAME", and by comments of a line, such as "<!-- setup: COMMAND -->".
package manual

import (
	"fmt"
	"path"
	"regexp"
	"slices"
	"strconv"
	"strings"
)

// A Page is a chapter, or a part of one, that is run as one session.
type Page struct {
	Name  string // of its file
	World World
	Steps []Step
}

// A World is where a page is run.
type World string

// Worlds, by the comments that have a page begin.
const (
	Namespaces World = ""
	Machine    World = "machine" // a Debian system with systemd
	USB        World = "usb"     // a kernel with USB
)

// A Kind is what a step is.
type Kind int

// Kinds of steps.
const (
	Command Kind = iota // in a terminal
	Setup               // a command that readers don't see
	Script              // a script, in a shell of its own
	File                // a file that readers write
	More                // what the program that goes on in a terminal prints, or is typed to
)

// A Step is a thing that a reader does.
type Step struct {
	Kind Kind
	Line int    // where it stands
	Text string // the command, the script, what the file has

	Terminal string // of a command
	Stays    bool   // the command goes on
	Status   int    // which it ends with
	// Shown is what it prints; by Typed those lines that are typed meanwhile.
	Shown []Output
	Path  string // of the file
	Exec  bool   // it's a script
}

// An Output is what is typed and what is printed then.
type Output struct {
	Typed   string // nothing in the first Output of a command
	Pattern []string
}

// silent tells whether nothing is shown of what s prints.
func (s *Step) silent() bool {
	return len(s.Shown) == 1 && len(s.Shown[0].Pattern) == 0
}

// shownOnly are languages of what isn't run.
var shownOnly = []string{"text", "json", "csv", "ini", "systemd", "yaml", "asn1", "dot", "log"}

// A block is what stands between two delimiters.
type block struct {
	line  int // of the first line in it
	style string
	lang  string
	attrs map[string]string
	title string
	any   []*regexp.Regexp
	lines []string
}

// Parse reads the pages of a chapter, in AsciiDoc or, where its name ends so, in Markdown. Those without steps are left out.
func Parse(name, text string) ([]*Page, error) {
	r := &reader{pages: []*Page{{Name: name}}, text: strings.Split(text, "\n"), markdown: strings.HasSuffix(name, ".md")}
	if err := r.read(); err != nil {
		return nil, fmt.Errorf("%s:%d: %w", name, r.line, err)
	}
	return slices.DeleteFunc(r.pages, func(p *Page) bool { return len(p.Steps) == 0 }), nil
}

type reader struct {
	pages    []*Page
	text     []string
	line     int // of what is read, from 1
	markdown bool
	any      []*regexp.Regexp // of the next block
}

var (
	adocAttributes = regexp.MustCompile(`^\[(.*)\]$`)
	adocTitle      = regexp.MustCompile(`^\.([^ .].*)$`)
	adocComment    = regexp.MustCompile(`^//(setup|any|machine|usb)(?:: *(.*))?$`)
	mdComment      = regexp.MustCompile(`^<!-- (setup|any|machine|usb)(?:: *(.*?))? -->$`)
	mdFence        = regexp.MustCompile("^(```+)(.*)$")
	prompt         = regexp.MustCompile(`^ *[$#] [^ ]`)
)

func (r *reader) read() error {
	var b block
	for r.line < len(r.text) {
		line := strings.TrimRight(r.text[r.line], " ")
		r.line++
		comment := adocComment
		if r.markdown {
			comment = mdComment
		}
		if m := comment.FindStringSubmatch(line); m != nil {
			if err := r.comment(m[1], m[2]); err != nil {
				return err
			}
			continue
		}
		end, special := r.delimiter(line, &b)
		switch {
		case end != "":
			b.any, r.any = r.any, nil
			if err := r.take(&b, end, special); err != nil {
				return err
			}
			b = block{}
		case r.markdown:
			if strings.HasPrefix(line, "    ") && (prompt.MatchString(line) || r.line >= 2 && r.text[r.line-2] == "") {
				return fmt.Errorf("code that is indented: put it between fences, which say what it is")
			}
		case strings.HasPrefix(line, " ") && prompt.MatchString(line):
			return fmt.Errorf("a command outside of a block [source,console]")
		default:
			if m := adocAttributes.FindStringSubmatch(line); m != nil {
				if err := b.attributes(m[1]); err != nil {
					return err
				}
			} else if m := adocTitle.FindStringSubmatch(line); m != nil {
				b.title = strings.Trim(m[1], "`")
			} else {
				if b.style == "source" {
					return fmt.Errorf("[source,%s] without ---- below it", b.lang)
				}
				b = block{}
			}
		}
	}
	if r.any != nil {
		return fmt.Errorf("//any: without a block after it")
	}
	return nil
}

func (r *reader) comment(what, text string) error {
	page := r.pages[len(r.pages)-1]
	switch what {
	case "machine", "usb":
		r.pages = append(r.pages, &Page{Name: page.Name, World: World(what)})
	case "setup":
		if text == "" {
			return fmt.Errorf("//setup: without a command")
		}
		page.Steps = append(page.Steps, Step{Kind: Setup, Line: r.line, Text: text})
	case "any":
		re, err := regexp.Compile(text)
		if err != nil {
			return err
		}
		r.any = append(r.any, re)
	}
	return nil
}

// delimiter tells what ends a block that line begins, or "" when it begins none. What is special holds neither
// commands nor files.
func (r *reader) delimiter(line string, b *block) (end string, special bool) {
	if r.markdown {
		m := mdFence.FindStringSubmatch(line)
		if m == nil {
			return "", false
		}
		b.style = "source"
		words := strings.Fields(m[2])
		b.attrs = map[string]string{}
		for i, w := range words {
			if name, value, ok := strings.Cut(w, "="); ok {
				b.attrs[name] = value
			} else if i == 0 {
				b.lang = w
			}
		}
		b.title = b.attrs["title"]
		return m[1], false
	}
	switch {
	case line == "----" || line == "....":
		return line, false
	case line == "////" || line == "++++":
		return line, true
	}
	return "", false
}

// attributes reads what stands in brackets above a block.
func (b *block) attributes(text string) error {
	parts := strings.Split(text, ",")
	if parts[0] != "source" {
		b.style = parts[0]
		return nil
	}
	b.style, b.attrs = parts[0], map[string]string{}
	for i, part := range parts[1:] {
		part = strings.TrimSpace(part)
		if name, value, ok := strings.Cut(part, "="); ok {
			b.attrs[name] = strings.Trim(value, `"`)
		} else if i == 0 {
			b.lang = part
		} else {
			return fmt.Errorf("[%s]: don't know what %q means", text, part)
		}
	}
	return nil
}

// take reads a block up to its end and makes steps of it.
func (r *reader) take(b *block, end string, special bool) error {
	b.line = r.line + 1
	for ; ; r.line++ {
		if r.line == len(r.text) {
			return fmt.Errorf("a block without its end %s", end)
		}
		if strings.TrimRight(r.text[r.line], " ") == end {
			break
		}
		b.lines = append(b.lines, r.text[r.line])
	}
	r.line++
	if special {
		return nil
	}
	steps, err := b.steps()
	if err != nil {
		return fmt.Errorf("block of line %d: %w", b.line, err)
	}
	page := r.pages[len(r.pages)-1]
	page.Steps = append(page.Steps, steps...)
	return nil
}

// steps makes steps of what is in a block.
func (b *block) steps() ([]Step, error) {
	text := strings.Join(b.lines, "\n") + "\n"
	for name := range b.attrs {
		if !slices.Contains([]string{"term", "role", "status", "title", "subs"}, name) {
			return nil, fmt.Errorf("don't know what %s=%s means", name, b.attrs[name])
		}
	}
	role := b.attrs["role"]
	switch {
	case b.style != "source":
		if slices.ContainsFunc(b.lines, prompt.MatchString) {
			return nil, fmt.Errorf("commands need [source,console]")
		}
		return nil, nil
	case role == "file":
		if b.title == "" {
			return nil, fmt.Errorf("a file without its path as a title")
		}
		return []Step{{Kind: File, Line: b.line, Path: b.title, Text: text, Exec: strings.HasPrefix(text, "#!")}}, nil
	case role != "" && role != "stays":
		return nil, fmt.Errorf("don't know what role=%s means", role)
	case b.lang == "console":
		return b.commands()
	case b.lang == "sh":
		return []Step{{Kind: Script, Line: b.line, Text: text}}, nil
	case slices.Contains(shownOnly, b.lang):
		return nil, nil
	}
	return nil, fmt.Errorf("don't know how to run %q; what is shown only is one of %s, and a file has role=file", b.lang, strings.Join(shownOnly, ", "))
}

// commands makes steps of a terminal.
func (b *block) commands() ([]Step, error) {
	var steps []Step
	for i, line := range b.lines {
		line = strings.TrimRight(line, " ")
		if strings.HasPrefix(line, "$ ") || strings.HasPrefix(line, "# ") {
			steps = append(steps, Step{Line: b.line + i, Terminal: b.attrs["term"], Text: line[2:], Shown: make([]Output, 1)})
			continue
		}
		if len(steps) == 0 {
			if b.attrs["term"] == "" {
				return nil, fmt.Errorf("%q: no command is before it", line)
			}
			steps = append(steps, Step{Kind: More, Line: b.line, Terminal: b.attrs["term"], Shown: make([]Output, 1)})
		}
		s := &steps[len(steps)-1]
		switch typed, ok := strings.CutPrefix(line+" ", "> "); {
		case ok && s.Kind == Command && s.silent() && incomplete(s.Text):
			s.Text += "\n" + strings.TrimSuffix(typed, " ")
		case ok:
			s.Shown = append(s.Shown, Output{Typed: strings.TrimSuffix(typed, " ")})
		default:
			o := &s.Shown[len(s.Shown)-1]
			o.Pattern = append(o.Pattern, b.pattern(line))
		}
	}
	if len(steps) == 0 {
		return nil, fmt.Errorf("no command in it")
	}
	last := &steps[len(steps)-1]
	last.Stays = b.attrs["role"] == "stays" || last.Kind == More
	if last.Stays && last.silent() {
		return nil, fmt.Errorf("%q goes on: show what it prints when it's ready", last.Text)
	}
	if text, ok := b.attrs["status"]; ok {
		status, err := strconv.Atoi(text)
		if err != nil {
			return nil, fmt.Errorf("status=%s isn't a number", text)
		}
		last.Status = status
	}
	return steps, nil
}

// pattern has "…" in the place of all that differs from one time to the next.
func (b *block) pattern(line string) string {
	for _, re := range b.any {
		line = re.ReplaceAllLiteralString(line, "…")
	}
	return line
}

// hosts are names below example.org, which stand for computers of the reader's.
var hosts = regexp.MustCompile(`\b[a-z0-9][a-z0-9.-]*\.example\.org\b`)

// Hosts returns names of computers that are in what is run.
func (p *Page) Hosts() []string { return p.find(hosts) }

// addresses are those for documents (RFC 5737, RFC 3849).
var addresses = regexp.MustCompile(`\b(192\.0\.2|198\.51\.100|203\.0\.113)\.[0-9]+\b|\b2001:db8:[0-9a-f:]+\b`)

// Addresses returns addresses of computers that are in what is run.
func (p *Page) Addresses() []string { return p.find(addresses) }

func (p *Page) find(re *regexp.Regexp) []string {
	var found []string
	for _, s := range p.Steps {
		found = append(found, re.FindAllString(s.Text, -1)...)
	}
	slices.Sort(found)
	return slices.Compact(found)
}

// clean tells whether a path stays within the directory that it is relative to, or is absolute.
func clean(p string) bool {
	return !strings.HasPrefix(path.Clean(p), "../")
}
