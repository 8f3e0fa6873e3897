// SPDX-License-Identifier: EUPL-1.2

package csapi

import (
	"encoding/json"
	"strings"
	"testing"

	"hallig/appliance/account"
	"hallig/tools/matrixclient"
)

type object = map[string]any

func TestSessions(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	var who object
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, &who))
	if who["user_id"] != alice.UserID || who["device_id"] != alice.DeviceID {
		t.Errorf("whoami: %v", who)
	}
	phone := matrixclient.New(b.url)
	b.ok(phone.Login(b.ctx, "@alice:box.example", "password-alice", "PHONE"))
	if phone.DeviceID != "PHONE" {
		t.Errorf("device id %q", phone.DeviceID)
	}
	shout := matrixclient.New(b.url)
	b.ok(shout.Login(b.ctx, "ALICE", "password-alice", "PHONE")) // the same device, with the name in capitals
	if shout.UserID != alice.UserID {
		t.Errorf("logged in as %s", shout.UserID)
	}
	phone = shout
	var list struct {
		Devices []object `json:"devices"`
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("devices"), nil, &list))
	if len(list.Devices) != 2 {
		t.Errorf("devices: %v", list.Devices)
	}
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("devices", "PHONE"), object{"display_name": "Telefon"}, nil))
	var dev object
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("devices", "PHONE"), nil, &dev))
	if dev["display_name"] != "Telefon" {
		t.Errorf("device: %v", dev)
	}
	b.refused("rename nothing", alice.Do(b.ctx, "PUT", matrixclient.Path("devices", "NONE"), object{"display_name": "x"}, nil), 404, "M_NOT_FOUND")

	// Deleting a device asks for the password.
	del := matrixclient.Path("devices", "PHONE")
	err := alice.Do(b.ctx, "DELETE", del, nil, nil)
	b.refused("delete without a proof", err, 401, "")
	b.refused("delete with a wrong password", alice.Do(b.ctx, "DELETE", del, withPassword(b, err, "alice", "wrong"), nil), 401, "M_FORBIDDEN")
	b.refused("delete with another's password", alice.Do(b.ctx, "DELETE", del, withPassword(b, err, "bob", "password-alice"), nil), 403, "M_FORBIDDEN")
	b.ok(alice.Do(b.ctx, "DELETE", del, withPassword(b, err, "alice", "password-alice"), nil))
	b.refused("the deleted device", phone.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, nil), 401, "M_UNKNOWN_TOKEN")

	b.ok(alice.Logout(b.ctx))
	status, _, body := b.raw("GET", "/_matrix/client/v3/account/whoami", who["user_id"].(string), "")
	if status != 401 || body["errcode"] != "M_UNKNOWN_TOKEN" {
		t.Errorf("after logout: %d %v", status, body)
	}
}

// withPassword answers a challenge by password.
func withPassword(b *box, challenge error, user, password string) object {
	b.Helper()
	e, ok := challenge.(*matrixclient.Error)
	if !ok {
		b.Fatalf("no challenge: %v", challenge)
	}
	var c struct {
		Session string   `json:"session"`
		Flows   []object `json:"flows"`
		Params  object   `json:"params"`
	}
	b.ok(json.Unmarshal(e.Body, &c))
	if c.Session == "" || len(c.Flows) == 0 || c.Params == nil {
		b.Errorf("challenge: %s", e.Body)
	}
	return object{"auth": object{"type": "m.login.password", "session": c.Session, "password": password,
		"identifier": object{"type": "m.id.user", "user": user}}}
}

