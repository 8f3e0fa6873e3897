// SPDX-License-Identifier: EUPL-1.2

package relay

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"hallig/sync/parcel"
	"hallig/sync/peer"
)

// mesh is boxes that only tell each other of ways.
type mesh struct {
	t     *testing.T
	now   time.Time
	boxes []peer.ID
	nodes map[peer.ID]*routes
	told  map[[2]peer.ID]map[peer.ID]byte
	ways  map[[2]peer.ID]bool
	said  int // entries
}

func newMesh(t *testing.T, n int) *mesh {
	m := &mesh{t: t, now: time.Unix(0, 0), nodes: map[peer.ID]*routes{}, told: map[[2]peer.ID]map[peer.ID]byte{}, ways: map[[2]peer.ID]bool{}}
	for i := range n {
		id := peer.ID(fmt.Sprintf("box%02d", i))
		m.boxes = append(m.boxes, id)
		m.nodes[id] = newRoutes(id)
	}
	return m
}

func (m *mesh) way(a, b int, up bool) {
	x, y := m.boxes[a], m.boxes[b]
	if m.ways[[2]peer.ID{x, y}] == up {
		return
	}
	cost := 0
	if up {
		cost = 4
	}
	for _, p := range [][2]peer.ID{{x, y}, {y, x}} {
		m.ways[p] = up
		delete(m.told, p)
		m.nodes[p[0]].neighbour(p[1], cost, m.now)
	}
}

// talk lets everybody say what is new until nobody has anything new to say; a circle that counts up would not end.
func (m *mesh) talk() {
	for round := 0; ; round++ {
		if round > 200 {
			m.t.Fatal("the boxes do not come to an end")
		}
		quiet := true
		for p, up := range m.ways {
			if !up {
				continue
			}
			is := m.nodes[p[0]].tell(p[1], m.now)
			var news []parcel.Reach
			for id, cost := range is {
				if m.told[p][id] != cost {
					news = append(news, parcel.Reach{Box: id, Cost: cost})
				}
			}
			for id := range m.told[p] {
				if is[id] == 0 {
					news = append(news, parcel.Reach{Box: id})
				}
			}
			m.told[p] = is
			if len(news) > 0 {
				quiet = false
				m.said += len(news)
				m.nodes[p[1]].hear(p[0], news, m.now)
			}
		}
		if quiet {
			return
		}
	}
}

// settle lets time pass until all holds are over.
func (m *mesh) settle() {
	for range 4 {
		m.talk()
		m.now = m.now.Add(5 * time.Minute)
		for _, n := range m.nodes {
			n.settle(m.now)
		}
	}
	m.talk()
}

// walk follows the ways from box to box.
func (m *mesh) walk(from, to peer.ID) (hops int, ok bool) {
	for at := from; at != to; hops++ {
		r, known := m.nodes[at].best[to]
		if !known || hops > len(m.boxes) {
			return hops, false
		}
		at = r.next
	}
	return hops, true
}

// distances are the true ones.
func (m *mesh) distances(from peer.ID) map[peer.ID]int {
	d := map[peer.ID]int{from: 0}
	for todo := []peer.ID{from}; len(todo) > 0; todo = todo[1:] {
		for p, up := range m.ways {
			if _, seen := d[p[1]]; up && p[0] == todo[0] && !seen {
				d[p[1]] = d[todo[0]] + 1
				todo = append(todo, p[1])
			}
		}
	}
	return d
}

func (m *mesh) check(what string) {
	m.t.Helper()
	for _, a := range m.boxes {
		real := m.distances(a)
		for _, b := range m.boxes {
			if a == b {
				continue
			}
			want, reachable := real[b]
			hops, ok := m.walk(a, b)
			_, believes := m.nodes[a].best[b]
			switch {
			case reachable && (!ok || hops != want):
				m.t.Errorf("%s: %s to %s: %d hops, %v; want %d", what, a, b, hops, ok, want)
			case !reachable && believes:
				m.t.Errorf("%s: %s believes that it reaches %s", what, a, b)
			}
		}
	}
}

