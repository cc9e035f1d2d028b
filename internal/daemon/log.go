// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"fmt"
	"io"
	"os"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"unicode"
	"unicode/utf8"

	"github.com/sirupsen/logrus"
	"github.com/spf13/pflag"
	"golang.org/x/term"
)

// LogOptions are the logging options all programs have. The zero value is to be given to Flags.
type LogOptions struct {
	debug     []rule       // of -d; nil: all categories
	debugSet  bool         // -d was given
	level     logrus.Level // of --log-level
	levelSet  bool         // --log-level was given
	noColor   bool
	timestamp bool
	format    string // of --log-format
}

// The values of --log-format.
const (
	formatText = "text"
	formatJSON = "json"
)

// A rule turns on the categories it matches, as one CAT or CAT,LEVEL of option -d.
type rule struct {
	name   string // upper case
	prefix bool   // name need only be how the category begins
	level  logrus.Level
}

func (r rule) matches(cat string) bool {
	if r.prefix && len(cat) > len(r.name) {
		cat = cat[:len(r.name)]
	}
	return strings.EqualFold(cat, r.name)
}

const (
	wantLevel = "1 (debug), 3 or 5 (info), 7 (error), 8 (fatal), trace, debug, info, warning, error or fatal"
	wantDebug = "CAT[,LEVEL][:CAT[,LEVEL]...] with LEVEL " + wantLevel
)

// Flags adds -d --debug, --log-level, --log-format and -L --disable-color, for the bankd
// --log-level with the short form -e, and -T --timestamp.
func (o *LogOptions) Flags(fs *pflag.FlagSet, bankd bool) {
	o.level = logrus.InfoLevel
	short := ""
	if bankd {
		short = "e"
	}
	fs.VarP(&value[[]rule]{
		p: &o.debug,
		parse: func(s string) ([]rule, error) {
			r, err := parseDebug(s)
			o.debugSet = o.debugSet || err == nil
			return r, err
		},
		format: formatDebug,
		typ:    "CAT,LEVEL:...",
		want:   wantDebug,
	}, "debug", "d", "log these categories only, from this level up, without one from debug up: DMAIN, DRSPRO, DREST, DSLOTMAP, DBANKDW, DLINP, DST2, DGSMTAP")
	fs.VarP(&value[logrus.Level]{
		p: &o.level,
		parse: func(s string) (logrus.Level, error) {
			l, err := parseLevel(s)
			o.levelSet = o.levelSet || err == nil
			return l, err
		},
		format: logrus.Level.String,
		typ:    "LEVEL",
		want:   wantLevel,
		words:  []string{"trace", "debug", "info", "warning", "error", "fatal"},
	}, "log-level", short, "log from this level up: trace, debug, info, warning, error or fatal")
	ChoiceVar(fs, &o.format, "log-format", "", formatText, []string{formatText, formatJSON}, "log lines as name=value, or as JSON objects")
	fs.BoolVarP(&o.noColor, "disable-color", "L", false, "no colours on a terminal")
	markCommon(fs, "debug", "log-format", "disable-color")
	if bankd {
		fs.BoolVarP(&o.timestamp, "timestamp", "T", true, "begin log lines with the time; --timestamp=false: not")
	} else {
		o.timestamp = true
		markCommon(fs, "log-level")
	}
}

// Logger returns the log on w: one line an event, coloured on a terminal. Categories are the C
// suite's names in the field "cat" (DMAIN DRSPRO DREST DSLOTMAP DBANKDW DLINP DST2 DGSMTAP);
// an entry without one belongs to DMAIN. --log-level holds for all categories that option -d
// left on, instead of the level named there. When w is the journal, lines begin with their
// priority (sd-daemon(3)), and text has no time, which the journal adds.
func (o *LogOptions) Logger(w io.Writer) *logrus.Logger {
	f := &formatter{journal: isJournal(w)}
	const timestamp = "2006-01-02T15:04:05.000Z07:00" // RFC 3339
	if o.format == formatJSON {
		f.json = true
		f.next = &logrus.JSONFormatter{
			DisableTimestamp:  !o.timestamp,
			TimestampFormat:   timestamp,
			DisableHTMLEscape: true,
		}
	} else {
		colors := !o.noColor && os.Getenv("NO_COLOR") == "" && isTerminal(w)
		f.next = &logrus.TextFormatter{
			DisableColors:    !colors,
			ForceColors:      colors,
			DisableTimestamp: !o.timestamp || f.journal,
			FullTimestamp:    true,
			TimestampFormat:  timestamp,
			QuoteEmptyFields: true,
		}
	}
	log := logrus.New()
	log.SetFormatter(f)
	log.SetOutput(w)
	if !o.debugSet {
		log.SetLevel(o.level)
		return log
	}

	f.filter, f.rules = true, o.debug
	most := logrus.PanicLevel
	for i := range f.rules {
		if o.levelSet {
			f.rules[i].level = o.level
		}
		most = max(most, f.rules[i].level)
	}
	log.SetLevel(most)
	log.SetOutput(nonEmpty{w})
	return log
}

