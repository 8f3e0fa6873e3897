// SPDX-License-Identifier: EUPL-1.2

package link

import (
	"testing"

	"hallig/sync/parcel"
)

func TestUrgency(t *testing.T) {
	const v1 = "/_matrix/federation/v1"
	for _, tt := range []struct {
		method, path string
		want         int
	}{
		{"GET", v1 + "/make_join/!r/@u:b", parcel.Immediate},
		{"PUT", "/_matrix/federation/v2/send_join/!r/$e", parcel.Immediate},
		{"PUT", "/_matrix/federation/v2/invite/!r/$e", parcel.Immediate},
		{"POST", v1 + "/user/keys/claim", parcel.Immediate},
		{"GET", v1 + "/query/profile", parcel.Priority},
		{"GET", v1 + "/backfill/!r", parcel.Bulk},
		{"POST", v1 + "/get_missing_events/!r", parcel.Bulk},
		{"GET", v1 + "/state_ids/!r", parcel.Bulk},
		{"GET", v1 + "/event/$e", parcel.Bulk},
		{"GET", v1 + "/media/download/x", parcel.Bulk},
	} {
		if got := urgency(tt.method, tt.path); got != tt.want {
			t.Errorf("%s %s: got %d, want %d", tt.method, tt.path, got, tt.want)
		}
	}
}