func TestRoutes(t *testing.T) {
	chain := newMesh(t, 5)
	for i := range 4 {
		chain.way(i, i+1, true)
	}
	chain.settle()
	chain.check("chain")
	if chain.said > 60 {
		t.Errorf("a chain of five took %d entries to know itself", chain.said)
	}
	chain.way(2, 3, false)
	chain.settle()
	chain.check("cut chain")
	chain.way(2, 3, true)
	chain.way(4, 0, true)
	chain.settle()
	chain.check("ring")
	said := chain.said
	chain.settle()
	if chain.said != said {
		t.Errorf("%d entries were said although nothing had changed", chain.said-said)
	}
	for i := range 5 {
		chain.way(i, (i+1)%5, false)
		chain.settle()
		chain.check(fmt.Sprint("ring without way ", i))
		chain.way(i, (i+1)%5, true)
		chain.settle()
		chain.check(fmt.Sprint("ring with way ", i))
	}
}

// Ways come and go at random, also while news is still on its way.
func TestRoutesByChance(t *testing.T) {
	for seed := range uint64(20) {
		rnd := rand.New(rand.NewPCG(seed, 7))
		m := newMesh(t, 12)
		for range 60 {
			a, b := rnd.IntN(12), rnd.IntN(12)
			if a != b {
				m.way(a, b, rnd.IntN(3) > 0)
			}
			m.now = m.now.Add(time.Duration(rnd.IntN(200)) * time.Second)
			if rnd.IntN(3) == 0 {
				m.talk()
			}
		}
		m.settle()
		m.check(fmt.Sprint("seed ", seed))
	}
}

// A neighbour that names more boxes than it may, or impossible costs, gains nothing.
func TestRoutesBounded(t *testing.T) {
	m := newMesh(t, 3)
	m.way(0, 1, true)
	r := m.nodes["box00"]
	var news []parcel.Reach
	for i := range 500 {
		news = append(news, parcel.Reach{Box: peer.ID(fmt.Sprint("ghost", i)), Cost: 1})
	}
	if over := r.hear("box01", news, m.now); over != 500-maxSaid || len(r.said["box01"]) != maxSaid {
		t.Errorf("%d entries were too many, %d are kept", over, len(r.said["box01"]))
	}
	m.way(0, 2, true)
	r.hear("box02", []parcel.Reach{{Box: "box00", Cost: 1}, {Box: "far", Cost: 121}, {Box: "box02", Cost: 7}, {Box: "old", Cost: 255}, {Box: "older", Cost: 0}}, m.now)
	for _, id := range []peer.ID{"box00", "far", "old", "older"} {
		if _, ok := r.best[id]; ok {
			t.Errorf("there is a way to %s", id)
		}
	}
	if got := r.tell("box02", m.now); len(got) > maxTold {
		t.Errorf("%d boxes are passed on", len(got))
	}
}

// Who met a box more lately suits it better; who met it long ago does not.
func TestPastFits(t *testing.T) {
	m := newMesh(t, 2)
	m.way(0, 1, true)
	r := m.nodes["box00"]
	r.met["dora"] = m.now.Add(-10 * time.Hour)
	for _, c := range []struct {
		ago  time.Duration
		want fit
	}{{time.Hour, fitPast}, {9 * time.Hour, fitBlind}, {40 * time.Hour, fitBlind}} {
		r.hear("box01", []parcel.Reach{{Box: "dora", Cost: pastOf(c.ago)}}, m.now)
		if got := r.suits("box01", "dora", m.now); got != c.want {
			t.Errorf("met %v ago: fit %d, want %d", c.ago, got, c.want)
		}
	}
	if got := ageOf(pastOf(24 * time.Hour)); got > 24*time.Hour || got < 18*time.Hour {
		t.Errorf("a day comes out as %v", got)
	}
}
