// SPDX-License-Identifier: EUPL-1.2

package store

import (
	"database/sql/driver"
	"encoding/json"
	"fmt"
	"time"

	"hallig/appliance/event"
)

// otherValue knows the named types of ids; times are kept as milliseconds.
func otherValue(a any) (driver.Value, error) {
	switch v := a.(type) {
	case event.ID:
		return string(v), nil
	case event.RoomID:
		return string(v), nil
	case event.UserID:
		return string(v), nil
	case json.RawMessage:
		return []byte(v), nil
	case time.Time:
		return v.UnixMilli(), nil
	case Flags:
		return int64(v), nil
	}
	return nil, fmt.Errorf("no column type for %T", a)
}

func scanOther(dest any, v driver.Value) error {
	switch d := dest.(type) {
	case *event.ID:
		*d = event.ID(asString(v))
	case *event.RoomID:
		*d = event.RoomID(asString(v))
	case *event.UserID:
		*d = event.UserID(asString(v))
	case *json.RawMessage:
		*d = asBytes(v)
	case *time.Time:
		*d = time.UnixMilli(asInt(v))
	case *Flags:
		*d = Flags(asInt(v))
	default:
		return fmt.Errorf("no place of type %T", dest)
	}
	return nil
}
