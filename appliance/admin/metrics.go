// SPDX-License-Identifier: EUPL-1.2

package admin

import (
	"context"
	"crypto/subtle"
	"net/http"
	"strings"

	"hallig/appliance/metric"
)

// Metrics for monitoring. They tell of nobody: no users, no rooms, counts only. But names of other servers, and who talks how much with whom. So on the ports they are
// closed (404) until metrics_token is configured; then they are for who sends it as "Authorization: Bearer TOKEN". The local door is open: who can read
// the data directory needs no token.

// Metric, Sample and Metrics are metric's.
type (
	Metric  = metric.Metric
	Sample  = metric.Sample
	Metrics = metric.Metrics
)

func serveMetrics(w http.ResponseWriter, r *http.Request, f func(context.Context) (Metrics, error)) error {
	m, err := f(r.Context())
	if err != nil {
		http.Error(w, "the box could not count; its log says why", http.StatusInternalServerError)
		return err
	}
	w.Header().Set("Content-Type", metric.ContentType)
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
