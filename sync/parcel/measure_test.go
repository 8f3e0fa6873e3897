// SPDX-License-Identifier: EUPL-1.2

package parcel

import (
	"fmt"
	"slices"
	"testing"
)

// tally is what events of one sort took.
type tally struct {
	n, fallback, bytes, json int
	ratios                   float64
}

func (t *tally) add(json, bytes int, compact bool) {
	t.n++
	t.json += json
	t.bytes += bytes
	t.ratios += float64(bytes) / float64(json)
	if !compact {
		t.fallback++
	}
}

// TestCorpus sends rooms of all versions over a link, each event in a message of its own, from the first one on: every
// event comes out byte for byte, and the compact form holds nearly all. `make bench` reads the lines that begin with
// "measured".
func TestCorpus(t *testing.T) {
	mixed, each := &tally{}, &tally{}
	byKind, byVersion := map[string]*tally{}, map[string]*tally{}
	count := func(m map[string]*tally, k string) *tally {
		if m[k] == nil {
			m[k] = &tally{}
		}
		return m[k]
	}
	for i, version := range []string{"3", "4", "5", "6", "7", "8", "9", "10", "11", "12"} {
		r, names, from := lifeOf(t, version, uint64(100+i), 300)
		e := newExchange(t, 0)
		for j, ev := range r.events {
			end := 0
			if ev.Log.Box == r.boxes[1].id {
				end = 1
			}
			msg, _, ticket, err := e.ends[end].Encode(MaxMessage, ev)
			if err != nil {
				t.Fatal(err)
			}
			got, err := e.ends[1-end].Decode(msg)
			if err != nil {
				t.Fatal(err)
			}
			e.ends[end].Arrived(ticket)
			sameEvent(t, got[0], ev)
			compact := msg[1]&7 != formRaw && msg[1]&7 != formPacked
			where := each
			if j >= from {
				where = mixed
			}
			for _, a := range []*tally{where, count(byKind, names[j]), count(byVersion, version)} {
				a.add(len(ev.PDU.JSON()), len(msg), compact)
			}
			if !compact {
				t.Logf("version %s: %q falls back", version, names[j])
			}
		}
	}
	kinds := make([]string, 0, len(byKind))
	for k := range byKind {
		kinds = append(kinds, k)
	}
	slices.SortFunc(kinds, func(a, b string) int { return byKind[b].bytes - byKind[a].bytes })
	for _, k := range kinds {
		a := byKind[k]
		t.Logf("%-30s %5d events, %6.1f of %7.1f bytes, %5.1f %%, %d fall back", k, a.n, float64(a.bytes)/float64(a.n), float64(a.json)/float64(a.n), 100*float64(a.bytes)/float64(a.json), a.fallback)
	}
	for v, a := range byVersion {
		t.Logf("version %s: %.1f %% of JSON", v, 100*float64(a.bytes)/float64(a.json))
	}
	n, fallback := mixed.n+each.n, mixed.fallback+each.fallback
	mean, rare := 100*float64(mixed.bytes)/float64(mixed.json), 100*float64(fallback)/float64(n)
	fmt.Printf("measured codec_mean_percent %.2f of the canonical JSON of %d events as busy rooms of versions 3 to 12 hold them, each in a message of its own, all names told on the way (mean of the events' ratios %.2f; one of each of %d kinds, odd ones too: %.2f); all byte for byte the same\n",
		mean, mixed.n, 100*mixed.ratios/float64(mixed.n), len(byKind)-1, 100*float64(each.bytes)/float64(each.json))
	fmt.Printf("measured codec_fallback_percent %.2f of all %d events go as compressed JSON\n", rare, n)
	if mean > 25 || rare > 5 {
		t.Errorf("%.1f %% of JSON, want at most 25; %.1f %% fall back, want at most 5", mean, rare)
	}
}
