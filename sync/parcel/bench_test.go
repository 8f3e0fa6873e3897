// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"fmt"
	"testing"
)

// BenchmarkEvent measures one message there and back, on a link that counts bytes and on one that does not.
func BenchmarkEvent(b *testing.B) {
	for _, model := range []bool{true, false} {
		b.Run(fmt.Sprintf("model=%v", model), func(b *testing.B) {
			c := testCodec(b)
			r := newRoom(b, "12", 1)
			near, far := c.Session(1, 2), c.Session(2, 1)
			near.UseModel(model)
			near.UseVersion2(true)
			var events []*Event
			for range 500 {
				events = append(events, r.say(0, "Pegel Nord 4,12 m, steigend. Deichwache meldet Sickerwasser, wir brauchen 200 Sandsäcke bis 18 Uhr."))
			}
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				msg, _, ticket, err := near.Encode(MaxMessage, events[i%len(events)])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := far.Decode(msg); err != nil {
					b.Fatal(err)
				}
				near.Arrived(ticket)
			}
		})
	}
}

// BenchmarkLife measures events as busy rooms hold them, both ends together.
func BenchmarkLife(b *testing.B) {
	for _, model := range []bool{true, false} {
		b.Run(fmt.Sprintf("model=%v", model), func(b *testing.B) {
			c := testCodec(b)
			r, _, from := lifeOf(b, "12", 1, 500)
			near, far := c.Session(1, 2), c.Session(2, 1)
			near.UseModel(model)
			near.UseVersion2(true)
			events := r.events[from:]
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				msg, _, ticket, err := near.Encode(MaxMessage, events[i%len(events)])
				if err != nil {
					b.Fatal(err)
				}
				if _, err := far.Decode(msg); err != nil {
					b.Fatal(err)
				}
				near.Arrived(ticket)
			}
		})
	}
}

// BenchmarkJoinBody measures the answer to a join, packed and unpacked.
func BenchmarkJoinBody(b *testing.B) {
	c := testCodec(b)
	body := bodyOf(b, "12", 200)
	b.SetBytes(int64(len(body)))
	for b.Loop() {
		if _, err := c.Unpack(c.PackEvents(body), len(body)); err != nil {
			b.Fatal(err)
		}
	}
}