func TestPasswordAndDeactivation(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	other := matrixclient.New(b.url)
	b.ok(other.Login(b.ctx, "alice", "password-alice", ""))
	err := alice.Do(b.ctx, "POST", matrixclient.Path("account", "password"), object{"new_password": "neu"}, nil)
	b.refused("change without a proof", err, 401, "")
	// The second request carries only the proof; the rest was kept from the first.
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("account", "password"), withPassword(b, err, "alice", "password-alice"), nil))
	b.refused("other sessions", other.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, nil), 401, "M_UNKNOWN_TOKEN")
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, nil))
	b.refused("old password", other.Login(b.ctx, "alice", "password-alice", ""), 403, "M_FORBIDDEN")
	b.ok(other.Login(b.ctx, "alice", "neu", ""))

	room := b.room(alice, matrixclient.CreateRoom{Invite: []string{bob.UserID}})
	_, err = bob.Join(b.ctx, room)
	b.ok(err)
	err = alice.Do(b.ctx, "POST", matrixclient.Path("account", "deactivate"), nil, nil)
	b.refused("deactivate without a proof", err, 401, "")
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("account", "deactivate"), withPassword(b, err, "alice", "neu"), nil))
	b.refused("token of a deactivated user", alice.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, nil), 401, "M_UNKNOWN_TOKEN")
	b.refused("login of a deactivated user", other.Login(b.ctx, "alice", "neu", ""), 403, "M_USER_DEACTIVATED")
	b.refused("name of a deactivated user", matrixclient.New(b.url).Register(b.ctx, "alice", "x", ""), 400, "M_USER_IN_USE")
	var m object
	b.ok(bob.StateEvent(b.ctx, room, "m.room.member", alice.UserID, &m))
	if m["membership"] != "leave" {
		t.Errorf("the deactivated user is still there: %v", m)
	}
}

func TestRegistrationToken(t *testing.T) {
	b := newBox(t, func(c *Config) { c.OpenRegistration = false })
	tok, err := b.h.Accounts.CreateRegistrationToken(b.ctx, account.RegistrationToken{Uses: 1})
	b.ok(err)
	c := matrixclient.New(b.url)
	err = c.Register(b.ctx, "alice", "Rungholt", "")
	if matrixclient.Status(err) != 401 {
		t.Errorf("registered without a token: %v", err)
	}
	b.refused("a wrong token", c.Register(b.ctx, "alice", "Rungholt", "WRONG"), 401, "M_FORBIDDEN")
	valid := func() any {
		_, _, body := b.raw("GET", "/_matrix/client/v1/register/m.login.registration_token/validity?token="+tok.Token, "", "")
		return body["valid"]
	}
	if valid() != true {
		t.Error("the token is not valid")
	}
	if status, _, body := b.raw("GET", "/_matrix/client/v3/register/available?username=alice", "", ""); status != 200 || body["available"] != true {
		t.Errorf("available: %d %v", status, body)
	}
	b.refused("a short password", c.Register(b.ctx, "alice", "Marsch7", tok.Token), 400, "M_WEAK_PASSWORD")
	b.ok(c.Register(b.ctx, "alice", "Rungholt", tok.Token)) // the short one has not used the token up
	if status, _, body := b.raw("GET", "/_matrix/client/v3/register/available?username=alice", "", ""); status != 400 || body["errcode"] != "M_USER_IN_USE" {
		t.Errorf("available after: %d %v", status, body)
	}
	if valid() != false {
		t.Error("the used token is still valid")
	}
	b.refused("a used token", matrixclient.New(b.url).Register(b.ctx, "bob", "Rungholt", tok.Token), 401, "M_FORBIDDEN")
	// A dummy proof of another purpose does not open the door.
	status, _, _ := b.raw("POST", "/_matrix/client/v3/register", "", `{"username":"eve","password":"Rungholt","auth":{"type":"m.login.dummy"}}`)
	if status != 401 {
		t.Errorf("dummy where registration is closed: %d", status)
	}
}

