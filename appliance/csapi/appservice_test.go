// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"testing"

	"hallig/tools/matrixclient"
)

const registration = `
id: bruecke
url: http://localhost:9000
as_token: as-geheim
hs_token: hs-geheim
sender_localpart: bruecke
rate_limited: false
namespaces:
  users:
    - exclusive: true
      regex: '@funk_.*:box\.example'
  aliases:
    - exclusive: true
      regex: '#funk_.*'
  rooms: []
`

func TestAppservice(t *testing.T) {
	as, err := ParseAppservice([]byte(registration))
	if err != nil {
		t.Fatal(err)
	}
	b := newBox(t, func(c *Config) { c.Appservices, c.OpenRegistration = []Appservice{as}, true })
	c := matrixclient.New(b.url)
	c.Token = "as-geheim"
	var who object
	b.ok(c.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, &who))
	if who["user_id"] != "@bruecke:box.example" {
		t.Errorf("whoami: %v", who)
	}
	b.ok(c.Do(b.ctx, "POST", matrixclient.Path("register"), object{"type": "m.login.application_service", "username": "funk_1"}, nil))
	b.refused("a name of nobody's", c.Do(b.ctx, "POST", matrixclient.Path("register"), object{"type": "m.login.application_service", "username": "eve"}, nil), 400, "M_EXCLUSIVE")
	b.refused("a reserved name", matrixclient.New(b.url).Register(b.ctx, "funk_2", "x", ""), 400, "M_EXCLUSIVE")
	var room struct {
		ID string `json:"room_id"`
	}
	b.ok(c.Do(b.ctx, "POST", matrixclient.Path("createRoom")+"?user_id=@funk_1:box.example", object{"room_alias_name": "frei"}, &room))
	var ev struct {
		ID string `json:"event_id"`
	}
	b.ok(c.Do(b.ctx, "PUT", matrixclient.Path("rooms", room.ID, "send", "m.room.message", "1")+"?user_id=@funk_1:box.example&ts=1000", object{"body": "x"}, &ev))
	var e matrixclient.Event
	b.ok(c.Do(b.ctx, "GET", matrixclient.Path("rooms", room.ID, "event", ev.ID)+"?user_id=@funk_1:box.example", nil, &e))
	if e.TS != 1000 || e.Sender != "@funk_1:box.example" {
		t.Errorf("event: %+v", e)
	}
	b.refused("another's user", c.Do(b.ctx, "GET", matrixclient.Path("account", "whoami")+"?user_id=@eve:box.example", nil, nil), 403, "M_FORBIDDEN")
	alice := b.user("alice")
	_, err = alice.CreateRoom(b.ctx, matrixclient.CreateRoom{Alias: "funk_x"})
	b.refused("a reserved alias", err, 400, "M_EXCLUSIVE")
	login := matrixclient.New(b.url)
	login.Token = "as-geheim"
	b.ok(login.Do(b.ctx, "POST", matrixclient.Path("login"), object{"type": "m.login.application_service", "identifier": object{"type": "m.id.user", "user": "funk_1"}}, nil))
	b.refused("login without the token", matrixclient.New(b.url).Do(b.ctx, "POST", matrixclient.Path("login"),
		object{"type": "m.login.application_service", "identifier": object{"type": "m.id.user", "user": "funk_1"}}, nil), 401, "M_MISSING_TOKEN")
}

func FuzzParseAppservice(f *testing.F) {
	f.Add([]byte(registration))
	f.Fuzz(func(t *testing.T, raw []byte) {
		if a, err := ParseAppservice(raw); err == nil && a.ASToken == "" {
			t.Error("a registration without a token passes")
		}
	})
}
