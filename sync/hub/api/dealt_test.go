// SPDX-License-Identifier: EUPL-1.2

package api

import (
	"encoding/json"
	"fmt"
	"reflect"
	"strings"
	"testing"
)

func TestDealt(t *testing.T) {
	d := Dealt{Epoch: "e", From: []DealtFrom{{From: "far.test", Through: 7, Refused: []DealtRefusal{{Place: 3, Status: 400, Text: `{"errcode":"M_BAD_JSON"}`}}}, {From: "b.test"}}}
	raw, err := json.Marshal(d)
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ReadDealt(raw); err != nil || !reflect.DeepEqual(got, d) {
		t.Errorf("%+v, %v", got, err)
	}
	many := strings.TrimSuffix(strings.Repeat(`{"place":1},`, MaxDealtRefused+1), ",")
	for _, bad := range []string{"", "[]", `{"from":[{"from":"x","through":1}]}`, `{"epoch":"e","from":[{"through":1}]}`, `{"epoch":"e","from":[{"from":"x","through":-1}]}`,
		`{"epoch":"e","from":[{"from":"x","through":1,"refused":[{"place":2}]}]}`, `{"epoch":"e","from":[{"from":"x","through":1,"refused":[{"place":0}]}]}`,
		fmt.Sprintf(`{"epoch":"e","from":[{"from":"x","through":1,"refused":[%s]}]}`, many),
		fmt.Sprintf(`{"epoch":"e","from":[{"from":"x","through":1,"refused":[{"place":1,"text":%q}]}]}`, strings.Repeat("x", PlayText+1)), `{"epoch":"` + strings.Repeat("e", MaxDealt) + `"}`} {
		if d, err := ReadDealt([]byte(bad)); err == nil {
			t.Errorf("%.60q was read as %+v", bad, d)
		}
	}
}

func TestSettled(t *testing.T) {
	const send, invite, words = sendURI + "1", inviteURI + "!r/$e", `{"errcode":"M_FORBIDDEN"}`
	for _, tt := range []struct {
		uri    string
		status int
		text   string
		want   bool
	}{
		{send, 200, "", true}, {send, 400, words, true}, {send, 400, "bad request", false}, {send, 413, words, true}, {send, 403, words, false}, {send, 401, words, false}, {send, 500, words, false},
		{send, 429, words, false}, {invite, 403, words, true}, {invite, 404, words, true}, {invite, 403, "", false}, {invite, 502, words, false},
	} {
		if got := Settled(tt.uri, tt.status, []byte(tt.text)); got != tt.want {
			t.Errorf("%s %d %q: %v", tt.uri, tt.status, tt.text, got)
		}
	}
}

func FuzzReadDealt(f *testing.F) {
	f.Add([]byte(`{"epoch":"e","from":[{"from":"far.test","through":7,"refused":[{"place":3,"status":400,"text":"{}"}]}]}`))
	f.Fuzz(func(t *testing.T, raw []byte) {
		d, err := ReadDealt(raw)
		if err != nil {
			return
		}
		again, err := json.Marshal(d)
		if err != nil {
			t.Fatal(err)
		}
		if len(again) > MaxDealt {
			return
		}
		if got, err := ReadDealt(again); err != nil || !reflect.DeepEqual(got, d) && len(d.From) > 0 {
			t.Errorf("%+v came back as %+v, %v", d, got, err)
		}
	})
}