// TestSignUp is the form of the box's own page: always with a token, also where registration is open, and with the limits of registrations.
func TestSignUp(t *testing.T) {
	b := newBox(t, func(c *Config) { c.Limits = Limits{Register: Rate{PerSecond: 0.001, Burst: 7}} })
	tok, err := b.h.Accounts.CreateRegistrationToken(b.ctx, account.RegistrationToken{Uses: 2})
	b.ok(err)
	const phone = "192.168.7.20:4711"
	for _, tc := range []struct{ addr, name, password, token, user, code string }{
		{phone, "alice", "geheim", "", "", "M_MISSING_PARAM"},
		{phone, "alice", "geheim", "WRONG", "", "M_FORBIDDEN"},
		{phone, "Al ice", "geheim", tok.Token, "", "M_INVALID_USERNAME"},
		{phone, "alice", "geheim", " " + strings.ToLower(tok.Token) + " ", "@alice:" + boxName, ""},
		{phone, "alice", "anders", tok.Token, "", "M_USER_IN_USE"},
		{phone, "bob", "geheim", tok.Token, "@bob:" + boxName, ""},
		{phone, "eve", "geheim", tok.Token, "", "M_FORBIDDEN"}, // used up
		{"192.168.7.20:9999", "eve", "geheim", tok.Token, "", "M_LIMIT_EXCEEDED"},
		{"192.168.7.21:9999", "eve", "geheim", tok.Token, "", "M_FORBIDDEN"},
	} {
		if user, code := b.h.SignUp(b.ctx, tc.addr, tc.name, tc.password, tc.token); string(user) != tc.user || code != tc.code {
			t.Errorf("%s with %q: %q %q, want %q %q", tc.name, tc.token, user, code, tc.user, tc.code)
		}
	}
	b.ok(matrixclient.New(b.url).Login(b.ctx, "alice", "geheim", ""))
}

func TestSharedSecret(t *testing.T) {
	b := newBox(t)
	admin := matrixclient.New(b.url)
	b.ok(admin.RegisterShared(b.ctx, "geheim", "admin", "pw", true))
	u, err := b.h.Accounts.User(b.ctx, "@admin:box.example")
	b.ok(err)
	if !u.Admin {
		t.Error("no administrator")
	}
	b.refused("a wrong secret", matrixclient.New(b.url).RegisterShared(b.ctx, "falsch", "eve", "pw", true), 403, "M_FORBIDDEN")
	closed := newBox(t, func(c *Config) { c.SharedSecret = "" })
	closed.refused("without a secret configured", matrixclient.New(closed.url).RegisterShared(closed.ctx, "", "eve", "pw", true), 404, "M_UNRECOGNIZED")
}

func TestRefreshTokens(t *testing.T) {
	b := newBox(t)
	b.user("alice")
	login := object{"type": "m.login.password", "identifier": object{"type": "m.id.user", "user": "alice"}, "password": "password-alice", "refresh_token": true}
	var s struct {
		Access  string `json:"access_token"`
		Refresh string `json:"refresh_token"`
		Expires int    `json:"expires_in_ms"`
	}
	c := matrixclient.New(b.url)
	b.ok(c.Do(b.ctx, "POST", matrixclient.Path("login"), login, &s))
	if s.Refresh == "" || s.Expires <= 0 {
		t.Fatalf("login gives %+v", s)
	}
	old := s
	b.ok(c.Do(b.ctx, "POST", matrixclient.Path("refresh"), object{"refresh_token": s.Refresh}, &s))
	if s.Access == old.Access || s.Refresh == old.Refresh {
		t.Errorf("refresh gives %+v after %+v", s, old)
	}
	c.Token = s.Access
	b.ok(c.Do(b.ctx, "GET", matrixclient.Path("account", "whoami"), nil, nil))
	b.refused("a wrong refresh token", c.Do(b.ctx, "POST", matrixclient.Path("refresh"), object{"refresh_token": "x"}, nil), 401, "M_UNKNOWN_TOKEN")
}

func TestLoginToken(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	const path = "/_matrix/client/v1/login/get_token"
	err := alice.Do(b.ctx, "POST", path, nil, nil)
	b.refused("a token without a proof", err, 401, "")
	var out struct {
		Token string `json:"login_token"`
		Life  int    `json:"expires_in_ms"`
	}
	b.ok(alice.Do(b.ctx, "POST", path, withPassword(b, err, "alice", "password-alice"), &out))
	if out.Life <= 0 {
		t.Errorf("token lives %d ms", out.Life)
	}
	var who object
	login := object{"type": "m.login.token", "token": out.Token}
	b.ok(matrixclient.New(b.url).Do(b.ctx, "POST", matrixclient.Path("login"), login, &who))
	if who["user_id"] != alice.UserID {
		t.Errorf("logged in as %v", who)
	}
	b.refused("the token again", matrixclient.New(b.url).Do(b.ctx, "POST", matrixclient.Path("login"), login, nil), 403, "M_FORBIDDEN")
}

