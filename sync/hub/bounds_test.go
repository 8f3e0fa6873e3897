// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"fmt"
	"testing"
)

// A question that names more people than any box has is not answered: each of them would cost a look into the spool.
func TestUsersAtOnce(t *testing.T) {
	devices, keys := map[string][]string{}, map[string]map[string]string{}
	for i := range usersAtOnce + 1 {
		user := fmt.Sprintf("@u%d:box.test", i)
		devices[user], keys[user] = []string{}, map[string]string{"D": "signed_curve25519"}
	}
	query, err := json.Marshal(map[string]any{"device_keys": devices})
	if err != nil {
		t.Fatal(err)
	}
	claim, err := json.Marshal(map[string]any{"one_time_keys": keys})
	if err != nil {
		t.Fatal(err)
	}
	h := &Hub{} // without a spool: whoever looks there falls over
	if out, err := h.keysQuery(t.Context(), nil, "box.test", query); out != nil || err != nil {
		t.Errorf("query: %v, %v", out, err)
	}
	if out, err := h.keysClaim(t.Context(), nil, "box.test", claim); out != nil || err != nil {
		t.Errorf("claim: %v, %v", out, err)
	}
}
