// SPDX-License-Identifier: EUPL-1.2

package lan

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"testing"
	"time"
)

// TestRandomStories: cables are pulled and plugged, routers come and go, phones come, all at random. When a quarter of an hour has been quiet, the
// network is as it must be: with a router all boxes are its guests; without one exactly one box is host and the others are its guests; every phone
// has an address of whoever serves, no two machines have the same one, and no two boxes the same name.
func TestRandomStories(t *testing.T) {
	seeds := uint64(300)
	if testing.Short() {
		seeds = 20
	}
	for seed := range seeds {
		var told []string
		tell := func(w *wire, format string, args ...any) {
			told = append(told, fmt.Sprintf("%8s ", w.now.Sub(time.Unix(3600, 0)).Round(time.Millisecond))+fmt.Sprintf(format, args...))
		}
		ok := t.Run(fmt.Sprint(seed), func(t *testing.T) { randomStory(t, rand.New(rand.NewPCG(seed, 7)), tell) })
		if !ok {
			for _, line := range told {
				t.Log(line)
			}
			return
		}
	}
}

func randomStory(t *testing.T, rnd *rand.Rand, tell func(*wire, string, ...any)) {
	w := newWire(t)
	var boxes []*testBox
	for i := range 3 {
		b := w.box(Config{}, byte(1+i))
		b.plug(rnd.IntN(2) == 0)
		boxes = append(boxes, b)
	}
	routers := []*router{w.router("192.168.7.1/24", 1), w.router("192.168.8.1/24", 2)}
	for _, r := range routers {
		w.remove(r)
	}
	var phones []*phone
	on := func(n node) bool { return slices.Contains(w.nodes, n) }
	for range 5 + rnd.IntN(25) {
		switch rnd.IntN(6) {
		case 0, 1, 2:
			b := boxes[rnd.IntN(len(boxes))]
			b.plug(!b.links[0].Carrier)
			tell(w, "box %s: cable %v", b.links[0].MAC, b.links[0].Carrier)
		case 3:
			r := routers[rnd.IntN(len(routers))]
			if on(r) {
				w.remove(r)
			} else {
				w.nodes = append(w.nodes, r)
			}
			tell(w, "router %s: %v", r.Self(), on(r))
		case 4:
			if len(phones) < 6 {
				phones = append(phones, w.phone(byte(1+len(phones))))
				tell(w, "phone %d", len(phones))
			}
		}
		w.run(time.Duration(rnd.Int64N(int64(2 * time.Minute))))
	}
	if on(routers[0]) && on(routers[1]) { // which of two servers a machine has is its own choice
		w.remove(routers[1])
		tell(w, "router %s: off", routers[1].Self())
	}
	w.run(26 * time.Minute) // leases are of ten minutes at most; then somebody serves, and everybody has asked
	var served netip.Prefix
	routed := on(routers[0]) || on(routers[1])
	plugged, hosts := 0, 0
	for _, b := range boxes {
		f := b.iface(0)
		tell(w, "box %s: %s %v %v", f.MAC, f.Mode, f.Addresses, f.Names)
		if !f.Carrier {
			continue
		}
		plugged++
		if f.Mode == Host {
			hosts++
			served = f.Addresses[0]
		}
	}
	for _, r := range routers {
		if on(r) {
			served = r.Self()
		}
	}
	switch {
	case routed && hosts > 0:
		t.Errorf("%d hosts beside a router", hosts)
	case !routed && plugged > 0 && hosts != 1:
		t.Errorf("%d hosts of %d boxes without a router", hosts, plugged)
	}
	owner, named := map[netip.Addr]string{}, map[string]string{}
	claim := func(who string, a netip.Prefix) {
		if o, taken := owner[a.Addr()]; taken {
			t.Errorf("%s and %s have %s", o, who, a)
		}
		if owner[a.Addr()] = who; a.Masked() != served.Masked() {
			t.Errorf("%s has %s, served is %s", who, a, served)
		}
	}
	for _, b := range boxes {
		f := b.iface(0)
		if !f.Carrier {
			continue
		}
		if len(f.Addresses) != 1 {
			t.Errorf("box %s has %v", f.MAC, f.Addresses)
			continue
		}
		claim("box "+f.MAC, f.Addresses[0])
		if len(f.Names) != 1 || named[f.Names[0]] != "" {
			t.Errorf("box %s is called %v (%v)", f.MAC, f.Names, named)
			continue
		}
		if named[f.Names[0]] = f.MAC; f.Mode == Host && f.Names[0] != Shared {
			t.Errorf("the host is called %v", f.Names)
		}
	}
	if !served.IsValid() {
		return
	}
	for i, p := range phones {
		if p.Lease() == nil {
			t.Errorf("phone %d has no address", i+1)
			continue
		}
		claim(fmt.Sprintf("phone %d", i+1), p.Lease().Addr)
	}
}
