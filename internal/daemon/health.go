// SPDX-License-Identifier: GPL-2.0-or-later

package daemon

import (
	"context"
	"errors"
	"fmt"
	"sync"
)

// Health is what a running program says of itself to those who watch it.
type Health struct {
	// Loops are what the program can't do without: a loop that is stuck doesn't get free, so that only a restart
	// helps. What waits for others, such as for a card, is none.
	Loops []Loop
	// Ready says why the program can't do its work at the moment; nil: it can. It doesn't block.
	Ready func() error
	// Status says how the program stands, for people, in one line. It doesn't block for longer than a stuck loop does.
	Status func() string
}

// A Loop is something that must go on.
type Loop struct {
	Name string
	// Ask waits for a sign of life until ctx ends, whose cause it then returns. It may be called from any goroutine.
	Ask func(ctx context.Context) error
}

// Mutex returns the Loop of those who hold mu now and then: it answers when it gets mu, for an instant.
func Mutex(name string, mu sync.Locker) Loop {
	return Patient(name, func() {
		mu.Lock()
		//lint:ignore SA2001 to have had it is all
		mu.Unlock()
	})
}

// Patient returns the Loop that answers when ask returns. Who asks again while the last question is unanswered waits for the same answer, so
// that what takes long comes to its turn, however little time each question has. ask should return at the program's end.
func Patient(name string, ask func()) Loop {
	asked := make(chan chan struct{}, 1) // nil: nothing is asked, else who asks says so by closing it
	asked <- nil
	return Loop{name, func(ctx context.Context) error {
		c := <-asked
		if c == nil {
			c = make(chan struct{})
			go func() {
				ask()
				<-asked
				asked <- nil
				close(c)
			}()
		}
		asked <- c
		select {
		case <-c:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

// Receiver returns the Loop of who receives from asked whenever there is nothing else to do.
func Receiver(name string, asked chan<- struct{}) Loop {
	return Loop{name, func(ctx context.Context) error {
		select {
		case asked <- struct{}{}:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}}
}

// Alive asks all loops at once, and names those that haven't answered when ctx ends.
func (h Health) Alive(ctx context.Context) error {
	errs := make([]error, len(h.Loops))
	var all sync.WaitGroup
	for i, l := range h.Loops {
		all.Go(func() {
			if err := l.Ask(ctx); err != nil {
				errs[i] = fmt.Errorf("%s doesn't answer: %w", l.Name, err)
			}
		})
	}
	all.Wait()
	return errors.Join(errs...)
}
