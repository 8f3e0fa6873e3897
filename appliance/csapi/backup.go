// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"context"
	"encoding/json"

	"hallig/appliance/event"
)

// Key backup: https://spec.matrix.org/v1.13/client-server-api/#server-side-key-backups

type backupBody struct {
	Algorithm string          `json:"algorithm"`
	AuthData  json.RawMessage `json:"auth_data"`
	Version   string          `json:"version"`
}

func (h *Handler) createBackup(ctx context.Context, c *call) (any, error) {
	var req backupBody
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Algorithm == "" || req.AuthData == nil {
		return nil, missing("algorithm or auth_data")
	}
	v, err := h.Accounts.CreateBackup(ctx, c.session.User, req.Algorithm, req.AuthData)
	return map[string]string{"version": v}, err
}

func (h *Handler) backup(ctx context.Context, c *call) (any, error) {
	return h.Accounts.Backup(ctx, c.session.User, c.params[0])
}

func (h *Handler) updateBackup(ctx context.Context, c *call) (any, error) {
	var req backupBody
	if err := c.decode(&req); err != nil {
		return nil, err
	}
	if req.Version != "" && req.Version != c.params[0] {
		return nil, invalid("the version in the body is not the one in the path")
	}
	if req.AuthData == nil {
		return nil, missing("auth_data")
	}
	return nil, h.Accounts.UpdateBackup(ctx, c.session.User, c.params[0], req.Algorithm, req.AuthData)
}

func (h *Handler) deleteBackup(ctx context.Context, c *call) (any, error) {
	return nil, h.Accounts.DeleteBackup(ctx, c.session.User, c.params[0])
}

type backupSessions struct {
	Sessions map[string]json.RawMessage `json:"sessions"`
}

// putBackupKeys takes all rooms, one room, or one session, as the path says.
func (h *Handler) putBackupKeys(ctx context.Context, c *call) (any, error) {
	raw, err := c.bodyUpTo(maxKeysBody)
	if err != nil {
		return nil, err
	}
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	id, session := event.RoomID(c.params[0]), c.params[1]
	keys := map[event.RoomID]map[string]json.RawMessage{}
	switch {
	case session != "":
		keys[id] = map[string]json.RawMessage{session: raw}
	case id != "":
		var one backupSessions
		if err := unmarshal(raw, &one); err != nil {
			return nil, err
		}
		keys[id] = one.Sessions
	default:
		var all struct {
			Rooms map[event.RoomID]backupSessions `json:"rooms"`
		}
		if err := unmarshal(raw, &all); err != nil {
			return nil, err
		}
		for id, r := range all.Rooms {
			keys[id] = r.Sessions
		}
	}
	etag, count, err := h.Accounts.PutBackupKeys(ctx, c.session.User, version, keys)
	return map[string]any{"etag": etag, "count": count}, err
}

func (h *Handler) backupKeys(ctx context.Context, c *call) (any, error) {
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	id, session := event.RoomID(c.params[0]), c.params[1]
	keys, err := h.Accounts.BackupKeys(ctx, c.session.User, version, id, session)
	if err != nil {
		return nil, err
	}
	switch {
	case session != "":
		key, ok := keys[id][session]
		if !ok {
			return nil, notFound("there is no such key in the backup")
		}
		return key, nil
	case id != "":
		sessions := keys[id]
		if sessions == nil {
			sessions = map[string]json.RawMessage{}
		}
		return backupSessions{sessions}, nil
	}
	rooms := map[event.RoomID]backupSessions{}
	for id, sessions := range keys {
		rooms[id] = backupSessions{sessions}
	}
	return map[string]any{"rooms": rooms}, nil
}

func (h *Handler) deleteBackupKeys(ctx context.Context, c *call) (any, error) {
	version := c.query("version")
	if version == "" {
		return nil, missing("version")
	}
	etag, count, err := h.Accounts.DeleteBackupKeys(ctx, c.session.User, version, event.RoomID(c.params[0]), c.params[1])
	return map[string]any{"etag": etag, "count": count}, err
}
