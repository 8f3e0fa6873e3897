// SPDX-License-Identifier: EUPL-1.2

package radio

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"testing"
	"testing/synctest"
	"time"
)

// stuckPort takes no bytes, as one whose flow control waits for a wire that the cable does not have.
type stuckPort struct {
	closed   chan struct{}
	deadline time.Time
}

func (p *stuckPort) Read([]byte) (int, error) {
	<-p.closed
	return 0, os.ErrClosed
}

func (p *stuckPort) SetWriteDeadline(t time.Time) error {
	p.deadline = t
	return nil
}

func (p *stuckPort) Write([]byte) (int, error) {
	select {
	case <-p.closed:
		return 0, os.ErrClosed
	case <-time.After(time.Until(p.deadline)):
		return 0, fmt.Errorf("write serial port x: %w", os.ErrDeadlineExceeded)
	}
}

func (p *stuckPort) Close() error {
	close(p.closed)
	return nil
}

// TestStuckPort: a port that takes nothing is opened again and again, and that is no quiet line but one to look at.
func TestStuckPort(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		gone := false
		p := New(Config{Name: "x", BitsPerSecond: 9600, Open: func(context.Context) (io.ReadWriteCloser, error) {
			if gone {
				return nil, errors.New("gone")
			}
			return &stuckPort{closed: make(chan struct{})}, nil
		}})
		ctx, stop := context.WithCancel(t.Context())
		ended := make(chan error, 1)
		go func() {
			ended <- p.Serve(ctx, func(string, int, int) {}, func(string) {}, func(string, []byte) {}, func(string) {})
		}()
		time.Sleep(3 * time.Second)
		if q := p.Quality(); q.Stuck {
			t.Error("stuck before anything was tried for long")
		}
		for range 5 {
			time.Sleep(20 * time.Second)
			if q := p.Quality(); !q.Stuck {
				t.Errorf("a port that takes nothing: %+v", q)
			}
		}
		gone = true
		time.Sleep(90 * time.Second)
		if q := p.Quality(); q.Stuck {
			t.Errorf("a port that was pulled out is still stuck: %+v", q)
		}
		stop()
		<-ended
	})
}
