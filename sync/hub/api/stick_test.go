// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"encoding/json"
	"errors"
	"reflect"
	"strings"
	"testing"
)

func stickItems(t testing.TB, part []byte) (out []StickItem, err error) {
	t.Helper()
	err = ReadStickItems(part, func(i StickItem) error { out = append(out, i); return nil })
	return out, err
}

func TestStickItems(t *testing.T) {
	want := []StickItem{
		{From: "far.test", Place: 7, Request: &Waited{Method: "PUT", URI: sendURI + "a%2Fb?x=1", Authorization: `X-Matrix origin="c"`, Received: 1790000000123}, Body: []byte("{\"a\":\"\xff\"}\n")},
		{Letter: true, Body: []byte("{}\n{}")}, {User: "@a:b", Body: []byte("{}")},
	}
	var part []byte
	var err error
	for _, i := range want {
		if part, err = i.Append(part); err != nil {
			t.Fatal(err)
		}
	}
	if got, err := stickItems(t, part); err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v", got, err)
	}
	for n := range part {
		if got, err := stickItems(t, part[:n]); err == nil && len(got) == len(want) {
			t.Errorf("%d of %d bytes are %d items", n, len(part), len(got))
		}
	}
	stop := errors.New("stop")
	if err := ReadStickItems(part, func(StickItem) error { return stop }); !errors.Is(err, stop) {
		t.Error(err)
	}
	for _, bad := range []string{`{}`, `{"letter":true,"user":"@a:b"}`, `{"request":{"uri":"/"},"place":1}`, `{"request":{"uri":"/"},"from":"x"}`, `{"request":{},"from":"x","place":1}`,
		`{"request":{"uri":"/","body":"x"},"from":"x","place":1}`, `{"user":"` + strings.Repeat("x", 256) + `"}`, strings.Repeat(" ", maxItemHead+1), "no JSON"} {
		raw := append([]byte(bad), "\nbody"...)
		head := []byte{byte(len(raw)&0x7f) | 0x80, byte(len(raw)>>7&0x7f) | 0x80, byte(len(raw) >> 14)}
		if got, err := stickItems(t, append(head, raw...)); err == nil {
			t.Errorf("%.60q was read as %+v", bad, got)
		}
	}
}

func TestStickNotes(t *testing.T) {
	hub := HubNote{Answer: Answer{Server: "hub.test", Epoch: "e", Waiting: []Waiting{}, Letters: &Letters{Epoch: "e", To: []Standing{{To: "far.test"}}}}, Heard: 3, Given: &Given{Epoch: "e"}}
	raw, err := json.Marshal(hub)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadHubNote(raw); err != nil || !reflect.DeepEqual(got, hub) {
		t.Errorf("%+v, %v", got, err)
	}
	box := BoxNote{Contact: json.RawMessage(`{}`), Epoch: "e", Heard: 5, Dealt: Dealt{Epoch: "e", From: []DealtFrom{{From: "far.test", Through: 9}}}, Back: []StickBack{{"far.test", "s"}}, Out: []StickOut{{"far.test", "s", 2, 4}}}
	if raw, err = json.Marshal(box); err != nil {
		t.Fatal(err)
	}
	got, err := ReadBoxNote(raw)
	if err != nil || !reflect.DeepEqual(got, box) {
		t.Errorf("%+v, %v", got, err)
	}
	for _, tt := range []struct {
		to, series string
		n          int64
		want       bool
	}{{"far.test", "s", 2, true}, {"far.test", "s", 4, true}, {"far.test", "s", 5, false}, {"far.test", "s", 1, false}, {"far.test", "t", 2, false}, {"x", "s", 2, false}} {
		if box.Has(tt.to, tt.series, tt.n) != tt.want {
			t.Errorf("%+v", tt)
		}
	}
	long := `{"answer":{"server":"x","epoch":"` + strings.Repeat("e", MaxNote) + `"}}`
	for _, bad := range []string{"", "[]", "{}", `{"answer":{"server":"x"}}`, `{"answer":{"server":"x","epoch":"e"},"heard":-1}`, `{"answer":{"server":"x","epoch":"e","letters":{"to":[{}]}}}`, long} {
		if n, err := ReadHubNote([]byte(bad)); err == nil {
			t.Errorf("%.60q was read as %+v", bad, n)
		}
	}
	for _, bad := range []string{"", "[]", `{"heard":-1}`, `{"given":-1}`, `{"dealt":{"from":[{}]}}`, `{"back":[{}]}`, `{"out":[{"to":"x","series":"s","from":0,"upto":1}]}`, `{"out":[{"to":"x","series":"s","from":2,"upto":1}]}`, long} {
		if n, err := ReadBoxNote([]byte(bad)); err == nil {
			t.Errorf("%.60q was read as %+v", bad, n)
		}
	}
}

func FuzzReadStickItems(f *testing.F) {
	raw, err := StickItem{From: "far.test", Place: 7, Request: &Waited{Method: "PUT", URI: sendURI + "a"}, Body: []byte("{}")}.Append(nil)
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		items, _ := stickItems(t, raw)
		for _, i := range items {
			again, err := i.Append(nil)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := stickItems(t, again); err == nil && !bytes.Equal(got[0].Body, i.Body) {
				t.Errorf("%+v came back as %+v", i, got)
			}
		}
	})
}

func FuzzReadStickNotes(f *testing.F) {
	f.Add([]byte(`{"answer":{"server":"x","epoch":"e","letters":{"to":[{"to":"y"}]}},"heard":1}`))
	f.Add([]byte(`{"contact":{},"dealt":{"epoch":"e","from":[{"from":"x","through":1}]},"out":[{"to":"x","series":"s","from":1,"upto":1}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if n, err := ReadHubNote(raw); err == nil && n.Answer.Epoch == "" {
			t.Error("no memory")
		}
		if n, err := ReadBoxNote(raw); err == nil {
			for _, o := range n.Out {
				if o.From < 1 || o.Upto < o.From {
					t.Errorf("%+v", o)
				}
			}
		}
	})
}
