// SPDX-License-Identifier: GPL-2.0-or-later

package client

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"
	"time"
)

// A theatre plays scripts: each takes the time told for its cause, or hangs until it is killed.
type theatre struct {
	journal
	takes map[cause]time.Duration
	hangs map[cause]bool
	begin time.Time
}

func (th *theatre) start(ctx context.Context, line string, vars []string) (func() error, error) {
	why := cause(strings.TrimPrefix(line, "script "))
	if why == "event-bad" {
		return nil, errors.New("no such script")
	}
	th.add("%v+%s", time.Since(th.begin), why)
	return func() error {
		var end <-chan time.Time
		if !th.hangs[why] {
			end = time.After(th.takes[why])
		}
		select {
		case <-end:
			th.add("%v-%s", time.Since(th.begin), why)
			return nil
		case <-ctx.Done():
			th.add("%v!%s", time.Since(th.begin), why)
			return ctx.Err()
		}
	}, nil
}

// act returns a step whose action notes the time.
func (th *theatre) act(why cause, name string) step {
	return step{cause: why, do: func(context.Context) { th.add("%v:%s", time.Since(th.begin), name) }}
}

// play adds the steps, runs them to their end and returns what happened.
func (th *theatre) play(command string, steps ...step) string {
	th.begin = time.Now()
	q := newSequence(Config{Script: command, ScriptTimeout: 30 * time.Second}, th.start, quiet().WithField("cat", "DMAIN"))
	q.add(steps...)
	q.close()
	q.run(context.Background(), context.Background())
	synctest.Wait()
	return th.take()
}

func TestSequence(t *testing.T) {
	var th theatre
	enter := []step{
		th.act(noScript, "ATR"), th.act("sim", "Remote"), th.act("card", "Insert"),
		th.act("modem", "Reset"), {cause: "bankd"}, th.act(noScript, "ATR2"),
	}
	for _, tc := range []struct {
		name    string
		takes   map[cause]time.Duration
		hangs   map[cause]bool
		command string
		steps   []step
		want    string
	}{
		{"no script", nil, nil, "", enter, "0s:ATR 0s:Remote 0s:Insert 0s:Reset 0s:ATR2"},
		// Each action follows the start of its script, and each script the end of the one before. The
		// ATR after that waits for actions, but for no script to end.
		{"order", map[cause]time.Duration{"sim": time.Second, "card": 2 * time.Second, "modem": 3 * time.Second}, nil,
			"script", enter,
			"0s:ATR 0s+sim 0s:Remote 1s-sim 1s+card 1s:Insert 3s-card 3s+modem 3s:Reset 3s:ATR2 6s-modem 6s+bankd 6s-bankd"},
		{"hangs", map[cause]time.Duration{"card": time.Second}, map[cause]bool{"sim": true}, "script", enter[1:3],
			"0s+sim 0s:Remote 30s!sim 30s+card 30s:Insert 31s-card"},
		{"doesn't start", map[cause]time.Duration{"card": time.Second}, nil, "script", []step{th.act("event-bad", "Remote"), th.act("card", "Insert")},
			"0s:Remote 0s+card 0s:Insert 1s-card"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				th.takes, th.hangs = tc.takes, tc.hangs
				if got := th.play(tc.command, tc.steps...); got != tc.want {
					t.Errorf("\n got %s\nwant %s", got, tc.want)
				}
			})
		})
	}
}

// TestSequenceBounded has a script hang while a bankd comes and goes for hours: actions still
// come in order, and the scripts that remain are the last ones.
func TestSequenceBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		th := &theatre{begin: time.Now(), hangs: map[cause]bool{"hang": true}}
		q := newSequence(Config{Script: "script", ScriptTimeout: 30 * time.Second}, th.start, quiet().WithField("cat", "DMAIN"))
		go q.run(context.Background(), context.Background())
		q.add(step{cause: "hang"})
		synctest.Wait()
		th.take()

		const rounds = 100
		var actions []string
		for i := range rounds {
			for _, s := range []string{"insert", "remove"} {
				name := s + strconv.Itoa(i)
				q.add(th.act(cause(name), name))
				actions = append(actions, name)
			}
		}
		synctest.Wait()
		if n := q.scripts(); n != maxScripts {
			t.Errorf("%d scripts wait, want %d", n, maxScripts)
		}
		q.close()
		time.Sleep(30 * time.Second)
		synctest.Wait()
		var did, ran []string
		for l := range strings.FieldsSeq(th.take()) {
			if _, name, ok := strings.Cut(l, ":"); ok {
				did = append(did, name)
			}
			if _, name, ok := strings.Cut(l, "+"); ok {
				ran = append(ran, name)
			}
		}
		if !slices.Equal(did, actions) {
			t.Errorf("actions out of order: %v", did)
		}
		if want := actions[len(actions)-maxScripts:]; !slices.Equal(ran, want) {
			t.Errorf("ran %v, want %v", ran, want)
		}
	})
}

