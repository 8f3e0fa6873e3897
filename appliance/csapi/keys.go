// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
	"maps"
	"sync"
	"time"

	"hallig/appliance/account"
	"hallig/appliance/event"
)

// uploadKeys: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3keysupload
func (h *Handler) uploadKeys(ctx context.Context, c *call) (any, error) {
	var req account.KeyUpload
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if c.session.Device == "" {
		return nil, invalid("this session has no device")
	}
	if len(req.DeviceKeys) > 0 && string(req.DeviceKeys) != "null" {
		var keys struct {
			Algorithms []string                     `json:"algorithms"`
			Keys       map[string]string            `json:"keys"`
			Signatures map[string]map[string]string `json:"signatures"`
		}
		if err := unmarshal(req.DeviceKeys, &keys); err != nil {
			return nil, err
		}
		if keys.Algorithms == nil || keys.Keys == nil || keys.Signatures == nil {
			return nil, badJSON("device_keys needs algorithms, keys and signatures")
		}
	}
	counts, err := h.Accounts.UploadKeys(ctx, c.session, req)
	return map[string]any{"one_time_key_counts": counts}, err
}

// patience is how long other servers may take for a question whose answer can do without them.
func patience(ms *int64) time.Duration {
	if ms == nil || *ms <= 0 {
		return 10 * time.Second
	}
	return min(time.Duration(*ms)*time.Millisecond, 60*time.Second)
}

// askServers runs ask for each server at the same time and waits for all.
func askServers[T any](servers map[string]T, ask func(server string, what T)) {
	var wg sync.WaitGroup
	for server, what := range servers {
		wg.Go(func() { ask(server, what) })
	}
	wg.Wait()
}

type keyQuery struct {
	DeviceKeys map[event.UserID][]string `json:"device_keys"`
	Timeout    *int64                    `json:"timeout,omitempty"`
}

// queryKeys: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3keysquery
func (h *Handler) queryKeys(ctx context.Context, c *call) (any, error) {
	var req keyQuery
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	out, remote, err := h.Accounts.QueryKeys(ctx, c.session.User, req.DeviceKeys)
	if err != nil {
		return nil, err
	}
	failures := map[string]any{}
	var mu sync.Mutex // guards out, failures, merr
	var merr error
	wait, stop := context.WithTimeout(ctx, patience(req.Timeout))
	defer stop()
	askServers(remote, func(server string, users []event.UserID) {
		answer := h.remoteKeys(wait, server, users, req.DeviceKeys)
		mu.Lock()
		defer mu.Unlock()
		missing, err := h.Accounts.MergeRemoteKeys(ctx, c.session.User, users, req.DeviceKeys, answer, &out)
		if err != nil && merr == nil {
			merr = err
		}
		if len(missing) > 0 {
			failures[server] = struct{}{}
		}
	})
	if merr != nil {
		return nil, merr
	}
	return struct {
		account.KeyAnswer
		Failures map[string]any `json:"failures"`
	}{out, failures}, nil
}

// remoteKeys asks one server; nil when it did not answer.
func (h *Handler) remoteKeys(ctx context.Context, server string, users []event.UserID, want map[event.UserID][]string) json.RawMessage {
	if h.Remote == nil {
		return nil
	}
	part := keyQuery{DeviceKeys: map[event.UserID][]string{}}
	for _, u := range users {
		part.DeviceKeys[u] = []string{} // all devices, so that the answer can be kept
		if len(want[u]) > 0 {
			part.DeviceKeys[u] = want[u]
		}
	}
	raw, err := json.Marshal(part)
	if err != nil {
		return nil
	}
	answer, err := h.Remote.QueryKeys(ctx, server, raw)
	if err != nil {
		h.log.Info("another server did not tell its users' keys", "server", server, "err", err)
		return nil
	}
	return answer
}

