// SPDX-License-Identifier: EUPL-1.2

package serial

import (
	"errors"
	"os"
	"sync"
	"time"
)

// inlet is the reading half of a modem: what a goroutine of the modem puts in, Read takes out.
type inlet struct {
	mu           sync.Mutex
	changed      sync.Cond // on mu: anything below, and what the dialect keeps
	unread       []byte
	err          error // why it has ended
	closed       bool
	readDeadline time.Time
	quality      Quality
}

// await waits until ok, the deadline (zero: none), the end. ok is called with mu held.
func (i *inlet) await(deadline time.Time, ok func() bool) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	if !deadline.IsZero() {
		timer := time.AfterFunc(time.Until(deadline), func() {
			i.mu.Lock()
			defer i.mu.Unlock()
			i.changed.Broadcast()
		})
		defer timer.Stop()
	}
	for {
		switch {
		case i.closed:
			return os.ErrClosed
		case ok():
			return nil
		case i.err != nil:
			return i.err
		case expired(deadline):
			return os.ErrDeadlineExceeded
		}
		i.changed.Wait()
	}
}

// pause waits; an error is the end.
func (i *inlet) pause(deadline time.Time, d time.Duration) error {
	err := i.await(earliest(deadline, time.Now().Add(d)), func() bool { return false })
	if errors.Is(err, os.ErrDeadlineExceeded) {
		return nil
	}
	return err
}

// read takes what is there, or waits.
func (i *inlet) read(b []byte) (int, error) {
	for {
		i.mu.Lock()
		deadline := i.readDeadline
		i.mu.Unlock()
		n := 0
		err := i.await(deadline, func() bool {
			n = copy(b, i.unread)
			i.unread = i.unread[:copy(i.unread, i.unread[n:])]
			i.changed.Broadcast()
			return n > 0 || !i.readDeadline.Equal(deadline) // it was moved: wait anew
		})
		if n > 0 || err != nil {
			return n, err
		}
	}
}

// end says why there will be no more.
func (i *inlet) end(err error) {
	i.mu.Lock()
	defer i.mu.Unlock()
	if i.err == nil {
		i.err = err
	}
	i.changed.Broadcast()
}

// SetReadDeadline concerns Reads that wait now, too.
func (i *inlet) SetReadDeadline(t time.Time) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	i.readDeadline = t
	i.changed.Broadcast()
	return nil
}

// Quality is what the modem has said so far.
func (i *inlet) Quality() Quality {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.quality
}

// earliest of a deadline (zero: none) and a time.
func earliest(deadline, t time.Time) time.Time {
	if deadline.IsZero() || t.Before(deadline) {
		return t
	}
	return deadline
}
