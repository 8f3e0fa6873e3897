// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"errors"
	"math"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/common/expfmt"
	"github.com/prometheus/common/model"
)

// parse reads metrics with the parser of Prometheus.
func parse(t *testing.T, text string) map[string]map[string]float64 {
	t.Helper()
	p := expfmt.NewTextParser(model.LegacyValidation)
	families, err := p.TextToMetricFamilies(strings.NewReader(text))
	if err != nil {
		t.Fatalf("%v in\n%s", err, text)
	}
	out := map[string]map[string]float64{}
	for name, f := range families {
		out[name] = map[string]float64{}
		for _, m := range f.Metric {
			label := ""
			for _, l := range m.Label {
				label += l.GetName() + "=" + l.GetValue() + ";"
			}
			v := m.GetGauge().GetValue()
			if m.Counter != nil {
				v = m.Counter.GetValue()
			}
			out[name][label] = v
		}
	}
	return out
}

func TestMetricsText(t *testing.T) {
	var m Metrics
	m.Add("hallig_info", "Which\nprogram \\ runs", false, 1, "version", `a"b\c`+"\n\xff")
	m.Add("hallig_bytes_total", "x", true, 1<<53)
	m.Add("hallig_small", "x", false, 1e-9)
	m.Add("hallig_nan", "x", false, math.Inf(1))
	m = append(m, Metric{Name: "hallig_none"}, Metric{Name: "hallig_two", Samples: []Sample{{Labels: []string{"a", "1", "b", "2"}, Value: 5}, {Labels: []string{"a", "2", "b", ""}, Value: 6}}})
	var b strings.Builder
	if err := m.Write(&b); err != nil {
		t.Fatal(err)
	}
	got := parse(t, b.String())
	for name, want := range map[string]map[string]float64{
		"hallig_info": {`version=a"b\c` + "\n?;": 1}, "hallig_bytes_total": {"": 1 << 53}, "hallig_small": {"": 1e-9}, "hallig_nan": {"": math.Inf(1)},
		"hallig_two": {"a=1;b=2;": 5, "a=2;b=;": 6},
	} {
		for label, v := range want {
			if g, ok := got[name][label]; !ok || g != v {
				t.Errorf("%s: got %v, want %v", name, got[name], want)
			}
		}
	}
	if len(got) != 5 {
		t.Errorf("%d metrics: %v", len(got), got)
	}
}

// TestMetricsDoor: on the ports only for who knows the token; an error is not told.
func TestMetricsDoor(t *testing.T) {
	count := func(context.Context) (Metrics, error) {
		var m Metrics
		m.Add("hallig_accounts", "x", false, 3)
		return m, nil
	}
	o := options(t)
	o.Metrics = count
	for _, tt := range []struct {
		configured, sent string
		status           int
	}{
		{"", "", 404}, {"", "Bearer ", 404}, {"0123456789abcdef", "", 401}, {"0123456789abcdef", "Bearer 0123456789abcdeg", 401},
		{"0123456789abcdef", "0123456789abcdef", 401}, {"0123456789abcdef", "Bearer 0123456789abcdef", 200},
	} {
		p := NewPages(PageOptions{Options: o, MetricsToken: tt.configured})
		r := httptest.NewRequest("GET", "/metrics", nil)
		r.Header.Set("Authorization", tt.sent)
		w := httptest.NewRecorder()
		p.ServeHTTP(w, r)
		if w.Code != tt.status || w.Code == 200 && parse(t, w.Body.String())["hallig_accounts"][""] != 3 {
			t.Errorf("%q sent to %q: %d %s", tt.sent, tt.configured, w.Code, w.Body)
		}
	}
	o.Metrics = func(context.Context) (Metrics, error) { return nil, errors.New("disk on fire") }
	w := httptest.NewRecorder()
	NewHandler(o).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != http.StatusInternalServerError || strings.Contains(w.Body.String(), "fire") {
		t.Errorf("%d %s", w.Code, w.Body)
	}
	o.Metrics = count
	w = httptest.NewRecorder()
	NewHandler(o).ServeHTTP(w, httptest.NewRequest("GET", "/metrics", nil))
	if w.Code != 200 || parse(t, w.Body.String())["hallig_accounts"][""] != 3 {
		t.Errorf("%d %s", w.Code, w.Body)
	}
}
