// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"
)

// Push rules: https://spec.matrix.org/v1.13/client-server-api/#push-rules-api

func (h *Handler) pushRules(ctx context.Context, c *call) (any, error) {
	raw, err := h.Accounts.PushRules(ctx, c.session.User)
	return raw, err
}

func (h *Handler) pushRulesGlobal(ctx context.Context, c *call) (any, error) {
	raw, err := h.Accounts.PushRules(ctx, c.session.User)
	if err != nil {
		return nil, err
	}
	var all struct {
		Global json.RawMessage `json:"global"`
	}
	if err := json.Unmarshal(raw, &all); err != nil {
		return nil, err
	}
	return all.Global, nil
}

func (h *Handler) pushRule(ctx context.Context, c *call) (any, error) {
	return h.Accounts.PushRule(ctx, c.session.User, c.params[0], c.params[1])
}

func (h *Handler) setPushRule(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetPushRule(ctx, c.session.User, c.params[0], c.params[1], raw, c.query("before"), c.query("after"))
}

func (h *Handler) deletePushRule(ctx context.Context, c *call) (any, error) {
	return nil, h.Accounts.DeletePushRule(ctx, c.session.User, c.params[0], c.params[1])
}

func (h *Handler) pushRuleAttr(ctx context.Context, c *call) (any, error) {
	return h.Accounts.PushRuleAttr(ctx, c.session.User, c.params[0], c.params[1], c.params[2])
}

func (h *Handler) setPushRuleAttr(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetPushRuleAttr(ctx, c.session.User, c.params[0], c.params[1], c.params[2], raw)
}

func (h *Handler) pushers(ctx context.Context, c *call) (any, error) {
	list, err := h.Accounts.Pushers(ctx, c.session.User)
	if list == nil {
		list = []json.RawMessage{}
	}
	return map[string]any{"pushers": list}, err
}

func (h *Handler) setPusher(ctx context.Context, c *call) (any, error) {
	raw, err := c.body()
	if err != nil {
		return nil, err
	}
	return nil, h.Accounts.SetPusher(ctx, c.session, raw)
}
