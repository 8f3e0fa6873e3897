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

// radioed plugs two boxes into the two ends of a simulated medium.
func radioed(air *ether.Ether, cfg ether.Config, a, b *box) {
	for i, x := range []*box{a, b} {
		x.plugs = append(x.plugs, func() Transport {
			x.port = radio.New(radio.Config{Name: fmt.Sprint("tty", i), BitsPerSecond: cfg.BitsPerSecond, TurnDelay: cfg.TurnDelay, FullDuplex: cfg.FullDuplex,
				Seed: cfg.Seed<<8 + uint64(i) + 1, Log: x.logger(),
				Open: func(context.Context) (io.ReadWriteCloser, error) { return air.Open(i) }})
			return x.port
		})
	}
}

func spoken(air *ether.Ether) uint64 { return air.Counters(0).Bytes + air.Counters(1).Bytes }

// until lets virtual time pass until ok and says how long that took.
func until(t *testing.T, most time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	began := time.Now()
	for !ok() {
		if time.Since(began) > most {
			t.Fatalf("%s: not within %v", what, most)
		}
		pass(100 * time.Millisecond)
	}
	return time.Since(began)
}

// The story of the product: a room is joined over the radio alone, a fifth of all frames is lost, ten texts go each way.
func TestSerialStory(t *testing.T) {
	for seed := range uint64(5) {
		run(t, func(t *testing.T, w *world) {
			cfg := ether.Config{BitsPerSecond: 1200, FrameLoss: 0.2, Seed: seed}
			air := ether.New(cfg)
			a, b := w.box("anna"), w.box("bert")
			pair(a, b)
			radioed(air, cfg, a, b)
			w.start()
			greeted := func() bool {
				s, u := a.link.Status(), b.link.Status()
				return len(s) == 1 && s[0].Greeted && len(u) == 1 && u[0].Greeted
			}
			met := until(t, 3*time.Minute, "greeting", greeted)
			if !a.port.Stats().Keyed || !b.port.Stats().Keyed {
				t.Error("the radio works without keys, want frames protected by keys")
			}
			id := a.create("anna")
			began, bytes := time.Now(), spoken(air)
			b.join(a, id, "bert")
			join, joinBytes := time.Since(began), spoken(air)-bytes
			pass(5 * time.Minute)
			var msgs []event.ID
			bytes = spoken(air)
			for i := range 10 {
				msgs = append(msgs, a.text(id, "anna", fmt.Sprintf("Anna sagt zum %d. Mal, dass das Wasser am Deich steigt und Sandsäcke fehlen, bitte schnell kommen.", i)),
					b.text(id, "bert", fmt.Sprintf("Bert antwortet zum %d. Mal, dass zwei Fahrzeuge mit Sand unterwegs sind, Ankunft in einer Stunde.", i)))
			}
			took := until(t, 180*time.Second, "ten texts each way", func() bool { return len(a.timeline(id)) == 20 && len(b.timeline(id)) == 20 })
			talk := spoken(air) - bytes
			pass(2 * time.Minute)
			want(t, id, msgs, a, b)
			quiet := spoken(air)
			pass(time.Minute)
			t.Logf("seed %d: greeted after %v, joined in %v (%d B), 20 texts in %v (%d B), then %d B in a quiet minute", seed, met, join, joinBytes, took, talk, spoken(air)-quiet)
		})
	}
}

// A lone text over an established link: frame, acknowledgement and receipt, both directions.
func TestLoneTextBytes(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		cfg := ether.Config{BitsPerSecond: 1200, Seed: 1}
		air := ether.New(cfg)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		radioed(air, cfg, a, b)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		b.join(a, id, "bert")
		pass(5 * time.Minute)
		a.text(id, "anna", "das erste macht die Namen bekannt")
		pass(time.Minute)
		b.text(id, "bert", "das zweite auch")
		pass(time.Minute)
		var sum, n uint64
		for i := range 10 {
			idle := spoken(air)
			pass(30 * time.Second)
			idle = spoken(air) - idle
			before := spoken(air)
			a.text(id, "anna", fmt.Sprintf("%-100.100s", fmt.Sprintf("Pegel %d steigt weiter, bitte die Leute aus der Siedlung am alten Hafen bis heute Abend abholen lassen, danke sehr", i)))
			pass(30 * time.Second)
			cost := spoken(air) - before
			t.Logf("text %d: %d bytes on the line (30 quiet seconds before it: %d)", i, cost, idle)
			sum += cost - idle
			n++
		}
		// The text itself is the codec's business; the rest is ours: frames, acknowledgements, signature, references, receipt.
		if got := sum/n - 100; got > 115 {
			t.Errorf("a lone text costs %d bytes on the line besides its 100 characters, want at most 115", got)
		}
	})
}

// What is written while somebody joins over a slow line reaches them too: it is no ancestor of their join.
func TestTalkDuringJoin(t *testing.T) {
	run(t, func(t *testing.T, w *world) {
		cfg := ether.Config{BitsPerSecond: 1200, Seed: 3}
		air := ether.New(cfg)
		a, b := w.box("anna"), w.box("bert")
		pair(a, b)
		radioed(air, cfg, a, b)
		w.start()
		pass(time.Minute)
		id := a.create("anna")
		for i := range 30 {
			a.text(id, "anna", fmt.Sprint("history ", i))
		}
		done := make(chan error, 1)
		go func() { done <- b.tryJoin(t.Context(), a, id, "bert") }()
		var during []event.ID
		for i := range 12 {
			during = append(during, a.text(id, "anna", fmt.Sprint("meanwhile ", i)))
			pass(2 * time.Second)
		}
		if err := <-done; err != nil {
			t.Fatal(err)
		}
		before := spoken(air)
		pass(5 * time.Minute)
		got := b.timeline(id)
		if len(got) == 0 || len(got) > len(during) || count(got, during) > 0 {
			t.Fatalf("bert's box shows %d messages, of which %d are older than the join", len(got), count(got, during))
		}
		if lost := count(during[len(during)-len(got):], got); lost > 0 {
			t.Errorf("bert's box lacks %d messages in the middle", lost)
		}
		if s := a.link.Status(); s[0].InFlight != 0 {
			t.Errorf("%d events are without a receipt", s[0].InFlight)
		}
		t.Logf("%d of %d messages came after the join's base, %d bytes for them", len(got), len(during), spoken(air)-before)
	})
}

// A plug is pulled and put back in the middle of talk, more than once; one box loses its memory on the way.
func TestUnplugged(t *testing.T) {
	for seed := range uint64(3) {
		run(t, func(t *testing.T, w *world) {
			cfg := ether.Config{BitsPerSecond: 1200, FrameLoss: 0.1, Seed: seed}
			air := ether.New(cfg)
			a, b := w.box("anna"), w.box("bert")
			pair(a, b)
			radioed(air, cfg, a, b)
			w.start()
			pass(time.Minute)
			id := a.create("anna")
			b.join(a, id, "bert")
			var msgs []event.ID
			for round := range 3 {
				for i := range 5 {
					msgs = append(msgs, a.text(id, "anna", fmt.Sprint("a ", round, i)), b.text(id, "bert", fmt.Sprint("b ", round, i)))
				}
				pass(time.Duration(2+3*round) * time.Second)
				air.Unplug(round%2, true)
				if round == 1 {
					b.halt()
				}
				pass(3 * time.Minute)
				air.Unplug(round%2, false)
				if round == 1 {
					b.start()
				}
				pass(time.Second)
			}
			pass(5 * time.Minute)
			want(t, id, msgs, a, b)
		})
	}
}