func TestProfileAndData(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	room := b.room(alice, matrixclient.CreateRoom{Preset: "public_chat"})
	_, err := bob.Join(b.ctx, room)
	b.ok(err)
	name := matrixclient.Path("profile", alice.UserID, "displayname")
	b.ok(alice.Do(b.ctx, "PUT", name, object{"displayname": "Alice vom Deich"}, nil))
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("profile", alice.UserID, "avatar_url"), object{"avatar_url": "mxc://box.example/x"}, nil))
	b.ok(alice.Do(b.ctx, "PUT", matrixclient.Path("profile", alice.UserID, "m.tz"), object{"m.tz": "Europe/Berlin"}, nil))
	b.refused("another's profile", bob.Do(b.ctx, "PUT", name, object{"displayname": "Eve"}, nil), 403, "M_FORBIDDEN")
	b.refused("without the field", alice.Do(b.ctx, "PUT", name, object{}, nil), 400, "M_MISSING_PARAM")
	var p, m object
	b.ok(matrixclient.New(b.url).Do(b.ctx, "GET", matrixclient.Path("profile", alice.UserID), nil, &p))
	if p["displayname"] != "Alice vom Deich" || p["avatar_url"] != "mxc://box.example/x" || p["m.tz"] != "Europe/Berlin" {
		t.Errorf("profile: %v", p)
	}
	b.ok(bob.StateEvent(b.ctx, room, "m.room.member", alice.UserID, &m))
	if m["displayname"] != "Alice vom Deich" || m["avatar_url"] != "mxc://box.example/x" || m["membership"] != "join" {
		t.Errorf("member event: %v", m)
	}
	b.ok(alice.Do(b.ctx, "DELETE", matrixclient.Path("profile", alice.UserID, "m.tz"), nil, nil))
	b.refused("a deleted field", bob.Do(b.ctx, "GET", matrixclient.Path("profile", alice.UserID, "m.tz"), nil, nil), 404, "M_NOT_FOUND")

	data := matrixclient.Path("user", alice.UserID, "account_data", "org.example.x")
	b.ok(alice.Do(b.ctx, "PUT", data, object{"a": 1}, nil))
	var d object
	b.ok(alice.Do(b.ctx, "GET", data, nil, &d))
	if d["a"] != 1.0 {
		t.Errorf("account data: %v", d)
	}
	tag := matrixclient.Path("user", alice.UserID, "rooms", room, "tags", "u.arbeit")
	b.ok(alice.Do(b.ctx, "PUT", tag, object{"order": 0.5}, nil))
	var tags struct {
		Tags map[string]object `json:"tags"`
	}
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("user", alice.UserID, "rooms", room, "tags"), nil, &tags))
	if tags.Tags["u.arbeit"]["order"] != 0.5 {
		t.Errorf("tags: %v", tags)
	}
	b.ok(alice.Do(b.ctx, "DELETE", tag, nil, nil))
	var f struct {
		ID string `json:"filter_id"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("user", alice.UserID, "filter"), object{"room": object{"timeline": object{"limit": 1}}}, &f))
	s, err := alice.Sync(b.ctx, matrixclient.SyncOptions{Filter: f.ID})
	b.ok(err)
	if n := len(s.Rooms.Join[room].Timeline.Events); n != 1 {
		t.Errorf("%d events under a filter for one", n)
	}
	for _, bad := range []string{`{"room":{"timeline":{"types":[1]}}}`, `{"presence":"x"}`, `{"room":{"rooms":["x"]}}`, `{"room":{"state":{"senders":["x"]}}}`, `{"event_format":"x"}`} {
		if err := alice.Do(b.ctx, "POST", matrixclient.Path("user", alice.UserID, "filter"), json.RawMessage(bad), nil); matrixclient.Status(err) != 400 {
			t.Errorf("filter %s: %v", bad, err)
		}
	}
	var found struct {
		Results []object `json:"results"`
	}
	b.ok(bob.Do(b.ctx, "POST", matrixclient.Path("user_directory", "search"), object{"search_term": "vom DEICH"}, &found))
	if len(found.Results) != 1 || found.Results[0]["user_id"] != alice.UserID {
		t.Errorf("search: %v", found)
	}
	b.ok(bob.Do(b.ctx, "POST", matrixclient.Path("user_directory", "search"), object{"search_term": bob.UserID}, &found))
	if len(found.Results) != 1 || found.Results[0]["user_id"] != bob.UserID {
		t.Errorf("bob searches himself: %v", found)
	}
}

func TestPushRulesAndPushers(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	var all struct {
		Global map[string][]object `json:"global"`
	}
	b.ok(alice.Do(b.ctx, "GET", "/_matrix/client/v3/pushrules/", nil, &all))
	if len(all.Global["override"]) < 5 || len(all.Global["underride"]) < 3 {
		t.Errorf("default rules: %v", all)
	}
	rule := matrixclient.Path("pushrules", "global", "content", "flut")
	b.ok(alice.Do(b.ctx, "PUT", rule, object{"pattern": "flut", "actions": []string{"notify"}}, nil))
	b.ok(alice.Do(b.ctx, "PUT", rule+"/enabled", object{"enabled": false}, nil))
	var r object
	b.ok(alice.Do(b.ctx, "GET", rule, nil, &r))
	if r["pattern"] != "flut" || r["enabled"] != false {
		t.Errorf("rule: %v", r)
	}
	b.ok(alice.Do(b.ctx, "DELETE", rule, nil, nil))
	b.refused("a deleted rule", alice.Do(b.ctx, "GET", rule, nil, nil), 404, "M_NOT_FOUND")
	b.refused("an odd kind", alice.Do(b.ctx, "PUT", matrixclient.Path("pushrules", "global", "odd", "x"), object{"actions": []string{}}, nil), 400, "M_INVALID_PARAM")
	var ps struct {
		Pushers []object `json:"pushers"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("pushers", "set"), object{"kind": "http", "app_id": "a", "pushkey": "k", "app_display_name": "A",
		"device_display_name": "D", "lang": "de", "data": object{"url": "https://push.example/_matrix/push/v1/notify"}}, nil))
	b.ok(alice.Do(b.ctx, "GET", matrixclient.Path("pushers"), nil, &ps))
	if len(ps.Pushers) != 1 || ps.Pushers[0]["pushkey"] != "k" {
		t.Errorf("pushers: %v", ps)
	}
}

