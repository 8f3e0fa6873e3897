// SPDX-License-Identifier: EUPL-1.2

package recon

import (
	"reflect"
	"testing"

	"hallig/appliance/event"
)

func TestLacks(t *testing.T) {
	a := Log{Room: Room{1}, Box: Box{1}, Epoch: 7}
	b := Log{Room: Room{1}, Box: Box{2}, Epoch: 7}
	c := Log{Room: Room{2}, Box: Box{1}, Epoch: 7}
	tests := []struct {
		name       string
		have, full Vector
		want       []Range
	}{
		{"equal", Vector{a: 3}, Vector{a: 3}, nil},
		{"behind in one", Vector{a: 3, b: 9}, Vector{a: 5, b: 9}, []Range{{a, 3, 5}}},
		{"ahead lacks nothing", Vector{a: 8}, Vector{a: 5}, nil},
		{"unknown logs start at 0, in order", Vector{}, Vector{c: 1, b: 2, a: 3}, []Range{{a, 0, 3}, {b, 0, 2}, {c, 0, 1}}},
		{"another epoch is another log", Vector{a: 5}, Vector{{Room{1}, Box{1}, 8}: 2}, []Range{{Log{Room{1}, Box{1}, 8}, 0, 2}}},
	}
	for _, tt := range tests {
		if got := Lacks(tt.have, tt.full); !reflect.DeepEqual(got, tt.want) {
			t.Errorf("%s: got %v, want %v", tt.name, got, tt.want)
		}
		if got, want := tt.have.Covers(tt.full), len(tt.want) == 0; got != want {
			t.Errorf("%s: covers: got %v, want %v", tt.name, got, want)
		}
	}
}

func TestRaiseNeverLowers(t *testing.T) {
	v := Vector{}
	l := Log{Epoch: 1}
	for _, step := range []struct {
		to    uint64
		moved bool
		want  uint64
	}{{4, true, 4}, {2, false, 4}, {4, false, 4}, {5, true, 5}} {
		if got := v.Raise(l, step.to); got != step.moved || v[l] != step.want {
			t.Errorf("raise to %d: got moved %v at %d, want %v at %d", step.to, got, v[l], step.moved, step.want)
		}
	}
}

func TestFrontier(t *testing.T) {
	x := FrontierOf([]event.ID{"$a", "$b"}, []event.ID{"$s"})
	if y := FrontierOf([]event.ID{"$b", "$a"}, []event.ID{"$s"}); x != y {
		t.Errorf("the order of heads changed the fingerprint: %v, %v", x, y)
	}
	if y := FrontierOf([]event.ID{"$b", "$c"}, []event.ID{"$s"}); x.Heads == y.Heads || x.State != y.State {
		t.Errorf("other heads: got %v against %v", y, x)
	}
	if y := FrontierOf([]event.ID{"$a", "$b"}, []event.ID{"$t"}); x.State == y.State || x.Heads != y.Heads {
		t.Errorf("other state: got %v against %v", y, x)
	}
}

func sample() Hello {
	return Hello{
		Session: 0xdeadbeef, Ack: 5, Epoch: 77, Last: true, Serial: 3, FarSerial: 300,
		EDUs: []EDUKept{{Epoch: 9, Kept: 1000}},
		Rooms: []RoomState{
			{Room: Room{1, 2}, Frontier: Frontier{1, 2}, Logs: []LogKept{{Box{1}, 7, 500}, {Box{2}, 8, 0}}},
			{Room: Room{3}, Frontier: Frontier{3, 4}},
			{Room: Room{4}, Frontier: Frontier{5, 6}, Logs: []LogKept{{Box{2}, 8, 70000}}},
		},
	}
}

func TestHelloRoundTrip(t *testing.T) {
	want := sample()
	b := want.Append(nil)
	got, err := ParseHello(b)
	if err != nil {
		t.Fatal(err)
	}
	if !reflect.DeepEqual(got, want) {
		t.Errorf("got %+v, want %+v", got, want)
	}
	for n := range b {
		if _, err := ParseHello(b[:n]); err == nil {
			t.Errorf("cut to %d of %d bytes: no error", n, len(b))
		}
	}
	if _, err := ParseHello(append(b, 0)); err == nil {
		t.Error("a byte too many: no error")
	}
}

func TestHelloOfOneRoomIsSmall(t *testing.T) {
	h := Hello{Session: 1, Epoch: 2, Last: true, Rooms: []RoomState{{Logs: []LogKept{{Box{1}, 7, 500}, {Box{2}, 8, 90}}}}}
	if got, want := len(h.Append(nil)), 70; got > want {
		t.Errorf("got %d bytes, want at most %d", got, want)
	}
}

func TestHelloSplit(t *testing.T) {
	h := sample()
	parts := h.Split(150)
	if len(parts) < 2 {
		t.Fatalf("got %d parts, want several", len(parts))
	}
	var rooms []RoomState
	var logs uint64
	for i, p := range parts {
		if p.First != logs {
			t.Errorf("part %d: first %d, want %d", i, p.First, logs)
		}
		if got, want := p.Last, i == len(parts)-1; got != want {
			t.Errorf("part %d: last %v, want %v", i, got, want)
		}
		for _, r := range p.Rooms {
			logs += uint64(len(r.Logs))
		}
		rooms = append(rooms, p.Rooms...)
	}
	if !reflect.DeepEqual(rooms, h.Rooms) {
		t.Errorf("got rooms %v, want %v", rooms, h.Rooms)
	}
	if len(parts[0].EDUs) != 1 || len(parts[1].EDUs) != 0 {
		t.Errorf("EDU vectors: got %v and %v, want them in the first part only", parts[0].EDUs, parts[1].EDUs)
	}
}

func FuzzParseHello(f *testing.F) {
	f.Add(sample().Append(nil))
	f.Add(Hello{Session: 1}.Append(nil))
	f.Add([]byte{1, 0})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, err := ParseHello(b)
		if err != nil {
			return
		}
		again, err := ParseHello(h.Append(nil))
		if err != nil {
			t.Fatalf("what was read does not read again: %v", err)
		}
		if !reflect.DeepEqual(again, h) {
			t.Errorf("got %+v, want %+v", again, h)
		}
	})
}
