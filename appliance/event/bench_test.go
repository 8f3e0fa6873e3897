// SPDX-License-Identifier: EUPL-1.2

package event

import (
	"crypto/ed25519"
	"encoding/json"
	"testing"
)

func message(t testing.TB) *PDU {
	p, err := Build(Default(), Proto{RoomID: "!Nhcu5BS-UMnFX7hBVfVSoXiD7OgH6iRT-xyIuqDnpYQ", Sender: "@alice:box.hallig.internal", Type: "m.room.message",
		Content: json.RawMessage(`{"body":"Wasserstand am Pegel 3,40 m und steigend, wir räumen die Warft.","msgtype":"m.text","m.mentions":{}}`),
		Prev:    []ID{"$Rqnc-F-dvnEYJTyHq_iKxU2bZ1CI92-kuZq3a5lr5Zg"}, Auth: []ID{"$acR1l0raoZnm60CBwAVgqbZqoO_mYU81xysh1u7XcJk", "$CD66HAED5npg6074c6pDtLKalHjVfYb2q4Q3LZgrW6o"},
		Depth: 4711, TS: 1780000000000}, "box.hallig.internal", specKey(t))
	if err != nil {
		t.Fatal(err)
	}
	return p
}

func BenchmarkCanonical(b *testing.B) {
	raw := message(b).JSON()
	unsorted := append([]byte(`{"unsigned": {"age":1},`), raw[1:]...)
	b.Run("already", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Canonical(raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("unsorted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Canonical(unsorted); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkParse(b *testing.B) {
	p := message(b)
	raw := p.JSON()
	b.Run("outside", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := Parse(p.Version, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("trusted", func(b *testing.B) {
		b.ReportAllocs()
		for b.Loop() {
			if _, err := ParseTrusted(p.Version, p.ID, raw); err != nil {
				b.Fatal(err)
			}
		}
	})
}

func BenchmarkCheckHash(b *testing.B) {
	p := message(b)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.CheckHash(); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkBuild(b *testing.B) {
	p, k := message(b), specKey(b)
	proto := Proto{RoomID: p.RoomID, Sender: p.Sender, Type: p.Type, Content: p.Content, Prev: p.Prev, Auth: p.Auth, Depth: p.Depth, TS: p.TS}
	b.ReportAllocs()
	for b.Loop() {
		if _, err := Build(p.Version, proto, "box.hallig.internal", k); err != nil {
			b.Fatal(err)
		}
	}
}

func BenchmarkVerify(b *testing.B) {
	p, pub := message(b), specKey(b).Private.Public().(ed25519.PublicKey)
	b.ReportAllocs()
	for b.Loop() {
		if err := p.VerifySignature("box.hallig.internal", "ed25519:1", pub); err != nil {
			b.Fatal(err)
		}
	}
}
