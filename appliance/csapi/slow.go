// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"net/http"
	"sync"
	"time"
)

// slowRequests lets requests that need another server outlive the patience of their client: a join over 1200 bit/s takes
// minutes. After `after` the client is told to ask again; the work goes on, and whoever asks the same attaches to it.
// /sync tells the outcome in any case.
type slowRequests struct {
	after time.Duration
	ctx   context.Context // ends with close; it is the life of the background work, not of a request
	stop  context.CancelFunc
	wg    sync.WaitGroup

	mu      sync.Mutex
	running map[string]*slowRequest
}

type slowRequest struct {
	done chan struct{}
	out  any
	err  error
}

func newSlowRequests(after time.Duration) *slowRequests {
	ctx, stop := context.WithCancel(context.Background())
	return &slowRequests{after: after, ctx: ctx, stop: stop, running: make(map[string]*slowRequest)}
}

// do runs f under key, at most once at a time, and waits a while for it.
func (s *slowRequests) do(ctx context.Context, key string, f func(context.Context) (any, error)) (any, error) {
	s.mu.Lock()
	q := s.running[key]
	if q == nil {
		q = &slowRequest{done: make(chan struct{})}
		s.running[key] = q
		s.wg.Go(func() { // waited for by close
			defer func() {
				s.mu.Lock()
				delete(s.running, key)
				s.mu.Unlock()
				close(q.done)
			}()
			q.out, q.err = s.guarded(f)
		})
	}
	s.mu.Unlock()

	timer := time.NewTimer(s.after)
	defer timer.Stop()
	select {
	case <-q.done:
		return q.out, q.err
	case <-timer.C:
		return nil, &answer{http.StatusGatewayTimeout, errorBody{Code: "M_UNKNOWN",
			Text: "the other server is far away; the request goes on and the next sync will tell the result", RetryAfter: 5000}}
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// guarded runs f; a panic there must not end the box.
func (s *slowRequests) guarded(f func(context.Context) (any, error)) (out any, err error) {
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p}
		}
	}()
	return f(s.ctx)
}

func (s *slowRequests) close() {
	s.stop()
	s.wg.Wait()
}
