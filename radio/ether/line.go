// SPDX-License-Identifier: EUPL-1.2

package ether

import (
	"context"
	"fmt"
	"io"
	"sync"
)

// Line joins two streams through a medium in real time: whatever is read from one is written to the other at the
// configured rate, with its losses. It owns both streams once Run is called.
type Line struct {
	ether *Ether
	ports [2]io.ReadWriteCloser
}

// NewLine makes a line between a (end 0) and b (end 1); Run moves the bytes.
func NewLine(a, b io.ReadWriteCloser, cfg Config) *Line {
	return &Line{ether: New(cfg), ports: [2]io.ReadWriteCloser{a, b}}
}

// Cut takes the line away, unnoticed by the ends, or gives it back.
func (l *Line) Cut(cut bool) { l.ether.Cut(cut) }

// SetFrameLoss changes the share of frames that are lost.
func (l *Line) SetFrameLoss(p float64) { l.ether.SetFrameLoss(p) }

// Counters of what was sent by a (0) or b (1).
func (l *Line) Counters(end int) Counters { return l.ether.Counters(end) }

// Run moves bytes until ctx ends or a stream fails, then closes both streams. A pseudo terminal whose user has closed
// it fails its master on some systems: keep the slave open from the outside while users come and go.
func (l *Line) Run(ctx context.Context) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var pumps sync.WaitGroup
	var ends [2]*End
	for i := range ends {
		var err error
		if ends[i], err = l.ether.Open(i); err != nil {
			return fmt.Errorf("run line: %w", err)
		}
	}
	for i := range ends {
		pumps.Go(func() { cancel(pump(ends[i], l.ports[i])) })
		pumps.Go(func() { cancel(pump(l.ports[i], ends[i])) })
	}
	<-ctx.Done()
	for i := range ends {
		ends[i].Close()
		l.ports[i].Close()
	}
	pumps.Wait()
	return context.Cause(ctx)
}

func pump(to io.Writer, from io.Reader) error {
	if _, err := io.Copy(to, from); err != nil {
		return fmt.Errorf("line: %w", err)
	}
	return fmt.Errorf("line: %w", io.EOF)
}
