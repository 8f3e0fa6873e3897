// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"testing"

	"hallig/sync/hub/api"
	"hallig/sync/parcel"
)

func TestUrgency(t *testing.T) {
	const v1 = "/_matrix/federation/v1"
	for _, tt := range []struct {
		method, path string
		want         int
		size         int
	}{
		{"GET", v1 + "/make_join/!r/@u:b", parcel.Immediate, 0},
		{"PUT", "/_matrix/federation/v2/send_join/!r/$e", parcel.Immediate, 0},
		{"PUT", "/_matrix/federation/v2/invite/!r/$e", parcel.Immediate, 0},
		{"POST", v1 + "/user/keys/claim", parcel.Immediate, 0},
		{"GET", v1 + "/query/profile", parcel.Priority, 0},
		{"GET", v1 + "/backfill/!r", parcel.Bulk, 0},
		{"POST", v1 + "/get_missing_events/!r", parcel.Bulk, 0},
		{"GET", v1 + "/state_ids/!r", parcel.Bulk, 0},
		{"GET", v1 + "/event/$e", parcel.Bulk, 0},
		{"GET", v1 + "/media/download/x", parcel.Bulk, 0},
		{"POST", api.FerriedPath, parcel.Routine, ferriedShort},
		{"POST", api.FerriedPath, parcel.Bulk, ferriedShort + 1},
	} {
		if got := urgency(tt.method, tt.path, tt.size); got != tt.want {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
}
