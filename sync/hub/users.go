// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"context"
	"encoding/json"
	"errors"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"

	"hallig/appliance/event"
	"hallig/sync/federation"
	"hallig/sync/hub/api"
	"hallig/sync/hub/spool"
)

// This file answers about the users of a box that is away, from what the box has deposited: so others can write encrypted messages to them.

const (
	kindUser     = "user"     // by user id: a User without its one-time keys
	kindFallback = "fallback" // the fallback keys that were given away, not yet replaced by the box
	kindCrossed  = "crossed"  // up to where the box has crossed out what was given away

	givenAtOnce  = 1000
	claimsAtOnce = 500
	usersAtOnce  = 2000           // that one question may name; a box has fewer
	givenKept    = 24 * time.Hour // how long a key that was given away is known after the box has crossed it out
)

// putUser takes what a box deposits about a user. One-time keys that are here already, or were given away, stay as they are.
func (h *Hub) putUser(w http.ResponseWriter, r *http.Request, from entry) {
	user := event.UserID(strings.TrimPrefix(r.URL.Path, api.UserPath))
	if r.Method != http.MethodPut || user.Server() != from.Server {
		refuse(w, http.StatusBadRequest, "M_INVALID_PARAM", "want PUT, and a user of the box")
		return
	}
	epoch, err := h.spool.Epoch(r.Context())
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot read its spool now")
		return
	}
	if r.URL.Query().Get("epoch") != epoch { // what was lent to the memory before this one may have been given away by it
		refuse(w, http.StatusConflict, "M_UNKNOWN", "the hub's memory was replaced")
		return
	}
	raw, release, ok := h.body(w, r)
	if !ok {
		return
	}
	defer release()
	u, err := api.ReadUser(raw)
	if err != nil {
		refuse(w, http.StatusBadRequest, "M_BAD_JSON", err.Error())
		return
	}
	err = h.keepUser(r.Context(), from.Server, string(user), u)
	if errors.Is(err, spool.ErrTooMuch) {
		h.count.tooMuch.Add(1)
		if h.seldom.may("deposit "+from.Server, h.now()) {
			h.log.Error("a box deposits more than is kept for one box; what is there stays. Delete accounts or devices on it that nobody uses, or turn it away with hallig-hub revoke", "box", from.Server, "err", err)
		}
		refuse(w, http.StatusRequestEntityTooLarge, "M_TOO_LARGE", err.Error()+"; delete accounts or devices on the box that nobody uses")
		return
	}
	if err != nil {
		h.log.Error("keep what a box deposits; it comes again", "box", from.Server, "err", err)
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot keep it now")
		return
	}
	answer(w, http.StatusOK, struct{}{})
}

func (h *Hub) keepUser(ctx context.Context, box, user string, u api.User) error {
	for device, keys := range u.OneTime {
		if err := h.spool.PutKeys(ctx, box, user, device, keys); err != nil {
			return err
		}
	}
	u.OneTime = nil
	raw, err := json.Marshal(u)
	if err != nil {
		return err
	}
	if u.Profile == nil && u.Devices == nil && u.Keys == nil && u.Fallback == nil {
		raw = nil // the user is gone
	}
	if err := h.spool.Deposit(ctx, box, kindUser, user, raw); err != nil {
		return err
	}
	return h.usedFallback(ctx, box, func(used []api.GivenKey) []api.GivenKey {
		return slices.DeleteFunc(used, func(g api.GivenKey) bool {
			_, still := u.Fallback[g.Device][g.ID]
			return g.User == user && !still
		})
	})
}

// usedFallback changes the list of fallback keys that were given away. Other nodes may do so at the same time.
func (h *Hub) usedFallback(ctx context.Context, box string, change func([]api.GivenKey) []api.GivenKey) error {
	return h.spool.Amend(ctx, box, kindFallback, "", func(raw []byte) ([]byte, error) {
		used, err := readUsed(raw)
		if err != nil {
			return nil, err
		}
		before := len(used)
		if used = change(used); len(used) == before {
			return raw, nil
		}
		return json.Marshal(used)
	})
}

func readUsed(raw []byte) (used []api.GivenKey, err error) {
	if raw != nil {
		err = json.Unmarshal(raw, &used)
	}
	return used, err
}

// given tells a box which of its keys were given away. What it asks for says what it has crossed out.
func (h *Hub) given(w http.ResponseWriter, r *http.Request, from entry) {
	q := r.URL.Query()
	after, _ := strconv.ParseInt(q.Get("after"), 10, 64) // what is no number is the beginning
	out, err := h.tellGiven(r.Context(), from.Server, after)
	if err == nil && q.Get("epoch") == out.Epoch && after > 0 {
		err = h.crossedOut(r.Context(), from.Server, out.Epoch, after)
	}
	if err != nil {
		refuse(w, http.StatusServiceUnavailable, "M_UNKNOWN", "the hub cannot read its spool now")
		return
	}
	answer(w, http.StatusOK, out)
}

