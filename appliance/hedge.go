// SPDX-License-Identifier: EUPL-1.2

package appliance

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"time"
)

// This file sends a request by one way, and by another one when the first does not lead anywhere or says nothing for long.

// notTaken is the error of a way by which the request surely went nowhere.
type notTaken struct{ error }

func (e notTaken) Unwrap() error { return e.error }

// arrival is how an attempt ended.
type arrival struct {
	way  int
	resp *http.Response
	err  error
	stop context.CancelFunc
}

// hedge sends a request by the first way, and also by the second when the first fails or has said nothing for a while. The first answer counts, and way says which it came by: 0 or 1.
// What has an effect each time it arrives goes the second way only when it surely went nowhere the first.
func hedge(req *http.Request, wait time.Duration, ways [2]roundTrip) (resp *http.Response, way int, err error) {
	ended := make(chan arrival, len(ways)) // nobody who sends to it waits
	running := 0
	var stops [2]context.CancelFunc
	start := func(way int) error {
		ctx, stop := context.WithCancel(req.Context())
		out, err := again(req.WithContext(ctx), way)
		if err != nil {
			stop()
			return err
		}
		running++
		stops[way] = stop
		go func() { // hedge or forget takes its end
			resp, err := ways[way](out)
			ended <- arrival{way, resp, err, stop}
		}()
		return nil
	}
	if err := start(0); err != nil {
		return nil, 0, err
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	second, errs := false, []error(nil)
	try := func() {
		if !second {
			second = true
			if err := start(1); err != nil {
				errs = append(errs, err)
			}
		}
	}
	for running > 0 {
		select {
		case <-late.C:
			if !onceOnly(req) {
				try()
			}
		case a := <-ended:
			running--
			if a.err == nil {
				if other := stops[1-a.way]; other != nil {
					other()
				}
				go forget(ended, running) // ends with the requests that have been stopped
				a.resp.Body, a.resp.Request = &stopping{a.resp.Body, a.stop}, req
				return a.resp, a.way, nil
			}
			a.stop()
			errs = append(errs, a.err)
			sure := notTaken{}
			if req.Context().Err() == nil && (!onceOnly(req) || errors.As(a.err, &sure)) {
				try()
			}
		}
	}
	if len(errs) == 2 {
		return nil, 0, fmt.Errorf("%w; and the other way: %w", errs[0], errs[1])
	}
	return nil, 0, errs[0]
}

// forget takes the ends of attempts that nobody waits for any more.
func forget(ended <-chan arrival, running int) {
	for range running {
		a := <-ended
		a.stop()
		if a.err == nil {
			a.resp.Body.Close()
		}
	}
}

// again gives the request for an attempt, with a body of its own.
func again(req *http.Request, way int) (*http.Request, error) {
	out := req.Clone(req.Context())
	if way == 0 || req.Body == nil || req.Body == http.NoBody {
		return out, nil
	}
	if req.GetBody == nil {
		return nil, errors.New("the request cannot be sent a second time")
	}
	var err error
	out.Body, err = req.GetBody()
	return out, err
}

// onceOnly says whether a request has an effect each time it arrives: who made it did not say that it may be repeated.
func onceOnly(req *http.Request) bool {
	_, repeatable := req.Header["Idempotency-Key"]
	return !repeatable && req.Method != http.MethodGet && req.Method != http.MethodHead
}

// stopping is a body that ends its request when it is closed.
type stopping struct {
	io.ReadCloser
	stop context.CancelFunc
}

func (s *stopping) Close() error {
	err := s.ReadCloser.Close()
	s.stop()
	return err
}