func TestSmallAnswers(t *testing.T) {
	b := newBox(t)
	alice := b.user("alice")
	for path, key := range map[string]string{
		"/_matrix/client/v3/capabilities":         "capabilities",
		"/_matrix/client/v3/voip/turnServer":      "",
		"/_matrix/client/v3/thirdparty/protocols": "",
		"/_matrix/client/v3/account/3pid":         "threepids",
		"/_matrix/client/v3/login":                "flows",
		"/_matrix/client/r0/account/whoami":       "user_id",
		"/_matrix/client/v1/media/config":         "m.upload.size",
	} {
		var m object
		if err := alice.Do(b.ctx, "GET", path, nil, &m); err != nil || key != "" && m[key] == nil {
			t.Errorf("%s: %v, %v", path, m, err)
		}
	}
	status, _, body := b.raw("GET", "/_matrix/client/v3/account/whoami?access_token="+alice.Token, "", "")
	if status != 200 || body["user_id"] != alice.UserID {
		t.Errorf("token in the query: %d %v", status, body)
	}
}

// A token shows a third party who somebody is; it is given for oneself, and ends.
func TestOpenIDToken(t *testing.T) {
	b := newBox(t)
	alice, bob := b.user("alice"), b.user("bob")
	var out struct {
		Token   string `json:"access_token"`
		Server  string `json:"matrix_server_name"`
		Expires int    `json:"expires_in"`
	}
	b.ok(alice.Do(b.ctx, "POST", matrixclient.Path("user", alice.UserID, "openid", "request_token"), object{}, &out))
	if who, err := b.h.Accounts.OpenIDUser(out.Token); err != nil || string(who) != alice.UserID || out.Server != boxName || out.Expires <= 0 {
		t.Errorf("%s is %q: %v", out.Token, who, err)
	}
	if who, err := b.h.Accounts.OpenIDUser("hlo_wrong"); err == nil {
		t.Errorf("a wrong token is %q", who)
	}
	b.refused("a token for another", bob.Do(b.ctx, "POST", matrixclient.Path("user", alice.UserID, "openid", "request_token"), object{}, nil), 403, "M_FORBIDDEN")
}
