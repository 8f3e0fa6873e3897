// SPDX-License-Identifier: EUPL-1.2

package hub

import (
	"encoding/json"
	"strings"
	"testing"
)

// Whatever is asked of a box that is away is answered 403 or 404 with a sentence: never in a way for which central servers leave a name alone. What people have asked for themselves, joins (restricted
// ones, too, where the box is to vouch for who joins), knocks and leaves, is refused in both languages.
func TestEveryQuestionToAnAbsentBox(t *testing.T) {
	w := newWorld(t)
	w.newBox("box1.test").away()
	const v1, v2 = "/_matrix/federation/v1/", "/_matrix/federation/v2/"
	const pdu = `{"type":"m.room.member","room_id":"!r:box1.test","sender":"@carl:far.test","state_key":"@carl:far.test","content":{"membership":"join","join_authorised_via_users_server":"@anna:box1.test"}}`
	for _, q := range []struct {
		method, uri, body string
		status            int
		people            bool
	}{
		{"GET", v1 + "make_join/%21r:box1.test/%40carl:far.test?ver=8&ver=9&ver=10&ver=11&ver=12", "", 403, true},
		{"PUT", v1 + "send_join/%21r:box1.test/%24e", pdu, 403, true},
		{"PUT", v2 + "send_join/%21r:box1.test/%24e?omit_members=true", pdu, 403, true},
		{"GET", v1 + "make_knock/%21r:box1.test/%40carl:far.test?ver=12", "", 403, true},
		{"PUT", v1 + "send_knock/%21r:box1.test/%24e", pdu, 403, true},
		{"GET", v1 + "make_leave/%21r:box1.test/%40carl:far.test", "", 404, true},
		{"PUT", v1 + "send_leave/%21r:box1.test/%24e", pdu, 404, true},
		{"PUT", v2 + "send_leave/%21r:box1.test/%24e", pdu, 404, true},
		{"PUT", v2 + "invite/%21r:far.test/%24e", `{"room_version":"12","event":` + pdu + `}`, 403, true},
		{"PUT", v1 + "exchange_third_party_invite/%21r:box1.test", `{}`, 404, false},
		{"GET", v1 + "hierarchy/%21r:box1.test", "", 404, false},
		{"GET", v1 + "timestamp_to_event/%21r:box1.test?ts=1&dir=b", "", 404, false},
		{"GET", v1 + "event/%24e", "", 404, false},
		{"GET", v1 + "state/%21r:box1.test?event_id=%24e", "", 404, false},
		{"GET", v1 + "state_ids/%21r:box1.test?event_id=%24e", "", 404, false},
		{"GET", v1 + "event_auth/%21r:box1.test/%24e", "", 404, false},
		{"GET", v1 + "backfill/%21r:box1.test?v=%24e&limit=10", "", 404, false},
		{"POST", v1 + "get_missing_events/%21r:box1.test", `{"earliest_events":[],"latest_events":["$e"]}`, 404, false},
		{"GET", v1 + "query/directory?room_alias=%23a:box1.test", "", 404, false},
		{"GET", v1 + "query/profile?user_id=%40anna:box1.test", "", 404, false},
		{"GET", v1 + "user/devices/%40anna:box1.test", "", 404, false},
		{"GET", v1 + "publicRooms", "", 404, false},
		{"GET", v1 + "openid/userinfo?access_token=x", "", 404, false},
		{"GET", v1 + "media/download/abc", "", 404, false},
		{"GET", v1 + "media/thumbnail/abc?width=96&height=96", "", 404, false},
		{"GET", v1 + "media/download/..%2Fhallig.db", "", 404, false},
		{"GET", v1 + "media", "", 404, false},
		{"GET", "/_matrix/media/v3/download/box1.test/abc", "", 404, false},
		{"GET", v1 + "gibtesnicht", "", 404, false},
	} {
		status, out := w.ask("box1.test", q.method, q.uri, signed(t, w.far.Local, "box1.test", q.method, q.uri, []byte(q.body)), []byte(q.body))
		var said struct {
			Code string `json:"errcode"`
			Text string `json:"error"`
		}
		if err := json.Unmarshal(out, &said); err != nil || status != q.status || !strings.HasPrefix(said.Code, "M_") || len(said.Text) < 10 {
			t.Errorf("%s %s: %d %s", q.method, q.uri, status, out)
		}
		if q.people && !(strings.Contains(said.Text, "nicht erreichbar") && strings.Contains(said.Text, "when it is back")) {
			t.Errorf("%s %s: people read %q", q.method, q.uri, said.Text)
		}
	}
}