// TestStartShell runs real scripts.
func TestStartShell(t *testing.T) {
	dir := t.TempDir()
	out := filepath.Join(dir, "out")
	run := func(ctx context.Context, line string, vars ...string) (string, error) {
		t.Helper()
		os.Remove(out)
		wait, err := StartShell(ctx, line, append(vars, "OUT="+out))
		if err != nil {
			t.Fatal(err)
		}
		err = wait()
		b, _ := os.ReadFile(out)
		return string(b), err
	}

	t.Run("environment", func(t *testing.T) {
		for name, value := range map[string]string{
			"LANG": "C", "LC_TIME": "x", "TZ": "UTC", "HOME": "/h", "LD_LIBRARY_PATH": "/l",
			"SECRET": "1", "REMSIM_CAUSE": "old", "LCX": "1", "BASH_ENV": "/b",
		} {
			t.Setenv(name, value)
		}
		got, err := run(t.Context(), "env >$OUT", "REMSIM_CAUSE=new")
		if err != nil {
			t.Fatal(err)
		}
		for _, want := range []string{"LANG=C", "LC_TIME=x", "TZ=UTC", "HOME=/h", "LD_LIBRARY_PATH=/l", "REMSIM_CAUSE=new", "PATH=" + os.Getenv("PATH")} {
			if !slices.Contains(strings.Split(got, "\n"), want) {
				t.Errorf("%s is missing", want)
			}
		}
		for _, bad := range []string{"SECRET", "old", "LCX", "BASH_ENV"} {
			if strings.Contains(got, bad) {
				t.Errorf("%s is there", bad)
			}
		}
	})

	t.Run("failure", func(t *testing.T) {
		if _, err := run(t.Context(), "exit 3"); err == nil {
			t.Error("no error")
		}
	})

	t.Run("descriptors", func(t *testing.T) {
		r, w, err := os.Pipe()
		if err != nil {
			t.Fatal(err)
		}
		defer r.Close()
		defer w.Close()
		line := fmt.Sprintf("for fd in %d %d; do [ -e /proc/self/fd/$fd ] && echo $fd; done >$OUT; [ -e /proc/self/fd/2 ]", r.Fd(), w.Fd())
		got, err := run(t.Context(), line)
		if err != nil || got != "" {
			t.Errorf("script has descriptors %q, %v", got, err)
		}
	})

	// A script that hangs is killed with what it has started, and reaped.
	t.Run("kill", func(t *testing.T) {
		pids := filepath.Join(dir, "pids")
		ctx, cancel := context.WithCancel(t.Context())
		wait, err := StartShell(ctx, `sleep 1000 & echo $$ $! >"$PIDS.new"; mv "$PIDS.new" "$PIDS"; wait`, []string{"PIDS=" + pids})
		if err != nil {
			t.Fatal(err)
		}
		var shell, child int
		poll(t, "script's pids", func() bool {
			b, err := os.ReadFile(pids)
			if err != nil {
				return false
			}
			_, err = fmt.Sscan(string(b), &shell, &child)
			return err == nil
		})
		cancel()
		if err := wait(); err == nil {
			t.Error("no error from a script that was killed")
		}
		if err := syscall.Kill(shell, 0); err != syscall.ESRCH {
			t.Errorf("shell: %v, want %v", err, syscall.ESRCH)
		}
		// Its child is process 1's to reap, which may take its time or not do it: a zombie is fine.
		poll(t, "end of the script's child", func() bool {
			b, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", child))
			return err != nil || strings.Contains(string(b), ") Z ")
		})
	})
}
