// SPDX-License-Identifier: EUPL-1.2

package federation

import (
	"crypto/ed25519"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"hallig/appliance/event"
	"hallig/appliance/store"
	"hallig/tools/matrixclient"
)

// An address was invited into a room; an identity server tells its owner's server; the invite comes from where the inviter lives.
func TestThirdPartyInvite(t *testing.T) {
	ca := testCA(t)
	a, b := newTestBox(t, ca), newTestBox(t, ca)
	anna, bert := a.user("anna"), b.user("bert")
	id := must[string](t)(anna.CreateRoom(t.Context(), matrixclient.CreateRoom{Preset: "private_chat"}))
	public, private, err := ed25519.GenerateKey(nil)
	if err != nil {
		t.Fatal(err)
	}
	key := base64.RawStdEncoding.EncodeToString(public)
	_, err = anna.SetState(t.Context(), id, "m.room.third_party_invite", "token", map[string]any{"display_name": "b…@example.org", "public_key": key,
		"key_validity_url": "https://id.example.org/valid", "public_keys": []any{map[string]string{"public_key": key}}})
	if err != nil {
		t.Fatal(err)
	}
	signed := func(k ed25519.PrivateKey) json.RawMessage {
		raw, err := event.SignJSON([]byte(fmt.Sprintf(`{"mxid":%q,"token":"token"}`, bert.UserID)), "id.example.org", event.Key{ID: "ed25519:0", Private: k})
		if err != nil {
			t.Fatal(err)
		}
		return raw
	}
	bind := func(proof json.RawMessage) int {
		body, _ := json.Marshal(map[string]any{"address": "bert@example.org", "medium": "email", "mxid": bert.UserID, "invites": []any{map[string]any{
			"address": "bert@example.org", "medium": "email", "mxid": bert.UserID, "room_id": id, "sender": anna.UserID, "signed": proof}}})
		w := httptest.NewRecorder()
		b.handler.ServeHTTP(w, httptest.NewRequest(http.MethodPut, "/_matrix/federation/v1/3pid/onbind", strings.NewReader(string(body))))
		return w.Code
	}
	membership := func() (m string) {
		err := b.db.View(t.Context(), func(r *store.Read) error {
			row, err := r.MembershipOf(event.RoomID(id), event.UserID(bert.UserID))
			m = row.Membership
			return err
		})
		if err != nil {
			t.Fatal(err)
		}
		return m
	}
	_, other, _ := ed25519.GenerateKey(nil)
	if code := bind(signed(other)); code != http.StatusOK || membership() != "" {
		t.Errorf("a proof that nobody can check: %d, membership %q", code, membership())
	}
	if code := bind(signed(private)); code != http.StatusOK || membership() != "invite" {
		t.Errorf("status %d, membership %q", code, membership())
	}
	must[string](t)(bert.Join(t.Context(), id, a.name))
	sameState(t, id, a, b)
}