func isTerminal(w io.Writer) bool {
	f, ok := w.(*os.File)
	return ok && term.IsTerminal(int(f.Fd()))
}

// isJournal tells whether w is what systemd has connected to the journal: JOURNAL_STREAM then
// is its device and inode (systemd.exec(5)). The variable alone doesn't say so, since
// whoever redirects standard error leaves it as it is.
func isJournal(w io.Writer) bool {
	f, ok := w.(*os.File)
	if !ok {
		return false
	}
	info, err := f.Stat()
	if err != nil {
		return false
	}
	stat, ok := info.Sys().(*syscall.Stat_t)
	return ok && os.Getenv("JOURNAL_STREAM") == fmt.Sprintf("%d:%d", stat.Dev, stat.Ino)
}

// priority returns the prefix of a line of this level in the journal.
func priority(l logrus.Level) string {
	switch l {
	case logrus.TraceLevel, logrus.DebugLevel:
		return "<7>"
	case logrus.InfoLevel:
		return "<6>"
	case logrus.WarnLevel:
		return "<4>"
	}
	return "<3>"
}

// A formatter makes lines of entries as next does, but for entries that no rule lets through
// nothing. The field of an error is called err, whatever logrus calls it.
type formatter struct {
	next    logrus.Formatter
	json    bool
	journal bool
	filter  bool // rules count
	rules   []rule
}

func (f *formatter) Format(e *logrus.Entry) ([]byte, error) {
	if f.filter && !f.wants(e) {
		return nil, nil
	}
	// The entry is a copy that logrus made for us, fields included.
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		delete(e.Data, logrus.ErrorKey)
		e.Data["err"] = err
	}
	if f.json {
		e.Data["cat"] = category(e)
		for k, v := range e.Data {
			switch v.(type) {
			case error, fmt.Stringer: // as in text, not the inside of a struct
				e.Data[k] = fmt.Sprint(v)
			}
		}
	} else if t, ok := f.next.(*logrus.TextFormatter); ok && t.ForceColors {
		e.Message = printable(e.Message) // logrus quotes all but this
	}
	line, err := f.next.Format(e)
	if err == nil && f.journal {
		line = append([]byte(priority(e.Level)), line...)
	}
	return line, err
}

func (f *formatter) wants(e *logrus.Entry) bool {
	cat := category(e)
	// The last one counts, so that "D,1:DREST,7" makes an exception.
	for _, r := range slices.Backward(f.rules) {
		if r.matches(cat) {
			return e.Level <= r.level
		}
	}
	return false
}

// category returns the category an entry belongs to.
func category(e *logrus.Entry) string {
	if cat, _ := e.Data["cat"].(string); cat != "" {
		return cat
	}
	return "DMAIN"
}

// printable returns s with what a terminal wouldn't show but obey, or show as something
// else, in the notation of Go.
func printable(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); {
		r, n := utf8.DecodeRuneInString(s[i:])
		c := s[i : i+n]
		if !unicode.IsPrint(r) || r == utf8.RuneError && n == 1 {
			c = strconv.Quote(c)
			c = c[1 : len(c)-1]
		}
		b.WriteString(c)
		i += n
	}
	return b.String()
}

// nonEmpty saves the system call for an entry that was filtered out.
type nonEmpty struct{ io.Writer }

func (w nonEmpty) Write(b []byte) (int, error) {
	if len(b) == 0 {
		return 0, nil
	}
	return w.Writer.Write(b)
}

// parseDebug reads the value of option -d, CAT[,LEVEL][:CAT[,LEVEL]...]. As in the C suite a
// category is matched without case, by its beginning when a level follows, and need
// not exist; empty parts count for nothing.
func parseDebug(s string) ([]rule, error) {
	var rules []rule
	for part := range strings.SplitSeq(s, ":") {
		if part == "" {
			continue
		}
		name, level, hasLevel := strings.Cut(part, ",")
		r := rule{name: strings.ToUpper(name), prefix: hasLevel, level: logrus.DebugLevel}
		if hasLevel {
			var err error
			if r.level, err = parseLevel(level); err != nil {
				return nil, fmt.Errorf("category %q: %w", name, err)
			}
		}
		rules = append(rules, r)
	}
	return rules, nil
}

func formatDebug(rules []rule) string {
	parts := make([]string, len(rules))
	for i, r := range rules {
		parts[i] = r.name
		if r.prefix {
			parts[i] += "," + r.level.String()
		}
	}
	return strings.Join(parts, ":")
}

// parseLevel reads a level of the C suite (1 debug, 3 info, 5 notice, 7 error, 8 fatal) or a name.
func parseLevel(s string) (logrus.Level, error) {
	switch strings.ToLower(s) {
	case "trace":
		return logrus.TraceLevel, nil
	case "1", "debug":
		return logrus.DebugLevel, nil
	case "3", "5", "info", "notice":
		return logrus.InfoLevel, nil
	case "warning", "warn":
		return logrus.WarnLevel, nil
	case "7", "error":
		return logrus.ErrorLevel, nil
	case "8", "fatal":
		return logrus.FatalLevel, nil
	}
	return 0, fmt.Errorf("level %q: want %s", s, wantLevel)
}
