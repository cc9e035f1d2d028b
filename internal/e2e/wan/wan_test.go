// SPDX-License-Identifier: GPL-2.0-or-later

package wan

import (
	"context"
	"crypto/sha256"
	"fmt"
	"io"
	"math/rand/v2"
	"net"
	"os"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"remsim/internal/simulator"
)

func TestMain(m *testing.M) {
	status, err := simulator.Isolate(context.Background(), "", func(string) int {
		if err := unix.Mount("proc", "/proc", "proc", 0, ""); err != nil {
			fmt.Fprintln(os.Stderr, err)
			return 1
		}
		return m.Run()
	})
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
	}
	os.Exit(status)
}

// pair returns a net of two hosts, and a connection between them.
func pair(t *testing.T) (n *Net, near, far net.Conn) {
	t.Helper()
	n, err := New(1, 2)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(n.Close)
	var ln net.Listener
	if err := n.Host(1).Do(func() (err error) {
		ln, err = net.Listen("tcp", n.Host(1).Addr+":9999")
		return err
	}); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ln.Close() })
	if near, err = n.Host(0).DialContext(t.Context(), "tcp", ln.Addr().String()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { near.Close() })
	if far, err = ln.Accept(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { far.Close() })
	return n, near, far
}

// turn sends a byte there and one back, and returns how long that took.
func turn(t *testing.T, near, far net.Conn) time.Duration {
	t.Helper()
	begin := time.Now()
	for _, way := range [][2]net.Conn{{near, far}, {far, near}} {
		if _, err := way[0].Write([]byte{1}); err != nil {
			t.Fatal(err)
		}
		if err := way[1].SetReadDeadline(time.Now().Add(time.Minute)); err != nil {
			t.Fatal(err)
		}
		if _, err := io.ReadFull(way[1], make([]byte, 1)); err != nil {
			t.Fatal(err)
		}
	}
	return time.Since(begin)
}

// TestBulk sends much: it arrives as it was sent, in packets to be segmented, too, and over a bad line.
func TestBulk(t *testing.T) {
	for name, q := range map[string]Quality{
		"good": {}, "bad": {Delay: 5 * time.Millisecond, Loss: 0.05},
	} {
		t.Run(name, func(t *testing.T) {
			t.Parallel()
			n, near, far := pair(t)
			n.SetAll(q)
			b := make([]byte, 256<<10)
			r := rand.NewChaCha8([32]byte{})
			r.Read(b)
			go func() {
				near.Write(b)
				near.Close()
			}()
			got := sha256.New()
			if _, err := io.Copy(got, far); err != nil {
				t.Fatal(err)
			}
			if want := sha256.Sum256(b); string(got.Sum(nil)) != string(want[:]) {
				t.Error("something else has arrived")
			}
		})
	}
}

func TestDelay(t *testing.T) {
	n, near, far := pair(t)
	turn(t, near, far)
	n.Set(n.Host(0), n.Host(1), Quality{Delay: 100 * time.Millisecond})
	if took := turn(t, near, far); took < 200*time.Millisecond {
		t.Errorf("there and back in %v", took)
	}
}

// TestCut: nothing passes a line that is cut, and what was sent passes when it is whole again. Nor does anybody hear that an
// end has gone.
func TestCut(t *testing.T) {
	const nothing = 500 * time.Millisecond
	n, near, far := pair(t)
	turn(t, near, far)
	time.Sleep(200 * time.Millisecond) // until all is acknowledged: who waits for that sends little
	n.SetOneWay(n.Host(0), n.Host(1), Quality{Cut: true})
	if _, err := near.Write([]byte{7}); err != nil {
		t.Fatal(err)
	}
	var b [1]byte
	far.SetReadDeadline(time.Now().Add(nothing))
	if _, err := far.Read(b[:]); err == nil {
		t.Fatal("a line that is cut passes something")
	}
	if _, err := far.Write([]byte{8}); err != nil {
		t.Fatal(err)
	}
	near.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := near.Read(b[:]); err != nil || b[0] != 8 {
		t.Fatalf("the other way: %v, %v", b, err)
	}
	n.SetAll(Quality{})
	far.SetReadDeadline(time.Now().Add(time.Minute))
	if _, err := far.Read(b[:]); err != nil || b[0] != 7 {
		t.Fatalf("when it is whole again: %v, %v", b, err)
	}
	n.SetAll(Quality{Cut: true})
	near.Close()
	far.SetReadDeadline(time.Now().Add(nothing))
	if _, err := far.Read(b[:]); err == nil || err == io.EOF {
		t.Errorf("the end has passed a line that is cut: %v", err)
	}
}
