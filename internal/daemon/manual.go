// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"cmp"
	_ "embed"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/spf13/cobra"
	"github.com/spf13/pflag"
)

// Annotations that Manual leaves at a command.
const (
	manualSection = "manual section"
	manualOwn     = "manual"
	manualShared  = "manual shared"
	manualLibrary = "manual library"
	noWork        = "no work of its own" // of a command that others are below: left by prepare
)

// manualAll are the sections that all programs have.
//
//go:embed manual.md
var manualAll string

// Manual says what the manual page of a program tells besides the command's Long and
// Example, its options and what holds for all programs: section is that of the page, 1 or 8;
// own and shared are sections in Markdown, "### TITLE" and text, shared ones those that other
// programs have, too. Of Markdown there are paragraphs, lists of one level, tables, code
// blocks, `code`, **bold**, [links](to) and \ before a character.
//
// "PROGRAM manual man" then writes the page, "PROGRAM manual markdown" the same without, and "PROGRAM
// manual shared" with nothing but, what it shares with other programs. The help doesn't mention that.
func Manual(cmd *cobra.Command, section int, own string, shared ...string) {
	if cmd.Annotations == nil {
		cmd.Annotations = map[string]string{}
	}
	cmd.Annotations[manualSection] = fmt.Sprint(section)
	cmd.Annotations[manualOwn] = own
	cmd.Annotations[manualShared] = strings.Join(append(shared, manualAll), "\n")
}

// LibraryManual is Manual for a command that stands for a library: its page has neither synopsis nor options, and
// nothing that other programs have.
func LibraryManual(cmd *cobra.Command, section int, own string) {
	Manual(cmd, section, own)
	cmd.Annotations[manualShared] = ""
	cmd.Annotations[manualLibrary] = "yes"
}

// writeManual writes the manual of cmd, which has gone through prepare, as "manual FORM" asks for. It
// returns false for any other arguments, and when cmd has no manual.
func writeManual(w io.Writer, cmd *cobra.Command, args []string) bool {
	if len(args) != 2 || args[0] != "manual" || cmd.Annotations[manualSection] == "" {
		return false
	}
	own, shared := sections(cmd.Annotations[manualOwn]), sections(cmd.Annotations[manualShared])
	if cmd.Example != "" {
		own = slices.Insert(own, 0, part{"Examples", codeBlock(cmd.Example)})
	}
	// A program without a log has nothing to tell about it.
	if !hasLog(cmd) {
		shared = slices.DeleteFunc(shared, func(p part) bool { return p.title == "Log" || p.title == "Signals" })
	}
	switch args[1] {
	case "man":
		parts := append(own, shared...)
		slices.SortStableFunc(parts, func(a, b part) int { // by custom the last one
			return cmp.Compare(strings.Index(a.title, "See also"), strings.Index(b.title, "See also"))
		})
		io.WriteString(w, manPage(cmd, parts))
	case "markdown":
		io.WriteString(w, markdown(cmd, own))
	case "shared":
		io.WriteString(w, "### Options\n\n"+optionTable(cmd, true)+"\n"+optionForms)
		for _, p := range shared {
			fmt.Fprintf(w, "\n### %s\n\n%s\n", p.title, p.text)
		}
	default:
		return false
	}
	return true
}

// optionForms says how options are written.
const optionForms = "Options can be written as `-p 9998`, `-p9998`, `--server-port 9998` or `--server-port=9998`, and letters without a value\n" +
	"together (`-LV`). Where one is given twice, the last counts.\n"

// hasLog tells whether cmd or a command below it has the options of a log.
func hasLog(cmd *cobra.Command) bool {
	return cmd.Flags().Lookup("log-format") != nil || slices.ContainsFunc(cmd.Commands(), hasLog)
}

// A part is a section of a manual.
type part struct{ title, text string }

// sections splits Markdown at its headings of level 3.
func sections(text string) []part {
	var parts []part
	for _, s := range strings.Split("\n"+text, "\n### ")[1:] {
		title, body, _ := strings.Cut(s, "\n")
		parts = append(parts, part{title, strings.TrimSpace(body)})
	}
	return parts
}

