// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"fmt"
	"io"
	"math/rand/v2"
	"net/http"
	"slices"
	"strings"
	"testing"
	"time"

	"hallig/appliance/event"
)

// Chance plays: boxes in a chain or a ring, ways that come and go, messages that get lost, boxes that restart, people
// who write, change topics, leave and come back. When all is calm again, everybody who is in the room has all that was
// written since they came, once, and the same state.
func TestChance(t *testing.T) {
	for seed := range uint64(9) {
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) {
			run(t, func(t *testing.T, w *world) { play(t, w, seed, seed >= 6) })
		})
	}
}

type player struct {
	chance *rand.Rand
	boxes  []*box
	in     []*box // the room
	nets   []*wire
	down   map[*box]bool
	id     event.RoomID
	msgs   []event.ID
}

// With strangers, one box is in no room and all carry for each other.
func play(t *testing.T, w *world, seed uint64, strangers bool) {
	p := &player{chance: dice(seed), down: map[*box]bool{}}
	weather := dice(seed + 1000)
	for _, name := range []string{"anna", "bert", "carl", "dora"}[:3+seed%2] {
		b := w.box(name)
		b.carries = strangers
		p.boxes = append(p.boxes, b)
		if !strangers || name != "bert" {
			p.in = append(p.in, b)
		}
	}
	connect := func(a, b *box) {
		net := newWire(fmt.Sprint("net", len(p.nets)), []int{1e6, 9600}[p.chance.IntN(2)], 20*time.Millisecond)
		pair(a, b)
		a.on(net)
		b.on(net)
		net.fate = func(string, string, []byte) error {
			switch weather.IntN(20) {
			case 0:
				return errLost
			case 1:
				return errLiar
			}
			return nil
		}
		p.nets = append(p.nets, net)
	}
	for i := 1; i < len(p.boxes); i++ {
		connect(p.boxes[i-1], p.boxes[i])
	}
	if seed%3 == 0 {
		connect(p.boxes[0], p.boxes[len(p.boxes)-1])
	}
	for i, a := range p.boxes {
		for _, b := range p.boxes[:i] {
			if strangers { // also those that have no way between them know each other
				pair(a, b)
			}
		}
	}
	w.start()
	pass(10 * time.Second)
	p.id = p.boxes[0].create("u")
	users := map[string]int{string(p.boxes[0].user("u")): 100}
	for i, b := range p.in[1:] {
		users[string(b.user("u"))] = 60
		for try := 0; ; try++ {
			err := b.tryJoin(t.Context(), p.in[i], p.id, "u")
			if err == nil {
				break
			}
			if try == 5 {
				t.Fatal(err)
			}
			pass(10 * time.Second)
			if strangers {
				pass(time.Minute)
			}
		}
		pass(30 * time.Second)
	}
	delete(users, string(p.boxes[0].user("u")))
	p.boxes[0].state(p.id, "u", "m.room.power_levels", "", map[string]any{"users": users})
	pass(15 * time.Minute)
	for range 120 {
		p.step(t)
	}
	for _, b := range p.boxes {
		if p.down[b] {
			b.start()
		}
	}
	for _, n := range p.nets {
		n.setCut(false)
	}
	pass(40 * time.Minute)
	if strangers {
		pass(48 * time.Hour) // somebody may have carried for a day before it was found out that nobody answers
	}
	want(t, p.id, p.msgs, p.in...)
	for _, b := range p.boxes {
		for _, s := range b.link.Status() {
			if s.InFlight > 0 {
				t.Errorf("%s: %d events for %s are without a receipt", b.name, s.InFlight, s.Peer.Server)
			}
		}
	}
}

func (p *player) step(t *testing.T) {
	b := p.boxes[p.chance.IntN(len(p.boxes))]
	writes := !p.down[b] && slices.Contains(p.in, b)
	switch n := p.chance.IntN(20); {
	case n < 11 && writes:
		p.msgs = append(p.msgs, b.text(p.id, "u", fmt.Sprint("text ", len(p.msgs))))
	case n < 14 && writes:
		b.state(p.id, "u", []string{"m.room.topic", "m.room.name"}[p.chance.IntN(2)], "", map[string]string{"topic": fmt.Sprint(p.chance.Int()), "name": fmt.Sprint(p.chance.Int())})
	case n < 16:
		net := p.nets[p.chance.IntN(len(p.nets))]
		net.mu.Lock()
		cut := net.cut
		net.mu.Unlock()
		net.setCut(!cut)
	case n == 16:
		if p.down[b] {
			b.start()
		} else {
			b.halt()
		}
		p.down[b] = !p.down[b]
	default:
		pass(time.Duration(p.chance.IntN(8000)) * time.Millisecond)
	}
}

// A long answer is cut into chunks, and survives a change of way in the middle.
func TestLongAnswer(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		fast, slow := newWire("p2p", 2e5, 5*time.Millisecond), newWire("serial", 9600, 20*time.Millisecond)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		a.on(fast).on(slow)
		b.on(fast).on(slow)
		words := dice(1)
		var long strings.Builder
		for long.Len() < 200_000 {
			fmt.Fprintf(&long, "%016x", words.Uint64())
		}
		b.handler = http.HandlerFunc(func(rw http.ResponseWriter, r *http.Request) {
			body, err := io.ReadAll(r.Body)
			if err != nil {
				t.Error(err)
			}
			rw.Header().Set("Content-Type", "text/plain")
			rw.WriteHeader(http.StatusTeapot)
			_, _ = io.WriteString(rw, long.String()+fmt.Sprint(r.Method, " ", r.URL, " ", r.Host, " ", len(body)))
		})
		w.start()
		pass(10 * time.Second)
		got := make(chan string, 1)
		go func() {
			r, err := http.NewRequestWithContext(t.Context(), http.MethodPost, "matrix-federation://bert.test/some/path?x=%2F", strings.NewReader(long.String()[:100_000]))
			if err != nil {
				t.Error(err)
			}
			resp, err := a.link.RoundTripper().RoundTrip(r)
			if err != nil {
				got <- err.Error()
				return
			}
			body, err := io.ReadAll(resp.Body)
			got <- fmt.Sprint(resp.StatusCode, " ", resp.Header.Get("Content-Type"), " ", string(body), err)
		}()
		pass(4 * time.Second) // in the middle of the answer
		fast.setCut(true)
		pass(time.Minute)
		fast.setCut(false)
		pass(time.Minute)
		wanted := "418 text/plain " + long.String() + "POST /some/path?x=%2F bert.test 100000<nil>"
		select {
		case s := <-got:
			if s != wanted {
				t.Errorf("got %d bytes, %.60q...%q, want %d bytes", len(s), s, s[max(0, len(s)-60):], len(wanted))
			}
		default:
			t.Error("no answer yet")
		}
		// Out of reach is said at once.
		fast.setCut(true)
		slow.setCut(true)
		pass(time.Second)
		r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, "matrix-federation://bert.test/", nil)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := a.link.RoundTripper().RoundTrip(r); err == nil {
			t.Error("a request to a box out of reach got an answer")
		}
	})
}
