// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/spf13/cobra"
)

// manPage returns the manual page of cmd in the language of man(7).
func manPage(cmd *cobra.Command, parts []part) string {
	var r roff
	r.line(`.\" SPDX-License-Identifier: GPL-2.0-or-later`)
	r.line(".TH %s %s \"\" \"remsim %s\" \"Remote SIM\"", escape(strings.ToUpper(cmd.Name())), cmd.Annotations[manualSection], Version())
	r.line(".nh\n.ad l") // no hyphens that nobody has typed
	r.section("Name")
	r.text(escape(cmd.Name()) + ` \- ` + escape(strings.ToLower(cmd.Short[:1])+cmd.Short[1:]))

	subs := manualCommands(cmd)
	library := cmd.Annotations[manualLibrary] != ""
	if !library {
		r.section("Synopsis")
		for _, c := range append([]*cobra.Command{cmd}, subs...) {
			if _, ok := c.Annotations[noWork]; !ok {
				r.synopsis(c)
			}
		}
	}
	r.section("Description")
	r.markdown(cmd.Long)
	if !library {
		r.section("Options")
		r.options(manualOptions(cmd, false))
		r.options(manualOptions(cmd, true))
	}
	if len(subs) > 0 {
		r.section("Commands")
		for _, sub := range subs {
			r.line(".SS %s", escape(strings.TrimPrefix(sub.CommandPath(), cmd.Name()+" ")))
			r.markdown(sub.Long)
			r.options(manualOptions(sub, false))
		}
		r.section("Options of each command")
		r.options(manualOptions(subs[0], true))
	}
	for _, p := range parts {
		r.section(p.title)
		r.markdown(p.text)
	}
	return r.String()
}

// roff is a text in the language of man(7) as it grows.
type roff struct{ strings.Builder }

// line adds a line: a request and its arguments.
func (r *roff) line(format string, a ...any) { fmt.Fprintf(r, format+"\n", a...) }

// text adds a line of text, in roff.
func (r *roff) text(s string) {
	if strings.HasPrefix(s, ".") || strings.HasPrefix(s, "'") {
		s = `\&` + s // it isn't a request
	}
	r.WriteString(s + "\n")
}

func (r *roff) section(title string) { r.line(".SH %s", escape(strings.ToUpper(title))) }

func (r *roff) synopsis(cmd *cobra.Command) {
	r.line(".HP") // where it is wrapped, the rest is indented
	s := `\fB` + escape(cmd.CommandPath()) + `\fR`
	for _, o := range manualOptions(cmd, false) {
		if o.required {
			s += " " + o.roff(o.short)
		}
	}
	if _, args, ok := strings.Cut(cmd.Use, " "); ok {
		s += ` \fI` + escape(args) + `\fR`
	}
	r.text(s + ` [\fIOPTION\fR]...`)
}

// roff returns one of the option's names with its value.
func (o option) roff(name string) string {
	s := `\fB` + escape(name) + `\fR`
	if o.value != "" {
		s += ` \fI` + escape(o.value) + `\fR`
	}
	return s
}

func (r *roff) options(opts []option) {
	for _, o := range opts {
		r.line(".TP")
		s := o.roff(o.long)
		if o.short != "" {
			s = `\fB` + escape(o.short) + `\fR, ` + s
		}
		r.text(s)
		usage := o.usage
		if o.required {
			usage += "; mandatory"
		}
		if o.def != "" {
			usage += " (default " + o.def + ")"
		}
		usage = strings.ToUpper(usage[:1]) + usage[1:] + "."
		r.text(escape(usage))
	}
}

// markdown adds a text in the Markdown that Manual knows.
func (r *roff) markdown(text string) {
	lines := strings.Split(strings.TrimSpace(text), "\n")
	begun := true // a paragraph or an item of a list; a section begins with one
	for i := 0; i < len(lines); i++ {
		line := lines[i]
		switch {
		case line == "":
			begun = false
		case strings.HasPrefix(line, "```"):
			r.block(i == 0)
			for i++; i < len(lines) && !strings.HasPrefix(lines[i], "```"); i++ {
				r.text(escape(lines[i]))
			}
			r.line(".fi\n.in")
			begun = false
		case strings.HasPrefix(line, "    ") && (!begun || i == 0):
			r.block(i == 0)
			for ; i < len(lines) && strings.HasPrefix(lines[i], "    "); i++ {
				r.text(escape(lines[i][4:]))
			}
			i--
			r.line(".fi\n.in")
		case strings.HasPrefix(line, "|"):
			for i += 2; i < len(lines) && strings.HasPrefix(lines[i], "|"); i++ { // past heading and rule
				r.row(lines[i])
			}
			i--
			begun = false
		case strings.HasPrefix(line, "- "):
			r.line(`.IP \(bu 2`)
			r.text(inline(line[2:]))
			begun = true
		default:
			if !begun {
				r.line(".PP")
				begun = true
			}
			r.text(inline(strings.TrimSpace(line)))
		}
	}
}

// block begins a block of code, which .fi and .in end.
func (r *roff) block(first bool) {
	if !first {
		r.line(".PP")
	}
	r.line(".in +4n\n.nf")
}

// cells are where the cells of a row of a table end: at a bar that isn't escaped.
var cells = regexp.MustCompile(`((?:\\.|[^|\\])*)\|`)

// row adds a row of a table: the first cell with the others as its description.
func (r *roff) row(line string) {
	var fields []string
	for _, m := range cells.FindAllStringSubmatch(strings.TrimPrefix(line, "|"), -1) {
		if s := strings.TrimSpace(m[1]); s != "" || fields == nil {
			fields = append(fields, s)
		}
	}
	r.line(".TP")
	r.text(inline(fields[0]))
	r.text(inline(strings.Join(fields[1:], "; ")))
}

// markup is a piece of inline markup: code, bold, a link, an escaped character.
var markup = regexp.MustCompile("`([^`]+)`" + `|\*\*([^*]+)\*\*|\[([^]]+)\]\([^)]*\)|\\([[:punct:]])`)

// inline returns Markdown text within a paragraph as roff.
func inline(s string) string {
	var b strings.Builder
	at := 0
	for _, m := range markup.FindAllStringSubmatchIndex(s, -1) {
		b.WriteString(escape(s[at:m[0]]))
		group := func(n int) string { return s[m[2*n]:m[2*n+1]] }
		switch {
		case m[2] >= 0: // in a table bars are escaped in code, too
			b.WriteString(`\fB` + escape(strings.ReplaceAll(group(1), `\|`, "|")) + `\fR`)
		case m[4] >= 0:
			b.WriteString(`\fB` + inline(group(2)) + `\fR`)
		case m[6] >= 0:
			b.WriteString(inline(group(3)))
		default:
			b.WriteString(escape(group(4)))
		}
		at = m[1]
	}
	b.WriteString(escape(s[at:]))
	return b.String()
}

// escape returns s so that roff shows it as it is: a dash as the one that is typed, not a hyphen.
func escape(s string) string {
	return strings.NewReplacer(`\`, `\e`, "-", `\-`).Replace(s)
}