// codeBlock returns the lines of s, less the indent that all of them have, as code in Markdown.
func codeBlock(s string) string {
	lines := strings.Split(strings.Trim(s, "\n"), "\n")
	for slices.ContainsFunc(lines, func(l string) bool { return l != "" }) &&
		!slices.ContainsFunc(lines, func(l string) bool { return l != "" && l[0] != ' ' }) {
		for i, l := range lines {
			lines[i] = strings.TrimPrefix(l, " ")
		}
	}
	return "```\n" + strings.Join(lines, "\n") + "\n```"
}

// An option is a flag as manuals show it.
type option struct {
	short, long string // with their dashes; short may be empty
	value       string // placeholder; empty: it takes none
	usage       string
	def         string // default, in words or as a value; empty: none that is worth a mention
	required    bool
}

// manualOptions returns the options of cmd that are common to all programs, or the others.
func manualOptions(cmd *cobra.Command, common bool) []option {
	var opts []option
	cmd.Flags().VisitAll(func(f *pflag.Flag) {
		if f.Hidden || isCommon(f) != common {
			return
		}
		o := option{long: "--" + f.Name}
		if f.Shorthand != "" {
			o.short = "-" + f.Shorthand
		}
		o.value, o.usage = pflag.UnquoteUsage(f)
		_, o.required = f.Annotations[cobra.BashCompOneRequiredFlag]
		// A default that isn't a value is in the usage's last words.
		if before, def, ok := strings.Cut(o.usage, " (default "); ok {
			o.usage, o.def = before, strings.TrimSuffix(def, ")")
		} else if f.DefValue != "false" {
			o.def = f.DefValue
		}
		opts = append(opts, o)
	})
	return opts
}

// commonAnnotation marks the options that are the same for all programs.
const commonAnnotation = "remsim common"

func markCommon(fs *pflag.FlagSet, names ...string) {
	for _, name := range names {
		fs.SetAnnotation(name, commonAnnotation, nil)
	}
}

func isCommon(f *pflag.Flag) bool {
	_, ok := f.Annotations[commonAnnotation]
	return ok
}

// markdown returns the section about cmd for a manual of all programs.
func markdown(cmd *cobra.Command, own []part) string {
	var b strings.Builder
	fmt.Fprintf(&b, "## %s\n\n%s\n", cmd.Name(), strings.TrimSpace(cmd.Long))
	if table := optionTable(cmd, false); table != "" {
		b.WriteString("\n" + table)
	}
	for _, sub := range manualCommands(cmd) {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n\n%s", sub.CommandPath(), strings.TrimSpace(sub.Long), optionTable(sub, false))
	}
	for _, p := range own {
		fmt.Fprintf(&b, "\n### %s\n\n%s\n", p.title, p.text)
	}
	return b.String()
}

// manualCommands returns the commands below cmd but help, those with others below them before these.
func manualCommands(cmd *cobra.Command) (l []*cobra.Command) {
	for _, c := range cmd.Commands() {
		if !c.Hidden && c.Name() != "help" {
			l = append(append(l, c), manualCommands(c)...)
		}
	}
	return l
}

// optionTable returns a table of options of cmd in Markdown.
func optionTable(cmd *cobra.Command, common bool) string {
	opts := manualOptions(cmd, common)
	if len(opts) == 0 {
		return ""
	}
	cell := strings.NewReplacer("|", `\|`, "<", `\<`, "*", `\*`, "_", `\_`).Replace
	var b strings.Builder
	b.WriteString("| option | meaning | default |\n| --- | --- | --- |\n")
	for _, o := range opts {
		name := "`" + strings.TrimSpace(o.long+" "+strings.ReplaceAll(o.value, "|", `\|`)) + "`"
		if o.short != "" {
			name = "`" + o.short + "`, " + name
		}
		usage := cell(o.usage)
		if o.required {
			usage += "; mandatory"
		}
		fmt.Fprintf(&b, "| %s | %s | %s |\n", name, usage, cell(o.def))
	}
	return b.String()
}
