// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"fmt"
	"net/http"
	"testing"
	"testing/synctest"
	"time"
)

// quietly gives a cut wire back without telling anybody; show does that.
func (w *wire) quietly() {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.cut = false
}

// show tells one end that the others are in reach.
func (w *wire) show(addr string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	p := w.ports[addr]
	for _, o := range w.ports {
		if o != p {
			p.queue <- func() { p.up(o.addr, w.bps, 1400) }
		}
	}
}

// Two ways come up in every order at both ends, at once or with messages under way in between. A greeting by the slow one that arrives when the
// fast one carries long since does not end the conversation.
func TestWaysRiseInAnyOrder(t *testing.T) {
	for _, gap := range []time.Duration{0, time.Millisecond, 400 * time.Millisecond} {
		for _, order := range orders(4) {
			t.Run(fmt.Sprint(gap, order), func(t *testing.T) {
				run(t, func(t *testing.T, w *world) { rise(t, w, order, gap) })
			})
		}
	}
}

func rise(t *testing.T, w *world, order []int, gap time.Duration) {
	fast, slow := newWire("p2p", 100e6, 2*time.Millisecond), newWire("serial", 1200, 100*time.Millisecond)
	fast.setCut(true)
	slow.setCut(true)
	a, b := w.box("anna"), w.box("bert")
	pair(a, b)
	a.on(fast).on(slow)
	b.on(fast).on(slow)
	w.start()
	pass(time.Second)
	fast.quietly()
	slow.quietly()
	for _, i := range order {
		[]*wire{fast, fast, slow, slow}[i].show(string([]*box{a, b, a, b}[i].peer.ID))
		synctest.Wait() // what it says first is on the way
		time.Sleep(gap)
	}
	for range 20 { // until all greetings have arrived
		pass(500 * time.Millisecond)
		for _, p := range [][2]*box{{a, b}, {b, a}} {
			p[0].asksFor(p[1], 100*time.Millisecond)
		}
	}
	b.join(a, a.create("anna"), "bert")
	pass(time.Second)
	for _, x := range []*box{a, b} {
		if s := x.link.Status()[0]; s.Carries != "p2p" || len(s.StandsBy) != 1 || !s.Greeted {
			t.Errorf("%s: %+v, want p2p to carry, serial to stand by, greeted", x.name, s)
		}
	}
}

// A new conversation begins by the way that stands by, which loses all: it goes on by the one that carries.
func TestGreetingIsLostWhereItStandsBy(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		fast, slow := newWire("p2p", 100e6, 2*time.Millisecond), newWire("serial", 1200, 100*time.Millisecond)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		a.on(fast).on(slow)
		b.on(fast).on(slow)
		w.start()
		pass(time.Minute)
		slow.mu.Lock()
		slow.fate = func(string, string, []byte) error { return errLost }
		slow.mu.Unlock()
		b.link.post(func() {
			f := b.link.fars[a.peer.ID]
			f.renew()
			for _, o := range f.ways {
				if o != f.active {
					f.strayed(o) // a message of the old one came there
				}
			}
		})
		pass(5 * time.Second)
		b.asksFor(a, 100*time.Millisecond)
	})
}

// asksFor asks another box for something that it does not have, and wants to be told so in time.
func (b *box) asksFor(of *box, within time.Duration) {
	t := b.w.t
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), within)
	defer cancel()
	r, err := http.NewRequestWithContext(ctx, http.MethodGet, "matrix-federation://"+of.name+"/nothing", nil)
	if err != nil {
		t.Fatal(err)
	}
	resp, err := b.link.RoundTripper().RoundTrip(r)
	if err != nil {
		t.Fatal(err)
	}
	if resp.StatusCode != http.StatusNotFound {
		t.Errorf("%s answers %d, want 404", of.name, resp.StatusCode)
	}
}

// orders are all orders of n things.
func orders(n int) (out [][]int) {
	if n == 0 {
		return [][]int{nil}
	}
	for _, o := range orders(n - 1) {
		for at := range n {
			next := append(append(append([]int{}, o[:at]...), n-1), o[at:]...)
			out = append(out, next)
		}
	}
	return out
}
