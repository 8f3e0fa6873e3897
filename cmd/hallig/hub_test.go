// SPDX-License-Identifier: EUPL-1.2

package main

import (
	"strings"
	"testing"
	"time"

	"hallig/appliance/admin"
)

// TestHubText: the status always says what the hub may do in the box's name.
func TestHubText(t *testing.T) {
	since := time.Now()
	for want, h := range map[string]admin.Hub{
		"not paired; call hallig-hub pair there": {Mode: "sealed"},
		"--at ADDRESS\n      The configuration names the hub hub.example, and that is not paired; paired: hub.right": {Mode: "sealed", Others: []string{"hub.right"}},
		"out of reach itself; last heard through the box b.example at 2":                                             {Paired: true, Mode: "sealed", Through: "b.example", ThroughAt: since},
		", sealed (it has no key of this box)\n":                                                                     {Paired: true, InReach: true, Mode: "sealed"},
		", delegate (it holds no key yet)\n":                                                                         {Paired: true, Mode: "delegate"},
		", delegate (it can sign in the name of this box, with ed25519:hub_a)\n":                                     {Paired: true, Mode: "delegate", Key: "ed25519:hub_a"},
		", delegate (it holds no key yet)\n      the hub serves this box sealed: it says\n":                          {Paired: true, Mode: "delegate", ModeTrouble: "the hub serves this box sealed: it says"},
	} {
		h.ServerName, h.Since = "hub.example", since
		var b strings.Builder
		printHub(&b, &h)
		if !strings.Contains(b.String(), want) || !strings.HasPrefix(b.String(), "  hub hub.example: ") {
			t.Errorf("%+v: %q, want %q in it", h, b.String(), want)
		}
	}
}
