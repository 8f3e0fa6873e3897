// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"bufio"
	"context"
	"crypto/subtle"
	"io"
	"net/http"
	"strconv"
	"strings"
)

// Metrics for monitoring, in the text format of Prometheus, version 0.0.4. The format is a line a sample, so it is written here: the usual library keeps
// registries and costs a small box more memory than all it tells.
//
// They tell of nobody: no users, no rooms, counts only. But names of other servers, and who talks how much with whom. So on the ports they are
// closed (404) until metrics_token is configured; then they are for who sends it as "Authorization: Bearer TOKEN". The local door is open: who can read
// the data directory needs no token.
//
// https://prometheus.io/docs/instrumenting/exposition_formats/#text-based-format

// Metric is one name with its samples. Names are ours: [a-z_]+.
type Metric struct {
	Name, Help string
	Counter    bool // it only grows; otherwise it is a gauge
	Samples    []Sample
}

// Sample is a value; Labels are name, value, name, value.
type Sample struct {
	Labels []string
	Value  float64
}

// Metrics is all that a box tells.
type Metrics []Metric

// Add appends a metric of one sample.
func (m *Metrics) Add(name, help string, counter bool, value float64, labels ...string) {
	*m = append(*m, Metric{Name: name, Help: help, Counter: counter, Samples: []Sample{{labels, value}}})
}

var (
	escapeHelp  = strings.NewReplacer(`\`, `\\`, "\n", `\n`)
	escapeLabel = strings.NewReplacer(`\`, `\\`, "\n", `\n`, `"`, `\"`)
)

// Write writes the text. Metrics without samples are left out.
func (m Metrics) Write(w io.Writer) error {
	b := bufio.NewWriter(w)
	for _, metric := range m {
		if len(metric.Samples) == 0 {
			continue
		}
		kind := "gauge"
		if metric.Counter {
			kind = "counter"
		}
		b.WriteString("# HELP " + metric.Name + " " + escapeHelp.Replace(metric.Help) + "\n# TYPE " + metric.Name + " " + kind + "\n")
		for _, s := range metric.Samples {
			b.WriteString(metric.Name)
			for i := 0; i+1 < len(s.Labels); i += 2 {
				sep := "{"
				if i > 0 {
					sep = ","
				}
				b.WriteString(sep + s.Labels[i] + `="` + escapeLabel.Replace(strings.ToValidUTF8(s.Labels[i+1], "?")) + `"`)
			}
			if len(s.Labels) > 1 {
				b.WriteByte('}')
			}
			b.WriteString(" " + strconv.FormatFloat(s.Value, 'g', -1, 64) + "\n")
		}
	}
	return b.Flush() // it remembers the first error
}

func serveMetrics(w http.ResponseWriter, r *http.Request, f func(context.Context) (Metrics, error)) error {
	m, err := f(r.Context())
	if err != nil {
		http.Error(w, "the box could not count; its log says why", http.StatusInternalServerError)
		return err
	}
	w.Header().Set("Content-Type", "text/plain; version=0.0.4; charset=utf-8")
	return m.Write(w)
}

// metrics is the page on the ports.
func (p *Pages) metrics(w http.ResponseWriter, r *http.Request) {
	if p.MetricsToken == "" || p.Metrics == nil {
		http.NotFound(w, r)
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(p.MetricsToken)) != 1 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="hallig metrics"`)
		http.Error(w, "metrics need the token that metrics_token in config.json names", http.StatusUnauthorized)
		return
	}
	if err := serveMetrics(w, r, p.Metrics); err != nil {
		p.Log.Warn("metrics not told", "err", err)
	}
}
