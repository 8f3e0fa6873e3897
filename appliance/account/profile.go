// SPDX-License-Identifier: EUPL-1.2

package account

import (
	"context"
	"encoding/json"
	"regexp"
	"strings"

	"hallig/appliance/event"
	"hallig/appliance/store"
)

// maxProfile is the size of a whole profile: https://spec.matrix.org/latest/client-server-api/#profiles
const maxProfile = 64 << 10

var fieldGrammar = regexp.MustCompile(`^[a-z][a-z0-9_.-]*$`)

// Profile gives all fields of a local user's profile; M_NOT_FOUND when there is no such account.
func (a *Accounts) Profile(ctx context.Context, user event.UserID) (map[string]json.RawMessage, error) {
	out := map[string]json.RawMessage{}
	err := a.db.View(ctx, func(r *store.Read) error {
		row, err := r.Account(user)
		if err != nil {
			return err
		}
		if row == nil || row.Deactivated {
			return notFound("there is no such user on this server")
		}
		out, err = r.Profile(user)
		return err
	})
	return out, err
}

// ProfileField gives one field; M_NOT_FOUND when the user or the field is not there.
func (a *Accounts) ProfileField(ctx context.Context, user event.UserID, field string) (json.RawMessage, error) {
	p, err := a.Profile(ctx, user)
	if err != nil {
		return nil, err
	}
	v, ok := p[field]
	if !ok {
		return nil, notFound("the profile has no such field")
	}
	return v, nil
}

// SetProfileField sets a field, or takes it away when value is nil. The member events of rooms are the caller's.
func (a *Accounts) SetProfileField(ctx context.Context, user event.UserID, field string, value json.RawMessage) error {
	if len(field) > 255 {
		return refuse(400, "M_KEY_TOO_LARGE", "a profile field's name has at most 255 bytes")
	}
	if !fieldGrammar.MatchString(field) {
		return refuse(400, "M_INVALID_PARAM", "a profile field's name is like m.tz or org.example.name")
	}
	if (field == "displayname" || field == "avatar_url") && value != nil {
		var s *string
		if err := json.Unmarshal(value, &s); err != nil {
			return badJSON(field + " must be text")
		}
		if s == nil || *s == "" {
			value = nil
		}
	}
	return a.db.Do(ctx, func(tx *store.Tx) error {
		row, err := tx.Account(user)
		if err != nil {
			return err
		}
		if row == nil || row.Deactivated {
			return notFound("there is no such user on this server")
		}
		if value == nil {
			return tx.DeleteProfile(user, field)
		}
		old, err := tx.Profile(user)
		if err != nil {
			return err
		}
		size := len(field) + len(value)
		for k, v := range old {
			if k != field {
				size += len(k) + len(v)
			}
		}
		if size > maxProfile {
			return refuse(400, "M_PROFILE_TOO_LARGE", "a profile has at most 64 KiB")
		}
		return tx.PutProfile(user, field, value)
	})
}

// DisplayName gives what member events show of a local user; "" when unknown.
func (a *Accounts) DisplayName(ctx context.Context, user event.UserID) (name, avatar string) {
	p, err := a.Profile(ctx, user)
	if err != nil {
		return "", ""
	}
	return text(p["displayname"]), text(p["avatar_url"])
}

// SearchUsers finds local accounts by name, without case, at most limit.
func (a *Accounts) SearchUsers(ctx context.Context, term string, limit int) ([]User, bool, error) {
	all, err := a.Users(ctx)
	if err != nil {
		return nil, false, err
	}
	term = strings.ToLower(term)
	out := []User{}
	for _, u := range all {
		if u.Deactivated {
			continue
		}
		if !strings.Contains(strings.ToLower(string(u.ID)), term) && !strings.Contains(strings.ToLower(u.DisplayName), term) {
			continue
		}
		if len(out) == limit {
			return out, true, nil
		}
		out = append(out, u)
	}
	return out, false, nil
}

// text reads a JSON string; "" when it is none.
func text(raw json.RawMessage) string {
	var s string
	if len(raw) == 0 || json.Unmarshal(raw, &s) != nil {
		return ""
	}
	return s
}

// quote writes a JSON string.
func quote(s string) json.RawMessage {
	b, err := json.Marshal(s)
	if err != nil { // a string always marshals
		return json.RawMessage(`""`)
	}
	return b
}
