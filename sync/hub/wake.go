// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"hallig/sync/federation"
	"hallig/sync/hub/spool"
)

// This file wakes servers that may have given up on a box in the mode delegate while nobody answered under its name: because the hub was down, or out of reach. A central server leaves such a name alone for
// up to a week, whatever people write; a transaction that the box has signed, even an empty one, ends that at once. One that has nothing to say is not told from one that sleeps, so it is woken, too:
// that costs one small request.

const (
	wakeFirst  = time.Minute // after the start: whoever is awake has spoken by then, mostly
	wakeLook   = 2 * time.Minute
	wakeSilent = 6 * time.Hour // from the last word between box and server to the next waking
	wakeWait   = 20 * time.Second
	wakeMost   = 200                 // servers that are remembered for one box
	wakeForget = 60 * 24 * time.Hour // after the last word

	// kindFars is the deposit with the servers that a box talks with, by name, and the day of the last word in milliseconds.
	kindFars = "fars"
)

// fars remembers who talks with the boxes that let the hub sign.
type fars struct {
	spoke map[string]map[string]time.Time // by box and server, since the start; under Hub.mu
	kept  map[string]map[string]int64     // what the spool has; the zero value of a box: not read yet
}

// spoke notes that a box and a server have talked through this hub.
func (h *Hub) spoke(ctx context.Context, box, server string, now time.Time) {
	e, ok := h.box(box)
	if !ok || e.mode != spool.Delegate {
		return
	}
	if _, ours := h.box(server); ours || server == h.id.Server {
		return
	}
	h.mu.Lock()
	f := &h.fars
	if f.spoke == nil {
		f.spoke, f.kept = map[string]map[string]time.Time{}, map[string]map[string]int64{}
	}
	if len(f.spoke[box]) >= 10*wakeMost || f.spoke[box] == nil { // a flood of names; whoever is forgotten is woken once more than need be
		f.spoke[box] = map[string]time.Time{}
	}
	f.spoke[box][server] = now
	today := now.Truncate(24 * time.Hour).UnixMilli()
	known := f.kept[box][server] == today
	h.mu.Unlock()
	if known {
		return
	}
	if err := h.keepFar(ctx, box, server, today); err != nil && h.seldom.may("fars "+box, now) {
		h.log.Info("it is not remembered whom a box talks with, for when it has to be woken", "box", box, "err", err)
	}
}

// keepFar writes down that a box talks with a server, once a day. Two at once may lose one of the two; the next word brings it back.
func (h *Hub) keepFar(ctx context.Context, box, server string, day int64) error {
	all, err := h.farsOf(ctx, box)
	if err != nil {
		return err
	}
	all[server] = day
	maps.DeleteFunc(all, func(_ string, last int64) bool { return last < day-wakeForget.Milliseconds() })
	for len(all) > wakeMost {
		oldest := slices.MinFunc(slices.Collect(maps.Keys(all)), func(a, b string) int { return int(min(max(all[a]-all[b], -1), 1)) })
		delete(all, oldest)
	}
	raw, err := json.Marshal(all)
	if err != nil {
		return err
	}
	if err := h.spool.Deposit(ctx, box, kindFars, "", raw); err != nil {
		return err
	}
	h.mu.Lock()
	h.fars.kept[box] = all
	h.mu.Unlock()
	return nil
}

// farsOf reads whom a box talks with.
func (h *Hub) farsOf(ctx context.Context, box string) (map[string]int64, error) {
	raw, err := h.spool.Deposited(ctx, box, kindFars, "")
	all := map[string]int64{}
	if raw == nil || err != nil {
		return all, err
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return all, fmt.Errorf("read whom %s talks with: %w", box, err)
	}
	return all, nil
}

// silent says whether a box and a server have said nothing for long.
func (h *Hub) silent(box, server string, now time.Time) bool {
	h.mu.Lock()
	defer h.mu.Unlock()
	last, ok := h.fars.spoke[box][server]
	return !ok || now.Sub(last) >= wakeSilent
}

// wakeServers wakes whoever has been silent, for the boxes that are away. A box that is connected speaks for itself.
func (h *Hub) wakeServers(ctx context.Context, now time.Time) {
	if now.Sub(h.started) < wakeFirst {
		return
	}
	down := map[string]bool{}
	for box, e := range h.roster.Load().by {
		if e.mode != spool.Delegate || e.revoked != "" || ctx.Err() != nil || h.p2p.InReach(box) || h.elsewhere(ctx, box, now) {
			continue
		}
		servers, err := h.farsOf(ctx, box)
		if err != nil || len(servers) == 0 {
			continue
		}
		l, ok := h.delegated(ctx, box)
		if !ok {
			continue
		}
		waiting, err := h.spool.Waiting(ctx, box)
		if err != nil {
			continue
		}
		for _, q := range waiting {
			if !q.In {
				delete(servers, q.Other) // letters wake whom they are for
			}
		}
		for _, server := range slices.Sorted(maps.Keys(servers)) {
			if down[server] || !h.silent(box, server, now) {
				continue
			}
			if err := h.wake(ctx, l, server, now); err != nil {
				down[server] = true // it is tried again next time
				h.log.Debug("a server was not woken", "box", box, "server", server, "err", err)
				continue
			}
			h.spoke(ctx, box, server, now)
			h.count.woken.Add(1)
		}
	}
}

// elsewhere says whether a box is connected to another node.
func (h *Hub) elsewhere(ctx context.Context, box string, now time.Time) bool {
	l, err := h.spool.Holder(ctx, box)
	return err != nil || l.Node != "" && l.Node != h.node && l.Until.After(now)
}

// wake sends a server an empty transaction of a box. Nothing else of that box is under way to it: it has been silent.
func (h *Hub) wake(ctx context.Context, l federation.Local, server string, now time.Time) error {
	word := make([]byte, 12)
	_, _ = rand.Read(word) // never fails
	uri := sendPath + "wake-" + base64.RawURLEncoding.EncodeToString(word)
	body, err := json.Marshal(map[string]any{"origin": l.Server, "origin_server_ts": now.UnixMilli(), "pdus": []any{}})
	if err != nil {
		return err
	}
	a, err := federation.SignRequest(l, server, http.MethodPut, uri, body)
	if err != nil {
		return err
	}
	ctx, stop := context.WithTimeout(ctx, wakeWait)
	defer stop()
	status, text, err := h.sendLetter(ctx, server, http.MethodPut, uri, a.String(), body)
	if err != nil {
		return err
	}
	if status != http.StatusOK {
		return fmt.Errorf("%s answered %d %.200q", server, status, strings.TrimSpace(string(text)))
	}
	h.log.Info("a server was woken for a box that is away", "box", l.Server, "server", server)
	return nil
}
