// SPDX-License-Identifier: GPL-2.0-or-later

package ifd

import (
	"bytes"
	"io"

	"github.com/sirupsen/logrus"
)

// A Priority is that of a line in pcscd's log, which shows lines from a level up that it was started
// with.
type Priority int

// Priorities of pcscd.
const (
	LogDebug Priority = 0 // PCSC_LOG_DEBUG
	LogInfo  Priority = 1 // PCSC_LOG_INFO
	LogError Priority = 2 // PCSC_LOG_ERROR: what it shows unless it is told otherwise
)

// priority returns that of a level. A warning is something that has to be seen.
func priority(l logrus.Level) Priority {
	switch {
	case l >= logrus.DebugLevel:
		return LogDebug
	case l == logrus.InfoLevel:
		return LogInfo
	}
	return LogError
}

// newLog returns a log whose lines write gets, without a line feed. What is at trace level, the commands, isn't
// logged, as pcscd has no such level; it logs commands itself when it is asked to.
func newLog(write func(Priority, string)) *logrus.Logger {
	log := logrus.New()
	log.SetOutput(io.Discard)
	log.SetLevel(logrus.DebugLevel)
	log.ExitFunc = func(int) {} // pcscd isn't ours to end
	log.AddHook(&hook{
		write: write,
		text:  logrus.TextFormatter{DisableColors: true, DisableTimestamp: true, QuoteEmptyFields: true},
	})
	log.SetFormatter(nothing{})
	return log
}

// A hook writes log lines.
type hook struct {
	write func(Priority, string)
	text  logrus.TextFormatter
}

// Levels returns those that are heard: all.
func (*hook) Levels() []logrus.Level { return logrus.AllLevels }

// Fire writes a line.
func (h *hook) Fire(e *logrus.Entry) error {
	// The entry is a copy that logrus made for us, fields included.
	if err, ok := e.Data[logrus.ErrorKey]; ok {
		delete(e.Data, logrus.ErrorKey)
		e.Data["err"] = err
	}
	line, err := h.text.Format(e)
	if err == nil {
		h.write(priority(e.Level), "remsim: "+string(bytes.TrimRight(line, "\n")))
	}
	return err
}

// nothing is the form of what goes nowhere.
type nothing struct{}

// Format returns nothing.
func (nothing) Format(*logrus.Entry) ([]byte, error) { return nil, nil }
