// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"context"
	"errors"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"hallig/sync/peer"
)

// many does n things, some at once, until the first error of each hand.
func many(atOnce, n int, f func(i int) error) error {
	var next atomic.Int64
	errs := make([]error, atOnce)
	var wg sync.WaitGroup
	for w := range atOnce {
		wg.Go(func() {
			for errs[w] == nil {
				i := int(next.Add(1)) - 1
				if i >= n {
					return
				}
				errs[w] = f(i)
			}
		})
	}
	wg.Wait()
	return errors.Join(errs...)
}

// pause lets real time pass.
func pause(ctx context.Context, d time.Duration) {
	select {
	case <-time.After(d):
	case <-ctx.Done():
	}
}

func cores() int { return runtime.NumCPU() }

// peerID reads the id out of a statement of our own.
func peerID(statement []byte) peer.ID {
	p, err := peer.ReadStatement(statement)
	if err != nil {
		panic(err) // we wrote it
	}
	return p.ID
}
