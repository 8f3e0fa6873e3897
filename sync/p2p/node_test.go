// SPDX-License-Identifier: EUPL-1.2

package p2p

import (
	"testing"

	"github.com/libp2p/go-libp2p/core/network"
	ma "github.com/multiformats/go-multiaddr"
)

// A town's boxes come to the hub from behind one address, all at once when the power is back.
func TestMeetingTakesMany(t *testing.T) {
	for _, from := range []string{"/ip4/192.0.2.7/tcp/4001", "/ip6/2001:db8::7/tcp/4001"} {
		addr, err := ma.NewMultiaddr(from)
		if err != nil {
			t.Fatal(err)
		}
		count := func(meeting bool) (n int) {
			r, err := resources(meeting)
			if err != nil {
				t.Fatal(err)
			}
			defer r.Close()
			for range 300 {
				scope, err := r.OpenConnection(network.DirInbound, true, addr)
				if err != nil {
					return n
				}
				defer scope.Done()
				n++
			}
			return n
		}
		if n := count(true); n != 300 {
			t.Errorf("a hub took %d of 300 connections from %s", n, from)
		}
		if n := count(false); n == 0 || n > 100 {
			t.Errorf("a field box took %d of 300 connections from %s", n, from)
		}
	}
}
