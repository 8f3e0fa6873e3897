// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/subtle"
	"net/http"
	"strings"
	"time"

	"hallig/appliance/health"
	"hallig/appliance/metric"
	"hallig/sync/hub/fleet"
)

// This file counts for monitoring. It names neither boxes nor servers nor users, so that what is told does not say who talks with whom; hallig-hub boxes names them.

const metricsPath = "/metrics"

// tellMetrics answers who may know.
func (h *Hub) tellMetrics(w http.ResponseWriter, r *http.Request) {
	m, err := h.metrics(r.Context(), h.now())
	if err != nil {
		h.log.Warn("metrics not told", "err", err)
		http.Error(w, "the hub could not count; its log says why", http.StatusInternalServerError)
		return
	}
	w.Header().Set("Content-Type", metric.ContentType)
	_ = m.Write(w) // who has gone needs no answer
}

// metricsPage is the page at the world's port, under the hub's own name.
func (h *Hub) metricsPage(w http.ResponseWriter, r *http.Request) {
	if h.cfg.MetricsToken == "" {
		http.NotFound(w, r)
		return
	}
	token, ok := strings.CutPrefix(r.Header.Get("Authorization"), "Bearer ")
	if !ok || subtle.ConstantTimeCompare([]byte(token), []byte(h.cfg.MetricsToken)) != 1 {
		w.Header().Set("WWW-Authenticate", `Bearer realm="hallig-hub metrics"`)
		http.Error(w, "metrics need the token that metrics_token in hub.json names", http.StatusUnauthorized)
		return
	}
	h.tellMetrics(w, r)
}

