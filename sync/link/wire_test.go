// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"errors"
	"sync"
	"time"
)

// wire joins boxes as a network does: each box has one port, addr is the far end's peer id. It carries whole messages
// with a delay; it can be cut, and it can fail in two ways: a message is lost, or it arrives and its sender is told that
// it did not. Nothing here lies about order within a priority.
type wire struct {
	name  string
	bps   int
	delay time.Duration

	mu    sync.Mutex
	ports map[string]*port
	busy  map[[2]string]time.Time
	cut   bool
	sent  int // bytes given to it
	count int // messages
	// fate is asked for every message: nil, errLost or errLiar.
	fate func(from, to string, msg []byte) error
}

var (
	errLost = errors.New("wire: lost")
	errLiar = errors.New("wire: arrived, but that was not heard")
	errCut  = errors.New("wire: cut")
)

func newWire(name string, bps int, delay time.Duration) *wire {
	return &wire{name: name, bps: bps, delay: delay, ports: map[string]*port{}, busy: map[[2]string]time.Time{}}
}

// port is one box's end.
type port struct {
	w    *wire
	addr string

	up       func(string, int, int)
	down     func(string)
	received func(string, []byte)
	queue    chan func()
}

func (w *wire) port(addr string) *port {
	return &port{w: w, addr: addr, queue: make(chan func(), 4096)}
}

func (p *port) Name() string { return p.w.name }

func (p *port) Serve(ctx context.Context, up func(string, int, int), down func(string), received func(string, []byte), ready func(string)) error {
	p.up, p.down, p.received = up, down, received
	p.w.plug(p)
	defer p.w.unplug(p)
	for {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case f := <-p.queue:
			f()
			ready("")
		}
	}
}

func (w *wire) plug(p *port) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.ports[p.addr] = p
	if !w.cut {
		w.tell(p, true)
	}
}

// tell informs a port and the others of each other.
func (w *wire) tell(p *port, up bool) {
	for _, o := range w.ports {
		if o == p {
			continue
		}
		a, b := p, o
		if up {
			a.queue <- func() { a.up(b.addr, w.bps, 1400) }
			b.queue <- func() { b.up(a.addr, w.bps, 1400) }
		} else {
			a.queue <- func() { a.down(b.addr) }
			b.queue <- func() { b.down(a.addr) }
		}
	}
}

func (w *wire) unplug(p *port) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ports[p.addr] != p {
		return
	}
	delete(w.ports, p.addr)
	for _, o := range w.ports {
		o.queue <- func() { o.down(p.addr) }
	}
}

// setCut takes the wire away or gives it back.
func (w *wire) setCut(cut bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.cut == cut {
		return
	}
	w.cut = cut
	told := map[[2]string]bool{}
	for _, a := range w.ports {
		for _, b := range w.ports {
			if a == b || told[[2]string{a.addr, b.addr}] {
				continue
			}
			told[[2]string{a.addr, b.addr}] = true
			if cut {
				a.queue <- func() { a.down(b.addr) }
			} else {
				a.queue <- func() { a.up(b.addr, w.bps, 1400) }
			}
		}
	}
}

// Free allows about four seconds of the wire.
func (p *port) Free(addr string, _ int) int {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	queued := int(time.Until(w.busy[[2]string{p.addr, addr}]).Seconds() * float64(w.bps) / 8)
	return max(w.bps/2, 1200) - max(queued, 0)
}

func (p *port) Send(addr string, _ int, msg []byte, done func(error)) {
	w := p.w
	w.mu.Lock()
	defer w.mu.Unlock()
	far := w.ports[addr]
	if w.cut || far == nil || w.ports[p.addr] != p {
		p.queue <- func() { done(errCut) }
		return
	}
	var fate error
	if w.fate != nil {
		fate = w.fate(p.addr, addr, msg)
	}
	w.sent += len(msg)
	w.count++
	now, way := time.Now(), [2]string{p.addr, addr}
	begin := now
	if w.busy[way].After(now) {
		begin = w.busy[way]
	}
	w.busy[way] = begin.Add(time.Duration(len(msg)*8) * time.Second / time.Duration(w.bps))
	airtime := w.busy[way].Sub(now) + w.delay
	if errors.Is(fate, errLost) {
		time.AfterFunc(airtime, func() { p.queue <- func() { done(errLost) } })
		return
	}
	time.AfterFunc(airtime, func() {
		w.mu.Lock()
		defer w.mu.Unlock()
		if w.cut || w.ports[addr] != far {
			p.queue <- func() { done(errCut) }
			return
		}
		far.queue <- func() { far.received(p.addr, msg) }
		p.queue <- func() { done(fate) }
	})
}

func (w *wire) bytes() int {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.sent
}