func (h *Hub) tellGiven(ctx context.Context, box string, after int64) (api.Given, error) {
	out := api.Given{Keys: []api.GivenKey{}, Fallback: []api.GivenKey{}}
	taken, err := h.spool.TakenKeys(ctx, box, after, givenAtOnce)
	if err != nil {
		return out, err
	}
	if out.Epoch, err = h.spool.Epoch(ctx); err != nil {
		return out, err
	}
	raw, err := h.spool.Deposited(ctx, box, kindFallback, "")
	if err != nil {
		return out, err
	}
	used, err := readUsed(raw)
	if err != nil {
		return out, err
	}
	out.Fallback = append(out.Fallback, used...)
	for _, t := range taken {
		out.Keys = append(out.Keys, api.GivenKey{Place: t.Place, User: t.User, Device: t.Device, ID: t.ID})
	}
	out.More = len(taken) == givenAtOnce
	return out, nil
}

// crossed is up to where a box has crossed out what was given away, and since when that is known.
type crossed struct {
	Epoch string    `json:"epoch"`
	Place int64     `json:"place"`
	At    time.Time `json:"at"`
}

// crossedOut notes that a box has crossed out what was given away. What was noted a day ago is forgotten: a deposit that was on its way then, and brings a key once more, has long arrived
// or is lost.
func (h *Hub) crossedOut(ctx context.Context, box, epoch string, place int64) error {
	raw, err := h.spool.Deposited(ctx, box, kindCrossed, "")
	if err != nil {
		return err
	}
	var before crossed
	if raw != nil {
		_ = json.Unmarshal(raw, &before) // what cannot be read is written anew
	}
	now := h.now()
	if before.Epoch == epoch {
		if now.Sub(before.At).Abs() < givenKept {
			return nil
		}
		if err := h.spool.ForgetTaken(ctx, box, before.Place); err != nil {
			return err
		}
	}
	if raw, err = json.Marshal(crossed{epoch, place, now}); err != nil {
		return err
	}
	return h.spool.Deposit(ctx, box, kindCrossed, "", raw)
}

// aboutUsers answers a signed question about users of a box that is away. False: nothing of it is known here.
func (h *Hub) aboutUsers(w http.ResponseWriter, r *http.Request, to entry, body []byte) bool {
	answers := map[string]func(context.Context, *http.Request, string, []byte) (any, error){
		"GET /_matrix/federation/v1/query/profile":    h.profile,
		"GET /_matrix/federation/v1/user/devices/":    h.devices,
		"POST /_matrix/federation/v1/user/keys/query": h.keysQuery,
		"POST /_matrix/federation/v1/user/keys/claim": h.keysClaim,
	}
	what := r.Method + " " + r.URL.Path
	if i := strings.Index(what, "/devices/"); i > 0 {
		what = what[:i+len("/devices/")]
	}
	find := answers[what]
	if find == nil {
		return false
	}
	if a, done := h.signedQuestion(w, r, to, body); a.Origin == "" {
		return done
	}
	out, err := find(r.Context(), r, to.Server, body)
	if err != nil && h.seldom.may("spool", h.now()) {
		h.log.Error("read a deposit", "box", to.Server, "err", err)
	}
	if err != nil || out == nil {
		return false
	}
	answer(w, http.StatusOK, out)
	return true
}

// signedQuestion says who has signed a question to a box. Without an origin it is not to be answered; done: it has been refused.
func (h *Hub) signedQuestion(w http.ResponseWriter, r *http.Request, to entry, body []byte) (a federation.Authorization, done bool) {
	a, _, err := h.verifier(r).Verify(r, body, h.now(), func(a federation.Authorization) error { return meant(a, to.Server) })
	switch {
	case errors.Is(err, federation.ErrBusy), errors.Is(err, federation.ErrKeyUnavailable):
		return federation.Authorization{}, false
	case err != nil:
		refuse(w, http.StatusUnauthorized, "M_UNAUTHORIZED", err.Error())
		return federation.Authorization{}, true
	}
	return a, false
}

// user reads a deposit; nil: there is none.
func (h *Hub) user(ctx context.Context, box, user string) (*api.User, error) {
	if event.UserID(user).Server() != box {
		return nil, nil
	}
	raw, err := h.spool.Deposited(ctx, box, kindUser, user)
	if raw == nil || err != nil {
		return nil, err
	}
	var u api.User
	if err := json.Unmarshal(raw, &u); err != nil {
		return nil, err
	}
	return &u, nil
}

