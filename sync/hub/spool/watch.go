// SPDX-License-Identifier: EUPL-1.2

package spool

import (
	"context"
	"sync"
)

// watch hands names of changed boxes to whoever wants them. A name waits for a slow receiver, once.
type watch struct {
	mu      sync.Mutex
	closed  bool
	watcher map[*watcher]struct{}
	running sync.WaitGroup
	end     chan struct{}
}

type watcher struct {
	wake chan struct{} // capacity 1
	// below: under watch.mu
	names []string // in the order of the changes
	has   map[string]bool
}

func newWatch() *watch {
	return &watch{watcher: make(map[*watcher]struct{}), end: make(chan struct{})}
}

// changes starts a watcher; close ends and waits for it.
func (w *watch) changes(ctx context.Context) <-chan string {
	out := make(chan string)
	x := &watcher{wake: make(chan struct{}, 1), has: make(map[string]bool)}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.closed {
		close(out)
		return out
	}
	w.watcher[x] = struct{}{}
	w.running.Go(func() {
		defer close(out)
		w.forward(ctx, x, out)
		w.mu.Lock()
		delete(w.watcher, x)
		w.mu.Unlock()
	})
	return out
}

func (w *watch) forward(ctx context.Context, x *watcher, out chan<- string) {
	for {
		name, ok := w.first(x)
		if !ok {
			select {
			case <-x.wake:
			case <-ctx.Done():
				return
			case <-w.end:
				return
			}
			continue
		}
		select {
		case out <- name:
		case <-ctx.Done():
			return
		case <-w.end:
			return
		}
	}
}

func (w *watch) first(x *watcher) (string, bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(x.names) == 0 {
		x.names = nil
		return "", false
	}
	name := x.names[0]
	x.names = x.names[1:]
	delete(x.has, name)
	return name, true
}

// tell never blocks.
func (w *watch) tell(names ...string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for x := range w.watcher {
		for _, n := range names {
			if !x.has[n] {
				x.has[n] = true
				x.names = append(x.names, n)
			}
		}
		select {
		case x.wake <- struct{}{}:
		default:
		}
	}
}

func (w *watch) close() {
	w.mu.Lock()
	if !w.closed {
		w.closed = true
		close(w.end)
	}
	w.mu.Unlock()
	w.running.Wait()
}