// claimKeys: https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3keysclaim
func (h *Handler) claimKeys(ctx context.Context, c *call) (any, error) {
	type claim struct {
		OneTimeKeys map[event.UserID]map[string]string `json:"one_time_keys"`
		Timeout     *int64                             `json:"timeout,omitempty"`
	}
	var req claim
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	local := map[event.UserID]map[string]string{}
	remote := map[string]map[event.UserID]map[string]string{}
	for user, devices := range req.OneTimeKeys {
		server := user.Server()
		if server == h.ServerName {
			local[user] = devices
			continue
		}
		if remote[server] == nil {
			remote[server] = map[event.UserID]map[string]string{}
		}
		remote[server][user] = devices
	}
	keys, err := h.Accounts.ClaimKeys(ctx, local)
	if err != nil {
		return nil, err
	}
	failures := map[string]any{}
	var mu sync.Mutex // guards keys and failures
	wait, stop := context.WithTimeout(ctx, patience(req.Timeout))
	defer stop()
	askServers(remote, func(server string, users map[event.UserID]map[string]string) {
		got, err := h.claimRemote(wait, server, claim{OneTimeKeys: users})
		mu.Lock()
		defer mu.Unlock()
		if err != nil {
			h.log.Info("another server gave no one-time keys", "server", server, "err", err)
			failures[server] = struct{}{}
			return
		}
		for user, devices := range got {
			if user.Server() == server {
				keys[user] = devices
			}
		}
	})
	return map[string]any{"one_time_keys": keys, "failures": failures}, nil
}

func (h *Handler) claimRemote(ctx context.Context, server string, req any) (map[event.UserID]map[string]map[string]json.RawMessage, error) {
	if h.Remote == nil {
		return nil, errAlone(server)
	}
	raw, err := json.Marshal(req)
	if err != nil {
		return nil, err
	}
	answer, err := h.Remote.ClaimKeys(ctx, server, raw)
	if err != nil {
		return nil, err
	}
	var got struct {
		OneTimeKeys map[event.UserID]map[string]map[string]json.RawMessage `json:"one_time_keys"`
	}
	err = json.Unmarshal(answer, &got)
	return got.OneTimeKeys, err
}

// uploadCrossSigning asks for the password only when keys are replaced.
// https://spec.matrix.org/v1.13/client-server-api/#post_matrixclientv3keysdevice_signingupload
func (h *Handler) uploadCrossSigning(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	var req account.CrossSigningUpload
	if err := unmarshal(raw, &req); err != nil {
		return nil, err
	}
	needs, err := h.Accounts.CrossSigningNeedsAuth(ctx, c.session.User, req)
	if err != nil {
		return nil, err
	}
	if needs {
		p, err := h.provePassword(ctx, c, raw, "cross-signing")
		if err != nil {
			return nil, err
		}
		req = account.CrossSigningUpload{}
		if err := unmarshal(p.body, &req); err != nil {
			return nil, err
		}
		defer p.end()
	}
	return nil, h.Accounts.UploadCrossSigning(ctx, c.session, req)
}

func (h *Handler) uploadSignatures(ctx context.Context, c *call) (any, error) {
	var req map[event.UserID]map[string]json.RawMessage
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	failures, err := h.Accounts.UploadSignatures(ctx, c.session, req)
	if failures == nil {
		failures = map[event.UserID]map[string]json.RawMessage{}
	}
	return map[string]any{"failures": failures}, err
}

// sendToDevice: https://spec.matrix.org/v1.13/client-server-api/#put_matrixclientv3sendtodeviceeventtypetxnid
func (h *Handler) sendToDevice(ctx context.Context, c *call) (any, error) {
	var req struct {
		Messages map[event.UserID]map[string]json.RawMessage `json:"messages"`
	}
	raw, err := c.bodyUpTo(maxToDeviceBody)
	if err != nil {
		return nil, err
	}
	if err := unmarshal(raw, &req); err != nil {
		return nil, err
	}
	if req.Messages == nil {
		return nil, missing("messages")
	}
	for user := range maps.Keys(req.Messages) {
		if _, err := event.ParseUserID(string(user)); err != nil {
			return nil, invalid("messages are addressed to user ids")
		}
	}
	return nil, h.Accounts.SendToDevice(ctx, c.session, c.params[0], c.params[1], req.Messages)
}