// https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1queryprofile
func (h *Hub) profile(ctx context.Context, r *http.Request, box string, _ []byte) (any, error) {
	u, err := h.user(ctx, box, r.URL.Query().Get("user_id"))
	if u == nil || u.Profile == nil || err != nil {
		return nil, err
	}
	field := r.URL.Query().Get("field")
	if field == "" {
		return u.Profile, nil
	}
	var all map[string]json.RawMessage
	if err := json.Unmarshal(u.Profile, &all); err != nil || all[field] == nil {
		return nil, err
	}
	return map[string]json.RawMessage{field: all[field]}, nil
}

// https://spec.matrix.org/v1.16/server-server-api/#get_matrixfederationv1userdevicesuserid
func (h *Hub) devices(ctx context.Context, r *http.Request, box string, _ []byte) (any, error) {
	_, user, _ := strings.Cut(r.URL.Path, "/devices/")
	u, err := h.user(ctx, box, user)
	if u == nil || u.Devices == nil || err != nil {
		return nil, err
	}
	return u.Devices, nil
}

// https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1userkeysquery
func (h *Hub) keysQuery(ctx context.Context, _ *http.Request, box string, body []byte) (any, error) {
	var in struct {
		DeviceKeys map[string][]string `json:"device_keys"`
	}
	if json.Unmarshal(body, &in) != nil || len(in.DeviceKeys) > usersAtOnce {
		return nil, nil
	}
	out := struct {
		DeviceKeys      map[string]map[string]json.RawMessage `json:"device_keys"`
		MasterKeys      map[string]json.RawMessage            `json:"master_keys"`
		SelfSigningKeys map[string]json.RawMessage            `json:"self_signing_keys"`
	}{map[string]map[string]json.RawMessage{}, map[string]json.RawMessage{}, map[string]json.RawMessage{}}
	for user, wanted := range in.DeviceKeys {
		u, err := h.user(ctx, box, user)
		if err != nil {
			return nil, err
		}
		if u == nil || u.Keys == nil {
			continue
		}
		out.DeviceKeys[user] = map[string]json.RawMessage{}
		for device, keys := range u.Keys.Devices {
			if len(wanted) == 0 || slices.Contains(wanted, device) {
				out.DeviceKeys[user][device] = keys
			}
		}
		if u.Keys.Master != nil {
			out.MasterKeys[user] = u.Keys.Master
		}
		if u.Keys.SelfSigning != nil {
			out.SelfSigningKeys[user] = u.Keys.SelfSigning
		}
	}
	return out, nil
}

// keysClaim gives keys away: what is answered was noted before as gone.
// https://spec.matrix.org/v1.16/server-server-api/#post_matrixfederationv1userkeysclaim
func (h *Hub) keysClaim(ctx context.Context, _ *http.Request, box string, body []byte) (any, error) {
	var in struct {
		OneTimeKeys map[string]map[string]string `json:"one_time_keys"`
	}
	if json.Unmarshal(body, &in) != nil || len(in.OneTimeKeys) > usersAtOnce {
		return nil, nil
	}
	out, n := map[string]map[string]map[string]json.RawMessage{}, 0
	for user, devices := range in.OneTimeKeys {
		u, err := h.user(ctx, box, user)
		if err != nil {
			return nil, err
		}
		if u == nil {
			continue
		}
		for device, algorithm := range devices {
			if n++; n > claimsAtOnce {
				break
			}
			id, key, err := h.giveKey(ctx, box, user, device, algorithm, u)
			if err != nil {
				return nil, err
			}
			if id == "" {
				continue
			}
			if out[user] == nil {
				out[user] = map[string]map[string]json.RawMessage{}
			}
			out[user][device] = map[string]json.RawMessage{id: key}
		}
	}
	return map[string]any{"one_time_keys": out}, nil
}

// giveKey gives one key away, or the fallback key when no other is left; "": there is none.
func (h *Hub) giveKey(ctx context.Context, box, user, device, algorithm string, u *api.User) (string, json.RawMessage, error) {
	id, key, err := h.spool.TakeKey(ctx, box, user, device, algorithm)
	if id != "" || err != nil {
		return id, key, err
	}
	for id, key := range u.Fallback[device] {
		if !strings.HasPrefix(id, algorithm+":") {
			continue
		}
		err := h.usedFallback(ctx, box, func(used []api.GivenKey) []api.GivenKey {
			g := api.GivenKey{User: user, Device: device, ID: id}
			if slices.Contains(used, g) {
				return used
			}
			return append(used, g)
		})
		return id, key, err
	}
	return "", nil, nil
}