// metrics counts what is in the spool, for the hub as a whole, and what this node has done.
func (h *Hub) metrics(ctx context.Context, now time.Time) (metric.Metrics, error) {
	s, err := h.collect(ctx, now)
	if err != nil {
		return nil, err
	}
	const connected, away, revoked = "connected", "away", "revoked"
	states := []string{connected, away, revoked}
	type tally struct{ boxes, count, bytes float64 }
	in := map[string]*tally{connected: {}, away: {}, revoked: {}}
	judged, kinds := map[health.State]float64{}, map[string]float64{}
	var oldest, letterAge time.Duration
	var letters tally
	var keys, given float64
	for _, b := range s.Boxes {
		of := away
		switch {
		case b.Revoked != "":
			of = revoked
		case b.Connected:
			of = connected
		}
		t := in[of]
		t.boxes++
		for _, q := range b.Waiting {
			t.count += float64(q.Count)
			t.bytes += float64(q.Bytes)
			if of != revoked { // nobody will ever take that
				oldest = max(oldest, now.Sub(q.Oldest))
			}
		}
		for _, q := range b.Letters {
			letters.count += float64(q.Count)
			letters.bytes += float64(q.Bytes)
			if of != revoked {
				letterAge = max(letterAge, now.Sub(q.Oldest))
			}
		}
		keys += float64(b.Keys.Left)
		given += float64(b.Keys.Given)
		if of != revoked {
			judged[b.State]++
		}
		for _, tr := range b.Troubles {
			kinds[tr.Kind]++
		}
	}
	var m metric.Metrics
	m.Add("hallig_hub_info", "Which program runs; the value is always 1.", false, 1, "version", h.cfg.Version, "server_name", h.id.Server)
	boxes := metric.Metric{Name: "hallig_hub_boxes", Help: "Boxes by state; connected means to this node."}
	requests := metric.Metric{Name: "hallig_hub_waiting_requests", Help: "Transactions that boxes have not taken, by the state of the box."}
	bytes := metric.Metric{Name: "hallig_hub_waiting_bytes", Help: "The bytes of these."}
	for _, s := range states {
		label := []string{"state", s}
		boxes.Samples = append(boxes.Samples, metric.Sample{Labels: label, Value: in[s].boxes})
		requests.Samples = append(requests.Samples, metric.Sample{Labels: label, Value: in[s].count})
		bytes.Samples = append(bytes.Samples, metric.Sample{Labels: label, Value: in[s].bytes})
	}
	m = append(m, boxes, requests, bytes)
	m.Add("hallig_hub_waiting_oldest_seconds", "How long the oldest of them has waited, revoked boxes left out; 0: none waits.", false, oldest.Seconds())
	m.Add("hallig_hub_letters", "Requests of boxes for other servers that the hub keeps.", false, letters.count)
	m.Add("hallig_hub_letters_bytes", "The bytes of these.", false, letters.bytes)
	m.Add("hallig_hub_letters_oldest_seconds", "How long the oldest of them has waited, revoked boxes left out; 0: none waits.", false, letterAge.Seconds())
	m.Add("hallig_hub_onetime_keys", "One-time keys of boxes that the hub may give away.", false, keys)
	m.Add("hallig_hub_onetime_keys_given", "Those that it remembers to have given away.", false, given)
	m.Add("hallig_hub_disk_free_bytes", "Free where the hub's data lies.", false, float64(s.Hub.DiskFree))
	state := metric.Metric{Name: "hallig_hub_boxes_judged", Help: "Boxes that were not revoked, by how they do: ok, look, trouble."}
	for _, st := range []health.State{health.OK, health.Look, health.Trouble} {
		state.Samples = append(state.Samples, metric.Sample{Labels: []string{"judged", string(st)}, Value: judged[st]})
	}
	kind := metric.Metric{Name: "hallig_hub_boxes_with", Help: "Boxes by what is to be looked at; the page says of each what to do."}
	for _, k := range fleet.Kinds {
		kind.Samples = append(kind.Samples, metric.Sample{Labels: []string{"kind", k}, Value: kinds[k]})
	}
	m = append(m, state, kind)
	carried := h.p2p.Relayed()
	m.Add("hallig_hub_circuits", "Connections of boxes with each other that go through this node.", false, float64(carried.Circuits))
	for _, c := range []struct {
		name, help string
		n          int64
	}{
		{"taken", "Transactions put into the spool since the start.", h.count.taken.Load()},
		{"delivered", "Transactions that boxes took since the start.", h.count.delivered.Load()},
		{"invites_signed", "Invites since the start that were signed for boxes that were away.", h.count.invited.Load()},
		{"woken", "Servers since the start that were woken for boxes that are away.", h.count.woken.Load()},
		{"letters_taken", "Letters of boxes put into the spool since the start.", h.mail.Count.Taken.Load()},
		{"letters_through", "Letters since the start that were seen through.", h.mail.Count.Done.Load()},
		{"letters_again", "Letters since the start that went under another id, because a server had taken and lost what is in them.", h.mail.Count.Spares.Load()},
		{"letters_repaired", "Letters since the start whose events the hub sent in its own name for that reason.", h.mail.Count.Repaired.Load()},
		{"letters_unkept", "Rooms in letters since the start whose events a server did not keep in any way; the box offers them again.", h.mail.Count.Unkept.Load()},
		{"letters_refused", "Letters of boxes since the start with a wrong signature or form.", h.mail.Count.Refused.Load()},
		{"letters_full", "Letters of boxes since the start for which there was no room.", h.mail.Count.Full.Load()},
		{"refused", "Transactions with a wrong signature or form, or refused by a box for good, since the start.", h.count.refused.Load()},
		{"full", "Transactions turned back since the start because they could not be kept.", h.count.full.Load()},
		{"sent_out", "Requests of boxes to other servers since the start.", h.count.out.Load()},
		{"asked_elsewhere", "Questions since the start that another node's box has answered.", h.count.elsewhere.Load()},
		{"revoked", "Requests since the start for boxes that were revoked.", h.count.turnedAway.Load()},
		{"deposits_refused", "Deposits since the start beyond what is kept for one box.", h.count.tooMuch.Load()},
		{"connections_refused", "Connections at the federation port since the start for which no place was left.", h.count.crowded.Load()},
		{"relayed_bytes", "Bytes carried since the start between boxes that do not reach each other.", carried.Bytes},
		{"relay_refused", "Attempts since the start to speak through the hub that were refused: boxes that are not paired, or beyond a limit.", carried.Refused},
	} {
		m.Add("hallig_hub_"+c.name+"_total", c.help, true, float64(c.n))
	}
	h.copyMetrics(&m)
	h.fileMetrics(&m)
	m.Add("process_start_time_seconds", "When the process was started, by the system's clock.", false, float64(h.started.UnixMilli())/1000)
	return m, nil
}
