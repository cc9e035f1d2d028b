// SPDX-License-Identifier: GPL-2.0-or-later

// Command bench measures the programs as a whole and writes what it finds as Markdown: the
// way of a command to a card beside PC/SC alone, the codec, what slot maps cost, sizes
// and start times. Beside that stand figures of the C suite, which were taken elsewhere.
package main

import (
	"flag"
	"fmt"
	"io"
	"os"
	"regexp"
	"strings"
	"time"

	"remsim/internal/e2e/application"
	"remsim/internal/e2e/rig"
)

var (
	samples = flag.Int("n", 4000, "`COUNT` of commands of each way to a card")
	only    = flag.String("only", "", "take the figures of sections whose title matches this `REGEXP`")
)

func main() {
	application.Main()
	flag.Parse()
	os.Exit(rig.Run(func(bin string) int {
		b := &bench{bin: bin, out: os.Stdout}
		err := rig.BuildDriver(bin)
		if err == nil {
			err = b.run()
		}
		b.stop()
		if err != nil {
			fmt.Fprintln(os.Stderr, "bench:", err)
			return 1
		}
		return 0
	}))
}

const (
	restBase = "http://127.0.0.1:9997"
	ready    = 20 * time.Second // for a program to be ready
)

// A bench holds what was started, in order.
type bench struct {
	bin     string
	out     io.Writer
	started []interface{ Kill() }
}

func (b *bench) run() error {
	fmt.Fprintf(b.out, "Taken on %s: %s, everything on that machine over loopback. The load of the machine\n"+
		"before was %s: where other work goes on, long waits and p99 are those of the scheduler. Figures of the C suite\n"+
		"are references: they were taken at another time, on another machine of the same kind.\n\n",
		time.Now().Format("2006-01-02"), machine(), load())
	chosen := regexp.MustCompile(*only)
	for _, section := range []struct {
		title   string
		measure func(*bench) error
	}{
		{"A command and its answer", (*bench).transmit},
		{"Codec", (*bench).codec},
		{"Slot maps", (*bench).maps},
		{"From request to bankd", (*bench).active},
		{"Many maps", (*bench).many},
		{"Sixteen slots at once", (*bench).sixteen},
		{"A crowd", (*bench).crowd},
		{"Size and start", (*bench).footprint},
		{"The PC/SC driver in pcscd", (*bench).hosts},
	} {
		if !chosen.MatchString(section.title) {
			continue
		}
		fmt.Fprintf(b.out, "## %s\n\n", section.title)
		err := section.measure(b)
		b.stop()
		if err != nil {
			return fmt.Errorf("%s: %w", strings.ToLower(section.title), err)
		}
	}
	return nil
}

// start starts a program and waits for a line of its log.
func (b *bench) start(line, program string, args ...string) (*rig.Proc, error) {
	p, err := rig.Start(program, b.bin+"/"+program, args...)
	if err != nil {
		return nil, err
	}
	b.started = append(b.started, p)
	if _, err := p.Await(ready, line); err != nil {
		return nil, fmt.Errorf("%w; it says: %s", err, p.Log())
	}
	return p, nil
}

func (b *bench) startServer() (*rig.Proc, error) {
	return b.start("listening for RSPRO", "remsim-server")
}

// dir makes a directory that is there until stop.
func (b *bench) dir() (string, error) {
	dir, err := os.MkdirTemp("", "remsim-bench-")
	if err == nil {
		b.started = append(b.started, killer(func() { os.RemoveAll(dir) }))
	}
	return dir, err
}

// stop ends what was started, the last one first.
func (b *bench) stop() {
	for i := len(b.started) - 1; i >= 0; i-- {
		b.started[i].Kill()
	}
	b.started = nil
}
