// SPDX-License-Identifier: EUPL-1.2

// Package ether is a simulated medium between two ends, or among several that share it: line rate, turn-around, lost frames, bit errors, half duplex
// with collisions, cuts; everything random comes from a seed.
//
// It comes in three forms. Air is the medium as a value, under a clock moved by hand. Ether gives two streams that can be
// opened, unplugged and opened again; its waiting is all on timers, so inside testing/synctest hours pass in moments.
// Line joins two real streams, such as the masters of two pseudo terminals, for demonstrations.
package ether

import (
	"errors"
	"fmt"
	"io"
	"os"
	"slices"
	"sync"
	"time"
)

// ErrUnplugged is what a stream answers whose plug was pulled.
var ErrUnplugged = errors.New("unplugged")

// tty is how many bytes an end takes before Write blocks, as a tty's buffer does.
const tty = 4096

// Ether is a live medium; its ends are numbered from 0.
type Ether struct {
	mu        sync.Mutex
	air       *Air
	ends      []*End
	unplugged []bool
	pending   [][]Arrival // by receiver, in the order of their End
}

// New makes a medium.
func New(cfg Config) *Ether {
	cfg.fill()
	return &Ether{air: NewAir(cfg), ends: make([]*End, cfg.Ends), unplugged: make([]bool, cfg.Ends), pending: make([][]Arrival, cfg.Ends)}
}

// Open plugs a stream into an end. An end that is open already is busy.
func (e *Ether) Open(end int) (*End, error) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.unplugged[end] {
		return nil, fmt.Errorf("open ether end %d: %w", end, ErrUnplugged)
	}
	if e.ends[end] != nil {
		return nil, fmt.Errorf("open ether end %d: %w", end, os.ErrExist)
	}
	n := &End{ether: e, number: end}
	n.arrived.L = &e.mu
	e.ends[end] = n
	return n, nil
}

// Unplug pulls the plug of an end (its stream fails) or puts it back (it can be opened again).
func (e *Ether) Unplug(end int, out bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.unplugged[end] = out
	if n := e.ends[end]; out && n != nil {
		n.close(ErrUnplugged)
	}
}

// SetReach says whether two ends can hear each other.
func (e *Ether) SetReach(x, y int, reach bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.air.SetReach(x, y, reach)
}

// Cut takes the medium away in all directions, unnoticed by the ends, or gives it back.
func (e *Ether) Cut(cut bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.air.Cut(cut)
}

// SetFrameLoss changes the share of frames that are lost.
func (e *Ether) SetFrameLoss(p float64) {
	e.mu.Lock()
	defer e.mu.Unlock()
	e.air.SetFrameLoss(p)
}

// Counters of what an end has sent.
func (e *Ether) Counters(end int) Counters {
	e.mu.Lock()
	defer e.mu.Unlock()
	return e.air.Counters(end)
}

// arrive puts an arrival among those that its receiver waits for. Called with mu held.
func (e *Ether) arrive(a Arrival) {
	q := e.pending[a.To]
	i := len(q)
	for i > 0 && q[i-1].End.After(a.End) {
		i--
	}
	e.pending[a.To] = slices.Insert(q, i, a)
}

// hear hands over what has arrived at an end by now.
func (e *Ether) hear(end int) {
	e.mu.Lock()
	defer e.mu.Unlock()
	now := time.Now()
	for len(e.pending[end]) > 0 && !e.pending[end][0].End.After(now) {
		a := e.pending[end][0]
		e.pending[end] = e.pending[end][1:]
		if n := e.ends[end]; n != nil && e.air.Hear(a) {
			n.buffer = append(n.buffer, a.Bytes...)
			n.arrived.Broadcast()
		}
	}
}

// End is one end's stream. Read and Write may be used at the same time.
type End struct {
	ether   *Ether
	number  int
	arrived sync.Cond // on ether.mu
	buffer  []byte
	err     error // why it is closed
}

// Read waits for at least one byte.
func (n *End) Read(b []byte) (int, error) {
	n.ether.mu.Lock()
	defer n.ether.mu.Unlock()
	for len(n.buffer) == 0 && n.err == nil {
		n.arrived.Wait()
	}
	if n.err != nil {
		return 0, fmt.Errorf("read ether end %d: %w", n.number, n.err)
	}
	k := copy(b, n.buffer)
	n.buffer = n.buffer[k:]
	return k, nil
}

// Write puts bytes on the air; it waits only while more than a tty's buffer is ahead of them.
func (n *End) Write(b []byte) (int, error) {
	e := n.ether
	for {
		e.mu.Lock()
		if n.err != nil {
			e.mu.Unlock()
			return 0, fmt.Errorf("write ether end %d: %w", n.number, n.err)
		}
		now := time.Now()
		if room := e.air.Free(n.number).Add(-e.air.airtime(tty)); room.After(now) {
			e.mu.Unlock()
			time.Sleep(room.Sub(now))
			continue
		}
		arrivals := e.air.Send(now, n.number, b)
		for _, a := range arrivals {
			e.arrive(a)
			// Ends by itself when the bytes have arrived, at most a tty's buffer from now.
			time.AfterFunc(a.End.Sub(now), func() { e.hear(a.To) })
		}
		e.mu.Unlock()
		return len(b), nil
	}
}

// Close frees a blocked Read.
func (n *End) Close() error {
	n.ether.mu.Lock()
	defer n.ether.mu.Unlock()
	if n.err != nil {
		return nil
	}
	n.close(io.ErrClosedPipe)
	return nil
}

func (n *End) close(err error) {
	n.err = err
	n.ether.ends[n.number] = nil
	n.arrived.Broadcast()
}
