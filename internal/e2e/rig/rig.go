// SPDX-License-Identifier: GPL-2.0-or-later

// Package rig runs the project's programs as processes, for the tests and benchmarks of
// the whole: in namespaces of their own, where default ports are free, nothing is
// reached from outside, and whatever was started ends with the process that called Run.
package rig

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	"remsim/internal/bankd"
	"remsim/internal/bankd/pcsc"
	"remsim/internal/simulator"
)

// binEnv names the directory of the built programs, for the process inside.
const binEnv = "REMSIM_RIG_BIN"

var programs = []string{"remsim-server", "remsim-bankd", "remsim-client-shell", "remsim-apitool", "remsim-simulator"}

// Run builds the programs with flags of go build (such as "-race"), runs the present process a second
// time inside simulator.Isolate, and calls inside there with the directory of the programs. It
// returns the exit status of that.
func Run(inside func(bin string) (status int), buildFlags ...string) (status int) {
	bin := os.Getenv(binEnv)
	if bin == "" {
		var err error
		if bin, err = build(buildFlags); err != nil {
			fmt.Fprintln(os.Stderr, "rig:", err)
			return 1
		}
		defer os.RemoveAll(bin)
		os.Setenv(binEnv, bin)
		os.Setenv("GORACE", "atexit_sleep_ms=0") // else the race detector adds a second to each program's end
	}
	status, err := simulator.Isolate(context.Background(), "", func(string) int {
		// Its processes in /proc, for the figures there.
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, "rig: mount /proc:", err)
			return 1
		}
		return inside(bin)
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, "rig:", err)
	}
	return status
}

func build(flags []string) (dir string, err error) {
	if dir, err = os.MkdirTemp("", "remsim-rig-"); err != nil {
		return "", err
	}
	args := append([]string{"build", "-o", dir + string(filepath.Separator)}, flags...)
	for _, p := range programs {
		args = append(args, "remsim/cmd/"+p)
	}
	cmd := exec.Command("go", args...)
	cmd.Stdout, cmd.Stderr = os.Stderr, os.Stderr
	if err := cmd.Run(); err != nil {
		os.RemoveAll(dir)
		return "", fmt.Errorf("build the programs: %w", err)
	}
	return dir, nil
}

// Sources looks at all directories of sources below root, for a test: go test takes no cached result when what a
// test has looked at is another, and the programs are built, not imported.
func Sources(root string) error {
	for _, dir := range []string{"cmd", "internal"} {
		err := filepath.WalkDir(filepath.Join(root, dir), func(path string, d os.DirEntry, err error) error {
			if err == nil && d.IsDir() {
				_, err = os.ReadDir(path)
			}
			return err
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// Eventually asks until there is no error, for d at most.
func Eventually(d time.Duration, what string, ask func() error) error {
	for end := time.Now().Add(d); ; time.Sleep(10 * time.Millisecond) {
		err := ask()
		if err == nil {
			return nil
		}
		if time.Now().After(end) {
			return fmt.Errorf("%s: not within %v: %w", what, d, err)
		}
	}
}

// A Readers is a pcscd with virtual readers and remsim-simulator's cards in them.
type Readers struct {
	PCSCD *simulator.PCSCD
	Cards *Proc

	mu sync.Mutex // held from a command to the cards until its answer
}

// StartReaders starts pcscd and n cards, and waits until pcscd knows them all. Only inside Run.
func StartReaders(bin string, n int) (r *Readers, err error) {
	r = new(Readers)
	if err = r.StartPCSCD(n, nil); err != nil {
		return nil, err
	}
	r.Cards, err = Start("cards", filepath.Join(bin, "remsim-simulator"), "cards", "--control", "--count", fmt.Sprint(n))
	for i := 0; i < n && err == nil; i++ {
		err = awaitCard(i)
	}
	if err != nil {
		r.Stop()
	}
	return r, err
}

// StartPCSCD starts a pcscd, the first one or after the end of the last one, with n readers that
// are named as simulator.StartPCSCD says.
func (r *Readers) StartPCSCD(n int, name func(int) string) (err error) {
	r.PCSCD, err = simulator.StartPCSCD(context.Background(), n, name)
	return err
}

// Do has the cards obey a command such as "pull 3", and returns what they say; see simulator.Commands.
func (r *Readers) Do(command string) (answer string, err error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, err := fmt.Fprintln(r.Cards.Stdin, command); err != nil {
		return "", err
	}
	answer, err = r.Cards.Line(30 * time.Second)
	if err == nil && !strings.HasPrefix(answer, "ok ") {
		err = fmt.Errorf("cards: %s: %s", command, answer)
	}
	return answer, err
}

// Swap puts another card into reader i, and returns its number.
func (r *Readers) Swap(i int) (card int, err error) {
	answer, err := r.Do(fmt.Sprintf("swap %d", i))
	if err != nil {
		return 0, err
	}
	const imsi = 1010000000000 // of card 0
	_, text, _ := strings.Cut(answer, "imsi=")
	if _, err := fmt.Sscanf(text, "%d", &card); err != nil {
		return 0, fmt.Errorf("cards: %q: %w", answer, err)
	}
	return card - imsi, nil
}

func awaitCard(i int) error {
	spec := bankd.Slot{Pattern: regexp.MustCompile(Reader(i))}
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(20 * time.Millisecond) {
		card, err := pcsc.Bank{}.Open(context.Background(), spec)
		switch {
		case err == nil:
			return card.Close()
		case !errors.Is(err, bankd.ErrNoCard) || time.Now().After(end):
			return fmt.Errorf("card %d: %w", i, err)
		}
	}
}

// Stop ends pcscd and the cards.
func (r *Readers) Stop() {
	if r.Cards != nil {
		r.Cards.Kill()
	}
	r.PCSCD.Kill()
}

// Reader returns the pattern of virtual reader i for a slots file.
func Reader(i int) string { return fmt.Sprintf("%s [0-9]+ %02d", simulator.ReaderName(i), i%2) }
