// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"hallig/sync/hub/spool"
)

// Monitoring is told what waits and what was done, by the token or at the local door, and nobody's name.
func TestMetrics(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").away()
	w.newBox("box2.test")
	lost := w.newBox("box3.test")
	lost.away()
	for n, to := range []string{"box1.test", "box1.test", "box2.test", "box3.test"} {
		uri, header, body := w.far.transaction(to, n)
		if status, out := w.ask(to, "PUT", uri, header, body); status != 200 {
			t.Fatalf("%d %s", status, out)
		}
	}
	w.await("the box to take what is its own", func() bool { return w.waiting("box2.test") == 0 && w.hub.count.delivered.Load() == 1 })
	if err := w.hub.revoke(t.Context(), "box3.test", "stolen", false); err != nil {
		t.Fatal(err)
	}
	ws, err := w.spool.Waiting(t.Context(), "box1.test")
	if err != nil || len(ws) != 1 {
		t.Fatal(ws, err)
	}
	if _, err := w.spool.Append(t.Context(), spool.Queue{Box: "box2.test", Other: "far.test"}, time.Now(), spool.Request{Key: "l", Method: "PUT", URI: "/l"}); err != nil {
		t.Fatal(err)
	}
	keys := map[string]json.RawMessage{"signed:1": []byte(`{}`), "signed:2": []byte(`{}`), "signed:3": []byte(`{}`)}
	if err := w.spool.PutKeys(t.Context(), "box2.test", "@u:box2.test", "D", keys); err != nil {
		t.Fatal(err)
	}
	if _, _, err := w.spool.TakeKey(t.Context(), "box2.test", "@u:box2.test", "D", "signed"); err != nil {
		t.Fatal(err)
	}
	m, err := w.hub.metrics(t.Context(), ws[0].Oldest.Add(90*time.Second))
	if err != nil {
		t.Fatal(err)
	}
	var out strings.Builder
	if err := m.Write(&out); err != nil {
		t.Fatal(err)
	}
	told := out.String()
	door := httptest.NewRecorder()
	w.hub.verbs().ServeHTTP(door, httptest.NewRequest("GET", metricsPath, nil))
	if !strings.Contains(door.Body.String(), "hallig_hub_boxes") {
		t.Errorf("the local door: %d %s", door.Code, door.Body)
	}
	for _, line := range []string{
		`hallig_hub_boxes{state="connected"} 1`, `hallig_hub_boxes{state="away"} 1`, `hallig_hub_boxes{state="revoked"} 1`,
		`hallig_hub_waiting_requests{state="connected"} 0`, `hallig_hub_waiting_requests{state="away"} 2`, `hallig_hub_waiting_requests{state="revoked"} 1`,
		`hallig_hub_waiting_oldest_seconds 90`, `hallig_hub_taken_total 4`, `hallig_hub_delivered_total 1`, `hallig_hub_refused_total 0`, `hallig_hub_full_total 0`,
		`hallig_hub_letters 1`, `hallig_hub_copies_rooms 0`, `hallig_hub_copies_full 0`, `hallig_hub_onetime_keys 2`, `hallig_hub_onetime_keys_given 1`, `hallig_hub_boxes_judged{judged="look"} 1`, `hallig_hub_boxes_judged{judged="ok"} 1`,
		`hallig_hub_boxes_with{kind="silent"} 1`, `hallig_hub_boxes_with{kind="clock"} 0`,
	} {
		if !strings.Contains(told, "\n"+line+"\n") {
			t.Errorf("not told: %s", line)
		}
	}
	for _, name := range []string{"box1", "far.test", "@"} {
		if strings.Contains(told, name) {
			t.Errorf("told: %s", name)
		}
	}
	const token = "0123456789abcdef"
	for _, tt := range []struct {
		configured, sent string
		want             int
	}{{"", "", 404}, {"", "Bearer ", 404}, {token, "", 401}, {token, "Bearer " + token[1:], 401}, {token, "Bearer " + token, 200}} {
		w.hub.cfg.MetricsToken = tt.configured
		r := httptest.NewRequest("GET", "https://hub.test:8448"+metricsPath, nil)
		r.Header = http.Header{"Authorization": {tt.sent}}
		got := httptest.NewRecorder()
		w.hub.fromWorld(got, r)
		if got.Code != tt.want || (tt.want == 200) != strings.Contains(got.Body.String(), "hallig_hub_boxes") {
			t.Errorf("%+v: %d %s", tt, got.Code, got.Body)
		}
	}
}
