// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"fmt"
	"io"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/radio"
	"hallig/radio/ether"
)

// shared puts boxes on one channel.
func shared(air *ether.Ether, cfg ether.Config, boxes ...*box) {
	for i, x := range boxes {
		x.plugs = append(x.plugs, func() Transport {
			x.port = radio.New(radio.Config{Name: fmt.Sprint("tty", i), BitsPerSecond: cfg.BitsPerSecond, TurnDelay: cfg.TurnDelay, Shared: true,
				Station: uint32(i + 1), Seed: cfg.Seed<<8 + uint64(i) + 1, Log: x.logger(),
				Open: func(context.Context) (io.ReadWriteCloser, error) { return air.Open(i) }})
			return x.port
		})
	}
}

// Three boxes on one channel: a room is joined over it alone, and what each writes reaches both others.
func TestSharedChannel(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		cfg := ether.Config{Ends: 3, BitsPerSecond: 9600, TurnDelay: 50 * time.Millisecond, FrameLoss: 0.05, Seed: 2}
		air := ether.New(cfg)
		a, b, c := w.box("anna"), w.box("bert"), w.box("cora")
		pair(a, b)
		pair(a, c)
		pair(b, c)
		shared(air, cfg, a, b, c)
		w.start()
		until(t, 5*time.Minute, "greetings", func() bool {
			for _, x := range []*box{a, b, c} {
				s := x.link.Status()
				if len(s) != 2 || !s[0].Greeted || !s[1].Greeted {
					return false
				}
			}
			return true
		})
		id := a.create("anna")
		b.join(a, id, "bert")
		c.join(a, id, "cora")
		pass(2 * time.Minute)
		var msgs []event.ID
		for i := range 5 {
			msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", i)), b.text(id, "bert", fmt.Sprint("b ", i)), c.text(id, "cora", fmt.Sprint("c ", i)))
			pass(5 * time.Second)
		}
		pass(3 * time.Minute)
		want(t, id, msgs, a, b, c)
		if !a.port.Stats().Keyed {
			t.Error("the channel works without keys, want frames protected by keys")
		}
	})
}
