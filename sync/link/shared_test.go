// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"context"
	"crypto/ed25519"
	"fmt"
	"io"
	"testing"
	"time"

	"hallig/appliance/event"
	"hallig/radio"
	"hallig/radio/ether"
	"hallig/sync/parcel"
)

// shared puts boxes on one channel.
func shared(air *ether.Ether, cfg ether.Config, boxes ...*box) { sharedAs(air, cfg, nil, boxes...) }

// alone is a port without the ability to broadcast.
type alone struct{ port *radio.Port }

func (a alone) Name() string { return a.port.Name() }
func (a alone) Serve(ctx context.Context, up func(string, int, int), down func(string), received func(string, []byte), ready func(string)) error {
	return a.port.Serve(ctx, up, down, received, ready)
}
func (a alone) Send(addr string, priority int, message []byte, done func(error)) {
	a.port.Send(addr, priority, message, done)
}
func (a alone) Free(addr string, priority int) int { return a.port.Free(addr, priority) }
func (a alone) SetKeys(addr string, send, receive []byte) error {
	return a.port.SetKeys(addr, send, receive)
}

// sharedAs is shared with ports as seen through wrap.
func sharedAs(air *ether.Ether, cfg ether.Config, wrap func(*radio.Port) Transport, boxes ...*box) {
	for i, x := range boxes {
		x.plugs = append(x.plugs, func() Transport {
			x.port = radio.New(radio.Config{Name: fmt.Sprint("tty", i), BitsPerSecond: cfg.BitsPerSecond, TurnDelay: cfg.TurnDelay, Shared: true,
				Station: uint32(i + 1), Seed: cfg.Seed<<8 + uint64(i) + 1, Log: x.logger(),
				Open: func(context.Context) (io.ReadWriteCloser, error) { return air.Open(i) }})
			if wrap != nil {
				return wrap(x.port)
			}
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

func spokenBy(air *ether.Ether, ends int) (n uint64) {
	for i := range ends {
		n += air.Counters(i).Bytes
	}
	return n
}

// A batch comes to one of four boxes on one channel: it goes to the others at once, for much less air than to each of them.
func TestBroadcastBatch(t *testing.T) {
	measure := func(t *testing.T, seed uint64, wrap func(*radio.Port) Transport) (took time.Duration, spent uint64, casts uint32) {
		run(t, func(t *testing.T, w *world) {
			cfg := ether.Config{Ends: 4, BitsPerSecond: 1200, TurnDelay: 300 * time.Millisecond, FrameLoss: 0.05, Seed: seed}
			air := ether.New(cfg)
			locals := []string{"anna", "bert", "cora", "dora"}
			var boxes []*box
			for _, local := range locals {
				boxes = append(boxes, w.box(local))
			}
			for i, a := range boxes {
				for _, b := range boxes[:i] {
					pair(b, a)
				}
			}
			sharedAs(air, cfg, wrap, boxes...)
			w.start()
			pass(10 * time.Minute)
			id := boxes[0].create("anna")
			for i, b := range boxes[1:] {
				b.join(boxes[0], id, locals[i+1])
			}
			pass(10 * time.Minute)
			var msgs []event.ID
			for i, b := range boxes {
				msgs = append(msgs, b.text(id, locals[i], fmt.Sprint("hier ist ", i)))
				pass(time.Minute)
			}
			pass(5 * time.Minute)
			began, before := time.Now(), spokenBy(air, 4)
			gate := make(chan struct{})
			boxes[0].link.post(func() { <-gate }) // they come all at once, as from a stick
			for i := range 24 {
				msgs = append(msgs, boxes[0].text(id, "anna", fmt.Sprintf("Lage %d: Pegel steigt, zwei Pumpen laufen, Straße zum Hafen ist gesperrt.", i)))
			}
			close(gate)
			there := func() bool {
				for _, b := range boxes[1:] {
					if len(b.timeline(id)) < len(msgs) {
						return false
					}
				}
				return true
			}
			until(t, time.Hour, "everything at all boxes", there)
			took, spent = time.Since(began), spokenBy(air, 4)-before
			pass(10 * time.Minute)
			want(t, id, msgs, boxes...)
			sent := make(chan uint32, 1)
			boxes[0].link.post(func() { sent <- boxes[0].link.cast.number })
			casts = <-sent
		})
		return took, spent, casts
	}
	var sent uint32
	var together, each uint64 // bytes on the air: how long it takes depends on which frames are lost and who has his turn then
	for seed := range uint64(3) {
		a, bytes, casts := measure(t, 4+seed, nil)
		b, bytesEach, none := measure(t, 4+seed, func(p *radio.Port) Transport { return alone{p} })
		t.Logf("24 texts to three boxes: %v and %d bytes at once, %v and %d bytes to each", a, bytes, b, bytesEach)
		if together, each, sent = together+bytes, each+bytesEach, sent+casts; none != 0 {
			t.Errorf("%d broadcasts were sent where every station is alone", none)
		}
	}
	if sent == 0 {
		t.Error("no broadcast was sent")
	}
	if 10*each < 13*together {
		t.Errorf("three batches at once took %d bytes, to each %d: it does not pay", together, each)
	}
}

// Who knows the key of broadcasts but is not the box cannot speak for it; damage and wrong keys are refused.
func TestForgedBroadcast(t *testing.T) {
	_, box, _ := ed25519.GenerateKey(nil)
	_, reader, _ := ed25519.GenerateKey(nil)
	public := box.Public().(ed25519.PublicKey)
	k := castKey{id: 7, key: [32]byte{1}}
	seal := func(by ed25519.PrivateKey, k castKey, number uint32) []byte {
		b, err := sealCast(by, k, number, []byte("message"))
		if err != nil {
			t.Fatal(err)
		}
		return b
	}
	good := seal(box, k, 3)
	for _, tc := range []struct {
		what string
		b    parcel.Broadcast
		ok   bool
	}{
		{"as it was sent", parcel.Broadcast{Key: 7, Number: 3, Body: good}, true},
		{"open", parcel.Broadcast{Number: 3, Body: seal(box, castKey{}, 3)}, true},
		{"by a reader", parcel.Broadcast{Key: 7, Number: 3, Body: seal(reader, k, 3)}, false},
		{"by a reader, open", parcel.Broadcast{Number: 3, Body: seal(reader, castKey{}, 3)}, false},
		{"under another number", parcel.Broadcast{Key: 7, Number: 4, Body: good}, false},
		{"under an unknown key", parcel.Broadcast{Key: 8, Number: 3, Body: good}, false},
		{"closed as open", parcel.Broadcast{Number: 3, Body: good}, false},
		{"short", parcel.Broadcast{Key: 7, Number: 3, Body: good[:20]}, false},
		{"empty", parcel.Broadcast{}, false},
		{"damaged", parcel.Broadcast{Key: 7, Number: 3, Body: append([]byte{good[0] ^ 1}, good[1:]...)}, false},
	} {
		inner, err := openCast(public, []castKey{k}, &tc.b)
		if (err == nil) != tc.ok || tc.ok && string(inner) != "message" {
			t.Errorf("%s: %q, %v", tc.what, inner, err)
		}
	}
}
