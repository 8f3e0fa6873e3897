// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"bytes"
	"reflect"
	"testing"
)

func TestPlay(t *testing.T) {
	p := &Play{Requests: []Waited{{Method: "PUT", URI: "/_matrix/federation/v1/send/a%2Fb?x=1", Authorization: `X-Matrix origin="c"`, Body: "{\"a\":\"<ü>\\u0000 \u2028\"} \n", Received: 1790000000123}, {Method: "GET", URI: "/x"}}}
	raw, err := p.Pack()
	if err != nil {
		t.Fatal(err)
	}
	got, err := ReadPlay(bytes.NewReader(raw))
	if err != nil || !reflect.DeepEqual(got, p) {
		t.Errorf("%+v, %v; want %+v", got, err, p)
	}
	for n := range raw {
		if _, err := ReadPlay(bytes.NewReader(raw[:n])); err == nil {
			t.Errorf("%d of %d bytes are taken", n, len(raw))
		}
	}
	for _, n := range []int{0, PlayMost + 1} {
		raw, err := (&Play{Requests: make([]Waited, n)}).Pack()
		if err != nil {
			t.Fatal(err)
		}
		if _, err := ReadPlay(bytes.NewReader(raw)); err == nil {
			t.Errorf("%d requests are taken", n)
		}
	}
	if (Waited{Body: "\xff"}).Fits() || !(Waited{Body: "ü"}).Fits() {
		t.Error("what is no text fits")
	}
}

func FuzzReadPlay(f *testing.F) {
	raw, err := (&Play{Requests: []Waited{{Method: "PUT", URI: "/x", Body: "{}"}}}).Pack()
	if err != nil {
		f.Fatal(err)
	}
	f.Add(raw)
	f.Fuzz(func(t *testing.T, raw []byte) {
		if p, err := ReadPlay(bytes.NewReader(raw)); err == nil && (len(p.Requests) == 0 || len(p.Requests) > PlayMost) {
			t.Errorf("%+v", p)
		}
	})
}
