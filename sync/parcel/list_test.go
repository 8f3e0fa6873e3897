// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"bytes"
	"encoding/json"
	"fmt"
	"math/rand/v2"
	"testing"
)

// bodyOf is an answer full of the events of a room's life: some twice, some in any order, some as encoding/json writes them.
func bodyOf(t testing.TB, version string, n int) []byte {
	t.Helper()
	r, _, _ := lifeOf(t, version, 5, n)
	b := []byte(`{"origin":"x","event":`)
	one, err := json.Marshal(json.RawMessage(r.events[7].PDU.JSON()))
	if err != nil {
		t.Fatal(err)
	}
	b = append(append(b, one...), `,"state":[`...)
	rnd := rand.New(rand.NewPCG(1, 2))
	for i, j := range rnd.Perm(len(r.events)) {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, r.events[j].PDU.JSON()...)
	}
	b = append(b, `],"auth_chain":[`...)
	for i := range 30 {
		if i > 0 {
			b = append(b, ',')
		}
		esc, err := json.Marshal(json.RawMessage(r.events[i*2].PDU.JSON()))
		if err != nil {
			t.Fatal(err)
		}
		b = append(b, esc...)
	}
	return append(b, fmt.Sprintf(`],"room_version":"%s"}`, version)...)
}

// smallBody is the answer to a join of a new room.
func smallBody(t testing.TB, version string) []byte {
	t.Helper()
	b := []byte(`{"state":[`)
	for i, e := range newRoom(t, version, 1).events {
		if i > 0 {
			b = append(b, ',')
		}
		b = append(b, e.PDU.JSON()...)
	}
	return append(b, `]}`...)
}

// TestEventLists: bodies full of events come out byte for byte, in versions of all ages, and much smaller than by zstd.
func TestEventLists(t *testing.T) {
	c := testCodec(t)
	for _, version := range []string{"3", "4", "6", "9", "11", "12"} {
		body := bodyOf(t, version, 100)
		for _, b := range [][]byte{body, bytes.Replace(body, []byte(`"room_version":"`+version+`"}`), []byte(`"x":"\u003c"}`), 1)} {
			packed, plain := c.PackEvents(b), c.Pack(b)
			if packed[0] != methodEvents || len(packed) > len(plain)*80/100 {
				t.Errorf("version %s: packed by method %d, %d bytes of %d, %d by zstd", version, packed[0], len(packed), len(b), len(plain))
			}
			got, err := c.Unpack(packed, len(b))
			if err != nil || !bytes.Equal(got, b) {
				t.Fatalf("version %s: came out as %d bytes, %v", version, len(got), err)
			}
			if _, err := c.Unpack(packed, len(b)-1); err == nil {
				t.Error("a body longer than the limit was unpacked")
			}
			t.Logf("version %s: %d bytes of JSON, %d by zstd, %d as a list", version, len(b), len(plain), len(packed))
		}
	}
}

// TestOddBodies: what is no list of events goes as it went before.
func TestOddBodies(t *testing.T) {
	c := testCodec(t)
	body := string(bodyOf(t, "12", 20))
	for _, b := range []string{"", "{}", body[:1200], body + "\x01", `{"auth_events":[` + body, `{"a":"` + body + `"}`, body[1:],
		body + `{"auth_events":[],"content":{},"depth":1}`, string(bytes.Repeat([]byte(`{"auth_events":[`), 1<<18))} {
		got, err := c.Unpack(c.PackEvents([]byte(b)), len(b))
		if err != nil || string(got) != b {
			t.Errorf("%.60s... came out as %.60s..., %v", b, got, err)
		}
	}
}

func FuzzUnpackEvents(f *testing.F) {
	c := testCodec(f)
	for _, v := range []string{"3", "11", "12"} {
		f.Add(c.PackEvents(smallBody(f, v))[1:])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		const limit = 1 << 20
		if body, err := c.unpackList(data, limit); err == nil && len(body) > limit {
			t.Errorf("%d bytes, want at most %d", len(body), limit)
		}
	})
}

// FuzzPackEvents: whatever a body is, it comes out the same.
func FuzzPackEvents(f *testing.F) {
	c := testCodec(f)
	f.Add(smallBody(f, "12"))
	f.Add(smallBody(f, "6"))
	f.Fuzz(func(t *testing.T, body []byte) {
		got, err := c.Unpack(c.PackEvents(body), len(body))
		if err != nil || !bytes.Equal(got, body) {
			t.Errorf("came out changed: %v", err)
		}
	})
}
